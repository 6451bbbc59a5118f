"""Which centroids lie in a gate, and how many there are per shot, with the standard error of that.

Centroids come in blocks, in the order of their shots. `Condition` is a gate ready to be applied; `Tally` counts what it
lets through. Windows are half-open: low <= value < high; NaN lies in none.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from ..config import Gate, MassCalibration
from ..config.gates import Circle, Polygon, Window
from ..jit import kernel

Mask = npt.NDArray[np.bool_]
Array = npt.NDArray[Any]
Read = Callable[[str], Array]
"""Gives a column of the block."""

_OPEN_SHOT: Final = 0
_OPEN_COUNT: Final = 1
_ROWS: Final = 2
_IN_SHOTS: Final = 3
_SQUARES: Final = 4
_STATE: Final = 5


@kernel
def keep_within(keep: Mask, values: Array, low: float, high: float) -> int:
    """Take rows out of `keep` whose value is not in [low, high). Returns how many stay."""
    n = 0
    for i in range(values.shape[0]):
        kept = keep[i] & (values[i] >= low) & (values[i] < high)
        keep[i] = kept
        n += kept
    return n


@kernel
def keep_in_circle(keep: Mask, x: Array, y: Array, x0: float, y0: float, radius: float) -> int:
    """Take rows out of `keep` that are not nearer to (x0, y0) than `radius`. Returns how many stay."""
    n = 0
    for i in range(x.shape[0]):
        dx, dy = x[i] - x0, y[i] - y0
        kept = keep[i] & (dx * dx + dy * dy < radius * radius)
        keep[i] = kept
        n += kept
    return n


@kernel
def keep_in_polygon(keep: Mask, x: Array, y: Array, corners: Array) -> int:
    """Take rows out of `keep` from which a ray crosses the outline an even number of times. Returns how many stay."""
    n = 0
    for i in range(x.shape[0]):
        if not keep[i]:
            continue
        inside = False
        before = corners.shape[0] - 1
        for corner in range(corners.shape[0]):
            x0, y0, x1, y1 = corners[before, 0], corners[before, 1], corners[corner, 0], corners[corner, 1]
            if (y0 > y[i]) != (y1 > y[i]) and x[i] < x0 + (y[i] - y0) * (x1 - x0) / (y1 - y0):
                inside = not inside
            before = corner
        keep[i] = inside
        n += inside
    return n


@kernel
def keep_valid(keep: Mask, shot: Array, valid: Array, first: int) -> int:
    """Take rows out of `keep` whose shot is not marked in `valid`, which begins at shot `first`."""
    n = 0
    known, marked = np.int64(-1), False
    for i in range(shot.shape[0]):
        if shot[i] != known:  # rows of a shot come together
            known = shot[i]
            place = known - first
            marked = known >= 0 and 0 <= place < valid.shape[0] and valid[place] != 0
        kept = keep[i] & marked
        keep[i] = kept
        n += kept
    return n


@kernel
def shot_span(shot: Array) -> tuple[int, int]:
    """First shot and shot after the last of a block; rows outside a shot do not count. Equal when there is none."""
    first, stop = -1, -1
    for i in range(shot.shape[0]):
        number = shot[i]
        if number >= 0:
            first = number if first < 0 or number < first else first
            stop = number + 1 if number >= stop else stop
    return first, stop


@kernel
def count_rows(keep: Mask, shot: Array, state: Array) -> None:
    """Add kept rows to a tally. A shot's square is added when the next shot begins."""
    open_shot, open_count = state[_OPEN_SHOT], state[_OPEN_COUNT]
    for i in range(shot.shape[0]):
        if not keep[i]:
            continue
        state[_ROWS] += 1
        if shot[i] < 0:
            continue
        if shot[i] != open_shot:
            state[_IN_SHOTS] += open_count
            state[_SQUARES] += open_count * open_count
            open_shot, open_count = shot[i], 0
        open_count += 1
    state[_OPEN_SHOT], state[_OPEN_COUNT] = open_shot, open_count


