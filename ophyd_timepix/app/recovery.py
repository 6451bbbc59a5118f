"""Runs that did not end as they should: which ones, and how they are finished from what is on disk.

A run leaves three files: the recording of its words (`.tpx3` and its index), the event file (`.h5`) and the master
(`.nxs`). The recording is the truth: the event file can be made from it again, with the same rows, and the master from
the event file. Nothing that is finished is touched; an unfinished event file is kept beside the new one.
"""

import contextlib
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any, Final, Protocol

import h5py
import numpy as np

from .. import __version__
from ..files.event_file import TABLES, EventFile, is_being_written, layout_of, open_for_lock
from ..files.master import write_master
from ..files.naming import give_its_name
from ..files.reader import PRODUCT_KEY, count_rows, open_event_file, read_about, read_ledger, read_table
from ..pipeline.messages import RecordedFile, RunRequest, RunSummary
from ..spool.index import MAGIC, Index, index_path, read_index, spans
from ..spool.recording import claim
from ..spool.sound import sound_part
from ..spool.sources import open_recording
from .asking import run_of_index
from .recovery_agreement import difference_before_the_cut, is_beginning

KEPT: Final = ".unfinished"
"""What the name of an unfinished event file gets when a new one takes its place."""
AT_WORK: Final = ".recovering-"
"""With this begins the folder in which a run is finished."""
INDEX_NAME: Final = MAGIC[:6]
STEP_ROWS: Final = 1 << 20
WORD_BYTES: Final = 8


class State(StrEnum):
    """What is wrong with a run, in the words of the report."""

    COMPLETE = "complete"
    BUSY = "being recorded"
    NO_EVENT_FILE = "no event file"
    UNREADABLE = "event file unreadable"
    UNFINISHED = "event file unfinished"
    NO_MASTER = "no master"
    RAW_ONLY = "recording only, as asked"
    NO_INDEX = "index unreadable"


BROKEN: Final = (State.NO_EVENT_FILE, State.UNREADABLE, State.UNFINISHED)
"""The event file has to be made anew."""


class RecoveryError(RuntimeError):
    """A run that cannot be finished without losing something; says what and what to do instead."""


class Processes(Protocol):
    """What recovery asks of `ophyd_timepix.pipeline.client.Pipeline`."""

    def process(
        self, run: RunRequest, files: list[Path | RecordedFile], *, cancelled: list[int], master: bool
    ) -> RunSummary: ...


@dataclass(frozen=True)
class Found:
    """A run on disk."""

    event_file: Path
    recording: Path | None
    """None: there is none, or it holds nothing."""
    state: State
    why: str = ""
    """Why its recording cannot be processed."""

    @property
    def master(self) -> Path:
        return self.event_file.with_suffix(".nxs")

    @property
    def needs_processing(self) -> bool:
        """Whether its words have to be processed again."""
        return self.state in BROKEN and self.recording is not None

    @property
    def is_well(self) -> bool:
        return self.state in (State.COMPLETE, State.BUSY, State.RAW_ONLY)


@dataclass(frozen=True)
class Recovered:
    """What was done about a run."""

    found: Found
    rows: int
    rows_before: int
    kept: Path | None
    """The unfinished event file, under its new name."""
    ledger: Mapping[str, Any] = field(repr=False)


# --- finding ----------------------------------------------------------------------------------------------------------


def find_runs(paths: Iterable[Path]) -> list[Found]:
    """The runs below directories, or of files (recording, index, event file or master). Raises FileNotFoundError."""
    runs: dict[Path, Found] = {}
    for path in paths:
        for found in map(_look_at, _files_of(path)):
            if found is not None:
                runs.setdefault(found.event_file, found)
    return [runs[path] for path in sorted(runs)]


def _files_of(path: Path) -> Iterator[Path]:
    if path.is_dir():
        for pattern in ("*.tpx3", "*.h5"):
            yield from sorted(found for found in path.rglob(pattern) if not _is_of_a_recovery(found))
        return
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file or directory")
    path = path.with_suffix("") if path.suffix == ".idx" else path
    yield path.with_suffix(".h5") if path.suffix == ".nxs" else path


