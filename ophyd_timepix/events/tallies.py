"""What is counted in a gate, as numbers in an array, and what they say. Cheap to import: no kernels."""

import math
from typing import Any, Final, NamedTuple

import numpy.typing as npt

TALLY_FIELDS: Final = 5
"""Numbers of a gate; their places:"""
OPEN_SHOT: Final = 0
OPEN_COUNT: Final = 1
"""Rows of that shot so far."""
ROWS: Final = 2
IN_SHOTS: Final = 3
"""Those within a shot, the open one not included."""
SQUARES: Final = 4
"""Sum over these shots of their rows squared."""


class GateCounts(NamedTuple):
    """What lies in a gate. Per shot and errors are NaN where there are too few shots to tell."""

    counts: int
    shots: int
    counts_per_shot: float
    error: float
    """Standard error of `counts_per_shot`: from the spread between the shots, sqrt(variance / shots)."""
    counts_error: float
    """Standard error of `counts`: of all shots together; without shots sqrt(counts)."""


def counted(state: npt.NDArray[Any], shots: int) -> GateCounts:
    """What the numbers of a gate say of `shots` shots, the empty ones included."""
    last = int(state[OPEN_COUNT])
    return gate_counts(int(state[ROWS]), int(state[IN_SHOTS]) + last, int(state[SQUARES]) + last * last, shots)


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
