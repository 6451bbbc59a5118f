"""Clusters: which hits of a block belong together (see the definition in docs/explanations/clustering.md).

Two hits of one chip and one shot are neighbours when they are `offset k` pixels apart (dx² + dy² <= radius²) and at most
`reach[k]` ticks: for the cylinder the same for all offsets, for the ellipsoid the largest dt with
dx² + dy² + (dt / window * radius)² <= radius². Both metrics are thereby integer comparisons.

The hits come in time order. So a hit looks back only, at the last hit of each pixel around it.

* min_samples 1: connected components. Earlier hits of a pixel need no look: those within reach are linked through the
  last one. A map holds, for each pixel, time and cluster of its last hit in one integer; where a hit finds one cluster
  it joins, where it finds several they are united.
* min_samples > 1: DBSCAN. All neighbours count, so the hits of a pixel are chained. First pass: numbers of neighbours; second pass:
  core hits unite, a border hit takes its nearest core neighbour (ties: the earlier, then by pixel).

Coordinates are padded so that no look-up leaves the map.
"""

import math
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from ..clock import NS_PER_COUNT, TICKS_PER_COUNT
from ..config import Metric, Processing
from ..jit import inlined, kernel
from ..protocol.words import MATRIX_SIDE
from .block import CHIP_SHIFT, REL_TICK_SHIFT, X_SHIFT, Y_SHIFT
from .builder import window_ticks

Ints = npt.NDArray[np.int64]
Int32s = npt.NDArray[np.int32]
Floats = npt.NDArray[np.float64]

SLOT_BITS: Final = 20
MAX_HITS: Final = 1 << SLOT_BITS
SLOT_MASK: Final = MAX_HITS - 1
TIME_BITS: Final = 62 - SLOT_BITS
"""Room for running time in a map entry: 1145 s of blocks, then the map is cleared."""
COORDINATE_MASK: Final = MATRIX_SIDE - 1
TOT_MASK: Final = (1 << X_SHIFT) - 1
CHIP_MASK: Final = (1 << (REL_TICK_SHIFT - CHIP_SHIFT)) - 1

# The four sums of a cluster, in one half of a cache line.
SUM_X: Final = 0
"""Σ ToT * x, and from bit 40 on the number of hits at the rim."""
SUM_Y: Final = 1
"""Σ ToT * y."""
SUM_TOT: Final = 2
"""Σ ToT << 24 | hits."""
BEST: Final = 3
"""The largest ToT, then the first hit that has it: ToT << 32 | LAST - hit."""
RIM_SHIFT: Final = 40
TOT_SHIFT: Final = 24
SIZE_MASK: Final = (1 << TOT_SHIFT) - 1
BEST_SHIFT: Final = 32
LAST: Final = (1 << 31) - 1


class Neighbourhood(NamedTuple):
    """Offsets within the radius, what they mean in the map, and how far each reaches in time."""

    pad: int
    side: int
    """Columns of the padded map."""
    offsets: Ints
    reach: Ints
    distance2: Floats
    """dx² + dy² of each offset."""
    time_scale: float
    """Pixels per tick, for distances in space and time."""

    @property
    def plane(self) -> int:
        """Entries of the map for one chip."""
        return self.side * self.side


def neighbourhood(processing: Processing) -> Neighbourhood:
    """The neighbourhood that the user's parameters describe."""
    radius = processing.radius_px
    limit = radius * radius
    pad = math.floor(radius)
    side = MATRIX_SIDE + 2 * pad
    scale = radius / (processing.window_ns * TICKS_PER_COUNT / NS_PER_COUNT)
    window = window_ticks(processing.window_ns)
    disc = [(dx, dy) for dy in range(-pad, pad + 1) for dx in range(-pad, pad + 1) if float(dx * dx + dy * dy) <= limit]
    if processing.metric is Metric.CYLINDER:
        reach = [window for _ in disc]
    else:
        reach = [_ellipsoid_reach(dx * dx + dy * dy, scale, limit, window) for dx, dy in disc]
    return Neighbourhood(
        pad,
        side,
        np.array([dy * side + dx for dx, dy in disc], np.int64),
        np.array(reach, np.int64),
        np.array([dx * dx + dy * dy for dx, dy in disc], np.float64),
        scale,
    )


