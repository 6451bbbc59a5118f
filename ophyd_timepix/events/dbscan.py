"""DBSCAN: clusters where `min_samples` is above 1. All neighbours count, so the hits of a pixel are chained.

One pass over the map, in time order. It counts the neighbours of every hit, and of each pair of neighbours it asks
whether both are core hits by what was counted so far: numbers only grow, so a pair that is may be united at once. Other
pairs wait; at the end, when all numbers are known, those of two core hits are united, and of a core hit and another
the nearest is noted (ties: the earlier, then by pixel).

A pair waits because one of its hits has fewer than `min_samples` neighbours so far, and each pair adds one to them: at
most `2 * (min_samples - 1)` pairs wait for each hit. Beyond `PAIRED_MAX` that is too much memory, and a second pass
looks at the map again instead.

An entry of the map is time << 20 | index of the pixel's last hit; `before` holds the one that was there before.
"""

from typing import Final

import numpy as np

from ..jit import inlined, kernel
from .block import REL_TICK_SHIFT, X_SHIFT, Y_SHIFT
from .cluster import (
    COORDINATE_MASK,
    DISC_2,
    N_DISC_2,
    SLOT_BITS,
    SLOT_MASK,
    Floats,
    Int32s,
    Ints,
    add_to_sums,
    at,
    cell_of,
    fetch_rows,
    find_root,
    time_of,
    unite,
)

PAIRED_MAX: Final = 8
"""`min_samples` up to which pairs wait."""


@inlined
def _note_core(border: int, core: int, away2: float, nearest: Int32s, nearest2: Floats) -> None:
    """A core neighbour of a border hit, which keeps the nearest; of equally near ones the earlier in the block."""
    if away2 < nearest2[border] or (away2 == nearest2[border] and core < nearest[border]):
        nearest2[border] = away2
        nearest[border] = core


@inlined
def _link_dense(
    keys: Ints,
    shot_first_hit: Ints,
    n_shots: int,
    offsets: Ints,
    n_offsets: int,
    reach: Ints,
    min_samples: int,
    now: int,
    last: Ints,
    before: Ints,
    neighbours: Int32s,
    parent: Int32s,
    nearest: Int32s,
    nearest2: Floats,
    pairs: Int32s,
) -> int:
    """The loop of both kernels below: the more the compiler knows of the offsets, the faster it is."""
    n_pairs = 0
    shift = (now - (keys[0] >> REL_TICK_SHIFT)) << SLOT_BITS
    found = np.empty(n_offsets, np.int64)
    since = np.empty(n_offsets, np.int64)
    last_hit = shot_first_hit[n_shots] - 1
    for shot in range(n_shots):
        first = shot_first_hit[shot]
        oldest = time_of(keys[first]) + shift
        for i in range(first, shot_first_hit[shot + 1]):
            fetch_rows(keys, i, last_hit, last)
            key = keys[at(i)]
            time = time_of(key) + shift
            cell = cell_of(key)
            n_found = 0
            for k in range(n_offsets):
                entry = last[at(cell + offsets[at(k)])]
                begin = max(oldest, time - (reach[at(k)] << SLOT_BITS))
                found[at(n_found)] = entry
                since[at(n_found)] = begin
                n_found += entry >= begin
            count = 1 + n_found
            root = i
            for k in range(n_found):
                entry = found[at(k)]
                while True:
                    j = entry & SLOT_MASK
                    others = neighbours[at(j)] + 1
                    neighbours[at(j)] = others
                    if count >= min_samples and others >= min_samples:
                        other = parent[at(j)]
                        if other != root:
                            root = unite(parent, root, other) if root != i else find_root(parent, other)
                    else:
                        pairs[at(2 * n_pairs)] = i
                        pairs[at(2 * n_pairs + 1)] = j
                        n_pairs += 1
                    entry = before[at(j)]
                    if entry < since[at(k)]:
                        break
                    count += 1
            neighbours[at(i)] = count
            parent[at(i)] = root
            nearest[at(i)] = -1
            nearest2[at(i)] = np.inf
            before[at(i)] = last[at(cell)]
            last[at(cell)] = time | i
    return n_pairs


@kernel
def link_dense(
    keys: Ints,
    shot_first_hit: Ints,
    n_shots: int,
    offsets: Ints,
    reach: Ints,
    min_samples: int,
    now: int,
    last: Ints,
    before: Ints,
    neighbours: Int32s,
    parent: Int32s,
    nearest: Int32s,
    nearest2: Floats,
    pairs: Int32s,
) -> int:
    """Count every hit's neighbours, itself included, and unite those that are core hits already. Returns the pairs that
    wait; pairs[2 * k]: the later hit, pairs[2 * k + 1]: the earlier one.
    """
    return _link_dense(
        keys,
        shot_first_hit,
        n_shots,
        offsets,
        offsets.shape[0],
        reach,
        min_samples,
        now,
        last,
        before,
        neighbours,
        parent,
        nearest,
        nearest2,
        pairs,
    )


