"""Recordings in parts that can be processed by themselves, and the directory where finished parts wait for the others.

A part is a number of whole acquisitions: those of our own recordings begin where the index says, with the time that it
tells; a recording of another program is one, as only its beginning is known to be no middle. Which parts there are
depends on the recordings alone: whoever processes them, in whatever order, gets the same rows.
"""

import json
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, Final, NamedTuple, Self

import numpy as np

from ..clock import NS_PER_COUNT
from ..pipeline.messages import Message, RecordedFile, RunRequest
from ..spool.index import Kind, Records, read_index, spans
from ..spool.recording import claim
from ..spool.sources import Recording
from .asking import MASTER_SUFFIX, own_run, recorded_file

PART_BYTES: Final = 256 << 20
"""Acquisitions are processed together until there are so many bytes."""
DRIFT_NS: Final = 11_000_000_000
"""The host's clock and the board's differ by more: an acquisition is placed by the end of the one before it."""
LOOKED_BACK: Final = 1 << 16
"""Records of an index that are looked through at once."""
PLAN: Final = "plan.json"
LOCK: Final = "lock"
SUFFIX: Final = ".parts"


class PartsError(RuntimeError):
    """Finished parts that do not go with what is asked now; says what differs and what to do."""


class Unit(NamedTuple):
    """An acquisition, or all of a recording whose acquisitions are not known."""

    file: int
    """Place of the recording among the inputs."""
    place: int | None
    """Place of the acquisition in the recording; None: all."""
    begin: int
    end: int
    """Addresses."""

    @property
    def n_bytes(self) -> int:
        return self.end - self.begin


@dataclass(frozen=True)
class Part:
    """Units that are processed together, in order."""

    number: int
    units: tuple[Unit, ...]

    @property
    def n_bytes(self) -> int:
        return sum(unit.n_bytes for unit in self.units)


class Job(Message):
    """A part as a pipeline is asked to process it."""

    number: int
    request: RunRequest
    """Without its event file's name."""
    files: tuple[RecordedFile, ...]
    directory: Path
    strict: bool = False

    def request_to(self, path: Path) -> RunRequest:
        """The same into an event file of that name."""
        return self.request.model_copy(update={"event_file": path})

    def new_path(self) -> Path:
        """A name for its event file that nobody else uses: the part may be tried again, or by two at a time."""
        return self.directory / f"{self.number:06d}-{uuid.uuid4().hex[:12]}.tmp"


# --- cutting ----------------------------------------------------------------------------------------------------------


def cut_into_parts(recordings: Sequence[Recording], part_bytes: int = PART_BYTES) -> list[Part]:
    """All of the recordings, in order, in parts of at least `part_bytes` but for the last."""
    parts: list[Part] = []
    units: list[Unit] = []
    n_bytes = 0
    for unit in (unit for k, recording in enumerate(recordings) for unit in _units(k, recording)):
        units.append(unit)
        n_bytes += unit.n_bytes
        if n_bytes >= part_bytes:
            parts.append(Part(len(parts) + 1, tuple(units)))
            units, n_bytes = [], 0
    if units:
        parts.append(Part(len(parts) + 1, tuple(units)))
    return parts


def _units(file: int, recording: Recording) -> Iterator[Unit]:
    run = own_run(recording)
    index = None if run is None or run.timer_zero_ns is None else read_index(recording.path)
    found = [] if index is None else spans(index.records, recording.n_bytes)
    if not found:
        yield Unit(file, None, 0, recording.n_bytes)
        return
    for place, span in enumerate(found):
        yield Unit(file, place, span.start, span.stop)


def files_of(part: Part, recordings: Sequence[Recording], n_chips: int) -> tuple[RecordedFile, ...]:
    """How to ask for a part."""
    return tuple(
        _file_of(list(units), recordings[k], n_chips) for k, units in groupby(part.units, lambda unit: unit.file)
    )


def _file_of(units: list[Unit], recording: Recording, n_chips: int) -> RecordedFile:
    file = recorded_file(recording, n_chips)
    first, last = units[0].place, units[-1].place
    if first is None or last is None:
        return file
    index = read_index(recording.path)
    zero = file.timer_zero_ns
    if first > 0 and zero is not None and index is not None:
        zero = timer_zero_before(index.records, units[0].begin, zero)
    return file.model_copy(update={"acquisitions": (first, last + 1), "timer_zero_ns": zero})


def timer_zero_before(records: Records, address: int, zero_ns: int) -> int:
    """When the board's timers were zero, by the host's clock as it was at `address`.

    Clocks drift: after days the moment that was noted at the beginning would put words into another turn of their
    26.8 s. The last end of an acquisition before knows the board's own time.
    """
    stop = int(np.searchsorted(records["offset"], address, side="right"))
    for high in range(stop, 0, -LOOKED_BACK):
        page = records[max(0, high - LOOKED_BACK) : high]
        ends = page[(page["kind"] == Kind.END) & (page["end_counts"] >= 0)][-1:]
        if len(ends):
            here = int(ends["host_ns"][0]) - int(ends["end_counts"][0]) * NS_PER_COUNT
            return here if abs(here - zero_ns) > DRIFT_NS else zero_ns
    return zero_ns


def ends_of(part: Part, recordings: Sequence[Recording]) -> dict[Path, int]:
    """How far each file is read for a part, in bytes from the file's beginning."""
    ends: dict[Path, int] = {}
    for unit in part.units:
        recording = recordings[unit.file]
        if recording.segments is None:
            ends[recording.path] = recording.data_offset + unit.end
            continue
        for segment in recording.segments:
            if segment.start < unit.end and segment.stop > unit.begin:
                ends[segment.path] = min(unit.end, segment.stop) - segment.start
    return ends


