"""Whether an event file and one that was made anew from its recording tell the same run.

They need not have the same end. A killed session may leave a recording that lacks words which are in the event file
already: then the last rows made of it differ, because clusters lack hits and the last shots are not whole.

Nor need they agree on which shots are valid: what was lost on the way shows at the end of an acquisition, and a session
may have been killed before that end, or the end be cut off the recording.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import h5py
import numpy as np
import numpy.typing as npt

from ..config import Processing
from ..files.reader import open_event_file

STEP_ROWS: Final = 1 << 20
TIMES: Final = {"triggers": "time", "shots": "time", "centroids": "toa"}
"""The tables that are compared, and which column is their time."""
VALID: Final = "valid"
_TAIL_ROWS: Final = 1000


@dataclass(frozen=True)
class Difference:
    """The first row that two files have differently."""

    table: str
    row: int
    time_ns: float
    """Of the row; of a shot, when it ends."""

    def __str__(self) -> str:
        return f"row {self.row:,} of {self.table}, {self.time_ns / 1e9:.6f} s after the timer's zero"


def is_beginning(old: Path, new: Path) -> bool:
    """Whether the rows of `new` begin with all rows of `old`, and call no shot valid that `old` knows to be none."""
    with open_event_file(old) as left, open_event_file(new) as right:
        tables = [(left["entry"][name], right["entry"][name]) for name in TIMES]
        same = all(_rows(one) <= _rows(other) and _first_difference(one, other) is None for one, other in tables)
        return same and _no_more_valid(left["entry"]["shots"], right["entry"]["shots"])


def difference_before_the_cut(longer: Path, cut: Path, processing: Processing) -> Difference | None:
    """The first row that differs where it must not: so long before the end of `cut` that no missing word matters."""
    with open_event_file(longer) as left, open_event_file(cut) as right:
        tables = {name: (left["entry"][name], right["entry"][name]) for name in TIMES}
        end_ns = max(_last_time(other, TIMES[name]) for name, (_, other) in tables.items())
        safe_ns = end_ns - 2 * processing.lateness_ns - processing.window_ns
        for name, (one, other) in tables.items():
            row = _first_difference(one, other)
            if row is not None and (time_ns := _time_of(name, row, one, other)) < safe_ns:
                return Difference(name, row, time_ns)
    return None


def _rows(table: h5py.Group) -> int:
    return min(int(column.shape[0]) for column in table.values())


def _first_difference(one: h5py.Group, other: h5py.Group) -> int | None:
    """Among the rows that both have."""
    n = min(_rows(one), _rows(other))
    for start in range(0, n, STEP_ROWS):
        stop = min(start + STEP_ROWS, n)
        rows = [_first_in(one[name][start:stop], other[name][start:stop]) for name in one if name != VALID]
        found = [row for row in rows if row is not None]
        if found:
            return start + min(found)
    return None


def _no_more_valid(one: h5py.Group, other: h5py.Group) -> bool:
    """Whether every shot of `one` that is not valid is not valid in `other`, which has as many or more."""
    n = _rows(one)
    starts = range(0, n, STEP_ROWS)
    return all(np.all(one[VALID][k : min(k + STEP_ROWS, n)] >= other[VALID][k : min(k + STEP_ROWS, n)]) for k in starts)


def _first_in(one: npt.NDArray[Any], other: npt.NDArray[Any]) -> int | None:
    if one.tobytes() == other.tobytes():
        return None
    numbers = one.view(f"u{one.dtype.itemsize}") != other.view(f"u{other.dtype.itemsize}")  # NaN is equal to itself
    return int(np.argmax(numbers))


def _last_time(table: h5py.Group, column: str) -> float:
    n = _rows(table)
    return float(table[column][max(0, n - _TAIL_ROWS) : n].max()) if n else -np.inf


def _time_of(name: str, row: int, one: h5py.Group, other: h5py.Group) -> float:
    if name != "shots":
        return min(float(table[TIMES[name]][row]) for table in (one, other))
    return float(one["time"][row + 1]) if row + 1 < _rows(one) else np.inf  # a shot lasts until the next
