"""Pause, resume, stop, abort, halt and failures at every stage of an exposure.

The rule: each point owns exactly one whole exposure; rows of points are disjoint; all rows are points' plus cancelled.
"""

import threading

import bluesky.plan_stubs as bps
import bluesky.plans as bp
import bluesky.preprocessors as bpp
import pytest
from bluesky.utils import FailedStatus, RunEngineInterrupted
from ophyd.sim import SynAxis

from ophyd_timepix.control import ControlError, SpidrRefused
from ophyd_timepix.devices import AcquisitionError
from ophyd_timepix.pipeline.errors import StageDied
from ophyd_timepix.plans import tpx_fly
from tests.bluesky_fixtures import run_and_interrupt, when
from tests.doc_checker import check_points
from tests.fakes import CANCELLED_ROWS, ROWS

pytestmark = pytest.mark.usefixtures("installed")

PLANS = {
    "count": lambda tpx: bp.count([tpx], num=3),
    "scan": lambda tpx: bp.scan([tpx], SynAxis(name="delay"), 0, 2, 3),
    "dac": lambda tpx: bp.scan([tpx], tpx.board.chip0.dacs.vfbk, 0, 2, 3),
    "fly": lambda tpx: bp.fly([tpx]),
    "tpx_fly": lambda tpx: tpx_fly(tpx),
}
STREAM = {"fly": "tpx_frames", "tpx_fly": "tpx_frames"}
POINTS = {"fly": 1, "tpx_fly": 1}


@pytest.fixture(params=PLANS)
def kind(request):
    return request.param


def points_of(run, kind):
    return run.stream(STREAM.get(kind, "primary"))


def assert_books_agree(run, kind):
    """Points' rows and cancelled rows are all rows; the ledger counts the cancelled ones."""
    points = points_of(run, kind)
    check_points(points, "tpx", run.rows)
    own = sum(p["tpx_n_centroids"] for p in points)
    (ledger,) = run.stream("tpx_ledger")
    assert own + ledger["tpx_ledger_cancelled_rows"] == run.rows == ledger["tpx_ledger_rows"]
    acquisition = run.column("shot")
    for point in points:
        assert set(acquisition[point["tpx_row_start"] : point["tpx_row_stop"]]) == {point["tpx_acquisition"]}


def assert_next_run_works(RE, checker, tpx, pipelines):
    pipelines[-1].flow.set()
    RE(bp.count([tpx]))
    assert checker.runs[-1].stop["exit_status"] == "success"
    assert checker.runs[-1].rows == ROWS


def test_pause_and_resume_give_each_point_one_whole_exposure(RE, checker, tpx, pipe, fake_board, kind):
    pipe.flow.clear()
    run_and_interrupt(RE, PLANS[kind](tpx), pipe.looked)
    assert not fake_board.shutter_open.is_set()
    pipe.flow.set()
    RE.resume()
    run = checker.run
    assert run.stop["exit_status"] == "success"
    assert [p["tpx_n_centroids"] for p in points_of(run, kind)] == [ROWS] * POINTS.get(kind, 3)
    assert_books_agree(run, kind)


def test_pausing_twice(RE, checker, tpx, pipe, kind):
    pipe.flow.clear()
    run_and_interrupt(RE, PLANS[kind](tpx), pipe.looked)
    assert pipe.idle.wait(60)
    running = threading.Event()
    RE.state_hook = lambda new, old: running.set() if new == "running" else None

    def pause_once_it_exposes():
        assert pipe.looked.wait(60)
        RE.request_pause()

    hand = when(running, pause_once_it_exposes)
    with pytest.raises(RunEngineInterrupted):
        RE.resume()
    hand.join()
    pipe.flow.set()
    RE.resume()
    assert [p["tpx_n_centroids"] for p in points_of(checker.run, kind)] == [ROWS] * POINTS.get(kind, 3)
    assert_books_agree(checker.run, kind)


def test_a_point_that_is_replayed_although_it_was_saved_counts_once(RE, checker, tpx, pipe):
    """bluesky's count pauses in the delay between points by taking the last point again."""
    saved = threading.Event()
    RE.subscribe(lambda name, doc: saved.set(), "event")
    run_and_interrupt(RE, bp.count([tpx], num=2, delay=0.3), saved)
    RE.resume()
    points = checker.run.stream("primary")
    assert len(points) == 2
    assert_books_agree(checker.run, "count")


