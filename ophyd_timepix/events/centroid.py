"""Centroids of a block: one row per cluster, and the hit columns on request.

Rows are in the order of (toa, first hit). x and y are ToT-weighted means, brought into the picture by the geometry's
table; when all ToT of a cluster are 0 the mean is unweighted. `CentroidFinder` owns the scratch memory of one process.
"""

from typing import Final

import numpy as np
import numpy.typing as npt

from ..config import Calibration, CentroidTime, Processing
from ..config.geometry import inner_sides
from ..jit import kernel
from ..protocol.words import MAX_CHIPS, TOT_SATURATED
from . import cluster as c
from . import dbscan
from . import split as parts
from .block import CHIP_SHIFT, REL_TICK_SHIFT, X_SHIFT, Y_SHIFT, BlockArrays
from .cluster import (
    BEST,
    BEST_SHIFT,
    COUNT,
    LARGE,
    LAST,
    N_SUMS,
    POSITION,
    RIM_SHIFT,
    SIZE_MASK,
    SIZE_SHIFT,
    TOT_SUM_MASK,
    X_SUM_MASK,
    Y_SUM_SHIFT,
)
from .columns import Flag
from .energy import EnergySum
from .finish import finish_block

Ints = npt.NDArray[np.int64]
Int32s = npt.NDArray[np.int32]
Floats = npt.NDArray[np.float64]

_SATURATED: Final = int(Flag.SATURATED)
_EDGE: Final = int(Flag.EDGE)
_SPLIT: Final = int(Flag.SPLIT)
_FORCED_CUT: Final = int(Flag.FORCED_CUT)
_GAP: Final = int(Flag.GAP)
_INSERTION_STEPS: Final = 4
"""Mean steps per row that insertion sort may take."""
_NO_ROW: Final = -1


@kernel
def list_rows(
    keys: Ints, n_slots: int, parent: Int32s, sums: Ints, min_size: int, rows: Ints, row_of_slot: Int32s
) -> tuple[int, int, int, int]:
    """Sort keys (tick << 28 | slot) of the clusters that become rows.

    Returns (rows, small clusters, hits in small clusters, clusters whose sums do not do: no ToT at all, or too large).
    """
    n_rows = 0
    n_small = 0
    n_small_hits = 0
    n_special = 0
    for slot in range(n_slots):
        row_of_slot[slot] = _NO_ROW
        if parent[slot] != slot:
            continue
        count = sums[N_SUMS * slot + COUNT]
        size = (count >> SIZE_SHIFT) & SIZE_MASK
        if size < min_size:
            n_small += 1
            n_small_hits += size
            continue
        if size >= LARGE or count & TOT_SUM_MASK == 0:
            n_special += 1
        best_hit = LAST - (sums[N_SUMS * slot + BEST] & LAST)
        rows[n_rows] = ((keys[best_hit] >> REL_TICK_SHIFT) << REL_TICK_SHIFT) | slot
        n_rows += 1
    return n_rows, n_small, n_small_hits, n_special


@kernel
def sort_rows(rows: Ints, n_rows: int) -> bool:
    """Insertion sort: slots are in the order of first hits, nearly that of rows. False: gave up, they are not."""
    budget = _INSERTION_STEPS * n_rows
    for i in range(1, n_rows):
        row = rows[i]
        j = i
        while j > 0 and rows[j - 1] > row:
            rows[j] = rows[j - 1]
            j -= 1
        rows[j] = row
        budget -= i - j
        if budget < 0:
            return False
    return True


