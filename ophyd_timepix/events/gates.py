"""Which centroids lie in a gate, and how many there are per shot, with the standard error of that.

Centroids come in blocks, in the order of their shots. `Condition` is a gate ready to be applied; `Tally` counts what it
lets through. Windows are half-open: low <= value < high; NaN lies in none.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt

from ..config import Gate, MassCalibration
from ..config.gates import Polygon, Ring, Window
from ..jit import kernel
from .tallies import IN_SHOTS, OPEN_COUNT, OPEN_SHOT, ROWS, SQUARES, TALLY_FIELDS, GateCounts, counted

Array = npt.NDArray[Any]
Rows = npt.NDArray[np.int32]
"""Rows of a block, ascending: what is left of it. Columns are looked at only there."""
Read = Callable[[str], Array]
"""Gives a column of the block."""

_OPEN_SHOT: Final = OPEN_SHOT
_OPEN_COUNT: Final = OPEN_COUNT
_ROWS: Final = ROWS
_IN_SHOTS: Final = IN_SHOTS
_SQUARES: Final = SQUARES


@kernel
def select_within(rows: Rows, values: Array, low: float, high: float, into: Rows) -> int:
    """Rows whose value is in [low, high). Returns how many, here and below."""
    n = 0
    for row in rows:
        into[n] = row
        n += (values[row] >= low) & (values[row] < high)  # no branch: one row in two is the worst that there is
    return n


@kernel
def select_all_within(rows: Rows, values: Array, low: float, high: float, into: Rows) -> int:
    """The same for all rows of a block: `rows` is as long as `values`."""
    n = 0
    for row in range(values.shape[0]):
        into[n] = row
        n += (values[row] >= low) & (values[row] < high)
    return n


@kernel
def select_in_ring(rows: Rows, x: Array, y: Array, x0: float, y0: float, inner: float, outer: float, into: Rows) -> int:
    """Rows with inner^2 <= (x - x0)^2 + (y - y0)^2 < outer^2 (px). A circle has inner = 0. Returns how many."""
    n = 0
    for row in rows:
        dx, dy = x[row] - x0, y[row] - y0
        squared = dx * dx + dy * dy
        into[n] = row
        n += (squared >= inner * inner) & (squared < outer * outer)
    return n


@kernel
def select_in_polygon(rows: Rows, x: Array, y: Array, corners: Array, into: Rows) -> int:
    """Rows from which a ray crosses the outline an odd number of times. Returns how many."""
    n = 0
    for row in rows:
        inside = False
        before = corners.shape[0] - 1
        for corner in range(corners.shape[0]):
            x0, y0, x1, y1 = corners[before, 0], corners[before, 1], corners[corner, 0], corners[corner, 1]
            if (y0 > y[row]) != (y1 > y[row]) and x[row] < x0 + (y[row] - y0) * (x1 - x0) / (y1 - y0):
                inside = not inside
            before = corner
        into[n] = row
        n += inside
    return n


@kernel
def select_valid(rows: Rows, shot: Array, valid: Array, first: int, into: Rows) -> int:
    """Rows whose shot is marked in `valid`, which begins at shot `first`. Returns how many."""
    n = 0
    known, marked = np.int64(-1), False
    for row in rows:
        if shot[row] != known:  # rows of a shot come together
            known = shot[row]
            place = known - first
            marked = known >= 0 and 0 <= place < valid.shape[0] and valid[place] != 0
        into[n] = row
        n += marked
    return n


@kernel
def shot_span(rows: Rows, shot: Array) -> tuple[int, int]:
    """First shot and shot after the last that rows belong to; rows outside a shot do not count. Equal if none does."""
    first, stop = -1, -1
    for row in rows:
        number = shot[row]
        if number >= 0:
            first = number if first < 0 or number < first else first
            stop = number + 1 if number >= stop else stop
    return first, stop


@kernel
def count_rows(rows: Rows, shot: Array, state: Array) -> None:
    """Add rows to a tally. A shot's square is added when the next shot begins."""
    open_shot, open_count = state[_OPEN_SHOT], state[_OPEN_COUNT]
    for row in rows:
        number = shot[row]
        if number < 0:
            continue
        if number != open_shot:
            state[_IN_SHOTS] += open_count
            state[_SQUARES] += open_count * open_count
            open_shot, open_count = number, 0
        open_count += 1
    state[_ROWS] += rows.shape[0]
    state[_OPEN_SHOT], state[_OPEN_COUNT] = open_shot, open_count


