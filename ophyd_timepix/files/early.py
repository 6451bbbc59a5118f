"""The events of a master, copied while their run goes on, so that nothing is left to copy when it closes.

The file has no name until it is whole: of a writer that is killed nothing stays behind. Whatever goes wrong, the event
file has all rows, and a master can be made from it: so nothing here fails a run.
"""

import contextlib
import errno
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Self

import h5py
import numpy.typing as npt

from .event_file import ALIGNED
from .events import EventCopies, rows_of

log = logging.getLogger(__name__)

COPIES: Final = "events"
LEAST_ROOM_BYTES: Final = 1 << 28
"""Where the disk has less, it is for rows: the events are copied when the run closes, if there is room."""
TOLD: Final = 80
"""Letters of an error of HDF5 that are told."""


class _Nameless:
    """A file without a name, as h5py wants to have files of Python. HDF5 itself opens only what has a name."""

    def __init__(self, directory: Path) -> None:
        """Raises OSError where the file system knows no such files."""
        self.descriptor = os.open(directory, os.O_TMPFILE | os.O_RDWR, 0o666)
        self._place = 0

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        begin = (0, self._place, os.fstat(self.descriptor).st_size)[whence]
        self._place = begin + offset
        return self._place

    def tell(self) -> int:
        return self._place

    def read(self, size: int = -1) -> bytes:
        """h5py knows a file by having this; it calls `readinto`."""
        raise NotImplementedError

    def readinto(self, buffer: memoryview) -> int:
        done = os.preadv(self.descriptor, [buffer], self._place)
        self._place += done
        return done

    def write(self, data: memoryview) -> int:
        """All of it: h5py does not ask how much was written."""
        done = 0
        while done < len(data):
            done += os.pwrite(self.descriptor, data[done:], self._place + done)
        self._place += done
        return done

    def truncate(self, size: int) -> int:
        os.ftruncate(self.descriptor, size)
        return size

    def flush(self) -> None:
        """Nothing waits here."""

    def expect_room(self) -> None:
        """Raises OSError when the disk is nearly full."""
        disk = os.fstatvfs(self.descriptor)
        if disk.f_bavail * disk.f_frsize < LEAST_ROOM_BYTES:
            raise OSError(errno.ENOSPC, f"less than {LEAST_ROOM_BYTES >> 20} MiB are free")

    def give_name(self, path: Path) -> None:
        """Raises FileExistsError rather than take another's."""
        try:  # only with a descriptor of a directory Python lets the system follow the link that stands in /proc
            os.link(f"/proc/self/fd/{self.descriptor}", path, src_dir_fd=self.descriptor, follow_symlinks=True)
        except FileExistsError:
            raise FileExistsError(f"{path} exists and is never overwritten; choose another name") from None

    def close(self) -> None:
        os.close(self.descriptor)


class EarlyEvents:
    """An HDF5 file without a name that holds events, and nothing else yet. Use `begin`.

    file: becomes the master; the group of the copies moves to its place in it.
    """

    def __init__(self, nameless: _Nameless, picture: tuple[int, int]) -> None:
        self._nameless = nameless
        self.file = h5py.File(nameless, "w", **ALIGNED)
        self.copies = EventCopies(self.file.create_group(COPIES), picture)

    @classmethod
    def begin(cls, directory: Path, picture: tuple[int, int]) -> Self | None:
        """None where the file system knows no files without a name, or has no room."""
        try:
            nameless = _Nameless(directory)
            try:
                nameless.expect_room()
                return cls(nameless, picture)
            except BaseException:
                nameless.close()
                raise
        except (OSError, RuntimeError) as error:
            log.info("the master in %s is written when the run closes: %s", directory, str(error)[:TOLD])
            return None

    def add(self, centroids: Mapping[str, npt.NDArray[Any]]) -> bool:
        """The next rows. False: they could not be written, and all of it has been dropped."""
        try:
            self._nameless.expect_room()
            self.copies.add(centroids)
        except (OSError, RuntimeError) as error:  # h5py tells a full disk as either, and at length
            log.warning("the master will be written when the run closes: %s", str(error)[:TOLD])
            self.drop()
            return False
        return True

    def has_all_of(self, source: h5py.File) -> bool:
        """Whether these are the rows of that event file."""
        return self.copies.rows == rows_of(source)

    def finish(self, parent: h5py.Group, name: str, source: h5py.File, zero_iso: str | None) -> None:
        """All rows are here: move their group into `parent`, which is in `file`, and add what the end knows."""
        parent.move(f"/{COPIES}", name)
        self.copies.finish(source, zero_iso)

    def give_name(self, path: Path) -> None:
        """The file is whole: it gets its name. Raises FileExistsError when there is one."""
        self.file.close()
        self._nameless.give_name(path)
        self._nameless.close()

    def drop(self) -> None:
        """Give back its room on the disk at once, whether HDF5 can let go of it or not."""
        with contextlib.suppress(OSError):
            self._nameless.truncate(0)
        with contextlib.suppress(OSError, RuntimeError):
            self.file.close()
        self._nameless.close()
