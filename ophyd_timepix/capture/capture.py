"""One capture: receive threads fill the ring, a writer thread empties it onto the disk.

The receive threads do nothing but receive and copy; they never touch a file. What they cannot place in the ring waits
in the socket's buffer, and what the kernel must drop there is counted, and its place marked in the index. All addresses
are those of the recording.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from ..spool.index import UNKNOWN, Kind, Moment, Records
from ..spool.recording import BLOCK_BYTES
from ..spool.ring import Mark, Ring, Stopped
from ..spool.segments import SEGMENT_BYTES
from .aside import Aside
from .channel import Channel
from .intake import Intake
from .journal import Journal
from .recorder import Recorder, Totals
from .sockets import Buffer
from .writer import WAKE_S, Writer

log = logging.getLogger(__name__)

SMALLEST_RING: Final = 2 * BLOCK_BYTES
ON_THE_WAY_NS: Final = 5_000_000
"""What the board had sent when it answered is here, or lost, when this time has passed since."""
POLL_PATIENCE_NS: Final = 1_000_000_000
"""A reading that cannot be placed for so long, because the sockets never run empty, is left out."""
YIELD_S: Final = 0.00005
"""So long a channel rests to let another one have the lock."""
GIVE_WAY_S: Final = 0.01
"""A channel has `TURN_S` of its time in a turn: so it keeps up even when it waits so long before each."""


class Endpoint(NamedTuple):
    """A bound socket of a capture."""

    chip: int
    host: str
    port: int
    buffer: Buffer


class _Poll(NamedTuple):
    """A reading of the board's counters that waits for its place in the index."""

    due_ns: int
    sent: int
    received_before: int
    words: int
    paused: int


