"""Centroids as other programs have events: a pixel and a time of flight each, and where each pulse begins."""

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from ..jit import kernel

NO_SHOT: Final = -1


@kernel
def events_of(
    x: npt.NDArray[Any],
    y: npt.NDArray[Any],
    tof: npt.NDArray[Any],
    rows: int,
    columns: int,
    ids: npt.NDArray[np.uint32],
    offsets: npt.NDArray[np.float32],
) -> None:
    """Pixel number, row * columns + column, of the pixel nearest to each point, and its time of flight (ns) in µs.

    What rounding puts outside of the picture belongs to its rim.
    """
    half, one = np.float32(0.5), np.float32(1.0)
    last_column, last_row = np.float32(columns) - one, np.float32(rows) - one
    zero = np.float32(0.0)
    for i in range(x.shape[0]):
        column = np.uint32(min(max(np.floor(x[i] + half), zero), last_column))
        row = np.uint32(min(max(np.floor(y[i] + half), zero), last_row))
        ids[i] = row * columns + column
        offsets[i] = np.float32(tof[i] * 1e-3)


@kernel
def pulses_of(
    shot: npt.NDArray[np.int64], before: int, last: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], int]:
    """Shot and first row of each pulse that begins here: a shot, or rows outside of any (`NO_SHOT`).

    A shot without rows is a pulse too; it begins where the next one does. before: shot of the row before the first;
    last: the highest until then. Returns the highest until now, too.
    """
    n, known, open_shot = 0, last, before
    for i in range(shot.shape[0]):
        number = shot[i]
        if number != open_shot:
            open_shot = number
            n += 1 if number <= known else number - known
            known = max(known, number)
    numbers, rows = np.empty(n, np.int64), np.empty(n, np.int64)
    n, known, open_shot = 0, last, before
    for i in range(shot.shape[0]):
        number = shot[i]
        if number != open_shot:
            open_shot = number
            for one in range(min(known + 1, number), number + 1):
                numbers[n], rows[n] = one, i
                n += 1
            known = max(known, number)
    return numbers, rows, known