def _is_of_a_recovery(path: Path) -> bool:
    """One that is at work, or was killed: the next one of the same run drops it."""
    return any(folder.name.startswith(AT_WORK) for folder in path.parents)


def _look_at(path: Path) -> Found | None:
    """The run that a file belongs to; None when it is none of ours."""
    path = path.absolute()
    recording = path.with_suffix(".tpx3")
    if _bears_our_index(recording):
        return _of_recording(recording)
    if path == recording:
        return None
    state = _state_of(path)
    return None if state is None else Found(path, None, state)


def _bears_our_index(recording: Path) -> bool:
    """Whether there is an index of ours, or what a power cut left of one: nothing, or zeros."""
    try:
        with index_path(recording).open("rb") as index:
            head = index.read(len(INDEX_NAME))
    except OSError:
        return False
    return head == INDEX_NAME or not head.strip(b"\0")


def _of_recording(recording: Path) -> Found:
    try:
        run = run_of_index(recording)
    except ValueError as error:
        run, why = None, str(error)
    else:
        why = (
            f"{index_path(recording)} is cut off, or of another version; without it: ophyd-timepix process {recording} "
            "-o OTHER.h5"
        )
    event_file = recording.with_suffix(".h5") if run is None else event_file_of(recording, run)
    holds_words = recording.exists() and recording.stat().st_size >= WORD_BYTES
    if _is_busy(recording):
        state = State.BUSY
    elif run is not None and not run.centroid:
        state = State.RAW_ONLY
    else:
        state = _state_of(event_file) or State.UNREADABLE
    if run is None and state is not State.BUSY:
        needs_words = holds_words and state in BROKEN
        return Found(event_file, None, State.NO_INDEX, why) if needs_words else Found(event_file, None, state)
    return Found(event_file, recording if holds_words else None, state)


def event_file_of(recording: Path, run: RunRequest) -> Path:
    """Where the index says; of files that were moved since: beside the recording."""
    if run.spool is not None and recording == run.spool.absolute():
        return run.event_file
    return recording.with_name(run.event_file.name)


def _is_busy(recording: Path) -> bool:
    with _claimed(recording) as free:
        return not free


@contextlib.contextmanager
def _claimed(recording: Path) -> Iterator[bool]:
    """Hold a recording. False: somebody else does."""
    fd = open_for_lock(index_path(recording))
    try:
        yield claim(fd)
    finally:
        os.close(fd)


def _state_of(event_file: Path) -> State | None:
    """None: it is an HDF5 file of somebody else."""
    if not event_file.exists():
        return State.NO_EVENT_FILE
    try:
        with open_event_file(event_file) as file:
            if "entry" not in file or "layout_version" not in file["entry"].attrs:
                return None
        ledger = read_ledger(event_file)
    except (OSError, KeyError, ValueError):
        return State.BUSY if event_file.is_file() and is_being_written(event_file) else State.UNREADABLE
    if not ledger:
        return State.BUSY if is_being_written(event_file) else State.UNFINISHED
    return State.COMPLETE if event_file.with_suffix(".nxs").exists() else State.NO_MASTER


def run_of(found: Found) -> tuple[dict[str, Any], str]:
    """Start document and detector's name of a finished run; empty where nobody wrote them down."""
    start = read_about(found.event_file, "start_document")
    detector = read_about(found.event_file, "configuration").get("detector", {})
    names = [key.removesuffix("_chip_ids") for key in detector if key.endswith("_chip_ids")]
    return start, names[0] if names else ""


def is_product(found: Found) -> bool:
    """Whether somebody made the event file from a recording again: it has the run's start document, not its place."""
    return PRODUCT_KEY in read_about(found.event_file, "configuration")


# --- finishing --------------------------------------------------------------------------------------------------------


def recover_run(found: Found, pipeline: Processes | None, *, keep_events: bool = False) -> Recovered:
    """Finish a run that is not well. pipeline: a running one, for runs that need processing. keep_events: where the
    recording gives other rows than the event file has, take those of the event file.

    Raises RecoveryError or OSError; what was there is then still there.
    """
    if found.state is State.NO_INDEX:
        found = _without_its_words(found, keep_events=keep_events)
    if found.recording is None:
        return _finish(found, pipeline, keep_events=keep_events)
    with _claimed(found.recording) as free:
        if not free:
            raise RecoveryError(f"{found.recording} is being recorded or recovered by another process now")
        return _finish(found, pipeline, keep_events=keep_events)


