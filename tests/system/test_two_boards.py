"""Two cameras, each behind a board of its own, in one RunEngine: their processes, files and ledgers have nothing in
common."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import unquote, urlparse

import bluesky.plans as bp
import numpy as np
import pytest
from bluesky import RunEngine

from ophyd_timepix.devices import SpidrBoard, TimepixDetector
from ophyd_timepix.files.reader import read_ledger, read_table
from ophyd_timepix.pipeline.client import Pipeline
from ophyd_timepix.wiring import install
from tests.doc_checker import CheckedRun, DocChecker
from tests.sim_process import running_sim

PERIODS_NS = {"left": 1e6, "right": 2e6}
"""What tells the cameras apart: the time between their triggers."""


@pytest.fixture(scope="module")
def cameras(tmp_path_factory) -> Iterator[dict[str, TimepixDetector]]:
    data = tmp_path_factory.mktemp("data")
    with ExitStack() as stack:
        made = {}
        for seed, (name, period_ns) in enumerate(PERIODS_NS.items()):
            sim = stack.enter_context(running_sim(scene="vmi", rate=5e4, shot_rate=1e9 / period_ns, seed=seed))
            board = SpidrBoard(sim.address, name=f"{name}_board")
            stack.callback(board.disconnect)
            pipeline = Pipeline(ring_bytes=1 << 24)
            made[name] = TimepixDetector(
                board, name=name, data_dir=data, exposure=0.1, pipeline=lambda pipeline=pipeline: pipeline
            )
            stack.callback(made[name].close)
            made[name].processes = pipeline
            made[name].connect()
        yield made


@pytest.fixture
def RE(cameras) -> Iterator[RunEngine]:
    engine = RunEngine({})
    installation = install(engine, list(cameras.values()), min_free_bytes=0)
    yield engine
    installation.uninstall()


def assert_each_has_its_own(run: CheckedRun, cameras: dict[str, TimepixDetector]) -> None:
    """Both ledgers are closed, and each file holds the shots of its own camera alone."""
    assert run.stop["exit_status"] == "success"
    assert len({resource["uri"] for resource in run.resources.values()}) == 2
    for name in cameras:
        (ledger,) = run.stream(f"{name}_ledger")
        assert (ledger[f"{name}_ledger_unaccounted"], ledger[f"{name}_ledger_lost_datagrams"]) == (0, 0)
        (uri,) = {r["uri"] for r in run.resources.values() if r["data_key"].startswith(f"{name}_")}
        event_file = Path(unquote(urlparse(uri).path))
        assert read_ledger(event_file)["centroids"] == ledger[f"{name}_ledger_rows"] > 0
        times = read_table(event_file, "shots", ["time"])["time"]
        assert len(times) > 10
        assert np.median(np.diff(times)) == pytest.approx(PERIODS_NS[name], rel=1e-4)


@pytest.mark.parametrize("plan", ["count", "fly"])
def test_two_cameras_record_in_one_run(RE, cameras, plan):
    checker = DocChecker()
    RE.subscribe(checker)
    both = list(cameras.values())
    RE(bp.count(both, num=2) if plan == "count" else bp.fly(both))
    assert_each_has_its_own(checker.run, cameras)
    left, right = (set(camera.processes.pids.values()) for camera in both)
    assert len(left | right) == 10
