"""Writing a recording: from the ring to the disk, past the page cache, in aligned blocks, file after file.

The page cache costs 2 CPU seconds per GB on first touch and may pause a writer for 200 ms; O_DIRECT costs 0.04 to 0.1.
Where the file system refuses O_DIRECT (tmpfs, some network file systems) the same blocks go through the cache, are
synchronised in steps and dropped from it. Never called from a receive thread.
"""

import contextlib
import errno
import fcntl
import logging
import math
import os
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np

from .index import HEADER_BYTES, RECORD, Kind, Records, Row, header, index_path
from .ring import ALIGNMENT, Bytes, Mark, Ring
from .segments import further_segments, segment_path, segment_starts
from .space import Limits, SpaceWatch, nothing_owed

log = logging.getLogger(__name__)

BLOCK_BYTES: Final = 1 << 20
LARGEST_WRITE: Final = 8 << 20
AHEAD_S: Final = 0.1
HASTEN_S: Final = 1.0
"""How often the kernel is asked to write what it holds of index and recording."""
CACHE_STEP: Final = 32 << 20
NO_LIMITS: Final = Limits(0, 0, 0.0)


class RecordingWriter:
    """One open recording (`.tpx3` and what follows it) with its index. The caller's thread does the writing.

    sync: make every finished file durable (fdatasync). limits: when the disk counts as full; owed: see `SpaceWatch`.
    """

    waits = True

    def __init__(
        self,
        path: Path,
        run: dict[str, Any],
        *,
        sync: bool = True,
        limits: Limits | None = None,
        owed: Callable[[], int] = nothing_owed,
    ) -> None:
        self.path = path
        self._sync = sync
        self._space = SpaceWatch(path, Limits() if limits is None else limits, owed)
        self._fd = self._index_fd = -1
        self._index_written = 0
        self._checked = 0
        self._sum = 0
        self._borders: deque[int] = deque()
        self._number = 1
        self._start = self._synced = 0
        self._ahead, self._next_ahead, self._next_hasten = 0, 0.0, 0.0
        self._space.check()
        for stale in further_segments(path):  # it would be found when those before it are full, or read as ours
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(stale))
        head = header(run)
        self._index_fd = os.open(index_path(path), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o664)
        try:
            claim(self._index_fd)
            self._append_index(head)
            self._direct, self._fd = _open_new(path)
        except BaseException:
            self.close()
            index_path(path).unlink()
            raise

    @classmethod
    def resume(cls, path: Path, ring: Ring) -> "RecordingWriter":
        """Go on with the recording of a process that died, from the ring that outlived it."""
        self = cls.__new__(cls)
        self.path = path
        self._sync, self._direct = True, False
        self._space = SpaceWatch(path, NO_LIMITS)
        self._index_fd = os.open(index_path(path), os.O_RDWR)
        self._ahead, self._next_ahead, self._next_hasten = 0, math.inf, math.inf
        whole = (os.fstat(self._index_fd).st_size - HEADER_BYTES) // RECORD.itemsize
        os.ftruncate(self._index_fd, HEADER_BYTES + whole * RECORD.itemsize)
        written = np.fromfile(index_path(path), RECORD, whole, offset=HEADER_BYTES)
        os.lseek(self._index_fd, 0, os.SEEK_END)
        starts = segment_starts(written)
        self._number = max(1, sum(start <= ring.on_disk for start in starts))
        while self._number > 1 and not segment_path(path, self._number).exists():
            self._number -= 1
        self._start = self._synced = starts[self._number - 1]
        self._borders = deque(starts[self._number :])
        self._fd = os.open(segment_path(path, self._number), os.O_RDWR)
        self._index_written = int(whole)
        self._checked = int(written["offset"][-1]) if whole else 0
        self._sum = self._sum_of_file(self._checked, ring.on_disk)
        self._checked = max(self._checked, ring.on_disk)
        return self

    def _sum_of_file(self, start: int, stop: int) -> int:
        """Checksum of bytes of the open segment that may have left the ring."""
        data = os.pread(self._fd, max(0, stop - start), start - self._start)
        return int(np.frombuffer(data, "<u8", len(data) // 8).sum())

    @property
    def direct(self) -> bool:
        """Whether the file is written past the page cache."""
        return self._direct

    # --- from time to time ------------------------------------------------------------------------------------------

    def begin(self, ring: Ring) -> None:
        """Raises OSError when too little room is left for an acquisition."""
        self._space.check(ring.received - ring.on_disk)

    def write(self, ring: Ring, records: Records) -> bool:
        """Write new index records, and a piece of what fills whole blocks. True when something was written."""
        self._space.look(ring)
        received = self._take_records(ring, records)
        self._hasten()
        whole = received & ~(BLOCK_BYTES - 1)
        done = ring.on_disk
        if self._borders and self._borders[0] == done:
            self._roll(done)
        if self._borders and self._borders[0] <= whole:
            whole = self._borders[0]
        if whole <= done:
            self._write_ahead(ring, done, min([received, *self._borders]))
            return False
        self._write(ring, done, min(whole, done + LARGEST_WRITE))
        return True

    def finish(self, ring: Ring, records: Records) -> None:
        """Write everything received, cut the file to its exact length, make it durable, close it."""
        try:
            while self.write(ring, records):
                pass
            while self._borders:
                self._write(ring, ring.on_disk, self._borders[0])
                self._roll(ring.on_disk)
            self._write_tail(ring, ring.received)
            self._finish_segment(ring.received)
            if self._sync:
                os.fdatasync(self._index_fd)
        finally:
            self.close()

    def close(self) -> None:
        """Release the file descriptors; what was written stays."""
        for fd in (self._fd, self._index_fd):
            if fd >= 0:
                os.close(fd)
        self._fd = self._index_fd = -1

    # --- the index --------------------------------------------------------------------------------------------------

    def _take_records(self, ring: Ring, records: Records) -> int:
        """Give new records their checksums and append them. Returns what was received then.

        All that is received passes here before it is written, and may leave the ring only then.
        """
        received = ring.received  # first: every record that lies before it is in `records` already
        n_records = int(ring.marks[Mark.INDEX_RECORDS])
        for k in range(self._index_written, n_records):
            record = records[k % records.size]
            offset = int(record["offset"])
            self._sum_to(ring, offset)
            record["checksum"] = self._sum
            self._sum = 0
            if record["kind"] == Kind.SEGMENT:
                self._borders.append(offset)
        self._append_records(records, n_records)
        ring.marks[Mark.INDEX_ON_DISK] = n_records
        return received

    def _hasten(self) -> None:
        """Let the kernel begin to write what lies in its cache, without waiting for that.

        By itself it leaves it there for half a minute, and a recording whose index a power cut took tells little.
        """
        now = time.monotonic()
        if now < self._next_hasten:
            return
        self._next_hasten = now + HASTEN_S
        for fd in (self._index_fd,) if self._direct else (self._index_fd, self._fd):
            with contextlib.suppress(OSError):  # a file system that knows no advice
                os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)

    def _sum_to(self, ring: Ring, offset: int) -> None:
        for part in ring.parts(self._checked, offset):
            self._sum = (self._sum + int(part.view("<u8").sum())) & 0xFFFF_FFFF_FFFF_FFFF
        self._checked = offset

    def _append_records(self, records: Records, n_records: int) -> None:
        """Append up to number `n_records`; `records` is a ring of its own."""
        while self._index_written < n_records:
            a = self._index_written % records.size
            n = min(n_records - self._index_written, records.size - a)
            self._append_index(records[a : a + n].tobytes())
            self._index_written += n

    def _append_index(self, data: bytes) -> None:
        """Whole or not at all for the reader: a short write is carried on."""
        while data:
            try:
                data = data[os.write(self._index_fd, data) :]
            except OSError as error:
                raise _told(error, "the index", os.fstat(self._index_fd).st_size, index_path(self.path)) from error

    # --- the bytes --------------------------------------------------------------------------------------------------

    def _write(self, ring: Ring, start: int, stop: int) -> None:
        """Write [start, stop), of which only the end of a segment may be unaligned."""
        aligned = stop if not self._direct else self._start + (stop - self._start) // ALIGNMENT * ALIGNMENT
        self._sum_to(ring, max(stop, self._checked))
        for part in ring.parts(start, aligned):
            start = self._write_part(ring, part, start)
        if not self._direct and aligned - self._synced >= CACHE_STEP:
            os.fdatasync(self._fd)
            os.posix_fadvise(self._fd, self._synced - self._start, aligned - self._synced, os.POSIX_FADV_DONTNEED)
            self._synced = aligned
        if aligned < stop:
            self._write_tail(ring, stop)

    def _write_ahead(self, ring: Ring, done: int, stop: int) -> None:
        """What does not fill a block goes to the disk ten times a second all the same, and again with its block.

        So at a low rate, too, a machine that stops loses what its file system had not committed (5 s of ext4) and not
        the time that a block takes.
        """
        start = max(done, self._ahead // ALIGNMENT * ALIGNMENT)
        if stop <= max(start, self._ahead) or time.monotonic() < self._next_ahead:
            return
        self._write_padded(ring, start, stop)
        self._ahead = stop
        self._next_ahead = time.monotonic() + AHEAD_S

    def _write_part(self, ring: Ring, part: Bytes, start: int) -> int:
        """Write bytes that lie at address `start`; what of them is on disk is said at once, also when that fails."""
        if part.size:
            try:
                _write_all(self._fd, part, start - self._start, segment_path(self.path, self._number))
            except WriteError as error:
                ring.marks[Mark.ON_DISK] = start + error.written // ALIGNMENT * ALIGNMENT
                raise
        ring.marks[Mark.ON_DISK] = start + part.size
        return start + part.size

    def _write_tail(self, ring: Ring, stop: int) -> None:
        """The last, unaligned piece of a segment: through a padded bounce buffer, cut off afterwards."""
        start = ring.on_disk
        if stop == start:
            return
        self._write_padded(ring, start, stop)
        ring.marks[Mark.ON_DISK] = stop

    def _write_padded(self, ring: Ring, start: int, stop: int) -> None:
        """Write [start, stop), zeros behind it up to the next place where a write may end."""
        padded = -(-(stop - start) // ALIGNMENT) * ALIGNMENT
        memory = np.zeros(padded + ALIGNMENT, np.uint8)
        first = -memory.ctypes.data % ALIGNMENT
        bounce = memory[first : first + padded]
        a = 0
        for part in ring.parts(start, stop):
            bounce[a : a + part.size] = part
            a += part.size
        _write_all(self._fd, bounce, start - self._start, segment_path(self.path, self._number))

    def _finish_segment(self, stop: int) -> None:
        os.ftruncate(self._fd, stop - self._start)
        if self._sync:
            os.fdatasync(self._fd)

    def _roll(self, start: int) -> None:
        """Finish the file; the next begins at address `start`."""
        self._finish_segment(start)
        self._borders.popleft()
        self._number += 1
        path = segment_path(self.path, self._number)
        try:
            direct, fd = _open_new(path) if start % ALIGNMENT == 0 else (False, _open_cached(path))
        except OSError as error:
            raise _told(error, "the recording", 0, path) from error
        os.close(self._fd)
        self._direct, self._fd = direct, fd
        self._start = self._synced = start


class WriteError(OSError):
    """A write failed after `written` bytes of what was given."""

    written = 0


def claim(index_fd: int) -> bool:
    """Hold a recording through its open index for as long as the descriptor lives. False: somebody else holds it.

    Advisory: it keeps `recover` away from what is still being written. A file system without locks refuses nobody.
    """
    try:
        fcntl.flock(index_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        log.debug("the file system knows no locks: %s", error)
    return True


def salvage(path: Path, ring: Ring, records: Records) -> int:
    """Complete the recording of a capture process that was killed, from the ring that outlived it.

    Returns the bytes added. Index records that the dead process had not written are appended too. Raises OSError when
    not all of it fits; what does is good.
    """
    start = ring.on_disk
    _seal(ring, records)
    RecordingWriter.resume(path, ring).finish(ring, records)
    return ring.on_disk - start


def _seal(ring: Ring, records: Records) -> None:
    """What the dead process did not come to: the checksum of the last bytes it received, and losses without a record.

    Datagrams that the kernel dropped behind the last one that came, and those that nobody could record any more, are
    missing at the end.
    """
    n = int(ring.marks[Mark.INDEX_RECORDS])
    held = records[np.arange(max(0, n - records.size), n) % records.size]
    if not len(held):
        return
    last = held[-1]
    row = Row(
        ring.received,
        time.monotonic_ns(),
        int(ring.marks[Mark.DATAGRAMS]),
        max(int(ring.marks[Mark.KERNEL_DROPPED]), int(last["kernel_dropped"])),
        int(last["acquisition"]),
        malformed=int(ring.marks[Mark.MALFORMED_DATAGRAMS]),
        unrecorded=int(ring.marks[Mark.UNRECORDED]),
    )
    told = [row._replace(kind=kind, lost=lost) for kind, lost in _without_a_record(row, held).items() if lost > 0]
    for one in told or [row] * int(last["offset"] < ring.received):
        k = int(ring.marks[Mark.INDEX_RECORDS])
        if k - ring.marks[Mark.INDEX_ON_DISK] < records.size:
            records[k % records.size] = one
            ring.marks[Mark.INDEX_RECORDS] = k + 1


def _without_a_record(row: Row, held: Records) -> dict[Kind, int]:
    """Datagrams of the acquisition in `row` that are counted as missing, and that none of the records tells of."""
    if not row.acquisition:
        return {}
    located = held["kernel_dropped"][held["kind"] != Kind.POLL][-1:]  # a reading counts what has no place yet
    before = held["unrecorded"][held["acquisition"] == row.acquisition][:1]
    return {
        Kind.LOSS_KERNEL: row.kernel_dropped - int(located.sum()) if located.size else 0,
        Kind.LOSS_UNRECORDED: row.unrecorded - int(before.sum()),
    }


def _open_new(path: Path) -> tuple[bool, int]:
    """(direct, descriptor) of a new file; an existing one is never overwritten."""
    try:
        return True, os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_DIRECT, 0o664)
    except FileExistsError:
        raise
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
    log.info("%s: the file system does not take O_DIRECT, writing through the page cache", path)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)  # some file systems create the file before they refuse the flag
    return False, _open_cached(path)


def _open_cached(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o664)


def _write_all(fd: int, data: Bytes, offset: int, path: Path) -> None:
    """Write all of `data`. When the disk is full, what fits is written before WriteError is raised."""
    view = data.data
    written, step = 0, view.nbytes
    while written < view.nbytes:
        try:
            written += os.pwrite(fd, view[written : written + step], offset + written)
        except OSError as error:
            if error.errno == errno.ENOSPC and step > ALIGNMENT:
                step = max(ALIGNMENT, min(step, view.nbytes - written) // 2 // ALIGNMENT * ALIGNMENT)
                continue
            told = _told(error, "the recording", offset + written, path)
            told.written = written
            raise told from error


def _told(error: OSError, what: str, offset: int, path: Path) -> WriteError:
    return WriteError(
        error.errno,
        f"cannot write {what} at byte {offset}: {os.strerror(error.errno or 0)}; free space on that file system or "
        f"choose another data directory",
        str(path),
    )
