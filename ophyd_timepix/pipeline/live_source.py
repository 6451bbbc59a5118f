"""The words of a running acquisition: from the ring while it holds them, else from the recording."""

import os
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ..spool.index import HEADER_BYTES, RECORD, Records, index_path, slice_end
from ..spool.ring import Mark, Ring
from ..spool.sources import Words, read_exactly


class LiveSource:
    """Reads [start, stop) of a recording that grows; `stop` is unknown until the acquisition ends."""

    def __init__(self, ring: Ring, index: Records, recording: Path, start: int) -> None:
        self._ring = ring
        self._index = index
        self._recording = recording
        self._fd = -1
        self.position = start
        self.stop: int | None = None

    @property
    def at_end(self) -> bool:
        """True when the acquisition has ended and all of it was read."""
        return self.stop is not None and self.position >= self.stop

    def close(self) -> None:
        """Release the recording, if it was needed."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def next_slice(self, out: npt.NDArray[np.uint8]) -> tuple[Words, int | None] | None:
        """The next words, copied into `out`, and the host time of the first (ns); None when there are none yet."""
        start = self.position
        available = self._ring.received if self.stop is None else self.stop
        stop = min(available, start + out.size)
        if stop <= start:
            return None
        stop, host_ns = slice_end(self._records(), start, stop)
        view = out[: stop - start]
        if not self._ring.copy_out(start, view):
            read_exactly(self._file(), view, start)
        self.position = stop
        return view.view("<u8"), host_ns

    def _file(self) -> int:
        """What the ring has overwritten is on disk: the writer frees room in the ring only behind itself."""
        if self._fd < 0:
            self._fd = os.open(self._recording, os.O_RDONLY)
        return self._fd

    def _records(self) -> Records:
        """Index records around the position: from shared memory, or from the file when that has moved on."""
        n_records = int(self._ring.marks[Mark.INDEX_RECORDS])
        size = self._index.size
        if n_records <= size:
            return self._index[:n_records]
        ordered = np.concatenate([self._index[n_records % size :], self._index[: n_records % size]])
        if ordered["offset"][0] <= self.position:
            return ordered
        return np.fromfile(index_path(self._recording), RECORD, offset=HEADER_BYTES)