# --- finished parts ---------------------------------------------------------------------------------------------------


class Done(NamedTuple):
    """A finished part."""

    number: int
    path: Path
    ledger: dict[str, Any]
    digests: dict[str, tuple[int, str]]
    """Of each input that it was made from: bytes up to its end, and their sha256; none where the user did without."""


class PartStore:
    """The directory beside an output where its parts are made. Held by one process at a time."""

    def __init__(self, directory: Path, lock: int) -> None:
        self.directory = directory
        self._lock = lock

    @classmethod
    def open(cls, output: Path, identity: Mapping[str, Any], *, resume: bool) -> Self:
        """Make it, or go on with it. Raises PartsError when it holds parts of something else."""
        directory = output.with_name(output.name + SUFFIX)
        try:
            directory.mkdir(exist_ok=True)
        except OSError as error:
            raise OSError(
                f"{output} cannot be written: no directory can be made in {output.parent} ({error.strerror}); choose "
                "another place with -o, or ask for the right to write there"
            ) from error
        lock = os.open(directory / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
        store = cls(directory, lock)
        try:
            if not claim(lock):
                raise PartsError(f"{output} is being made by another process now; wait for it, or choose another name")
            store._begin(identity, resume=resume)
        except BaseException:
            os.close(lock)
            raise
        return store

    @staticmethod
    def chips_of(output: Path) -> int | None:
        """How many chips the parts that wait for this output know of; None: there are none."""
        plan = output.with_name(output.name + SUFFIX) / PLAN
        return int(json.loads(plan.read_text())["n_chips"]) if plan.exists() else None

    @staticmethod
    def finished(output: Path) -> int:
        """How many finished parts wait for this output."""
        plan = output.with_name(output.name + SUFFIX) / PLAN
        return sum(path.name != PLAN for path in plan.parent.glob("*.json")) if plan.exists() else 0

    @staticmethod
    def remove(output: Path) -> None:
        """What a kill left after the output had got its name."""
        directory = output.with_name(output.name + SUFFIX)
        if directory.exists():
            lock = os.open(directory / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
            if claim(lock):
                shutil.rmtree(directory, ignore_errors=True)
            os.close(lock)

    def inputs_were_touched(self, identity: Mapping[str, Any]) -> bool:
        """Whether a file was written to since the parts were begun, by its date."""
        return bool(self._plan().get("changed_ns") != identity["changed_ns"])

    def _begin(self, identity: Mapping[str, Any], *, resume: bool) -> None:
        n_done = len(self.done())
        if n_done and not resume:
            raise PartsError(
                f"{self.directory} has {n_done} finished parts of a process that was interrupted; "
                f"go on with --resume, or remove that directory to begin anew"
            )
        if n_done:
            _check_same(self._plan(), identity, self.directory)
        else:
            self.forget()
            self._write(PLAN, dict(identity))
        for suffix in (".tmp", MASTER_SUFFIX):  # of the process that was killed
            for path in self.directory.glob(f"*{suffix}"):
                path.unlink()

    def _plan(self) -> dict[str, Any]:
        plan: dict[str, Any] = json.loads((self.directory / PLAN).read_text())
        return plan

    def _write(self, name: str, content: Mapping[str, Any]) -> None:
        """Whole or not at all."""
        unfinished = self.directory / f"{name}.tmp"
        with unfinished.open("w") as file:
            json.dump(content, file)
            file.flush()
            os.fsync(file.fileno())
        unfinished.rename(self.directory / name)

    def done(self) -> dict[int, Done]:
        """The finished parts by their number."""
        found = {}
        for path in sorted(self.directory.glob("*.json")):
            if path.name != PLAN:
                told = json.loads(path.read_text())
                digests = {name: (int(stop), sha) for name, (stop, sha) in told["digests"].items()}
                number, made = int(path.stem), path.with_suffix(".part")
                if made.exists():
                    found[number] = Done(number, made, told["ledger"], digests)
        return found

    def finish(
        self,
        number: int,
        made: Path,
        ledger: Mapping[str, Any],
        digests: Mapping[str, tuple[int, str]],
        *,
        durable: bool = True,
    ) -> None:
        """Keep a part: the event file first, then the word that it is finished. durable: on the disk itself."""
        if durable:
            _to_disk(made)
        made.replace(self.directory / f"{number:06d}.part")
        self._write(f"{number:06d}.json", {"ledger": ledger, "digests": digests})

    def forget(self) -> None:
        """Throw away all parts."""
        for path in self.directory.iterdir():
            if path.name != LOCK:
                path.unlink()

    def close(self, *, keep: bool) -> None:
        """Let go. keep: the finished parts, for somebody who goes on; else the directory goes."""
        if not (keep and self.done()):
            shutil.rmtree(self.directory, ignore_errors=True)
        os.close(self._lock)


def _to_disk(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fdatasync(fd)
    finally:
        os.close(fd)


MEANING: Final = {
    "version": "program's version",
    "parameters_sha256": "parameters",
    "part_bytes": "size of the parts",
    "inputs": "inputs",
}


def _check_same(plan: Mapping[str, Any], identity: Mapping[str, Any], directory: Path) -> None:
    for name, meaning in MEANING.items():
        if plan.get(name) != identity[name]:
            raise PartsError(
                f"the finished parts in {directory} were made with other {meaning} ({_short(plan.get(name))}, "
                f"now {_short(identity[name])}); ask for the same, or remove that directory to begin anew"
            )


def _short(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(f"{one['path']}: {one['bytes']} bytes" for one in value)
    return f"{str(value)[:40]}"
