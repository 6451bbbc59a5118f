"""The supervisor: owns the shared memory and the stage processes, and serves one user's process over a control socket.

It is single-threaded. Calls that wait for stages are generators: `answer = yield Wanted(stage, kind)` lets the loop go
on until that answer is there, so progress is told while an acquisition drains, and a dying stage is seen at once.

The end of the control socket is the end of everything: recording and event file are closed, stages end, memory
vanishes.
"""

import contextlib
import gc
import logging
import os
import select
import signal
import time
import traceback
from collections import deque
from collections.abc import Callable, Generator
from functools import partial
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final, NamedTuple

from pydantic import BaseModel, ValidationError

from ..spool.index import Moment
from ..spool.recording import salvage
from ..spool.ring import Mark, arrived_datagrams, disk_seconds_left, stopped_by
from .capture_stage import CaptureStage
from .centroid_stage import CentroidStage
from .decode_stage import DecodeStage, EndRequest
from .ledger import Ledger, Part, add_ledgers, with_verdict
from .messages import (
    SUPERVISOR,
    Acquired,
    Arrived,
    Counting,
    Progress,
    Receiver,
    RecordedFile,
    RunPaths,
    RunRequest,
    RunSummary,
    Sent,
    StageDeath,
)
from .recorded import recorded_parts
from .shared import Gauge, Shared
from .stage import Stage, run_forked
from .wire import LineSocket
from .write_stage import CloseRequest, Settlement, WriteStage

log = logging.getLogger(__name__)

CLOSE_TIMEOUT_S: Final = 20.0
"""How long all stages together may take to close their files at the end; less than the client waits for us."""
ENDED_BY_ITSELF: Final = "ended with exit code 0"
FOLLOWERS_S: Final = 0.1
"""When a stage has ended by itself: how long is waited for another to be seen dead."""
TELL_S: Final = 1.0
"""A death is told after so long, though the recording may not be complete by then."""
SOON_BYTES: Final = 128 << 20
"""So much that is only in the ring yet is on a disk soon."""
LAST_CHANCE_S: Final = 5.0
"""What the others get when a stage that hangs has used up the time."""


class Wanted(NamedTuple):
    """An answer that a call waits for."""

    stage: str
    kind: str


class Refused(RuntimeError):
    """A stage refused a request."""


Call = Generator[Wanted, Any, BaseModel | dict[str, Any]]


class Child:
    """A forked stage as the supervisor sees it."""

    def __init__(self, name: str, pid: int, connection: Connection) -> None:
        self.name = name
        self.pid = pid
        self.connection = connection
        self.pidfd = os.pidfd_open(pid)

    def send(self, kind: str, argument: Any = None) -> Wanted:
        """Send a request; what is returned is its answer's address."""
        with contextlib.suppress(BrokenPipeError):  # a death is noticed and told through the pidfd
            self.connection.send((kind, argument))
        return Wanted(self.name, kind)


class OpenRun:
    """What the supervisor knows of the run that is open."""

    def __init__(self, request: RunRequest) -> None:
        self.request = request
        self.acquisitions: list[Acquired] = []
        """Without their ledgers."""
        self.ledger: dict[str, Any] = add_ledgers([])
        self.acquisition: int | None = None
        self.begun = 0.0
        self._sent: Sent | None = Sent(datagrams=0)

    def add(self, acquired: Acquired) -> None:
        """One more acquisition of the run. Its ledger is added up and not kept: there may be very many."""
        self.ledger = add_ledgers([self.ledger, acquired.ledger] if self.acquisitions else [acquired.ledger])
        if self.request.preview:
            self.acquisitions.clear()  # it may go on for days
        self.acquisitions.append(acquired.model_copy(update={"ledger": {}}))

    def sent_since(self, sent: Sent | None) -> Sent | None:
        """What the board sent since the acquisition before. Unknown when either count is."""
        before, self._sent = self._sent, sent
        if before is None or sent is None:
            return None
        earlier = before.pixel_words or (0,) * len(sent.pixel_words)
        return Sent(
            datagrams=sent.datagrams - before.datagrams,
            pixel_words=tuple(a - b for a, b in zip(sent.pixel_words, earlier, strict=True)),
            paused=sent.paused - before.paused,
        )


