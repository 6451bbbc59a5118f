"""Plans of every kind, interrupted in every way: documents, files and books agree, and the next run works.

`test_interruptions` looks closer at count, scan and flights; here are the other kinds of plan.
"""

import bluesky.plan_stubs as bps
import bluesky.plans as bp
import bluesky.preprocessors as bpp
import pytest
from bluesky.utils import FailedStatus, RunEngineInterrupted
from ophyd.sim import SynAxis, det

from ophyd_timepix.config import Gate
from ophyd_timepix.pipeline.errors import StageDied
from ophyd_timepix.plans import count_until
from tests.bluesky_fixtures import run_and_interrupt, when
from tests.doc_checker import check_points
from tests.fakes import CANCELLED_ROWS, ROWS

pytestmark = pytest.mark.usefixtures("installed")


class Delay(SynAxis):
    """A motor that fails near one position."""

    fails_at: float | None = None

    def set(self, value, **kwargs):
        if self.fails_at is not None and abs(value - self.fails_at) < 0.3:
            raise RuntimeError("following error")
        return super().set(value, **kwargs)


def two_runs(tpx, motor):
    yield from bp.count([tpx], num=1)
    yield from bp.scan([tpx], motor, 0, 1, 2)


def inner_runs(tpx, motor):
    """A run of the camera, within it runs of others."""

    @bpp.set_run_key_decorator("inner")
    @bpp.run_decorator()
    def inner():
        yield from bps.checkpoint()
        yield from bps.trigger_and_read([det])

    @bpp.stage_decorator([tpx, det])
    @bpp.run_decorator()
    def outer():
        for _ in range(2):
            yield from bps.checkpoint()
            yield from bps.trigger_and_read([tpx])
            yield from inner()

    yield from outer()


def baseline(tpx, motor):
    data = bpp.SupplementalData(baseline=[tpx, motor])
    return data(bp.scan([tpx], motor, 0, 1, 2))


def adaptive(tpx, motor):
    return bp.adaptive_scan(
        [tpx], "tpx_n_centroids", motor, start=0, stop=3, min_step=0.9, max_step=2.9, target_delta=1, backstep=False
    )


def gated(tpx, motor):
    tpx.gates.define(Gate(name="ion", tof=(1000, 2000)))
    return bp.scan([tpx], tpx.gates.gate0.tof_min, 500, 700, 2)


def until(tpx, motor):
    tpx.gates.define(Gate(name="ion"))
    return count_until(tpx, gate="ion", counts=60, num=2)


def x2x(tpx, motor):
    other = SynAxis(name="other")
    return bp.grid_scan([tpx], motor, 0, 1, 2, other, 0, 1, 2, snake_axes=True)


KINDS = {
    "list_scan": (lambda tpx, motor: bp.list_scan([tpx], motor, [0, 1, 3]), [3]),
    "grid_scan": (x2x, [4]),
    "fly_during": (lambda tpx, motor: bpp.fly_during_wrapper(bp.scan([det], motor, 0, 1, 2), [tpx]), [1]),
    "monitor_during": (lambda tpx, m: bpp.monitor_during_wrapper(bp.count([tpx], num=2), [tpx.stats.lag_seconds]), [2]),
    "adaptive_scan": (adaptive, [3]),
    "baseline": (baseline, [4]),
    "two_runs": (two_runs, [1, 2]),
    "inner_runs": (inner_runs, [2, 0, 0]),
    "gated": (gated, [2]),
    "until": (until, [2]),
}
WITH_MOTOR = ["list_scan", "grid_scan", "adaptive_scan", "baseline", "two_runs"]


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


@pytest.fixture
def motor():
    return Delay(name="delay")


def points_of(run):
    """Readings of the camera in any stream, the baseline's too."""
    found = [data for name in run.events for data in run.stream(name) if "tpx_row_start" in data]
    return sorted(found, key=lambda point: point["tpx_row_start"])


def assert_books_agree(run):
    """Rows of points are disjoint and those of one acquisition each; with the cancelled ones they are all rows."""
    points = points_of(run)
    check_points(points, "tpx", run.rows)
    if not run.resources:
        return
    acquisition = run.column("shot")
    assert len(acquisition) >= run.rows
    for point in points:
        assert set(acquisition[point["tpx_row_start"] : point["tpx_row_stop"]]) == {point["tpx_acquisition"]}
    for ledger in run.stream("tpx_ledger"):
        own = sum(point["tpx_n_centroids"] for point in points)
        assert own + ledger["tpx_ledger_cancelled_rows"] == run.rows == ledger["tpx_ledger_rows"]
        assert ledger.get("tpx_ledger_unaccounted", 0) == 0


