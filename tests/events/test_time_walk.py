"""Time-walk measured from a recording is the simulator's own, and taking it off brings times to the truth."""

from pathlib import Path

import numpy as np
import pytest

from ophyd_timepix.app.calibrate import measure_time_walk
from ophyd_timepix.app.cli import main
from ophyd_timepix.clock import TICK_NS
from ophyd_timepix.config import Calibration, CentroidTime, Processing
from ophyd_timepix.decode import Framing
from ophyd_timepix.events.walk import Delays, fit_time_walk
from ophyd_timepix.protocol.words import chunk_header
from ophyd_timepix.spool.sources import open_recording
from spidr_sim.deposits import time_walk_ticks
from spidr_sim.synth import Synthesis, synthesize
from tests.rows import process

TOT = np.arange(4, 300)
"""Ions leave 4 counts or more."""
NEAR_PX = 1.0
LIGHTEST = 0
"""The mass peak that is narrowest."""


@pytest.fixture(scope="module")
def made() -> Synthesis:
    return synthesize("vmi", seed=5, duration_s=0.5, rate_hz=2e5, shot_rate_hz=1000)


@pytest.fixture(scope="module")
def recording(made: Synthesis, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("walk") / "recording.tpx3"
    with path.open("wb") as file:
        for start in range(0, made.words[0].size, 1000):
            words = made.words[0][start : start + 1000]
            file.write(chunk_header(0, words.nbytes).to_bytes(8, "little") + words.tobytes())
    return path


@pytest.mark.parametrize("model", ["formula", "table"])
def test_what_is_measured_is_the_time_walk_of_the_simulator(recording, model):
    calibration = measure_time_walk([open_recording(recording)], Processing(), model=model)
    off = calibration.walk_table_ns()[0][TOT] - time_walk_ticks()[TOT] * TICK_NS
    off -= np.mean(off)
    assert np.abs(off).max() < (0.3 if model == "formula" else 1.5)
    assert np.sqrt(np.mean(off**2)) < 0.3


def spread(values) -> float:
    """Half of the width that holds 68 % of them: a standard deviation that outliers do not move."""
    low, high = np.percentile(values, (15.87, 84.13))
    return float(high - low) / 2


def errors(made: Synthesis, processing: Processing, calibration: Calibration | None):
    """(error of the time of each centroid (ns), ToF of the lightest peak (ns), distance (px)) against the truth."""
    rows, truth = process(made.words[0], processing, framing=Framing.RAW, calibration=calibration), made.truth
    table = rows.table("centroids")
    order = np.argsort(truth.particle_tick, kind="stable")
    born = truth.particle_tick[order] * TICK_NS
    x, y, peak = truth.particle_x[order], truth.particle_y[order], truth.particle_peak[order]
    found = []
    for row, (low, high) in enumerate(np.searchsorted(born, table["toa"][:, None] + [-300, 300])):
        if low == high or table["size"][row] < 2:
            continue
        away = np.hypot(x[low:high] - table["x"][row], y[low:high] - table["y"][row])
        best = int(np.argmin(away))
        if away[best] < NEAR_PX:
            one = low + best
            found.append((table["toa"][row] - born[one], table["tof"][row], peak[one], away[best]))
    off, tof, peaks, away = np.array(found).T
    return off, tof[peaks == LIGHTEST], away


@pytest.mark.parametrize(("time", "without", "with_it"), [("largest", 4.5, 1.2), ("weighted", 6.0, 0.6)])
def test_without_time_walk_times_are_right_and_peaks_are_as_narrow_as_the_ions(made, recording, time, without, with_it):
    calibration = measure_time_walk([open_recording(recording)], Processing())
    processing = Processing(centroid_time=CentroidTime(time))
    raw, raw_peak, raw_away = errors(made, processing, None)
    off, peak, away = errors(made, processing, calibration)
    truth = made.truth
    flight = truth.particle_tick - truth.shot_ticks[np.searchsorted(truth.shot_ticks, truth.particle_tick, "right") - 1]
    true_width = spread(flight[truth.particle_peak == LIGHTEST] * TICK_NS)
    assert spread(raw) > without
    assert np.mean(raw) > 10
    assert spread(off) < with_it
    assert abs(np.mean(off)) < 0.5
    assert spread(raw_peak) > 1.15 * true_width
    assert spread(peak) < 1.02 * true_width
    assert np.sqrt(np.mean(away**2)) == pytest.approx(np.sqrt(np.mean(raw_away**2)), rel=0.02)


def test_the_command_writes_a_calibration_and_keeps_what_another_one_knows(recording, tmp_path, capsys):
    Calibration(chip_offset_ns=[12.0], energy_abct=[(2, 0, 0, 0)]).save(tmp_path / "old.npz")
    line = ["calibrate", "time-walk", str(recording), "-o", str(tmp_path / "new.npz"), "--at-most", "20000"]
    assert main([*line, "--into", str(tmp_path / "old.npz")]) == 0
    assert "new.npz" in capsys.readouterr().out
    new = Calibration.load(tmp_path / "new.npz")
    assert new.chip_offset_ns.tolist() == [12.0]
    assert new.has_energy
    assert new.time_walk_abc[0] == pytest.approx([540, -5, 0], rel=0.1)
    assert main(line) == 1
    assert "new.npz exists; take another name, or say --overwrite" in capsys.readouterr().err


def test_a_chip_with_too_few_hits_can_be_left_out_and_the_error_says_how(recording, tmp_path, capsys):
    both = tmp_path / "both.tpx3"
    few = np.array([0xB << 60 | k << 30 for k in range(10)], "<u8")
    both.write_bytes(recording.read_bytes() + chunk_header(1, few.nbytes).to_bytes(8, "little") + few.tobytes())
    line = ["calibrate", "time-walk", str(both), "-o", str(tmp_path / "walk.npz")]
    assert main(line) == 1
    assert "chip 1 has 0 hits beside a larger one" in (told := capsys.readouterr().err)
    assert "leave the chip out (--leave-out 1)" in told
    assert main([*line, "--leave-out", "1"]) == 0
    made = Calibration.load(tmp_path / "walk.npz")
    assert made.walk_table_ns()[1].tolist() == [0.0] * 1024
    assert made.time_walk_abc[0] == pytest.approx([540, -5, 0], rel=0.1)
    assert made.comment.endswith(", without chip 1")


def test_at_most_so_many_hits_are_looked_at_of_all_recordings_together(recording):
    one, all_of_one = open_recording(recording), measure_time_walk([open_recording(recording)], Processing())
    assert (
        measure_time_walk([one, one], Processing(), enough=1000).comment.split()[2]
        == (measure_time_walk([one], Processing(), enough=1000).comment.split()[2])
    )
    assert int(measure_time_walk([one, one], Processing()).comment.split()[2]) == 2 * int(all_of_one.comment.split()[2])
    with pytest.raises(ValueError, match="--at-most is 1 or more"):
        measure_time_walk([one], Processing(), enough=0)


def delays(n: int, walk: float) -> Delays:
    rng = np.random.default_rng(1)
    tot, largest = rng.integers(1, 50, n), rng.integers(50, 200, n)
    delay = walk / (tot + 5.0) - walk / (largest + 5.0)
    return Delays(np.zeros(n, np.uint8), tot.astype(np.uint16), largest.astype(np.uint16), delay.astype(np.float32))


def test_hits_of_other_particles_do_not_move_the_fit():
    some = delays(20_000, 540.0)
    some.delay_ns[:500] = np.random.default_rng(2).uniform(-100, 100, 500)
    assert fit_time_walk(some, 0) == pytest.approx([540, -5, 0], rel=0.02, abs=1e-9)


def test_too_few_hits_and_hits_without_time_walk_are_told():
    with pytest.raises(ValueError, match="has 10 hits beside a larger one, and a time-walk needs 1000"):
        fit_time_walk(delays(10, 540.0), 0)
    with pytest.raises(ValueError, match="no time-walk is seen"):
        fit_time_walk(delays(2000, -540.0), 0)
