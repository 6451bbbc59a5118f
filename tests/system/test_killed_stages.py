"""SIGKILL of a stage while a plan flies: the plan says which, nothing hangs, the next run works, words are kept.

On a bad network at that: what was lost before the kill is known after the recovery, too.
"""

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import bluesky.plans as bp
import h5py
import numpy as np
import psutil
import pytest
from bluesky import RunEngine
from bluesky.utils import FailedStatus

from ophyd_timepix.app.recovery import find_runs, recover_run
from ophyd_timepix.control import Board
from ophyd_timepix.devices import SpidrBoard, TimepixDetector
from ophyd_timepix.files.reader import read_table
from ophyd_timepix.pipeline.client import Pipeline
from ophyd_timepix.plans import tpx_fly
from ophyd_timepix.wiring import install
from tests.doc_checker import DocChecker
from tests.sim_process import running_sim

STAGES = ["capture", "decode", "centroid0", "write", "supervisor"]
WITHIN_S = 2.0
"""A plan whose pipeline died has failed in less than this."""
GONE_S = 10.0
"""And its processes are gone."""
FAULTS = ("truncate=10", "drop=23")
TICK_NS = 25 / 96
DEADLINE_S = 30.0


@pytest.fixture
def pipeline() -> Pipeline:
    return Pipeline(ring_bytes=1 << 26)


@pytest.fixture
def truth(tmp_path: Path) -> Path:
    return tmp_path / "truth.h5"


@pytest.fixture
def tpx(pipeline: Pipeline, tmp_path: Path, truth: Path) -> Iterator[TimepixDetector]:
    faults = [part for fault in FAULTS for part in ("--fault", fault)]
    with running_sim(
        scene="vmi", rate=2e5, shot_rate=1000, seed=3, datagram_bytes=1400, truth=truth, extra=faults
    ) as sim:
        spidr = SpidrBoard(sim.address, name="spidr")
        detector = TimepixDetector(spidr, name="tpx", data_dir=tmp_path, exposure=0.2, pipeline=lambda: pipeline)
        detector.connect()
        yield detector
        detector.close()
        spidr.disconnect()


@pytest.fixture
def RE(tpx: TimepixDetector) -> Iterator[RunEngine]:
    engine = RunEngine({})
    installation = install(engine, [tpx], min_free_bytes=0)
    yield engine
    installation.uninstall()


class Killer(threading.Thread):
    """Kills a stage once the detector knows of rows on disk."""

    def __init__(self, tpx: TimepixDetector, pipeline: Pipeline, stage: str) -> None:
        super().__init__(name="test-ThreadPoolExecutor", daemon=True)
        self._tpx = tpx
        self._pipeline = pipeline
        self._stage = stage
        self.victims = [psutil.Process(pid) for pid in pipeline.pids.values()]
        self.received_bytes = 0
        self.at = 0.0

    def run(self) -> None:
        deadline = time.monotonic() + DEADLINE_S
        pause = threading.Event()
        while self._pipeline.progress().acquisition == 0 or self._tpx.rows_on_disk == 0:
            if time.monotonic() > deadline:
                return
            pause.wait(0.01)
        self.received_bytes = self._pipeline.progress().received_bytes
        self.at = time.monotonic()
        os.kill(self._pipeline.pids[self._stage], signal.SIGKILL)


def is_sending(board: Board) -> bool:
    """Whether pixel words leave the board within a tenth of a second of its own time."""
    before = board.sent_counters().pixel_words
    begin = board.chip(0).timer().counts
    while board.chip(0).timer().counts - begin < 4_000_000:
        pass
    return board.sent_counters().pixel_words != before


def strikes(truth: Path, n_before: int = 0) -> dict[str, np.ndarray]:
    """What the simulator did to the data after the first `n_before` times."""
    with h5py.File(truth, libver="latest", swmr=True) as file:
        n = min(len(column) for column in file["faults"].values())  # it goes on writing
        return {name: column[n_before:n] for name, column in file["faults"].items()}


def recovered(pipeline: Pipeline, event_file: Path) -> dict[str, Any]:
    """The ledger of what `ophyd-timepix recover` makes of a run."""
    (found,) = find_runs([event_file])
    return dict(recover_run(found, pipeline).ledger)


def assert_struck_shots_are_invalid(event_file: Path, struck: dict[str, np.ndarray]) -> int:
    """Each shot that overlaps a datagram that came damaged. Returns how many such there are in the file."""
    shots = read_table(event_file, "shots")
    ends = np.append(shots["time"][1:], np.inf)
    damaged = struck["name"] == b"truncate"
    spans = np.stack([struck["first_tick"][damaged], struck["last_tick"][damaged]], axis=1) * TICK_NS
    told = spans[(spans[:, 0] > shots["time"][0]) & (spans[:, 1] < shots["time"][-1])]
    for first, last in told:
        assert not shots["valid"][(shots["time"] <= last) & (ends > first)].any()
    return len(told)


def test_a_killed_stage_fails_the_plan_and_the_next_one_works(RE, tpx, pipeline, truth):
    """One test for all stages: what the next run starts after one stage was killed is killed by the next round."""
    for stage in STAGES:
        checker = DocChecker()
        token = RE.subscribe(checker)
        n_before = len(strikes(truth)["name"])
        killer = Killer(tpx, pipeline, stage)
        killer.start()
        with pytest.raises(FailedStatus, match=f"stage '{stage}' of the pipeline was killed by"):
            RE(tpx_fly(tpx, seconds=60))
        assert 0 < time.monotonic() - killer.at < WITHIN_S
        killer.join()
        _, alive = psutil.wait_procs(killer.victims, timeout=GONE_S)
        assert not alive
        assert not is_sending(tpx.board.control), f"the shutter is open after the death of {stage}"
        assert checker.run.stop["exit_status"] == "fail"
        assert f"stage '{stage}'" in checker.run.stop["reason"]
        struck = strikes(truth, n_before)

        RE(bp.count([tpx]))
        RE.unsubscribe(token)
        killed, second = checker.runs
        assert second.stop["exit_status"] == "success"
        (ledger,) = second.stream("tpx_ledger")
        assert (ledger["tpx_ledger_unaccounted"], ledger["tpx_ledger_rows"]) == (0, second.rows)
        assert second.rows > 0

        event_file = Path(killed.path("x"))
        ledger = recovered(pipeline, event_file)
        assert ledger["decoded_words"] * 8 >= killer.received_bytes > 0
        assert ledger["unaccounted"] == 0
        assert len(read_table(event_file, "centroids", ["x"])["x"]) >= killed.rows > 0
        assert assert_struck_shots_are_invalid(event_file, struck) > 0
        losses = read_table(event_file, "losses")
        assert losses["amount"][losses["cause"] == b"malformed"].sum() == ledger["malformed_datagrams"] > 0
