"""The ledger is known while a point is exposed, and fit for suspenders, whether a point is exposed or not."""

import json
import math
import threading
import time
from pathlib import Path

import bluesky.plan_stubs as bps
import bluesky.plans as bp
import pytest
from bluesky.suspenders import SuspendCeil, SuspendFloor

from ophyd_timepix.control import SentCounters
from ophyd_timepix.devices import detector, exposure
from ophyd_timepix.devices.ledger_now import FINAL
from ophyd_timepix.pipeline.messages import Progress, Sent


@pytest.fixture
def now(tpx):
    return tpx.ledger_now


@pytest.fixture
def exposing(tpx, pipe, monkeypatch):
    """A point is exposed that goes on until the test says how it ends; every look is told."""
    monkeypatch.setattr(detector, "LIVE_S", 0.0)
    pipe.flow.clear()
    tpx.stage()
    status = tpx.trigger()
    assert pipe.looked.wait(60)
    yield status
    pipe.flow.set()
    status.wait(60)
    tpx.unstage()


def seen(signal, value) -> bool:
    """Whether the signal tells this value soon."""
    told = threading.Event()
    number = signal.subscribe(lambda value, **_: told.set() if value == wanted else None)
    wanted = value
    try:
        return told.wait(60)
    finally:
        signal.unsubscribe(number)


def test_documents_tell_the_verdict_of_a_point_and_nothing_else_of_it(tpx, now):
    assert [key for key in tpx.describe() if key.startswith("tpx_ledger_now")] == ["tpx_ledger_now_verdict"]
    assert not [key for key in tpx.describe_configuration() if key.startswith("tpx_ledger_now")]


@pytest.mark.usefixtures("exposing")
def test_losses_are_told_while_a_point_is_exposed(tpx, pipe, now):
    pipe.told = {
        "kernel_dropped": 3,
        "malformed_datagrams": 2,
        "unrecorded_datagrams": 1,
        "received_datagrams": 500,
        "received_bytes": 4000,
        "wrong_sender_datagrams": 7,
        "spool_bytes": 800,
        "recording_bytes": 9000,
        "disk_free_bytes": 10**9,
        "disk_seconds_left": 90.0,
    }
    assert seen(now.lost_datagrams, 6)
    assert seen(now.disk_seconds_left, 90.0)
    assert {name: getattr(now, name).get() for name in pipe.told} == pipe.told
    assert tpx.stats.healthy.get() == 0


def test_without_a_recording_the_disk_lasts_for_ever(tpx, now):
    tpx.trigger().wait(60)
    assert (now.disk_free_bytes.get(), now.disk_seconds_left.get()) == (math.inf, math.inf)


def test_a_point_and_a_run_have_a_verdict(RE, checker, installed, tpx, pipe, now):
    pipe.entries = {"kernel_dropped": 4, "lost_on_the_way": 0, "board_pauses": None, "loss_intervals": 1, "shots": 9}
    pipe.lost_datagrams = 4
    RE(bp.count([tpx]))
    (point,) = checker.run.stream("primary")
    assert point["tpx_ledger_now_verdict"].startswith("no valid shot: 4 datagrams dropped by the kernel")
    assert (now.kernel_dropped.get(), now.loss_intervals.get(), now.board_pauses.get()) == (4, 1, 0)
    assert (now.lost_datagrams.get(), tpx.stats.lost_datagrams.get()) == (4, 4)
    assert now.run_verdict.get().startswith(("complete", "not known"))


def test_what_the_board_could_not_be_asked_is_not_zero_but_what_was_known_last(tpx, pipe, now):
    tpx.stage()
    tpx.trigger().wait(60)
    (acquired,) = tpx._recording.acquired
    now.lost_on_the_way.publish(3)
    now.sent_datagrams.publish(70)
    unknown = dict.fromkeys(("sent_datagrams", "lost_on_the_way", "surplus_datagrams", "board_pauses"))
    told = acquired.model_copy(
        update={"ledger": acquired.ledger | unknown | {"lost_datagrams": 2, "kernel_dropped": 2}}
    )
    assert now.publish(told) == 3 + 2
    assert (now.lost_on_the_way.get(), now.sent_datagrams.get()) == (3, 70)
    assert (now.surplus_datagrams.get(), now.kernel_dropped.get(), now.lost_datagrams.get()) == (-1, 2, 5)
    tpx.unstage()


