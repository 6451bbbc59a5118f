"""How Tiled's writer learns of event lists: rows that only ever grow, in one 1-D HDF5 dataset per column.

Imported only where documents are written to Tiled: it imports bluesky_tiled_plugins. Reading needs nothing of this.
"""

from typing import Any

from bluesky_tiled_plugins.writing import consolidators

from .addresses import decoded

HDF5_MIMETYPE = "application/x-hdf5"
CHUNK_ROWS = 1 << 20
"""Rows per chunk as the catalog sees them. Every update of a column stores its list of chunks: with the file's own
65,536 rows a column of 1e9 rows needs 46 kB for that, again at each update; with 2**20 rows 3 kB."""


class EventListConsolidator(consolidators.HDF5Consolidator):
    """Keeps two integers per column, where the stock consolidator keeps a dict entry per row."""

    join_method = "stack"
    chunk_shape: tuple[int, ...]
    _num_rows: int

    def __init__(self, stream_resource: dict[str, Any], descriptor: dict[str, Any]) -> None:
        super().__init__({**stream_resource, "uri": decoded(stream_resource["uri"])}, descriptor)
        if self.datum_shape:
            raise ValueError(
                f"{self.data_key}: an event list holds one number per row, not an array of shape {self.datum_shape}"
            )
        rows = self.chunk_shape[0] if self.chunk_shape else CHUNK_ROWS
        self.chunk_shape = (max(rows, CHUNK_ROWS // rows * rows),)

    def update_from_stream_resource(self, stream_resource: dict[str, Any]) -> None:
        super().update_from_stream_resource({**stream_resource, "uri": decoded(stream_resource["uri"])})

    def consume_stream_datum(self, doc: dict[str, Any]) -> Any:
        start, stop = doc["indices"]["start"], doc["indices"]["stop"]
        known = self._num_rows
        if start != known or stop < start:
            raise ValueError(
                f"{self.data_key}: rows of an event list must follow each other: "
                f"{known} rows are known, got [{start}, {stop})"
            )
        self._num_rows = stop
        return consolidators.Patch(offset=(known,), shape=(stop - known,))

    @property
    def has_skips(self) -> bool:
        return False


def register() -> None:
    """Choose `EventListConsolidator` for resources that say `event_list`; all other HDF5 goes where it went before."""
    stock = consolidators.CONSOLIDATOR_REGISTRY[HDF5_MIMETYPE]
    if getattr(stock, "chooses_event_lists", False):
        return

    def choose(stream_resource: dict[str, Any], descriptor: dict[str, Any]) -> Any:
        event_list = stream_resource["parameters"].get("event_list", False)
        return (EventListConsolidator if event_list else stock)(stream_resource, descriptor)

    choose.chooses_event_lists = True  # type: ignore[attr-defined]
    consolidators.CONSOLIDATOR_REGISTRY[HDF5_MIMETYPE] = choose
