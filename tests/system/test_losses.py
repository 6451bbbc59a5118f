"""Every fault of the data by name: the ledger says so many of it, nothing is unaccounted, the shots are marked."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from ophyd_timepix.app.asking import recorded_file, recorded_processing, request_for
from ophyd_timepix.app.recovery import find_runs, recover_run
from ophyd_timepix.config import Geometry, Processing
from ophyd_timepix.control import Board, SpidrClient
from ophyd_timepix.devices.recording import Recording, RunFile
from ophyd_timepix.files.reader import read_table
from ophyd_timepix.pipeline.client import Pipeline
from ophyd_timepix.spool.sound import sound_part
from ophyd_timepix.spool.sources import open_recording
from tests.sim_process import SimProcess, running_sim

TICK_NS = 25 / 96
PROCESSING = Processing(trigger_period_ns=1e6)
SCENE = {"scene": "vmi", "rate": 100_000, "shot_rate": 1000, "datagram_bytes": 1400}
SHOTS = 150


@dataclass
class Bench:
    """A camera with a truth file, and a pipeline."""

    sim: SimProcess
    board: Board
    truth: Path
    pipeline: Pipeline

    def strikes(self, n_before: int) -> dict[str, np.ndarray]:
        """What the simulator did to the data after the first `n_before` times."""
        with h5py.File(self.truth, libver="latest", swmr=True) as file:
            return {name: column[n_before:] for name, column in file["faults"].items()}


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    truth = tmp_path_factory.mktemp("truth") / "truth.h5"
    with (
        Pipeline(workers=1, ring_bytes=1 << 24) as pipeline,
        running_sim(**SCENE, seed=11, truth=truth) as sim,
        SpidrClient.at(sim.address) as client,
    ):
        board = Board(client)
        board.sent_counters()  # connects
        yield Bench(sim, board, truth, pipeline)


@dataclass
class Taken:
    """A run of one point, and what the simulator says of it."""

    ledger: dict[str, Any]
    event_file: Path
    faults: dict[str, np.ndarray]

    @property
    def shots(self) -> dict[str, np.ndarray]:
        return read_table(self.event_file, "shots")

    @property
    def losses(self) -> dict[str, np.ndarray]:
        return read_table(self.event_file, "losses")

    def hits_of_shots(self) -> np.ndarray:
        """How many hits the centroids of each shot have together."""
        rows = read_table(self.event_file, "centroids", ["shot", "size"])
        known = rows["shot"] >= 0
        return np.bincount(rows["shot"][known], rows["size"][known], minlength=len(self.shots["time"]))

    def assert_touched_shots_are_invalid(self) -> None:
        """Each shot that overlaps what a struck datagram held is not valid."""
        shots = self.shots
        ends = np.append(shots["time"][1:], np.inf)
        for first, last in zip(self.faults["first_tick"], self.faults["last_tick"], strict=True):
            if first >= 0:
                touched = (shots["time"] <= last * TICK_NS) & (ends > first * TICK_NS)
                assert not shots["valid"][touched].any()


def take(bench: Bench, folder: Path, *faults: str, processing: Processing = PROCESSING) -> Taken:
    """A run of one point with faults that begin when its files are open."""
    before = len(bench.strikes(0)["name"])
    recording = Recording(lambda: bench.board, 1, lambda: bench.pipeline)
    recording.open("run", RunFile(folder / "run.h5", processing, Geometry.for_chips(1)))
    for fault in faults:
        bench.sim.fault(fault)
    recording.begin()
    recording.open_shutter()
    while recording.progress().shots < SHOTS:
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
    return Taken(acquired.ledger, folder / "run.h5", bench.strikes(before))


def arrived_and_lost(ledger: dict[str, Any]) -> int:
    """What the board sent, by what became of it: the first row of the page about the ledger."""
    lost = ("malformed_datagrams", "kernel_dropped", "unrecorded_datagrams", "lost_on_the_way", "lost_stray_datagrams")
    too_many = ("surplus_datagrams", "stray_datagrams", "repeated_datagrams")
    arrived = ledger["received_datagrams"] - sum(ledger[name] for name in too_many)
    return arrived + sum(ledger[name] for name in lost)


LOSSES = {
    "drop=40": "lost_on_the_way",
    "drop-at=30:3": "lost_on_the_way",
    "drop-random=0.03": "lost_on_the_way",
    "truncate=40": "malformed_datagrams",
}


@pytest.mark.parametrize("fault", LOSSES)
def test_datagrams_that_are_lost_are_counted_by_name_and_their_shots_are_invalid(bench, tmp_path, fault):
    taken = take(bench, tmp_path, fault)
    n = len(taken.faults["name"])
    assert n >= 1
    assert taken.ledger[LOSSES[fault]] == taken.ledger["lost_datagrams"] == n
    assert taken.ledger["hits"] + taken.faults["hits"].sum() == taken.ledger["sent_pixel_words"]
    taken.assert_touched_shots_are_invalid()
    assert taken.ledger["valid_shots"] == taken.shots["valid"].sum() < taken.ledger["shots"]


def test_a_malformed_datagram_invalidates_the_shots_around_it_alone(bench, tmp_path):
    taken = take(bench, tmp_path, "truncate=50:2")
    losses = taken.losses
    malformed = losses["cause"] == b"malformed"
    assert losses["amount"][malformed].tolist() == [1, 1]
    assert all(1 <= n <= 6 for n in losses["shots"][malformed])
    taken.assert_touched_shots_are_invalid()
    whole = taken.ledger["shots"] - taken.ledger["shots_outside_shutter"]
    assert taken.ledger["valid_shots"] >= whole - losses["shots"].sum() - 1


@pytest.mark.parametrize(
    ("fault", "entry"),
    [
        ("duplicate=40", "repeated_datagrams"),
        ("foreign=40", "wrong_sender_datagrams"),
        ("miss-trigger=40", "missing_triggers"),
        ("double-trigger=40", "double_triggers"),
    ],
)
def test_what_is_too_much_or_missing_is_counted_by_name(bench, tmp_path, fault, entry):
    taken = take(bench, tmp_path, fault)
    n = len(taken.faults["name"])
    assert taken.ledger[entry] == n >= 2
    assert taken.ledger["lost_datagrams"] == 0
    assert taken.ledger["pixel_words"] == taken.ledger["sent_pixel_words"], "none too many became data"


def test_what_came_twice_becomes_no_data_and_makes_nothing_doubtful(bench, tmp_path):
    """Each datagram does, those that begin with the timer and the one with the end of the read-out, too."""
    taken = take(bench, tmp_path, "duplicate=1")
    assert taken.ledger["repeated_datagrams"] == len(taken.faults["name"]) == taken.ledger["sent_datagrams"]
    assert taken.ledger["ends_of_readout"] == 1
    assert taken.ledger["repeated_words"] > 0
    assert taken.ledger["hits"] == taken.ledger["sent_pixel_words"]
    assert taken.ledger["irregular_edges"] == taken.ledger["surplus_datagrams"] == 0
    assert taken.ledger["verdict"].startswith("complete")


def test_a_loss_shows_though_as_many_datagrams_came_twice(bench, tmp_path):
    taken = take(bench, tmp_path, "drop-at=30:1", "duplicate=40:1")
    assert taken.ledger["repeated_datagrams"] == taken.ledger["lost_on_the_way"] == 1
    assert taken.ledger["received_datagrams"] == taken.ledger["sent_datagrams"]
    taken.assert_touched_shots_are_invalid()


def test_missing_and_double_triggers_invalidate_their_shots(bench, tmp_path):
    taken = take(bench, tmp_path, "miss-trigger=30", "double-trigger=47")
    spacing = np.diff(taken.shots["time"])
    wrong = (spacing < 0.75e6) | (spacing > 1.25e6)
    assert wrong.any()
    assert not taken.shots["valid"][:-1][wrong].any()
    losses = taken.losses
    for cause, entry in ((b"trigger", "missing_triggers"), (b"double", "double_triggers")):
        here = losses["cause"] == cause
        assert losses["amount"][here].sum() == taken.ledger[entry] > 0
        assert (losses["shots"][here] > 0).all()


def test_random_words_in_a_datagram_are_counted_each_and_never_fatal(bench, tmp_path):
    taken = take(bench, tmp_path, "corrupt=20:5")
    assert len(taken.faults["name"]) == 5
    assert taken.ledger["unknown_words"] > 0
    assert taken.ledger["lost_datagrams"] == 0
    assert taken.ledger["altered_words"] != 0


@pytest.mark.parametrize("fault", ["reorder=10:5", "burst=0.02", "pause=0.05", "lost-timer"])
def test_what_only_delays_loses_nothing(bench, tmp_path, fault):
    taken = take(bench, tmp_path, fault)
    assert taken.ledger["lost_datagrams"] == 0
    assert (taken.ledger["board_pauses"] > 0) is fault.startswith("pause")
    assert taken.ledger["hits"] + taken.ledger["rejected_late_hits"] == taken.ledger["sent_pixel_words"]
    late = taken.losses["amount"][taken.losses["cause"] == b"late"].sum()
    assert late == taken.ledger["rejected_late_hits"] + taken.ledger["rejected_late_edges"]
    if not late:
        assert taken.ledger["valid_shots"] >= taken.ledger["shots"] - taken.ledger["shots_outside_shutter"] - 1
    assert taken.ledger["surplus_datagrams"] == 0


def test_the_boards_counters_may_roll_over(bench, tmp_path):
    bench.sim.fault("counter-roll=100")
    taken = take(bench, tmp_path)
    assert taken.ledger["sent_datagrams"] > 100
    assert taken.ledger["lost_datagrams"] == 0


def test_words_too_late_for_their_stamp_are_suspected(bench, tmp_path):
    taken = take(bench, tmp_path, "late=500:50", processing=Processing(lateness_ns=1_000_000))
    assert taken.ledger["toa_wrap_suspects"] > 0
    assert taken.ledger["max_lateness_ns"] > 384_000


@pytest.mark.parametrize("fault", ["drop=40", "truncate=2:60", "truncate=40", "miss-trigger=40"])
def test_the_recording_tells_the_same_losses_again(bench, tmp_path, fault):
    taken = take(bench, tmp_path, fault)
    recording = open_recording(tmp_path / "run.tpx3")
    assert recorded_processing([recording]) == PROCESSING
    request = request_for([recording], tmp_path / "again.h5", PROCESSING)
    again = bench.pipeline.process(request, [recorded_file(recording, request.n_chips)])
    for table in ("losses", "shots", "centroids"):
        first, second = read_table(taken.event_file, table), read_table(tmp_path / "again.h5", table)
        for column in first:
            np.testing.assert_array_equal(first[column], second[column], err_msg=f"{table}/{column}")
    told = ("valid_shots", "loss_intervals", "tdc_gaps", "missing_triggers", "unaccounted")
    for name in (*told, "lost_on_the_way", "malformed_datagrams", "lost_datagrams", "sent_datagrams", "verdict"):
        assert again.ledger[name] == taken.ledger[name], name


@pytest.mark.parametrize("recovered", [False, True], ids=["process", "recover"])
def test_what_the_disk_damaged_is_counted_and_its_shots_are_invalid(bench, tmp_path, recovered):
    taken = take(bench, tmp_path)
    recording = open_recording(tmp_path / "run.tpx3")
    with open(recording.path, "r+b") as file:  # a block that never reached the disk
        file.seek(recording.n_bytes // 2 // 4096 * 4096)
        file.write(bytes(4096))
    n_damaged = sum(stop - start for start, stop in sound_part(recording).damaged)
    of_old = dict(zip(taken.shots["time"], taken.hits_of_shots(), strict=True))
    if recovered:
        taken.event_file.unlink()
        taken.event_file.with_suffix(".nxs").unlink()
        (found,) = find_runs([tmp_path])
        ledger, again = recover_run(found, bench.pipeline).ledger, taken.event_file
    else:
        request = request_for([recording], tmp_path / "again.h5", PROCESSING)
        again = request.event_file
        ledger = bench.pipeline.process(request, [recorded_file(recording, request.n_chips)]).ledger
    assert ledger["damaged_bytes"] == n_damaged >= 4096
    assert f"{n_damaged:,} bytes of the recording not as they were received" in ledger["verdict"]
    assert ledger["unaccounted"] == 0
    shots, hits = read_table(again, "shots"), Taken(ledger, again, {}).hits_of_shots()
    valid = shots["valid"] == 1
    assert 0 < valid.sum() < len(of_old)
    assert all(of_old[time] == n for time, n in zip(shots["time"][valid], hits[valid], strict=True))
    losses = read_table(again, "losses")
    assert losses["amount"][losses["cause"] == b"damaged"].sum() == n_damaged
