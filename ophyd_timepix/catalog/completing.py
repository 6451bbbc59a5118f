"""Runs whose end the catalog never heard of: their remaining rows, and their end, are registered from the event file.

A session that was killed leaves the journal of its run: what it says is completed and put in anew (`replay`). A run
that was halted is in the catalog, but its last rows are not: its stream of centroids is registered anew, nothing else
of it is touched. Of a run that nobody wrote down there is the start document in the event file, and the rows.
"""

import time
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote, urlsplit

from ..devices.streams import CentroidStream
from ..files.reader import count_rows, open_event_file
from ..spool.recording import claim
from .errors import CatalogError
from .journal import as_line, read_journal
from .opening import open_catalog
from .profile import check_readable, default_directory, find_profile
from .recorded import STREAM_SUFFIX
from .sink import PagingSink, sink_factory
from .writer import replay

Document = dict[str, Any]
Documents = list[tuple[str, Document]]

REASON: Final = "the session ended before the run did; what it left was registered by `ophyd-timepix recover`"


def register_rest(event_file: Path, start: Mapping[str, Any], detector: str, *, catalog: str) -> str:
    """Register what the catalog does not have of the run; says what was done in a few words, nothing if all was there.

    event_file: finished. start: the run's start document. detector: its name. Raises CatalogError, also when a session
    still writes the run to the catalog.
    """
    check_readable(catalog, event_file)
    uid = str(start["uid"])
    rows = count_rows(event_file)
    journal = find_journal(catalog, uid)
    client = open_catalog(catalog).v2
    known = uid in client
    if known and client[uid].metadata.get("stop"):
        return _register_rows(catalog, uid, event_file, detector, rows)
    if journal is None and known:
        done = _register_rows(catalog, uid, event_file, detector, rows)
        _write_stop(client, uid)
        return f"{done}, run ended".removeprefix(", ")
    documents = list(read_journal(journal)) if journal is not None else [("start", dict(start))]
    _replay(complete(documents, event_file, detector), catalog, uid)
    if journal is not None:
        journal.unlink(missing_ok=True)
    return f"run registered, {rows:,} rows"


def find_journal(catalog: str, uid: str) -> Path | None:
    """What a session wrote down of a run beside the catalog. Raises CatalogError while the session still does."""
    for path in (_backup(catalog) / f"{uid}.jsonl.part", _backup(catalog) / f"{uid}.jsonl"):
        if path.exists():
            with path.open("rb") as file:
                if not claim(file.fileno()):
                    raise CatalogError(f"the session that took run {uid[:8]} is still writing it to the catalog")
            return path
    return None


def _backup(catalog: str) -> Path:
    directory = find_profile(catalog).directory
    return directory / "backup" if directory is not None else default_directory("backup")


def _replay(documents: Documents, catalog: str, uid: str) -> None:
    """Through a file, so that a catalog that fails in the middle loses nothing."""
    path = _backup(catalog) / f"{uid}.recovered.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(as_line(name, doc) for name, doc in documents), encoding="utf-8")
    replay(path, catalog)
    path.unlink()


# --- documents --------------------------------------------------------------------------------------------------------


def complete(documents: Documents, event_file: Path, detector: str) -> Documents:
    """The documents of a run with all rows of the event file, and with an end."""
    body = [(name, doc) for name, doc in documents if name != "stop"]
    stop = next((doc for name, doc in documents if name == "stop"), None)
    body += _rest_of_columns(body, event_file)
    stream = f"{detector}{STREAM_SUFFIX}"
    if not any(name == "stream_resource" and _column(doc).startswith("/entry/centroids/") for name, doc in body):
        descriptor = next((d for name, d in body if name == "descriptor" and d["name"] == stream), None)
        body += _centroids(body[0][1]["uid"], stream, event_file, descriptor)
    return [*body, ("stop", stop or _stop(body))]


def _column(resource: Document) -> str:
    return str(resource["parameters"].get("dataset", ""))


