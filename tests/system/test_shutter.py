"""What the board sends outside of the open shutter is no data of the acquisition, live as from its recording."""

from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
import pytest

from ophyd_timepix.app.asking import recorded_file, recorded_processing, request_for
from ophyd_timepix.clock import NS_PER_COUNT
from ophyd_timepix.config import Geometry, Processing
from ophyd_timepix.control import Board, SpidrClient
from ophyd_timepix.devices.recording import Recording, RunFile
from ophyd_timepix.files.reader import read_table
from ophyd_timepix.pipeline.client import Pipeline
from ophyd_timepix.spool.index import read_index, spans
from ophyd_timepix.spool.sources import open_recording
from tests.sim_process import SimProcess, running_sim

SCENE = {"scene": "vmi", "rate": 100_000, "shot_rate": 1000, "datagram_bytes": 1400}
SHOTS = 60
LATENESS_NS = 500_000


class Bench(NamedTuple):
    """A camera with a truth file, and a pipeline."""

    sim: SimProcess
    board: Board
    truth: Path
    pipeline: Pipeline


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    truth = tmp_path_factory.mktemp("truth") / "truth.h5"
    with (
        Pipeline(workers=1, ring_bytes=1 << 24) as pipeline,
        running_sim(**SCENE, seed=5, truth=truth) as sim,
        SpidrClient.at(sim.address) as client,
    ):
        board = Board(client)
        board.sent_counters()  # connects
        yield Bench(sim, board, truth, pipeline)


class Taken(NamedTuple):
    """A run."""

    ledgers: list[dict[str, Any]]
    event_file: Path
    begin: list[float]
    """Before these times (ns) the shutter of each point was closed for sure, ..."""
    open: list[tuple[float, float]]
    """... and between these it was open."""
    faults: dict[str, np.ndarray]


def take(
    bench: Bench, folder: Path, fault: str, points: int, processing: Processing, *, when_open: str | None = None
) -> Taken:
    """when_open: another fault, of the first point."""
    recording = Recording(lambda: bench.board, 1, lambda: bench.pipeline)
    recording.open("run", RunFile(folder / "run.h5", processing, Geometry.for_chips(1)))
    bench.sim.fault(fault)
    ledgers = []
    for _ in range(points):
        recording.begin()
        before = recording.progress().shots
        recording.open_shutter()
        if when_open and not ledgers:
            bench.sim.fault(when_open)
        while recording.progress().shots < before + SHOTS:
            pass
        counts = recording.timer_counts()
        recording.close_shutter()
        ledgers.append(recording.end(end_counts=counts, cancelled=False).ledger)
    bench.sim.clear_faults()
    recording.close({}, {})
    path = open_recording(folder / "run.tpx3")
    index = read_index(path.path)
    assert index is not None
    told = [(span.begin.counts, span.open_counts, span.end_counts) for span in spans(index.records, path.n_bytes)]
    assert all(begin < opened < closed for begin, opened, closed in told)
    with h5py.File(bench.truth, libver="latest", swmr=True) as file:
        epoch = int(file["acquisitions/epoch"][-1])
        n = min(len(column) for column in file["faults"].values())  # a strike may be half written
        mine = np.flatnonzero(file["faults/epoch"][:n] == epoch)
        faults = {name: column[:n][mine] for name, column in file["faults"].items()}
    begin = [begin * NS_PER_COUNT for begin, _, _ in told]
    is_open = [(opened * NS_PER_COUNT, closed * NS_PER_COUNT) for _, opened, closed in told]
    return Taken(ledgers, folder / "run.h5", begin, is_open, faults)


def process_again(bench: Bench, taken: Taken, folder: Path) -> dict[str, Any]:
    """The recording gives the same rows."""
    recording = open_recording(taken.event_file.with_suffix(".tpx3"))
    request = request_for([recording], folder / "again.h5", recorded_processing([recording]), 1)
    ledger = bench.pipeline.process(request, [recorded_file(recording, 1)]).ledger
    for table in ("shots", "triggers", "centroids"):
        live, recorded = (read_table(path, table) for path in (taken.event_file, folder / "again.h5"))
        for name, column in live.items():
            np.testing.assert_array_equal(recorded[name], column, f"{table}/{name}")
    return ledger


