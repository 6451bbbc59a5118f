"""A run without files, for aligning: the ring is all that there is, and what is not read in time is gone."""

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from ..files.event_file import TABLES
from ..spool.index import Records
from ..spool.ring import Mark, Ring


class NoRecording:
    """Stands for a recording: what the ring holds counts as written at once, and is overwritten when need be."""

    path = None
    waits = True

    def begin(self, ring: Ring) -> None:
        """Nothing is in the way."""

    def write(self, ring: Ring, records: Records) -> bool:
        """Give the whole ring back to the receive threads. The index is in shared memory alone."""
        ring.marks[Mark.ON_DISK] = ring.received
        ring.marks[Mark.INDEX_ON_DISK] = ring.marks[Mark.INDEX_RECORDS]
        return False

    def finish(self, ring: Ring, records: Records) -> None:
        """Nothing is kept."""


class NoEventFile:
    """Stands for an event file: counts rows, keeps none."""

    def __init__(self, image_shape: tuple[int, int], tof_bins: int) -> None:
        self.tables: Mapping[str, Any] = TABLES
        self.image = np.zeros(image_shape, np.uint64)
        self.tof = np.zeros(tof_bins, np.uint64)
        self._rows = dict.fromkeys(TABLES, 0)

    def append(self, table: str, rows: Mapping[str, Any]) -> None:
        self._rows[table] += len(next(iter(rows.values())))

    def rows(self, table: str) -> int:
        return self._rows[table]

    def stored_rows(self, table: str) -> int:
        return self._rows[table]

    def write_ledger(self, ledger: Mapping[str, Any]) -> None: ...
    def flag_cancelled(self, acquisitions: Collection[int]) -> None: ...
    def flush(self) -> None: ...
    def close(self) -> None: ...