@dataclass(frozen=True)
class Condition:
    """A gate as the kernels want it."""

    windows: tuple[tuple[str, float, float], ...] = ()
    circle: Circle | None = None
    polygon: Polygon | None = None

    @classmethod
    def of(cls, gate: Gate, calibration: MassCalibration | None = None) -> Self:
        """A gate with its windows in the order in which few rows stay soonest."""
        return cls._from(gate.windows(calibration), gate.circle, gate.polygon)

    @classmethod
    def of_windows(cls, windows: dict[str, Window]) -> Self:
        """Windows by column."""
        return cls._from(windows, None, None)

    @classmethod
    def _from(cls, windows: dict[str, Window], circle: Circle | None, polygon: Polygon | None) -> Self:
        bounds = tuple(
            (column, -math.inf if low is None else float(low), math.inf if high is None else float(high))
            for column, (low, high) in windows.items()
        )
        return cls(bounds, circle, polygon)

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that it looks at."""
        region = ("x", "y") if self.circle or self.polygon else ()
        return tuple(dict.fromkeys((*(column for column, _, _ in self.windows), *region)))

    def narrow(self, keep: Mask, read: Read) -> int:
        """Take rows out of `keep` that are not in the gate. Returns how many stay; when none does it reads no more."""
        left = len(keep)
        for column, low, high in self.windows:
            left = keep_within(keep, read(column), low, high)
            if not left:
                return 0
        if self.circle is not None:
            left = keep_in_circle(keep, read("x"), read("y"), *map(float, self.circle))
        if self.polygon is not None:
            left = keep_in_polygon(keep, read("x"), read("y"), np.asarray(self.polygon, dtype=np.float64))
        return left


class GateCounts(NamedTuple):
    """What lies in a gate. Per shot and errors are NaN where there are too few shots to tell."""

    counts: int
    shots: int
    counts_per_shot: float
    error: float
    """Standard error of `counts_per_shot`: from the spread between the shots, sqrt(variance / shots)."""
    counts_error: float
    """Standard error of `counts`: of all shots together; without shots sqrt(counts)."""


class Tally:
    """Counts rows, shot by shot. Rows of a shot must come together, in as many pieces as one likes."""

    def __init__(self) -> None:
        self._state = np.zeros(_STATE, np.int64)
        self._state[_OPEN_SHOT] = -1

    def add(self, keep: Mask, shot: npt.NDArray[np.int64]) -> None:
        """Count the rows of a block that `keep` marks."""
        count_rows(keep, shot, self._state)

    def result(self, shots: int) -> GateCounts:
        """What was counted in `shots` shots, the empty ones included."""
        last = int(self._state[_OPEN_COUNT])
        rows = int(self._state[_ROWS])
        in_shots = int(self._state[_IN_SHOTS]) + last
        squares = int(self._state[_SQUARES]) + last * last
        return gate_counts(rows, in_shots, squares, shots)


def gate_counts(rows: int, in_shots: int, squares: int, shots: int) -> GateCounts:
    """rows: all; in_shots: those within a shot; squares: sum over the shots of their rows squared."""
    if shots < 1:
        return GateCounts(rows, shots, math.nan, math.nan, math.sqrt(rows))
    mean = in_shots / shots
    if shots < 2:
        return GateCounts(rows, shots, mean, math.nan, math.sqrt(rows))
    # integers: the difference of two large numbers must not lose the small one
    variance = (squares * shots - in_shots * in_shots) / (shots * (shots - 1))
    error = math.sqrt(variance / shots)
    return GateCounts(rows, shots, mean, error, error * shots)


def conditions(gates: Iterable[Gate], calibration: MassCalibration | None = None) -> dict[str, Condition]:
    """The conditions of gates, by name."""
    return {gate.name: Condition.of(gate, calibration) for gate in gates}
