"""Runs without a catalog: the documents of each run in a file of its own, one JSON object per line.

Needs neither databroker nor Tiled. The files can be read line by line by anybody, by `read_run`, and can be put into a
catalog later with `ophyd-timepix catalog replay`.
"""

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from io import TextIOWrapper
from pathlib import Path
from typing import Any, Literal
from urllib.parse import unquote, urlparse

from event_model import unpack_event_page

from ..files.sharing import make_shared_directory, share
from .datum_form import DatumForm
from .errors import CatalogError
from .journal import as_line, read_journal

logger = logging.getLogger(__name__)

Document = dict[str, Any]
Assets = Literal["stream", "datum"]


@dataclass
class _Open:
    """A run that is being written."""

    path: Path
    file: TextIOWrapper
    failed: bool = False


class JsonlWriter:
    """Subscribe it to a RunEngine, or `install(RE, [tpx], catalog=JsonlWriter("/data/2026-11/documents"))`.

    Files are called `<time>_<first 8 of the uid>.jsonl`, are never overwritten, and are writable for their group. Each
    document is on its way to the disk when the call returns. `assets`: "stream" (StreamResource and StreamDatum) or
    "datum" (Resource and Datum, see `datum_form`).

    A directory that cannot be written stops the plan at its start; a disk that fails later is told in the log and in
    `failures`, and lets the plan go on: the event file has the data.
    """

    def __init__(self, directory: str | Path, *, assets: Assets = "stream") -> None:
        self.directory = Path(os.path.abspath(Path(directory).expanduser()))
        self.failures: list[str] = []
        self.last_file: Path | None = None
        """The file of the run that started last."""
        if assets not in ("stream", "datum"):
            raise ValueError(f"assets={assets!r} is neither 'stream' nor 'datum'")
        self._take: Callable[[str, Document], None] = self._write if assets == "stream" else DatumForm(self._write)
        self._open: dict[str, _Open] = {}
        """By the uid of the run."""
        self._runs: dict[str, str] = {}
        """The run of a descriptor, a resource, a stream resource."""

    def __call__(self, name: str, doc: Document) -> None:
        """Take a document."""
        self._take(name, doc)

    def close(self) -> None:
        """Close the files of runs that did not end. Twice is harmless."""
        for run in self._open.values():
            run.file.close()
        self._open.clear()
        self._runs.clear()

    def _write(self, name: str, doc: Document) -> None:
        uid = doc["uid"] if name == "start" else self._run_of(name, doc)
        if name == "start":
            self._open[uid] = self._begin(doc)
        run = self._open.get(uid)
        if run is None:
            logger.error("a %s document of a run that did not start here was left out", name)
            return
        if not run.failed:
            self._append(run, uid, as_line(name, doc))
        if name == "stop":
            self._end(uid)

    def _run_of(self, name: str, doc: Document) -> str:
        for key in ("run_start", "descriptor", "stream_resource", "resource"):
            uid = doc.get(key, "")
            uid = uid if key == "run_start" else self._runs.get(uid, "")
            if uid:
                if name in ("descriptor", "resource", "stream_resource"):
                    self._runs[doc["uid"]] = uid
                return str(uid)
        return ""

    def _begin(self, start: Document) -> _Open:
        stem = f"{datetime.fromtimestamp(start['time']):%Y%m%d-%H%M%S}_{start['uid'][:8]}"
        try:
            make_shared_directory(self.directory)
            path = self.directory / f"{stem}.jsonl"
            take = 1
            while True:
                try:
                    file = path.open("x", encoding="utf-8")
                    break
                except FileExistsError:
                    take += 1
                    path = self.directory / f"{stem}_{take}.jsonl"
            share(path)
        except OSError as refused:
            raise CatalogError(
                f"the documents of a run cannot be written to {self.directory}: {refused.strerror}; "
                "choose another directory, or ask for the right to write there"
            ) from refused
        self.last_file = path
        return _Open(path, file)

    def _append(self, run: _Open, uid: str, line: str) -> None:
        try:
            run.file.write(line)
            run.file.flush()
        except OSError as refused:
            run.failed = True
            told = f"run {uid}: its documents end amid {run.path}: {refused.strerror}; the event file goes on"
            self.failures.append(told)
            logger.error("%s", told)

    def _end(self, uid: str) -> None:
        run = self._open.pop(uid)
        self._runs = {key: of_run for key, of_run in self._runs.items() if of_run != uid}
        try:
            run.file.close()
        except OSError as refused:
            self.failures.append(f"run {uid}: {run.path}: {refused.strerror}")
            logger.error("run %s: %s: %s", uid, run.path, refused.strerror)


@dataclass(frozen=True)
class RecordedRun:
    """What the file of a run says."""

    path: Path
    start: Document
    stop: Document | None
    """None: the run was cut off, or is still going."""
    streams: dict[str, list[Document]] = field(repr=False)
    """The events of each stream, as `{"seq_num": 1, "time": ..., **data}`."""
    files: tuple[Path, ...]
    """The files that its external data are in."""
    documents: tuple[tuple[str, Document], ...] = field(repr=False)

    @property
    def uid(self) -> str:
        return str(self.start["uid"])

    @property
    def is_complete(self) -> bool:
        return self.stop is not None


def read_run(path: str | Path) -> RecordedRun:
    """The run of a `.jsonl` file; a last line that was cut off is left out. `pandas.DataFrame(run.streams["primary"])`
    is the table of its points.

    Raises `CatalogError` for a file that does not begin with a start document.
    """
    documents = tuple(read_journal(Path(path)))
    if not documents or documents[0][0] != "start":
        raise CatalogError(f"{path} holds no documents of a run: its first line should be a start document")
    names: dict[str, str] = {}
    streams: dict[str, list[Document]] = {}
    files: dict[Path, None] = {}
    stop = None
    for name, doc in documents:
        if name == "descriptor":
            names[doc["uid"]] = doc["name"]
            streams.setdefault(doc["name"], [])
        elif name in ("event", "event_page"):
            for event in [doc] if name == "event" else unpack_event_page(doc):
                row = {"seq_num": event["seq_num"], "time": event["time"], **event["data"]}
                streams[names[event["descriptor"]]].append(row)
        elif name == "stream_resource":
            files[Path(unquote(urlparse(doc["uri"]).path))] = None
        elif name == "resource":
            files[Path(doc["root"]) / doc["resource_path"]] = None
        elif name == "stop":
            stop = doc
    return RecordedRun(Path(path), documents[0][1], stop, streams, tuple(files), documents)