class Capture:
    """Sockets, ring and recording of one board.

    `on_failure` is called from a thread of ours when the disk or a socket fails; the owner then ends the process.
    """

    def __init__(self, ring: Ring, index: Records, on_failure: Callable[[BaseException], None]) -> None:
        if ring.size < SMALLEST_RING:
            raise ValueError(
                f"the ring holds at least {SMALLEST_RING} bytes, two blocks of the writer, not {ring.size}"
            )
        self.ring = ring
        self._index = index
        self._on_failure = on_failure
        self._lock = threading.Lock()
        self._channels: list[Channel] = []
        self._threads: list[threading.Thread] = []
        self._stopping = threading.Event()
        self._writer = Writer(ring, index, self._guarded)
        self._journal = Journal(ring, index, self._writer)
        self._aside = Aside(ring)
        self._intake = Intake(ring, self._writer, self._journal, self._aside)
        self._polls: deque[_Poll] = deque()
        self.last_datagram_ns = 0
        """Host time (CLOCK_MONOTONIC) of the newest datagram that may be the board's; 0 before the first."""
        self._compared = (0, 0)
        """Datagrams that the board had sent, and that had arrived of them, when both were known last."""
        self._unrecorded_before = 0

    # --- sockets ----------------------------------------------------------------------------------------------------

    def bind(self, receivers: Sequence[tuple[int, str, int, Sequence[str]]]) -> list[Endpoint]:
        """Bind a socket for each (chip, host, port, senders) and start to drain it. Replaces earlier ones."""
        self.unbind()
        endpoints: list[Endpoint] = []
        try:
            for chip, host, port, senders in receivers:
                channel = Channel(chip, host, port, senders)
                self._channels.append(channel)
                endpoints.append(Endpoint(chip, host, channel.port, channel.buffer))
                thread = threading.Thread(
                    target=self._guarded, args=(self._receive, channel), name=f"receive-{chip}", daemon=True
                )
                self._threads.append(thread)
        except OSError:
            self.unbind()
            raise
        for thread in self._threads:
            thread.start()
        return endpoints

    def unbind(self) -> None:
        """Stop the receive threads and close the sockets."""
        self._stopping.set()
        for thread in self._threads:
            if thread.ident is not None:
                thread.join()
        for channel in self._channels:
            channel.close()
        self._threads.clear()
        self._channels.clear()
        self._stopping.clear()

    # --- recordings -------------------------------------------------------------------------------------------------

    def open(self, recording: Recorder, segment_bytes: int = SEGMENT_BYTES) -> None:
        """Begin a recording: from now on datagrams go to the ring. segment_bytes: when a new file is begun."""
        if self._writer.recording is not None:
            raise RuntimeError(f"a recording is open already: {self._writer.recording.path}")
        with self._lock:
            self.ring.rewind()
            for channel in self._channels:
                channel.forget()
                channel.waiting.clear()
            self._journal.restart(segment_bytes)
            self._unrecorded_before = 0
            self._compared = (0, 0)
            self._polls.clear()
            self._writer.recording = recording
        self._writer.start(recording)

    def close(self) -> Totals:
        """Finish the recording: all received bytes are on disk and durable. Safe to call when none is open."""
        with self._lock:
            recording = self._writer.recording
            if recording is not None:
                self._intake.believe_all(self._channels)
                self._journal.seal()
            totals = self.totals()
            self._writer.recording = None
        if recording is None:
            return totals
        self._writer.stop()
        self._aside.write(recording.path)
        recording.finish(self.ring, self._index)
        return totals

    def begin(self, acquisition: int) -> tuple[int, Totals]:
        """An acquisition begins: the address of its first byte, and the counters before it.

        Raises OSError when the recording's disk has no room for it.
        """
        with self._lock:
            recording = self._writer.recording
            if recording is not None:
                recording.begin(self.ring)
            for channel in self._channels:
                channel.begin(time.monotonic_ns())
            self._journal.acquisition = acquisition
            self._journal.end_stretch()
            self.ring.marks[Mark.STOP] = 0
            self.ring.marks[Mark.STOPPED_BY] = Stopped.NO
            self._unrecorded_before = int(self.ring.marks[Mark.UNRECORDED])
            if recording is not None:  # the index knows of it, though nothing may ever come
                self._journal.record(Kind.STRETCH, time.monotonic_ns())
            return self.ring.received, self.totals()

    def opened(self, before: Moment, counts: int) -> None:
        """The shutter of the acquisition has opened: not yet at `before`, and it was open when the board's timer stood
        at `counts` (25 ns).
        """
        with self._lock:
            if self._journal.acquisition:
                self._journal.record(Kind.BEGIN, before.host_ns, end_counts=before.counts)
                self._journal.record(Kind.OPEN, time.monotonic_ns(), end_counts=counts)

    def end(
        self,
        end_counts: int | None = None,
        sent: int | None = None,
        words: int = UNKNOWN,
        paused: int = UNKNOWN,
        arrived: int = UNKNOWN,
    ) -> tuple[int, Totals]:
        """The acquisition ends: the address after its last byte, and the counters up to it.

        end_counts: the board's timer before the shutter closed; sent: datagrams that the board says it sent since
        `open`, with so many words of pixels, how many of them had waited on it, and how many had arrived (unknown: all
        that have until now). All of it goes into the index. What no datagram has told of yet is missing at this
        address.
        """
        with self._lock:
            self._intake.believe_all(self._channels, something_is_missing=self._is_missing(sent, arrived))
            now = time.monotonic_ns()
            for channel in self._channels:
                missing = channel.forget()
                self._journal.located += missing
                self._journal.lose(Kind.LOSS_KERNEL, missing, channel.chip, now)
            unrecorded = int(self.ring.marks[Mark.UNRECORDED]) - self._unrecorded_before
            self._journal.lose(Kind.LOSS_UNRECORDED, unrecorded, -1, now)
            self._polls.clear()
            stop = self.ring.received
            self.ring.marks[Mark.STOP] = stop + 1
            self._journal.acquisition = 0
            self._journal.record(
                Kind.END,
                now,
                end_counts=UNKNOWN if end_counts is None else end_counts,
                sent=UNKNOWN if sent is None else sent,
                received_before=arrived,
                words=words,
                paused=paused,
            )
            self._journal.end_stretch()
            totals = self.totals()
            if sent is not None:
                self._compared = sent, totals.arrived if arrived == UNKNOWN else arrived
            return stop, totals

    def _is_missing(self, sent: int | None, arrived: int) -> bool:
        """Whether less has arrived than the board says it sent, or may have: it does not say."""
        came = self.totals().arrived if arrived == UNKNOWN else arrived
        return sent is None or sent - self._compared[0] > came - self._compared[1]

    def baseline(self, arrived: int | None = None) -> Totals:
        """The board's count begins here, at 0: what arrived before is not compared with it.

        arrived: so many had, when it was asked; None: all that have until now.
        """
        with self._lock:
            totals = self.totals()
            before = totals.arrived if arrived is None else arrived
            self._compared = 0, before
            self._journal.record(Kind.POLL, time.monotonic_ns(), sent=0, received_before=before, words=0, paused=0)
            return totals

    def compare_from(self, sent: int, arrived: int, words: int = UNKNOWN, paused: int = UNKNOWN) -> None:
        """The acquisition that has just begun is compared with these: sent since `open`, and arrived of that."""
        with self._lock:
            now = time.monotonic_ns()
            self._compared = sent, arrived
            self._journal.record(Kind.BASELINE, now, sent=sent, received_before=arrived, words=words, paused=paused)

    def poll(self, sent: int, received_before: int, words: int = UNKNOWN, paused: int = UNKNOWN) -> None:
        """The board has just answered that it sent `sent` datagrams since `open`.

        received_before: what had arrived (`Totals.arrived`) before it was asked; words: of pixels, among what it sent;
        paused: datagrams that had waited on it. The record is written by `tend`, as soon as everything that was under
        way has been taken.
        """
        self._polls.append(_Poll(time.monotonic_ns() + ON_THE_WAY_NS, sent, received_before, words, paused))

    @property
    def polls_waiting(self) -> bool:
        """Whether `tend` has something to do soon."""
        return bool(self._polls)

    def tend(self) -> None:
        """Write readings of the board's counters for which the time has come."""
        with self._lock:
            now = time.monotonic_ns()  # words that come while one waits for the lock must not be younger than this
            while self._polls and self._polls[0].due_ns <= now:
                poll = self._polls[0]
                if self._writer.recording is None or now > poll.due_ns + POLL_PATIENCE_NS or self._writer.stopped:
                    log.debug("a reading of the board's counters is left out")
                elif all(channel.caught_up_ns >= poll.due_ns for channel in self._channels):
                    dropped = self._journal.located + sum(channel.missing() for channel in self._channels)
                    self._journal.record(
                        Kind.POLL,
                        now,
                        sent=poll.sent,
                        received_before=poll.received_before,
                        kernel_dropped=dropped,
                        words=poll.words,
                        paused=poll.paused,
                    )
                else:
                    return
                self._polls.popleft()

    def look(self) -> tuple[int, int]:
        """(datagrams that have arrived, host time up to which all that had reached the sockets is among them).

        A receive thread may rest, or wait for a core: what is in its socket meanwhile has arrived, and is not counted.
        """
        with self._lock:
            asked = time.monotonic_ns()
            for channel in self._channels:
                if channel.waiting_bytes == 0:
                    channel.caught_up_ns = max(channel.caught_up_ns, asked)
            caught_up = self._tell_caught_up()
            return self.totals().arrived, caught_up

    def _tell_caught_up(self) -> int:
        """Since when no channel has had its turn; now, where there is none."""
        caught_up = min((channel.caught_up_ns for channel in self._channels), default=time.monotonic_ns())
        self.ring.counts[Mark.CAUGHT_UP_NS] = caught_up
        return caught_up

    def backlog(self) -> int:
        """Memory of the datagrams that wait in the sockets (bytes)."""
        return sum(channel.waiting_bytes for channel in self._channels)

    def totals(self) -> Totals:
        """Counters since `open`."""
        marks = self.ring.marks
        if self._writer.recording is not None:
            marks[Mark.KERNEL_DROPPED] = self._journal.located + sum(channel.missing() for channel in self._channels)
        return Totals(
            int(marks[Mark.DATAGRAMS]),
            int(marks[Mark.PAYLOAD_BYTES]),
            int(marks[Mark.MALFORMED_DATAGRAMS]),
            int(marks[Mark.MALFORMED_BYTES]),
            int(marks[Mark.WRONG_SENDER]),
            int(marks[Mark.KERNEL_DROPPED]),
            int(marks[Mark.RING_FULL_WAITS]),
            int(marks[Mark.UNRECORDED]),
        )

    # --- the receive threads ----------------------------------------------------------------------------------------

    def _guarded(self, target: Callable[..., None], *args: object) -> None:
        try:
            target(*args)
        except Exception as error:
            log.exception("%s failed", threading.current_thread().name)
            self._on_failure(error)

    def _receive(self, channel: Channel) -> None:
        batch = channel.batch
        while not self._stopping.is_set():
            asked = time.monotonic_ns()
            with self._lock:
                place = self._intake.aim(channel)
                if len(self._channels) > 1:
                    batch.room = min(batch.room, channel.turn(asked))
                n = batch.receive()
                if n:
                    channel.took(n)
                    now = time.monotonic_ns()
                    if self._intake.take(channel, n, place, now):
                        self.last_datagram_ns = now
            self._writer.wake()
            channel.follow(asked, full=n == batch.room)
            if n < batch.room:
                self._tell_caught_up()
                if n:
                    time.sleep(channel.pause_s)
                else:
                    channel.wait(WAKE_S)
            else:
                self._give_way(channel)

    def _give_way(self, channel: Channel) -> None:
        """To channels that have been behind for as long, and have had fewer turns since; for a moment at most."""
        until = time.monotonic() + GIVE_WAY_S
        while any(other.lags_more_than(channel) for other in self._channels) and time.monotonic() < until:
            time.sleep(YIELD_S)
