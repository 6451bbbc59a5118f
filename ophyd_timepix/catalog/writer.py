"""The coalescing writer between a RunEngine and a catalog.

Tiled takes some 30 to 45 ms for each document, whatever number of rows it stands for. So documents wait in a queue, a
thread of its own writes them, and StreamDatum documents of one column that wait together become one. The plan never
waits for the catalog and never fails because of it: how far the catalog lags and what went wrong can be asked, and
every document is in a journal (`journal.py`) until its run is in the catalog.

Knows documents and Tiled's writer; knows no detector.
"""

import atexit
import logging
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .errors import CatalogError, CatalogWriteError, require
from .journal import Journal, read_journal
from .opening import open_catalog
from .profile import default_directory, find_profile
from .settling import settle_with

logger = logging.getLogger(__name__)

Document = dict[str, Any]
Sink = Callable[[str, Document], None]

WAITING_LIMIT = 100_000
"""Documents that may wait. StreamDatum documents merge, so only events can fill the queue: an hour of them at 27 Hz."""


@dataclass(frozen=True)
class Lag:
    """How far the catalog is behind the RunEngine."""

    documents: int
    seconds: float
    """Age of the oldest document that is not in the catalog yet."""


@dataclass(frozen=True)
class CatalogFailure:
    """A run that is not, or not wholly, in the catalog."""

    uid: str
    reason: str
    backup: Path | None
    """All documents of the run; None: they could not be kept either (the reason says why)."""

    def __str__(self) -> str:
        if self.backup is None:
            return f"run {self.uid} is not complete in the catalog: {self.reason}; its documents could not be kept"
        return (
            f"run {self.uid} is not complete in the catalog: {self.reason}; all its documents are in {self.backup}, "
            f"and go into the catalog with: ophyd-timepix catalog replay {self.backup}"
        )


@dataclass
class _Run:
    """A run whose documents are on their way. Guarded by the writer's lock, but for `sink`, which is the thread's."""

    uid: str
    journal: Journal | None = None
    journal_error: str = ""
    failed: str = ""
    stopped: bool = False
    reported: bool = False
    sink: Sink | None = None


@dataclass
class _Waiting:
    run: _Run
    name: str
    doc: Document
    since: float


@dataclass
class _Routes:
    """Which run a document belongs to. Forgets a run when its stop document has passed."""

    owners: dict[str, _Run] = field(default_factory=dict)
    """Keyed by the uid of a start, a descriptor, a resource or a stream resource."""

    def find(self, name: str, doc: Document) -> _Run | None:
        for key in ("run_start", "descriptor", "stream_resource", "resource"):
            owner = self.owners.get(doc.get(key, ""))
            if owner is not None:
                if name in ("descriptor", "resource", "stream_resource"):
                    self.owners[doc["uid"]] = owner
                return owner
        return None

    def forget(self, run: _Run) -> None:
        self.owners = {key: owner for key, owner in self.owners.items() if owner is not run}


