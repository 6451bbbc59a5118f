"""Tiled's writer of one run, made to need fewer requests: each takes 40 to 60 ms, whatever it holds.

A page of events is one request (Tiled's writer takes pages apart and writes event by event, unless it holds events back
until the run ends); a column is registered together with its first rows; where nobody can listen, the end of a stream
is not announced. Knows how bluesky_tiled_plugins keeps what it has not written; no other module does. Where a version
keeps it elsewhere, its own way of writing is used.
"""

import logging
import sys
from collections.abc import Callable
from typing import Any

from .errors import require
from .waiting import Document

logger = logging.getLogger(__name__)

Sink = Callable[[str, Document], None]

FOR_PAGES = ("_batch_size", "_internal_data_cache", "_write_internal_data", "_desc_nodes")
FOR_COLUMNS = ("_sres_nodes", "_stream_resource_cache", "_consolidators", "_desc_nodes", "access_tags")
"""What `_RunWriter` of bluesky_tiled_plugins must have for fewer requests."""


class PagingSink:
    """One run's way into Tiled: documents of any kind, in the order of the run."""

    def __init__(self, client: Any) -> None:
        module = require("bluesky_tiled_plugins.writing.tiled_writer")
        self._writer = _run_writer(module._RunWriter, module.consolidator_factory)(
            client.include_data_sources(), batch_size=1
        )
        self._normalizer = module.RunNormalizer()
        self._normalizer.subscribe(self._writer)
        self.writes_pages = all(hasattr(self._writer, name) for name in FOR_PAGES)

    def __call__(self, name: str, doc: Document) -> None:
        """Write a document. Raises whatever Tiled raises."""
        if name == "event_page" and self.writes_pages:
            self._write_page(doc)
        else:
            self._normalizer(name, doc)

    def resume(self, run: Any) -> None:
        """Take documents of streams that are new to a run which the catalog has, without its start document."""
        self._writer.root_node = run
        self._normalizer = self._writer

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


def _run_writer(stock: Any, consolidator_factory: Any) -> Any:
    """Tiled's writer of a run with fewer requests, and with two dimensions for a square array."""

    class RunWriter(stock):
        def _write_external_data(self, datum: Document) -> None:
            if not self._is_new_event_list(datum):
                super()._write_external_data(datum)
                return
            resource = self._stream_resource_cache[datum["stream_resource"]]
            stream = self._desc_nodes[datum["descriptor"]]
            consolidator = consolidator_factory(resource, stream.metadata)
            consolidator.consume_stream_datum(datum)
            source = consolidator.get_data_source()
            node = stream.new(
                key=consolidator.data_key, structure_family=source.structure_family, data_sources=[source],
                metadata={}, specs=[], access_tags=self.access_tags,
            )  # fmt: skip
            for key in (resource["uid"], f"{stream.item['id']}_{resource['data_key']}"):
                self._consolidators[key] = consolidator
                self._sres_nodes[key] = node

        def _is_new_event_list(self, datum: Document) -> bool:
            """Whether these are the first rows of a column, which no other resource has begun."""
            if not all(hasattr(self, name) for name in FOR_COLUMNS):
                return False
            resource = self._stream_resource_cache.get(datum["stream_resource"])
            stream = self._desc_nodes.get(datum["descriptor"])
            if resource is None or stream is None or not resource["parameters"].get("event_list"):
                return False
            known = (resource["uid"], f"{stream.item['id']}_{resource['data_key']}")
            return not any(key in self._sres_nodes for key in known)

        def _close_stream_tree(self) -> None:
            if not _nobody_can_listen(self.client):
                super()._close_stream_tree()

        def _internal_dims(self, stream: str, shape: tuple[int | None, ...]) -> tuple[str, ...]:
            """Tiled's writer names dimensions by their size alone."""
            names: tuple[str, ...] = super()._internal_dims(stream, shape)
            return tuple(f"{n}_{names[:i].count(n) + 1}" if n in names[:i] else n for i, n in enumerate(names))

    return RunWriter


def _nobody_can_listen(client: Any) -> bool:
    """Whether the catalog lives in this process and keeps no cache of what is being written: the embedded one."""
    application = getattr(client.context.http_client, "app", None)
    tree = getattr(getattr(application, "state", None), "root_tree", None)
    context = getattr(tree, "context", None)
    nothing: Any = object()
    listeners = [getattr(context, name, nothing) for name in ("streaming_cache", "webhook_dispatcher")]
    return all(listener is None for listener in listeners)


def sink_factory(client: Any) -> Callable[[], Sink]:
    """Makes one sink per run, so that a run that fails leaves nothing behind for the next."""
    require("ophyd_timepix.catalog.consolidator").register()
    module = require("bluesky_tiled_plugins.writing.tiled_writer")
    if not all(hasattr(module, name) for name in ("_RunWriter", "RunNormalizer", "consolidator_factory")):
        logger.warning("this version of bluesky_tiled_plugins writes events one by one: the catalog may lag")
        return lambda: _stock(module, client)
    return lambda: PagingSink(client)


def _stock(module: Any, client: Any) -> Sink:
    sink: Sink = module.TiledWriter(client, batch_size=1)
    return sink
