"""What a histogram says: median, highest peak, a peak near a guess. Plain arrays, no kernels."""

import math
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

FWHM_PER_SIGMA = 2 * math.sqrt(2 * math.log(2))
_ROUNDS = 50


class FoundPeak(NamedTuple):
    """A peak of a spectrum, in the unit of its edges."""

    position: float
    error: float
    """Standard error of the position: sigma / sqrt(counts)."""
    fwhm: float
    counts: float
    """Above the background."""


def median_of(counts: Array) -> float:
    """The median of whole numbers, `counts[k]` of which are k; NaN of none."""
    total = int(counts.sum())
    if not total:
        return math.nan
    running = np.cumsum(counts, dtype=np.int64)
    low, high = (int(np.searchsorted(running, place, side="right")) for place in ((total - 1) // 2, total // 2))
    return (low + high) / 2


def highest_peak(counts: Array, edges: Array) -> tuple[float, float]:
    """Position and full width at half maximum of the highest peak; NaN where there is nothing."""
    if not counts.any():
        return math.nan, math.nan
    top = int(np.argmax(counts))
    half = float(counts[top]) / 2
    low, high = _crossing(counts, edges, top, half, -1), _crossing(counts, edges, top, half, 1)
    inside = slice(*np.searchsorted(edges, (low, high)))
    centres = (edges[:-1] + edges[1:]) / 2
    weights = counts[inside].astype(float)
    position = float(np.average(centres[inside], weights=weights)) if weights.sum() > 0 else float(centres[top])
    return position, high - low


def _crossing(counts: Array, edges: Array, top: int, half: float, step: int) -> float:
    """Where the counts fall below `half`, going from `top` by `step`."""
    centres = (edges[:-1] + edges[1:]) / 2
    place = top
    while 0 <= place + step < len(counts) and counts[place + step] >= half:
        place += step
    beyond = place + step
    if not 0 <= beyond < len(counts):
        return float(edges[0 if step < 0 else -1])
    share = (float(counts[place]) - half) / (float(counts[place]) - float(counts[beyond]))
    return float(centres[place] + share * (centres[beyond] - centres[place]))


def find_peak(counts: Array, edges: Array, guess: float, search: float, least_counts: float = 20.0) -> FoundPeak:
    """The peak within `guess` +- `search`. Raises ValueError, with what was found instead, when there is none.

    It begins at the highest bin there, then mean and width are taken within 2.5 sigma, above a flat background, until
    they stand: a Gauss peak gives its own mean; its width is corrected for what is cut off.
    """
    centres = (edges[:-1] + edges[1:]) / 2
    bin_width = float(edges[1] - edges[0])
    near = np.abs(centres - guess) <= search
    if not near.any():
        raise ValueError(
            f"no bin of the spectrum ({edges[0]:g} to {edges[-1]:g}) lies within {guess:g} +- {search:g}; "
            "give another guess, or widen the spectrum"
        )
    values = counts.astype(float)
    background = float(np.median(values[near]))
    above = np.clip(values - background, 0, None)
    position = float(centres[near][np.argmax(above[near])])
    sigma = max(bin_width, search / 4)
    for _ in range(_ROUNDS):
        window = near & (np.abs(centres - position) <= max(2.5 * sigma, 1.5 * bin_width))
        total = float(above[window].sum())
        if total <= 0:
            break
        mean = float(np.average(centres[window], weights=above[window]))
        spread = float(np.average((centres[window] - mean) ** 2, weights=above[window]))
        # a Gauss distribution that is cut at 2.5 sigma has 0.911 of its variance; a bin adds width^2 / 12
        new = math.sqrt(max(spread / 0.911 - bin_width**2 / 12, (bin_width / 4) ** 2))
        settled = abs(mean - position) < 1e-4 * bin_width and abs(new - sigma) < 1e-3 * bin_width
        position, sigma = mean, new
        if settled:
            break
    found = float(above[window].sum())
    noise = math.sqrt(max(float(values[window].sum()), 1.0))
    if found < max(least_counts, 5 * noise if background > 0 else 0.0):
        raise ValueError(
            f"no peak within {guess:g} +- {search:g}: {found:.0f} counts above a background of {background:g} per bin; "
            "expose longer, or give a better guess"
        )
    return FoundPeak(position, sigma / math.sqrt(found), sigma * FWHM_PER_SIGMA, found)