def _without_its_words(found: Found, *, keep_events: bool) -> Found:
    """The same run as if it had no recording, where that is wished and its event file has rows."""
    state = _state_of(found.event_file)
    if keep_events and state is State.UNFINISHED:
        return replace(found, state=state)
    rows = "; to finish the run with the rows of its event file: --keep-events" if state is State.UNFINISHED else ""
    raise RecoveryError(found.why + rows)


def _finish(found: Found, pipeline: Processes | None, *, keep_events: bool) -> Recovered:
    if found.state is State.NO_MASTER:
        return _write_missing_master(found)
    before = _Before.of(found)
    place = found.event_file.with_name(AT_WORK + found.event_file.stem)
    shutil.rmtree(place, ignore_errors=True)  # of a recovery that was killed: we hold the recording now
    place.mkdir()
    try:
        made = place / found.event_file.name
        if found.recording is None or pipeline is None:
            _copy_rows(found, made)
        else:
            _process(found.recording, made, before, pipeline)
            if not before.is_beginning_of(made):
                if not keep_events:
                    _check_agreement(found, made)
                made.unlink()
                _copy_rows(found, made)
        return _put_in_place(found, made, before)
    finally:
        shutil.rmtree(place, ignore_errors=True)


@dataclass(frozen=True)
class _Before:
    """What an unfinished event file holds."""

    path: Path
    rows: int = 0
    start: Mapping[str, Any] = field(default_factory=dict)
    configuration: Mapping[str, Any] = field(default_factory=dict)
    whole_acquisitions: frozenset[int] | None = None
    """Acquisitions that ended well, by their number; None: not known."""

    @classmethod
    def of(cls, found: Found) -> "_Before":
        path = found.event_file
        if found.state is not State.UNFINISHED:
            source = found.master  # of an event file that is gone, or cannot be read
            if not source.exists():
                return cls(path)
            return cls(path, 0, read_about(source, "start_document"), read_about(source, "configuration"))
        table = read_table(path, "acquisitions", ["acquisition", "cancelled"])
        return cls(
            path,
            count_rows(path),
            read_about(path, "start_document"),
            read_about(path, "configuration"),
            frozenset(int(number) for number in table["acquisition"][table["cancelled"] == 0]),
        )

    def is_beginning_of(self, made: Path) -> bool:
        """Whether a new file begins with all rows of this one."""
        return self.rows == 0 or is_beginning(self.path, made)


def _index_of(recording: Path) -> tuple[Index, RunRequest]:
    index = read_index(recording)
    if index is None:
        raise RecoveryError(f"{recording} has no index beside it; use: ophyd-timepix process {recording} -o FILE")
    return index, RunRequest.model_validate(index.run)


def _process(recording: Path, made: Path, before: _Before, pipeline: Processes) -> None:
    """The words through the same stages, with the parameters of the run."""
    index, run = _index_of(recording)
    good = sound_part(open_recording(recording)).n_bytes  # a power loss may leave zeros, or holes, behind it
    parts = spans(index.records, good)
    whole = before.whole_acquisitions
    cancelled = [p.acquisition for p in parts if not p.closed or (whole is not None and p.acquisition not in whole)]
    if not parts:  # words that belong to no acquisition: the pipeline takes them for one, number 1
        cancelled = [1]
    request = run.model_copy(
        update={
            "event_file": made,
            "spool": None,
            "start": dict(before.start),
            "configuration": dict(before.configuration),
        }
    )
    file = RecordedFile(
        path=recording, phase=run.phase, general=run.general, timer_zero_ns=run.timer_zero_ns, good_bytes=good
    )
    pipeline.process(request, [file], cancelled=cancelled, master=False)


