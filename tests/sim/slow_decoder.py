"""A decoder of words straight from the published formulas, one field after the other: slow, obvious, and nobody's twin.

Formulas: x = 2 * dcol + pixel // 4, y = 4 * super_pixel + pixel % 4, tick = ((spidr << 14 | toa) * 16 - ftoa +
phase) * 6; TDC tick = (3.125 ns counts) * 12 + stamp - 1. Times come out modulo their wrap and are placed nearest to
a given time.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

HIT_WRAP = (1 << 30) * 96
TDC_WRAP = (1 << 35) * 12
TDC_NAMES = {0x6F: (1, 0), 0x6A: (1, 1), 0x6E: (2, 0), 0x6B: (2, 1)}

Words = npt.NDArray[np.uint64]


def is_pixel(words: Words) -> npt.NDArray[np.bool_]:
    return words >> np.uint64(60) == 0xB


def top_bytes(words: Words) -> npt.NDArray[np.int64]:
    return (words >> np.uint64(56)).astype(np.int64)


def nearest(value: int, reference: int, period: int) -> int:
    return min((value + (reference // period + k) * period for k in (-1, 0, 1)), key=lambda t: abs(t - reference))


def pixel(word: int, phase: Sequence[int], near_tick: int) -> tuple[int, int, int, int]:
    """(x, y, ToT, tick) of a pixel word."""
    dcol = (word >> 53) & 0x7F
    super_pixel = (word >> 47) & 0x3F
    in_super_pixel = (word >> 44) & 0x7
    toa = (word >> 30) & 0x3FFF
    tot = (word >> 20) & 0x3FF
    ftoa = (word >> 16) & 0xF
    spidr = word & 0xFFFF
    coarse = nearest((spidr << 14 | toa) * 96, near_tick, HIT_WRAP)
    return (
        2 * dcol + in_super_pixel // 4,
        4 * super_pixel + in_super_pixel % 4,
        tot,
        coarse - ftoa * 6 + phase[dcol] * 6,
    )


def tdc(word: int, near_tick: int) -> tuple[int, int, int, int]:
    """(input, falling, counter, tick) of a TDC word."""
    number, falling = TDC_NAMES[word >> 56]
    stamp = (word >> 5) & 0xF
    assert 1 <= stamp <= 12
    assert word & 0x1F == 0
    tick = ((word >> 9) & 0x7FFFFFFFF) * 12 + stamp - 1
    return number, falling, (word >> 44) & 0xFFF, nearest(tick, near_tick, TDC_WRAP)


def hits(words: Words, phase: Sequence[int], near_tick: int = 0) -> npt.NDArray[np.int64]:
    """Rows (x, y, ToT, tick) of the pixel words, in their order."""
    rows = [pixel(int(word), phase, near_tick) for word in words[is_pixel(words)]]
    return np.array(rows, dtype=np.int64).reshape(-1, 4)


def edges(words: Words, near_tick: int = 0) -> npt.NDArray[np.int64]:
    """Rows (input, falling, counter, tick) of the TDC words, in their order."""
    rows = [tdc(int(word), near_tick) for word in words[np.isin(top_bytes(words), list(TDC_NAMES))]]
    return np.array(rows, dtype=np.int64).reshape(-1, 4)


def as_rows(table: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """The rows in one order, whatever order they came in."""
    return table[np.lexsort(table.T[::-1])] if len(table) else table
