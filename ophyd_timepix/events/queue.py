"""A first-in first-out queue of rows in columns, over arrays that are used again."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


class ColumnQueue:
    """Rows are appended at one end and dropped at the other; `columns` are views of what is in between."""

    def __init__(self, dtypes: Sequence[Any], room: int = 1024) -> None:
        self._arrays = [np.empty(room, dtype) for dtype in dtypes]
        self._start = 0
        self._stop = 0

    def __len__(self) -> int:
        return self._stop - self._start

    def columns(self, n: int | None = None) -> list[Array]:
        """Views of the first n rows (all when None)."""
        stop = self._stop if n is None else self._start + n
        return [array[self._start : stop] for array in self._arrays]

    def append(self, *columns: Array) -> None:
        """Add rows at the end."""
        n = len(columns[0])
        if n == 0:
            return
        if self._stop + n > len(self._arrays[0]):
            self._make_room(n)
        for array, column in zip(self._arrays, columns, strict=True):
            array[self._stop : self._stop + n] = column
        self._stop += n

    def drop(self, n: int) -> None:
        """Forget the first n rows."""
        self._start += n
        if self._start == self._stop:
            self._start = self._stop = 0

    def truncate(self, n: int) -> None:
        """Keep the first n rows only."""
        self._stop = self._start + n

    def _make_room(self, n: int) -> None:
        """Move the rows to the front, into larger arrays when less than half would be free."""
        held = len(self)
        size = len(self._arrays[0])
        while size < 2 * (held + n):
            size *= 2
        for i, array in enumerate(self._arrays):
            target = array if size == len(array) else np.empty(size, array.dtype)
            target[:held] = array[self._start : self._stop].copy()
            self._arrays[i] = target
        self._start, self._stop = 0, held
