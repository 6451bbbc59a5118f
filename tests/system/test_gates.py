"""Gates as scan signals on the simulated camera: TCP, UDP, the pipeline's processes, bluesky and the catalog."""

import math
import threading
from collections.abc import Iterator
from typing import Any

import bluesky.plan_stubs as bps
import bluesky.plans as bp
import numpy as np
import pytest
from bluesky import RunEngine
from bluesky.callbacks.best_effort import BestEffortCallback
from ophyd import Kind
from ophyd.sim import SynAxis

from ophyd_timepix import Gate, calibrate_mass, count_until
from ophyd_timepix.catalog import CatalogProfile, CatalogWriter, counts, image, regate
from ophyd_timepix.devices import TimepixDetector
from ophyd_timepix.files.reader import read_table
from ophyd_timepix.plans import fly, tpx_fly, until, with_settings
from spidr_sim.particles import NS_PER_SQRT_MASS, PEAKS, T0_NS, time_of_flight_ns
from tests.bluesky_fixtures import checker, run_and_interrupt
from tests.camera import engine_with, simulated_camera
from tests.catalog.conftest import catalog, db, profiles
from tests.pages import Guide

__all__ = ["catalog", "checker", "db", "profiles"]

MASSES = {peak.name: peak.mass_per_charge for peak in PEAKS}
FLIGHTS = {peak.name: time_of_flight_ns(peak) for peak in PEAKS}
IODINE = Gate(name="iodine", mq=(125, 129))
METHYL = Gate(name="methyl_core", tof=(4800, 5300), roi=(60, 200, 60, 200), tot=(10, 4000), size=(2, None))


@pytest.fixture(scope="module")
def camera(catalog: CatalogProfile) -> Iterator[TimepixDetector]:
    with simulated_camera(catalog.readable[0], rate=2e5, seed=11, exposure=0.15) as tpx:
        yield tpx


@pytest.fixture
def tpx(camera: TimepixDetector) -> Iterator[TimepixDetector]:
    yield camera
    camera.gates.define()
    camera.mass.adopt(None)
    camera.exposure.put(0.15)
    camera.shots.put(0)


@pytest.fixture
def RE(tpx: TimepixDetector) -> Iterator[RunEngine]:
    with engine_with(tpx) as engine:
        yield engine


@pytest.fixture
def writer(RE: RunEngine, catalog: CatalogProfile, db: Any, tmp_path: Any) -> Iterator[CatalogWriter]:
    writer = CatalogWriter(catalog.name, backup_directory=tmp_path / "backup")
    RE.subscribe(lambda name, doc: writer(name, doc))
    yield writer
    writer.close()


def calibrated(tpx: TimepixDetector) -> Any:
    guesses = {name: (MASSES[name], FLIGHTS[name] + 60.0) for name in ("CH3+", "I++", "I+")}
    return calibrate_mass(tpx, guesses, seconds=0.3)


def test_a_run_taken_with_gates_is_what_regating_it_gives(RE, tpx, writer, db):
    """By time of flight and by m/q, with region, ToT and size; per point; with errors; the m/q of the run itself."""
    calibration = RE(calibrated(tpx)).plan_result
    assert T0_NS < calibration.t0_ns < T0_NS + 25, "time-walk delays all ions alike"
    assert calibration.k_ns == pytest.approx(NS_PER_SQRT_MASS, abs=max(5 * calibration.k_error_ns, 0.5))
    assert [peak.name for peak in calibration.peaks] == ["CH3+", "I++", "I+"]
    tpx.gates.define(IODINE, METHYL)
    uid = RE(bp.scan([tpx], SynAxis(name="delay"), 0, 1, 3)).run_start_uids[0]
    writer.wait(60)
    assert writer.failure is None
    table = regate(db[uid], [IODINE, METHYL])
    for slot, name in (("gate0", "iodine"), ("gate1", "methyl_core")):
        assert (table[f"tpx_gates_{slot}_counts"] > 20).all()
        for column in ("counts", "counts_per_shot", "error"):
            np.testing.assert_allclose(table[f"tpx_gates_{slot}_{column}"], table[f"{name}_{column}"], rtol=1e-12)
    np.testing.assert_array_equal(tpx.gates.gate1.image.get(), image(db[uid], gate=METHYL, point=3))
    np.testing.assert_array_equal(tpx.image.get(), image(db[uid], point=3))
    assert tpx.stats.centroids_per_shot.get() == counts(db[uid], point=3).counts_per_shot


