"""Reading event files, finished or still growing, closed properly or left by a killed writer."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import h5py
import numpy as np
import numpy.typing as npt

PRODUCT_KEY: Final = "processed_from"
"""In the configuration of an event file: the recording that it was made from again. It is not the run's own file."""


def open_event_file(path: Path) -> h5py.File:
    """Open for reading while somebody may still write.

    A file that this process has open in another way (a notebook, by hand) is opened like that: HDF5 refuses two ways.
    """
    try:
        return h5py.File(path, "r", libver="latest", swmr=True)
    except OSError as refused:
        if not path.is_file():
            raise
        try:
            return h5py.File(path, "r")
        except OSError:
            raise refused from None


def read_table(
    path: Path, table: str, columns: Sequence[str] | None = None, start: int = 0, stop: int | None = None
) -> dict[str, npt.NDArray[Any]]:
    """Rows [start, stop) of `/entry/<table>`, one array per column.

    While the file grows, columns may differ in length for a moment: only rows that all of them hold are given.
    """
    with open_event_file(path) as file:
        group = file["entry"][table]
        names = list(group) if columns is None else list(columns)
        rows = min(group[name].shape[0] for name in names)
        end = rows if stop is None else min(stop, rows)
        return {name: np.asarray(group[name][start:end]) for name in names}


def count_rows(path: Path, table: str = "centroids") -> int:
    """Rows that all columns of a table hold."""
    with open_event_file(path) as file:
        return min(int(column.shape[0]) for column in file["entry"][table].values())


def read_ledger(path: Path) -> dict[str, Any]:
    """The ledger of a closed run, from its event file or its master; empty when the run did not end."""
    return read_about(path, "ledger")


def read_about(path: Path, name: str) -> dict[str, Any]:
    """What an event file or a master says about its run: `start_document`, `configuration`, `ledger`, and `run`, how
    the pipeline was asked (event file only); empty when it says nothing.
    """
    with open_event_file(path) as file:
        stored = file["entry"].get(name)
        if stored is None:
            return {}
        text = bytes((stored["data"] if isinstance(stored, h5py.Group) else stored)[()])
    about: dict[str, Any] = json.loads(text) if text else {}
    return about