@kernel
def write_rows(
    keys: Ints,
    base_tick: int,
    shot_first_hit: Ints,
    shot_number: Ints,
    shot_tick: Ints,
    rows: Ints,
    n_rows: int,
    sums: Ints,
    table: Ints,
    row_of_slot: Int32s,
    shot: Ints,
    x: npt.NDArray[np.float32],
    y: npt.NDArray[np.float32],
    toa: Floats,
    tof: Floats,
    tot: npt.NDArray[np.uint32],
    tot_max: npt.NDArray[np.uint16],
    size: npt.NDArray[np.uint32],
    chip: npt.NDArray[np.uint8],
    flags: npt.NDArray[np.uint8],
) -> None:
    """The centroid columns. Rows are in time order, so that the shots pass by once."""
    s = 0
    for row in range(n_rows):
        slot = rows[row] & c.SLOT_MASK
        row_of_slot[slot] = row
        count = sums[N_SUMS * slot + COUNT]
        position = sums[N_SUMS * slot + POSITION]
        best = sums[N_SUMS * slot + BEST]
        total = count & TOT_SUM_MASK
        hit = LAST - (best & LAST)
        largest = best >> BEST_SHIFT
        while shot_first_hit[s + 1] <= hit:
            s += 1
        tick = base_tick + (keys[hit] >> REL_TICK_SHIFT)
        chip_number = (keys[hit] >> CHIP_SHIFT) & c.CHIP_MASK
        weight = max(total, 1)
        column = (position & X_SUM_MASK) / weight
        line = (position >> Y_SUM_SHIFT) / weight
        shot[row] = shot_number[s]
        x[row] = table[chip_number, 0] * column + table[chip_number, 1] * line + table[chip_number, 2]
        y[row] = table[chip_number, 3] * column + table[chip_number, 4] * line + table[chip_number, 5]
        toa[row] = tick * 25 / 96
        tof[row] = (tick - shot_tick[s]) * 25 / 96 if shot_number[s] >= 0 else np.nan
        tot[row] = total
        tot_max[row] = largest
        size[row] = (count >> SIZE_SHIFT) & SIZE_MASK
        chip[row] = chip_number
        flags[row] = (_SATURATED if largest >= TOT_SATURATED else 0) | (_EDGE if count >> RIM_SHIFT else 0)


@kernel
def find_slots(n: int, slots: Int32s, parent: Int32s, row_of_slot: Int32s, labels: Int32s) -> None:
    """The row of every hit: -1 for noise and for clusters too small."""
    for i in range(n):
        slot = slots[i]
        labels[i] = row_of_slot[c.find_root(parent, slot)] if slot >= 0 else _NO_ROW


@kernel
def sum_again(
    keys: Ints,
    n: int,
    labels: Int32s,
    table: Ints,
    x: npt.NDArray[np.float32],
    y: npt.NDArray[np.float32],
    tot: npt.NDArray[np.uint32],
    size: npt.NDArray[np.uint32],
    flags: npt.NDArray[np.uint8],
    n_rows: int,
    sums: Floats,
) -> None:
    """Position and rim of clusters that are large, or have no ToT: these are weighed equally. sums: shape (rows, 2)."""
    for row in range(n_rows):
        sums[row, 0] = 0.0
        sums[row, 1] = 0.0
        if size[row] >= LARGE:
            flags[row] &= np.uint8(0xFF - _EDGE)
    for i in range(n):
        row = labels[i]
        if row >= 0 and (size[row] >= LARGE or tot[row] == 0):
            column = (keys[i] >> X_SHIFT) & c.COORDINATE_MASK
            line = (keys[i] >> Y_SHIFT) & c.COORDINATE_MASK
            weight = keys[i] & c.TOT_MASK if tot[row] > 0 else 1
            sums[row, 0] += weight * column
            sums[row, 1] += weight * line
            if column in (0, c.COORDINATE_MASK) or line in (0, c.COORDINATE_MASK):
                flags[row] |= np.uint8(_EDGE)
            chip = (keys[i] >> CHIP_SHIFT) & c.CHIP_MASK
            total = tot[row] if tot[row] > 0 else size[row]
            # Right when the last hit has been added.
            x[row] = table[chip, 0] * (sums[row, 0] / total) + table[chip, 1] * (sums[row, 1] / total) + table[chip, 2]
            y[row] = table[chip, 3] * (sums[row, 0] / total) + table[chip, 4] * (sums[row, 1] / total) + table[chip, 5]


@kernel
def mean_delays(
    keys: Ints, n: int, n_slots: int, slots: Int32s, parent: Int32s, sums: Ints, weights: Floats, delays: Floats
) -> None:
    """The ToT-weighted mean time of each cluster, in ticks after its hit with the largest ToT. Without ToT: the mean.

    slots: become roots. weights: scratch.
    """
    for slot in range(n_slots):
        weights[slot] = 0.0
        delays[slot] = 0.0
    for i in range(n):
        if slots[i] >= 0:
            slot = c.find_root(parent, slots[i])
            slots[i] = slot
            best = LAST - (sums[N_SUMS * slot + BEST] & LAST)
            has_tot = sums[N_SUMS * slot + COUNT] & TOT_SUM_MASK > 0
            weight = keys[i] & c.TOT_MASK if has_tot else 1
            weights[slot] += weight
            delays[slot] += weight * ((keys[i] >> REL_TICK_SHIFT) - (keys[best] >> REL_TICK_SHIFT))
    for slot in range(n_slots):
        if weights[slot] > 0:
            delays[slot] /= weights[slot]


