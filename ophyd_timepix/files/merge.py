"""Event files of parts as one event file: the rows one after the other, as if one writer had written them.

Numbers that refer to rows (shots, clusters, the ranges of acquisitions) are moved on by the rows of the parts before.
Values are copied bit for bit.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import h5py
import numpy as np
import numpy.typing as npt

from .event_file import TABLES, EventFile, layout_of
from .reader import open_event_file

STEP_ROWS: Final = 1 << 20
NO_ROW: Final = -1
"""Hits outside of any shot or cluster; it stays."""
REFERENCES: Final[Mapping[tuple[str, str], str]] = {
    ("centroids", "shot"): "shots",
    ("hits", "shot"): "shots",
    ("hits", "cluster"): "centroids",
    ("acquisitions", "row_start"): "centroids",
    ("acquisitions", "row_stop"): "centroids",
    ("acquisitions", "shot_start"): "shots",
    ("acquisitions", "shot_stop"): "shots",
}
"""Columns of row numbers, and the table whose rows they count."""
NUMBERED: Final = ("acquisitions", "losses")
"""Tables whose column `acquisition` is a number of an acquisition."""


def merge_event_files(
    parts: Sequence[Path],
    path: Path,
    *,
    ledger: Mapping[str, Any],
    texts: Mapping[str, str],
    count_through: bool,
) -> None:
    """Write `path` from finished event files of one layout. texts: more of `/entry`, beside those of the first part.

    count_through: acquisitions are numbered from 1 on through all parts; else they keep their numbers. Raises
    FileExistsError rather than overwrite a file, OSError when one cannot be read or written.
    """
    with open_event_file(parts[0]) as first:
        entry = first["entry"]
        file = EventFile(
            path,
            image_shape=entry["preview/image"].shape,
            tof_edges_ns=np.asarray(entry["preview/tof_edges"]),
            attributes={**texts_of(entry), **texts},
            layout=layout_of(entry),
        )
    try:
        for part in parts:
            with open_event_file(part) as source:
                _append(file, source["entry"], count_through=count_through)
        file.write_ledger(ledger)
    finally:
        file.close()


def texts_of(entry: h5py.Group) -> dict[str, str]:
    """What stands in an entry as text, the ledger apart."""
    names = [n for n in entry if isinstance(entry[n], h5py.Dataset) and h5py.check_string_dtype(entry[n].dtype)]
    return {name: entry[name].asstr()[()] for name in names if name != "ledger"}


def add_text(path: Path, name: str, text: str) -> None:
    """A further text of `/entry`, in a finished event file that nobody else knows of yet."""
    with h5py.File(path, "r+", libver="latest") as file:
        if name in file["entry"]:  # of one who was killed just after it
            del file["entry"][name]
        file["entry"].create_dataset(name, data=text)


def _append(file: EventFile, entry: h5py.Group, *, count_through: bool) -> None:
    """All rows of a part."""
    before = {table: file.rows(table) for table in TABLES}
    numbers = _numbers(entry, before["acquisitions"]) if count_through else None
    for table, columns in layout_of(entry).items():
        group = entry[table]
        rows = min(int(group[column.name].shape[0]) for column in columns)
        for start in range(0, rows, STEP_ROWS):
            stop = min(start + STEP_ROWS, rows)
            step = {column.name: np.asarray(group[column.name][start:stop]) for column in columns}
            _move_on(step, table, before)
            if numbers is not None and table in NUMBERED:
                step["acquisition"] = _renumbered(step["acquisition"], numbers)
            file.append(table, step)
    file.image += np.asarray(entry["preview/image"])
    file.tof += np.asarray(entry["preview/tof"])


def _move_on(step: dict[str, npt.NDArray[Any]], table: str, before: Mapping[str, int]) -> None:
    for name, values in step.items():
        target = REFERENCES.get((table, name))
        if target is not None and before[target]:
            values[values != NO_ROW] += before[target]


def _numbers(entry: h5py.Group, done: int) -> dict[int, int]:
    """New number of each acquisition of a part, behind `done` others."""
    own = entry["acquisitions/acquisition"][:].tolist()
    return {number: done + place for place, number in enumerate(own, 1)}


def _renumbered(values: npt.NDArray[Any], numbers: Mapping[int, int]) -> npt.NDArray[Any]:
    return np.array([numbers[number] for number in values.tolist()], values.dtype)
