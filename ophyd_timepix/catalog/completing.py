"""Runs whose end the catalog never heard of: their remaining rows, and their end, are registered from the event file.

A session that was killed leaves the journal of its run: what it says is completed and put in anew (`replay`). A run
that was halted is in the catalog, but its last rows and its ledger are not: streams of rows that are too short are
registered anew, the ledger row is added, nothing else of it is touched. Of a run that nobody wrote down there is the
start document in the event file, and the rows.
"""

import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote, urlsplit

from ..files.reader import count_rows, open_event_file
from ..spool.recording import claim
from .columns import local_path
from .errors import CatalogError
from .filed import (
    ROW_STREAMS,
    Document,
    Documents,
    datum,
    lacks_ledger,
    ledger_row,
    ledger_stream,
    row_stream,
    stream_name,
    tables_of,
)
from .journal import as_line, read_journal
from .opening import open_catalog
from .profile import check_readable, default_directory, find_profile
from .recorded import arrays_of
from .sink import PagingSink, sink_factory
from .writer import replay

PRODUCT: Final = "made from the run's words, left alone"
"""What is said of an event file that is not the run's own."""
REASON: Final = "the session ended before the run did; what it left was registered by `ophyd-timepix recover`"


def register_rest(event_file: Path, start: Mapping[str, Any], detector: str, *, catalog: str) -> str:
    """Register what the catalog does not have of the run; says what was done in a few words, nothing if all was there.

    event_file: finished. start: the run's start document. detector: its name. A file that is another one than the
    documents of the run name is left alone. Raises CatalogError, also when a session still writes the run to the
    catalog.
    """
    check_readable(catalog, event_file)
    uid = str(start["uid"])
    rows = count_rows(event_file)
    journal = find_journal(catalog, uid)
    client = open_catalog(catalog).v2
    known = uid in client
    named = _file_in_journal(journal, detector) if journal is not None else None
    named = _file_in_catalog(catalog, uid, detector) if known and named is None else named
    if named is not None and _is_another(event_file, named):
        return PRODUCT
    if known and client[uid].metadata.get("stop"):
        return _register_missing(catalog, uid, event_file, detector)
    if journal is None and known:
        done = _register_missing(catalog, uid, event_file, detector)
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


def _file_in_journal(journal: Path, detector: str) -> Path | None:
    """The event file that a journal names; None: none yet."""
    for name, doc in read_journal(journal):
        if name == "stream_resource" and _column(doc).startswith("/entry/"):
            return Path(unquote(urlsplit(doc["uri"]).path))
        if name == "event" and doc["data"].get(f"{detector}_file"):
            return Path(doc["data"][f"{detector}_file"])
    return None


def _file_in_catalog(catalog: str, uid: str, detector: str) -> Path | None:
    """The event file that the catalog names; None: none yet."""
    streams = dict(open_catalog(catalog).v3[uid].base.items())
    for kind in ROW_STREAMS:
        stream = stream_name(kind, detector)
        for array in arrays_of(streams[stream], f"{stream}_").values() if stream in streams else ():
            path = local_path(array)
            if path is not None:
                return path
    key = f"{detector}_file"
    for node in streams.values():
        table = dict(node.base.items()).get("internal") if key in node.metadata.get("data_keys", {}) else None
        for told in table.read([key])[key] if table is not None else ():
            if told:
                return Path(str(told))
    return None


def _is_another(event_file: Path, named: Path) -> bool:
    """Whether it is another file than the documents name. One that is gone was moved here, if the names agree."""
    if event_file.name != named.name:
        return True
    return named.exists() and not named.samefile(event_file)


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
    """The documents of a run with all rows of the event file, with its ledger row, and with an end."""
    body = [(name, doc) for name, doc in documents if name != "stop"]
    stop = next((doc for name, doc in documents if name == "stop"), None)
    uid = body[0][1]["uid"]
    body, error = _without_empty_ledger(body, detector)
    known = len(body)
    body += _rest_of_columns(body, event_file)
    descriptors = {doc["name"]: doc for name, doc in body if name == "descriptor"}
    for kind in tables_of(event_file):
        if not any(
            name == "stream_resource" and _column(doc).startswith(f"/entry/{kind.table}/") for name, doc in body
        ):
            body += row_stream(kind, uid, detector, event_file, descriptors.get(stream_name(kind, detector)))
    if ledger_stream(detector) not in descriptors:
        body += ledger_row(uid, detector, event_file, error)
    if stop is None:
        return [*body, ("stop", _stop(body))]
    if len(body) > known:
        stop = {**stop, "num_events": {**stop.get("num_events", {}), **_counts(body)}}
    return [*body, ("stop", stop)]


