"""Room on the disk: how long it will last, and when a recording had better end."""

import errno
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

from .ring import Mark, Ring, Stopped

log = logging.getLogger(__name__)

LOOK_NS: Final = 500_000_000
FEWEST_BYTES: Final = 1 << 16
"""Received since the last look: for fewer nobody looks before the time."""
UNKNOWN_FREE: Final = 1 << 62
SMOOTHING: Final = 0.3
"""Weight of the last half second in the rate."""


class Limits(NamedTuple):
    """When to warn and when to end, in bytes that are free."""

    low_bytes: int = 8 << 30
    """A quarter of a file system that has less than four times as much."""
    stop_bytes: int = 1 << 30
    """Room for what the ring still holds and for the end of the event file; an eighth of a small file system."""
    low_seconds: float = 120.0
    """Warn, too, when the disk is full in less."""


def nothing_owed() -> int:
    """Nobody else writes."""
    return 0


class SpaceWatch:
    """Looks at the file system every half second, sooner where room is short for that, from the thread that writes.

    owed: bytes that others will still write there for what is recorded already; they count as taken for the warning.
    """

    def __init__(self, path: Path, limits: Limits, owed: Callable[[], int] = nothing_owed) -> None:
        self._path = path
        self._owed = owed
        stat = os.statvfs(path.parent)
        size = stat.f_blocks * stat.f_frsize
        self._low_bytes, self._stop_bytes = min(limits.low_bytes, size // 4), min(limits.stop_bytes, size // 8)
        self._low_seconds = limits.low_seconds
        self._looked_ns = 0
        self._look_at = 0
        """When so much is received, half of the room that was left is taken."""
        self._on_disk = 0
        self._rate = 0.0
        self._warned = False
        self._blind = False
        """The last look failed."""

    @property
    def stop_bytes(self) -> int:
        """A recording ends before fewer bytes than this are free."""
        return self._stop_bytes

    def free_bytes(self) -> int:
        """What this user may still write there; without end where the file system does not tell its size."""
        stat = os.statvfs(self._path.parent)
        return stat.f_bavail * stat.f_frsize if stat.f_blocks else UNKNOWN_FREE

    def check(self, held_bytes: int = 0) -> None:
        """Raises OSError when the recording would have to end at once. held_bytes: still to be written of it."""
        try:
            free = max(0, self.free_bytes() - held_bytes)
        except OSError as error:
            raise OSError(
                error.errno,
                f"the data directory cannot be seen ({os.strerror(error.errno or 0)}): mount it again, or choose "
                "another",
                str(self._path.parent),
            ) from error
        if free < self._stop_bytes:
            needed = self._stop_bytes
            raise OSError(
                errno.ENOSPC,
                f"{free / 1e6:.0f} MB are free, a recording needs at least {needed / 1e6:.0f} MB: free space on that "
                f"file system or choose another data directory",
                str(self._path),
            )

    def look(self, ring: Ring) -> None:
        """Update the marks about the disk; say that the recording must end when it must."""
        now = time.monotonic_ns()
        if now - self._looked_ns < LOOK_NS and ring.received < self._look_at:
            return
        try:
            free = self.free_bytes() - (ring.received - ring.on_disk)  # what the ring holds has its place already
        except OSError as error:  # a file server that is away for a moment: whoever writes finds out whether it matters
            if not self._blind:
                log.warning("%s: how much room is left on the disk cannot be seen now: %s", self._path, error)
            self._blind, self._looked_ns, self._on_disk = True, now, ring.on_disk
            return
        self._blind = False
        self._look_at = ring.received + max(FEWEST_BYTES, (free - self._stop_bytes) // 2)
        self._follow_rate(ring.on_disk, now)
        marks = ring.marks
        left = free - self._owed()
        marks[Mark.DISK_FREE] = max(0, left)
        marks[Mark.DISK_RATE] = round(self._rate)
        marks[Mark.DISK_STOP] = self._stop_bytes
        room = left - self._stop_bytes
        low = left < self._low_bytes or room < self._low_seconds * self._rate
        marks[Mark.DISK_LOW] = int(low)
        if low and not self._warned:
            lasts = f", {max(0, room) / self._rate:.0f} s at this rate" if self._rate > 0 else ""
            log.warning("%s: %.1f GB are left on the disk%s", self._path, left / 1e9, lasts)
        self._warned = low
        if free < self._stop_bytes and not marks[Mark.STOPPED_BY]:
            log.error("%s: only %.1f MB are left on the disk, the acquisition ends here", self._path, free / 1e6)
            marks[Mark.STOPPED_BY] = Stopped.DISK_LOW

    def _follow_rate(self, on_disk: int, now: int) -> None:
        if self._looked_ns:
            rate = (on_disk - self._on_disk) * 1e9 / (now - self._looked_ns)
            self._rate = rate if self._rate == 0 else self._rate + SMOOTHING * (rate - self._rate)
        self._looked_ns, self._on_disk = now, on_disk
