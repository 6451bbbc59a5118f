"""A run as the catalog has it: its stream of centroids, its points, its shots, and how it was taken."""

import json
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd
from pydantic import ValidationError

from ..config import Geometry, MassCalibration, Processing
from ..events.columns import SHOTS
from ..files.reader import open_event_file
from .asked import is_whole
from .columns import Columns, FileColumns, ServedColumns, choose_columns, is_in_this_process, local_path, missing_file
from .errors import CatalogError, NoCentroidsError
from .opening import open_catalog

logger = logging.getLogger(__name__)

STREAM_SUFFIX: Final = "_centroids"
SHOTS_SUFFIX: Final = "_shots"
BLOCK_ROWS: Final = 1 << 20
_SHOT_BLOCK: Final = 1 << 22
_NOTHING: Final = np.empty(0, np.uint8)


@dataclass(frozen=True)
class Shots:
    """The table of shots of a run: which are valid. It may still grow."""

    columns: Columns
    _read: dict[str, tuple[int, npt.NDArray[Any]]] = field(default_factory=dict, repr=False, compare=False)
    """What was read last, and its first shot: questions go through the shots in order."""

    def count(self) -> int:
        """Shots known so far."""
        return self.columns.rows()

    def valid(self, start: int, stop: int) -> npt.NDArray[Any]:
        """Whether each of shots [start, stop) is valid; shorter where the table ends before."""
        first, marks = self._read.get("valid", (0, _NOTHING))
        if not first <= start <= stop <= first + len(marks):
            first = start
            with self.columns.opened() as read:
                marks = read("valid", start, max(stop, start + _SHOT_BLOCK))
            self._read["valid"] = first, marks
        return marks[start - first : stop - first]

    def count_valid(self, start: int, stop: int) -> int:
        """Valid shots in [start, stop)."""
        return sum(
            int(np.count_nonzero(self.valid(first, min(first + _SHOT_BLOCK, stop))))
            for first in range(start, stop, _SHOT_BLOCK)
        )


