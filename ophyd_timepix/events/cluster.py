"""Clusters: which hits of a block belong together (see docs/explanations/clustering.md).

Two hits of one chip and one shot are neighbours when they are `offset k` pixels apart (dx² + dy² <= radius²) and at
most `reach[k]` ticks: for the cylinder the same for all offsets, for the ellipsoid the largest dt with
dx² + dy² + (dt / window * radius)² <= radius². Both metrics are thereby integer comparisons.

The hits come in time order. So a hit looks back only, at the last hit of each pixel around it.

* min_samples 1: connected components. Earlier hits of a pixel need no look: those within reach are linked through the
  last one. A map holds time and cluster of the last hit in one integer; where a hit finds one cluster it joins, where
  it finds several they are united.
* the same with the cylinder and radius 2, the default: hits that are at most 2 pixels from each other need no look
  either, the last one speaks for all. So the map holds the last hit in the plus of five pixels around each pixel, and
  the pluses around four neighbours cover the 13 pixels of the disc: 4 look-ups and 5 entries instead of 13 and 1.
* min_samples > 1: see `dbscan`.

The map has a margin as wide as the largest radius, so that no look-up leaves it. Its side is a constant, and indices
are unsigned, so that the compiler needs no arithmetic for them: half the speed of the loops lies in that. It is larger
than the nearer caches, and hits jump about in it: so the lines of a hit to come are fetched ahead (decision 0152).
"""

import math
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from ..clock import NS_PER_COUNT, TICKS_PER_COUNT
from ..config import Metric, Processing
from ..jit import inlined, kernel, prefetch
from ..protocol.words import MATRIX_SIDE
from .block import CHIP_SHIFT, REL_TICK_SHIFT, X_SHIFT, Y_SHIFT
from .builder import window_ticks

Ints = npt.NDArray[np.int64]
Int32s = npt.NDArray[np.int32]
Floats = npt.NDArray[np.float64]

MARGIN: Final = 8
SIDE: Final = MATRIX_SIDE + 2 * MARGIN
PLANE: Final = SIDE * SIDE
"""Entries of the map for one chip."""

SLOT_BITS: Final = 20
MAX_HITS: Final = 1 << SLOT_BITS
SLOT_MASK: Final = MAX_HITS - 1
TIME_BITS: Final = 62 - SLOT_BITS
"""Room for running time in a map entry: 1145 s of blocks, then the map is cleared."""
COORDINATE_MASK: Final = MATRIX_SIDE - 1
TOT_MASK: Final = (1 << X_SHIFT) - 1
CHIP_MASK: Final = (1 << (REL_TICK_SHIFT - CHIP_SHIFT)) - 1

# The sums of a cluster, in one half of a cache line: sums[4 * slot + ...]
POSITION: Final = 0
"""Σ ToT * x, and in the upper half Σ ToT * y; exact up to LARGE hits."""
COUNT: Final = 1
"""Σ ToT (31 bits), hits (21), hits at the rim (exact up to LARGE)."""
BEST: Final = 2
"""The largest ToT, then the first hit that has it: ToT << 32 | LAST - hit."""
N_SUMS: Final = 4
Y_SUM_SHIFT: Final = 32
X_SUM_MASK: Final = (1 << Y_SUM_SHIFT) - 1
SIZE_SHIFT: Final = 31
TOT_SUM_MASK: Final = (1 << SIZE_SHIFT) - 1
SIZE_MASK: Final = (1 << 21) - 1
RIM_SHIFT: Final = 52
BEST_SHIFT: Final = 32
LAST: Final = (1 << 31) - 1
AHEAD: Final = 16
"""Hits by which the map's lines are fetched ahead."""
LARGE: Final = 1024
"""Clusters of so many hits are summed again, hit by hit: the fields above would run over."""


def _counts_by_coordinate() -> npt.NDArray[np.int64]:
    """What a hit adds to COUNT beside its ToT, by x: 1 hit, and 1 at the rim for 0 and 255; by y: only the latter."""
    by_coordinate = np.zeros((2, MATRIX_SIDE), np.int64)
    by_coordinate[:, [0, MATRIX_SIDE - 1]] = 1 << RIM_SHIFT
    by_coordinate[0] += 1 << SIZE_SHIFT
    return by_coordinate


_COUNT_OF_X, _COUNT_OF_Y = _counts_by_coordinate()


def _offsets(radius2: float) -> Ints:
    """Places of the pixels of a disc in the map, from its middle, row by row."""
    pad = math.isqrt(int(radius2))
    square = [(dx, dy) for dy in range(-pad, pad + 1) for dx in range(-pad, pad + 1)]
    return np.array([dy * SIDE + dx for dx, dy in square if dx * dx + dy * dy <= radius2], np.int64)


N_DISC_2: Final = 13
DISC_2: Final = _offsets(4.0)


