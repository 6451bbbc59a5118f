"""Questions about single centroids: rows and columns of a run's centroid stream, as a table.

Reads through the catalog, so it answers for local files and for a remote server alike, for finished runs and for
running ones. Works through long runs in blocks: memory is that of the answer.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from .errors import CatalogError
from .opening import open_catalog
from .profile import DEFAULT_NAME
from .settling import settle

STREAM_SUFFIX = "_centroids"
BLOCK_ROWS = 1 << 20

Window = tuple[float | None, float | None]
Rows = tuple[int, int]


def centroids(
    run: Any,
    columns: Sequence[str] | str | None = None,
    *,
    point: int | Sequence[int] | None = None,
    rows: Rows | None = None,
    shots: tuple[int | None, int | None] | None = None,
    tof: Window | None = None,
    x: Window | None = None,
    y: Window | None = None,
    tot: Window | None = None,
    size: Window | None = None,
    detector: str | None = None,
    catalog: str = DEFAULT_NAME,
) -> pd.DataFrame:
    """Centroids of a run, one per line; the index is the row in `/entry/centroids` of the event file.

    `run` is a run of a catalog, its uid (or the first letters), its scan id or -1 for the last one; the latter are
    looked up in `catalog`. `columns`: shot, x, y, toa, tof, tot, tot_max, size, chip, flags (default: all).

    What to keep: `point` (seq_num of one or several points), `rows` (first, end), and windows (low, high), low <= value
    < high, None for an open side: `shots` in shot numbers, `tof` in ns, `x` and `y` in pixels, `tot` in 25 ns counts,
    `size` in hits. Centroids outside any shot have no ToF: any `tof` window leaves them out.
    """
    settle()
    stream = _centroid_stream(_run_of(run, catalog), detector)
    wanted = _checked(stream, [columns] if isinstance(columns, str) else columns)
    windows: dict[str, Window] = {
        column: window
        for column, window in {"shot": shots, "tof": tof, "x": x, "y": y, "tot": tot, "size": size}.items()
        if window is not None
    }
    _checked(stream, list(windows))
    for column, (low, high) in windows.items():
        if low is not None and high is not None and low >= high:
            raise ValueError(f"the window of {column} is empty: {low} is not below {high}")
    pieces = [
        _select(stream, wanted, windows, start, stop)
        for first, last in _row_ranges(stream, point, rows)
        for start, stop in _blocks(first, last)
    ]
    return pd.concat(pieces) if pieces else _select(stream, wanted, {}, 0, 0)


@dataclass(frozen=True)
class _Stream:
    """The centroid stream of one detector in one run."""

    run: Any
    name: str
    arrays: dict[str, Any]
    """Tiled's array of each column, as long as it was when asked; none while the run has no centroid yet."""
    dtypes: dict[str, str]
    """Columns in their order, and how a number of each is stored."""

    @property
    def detector(self) -> str:
        return self.name.removesuffix(STREAM_SUFFIX)

    def rows(self) -> int:
        """Rows that every column has: the catalog learns of them column by column while a run goes."""
        if self.arrays.keys() < self.dtypes.keys():
            return 0
        return min(int(array.shape[0]) for array in self.arrays.values())


def _run_of(run: Any, catalog: str) -> Any:
    """The run as the flat (v3) client of bluesky_tiled_plugins, from a uid, a scan id, a Header or a client."""
    if isinstance(run, str | int):
        return open_catalog(catalog).v3[run]
    nested = getattr(run, "v2", run)
    return getattr(nested, "v3", nested)