@kernel
def flag_forced_cut(
    keys: Ints,
    shot_first_hit: Ints,
    n_shots: int,
    labels: Int32s,
    window: int,
    at_start: bool,
    at_end: bool,
    flags: npt.NDArray[np.uint8],
) -> None:
    """Flag clusters that a forced cut may have cut: they have a hit within the window of it, and in its shot."""
    n = shot_first_hit[n_shots]
    first = keys[0] >> REL_TICK_SHIFT
    last = keys[n - 1] >> REL_TICK_SHIFT
    for i in range(n):
        time = keys[i] >> REL_TICK_SHIFT
        is_cut = at_start and i < shot_first_hit[1] and time - first <= window
        is_cut = is_cut or (at_end and i >= shot_first_hit[n_shots - 1] and last - time <= window)
        if is_cut and labels[i] >= 0:
            flags[labels[i]] |= np.uint8(_FORCED_CUT)


@kernel
def flag_gaps(
    keys: Ints,
    n: int,
    slots: Int32s,
    parent: Int32s,
    row_of_slot: Int32s,
    inner: Ints,
    flags: npt.NDArray[np.uint8],
) -> None:
    """Flag clusters with a hit on a side of its chip that faces another one. inner: see `inner_sides`."""
    for i in range(n):
        column = (keys[i] >> X_SHIFT) & c.COORDINATE_MASK
        line = (keys[i] >> Y_SHIFT) & c.COORDINATE_MASK
        if (column + 1) & c.COORDINATE_MASK > 1 and (line + 1) & c.COORDINATE_MASK > 1:
            continue  # neither 0 nor 255, as nearly all
        sides = (column == 0) | (column == c.COORDINATE_MASK) << 1 | (line == 0) << 2 | (line == c.COORDINATE_MASK) << 3
        if slots[i] >= 0 and sides & inner[(keys[i] >> CHIP_SHIFT) & c.CHIP_MASK]:
            row = row_of_slot[c.find_root(parent, slots[i])]
            if row >= 0:
                flags[row] |= np.uint8(_GAP)


@kernel
def write_hits(
    keys: Ints,
    base_tick: int,
    shot_first_hit: Ints,
    shot_number: Ints,
    shot_tick: Ints,
    n_shots: int,
    table: Ints,
    shot: Ints,
    x: npt.NDArray[np.uint16],
    y: npt.NDArray[np.uint16],
    toa: Floats,
    tof: Floats,
    tot: npt.NDArray[np.uint16],
    chip: npt.NDArray[np.uint8],
) -> None:
    """The hit columns, but for the cluster: that is `labels` plus the file's row."""
    for s in range(n_shots):
        number = shot_number[s]
        for i in range(shot_first_hit[s], shot_first_hit[s + 1]):
            key = keys[i]
            tick = base_tick + (key >> REL_TICK_SHIFT)
            chip_number = (key >> CHIP_SHIFT) & c.CHIP_MASK
            column = (key >> X_SHIFT) & c.COORDINATE_MASK
            line = (key >> Y_SHIFT) & c.COORDINATE_MASK
            shot[i] = number
            x[i] = table[chip_number, 0] * column + table[chip_number, 1] * line + table[chip_number, 2]
            y[i] = table[chip_number, 3] * column + table[chip_number, 4] * line + table[chip_number, 5]
            toa[i] = tick * 25 / 96
            tof[i] = (tick - shot_tick[s]) * 25 / 96 if number >= 0 else np.nan
            tot[i] = key & c.TOT_MASK
            chip[i] = chip_number


