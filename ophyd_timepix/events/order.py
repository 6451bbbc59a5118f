"""Time order: from keys in the order of the stream to sorted keys, each hit sorted once.

A key is rel_tick << 28 | pixel (see `block`), so that sorting keys settles ties too. Keys below the horizon are final:
they are split off behind those that are ready and sorted there, in place, by numpy: its vectorised sort of some
thousand keys took 7 ns a hit whatever the data, sorts of our own 8 to 25 (decision 0032).
"""

from typing import Final

import numpy as np
import numpy.typing as npt

from ..jit import kernel
from .block import REL_TICK_MAX, REL_TICK_MIN, REL_TICK_SHIFT

Keys = npt.NDArray[np.int64]

SORTED_TOGETHER: Final = 1 << 11
"""Keys of a piece."""
SORTED_AT_ONCE: Final = 8 * SORTED_TOGETHER
"""Keys that fit into a core's own cache."""
LOOKED_AT: Final = 1 << 9
"""Keys of which the least is known."""
_STEPS: Final = 8 * SORTED_TOGETHER
"""By which keys may be moved where two pieces meet, before they are sorted anew."""


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

    Hits come nearly in order: so small pieces are sorted, many in one call, and where two of them overlap the few keys
    concerned are moved, before the next ones are looked at: they are still near then. Where they are many, that stretch
    is sorted once more; where that adds up, all is, at once.
    """
    budget = len(keys)
    for start in range(0, len(keys), SORTED_AT_ONCE):
        budget -= _sort_behind(keys[: start + SORTED_AT_ONCE], start, budget)
        if budget < 0:
            keys.view(np.float64).sort()
            return


def _sort_behind(keys: Keys, start: int, budget: int) -> int:
    """Sort keys of which those before `start` are in order. Returns how many were sorted once more.

    More than `budget`: it gave up.
    """
    floats = keys.view(np.float64)
    whole = start + (len(keys) - start) // SORTED_TOGETHER * SORTED_TOGETHER
    floats[start:whole].reshape(-1, SORTED_TOGETHER).sort(axis=1)
    floats[whole:].sort()
    again = 0
    seam = int(_close_seams(keys, start or SORTED_TOGETHER, SORTED_TOGETHER, _STEPS))
    while seam < len(keys):
        first, stop = _overlap(floats, seam)
        again += stop - first
        if again > budget:
            break
        floats[first:stop].sort()
        seam = int(_close_seams(keys, seam, SORTED_TOGETHER, _STEPS))
    return again


def _overlap(floats: npt.NDArray[np.float64], seam: int) -> tuple[int, int]:
    """What is not in order around a seam: all before it is sorted, and so is the piece behind it."""
    piece = floats[seam : seam + SORTED_TOGETHER]
    return int(np.searchsorted(floats[:seam], piece.min())), seam + len(piece)


@kernel
def _close_seams(keys: Keys, seam: int, piece: int, steps: int) -> int:
    """Bring the beginnings of pieces to their places in the pieces before, from `seam` on.

    Returns the first seam where that took too many steps (some keys of its piece have their place already, those of
    the pieces behind are as they were), or len(keys).
    """
    n: int = keys.shape[0]
    for start in range(seam, n, piece):
        newest = keys[start - 1]
        stop = min(start + piece, n)  # a key that is later than all of a piece waits at its end for the next seam
        left = steps
        i = start
        while i < stop and keys[i] < newest:
            key = keys[i]
            j = i
            while j > 0 and keys[j - 1] > key:
                keys[j] = keys[j - 1]
                j -= 1
            keys[j] = key
            left -= i - j
            i += 1
            if left < 0:
                return start
    return n


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
def deal_final(
    pool: Keys, n_pool: int, limit: int, pile: int, ready: Keys, n_ready: int, ends: Keys, least: Keys
) -> tuple[int, int]:
    """The same in piles of about `pile` keys: all keys of a pile are larger than those of the piles before.

    ends[k]: becomes where pile k ends in `ready`. It needs room for n_pool // pile + 2 piles, `least` for
    n_pool // LOOKED_AT + 2 numbers. Keys come nearly in order: each pile is found where the keys around it are, and
    nothing is done twice; where they do not, the rest becomes one pile. Returns (how many are final, piles).
    """
    n_chunks = (n_pool + LOOKED_AT - 1) // LOOKED_AT
    least[n_chunks] = limit
    for chunk in range(n_chunks - 1, -1, -1):  # the least key from each chunk on
        smallest = least[chunk + 1]
        for i in range(chunk * LOOKED_AT, min((chunk + 1) * LOOKED_AT, n_pool)):
            smallest = min(smallest, pool[i])
        least[chunk] = smallest
    first = 0
    n_piles = 0
    stop_ready = n_ready
    left_to_look_at = 4 * n_pool
    stride = pile
    while True:
        is_last = first + stride >= n_pool or left_to_look_at < 0 or n_piles > n_pool // pile
        below = limit if is_last else min(limit, pool[first + stride])
        chunk = first // LOOKED_AT
        while chunk < n_chunks and least[chunk] < below:
            chunk += 1
        stop = max(first, min(chunk * LOOKED_AT, n_pool))
        n_final: int = split_final(pool[first:stop], stop - first, below, ready, stop_ready)
        stop_ready += n_final
        n_kept = stop - first - n_final
        for i in range(n_kept):
            pool[stop - 1 - i] = pool[first + n_kept - 1 - i]
        left_to_look_at -= stop - first
        first = stop - n_kept
        if n_final:
            ends[n_piles] = stop_ready
            n_piles += 1
            stride = pile
        else:
            stride *= 2
        if below == limit:
            break
    for i in range(first, n_pool):
        pool[i - first] = pool[i]
    return stop_ready - n_ready, n_piles


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
