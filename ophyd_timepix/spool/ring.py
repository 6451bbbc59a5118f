"""The RAM ring between the receive threads and everybody who reads: one writer side, many readers.

     on_disk            received   reserved
        v                  v          v
  ......[-- not on disk ---)[-writing-).......   byte addresses of the recording; modulo the size: places in the ring

A reader copies first and asks afterwards whether what it copied was still whole (`reserved - size <= start`): no lock
is shared between processes. The three watermarks only grow within a run.
"""

import ctypes
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
    INDEX_ON_DISK = 13
    """Index records that may be overwritten: they are in the file, or nobody needs them any more."""
    STOPPED_BY = 14
    """A `Stopped`: why nothing more is recorded."""
    UNRECORDED = 15
    """Datagrams that came while nothing more could be recorded."""
    DISK_FREE = 16
    """Bytes that the recording's file system has left; -1: there is no recording."""
    DISK_RATE = 17
    """Bytes a second that the recording grew by lately."""
    DISK_STOP = 18
    """The recording ends before fewer bytes than this are free."""
    DISK_LOW = 19
    """1: room is getting short."""
    CAUGHT_UP_NS = 20
    """All that had reached the sockets at this host time (CLOCK_MONOTONIC) is counted."""


class Stopped(IntEnum):
    """Why a recording takes no more datagrams, though its acquisition has not ended."""

    NO = 0
    DISK_LOW = 1
    """Too little room is left on the file system."""
    DISK_FAILED = 2
    """A write failed."""
    RING_FULL = 3
    """Without a file: processing is behind by a whole ring."""


STOPPED: Final = {
    Stopped.DISK_LOW: "the disk is nearly full; free space on that file system or choose another data directory",
    Stopped.DISK_FAILED: "the disk took no more; free space on that file system or choose another data directory",
    Stopped.RING_FULL: "processing was behind by the whole ring, and nothing else keeps the words; keep the raw data, "
    "use more workers, write no hits, or lower the rate",
}
"""What to tell a user about it."""

N_MARKS: Final = len(Mark)


def stopped_by(marks: Marks) -> str | None:
    """Why the running acquisition records nothing more, and the remedy; None: it does record."""
    return STOPPED.get(Stopped(int(marks[Mark.STOPPED_BY])))


def arrived_datagrams(marks: Marks) -> int:
    """Datagrams of the board that reached this machine, whatever became of them: what its own counter compares with."""
    parts = (Mark.DATAGRAMS, Mark.MALFORMED_DATAGRAMS, Mark.KERNEL_DROPPED, Mark.UNRECORDED)
    return sum(int(marks[mark]) for mark in parts)


def disk_seconds_left(marks: Marks) -> float | None:
    """Seconds until the disk is so full that the recording ends, at the rate of the last seconds.

    None: nothing is recorded, or nothing comes.
    """
    if marks[Mark.DISK_FREE] < 0 or marks[Mark.DISK_RATE] <= 0:
        return None
    return max(0.0, float(marks[Mark.DISK_FREE] - marks[Mark.DISK_STOP]) / float(marks[Mark.DISK_RATE]))


class Ring:
    """A ring of `memory.size` bytes (a power of two) and its marks, both usually in shared memory."""

    def __init__(self, memory: Bytes, marks: Marks) -> None:
        size = memory.size
        if size < ALIGNMENT or size & (size - 1):
            raise ValueError(f"the ring holds a power of two of bytes, at least {ALIGNMENT}, not {size}")
        self.memory = memory
        self.marks = marks
        self.counts = marks.data
        """The marks once more: one by one they are read and written in a fraction of the time."""
        self.size = size
        self._mask = size - 1
        self._memory_address = memory.ctypes.data

    @property
    def reserved(self) -> int:
        return self.counts[Mark.RESERVED]

    @property
    def received(self) -> int:
        """Bytes of the recording that are complete in the ring (or already behind it)."""
        return self.counts[Mark.RECEIVED]

    @property
    def on_disk(self) -> int:
        """Bytes of the recording that the file holds."""
        return self.counts[Mark.ON_DISK]

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
        self.marks[Mark.DISK_FREE] = -1

    def parts(self, start: int, stop: int) -> tuple[Bytes, Bytes]:
        """The memory of addresses [start, stop) as two pieces, the second empty unless the range wraps."""
        a = start & self._mask
        n = stop - start
        first = min(n, self.size - a)
        return self.memory[a : a + first], self.memory[: n - first]

    def reserve(self, n_bytes: int) -> int:
        """Announce that `n_bytes` after `received` are about to be overwritten; returns their address."""
        start = self.received
        self.counts[Mark.RESERVED] = max(start + n_bytes, self.reserved)
        return start

    def memory_address(self, start: int) -> int:
        """Where in this process' memory the byte of address `start` lies."""
        return self._memory_address + (start & self._mask)

    def move(self, start: int, to: int, n_bytes: int) -> None:
        """Move reserved bytes within one piece of the memory; the places may overlap."""
        if start != to:
            ctypes.memmove(self.memory_address(to), self.memory_address(start), n_bytes)

    def words_every(self, pitch: int, start: int, n: int) -> npt.NDArray[np.uint64]:
        """One word of every `pitch` bytes from address `start` on, `n` of them, which do not lie across the end."""
        return np.ndarray((n,), np.uint64, self.memory, start & self._mask, (pitch,))

    def publish(self, n_bytes: int) -> None:
        """The reserved bytes are written: readers may have them."""
        self.counts[Mark.RECEIVED] += n_bytes

    def copy_out(self, start: int, out: Bytes) -> bool:
        """Copy `out.size` bytes from address `start`. False: the ring had moved on, ask the file."""
        if self.reserved - self.size > start:
            return False
        first, second = self.parts(start, start + out.size)
        out[: first.size] = first
        out[first.size :] = second
        return self.reserved - self.size <= start
