"""A camera with faults of the data, a pipeline, and what the simulator says that it sent: for tests of losses."""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import h5py
import numpy as np
import numpy.typing as npt

from ophyd_timepix.config import Geometry, Processing
from ophyd_timepix.control import Board, SpidrClient
from ophyd_timepix.devices.recording import Recording, RunFile
from ophyd_timepix.files.reader import read_table
from ophyd_timepix.pipeline.client import Pipeline
from tests.sim_process import SimProcess, running_sim

TICK_NS: Final = 25 / 96
PROCESSING: Final = Processing(trigger_period_ns=1e6)
SCENE: Final = {"scene": "vmi", "rate": 100_000, "shot_rate": 1000, "datagram_bytes": 1400}
SHOTS: Final = 150

Columns = dict[str, npt.NDArray[Any]]
Hit = tuple[int, int, int, int]
"""x, y, ToT, tick."""


@dataclass
class Bench:
    """A camera with a truth file, and a pipeline."""

    sim: SimProcess
    board: Board
    truth: Path
    pipeline: Pipeline

    def told(self, table: str, since: int = 0) -> Columns:
        """What the simulator says, from a row on."""
        with h5py.File(self.truth, libver="latest", swmr=True) as file:
            return {name: column[since:] for name, column in file[table].items()}


@contextmanager
def bench_with(pipeline: Pipeline, truth: Path, **scene: Any) -> Iterator[Bench]:
    """A simulated camera of this scene, and what tells of it."""
    with running_sim(**scene, truth=truth) as sim, SpidrClient.at(sim.address) as client:
        board = Board(client)
        board.sent_counters()  # connects
        yield Bench(sim, board, truth, pipeline)


@dataclass
class Taken:
    """A run of one point, and what the simulator says of it."""

    ledger: dict[str, Any]
    event_file: Path
    faults: Columns
    altered: Columns = field(default_factory=dict)
    """Words that faults altered."""
    truth: dict[str, Columns] = field(default_factory=dict)
    """Hits and triggers that left the board."""

    @property
    def shots(self) -> Columns:
        return read_table(self.event_file, "shots")

    @property
    def losses(self) -> Columns:
        return read_table(self.event_file, "losses")

    def hits_of_shots(self) -> npt.NDArray[np.int64]:
        """How many hits the centroids of each shot have together."""
        rows = read_table(self.event_file, "centroids", ["shot", "size"])
        known = rows["shot"] >= 0
        return np.bincount(rows["shot"][known], rows["size"][known], minlength=len(self.shots["time"]))

    # --- one by one: for runs with rows of hits

    @property
    def hits(self) -> Counter[Hit]:
        """In the file."""
        rows = read_table(self.event_file, "hits")
        return _counted(rows["x"], rows["y"], rows["tot"], np.rint(rows["toa"] / TICK_NS))

    @property
    def sent_hits(self) -> Counter[Hit]:
        """That left the board."""
        return _counted(*(self.truth["hits"][name] for name in ("x", "y", "tot", "tick")))

    @property
    def edges(self) -> Counter[Hit]:
        """In the file: input, falling, counter, tick."""
        rows = read_table(self.event_file, "triggers")
        return _counted(rows["channel"], rows["edge"], rows["counter"], np.rint(rows["time"] / TICK_NS))

    @property
    def sent_edges(self) -> Counter[Hit]:
        """That left the board."""
        return _counted(*(self.truth["triggers"][name] for name in ("input", "falling", "counter", "tick")))

    # --- shots

    def touched(self, first_tick: int, last_tick: int) -> npt.NDArray[np.bool_]:
        """Shots that overlap a time."""
        times = self.shots["time"]
        return (times <= last_tick * TICK_NS) & (np.append(times[1:], np.inf) > first_tick * TICK_NS)

    def assert_touched_shots_are_invalid(self, rows: slice | npt.NDArray[np.bool_] = slice(None)) -> None:
        """Each shot that overlaps what a struck datagram held is not valid. rows: of these faults."""
        valid = self.shots["valid"]
        for first, last in zip(self.faults["first_tick"][rows], self.faults["last_tick"][rows], strict=True):
            if first >= 0:
                assert not valid[self.touched(first, last)].any()

    def assert_most_shots_are_valid(self) -> None:
        """The others are few."""
        assert self.ledger["valid_shots"] == self.shots["valid"].sum() > 0.5 * self.ledger["shots"]

    def assert_all_shots_are_valid(self) -> None:
        """All that are wholly inside the open shutter."""
        assert self.ledger["valid_shots"] == self.shots["valid"].sum()
        assert self.ledger["valid_shots"] + self.ledger["shots_outside_shutter"] == self.ledger["shots"]


def _counted(*columns: npt.NDArray[Any]) -> Counter[Hit]:
    return Counter(zip(*(column.astype(np.int64).tolist() for column in columns), strict=True))


def take(
    bench: Bench,
    folder: Path,
    *faults: str,
    processing: Processing = PROCESSING,
    midway: Sequence[str] = (),
    n_shots: int = SHOTS,
) -> Taken:
    """A run of one point with faults that begin when its files are open, or midway."""
    before = {table: len(next(iter(bench.told(table).values()))) for table in ("faults", "altered")}
    recording = Recording(lambda: bench.board, 1, lambda: bench.pipeline)
    recording.open("run", RunFile(folder / "run.h5", processing, Geometry.for_chips(1)))
    for fault in faults:
        bench.sim.fault(fault)
    recording.begin()
    recording.open_shutter()
    for fault in midway:
        while recording.progress().shots < n_shots // 3:
            recording.compare_counts()
        bench.sim.fault(fault)
    while recording.progress().shots < n_shots:
        recording.compare_counts()
    counts = recording.timer_counts()
    recording.close_shutter()
    acquired = recording.end(end_counts=counts, cancelled=False)
    bench.sim.clear_faults()
    recording.close({}, {})
    assert acquired.ledger["unaccounted"] == 0, acquired.ledger
    if not any(fault.startswith("corrupt") for fault in faults):  # a random word may look like an end of readout
        assert acquired.ledger["ends_of_readout"] <= 1
    assert acquired.ledger["sent_datagrams"] == arrived_and_lost(acquired.ledger)
    (chip,) = acquired.ledger["chips"].values()
    for name in ("hits", "sent_pixel_words", "received_datagrams", "malformed_datagrams"):
        assert chip[name] == acquired.ledger[name], name
    told, altered = bench.told("faults", before["faults"]), bench.told("altered", before["altered"])
    epoch = bench.told("acquisitions")["epoch"][-1]
    truth = {table: _of_epoch(bench.told(table), epoch) for table in ("hits", "triggers")}
    return Taken(acquired.ledger, folder / "run.h5", told, altered, truth)


def _of_epoch(columns: Columns, epoch: int) -> Columns:
    return {name: column[columns["epoch"] == epoch] for name, column in columns.items()}


def arrived_and_lost(ledger: dict[str, Any]) -> int:
    """What the board sent, by what became of it: the first row of the page about the ledger."""
    lost = ("malformed_datagrams", "kernel_dropped", "unrecorded_datagrams", "lost_on_the_way", "lost_stray_datagrams")
    too_many = ("surplus_datagrams", "stray_datagrams", "repeated_datagrams")
    arrived = ledger["received_datagrams"] - sum(ledger[name] for name in too_many)
    return arrived + sum(ledger[name] for name in lost)
