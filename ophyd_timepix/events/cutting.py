"""Where blocks may end, and what goes into one: shots along the sorted hits, the ToF filter.

A natural cut lies before a hit that comes later than the one before by more than the window, or that a new shot begins
with: no cluster reaches across. Which natural cuts become ends of blocks changes nothing in the result. Without one for
`chain_max` hits there is a forced cut, exactly that many hits after the last natural cut: a place that depends on the
stream alone.

A block's tick is base + (key >> 28). Triggers are ascending ticks.
"""

import numpy as np
import numpy.typing as npt

from ..jit import inlined, kernel
from .block import REL_TICK_SHIFT

Keys = npt.NDArray[np.int64]

NO_CUT = -1


@inlined
def _tick(ready: Keys, i: int, base: int) -> int:
    tick: int = base + (ready[i] >> REL_TICK_SHIFT)
    return tick


@kernel
def first_after(ticks: Keys, n: int, tick: int) -> int:
    """Index of the first of ticks[:n], ascending, that is later than `tick`; n when none is."""
    low = 0
    high = n
    while low < high:
        middle = (low + high) >> 1
        if ticks[middle] > tick:
            high = middle
        else:
            low = middle + 1
    return low


@kernel
def _last_cut(ready: Keys, start: int, at: int, base: int, window: int, triggers: Keys, n_triggers: int) -> int:
    """The last natural cut in (start, at], NO_CUT when there is none. `at` itself lies between two hits."""
    i = at
    while i > start:
        before = _tick(ready, i - 1, base)
        tick = _tick(ready, i, base)
        if tick - before > window:
            return i
        trigger = first_after(triggers, n_triggers, before)
        if trigger < n_triggers and triggers[trigger] <= tick:
            return i
        i -= 1
    return NO_CUT


@kernel
def find_cut(
    ready: Keys,
    start: int,
    stop: int,
    base: int,
    window: int,
    target: int,
    chain_max: int,
    triggers: Keys,
    n_triggers: int,
) -> tuple[int, bool]:
    """The end of a block that begins at `start` and holds `target` hits or a little more.

    Returns (end, forced), or (NO_CUT, False) when it is not known yet.
    """
    if stop - start <= target:
        return NO_CUT, False
    limit = min(stop, start + chain_max)
    i = start + target
    before = _tick(ready, i - 1, base)
    trigger = first_after(triggers, n_triggers, before)
    while i < limit:
        tick = _tick(ready, i, base)
        if tick - before > window or (trigger < n_triggers and triggers[trigger] <= tick):
            return i, False
        before = tick
        i += 1
    if stop - start <= chain_max:
        return NO_CUT, False
    last = _last_cut(ready, start, i, base, window, triggers, n_triggers)
    if last != NO_CUT:
        return last, False
    return start + chain_max, True


@kernel
def find_last_cut(
    ready: Keys,
    start: int,
    stop: int,
    base: int,
    window: int,
    triggers: Keys,
    n_triggers: int,
    horizon: int,
) -> int:
    """The last natural cut in (start, stop], knowing that hits from `stop` on are not earlier than `horizon`."""
    if stop == start:
        return NO_CUT
    newest = _tick(ready, stop - 1, base)
    trigger = first_after(triggers, n_triggers, newest)
    if horizon - newest > window or (trigger < n_triggers and triggers[trigger] <= horizon):
        return stop
    return _last_cut(ready, start, stop - 1, base, window, triggers, n_triggers)


@kernel
def find_shots(
    keys: Keys,
    n: int,
    base: int,
    triggers: Keys,
    n_triggers: int,
    first_number: int,
    shot_first_hit: Keys,
    shot_number: Keys,
    shot_tick: Keys,
) -> tuple[int, int, int]:
    """The shots of a block's sorted hits keys[:n]. triggers[0] is the shot number `first_number`.

    Returns (hits, shots, hits before the first trigger); hits are fewer than `n` when the block has no room for more
    shots.
    """
    n_shots = 0
    n_before = 0
    i = 0
    trigger = -1
    while i < n:
        if n_shots == shot_number.shape[0]:
            n = i
            break
        trigger = first_after(triggers, n_triggers, _tick(keys, i, base)) - 1
        shot_first_hit[n_shots] = i
        shot_number[n_shots] = first_number + trigger if trigger >= 0 else -1
        shot_tick[n_shots] = triggers[trigger] if trigger >= 0 else 0
        n_shots += 1
        first = i
        i = _first_hit_from(keys, i + 1, n, base, triggers[trigger + 1]) if trigger + 1 < n_triggers else n
        if trigger < 0:
            n_before = i - first
    shot_first_hit[n_shots] = n
    return n, n_shots, n_before


@kernel
def _first_hit_from(ready: Keys, start: int, stop: int, base: int, tick: int) -> int:
    """Index of the first hit in [start, stop) not earlier than `tick`: steps that double, then halves."""
    step = 1
    low = start
    while low + step < stop and _tick(ready, low + step, base) < tick:
        low += step
        step <<= 1
    high = min(stop, low + step)
    while low < high:
        middle = (low + high) >> 1
        if _tick(ready, middle, base) < tick:
            low = middle + 1
        else:
            high = middle
    return low


@kernel
def keep_tof(
    ready: Keys, start: int, stop: int, base: int, triggers: Keys, n_triggers: int, tof_min: int, tof_max: int
) -> int:
    """Remove hits of shots with a ToF outside [tof_min, tof_max] from ready[start:stop]. Returns the new stop."""
    kept = start
    if stop > start:
        trigger = first_after(triggers, n_triggers, _tick(ready, start, base)) - 1
        for i in range(start, stop):
            tick = _tick(ready, i, base)
            while trigger + 1 < n_triggers and triggers[trigger + 1] <= tick:
                trigger += 1
            tof = tick - triggers[trigger] if trigger >= 0 else tof_min
            ready[kept] = ready[i]
            kept += tof_min <= tof <= tof_max
    return kept