class Scratch:
    """Memory that centroiding uses again for every block. Pages count only when they are touched."""

    def __init__(
        self,
        neighbourhood: c.Neighbourhood,
        n_chips: int = MAX_CHIPS,
        max_hits: int = c.MAX_HITS,
        inner: Ints | None = None,
    ) -> None:
        """inner: sides of chips that face others; None: no chip faces another."""
        if max_hits > c.MAX_HITS:
            raise ValueError(f"a block may have up to {c.MAX_HITS} hits, not {max_hits}")
        self.neighbourhood = neighbourhood
        self.inner = inner
        self.map = np.zeros(n_chips * c.PLANE, np.int64)
        self.now = 1
        """Running time or mark: larger than what the map holds."""
        self.sums = np.zeros(c.N_SUMS * max_hits, np.int64)
        self.parent = np.arange(max_hits, dtype=np.int32)
        self.slot_numbers = self.parent.copy()
        self.slots = np.empty(max_hits, np.int32)
        self.row_of_slot = np.empty(max_hits, np.int32)
        self.rows = np.empty(max_hits, np.int64)
        self.again = np.empty((max_hits, 2), np.float64)
        # Splitting only
        self.members = np.empty(max_hits, np.int32)
        self.part = np.empty(max_hits, np.int32)
        self.number = np.empty(2 * max_hits, np.int32)
        # Weighted times only
        self.weights = np.empty(max_hits, np.float64)
        self.delays = np.empty(max_hits, np.float64)
        # DBSCAN only
        self.before = np.empty(max_hits, np.int64)
        self.pairs = np.empty(4 * dbscan.PAIRED_MAX * max_hits, np.int32)
        self.previous = np.empty(max_hits, np.int32)
        self.neighbours = np.empty(max_hits, np.int32)
        self.tree = np.empty(max_hits, np.int32)
        self.nearest = np.empty(max_hits, np.int32)
        self.nearest2 = np.empty(max_hits, np.float64)

    def clean(self, n_slots: int) -> None:
        """Sums to 0 and slots to trees of their own, as the next block needs them."""
        self.sums[: c.N_SUMS * n_slots] = 0
        self.parent[:n_slots] = self.slot_numbers[:n_slots]

    def advance(self, length: int) -> int:
        """Take `length` units of the running time; returns where they begin."""
        if self.now + length >= 1 << c.TIME_BITS:
            self.map[:] = 0
            self.now = 1
        begin = self.now
        self.now += length
        return begin


class CentroidFinder:
    """Clusters and centroids of blocks, one after the other.

    table: `Geometry.table()`, one row per chip. calibration: where centroids are to have an energy.
    """

    def __init__(self, processing: Processing, table: Ints, calibration: Calibration | None = None) -> None:
        self.processing = processing
        self._energy = EnergySum(calibration) if calibration is not None and calibration.has_energy else None
        self._table = np.ascontiguousarray(table, np.int64)
        inner = inner_sides(self._table)
        self._scratch = Scratch(
            c.neighbourhood(processing), n_chips=len(self._table), inner=inner if inner.any() else None
        )

    def process(self, block: BlockArrays) -> None:
        """Fill the outputs of a block; hit columns and labels if the processing asks for hits."""
        centroid_block(block, self.processing, self._table, self._scratch, self.processing.hits, self._energy)


def centroid_block(
    block: BlockArrays,
    processing: Processing,
    table: Ints,
    scratch: Scratch,
    hits: bool = False,
    energy: EnergySum | None = None,
) -> None:
    """Find the clusters of a block and write its centroid columns; with `hits` also labels and hit columns."""
    finish_block(block)
    header = block.header
    header.has_energy = int(energy is not None)
    n = header.n_hits
    header.n_noise = header.n_clusters = header.n_centroids = header.n_small = header.n_small_hits = 0
    header.n_clustered = header.n_split = header.n_parts = 0
    if n == 0:
        return
    n_slots = n_found = _find_clusters(block, processing, scratch)
    if processing.split:
        n_slots = _split(block, processing, scratch, n_found)
    _write_centroids(block, processing, table, scratch, n_slots)
    if header.n_parts:
        flags = block.centroids["flags"]
        parts.flag_parts(n_found, header.n_parts, scratch.number, scratch.row_of_slot, _SPLIT, flags)
    if scratch.inner is not None:
        flags = block.centroids["flags"]
        flag_gaps(block.keys, n, scratch.slots, scratch.parent, scratch.row_of_slot, scratch.inner, flags)
    touches_forced_cut = bool(header.forced_cut or header.after_forced_cut)
    if hits or touches_forced_cut or energy is not None:
        find_slots(n, scratch.slots, scratch.parent, scratch.row_of_slot, block.labels)
    if touches_forced_cut:
        window = int(scratch.neighbourhood.reach.max())
        at_start, at_end = bool(header.after_forced_cut), bool(header.forced_cut)
        flags, shots = block.centroids["flags"], block.shot_first_hit
        flag_forced_cut(block.keys, shots, header.n_shots, block.labels, window, at_start, at_end, flags)
    scratch.clean(n_slots)
    if energy is not None:
        energy.write(block.keys, n, block.labels, header.n_centroids, block.energy)
    if hits:
        write_hits(block.keys, header.base_tick, *_shots(block), header.n_shots, table, *block.hits.values())


