"""The coalescing writer between a RunEngine and a catalog.

Tiled takes some 30 to 60 ms for each request, whatever it holds. So documents wait in a queue where they become fewer
(`waiting.py`), and a thread of its own writes them. The plan never waits for the catalog and never fails because of it:
how far the catalog lags and what went wrong can be asked, and every document is in a journal (`journal.py`) until its
run is in the catalog.

Knows documents and Tiled's writer; knows no detector.
"""

import atexit
import logging
import threading
import time
import weakref
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from .errors import CatalogError, CatalogWriteError
from .journal import Journal, read_journal
from .opening import open_catalog
from .profile import default_directory, find_profile
from .settling import settle_with
from .sink import Sink, sink_factory
from .waiting import Document, Request, WaitingRequests

logger = logging.getLogger(__name__)

WAITING_LIMIT: Final = 100_000
"""Documents that may wait. StreamDatum documents merge, so only events can fill the queue."""
WAITING_BYTES: Final = 1 << 29
"""Arrays in events that may wait: a thousand images of 256 x 256 numbers."""
HOLD_S: Final = 1.0
"""How long an event waits for others to share its request. A request keeps Python busy for some 50 ms, which the plan
feels: one per event would be half of a processor at 10 Hz."""
LAG_LIMIT_S: Final = 5.0
"""A lag above this is told, once until the catalog has caught up."""


