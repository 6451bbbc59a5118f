"""Writing a recording: from the ring to the disk, past the page cache, in aligned blocks.

The page cache costs 2 CPU seconds per GB on first touch and may pause a writer for 200 ms; O_DIRECT costs 0.04 to 0.1.
Where the file system refuses O_DIRECT (tmpfs, some network file systems) the same blocks go through the cache, are
synchronised in steps and dropped from it. Never called from a receive thread.
"""

import contextlib
import errno
import fcntl
import logging
import mmap
import os
from pathlib import Path
from typing import Any, Final

import numpy as np

from .index import HEADER_BYTES, RECORD, Records, header, index_path
from .ring import ALIGNMENT, Bytes, Mark, Ring

log = logging.getLogger(__name__)

BLOCK_BYTES: Final = 1 << 20
LARGEST_WRITE: Final = 4 << 20
CACHE_STEP: Final = 32 << 20


class RecordingWriter:
    """One open recording (`.tpx3`) with its index. The caller's thread does the writing."""

    def __init__(self, path: Path, run: dict[str, Any]) -> None:
        self.path = path
        self._fd = self._index_fd = -1
        self._index_written = 0
        self._synced = 0
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

    def write_blocks(self, ring: Ring) -> bool:
        """Write what fills whole blocks. True when something was written."""
        done = ring.on_disk
        whole = ring.received & ~(BLOCK_BYTES - 1)
        if whole <= done:
            return False
        self._write(ring, done, min(whole, done + LARGEST_WRITE))
        return True

    def write_index(self, records: Records, n_records: int) -> None:
        """Append index records up to number `n_records`; `records` is a ring of its own."""
        while self._index_written < n_records:
            a = self._index_written % records.size
            n = min(n_records - self._index_written, records.size - a)
            self._append_index(records[a : a + n].tobytes())
            self._index_written += n

    def _append_index(self, data: bytes) -> None:
        """Whole or not at all for the reader: a short write is carried on."""
        while data:
            data = data[os.write(self._index_fd, data) :]

    def finish(self, ring: Ring) -> None:
        """Write everything received, cut the file to its exact length, make it durable, close it."""
        try:
            while self.write_blocks(ring):
                pass
            self._write_tail(ring)
            os.ftruncate(self._fd, ring.received)
            os.fdatasync(self._fd)
            os.fdatasync(self._index_fd)
        finally:
            self.close()

    def close(self) -> None:
        """Release the file descriptors; what was written stays."""
        for fd in (self._fd, self._index_fd):
            if fd >= 0:
                os.close(fd)
        self._fd = self._index_fd = -1

    def _write(self, ring: Ring, start: int, stop: int) -> None:
        for part in ring.parts(start, stop):
            if part.size:
                _write_all(self._fd, part, start, self.path)
                start += part.size
        ring.marks[Mark.ON_DISK] = stop
        if not self._direct and stop - self._synced >= CACHE_STEP:
            os.fdatasync(self._fd)
            os.posix_fadvise(self._fd, self._synced, stop - self._synced, os.POSIX_FADV_DONTNEED)
            self._synced = stop

    def _write_tail(self, ring: Ring) -> None:
        """The last, unaligned piece: through a padded bounce buffer, cut off afterwards."""
        start, stop = ring.on_disk, ring.received
        if stop == start:
            return
        padded = -(-(stop - start) // ALIGNMENT) * ALIGNMENT
        with mmap.mmap(-1, padded) as memory:
            bounce = np.frombuffer(memory, np.uint8)
            a = 0
            for part in ring.parts(start, stop):
                bounce[a : a + part.size] = part
                a += part.size
            _write_all(self._fd, bounce, start, self.path)
            del bounce
        ring.marks[Mark.ON_DISK] = stop


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

    Returns the bytes added. Index records that the dead process had not written are appended too.
    """
    start, stop = ring.on_disk, ring.received
    with open(path, "r+b", buffering=0) as file:
        offset = start
        for part in ring.parts(start, stop):
            if part.size:
                _write_all(file.fileno(), part, offset, path)
                offset += part.size
        file.truncate(stop)
        os.fsync(file.fileno())
    ring.marks[Mark.ON_DISK] = stop
    _salvage_index(index_path(path), records, int(ring.marks[Mark.INDEX_RECORDS]))
    return stop - start


def _salvage_index(path: Path, records: Records, n_records: int) -> None:
    with open(path, "r+b", buffering=0) as file:
        whole = (os.fstat(file.fileno()).st_size - HEADER_BYTES) // RECORD.itemsize
        file.seek(HEADER_BYTES + whole * RECORD.itemsize)
        for k in range(max(whole, n_records - records.size), n_records):
            file.write(records[k % records.size].tobytes())
        file.truncate()


def _open_new(path: Path) -> tuple[bool, int]:
    """(direct, descriptor) of a new file; an existing one is never overwritten."""
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL
    try:
        return True, os.open(path, flags | os.O_DIRECT, 0o664)
    except FileExistsError:
        raise
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
    log.info("%s: the file system does not take O_DIRECT, writing through the page cache", path)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)  # some file systems create the file before they refuse the flag
    return False, os.open(path, flags, 0o664)


def _write_all(fd: int, data: Bytes, offset: int, path: Path) -> None:
    view = data.data
    while view.nbytes:
        try:
            n = os.pwrite(fd, view, offset)
        except OSError as error:
            raise OSError(
                error.errno,
                f"cannot write the recording at byte {offset}: {os.strerror(error.errno or 0)}; free space on that "
                f"file system or choose another data directory",
                str(path),
            ) from error
        view = view[n:]
        offset += n
