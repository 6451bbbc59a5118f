"""Which centroids of a run a question is about, and going through them in blocks.

`Which` is what a user may say; `Question` is that, checked against the run. Memory is that of one block of 2**20 rows.
"""

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, Final, NamedTuple, TypedDict

import numpy as np
import numpy.typing as npt

from ..config import Gate, MassCalibration
from ..config.gates import Roi, Window, check_roi
from ..events.gates import Condition, rows_of_valid_shots, shot_span
from ..events.gates import Rows as Kept
from . import asked
from .ahead import NOTHING, Coming, looked_at_in_turn
from .columns import Read, Room
from .errors import CatalogError
from .profile import DEFAULT_NAME
from .recorded import BLOCK_ROWS, Recorded, Shots, look_up
from .settling import settle

Rows = tuple[int, int]
Array = npt.NDArray[Any]

_ALL_POINTS: Final = "all"


class Which(TypedDict, total=False):
    """What to keep of a run: see `centroids`."""

    point: int | Sequence[int] | str | None
    rows: Rows | None
    shots: tuple[int | None, int | None] | None
    tof: Window | None
    mq: Window | None
    x: Window | None
    y: Window | None
    roi: Roi | None
    tot: Window | None
    size: Window | None
    energy: Window | None
    calibration: MassCalibration | None
    valid_only: bool
    cancelled: bool
    detector: str | None
    catalog: str
    direct: bool


class Part(NamedTuple):
    """A piece of range number `number`: rows [start, stop)."""

    number: int
    start: int
    stop: int


@dataclass(frozen=True)
class Span:
    """Rows that are read together: within one block, the parts ascending and disjoint."""

    parts: tuple[Part, ...]

    @property
    def start(self) -> int:
        return self.parts[0].start

    @property
    def stop(self) -> int:
        return self.parts[-1].stop


@lru_cache(maxsize=1)
def _every_row(n: int) -> Kept:
    """0 to n - 1, made once: it takes as long as a window. Nobody writes to kept rows."""
    return np.arange(n, dtype=np.int32)


@dataclass
class Piece:
    """The rows of a span while they are looked at. Columns are read when they are first asked for."""

    span: Span
    read: Read
    kept: Kept = field(init=False)
    """Rows to keep, ascending, counted from the first of the span."""
    room: Room | None = None
    """Memory for its columns; None: fresh."""
    coming: Coming = field(default_factory=lambda: NOTHING)
    """Columns that are being read already."""
    _values: dict[str, Array] = field(default_factory=dict)

    def __post_init__(self) -> None:
        every = _every_row(BLOCK_ROWS)
        first = self.span.start
        ranges = [every[part.start - first : part.stop - first] for part in self.span.parts]
        self.kept = ranges[0] if len(ranges) == 1 else np.concatenate(ranges)

    def column(self, name: str) -> Array:
        """A column of all rows of the span."""
        if name not in self._values:
            coming = self.coming.get(name)
            self._values[name] = coming.result() if coming else self._read(name)
        return self._values[name]

    def _read(self, name: str) -> Array:
        return self.read(name, self.span.start, self.span.stop, self.room)

    @property
    def looked_at(self) -> tuple[str, ...]:
        """Columns that were read until now."""
        return tuple(self._values)

    def values(self, name: str) -> Array:
        """A column of the rows to keep."""
        return self.column(name).take(self.kept)

    def of_parts(self, kept: Kept) -> Iterator[tuple[int, Kept]]:
        """What each part has of some kept rows: the number of its range, and its rows."""
        if len(self.span.parts) == 1:
            yield self.span.parts[0].number, kept
            return
        first = self.span.start
        for part in self.span.parts:
            begin, end = np.searchsorted(kept, (part.start - first, part.stop - first))
            yield part.number, kept[begin:end]


