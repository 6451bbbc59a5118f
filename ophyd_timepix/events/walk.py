"""Time-walk measured: hits of a particle come at one moment, so what a small one comes later than the largest shows it.

The delay of a hit of ToT t against the largest hit of its cluster, of ToT L, is walk(t) - walk(L). A constant cancels:
it is chosen so that walk is 0 for an endless ToT. Plain functions of arrays.
"""

from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from ..clock import TICK_NS
from ..config.calibration import N_TOT, walk_ns
from ..protocol.words import TOT
from .block import CHIP_SHIFT, REL_TICK_SHIFT, BlockArrays

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

LEAST: Final = 1000
"""Hits of a chip that a fit needs."""
LEAST_OF_TOT: Final = 50
"""Hits of a ToT for a place of its own in a table; else the formula stands there."""
B_RANGE: Final = (-60.0, 20.0)
"""Counts between which the pole b is looked for."""
_STEPS: Final = 60
_ROUNDS: Final = 4
_CLIP: Final = 4.0
"""Delays farther off than so many spreads are of other particles."""


class Delays(NamedTuple):
    """Hits that are not the largest of their cluster."""

    chip: npt.NDArray[np.uint8]
    tot: npt.NDArray[np.uint16]
    largest: npt.NDArray[np.uint16]
    """ToT of the largest hit of the cluster."""
    delay_ns: npt.NDArray[np.float32]
    """By how much the hit came later than that."""


def delays_of(block: BlockArrays) -> Delays:
    """Those of a block that was centroided with hits: of clusters that no forced cut touches, each by its label."""
    n = block.header.n_hits
    labels = block.labels[:n]
    of = np.flatnonzero(labels >= 0)
    keys, labels = block.keys[:n][of], labels[of]
    tot = keys & TOT.mask
    order = np.lexsort((np.arange(len(of)), -tot, labels))
    first = np.ones(len(of), np.bool_)
    first[1:] = labels[order][1:] != labels[order][:-1]
    largest = np.empty(int(labels.max(initial=-1)) + 1, np.int64)
    largest[labels[order[first]]] = order[first]
    reference = largest[labels]
    others = reference != np.arange(len(of))
    ticks = keys >> REL_TICK_SHIFT
    return Delays(
        chip=(keys[others] >> CHIP_SHIFT & 3).astype(np.uint8),
        tot=tot[others].astype(np.uint16),
        largest=tot[reference[others]].astype(np.uint16),
        delay_ns=((ticks - ticks[reference])[others] * TICK_NS).astype(np.float32),
    )


def join_delays(parts: list[Delays]) -> Delays:
    """All of them."""
    return Delays(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))


def fit_time_walk(delays: Delays, chip: int) -> Floats:
    """(a, b, 0) of a / (ToT - b) for a chip: least squares, without hits that are far off.

    Raises ValueError when there are too few hits, or none that show a time-walk.
    """
    tot, largest, delay = _of_chip(delays, chip)
    kept = np.ones(len(tot), np.bool_)
    a, b = 0.0, 0.0
    for _ in range(_ROUNDS):
        a, b = _least_squares(tot[kept], largest[kept], delay[kept])
        off = delay - a * _shape(tot, largest, b)
        centre = float(np.median(off))
        spread = 1.4826 * float(np.median(np.abs(off - centre))) + TICK_NS
        kept = np.abs(off - centre) <= _CLIP * spread
    if a <= 0:
        raise ValueError(f"the small hits of chip {chip} do not come later than the large ones: no time-walk is seen")
    return np.array([a, b, 0.0])


def time_walk_table(delays: Delays, chip: int) -> Floats:
    """Time-walk (ns) of a chip by ToT: measured where there are enough hits, else as the fitted formula says."""
    formula = walk_ns(fit_time_walk(delays, chip), np.arange(N_TOT))
    tot, largest, delay = _of_chip(delays, chip)
    counts = np.bincount(tot, minlength=N_TOT)
    table = formula.copy()
    for _ in range(_ROUNDS):
        walk = delay + table[largest]
        off = walk - table[tot]
        kept = np.abs(off - np.median(off)) <= _CLIP * (1.4826 * np.median(np.abs(off - np.median(off))) + TICK_NS)
        n = np.bincount(tot[kept], minlength=N_TOT)
        means = np.bincount(tot[kept], walk[kept], N_TOT) / np.maximum(n, 1)
        table = np.where((counts >= LEAST_OF_TOT) & (n >= LEAST_OF_TOT // 2), means, formula)
    return table


def _of_chip(delays: Delays, chip: int) -> tuple[Ints, Ints, Floats]:
    of = delays.chip == chip
    n = int(np.count_nonzero(of))
    if n < LEAST:
        raise ValueError(
            f"chip {chip} has {n} hits beside a larger one, and a time-walk needs {LEAST}: take a longer recording, or "
            f"leave the chip out (--leave-out {chip})"
        )
    return delays.tot[of].astype(np.int64), delays.largest[of].astype(np.int64), delays.delay_ns[of].astype(np.float64)


def _shape(tot: Ints, largest: Ints, b: float) -> Floats:
    """What a is multiplied with."""
    one = np.array([1.0, b, 0.0])
    return walk_ns(one, tot) - walk_ns(one, largest)


def _least_squares(tot: Ints, largest: Ints, delay: Floats) -> tuple[float, float]:
    """a and b that fit best: for each b the best a follows, and b is found by a search that narrows."""
    pairs, place = np.unique(tot * N_TOT + largest, return_inverse=True)
    n = np.bincount(place).astype(np.float64)
    mean = np.bincount(place, delay) / n
    tot, largest = pairs // N_TOT, pairs % N_TOT

    def best(b: float) -> tuple[float, float]:
        shape = _shape(tot, largest, b)
        a = float((n * shape * mean).sum() / max((n * shape * shape).sum(), 1e-12))
        return float((n * (mean - a * shape) ** 2).sum()), a

    low, high = B_RANGE
    golden = (5**0.5 - 1) / 2
    for _ in range(_STEPS):
        left, right = high - golden * (high - low), low + golden * (high - low)
        low, high = (low, right) if best(left)[0] < best(right)[0] else (left, high)
    b = (low + high) / 2
    return best(b)[1], b
