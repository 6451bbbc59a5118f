"""The NeXus master (`.nxs`): a file written after a run that makes the event file readable for everybody.

It holds the picture, the ToF spectrum, the events as NXevent_data has them, the start document, configuration, settings
and ledger, and links to the tables of the event file beside it. It is written whole under another name and then given
its own: a reader never sees half of it, and nothing is ever overwritten.
"""

import json
import logging
import os
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import h5py
import numpy as np

from ..config import Geometry
from ..protocol.words import MATRIX_SIDE
from .early import TOLD, EarlyEvents
from .event_file import TABLES
from .events import write_events
from .naming import give_its_name
from .reader import open_event_file

log = logging.getLogger(__name__)

GAP: Final = 1 << 0
MASKED_BY_USER: Final = 1 << 8
"""NXdetector, pixel_mask: bit 0, no sensor there; bit 8, masked by the user."""
PIXEL_PITCH_M: Final = 55e-6
"""Timepix3 manual: 55 µm square pixels."""
PROPOSAL_KEYS: Final = ("proposal", "proposal_id", "data_session")
"""Where facilities write the proposal in a start document."""
LOCAL_NAME: Final = "timepix"
EVENTS: Final = f"{LOCAL_NAME}_events"
UNFINISHED: Final = ".part"
PROVENANCE: Final = "provenance"
"""Name in `/entry` of what an event file was made from: JSON."""

PROCESS: Final = "process"
NOTES: Final = ("start_document", "configuration", "ledger", "settings")

Told = Mapping[str, Mapping[str, Any]]


def try_to_write_master(path: Path, event_file: Path, told: Told, early: EarlyEvents | None = None) -> str:
    """`write_master`, where everything is in the event file already, so that a master that cannot be written fails
    nothing. Returns what went wrong; empty when nothing did. told: the rest of its arguments, by name; early: the
    events, if they have been copied already.
    """
    try:
        if early is None or not _finish(early, path, event_file, told):
            write_master(path, event_file, **told)
    except (OSError, RuntimeError) as error:  # h5py tells a full disk as either, and at length
        log.exception("%s could not be written", path)
        return (
            f"{event_file} is complete, the master {path.name} could not be written ({str(error)[:TOLD]}); "
            f"if the disk is full, make room; then: ophyd-timepix recover {event_file.parent}"
        )
    return ""