@dataclass(frozen=True)
class Filter:
    """What a row must fulfil."""

    conditions: tuple[Condition, ...]
    shots: Shots | None
    """Keep only rows of shots that are valid here; None: of any."""

    @property
    def takes_all(self) -> bool:
        """Whether every row passes."""
        return self.shots is None and not any(condition.columns for condition in self.conditions)

    def narrow(self, piece: Piece) -> int:
        """Take rows out of `piece.kept`. Returns how many stay."""
        self.narrow_by_windows(piece)
        piece.kept = self.of_valid_shots(piece, piece.kept)
        return len(piece.kept)

    def narrow_by_windows(self, piece: Piece) -> int:
        """The same, whatever their shots."""
        for condition in self.conditions:
            piece.kept = condition.select(piece.kept, piece.column)
        return len(piece.kept)

    def of_valid_shots(self, piece: Piece, kept: Kept) -> Kept:
        """Those of some kept rows whose shots will do. Cheap for few rows: ask for it last."""
        if self.shots is None or not len(kept):
            return kept
        shot = piece.column("shot")
        first, stop = shot_span(kept, shot)
        if first < 0:  # where nobody gave triggers, validity says nothing
            return kept if self.shots.count() == 0 else kept[:0]
        return rows_of_valid_shots(kept, shot, self.shots.valid(first, stop), first)


