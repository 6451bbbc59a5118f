"""What a run records beside its points: streams of shots and of centroids, and the one row of the loss ledger.

All are children of the detector, and devices of their own towards bluesky, because a stream has one row per thing
that it counts: points, shots, centroids and runs cannot share one.
"""

import json
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Final
from urllib.parse import quote

from event_model import compose_stream_resource
from ophyd import Device
from ophyd.status import Status

from ..events.columns import Column
from ..files.event_file import CHUNK_ROWS
from ..files.reader import count_rows
from .signals import DataKey, scalar_key

logger = logging.getLogger(__name__)

MIMETYPE: Final = "application/x-hdf5"

AssetDoc = tuple[str, Mapping[str, Any]]


class RowStream(Device):
    """A table of the event file as a stream of the run: one row each, in columns (StreamResource and StreamDatum).

    bluesky: Collectable and WritesStreamAssets. The parent says which run, which file and which columns.
    """

    table: ClassVar[str]
    """Name of the group in the event file; stream and columns are called `<parent>_<table>`."""

    @property
    def columns(self) -> Sequence[Column]:
        """Those of the event file, which a run does not change."""
        columns: Sequence[Column] = self.parent.event_layout[self.table]
        return columns

    def __init__(self, prefix: str = "", **kwargs: Any) -> None:
        self._run: str | None = None
        self._bundles: list[Any] = []
        self._registered = 0
        super().__init__(prefix, **kwargs)

    @property
    def stream(self) -> str:
        """Name of the stream."""
        return f"{self.parent.name}_{self.table}"

    def describe_collect(self) -> dict[str, DataKey]:
        return {
            self._key(column.name): {
                "source": f"TPX3:/entry/{self.table}/{column.name}",
                "dtype": "number",
                "dtype_numpy": column.dtype,
                "shape": [],
                "external": "STREAM:",
            }
            | ({"units": column.unit} if column.unit else {})
            for column in self.columns
        }

    def get_index(self) -> int:
        """Rows that a reader of the event file sees."""
        raise NotImplementedError

    @property
    def registered(self) -> int:
        """Rows of the newest event file that documents tell of."""
        return self._registered if self._run == self.parent.recorded_run else 0

    def collect_asset_docs(self, index: int | None = None) -> Iterator[AssetDoc]:
        """Documents for the rows that came since the last call; nothing at all before the first row."""
        run, path = self.parent.recorded_run, self.parent.event_file
        if run is None or path is None:
            return
        if run != self._run:
            self._run, self._bundles, self._registered = run, [], 0
        stop = self.get_index() if index is None else index
        if stop <= self._registered:
            return
        if not self._bundles:
            self._bundles = [self._compose(path, column.name) for column in self.columns]
            for bundle in self._bundles:
                yield "stream_resource", bundle.stream_resource_doc
        for bundle in self._bundles:
            yield "stream_datum", bundle.compose_stream_datum({"start": self._registered, "stop": stop})
        self._registered = stop

    def _compose(self, path: Path, column: str) -> Any:
        return compose_stream_resource(
            mimetype=MIMETYPE,
            uri=f"file://localhost{quote(str(path))}",
            data_key=self._key(column),
            parameters={
                "dataset": f"/entry/{self.table}/{column}",
                "chunk_shape": (CHUNK_ROWS,),
                "swmr": True,
                "event_list": True,
            },
        )

    def _key(self, column: str) -> str:
        return f"{self.stream}_{column}"


class CentroidStream(RowStream):
    """The centroids of a run. The parent says how many are on disk."""

    table = "centroids"

    def get_index(self) -> int:
        rows: int = self.parent.rows_on_disk
        return rows


class ShotStream(RowStream):
    """The shots of a run: when each opened, and whether it is valid. So whoever has not got the file can tell, too."""

    table = "shots"

    def get_index(self) -> int:
        """Looked up in the file: a detector hears of centroids only. A file that cannot be read gives no new rows."""
        path = self.parent.event_file
        if path is None:
            return 0
        try:
            return count_rows(path, self.table)
        except OSError as error:
            logger.warning("the shots of %s are not registered: %s", path, error)
            return 0


class LedgerRow(Device):
    """The books of a run. `trigger` closes them; `read` is the row: each number of the ledger, and it all as JSON."""

    def __init__(self, prefix: str = "", **kwargs: Any) -> None:
        self.run: str | None = None
        """The run that the row is of."""
        self.told: str | None = None
        """The run whose row an event tells."""
        self._row: dict[str, float | int | str] = {}
        self._closed_at = time.time()
        super().__init__(prefix, **kwargs)

    def trigger(self) -> Status:
        """Close the run of the detector: what was received, decoded and written is final, the files are complete."""
        return self.parent.close_books()

    def enter(self, run: str, row: Mapping[str, float | int | str], ledger: Mapping[str, Any]) -> None:
        """Keep the row of a closed run."""
        self.run = run
        numbers = _flatten(ledger)
        self._row = {**numbers, **row, "json": json.dumps(ledger, default=str)}
        self._closed_at = time.time()

    def describe(self) -> dict[str, DataKey]:
        return {f"{self.name}_{key}": scalar_key(f"TPX3:ledger:{key}", value) for key, value in self._row.items()}

    def read(self) -> dict[str, dict[str, Any]]:
        return {f"{self.name}_{key}": {"value": v, "timestamp": self._closed_at} for key, v in self._row.items()}


def _flatten(ledger: Mapping[str, Any], prefix: str = "") -> dict[str, float | int | str]:
    """The numbers and words of a nested mapping under joined names; lists stay in the JSON."""
    flat: dict[str, float | int | str] = {}
    for key, value in ledger.items():
        if isinstance(value, Mapping):
            flat |= _flatten(value, f"{prefix}{key}_")
        elif isinstance(value, int | float | str):
            flat[f"{prefix}{key}"] = value
    return flat
