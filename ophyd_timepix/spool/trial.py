"""How fast a disk takes a recording: the writer of recordings itself writes one, which vanishes again."""

import errno
import mmap
import tempfile
import time
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np

from .index import RECORD, Records
from .recording import LARGEST_WRITE, RecordingWriter
from .ring import N_MARKS, Ring
from .space import Limits, SpaceWatch

TRIAL_BYTES: Final = 512 << 20
LEAST_BYTES: Final = 32 << 20
"""Less would measure how a file is opened and closed."""
SHARE_OF_ROOM: Final = 4
"""A trial takes at most this part of what may be written there."""
LONGEST_S: Final = 3.0
_RING_BYTES: Final = 64 << 20
_NO_RECORDS: Final[Records] = np.zeros(1, RECORD)


class Room(NamedTuple):
    """What is free in a directory."""

    free_bytes: int
    """What this user may write there."""
    stop_bytes: int
    """A recording ends before fewer than this are free."""
    file_system: str
    """Its type as mounted, e.g. ext4; empty where the system does not tell."""

    @property
    def usable_bytes(self) -> int:
        """What recordings may fill."""
        return max(0, self.free_bytes - self.stop_bytes)


class DiskTrial(NamedTuple):
    """What a disk did."""

    direct: bool
    """Past the page cache (O_DIRECT). False: the file system refused, and the cache was used."""
    n_bytes: int
    seconds: float
    """Until all of it was on the disk itself."""
    worst_write_s: float

    @property
    def bytes_per_s(self) -> float:
        return self.n_bytes / self.seconds


def room_of(directory: Path) -> Room:
    """What is free there. Raises OSError when there is no such directory."""
    watch = SpaceWatch(directory / "trial", Limits())
    return Room(watch.free_bytes(), watch.stop_bytes, file_system_of(directory, _mounts()))


def _mounts() -> str:
    try:
        return Path("/proc/self/mounts").read_text()
    except OSError:
        return ""


def file_system_of(directory: Path, mounts: str) -> str:
    """The type of the file system that holds a directory, by the text of /proc/self/mounts; empty: not found."""
    wanted = directory.resolve()
    found = ("", "")
    for line in mounts.splitlines():
        _, place, kind, *_ = [*line.split(" "), "", ""]
        place = place.replace("\\040", " ")
        if wanted.is_relative_to(place) and len(place) >= len(found[0]):
            found = (place, kind)
    return found[1]


def disk_trial(directory: Path, n_bytes: int = TRIAL_BYTES, longest_s: float = LONGEST_S) -> DiskTrial:
    """Write a recording of `n_bytes` there, or as much as the time allows, and delete it.

    Raises OSError when it cannot be written, or when a quarter of the room is too little to measure anything: a disk
    is never filled for the sake of a number.
    """
    n_bytes = min(n_bytes, room_of(directory).usable_bytes // SHARE_OF_ROOM // LARGEST_WRITE * LARGEST_WRITE)
    if n_bytes < LEAST_BYTES:
        raise OSError(
            errno.ENOSPC,
            f"too little room to measure the disk: {room_of(directory).free_bytes / 1e6:.0f} MB are free",
            str(directory),
        )
    ring = _filled_ring()
    with tempfile.TemporaryDirectory(prefix=".ophyd-timepix-check-", dir=directory) as place:
        writer = RecordingWriter(Path(place) / "trial.tpx3", {})
        direct = writer.direct
        begin = time.monotonic()
        worst_s = 0.0
        try:
            while ring.received < n_bytes and time.monotonic() - begin < longest_s:
                ring.publish(LARGEST_WRITE)
                asked = time.monotonic()
                writer.write(ring, _NO_RECORDS)
                worst_s = max(worst_s, time.monotonic() - asked)
            writer.finish(ring, _NO_RECORDS)
        finally:
            writer.close()
        return DiskTrial(direct, ring.received, time.monotonic() - begin, worst_s)


def _filled_ring() -> Ring:
    """A ring whose bytes no file system can compress."""
    memory = np.frombuffer(mmap.mmap(-1, _RING_BYTES), np.uint8)
    memory.view(np.uint64)[:] = np.random.default_rng(1).integers(0, 1 << 63, _RING_BYTES // 8, np.uint64)
    return Ring(memory, np.zeros(N_MARKS, np.int64))