def test_a_gate_is_scanned_like_a_motor_and_plotted(RE, checker, tpx, capsys):
    best_effort = BestEffortCallback()
    best_effort.disable_plots()
    RE.subscribe(best_effort)
    tpx.gates.define(Gate(name="window", tof=(0, 16_000)))
    RE(bp.scan([tpx], tpx.gates.gate0.tof_min, 0, 14_000, 3))
    points = checker.run.stream("primary")
    assert [p["tpx_gates_gate0_tof_min"] for p in points] == [0, 7000, 14_000]
    first, second, third = (p["tpx_gates_gate0_counts"] for p in points)
    assert first > second > third
    (described,) = checker.run.described("primary")
    assert described["hints"]["tpx"]["fields"] == ["tpx_gates_gate0_counts", "tpx_gates_gate0_counts_per_shot"]
    assert "tpx_gates_gate0_counts" in capsys.readouterr().out.replace("\n", "")
    assert not any("gate1" in key for key in described["data_keys"])


def test_points_last_until_a_gate_has_enough(RE, checker, tpx, caplog):
    RE(calibrated(tpx))
    tpx.gates.define(IODINE)
    RE(count_until(tpx, gate="iodine", counts=300, num=2))
    RE(with_settings(until(tpx, gate="gate0", relative_error=0.1), bp.scan([tpx], SynAxis(name="delay"), 0, 1, 2)))
    RE(count_until(tpx, gate="iodine", counts=10**9, at_most_s=0.2))
    _, by_counts, by_error, by_time = (run.stream("primary") for run in checker.runs)
    assert all(300 <= p["tpx_gates_gate0_counts"] < 3000 for p in by_counts)
    assert all(p["tpx_gates_gate0_error"] <= 0.1 * p["tpx_gates_gate0_counts_per_shot"] for p in by_error)
    assert all(p["tpx_open_time"] < 5 for p in by_error)
    assert [p["tpx_open_time"] >= 0.2 for p in by_time] == [True]
    assert "the point ended after 0.2 s (until.at_most), before gate iodine had enough" in caplog.text
    assert tpx.until.gate.get() == ""


def test_statistics_of_a_point_agree_with_its_rows(RE, checker, tpx):
    tpx.image.kind = tpx.tof.histogram.kind = Kind.normal
    try:
        RE(bp.count([tpx]))
    finally:
        tpx.image.kind = tpx.tof.histogram.kind = Kind.omitted
    run = checker.run
    (point,) = run.stream("primary")
    (described,) = run.described("primary")
    assert described["data_keys"]["tpx_image"]["shape"] == [256, 256]
    assert described["data_keys"]["tpx_tof_histogram"]["dtype_numpy"] == "<u4"
    columns = {name: run.column(name) for name in ("shot", "x", "y", "tof", "tot", "size")}
    shots = read_table(run.path("shot"), "shots")
    kept = (columns["shot"] >= 0) & (np.append(shots["valid"], 0)[columns["shot"]] == 1)
    assert 0 < kept.sum() < len(kept)
    assert point["tpx_image"].sum() == kept.sum()
    assert point["tpx_stats_x_mean"] == pytest.approx(columns["x"][kept].mean(), abs=0.5)
    assert point["tpx_stats_y_mean"] == pytest.approx(columns["y"][kept].mean(), abs=0.5)
    assert point["tpx_stats_size_median"] == pytest.approx(np.median(columns["size"][kept]), abs=0.5)
    assert point["tpx_stats_tot_median"] == pytest.approx(np.median(columns["tot"][kept]), rel=0.02)
    # how many of the board's shots come in a second of the host depends on how busy the simulator's machine is
    assert point["tpx_stats_trigger_rate"] == pytest.approx(point["tpx_n_shots"] / point["tpx_open_time"])
    assert np.median(np.diff(shots["time"])) == pytest.approx(1e6, rel=1e-3)
    assert min(abs(point["tpx_tof_peak"] - flight) for flight in FLIGHTS.values()) < 100
    assert 0 < point["tpx_tof_width"] < 1000
    assert point["tpx_stats_healthy"] == 1
    assert math.isfinite(point["tpx_stats_hits_per_shot"])


def test_live_values_and_pictures_are_told_while_a_flight_goes_on(RE, checker, tpx):
    seen: list[tuple[str, float]] = []
    tpx.gates.define(Gate(name="all"))
    tokens = [
        tpx.gates.gate0.counts.subscribe(lambda value, **_: seen.append(("counts", value)), run=False),
        tpx.image.subscribe(lambda value, **_: seen.append(("image", int(value.sum()))), run=False),
    ]
    try:
        RE(tpx_fly(tpx, shots=1200))  # which take a busy machine longer, as its looks do
    finally:
        tpx.gates.gate0.counts.unsubscribe(tokens[0])
        tpx.image.unsubscribe(tokens[1])
    for name in ("counts", "image"):
        values = [value for kind, value in seen if kind == name]
        assert len(values) >= 4
        assert sorted(values) == values
        assert 0 < values[1] < values[-1]


