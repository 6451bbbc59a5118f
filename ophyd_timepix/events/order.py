"""Time order: from keys in the order of the stream to sorted keys, each hit sorted once.

A key is rel_tick << 28 | pixel (see `block`), so that sorting keys settles ties too. Keys below the horizon are final:
they are split off behind those that are ready and sorted there, in place, by numpy: its vectorised sort of some ten
thousand keys took 8 ns a hit whatever the data, a radix sort of our own 8 to 25 (decision 0032).
"""

from typing import Final

import numpy as np
import numpy.typing as npt

from ..jit import kernel
from .block import REL_TICK_MAX, REL_TICK_MIN, REL_TICK_SHIFT

Keys = npt.NDArray[np.int64]

SORTED_TOGETHER: Final = 1 << 14
"""Keys that fit in the nearest cache but one."""


@kernel
def pack_keys(ticks: Keys, pixels: npt.NDArray[np.uint32], base: int, pool: Keys) -> int:
    """Write hits to `pool` as keys, up to the first one that cannot be told relative to `base`. Returns how many."""
    n: int = ticks.shape[0]
    outside = 0
    for i in range(n):
        rel = ticks[i] - base
        outside |= (rel - REL_TICK_MIN) | (REL_TICK_MAX - 1 - rel)
        pool[i] = (rel << REL_TICK_SHIFT) | np.int64(pixels[i])
    if outside >= 0:
        return n
    for i in range(n):
        if not REL_TICK_MIN <= ticks[i] - base < REL_TICK_MAX:
            return i
    return n


def sort_keys(keys: Keys) -> None:
    """Sort in place, as float64 (see `REL_TICK_MAX`): a tenth faster than as int64 on a machine with AVX2.

    Hits come nearly in order: so pieces that fit in the nearest cache are sorted, and where two of them overlap that
    stretch is sorted once more. Where nothing is nearly in order, all is sorted at once.
    """
    floats = keys.view(np.float64)
    floats[:SORTED_TOGETHER].sort()
    for start in range(SORTED_TOGETHER, len(floats), SORTED_TOGETHER):
        piece = floats[start : start + SORTED_TOGETHER]
        piece.sort()
        if piece[0] < floats[start - 1]:
            first = int(np.searchsorted(floats[:start], piece[0]))
            stop = start + int(np.searchsorted(piece, floats[start - 1]))
            if stop - first > 2 * SORTED_TOGETHER:
                floats.sort()
                return
            floats[first:stop].sort()


@kernel
def split_final(pool: Keys, n_pool: int, limit: int, ready: Keys, n_ready: int) -> int:
    """Append the pool's keys below `limit` to the ready ones, close the gaps in the pool. Returns how many.

    `ready` must have room for the whole pool.
    """
    n_left = 0
    for i in range(n_pool):
        key = pool[i]
        ready[np.uint64(n_ready)] = key
        pool[np.uint64(n_left)] = key
        is_final = key < limit
        n_ready += is_final
        n_left += not is_final
    return n_pool - n_left


@kernel
def shift_keys(keys: Keys, start: int, stop: int, ticks: int) -> None:
    """Refer keys to a base that is later by `ticks`."""
    for i in range(start, stop):
        keys[i] -= ticks << REL_TICK_SHIFT


@kernel
def sort_edges(ticks: Keys, codes: npt.NDArray[np.int32], n: int, budget: int) -> bool:
    """Sort edges by (tick, code) by insertion: they come nearly in order. False: gave up after `budget` steps."""
    for i in range(1, n):
        tick = ticks[i]
        code = codes[i]
        j = i
        while j > 0 and (ticks[j - 1] > tick or (ticks[j - 1] == tick and codes[j - 1] > code)):
            ticks[j] = ticks[j - 1]
            codes[j] = codes[j - 1]
            j -= 1
        ticks[j] = tick
        codes[j] = code
        budget -= i - j
        if budget < 0:
            return False
    return True


@kernel
def close_up_edges(
    ticks: Keys,
    codes: npt.NDArray[np.int32],
    n: int,
    drop_repeats: bool,
    trigger: int,
    code_shift: int,
    opened: Keys,
) -> tuple[int, int]:
    """Remove repeats from sorted edges (several chips tell of one edge); copy triggers to `opened`.

    trigger: what code >> code_shift is for a trigger. Returns (edges left, triggers).
    """
    kept = 0
    n_opened = 0
    for i in range(n):
        tick = ticks[i]
        code = codes[i]
        if drop_repeats and kept > 0 and tick == ticks[kept - 1] and code == codes[kept - 1]:
            continue
        ticks[kept] = tick
        codes[kept] = code
        kept += 1
        if code >> code_shift == trigger:
            opened[n_opened] = tick
            n_opened += 1
    return kept, n_opened