@dataclass(frozen=True)
class Recorded:
    """The centroids of one detector in one run."""

    run: Any
    """The flat (v3) client of bluesky_tiled_plugins."""
    streams: Mapping[str, Any]
    """Its streams, as they were when asked."""
    stream: str
    columns: Columns
    known_rows: int
    """Rows that the catalog knew of when it was asked: the file may have more."""
    dtypes: Mapping[str, str]
    """Columns in their order, and how a number of each is stored."""
    direct: bool
    """Whether the event file may be read itself."""

    @property
    def detector(self) -> str:
        return self.stream.removesuffix(STREAM_SUFFIX)

    @property
    def start(self) -> Mapping[str, Any]:
        start: Mapping[str, Any] = self.run.metadata["start"]
        return start

    @property
    def is_finished(self) -> bool:
        return bool(self.run.metadata.get("stop"))

    def check_columns(self, columns: Iterable[str] | None) -> list[str]:
        """Columns of the stream, or all. Raises ValueError for one that there is not."""
        if columns is None:
            return list(self.dtypes)
        wanted = list(columns)
        unknown = [column for column in wanted if column not in self.dtypes]
        if unknown:
            raise ValueError(f"no column {', '.join(map(repr, unknown))}; there are: {', '.join(self.dtypes)}")
        return wanted

    @cached_property
    def point_stream(self) -> Any:
        """The stream with a row per point: the plan's own first, then that of flights."""
        key = f"{self.detector}_row_start"
        names = sorted(self.streams, key=lambda name: (name != "primary", name != f"{self.detector}_frames", name))
        for name in names:
            if key in self.streams[name].metadata.get("data_keys", {}):
                return self.streams[name]
        raise CatalogError(f"no stream of this run says which rows belong to a point (data key {key!r})")

    @cached_property
    def points(self) -> pd.DataFrame:
        """What the documents say of each point, by `seq_num`; a point that was taken again counts once."""
        node = self.point_stream
        internal = dict(node.base.items()).get("internal")
        if internal is None:
            return pd.DataFrame(columns=[*self._scalar_keys(node)], index=pd.Index([], name="seq_num", dtype="int64"))
        table = internal.read().drop_duplicates("seq_num", keep="last").set_index("seq_num").sort_index()
        table["time"] = pd.to_datetime(table["time"], unit="s")
        kept = [name for name in table.columns if not name.startswith("ts_")]
        return table[kept]

    @staticmethod
    def _scalar_keys(node: Any) -> list[str]:
        keys = node.metadata["data_keys"]
        return ["time", *(key for key in keys if "external" not in keys[key])]

    def of_points(self, name: str) -> Any:
        """A quantity of the detector for each point, as integers; None if the run has no such thing."""
        key = f"{self.detector}_{name}"
        return self.points[key].astype("int64") if key in self.points else None

    def check_points(self, points: Iterable[int]) -> list[int]:
        """Numbers of points. Raises ValueError for one that there is not."""
        wanted = list(points)
        found = self.points.index
        missing = [number for number in wanted if number not in found]
        if missing:
            name = self.point_stream.item["id"]
            raise ValueError(f"no point {missing[0]} in stream {name!r}; it has {list(found) or 'none'}")
        return wanted

    @cached_property
    def event_file(self) -> Path | None:
        """The event file as the documents name it; None before the first row of a run without points."""
        if isinstance(self.columns, FileColumns):
            return self.columns.path
        arrays = getattr(self.columns, "arrays", {})
        path = local_path(next(iter(arrays.values()))) if arrays else None
        return path or self._file_of_points()

    def _file_of_points(self) -> Path | None:
        try:
            named = self.points.get(f"{self.detector}_file")
        except CatalogError:  # no points
            return None
        return Path(str(named.iloc[-1])) if named is not None and len(named) and named.iloc[-1] else None

    @cached_property
    def shots(self) -> Shots | None:
        """The table of shots, from the catalog or from the event file beside it; None if neither is in reach."""
        stream = f"{self.detector}{SHOTS_SUFFIX}"
        arrays = arrays_of(self.streams[stream], f"{stream}_") if stream in self.streams else {}
        if arrays.keys() >= {column.name for column in SHOTS}:
            return Shots(choose_columns(self.event_file, "/entry/shots", arrays, direct=self.direct))
        if self.direct and self.event_file is not None and _has(self.event_file, "/entry/shots"):
            return Shots(FileColumns(self.event_file, "/entry/shots"))
        if stream in self.streams:  # described, and without a row until now: nobody gave triggers
            return Shots(ServedColumns({}, str(self.event_file or "")))
        return None

    @property
    def lacks_shots(self) -> bool:
        """Whether the event file, looked into here, has no table of shots at all."""
        file = self.event_file
        return self.direct and file is not None and _has(file, "/entry/centroids") and not _has(file, "/entry/shots")

    def setting(self, name: str) -> Any:
        """What the configuration of the detector says under `name`; None if it says nothing."""
        key = f"{self.detector}_{name}"
        for stream in self._described_streams():
            for entry in stream.metadata.get("configuration", {}).values():
                if key in entry.get("data", {}):
                    return entry["data"][key]
        return None

    def _described_streams(self) -> list[Any]:
        try:
            return [self.point_stream, self.streams[self.stream]]
        except CatalogError:  # no points
            return [self.streams[self.stream]]

    @cached_property
    def geometry(self) -> Geometry | None:
        """The geometry that the run was taken with, where the documents say."""
        return _parsed(Geometry, self.setting("geometry"))

    @cached_property
    def calibration(self) -> MassCalibration | None:
        """The m/q calibration that the run was taken with, from the detector or the start document."""
        return _parsed(MassCalibration, self.setting("mass_calibration") or self.start.get("mass_calibration"))

    @cached_property
    def processing(self) -> Processing | None:
        """The limits of ToF that the run was taken with; other parameters as they are by default."""
        limits = {name: self.setting(f"processing_{name}") for name in ("tof_min_ns", "tof_max_ns")}
        # 0 stands for "no limit" in the documents
        return Processing(**{name: value or None for name, value in limits.items()})


