"""The event file: one-dimensional columns in HDF5, readable from the first row on while they grow (SWMR).

Everything is laid out before SWMR mode begins, and the file is never opened for writing again: a reader that holds it
can then never stand in the way of the writer, and a killed writer leaves a file that opens with `swmr=True`.

Layout: `/entry/{centroids,hits,shots,triggers,acquisitions,losses}/<column>` with units as attributes;
`/entry/preview/{image,tof}`, fixed arrays that are rewritten in place; `/entry/ledger`, `/entry/processing`, JSON text
in fixed rooms (HDF5 allows no new object in SWMR mode).
"""

import contextlib
import errno
import fcntl
import json
import os
import re
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import h5py
import numpy as np
import numpy.typing as npt

from ..events.columns import CENTROIDS, HITS, OPTIONAL, SHOTS, TRIGGERS, Column

CHUNK_ROWS: Final = 1 << 16
SMALL_CHUNK_ROWS: Final = 1 << 10
ALIGNED: Final[Mapping[str, int]] = {"alignment_threshold": 1 << 16, "alignment_interval": 1 << 12}
"""Chunks begin where a page does: of pages that two writes share each half is copied by itself, which takes a fifth
longer in all (H5Pset_alignment)."""
SMALL_TABLES: Final = ("acquisitions", "losses")
LEDGER_ROOM: Final = 1 << 16
ACQUISITIONS: Final = (
    Column("acquisition", "<i8", "", "number of the acquisition within the run"),
    Column("row_start", "<i8", "", "first centroid row"),
    Column("row_stop", "<i8", "", "centroid row after the last"),
    Column("shot_start", "<i8", "", "first shot"),
    Column("shot_stop", "<i8", "", "shot after the last"),
    Column("cancelled", "<u1", "", "1: interrupted, its rows belong to no point"),
    Column("unaccounted", "<i8", "", "words, hits and datagrams that the ledger cannot explain"),
)
LOSSES: Final = (
    Column("acquisition", "<i8", "", "number of the acquisition within the run"),
    Column(
        "cause",
        "S12",
        "",
        "kernel, malformed, unrecorded, damaged, way (between board and machine), altered, jump, packet, cut, "
        "unframed, tdc, late, wrap (so late that times may be wrong), epoch, trigger and double (triggers missing, "
        "too many); pause: no loss, datagrams waited on the board",
    ),
    Column("chip", "<i2", "", "chip number, -1: any"),
    Column(
        "amount",
        "<i8",
        "",
        "datagrams lost (way: at most); tdc: edges; trigger, double: triggers; late, wrap, altered, jump: words; cut, "
        "unframed: words at most; packet: packets; damaged: bytes; pause: datagrams that waited",
    ),
    Column(
        "start", "<f8", "ns", "nothing before may be missing, since the timer's zero; -inf: the acquisition's start"
    ),
    Column("stop", "<f8", "ns", "nothing after may be missing; inf: the acquisition's end"),
    Column("shots", "<i8", "", "shots that may be touched; they are not valid, but of a pause"),
)
TABLES: Final[Mapping[str, Sequence[Column]]] = {
    "acquisitions": ACQUISITIONS,
    "centroids": CENTROIDS,
    "hits": HITS,
    "losses": LOSSES,
    "shots": SHOTS,
    "triggers": TRIGGERS,
}
LAYOUT_VERSION: Final = 1

Layout = Mapping[str, Sequence[Column]]
"""The columns of each table."""


def layout_with(optional: Collection[str]) -> Layout:
    """All tables, with those of the optional columns that are named."""
    return {
        name: (*columns, *(column for column in OPTIONAL.get(name, ()) if column.name in optional))
        for name, columns in TABLES.items()
    }


def layout_of(entry: h5py.Group) -> Layout:
    """All tables, with those of the optional columns that a file has."""
    return layout_with([c.name for name, more in OPTIONAL.items() for c in more if c.name in entry.get(name, ())])


Array = npt.NDArray[Any]


