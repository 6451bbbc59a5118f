"""The centroids once more, as NXevent_data has events: pixel and time of flight, and where each pulse begins.

NXevent_data knows pulses, not shots. Each shot is a pulse; centroids outside any shot (before the first trigger, or in
a run without triggers) form pulses of their own, whose times of flight are NaN: they are in the picture, in no
spectrum, and in nobody's shot. So events and rows of `/entry/centroids` correspond one to one, in order.

Everything goes through memory in pieces: a run of any length needs a few tens of MB.
"""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, Final

import h5py
import numpy as np
import numpy.typing as npt

STEP_ROWS: Final = 1 << 20
NO_SHOT: Final = -1

Array = npt.NDArray[Any]


def write_events(group: h5py.Group, source: h5py.File, picture: tuple[int, int], zero_iso: str | None) -> None:
    """Fill the NXevent_data `group` from the tables of the event file `source`.

    picture: (rows, columns); event_id = row * columns + column, at the nearest pixel as in the picture.
    zero_iso: when the board's timer was 0 (UTC, ISO 8601): makes times of pulses dates.
    """
    centroids = source["entry/centroids"]
    n_rows = min(centroids[name].shape[0] for name in ("x", "y", "tof", "shot", "toa"))
    _write_events(group, centroids, n_rows, picture)
    _write_pulses(group, source, n_rows)
    group["total_counts"] = n_rows
    if zero_iso is not None:
        group["event_time_zero"].attrs["offset"] = _with_nanoseconds(zero_iso)


def _with_nanoseconds(iso: str) -> str:
    """The same date with nine digits: scipp takes the unit from them, and rounds to 256 ns where it must change it."""
    moment = datetime.fromisoformat(iso).astimezone(UTC).replace(tzinfo=None)
    return f"{moment.isoformat(timespec='microseconds')}000+00:00"


def _steps(n_rows: int) -> Iterator[slice]:
    for start in range(0, n_rows, STEP_ROWS):
        yield slice(start, min(start + STEP_ROWS, n_rows))


def _write_events(group: h5py.Group, centroids: h5py.Group, n_rows: int, picture: tuple[int, int]) -> None:
    """Types and units as every reader takes them: the exact columns are those of the centroids."""
    ids = _column(group, "event_id", "<u4", n_rows, "pixel of detector_number that is nearest to the centroid")
    offsets = _column(group, "event_time_offset", "<f4", n_rows, "time of flight", "microsecond")
    for rows in _steps(n_rows):
        ids[rows] = pixel_numbers(centroids["x"][rows], centroids["y"][rows], picture)
        offsets[rows] = (centroids["tof"][rows] * 1e-3).astype(np.float32)  # HDF5 converts in twice the time


def pixel_numbers(x: Array, y: Array, picture: tuple[int, int]) -> npt.NDArray[np.uint32]:
    """Number of the pixel nearest to each point; what rounding puts outside belongs to the rim."""
    rows, columns = picture
    column = np.clip(np.floor(x + np.float32(0.5)), 0, columns - 1).astype(np.uint32)
    row = np.clip(np.floor(y + np.float32(0.5)), 0, rows - 1).astype(np.uint32)
    return row * np.uint32(columns) + column


def _column(
    group: h5py.Group, name: str, dtype: str, n_rows: int, meaning: str, units: str = "", *, grows: bool = False
) -> h5py.Dataset:
    dataset = group.create_dataset(
        name, (n_rows,), dtype, maxshape=(None,) if grows else None, chunks=(1 << 16,) if grows else None
    )
    dataset.attrs["long_name"] = meaning
    if units:
        dataset.attrs["units"] = units
    return dataset


class _Pulses:
    """Four growing columns, a row per pulse."""

    def __init__(self, group: h5py.Group) -> None:
        self._columns = {
            "event_time_zero": _column(group, "event_time_zero", "<u8", 0, "start of the pulse", "ns", grows=True),
            "event_index": _column(group, "event_index", "<u8", 0, "first event of the pulse", grows=True),
            "shot": _column(group, "shot", "<i8", 0, "row of /entry/shots, -1: events outside any shot", grows=True),
            "valid": _column(group, "valid", "<u1", 0, "1: the shot is complete", grows=True),
        }

    def append(self, **rows: Array) -> None:
        for name, dataset in self._columns.items():
            n_before = dataset.shape[0]
            dataset.resize((n_before + rows[name].size,))
            dataset[n_before:] = rows[name]


def _write_pulses(group: h5py.Group, source: h5py.File, n_rows: int) -> None:
    centroids, shots = source["entry/centroids"], source["entry/shots"]
    n_shots = min(shots[name].shape[0] for name in ("time", "valid"))
    pulses = _Pulses(group)
    last_shot = before = NO_SHOT
    for rows in _steps(n_rows):
        shot = np.asarray(centroids["shot"][rows])
        begins = np.flatnonzero(shot != np.concatenate(([before if rows.start else NO_SHOT - 1], shot[:-1])))
        numbers, first_events = _spread(shot[begins], begins + rows.start, last_shot)
        _append_pulses(pulses, numbers, first_events, shots, centroids["toa"])
        before = int(shot[-1])
        last_shot = max(last_shot, int(shot.max()))
    for rest in range(last_shot + 1, n_shots, STEP_ROWS):
        numbers = np.arange(rest, min(rest + STEP_ROWS, n_shots))
        _append_pulses(pulses, numbers, np.full(numbers.size, n_rows), shots, centroids["toa"])


def _spread(shots: Array, first_events: Array, last_shot: int) -> tuple[Array, Array]:
    """Pulse by pulse: the shots that have events, as they come, and those between them that have none."""
    known = np.maximum.accumulate(np.concatenate(([last_shot], shots)))[:-1]
    counts = np.where(shots == NO_SHOT, 1, np.maximum(shots - known, 1))
    ends = np.cumsum(counts)
    back = np.repeat(ends, counts) - 1 - np.arange(ends[-1] if ends.size else 0)
    return np.repeat(shots, counts) - back, np.repeat(first_events, counts)


def _append_pulses(pulses: _Pulses, numbers: Array, first_events: Array, shots: h5py.Group, toa: h5py.Dataset) -> None:
    """Times from the table of shots; a pulse that is not in it (no shot, or one that never closed) begins with its
    first event.
    """
    n_shots = min(shots[name].shape[0] for name in ("time", "valid"))
    known = (numbers != NO_SHOT) & (numbers < n_shots)
    times, valid = np.empty(numbers.size), np.zeros(numbers.size, np.uint8)
    if known.any():
        first, stop = int(numbers[known].min()), int(numbers[known].max()) + 1
        times[known] = shots["time"][first:stop][numbers[known] - first]
        valid[known] = shots["valid"][first:stop][numbers[known] - first]
    for k in np.flatnonzero(~known):
        times[k] = toa[int(first_events[k])]
    pulses.append(event_time_zero=np.maximum(np.rint(times), 0), event_index=first_events, shot=numbers, valid=valid)
