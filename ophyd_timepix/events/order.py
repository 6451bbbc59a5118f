"""Time order: from keys in the order of the stream to sorted keys, each hit sorted once.

A key is rel_tick << 28 | pixel (see `block`). Keys below the horizon are final: split them off, sort them, append them. A
radix sort over the upper bits of the time that they span brings them near their places; a pass of insertion sort settles
what is left, ties by pixel included. Where insertion would take long (thousands of hits in one tick: test pulses), the
radix sort runs over all bits.
"""

from typing import Final

import numpy as np
import numpy.typing as npt

from ..jit import inlined, kernel
from .block import REL_TICK_BITS, REL_TICK_SHIFT

Keys = npt.NDArray[np.int64]

_DIGIT_BITS: Final = 11
DIGITS: Final = 1 << _DIGIT_BITS
_DIGIT_MASK: Final = DIGITS - 1
_COARSE_BITS: Final = 7
"""Bits of time left to insertion sort at most (128 ticks = 33 ns), when two digits do not cover the span."""
_INSERTION_STEPS: Final = 12
"""Mean steps per key that insertion sort may take before the radix sort takes over."""
_SMALL: Final = 48
"""So few keys are sorted by insertion alone."""


@kernel
def pack_keys(ticks: Keys, pixels: npt.NDArray[np.uint32], base: int, pool: Keys, n_pool: int) -> int:
    """Append hits to the pool as keys, up to the first one outside [base, base + 2**35). Returns how many."""
    n = ticks.shape[0]
    spread = 0
    for i in range(n):
        rel = ticks[i] - base
        spread |= rel
        pool[n_pool + i] = (rel << REL_TICK_SHIFT) | np.int64(pixels[i])
    if spread >> REL_TICK_BITS == 0:
        return n
    for i in range(n):
        if (ticks[i] - base) >> REL_TICK_BITS != 0:
            return i
    return n


@kernel
def split_final(pool: Keys, n_pool: int, limit: int, final: Keys) -> int:
    """Move keys below `limit` to `final`, close the gaps in the pool. Returns how many; the order of each part stays."""
    n_final = 0
    n_left = 0
    for i in range(n_pool):
        key = pool[i]
        final[n_final] = key
        pool[n_left] = key
        is_final = key < limit
        n_final += is_final
        n_left += not is_final
    return n_final


@inlined
def _count_digits(source: Keys, n: int, low: int, shift: int, starts: Keys) -> None:
    for d in range(DIGITS):
        starts[d] = 0
    for i in range(n):
        starts[((source[i] - low) >> shift) & _DIGIT_MASK] += 1


@inlined
def _scatter(source: Keys, n: int, target: Keys, offset: int, low: int, shift: int, starts: Keys) -> None:
    """One stable pass: counts become places, keys go there."""
    place = offset
    for d in range(DIGITS):
        count = starts[d]
        starts[d] = place
        place += count
    for i in range(n):
        key = source[i]
        digit = ((key - low) >> shift) & _DIGIT_MASK
        target[starts[digit]] = key
        starts[digit] += 1


@kernel
def _radix_pass(source: Keys, n: int, target: Keys, offset: int, low: int, shift: int, starts: Keys) -> None:
    _count_digits(source, n, low, shift, starts)
    _scatter(source, n, target, offset, low, shift, starts)


@kernel
def _insertion(keys: Keys, start: int, stop: int, budget: int) -> bool:
    """Sort keys that are near their places. False: gave up after `budget` steps (the keys are all still there)."""
    for i in range(start + 1, stop):
        key = keys[i]
        j = i
        while j > start and keys[j - 1] > key:
            keys[j] = keys[j - 1]
            j -= 1
        keys[j] = key
        budget -= i - j
        if budget < 0:
            return False
    return True


@kernel
def sort_append(final: Keys, n: int, ready: Keys, n_ready: int, spare: Keys, starts: Keys) -> None:
    """Sort final[:n] into ready[n_ready : n_ready + n]. `final` and `spare` (as large) are used up."""
    if n <= _SMALL:
        for i in range(n):
            ready[n_ready + i] = final[i]
        _insertion(ready, n_ready, n_ready + n, n * n)
        return
    low = final[0]
    high = final[0]
    for i in range(n):
        low = min(low, final[i])
        high = max(high, final[i])
    low = (low >> REL_TICK_SHIFT) << REL_TICK_SHIFT
    time_bits = 0
    while (high - low) >> (REL_TICK_SHIFT + time_bits) != 0:
        time_bits += 1
    rest = time_bits - 2 * _DIGIT_BITS
    if rest <= _COARSE_BITS:
        shift = REL_TICK_SHIFT + max(rest, 0)
        _radix_pass(final, n, spare, 0, low, shift, starts)
        _radix_pass(spare, n, ready, n_ready, low, shift + _DIGIT_BITS, starts)
    else:
        shift = REL_TICK_SHIFT + max(rest - _DIGIT_BITS, 0)
        _radix_pass(final, n, ready, n_ready, low, shift, starts)
        _radix_pass(ready[n_ready:], n, spare, 0, low, shift + _DIGIT_BITS, starts)
        _radix_pass(spare, n, ready, n_ready, low, shift + 2 * _DIGIT_BITS, starts)
    if not _insertion(ready, n_ready, n_ready + n, _INSERTION_STEPS * n):
        part = ready[n_ready:]
        for shift in range(0, REL_TICK_SHIFT + time_bits, 2 * _DIGIT_BITS):
            _radix_pass(part, n, spare, 0, low, shift, starts)
            _radix_pass(spare, n, part, 0, low, shift + _DIGIT_BITS, starts)


@kernel
def shift_keys(keys: Keys, start: int, stop: int, ticks: int) -> None:
    """Refer keys to a base that is later by `ticks`."""
    for i in range(start, stop):
        keys[i] -= ticks << REL_TICK_SHIFT


@kernel
def sort_edges(ticks: Keys, codes: npt.NDArray[np.int32], n: int, budget: int) -> bool:
    """Sort edges by (tick, code) in place by insertion: they come nearly in order. False: gave up after `budget` steps."""
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
def without_repeats(ticks: Keys, codes: npt.NDArray[np.int32], n: int) -> int:
    """Close up sorted edges so that equal ones (several chips tell of one edge) stand once. Returns how many are left."""
    kept = 0
    for i in range(n):
        if i == 0 or ticks[i] != ticks[kept - 1] or codes[i] != codes[kept - 1]:
            ticks[kept] = ticks[i]
            codes[kept] = codes[i]
            kept += 1
    return kept
