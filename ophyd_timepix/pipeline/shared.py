"""The memory that all stages share: ring, index, blocks, gauges, and what the running point adds up to.

Anonymous shared memory, mapped by the supervisor before it forks the stages. It has no name, so there is nothing to
unlink: it vanishes with the last process, however that one ends. Pages count only when touched. The sums of the point
are shared with the user's process too, through a descriptor that it hands over.
"""

import mmap
import os
from enum import IntEnum
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from ..events.block import BlockArrays
from ..spool.index import RECORD, Records
from ..spool.ring import N_MARKS, Ring

N_BLOCKS: Final = 8
"""Blocks between decode and write. Two a worker keep everybody busy; more only add latency and memory."""
LIVE_BYTES: Final = 1 << 28
"""Room for what a point adds up to. Pages count only when they are touched."""
INDEX_ROOM: Final = 1 << 16
"""Index records in shared memory: 11 minutes at one per 10 ms; readers further behind look into the index file."""


def live_memory() -> int:
    """A file descriptor of memory without a name, which this process and the supervisor share."""
    fd = os.memfd_create("ophyd_timepix-live")
    os.ftruncate(fd, LIVE_BYTES)
    return fd


def map_live(fd: int) -> memoryview:
    """The memory behind a descriptor of `live_memory`; -1: memory of the stages alone."""
    return memoryview(mmap.mmap(fd, LIVE_BYTES, flags=mmap.MAP_SHARED | (mmap.MAP_ANONYMOUS if fd < 0 else 0)))


class Gauge(IntEnum):
    """Live counters of a run, each written by one stage."""

    DECODED_BYTES = 0
    HITS = 1
    TRIGGERS = 2
    SHOTS = 3
    CENTROIDS = 4
    ROWS_ON_DISK = 5
    SKIPPED_BYTES = 6
    SKIPPED_WORDS = 7
    CHIPS = 8


class Shared:
    """All shared memory of a pipeline."""

    def __init__(self, ring_bytes: int, n_blocks: int = N_BLOCKS, *, live_fd: int = -1) -> None:
        self._maps: list[mmap.mmap] = []
        self.live = map_live(live_fd)
        self.ring = Ring(self._array(ring_bytes, np.uint8), self._array(N_MARKS, np.int64))
        self.index: Records = self._array(INDEX_ROOM, RECORD)
        self.gauges: npt.NDArray[np.int64] = self._array(len(Gauge), np.int64)
        self.blocks = [BlockArrays.over(self._array(BlockArrays.nbytes(), np.uint8).data) for _ in range(n_blocks)]

    def _array(self, n: int, dtype: Any) -> npt.NDArray[Any]:
        itemsize = np.dtype(dtype).itemsize
        memory = mmap.mmap(-1, n * itemsize, flags=mmap.MAP_SHARED | mmap.MAP_ANONYMOUS)
        self._maps.append(memory)
        return np.frombuffer(memory, dtype, n)
