"""The capture process: obeys the supervisor in its main thread while the threads of `capture` receive and write."""

import contextlib
import logging
import os
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final, NamedTuple

from ..capture.capture import Capture
from ..capture.recorder import Recorder, Totals
from ..spool.index import UNKNOWN, Moment
from ..spool.recording import RecordingWriter
from ..spool.space import Limits, nothing_owed
from .locating import Strays, Way
from .messages import Arrived, Receiver, RunRequest, Sent
from .preview import NoRecording
from .ring_only import RingOnly
from .shared import Gauge, Shared
from .stage import Stage

log = logging.getLogger(__name__)

DRAIN_POLL_S: Final = 0.002
FIRST: Final = -10
"""Niceness of the capture, for those who may ask for it (root, CAP_SYS_NICE)."""
AUTOGROUP: Final = Path("/proc/self/autogroup")
ON_THE_WAY_NS: Final = 50_000_000
"""What the board had sent before an acquisition is waited for so long when that begins: the receiver may rest, a switch
may hold a burst up. What came later would be too many in the acquisition."""
CAUGHT_UP_WITHIN_NS: Final = 200_000_000
"""For so long it is waited that what is in the sockets is counted: a receiver may rest, or wait for a core."""
FEW_BYTES: Final = 16 << 20
"""Of so few the event file does not tell yet by how much it grows."""
SILENCE_NS: Final = 200_000_000
"""An acquisition whose sent count is not reached ends after this silence."""


def _go_first() -> None:
    """Where the system lets us: what waits here may be lost.

    Linux shares cores among sessions first, and niceness counts only within one (sched(7), autogroup). So the capture
    gets a session of its own, and that one the niceness too.
    """
    with contextlib.suppress(OSError):
        os.setsid()
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, 0, FIRST)
    with contextlib.suppress(OSError):
        AUTOGROUP.write_text(str(FIRST))


NOTHING: Final = Totals(0, 0, 0, 0, 0, 0, 0, 0)


LONGEST_DRAIN_NS: Final = 10_000_000_000
"""Somebody goes on sending, and the sent count is unknown or out of reach: the acquisition ends all the same."""


class Known(NamedTuple):
    """What the board had sent since the run was opened, and what had arrived of it."""

    sent: int
    arrived: int
    words: int | None
    paused: int = 0
    """Datagrams that had waited on the board."""


class RowsToCome:
    """Bytes by which the event file will grow for words that are not decoded yet, as it has grown for the others.

    0 while few are decoded, and when it lies on another file system than the recording.
    """

    def __init__(self, event_file: Path, recording: Path, shared: Shared) -> None:
        self._event_file = event_file
        self._folder = recording.parent
        self._shared = shared
        self._at_first = self._size()

    def _size(self) -> int:
        """Bytes on the disk of the recording that it takes."""
        try:
            stat = os.stat(self._event_file)
        except OSError:
            return 0
        return stat.st_blocks * 512 if stat.st_dev == os.stat(self._folder).st_dev else 0

    def __call__(self) -> int:
        decoded = int(self._shared.gauges[Gauge.DECODED_BYTES])
        waits = self._shared.ring.received - decoded
        if decoded < FEW_BYTES or waits <= 0:
            return 0
        return waits * max(0, self._size() - self._at_first) // decoded


class Drained(NamedTuple):
    """The end of an acquisition's bytes."""

    stop: int
    totals: Totals
    """Since the acquisition before."""
    stray_words: int
    """Words among them that came before this acquisition began."""
    ended_by: str
    way: Way | None
    """What the board sent and what arrived, at the end and the beginning; None: it could not be asked."""
    strays: Strays = Strays()