def _centroid_stream(run: Any, detector: str | None) -> _Stream:
    names = [name for name in run if name.endswith(STREAM_SUFFIX)]
    if detector is not None:
        names = [name for name in names if name == detector + STREAM_SUFFIX]
    if not names:
        of = f" of the detector {detector!r}" if detector else ""
        raise CatalogError(
            f"The run {run.metadata['start']['uid']} has no centroids{of}; its streams are: {', '.join(run) or 'none'}"
        )
    if len(names) > 1:
        choices = ", ".join(repr(name.removesuffix(STREAM_SUFFIX)) for name in names)
        raise ValueError(f"several detectors recorded centroids in this run; choose with detector=: {choices}")
    (name,) = names
    node = run[name]
    prefix = f"{name}_"
    keys = node.metadata["data_keys"]
    dtypes = {key.removeprefix(prefix): str(keys[key]["dtype_numpy"]) for key in keys if key.startswith(prefix)}
    # one request for all columns: the stream's own look-up asks the catalog three times for each
    arrays = {key.removeprefix(prefix): array for key, array in node.base.items() if key.startswith(prefix)}
    return _Stream(run, name, arrays, dtypes)


def _checked(stream: _Stream, columns: Sequence[str] | None) -> list[str]:
    if columns is None:
        return list(stream.dtypes)
    unknown = [column for column in columns if column not in stream.dtypes]
    if unknown:
        raise ValueError(f"no column {', '.join(map(repr, unknown))}; there are: {', '.join(stream.dtypes)}")
    return list(columns)


def _row_ranges(stream: _Stream, point: int | Sequence[int] | None, rows: Rows | None) -> list[Rows]:
    if point is not None and rows is not None:
        raise ValueError("choose by point= or by rows=, not by both")
    known = stream.rows()
    if rows is not None:
        first, end = rows
        if not 0 <= first <= end:
            raise ValueError(f"rows=({first}, {end}) is no range of rows")
        return [(min(first, known), min(end, known))]
    if point is None:
        return [(0, known)]
    return _rows_of_points(stream, [point] if isinstance(point, int) else list(point))


def _rows_of_points(stream: _Stream, points: list[int]) -> list[Rows]:
    start_key, stop_key = f"{stream.detector}_row_start", f"{stream.detector}_row_stop"
    for name in stream.run:
        node = stream.run[name]
        if start_key in node.metadata.get("data_keys", {}):
            table = node.read([start_key, stop_key, "seq_num"])
            found = {
                int(number): (int(first), int(end))
                for number, first, end in zip(
                    np.asarray(table["seq_num"]), np.asarray(table[start_key]), np.asarray(table[stop_key]), strict=True
                )
            }
            missing = [number for number in points if number not in found]
            if missing:
                raise ValueError(f"no point {missing[0]} in stream {name!r}; it has {sorted(found) or 'none'}")
            return [found[number] for number in points]
    raise CatalogError(f"no stream of this run says which rows belong to a point (data key {start_key!r})")


def _blocks(first: int, end: int) -> Iterator[Rows]:
    for start in range(first, end, BLOCK_ROWS):
        yield start, min(start + BLOCK_ROWS, end)


def _select(stream: _Stream, wanted: list[str], windows: dict[str, Window], start: int, stop: int) -> pd.DataFrame:
    """Rows [start, stop) that lie in all windows. Columns that are only asked for are read where rows remain."""
    values: dict[str, npt.NDArray[Any]] = {}

    def read(column: str) -> npt.NDArray[Any]:
        if column not in values:
            empty = np.empty(0, dtype=stream.dtypes[column])
            values[column] = np.asarray(stream.arrays[column][start:stop]) if stop > start else empty
        return values[column]

    keep = np.ones(stop - start, dtype=bool)
    for column, (low, high) in windows.items():
        keep &= ~np.isnan(read(column)) if read(column).dtype.kind == "f" else True
        keep &= read(column) >= low if low is not None else True
        keep &= read(column) < high if high is not None else True
        if not keep.any():
            return _select(stream, wanted, {}, 0, 0)
    index = pd.Index(np.flatnonzero(keep) + start, name="row")
    return pd.DataFrame({column: read(column)[keep] for column in wanted}, index=index)
