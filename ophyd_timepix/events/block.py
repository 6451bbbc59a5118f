"""A block: hits that are handled together, with what belongs to them, in one flat piece of memory.

The memory is given from outside (shared between processes, or an ordinary buffer); `BlockArrays` lays views over it.
The builder fills the inputs, centroiding fills the outputs, the writer takes the columns. A block holds no pointer and
needs no pickling.

Inputs                                  meaning
--------------------------------------  -----------------------------------------------------------------------------
header                                  `BlockHeader`
keys[n_hits]                            hits, ascending: rel_tick << 28 | chip << 26 | y << 18 | x << 10 | ToT, so that
                                        the order is (time, chip, y, x, ToT); tick = header.base_tick + rel_tick. They
                                        are in no order yet in a block that is not finished (header.unfinished)
shot_first_hit[n_shots + 1]             the block's hits by shot (shots without a hit are left out)
shot_number[n_shots], shot_tick[...]    number -1: before the first trigger
closed_tick[n_closed], ...              rows of /entry/shots, in order: row = shot number
edge_tick[n_edges], ...                 rows of /entry/triggers, in time order, repeats of several chips removed

Outputs: `labels`, centroid columns, hit columns. Closed shots and edges travel with the hits, yet not hit by hit: a
block may hold edges later than its hits, or only edges.

This module knows no kernel and no process.
"""

from typing import Any, Final, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from .columns import CENTROIDS, ENERGY, HITS

REL_TICK_SHIFT: Final = 28
REL_TICK_MIN: Final = 1 << 34
REL_TICK_MAX: Final = (1 << 35) - (1 << 24)
"""Relative ticks lie in [REL_TICK_MIN, REL_TICK_MAX): 4.47 s. Keys are then positive in int64, and the same 64 bits
read as float64 are positive, finite and not denormal, hence in the same order: floats sort faster."""
CHIP_SHIFT: Final = 26
Y_SHIFT: Final = 18
X_SHIFT: Final = 10
PIXEL_MASK: Final = (1 << REL_TICK_SHIFT) - 1

_ALIGNMENT: Final = 64
_HEADER_FIELDS: Final = 32

Array = npt.NDArray[Any]
Columns = dict[str, Array]


class Capacity(NamedTuple):
    """Rows that a block can hold."""

    hits: int = 1 << 20
    shots: int = 1 << 16
    edges: int = 1 << 16


class _Field:
    """A named int64 of the header."""

    def __init__(self, index: int) -> None:
        self.index = index

    def __get__(self, header: "BlockHeader", owner: type | None = None) -> int:
        return int(header.values[self.index])

    def __set__(self, header: "BlockHeader", value: int) -> None:
        header.values[self.index] = value


class BlockHeader:
    """The counts and places of a block, as attributes over an int64 array."""

    sequence = _Field(0)
    """Number of the block in the run."""
    acquisition = _Field(1)
    last = _Field(2)
    """1: the last block of its acquisition."""
    base_tick = _Field(3)
    forced_cut = _Field(4)
    """1: the block ends within a chain of hits, at a forced cut."""
    after_forced_cut = _Field(5)
    """1: the block begins at a forced cut."""

    n_hits = _Field(6)
    n_shots = _Field(7)
    """Shots with hits in this block (a run of hits before the first trigger counts as one)."""
    n_closed = _Field(8)
    first_closed = _Field(9)
    """Row of the block's first closed shot."""
    n_valid = _Field(10)
    """Valid ones among the closed shots."""
    n_edges = _Field(11)
    first_edge = _Field(12)
    n_filtered = _Field(13)
    """Hits that the ToF filter removed; they are not among `n_hits`."""
    n_before_first_trigger = _Field(14)

    n_clusters = _Field(15)
    """All clusters, the small ones included: n_centroids + n_small."""
    n_centroids = _Field(16)
    n_small = _Field(17)
    """Clusters below `min_size`."""
    n_noise = _Field(18)
    """Hits in no cluster."""
    n_small_hits = _Field(19)
    """Hits in clusters below `min_size`."""
    n_clustered = _Field(20)
    """Hits in clusters that became centroids: n_hits = n_clustered + n_noise + n_small_hits."""
    n_split = _Field(22)
    """Clusters that were cut up."""
    n_parts = _Field(23)
    """Clusters that they became; they are among `n_clusters`."""

    unfinished = _Field(26)
    """1: hits are still to be sorted and shots to be found, see `finish`."""
    n_triggers = _Field(27)
    """Until then: triggers, in `shot_tick`."""
    first_trigger = _Field(28)
    """The number of the first of them."""

    has_energy = _Field(25)
    """1: centroids have an energy."""
    infers = _Field(24)
    """1: shots say whether their trigger was put in."""

    def __init__(self, values: npt.NDArray[np.int64]) -> None:
        self.values = values

    def clear(self) -> None:
        """All fields to 0."""
        self.values[:] = 0

    def as_dict(self) -> dict[str, int]:
        """Every field by name."""
        return {name: getattr(self, name) for name, field in vars(type(self)).items() if isinstance(field, _Field)}


