"""Event lists as Resource and Datum, for programs that do not know StreamResource and StreamDatum.

A stream of event lists has no events: StreamDatum documents say which rows belong to it. Here each collection of rows
becomes an event, whose data are references to 1-D arrays, one per column: all rows of a stream are its events' arrays,
one after the other. Other documents pass as they are. Tiled takes no arrays of varying length: this form is not for it.
"""

import logging
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import unquote, urlparse

from .handler import SPEC

logger = logging.getLogger(__name__)

Document = dict[str, Any]
Callback = Callable[[str, Document], Any]
Rows = tuple[int, int]


@dataclass
class _Stream:
    """An event list on its way: what of its columns came since the last event."""

    run: str
    name: str
    descriptor: str
    columns: tuple[str, ...]
    waiting: dict[Rows, dict[str, str]] = field(default_factory=dict)
    """Datum of each column, by range of rows, until all columns are there."""


class DatumForm:
    """Hands documents on to `callback`, event lists in the form of Resource, Datum and Event.

    `install(RE, [tpx], catalog=DatumForm(callback))`.
    """

    def __init__(self, callback: Callback, *, now: Callable[[], float] = time.time) -> None:
        self.callback = callback
        self._now = now
        self._streams: dict[str, _Stream] = {}
        """Event lists of open runs, by descriptor."""
        self._columns: dict[str, tuple[str, str]] = {}
        """Run and data key of a resource."""
        self._counts: dict[tuple[str, str], int] = {}
        """Events of an event list: by run and name of the stream."""

    def __call__(self, name: str, doc: Document) -> None:
        convert = getattr(self, f"_{name}", None)
        if convert is None:
            self.callback(name, doc)
        else:
            convert(doc)

    def _descriptor(self, doc: Document) -> None:
        keys = doc["data_keys"]
        if not keys or not all(key.get("external") == "STREAM:" and key["shape"] == [] for key in keys.values()):
            self.callback("descriptor", doc)
            return
        run = doc["run_start"]
        self._streams[doc["uid"]] = _Stream(run, doc["name"], doc["uid"], tuple(keys))
        self._counts.setdefault((run, doc["name"]), 0)
        arrays = {
            name: {**key, "dtype": "array", "shape": [None], "external": "FILESTORE:"} for name, key in keys.items()
        }
        self.callback("descriptor", {**doc, "data_keys": arrays})

    def _stream_resource(self, doc: Document) -> None:
        if not doc["parameters"].get("event_list"):
            self.callback("stream_resource", doc)
            return
        path = PurePosixPath(unquote(urlparse(doc["uri"]).path))
        self._columns[doc["uid"]] = (doc.get("run_start", ""), doc["data_key"])
        resource = {
            "uid": doc["uid"],
            "spec": SPEC,
            "root": str(path.parent),
            "resource_path": path.name,
            "resource_kwargs": {"dataset": doc["parameters"]["dataset"]},
            "path_semantics": "posix",
        }
        self.callback("resource", resource | ({"run_start": doc["run_start"]} if "run_start" in doc else {}))

    def _stream_datum(self, doc: Document) -> None:
        resource = doc["stream_resource"]
        if resource not in self._columns or doc["descriptor"] not in self._streams:
            self.callback("stream_datum", doc)
            return
        rows = (doc["indices"]["start"], doc["indices"]["stop"])
        datum = f"{resource}/{rows[0]}"
        self.callback(
            "datum", {"datum_id": datum, "resource": resource, "datum_kwargs": {"start": rows[0], "stop": rows[1]}}
        )
        stream = self._streams[doc["descriptor"]]
        columns = stream.waiting.setdefault(rows, {})
        columns[self._columns[resource][1]] = datum
        if len(columns) == len(stream.columns):
            self._emit_event(stream, stream.waiting.pop(rows))

    def _emit_event(self, stream: _Stream, datums: dict[str, str]) -> None:
        now = self._now()
        self._counts[stream.run, stream.name] += 1
        event = {
            "uid": str(uuid.uuid4()),
            "time": now,
            "descriptor": stream.descriptor,
            "seq_num": self._counts[stream.run, stream.name],
            "data": datums,
            "timestamps": dict.fromkeys(datums, now),
            "filled": dict.fromkeys(datums, False),
        }
        self.callback("event", event)

    def _stop(self, doc: Document) -> None:
        run = doc["run_start"]
        for stream in self._streams.values():
            if stream.run == run and stream.waiting:
                logger.warning("rows of %s came for some columns only; run %s has no event for them", stream.name, run)
        counts = {name: count for (of_run, name), count in self._counts.items() if of_run == run}
        self._streams = {uid: stream for uid, stream in self._streams.items() if stream.run != run}
        self._counts = {key: count for key, count in self._counts.items() if key[0] != run}
        self._columns = {uid: column for uid, column in self._columns.items() if column[0] != run}
        if counts and "num_events" in doc:
            doc = {**doc, "num_events": {**doc["num_events"], **counts}}
        self.callback("stop", doc)
