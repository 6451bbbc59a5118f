"""What a run records beside its points: the stream of centroids and the one row of the loss ledger.

Both are children of the detector, and devices of their own towards bluesky, because a stream has one row per thing
that it counts: points, centroids and runs cannot share one.
"""

import json
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from event_model import compose_stream_resource
from ophyd import Device
from ophyd.status import Status

from ..events.columns import CENTROIDS
from ..files.event_file import CHUNK_ROWS
from .signals import DataKey, scalar_key

MIMETYPE: Final = "application/x-hdf5"
GROUP: Final = "/entry/centroids"

AssetDoc = tuple[str, Mapping[str, Any]]


class CentroidStream(Device):
    """The centroids of a run, one row each, as columns of the event file (StreamResource and StreamDatum).

    bluesky: Collectable and WritesStreamAssets. The parent says how many rows are on disk.
    """

    def __init__(self, prefix: str = "", **kwargs: Any) -> None:
        self._run: str | None = None
        self._bundles: list[Any] = []
        self._registered = 0
        super().__init__(prefix, **kwargs)

    def describe_collect(self) -> dict[str, DataKey]:
        return {
            self._key(column.name): {
                "source": f"TPX3:{GROUP}/{column.name}",
                "dtype": "number",
                "dtype_numpy": column.dtype,
                "shape": [],
                "external": "STREAM:",
            }
            | ({"units": column.unit} if column.unit else {})
            for column in CENTROIDS
        }

    def get_index(self) -> int:
        """Rows that a reader of the event file sees."""
        return self.parent.rows_on_disk

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
            self._bundles = [self._compose(path, column.name) for column in CENTROIDS]
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
                "dataset": f"{GROUP}/{column}",
                "chunk_shape": (CHUNK_ROWS,),
                "swmr": True,
                "event_list": True,
            },
        )

    def _key(self, column: str) -> str:
        return f"{self.name}_{column}"


class LedgerRow(Device):
    """The books of a run. `trigger` closes them; `read` is the row: each number of the ledger, and it all as JSON."""

    def __init__(self, prefix: str = "", **kwargs: Any) -> None:
        self.run: str | None = None
        """The run that the row is of."""
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