@dataclass(frozen=True)
class Question:
    """What was asked, checked: a run, ranges of its rows, and what the rows must fulfil."""

    recorded: Recorded
    ranges: tuple[Rows, ...]
    filter: Filter
    calibration: MassCalibration | None
    valid_only: bool
    shot_window: tuple[int, int | None] = (0, None)
    """Shots [first, stop) that rows may belong to."""
    points: tuple[int, ...] | None = None
    """The point of each range, where they were asked for."""

    def spans(self) -> Iterator[Span]:
        """All rows of the ranges in their order, cut at whole blocks; neighbours in a block come together."""
        waiting: list[Part] = []
        for part in self._parts():
            together = waiting and waiting[-1].stop <= part.start and _block(waiting[-1]) == _block(part)
            if waiting and not together:
                yield Span(tuple(waiting))
                waiting = []
            waiting.append(part)
        if waiting:
            yield Span(tuple(waiting))

    def _parts(self) -> Iterator[Part]:
        for index, (first, end) in enumerate(self.ranges):
            start = first
            while start < end:
                stop = min((start // BLOCK_ROWS + 1) * BLOCK_ROWS, end)
                yield Part(index, start, stop)
                start = stop

    def pieces(self, *, whatever_shots: bool = False) -> Iterator[Piece]:
        """Each span with the rows to keep; spans without any are left out. whatever_shots: windows alone decide.

        The columns of a piece are good until the next one is asked for; what is taken out of them is not theirs.
        """
        narrow = self.filter.narrow_by_windows if whatever_shots else self.filter.narrow
        columns = self.recorded.columns
        with columns.opened() as read:
            every = looked_at_in_turn(
                self.spans(),
                read,
                lambda span, room, coming: Piece(span, read, room, coming),
                ahead=columns.reads_ahead,
            )
            with closing(every):
                for piece in every:
                    if narrow(piece):
                        yield piece

    def per_point(self) -> "Question":
        """The same question with a range for each point, those left out that the catalog does not know whole yet."""
        if self.points is not None:
            return self
        if self.ranges != ((0, self.recorded.known_rows),):
            raise ValueError("per_point=True goes with point=, not with rows=")
        complete = _known_points(self.recorded, self.filter.shots)
        return replace(self, ranges=_ranges_of(self.recorded, complete), points=complete)


def _block(part: Part) -> int:
    return part.start // BLOCK_ROWS


def ask(run: Any, which: Which, gate: Gate | None = None) -> Question:
    """Look up a run and check what was asked of it. Raises ValueError or TypeError for a wrong question."""
    asked.check_keywords(which, list(Which.__annotations__))
    asked.check_kinds(which, gate)
    settle()
    recorded = look_up(run, which.get("detector"), which.get("catalog", DEFAULT_NAME), direct=which.get("direct", True))
    calibration = which.get("calibration") or recorded.calibration
    windows, region = _windows(which, recorded)
    if which.get("mq") is not None:
        if which.get("tof") is not None:
            raise ValueError("choose by tof= or by mq=, not by both")
        mq = asked.window("mq", which["mq"])
        windows["tof"] = Gate(name="mq", mq=mq).tof_window(calibration) or (None, None)
    recorded.check_columns(windows)
    conditions = [Condition.of_windows(windows | region)]
    if gate is not None:
        gate.check(recorded.geometry, recorded.processing, calibration)
        conditions.append(Condition.of(gate, calibration))
    valid_only = which.get("valid_only", True)
    shots_to_check = _shots_to_check(recorded) if valid_only else None
    points = _points(recorded, which.get("point"))
    if points is None and which.get("rows") is None and not which.get("cancelled", False):
        points = _whole_points(recorded, shots_to_check)
    return Question(
        recorded,
        _ranges(recorded, points, which.get("rows")),
        Filter(tuple(conditions), shots_to_check),
        calibration,
        valid_only,
        _shot_window(which.get("shots")),
        points,
    )


def _windows(which: Which, recorded: Recorded) -> tuple[dict[str, Window], dict[str, Window]]:
    """Windows of columns, and those of the region of interest."""
    given: dict[str, Any] = {**which}
    windows = {
        name: asked.window(name, given[name])
        for name in ("tof", "x", "y", "tot", "size", "energy")
        if given.get(name) is not None
    }
    shots, roi = which.get("shots"), which.get("roi")
    if shots is not None:
        windows["shot"] = asked.shots(shots)
    if roi is None:
        return windows, {}
    if "x" in windows or "y" in windows:
        raise ValueError("choose by roi= or by x= and y=, not by both")
    region = check_roi(asked.roi(roi), recorded.geometry)
    return windows, {"x": region[:2], "y": region[2:]}


def _shot_window(shots: tuple[int | None, int | None] | None) -> tuple[int, int | None]:
    first, stop = shots or (None, None)
    return max(first or 0, 0), stop


def _shots_to_check(recorded: Recorded) -> Shots | None:
    """The table of shots that decides on validity. None: there is nothing to decide."""
    shots = recorded.shots
    if shots is not None or recorded.known_rows == 0 or recorded.lacks_shots:
        return shots
    raise CatalogError(
        f"Which shots of the run {recorded.start['uid']} are valid is not known here: the catalog has no stream "
        f"'{recorded.detector}_shots', and the event file {recorded.event_file or '(not named)'} is not in reach. "
        "Ask with valid_only=False, or on a machine that has the file"
    )


def _points(recorded: Recorded, point: int | Sequence[int] | str | None) -> tuple[int, ...] | None:
    if point is None:
        return None
    if isinstance(point, str) and point == _ALL_POINTS:
        return tuple(int(number) for number in recorded.points.index)
    return tuple(recorded.check_points(asked.points(point)))


def _whole_points(recorded: Recorded, shots: Shots | None) -> tuple[int, ...] | None:
    """The points of a run; what else it has belongs to acquisitions that were cancelled, or go on. None: no points."""
    try:
        told = [recorded.of_points(name) for name in ("row_start", "row_stop", "shot_start", "shot_stop")]
    except CatalogError:  # a flight that goes on, or was stopped
        return None
    if any(column is None for column in told) or not len(recorded.points):
        return None
    return _known_points(recorded, shots)


def _known_points(recorded: Recorded, shots: Shots | None) -> tuple[int, ...]:
    """Points whose rows and shots the catalog knows all."""
    points = [int(number) for number in recorded.points.index]
    if recorded.is_finished:
        return tuple(points)
    row_stops, shot_stops = recorded.of_points("row_stop"), recorded.of_points("shot_stop")
    n_shots = shots.count() if shots is not None and shot_stops is not None else None
    return tuple(
        point
        for point in points
        if row_stops[point] <= recorded.known_rows and (n_shots is None or shot_stops[point] <= n_shots)
    )


def _ranges(recorded: Recorded, points: tuple[int, ...] | None, rows: Rows | None) -> tuple[Rows, ...]:
    known = recorded.known_rows
    if points is not None and rows is not None:
        raise ValueError("choose by point= or by rows=, not by both")
    if points is not None:
        return _ranges_of(recorded, points)
    if rows is None:
        return ((0, known),)
    first, end = asked.rows(rows)
    return ((min(first, known), min(end, known)),)


def _ranges_of(recorded: Recorded, points: Sequence[int]) -> tuple[Rows, ...]:
    starts, stops = recorded.of_points("row_start"), recorded.of_points("row_stop")
    known = recorded.known_rows
    return tuple((min(int(starts[p]), known), min(int(stops[p]), known)) for p in points)
