"""What was really sent, as HDF5: the particles, hits, trigger edges and shots behind the words, to compare a reader
with.

Columns under `/particles`, `/hits`, `/triggers`, `/shots` and `/acquisitions` (one row for each time the gate was
open), faults of the data under `/faults` and, word by word, `/altered`, totals under `/summary`. `epoch` counts
restarts and settings of the board's timers; ticks (25/96 ns) count from the last. Hits of noise and of test pulses have
no particle. Of a chip in mode "event count and iToT" the hits stand here that its one word per pixel adds up.
The file is in SWMR mode from its start: open it with `h5py.File(path, "r", libver="latest", swmr=True)` while the
simulator runs. It is complete up to an acquisition before the chips say that their read-out has ended.

A thread of its own writes; what waits for it is bounded, so that memory does not grow with the length of a run.
"""

import queue
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple

import h5py
import numpy as np
import numpy.typing as npt

from spidr_sim.data_faults import Held, Strike
from spidr_sim.datagrams import WORD_BYTES
from spidr_sim.source import Departures, SliceTruth

Columns = Mapping[str, npt.NDArray[Any]]


class Column(NamedTuple):
    """One column of a table of the file."""

    dtype: str
    unit: str
    meaning: str


TABLES: Final[Mapping[str, Mapping[str, Column]]] = {
    "particles": {
        "epoch": Column("<i4", "1", "restarts and settings of the timers so far"),
        "shot": Column("<i8", "1", "number of its shot since the restart, -1: none"),
        "chip": Column("<u1", "1", "chip it hit"),
        "x": Column("<f4", "pixel", "column of its centre on the chip"),
        "y": Column("<f4", "pixel", "row of its centre on the chip"),
        "tick": Column("<i8", "25/96 ns", "arrival, before time-walk"),
        "peak": Column("<i2", "1", "mass peak, -1: none"),
        "n_hits": Column("<u2", "1", "hits it left"),
    },
    "hits": {
        "epoch": Column("<i4", "1", "restarts and settings of the timers so far"),
        "chip": Column("<u1", "1", "chip"),
        "x": Column("<u2", "pixel", "column on the chip"),
        "y": Column("<u2", "pixel", "row on the chip"),
        "tot": Column("<u2", "25 ns", "time over threshold as its word states it: 0 in mode ToA"),
        "tick": Column("<i8", "25/96 ns", "time of arrival as its word states it, column phase included"),
        "particle": Column("<i8", "1", "row of /particles, -1: none"),
    },
    "triggers": {
        "epoch": Column("<i4", "1", "restarts and settings of the timers so far"),
        "input": Column("<u1", "1", "TDC input, 1 or 2"),
        "falling": Column("<u1", "1", "0: rising edge, 1: falling edge"),
        "counter": Column("<u2", "1", "counter in the word"),
        "tick": Column("<i8", "25/96 ns", "time of the edge"),
    },
    "shots": {
        "epoch": Column("<i4", "1", "restarts and settings of the timers so far"),
        "number": Column("<i8", "1", "number since the restart"),
        "tick": Column("<i8", "25/96 ns", "time of the shot, the rising edge on input 1"),
    },
    "acquisitions": {
        "epoch": Column("<i4", "1", "restarts and settings of the timers so far"),
        "open_counts": Column("<i8", "25 ns", "opening of the gate"),
        "close_counts": Column("<i8", "25 ns", "closing of the gate"),
        "hits": Column("<i8", "1", "hits sent"),
        "triggers": Column("<i8", "1", "edges sent (once, whatever the number of chips)"),
    },
    "faults": {
        "name": Column("S16", "", "name of the fault of the data"),
        "epoch": Column("<i4", "1", "restarts and settings of the timers so far"),
        "acquisition": Column("<i8", "1", "row of /acquisitions, of the last opening; -1: before the first"),
        "chip": Column("<i1", "1", "chip, -1: all or none"),
        "datagram": Column("<i8", "1", "number of the datagram over all chips, from 1; 0: no single one"),
        "words": Column("<i8", "1", "words it held"),
        "hits": Column("<i8", "1", "hits among them"),
        "edges": Column("<i8", "1", "trigger edges among them, or that did not come, or came too much"),
        "datagrams": Column("<i8", "1", "datagrams that it struck; 0: words before they were in any, or none"),
        "first_tick": Column("<i8", "25/96 ns", "earliest time that a word stated, -1: none did"),
        "last_tick": Column("<i8", "25/96 ns", "latest time that a word stated, -1: none did"),
        "first_shot": Column("<i8", "1", "shot of first_tick, number since the restart; -1: none"),
        "last_shot": Column("<i8", "1", "shot of last_tick, number since the restart; -1: none"),
    },
    "altered": {
        "fault": Column("<i8", "1", "row of /faults"),
        "sent": Column("<u8", "", "a word as it was"),
        "became": Column("<u8", "", "the same as it went on: of a corrupt datagram, or late"),
    },
}

