"""A growing yield: A (1 - exp(-(t - t0) / tau)) after t0, nothing before. What the simulated delay scan shows."""

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

_STEPS: Final = 60
_SETTLED: Final = 1e-9


@dataclass(frozen=True)
class Growth:
    """A fit. The errors are standard errors, from the errors of the points."""

    amplitude: float
    t0: float
    tau: float
    tau_error: float
    chi2: float
    free: int
    """Points beyond the three parameters."""

    def at(self, times: npt.ArrayLike) -> Floats:
        """The curve."""
        return _curve(np.asarray(times, dtype=np.float64), np.array([self.amplitude, self.t0, self.tau]))


def fit_growth(times: npt.ArrayLike, yields: npt.ArrayLike, errors: npt.ArrayLike) -> Growth:
    """The growth that fits best. Raises ValueError for fewer than four points, or when none fits."""
    t, y, e = (np.asarray(values, dtype=np.float64) for values in (times, yields, errors))
    if t.size < 4:
        raise ValueError(f"a growth has three parameters and takes four points or more, not {t.size}")
    if not (np.isfinite(y).all() and (e > 0).all()):
        raise ValueError("every point needs a yield and an error above 0")
    best = min((_refined(t, y, e, start) for start in _starts(t, y)), key=lambda p: _chi2(t, y, e, p))
    slopes = _slopes(t, best) / e[:, None]
    try:
        covariance = np.linalg.inv(slopes.T @ slopes)
    except np.linalg.LinAlgError:
        raise ValueError("no growth fits: take points on both sides of the overlap of the pulses") from None
    amplitude, t0, tau = best.tolist()
    return Growth(amplitude, t0, tau, float(np.sqrt(covariance[2, 2])), _chi2(t, y, e, best), t.size - 3)


def _curve(t: Floats, parameters: Floats) -> Floats:
    amplitude, t0, tau = parameters
    return np.asarray(-amplitude * np.expm1(-np.maximum(t - t0, 0.0) / tau))


def _slopes(t: Floats, parameters: Floats) -> Floats:
    """Derivatives of the curve, a column per parameter."""
    amplitude, t0, tau = parameters
    since = np.maximum(t - t0, 0.0) / tau
    falling = np.where(since > 0, np.exp(-since), 0.0)
    return np.stack([-np.expm1(-since), -amplitude * falling / tau, -amplitude * since * falling / tau], axis=1)


def _chi2(t: Floats, y: Floats, e: Floats, parameters: Floats) -> float:
    return float((((y - _curve(t, parameters)) / e) ** 2).sum())


def _starts(t: Floats, y: Floats) -> list[Floats]:
    """The overlap somewhere between the first points, a few time constants: the fit has side valleys."""
    span = float(np.ptp(t))
    return [
        np.array([y.max(), t0, tau])
        for t0 in np.linspace(t.min(), t.min() + span / 2, 7)
        for tau in span * np.array([0.05, 0.15, 0.4])
    ]


def _refined(t: Floats, y: Floats, e: Floats, start: Floats) -> Floats:
    """Levenberg and Marquardt's descent."""
    parameters, damping = start, 1e-2
    chi2 = _chi2(t, y, e, parameters)
    for _ in range(_STEPS):
        slopes = _slopes(t, parameters) / e[:, None]
        normal = slopes.T @ slopes
        normal = normal + damping * np.diag(np.diagonal(normal) + 1e-12)
        step = np.linalg.solve(normal, slopes.T @ ((y - _curve(t, parameters)) / e))
        trial = parameters + step
        found = _chi2(t, y, e, trial) if trial[2] > 0 else np.inf
        if found > chi2:
            damping *= 10
            continue
        settled = chi2 - found < _SETTLED * chi2
        parameters, chi2, damping = trial, found, damping / 10
        if settled:
            break
    return parameters