class Table:
    """A growing group of columns of equal length. Rows are appended to all columns at once.

    They wait in memory until a chunk is full or somebody flushes: each time a column grows costs HDF5 some 150 µs.
    What is stored of a chunk stays in memory, too, until it is full: chunks are always written whole, past HDF5's
    own cache of chunks.

    watcher: is given the rows as they are stored, one array per column.
    """

    def __init__(self, group: h5py.Group, columns: Sequence[Column], chunk_rows: int) -> None:
        self.rows = 0
        self.watcher: Callable[[Mapping[str, Array]], None] | None = None
        self._in_file = 0
        self._safe_rows = 0
        self._touched = True
        self._chunk_rows = chunk_rows
        self._columns = {c.name: _growing(group, c, chunk_rows) for c in columns}
        self._chunk = {c.name: np.zeros(chunk_rows, c.dtype) for c in columns}
        """The rows since the last full chunk."""
        self._filled = 0
        """What lies behind in `_chunk` is 0."""
        self._lent: set[str] = set()
        """Columns that others may have written into: of these `_chunk` is not what is in the file."""

    @property
    def stored_rows(self) -> int:
        """Length of the shortest column in the file."""
        return min(int(dataset.shape[0]) for dataset in self._columns.values())

    def append(self, rows: Mapping[str, Array]) -> None:
        """Append one array per column."""
        n = len(next(iter(rows.values())))
        self._touched |= n > 0
        if n and self._lent:
            self._read_back()
        done = 0
        while done < n:
            held = self.rows % self._chunk_rows
            step = min(n - done, self._chunk_rows - held)
            for name, chunk in self._chunk.items():
                chunk[held : held + step] = rows[name][done : done + step]
            self._filled = max(self._filled, held + step)
            self.rows += step
            done += step
            if held + step == self._chunk_rows:
                self._store()

    def _store(self) -> None:
        """What waits goes into the file: it is a part of one chunk."""
        if self._in_file == self.rows:
            return
        start = (self.rows - 1) // self._chunk_rows * self._chunk_rows
        held, stored = self.rows - start, self._in_file - start
        if self.watcher is not None:
            self.watcher({name: chunk[stored:held] for name, chunk in self._chunk.items()})
        for name, dataset in self._columns.items():
            chunk = self._chunk[name]
            chunk[held : self._filled] = 0
            if stored:  # rows that a reader sees are there already
                dataset.id.write_direct_chunk((start,), chunk)
            dataset.id.set_extent((self.rows,))  # `resize` asks for the chunks first, and takes twice as long
            if not stored:
                dataset.id.write_direct_chunk((start,), chunk)
        self._filled = held
        self._in_file = self.rows

    def _read_back(self) -> None:
        """Into the chunk that goes on: what others wrote there."""
        start = self._in_file // self._chunk_rows * self._chunk_rows
        for name in self._lent:
            self._chunk[name][: self._in_file - start] = self._columns[name][start : self._in_file]
        self._lent.clear()

    def replace(self, column: str, value: int, *, where: str, among: Collection[int]) -> None:
        """Write `value` into the rows of `column` where column `where` holds one of `among`."""
        if among:
            values = self.column(column)
            rows = np.isin(self._columns[where][:], list(among))
            values[:] = np.where(rows, value, values[:])

    def column(self, name: str) -> h5py.Dataset:
        """A column, to be read and written into until the next `append`; readers see that after the next `flush`."""
        self._store()
        self._touched = True
        self._lent.add(name)
        return self._columns[name]

    def flush(self) -> None:
        """Make the appended rows visible to readers."""
        if not self._touched:
            return
        self._store()
        for dataset in self._columns.values():
            dataset.flush()
        self._safe_rows = self.rows
        self._touched = False

    def cut(self) -> None:
        """Forget rows whose values could not be written: without this, readers would find zeros there."""
        for dataset in self._columns.values():
            with contextlib.suppress(OSError, RuntimeError):  # of the rest, each column that can be cut is cut
                dataset.resize((self._safe_rows,))
                dataset.flush()
        self.rows = self._in_file = self._safe_rows
        self._lent.update(self._columns)


def _growing(group: h5py.Group, column: Column, chunk_rows: int) -> h5py.Dataset:
    dataset = group.create_dataset(column.name, (0,), maxshape=(None,), chunks=(chunk_rows,), dtype=column.dtype)
    if column.unit:
        _tell(dataset, "units", column.unit)
    _tell(dataset, "long_name", column.meaning)
    return dataset


def _tell(item: h5py.Dataset | h5py.Group, name: str, text: str) -> None:
    """`item.attrs[name] = text` in a third of the time: of 65 attributes that is half of what opening a file takes."""
    h5py.h5a.create(item.id, name.encode(), _TEXT, _SCALAR).write(np.array(text, h5py.string_dtype()))


_TEXT: Final = h5py.h5t.py_create(h5py.string_dtype(), logical=True)
_SCALAR: Final = h5py.h5s.create(h5py.h5s.SCALAR)