def _shots(block: BlockArrays) -> tuple[Ints, Ints, Ints]:
    return block.shot_first_hit, block.shot_number, block.shot_tick


def _find_clusters(block: BlockArrays, processing: Processing, scratch: Scratch) -> int:
    """Slots, parents and sums into the scratch. Returns the number of slots."""
    if processing.min_samples == 1:
        n_slots = _link(block, scratch)
        c.gather_components(n_slots, scratch.parent, scratch.sums)
        return n_slots
    return _find_dbscan_clusters(block, processing, scratch)


def _link(block: BlockArrays, scratch: Scratch) -> int:
    """Connected components by the fastest kernel that fits."""
    header, around = block.header, scratch.neighbourhood
    longest = int(around.reach.max())
    now = _running_time(block, scratch)
    if around.is_plus_cover:
        return c.link_by_pluses(
            block.keys,
            block.shot_first_hit,
            header.n_shots,
            longest,
            now,
            scratch.map,
            scratch.slots,
            scratch.parent,
            scratch.sums,
        )
    keys, firsts, n = block.keys, block.shot_first_hit, header.n_shots
    last, slots, parent, sums = scratch.map, scratch.slots, scratch.parent, scratch.sums
    if around.is_disc_2:
        return c.link_components_2px(keys, firsts, n, around.reach, now, last, slots, parent, sums)
    return c.link_components(keys, firsts, n, around.offsets, around.reach, now, last, slots, parent, sums)


def _running_time(block: BlockArrays, scratch: Scratch) -> int:
    """The running time of the block's first hit: what the map holds of blocks before is out of reach."""
    first, last = (int(block.keys[i] >> REL_TICK_SHIFT) for i in (0, block.header.n_hits - 1))
    longest = int(scratch.neighbourhood.reach.max())
    return scratch.advance(last - first + longest + 2) + longest + 1


def _find_dbscan_clusters(block: BlockArrays, processing: Processing, scratch: Scratch) -> int:
    header = block.header
    n, keys = header.n_hits, block.keys
    if processing.min_samples <= dbscan.PAIRED_MAX:
        _link_dense(block, processing.min_samples, scratch)
    else:
        _link_dense_twice(block, processing.min_samples, scratch)
    n_slots, header.n_noise = dbscan.gather_cores(
        keys,
        n,
        processing.min_samples,
        scratch.neighbours,
        scratch.tree,
        scratch.nearest,
        scratch.row_of_slot,
        scratch.slots,
        scratch.sums,
    )
    return int(n_slots)


def _link_dense(block: BlockArrays, min_samples: int, scratch: Scratch) -> None:
    """Core hits and their trees, nearest core hits of others: one pass over the map."""
    around, header, keys = scratch.neighbourhood, block.header, block.keys
    now, firsts, n = _running_time(block, scratch), block.shot_first_hit, header.n_shots
    last, before, pairs = scratch.map, scratch.before, scratch.pairs
    neighbours, tree, nearest, nearest2 = scratch.neighbours, scratch.tree, scratch.nearest, scratch.nearest2
    if around.is_disc_2:
        n_pairs = dbscan.link_dense_2px(
            keys, firsts, n, around.reach, min_samples, now, last, before, neighbours, tree, nearest, nearest2, pairs
        )
    else:
        n_pairs = dbscan.link_dense(
            keys,
            firsts,
            n,
            around.offsets,
            around.reach,
            min_samples,
            now,
            last,
            before,
            neighbours,
            tree,
            nearest,
            nearest2,
            pairs,
        )
    dbscan.link_waiting(keys, n_pairs, pairs, around.time_scale, min_samples, neighbours, tree, nearest, nearest2)