def _check_agreement(found: Found, made: Path) -> None:
    """The recording may lack its end, and the event file have more: up to there they must tell the same."""
    if found.recording is None:
        return
    _, run = _index_of(found.recording)
    difference = difference_before_the_cut(found.event_file, made, run.processing)
    if difference is not None:
        raise RecoveryError(
            f"the recording gives other rows than {found.event_file} holds, from {difference} on; nothing was changed. "
            "To finish the run with the rows of the event file: ophyd-timepix recover --keep-events; "
            f"to have both: ophyd-timepix process {found.recording} -o OTHER.h5"
        )


def _copy_rows(found: Found, made: Path) -> None:
    """A finished event file from an unfinished one, without its recording."""
    if found.state is not State.UNFINISHED:
        raise RecoveryError(f"{found.event_file}: {found.state}, and there is no recording to make it from")
    with open_event_file(found.event_file) as source:
        entry = source["entry"]
        preview = entry["preview"]
        file = EventFile(
            made,
            image_shape=preview["image"].shape,
            tof_edges_ns=np.asarray(preview["tof_edges"]),
            attributes=_texts(entry),
            layout=layout_of(entry),
        )
        try:
            for table in TABLES:
                if table in entry:  # an earlier version may not have known it
                    _copy_table(entry[table], file, table)
            file.image[...] = preview["image"]
            file.tof[...] = preview["tof"]
            counts = {"centroids": file.rows("centroids"), "shots": file.rows("shots"), "hits": None}
            file.write_ledger({**counts, "written": counts["centroids"], "unaccounted": None})
        finally:
            file.close()


def _texts(entry: h5py.Group) -> dict[str, str]:
    names = [n for n in entry if isinstance(entry[n], h5py.Dataset) and h5py.check_string_dtype(entry[n].dtype)]
    return {name: entry[name].asstr()[()] for name in names if name != "ledger"}


def _copy_table(source: h5py.Group, file: EventFile, table: str) -> None:
    rows = min(source[name].shape[0] for name in source)
    for start in range(0, rows, STEP_ROWS):
        stop = min(start + STEP_ROWS, rows)
        file.append(table, {name: source[name][start:stop] for name in source})


# --- putting in place -------------------------------------------------------------------------------------------------


def _put_in_place(found: Found, made: Path, before: _Before) -> Recovered:
    """The master beside the new file, then both to their names: links between them are relative."""
    if found.event_file.exists() and _state_of(found.event_file) not in (State.UNFINISHED, State.UNREADABLE):
        raise RecoveryError(f"another process writes {found.event_file}, or has finished it; nothing was changed")
    ledger = read_ledger(made)
    new_master = made.with_suffix(".nxs")
    if not found.master.exists():
        _write_master(new_master, made, found, before.start, before.configuration, ledger)
    kept = _keep(found.event_file) if found.event_file.exists() else None
    give_its_name(made, found.event_file)
    if new_master.exists():
        give_its_name(new_master, found.master)
    return Recovered(found, count_rows(found.event_file), before.rows, kept, ledger)


def _keep(event_file: Path) -> Path:
    """Give an unfinished event file a name of its own, which no run uses."""
    kept = event_file.with_name(event_file.name + KEPT)
    number = 1
    while kept.exists():
        number += 1
        kept = event_file.with_name(f"{event_file.name}{KEPT}-{number}")
    event_file.rename(kept)
    return kept


def _write_missing_master(found: Found) -> Recovered:
    path = found.event_file
    ledger = read_ledger(path)
    start, configuration = read_about(path, "start_document"), read_about(path, "configuration")
    _write_master(found.master, path, found, start, configuration, ledger)
    rows = count_rows(path)
    return Recovered(found, rows, rows, None, ledger)


def _write_master(
    master: Path,
    event_file: Path,
    found: Found,
    start: Mapping[str, Any],
    configuration: Mapping[str, Any],
    ledger: Mapping[str, Any],
) -> None:
    about: dict[str, Any] = {
        "time": datetime.now(UTC).isoformat(),
        "was": str(found.state),
        "program": f"ophyd_timepix {__version__}",
    }
    request = read_about(event_file, "run")
    if found.recording is not None:
        index, run = _index_of(found.recording)
        request = run.description()
        if len(index.records):
            about["kernel_dropped"] = int(index.records["kernel_dropped"][-1])
    write_master(
        master,
        event_file,
        start=start,
        configuration={"request": request, **configuration, "recovered": about},
        ledger=ledger,
    )
