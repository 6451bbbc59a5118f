"""What a finished event file says of its run, in the documents that the detector would have given: rows and ledger."""

import time
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from ..devices.streams import CentroidStream, LedgerRow, RowStream, ShotStream
from ..files.event_file import layout_of
from ..files.reader import count_rows, open_event_file, read_ledger, read_table

Document = dict[str, Any]
Documents = list[tuple[str, Document]]

ROW_STREAMS: Final[tuple[type[RowStream], ...]] = (ShotStream, CentroidStream)
"""In the order in which they are registered."""


class _Detector:
    """What streams ask of their detector."""

    _OphydAttrList = None

    def __init__(self, name: str, run: str, event_file: Path) -> None:
        self.name = name
        self.recorded_run = run
        self.event_file = event_file
        self.rows_on_disk = count_rows(event_file)
        with open_event_file(event_file) as file:
            self.event_layout = layout_of(file["entry"])


def stream_name(kind: type[RowStream], detector: str) -> str:
    """Name of the stream of a table."""
    return f"{detector}_{kind.table}"


def tables_of(event_file: Path) -> dict[type[RowStream], int]:
    """The tables that become streams, with their rows; an older event file may lack one."""
    with open_event_file(event_file) as file:
        there = [kind for kind in ROW_STREAMS if kind.table in file["entry"]]
    return {kind: count_rows(event_file, kind.table) for kind in there}


def row_stream(
    kind: type[RowStream], uid: str, detector: str, event_file: Path, descriptor: Document | None = None
) -> Iterator[tuple[str, Document]]:
    """A whole table of the event file as a stream of run `uid`. descriptor: the one that the run has of it already."""
    stream = stream_name(kind, detector)
    device = kind("", name=stream, parent=_Detector(detector, uid, event_file))
    described = descriptor or _descriptor(uid, stream, device.describe_collect())
    if descriptor is None:
        yield "descriptor", described
    for name, doc in device.collect_asset_docs():
        if name == "stream_resource":
            yield name, {**doc, "run_start": uid}
        else:
            indices = doc["indices"]
            yield name, datum(doc["stream_resource"], described["uid"], indices["start"], indices["stop"])


def datum(resource: str, descriptor: str, start: int, stop: int) -> Document:
    """Rows [start, stop) of a column."""
    return {
        "uid": f"{resource}/{start}-{stop}",
        "stream_resource": resource,
        "descriptor": descriptor,
        "indices": {"start": start, "stop": stop},
        "seq_nums": {"start": start + 1, "stop": stop + 1},
    }


def ledger_stream(detector: str) -> str:
    """Name of the stream with the ledger row."""
    return f"{detector}_ledger"


def ledger_row(uid: str, detector: str, event_file: Path, error: str = "") -> Documents:
    """The stream of the ledger row; nothing where the file has no ledger. error: why the session had not got one."""
    ledger = read_ledger(event_file)
    if not ledger:
        return []
    stream = ledger_stream(detector)
    device = LedgerRow("", name=stream)
    device.enter(uid, {**_books(event_file), "error": error}, ledger)
    described = _descriptor(uid, stream, device.describe())
    reading = device.read()
    event = {
        "uid": str(uuid.uuid4()),
        "time": time.time(),
        "descriptor": described["uid"],
        "seq_num": 1,
        "data": {key: entry["value"] for key, entry in reading.items()},
        "timestamps": {key: entry["timestamp"] for key, entry in reading.items()},
        "filled": {},
    }
    return [("descriptor", described), ("event", event)]


def lacks_ledger(row: Mapping[str, Any], detector: str) -> bool:
    """Whether a ledger row says only that the books could not be closed."""
    return row.get(f"{ledger_stream(detector)}_json") == "{}"


def _books(event_file: Path) -> dict[str, float | int | str]:
    """What the ledger row says beside the ledger."""
    table = read_table(event_file, "acquisitions", ["row_start", "row_stop", "cancelled"])
    lost = table["cancelled"] != 0
    beside = {name: event_file.with_suffix(suffix) for name, suffix in (("recording", ".tpx3"), ("master", ".nxs"))}
    books: dict[str, float | int | str] = {
        "acquisitions": len(lost),
        "cancelled_acquisitions": int(lost.sum()),
        "rows": count_rows(event_file),
        "cancelled_rows": int((table["row_stop"] - table["row_start"])[lost].sum()),
        "file": str(event_file),
    }
    return books | {name: str(path) if path.exists() else "" for name, path in beside.items()}


def _descriptor(uid: str, stream: str, keys: Mapping[str, Any]) -> Document:
    return {
        "uid": str(uuid.uuid4()),
        "time": time.time(),
        "run_start": uid,
        "name": stream,
        "data_keys": {key: {**described, "object_name": stream} for key, described in keys.items()},
        "object_keys": {stream: list(keys)},
        "configuration": {stream: {"data": {}, "timestamps": {}, "data_keys": {}}},
        "hints": {stream: {}},
    }