def _rest_of_columns(documents: Documents, event_file: Path) -> Documents:
    """Rows that came after the last that was registered, for the columns that are known."""
    ends: dict[str, Document] = {}
    for name, doc in documents:
        if name == "stream_datum":
            ends[doc["stream_resource"]] = doc
    rest: Documents = []
    with open_event_file(event_file) as file:
        for name, doc in documents:
            if name == "stream_resource" and doc["uid"] in ends and _is_of(doc, event_file) and _column(doc) in file:
                end = ends[doc["uid"]]
                rows = min(column.shape[0] for column in file[_column(doc)].parent.values())
                if rows > end["indices"]["stop"]:
                    rest.append(("stream_datum", _datum(doc["uid"], end["descriptor"], end["indices"]["stop"], rows)))
    return rest


def _is_of(resource: Document, event_file: Path) -> bool:
    return bool(
        resource["parameters"].get("event_list")
        and Path(unquote(urlsplit(resource["uri"]).path)).name == event_file.name
    )


def _datum(resource: str, descriptor: str, start: int, stop: int) -> Document:
    return {
        "uid": f"{resource}/{start}-{stop}",
        "stream_resource": resource,
        "descriptor": descriptor,
        "indices": {"start": start, "stop": stop},
        "seq_nums": {"start": start + 1, "stop": stop + 1},
    }


class _Rows:
    """What the stream of centroids asks of its detector."""

    _OphydAttrList = None

    def __init__(self, run: str, event_file: Path) -> None:
        self.recorded_run = run
        self.event_file = event_file
        self.rows_on_disk = count_rows(event_file)


def _centroids(uid: str, stream: str, event_file: Path, descriptor: Document | None) -> Iterator[tuple[str, Document]]:
    """The whole stream of centroids, in the documents that the detector would have given."""
    device = CentroidStream("", name=stream, parent=_Rows(uid, event_file))
    keys = device.describe_collect()
    described = descriptor or {
        "uid": str(uuid.uuid4()),
        "time": time.time(),
        "run_start": uid,
        "name": stream,
        "data_keys": keys,
        "object_keys": {stream: list(keys)},
        "configuration": {},
        "hints": {},
    }
    if descriptor is None:
        yield "descriptor", described
    for name, doc in device.collect_asset_docs():
        if name == "stream_resource":
            yield name, {**doc, "run_start": uid}
        else:
            indices = doc["indices"]
            yield name, _datum(doc["stream_resource"], described["uid"], indices["start"], indices["stop"])


def _stop(documents: Documents) -> Document:
    """The end of a run that has none."""
    names = {doc["uid"]: doc["name"] for name, doc in documents if name == "descriptor"}
    counts = dict.fromkeys(names.values(), 0)
    for name, doc in documents:
        if name in ("event", "event_page", "stream_datum"):
            last = doc["seq_nums"]["stop"] - 1 if name == "stream_datum" else doc["seq_num"]
            last = max(last) if isinstance(last, list) else last
            counts[names[doc["descriptor"]]] = max(counts[names[doc["descriptor"]]], last)
    times = [doc["time"] for _, doc in documents if isinstance(doc.get("time"), float | int)]
    return {
        "uid": str(uuid.uuid4()),
        "time": max(times, default=time.time()),
        "run_start": documents[0][1]["uid"],
        "exit_status": "abort",
        "reason": REASON,
        "num_events": counts,
    }


# --- a run that is in the catalog -------------------------------------------------------------------------------------


def _register_rows(catalog: str, uid: str, event_file: Path, detector: str, rows: int) -> str:
    """Register the stream of centroids anew when rows are missing; the rest of the run stays as it is."""
    run = open_catalog(catalog).v3[uid]
    stream = f"{detector}{STREAM_SUFFIX}"
    streams = dict(run.base.items())
    known = 0
    if stream in streams:
        columns = [array for key, array in streams[stream].base.items() if key.startswith(stream)]
        known = min((int(column.shape[0]) for column in columns), default=0)
    if known >= rows:
        return ""
    client = open_catalog(catalog).v2
    if stream in streams:
        client[uid].delete_contents(stream, recursive=True, external_only=False)
    sink = sink_factory(client)()
    if not isinstance(sink, PagingSink):
        raise CatalogError("this version of bluesky_tiled_plugins cannot add rows to a run that has ended")
    sink.resume(client[uid])
    for name, doc in _centroids(uid, stream, event_file, None):
        sink(name, doc)
    return f"{rows - known:,} rows registered"


def _write_stop(client: Any, uid: str) -> None:
    start = dict(client[uid].metadata["start"])
    stop = _stop([("start", start)])
    client[uid].update_metadata(metadata={"stop": stop}, drop_revision=True)