class CaptureStage(Stage):
    """Sockets, ring and recording. Requests: bind, open, begin, end (answers `drained` later), close."""

    name = "capture"
    niceness = 0

    def __init__(self, control: Connection, shared: Shared) -> None:
        super().__init__(control)
        _go_first()
        self._failure: BaseException | None = None
        self._shared = shared
        self._capture = Capture(shared.ring, shared.index, self._fail)
        self._draining: Sent | None = None
        self._drain = False
        self._drain_began = 0
        self._end_counts: int | None = None
        self._at_end = NOTHING
        self._known = Known(0, 0, 0)
        """When both were known last."""
        self._begun: Totals | None = None
        """Counters when the acquisition began; None: none has."""
        self._stray_words = 0
        self._strays = Strays()
        self.requests = {
            "bind": self._bind,
            "open": self._open,
            "begin": self._begin,
            "opened": self._opened,
            "baseline": self._baseline,
            "arrived": self._arrived,
            "poll": self._poll,
            "end": self._end,
            "close": self._close_recording,
        }

    def idle_s(self) -> float | None:
        return DRAIN_POLL_S if self._drain or self._capture.polls_waiting else 0.05

    def step(self) -> bool:
        if self._failure is not None:
            raise self._failure
        self._capture.tend()
        self._capture.totals()  # others see then what the kernel dropped behind the last datagram
        if self._drain:
            self._look_for_the_end()
        return False

    def close(self) -> None:
        try:
            self._capture.close()
        except OSError:
            if self._failure is None:
                raise
            log.info("the recording could not be finished", exc_info=True)  # why, is told already
        finally:
            self._capture.unbind()

    def _fail(self, error: BaseException) -> None:
        self._failure = self._failure or error  # the first one says why, the others follow from it

    def _bind(self, receivers: list[Receiver]) -> list[tuple[int, str | None]]:
        """(port, warning) of each socket."""
        endpoints = self._capture.bind([(r.chip, r.host, r.port, r.senders) for r in receivers])
        return [(e.port, e.buffer.warning) for e in endpoints]

    def _open(self, argument: tuple[RunRequest, dict[str, Any]]) -> None:
        run, description = argument
        self._at_end = NOTHING
        self._known = Known(0, 0, 0)
        self._begun = None
        self._capture.open(self._recorder(run, description), run.segment_bytes)

    def _recorder(self, run: RunRequest, description: dict[str, Any]) -> Recorder:
        if run.preview:
            return NoRecording()
        if not run.keep_raw:
            return RingOnly(self._shared.ring, lambda: int(self._shared.gauges[Gauge.DECODED_BYTES]))
        if run.spool is None:
            raise ValueError("a live run needs a path for its recording")
        limits = Limits(run.disk_low_bytes, run.disk_stop_bytes)
        owed = RowsToCome(run.event_file, run.spool, self._shared) if run.centroid else nothing_owed
        return RecordingWriter(run.spool, description, sync=run.durable, limits=limits, owed=owed)

    def _begin(self, acquisition: int) -> int:
        """Address of the acquisition's first byte. What came since the one before belongs to none: stray words."""
        start, self._begun = self._capture.begin(acquisition)
        self._stray_words = (self._begun.payload_bytes - self._at_end.payload_bytes) // 8
        self._strays = Strays()
        return start

    def _opened(self, argument: tuple[Moment, int]) -> None:
        """The board's timer before the shutter opened, and when it was open."""
        self._capture.opened(*argument)

    def _baseline(self, sent: Sent | None) -> int:
        """From here on is compared: what had arrived. Of a run, before its first acquisition, the board's count is 0.

        sent: what the board says in answer to a question that was put when the acquisition had begun; or, with what had
        arrived of it, before the first one or behind the last. It may go on sending meanwhile (edges pass a closed
        shutter).
        """
        if self._begun is None or sent is None:
            arrived = None if sent is None else sent.arrived
            self._at_end = self._capture.baseline(arrived)
            self._known = Known(0, self._at_end.arrived if arrived is None else arrived, 0)
            return self._known.arrived
        meanwhile = sent.datagrams - self._known.sent
        expected = self._known.arrived + meanwhile
        came, now = self._begun.arrived if sent.arrived is None else sent.arrived, self._wait_for(expected)
        self._strays = Strays.between(meanwhile, expected, came, min(expected, now + sent.unsure))
        self._known = Known(sent.datagrams, min(max(expected, came), now), _words(sent), sent.paused)
        self._capture.compare_from(*self._known[:2], *_counts(sent))
        return self._known.arrived

    def _wait_for(self, arrived: int) -> int:
        """Let so many datagrams arrive, for a moment; how many have."""
        deadline = time.monotonic_ns() + ON_THE_WAY_NS
        while True:
            now, caught_up = self._capture.look()
            if now >= arrived or caught_up >= deadline or time.monotonic_ns() >= deadline + CAUGHT_UP_WITHIN_NS:
                return now
            time.sleep(DRAIN_POLL_S / 4)

    def _arrived(self, _: object) -> Arrived:
        """What has arrived, what waits in the sockets included."""
        asked = time.monotonic_ns()
        while True:
            now, caught_up = self._capture.look()
            if caught_up >= asked or time.monotonic_ns() >= asked + CAUGHT_UP_WITHIN_NS:
                return Arrived(datagrams=now, is_all=caught_up >= asked)
            time.sleep(DRAIN_POLL_S / 4)

    def _poll(self, argument: tuple[Sent, int]) -> None:
        """What the board has just said it sent since the run was opened, and what had arrived before it was asked.

        A record in the index follows when everything that is under way has been taken.
        """
        sent, arrived_before = argument
        self._capture.poll(sent.datagrams, arrived_before, *_counts(sent))

    def _end(self, argument: tuple[Sent | None, int | None]) -> None:
        """Start to drain; `drained` follows with a `Drained`."""
        self._draining, self._end_counts = argument
        self._drain = True
        self._drain_began = time.monotonic_ns()

    def _look_for_the_end(self) -> None:
        ended_by = self._ended_by()
        if ended_by is None:
            return
        self._drain = False
        sent = self._draining
        counts = (None,) if sent is None else (sent.datagrams, *_counts(sent), _arrived_of(sent))
        stop, now = self._capture.end(self._end_counts, *counts)
        since = Totals(*(a - b for a, b in zip(now, self._at_end, strict=True)))
        self._at_end = now
        way = self._way(now)
        if way is not None:
            self._known = Known(way.sent, way.arrived, way.words, way.paused or 0)
        self.report("drained", Drained(stop, since, self._stray_words, ended_by, way, self._strays))
        self._strays = Strays()

    def _way(self, totals: Totals) -> Way | None:
        if self._draining is None:
            return None
        before = self._known
        words = _words(self._draining)
        paused = before.paused, self._draining.paused
        arrived = totals.arrived if self._draining.arrived is None else self._draining.arrived
        return Way(before.sent, before.arrived, self._draining.datagrams, arrived, before.words, words, *paused)

    def _ended_by(self) -> str | None:
        way = self._way(self._capture.totals())
        if self._draining is not None and self._draining.arrived is not None and way is not None:
            return "counters" if way.missing <= 0 else "silence"
        if way is not None and way.missing <= 0 and self._capture.backlog() == 0:
            return "counters"
        now = time.monotonic_ns()
        if now - self._drain_began >= LONGEST_DRAIN_NS:
            return "time"
        quiet_since = max(self._capture.last_datagram_ns, self._drain_began)
        return "silence" if now - quiet_since >= SILENCE_NS and self._capture.backlog() == 0 else None

    def _close_recording(self, _: object) -> tuple[Totals, Strays]:
        """The counters, and what came or was lost behind the last acquisition, as far as the board was asked."""
        return self._capture.close(), self._strays


def _words(sent: Sent) -> int | None:
    """Words of pixels, of all chips; None: it does not tell."""
    return sum(sent.pixel_words) if sent.pixel_words else None


def _arrived_of(sent: Sent) -> int:
    """What had arrived of it for a record of the index."""
    return UNKNOWN if sent.arrived is None else sent.arrived


def _counts(sent: Sent) -> tuple[int, int]:
    """Words of pixels and paused datagrams for a record of the index."""
    words = _words(sent)
    return UNKNOWN if words is None else words, sent.paused