def write_master(
    path: Path,
    event_file: Path,
    *,
    start: Mapping[str, Any],
    configuration: Mapping[str, Any],
    ledger: Mapping[str, Any],
) -> None:
    """Write the master of the closed `event_file`.

    start: the run's start document (may be empty). configuration: `request` (the run, as the pipeline was asked),
    `settings` (YAML), `matrices` (a file per chip), `detector`; whatever is missing is left out.
    Raises FileExistsError when there is one.
    """
    if path.exists():
        raise FileExistsError(f"{path} exists and is never overwritten; choose another name")
    unfinished = path.with_name(f"{path.name}.{os.getpid()}{UNFINISHED}")
    try:
        with h5py.File(unfinished, "w") as file, open_event_file(event_file) as source:
            _write(file, source, os.path.relpath(event_file, path.parent), start, configuration, ledger)
        give_its_name(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def adopt_master(made: Path, path: Path, event_file: Path, told: Told) -> None:
    """Give a master that was written beside the same rows under another name its own, and tell anew what it tells.

    Raises FileExistsError when there is one.
    """
    with h5py.File(made, "r+") as file, open_event_file(event_file) as source:
        entry = file["entry"]
        for name in (*NOTES, PROVENANCE, PROCESS, *TABLES):
            if entry.get(name, getlink=True) is not None:
                del entry[name]
        _write_told(entry, source, os.path.relpath(event_file, path.parent), **told)
    give_its_name(made, path)


def _finish(early: EarlyEvents, path: Path, event_file: Path, told: Told) -> bool:
    """The same where the events are copied already. False: they are not those of the event file, or cannot be used."""
    try:
        with open_event_file(event_file) as source:
            if not early.has_all_of(source):
                early.drop()
                return False
            _write(early.file, source, os.path.relpath(event_file, path.parent), **told, early=early)
        early.give_name(path)
    except (OSError, RuntimeError) as error:
        log.warning("%s is written anew: %s", path, str(error)[:TOLD])
        early.drop()
        return False
    return True


def _write(
    file: h5py.File,
    source: h5py.File,
    target: str,
    start: Mapping[str, Any],
    configuration: Mapping[str, Any],
    ledger: Mapping[str, Any],
    early: EarlyEvents | None = None,
) -> None:
    request = configuration.get("request", {})
    zero_iso = request.get("timer_zero_iso")
    file.attrs["NX_class"] = "NXroot"
    file.attrs["default"] = "entry"
    entry = _group(file, "entry", "NXentry")
    entry.attrs["default"] = "tof_spectrum"
    _write_about(entry, start, zero_iso, source)
    _write_told(entry, source, target, start, configuration, ledger)
    _write_spectrum(entry, source)
    detector = _write_detector(entry, source, configuration)
    if early is None:
        write_events(detector.create_group(EVENTS), source, detector["data"].shape, zero_iso)
    else:
        early.finish(detector, EVENTS, source, zero_iso)
    detector[EVENTS].attrs["NX_class"] = "NXevent_data"
    entry[EVENTS] = h5py.SoftLink(detector[EVENTS].name)


def _write_told(
    entry: h5py.Group,
    source: h5py.File,
    target: str,
    start: Mapping[str, Any],
    configuration: Mapping[str, Any],
    ledger: Mapping[str, Any],
) -> None:
    """What has nothing to do with rows, and links to the tables of the event file `target`."""
    _write_notes(entry, start, configuration, ledger)
    if PROVENANCE in source["entry"]:
        _write_provenance(entry, source["entry"][PROVENANCE].asstr()[()])
    for table in TABLES:
        entry[table] = h5py.ExternalLink(target, f"/entry/{table}")


def _group(parent: h5py.Group, name: str, nx_class: str) -> h5py.Group:
    group = parent.create_group(name)
    group.attrs["NX_class"] = nx_class
    return group


def _field(parent: h5py.Group, name: str, value: Any, units: str = "") -> None:
    parent[name] = value
    if units:
        parent[name].attrs["units"] = units


# --- about the run ----------------------------------------------------------------------------------------------------


def _write_about(entry: h5py.Group, start: Mapping[str, Any], zero_iso: str | None, source: h5py.File) -> None:
    entry["program_name"] = "ophyd_timepix"
    entry["title"] = str(start.get("title") or start.get("plan_name") or "acquisition")
    if "uid" in start:
        entry["entry_identifier_uuid"] = str(start["uid"])
    proposal = next((start[key] for key in PROPOSAL_KEYS if start.get(key)), None)
    if proposal is not None:
        entry["experiment_identifier"] = str(proposal)
    if start.get("sample"):
        name = start["sample"].get("name", "") if isinstance(start["sample"], Mapping) else start["sample"]
        _group(entry, "sample", "NXsample")["name"] = str(name)
    began = datetime.fromtimestamp(start["time"], UTC).isoformat() if "time" in start else zero_iso
    if began is not None:
        entry["start_time"] = began
    if zero_iso is not None:
        ended = datetime.fromisoformat(zero_iso) + timedelta(seconds=_last_ns(source) * 1e-9)
        entry["end_time"] = ended.isoformat()


def _last_ns(source: h5py.File) -> float:
    """When the last centroid or shot was (ns since the timer's zero)."""
    columns = [source["entry"][name] for name in ("centroids/toa", "shots/time")]
    return max([float(column[-1]) for column in columns if column.shape[0]], default=0.0)


def _write_notes(
    entry: h5py.Group, start: Mapping[str, Any], configuration: Mapping[str, Any], ledger: Mapping[str, Any]
) -> None:
    for name, content in zip(NOTES, (start, configuration, ledger), strict=False):
        _write_note(entry, name, "application/json", json.dumps(content, default=str))
    if "settings" in configuration:  # in the form that `ophyd-timepix config` reads
        _write_note(entry, NOTES[-1], "application/yaml", str(configuration["settings"]))
    for name in ("verdict", "unaccounted", "hits", "centroids", "shots"):
        if ledger.get(name) is not None:
            entry["ledger"].attrs[name] = ledger[name]


def _write_provenance(entry: h5py.Group, text: str) -> None:
    """What an event file that was made from recordings says of how, as NeXus has it and in full."""
    told = json.loads(text)
    process = _group(entry, PROCESS, "NXprocess")
    for name in ("program", "version", "command"):
        process[name] = str(told.get(name, ""))
    process["sequence_index"] = 1
    _write_note(entry, PROVENANCE, "application/json", text)


def _write_note(entry: h5py.Group, name: str, kind: str, text: str) -> None:
    note = _group(entry, name, "NXnote")
    note["type"] = kind
    note["data"] = text


def _write_spectrum(entry: h5py.Group, source: h5py.File) -> None:
    """Bin centres are the axis (some viewers refuse edges); the edges stand beside it."""
    edges = np.asarray(source["entry/preview/tof_edges"])
    spectrum = _group(entry, "tof_spectrum", "NXdata")
    spectrum.attrs["signal"] = "counts"
    spectrum.attrs["axes"] = ["time_of_flight"]
    _field(spectrum, "counts", np.asarray(source["entry/preview/tof"]), "counts")
    _field(spectrum, "time_of_flight", (edges[1:] + edges[:-1]) / 2, "ns")
    _field(spectrum, "time_of_flight_edges", edges, "ns")


# --- the detector -----------------------------------------------------------------------------------------------------


def _write_detector(entry: h5py.Group, source: h5py.File, configuration: Mapping[str, Any]) -> h5py.Group:
    image = np.asarray(source["entry/preview/image"])
    rows, columns = image.shape
    detector = _group(_group(entry, "instrument", "NXinstrument"), LOCAL_NAME, "NXdetector")
    detector.attrs["signal"] = "data"
    detector.attrs["axes"] = ["y_pixel_offset", "x_pixel_offset"]
    _field(detector, "data", image, "counts")
    detector["detector_number"] = np.arange(rows * columns, dtype=np.int32).reshape(rows, columns)
    for axis, n in (("y", rows), ("x", columns)):
        _field(detector, f"{axis}_pixel_offset", (np.arange(n) - (n - 1) / 2) * PIXEL_PITCH_M, "m")
        _field(detector, f"{axis}_pixel_size", PIXEL_PITCH_M, "m")
    detector["pixel_mask"] = _mask(image.shape, configuration)
    detector["description"] = "Timepix3"
    detector["type"] = "pixel"
    detector["layout"] = "area"
    names = [str(v) for k, v in configuration.get("detector", {}).items() if k.endswith("chip_ids") and v]
    if names:
        detector["serial_number"] = names[0]
    _write_picture(entry, detector)
    return detector


def _write_picture(entry: h5py.Group, detector: h5py.Group) -> None:
    """The image once more as NXdata, where viewers look for something to draw."""
    picture = _group(entry, "image", "NXdata")
    picture.attrs["signal"] = "data"
    picture.attrs["axes"] = ["y_pixel_offset", "x_pixel_offset"]
    for name in ("data", "y_pixel_offset", "x_pixel_offset"):
        picture[name] = h5py.SoftLink(f"{detector.name}/{name}")


def _mask(shape: tuple[int, int], configuration: Mapping[str, Any]) -> np.ndarray[Any, np.dtype[np.uint32]]:
    """Gaps between chips and masked pixels, as NXdetector has them; 0 is good."""
    geometry = Geometry(**configuration.get("request", {}).get("geometry", {}))
    matrices = list(configuration.get("matrices") or [])
    mask = np.full(shape, GAP, np.uint32)
    column, row = np.meshgrid(np.arange(MATRIX_SIDE), np.arange(MATRIX_SIDE), indexing="ij")
    for k, (a, b, c, d, e, f) in enumerate(geometry.placements):
        masked = _masked_pixels(matrices[k]) if k < len(matrices) else None
        values = MASKED_BY_USER * masked if masked is not None else np.zeros((MATRIX_SIDE, MATRIX_SIDE), np.uint32)
        y, x = d * column + e * row + f, a * column + b * row + c
        inside = (y >= 0) & (y < shape[0]) & (x >= 0) & (x < shape[1])
        mask[y[inside], x[inside]] = values[inside]
    return mask


def _masked_pixels(path: str | Path) -> np.ndarray[Any, np.dtype[np.uint32]] | None:
    """[column, row], 1 where the file of a pixel matrix masks; None: there is no such file any more."""
    if not str(path) or not Path(path).is_file():
        return None
    with np.load(path) as matrix:
        return np.asarray(matrix["mask"]).astype(np.uint32)
