"""Where the columns of a run are read: in the event file where this machine has it, else through the catalog.

The file is some twenty times faster than a catalog, which packs, sends and unpacks every row. Both give the same rows.
"""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlparse

import h5py
import numpy as np
import numpy.typing as npt

from ..files.reader import open_event_file
from .addresses import path_of
from .errors import CatalogError, EventFileError

Array = npt.NDArray[Any]
Room = dict[str, Array]
"""Memory that columns may be read into, again and again: fresh pages take several times as long as the rows."""


class Read(Protocol):
    """Reads rows [start, stop) of a column, fewer where it ends before. With a room they are good until it is used for
    that column again.
    """

    def __call__(self, column: str, start: int, stop: int, room: Room | None = None, /) -> Array: ...


class Columns(Protocol):
    """A table of columns of equal length."""

    def rows(self) -> int:
        """Rows that every column has."""

    def opened(self) -> AbstractContextManager[Read]:
        """For reading rows."""

    @property
    def reads_ahead(self) -> bool:
        """Whether it pays, and is safe, to read in a second thread."""


@dataclass(frozen=True)
class FileColumns:
    """A table of an event file, which may still grow."""

    path: Path
    group: str
    reads_ahead = True  # HDF5 reads without Python's lock

    def rows(self) -> int:
        with open_event_file(self.path) as file:
            return min(int(dataset.shape[0]) for dataset in file[self.group].values())

    @contextmanager
    def opened(self) -> Iterator[Read]:
        with open_event_file(self.path) as file:
            group = file[self.group]
            found: dict[str, h5py.Dataset] = {}

            def read(column: str, start: int, stop: int, room: Room | None = None, /) -> Array:
                if column not in found:
                    found[column] = group[column]
                return _rows_of(found[column], start, stop, column, room)

            yield read


def _rows_of(dataset: h5py.Dataset, start: int, stop: int, column: str, room: Room | None) -> Array:
    stop = min(stop, int(dataset.shape[0]))
    n = stop - start
    if room is None or n <= 0:
        return np.asarray(dataset[start:stop])
    if column not in room or len(room[column]) < n:
        room[column] = np.empty(n, dataset.dtype)
    into = room[column][:n]
    dataset.read_direct(into, np.s_[start:stop])
    return into


@dataclass(frozen=True)
class ServedColumns:
    """Columns as the catalog serves them: in this process, or over a network."""

    arrays: Mapping[str, Any]
    """Tiled's array of each column, as long as it was when asked."""
    path: str
    """The file behind them, for messages."""
    reads_ahead = False

    def rows(self) -> int:
        return min((int(array.shape[0]) for array in self.arrays.values()), default=0)

    @contextmanager
    def opened(self) -> Iterator[Read]:
        yield self._read

    def _read(self, column: str, start: int, stop: int, _room: Room | None = None, /) -> Array:
        array = self.arrays[column]
        stop = min(stop, int(array.shape[0]))
        if stop <= start:
            return np.empty(0, dtype=array.dtype)
        try:
            return np.asarray(array[start:stop])
        except FileNotFoundError as missing:
            raise missing_file(self.path) from missing
        except Exception as refused:
            # Tiled's client and its HTTP library have no error in common
            raise CatalogError(
                f"The catalog does not serve rows {start} to {stop} of the column {column!r} ({refused}); they are in "
                f"{self.path}: was it moved, or may the server not read it? On the server, `ophyd-timepix catalog "
                "check` lists missing files, `catalog move` says where they are, `catalog init --readable` allows one"
            ) from refused


def missing_file(path: str) -> EventFileError:
    """The error for a file that is not where the documents say."""
    return EventFileError(
        f"The event file {path} is not there any more; bring it back, or if it was moved tell the catalog where it is: "
        f"ophyd-timepix catalog move {Path(path).parent} NEW_DIRECTORY"
    )


def is_in_this_process(client: Any) -> bool:
    """Whether the catalog is an embedded one: it sees the files that we see."""
    return urlparse(str(client.context.api_uri)).hostname == "local-tiled-app"  # Tiled's name for it


def local_path(array: Any) -> Path | None:
    """The event file behind an array of the catalog, as the documents name it; None if the server does not tell."""
    sources = array.data_sources() or ()
    for source in sources:
        for asset in source.assets:
            if urlparse(asset.data_uri).scheme == "file":
                return path_of(asset.data_uri)
    return None


def choose_columns(path: Path | None, group: str, arrays: Mapping[str, Any], *, direct: bool) -> Columns:
    """The event file's table if this machine has the same columns, at least as long; else what the catalog serves."""
    served = ServedColumns(arrays, str(path or "a file that the catalog does not name"))
    if direct and path is not None and _is_the_same(path, group, served):
        return FileColumns(path, group)
    return served


def _is_the_same(path: Path, group: str, served: ServedColumns) -> bool:
    """A path of another machine may name another file here."""
    try:
        with open_event_file(path) as file:
            table = file.get(group)
            return isinstance(table, h5py.Group) and all(
                name in table and table[name].dtype == array.dtype and table[name].shape[0] >= array.shape[0]
                for name, array in served.arrays.items()
            )
    except OSError:  # not here, or not readable for this user: the catalog may well be
        return False
