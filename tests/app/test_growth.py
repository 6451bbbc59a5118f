"""The fit of a growing yield finds what is in the points, with honest errors."""

import numpy as np
import pytest

from ophyd_timepix.app.growth import fit_growth

TIMES = np.array([-0.3, 0.0, 0.15, 0.3, 0.5, 0.8, 1.3, 2.0])


def grown(amplitude: float, t0: float, tau: float) -> np.ndarray:
    return amplitude * (1 - np.exp(-np.maximum(TIMES - t0, 0) / tau))


@pytest.mark.parametrize(("amplitude", "t0", "tau"), [(5.0, 0.1, 0.4), (0.2, -0.05, 0.15), (100.0, 0.05, 1.2)])
def test_exact_points_give_the_exact_growth(amplitude: float, t0: float, tau: float) -> None:
    fit = fit_growth(TIMES, grown(amplitude, t0, tau), np.full(TIMES.size, amplitude / 100))
    assert (fit.amplitude, fit.t0, fit.tau) == pytest.approx((amplitude, t0, tau), rel=1e-4)
    np.testing.assert_allclose(fit.at(TIMES), grown(amplitude, t0, tau), atol=1e-4 * amplitude)


def test_the_error_is_the_spread_between_repetitions() -> None:
    rng = np.random.default_rng(3)
    error = np.full(TIMES.size, 0.05)
    fits = [fit_growth(TIMES, grown(5.0, 0.1, 0.4) + rng.normal(0, error), error) for _ in range(60)]
    assert np.std([fit.tau for fit in fits]) == pytest.approx(fits[0].tau_error, rel=0.35)
    assert np.mean([fit.chi2 / fit.free for fit in fits]) == pytest.approx(1.0, abs=0.35)


def test_what_cannot_be_fitted_is_refused() -> None:
    with pytest.raises(ValueError, match="four points or more, not 3"):
        fit_growth([0, 1, 2], [0, 1, 1], [1, 1, 1])
    with pytest.raises(ValueError, match="an error above 0"):
        fit_growth([0, 1, 2, 3], [0, 1, 1, 1], [0, 1, 1, 1])
    with pytest.raises(ValueError, match="no growth fits"):
        fit_growth([0, 1, 2, 3], [0, 0, 0, 0], [1, 1, 1, 1])