class Neighbourhood(NamedTuple):
    """Offsets within the radius, what they mean in the map, and how far each reaches in time."""

    offsets: Ints
    reach: Ints
    distance2: Floats
    """dx² + dy² of each offset."""
    time_scale: float
    """Pixels per tick, for distances in space and time."""
    is_disc_2: bool
    """Radius 2 (up to 2.23: the same pixels), for which there are kernels with the offsets as constants."""
    is_plus_cover: bool
    """The cylinder of that radius, which four pluses cover."""


def neighbourhood(processing: Processing) -> Neighbourhood:
    """The neighbourhood that the user's parameters describe."""
    radius = processing.radius_px
    limit = radius * radius
    pad = math.floor(radius)
    scale = radius / (processing.window_ns * TICKS_PER_COUNT / NS_PER_COUNT)
    window = window_ticks(processing.window_ns)
    square = [(dx, dy) for dy in range(-pad, pad + 1) for dx in range(-pad, pad + 1)]
    disc = [(dx, dy) for dx, dy in square if float(dx * dx + dy * dy) <= limit]
    is_cylinder = processing.metric is Metric.CYLINDER
    reach = [window if is_cylinder else _ellipsoid_reach(dx * dx + dy * dy, scale, limit, window) for dx, dy in disc]
    return Neighbourhood(
        _offsets(limit),
        np.array(reach, np.int64),
        np.array([dx * dx + dy * dy for dx, dy in disc], np.float64),
        scale,
        4.0 <= limit < 5.0,
        is_cylinder and 4.0 <= limit < 5.0,
    )


def _ellipsoid_reach(distance2: int, scale: float, limit: float, window: int) -> int:
    """The largest dt, in ticks, with distance2 + (dt * scale)² <= limit, as float64 says."""
    dt = window + 1
    while distance2 + (dt * scale) * (dt * scale) > limit:
        dt -= 1
    return dt


@inlined
def at(i: int) -> np.uint64:
    """An index that is known not to be negative."""
    return np.uint64(i)


@inlined
def time_of(key: int) -> int:
    """Relative time of a hit, where a map entry has it."""
    return (key >> (REL_TICK_SHIFT - SLOT_BITS)) & ~SLOT_MASK


@inlined
def cell_of(key: int) -> int:
    """Place of a hit's pixel in the map."""
    chip = (key >> CHIP_SHIFT) & CHIP_MASK
    x = (key >> X_SHIFT) & COORDINATE_MASK
    y = (key >> Y_SHIFT) & COORDINATE_MASK
    return chip * PLANE + (y + MARGIN) * SIDE + x + MARGIN


@inlined
def fetch_rows(keys: Ints, i: int, last_hit: int, last: Ints) -> None:
    """Fetch the map's lines for a hit that is soon to come: its own row and those beside."""
    cell = cell_of(keys[at(min(i + AHEAD, last_hit))])
    prefetch(last, at(cell - SIDE))
    prefetch(last, at(cell))
    prefetch(last, at(cell + SIDE))


@inlined
def add_to_sums(sums: Ints, slot: int, key: int, hit: int) -> None:
    """Add a hit to its cluster's sums, which begin at 0."""
    tot = key & TOT_MASK
    x = (key >> X_SHIFT) & COORDINATE_MASK
    y = (key >> Y_SHIFT) & COORDINATE_MASK
    first = slot * N_SUMS
    sums[at(first + POSITION)] += tot * (x | (y << Y_SUM_SHIFT))
    sums[at(first + COUNT)] += tot + _COUNT_OF_X[x] + _COUNT_OF_Y[y]
    sums[at(first + BEST)] = max(sums[at(first + BEST)], (tot << BEST_SHIFT) + (LAST - hit))


@kernel
def find_root(parent: Int32s, i: int) -> int:
    """The root of i's tree; paths are halved on the way."""
    while parent[i] != i:
        parent[i] = parent[parent[i]]
        i = parent[i]
    return i


@kernel
def unite(parent: Int32s, a: int, b: int) -> int:
    """Unite two trees under the lower root, which is the older one. Returns it."""
    a = find_root(parent, a)
    b = find_root(parent, b)
    low = min(a, b)
    parent[max(a, b)] = low
    return low