def _link_dense_twice(block: BlockArrays, min_samples: int, scratch: Scratch) -> None:
    """The same in two passes, for any `min_samples`."""
    around, header, keys = scratch.neighbourhood, block.header, block.keys
    dbscan.count_neighbours(
        keys,
        block.shot_first_hit,
        header.n_shots,
        around.offsets,
        around.reach,
        scratch.advance(header.n_hits),
        scratch.map,
        scratch.previous,
        scratch.neighbours,
    )
    dbscan.link_cores(
        keys,
        block.shot_first_hit,
        header.n_shots,
        around.offsets,
        around.reach,
        around.distance2,
        around.time_scale,
        min_samples,
        scratch.advance(header.n_hits),
        scratch.map,
        scratch.previous,
        scratch.neighbours,
        scratch.tree,
        scratch.nearest,
        scratch.nearest2,
    )


def _split(block: BlockArrays, processing: Processing, scratch: Scratch, n_slots: int) -> int:
    """Cut up clusters with several peaks. Returns the number of slots."""
    header, reach = block.header, parts.reach_of(processing)
    n, keys, slots, sums, ends = header.n_hits, block.keys, scratch.slots, scratch.sums, scratch.row_of_slot
    n_suspects = parts.find_suspects(
        keys, n, n_slots, reach.radius2, reach.ticks, scratch.parent, sums, slots, ends, scratch.members
    )
    if n_suspects == 0:
        return n_slots
    header.n_split, header.n_parts = parts.split_suspects(
        keys, n_slots, reach.radius2, reach.ticks, reach.scale, sums, ends, scratch.members, scratch.part, slots
    )
    if header.n_split == 0:
        return n_slots
    return int(parts.renumber(keys, n, n_slots, header.n_parts, slots, scratch.number, scratch.parent, sums))


def _write_centroids(block: BlockArrays, processing: Processing, table: Ints, scratch: Scratch, n_slots: int) -> None:
    header = block.header
    n_rows, n_small, n_small_hits, n_special = list_rows(
        block.keys,
        n_slots,
        scratch.parent,
        scratch.sums,
        processing.min_size,
        scratch.rows,
        scratch.row_of_slot,
    )
    if not sort_rows(scratch.rows, n_rows):
        scratch.rows[:n_rows].sort()
    is_weighted = processing.centroid_time is CentroidTime.WEIGHTED
    if is_weighted:
        _sort_by_mean_time(block, scratch, n_slots, n_rows)
    write_rows(
        block.keys,
        header.base_tick,
        *_shots(block),
        scratch.rows,
        n_rows,
        scratch.sums,
        table,
        scratch.row_of_slot,
        *block.centroids.values(),
    )
    if is_weighted:
        delays_ns = scratch.delays[scratch.rows[:n_rows] & c.SLOT_MASK] * 25 / 96
        block.centroids["toa"][:n_rows] += delays_ns
        block.centroids["tof"][:n_rows] += delays_ns
    header.n_centroids = n_rows
    header.n_small = n_small
    header.n_small_hits = n_small_hits
    header.n_clusters = n_rows + n_small
    header.n_clustered = int(block.centroids["size"][:n_rows].sum())  # counted, not inferred: the ledger compares
    if n_special:
        find_slots(header.n_hits, scratch.slots, scratch.parent, scratch.row_of_slot, block.labels)
        columns = block.centroids
        sum_again(
            block.keys,
            header.n_hits,
            block.labels,
            table,
            columns["x"],
            columns["y"],
            columns["tot"],
            columns["size"],
            columns["flags"],
            n_rows,
            scratch.again,
        )


def _sort_by_mean_time(block: BlockArrays, scratch: Scratch, n_slots: int, n_rows: int) -> None:
    """Rows into the order of (mean time, first hit)."""
    arrays = scratch.slots, scratch.parent, scratch.sums, scratch.weights, scratch.delays
    mean_delays(block.keys, block.header.n_hits, n_slots, *arrays)
    rows = scratch.rows[:n_rows]
    slots = rows & c.SLOT_MASK
    toa = (block.header.base_tick + (rows >> REL_TICK_SHIFT)) * 25 / 96 + scratch.delays[slots] * 25 / 96
    rows[:] = rows[np.lexsort((slots, toa))]