def test_a_loss_never_passes_for_none_while_edges_go_on_behind_the_closed_shutter(bench, tmp_path):
    """They come each millisecond, faster than a datagram surely takes: then some may hide as many that were lost, but
    not their words.
    """
    taken = take(bench, tmp_path, "edges-always", 3, Processing(), when_open="drop-at=5:3")
    assert taken.faults["name"].tolist().count(b"drop-at") == 3
    again = process_again(bench, taken, tmp_path)
    lost = [ledger["lost_on_the_way"] for ledger in taken.ledgers]
    assert sum(lost) == again["lost_on_the_way"] <= 3
    first, *others = taken.ledgers
    assert first["altered_words"] > 0 or lost[0] > 0
    for ledger in others:  # what it has hidden is told of no other
        assert ledger["verdict"].startswith("complete: nothing was lost; ")
    assert again["surplus_datagrams"] == sum(ledger["surplus_datagrams"] for ledger in taken.ledgers) == 0
    assert "time" not in {ledger["ended_by"] for ledger in taken.ledgers}
    assert not again["verdict"].startswith(("complete", "doubtful"))


def test_a_run_that_begins_amid_edges_counts_none_of_them_as_lost(bench, tmp_path):
    """They come between the board's first answer and whatever is asked next."""
    bench.sim.fault("edges-always")
    taken = take(bench, tmp_path, "edges-always", 2, Processing())
    again = process_again(bench, taken, tmp_path)
    names = ("lost_on_the_way", "surplus_datagrams", "stray_datagrams", "altered_words", "unaccounted")
    for ledger in (*taken.ledgers, again):
        assert [ledger[name] for name in names] == [0] * len(names)
        assert ledger["verdict"].startswith("complete: nothing was lost; ")


@pytest.mark.parametrize("tof_max_ns", [None, 100_000.0], ids=["to the next", "to tof_max"])
def test_shots_outside_of_the_open_shutter_are_rows_and_not_valid(bench, tmp_path, tof_max_ns):
    taken = take(bench, tmp_path, "edges-always", 2, Processing(tof_max_ns=tof_max_ns))
    shots = read_table(taken.event_file, "shots")
    rows = read_table(taken.event_file, "acquisitions")
    for number, (ledger, (opened, closed)) in enumerate(zip(taken.ledgers, taken.open, strict=True)):
        mine = slice(rows["shot_start"][number], rows["shot_stop"][number])
        start, valid = shots["time"][mine], shots["valid"][mine].astype(bool)
        stop = np.append(start[1:], np.inf)
        if tof_max_ns is not None:
            stop = np.minimum(stop, start + tof_max_ns)
        inside = (start >= opened) & (stop <= closed)
        assert np.array_equal(valid, inside)
        assert ledger["shots_outside_shutter"] == np.count_nonzero(~inside)
        assert np.count_nonzero(start > closed) >= 10  # the counters were asked until the pixels had stood still
        assert ledger["valid_shots"] == np.count_nonzero(inside) >= SHOTS - 2
        assert ledger["verdict"].startswith("complete: nothing was lost; ")
        assert ledger["verdict"].endswith("not wholly inside the open shutter")
    assert set(taken.faults["name"].tolist()) == {b"edges-always"}
    again = process_again(bench, taken, tmp_path)
    names = ("shots", "valid_shots", "shots_outside_shutter", "rejected_early_edges", "edges", "unaccounted")
    assert [again[name] for name in names] == [sum(ledger[name] for ledger in taken.ledgers) for name in names]


def test_words_of_the_acquisition_before_are_counted_and_never_data(bench, tmp_path):
    taken = take(bench, tmp_path, "stale=40", 3, Processing(hits=True))
    hits, rows = read_table(taken.event_file, "hits"), read_table(taken.event_file, "acquisitions")
    stale = taken.faults
    assert stale["name"].tolist() == [b"stale"] * 2  # nothing came before the first
    first, *others = taken.ledgers
    assert first["rejected_early_hits"] == first["rejected_early_edges"] == 0
    for ledger, n_hits, n_edges in zip(others, stale["hits"], stale["edges"], strict=True):
        assert ledger["rejected_early_hits"] == n_hits > 0
        assert ledger["rejected_early_edges"] == n_edges
        assert ledger["rejected_late_hits"] == ledger["rejected_time_jumps"] == ledger["unaccounted"] == 0
        assert "early" in [place[0] for place in ledger["skipped_at"]]
        # What stays on the board at the end is missing then; the board counts it as sent.
        assert 0 <= ledger["altered_words"] <= stale["hits"].max()
    toa = read_table(taken.event_file, "centroids", ["toa"])["toa"]
    for number, begin in enumerate(taken.begin):
        assert toa[rows["row_start"][number] : rows["row_stop"][number]].min() >= begin - LATENESS_NS
    assert len(hits["toa"]) == sum(ledger["hits"] for ledger in taken.ledgers)
    again = process_again(bench, taken, tmp_path)
    for name in ("hits", "rejected_early_hits", "rejected_early_edges", "valid_shots", "unaccounted"):
        assert again[name] == sum(ledger[name] for ledger in taken.ledgers), name