def look_up(run: Any, detector: str | None, catalog: str, *, direct: bool) -> Recorded:
    """The centroids of a run: a uid, a scan id, a Header or a client; `detector` where several recorded."""
    flat = _run_of(run, catalog)
    streams = _streams_of(flat)
    name = _stream_of(flat, streams, detector)
    node = streams[name]
    prefix = f"{name}_"
    keys = node.metadata["data_keys"]
    dtypes = {key.removeprefix(prefix): str(keys[key]["dtype_numpy"]) for key in keys if key.startswith(prefix)}
    arrays = arrays_of(node, prefix)
    whole = arrays.keys() >= dtypes.keys()  # the catalog learns of them column by column while a run goes
    rows = min(int(array.shape[0]) for array in arrays.values()) if whole else 0
    path = local_path(next(iter(arrays.values()))) if arrays else None
    if path is not None and not path.exists() and is_in_this_process(node):
        raise missing_file(str(path))
    columns = choose_columns(path, "/entry/centroids", arrays, direct=direct)
    return Recorded(flat, streams, name, columns, rows, dtypes, direct)


def _run_of(run: Any, catalog: str) -> Any:
    """The run as the flat (v3) client of bluesky_tiled_plugins, from a uid, a scan id, a Header or a client."""
    if isinstance(run, str) or is_whole(run):
        return open_catalog(catalog).v3[run if isinstance(run, str) else int(run)]
    nested = getattr(run, "v2", run)
    flat = getattr(nested, "v3", nested)
    if "start" not in (getattr(flat, "metadata", None) or ()):
        raise TypeError(
            f"{run!r} is no run; give a uid, a scan id, or a run of a catalog as db[-1]. "
            "Of several runs, as db(sample=...) finds them, choose one, or ask counts(...) of them all"
        )
    return flat


def _streams_of(run: Any) -> dict[str, Any]:
    """All streams in one request: the run's own look-up asks several times for each."""
    streams = dict(run.base.items())
    older = streams.get("streams")  # a container of streams, in runs that older writers wrote
    if older is not None and not any(spec.name == "BlueskyEventStream" for spec in older.specs):
        streams = dict(older.items())
    return streams


def _stream_of(run: Any, streams: Mapping[str, Any], detector: str | None) -> str:
    names = [name for name in streams if name.endswith(STREAM_SUFFIX)]
    if detector is not None:
        names = [name for name in names if name == detector + STREAM_SUFFIX]
    if not names:
        of = f" of the detector {detector!r}" if detector else ""
        raise NoCentroidsError(
            f"The run {run.metadata['start']['uid']} has no centroids{of}; "
            f"its streams are: {', '.join(streams) or 'none'}"
        )
    if len(names) > 1:
        choices = ", ".join(repr(name.removesuffix(STREAM_SUFFIX)) for name in names)
        start = run.metadata["start"]
        raise ValueError(
            f"several detectors recorded centroids in run {start['uid']} (scan {start.get('scan_id', '?')}); "
            f"choose with detector=: {choices}"
        )
    return str(names[0])


def arrays_of(node: Any, prefix: str) -> dict[str, Any]:
    """Arrays of a stream by column, with the files behind them. One request for all: the stream's own look-up asks
    three times for each.
    """
    base = node.base.new_variation(include_data_sources=True)
    return {key.removeprefix(prefix): array for key, array in base.items() if key.startswith(prefix)}


def _has(path: Path, group: str) -> bool:
    try:
        with open_event_file(path) as file:
            return group in file
    except OSError:
        return False


def _parsed(model: Any, value: Any) -> Any:
    """A model from its JSON or its fields; None where there is none, or where it cannot be understood."""
    if not value:
        return None
    try:
        return model.model_validate(json.loads(value) if isinstance(value, str) else dict(value))
    except (ValidationError, json.JSONDecodeError, TypeError) as error:
        logger.warning("the %s of this run is not understood and left out: %s", model.__name__, error)
        return None