@pytest.mark.parametrize("verb", ["stop", "abort", "halt"])
def test_what_is_on_disk_is_registered_and_a_next_run_works(
    RE, checker, tpx, pipe, pipelines, fake_board, installed, kind, verb
):
    pipe.flow.clear()
    run_and_interrupt(RE, PLANS[kind](tpx), pipe.looked)
    getattr(RE, verb)()
    run = checker.run
    assert run.stop["exit_status"] == ("success" if verb == "stop" else "abort")
    assert not fake_board.shutter_open.is_set()
    assert "close_run" in pipe.calls
    if verb != "halt":
        assert run.rows == CANCELLED_ROWS
        assert_books_agree(run, kind)
    assert_next_run_works(RE, checker, tpx, pipelines)


@pytest.mark.parametrize("verb", ["stop", "abort", "halt"])
def test_ending_a_plan_while_it_runs(RE, checker, tpx, pipe, pipelines, fake_board, kind, verb):
    pipe.flow.clear()
    hand = when(pipe.looked, getattr(RE, verb))
    with pytest.raises(RunEngineInterrupted):
        RE(PLANS[kind](tpx))
    hand.join()
    assert not fake_board.shutter_open.is_set()
    assert "close_run" in pipe.calls
    assert_next_run_works(RE, checker, tpx, pipelines)


def test_a_pause_between_points_cancels_nothing(RE, checker, tpx, pipe):
    def plan():
        yield from bps.stage(tpx)
        yield from bps.open_run()
        for point in range(2):
            yield from bps.checkpoint()
            if point == 1:
                yield from bps.pause()
            yield from bps.trigger_and_read([tpx])
        yield from bps.close_run()
        yield from bps.unstage(tpx)

    with pytest.raises(RunEngineInterrupted):
        RE(plan())
    RE.resume()
    assert checker.run.rows == 2 * ROWS
    assert_books_agree(checker.run, "count")


def test_a_motor_is_there_before_the_replayed_exposure_begins(RE, checker, tpx, pipe, fake_board):
    """The exposure that resume begins is given up for the one that the replayed trigger begins."""
    motor = SynAxis(name="delay")
    moved: list[bool] = []
    motor.subscribe(lambda **_: moved.append(fake_board.shutter_open.is_set()), run=False)
    pipe.flow.clear()
    run_and_interrupt(RE, bp.scan([tpx], motor, 0, 1, 2), pipe.looked)
    pipe.flow.set()
    RE.resume()
    assert [p["tpx_n_centroids"] for p in checker.run.stream("primary")] == [ROWS] * 2


def test_a_wait_that_bluesky_forgot_is_an_error_and_not_a_wrong_point(RE, checker, tpx, pipe):
    def plan():
        yield from bps.stage(tpx)
        yield from bps.open_run()
        yield from bps.checkpoint()
        yield from bps.trigger(tpx, group="g")
        yield from bps.checkpoint()
        yield from bps.wait("g")
        yield from bps.create("primary")
        yield from bps.read(tpx)
        yield from bps.save()

    pipe.flow.clear()
    run_and_interrupt(RE, plan(), pipe.looked)
    with pytest.raises(AcquisitionError, match="put the checkpoint before the trigger"):
        RE.resume()
    assert not checker.run.stream("primary")


@pytest.mark.parametrize("call", ["open_shutter", "close_shutter", "prepare_readout"])
def test_a_board_that_fails_fails_the_point_with_its_own_words(RE, checker, tpx, pipelines, fake_board, kind, call):
    error = ControlError("the board answers with error 6")
    real = type(fake_board).contact

    def contact(self, name=None):
        real(self, name)
        if name == call and (call != "close_shutter" or "open_shutter" in self.calls):
            raise error

    fake_board.contact = contact.__get__(fake_board)
    with pytest.raises(FailedStatus) as failure:
        RE(PLANS[kind](tpx))
    assert failure.value.__cause__ is error
    assert checker.run.stop["exit_status"] == "fail"
    del fake_board.contact
    fake_board.shutter_open.clear()
    assert_next_run_works(RE, checker, tpx, pipelines)


def test_a_dead_stage_fails_the_run_and_names_itself(RE, checker, tpx, pipe, pipelines, fake_board, kind):
    pipe.flow.clear()
    hand = when(pipe.looked, pipe.die)
    with pytest.raises(FailedStatus) as failure:
        RE(PLANS[kind](tpx))
    hand.join()
    assert isinstance(failure.value.__cause__, StageDied)
    assert "decode" in str(failure.value.__cause__)
    assert not fake_board.shutter_open.is_set()
    assert checker.run.stop["exit_status"] == "fail"
    assert pipe.closed
    assert_next_run_works(RE, checker, tpx, pipelines)
    assert pipelines[-1] is not pipe