class CatalogWriter:
    """Subscribe it to a RunEngine: `RE.subscribe(CatalogWriter("timepix"))`.

    `catalog` is a profile's name, a `Broker` or a Tiled client. Documents of runs that the catalog does not take are
    kept in `backup_directory` (default: beside the embedded catalog, else in the user's data directory).
    """

    def __init__(
        self,
        catalog: Any,
        *,
        backup_directory: str | Path | None = None,
        waiting_limit: int = WAITING_LIMIT,
        exit_timeout_s: float = 30.0,
    ) -> None:
        self._make_sink = _sink_factory(catalog)
        self.backup_directory = Path(backup_directory) if backup_directory else _backup_directory(catalog)
        self.waiting_limit = waiting_limit
        self.exit_timeout_s = exit_timeout_s
        self.failures: list[CatalogFailure] = []
        self.received = 0
        self.written = 0
        """Documents given to Tiled, merged ones counted once."""
        self._unreported: list[CatalogFailure] = []
        self._routes = _Routes()
        self._waiting: deque[_Waiting] = deque()
        self._last_of_column: dict[str, _Waiting] = {}
        self._writing: _Waiting | None = None
        self._closed = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._work, name="timepix-catalog-writer", daemon=True)
        self._thread.start()
        _flush_at_exit(self)
        settle_with(self)

    # --- what the RunEngine calls

    def __call__(self, name: str, doc: Document) -> None:
        """Take a document. Costs a line in the journal; raises nothing."""
        with self._changed:
            if self._closed:
                logger.error("a %s document came after the catalog writer was closed; it is not in the catalog", name)
                return
            run = self._start_run(doc) if name == "start" else self._routes.find(name, doc)
            if run is None:
                logger.error("a %s document of a run that never started (for the catalog writer) was left out", name)
                return
            self.received += 1
            self._keep(run, name, doc)
            if name == "stop":
                run.stopped = True
                self._routes.forget(run)
            if run.failed:
                self._end_failed_run(run)
                return
            self._enqueue(run, name, doc)
            self._changed.notify_all()

    # --- what a user asks

    @property
    def lag(self) -> Lag:
        with self._changed:
            oldest = self._writing or (self._waiting[0] if self._waiting else None)
            waiting = len(self._waiting) + (self._writing is not None)
            return Lag(waiting, time.monotonic() - oldest.since if oldest else 0.0)

    @property
    def failure(self) -> CatalogFailure | None:
        """The last run that the catalog did not take; None: all is well."""
        return self.failures[-1] if self.failures else None

    def settled(self, timeout_s: float) -> bool:
        """Wait for the documents so far, for `timeout_s` at most. True: the catalog has them, or refused them."""
        if threading.current_thread() is self._thread:
            return True  # it asks the catalog itself while it writes
        with self._changed:
            return self._changed.wait_for(lambda: not self._waiting and self._writing is None, timeout_s)

    def wait(self, timeout_s: float | None = None) -> None:
        """Return when every document so far is in the catalog.

        Raises `CatalogWriteError` for runs that failed since it was last asked, `TimeoutError` when it takes longer.
        """
        with self._changed:
            done = self._changed.wait_for(lambda: not self._waiting and self._writing is None, timeout_s)
            if not done:
                raise TimeoutError(f"the catalog is still {len(self._waiting)} documents behind after {timeout_s} s")
            failed, self._unreported = self._unreported, []
        if failed:
            raise CatalogWriteError("; ".join(map(str, failed)))

    def close(self, timeout_s: float = 30.0) -> None:
        """Write what waits, for `timeout_s` at most; what is left then stays in the journals. Raises as `wait` does."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: not self._waiting and self._writing is None, timeout_s)
            self._give_up_what_is_open()
            failed, self._unreported = self._unreported, []
        self._thread.join(timeout=1.0)
        if failed:
            raise CatalogWriteError("; ".join(map(str, failed)))

    # --- taking documents (with the lock)

    def _give_up_what_is_open(self) -> None:
        waiting = len(self._waiting) + (self._writing is not None)
        for item in (*self._waiting, *filter(None, [self._writing])):
            self._fail(item.run, f"the catalog was closed while {waiting} documents waited")
        self._waiting.clear()
        self._last_of_column.clear()
        for run in {id(owner): owner for owner in self._routes.owners.values()}.values():
            self._fail(run, "the run had not ended when the catalog was closed")
            self._end_failed_run(run)

    def _start_run(self, start: Document) -> _Run:
        run = _Run(start["uid"])
        try:
            run.journal = Journal(self.backup_directory, run.uid)
        except OSError as refused:
            run.journal_error = f"no backup in {self.backup_directory}: {refused}"
            logger.error("%s; the run is written to the catalog without one", run.journal_error)
        self._routes.owners[run.uid] = run
        return run

    def _keep(self, run: _Run, name: str, doc: Document) -> None:
        if run.journal is None:
            return
        try:
            run.journal.write(name, doc)
        except (OSError, TypeError, ValueError) as refused:
            run.journal_error = f"no backup in {run.journal.path}: {refused}"
            run.journal = None
            logger.error("%s; the run is written to the catalog without one", run.journal_error)

    def _enqueue(self, run: _Run, name: str, doc: Document) -> None:
        if name == "stream_datum":
            before = self._last_of_column.get(doc["stream_resource"])
            merged = merge(before.doc, doc) if before else None
            if before and merged:
                before.doc = merged
                return
        if len(self._waiting) >= self.waiting_limit and name != "stop":
            self._fail(run, f"more than {self.waiting_limit} documents wait for it")
            return
        item = _Waiting(run, name, doc, time.monotonic())
        self._waiting.append(item)
        if name == "stream_datum":
            self._last_of_column[doc["stream_resource"]] = item

    def _fail(self, run: _Run, reason: str) -> None:
        """Give the run up: from now on its documents go to the journal only."""
        if run.failed:
            return
        run.failed = reason
        logger.warning("the catalog does not take run %s: %s", run.uid, reason)
        backup = self._backup_of(run)
        failure = CatalogFailure(run.uid, f"{reason}; {run.journal_error}" if run.journal_error else reason, backup)
        self.failures.append(failure)
        self._unreported.append(failure)
        if run.stopped or self._closed:
            self._end_failed_run(run)

    def _backup_of(self, run: _Run) -> Path | None:
        """Where the journal will be once the run has ended."""
        return run.journal.path.with_suffix("") if run.journal else None

    def _end_failed_run(self, run: _Run) -> None:
        if run.reported or not (run.stopped or self._closed):
            return
        run.reported = True
        if run.journal is not None:
            try:
                run.journal.keep()
            except OSError as refused:
                logger.error("the backup %s keeps its name: %s", run.journal.path, refused)
            run.journal = None
        for failure in self.failures:
            if failure.uid == run.uid:
                logger.error("%s", failure)

    # --- the thread

    def _work(self) -> None:
        while (item := self._next()) is not None:
            if not item.run.failed:
                self._write(item)
            with self._changed:
                self._writing = None
                self._changed.notify_all()

    def _next(self) -> _Waiting | None:
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closed)
            if not self._waiting:
                return None
            self._writing = item = self._waiting.popleft()
            column = item.doc.get("stream_resource", "")
            if self._last_of_column.get(column) is item:
                del self._last_of_column[column]
            return item

    def _write(self, item: _Waiting) -> None:
        run = item.run
        try:
            if run.sink is None:
                run.sink = self._make_sink()
            run.sink(item.name, item.doc)
        except Exception as refused:  # whatever Tiled raises must not end the thread: other runs go on
            logger.debug("Tiled refused a %s document", item.name, exc_info=True)
            with self._changed:
                self._fail(
                    run, f"a {item.name} document was refused ({type(refused).__name__}: {_first_line(refused)})"
                )
            return
        with self._changed:
            self.written += 1
            if item.name == "stop" and run.journal is not None and not run.failed:
                self._discard(run.journal)
                run.journal = None

    def _discard(self, journal: Journal) -> None:
        try:
            journal.discard()
        except OSError as refused:
            logger.warning("the journal %s of a catalogued run stays behind: %s", journal.path, refused)


def merge(first: Document, second: Document) -> Document | None:
    """One StreamDatum for both, if the rows of the second follow those of the first; else None."""
    if first["descriptor"] != second["descriptor"] or first["indices"]["stop"] != second["indices"]["start"]:
        return None
    return {
        **first,
        "indices": {"start": first["indices"]["start"], "stop": second["indices"]["stop"]},
        "seq_nums": {"start": first["seq_nums"]["start"], "stop": second["seq_nums"]["stop"]},
    }


def replay(path: str | Path, catalog: Any) -> str:
    """Put the run of a journal into the catalog; returns its uid. A complete run there is left as it is.

    What an interrupted attempt left of the run is removed first; the files that its documents point to are not touched.
    """
    documents = list(read_journal(Path(path)))
    if not documents or documents[0][0] != "start":
        raise CatalogError(f"{path} holds no documents of a run: its first line should be a start document")
    uid: str = documents[0][1]["uid"]
    client = _client_of(catalog)
    if uid in client:
        if client[uid].metadata.get("stop"):
            return uid
        client.delete_contents(uid, recursive=True, external_only=False)
    sink = _sink_factory(catalog)()
    for name, doc in _coalesced(documents):
        sink(name, doc)
    return uid


def _coalesced(documents: list[tuple[str, Document]]) -> list[tuple[str, Document]]:
    """All StreamDatum documents of a column as one, where its first one stood."""
    result: list[tuple[str, Document]] = []
    columns: dict[str, int] = {}
    for name, doc in documents:
        if name == "stream_datum":
            place = columns.get(doc["stream_resource"])
            merged = merge(result[place][1], doc) if place is not None else None
            if place is not None and merged:
                result[place] = (name, merged)
                continue
            columns[doc["stream_resource"]] = len(result)
        result.append((name, doc))
    return result


def _client_of(catalog: Any) -> Any:
    """The Tiled client of a profile's name, a Broker or a client."""
    broker = open_catalog(catalog) if isinstance(catalog, str) else catalog
    return getattr(broker, "v2", broker)


def _sink_factory(catalog: Any) -> Callable[[], Sink]:
    """Makes one TiledWriter per run, so that a run that fails leaves nothing behind for the next."""
    client = _client_of(catalog)
    require("ophyd_timepix.catalog.consolidator").register()
    tiled_writer = require("bluesky_tiled_plugins").TiledWriter

    def make() -> Sink:
        sink: Sink = tiled_writer(client, batch_size=1)
        return sink

    return make


def _backup_directory(catalog: Any) -> Path:
    if isinstance(catalog, str):
        profile = find_profile(catalog)
        if profile.directory is not None:
            return profile.directory / "backup"
    return default_directory("backup")


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), "no message")


def _flush_at_exit(writer: CatalogWriter) -> None:
    """Write what waits when the interpreter ends, before Tiled closes its in-process application.

    Tiled closes it in the hooks that run before threads are joined, last registered first; `atexit` comes after that.
    """
    reference = weakref.ref(writer)

    def flush() -> None:
        alive = reference()
        if alive is None or alive._closed:
            return
        try:
            alive.close(alive.exit_timeout_s)
        except CatalogWriteError:
            logger.debug("reported already, run by run")

    register = getattr(threading, "_register_atexit", atexit.register)
    register(flush)
