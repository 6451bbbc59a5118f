"""The RAM ring between the receive threads and everybody who reads: one writer side, many readers.

     on_disk            received   reserved
        v                  v          v
  ......[-- not on disk ---)[-writing-).......   byte addresses of the recording; modulo the size: places in the ring

A reader copies first and asks afterwards whether what it copied was still whole (`reserved - size <= start`): no lock
is shared between processes. The three watermarks only grow within a run.
"""

from enum import IntEnum
from typing import Final

import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]
Marks = npt.NDArray[np.int64]

ALIGNMENT: Final = 4096
"""Writes that bypass the page cache start, end and lie in memory at multiples of this."""


class Mark(IntEnum):
    """Index of each watermark and counter in the shared array of marks."""

    RESERVED = 0
    RECEIVED = 1
    ON_DISK = 2
    INDEX_RECORDS = 3
    DATAGRAMS = 4
    MALFORMED_DATAGRAMS = 5
    MALFORMED_BYTES = 6
    WRONG_SENDER = 7
    KERNEL_DROPPED = 8
    RING_FULL_WAITS = 9
    PAYLOAD_BYTES = 10
    IDLE_DATAGRAMS = 11
    STOP = 12
    """1 + the address at which the acquisition ended; 0 while it runs. Set before any byte beyond it is published."""


N_MARKS: Final = len(Mark)


class Ring:
    """A ring of `memory.size` bytes (a power of two) and its marks, both usually in shared memory."""

    def __init__(self, memory: Bytes, marks: Marks) -> None:
        size = memory.size
        if size < ALIGNMENT or size & (size - 1):
            raise ValueError(f"the ring holds a power of two of bytes, at least {ALIGNMENT}, not {size}")
        self.memory = memory
        self.marks = marks
        self.size = size
        self._mask = size - 1

    @property
    def reserved(self) -> int:
        return int(self.marks[Mark.RESERVED])

    @property
    def received(self) -> int:
        """Bytes of the recording that are complete in the ring (or already behind it)."""
        return int(self.marks[Mark.RECEIVED])

    @property
    def on_disk(self) -> int:
        """Bytes of the recording that the file holds."""
        return int(self.marks[Mark.ON_DISK])

    @property
    def free(self) -> int:
        """Bytes that may be written without destroying what is not on disk yet."""
        return self.size - (self.received - self.on_disk)

    @property
    def contiguous(self) -> int:
        """Bytes from `received` to the end of the ring's memory."""
        return self.size - (self.received & self._mask)

    def rewind(self) -> None:
        """Start a new recording at address 0. Only while nobody reads or writes."""
        self.marks[:] = 0

    def parts(self, start: int, stop: int) -> tuple[Bytes, Bytes]:
        """The memory of addresses [start, stop) as two pieces, the second empty unless the range wraps."""
        a = start & self._mask
        n = stop - start
        first = min(n, self.size - a)
        return self.memory[a : a + first], self.memory[: n - first]

    def reserve(self, n_bytes: int) -> int:
        """Announce that `n_bytes` after `received` are about to be overwritten; returns their address."""
        start = self.received
        self.marks[Mark.RESERVED] = start + n_bytes
        return start

    def publish(self, n_bytes: int) -> None:
        """The reserved bytes are written: readers may have them."""
        self.marks[Mark.RECEIVED] += n_bytes

    def copy_out(self, start: int, out: Bytes) -> bool:
        """Copy `out.size` bytes from address `start`. False: the ring had moved on, ask the file."""
        if self.reserved - self.size > start:
            return False
        first, second = self.parts(start, start + out.size)
        out[: first.size] = first
        out[first.size :] = second
        return self.reserved - self.size <= start
