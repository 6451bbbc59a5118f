"""Whether bytes that are read are those that were received: by the checksums of the index, stretch by stretch."""

from typing import Final

import numpy as np
import numpy.typing as npt

from .index import END_OF_TIME, PAGE, Index, first_behind
from .segments import SegmentReader

PIECE_BYTES: Final = 4 << 20


def checksum(data: npt.NDArray[np.uint8]) -> int:
    """Sum of the 64-bit words, modulo 2^64."""
    return int(data.view("<u8").sum()) & 0xFFFF_FFFF_FFFF_FFFF


def checksum_of(file: SegmentReader, start: int, stop: int) -> int:
    """The same of the words in [start, stop) of a recording."""
    total = 0
    while start < stop:
        data = np.empty(min(PIECE_BYTES, stop - start), np.uint8)
        file.read(data, start)
        total += checksum(data)
        start += data.size
    return total & 0xFFFF_FFFF_FFFF_FFFF


class Comparison:
    """Follows a reader through a recording of `n_bytes`. index: one with checksums."""

    def __init__(self, index: Index, n_bytes: int, file: SegmentReader) -> None:
        self._records = index.records
        self._n_bytes = n_bytes
        self._file = file
        self._judged = (-1, False)
        self._from, self._to = 0, 0
        """Stretches that end in here are at hand."""

    def _turn_to(self, start: int, stop: int) -> None:
        """Have all stretches at hand that [start, stop) touches: some more of the index, which may be long."""
        if self._from <= start and stop <= self._to:
            return
        first = max(0, first_behind(self._records, start) - 1)
        last = min(len(self._records), max(first + PAGE, first_behind(self._records, stop) + 1))
        page = self._records[first:last]
        offsets = np.ascontiguousarray(page["offset"])
        starts, stops = offsets[:-1], offsets[1:]
        known = (starts < stops) & (stops <= self._n_bytes)
        self._starts, self._stops, self._sums = starts[known], stops[known], page["checksum"][1:][known]
        self._from = start
        self._to = END_OF_TIME if last == len(self._records) else int(offsets[-1])

    def look(self, data: npt.NDArray[np.uint8], start: int) -> tuple[int, bool]:
        """How many of the bytes that were read from `start` on make one slice, and whether that is damaged.

        A slice is damaged as a whole or not at all; what ends before its stretch does is looked at again with that.
        """
        stop = start + data.size
        self._turn_to(start, stop)
        first = int(np.searchsorted(self._stops, start, side="right"))
        beyond = int(np.searchsorted(self._starts, stop, side="left"))
        if first >= beyond:  # behind the last record nothing can be compared
            return data.size, False
        if self._is_damaged(first, data, start):
            return min(stop, int(self._stops[first])) - start, True
        for k in range(first + 1, beyond):
            if self._stops[k] > stop or self._is_damaged(k, data, start):
                return int(self._starts[k]) - start, False
        return data.size, False

    def _is_damaged(self, k: int, data: npt.NDArray[np.uint8], start: int) -> bool:
        """Whether stretch `k` is. What of it is not in `data`, which begins at `start`, is read."""
        first, last = int(self._starts[k]), int(self._stops[k])
        if self._judged[0] != first:
            here = start <= first and last <= start + data.size
            found = checksum(data[first - start : last - start]) if here else checksum_of(self._file, first, last)
            self._judged = (first, found != int(self._sums[k]))
        return self._judged[1]