_CHUNK_ROWS: Final = 1 << 16
_QUEUE_LENGTH: Final = 64
_SLICES_KEPT: Final = 4096
"""So many slices (4 s) back it is known which shot is at a time."""
_SUMMARY: Final = ("particles", "hits", "triggers", "shots", "acquisitions", "words", "datagrams", "faults")


class TruthError(Exception):
    """The truth file cannot be written."""


@dataclass
class _Totals:
    particles: int = 0
    hits: int = 0
    triggers: int = 0
    shots: int = 0
    acquisitions: int = 0
    words: int = 0
    datagrams: int = 0
    faults: int = 0
    pixel_words: list[int] = field(default_factory=list)


class Truth:
    """A truth file in the making. All methods but `close` are called by the sending thread."""

    def __init__(
        self, path: Path, n_chips: int, attributes: Mapping[str, str | int | float], *, hits: bool = True
    ) -> None:
        self._totals = _Totals(pixel_words=[0] * n_chips)
        self._hits = hits
        self._opened_at = 0
        self._openings = 0
        self._is_open = False
        self._before = (0, 0)
        self._shots = _ShotNumbers()
        self._file = _TruthFile(path, n_chips, attributes)
        self._queue: queue.Queue[_Rows | None] = queue.Queue(_QUEUE_LENGTH)
        self._failure: Exception | None = None
        self._thread = threading.Thread(target=self._write, name="truth-writer", daemon=True)
        self._thread.start()

    def opened(self, epoch: int, at_counts: int) -> None:
        """The gate opened."""
        self._opened_at = at_counts
        self._openings += 1
        self._is_open = True
        self._shots.restart(epoch)
        self._before = (self._totals.hits, self._totals.triggers)

    def departed(self, epoch: int, departures: Departures, datagrams: int) -> None:
        """Words left in `datagrams` datagrams."""
        totals = self._totals
        totals.words += departures.borders[-1]
        totals.datagrams += datagrams
        totals.pixel_words = [a + b for a, b in zip(totals.pixel_words, departures.pixel_words, strict=True)]
        truth = departures.truth
        if truth is None:
            return
        tables = _tables(epoch, truth, first_particle=totals.particles)
        totals.particles += truth.particle_tick.size
        totals.hits += truth.hit_tick.size if truth.n_hits is None else truth.n_hits
        totals.triggers += len(truth.edges)
        totals.shots += truth.shot_ticks.size
        self._shots.add(truth.first_shot, truth.shot_ticks)
        if not self._hits:
            del tables["hits"]
        self._put(_Rows(tables))

    def own_words(self, words: int, datagrams: int) -> None:
        """Words of the chips themselves (timer, end of read-out) are about to leave in datagrams of their own."""
        self._totals.words += words
        self._totals.datagrams += datagrams

    def struck(self, epoch: int, strikes: Sequence[Strike]) -> None:
        """Faults of the data have struck. They are on disk with the end of the acquisition, after it soon."""
        held = [strike.held for strike in strikes]
        columns: dict[str, Any] = {
            "name": np.array([strike.name.encode() for strike in strikes], "S16"),
            "epoch": _same(epoch, len(strikes)),
            "acquisition": _same(self._openings - 1, len(strikes)),
            "chip": np.array([strike.chip for strike in strikes]),
            "datagram": np.array([strike.datagram for strike in strikes]),
            **{name: np.array([getattr(one, name) for one in held]) for name in Held._fields},
        }
        for name in ("first", "last"):
            columns[f"{name}_shot"] = self._shots.at(columns[f"{name}_tick"])
        tables = {"faults": columns, "altered": _altered(self._totals.faults, strikes)}
        self._totals.faults += len(strikes)
        self._put(_Rows(tables, summary=None if self._is_open else asdict(self._totals)))

    def closed(self, epoch: int, at_counts: int) -> None:
        """The gate closed and all words left. Returns when all is on disk."""
        self._is_open = False
        totals = self._totals
        totals.acquisitions += 1
        hits, triggers = self._before
        row = (epoch, self._opened_at, at_counts, totals.hits - hits, totals.triggers - triggers)
        columns = {name: np.array([value]) for name, value in zip(TABLES["acquisitions"], row, strict=True)}
        self._put(_Rows({"acquisitions": columns}, summary=asdict(totals)))
        self._queue.join()
        self._raise_failure()

    def close(self) -> None:
        """Write what waits and close the file. Raises TruthError when something could not be written."""
        self._queue.put(_Rows({}, summary=asdict(self._totals)))
        self._queue.put(None)
        self._thread.join()
        self._file.close()
        self._raise_failure()

    def _put(self, rows: "_Rows") -> None:
        self._raise_failure()
        self._queue.put(rows)

    def _raise_failure(self) -> None:
        if self._failure:
            raise TruthError(f"truth file {self._file.path}: {self._failure}") from self._failure

    def _write(self) -> None:
        """The writing thread. After a failure it still empties the queue, so that nobody waits for it forever."""
        while True:
            rows = self._queue.get()
            if rows is None:
                return
            try:
                if self._failure is None:
                    self._file.append(rows)
            except (OSError, RuntimeError) as error:
                self._failure = error
            finally:
                self._queue.task_done()


