"""Tiled's writer of one run, made to take a page of events in one request.

A request costs 30 to 60 ms whatever it holds. Tiled's writer takes event pages apart and writes them event by event,
unless it holds the events back until the run ends. Knows how bluesky_tiled_plugins keeps events that it has not
written; no other module does. Where a version keeps them elsewhere, pages are written event by event again.
"""

import logging
import sys
from collections.abc import Callable
from typing import Any

from .errors import require
from .waiting import Document

logger = logging.getLogger(__name__)

Sink = Callable[[str, Document], None]

NEEDED = ("_batch_size", "_internal_data_cache", "_write_internal_data", "_desc_nodes")
"""What `_RunWriter` of bluesky_tiled_plugins must have for pages to be written whole."""


class PagingSink:
    """One run's way into Tiled: documents of any kind, in the order of the run."""

    def __init__(self, client: Any) -> None:
        module = require("bluesky_tiled_plugins.writing.tiled_writer")
        self._writer = _run_writer(module._RunWriter)(client.include_data_sources(), batch_size=1)
        self._normalizer = module.RunNormalizer()
        self._normalizer.subscribe(self._writer)
        self.writes_pages = all(hasattr(self._writer, name) for name in NEEDED)

    def __call__(self, name: str, doc: Document) -> None:
        """Write a document. Raises whatever Tiled raises."""
        if name == "event_page" and self.writes_pages:
            self._write_page(doc)
        else:
            self._normalizer(name, doc)

    def _write_page(self, page: Document) -> None:
        """The writer keeps events until there are `_batch_size` of them: for the length of a page that is never."""
        writer = self._writer
        batch_size, writer._batch_size = writer._batch_size, sys.maxsize
        try:
            self._normalizer("event_page", page)
        finally:
            writer._batch_size = batch_size
        for stream, rows in writer._internal_data_cache.items():
            if rows:
                writer._write_internal_data(rows, desc_node=writer._desc_nodes[stream])
                rows.clear()


def _run_writer(stock: Any) -> Any:
    """Tiled's writer of a run, whose square arrays have two dimensions: it names dimensions by their size alone."""

    class RunWriter(stock):
        def _internal_dims(self, stream: str, shape: tuple[int | None, ...]) -> tuple[str, ...]:
            names: tuple[str, ...] = super()._internal_dims(stream, shape)
            return tuple(f"{n}_{names[:i].count(n) + 1}" if n in names[:i] else n for i, n in enumerate(names))

    return RunWriter


def sink_factory(client: Any) -> Callable[[], Sink]:
    """Makes one sink per run, so that a run that fails leaves nothing behind for the next."""
    require("ophyd_timepix.catalog.consolidator").register()
    module = require("bluesky_tiled_plugins.writing.tiled_writer")
    if not (hasattr(module, "_RunWriter") and hasattr(module, "RunNormalizer")):
        logger.warning("this version of bluesky_tiled_plugins writes events one by one: the catalog may lag")
        return lambda: _stock(module, client)
    return lambda: PagingSink(client)


def _stock(module: Any, client: Any) -> Sink:
    sink: Sink = module.TiledWriter(client, batch_size=1)
    return sink
