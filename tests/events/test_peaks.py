"""What a histogram says."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ophyd_timepix.events.peaks import FWHM_PER_SIGMA, find_peak, highest_peak, median_of

EDGES = np.arange(0.0, 2001.0, 2.0)


def spectrum(*peaks, background=0.0, seed=0):
    rng = np.random.default_rng(seed)
    values = [rng.normal(position, sigma, n) for position, sigma, n in peaks]
    return np.histogram(np.concatenate(values), EDGES)[0] + rng.poisson(background, len(EDGES) - 1)


@given(st.lists(st.integers(0, 40), min_size=1, max_size=60))
def test_the_median_of_a_histogram_is_that_of_its_values(values):
    assert median_of(np.bincount(values)) == np.median(values)


def test_nothing_has_no_median_and_no_peak():
    assert math.isnan(median_of(np.zeros(5, int)))
    assert all(map(math.isnan, highest_peak(np.zeros(5), np.arange(6.0))))


def test_the_highest_peak_and_its_width():
    position, width = highest_peak(spectrum((500, 20, 90_000), (900, 30, 30_000)), EDGES)
    assert position == pytest.approx(500, abs=1)
    assert width == pytest.approx(20 * FWHM_PER_SIGMA, rel=0.05)


def test_a_single_bin_and_a_peak_at_the_rim_have_a_place():
    counts = np.zeros(1000)
    counts[0] = 7
    assert highest_peak(counts, EDGES) == (1.0, pytest.approx(2.0, abs=1.1))


@pytest.mark.parametrize("background", [0, 3])
def test_the_error_of_a_peak_is_what_repeated_measurements_show(background):
    found = [
        find_peak(spectrum((700, 25, 2000), (1200, 25, 4000), background=background, seed=seed), EDGES, 760, 200)
        for seed in range(60)
    ]
    pulls = np.array([(peak.position - 700) / peak.error for peak in found])
    assert abs(pulls.mean()) < 0.6
    assert pulls.std() == pytest.approx(1, abs=0.45)
    assert np.mean([peak.fwhm for peak in found]) == pytest.approx(25 * FWHM_PER_SIGMA, rel=0.1)


@pytest.mark.parametrize("background", [0, 5])
def test_noise_is_no_peak_and_the_message_says_what_was_found(background):
    counts = spectrum((1500, 10, 1000), background=background)
    with pytest.raises(ValueError, match=r"no peak within 500 \+- 100: .* counts above a background"):
        find_peak(counts, EDGES, 500, 100)


@pytest.mark.parametrize("per_bin", [0.3, 0.5, 1, 10, 300])
def test_a_flat_background_has_no_peak(per_bin):
    rng = np.random.default_rng(3)
    for _ in range(25):
        with pytest.raises(ValueError, match="no peak within 400"):
            find_peak(rng.poisson(per_bin, 400), np.arange(401) * 2.0, 400, 200)


@pytest.mark.parametrize(("sigma", "counts", "background"), [(25, 400, 10), (5, 100, 3), (2, 200, 1), (25, 100, 0)])
def test_a_weak_peak_stands_out_of_its_background(sigma, counts, background):
    found = [
        find_peak(spectrum((700, sigma, counts), background=background, seed=s), EDGES, 650, 200) for s in range(25)
    ]
    pulls = np.array([(peak.position - 700) / peak.error for peak in found])
    assert pulls.std() == pytest.approx(1, abs=0.5)
    assert np.median([peak.counts for peak in found]) == pytest.approx(counts, rel=0.15)


def test_what_is_as_wide_as_the_search_is_no_peak():
    with pytest.raises(ValueError, match="as wide as the search, sigma 76"):
        find_peak(spectrum((700, 120, 20_000)), EDGES, 700, 200)


def test_a_guess_beyond_the_spectrum_is_told():
    with pytest.raises(ValueError, match=r"no bin of the spectrum \(0 to 2000\) lies within 5000 \+- 100"):
        find_peak(spectrum((500, 20, 100)), EDGES, 5000, 100)
