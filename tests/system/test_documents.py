"""The documents of real runs: the simulated board over TCP and UDP, the pipeline's processes, files, bluesky.

Every document is validated against event-model's schemas, every reference and row range against the file on disk.
"""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import bluesky.plans as bp
import h5py
import numpy as np
import pytest
from bluesky import RunEngine
from bluesky.callbacks.best_effort import BestEffortCallback
from ophyd.sim import SynAxis

from ophyd_timepix.app.cli import main
from ophyd_timepix.config import Calibration, Processing
from ophyd_timepix.devices import SpidrBoard, TimepixDetector
from ophyd_timepix.files.reader import read_table
from ophyd_timepix.pipeline.client import Pipeline
from ophyd_timepix.plans import fly, tpx_fly
from ophyd_timepix.wiring import install
from tests.bluesky_fixtures import run_and_interrupt
from tests.doc_checker import CheckedRun, DocChecker, check_points
from tests.sim_process import SimProcess, running_sim

SHOT_RATE_HZ = 1000.0


@pytest.fixture(scope="module")
def sim() -> Iterator[SimProcess]:
    with running_sim(scene="vmi", rate=2e5, shot_rate=SHOT_RATE_HZ, seed=7) as process:
        yield process


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    """The detector's pipeline: started by its first use, lives across runs, started anew after a death."""
    return Pipeline()


@contextmanager
def connected(sim: SimProcess, pipeline: Pipeline, data_dir: Path) -> Iterator[TimepixDetector]:
    spidr = SpidrBoard(sim.address, name="spidr")
    detector = TimepixDetector(spidr, name="tpx", data_dir=data_dir, exposure=0.2, pipeline=lambda: pipeline)
    try:
        detector.connect()
        yield detector
    finally:
        detector.close()
        spidr.disconnect()


@pytest.fixture(scope="module")
def camera(sim: SimProcess, pipeline: Pipeline, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TimepixDetector]:
    """One board and detector for the module."""
    with connected(sim, pipeline, tmp_path_factory.mktemp("data")) as detector:
        yield detector


@pytest.fixture
def tpx(RE: RunEngine, camera: TimepixDetector) -> Iterator[TimepixDetector]:
    installation = install(RE, [camera], min_free_bytes=0)
    camera.shots.put(0)
    camera.exposure.put(0.2)
    yield camera
    installation.uninstall()


@pytest.fixture
def RE() -> Iterator[RunEngine]:
    engine = RunEngine({}, call_returns_result=True)
    yield engine
    if engine.state not in ("idle", "panicked"):
        engine.halt()


@pytest.fixture
def checker(RE: RunEngine) -> DocChecker:
    checker = DocChecker()
    RE.subscribe(checker)
    return checker


def assert_complete(run: CheckedRun, stream: str, points: int) -> None:
    """A run that went well: points have rows, all are registered, nothing is unaccounted, the files are closed."""
    assert run.stop is not None
    assert run.stop["exit_status"] == "success"
    readings = run.stream(stream)
    assert len(readings) == points
    check_points(readings, "tpx", run.rows)
    assert all(reading["tpx_n_centroids"] > 0 for reading in readings)
    (ledger,) = run.stream("tpx_ledger")
    assert ledger["tpx_ledger_unaccounted"] == 0
    assert ledger["tpx_ledger_rows"] == run.rows == run.stop["num_events"]["tpx_centroids"]
    own = sum(reading["tpx_n_centroids"] for reading in readings)
    assert own + ledger["tpx_ledger_cancelled_rows"] == run.rows
    with h5py.File(ledger["tpx_ledger_file"], "r") as file:
        assert file["entry/centroids/toa"].shape == (run.rows,)
    assert Path(ledger["tpx_ledger_master"]).exists()
    assert Path(ledger["tpx_ledger_recording"]).stat().st_size > 0


def test_count(RE, checker, tpx):
    RE(bp.count([tpx], num=3))
    assert_complete(checker.run, "primary", 3)
    toa = checker.run.column("toa")
    for point in checker.run.stream("primary"):
        own = toa[point["tpx_row_start"] : point["tpx_row_stop"]]
        assert point["tpx_open_time"] >= 0.2
        # by the board's clock: on a busy machine the simulator is behind the host's, and catches up
        assert point["tpx_n_shots"] == pytest.approx(SHOT_RATE_HZ * (own[-1] - own[0]) / 1e9, abs=3)
    assert np.all(np.diff([toa[p["tpx_row_start"]] for p in checker.run.stream("primary")]) > 0)


def test_scan_over_a_motor(RE, checker, tpx):
    RE(bp.scan([tpx], SynAxis(name="delay"), -1, 1, 3))
    assert_complete(checker.run, "primary", 3)


