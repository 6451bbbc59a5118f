"""What comes out, against what a busy stream was made of: hits, clusters, positions, times."""

from functools import cache

import numpy as np
import numpy.typing as npt
import pytest

from ophyd_timepix.clock import TICK_NS
from ophyd_timepix.config import Processing
from ophyd_timepix.config.calibration import Calibration
from tests.benchmarks.accuracy import Centroids, Hits, Score, exact_particles, inseparable, score, score_hits
from tests.benchmarks.ours import decoded, in_slices, table_of
from tests.synthesis import TIME_WALK_ABC, Truth, busy_stream_with_truth

N_HITS = 200_000
UNIFORM = 1e6
BUSY = 20e6
PULSED = None

WALK = Calibration(time_walk_abc=np.array([TIME_WALK_ABC]))
TIME_SPREAD_NS = 0.8
"""A time is told in steps of 1.56 ns (0.45 ns rms), and time-walk is what the ToT of the brightest hit makes of it."""
POSITION_PX = 0.45
"""ToT-weighted means of eight hits about one place."""


@cache
def stream(hits_per_s: float | None) -> tuple[npt.NDArray[np.uint64], Truth]:
    return busy_stream_with_truth(N_HITS, hits_per_s)


def found_in(hits_per_s: float | None, processing: Processing, calibration: Calibration | None = None) -> Centroids:
    words, _ = stream(hits_per_s)
    table = table_of(in_slices(words), len(words), processing, calibration)
    return Centroids(table["x"], table["y"], table["tof"], table["tot"], table["size"])


def centroids(hits_per_s: float | None, processing: Processing, calibration: Calibration | None = None) -> Score:
    return score(found_in(hits_per_s, processing, calibration), stream(hits_per_s)[1], peaks=hits_per_s is None)


@pytest.mark.parametrize("hits_per_s", [UNIFORM, PULSED])
def test_pixel_tot_and_time_of_every_hit_are_exact_to_the_tick(hits_per_s: float | None) -> None:
    words, truth = stream(hits_per_s)
    parts = [(batch.ticks.copy(), batch.pixels.copy()) for batch in decoded(in_slices(words))]
    ticks, pixels = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    found = score_hits(Hits(pixels >> 10 & 0xFF, pixels >> 18 & 0xFF, pixels & 0x3FF, ticks, TICK_NS), truth)
    assert found.exact == found.found == found.sent > N_HITS


@pytest.mark.parametrize(("hits_per_s", "percent"), [(UNIFORM, 99.99), (PULSED, 97.7)])
def test_clusters_hold_the_hits_of_one_particle_each(hits_per_s: float | None, percent: float) -> None:
    assert centroids(hits_per_s, Processing()).exact_percent >= percent


def test_every_particle_is_exact_that_touches_no_other_one_and_no_trigger_cuts() -> None:
    """What is lacking at 20 Mhit/s are chance coincidences alone, and there is no other: not one more or less."""
    processing = Processing()
    truth = stream(BUSY)[1]
    touched, cut = inseparable(truth, processing.radius_px, processing.window_ns)
    seen = np.bincount(truth.particle, minlength=len(truth.born)) > 0
    exact = exact_particles(found_in(BUSY, processing), truth)
    assert np.array_equal(exact, seen & ~touched & ~cut)
    assert 0 < np.count_nonzero(touched) < 0.001 * np.count_nonzero(seen)


def test_splitting_sets_particles_free_that_touch() -> None:
    whole, cut = (centroids(PULSED, Processing(split=split)) for split in (False, True))
    assert cut.exact_percent > 99.0 > whole.exact_percent
    assert abs(cut.found_per_particle - 1) < 0.003 < abs(whole.found_per_particle - 1)


@pytest.mark.parametrize("hits_per_s", [UNIFORM, PULSED])
def test_centroids_are_where_and_when_particles_arrived(hits_per_s: float | None) -> None:
    found = centroids(hits_per_s, Processing())
    assert found.position_rms_px < POSITION_PX
    assert found.time_spread_ns < TIME_SPREAD_NS


def test_with_time_walk_corrected_the_steps_of_the_clock_are_left() -> None:
    found = centroids(UNIFORM, Processing(), WALK)
    step_ns = 1.5625
    assert found.time_spread_ns < 1.02 * step_ns / np.sqrt(12)
    assert abs(found.time_offset_ns) < step_ns
    assert found.exact_percent >= 99.99


def test_mass_peaks_are_as_narrow_as_ions_make_them() -> None:
    found = centroids(PULSED, Processing())
    assert found.peak_width_ns < 1.005 * found.true_peak_width_ns


def test_a_hit_that_is_missing_or_wrong_is_seen() -> None:
    """Of the comparison itself."""
    truth = stream(UNIFORM)[1]
    right = Hits(truth.x, truth.y, truth.tot, truth.tick, TICK_NS)
    wrong = right._replace(time=truth.tick + 6 * (np.arange(len(truth.tick)) == 7))
    fewer = Hits(truth.x[1:], truth.y[1:], truth.tot[1:], truth.tick[1:], TICK_NS)
    n = len(truth.tick)
    assert [score_hits(hits, truth).exact for hits in (right, wrong, fewer)] == [n, n - 1, n - 1]
