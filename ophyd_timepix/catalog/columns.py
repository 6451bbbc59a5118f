"""Where the columns of a run are read: in the event file where this machine has it, else through the catalog.

The file is some twenty times faster than a catalog, which packs, sends and unpacks every row. Both give the same rows.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import unquote, urlparse

import h5py
import numpy as np
import numpy.typing as npt

from ..files.reader import open_event_file
from .errors import CatalogError, EventFileError

Array = npt.NDArray[Any]
Read = Callable[[str, int, int], Array]
"""(column, start, stop) -> rows [start, stop), fewer where the column ends before."""


class Columns(Protocol):
    """A table of columns of equal length."""

    def rows(self) -> int:
        """Rows that every column has."""

    def opened(self) -> AbstractContextManager[Read]:
        """For reading rows."""


@dataclass(frozen=True)
class FileColumns:
    """A table of an event file, which may still grow."""

    path: Path
    group: str

    def rows(self) -> int:
        with open_event_file(self.path) as file:
            return min(int(dataset.shape[0]) for dataset in file[self.group].values())

    @contextmanager
    def opened(self) -> Iterator[Read]:
        with open_event_file(self.path) as file:
            group = file[self.group]
            yield lambda column, start, stop: np.asarray(group[column][start:stop])


@dataclass(frozen=True)
class ServedColumns:
    """Columns as the catalog serves them: in this process, or over a network."""

    arrays: Mapping[str, Any]
    """Tiled's array of each column, as long as it was when asked."""
    path: str
    """The file behind them, for messages."""

    def rows(self) -> int:
        return min((int(array.shape[0]) for array in self.arrays.values()), default=0)

    @contextmanager
    def opened(self) -> Iterator[Read]:
        yield self._read

    def _read(self, column: str, start: int, stop: int) -> Array:
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
            parts = urlparse(asset.data_uri)
            if parts.scheme == "file":
                return Path(unquote(parts.path))
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