def _ellipsoid_reach(distance2: int, scale: float, limit: float, window: int) -> int:
    """The largest dt, in ticks, with distance2 + (dt * scale)² <= limit, as float64 says."""
    dt = window + 1
    while distance2 + (dt * scale) * (dt * scale) > limit:
        dt -= 1
    return dt


@inlined
def cell_of(key: int, pad: int, side: int) -> int:
    """Place of a hit's pixel in the padded map."""
    chip = (key >> CHIP_SHIFT) & CHIP_MASK
    x = (key >> X_SHIFT) & COORDINATE_MASK
    y = (key >> Y_SHIFT) & COORDINATE_MASK
    return (chip * side + y + pad) * side + x + pad


@inlined
def _is_rim(coordinate: int) -> bool:
    """0 or 255."""
    return (coordinate + 1) & (COORDINATE_MASK - 1) == 0


@kernel
def add_to_sums(sums: Ints, slot: int, key: int, hit: int) -> None:
    """Add a hit to its cluster's sums."""
    tot = key & TOT_MASK
    x = (key >> X_SHIFT) & COORDINATE_MASK
    y = (key >> Y_SHIFT) & COORDINATE_MASK
    rim = 1 if _is_rim(x) or _is_rim(y) else 0
    sums[slot, SUM_X] += tot * x + (rim << RIM_SHIFT)
    sums[slot, SUM_Y] += tot * y
    sums[slot, SUM_TOT] += (tot << TOT_SHIFT) + 1
    sums[slot, BEST] = max(sums[slot, BEST], (tot << BEST_SHIFT) + LAST - hit)


@inlined
def _clear_sums(sums: Ints, slot: int) -> None:
    for k in range(4):
        sums[slot, k] = 0


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
def link_components(
    keys: Ints,
    n: int,
    shot_first_hit: Ints,
    n_shots: int,
    offsets: Ints,
    reach: Ints,
    pad: int,
    side: int,
    now: int,
    last: Ints,
    slots: Int32s,
    parent: Int32s,
    sums: Ints,
) -> int:
    """min_samples 1: give each hit a slot, unite slots that touch, sum up. Returns the number of slots.

    last: the map; time << 20 | slot of each pixel's last hit. Times run on from block to block, from `now` on, so that
    entries of earlier blocks are too old to matter.
    """
    n_slots = 0
    n_offsets = offsets.shape[0]
    shift = now - (keys[0] >> REL_TICK_SHIFT)
    for shot in range(n_shots):
        first = shot_first_hit[shot]
        oldest = ((keys[first] >> REL_TICK_SHIFT) + shift) << SLOT_BITS
        for i in range(first, shot_first_hit[shot + 1]):
            key = keys[i]
            time = ((key >> REL_TICK_SHIFT) + shift) << SLOT_BITS
            cell = cell_of(key, pad, side)
            best = np.int64(-1)
            for k in range(n_offsets):
                entry = last[cell + offsets[k]]
                if entry >= max(oldest, time - (reach[k] << SLOT_BITS)):
                    best = max(best, entry)
            if best < 0:
                slot = n_slots
                n_slots += 1
                parent[slot] = slot
                _clear_sums(sums, slot)
            else:
                slot = best & SLOT_MASK
                for k in range(n_offsets):
                    entry = last[cell + offsets[k]]
                    if entry >= max(oldest, time - (reach[k] << SLOT_BITS)) and entry & SLOT_MASK != slot:
                        slot = unite(parent, slot, entry & SLOT_MASK)
            last[cell] = time | slot
            slots[i] = slot
            add_to_sums(sums, slot, key, i)
    return n_slots


@kernel
def gather_components(n_slots: int, parent: Int32s, sums: Ints) -> None:
    """Add the sums of united slots to their roots, which are older: from the youngest back."""
    for slot in range(n_slots - 1, -1, -1):
        root = parent[slot]
        if root != slot:
            sums[root, SUM_X] += sums[slot, SUM_X]
            sums[root, SUM_Y] += sums[slot, SUM_Y]
            sums[root, SUM_TOT] += sums[slot, SUM_TOT]
            sums[root, BEST] = max(sums[root, BEST], sums[slot, BEST])