def assert_all_is_well(RE, checker, tpx, pipelines, fake_board):
    """After whatever was: the shutter is closed, every run has ended and its books agree; the next run works."""
    assert RE.state == "idle"
    assert not fake_board.shutter_open.is_set()
    assert tpx.recording_run is None
    for run in checker.runs:
        assert run.stop is not None
        assert_books_agree(run)
    pipelines[-1].flow.set()
    tpx.gates.define()
    RE(bp.count([tpx]))
    last = checker.runs[-1]
    assert last.stop["exit_status"] == "success"
    assert last.rows == ROWS
    assert len(last.stream("tpx_ledger")) == 1


def plan_of(kind, tpx, motor):
    return KINDS[kind][0](tpx, motor)


def assert_every_point_is_whole(checker, kind):
    assert [len(points_of(run)) for run in checker.runs] == KINDS[kind][1]
    assert all(run.stop["exit_status"] == "success" for run in checker.runs)
    assert {p["tpx_n_centroids"] for run in checker.runs for p in points_of(run)} == {ROWS}


def test_undisturbed(RE, checker, tpx, pipe, pipelines, fake_board, motor, kind):
    RE(plan_of(kind, tpx, motor))
    assert_every_point_is_whole(checker, kind)
    assert_all_is_well(RE, checker, tpx, pipelines, fake_board)


def test_paused_and_resumed(RE, checker, tpx, pipe, pipelines, fake_board, motor, kind):
    pipe.flow.clear()
    run_and_interrupt(RE, plan_of(kind, tpx, motor), pipe.looked)
    assert not fake_board.shutter_open.is_set()
    pipe.flow.set()
    RE.resume()
    assert_every_point_is_whole(checker, kind)
    assert any(run.stream("tpx_ledger")[0]["tpx_ledger_cancelled_rows"] for run in checker.runs if run.resources)
    assert_all_is_well(RE, checker, tpx, pipelines, fake_board)


@pytest.mark.parametrize("verb", ["stop", "abort", "halt"])
def test_ended_by_hand(RE, checker, tpx, pipe, pipelines, fake_board, motor, kind, verb):
    pipe.flow.clear()
    run_and_interrupt(RE, plan_of(kind, tpx, motor), pipe.looked)
    getattr(RE, verb)()
    run = checker.runs[0]
    assert run.stop["exit_status"] == ("success" if verb == "stop" else "abort")
    assert run.rows == (0 if verb == "halt" else CANCELLED_ROWS)
    assert_all_is_well(RE, checker, tpx, pipelines, fake_board)


def test_a_stage_is_killed(RE, checker, tpx, pipe, pipelines, fake_board, motor, kind):
    pipe.flow.clear()
    hand = when(pipe.looked, pipe.die)
    with pytest.raises(FailedStatus) as failure:
        RE(plan_of(kind, tpx, motor))
    hand.join()
    assert isinstance(failure.value.__cause__, StageDied)
    assert checker.runs[0].stop["exit_status"] == "fail"
    assert_all_is_well(RE, checker, tpx, pipelines, fake_board)
    assert pipelines[-1] is not pipe


@pytest.mark.parametrize("kind", WITH_MOTOR)
def test_a_motor_fails(RE, checker, tpx, pipe, pipelines, fake_board, motor, kind):
    motor.fails_at = 1
    with pytest.raises(RuntimeError, match="following error"):
        RE(plan_of(kind, tpx, motor))
    assert checker.runs[-1].stop["exit_status"] == "fail"
    motor.fails_at = None
    assert_all_is_well(RE, checker, tpx, pipelines, fake_board)


@pytest.mark.parametrize("kind", ["fly_during", "monitor_during", "inner_runs", "until"])
def test_aborted_while_it_runs_and_not_paused(RE, checker, tpx, pipe, pipelines, fake_board, motor, kind):
    pipe.flow.clear()
    if kind == "fly_during":  # whose wrapper waits for the flight before it closes the run
        RE.state_hook = lambda new, old: pipe.flow.set() if new == "aborting" else None
    hand = when(pipe.looked, RE.abort)
    with pytest.raises(RunEngineInterrupted):
        RE(plan_of(kind, tpx, motor))
    hand.join()
    assert checker.runs[0].stop["exit_status"] == "abort"
    assert_all_is_well(RE, checker, tpx, pipelines, fake_board)
