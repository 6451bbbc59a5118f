"""The centroids once more, as NXevent_data has events: pixel and time of flight, and where each pulse begins.

NXevent_data knows pulses, not shots. Each shot is a pulse; centroids outside any shot (before the first trigger, or in
a run without triggers) form pulses of their own, whose times of flight are NaN: they are in the picture, in no
spectrum, and in nobody's shot. So events and rows of `/entry/centroids` correspond one to one, in order.

The rows may come while the run goes on, or out of its event file in pieces: a run of any length needs a few tens of MB.
"""

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, Final

import h5py
import numpy as np
import numpy.typing as npt

from ..events.columns import Column
from ..events.pulses import NO_SHOT, events_of, pulses_of
from .event_file import Table

STEP_ROWS: Final = 1 << 20
CHUNK_ROWS: Final = 1 << 16
PULSES_CHUNK_ROWS: Final = 1 << 15
LOOKED_AT: Final = ("shot", "x", "y", "tof", "toa")
"""Columns of `/entry/centroids`."""
EVENTS: Final = (
    Column("event_id", "<u4", "", "pixel of detector_number that is nearest to the centroid"),
    Column("event_time_offset", "<f4", "microsecond", "time of flight"),
)
PULSES: Final = (
    Column("event_time_zero", "<u8", "ns", "start of the pulse"),
    Column("event_index", "<u8", "", "first event of the pulse"),
    Column("shot", "<i8", "", "row of /entry/shots, -1: events outside any shot"),
    Column("valid", "<u1", "", "1: the shot is complete"),
)

Array = npt.NDArray[Any]
Columns = Mapping[str, Array]


def write_events(group: h5py.Group, source: h5py.File, picture: tuple[int, int], zero_iso: str | None) -> None:
    """Fill the NXevent_data `group` from the tables of the event file `source`.

    picture: (rows, columns); event_id = row * columns + column, at the nearest pixel as in the picture.
    zero_iso: when the board's timer was 0 (UTC, ISO 8601): makes times of pulses dates.
    """
    centroids, copies = source["entry/centroids"], EventCopies(group, picture)
    for rows in _steps(rows_of(source)):
        copies.add({name: centroids[name][rows] for name in LOOKED_AT})
    copies.finish(source, zero_iso)


def rows_of(source: h5py.File) -> int:
    """Events that an event file gives."""
    return min(int(source["entry/centroids"][name].shape[0]) for name in LOOKED_AT)


def _with_nanoseconds(iso: str) -> str:
    """The same date with nine digits: scipp takes the unit from them, and rounds to 256 ns where it must change it."""
    moment = datetime.fromisoformat(iso).astimezone(UTC).replace(tzinfo=None)
    return f"{moment.isoformat(timespec='microseconds')}000+00:00"


def _steps(n_rows: int) -> Iterator[slice]:
    for start in range(0, n_rows, STEP_ROWS):
        yield slice(start, min(start + STEP_ROWS, n_rows))


class EventCopies:
    """The columns of the NXevent_data `group`, growing with the rows of `/entry/centroids`."""

    def __init__(self, group: h5py.Group, picture: tuple[int, int]) -> None:
        self._group = group
        self._lines, self._columns = picture
        self._events = Table(group, EVENTS, CHUNK_ROWS)
        self._pulses = Table(group, PULSES, PULSES_CHUNK_ROWS)
        self._before = NO_SHOT - 1
        """Shot of the row before; the first row of all begins a pulse."""
        self._last_shot = NO_SHOT
        self._ids, self._offsets = np.empty(0, np.uint32), np.empty(0, np.float32)

    @property
    def rows(self) -> int:
        """Events so far."""
        return self._events.rows

    def add(self, centroids: Columns) -> None:
        """The rows that follow, with the columns `LOOKED_AT`."""
        shot, first_row = centroids["shot"], self.rows
        if not len(shot):
            return
        ids, offsets = self._room(len(shot))
        events_of(centroids["x"], centroids["y"], centroids["tof"], self._lines, self._columns, ids, offsets)
        self._events.append({"event_id": ids, "event_time_offset": offsets})
        numbers, rows, self._last_shot = pulses_of(shot, self._before, self._last_shot)
        self._before = int(shot[-1])
        if rows.size:
            self._pulses.append(
                {
                    "event_time_zero": _whole_ns(centroids["toa"][rows]),  # `finish` knows better, if there is a shot
                    "event_index": rows + first_row,
                    "shot": numbers,
                    "valid": np.zeros(rows.size, np.uint8),
                }
            )

    def _room(self, n: int) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.float32]]:
        """For the events of a block: the same memory each time, as that of a new array costs more than its values."""
        if n > self._ids.size:
            self._ids, self._offsets = np.empty(n, np.uint32), np.empty(n, np.float32)
        return self._ids[:n], self._offsets[:n]

    def finish(self, source: h5py.File, zero_iso: str | None) -> None:
        """All rows are here: times and validity of the shots, and those behind the last row."""
        shots = source["entry/shots"]
        n_shots = min(int(shots[name].shape[0]) for name in ("time", "valid"))
        numbers, times, valid = (self._pulses.column(name) for name in ("shot", "event_time_zero", "valid"))
        for rows in _steps(self._pulses.rows):
            number = numbers[rows]
            known = (number != NO_SHOT) & (number < n_shots)
            if known.any():
                first, stop = int(number[known].min()), int(number[known].max()) + 1
                time, is_valid = times[rows], valid[rows]
                time[known] = _whole_ns(shots["time"][first:stop][number[known] - first])
                is_valid[known] = shots["valid"][first:stop][number[known] - first]
                times[rows], valid[rows] = time, is_valid
        for start in range(self._last_shot + 1, n_shots, STEP_ROWS):
            rest = slice(start, min(start + STEP_ROWS, n_shots))
            self._pulses.append(
                {
                    "event_time_zero": _whole_ns(shots["time"][rest]),
                    "event_index": np.full(rest.stop - rest.start, self.rows),
                    "shot": np.arange(rest.start, rest.stop),
                    "valid": shots["valid"][rest],
                }
            )
        for table in (self._events, self._pulses):
            table.flush()
        self._group["total_counts"] = self.rows
        if zero_iso is not None:
            self._group["event_time_zero"].attrs["offset"] = _with_nanoseconds(zero_iso)


def _whole_ns(times: Array) -> Array:
    return np.maximum(np.rint(times), 0)