def test_what_became_of_the_words_of_a_point_is_told_class_by_class_and_chip_by_chip(tpx, pipe, now):
    classes = dict(zip(FINAL, range(100, 200), strict=False))
    chips = {"0": {"received_datagrams": 7, "hits": 5}, "1": {"received_datagrams": 8, "hits": 6}}
    pipe.entries = classes | {"chips": chips}
    tpx.trigger().wait(60)
    assert {name: getattr(now, name).get() for name in classes} == classes
    assert json.loads(now.chips.get()) == chips


def test_the_page_on_the_ledger_knows_every_entry_that_is_a_signal():
    page = (Path(__file__).parents[2] / "docs" / "explanations" / "loss-ledger.md").read_text()
    assert not [name for name in FINAL if f"`{name}`" not in page]


def test_a_master_that_could_not_be_written_fails_no_run(RE, checker, installed, tpx, pipe, caplog):
    pipe.problem = "/data/a.h5 is complete, the master a.nxs could not be written (no room)"
    RE(bp.count([tpx]))
    assert checker.run.stop["exit_status"] == "success"
    (row,) = checker.run.stream("tpx_ledger")
    assert row["tpx_ledger_error"] == pipe.problem
    assert row["tpx_ledger_unaccounted"] == 0
    assert pipe.problem in caplog.text


def test_a_loss_of_an_earlier_point_does_not_ail_the_next(tpx, pipe, now, monkeypatch):
    """The pipeline counts through the run."""
    monkeypatch.setattr(detector, "LIVE_S", 0.0)
    pipe.told = {"kernel_dropped": 5}
    ailed = []
    tpx.stats.healthy.subscribe(lambda value, **_: ailed.append(value), run=False)
    tpx.stage()
    tpx.trigger().wait(60)
    tpx.unstage()
    assert 0 not in ailed
    assert now.lost_datagrams.get() == 0


def test_what_the_board_has_sent_and_nobody_has_seen_is_lost_on_the_way(tpx, pipe, fake_board):
    recording = tpx._recording
    tpx.stage()
    tpx.trigger().wait(60)
    fake_board.sent_counters = lambda: SentCounters(10 + 100, (0,) * 4)
    recording.begin()
    assert recording.missing(looked(arrived=0)) == 0
    recording.compare_counts()
    assert recording.seen == Sent(datagrams=100)
    assert recording.missing(looked(arrived=97, after_s=0.0)) == 0  # they may be under way
    assert recording.missing(looked(arrived=97)) == 3
    assert recording.missing(looked(arrived=150)) == 3  # of what was sent later nobody knows
    recording.end(end_counts=None, cancelled=False)
    recording.begin()
    assert recording.missing(looked(arrived=97)) == 0
    recording.end(end_counts=None, cancelled=False)
    tpx.unstage()


def looked(arrived: int, after_s: float = 0.1) -> Progress:
    return Progress(arrived_datagrams=arrived, caught_up_ns=time.monotonic_ns() + int(after_s * 1e9))


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize("which", ["disk_seconds_left", "spool_bytes"])
def test_a_suspender_that_trips_between_two_points_lets_go(RE, checker, tpx, pipe, now, monkeypatch, which):
    """No exposure is held then, which would look."""
    monkeypatch.setattr(exposure, "HELD_S", 0.02)
    trips, is_well = {"disk_seconds_left": (2.0, 900.0), "spool_bytes": (10**9, 0)}[which]
    suspender = {"disk_seconds_left": SuspendFloor, "spool_bytes": SuspendCeil}[which](getattr(now, which), 60)
    RE.install_suspender(suspender)

    def plan():
        yield from bps.open_run()
        yield from bps.trigger_and_read([tpx])
        yield from bps.checkpoint()
        pipe.told = {which: is_well}
        getattr(now, which).publish(trips)
        yield from bps.sleep(0.2)
        yield from bps.trigger_and_read([tpx])
        yield from bps.close_run()

    RE(bpp_stage(tpx, plan()))
    RE.remove_suspender(suspender)
    assert checker.run.stop["exit_status"] == "success"
    assert len(checker.run.stream("primary")) == 2
    assert not [t for t in threading.enumerate() if t.name == "timepix-lookout"]


def bpp_stage(device, plan):
    yield from bps.stage(device)
    yield from plan
    yield from bps.unstage(device)