@kernel
def link_dense_2px(
    keys: Ints,
    shot_first_hit: Ints,
    n_shots: int,
    reach: Ints,
    min_samples: int,
    now: int,
    last: Ints,
    before: Ints,
    neighbours: Int32s,
    parent: Int32s,
    nearest: Int32s,
    nearest2: Floats,
    pairs: Int32s,
) -> int:
    """The same for radius 2."""
    return _link_dense(
        keys,
        shot_first_hit,
        n_shots,
        DISC_2,
        N_DISC_2,
        reach,
        min_samples,
        now,
        last,
        before,
        neighbours,
        parent,
        nearest,
        nearest2,
        pairs,
    )


@kernel
def link_waiting(
    keys: Ints,
    n_pairs: int,
    pairs: Int32s,
    time_scale: float,
    min_samples: int,
    neighbours: Int32s,
    parent: Int32s,
    nearest: Int32s,
    nearest2: Floats,
) -> None:
    """Unite core hits of the pairs that waited, note each border hit's nearest core neighbour.

    nearest: index of that neighbour, -1 when there is none; of equally near ones the first in the order of the block.
    """
    for k in range(n_pairs):
        i = pairs[at(2 * k)]
        j = pairs[at(2 * k + 1)]
        i_is_core = neighbours[at(i)] >= min_samples
        j_is_core = neighbours[at(j)] >= min_samples
        if i_is_core and j_is_core:
            unite(parent, i, j)
        elif i_is_core or j_is_core:
            a, b = keys[at(i)], keys[at(j)]
            dt = (a >> REL_TICK_SHIFT) - (b >> REL_TICK_SHIFT)
            dx = ((a >> X_SHIFT) & COORDINATE_MASK) - ((b >> X_SHIFT) & COORDINATE_MASK)
            dy = ((a >> Y_SHIFT) & COORDINATE_MASK) - ((b >> Y_SHIFT) & COORDINATE_MASK)
            away2 = float(dx * dx + dy * dy) + (dt * time_scale) * (dt * time_scale)
            border, core = (j, i) if i_is_core else (i, j)
            _note_core(border, core, away2, nearest, nearest2)


@kernel
def count_neighbours(
    keys: Ints,
    shot_first_hit: Ints,
    n_shots: int,
    offsets: Ints,
    reach: Ints,
    mark: int,
    last: Ints,
    previous: Int32s,
    neighbours: Int32s,
) -> None:
    """First of two passes: for every hit the number of its neighbours, itself included.

    last: the map; mark + index of each pixel's last hit. `previous` chains the hits of a pixel, -1 ends a chain.
    """
    for shot in range(n_shots):
        first = shot_first_hit[shot]
        for i in range(first, shot_first_hit[shot + 1]):
            time = keys[i] >> REL_TICK_SHIFT
            cell = cell_of(keys[i])
            count = 1
            for k in range(offsets.shape[0]):
                j = last[at(cell + offsets[k])] - mark
                while j >= first and time - (keys[j] >> REL_TICK_SHIFT) <= reach[k]:
                    count += 1
                    neighbours[j] += 1
                    j = previous[j]
            neighbours[i] = count
            previous[i] = max(last[at(cell)] - mark, -1)
            last[at(cell)] = mark + i


@kernel
def link_cores(
    keys: Ints,
    shot_first_hit: Ints,
    n_shots: int,
    offsets: Ints,
    reach: Ints,
    distance2: Floats,
    time_scale: float,
    min_samples: int,
    mark: int,
    last: Ints,
    previous: Int32s,
    neighbours: Int32s,
    parent: Int32s,
    nearest: Int32s,
    nearest2: Floats,
) -> None:
    """Second of two passes: unite core hits that are neighbours, note each border hit's nearest core neighbour.

    nearest: index of that neighbour, -1 when there is none; of equally near ones the first in the order of the block.
    """
    for shot in range(n_shots):
        first = shot_first_hit[shot]
        for i in range(first, shot_first_hit[shot + 1]):
            time = keys[i] >> REL_TICK_SHIFT
            cell = cell_of(keys[i])
            parent[i] = i
            nearest[i] = -1
            nearest2[i] = np.inf
            is_core = neighbours[i] >= min_samples
            for k in range(offsets.shape[0]):
                j = last[at(cell + offsets[k])] - mark
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
                        _note_core(border, core, away2, nearest, nearest2)
                    j = previous[j]
            last[at(cell)] = mark + i


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
    """Slots in the order of the clusters' first hits, and their sums. Returns (slots, hits that are noise)."""
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
        slots[i] = slot
        add_to_sums(sums, slot, keys[i], i)
    return n_slots, n_noise