@dataclass(frozen=True)
class Lag:
    """How far the catalog is behind the RunEngine."""

    documents: int
    seconds: float
    """Age of the oldest document that is not in the catalog yet."""

    def __str__(self) -> str:
        return f"{self.documents} documents, {self.seconds:.1f} s behind" if self.documents else "up to date"


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
        hold_s: float = HOLD_S,
        exit_timeout_s: float = 30.0,
    ) -> None:
        self._make_sink = sink_factory(_client_of(catalog))
        self.backup_directory = Path(backup_directory) if backup_directory else _backup_directory(catalog)
        self.waiting_limit = waiting_limit
        self.hold_s = hold_s
        self.exit_timeout_s = exit_timeout_s
        self.failures: list[CatalogFailure] = []
        self.received = 0
        self.written = 0
        """Requests to Tiled: StreamDatum documents that were merged, and the events of a page, count once."""
        self._unreported: list[CatalogFailure] = []
        self._routes = _Routes()
        self._waiting: WaitingRequests[_Run] = WaitingRequests()
        self._writing: Request[_Run] | None = None
        self._hurried_by = 0
        """How many wait for the catalog right now: events are not held back then."""
        self._lagging = False
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
            self._tell_lag()
            self._changed.notify_all()

    # --- what a user asks

    @property
    def lag(self) -> Lag:
        """How far the catalog is behind, now."""
        with self._changed:
            return self._lag()

    @property
    def failure(self) -> CatalogFailure | None:
        """The last run that the catalog did not take; None: all is well."""
        return self.failures[-1] if self.failures else None

    def settled(self, timeout_s: float) -> bool:
        """Wait for the documents so far, for `timeout_s` at most. True: the catalog has them, or refused them."""
        if threading.current_thread() is self._thread:
            return True  # it asks the catalog itself while it writes
        with self._changed:
            return self._wait_for_what_came(timeout_s)

    def wait(self, timeout_s: float | None = None) -> None:
        """Return when every document so far is in the catalog.

        Raises `CatalogWriteError` for runs that failed since it was last asked, `TimeoutError` when it takes longer.
        """
        with self._changed:
            if not self._wait_for_what_came(timeout_s):
                raise TimeoutError(f"the catalog is still {self._lag().documents} documents behind after {timeout_s} s")
            failed, self._unreported = self._unreported, []
        if failed:
            raise CatalogWriteError("; ".join(map(str, failed)))

    def close(self, timeout_s: float = 30.0) -> None:
        """Write what waits, for `timeout_s` at most; what is left then stays in the journals. Raises as `wait` does."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            self._wait_for_what_came(timeout_s)
            self._give_up_what_is_open()
            failed, self._unreported = self._unreported, []
        self._thread.join(timeout=1.0)
        if failed:
            raise CatalogWriteError("; ".join(map(str, failed)))

    def __repr__(self) -> str:
        state = self.failure or self.lag
        return f"<CatalogWriter: {state}>"

    # --- waiting and telling (with the lock)

    def _wait_for_what_came(self, timeout_s: float | None) -> bool:
        """Whether all that was received until now is written within `timeout_s`; documents may come meanwhile."""
        last = self.received
        self._hurried_by += 1
        self._changed.notify_all()
        try:
            return self._changed.wait_for(lambda: (oldest := self._oldest()) is None or oldest.ticket > last, timeout_s)
        finally:
            self._hurried_by -= 1

    def _oldest(self) -> Request[_Run] | None:
        return self._writing or self._waiting.oldest

    def _lag(self) -> Lag:
        oldest = self._oldest()
        documents = self._waiting.documents + (self._writing.documents if self._writing else 0)
        return Lag(documents, time.monotonic() - oldest.since if oldest else 0.0)

    def _tell_lag(self) -> None:
        lag = self._lag()
        if lag.documents == 0:
            self._lagging = False
        elif lag.seconds > LAG_LIMIT_S and not self._lagging:
            self._lagging = True
            logger.warning(
                "the catalog is %s; nothing is lost: what it does not have yet is in %s", lag, self.backup_directory
            )

    # --- taking documents (with the lock)

    def _give_up_what_is_open(self) -> None:
        documents = self._lag().documents
        for request in (*self._waiting, *filter(None, [self._writing])):
            self._fail(request.owner, f"the catalog was closed while {documents} documents waited")
        self._waiting.clear()
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
        if self._waiting.documents >= self.waiting_limit and name != "stop":
            self._fail(run, f"more than {self.waiting_limit} documents wait for it")
        elif self._waiting.bytes >= WAITING_BYTES and name != "stop":
            self._fail(run, f"more than {WAITING_BYTES / 1e6:.0f} MB of arrays in events wait for it")
        else:
            self._waiting.add(run, name, doc, since=time.monotonic(), ticket=self.received)

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
        while (request := self._next()) is not None:
            if not request.owner.failed:
                self._write(request)
            with self._changed:
                self._writing = None
                self._tell_lag()
                self._changed.notify_all()

    def _next(self) -> Request[_Run] | None:
        """The oldest request, when it is due; None: closed, and nothing is left."""
        with self._changed:
            while (seconds := self._seconds_until_due()) is None or seconds > 0:
                if seconds is None and self._closed:
                    return None
                self._changed.wait(seconds)
            self._writing = self._waiting.pop()
            return self._writing

    def _seconds_until_due(self) -> float | None:
        """0 or less: now; None: nothing waits. Events wait for company, unless somebody waits for them."""
        request = self._waiting.oldest
        if request is None:
            return None
        hurry = self._hurried_by or self._closed or request.owner.stopped or request.owner.failed
        if hurry or not request.may_grow:
            return 0.0
        return request.since + self.hold_s - time.monotonic()

    def _write(self, request: Request[_Run]) -> None:
        run, name = request.owner, request.name
        try:
            if run.sink is None:
                run.sink = self._make_sink()
            run.sink(*request.packed())
        except Exception as refused:  # whatever Tiled raises must not end the thread: other runs go on
            logger.debug("Tiled refused a %s document", name, exc_info=True)
            with self._changed:
                self._fail(run, f"a {name} document was refused ({type(refused).__name__}: {_first_line(refused)})")
            return
        with self._changed:
            self.written += 1
            if name == "stop" and run.journal is not None and not run.failed:
                self._discard(run.journal)
                run.journal = None

    def _discard(self, journal: Journal) -> None:
        try:
            journal.discard()
        except OSError as refused:
            logger.warning("the journal %s of a catalogued run stays behind: %s", journal.path, refused)


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
    sink = sink_factory(client)()
    requests: WaitingRequests[None] = WaitingRequests()
    for name, doc in documents:
        requests.add(None, name, doc)
    for request in requests:
        sink(*request.packed())
    return uid


def _client_of(catalog: Any) -> Any:
    """The Tiled client of a profile's name, a Broker or a client."""
    broker = open_catalog(catalog) if isinstance(catalog, str) else catalog
    return getattr(broker, "v2", broker)


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