@kernel
def count_neighbours(
    keys: Ints,
    shot_first_hit: Ints,
    n_shots: int,
    offsets: Ints,
    reach: Ints,
    pad: int,
    side: int,
    mark: int,
    last: Ints,
    previous: Int32s,
    neighbours: Int32s,
) -> None:
    """First pass of DBSCAN: for every hit the number of its neighbours, itself included.

    last: the map; mark + index of each pixel's last hit. `previous` chains the hits of a pixel, -1 ends a chain.
    """
    for shot in range(n_shots):
        first = shot_first_hit[shot]
        for i in range(first, shot_first_hit[shot + 1]):
            time = keys[i] >> REL_TICK_SHIFT
            cell = cell_of(keys[i], pad, side)
            count = 1
            for k in range(offsets.shape[0]):
                j = last[cell + offsets[k]] - mark
                while j >= first and time - (keys[j] >> REL_TICK_SHIFT) <= reach[k]:
                    count += 1
                    neighbours[j] += 1
                    j = previous[j]
            neighbours[i] = count
            previous[i] = max(last[cell] - mark, -1)
            last[cell] = mark + i


@kernel
def link_cores(
    keys: Ints,
    shot_first_hit: Ints,
    n_shots: int,
    offsets: Ints,
    reach: Ints,
    distance2: Floats,
    time_scale: float,
    pad: int,
    side: int,
    min_samples: int,
    mark: int,
    last: Ints,
    previous: Int32s,
    neighbours: Int32s,
    parent: Int32s,
    nearest: Int32s,
    nearest2: Floats,
) -> None:
    """Second pass of DBSCAN: unite core hits that are neighbours, note each border hit's nearest core neighbour.

    nearest: index of that neighbour, -1 when there is none; of equally near ones the first in the order of the block.
    """
    for shot in range(n_shots):
        first = shot_first_hit[shot]
        for i in range(first, shot_first_hit[shot + 1]):
            time = keys[i] >> REL_TICK_SHIFT
            cell = cell_of(keys[i], pad, side)
            parent[i] = i
            nearest[i] = -1
            nearest2[i] = np.inf
            is_core = neighbours[i] >= min_samples
            for k in range(offsets.shape[0]):
                j = last[cell + offsets[k]] - mark
                while j >= first:
                    dt = time - (keys[j] >> REL_TICK_SHIFT)
                    if dt > reach[k]:
                        break
                    other_is_core = neighbours[j] >= min_samples
                    if is_core and other_is_core:
                        unite(parent, i, j)
                    elif is_core or other_is_core:
                        away2 = distance2[k] + (dt * time_scale) * (dt * time_scale)
                        border, core = (j, i) if is_core else (i, j)
                        if away2 < nearest2[border] or (away2 == nearest2[border] and core < nearest[border]):
                            nearest2[border] = away2
                            nearest[border] = core
                    j = previous[j]
            last[cell] = mark + i


@kernel
def gather_cores(
    keys: Ints,
    n: int,
    min_samples: int,
    neighbours: Int32s,
    parent: Int32s,
    nearest: Int32s,
    slot_of_root: Int32s,
    slots: Int32s,
    sums: Ints,
) -> tuple[int, int]:
    """Slots in the order of the clusters' first hits, and their sums. Returns (slots, noise hits); noise has slot -1."""
    n_slots = 0
    n_noise = 0
    for i in range(n):
        slot_of_root[i] = -1
    for i in range(n):
        core = i if neighbours[i] >= min_samples else nearest[i]
        if core < 0:
            slots[i] = -1
            n_noise += 1
            continue
        root = find_root(parent, core)
        slot = slot_of_root[root]
        if slot < 0:
            slot = n_slots
            n_slots += 1
            slot_of_root[root] = slot
            _clear_sums(sums, slot)
        slots[i] = slot
        add_to_sums(sums, slot, keys[i], i)
    return n_slots, n_noise
