"""Whether hits and triggers look like those of a camera that is well set: rates, spacing, gaps, hot pixels, clusters.

Plain functions of arrays in the order of time; none of them changes anything.
"""

from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from ..clock import TICK_NS, TICKS_PER_SECOND, ns_to_ticks
from ..protocol.words import MATRIX_SIDE
from .validity import FALLING_SHIFT, INPUT_SHIFT, EdgeSequence

Array = npt.NDArray[Any]

HOT_FACTOR: Final = 10
"""A hot pixel counts so many times more than the pixels around it."""
HOT_LEAST: Final = 20
"""Hits below which no pixel is hot: fewer may be chance."""
_AROUND: Final = 2
"""Pixels to each side that are compared with: a bright spot of a picture is wider than one pixel."""
NEIGHBOUR_NS: Final = 100.0
_NEXT: Final = 16
"""So many later hits are asked whether they are neighbours."""
LATE: Final = 1.5
DOUBLE: Final = 0.5
"""Times the median spacing: beyond, a trigger is missing; below, one came twice."""


class EdgeKind(NamedTuple):
    """One kind of edge on one TDC input."""

    input: int
    falling: bool
    edges: int
    rate_hz: float
    """From the first to the last; 0 of fewer than two."""
    spacing_ns: float
    """Median; NaN of fewer than two."""
    shortest_ns: float
    longest_ns: float
    late: int
    """Spacings of more than 1.5 medians."""
    doubled: int
    """Spacings of less than half a median."""
    missing: int
    """Edges that the counter of the input tells of (both kinds together) and that did not come."""

    @property
    def name(self) -> str:
        return f"TDC {self.input} {'falling' if self.falling else 'rising'}"


def edge_kinds(ticks: Array, inputs: Array, falling: Array, counters: Array) -> list[EdgeKind]:
    """What came on each input, from edges of one chip in any order."""
    order = np.argsort(ticks, kind="stable")
    ticks, inputs, falling = ticks[order], inputs[order].astype(np.int32), falling[order].astype(np.int32)
    codes = (inputs - 1) << INPUT_SHIFT | falling << FALLING_SHIFT | counters[order]
    missing = {1: 0, 2: 0}
    for gap in EdgeSequence().follow(ticks.astype(np.int64), codes.astype(np.int32)):
        missing[gap.input] += gap.missing
    kinds = sorted(set(zip(inputs.tolist(), falling.tolist(), strict=True)))
    return [_kind(ticks[(inputs == k) & (falling == f)], k, bool(f), missing[k]) for k, f in kinds]


def _kind(ticks: Array, number: int, falling: bool, missing: int) -> EdgeKind:
    spacing = np.diff(ticks)
    if not spacing.size:
        return EdgeKind(number, falling, ticks.size, 0.0, np.nan, np.nan, np.nan, 0, 0, missing)
    median = float(np.median(spacing))
    return EdgeKind(
        number,
        falling,
        ticks.size,
        spacing.size * TICKS_PER_SECOND / max(1, int(ticks[-1] - ticks[0])),
        median * TICK_NS,
        float(spacing.min()) * TICK_NS,
        float(spacing.max()) * TICK_NS,
        int(np.count_nonzero(spacing > LATE * median)),
        int(np.count_nonzero(spacing < DOUBLE * median)),
        missing,
    )


def hot_pixels(counts: Array) -> list[tuple[int, int]]:
    """(column, row) of pixels that count far more than those around them, the hottest first. counts: [row, column].

    Compared with the median of the 5 x 5 pixels around: the bright centre of a picture is no hot pixel.
    """
    around = np.pad(counts, _AROUND, mode="reflect")
    windows = np.lib.stride_tricks.sliding_window_view(around, (2 * _AROUND + 1, 2 * _AROUND + 1))
    rows, columns = np.nonzero(counts >= HOT_LEAST)
    usual = np.median(windows[rows, columns].reshape(rows.size, (2 * _AROUND + 1) ** 2), axis=1)
    hot = counts[rows, columns] > HOT_FACTOR * (usual + 1)
    hottest = np.argsort(-counts[rows[hot], columns[hot]].astype(np.int64), kind="stable")
    return list(zip(columns[hot][hottest].tolist(), rows[hot][hottest].tolist(), strict=True))


def pixel_counts(x: Array, y: Array) -> Array:
    """Hits of each pixel, [row, column]."""
    flat = y.astype(np.int64) * MATRIX_SIDE + x
    return np.bincount(flat, minlength=MATRIX_SIDE**2).reshape(MATRIX_SIDE, MATRIX_SIDE)


def share_in_clusters(ticks: Array, x: Array, y: Array) -> float:
    """Part of the hits that have a hit beside them (8 neighbours) within 100 ns; NaN of none. Hits of one chip.

    Particles fire several pixels, noise one at a time. Only the next 16 hits in time are asked, so that where very many
    come at once it is a lower bound.
    """
    if not ticks.size:
        return float("nan")
    order = np.argsort(ticks, kind="stable")
    ticks, x, y = ticks[order], x[order].astype(np.int32), y[order].astype(np.int32)
    has = np.zeros(ticks.size, np.bool_)
    window = ns_to_ticks(NEIGHBOUR_NS)
    for step in range(1, min(_NEXT + 1, ticks.size)):
        dx, dy = np.abs(x[step:] - x[:-step]), np.abs(y[step:] - y[:-step])
        beside = (np.maximum(dx, dy) == 1) & (ticks[step:] - ticks[:-step] <= window)
        has[step:] |= beside
        has[:-step] |= beside
    return float(has.mean())
