"""Touching particles: clusters that hold several peaks of ToT are cut up (see docs/explanations/clustering.md).

A second stage behind any clustering. The strongest hits of particles lie apart, and a particle's weak hits come a
little later than its strong ones, the later the weaker they are (time-walk). So a hit `belongs` to a stronger one where
it is near it and its delay is what time-walk explains; a hit that belongs to no other is a peak. The hits of a cluster
with several peaks go to the nearest of them, in space and time; then once more, to the nearest of the centroids that
have formed.

Delays are weighed by the ratio of the two ToT: time-walk is about inversely proportional to ToT. What is earlier than
the stronger hit is not weighed.

Most clusters have one peak and cost one comparison a hit: with the strongest hit, which the sums know already.
"""

from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from ..clock import NS_PER_COUNT, TICKS_PER_COUNT
from ..config import Processing
from ..jit import inlined, kernel
from .block import REL_TICK_SHIFT, X_SHIFT, Y_SHIFT
from .cluster import (
    BEST,
    COORDINATE_MASK,
    COUNT,
    LARGE,
    LAST,
    N_SUMS,
    SIZE_MASK,
    SIZE_SHIFT,
    TOT_MASK,
    add_to_sums,
    find_root,
)

Ints = npt.NDArray[np.int64]
Int32s = npt.NDArray[np.int32]
Floats = npt.NDArray[np.float64]

_NONE: Final = -1
_ROUNDS: Final = 2
"""How often hits look for the nearest: peaks first, then what has formed around them."""


class Reach(NamedTuple):
    """How far a hit may be from the stronger one that it belongs to."""

    radius2: float
    """Squared distance, in pixels."""
    ticks: int
    """Delay, weighed."""
    scale: float
    """Pixels per tick, for distances in space and time."""


def reach_of(processing: Processing) -> Reach:
    """What the user's parameters say."""
    radius = processing.split_radius_px
    ticks = processing.split_time_ns * TICKS_PER_COUNT / NS_PER_COUNT
    return Reach(radius * radius, int(ticks), radius / ticks)


@inlined
def _belongs(key: int, other: int, radius2: float, ticks: int) -> bool:
    """Whether a hit is near enough to one that is not weaker, in space and in time."""
    dx = ((key >> X_SHIFT) & COORDINATE_MASK) - ((other >> X_SHIFT) & COORDINATE_MASK)
    dy = ((key >> Y_SHIFT) & COORDINATE_MASK) - ((other >> Y_SHIFT) & COORDINATE_MASK)
    late = (key >> REL_TICK_SHIFT) - (other >> REL_TICK_SHIFT)
    in_time = -late <= ticks and late * (key & TOT_MASK) <= ticks * (other & TOT_MASK)
    return in_time and float(dx * dx + dy * dy) <= radius2


@kernel
def find_suspects(
    keys: Ints,
    n: int,
    n_slots: int,
    radius2: float,
    ticks: int,
    parent: Int32s,
    sums: Ints,
    slots: Int32s,
    end: Int32s,
    members: Int32s,
) -> int:
    """Gather the hits of clusters in which a hit does not belong to the strongest. Returns how many hits.

    slots: become roots. end[slot]: where the cluster's hits end in `members`, in time order; -1 for other clusters.
    """
    for slot in range(n_slots):
        end[slot] = _NONE
    n_suspects = 0
    for i in range(n):
        slot = slots[i]
        if slot < 0:
            continue
        slot = find_root(parent, slot)
        slots[i] = slot
        best = LAST - (sums[N_SUMS * slot + BEST] & LAST)
        if not _belongs(keys[i], keys[best], radius2, ticks):
            n_suspects += end[slot] < 0
            end[slot] = 0
    if n_suspects == 0:
        return 0
    start = 0
    for slot in range(n_slots):
        if end[slot] == 0:
            size = (sums[N_SUMS * slot + COUNT] >> SIZE_SHIFT) & SIZE_MASK
            end[slot] = start if size < LARGE else _NONE
            start += size if size < LARGE else 0
    for i in range(n):
        slot = slots[i]
        if slot >= 0 and end[slot] >= 0:
            members[end[slot]] = i
            end[slot] += 1
    return start


@kernel
def _find_peaks(
    keys: Ints, members: Int32s, first: int, stop: int, best: int, radius2: float, ticks: int, peaks: Int32s
) -> int:
    """The hits of members[first:stop] that belong to no other, in time order. Of equal ToT the first one is stronger.

    best: the strongest.
    """
    n_peaks = 0
    for p in range(first, stop):
        i = members[p]
        key = keys[i]
        is_peak = i == best or not _belongs(key, keys[best], radius2, ticks)
        q = first
        while is_peak and q < stop:
            j = members[q]
            other = keys[j]
            is_stronger = (other & TOT_MASK) > (key & TOT_MASK) or ((other & TOT_MASK) == (key & TOT_MASK) and j < i)
            is_peak = not (is_stronger and _belongs(key, other, radius2, ticks))
            q += 1
        if is_peak:
            peaks[n_peaks] = i
            n_peaks += 1
    return n_peaks