def _without_empty_ledger(documents: Documents, detector: str) -> tuple[Documents, str]:
    """The documents without a ledger row that says only why there was no ledger, and what it said."""
    streams = {doc["uid"] for name, doc in documents if name == "descriptor" and doc["name"] == ledger_stream(detector)}
    rows = [doc["data"] for name, doc in documents if name == "event" and doc["descriptor"] in streams]
    if not rows or not lacks_ledger(rows[-1], detector):
        return documents, ""
    left = [
        (name, doc) for name, doc in documents if doc["uid"] not in streams and doc.get("descriptor") not in streams
    ]
    return left, str(rows[-1].get(f"{ledger_stream(detector)}_error", ""))


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
                    rest.append(("stream_datum", datum(doc["uid"], end["descriptor"], end["indices"]["stop"], rows)))
    return rest


def _is_of(resource: Document, event_file: Path) -> bool:
    return bool(
        resource["parameters"].get("event_list")
        and Path(unquote(urlsplit(resource["uri"]).path)).name == event_file.name
    )


def _stop(documents: Documents) -> Document:
    """The end of a run that has none."""
    times = [doc["time"] for _, doc in documents if isinstance(doc.get("time"), float | int)]
    return {
        "uid": str(uuid.uuid4()),
        "time": max(times, default=time.time()),
        "run_start": documents[0][1]["uid"],
        "exit_status": "abort",
        "reason": REASON,
        "num_events": _counts(documents),
    }


def _counts(documents: Documents) -> dict[str, int]:
    """Events or rows of each stream."""
    names = {doc["uid"]: doc["name"] for name, doc in documents if name == "descriptor"}
    counts = dict.fromkeys(names.values(), 0)
    for name, doc in documents:
        if name in ("event", "event_page", "stream_datum"):
            last = doc["seq_nums"]["stop"] - 1 if name == "stream_datum" else doc["seq_num"]
            last = max(last) if isinstance(last, list) else last
            counts[names[doc["descriptor"]]] = max(counts[names[doc["descriptor"]]], last)
    return counts


# --- a run that is in the catalog -------------------------------------------------------------------------------------


def _register_missing(catalog: str, uid: str, event_file: Path, detector: str) -> str:
    """Register anew the streams of rows that are too short, and the ledger row; the rest of the run stays as it is."""
    streams = dict(open_catalog(catalog).v3[uid].base.items())
    missing: dict[str, Documents] = {}
    done: list[str] = []
    for kind, rows in tables_of(event_file).items():
        stream = stream_name(kind, detector)
        known = _known_rows(streams.get(stream), stream)
        if stream not in streams or known < rows:
            missing[stream] = list(row_stream(kind, uid, detector, event_file))
            done += [f"{rows - known:,} {'rows' if kind.table == 'centroids' else kind.table}"] if rows > known else []
    ledger = ledger_stream(detector)
    row = _ledger_of(streams.get(ledger))
    if ledger not in streams or lacks_ledger(row, detector):
        documents = ledger_row(uid, detector, event_file, str(row.get(f"{ledger}_error", "")))
        if documents:
            missing[ledger] = documents
            done.append("the ledger")
    _write(catalog, uid, missing, replaced=[stream for stream in missing if stream in streams])
    return f"{', '.join(done)} registered" if done else ""


def _known_rows(stream: Any, name: str) -> int:
    columns = [array for key, array in stream.base.items() if key.startswith(name)] if stream is not None else []
    return min((int(column.shape[0]) for column in columns), default=0)


def _ledger_of(stream: Any) -> Mapping[str, Any]:
    """The ledger row that the catalog has; empty: none."""
    table = dict(stream.base.items()).get("internal") if stream is not None else None
    rows = table.read().to_dict("records") if table is not None else []
    return rows[-1] if rows else {}


def _write(catalog: str, uid: str, streams: Mapping[str, Documents], replaced: list[str]) -> None:
    if not streams:
        return
    client = open_catalog(catalog).v2
    sink = sink_factory(client)()
    if not isinstance(sink, PagingSink):
        raise CatalogError("this version of bluesky_tiled_plugins cannot add rows to a run that has ended")
    for stream in replaced:
        client[uid].delete_contents(stream, recursive=True, external_only=False)
    sink.resume(client[uid])
    for documents in streams.values():
        for name, doc in documents:
            sink(name, doc)


def _write_stop(client: Any, uid: str) -> None:
    start = dict(client[uid].metadata["start"])
    stop = _stop([("start", start)])
    client[uid].update_metadata(metadata={"stop": stop}, drop_revision=True)