class EventFile:
    """An open event file. Raises FileExistsError rather than overwrite one.

    image_shape: (rows, columns) of the picture; tof_edges_ns: bin edges of the ToF spectrum.
    """

    def __init__(
        self,
        path: Path,
        *,
        image_shape: tuple[int, int],
        tof_edges_ns: Array,
        attributes: Mapping[str, str],
        layout: Layout = TABLES,
    ) -> None:
        self.path = path
        if path.exists():
            raise FileExistsError(f"{path} exists and is never overwritten; choose another name")
        self._file = h5py.File(path, "x", libver="latest", **ALIGNED)
        try:
            self._lay_out(image_shape, tof_edges_ns, attributes, layout)
            self._file.swmr_mode = True
            self._held = _hold(path)
        except BaseException:
            self._file.close()
            raise

    def _lay_out(
        self, image_shape: tuple[int, int], tof_edges_ns: Array, attributes: Mapping[str, str], layout: Layout
    ) -> None:
        self._file.attrs["NX_class"] = "NXroot"
        entry = self._file.create_group("entry")
        entry.attrs["NX_class"] = "NXentry"
        entry.attrs["layout_version"] = LAYOUT_VERSION
        for name, text in attributes.items():
            entry.create_dataset(name, data=text)
        self.tables = {
            name: Table(_collection(entry, name), columns, SMALL_CHUNK_ROWS if name in SMALL_TABLES else CHUNK_ROWS)
            for name, columns in layout.items()
        }
        preview = _collection(entry, "preview")
        self.image = np.zeros(image_shape, np.uint64)
        self.tof = np.zeros(len(tof_edges_ns) - 1, np.uint64)
        self._image = preview.create_dataset("image", data=self.image)
        self._tof = preview.create_dataset("tof", data=self.tof)
        self._tof.attrs["long_name"] = "centroids per bin of time of flight"
        edges = preview.create_dataset("tof_edges", data=tof_edges_ns)
        edges.attrs["units"] = "ns"
        self._ledger = entry.create_dataset("ledger", (), dtype=f"S{LEDGER_ROOM}")

    def append(self, table: str, rows: Mapping[str, Array]) -> None:
        """Append rows to one of the tables."""
        with self._writing():
            self.tables[table].append(rows)

    def watch(self, table: str, watcher: Callable[[Mapping[str, Array]], None]) -> None:
        """From now on `watcher` is given the rows of a table as they are stored, a chunk or what a flush finds."""
        self.tables[table].watcher = watcher

    def rows(self, table: str) -> int:
        """Rows appended so far."""
        return self.tables[table].rows

    def stored_rows(self, table: str) -> int:
        """Rows that every column of the table holds in the file, as HDF5 says."""
        return self.tables[table].stored_rows

    def write_ledger(self, ledger: Mapping[str, Any]) -> None:
        """Store the ledger as JSON. Raises ValueError when it does not fit its room."""
        text = json.dumps(ledger).encode()
        if len(text) > LEDGER_ROOM:
            raise ValueError(f"the ledger takes {len(text)} bytes, its room in the event file holds {LEDGER_ROOM}")
        self._ledger[()] = np.bytes_(text)

    def column(self, table: str, name: str) -> h5py.Dataset:
        """One column of a table."""
        return self.tables[table].column(name)

    def flag_cancelled(self, acquisitions: Collection[int]) -> None:
        """Mark acquisitions, by number, whose rows belong to no point after all."""
        self.tables["acquisitions"].replace("cancelled", 1, where="acquisition", among=acquisitions)

    def flush(self) -> None:
        """Everything appended so far becomes visible to readers."""
        with self._writing():
            self._image[...] = self.image
            self._tof[...] = self.tof
            for table in self.tables.values():
                table.flush()
            self._image.flush()
            self._tof.flush()
            self._ledger.flush()

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """HDF5 tells of a full disk in many lines of its own: say which file, why, and the way out."""
        try:
            yield
        except (OSError, RuntimeError) as error:
            number = _error_number(error)
            for table in self.tables.values():
                table.cut()
            free = shutil.disk_usage(self.path.parent).free
            raise OSError(
                number,
                f"cannot write the event file after row {self.rows('centroids')}: {os.strerror(number)} "
                f"({free / 1e6:.0f} MB free); free space on that file system or choose another data directory",
                str(self.path),
            ) from error

    def close(self) -> None:
        """Flush and close."""
        if self._file:
            self.flush()
            self._file.close()
            os.close(self._held)


def _hold(path: Path) -> int:
    """A descriptor that tells others, as long as it lives, that the file is being written: see `is_being_written`.

    In SWMR mode HDF5 holds no lock of its own; a shared one keeps no reader away.
    """
    fd = os.open(path, os.O_RDONLY)
    with contextlib.suppress(OSError):  # a file system without locks
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    return fd


def is_being_written(path: Path) -> bool:
    """Whether a process has this event file open as an `EventFile`. A file system without locks tells of none."""
    fd = open_for_lock(path)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(fd)
    return False


def open_for_lock(path: Path) -> int:
    """A descriptor for an exclusive lock: NFS gives that only to who may write."""
    try:
        return os.open(path, os.O_RDWR)
    except OSError:
        return os.open(path, os.O_RDONLY)


def _error_number(error: Exception) -> int:
    """The system's error number, which HDF5 hides in its text."""
    told = re.search(r"errno = (\d+)", str(error))
    if told:
        return int(told.group(1))
    return getattr(error, "errno", None) or errno.EIO


def _collection(entry: h5py.Group, name: str) -> h5py.Group:
    group = entry.create_group(name)
    group.attrs["NX_class"] = "NXcollection"
    return group


def tof_edges(range_ns: tuple[float, float], bins: int) -> Array:
    """Bin edges of the ToF spectrum (ns), shape (bins + 1,)."""
    return np.linspace(range_ns[0], range_ns[1], bins + 1)