@kernel
def link_by_pluses(
    keys: Ints,
    shot_first_hit: Ints,
    n_shots: int,
    window: int,
    now: int,
    last: Ints,
    slots: Int32s,
    parent: Int32s,
    sums: Ints,
) -> int:
    """Cylinder, radius 2, min_samples 1: give each hit a slot, unite slots that touch, sum up. Returns the slots used.

    parent[slot] must be slot, and all sums 0.
    last: the map; time << 20 | slot of the last hit in the plus around each pixel. Times run on from block to block,
    from `now` on, so that entries of earlier blocks are too old to matter.
    """
    n_slots = 0
    shift = (now - (keys[0] >> REL_TICK_SHIFT)) << SLOT_BITS
    reach = window << SLOT_BITS
    last_hit = shot_first_hit[n_shots] - 1
    for shot in range(n_shots):
        first = shot_first_hit[shot]
        oldest = time_of(keys[first]) + shift
        for i in range(first, shot_first_hit[shot + 1]):
            fetch_rows(keys, i, last_hit, last)
            key = keys[at(i)]
            time = time_of(key) + shift
            cell = cell_of(key)
            since = max(oldest, time - reach)
            east, west = last[at(cell + 1)], last[at(cell - 1)]
            south, north = last[at(cell + SIDE)], last[at(cell - SIDE)]
            best = max(max(east, west), max(south, north))
            # Bits where the slots of those in reach differ.
            differ = (east if east >= since else best) ^ best
            differ |= (west if west >= since else best) ^ best
            differ |= (south if south >= since else best) ^ best
            differ |= (north if north >= since else best) ^ best
            is_new = best < since
            slot = n_slots if is_new else best & SLOT_MASK
            if differ & SLOT_MASK != 0:
                if east >= since:
                    slot = unite(parent, slot, east & SLOT_MASK)
                if west >= since:
                    slot = unite(parent, slot, west & SLOT_MASK)
                if south >= since:
                    slot = unite(parent, slot, south & SLOT_MASK)
                if north >= since:
                    slot = unite(parent, slot, north & SLOT_MASK)
            n_slots += is_new
            entry = time | slot
            last[at(cell)] = entry
            last[at(cell + 1)] = entry
            last[at(cell - 1)] = entry
            last[at(cell + SIDE)] = entry
            last[at(cell - SIDE)] = entry
            slots[at(i)] = slot
            add_to_sums(sums, slot, key, i)
    return n_slots


@inlined
def _in_reach(entry: int, oldest: int, time: int, reach: int) -> bool:
    """Is the last hit of a pixel a neighbour of one at `time`?"""
    return entry >= max(oldest, time - (reach << SLOT_BITS))


@inlined
def _link_components(
    keys: Ints,
    shot_first_hit: Ints,
    n_shots: int,
    offsets: Ints,
    n_offsets: int,
    reach: Ints,
    now: int,
    last: Ints,
    slots: Int32s,
    parent: Int32s,
    sums: Ints,
) -> int:
    """The loop of both kernels below: the more the compiler knows of the offsets, the faster it is.

    Whether slots differ is asked without a branch, for that it cannot guess who is near; and they seldom do.
    """
    n_slots = 0
    shift = (now - (keys[0] >> REL_TICK_SHIFT)) << SLOT_BITS
    last_hit = shot_first_hit[n_shots] - 1
    for shot in range(n_shots):
        first = shot_first_hit[shot]
        oldest = time_of(keys[first]) + shift
        for i in range(first, shot_first_hit[shot + 1]):
            fetch_rows(keys, i, last_hit, last)
            key = keys[at(i)]
            time = time_of(key) + shift
            cell = cell_of(key)
            best = 0
            for k in range(n_offsets):
                entry = last[at(cell + offsets[at(k)])]
                best = max(best, entry if _in_reach(entry, oldest, time, reach[at(k)]) else 0)
            differ = 0
            for k in range(n_offsets):
                entry = last[at(cell + offsets[at(k)])]
                differ |= (entry if _in_reach(entry, oldest, time, reach[at(k)]) else best) ^ best
            is_new = best == 0
            slot = n_slots if is_new else best & SLOT_MASK
            n_slots += is_new
            if differ & SLOT_MASK != 0:
                for k in range(n_offsets):
                    entry = last[at(cell + offsets[at(k)])]
                    if _in_reach(entry, oldest, time, reach[at(k)]):
                        slot = unite(parent, slot, entry & SLOT_MASK)
            last[at(cell)] = time | slot
            slots[at(i)] = slot
            add_to_sums(sums, slot, key, i)
    return n_slots


@kernel
def link_components(
    keys: Ints,
    shot_first_hit: Ints,
    n_shots: int,
    offsets: Ints,
    reach: Ints,
    now: int,
    last: Ints,
    slots: Int32s,
    parent: Int32s,
    sums: Ints,
) -> int:
    """The same for any radius and metric: the map holds the last hit of each pixel."""
    return _link_components(
        keys, shot_first_hit, n_shots, offsets, offsets.shape[0], reach, now, last, slots, parent, sums
    )


@kernel
def link_components_2px(
    keys: Ints,
    shot_first_hit: Ints,
    n_shots: int,
    reach: Ints,
    now: int,
    last: Ints,
    slots: Int32s,
    parent: Int32s,
    sums: Ints,
) -> int:
    """The same for radius 2."""
    return _link_components(keys, shot_first_hit, n_shots, DISC_2, N_DISC_2, reach, now, last, slots, parent, sums)


@kernel
def gather_components(n_slots: int, parent: Int32s, sums: Ints) -> None:
    """Add the sums of united slots to their roots, which are older: from the youngest back."""
    for slot in range(n_slots - 1, -1, -1):
        root = parent[slot]
        if root != slot:
            to, part = N_SUMS * root, N_SUMS * slot
            sums[to + POSITION] += sums[part + POSITION]
            sums[to + COUNT] += sums[part + COUNT]
            sums[to + BEST] = max(sums[to + BEST], sums[part + BEST])