@kernel
def _share_out(
    keys: Ints, members: Int32s, first: int, stop: int, n_peaks: int, scale: float, centres: Floats, part: Int32s
) -> None:
    """part[p]: the nearest of the centres (rows of x, y, tick, ToT) for each hit; of equally near ones the first."""
    for p in range(first, stop):
        key = keys[members[p]]
        x = (key >> X_SHIFT) & COORDINATE_MASK
        y = (key >> Y_SHIFT) & COORDINATE_MASK
        nearest = np.inf
        for k in range(n_peaks):
            dx = x - centres[k, 0]
            dy = y - centres[k, 1]
            late = (key >> REL_TICK_SHIFT) - centres[k, 2]
            if late > 0:
                late = late * (key & TOT_MASK) / max(centres[k, 3], 1.0)
            away2 = dx * dx + dy * dy + (late * scale) * (late * scale)
            if away2 < nearest:
                nearest = away2
                part[p] = k


@kernel
def _move_centres(
    keys: Ints, members: Int32s, first: int, stop: int, n_peaks: int, part: Int32s, centres: Floats, totals: Floats
) -> None:
    """Centres to the ToT-weighted means of their hits, their time and ToT to those of the strongest (first) one."""
    for k in range(n_peaks):
        totals[k, 0] = 0.0
        totals[k, 1] = 0.0
        totals[k, 2] = 0.0
        totals[k, 3] = -1.0
    for p in range(first, stop):
        key = keys[members[p]]
        k = part[p]
        tot = key & TOT_MASK
        totals[k, 0] += tot * ((key >> X_SHIFT) & COORDINATE_MASK)
        totals[k, 1] += tot * ((key >> Y_SHIFT) & COORDINATE_MASK)
        totals[k, 2] += tot
        if tot > totals[k, 3]:
            totals[k, 3] = tot
            centres[k, 2] = key >> REL_TICK_SHIFT
            centres[k, 3] = tot
    for k in range(n_peaks):
        if totals[k, 2] > 0:
            centres[k, 0] = totals[k, 0] / totals[k, 2]
            centres[k, 1] = totals[k, 1] / totals[k, 2]


@kernel
def split_suspects(
    keys: Ints,
    n_slots: int,
    radius2: float,
    ticks: int,
    scale: float,
    sums: Ints,
    end: Int32s,
    members: Int32s,
    part: Int32s,
    slots: Int32s,
) -> tuple[int, int]:
    """Give the hits of each part a slot of its own, from `n_slots` on. Returns (clusters that were split, parts)."""
    n_split = 0
    n_parts = 0
    peaks = np.empty(LARGE, np.int32)
    used = np.empty(LARGE, np.int32)
    centres = np.empty((LARGE, 4), np.float64)
    totals = np.empty((LARGE, 4), np.float64)
    for slot in range(n_slots):
        stop = end[slot]
        if stop < 0:
            continue
        first = stop - ((sums[N_SUMS * slot + COUNT] >> SIZE_SHIFT) & SIZE_MASK)
        best = LAST - (sums[N_SUMS * slot + BEST] & LAST)
        n_peaks = _find_peaks(keys, members, first, stop, best, radius2, ticks, peaks)
        if n_peaks < 2:
            continue
        for k in range(n_peaks):
            key = keys[peaks[k]]
            centres[k, 0] = (key >> X_SHIFT) & COORDINATE_MASK
            centres[k, 1] = (key >> Y_SHIFT) & COORDINATE_MASK
            centres[k, 2] = key >> REL_TICK_SHIFT
            centres[k, 3] = key & TOT_MASK
            used[k] = _NONE
        for a_round in range(_ROUNDS):
            if a_round > 0:
                _move_centres(keys, members, first, stop, n_peaks, part, centres, totals)
            _share_out(keys, members, first, stop, n_peaks, scale, centres, part)
        n_used = 0
        for p in range(first, stop):
            k = part[p]
            if used[k] < 0:
                used[k] = n_parts + n_used
                n_used += 1
            slots[members[p]] = n_slots + used[k]
        if n_used < 2:
            for p in range(first, stop):
                slots[members[p]] = slot
            continue
        n_parts += n_used
        n_split += 1
    return n_split, n_parts


@kernel
def renumber(
    keys: Ints, n: int, n_slots: int, n_parts: int, slots: Int32s, number: Int32s, parent: Int32s, sums: Ints
) -> int:
    """Number slots by the first hits of their clusters and sum up again. Returns the slots.

    number[slot]: the new slot; those of parts stand from `n_slots` on.
    """
    for slot in range(n_slots + n_parts):
        number[slot] = _NONE
    for slot in range(n_slots):
        parent[slot] = slot
        for k in range(N_SUMS):
            sums[N_SUMS * slot + k] = 0
    n_numbers = 0
    for i in range(n):
        slot = slots[i]
        if slot < 0:
            continue
        if number[slot] < 0:
            number[slot] = n_numbers
            n_numbers += 1
        slots[i] = number[slot]
        add_to_sums(sums, number[slot], keys[i], i)
    return n_numbers


@kernel
def flag_parts(
    n_slots: int, n_parts: int, number: Int32s, row_of_slot: Int32s, flag: int, flags: npt.NDArray[np.uint8]
) -> None:
    """Flag the rows of parts."""
    for part in range(n_slots, n_slots + n_parts):
        row = row_of_slot[number[part]]
        if row >= 0:
            flags[row] |= np.uint8(flag)