def test_aligning_shows_what_a_run_would_see_and_leaves_no_file(RE, checker, tpx, catalog):
    before = set(catalog.readable[0].rglob("*"))
    rates: list[float] = []
    told = threading.Event()

    def hear(value: float, **_: object) -> None:
        rates.append(value)
        if len(rates) > 5:
            told.set()

    tpx.gates.define(Gate(name="all"))
    token = tpx.hit_rate.subscribe(hear, run=False)
    try:
        with tpx.align(period=0.4):
            assert told.wait(20)
    finally:
        tpx.hit_rate.unsubscribe(token)
    assert rates[-1] > 0
    assert tpx.stats.hits_per_shot.get() == pytest.approx(200, rel=0.4)  # the host's second may be any of the board's
    assert tpx.image.get().sum() == tpx.gates.gate0.counts.get() > 1000
    assert tpx.stats.skipped_bytes.get() == 0
    assert set(catalog.readable[0].rglob("*")) == before
    RE(bp.count([tpx]))
    (ledger,) = checker.run.stream("tpx_ledger")
    assert ledger["tpx_ledger_unaccounted"] == 0
    assert checker.run.rows > 0


def test_every_block_of_the_guide_runs(RE, checker, tpx, writer, db):
    names: dict[str, Any] = {"RE": RE, "tpx": tpx, "bp": bp, "bps": bps, "delay": SynAxis(name="delay")}
    with Guide("docs/how-to/gate-a-mass-peak.md", "python") as guide:
        guide.run(names, len(guide) - 1)
        writer.wait(60)
        assert writer.failure is None
        guide.run(names | {"db": db})
    assert tpx.mass.model.k_ns == pytest.approx(NS_PER_SQRT_MASS, rel=0.01)
    enough = checker.runs[3].stream("primary")[0]
    assert enough["tpx_gates_gate0_counts"] >= 200
    assert checker.runs[-1].stream("primary")[0]["tpx_gates_gate0_image"].shape == (256, 256)


def test_an_exposure_that_was_paused_counts_from_its_new_beginning(RE, checker, tpx, writer, db, monkeypatch):
    tpx.gates.define(Gate(name="all"), METHYL)
    exposing = threading.Event()
    board = tpx.board.control
    really_open = board.open_shutter
    monkeypatch.setattr(board, "open_shutter", lambda: (really_open(), exposing.set()))
    run_and_interrupt(RE, bp.count([tpx], num=2), exposing)
    RE.resume()
    writer.wait(60)
    table = regate(db[checker.run.start["uid"]], [Gate(name="all"), METHYL])
    assert table["tpx_gates_gate0_counts"].tolist() == table["all_counts"].tolist()
    assert table["tpx_gates_gate1_counts"].tolist() == table["methyl_core_counts"].tolist()


def test_a_point_without_a_valid_shot_has_nan_in_the_catalog_too(RE, tpx, writer, db):
    tpx.gates.define(Gate(name="all"))
    tpx.exposure.put(0.0002)
    uid = RE(bp.count([tpx])).run_start_uids[0]
    writer.wait(60)
    assert writer.failure is None
    table = regate(db[uid], Gate(name="all"))
    (point,) = table.to_dict("records")
    if point["tpx_n_valid_shots"] < 2:
        assert math.isnan(point["tpx_gates_gate0_error"])
    np.testing.assert_equal(point["tpx_gates_gate0_error"], point["all_error"])
    np.testing.assert_equal(point["tpx_gates_gate0_counts_per_shot"], point["all_counts_per_shot"])


def test_a_flight_is_in_the_catalog_while_it_goes_on(RE, tpx, writer, db, monkeypatch):
    monkeypatch.setattr(fly, "FIRST_INTERVAL_S", 0.3)
    uids: list[str] = []
    rows: list[int] = []

    def watch(name: str, doc: dict[str, Any]) -> None:
        if name == "start":
            uids.append(doc["uid"])
        elif name == "stream_datum" and not rows and doc["indices"]["start"] > 0:
            writer.wait(30)
            rows.append(db.v3[uids[0]]["tpx_centroids"]["tpx_centroids_x"].shape[0])

    RE.subscribe(watch)
    RE(tpx_fly(tpx, seconds=3))
    assert 0 < rows[0] < tpx.row_stop.get()
