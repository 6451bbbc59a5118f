"""What a histogram says: median, highest peak, a peak near a guess. Plain arrays, no kernels."""

import math
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

FWHM_PER_SIGMA = 2 * math.sqrt(2 * math.log(2))
_ROUNDS = 50
_CUT = 0.911
"""A Gauss distribution that is cut at 2.5 sigma has so much of its variance."""
_BOX_SIGMAS = 2.8
"""The box in which a Gauss peak stands out most from a background is so many sigma wide."""
_SIGNIFICANT = 5.0
"""So many standard deviations of its noise a peak has at least."""
_BESIDE = 3.0
"""Farther than so many sigma from a peak there is background."""
_LEAST_BESIDE = 0.2
"""So much of what is searched is background, or nobody knows what the background is."""


class FoundPeak(NamedTuple):
    """A peak of a spectrum, in the unit of its edges."""

    position: float
    error: float
    """Standard error of the position, from what was counted: sigma / sqrt(counts) times 1.05, more above background."""
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

    It begins with the place and width that stand out most, then mean and width are taken within 2.5 sigma, above a flat
    background, until they stand: a Gauss peak gives its own mean; its width is corrected for what is cut off. A peak
    stands out of the noise of what lies in its window by more than any of the places that were looked at would by
    chance, and is narrow enough to have background beside it.
    """
    centres = (edges[:-1] + edges[1:]) / 2
    near = np.abs(centres - guess) <= search
    if not near.any():
        raise ValueError(
            f"no bin of the spectrum ({edges[0]:g} to {edges[-1]:g}) lies within {guess:g} +- {search:g}; "
            "give another guess, or widen the spectrum"
        )
    places, values = centres[near], counts[near].astype(float)
    background = _level(values)
    position, sigma = _most_significant(places, values, background)
    for _ in range(_ROUNDS):
        beside = np.abs(places - position) > _BESIDE * sigma
        if beside.sum() >= _LEAST_BESIDE * len(places):
            background = _level(values[beside])
        mean, new = _moments(places, values - background, position, sigma)
        settled = abs(mean - position) < 1e-3 * sigma and abs(new - sigma) < 1e-3 * sigma
        position, sigma = mean, new
        if settled:
            break
    window = _window(places, position, sigma)
    n, all_within = int(window.sum()), float(values[window].sum())
    found = all_within - n * background
    noise = math.sqrt(all_within + background * n**2 / max(len(places) - n, 1))
    if found < least_counts or found <= _SIGNIFICANT * noise:
        raise ValueError(
            f"no peak within {guess:g} +- {search:g}: {max(found, 0.0):.0f} counts above a background of "
            f"{background:.2g} per bin; expose longer, or give a better guess"
        )
    if (np.abs(places - position) > _BESIDE * sigma).sum() < _LEAST_BESIDE * len(places):
        raise ValueError(
            f"no peak within {guess:g} +- {search:g}: what is there is as wide as the search, sigma {sigma:.3g}; "
            "search wider, or give a better guess"
        )
    squares = float((values[window] * (places[window] - position) ** 2).sum())
    return FoundPeak(position, math.sqrt(squares) / (_CUT * found), sigma * FWHM_PER_SIGMA, found)


def _level(values: Array) -> float:
    """Mean counts of a bin, without bins that stand out."""
    level = float(np.quantile(values, 0.25))
    for _ in range(_ROUNDS):
        kept = values[values <= level + 3 * math.sqrt(max(level, 1.0))]
        new = float(kept.mean())
        if abs(new - level) <= 1e-3 * max(level, 1e-3):
            break
        level = new
    return new


def _most_significant(places: Array, values: Array, background: float) -> tuple[float, float]:
    """Place and sigma of the box, of any place and of widths that double, that stands out most from its noise."""
    running = np.concatenate([[0.0], np.cumsum(values)])
    best, position, sigma = -math.inf, float(places[0]), 0.0
    bin_width = float(places[1] - places[0]) if len(places) > 1 else 1.0
    width = 1
    while width <= max(len(places) // 2, 1):
        within = running[width:] - running[:-width]
        outstanding = (within - background * width) / np.sqrt(np.maximum(within, 1.0))
        top = int(np.argmax(outstanding))
        if outstanding[top] > best:
            best = float(outstanding[top])
            position = float(places[top] + (width - 1) / 2 * bin_width)
            sigma = width * bin_width / _BOX_SIGMAS
        width *= 2
    return position, sigma


def _moments(places: Array, above: Array, position: float, sigma: float) -> tuple[float, float]:
    """Mean and sigma within the window of a peak; where the noise has none, as they were."""
    bin_width = float(places[1] - places[0]) if len(places) > 1 else 1.0
    window = _window(places, position, sigma)
    total = float(above[window].sum())
    if total <= 0:
        return position, sigma
    mean = float((places[window] * above[window]).sum()) / total
    if not places[0] <= mean <= places[-1]:
        return position, sigma
    spread = float(((places[window] - mean) ** 2 * above[window]).sum()) / total
    # a bin adds width^2 / 12; noise may have no spread, and then the peak is narrower than it looks
    square = max(spread / _CUT - bin_width**2 / 12, (bin_width / 4) ** 2, (sigma / 2) ** 2)
    return mean, math.sqrt(square)


def _window(places: Array, position: float, sigma: float) -> Any:
    """The bins that a peak is taken from."""
    bin_width = float(places[1] - places[0]) if len(places) > 1 else 1.0
    return np.abs(places - position) <= max(2.5 * sigma, 2.5 * bin_width)
