"""The pipeline as a user's process sees it: one object, started once, serving many runs.

The supervisor is started with `subprocess.Popen([sys.executable, "-m", ...])` in a session of its own: it does not look
at the user's `__main__` (so IPython start-up files and unguarded scripts work), does not get Ctrl-C, and ends when
this process ends in whatever way, because its control socket closes then.
"""

import atexit
import contextlib
import logging
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, Self

from ..events.sums import PointArrays
from ..spool.index import Moment
from .errors import PipelineError, PipelineTimeout, StageDied
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
from .shared import live_memory, map_live
from .wire import LineSocket

log = logging.getLogger(__name__)

RING_BYTES: Final = 256 << 20
SMALLEST_RING: Final = 4 << 20
START_TIMEOUT_S: Final = 300.0
"""The first start on a machine compiles the kernels; later ones load them from numba's cache in a second or two."""
LOG_KEPT_S: Final = 30 * 86_400
CALL_TIMEOUT_S: Final = 60.0
CLOSE_TIMEOUT_S: Final = 30.0


class Pipeline:
    """Capture, decode, centroid and write processes behind one object. Thread-safe.

    workers: centroid processes. ring_bytes: RAM between network and disk, a power of two.
    Every call raises `StageDied` once a stage has died; `start()` then begins anew.
    """

    def __init__(self, *, workers: int = 1, ring_bytes: int = RING_BYTES, log_dir: Path | None = None) -> None:
        if not 1 <= workers <= 64:
            raise ValueError(f"a pipeline has 1 to 64 workers, not {workers}")
        if ring_bytes < SMALLEST_RING or ring_bytes & (ring_bytes - 1):
            raise ValueError(f"ring_bytes is a power of two of at least {SMALLEST_RING} (bytes), not {ring_bytes}")
        self.workers = workers
        self.ring_bytes = ring_bytes
        self.log_path: Path | None = None
        self.pids: dict[str, int] = {}
        self.warnings: tuple[str, ...] = ()
        self._log_dir = log_dir
        self._starting = threading.Lock()
        self._link: _Link | None = None
        self._live: PointArrays | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- life -------------------------------------------------------------------------------------------------------

    @property
    def running(self) -> bool:
        """True while the supervisor serves."""
        link = self._link
        return link is not None and link.failure is None

    @property
    def failure(self) -> PipelineError | None:
        """Why the pipeline stopped unasked, until the next `start()`."""
        return None if self._link is None else self._link.failure

    def start(self) -> None:
        """Start the processes; returns when the kernels are warm. Does nothing while they run."""
        with self._starting:
            if self.running:
                return
            self.close()
            self.log_path = _new_log(self._log_dir)
            link = _Link(self.workers, self.ring_bytes, self.log_path)
            self._link = link
            atexit.register(self.close)
            try:
                self.pids = {**link.wait_until_ready(START_TIMEOUT_S), SUPERVISOR: link.process.pid}
            except PipelineError:
                self.close()
                raise

    def close(self) -> None:
        """End all processes and wait for them. Open files are closed first. Safe to call at any time, twice too."""
        link, self._link = self._link, None
        self._live = None
        self.pids = {}
        if link is not None:
            atexit.unregister(self.close)
            link.close()

    # --- calls ------------------------------------------------------------------------------------------------------

    def bind(self, receivers: Sequence[Receiver]) -> list[int]:
        """Bind a UDP socket for each receiver and drain it from now on. Returns the ports, in order."""
        answer = self._call("bind", {"receivers": [r.model_dump(mode="json") for r in receivers]})
        self.warnings = tuple(answer["warnings"])
        for warning in self.warnings:
            log.warning("%s", warning)
        ports: list[int] = answer["ports"]
        return ports

    def open_run(self, run: RunRequest) -> RunPaths:
        """Create the files of a run. Existing files are never overwritten."""
        link = self._link
        live = None if link is None else PointArrays(link.live, run.image_shape, run.spectrum)
        paths = RunPaths.model_validate(self._call("open_run", {"run": run.model_dump(mode="json")}))
        self._live = live
        return paths

    def begin(self, acquisition: int, counting: Counting | None = None, *, opens_later: bool = False) -> None:
        """An acquisition begins: call it before the shutter opens. counting: gates to count while it runs.

        opens_later: it will be told when the shutter is open (`opened`), or it ends: nothing is decoded before.
        """
        asked = (counting or Counting()).model_dump(mode="json")
        self._call("begin", {"acquisition": acquisition, "counting": asked, "opens_later": opens_later})

    def opened(self, before: Moment, counts: int) -> None:
        """The shutter has opened.

        before: the board's timer, read before that: what is older is no part of the acquisition. counts: the timer
        (25 ns counts), read after it: no shot that opened earlier is valid.
        """
        self._call("opened", {"before": before, "counts": counts})

    def shut(self, counts: int) -> None:
        """The shutter closes: what `end` will tell as `end_counts`, as soon as it is known. Without it that is the same
        in the end, yet may cost `end` time.
        """
        self._call("shut", {"counts": counts})

    @property
    def live(self) -> PointArrays | None:
        """What the acquisition that began last has added up to; it grows while one looks. None before a run."""
        return self._live

    def progress(self) -> Progress:
        """A fresh look at the run; also answered while another call waits."""
        return Progress.model_validate(self._call("progress", {}))

    def baseline(self, sent: Sent | None = None) -> int:
        """Compare from here on. Before the first acquisition: the board's counts begin now, at 0.

        sent: when an acquisition has begun, the board's counters since `open_run`, asked for after `begin` and before
        the shutter opens. What came late or twice of the acquisition before has then no part in this one.
        Before the first and behind the last one it has also what had arrived of them.
        Returns the datagrams that had arrived of what is not compared any more.
        """
        arrived: int = self._call("baseline", {} if sent is None else {"sent": sent.model_dump(mode="json")})["arrived"]
        return arrived

    def arrived(self) -> Arrived:
        """What has reached this machine, what waits in the sockets included: it is waited for, a moment."""
        return Arrived.model_validate(self._call("arrived", {}))

    def poll(self, read: Callable[[], Sent | None]) -> None:
        """Read the board's counters between two looks at what arrived: it tells where a loss on the way lies.

        read: the board's counters since `open_run`; None when they cannot be had, then nothing is noted. Call it now
        and then while an acquisition runs, best a few times a second.
        """
        arrived = self.progress().arrived_datagrams
        sent = read()
        if sent is not None:
            self._call("poll", {"sent": sent.model_dump(mode="json"), "arrived_before": arrived})

    def end(
        self,
        sent: Sent | None = None,
        *,
        end_counts: int | None = None,
        cancelled: bool = False,
        timeout_s: float | None = None,
    ) -> Acquired:
        """Drain, decode, centroid and write what is left of the acquisition. Call it after the shutter closed.

        sent: the board's counters since `open_run`; the drain ends when they are reached, else after 200 ms of silence.
        end_counts: the board's timer just before the shutter closed (25 ns counts): shots that last longer are not
        valid.
        timeout_s: None waits as long as the stages live: processing may be behind by any time.
        """
        arguments = {
            "sent": None if sent is None else sent.model_dump(mode="json"),
            "end_counts": end_counts,
            "cancelled": cancelled,
        }
        return Acquired.model_validate(self._call("end", arguments, timeout_s=timeout_s))

    def close_run(
        self,
        start: dict[str, Any] | None = None,
        *,
        configuration: dict[str, Any] | None = None,
        cancelled: Sequence[int] = (),
        master: bool = True,
    ) -> RunSummary:
        """Close the files of the run and write the NeXus master with its start document and configuration.

        cancelled: acquisitions that turned out to belong to no point; they are flagged in the event file.
        """
        arguments = {
            "start": start or {},
            "configuration": configuration or {},
            "cancelled": list(cancelled),
            "master": master,
        }
        return RunSummary.model_validate(self._call("close_run", arguments, timeout_s=None))

    def process(
        self,
        run: RunRequest,
        files: Sequence[Path | RecordedFile],
        *,
        configuration: dict[str, Any] | None = None,
        cancelled: Sequence[int] = (),
        master: bool = True,
        needs_master: bool = True,
    ) -> RunSummary:
        """Recordings through the same stages. Each file, or each acquisition of our own files, is an acquisition.

        A bare path takes column phase, GENCONFIG and timer zero from `run`. cancelled, master: as in `close_run`.
        needs_master: raise PipelineError when it cannot be written; False: the summary says so, as that of `close_run`.
        """
        recorded = [
            RecordedFile(path=f.resolve(), phase=run.phase, general=run.general, timer_zero_ns=run.timer_zero_ns)
            if isinstance(f, Path)
            else f
            for f in files
        ]
        arguments = {
            "run": run.model_dump(mode="json"),
            "files": [f.model_dump(mode="json") for f in recorded],
            "configuration": configuration or {},
            "cancelled": list(cancelled),
            "master": master,
            "needs_master": needs_master,
        }
        return RunSummary.model_validate(self._call("process", arguments, timeout_s=None))

    def _call(self, name: str, arguments: dict[str, Any], timeout_s: float | None = CALL_TIMEOUT_S) -> dict[str, Any]:
        link = self._link
        if link is None:
            raise PipelineError(f"the pipeline is not running ({name} was asked); call start() first")
        return link.call(name, arguments, timeout_s)


