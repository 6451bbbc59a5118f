"""Reads columns of event lists for programs of the time of Resource and Datum: databroker 1, `event_model.Filler`.

Registered as `databroker.handlers` for the spec `TPX_EVENT_LIST`; imports h5py only, and nothing of the catalog.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import h5py
import numpy.typing as npt

SPEC: Final = "TPX_EVENT_LIST"


class EventListHandler:
    """One column of an event file. Called with a range of rows, it gives them as a 1-D array.

    The file is opened for each call, and as a reader of a file that may still grow: a run can be read while it goes.
    """

    specs: Final = frozenset({SPEC})

    def __init__(self, path: str | Path, *, dataset: str) -> None:
        self._path = Path(path)
        self._dataset = dataset

    def __call__(self, *, start: int, stop: int) -> npt.NDArray[Any]:
        """Rows [start, stop). Raises IOError with fewer rows on disk: who fills events tries again then."""
        with h5py.File(self._path, "r", swmr=True) as file:
            column = file[self._dataset]
            rows: npt.NDArray[Any] = column[start:stop]
        if len(rows) != stop - start:
            raise OSError(
                f"{self._path} has {start + len(rows)} rows of {self._dataset}, the documents speak of {stop}; "
                "is the file still being written, or was it cut?"
            )
        return rows

    def get_file_list(self, datum_kwargs: Iterable[dict[str, Any]]) -> list[str]:
        """The files that the data is in: for programs that copy runs."""
        return [str(self._path)]