@dataclass(frozen=True)
class Condition:
    """A gate as the kernels want it."""

    windows: tuple[tuple[str, float, float], ...] = ()
    ring: Ring | None = None
    polygon: Polygon | None = None

    @classmethod
    def of(cls, gate: Gate, calibration: MassCalibration | None = None) -> Self:
        """A gate with its windows in the order in which few rows stay soonest."""
        return cls._from(gate.windows(calibration), gate.round, gate.polygon)

    @classmethod
    def of_windows(cls, windows: dict[str, Window]) -> Self:
        """Windows by column."""
        return cls._from(windows, None, None)

    @classmethod
    def _from(cls, windows: dict[str, Window], ring: Ring | None, polygon: Polygon | None) -> Self:
        bounds = tuple(
            (column, -math.inf if low is None else float(low), math.inf if high is None else float(high))
            for column, (low, high) in windows.items()
        )
        return cls(bounds, ring, polygon)

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that it looks at."""
        region = ("x", "y") if self.ring or self.polygon else ()
        return tuple(dict.fromkeys((*(column for column, _, _ in self.windows), *region)))

    def select(self, rows: Rows, read: Read) -> Rows:
        """Those of `rows` that are in the gate. When none is left it reads no more columns."""
        for column, low, high in self.windows:
            if not len(rows):
                return rows
            values = read(column)
            kernel_ = select_within if len(rows) < len(values) else select_all_within
            rows = _select(kernel_, rows, values, low, high)
        if self.ring is not None and len(rows):
            rows = _select(select_in_ring, rows, read("x"), read("y"), *map(float, self.ring))
        if self.polygon is not None and len(rows):
            corners = np.asarray(self.polygon, dtype=np.float64)
            rows = _select(select_in_polygon, rows, read("x"), read("y"), corners)
        return rows


def _select(kernel_: Callable[..., int], rows: Rows, *arguments: object) -> Rows:
    into = np.empty_like(rows)
    return into[: kernel_(rows, *arguments, into)]


def rows_of_valid_shots(rows: Rows, shot: Array, valid: Array, first: int) -> Rows:
    """Those of `rows` whose shot is marked in `valid`, which begins at shot `first`."""
    return _select(select_valid, rows, shot, valid, first)


class Tally:
    """Counts rows, shot by shot. Rows of a shot must come together, in as many pieces as one likes."""

    def __init__(self, state: npt.NDArray[np.int64] | None = None) -> None:
        """state: goes on with these numbers, in place."""
        self._state = np.empty(TALLY_FIELDS, np.int64) if state is None else state
        if state is None:
            self.cleared()

    def cleared(self) -> Self:
        """Nothing counted."""
        self._state[:] = 0
        self._state[_OPEN_SHOT] = -1
        return self

    def add(self, rows: Rows, shot: npt.NDArray[np.int64]) -> None:
        """Count rows of a block, whose column `shot` this is."""
        count_rows(rows, shot, self._state)

    def result(self, shots: int) -> GateCounts:
        """What was counted in `shots` shots, the empty ones included."""
        return counted(self._state, shots)


def conditions(gates: Iterable[Gate], calibration: MassCalibration | None = None) -> dict[str, Condition]:
    """The conditions of gates, by name."""
    return {gate.name: Condition.of(gate, calibration) for gate in gates}