class Supervisor:
    """Serves `control` until it closes. `log_path` stands in every report of a death."""

    def __init__(
        self, control: LineSocket, *, workers: int, ring_bytes: int, log_path: Path, live_fd: int = -1
    ) -> None:
        self._control = control
        self._log_path = log_path
        self._shared = Shared(ring_bytes, live_fd=live_fd)
        self._children: dict[str, Child] = {}
        self._answers: dict[Wanted, deque[tuple[str, Any]]] = {}
        self._queue: deque[dict[str, Any]] = deque()
        self._active: tuple[int, Call, Wanted] | None = None
        self._run: OpenRun | None = None
        self._last_words: dict[str, tuple[str, str]] = {}
        self._workers = [f"centroid{k}" for k in range(workers)]
        self._calls: dict[str, Callable[[dict[str, Any]], Call]] = {
            "bind": self._bind,
            "open_run": self._open_run,
            "begin": self._begin,
            "opened": self._shutter_opened,
            "shut": self._shutter_shut,
            "end": self._end,
            "baseline": self._baseline,
            "arrived": self._arrived,
            "poll": self._poll,
            "close_run": self._close_run,
            "process": self._process,
        }
        self._spawn()

    # --- processes --------------------------------------------------------------------------------------------------

    def _spawn(self) -> None:
        """Fork the stages, connected in a line: decode -> centroid* -> write -> decode (free blocks)."""
        gc.collect()
        gc.freeze()  # what exists now is never collected in a stage, which would copy the pages that all share
        shared = self._shared
        to_workers = {name: Pipe(duplex=False) for name in self._workers}
        from_workers = {name: Pipe(duplex=False) for name in self._workers}
        free_in, free_out = Pipe(duplex=False)
        own = [end for pipes in (to_workers, from_workers) for pair in pipes.values() for end in pair]
        own += [free_in, free_out]
        self._fork("capture", [], lambda c: CaptureStage(c, shared), own)
        outputs = [to_workers[name][1] for name in self._workers]
        self._fork("decode", [free_in, *outputs], lambda c: DecodeStage(c, shared, outputs, free_in), own)
        for name in self._workers:
            ends = [to_workers[name][0], from_workers[name][1]]
            self._fork(name, ends, partial(CentroidStage, name, shared=shared, source=ends[0], sink=ends[1]), own)
        inputs = [from_workers[name][0] for name in self._workers]
        self._fork("write", [free_out, *inputs], lambda c: WriteStage(c, shared, inputs, free_out), own)
        for end in own:
            end.close()

    def _fork(
        self, name: str, ends: list[Connection], make: Callable[[Connection], Stage], all_ends: list[Connection]
    ) -> None:
        ours, theirs = Pipe()
        pid = os.fork()
        if pid:
            theirs.close()
            self._children[name] = Child(name, pid, ours)
            return
        # In the child every foreign end must go, or nobody would ever see an end of file.
        ours.close()
        self._control.close()
        for child in self._children.values():
            child.connection.close()
            os.close(child.pidfd)
        for end in all_ends:
            if end not in ends:
                end.close()
        run_forked(name, theirs, lambda: make(theirs))

    # --- the loop ---------------------------------------------------------------------------------------------------

    def serve(self) -> int:
        """Serve until the user's process goes (returns 0), or a stage dies or this process fails (returns 1)."""
        try:
            return self._serve()
        except Exception as error:
            # The one place for what nobody foresaw, a request's errors of any other kind included: after it no state
            # can be trusted, so it is a death like that of a stage. Without this the recording would not be finished.
            log.exception("the supervisor failed")
            self._end_all(SUPERVISOR, f"failed: {type(error).__name__}: {error}", traceback.format_exc())
            return 1

    def _serve(self) -> int:
        poll = select.poll()
        poll.register(self._control.fileno(), select.POLLIN)
        by_fd: dict[int, Child] = {}
        for child in self._children.values():
            for fd in (child.connection.fileno(), child.pidfd):
                poll.register(fd, select.POLLIN)
                by_fd[fd] = child
        self._control.send({"event": "ready", "pids": {c.name: c.pid for c in self._children.values()}})
        while True:
            for fd, _ in poll.poll():
                heard = by_fd.get(fd)
                if heard is None:
                    try:
                        self._queue.extend(self._control.receive())
                    except EOFError:
                        self._shut_down()
                        return 0
                elif not self._hear(heard):
                    self._report_death(heard)
                    return 1
            self._work()

    def _hear(self, child: Child) -> bool:
        """Take all messages of a stage. False: it is dead."""
        try:
            while child.connection.poll():
                kind, verdict, result = child.connection.recv()
                if kind == "died":
                    self._last_words[child.name] = result
                else:
                    self._answers.setdefault(Wanted(child.name, kind), deque()).append((verdict, result))
        except (EOFError, ConnectionResetError):
            return False
        ended, _, _ = select.select([child.pidfd], [], [], 0)
        return not ended

    def _work(self) -> None:
        """Advance the active call and start queued ones, as far as the answers at hand allow."""
        while True:
            if self._active is not None:
                number, call, wanted = self._active
                answers = self._answers.get(wanted)
                if not answers:
                    self._answer_progress()
                    return
                self._advance(number, call, answers.popleft())
            elif self._queue:
                self._start(self._queue.popleft())
            else:
                return

    def _answer_progress(self) -> None:
        """Requests for progress do not wait for the active call."""
        for message in [m for m in self._queue if m["call"] == "progress"]:
            self._queue.remove(message)
            self._start(message)

    def _start(self, message: dict[str, Any]) -> None:
        number, name, arguments = message["id"], message["call"], message.get("arguments", {})
        if name == "progress":
            self._control.send({"id": number, "ok": self._progress().model_dump(mode="json")})
            return
        try:
            call = self._calls[name](arguments)
        except (ValidationError, KeyError) as error:
            self._control.send({"id": number, "error": [type(error).__name__, str(error)]})
            return
        self._advance(number, call, None)

    def _advance(self, number: int, call: Call, answer: tuple[str, Any] | None) -> None:
        self._active = None
        try:
            if answer is None:
                wanted = next(call)
            elif answer[0] == "refused":
                wanted = call.throw(Refused(": ".join(answer[1])))
            else:
                wanted = call.send(answer[1])
        except StopIteration as done:
            value = done.value
            result = value.model_dump(mode="json") if isinstance(value, BaseModel) else value
            self._control.send({"id": number, "ok": result})
        except (RuntimeError, ValueError, OSError) as error:
            self._control.send({"id": number, "error": [type(error).__name__, str(error)]})
        else:
            self._active = (number, call, wanted)

    # --- calls ------------------------------------------------------------------------------------------------------

    def _bind(self, arguments: dict[str, Any]) -> Call:
        receivers = [Receiver.model_validate(r) for r in arguments["receivers"]]
        if self._run is not None:
            raise RuntimeError(f"a run is open: {self._run.request.event_file}; close it before binding anew")
        bound = yield self._children["capture"].send("bind", receivers)
        return {"ports": [port for port, _ in bound], "warnings": [w for _, w in bound if w]}

    def _open_run(self, arguments: dict[str, Any]) -> Call:
        request = RunRequest.model_validate(arguments["run"])
        if self._run is not None:
            raise RuntimeError(f"a run is open already: {self._run.request.event_file}; close it first")
        if not request.preview:
            spool = request.spool or request.event_file.with_suffix(".tpx3")
            request = request.model_copy(update={"spool": spool if request.keep_raw else None})
            _check_paths(request)
        self._shared.gauges[:] = 0
        yield from self._open_processing(request, master=not request.preview)
        try:
            yield self._children["capture"].send("open", (request, request.description()))
        except Refused:
            yield from self._abandon(request)
            raise
        self._run = OpenRun(request)
        return _paths(request)

    def _open_processing(self, request: RunRequest, *, master: bool) -> Generator[Wanted, Any, None]:
        """The event file first: when it cannot be had, nobody else has begun. master: there may be one in the end."""
        if not request.centroid:
            return
        yield self._children["write"].send("open", request)
        try:
            if master:
                yield self._children["write"].send("master", _paths(request).master)
            for name in ("decode", *self._workers):
                yield self._children[name].send("open", request)
        except Refused:
            yield from self._abandon(request)
            raise

    def _abandon(self, request: RunRequest) -> Generator[Wanted, Any, None]:
        """A run that could not be opened leaves no empty event file."""
        if request.centroid:
            yield self._children["write"].send("close", CloseRequest({}, {}, {}, None))
        if request.centroid and not request.preview:
            request.event_file.unlink(missing_ok=True)

    def _begin(self, arguments: dict[str, Any]) -> Call:
        run = self._opened()
        if run.acquisition is not None:
            raise RuntimeError(f"acquisition {run.acquisition} is running; end it before the next begins")
        number = int(arguments["acquisition"])
        counting = Counting.model_validate(arguments.get("counting", {}))
        if run.request.centroid:
            yield self._children["write"].send("begin", counting)
        start = yield self._children["capture"].send("begin", number)
        if run.request.centroid:
            yield self._children["decode"].send("begin", (number, start, bool(arguments.get("opens_later"))))
        run.acquisition = number
        run.begun = time.monotonic()
        return {}

    def _shutter_opened(self, arguments: dict[str, Any]) -> Call:
        run = self._opened()
        told = Moment(*arguments["before"]), int(arguments["counts"])
        if run.acquisition is not None:
            names = ("capture", "decode") if run.request.centroid else ("capture",)
            for wanted in [self._children[name].send("opened", told) for name in names]:
                _ = yield wanted
        return {}

    def _shutter_shut(self, arguments: dict[str, Any]) -> Call:
        run = self._opened()
        if run.acquisition is not None and run.request.centroid:
            yield self._children["decode"].send("shut", int(arguments["counts"]))
        return {}

    def _baseline(self, arguments: dict[str, Any]) -> Call:
        self._opened()
        sent = None if arguments.get("sent") is None else Sent.model_validate(arguments["sent"])
        arrived = yield self._children["capture"].send("baseline", sent)
        return {"arrived": arrived}

    def _arrived(self, _: dict[str, Any]) -> Call:
        self._opened()
        arrived: Arrived = yield self._children["capture"].send("arrived")
        return arrived

    def _poll(self, arguments: dict[str, Any]) -> Call:
        """A reading of the board's counters while an acquisition runs; without one nobody needs it."""
        run = self._opened()
        sent = Sent.model_validate(arguments["sent"])
        if run.acquisition is not None:
            yield self._children["capture"].send("poll", (sent, int(arguments["arrived_before"])))
        return {}

    def _end(self, arguments: dict[str, Any]) -> Call:
        run = self._opened()
        if run.acquisition is None:
            raise RuntimeError("no acquisition is running")
        try:
            acquired = yield from self._drain(run, run.acquisition, arguments)
        finally:
            run.acquisition = None
        run.add(acquired)
        return acquired

    def _drain(self, run: OpenRun, number: int, arguments: dict[str, Any]) -> Generator[Wanted, Any, Acquired]:
        sent = None if arguments.get("sent") is None else Sent.model_validate(arguments["sent"])
        capture = self._children["capture"]
        yield capture.send("end", (sent, arguments.get("end_counts")))
        drained = yield Wanted("capture", "drained")
        ledger = Ledger()
        ledger.take_capture(drained, run.sent_since(sent))
        part = Part(number, bool(arguments.get("cancelled")), drained.ended_by, run.begun)
        if run.request.centroid:
            end = EndRequest(drained.stop, arguments.get("end_counts"), drained.way)
            yield self._children["decode"].send("end", end)
            return (yield from self._finish_part(part, ledger))
        return part.acquired({}, ledger)

    def _finish_part(self, part: Part, ledger: Ledger) -> Generator[Wanted, Any, Acquired]:
        """Wait until everything of an acquisition is decoded and written, and close its ledger."""
        decoded = yield Wanted("decode", "decoded")
        ledger.take_decode(decoded)
        rows, totals, gates = yield Wanted("write", "acquired")
        if decoded.losses or (decoded.shutter != (None, None) and totals.shots):
            settlement = Settlement(part.number, decoded.losses, rows["shots"], rows["centroids"], decoded.shutter)
            invalidated, totals.shots_outside, gates = yield self._children["write"].send("settle", settlement)
            totals.valid_shots -= invalidated
        ledger.take_blocks(totals, rows)
        acquired = part.acquired(rows, ledger).model_copy(update={"gates": gates})
        yield self._children["write"].send("acquisition", part.row(acquired))
        return acquired

    def _close_run(self, arguments: dict[str, Any]) -> Call:
        run = self._opened()
        if run.acquisition is not None:
            raise RuntimeError(f"acquisition {run.acquisition} is running; end it before the run closes")
        totals, strays = yield self._children["capture"].send("close")
        ledger = run.ledger
        ledger["stray_words"] = (
            ledger.get("stray_words", 0) + totals.payload_bytes // 8 - ledger.get("received_words", 0)
        )
        for name, n in (("stray_datagrams", strays.too_many), ("lost_stray_datagrams", strays.lost)):
            if n:
                ledger[name] = ledger.get(name, 0) + n
        self._run = None
        summary = yield from self._close_files(run, with_verdict(ledger), arguments)
        return summary

    def _close_files(
        self, run: OpenRun, ledger: dict[str, Any], arguments: dict[str, Any]
    ) -> Generator[Wanted, Any, RunSummary]:
        request = run.request
        paths = _paths(request)
        rows, problem = 0, ""
        master = paths.master if request.centroid and not request.preview and arguments.get("master", True) else None
        if request.centroid:
            cancelled = tuple(arguments.get("cancelled", ()))
            settings = arguments.get("configuration") or request.configuration
            configuration = {"request": request.description(), **settings}
            closing = CloseRequest(arguments.get("start") or request.start, configuration, ledger, master, cancelled)
            rows, problem = yield self._children["write"].send("close", closing)
        return RunSummary(
            event_file=request.event_file,
            spool=request.spool,
            master=None if problem else master,
            problem=problem,
            rows=rows,
            acquisitions=tuple(run.acquisitions),
            ledger=ledger,
        )

    def _process(self, arguments: dict[str, Any]) -> Call:
        """Recordings instead of sockets: otherwise nothing differs from a live run."""
        request = RunRequest.model_validate(arguments["run"])
        files = [RecordedFile.model_validate(f) for f in arguments["files"]]
        parts = [part for file in files for part in recorded_parts(file)]
        if self._run is not None:
            raise RuntimeError(f"a run is open already: {self._run.request.event_file}; close it first")
        _check_paths(request)
        self._shared.gauges[:] = 0
        run = OpenRun(request)
        yield from self._open_processing(request, master=arguments.get("master", True))
        try:
            for place, read in enumerate(parts, 1):
                # The acquisitions of one recording keep their numbers, of several they are counted through.
                number = read.acquisition if len(files) == 1 else place
                part = Part(number, False, "files", time.monotonic())
                ledger = Ledger()
                lacks = {"cut_bytes": read.cut_bytes, "missing_bytes": read.missing_bytes}
                ledger.take_recording(read.span, read.recording, read.way, read.strays, **lacks)
                yield self._children["write"].send("begin", Counting())
                yield self._children["decode"].send("read", read._replace(acquisition=number))
                run.add((yield from self._finish_part(part, ledger)))
        except Refused:
            yield from self._abandon(request)
            raise
        summary = yield from self._close_files(run, run.ledger, arguments)
        if summary.problem and arguments.get("needs_master", True):
            raise RuntimeError(summary.problem)
        return summary

    def _opened(self) -> OpenRun:
        if self._run is None:
            raise RuntimeError("no run is open; call open_run first")
        return self._run

    def _progress(self) -> Progress:
        marks, gauges = self._shared.ring.marks, self._shared.gauges
        caught_up_ns = int(marks[Mark.CAUGHT_UP_NS])  # before the counts: they have what had come by then
        return Progress(
            acquisition=(self._run.acquisition or 0) if self._run else 0,
            received_datagrams=int(marks[Mark.DATAGRAMS]),
            received_bytes=int(marks[Mark.PAYLOAD_BYTES]),
            kernel_dropped=int(marks[Mark.KERNEL_DROPPED]),
            malformed_datagrams=int(marks[Mark.MALFORMED_DATAGRAMS]),
            wrong_sender_datagrams=int(marks[Mark.WRONG_SENDER]),
            unrecorded_datagrams=int(marks[Mark.UNRECORDED]),
            stopped_by=self._stopped_by(),
            disk_free_bytes=int(marks[Mark.DISK_FREE]) if marks[Mark.DISK_FREE] >= 0 else None,
            disk_seconds_left=disk_seconds_left(marks),
            disk_low=bool(marks[Mark.DISK_LOW]),
            arrived_datagrams=arrived_datagrams(marks),
            recording_bytes=self._shared.ring.received,
            spool_bytes=self._spool_bytes(),
            on_disk_bytes=int(marks[Mark.ON_DISK]),
            decoded_bytes=int(gauges[Gauge.DECODED_BYTES]),
            hits=int(gauges[Gauge.HITS]),
            triggers=int(gauges[Gauge.TRIGGERS]),
            shots=int(gauges[Gauge.SHOTS]),
            centroids=int(gauges[Gauge.CENTROIDS]),
            rows_on_disk=int(gauges[Gauge.ROWS_ON_DISK]),
            skipped_bytes=int(gauges[Gauge.SKIPPED_BYTES]),
            skipped_words=int(gauges[Gauge.SKIPPED_WORDS]),
            chips=int(gauges[Gauge.CHIPS]),
            lag_seconds=self._lag_seconds(),
            host_ns=time.monotonic_ns(),
            caught_up_ns=caught_up_ns,
        )

    def _spool_bytes(self) -> int:
        """What waits to be decoded; between acquisitions nothing does."""
        if self._run is None or self._run.acquisition is None or not self._run.request.centroid:
            return 0
        return max(0, self._shared.ring.received - int(self._shared.gauges[Gauge.DECODED_BYTES]))

    def _stopped_by(self) -> str | None:
        """Why nothing more is recorded, with the file that it is about."""
        reason = stopped_by(self._shared.ring.marks)
        spool = self._run.request.spool if self._run else None
        return reason if reason is None or spool is None else f"{spool}: {reason}"

    def _lag_seconds(self) -> float:
        """Age of the oldest received word that is not decoded."""
        ring = self._shared.ring
        decoded = int(self._shared.gauges[Gauge.DECODED_BYTES])
        if self._run is None or self._run.acquisition is None or decoded >= ring.received:
            return 0.0
        records = self._shared.index
        n_records = int(ring.marks[Mark.INDEX_RECORDS])
        recent = records[: min(n_records, records.size)]
        behind = recent["host_ns"][recent["offset"] >= decoded]
        return 0.0 if behind.size == 0 else max(0.0, (time.monotonic_ns() - int(behind.min())) / 1e9)

    # --- the end ----------------------------------------------------------------------------------------------------

    def _report_death(self, dead: Child) -> None:
        """One stage is dead: tell which, and how; end the others."""
        dead, reason, trace = self._culprit(dead)
        log.error("stage %s %s", dead.name, reason)
        self._end_all(dead.name, reason, trace)

    def _end_all(self, name: str, reason: str, trace: str) -> None:
        """Keep what can be kept, tell the user's process, end the stages.

        It hears soon, so that it can close the shutter: before the recording is complete, if that takes long.
        """
        deadline = time.monotonic() + CLOSE_TIMEOUT_S
        death = StageDeath(stage=name, reason=reason, traceback=trace, log=self._log_path)
        takes_long = self._spool() is not None and not self._recording_is_soon_complete()
        if takes_long:
            self._tell(death.model_copy(update={"saving": self._spool()}))
        salvaged = self._keep_recording(deadline)
        if not takes_long:
            self._tell(death.model_copy(update={"salvaged": salvaged}))
        self._end_children(deadline)

    def _tell(self, death: StageDeath) -> None:
        with contextlib.suppress(OSError):
            self._control.send({"event": "died", "death": death.model_dump(mode="json")})

    def _spool(self) -> Path | None:
        """The recording of the open run."""
        return None if self._run is None else self._run.request.spool

    def _recording_is_soon_complete(self) -> bool:
        """The capture process has a second to close it. Has it ended, with little left to write from the ring?"""
        self._close_politely(["capture"], time.monotonic() + TELL_S)
        ended, _, _ = select.select([self._children["capture"].pidfd], [], [], 0)
        ring = self._shared.ring
        return bool(ended) and ring.received - ring.on_disk <= SOON_BYTES

    def _culprit(self, heard: Child) -> tuple[Child, str, str]:
        """Who died, how, and its traceback. A stage ends by itself when another one that it talks to has gone, and may
        be heard of first.
        """
        reason, trace = self._words_of(heard)
        if reason == ENDED_BY_ITSELF:
            pidfds = {child.pidfd: child for child in self._children.values() if child is not heard}
            gone, _, _ = select.select(list(pidfds), [], [], FOLLOWERS_S)
            for child in map(pidfds.__getitem__, gone):
                self._hear(child)
                reason_of_other, trace_of_other = self._words_of(child)
                if reason_of_other != ENDED_BY_ITSELF:
                    return child, reason_of_other, trace_of_other
        return heard, reason, trace

    def _words_of(self, dead: Child) -> tuple[str, str]:
        """How a stage ended, and its traceback, if it had time for one."""
        return self._last_words.get(dead.name) or (_how_it_ended(dead.pid), "")

    def _keep_recording(self, deadline: float) -> Path | None:
        """End the capture process; what it did not write itself is written from the ring, which outlives it."""
        spool = self._spool()
        if spool is None:
            return None
        self._close_politely(["capture"], deadline)
        self._reap("capture")
        try:
            added = salvage(spool, self._shared.ring, self._shared.index)
        except OSError:
            log.exception("the end of %s could not be saved", spool)
            return None
        log.info("%d bytes of %s were saved from the ring", added, spool)
        return spool

    def _shut_down(self) -> None:
        """The user's process is gone: close files, end stages."""
        log.info("the control socket closed, ending")
        deadline = time.monotonic() + CLOSE_TIMEOUT_S
        self._keep_recording(deadline)
        self._end_children(deadline)

    def _close_politely(self, names: list[str], deadline: float) -> None:
        """Let stages close what they write: the end of their connections tells them. Waits until the deadline."""
        for name in names:
            self._children[name].connection.close()
        for name in names:
            select.select([self._children[name].pidfd], [], [], max(0.0, deadline - time.monotonic()))

    def _end_children(self, deadline: float) -> None:
        """Who does not end by itself until the deadline is killed. All are reaped."""
        self._close_politely(list(self._children), max(deadline, time.monotonic() + LAST_CHANCE_S))
        for name in self._children:
            self._reap(name)

    def _reap(self, name: str) -> None:
        child = self._children[name]
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(child.pidfd, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(child.pid, 0)


def _check_paths(request: RunRequest) -> None:
    """No file of the run may stand in the way of another, nor overwrite one that exists."""
    paths = _paths(request)
    if len({paths.event_file, paths.spool, paths.master}) < 3:
        raise ValueError(
            f"{request.event_file}: an event file must not end in {request.event_file.suffix}, which is for the "
            f"recording (.tpx3) and the NeXus master (.nxs) beside it; use .h5"
        )
    for path in (paths.event_file, paths.master):
        if path.exists():
            raise FileExistsError(f"{path} exists and is never overwritten; choose another name")


def _paths(request: RunRequest) -> RunPaths:
    spool = request.spool or request.event_file.with_suffix(".tpx3")
    return RunPaths(event_file=request.event_file, spool=spool, master=request.event_file.with_suffix(".nxs"))


def _how_it_ended(pid: int) -> str:
    """In words, from the exit status (the process is reaped by this)."""
    try:
        _, status = os.waitpid(pid, 0)
    except ChildProcessError:
        return "ended"
    if os.WIFSIGNALED(status):
        return f"was killed by {signal.Signals(os.WTERMSIG(status)).name}"
    code = os.waitstatus_to_exitcode(status)
    return f"ended with exit code {code}" if code else ENDED_BY_ITSELF
