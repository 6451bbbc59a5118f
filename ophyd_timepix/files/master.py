"""The NeXus master (`.nxs`): a small file written after a run that makes the event file readable for everybody.

It holds the picture, the ToF spectrum, the start document, configuration and ledger, and links to the columns of the
event file beside it. It is written whole under another name and then renamed: a reader never sees half of it.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import h5py
import numpy as np

from ..config import Geometry
from .event_file import TABLES
from .reader import open_event_file

MASKED_BY_USER: Final = 1 << 8
"""NXdetector, pixel_mask: bit 8."""
PIXEL_PITCH_M: Final = 55e-6
"""Timepix3 manual: 55 µm square pixels."""


def write_master(
    path: Path,
    event_file: Path,
    *,
    start: Mapping[str, Any],
    configuration: Mapping[str, Any],
    ledger: Mapping[str, Any],
) -> None:
    """Write the master of `event_file`. start: the run's start document (may be empty)."""
    if path.exists():
        raise FileExistsError(f"{path} exists and is never overwritten; choose another name")
    unfinished = path.with_name(path.name + ".part")
    with h5py.File(unfinished, "w") as file:
        file.attrs["NX_class"] = "NXroot"
        file.attrs["default"] = "entry"
        entry = _group(file, "entry", "NXentry")
        entry.attrs["default"] = "tof_spectrum"
        _write_texts(entry, start, configuration, ledger)
        with open_event_file(event_file) as source:
            _write_spectrum(entry, source)
            detector = _write_detector(entry, source)
        _write_settings(entry, configuration)
        _write_mask(detector, configuration)
        target = os.path.relpath(event_file, path.parent)
        for table in TABLES:
            entry[table] = h5py.ExternalLink(target, f"/entry/{table}")
    os.replace(unfinished, path)


def _group(parent: h5py.Group, name: str, nx_class: str) -> h5py.Group:
    group = parent.create_group(name)
    group.attrs["NX_class"] = nx_class
    return group


def _write_texts(
    entry: h5py.Group, start: Mapping[str, Any], configuration: Mapping[str, Any], ledger: Mapping[str, Any]
) -> None:
    entry["program_name"] = "ophyd_timepix"
    if "uid" in start:
        entry["entry_identifier_uuid"] = str(start["uid"])
    entry["title"] = str(start.get("plan_name", "acquisition"))
    for name, content in (("start_document", start), ("configuration", configuration), ("ledger", ledger)):
        note = _group(entry, name, "NXnote")
        note["type"] = "application/json"
        note["data"] = json.dumps(content, default=str)
    for name in ("unaccounted", "hits", "centroids", "shots"):
        if name in ledger:
            entry["ledger"].attrs[name] = ledger[name]


def _write_spectrum(entry: h5py.Group, source: h5py.File) -> None:
    """Bin centres are the axis (some viewers refuse edges); the edges stand beside it."""
    edges = np.asarray(source["entry/preview/tof_edges"])
    spectrum = _group(entry, "tof_spectrum", "NXdata")
    spectrum.attrs["signal"] = "counts"
    spectrum.attrs["axes"] = ["time_of_flight"]
    spectrum["counts"] = np.asarray(source["entry/preview/tof"])
    spectrum["time_of_flight"] = (edges[1:] + edges[:-1]) / 2
    spectrum["time_of_flight"].attrs["units"] = "ns"
    spectrum["time_of_flight_edges"] = edges
    spectrum["time_of_flight_edges"].attrs["units"] = "ns"


def _write_settings(entry: h5py.Group, configuration: Mapping[str, Any]) -> None:
    """The settings of the camera, in the form that `ophyd-timepix config` reads."""
    if "settings" in configuration:
        note = _group(entry, "settings", "NXnote")
        note["type"] = "application/yaml"
        note["data"] = str(configuration["settings"])


def _write_mask(detector: h5py.Group, configuration: Mapping[str, Any]) -> None:
    """The masked pixels in the picture, as NXdetector has them: 0 is good."""
    matrices = configuration.get("matrices") or []
    geometry = Geometry(**configuration.get("request", {}).get("geometry", {}))
    mask = np.zeros(detector["data"].shape, np.uint32)
    for path, (a, b, c, d, e, f) in zip(matrices, geometry.placements, strict=False):
        if not Path(path).is_file():
            continue
        with np.load(path) as matrix:
            columns, rows = np.nonzero(matrix["mask"])
        mask[d * columns + e * rows + f, a * columns + b * rows + c] = MASKED_BY_USER
    if any(matrices):
        detector["pixel_mask"] = mask


def _write_detector(entry: h5py.Group, source: h5py.File) -> h5py.Group:
    image = np.asarray(source["entry/preview/image"])
    rows, columns = image.shape
    detector = _group(_group(entry, "instrument", "NXinstrument"), "timepix", "NXdetector")
    detector.attrs["signal"] = "data"
    detector.attrs["axes"] = ["y_pixel_offset", "x_pixel_offset"]
    detector["data"] = image
    detector["data"].attrs["units"] = "counts"
    detector["detector_number"] = np.arange(rows * columns, dtype=np.int32).reshape(rows, columns)
    for name, n in (("y_pixel_offset", rows), ("x_pixel_offset", columns)):
        detector[name] = (np.arange(n) - (n - 1) / 2) * PIXEL_PITCH_M
        detector[name].attrs["units"] = "m"
    return detector
