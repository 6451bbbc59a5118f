"""What is lost on the way, comes twice or comes damaged is told by name, live and when the recording is read again.

Other faults of the data, one by one: `test_each_fault`.
"""

import numpy as np
import pytest

from ophyd_timepix.app.asking import recorded_file, recorded_processing, request_for
from ophyd_timepix.app.recovery import find_runs, recover_run
from ophyd_timepix.files.reader import read_table
from ophyd_timepix.pipeline.client import Pipeline
from ophyd_timepix.spool.sound import sound_part
from ophyd_timepix.spool.sources import open_recording
from tests.system.fault_bench import PROCESSING, SCENE, Taken, bench_with, take


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    truth = tmp_path_factory.mktemp("truth") / "truth.h5"
    with (
        Pipeline(workers=1, ring_bytes=1 << 24) as pipeline,
        bench_with(pipeline, truth, **SCENE, seed=11) as bench,
    ):
        yield bench


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
        ("miss-trigger=40", "missing_triggers"),
        ("double-trigger=40", "double_triggers"),
    ],
)
def test_what_is_too_much_or_missing_is_counted_by_name(bench, tmp_path, fault, entry):
    taken = take(bench, tmp_path, fault)
    n = len(taken.faults["name"])
    assert taken.ledger[entry] == n >= 2
    assert taken.ledger["lost_datagrams"] == 0
    if entry == "repeated_datagrams":
        taken.assert_all_shots_are_valid()
    else:
        taken.assert_touched_shots_are_invalid()
        taken.assert_most_shots_are_valid()
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
    assert taken.edges == taken.sent_edges
    taken.assert_all_shots_are_valid()


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


@pytest.mark.parametrize("fault", ["drop=40", "truncate=2:60", "corrupt=20:3", "miss-trigger=40"])
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
