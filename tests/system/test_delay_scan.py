"""A pump-probe scan on the simulated camera: a gate that really varies, and the time constant that is in it."""

from collections.abc import Iterator
from pathlib import Path

import bluesky.plans as bp
import h5py
import numpy as np
import pytest
from bluesky import RunEngine

from ophyd_timepix import Gate, SpidrBoard, TimepixDetector, install
from ophyd_timepix.app.delay import SimulatedDelay
from ophyd_timepix.app.growth import fit_growth
from ophyd_timepix.app.simulator import Simulator, SimulatorError
from tests.doc_checker import DocChecker

IODINE, METHYL = Gate(name="iodine", tof=(13_700, 14_150)), Gate(name="methyl", tof=(4700, 5400))
DELAYS_PS = [-0.2, 0.2, 0.3, 0.45, 0.7, 1.1, 1.8]


@pytest.fixture(scope="module")
def truth_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("truth") / "truth.h5"


@pytest.fixture(scope="module")
def simulator(truth_file: Path) -> Iterator[Simulator]:
    with Simulator.start(["--rate", "2e5", "--shot-rate", "2000", "--truth", str(truth_file)]) as started:
        yield started


def test_the_time_constant_of_a_scan_over_the_delay_is_the_true_one(
    simulator: Simulator, truth_file: Path, tmp_path: Path
) -> None:
    """Within four of its errors, of 7 points of 600 shots; the gate on another mass stays as it is."""
    delay = SimulatedDelay(simulator, name="delay")
    tpx = TimepixDetector(
        SpidrBoard(simulator.address, name="spidr"), name="tpx", data_dir=tmp_path / "data", shots=600
    )
    tpx.gates.define(IODINE, METHYL)
    RE, checker = RunEngine({}), DocChecker()
    RE.subscribe(checker)
    install(RE, [tpx], min_free_bytes=0)
    try:
        RE(bp.list_scan([tpx], delay, DELAYS_PS))
    finally:
        tpx.close()
        tpx.board.disconnect()
    points = checker.run.stream("primary")
    delays, found, still = (
        np.array([point[key] for point in points])
        for key in ("delay", "tpx_gates_gate0_counts_per_shot", "tpx_gates_gate1_counts_per_shot")
    )
    errors = np.array([max(point["tpx_gates_gate0_error"], 1 / 600) for point in points])
    with h5py.File(truth_file, "r", libver="latest", swmr=True) as truth:
        t0, tau = (truth.attrs[f"pump_probe_{name}_fs"] / 1000 for name in ("t0", "tau"))
    fit = fit_growth(delays, found, errors)
    assert fit.tau == pytest.approx(tau, abs=4 * fit.tau_error)
    assert fit.tau_error < 0.1 * tau
    assert fit.t0 == pytest.approx(t0, abs=0.05)
    assert fit.chi2 < 30, f"of {fit.free} degrees of freedom"
    assert found[-1] > 20 * found[0]
    assert np.ptp(still) < 0.1 * still.mean()


def test_what_is_no_delay_is_refused(simulator: Simulator) -> None:
    delay = SimulatedDelay(simulator, name="delay")
    assert delay.set(0.25).done
    assert delay.read()["delay"]["value"] == 0.25
    with pytest.raises(SimulatorError, match="a delay is a number of fs, not nan"):
        delay.set(float("nan"))
    with pytest.raises(SimulatorError, match="could not convert string"):
        simulator.tell("delay_fs soon")
    assert delay.read()["delay"]["value"] == 0.25


def test_without_pump_and_probe_there_is_no_delay() -> None:
    with Simulator.start(["--scene", "dark"]) as dark, pytest.raises(SimulatorError, match="the scene vmi has them"):
        SimulatedDelay(dark, name="delay").set(1.0)