class _Link:
    """One supervisor process and the thread that hears it."""

    def __init__(self, workers: int, ring_bytes: int, log_path: Path) -> None:
        ours, theirs = socket.socketpair()
        self.failure: PipelineError | None = None
        self._log_path = log_path
        self._lines = LineSocket(ours)
        self._answered = threading.Condition()
        self._answers: dict[int, dict[str, Any]] = {}
        self._next_id = 0
        self._pids: dict[str, int] | None = None
        self._closing = False
        live_fd = live_memory()
        self.live = map_live(live_fd)
        with theirs, open(log_path, "ab") as log_file, os.fdopen(live_fd):
            self.process = subprocess.Popen(
                _command(theirs.fileno(), live_fd, workers, ring_bytes, log_path),
                pass_fds=[theirs.fileno(), live_fd],
                stdin=subprocess.DEVNULL,
                stdout=log_file,
                stderr=log_file,
                start_new_session=True,
                env={**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
            )
        self._thread = threading.Thread(target=self._listen, name="ophyd_timepix-pipeline", daemon=True)
        self._thread.start()

    def wait_until_ready(self, timeout_s: float) -> dict[str, int]:
        """Process ids of the stages."""
        with self._answered:
            if not self._answered.wait_for(lambda: self._pids is not None or self.failure is not None, timeout_s):
                raise PipelineTimeout(f"the pipeline was not ready after {timeout_s:g} s; log: {self._log_path}")
            if self._pids is None:
                raise self.failure or PipelineError("the pipeline did not start")
            return self._pids

    def call(self, name: str, arguments: dict[str, Any], timeout_s: float | None) -> dict[str, Any]:
        with self._answered:
            if self.failure is not None:
                raise self.failure
            self._next_id += 1
            number = self._next_id
            with contextlib.suppress(OSError):  # a dead supervisor is reported by the listening thread
                self._lines.send({"id": number, "call": name, "arguments": arguments})
            if not self._answered.wait_for(lambda: number in self._answers or self.failure is not None, timeout_s):
                raise PipelineTimeout(f"the pipeline did not answer {name} in {timeout_s:g} s; log: {self._log_path}")
            answer = self._answers.pop(number, None)
            if answer is None:
                raise self.failure or PipelineError(f"no answer to {name}")
        if "error" in answer:
            kind, text = answer["error"]
            raise PipelineError(text if kind == "Refused" else f"{name}: {text}")
        result: dict[str, Any] = answer["ok"]
        return result

    def close(self) -> None:
        self._closing = True
        with contextlib.suppress(OSError):
            self._lines.socket.shutdown(socket.SHUT_RDWR)
        try:
            self.process.wait(CLOSE_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            log.error("the pipeline did not end in %g s, killing it; log: %s", CLOSE_TIMEOUT_S, self._log_path)
            self.process.kill()
            self.process.wait()
        if self._thread is not threading.current_thread():
            self._thread.join()
        self._lines.close()

    def _listen(self) -> None:
        try:
            while True:
                for message in self._lines.receive():
                    self._take(message)
        except (EOFError, OSError):
            self._ended()
        except Exception as error:
            log.exception("the pipeline said something that this process does not understand")
            self._give_up(PipelineError(f"the pipeline's answer could not be read ({error}); log: {self._log_path}"))
            self._ended()

    def _give_up(self, failure: PipelineError) -> None:
        with self._answered:
            self.failure = failure
            self._answered.notify_all()
        with contextlib.suppress(OSError):
            self._lines.socket.shutdown(socket.SHUT_RDWR)

    def _take(self, message: dict[str, Any]) -> None:
        with self._answered:
            event = message.get("event")
            if event == "ready":
                self._pids = message["pids"]
            elif event == "died":
                self.failure = StageDied(StageDeath.model_validate(message["death"]))
            else:
                self._answers[message["id"]] = message
            self._answered.notify_all()

    def _ended(self) -> None:
        """The supervisor is gone: unasked, that is a failure like any other. It is reaped here."""
        code = self.process.wait()
        with self._answered:
            if self.failure is None:
                self.failure = PipelineError("the pipeline was closed") if self._closing else self._death(code)
            self._answered.notify_all()

    def _death(self, code: int) -> StageDied:
        reason = f"ended with exit code {code}" if code >= 0 else f"was killed by signal {-code}"
        trace = _tail(self._log_path) if code > 0 else ""
        return StageDied(StageDeath(stage=SUPERVISOR, reason=reason, traceback=trace, log=self._log_path))


def _command(fd: int, live_fd: int, workers: int, ring_bytes: int, log_path: Path) -> list[str]:
    """-P: a module in the user's working directory must not shadow the standard library's."""
    options = [
        "--control-fd",
        str(fd),
        "--live-fd",
        str(live_fd),
        "--workers",
        str(workers),
        "--ring-bytes",
        str(ring_bytes),
    ]
    return [sys.executable, "-P", "-m", "ophyd_timepix.pipeline", *options, "--log", str(log_path)]


def _new_log(directory: Path | None) -> Path:
    """A log file of our own, in the user's state directory, else in the temporary one."""
    state = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "ophyd_timepix"
    name = f"pipeline-{time.strftime('%Y%m%dT%H%M%S')}-{os.getpid()}-"
    for place in [directory] if directory else [state, Path(tempfile.gettempdir()) / f"ophyd_timepix-{os.getuid()}"]:
        with contextlib.suppress(OSError):
            place.mkdir(parents=True, exist_ok=True)
            _forget_old_logs(place)
            fd, path = tempfile.mkstemp(".log", name, place)
            os.close(fd)
            return Path(path)
    raise PipelineError(f"no place for the pipeline's log: {directory or state} is not writable; give log_dir")


def _forget_old_logs(place: Path) -> None:
    """Every start has a log of its own: those of last month go."""
    for path in place.glob("pipeline-*.log"):
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime > LOG_KEPT_S:
                path.unlink()


def _tail(path: Path, lines: int = 30) -> str:
    with contextlib.suppress(OSError):
        return "\n".join(path.read_text(errors="replace").splitlines()[-lines:])
    return ""
