"""Plans that fly, monitor and adapt, interrupted, on the simulated board with the pipeline's processes.

`tests/plans/test_matrix.py` has more cells, on doubles.
"""

import threading
from collections.abc import Iterator

import bluesky.plan_stubs as bps
import bluesky.plans as bp
import bluesky.preprocessors as bpp
import h5py
import numpy as np
import pytest
from bluesky import RunEngine
from ophyd.sim import SynAxis, det

from ophyd_timepix import Gate
from ophyd_timepix.devices import TimepixDetector
from tests.bluesky_fixtures import checker, run_and_interrupt
from tests.camera import engine_with, simulated_camera
from tests.doc_checker import check_points

__all__ = ["checker"]


@pytest.fixture(scope="module")
def camera(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TimepixDetector]:
    with simulated_camera(tmp_path_factory.mktemp("data"), rate=2e5, seed=5) as tpx:
        yield tpx


@pytest.fixture
def RE(camera: TimepixDetector) -> Iterator[RunEngine]:
    with engine_with(camera) as engine:
        yield engine


@pytest.fixture
def tpx(camera: TimepixDetector) -> TimepixDetector:
    camera.exposure.put(0.15)
    return camera


def fly_during(tpx):
    return bpp.fly_during_wrapper(bp.scan([det], SynAxis(name="axis"), 0, 1, 2), [tpx])


def monitor_during(tpx):
    return bpp.monitor_during_wrapper(bp.count([tpx], num=2), [tpx.stats.trigger_rate])


def adaptive(tpx):
    axis = SynAxis(name="axis")
    return bp.adaptive_scan(
        [tpx], "tpx_n_centroids", axis, start=0, stop=2, min_step=0.9, max_step=1.9, target_delta=1, backstep=False
    )


PLANS = {"fly_during": (fly_during, 1), "monitor_during": (monitor_during, 2), "adaptive": (adaptive, 2)}
"""Plans, and how many points they have at least."""


@pytest.fixture(params=PLANS)
def plan(request):
    return request.param


def points_of(run):
    return [data for name in ("primary", "tpx_frames") for data in run.stream(name) if "tpx_row_start" in data]


def assert_books_agree(run):
    """Rows of points are disjoint and of one acquisition each; with the cancelled ones they are all rows."""
    points = points_of(run)
    check_points(points, "tpx", run.rows)
    (ledger,) = run.stream("tpx_ledger")
    own = sum(point["tpx_n_centroids"] for point in points)
    assert own + ledger["tpx_ledger_cancelled_rows"] == run.rows == ledger["tpx_ledger_rows"]
    assert ledger["tpx_ledger_unaccounted"] == 0
    with h5py.File(run.path("centroids/x")) as file:
        assert file["entry/centroids/x"].shape == (run.rows,)
        told = {point["tpx_acquisition"] for point in points}
        table = file["entry/acquisitions"]
        kept = np.asarray(table["number" if "number" in table else "acquisition"])[np.asarray(table["cancelled"]) == 0]
        assert set(kept.tolist()) == told


def begun(tpx):
    """Is set when an exposure has given its first centroids."""
    event = threading.Event()
    tpx.n_hits.subscribe(lambda value, **_: event.set() if value else None, run=False)
    return event


def test_undisturbed(RE, checker, tpx, plan):
    make, points = PLANS[plan]
    RE(make(tpx))
    assert checker.run.stop["exit_status"] == "success"
    assert len(points_of(checker.run)) >= points
    assert_books_agree(checker.run)
    if plan == "monitor_during":
        assert checker.run.stream("tpx_stats_trigger_rate_monitor")


@pytest.mark.parametrize("verb", ["resume", "stop", "abort"])
def test_interrupted(RE, checker, tpx, plan, verb):
    make, points = PLANS[plan]
    tpx.exposure.put(2.0)  # long enough to be met
    run_and_interrupt(RE, make(tpx), begun(tpx))
    tpx.exposure.put(0.1)
    getattr(RE, verb)()
    assert_books_agree(checker.run)
    if verb == "resume":
        assert len(points_of(checker.run)) >= points
    RE(bp.count([tpx]))
    assert checker.runs[-1].stop["exit_status"] == "success"


def test_a_ring_and_its_hole_are_the_disc(RE, checker, tpx):
    tpx.gates.define(
        Gate(name="disc", circle=(128, 128, 60)),
        Gate(name="hole", circle=(128, 128, 30)),
        Gate(name="ring", ring=(128, 128, 30, 60)),
    )
    try:
        RE(bp.count([tpx]))
    finally:
        tpx.gates.define()
    (point,) = checker.run.stream("primary")
    disc, hole, ring = (point[f"tpx_gates_gate{place}_counts"] for place in range(3))
    assert disc == hole + ring
    assert min(hole, ring) > 0


def test_flights_with_another_threshold_have_another_descriptor(RE, checker, tpx):
    @bpp.stage_decorator([tpx])
    @bpp.run_decorator()
    def two_flights():
        for threshold in (420, 430):
            yield from bps.mv(tpx.board.chip0.dacs.vthreshold_fine, threshold)
            yield from bps.kickoff(tpx, wait=True)
            yield from bps.complete(tpx, wait=True)
            yield from bps.collect(tpx)

    RE(two_flights())
    described = checker.run.described_by("tpx_frames")
    key = "tpx_chip0_vthreshold_fine"
    assert [doc["configuration"]["tpx"]["data"][key] for doc in described] == [420, 430]