def test_a_stage_that_dies_between_points_fails_the_next_point(RE, checker, tpx, pipe):
    RE.subscribe(lambda name, doc: pipe.die("write"), "event")
    with pytest.raises(FailedStatus) as failure:
        RE(bp.count([tpx], num=2))
    assert "write" in str(failure.value.__cause__)
    assert checker.run.stop["exit_status"] == "fail"


def test_books_that_cannot_be_closed_fail_the_run(RE, checker, tpx, pipe):
    def lose(name, doc):
        pipe.close_run = lambda *a, **k: (_ for _ in ()).throw(StageDied_of("write"))

    RE.subscribe(lose, "event")
    with pytest.raises(FailedStatus):
        RE(bp.count([tpx]))
    run = checker.run
    assert run.stop["exit_status"] == "fail"
    assert run.rows == ROWS
    assert "write" in run.stream("tpx_ledger")[0]["tpx_ledger_error"]


def StageDied_of(stage):
    from pathlib import Path

    from ophyd_timepix.pipeline.messages import StageDeath

    return StageDied(StageDeath(stage=stage, reason="was killed by SIGKILL", log=Path("/tmp/pipeline.log")))


def test_no_triggers_is_an_error_that_says_so(RE, checker, tpx, pipe):
    pipe.flow.clear()
    tpx.shot_timeout.put(0.15)
    with pytest.raises(FailedStatus) as failure:
        RE(bp.count([tpx]))
    assert "no trigger for 0.15 s: 0 of 100 shots came" in str(failure.value.__cause__)
    assert checker.run.rows == CANCELLED_ROWS


def test_a_failing_motor_leaves_points_and_books(RE, checker, tpx, pipelines):
    class Broken(SynAxis):
        def set(self, value, **kwargs):
            if value == 1:
                raise RuntimeError("following error")
            return super().set(value, **kwargs)

    with pytest.raises(RuntimeError, match="following error"):
        RE(bp.scan([tpx], Broken(name="delay"), 0, 2, 3))
    assert checker.run.rows == ROWS
    assert_books_agree(checker.run, "scan")
    assert_next_run_works(RE, checker, tpx, pipelines)


def test_a_board_that_is_off_fails_the_plan_before_a_run_opens(RE, checker, tpx, fake_board):
    fake_board.off = True
    with pytest.raises(SpidrRefused):
        RE(bp.count([tpx]))
    assert not checker.runs


def test_a_suspended_plan_takes_the_point_again(RE, checker, tpx, pipe):
    import asyncio

    released: list[asyncio.Event] = []

    def suspend():
        def request():
            event = asyncio.Event()
            released.append(event)
            RE.request_suspend(event.wait)

        RE.loop.call_soon_threadsafe(request)

    pipe.flow.clear()
    hand = when(pipe.looked, suspend)

    def release():
        pipe.flow.set()
        RE.loop.call_soon_threadsafe(released[0].set)

    shut = threading.Event()
    real = pipe.end

    def end(*args, cancelled=False, **kwargs):
        acquired = real(*args, cancelled=cancelled, **kwargs)
        if cancelled:
            shut.set()
        return acquired

    pipe.end = end
    other = when(shut, release)
    RE(bp.count([tpx], num=2))
    hand.join()
    other.join()
    assert [p["tpx_n_centroids"] for p in checker.run.stream("primary")] == [ROWS] * 2
    assert_books_agree(checker.run, "count")


@pytest.mark.parametrize("verb", ["resume", "stop"])
def test_a_pause_in_a_flight_without_a_length(RE, checker, tpx, pipe, pipelines, verb):
    """After the pause it begins anew, and ends with the scan all the same."""
    tpx.shots.put(0)
    tpx.exposure.put(0)
    scan = bp.scan([], SynAxis(name="delay", delay=0.1), -1, 1, 4)
    run_and_interrupt(RE, bpp.fly_during_wrapper(scan, [tpx]), pipe.looked)
    getattr(RE, verb)()
    assert checker.run.rows == checker.run.stream("tpx_ledger")[0]["tpx_ledger_rows"] >= CANCELLED_ROWS
    assert len(checker.run.stream("tpx_frames")) == (verb == "resume")
    tpx.shots.put(100)
    assert_next_run_works(RE, checker, tpx, pipelines)