def test_scan_over_a_dac(RE, checker, tpx):
    RE(bp.scan([tpx], tpx.board.chip0.dacs.ibias_ikrum, 5, 7, 3))
    assert_complete(checker.run, "primary", 3)
    assert [p["spidr_chip0_dacs_ibias_ikrum"] for p in checker.run.stream("primary")] == [5, 6, 7]
    tpx.board.chip0.dacs.ibias_ikrum.set(5).wait(60)


def test_points_by_shots(RE, checker, tpx):
    tpx.shots.put(100)
    RE(bp.count([tpx], num=2))
    assert_complete(checker.run, "primary", 2)
    assert all(100 <= p["tpx_n_shots"] < 1000 for p in checker.run.stream("primary"))


def test_bluesky_fly(RE, checker, tpx):
    RE(bp.fly([tpx]))
    assert_complete(checker.run, "tpx_frames", 1)


def test_tpx_fly(RE, checker, tpx, monkeypatch):
    monkeypatch.setattr(fly, "FIRST_INTERVAL_S", 0.3)
    RE(tpx_fly(tpx, seconds=1.5))
    assert_complete(checker.run, "tpx_frames", 1)
    columns = len(checker.run.resources)
    assert checker.names().count("stream_datum") > columns, "the rows were registered only at the end"


def test_two_runs_in_one_call(RE, checker, tpx):
    def two_runs():
        yield from bp.count([tpx], num=2)
        yield from tpx_fly(tpx, shots=100)

    RE(two_runs())
    first, second = checker.runs
    assert_complete(first, "primary", 2)
    assert_complete(second, "tpx_frames", 1)
    assert first.path("x") != second.path("x")


def test_pause_and_resume(RE, checker, tpx, monkeypatch):
    exposing = threading.Event()
    board = tpx.board.control
    really_open = board.open_shutter

    def open_shutter() -> None:
        really_open()
        exposing.set()

    monkeypatch.setattr(board, "open_shutter", open_shutter)
    run_and_interrupt(RE, bp.count([tpx], num=2), exposing)
    RE.resume()
    assert_complete(checker.run, "primary", 2)
    assert checker.run.stream("tpx_ledger")[0]["tpx_ledger_cancelled_acquisitions"] >= 1


def test_best_effort_callback_draws_count_scan_and_fly_without_complaint(RE, tpx, monkeypatch):
    pytest.importorskip("matplotlib").use("Agg")
    monkeypatch.setenv("BLUESKY_DEBUG_CALLBACKS", "1")
    best_effort = BestEffortCallback()
    RE.subscribe(best_effort)
    RE(bp.scan([tpx], SynAxis(name="delay"), 0, 1, 2))
    RE(tpx_fly(tpx, seconds=0.2))


def test_what_processing_adds_is_in_documents_and_file_and_process_gives_the_same(RE, tpx, tmp_path):
    """Corrected, filtered, delayed, pre-scaled, inferred: the recording says by itself how it was processed."""
    chip = Calibration(time_walk_abc=[(540, -5, 0)], chip_offset_ns=[-3], energy_abct=[(1.8, 12, 60, 2)])
    before = tpx.processing.model
    tpx.processing.adopt(
        Processing(
            calibration=chip.save(tmp_path / "chip.npz"), tot_min=6, masked_pixels="0,128,128", hits=True,
            trigger_period_ns=1e9 / SHOT_RATE_HZ, missing_triggers="infer", trigger_delay_ns=2000, trigger_prescale=2,
        )
    )  # fmt: skip
    documents: dict[str, list[dict]] = {}
    RE.subscribe(lambda name, document: documents.setdefault(name, []).append(document))
    try:
        RE(bp.count([tpx], num=2))
    finally:
        tpx.processing.adopt(before)
    keys = {key for descriptor in documents["descriptor"] for key in descriptor["data_keys"]}
    assert {"tpx_centroids_energy", "tpx_shots_inferred"} <= keys
    ledger = read_json(tpx.event_file, "ledger")
    assert ledger["filtered_tot"] > 0 == ledger["unaccounted"]
    assert ledger["inferred_triggers"] == ledger["missing_triggers"] == 0
    again = tmp_path / "again.h5"
    assert main(["process", str(tpx.event_file.with_suffix(".tpx3")), "-o", str(again), "--quiet"]) == 0
    for table in ("centroids", "hits", "shots", "triggers"):
        live, offline = read_table(tpx.event_file, table), read_table(again, table)
        assert live.keys() == offline.keys()
        for column in live:
            assert live[column].tobytes() == offline[column].tobytes(), f"{table}/{column}"
    assert read_table(again, "centroids")["energy"].min() > 0
    assert not read_table(again, "shots")["inferred"].any()


def read_json(path: Path, name: str) -> dict:
    with h5py.File(path, "r", libver="latest", swmr=True) as file:
        return json.loads(file[f"/entry/{name}"].asstr()[()])