@dataclass(frozen=True)
class _Rows:
    """What one slice adds to the file; with a summary, the file is brought up to date."""

    tables: dict[str, Columns]
    summary: dict[str, Any] | None = None


class _ShotNumbers:
    """Which shot is at a time: of the last shots of a timer epoch."""

    def __init__(self) -> None:
        self._epoch = 0
        self._slices: deque[tuple[int, npt.NDArray[np.int64]]] = deque(maxlen=_SLICES_KEPT)

    def restart(self, epoch: int) -> None:
        """Another epoch has other shots."""
        if epoch != self._epoch:
            self._epoch = epoch
            self._slices.clear()

    def add(self, first: int, ticks: npt.NDArray[np.int64]) -> None:
        """The next shots."""
        if ticks.size:
            self._slices.append((first, ticks))

    def at(self, ticks: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """The shot whose period holds each tick; -1 before the first that is known."""
        if not self._slices:
            return np.full(ticks.shape, -1)
        numbers = np.concatenate([first + np.arange(known.size) for first, known in self._slices])
        starts = np.concatenate([known for _, known in self._slices])
        before = np.searchsorted(starts, ticks, side="right") - 1
        return np.append(numbers, -1)[np.where(ticks < 0, -1, before)]


def _altered(first_row: int, strikes: Sequence[Strike]) -> Columns:
    """Rows of the words that strikes altered; the first strike is this row of /faults."""
    n_words = [len(strike.sent) // WORD_BYTES for strike in strikes]
    return {
        "fault": np.repeat(first_row + np.arange(len(strikes)), n_words),
        "sent": np.frombuffer(b"".join(strike.sent for strike in strikes), "<u8"),
        "became": np.frombuffer(b"".join(strike.became for strike in strikes), "<u8"),
    }


def _tables(epoch: int, truth: SliceTruth, first_particle: int) -> dict[str, Columns]:
    particle = truth.hit_particle
    shots = truth.shot_ticks.size
    return {
        "particles": {
            "epoch": _same(epoch, truth.particle_tick.size),
            "shot": truth.particle_shot,
            "chip": truth.particle_chip,
            "x": truth.particle_x,
            "y": truth.particle_y,
            "tick": truth.particle_tick,
            "peak": truth.particle_peak,
            "n_hits": truth.particle_hits,
        },
        "hits": {
            "epoch": _same(epoch, particle.size),
            "chip": truth.hit_pixel >> 16,
            "x": truth.hit_pixel & 0xFF,
            "y": (truth.hit_pixel >> 8) & 0xFF,
            "tot": truth.hit_tot,
            "tick": truth.hit_tick,
            "particle": np.where(particle < 0, -1, particle + first_particle),
        },
        "triggers": {
            "epoch": _same(epoch, len(truth.edges)),
            "input": truth.edges[:, 0],
            "falling": truth.edges[:, 1],
            "counter": truth.edges[:, 2],
            "tick": truth.edges[:, 3],
        },
        "shots": {
            "epoch": _same(epoch, shots),
            "number": truth.first_shot + np.arange(shots),
            "tick": truth.shot_ticks,
        },
    }


def _same(value: int, rows: int) -> npt.NDArray[np.int32]:
    return np.full(rows, value, np.int32)


class _TruthFile:
    """The HDF5 side: tables that grow in whole chunks, laid out before SWMR mode."""

    def __init__(self, path: Path, n_chips: int, attributes: Mapping[str, str | int | float]) -> None:
        self.path = path
        try:
            self._file = h5py.File(path, "w", libver="latest")
        except OSError as error:
            raise TruthError(f"cannot write the truth file {path}: {error}") from error
        self._file.attrs.update(attributes)
        self._waiting: dict[str, list[Columns]] = {name: [] for name in TABLES}
        self._waiting_rows = dict.fromkeys(TABLES, 0)
        for table, columns in TABLES.items():
            group = self._file.create_group(table)
            for name, column in columns.items():
                dataset = group.create_dataset(name, (0,), column.dtype, maxshape=(None,), chunks=(_CHUNK_ROWS,))
                dataset.attrs.update(units=column.unit, meaning=column.meaning)
        summary = self._file.create_group("summary")
        for name in _SUMMARY:
            summary.create_dataset(name, (), np.int64)
        summary.create_dataset("pixel_words", (n_chips,), np.int64)
        self._file.swmr_mode = True

    def append(self, rows: _Rows) -> None:
        """Keep rows until they fill a chunk; with a summary, write all."""
        for table, columns in rows.tables.items():
            self._waiting[table].append(columns)
            self._waiting_rows[table] += next(iter(columns.values())).size
            if self._waiting_rows[table] >= _CHUNK_ROWS:
                self._write(table)
        if rows.summary is not None:
            for table in TABLES:
                self._write(table)
            for name, value in rows.summary.items():
                self._file["summary"][name][...] = value
            self._file.flush()

    def close(self) -> None:
        self._file.close()

    def _write(self, table: str) -> None:
        """Append what waits. The columns of a table may differ in length for a moment: readers take the shortest."""
        waiting, rows = self._waiting[table], self._waiting_rows[table]
        if rows:
            for name, dataset in self._file[table].items():
                dataset.resize((dataset.shape[0] + rows,))
                dataset[-rows:] = np.concatenate([part[name] for part in waiting])
                dataset.flush()
        waiting.clear()
        self._waiting_rows[table] = 0
