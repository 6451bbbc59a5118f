"""The losses of an acquisition settled against its shots in the event file: which ones are not valid, and a table."""

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from ..clock import NS_PER_COUNT, TICKS_PER_COUNT
from ..files.event_file import LOSSES, EventFile
from .losses import ALWAYS, DOUBLE_TRIGGER, MISSING_TRIGGER, PAUSE, LossSpan

READ_AT_ONCE: Final = 1 << 22
"""Shots whose times are read whole; of more, those are looked up that are needed."""
TAKE_NO_SHOT: Final = (PAUSE, MISSING_TRIGGER, DOUBLE_TRIGGER)
"""Causes of rows that take `valid` from no shot here."""
LOOKED_UP: Final = 1 << 16
"""The same where two times are looked for."""


def invalidate_shots(
    file: EventFile, losses: Sequence[LossSpan], shots: tuple[int, int], tof_max_ns: float | None
) -> tuple[list[int], int]:
    """Take `valid` from shots that a loss may touch. shots: rows [start, stop) of the acquisition.

    A pause takes none, and those that a missing or double trigger touches have none any more.

    A shot lasts to the next one, at most to tof_max_ns. Returns (shots touched by each loss, shots that were valid).
    """
    first, stop = shots
    times = _times(file, first, stop)
    places = [_touched(times, stop - first, loss, tof_max_ns) for loss in losses]
    valid, invalidated = file.column("shots", "valid"), 0
    taking = [place for place, loss in zip(places, losses, strict=True) if loss.cause not in TAKE_NO_SHOT]
    for low, high in _joined(taking):
        for start in range(first + low, first + high, READ_AT_ONCE):
            rows = slice(start, min(start + READ_AT_ONCE, first + high))
            n_valid = int(np.count_nonzero(valid[rows]))
            if n_valid:
                valid[rows] = 0
                invalidated += n_valid
    return [max(0, high - low) for low, high in places], invalidated


def shots_outside(
    file: EventFile, shutter: tuple[int | None, int | None], shots: tuple[int, int], tof_max_ns: float | None
) -> tuple[int, int]:
    """Take `valid` from shots that are not wholly inside the open shutter. shots: rows [start, stop) of an acquisition.

    shutter: since when and until when it was open (ticks); None: unknown. Most such shots are known before they are
    written. Returns (how many there are, how many of them were valid).
    """
    first, stop = shots
    low, high = inside(_times(file, first, stop, LOOKED_UP), stop - first, shutter, tof_max_ns)
    valid, invalidated = file.column("shots", "valid"), 0
    for rows in (slice(first, first + low), slice(first + high, stop)):
        for start in range(rows.start, rows.stop, READ_AT_ONCE):
            some = slice(start, min(start + READ_AT_ONCE, rows.stop))
            n_valid = int(np.count_nonzero(valid[some]))
            if n_valid:
                valid[some] = 0
                invalidated += n_valid
    return stop - first - (high - low), invalidated


def inside(times: Any, n: int, shutter: tuple[int | None, int | None], tof_max_ns: float | None) -> tuple[int, int]:
    """Places [low, high) of the shots that are wholly inside the open shutter."""
    opens, closes = shutter
    low = 0 if opens is None else bisect_left(times, to_ns(opens), 0, n)
    if closes is None:
        return low, n
    high_ns = to_ns(closes)
    high = bisect_right(times, high_ns, 0, n)
    # All but the last of those have ended when the next one came.
    if high and (tof_max_ns is None or times[high - 1] + tof_max_ns > high_ns):
        high -= 1
    return low, max(low, high)


def _joined(places: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """The same places, those that touch as one: a file is written by few large pieces rather than many small ones."""
    joined: list[tuple[int, int]] = []
    for low, high in sorted(place for place in places if place[1] > place[0]):
        if joined and low <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(high, joined[-1][1]))
        else:
            joined.append((low, high))
    return joined


def _times(file: EventFile, first: int, stop: int, at_once: int = READ_AT_ONCE) -> Any:
    """The times of shots, by their place in the acquisition (ns)."""
    column = file.column("shots", "time")
    return column[first:stop] if stop - first <= at_once else _Later(column, first)


class _Later:
    """A part of a column from `first` on, read where it is asked for."""

    def __init__(self, column: Any, first: int) -> None:
        self._column = column
        self._first = first

    def __getitem__(self, place: int) -> float:
        return float(self._column[self._first + place])


def _touched(times: Any, n: int, loss: LossSpan, tof_max_ns: float | None) -> tuple[int, int]:
    """Places [low, high) of the shots that last into [loss.low, loss.high]. An edge that is there ends the span."""
    low_ns, high_ns = to_ns(loss.low_ticks), to_ns(loss.high_ticks)
    high = bisect_left(times, high_ns, 0, n) if loss.cause == "tdc" else bisect_right(times, high_ns, 0, n)
    low = max(0, bisect_right(times, low_ns, 0, n) - 1)  # the shot that lasts over its beginning
    if low < high and tof_max_ns is not None and times[low] + tof_max_ns <= low_ns:
        low += 1
    return low, high


def to_ns(ticks: int) -> float:
    """-inf and inf where nothing limits a loss."""
    if abs(ticks) >= ALWAYS:
        return float("inf") if ticks > 0 else float("-inf")
    return ticks * NS_PER_COUNT / TICKS_PER_COUNT


def loss_columns(acquisition: int, losses: Sequence[LossSpan], shots: Sequence[int]) -> dict[str, npt.NDArray[Any]]:
    """Rows of /entry/losses. shots: how many each touches."""
    rows = [
        (acquisition, loss.cause.encode(), loss.chip, loss.amount, to_ns(loss.low_ticks), to_ns(loss.high_ticks), n)
        for loss, n in zip(losses, shots, strict=True)
    ]
    table = np.array(rows, [(column.name, column.dtype) for column in LOSSES])
    return {column.name: table[column.name] for column in LOSSES}