class BlockArrays:
    """Views over one buffer. `BlockArrays()` makes a buffer of its own."""

    def __init__(self, buffer: memoryview | None = None, capacity: Capacity = Capacity()) -> None:  # noqa: B008
        if buffer is None:
            buffer = np.empty(self.nbytes(capacity), np.uint8).data
        if buffer.nbytes < self.nbytes(capacity):
            raise ValueError(f"a block takes {self.nbytes(capacity)} bytes, the buffer has {buffer.nbytes}")
        self.capacity = capacity
        views = iter(_views(buffer, capacity))
        self.header = BlockHeader(next(views))
        self.keys: npt.NDArray[np.int64] = next(views)
        self.shot_first_hit: npt.NDArray[np.int64] = next(views)
        self.shot_number: npt.NDArray[np.int64] = next(views)
        self.shot_tick: npt.NDArray[np.int64] = next(views)
        self.closed_tick: npt.NDArray[np.int64] = next(views)
        self.closed_valid: npt.NDArray[np.uint8] = next(views)
        self.closed_inferred: npt.NDArray[np.uint8] = next(views)
        self.edge_tick: npt.NDArray[np.int64] = next(views)
        self.edge_input: npt.NDArray[np.uint8] = next(views)
        self.edge_falling: npt.NDArray[np.uint8] = next(views)
        self.edge_counter: npt.NDArray[np.uint16] = next(views)
        self.labels: npt.NDArray[np.int32] = next(views)
        self.centroids: Columns = {column.name: next(views) for column in CENTROIDS}
        self.energy: npt.NDArray[np.float32] = next(views)
        self.hits: Columns = {column.name: next(views) for column in HITS if column.name != "cluster"}

    @classmethod
    def over(cls, buffer: memoryview, capacity: Capacity = Capacity()) -> Self:  # noqa: B008
        """Lay views over `buffer`, which must have `nbytes(capacity)` bytes."""
        return cls(buffer, capacity)

    @staticmethod
    def nbytes(capacity: Capacity = Capacity()) -> int:  # noqa: B008
        """Bytes that a block takes. Memory that is never touched costs nothing: blocks are seldom full."""
        return sum(_padded(rows * np.dtype(dtype).itemsize) for rows, dtype in _layout(capacity))

    def centroid_columns(self) -> Columns:
        """The block's rows of /entry/centroids (views)."""
        n = self.header.n_centroids
        columns = {name: column[:n] for name, column in self.centroids.items()}
        return columns | ({"energy": self.energy[:n]} if self.header.has_energy else {})

    def hit_columns(self, first_row: int) -> Columns:
        """The block's rows of /entry/hits; `first_row` is the file's row of the block's first centroid.

        The block must have been centroided with `hits`.
        """
        n = self.header.n_hits
        columns: Columns = {name: column[:n] for name, column in self.hits.items()}
        cluster = self.labels[:n].astype(np.int64)
        cluster[cluster >= 0] += first_row
        return columns | {"cluster": cluster}

    def shot_columns(self) -> Columns:
        """The block's rows of /entry/shots."""
        n = self.header.n_closed
        columns: Columns = {"time": _ns(self.closed_tick[:n]), "valid": self.closed_valid[:n]}
        return columns | ({"inferred": self.closed_inferred[:n]} if self.header.infers else {})

    def trigger_columns(self) -> Columns:
        """The block's rows of /entry/triggers."""
        n = self.header.n_edges
        return {
            "time": _ns(self.edge_tick[:n]),
            "channel": self.edge_input[:n],
            "edge": self.edge_falling[:n],
            "counter": self.edge_counter[:n],
        }


def _ns(ticks: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """`clock.ticks_to_ns` for arrays."""
    return (ticks * 25) / 96


def _padded(n_bytes: int) -> int:
    return -(-n_bytes // _ALIGNMENT) * _ALIGNMENT


def _layout(capacity: Capacity) -> list[tuple[int, str]]:
    """(rows, dtype) of each array, in the order of the memory."""
    hits, shots, edges = capacity
    return [
        (_HEADER_FIELDS, "<i8"),
        (hits, "<i8"),
        (shots + 1, "<i8"),
        (shots, "<i8"),
        (shots, "<i8"),
        (shots, "<i8"),
        (shots, "<u1"),
        (shots, "<u1"),
        (edges, "<i8"),
        (edges, "<u1"),
        (edges, "<u1"),
        (edges, "<u2"),
        (hits, "<i4"),
        *((hits, column.dtype) for column in CENTROIDS),
        (hits, ENERGY.dtype),
        *((hits, column.dtype) for column in HITS if column.name != "cluster"),
    ]


def _views(buffer: memoryview, capacity: Capacity) -> list[Array]:
    memory = np.frombuffer(buffer, np.uint8)
    views: list[Array] = []
    offset = 0
    for rows, dtype in _layout(capacity):
        n_bytes = rows * np.dtype(dtype).itemsize
        views.append(memory[offset : offset + n_bytes].view(dtype))
        offset += _padded(n_bytes)
    return views
