"""One capture: receive threads fill the ring, a writer thread empties it onto the disk.

The receive threads do nothing but receive and copy; they never touch a file. What they cannot place in the ring waits
in the socket's buffer, and what the kernel must drop there is counted, and its place marked in the index. All addresses
are those of the recording.
"""

import contextlib
import logging
import struct
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Final, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from ..protocol.words import CHUNK_MAX_BYTES, chunk_header
from ..spool.index import STRETCH_BYTES, STRETCH_NS, UNKNOWN, Kind, Records, Row
from ..spool.recording import BLOCK_BYTES, LARGEST_WRITE
from ..spool.ring import ALIGNMENT, Mark, Ring, Stopped
from ..spool.segments import SEGMENT_BYTES
from .batch import BATCH, BatchReceiver
from .channel import Channel, is_good
from .sockets import Buffer

log = logging.getLogger(__name__)

FEWEST_IN_PLACE: Final = 16
"""Near the end of the ring's memory, where fewer have room, datagrams are copied there."""
WAKE_S: Final = 0.05
"""How often idle threads look whether they should stop."""
SMALLEST_RING: Final = 2 * BLOCK_BYTES
LONGEST_SEARCH: Final = 64 << 20
"""How much longer a segment may get until a chunk ends where the next file can be written past the page cache."""
SET_ASIDE_LIMIT: Final = 256
"""Datagrams with a wrong length or sender that are kept for the side file before more are only counted."""
STRANGERS_MAX: Final = 16
"""So many datagrams in a row from an address that the board did not tell, and none from one that it did: believed."""
ON_THE_WAY_NS: Final = 5_000_000
"""What the board had sent when it answered is here, or lost, when this time has passed since."""
POLL_PATIENCE_NS: Final = 1_000_000_000
"""A reading that cannot be placed for so long, because the sockets never run empty, is left out."""
MANY_ODD: Final = BATCH // 16
"""Of a batch whose datagrams are of so many other lengths each is copied."""
HEADER_BYTES: Final = 8
"""One word before the words of each datagram."""
_header = cache(chunk_header)
_SET_ASIDE: Final = struct.Struct("<qIHH")


class Endpoint(NamedTuple):
    """A bound socket of a capture."""

    chip: int
    host: str
    port: int
    buffer: Buffer


class Totals(NamedTuple):
    """Counters of a capture since its recording was opened."""

    datagrams: int
    payload_bytes: int
    malformed_datagrams: int
    malformed_bytes: int
    wrong_sender: int
    kernel_dropped: int
    ring_full_waits: int
    unrecorded: int
    """Datagrams that came when disk or ring were full, so that nothing more was recorded."""

    @property
    def arrived(self) -> int:
        """Datagrams of the board that reached this machine, whatever became of them."""
        return self.datagrams + self.malformed_datagrams + self.kernel_dropped + self.unrecorded


class Recorder(Protocol):
    """What the writer thread writes to: a recording, or nothing."""

    waits: bool
    """True: when the ring is full, receiving waits for the disk. False: the acquisition ends."""

    @property
    def path(self) -> Path | None: ...
    def write(self, ring: Ring, records: Records) -> bool:
        """A piece of what can be written now. True: there is more."""

    def begin(self, ring: Ring) -> None:
        """An acquisition begins at `ring.received`. Raises OSError, which says the remedy, when it had better not."""

    def finish(self, ring: Ring, records: Records) -> None:
        """Write all that is received, durably."""


class _Poll(NamedTuple):
    """A reading of the board's counters that waits for its place in the index."""

    due_ns: int
    sent: int
    received_before: int
    words: int
    paused: int


class _Spread(NamedTuple):
    """Malformed datagrams in several places of one batch: two records tell of them, at the first place and the last."""

    first: int
    last: int
    """Datagrams of the batch with which the first and the last run of them begin."""
    lost: int
    """Of them, before the last run."""
    n_bytes: int
    """Chunks that lie between."""


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
        self._index_memory = index.view(np.uint8).data
        self._worth_a_write = min(LARGEST_WRITE, max(BLOCK_BYTES, ring.size // 8))
        self._on_failure = on_failure
        self._lock = threading.Lock()
        self._channels: list[Channel] = []
        self._threads: list[threading.Thread] = []
        self._stopping = threading.Event()
        self._recording: Recorder | None = None
        self._writer: threading.Thread | None = None
        self._writer_stop = threading.Event()
        self._new_bytes = threading.Event()
        self._set_aside: deque[tuple[int, int, bytes]] = deque()
        self._polls: deque[_Poll] = deque()
        self._located = 0
        self.last_datagram_ns = 0
        """Host time (CLOCK_MONOTONIC) of the newest datagram; 0 before the first."""
        self._acquisition = 0
        self._unrecorded_before = 0
        self._stretch = (-STRETCH_BYTES, -STRETCH_NS)
        self._segment_bytes = self._segment_full = SEGMENT_BYTES

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
        if self._recording is not None:
            raise RuntimeError(f"a recording is open already: {self._recording.path}")
        with self._lock:
            self.ring.rewind()
            for channel in self._channels:
                channel.forget()
                channel.waiting.clear()
            self._located = 0
            self._stretch = (-STRETCH_BYTES, -STRETCH_NS)
            self._segment_bytes = self._segment_full = segment_bytes
            self._unrecorded_before = 0
            self._polls.clear()
            self._recording = recording
        self._writer_stop.clear()
        self._writer = threading.Thread(target=self._guarded, args=(self._write, recording), name="writer", daemon=True)
        self._writer.start()

    def close(self) -> Totals:
        """Finish the recording: all received bytes are on disk and durable. Safe to call when none is open."""
        with self._lock:
            recording = self._recording
            if recording is not None:
                self._believe_all()
                self._seal()
            totals = self.totals()
            self._recording = None
        if recording is None:
            return totals
        self._writer_stop.set()
        self._new_bytes.set()
        if self._writer is not None and self._writer is not threading.current_thread():
            self._writer.join()
        if recording.path is not None:
            self._write_set_aside(recording.path)
        self._set_aside.clear()
        recording.finish(self.ring, self._index)
        return totals

    def begin(self, acquisition: int) -> tuple[int, Totals]:
        """An acquisition begins: the address of its first byte, and the counters before it.

        Raises OSError when the recording's disk has no room for it.
        """
        with self._lock:
            if self._recording is not None:
                self._recording.begin(self.ring)
            self._acquisition = acquisition
            self._stretch = (-STRETCH_BYTES, -STRETCH_NS)
            self.ring.marks[Mark.STOP] = 0
            self.ring.marks[Mark.STOPPED_BY] = Stopped.NO
            self._unrecorded_before = int(self.ring.marks[Mark.UNRECORDED])
            if self._recording is not None:  # the index knows of it, though nothing may ever come
                self._record(Kind.STRETCH, time.monotonic_ns())
            return self.ring.received, self.totals()

    def end(
        self, end_counts: int | None = None, sent: int | None = None, words: int = UNKNOWN, paused: int = UNKNOWN
    ) -> tuple[int, Totals]:
        """The acquisition ends: the address after its last byte, and the counters up to it.

        end_counts: the board's timer when the shutter closed; sent: datagrams that the board says it sent since `open`,
        with so many words of pixels, and how many of them had waited on it. All of it goes into the index. What no
        datagram has told of yet is missing at this address.
        """
        with self._lock:
            self._believe_all()
            now = time.monotonic_ns()
            for channel in self._channels:
                missing = channel.forget()
                self._located += missing
                self._lose(Kind.LOSS_KERNEL, missing, channel.chip, now)
            unrecorded = int(self.ring.marks[Mark.UNRECORDED]) - self._unrecorded_before
            self._lose(Kind.LOSS_UNRECORDED, unrecorded, -1, now)
            self._polls.clear()
            stop = self.ring.received
            self.ring.marks[Mark.STOP] = stop + 1
            self._acquisition = 0
            self._record(
                Kind.END,
                now,
                end_counts=UNKNOWN if end_counts is None else end_counts,
                sent=UNKNOWN if sent is None else sent,
                words=words,
                paused=paused,
            )
            self._stretch = (-STRETCH_BYTES, -STRETCH_NS)
            return stop, self.totals()

    def baseline(self) -> Totals:
        """The board's count begins here, at 0: what arrived before is not compared with it."""
        with self._lock:
            totals = self.totals()
            self._record(Kind.POLL, time.monotonic_ns(), sent=0, received_before=totals.arrived, words=0, paused=0)
            return totals

    def compare_from(self, sent: int, arrived: int, words: int = UNKNOWN, paused: int = UNKNOWN) -> None:
        """The acquisition that has just begun is compared with these: sent since `open`, and arrived of that."""
        with self._lock:
            now = time.monotonic_ns()
            self._record(Kind.BASELINE, now, sent=sent, received_before=arrived, words=words, paused=paused)

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
        now = time.monotonic_ns()
        with self._lock:
            while self._polls and self._polls[0].due_ns <= now:
                poll = self._polls[0]
                if self._recording is None or now > poll.due_ns + POLL_PATIENCE_NS or self._stopped:
                    log.debug("a reading of the board's counters is left out")
                elif all(channel.caught_up_ns >= poll.due_ns for channel in self._channels):
                    dropped = self._located + sum(channel.missing() for channel in self._channels)
                    self._record(
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

    def backlog(self) -> int:
        """Memory of the datagrams that wait in the sockets (bytes)."""
        return sum(channel.waiting_bytes for channel in self._channels)

    def totals(self) -> Totals:
        """Counters since `open`."""
        marks = self.ring.marks
        if self._recording is not None:
            marks[Mark.KERNEL_DROPPED] = self._located + sum(channel.missing() for channel in self._channels)
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
                place = self._aim(channel)
                n = batch.receive()
                if n:
                    self._take(channel, n, place)
            if self.ring.received - self.ring.on_disk >= self._worth_a_write and not self._new_bytes.is_set():
                self._new_bytes.set()
            if n < batch.room:
                channel.caught_up_ns = asked
                if n:
                    time.sleep(channel.pause_s)
                else:
                    channel.wait(WAKE_S)

    def _aim(self, channel: Channel) -> int | None:
        """Let the next datagrams come straight into the ring, to the address that is returned.

        None: into the slots of the batch, because nothing is recorded, their length is not known, or room is short.
        """
        ring, length = self.ring, channel.likely_length
        if length and self._recording is not None and not self._stopped:
            pitch = HEADER_BYTES + length
            room = min(BATCH, ring.contiguous // pitch, ring.free // pitch)
            if room >= FEWEST_IN_PLACE:
                place = ring.reserve(room * pitch)
                channel.batch.into(ring.memory_address(place), length, HEADER_BYTES, room)
                return place
        channel.batch.into_slots()
        return None

    def _take(self, channel: Channel, n: int, place: int | None) -> None:
        """place: where in the ring the datagrams lie, if they do."""
        now = time.monotonic_ns()
        batch, length = channel.batch, channel.likely_length
        own = channel.own(n)
        self.last_datagram_ns = now
        dropped = channel.newly_dropped(n)
        if self._recording is None:
            self.ring.marks[Mark.IDLE_DATAGRAMS] += n
            return
        if channel.waiting and channel.knows_sender:
            self._set_aside_what_waits(channel, now)
        received = self._mark_stretch(now)
        if place is not None:
            plain = dropped is None and own is None and received < self._segment_full
            if plain and self._close_up(channel, place, n):
                return
            batch.lift(self._rows(place, n, length)[:, HEADER_BYTES:])
        channel.learn_length(n)
        self._take_runs(channel, n, own, dropped, now)

    def _close_up(self, channel: Channel, place: int, n: int) -> bool:
        """Datagrams that lie in the ring become chunks: shorter ones leave gaps, behind which the others move up.

        False: that would be much work, or not all of them are good; nothing is changed.
        """
        length = channel.likely_length
        if channel.batch.all_have(length, n):
            self._complete(channel.chip, place, n, length)
            return True
        odd = channel.batch.others(length, n)
        lengths = channel.batch.lengths[odd].tolist()
        if len(odd) > MANY_ODD or max(lengths) > length or not all(map(is_good, lengths)):
            return False
        pitch = HEADER_BYTES + length
        first, to = 0, place
        for k, odd_length in zip(odd, lengths, strict=True):
            n_bytes = (k - first) * pitch + HEADER_BYTES + odd_length
            self.ring.move(place + first * pitch, to, n_bytes)
            self._complete(channel.chip, to, k - first, length)
            first, to = k + 1, to + n_bytes
            self._complete(channel.chip, to - HEADER_BYTES - odd_length, 1, odd_length)
        self.ring.move(place + first * pitch, to, (n - first) * pitch)
        self._complete(channel.chip, to, n - first, length)
        return True

    def _complete(self, chip: int, place: int, n: int, length: int) -> None:
        """Datagrams that lie in the ring become chunks: their headers are missing only."""
        self.ring.words_every(HEADER_BYTES + length, place, n)[:] = _header(chip, length)
        self._publish(n, n * (HEADER_BYTES + length), n * length)

    def _rows(self, place: int, n: int, length: int) -> npt.NDArray[np.uint8]:
        """The memory of `n` chunks of `length` bytes and a header each, which does not lie across the ring's end."""
        pitch = HEADER_BYTES + length
        return self.ring.parts(place, place + n * pitch)[0].reshape(n, pitch)

    def _take_runs(
        self,
        channel: Channel,
        n: int,
        own: npt.NDArray[np.bool_] | None,
        dropped: npt.NDArray[np.int64] | None,
        now: int,
    ) -> None:
        """A batch that is not all alike: runs of equal datagrams, and before each what is missing there."""
        lengths = channel.batch.lengths[:n]
        whose = np.ones(n, np.bool_) if own is None else own
        first = np.ones(n, np.bool_)
        if self.ring.received < self._segment_full:
            for values in (lengths, whose):
                first[1:] &= values[1:] == values[:-1]
            first[1:] = ~first[1:]
            if dropped is not None:
                first |= dropped > 0
        starts = np.flatnonzero(first)
        spread = None if dropped is not None else self._spread(lengths, whose, starts)
        for a, b in zip(starts.tolist(), [*starts[1:].tolist(), n], strict=True):
            if dropped is not None:
                self._located += int(dropped[a])
                self._lose(Kind.LOSS_KERNEL, int(dropped[a]), channel.chip, now)
            if not whose[a]:
                self._turn_away(channel, range(a, b), now)
            elif is_good(int(lengths[a])):
                self._append(channel, a, b, now)
            else:
                self._put_aside(channel.batch, range(a, b), Mark.MALFORMED_DATAGRAMS, now, channel.chip)
                if spread is None or a == spread.last:
                    self._lose(Kind.LOSS_MALFORMED, b - a, channel.chip, now)
                elif a == spread.first:
                    until = self.ring.received + spread.n_bytes
                    self._lose(Kind.LOSS_MALFORMED, spread.lost, channel.chip, now, until)

    def _spread(
        self, lengths: npt.NDArray[np.uint32], whose: npt.NDArray[np.bool_], starts: npt.NDArray[np.intp]
    ) -> _Spread | None:
        """None: there are none, or in one place, or another record may have to stand between them."""
        good = (lengths % 8 == 0) & (lengths > 0) & (lengths <= CHUNK_MAX_BYTES)
        bad = np.flatnonzero(whose & ~good)
        if not bad.size:
            return None
        first, last = int(bad[0]), int(starts[np.searchsorted(starts, bad[-1], side="right") - 1])
        between = lengths[first:last][(whose & good)[first:last]]
        n_bytes = int(between.sum()) + 8 * between.size
        if last == first or n_bytes > STRETCH_BYTES or self.ring.received + n_bytes >= self._segment_full:
            return None
        return _Spread(first, last, int(np.count_nonzero(bad < last)), n_bytes)

    def _append(self, channel: Channel, a: int, b: int, now: int) -> None:
        """Datagrams [a, b) of a batch, all of one length, one chunk each: one strided copy for all of them."""
        length = int(channel.batch.lengths[a])
        many = max(1, self.ring.size // 4 // (HEADER_BYTES + length))  # of large ones a ring may not hold a batch
        for first in range(a, b, many):
            self._append_run(channel, first, min(first + many, b), now)

    def _append_run(self, channel: Channel, a: int, b: int, now: int) -> None:
        length = int(channel.batch.lengths[a])
        n_bytes = (b - a) * (HEADER_BYTES + length)
        if not self._room_for(n_bytes):
            self.ring.marks[Mark.UNRECORDED] += b - a
            return
        if self.ring.received >= self._segment_full:
            self._roll(now)
        if self.ring.contiguous < n_bytes:
            for k in range(a, b):
                self._append_one(channel.chip, channel.batch.payloads[k, :length])
            return
        start = self.ring.reserve(n_bytes)
        self._rows(start, b - a, length)[:, HEADER_BYTES:] = channel.batch.payloads[a:b, :length]
        self._complete(channel.chip, start, b - a, length)

    def _append_one(self, chip: int, payload: npt.NDArray[np.uint8]) -> None:
        """The same for one datagram, which may lie across the ring's end."""
        n_bytes = HEADER_BYTES + payload.size
        start = self.ring.reserve(n_bytes)
        words = start + HEADER_BYTES
        self.ring.words_every(HEADER_BYTES, start, 1)[:] = _header(chip, payload.size)  # never across the end
        first, second = self.ring.parts(words, start + n_bytes)
        first[:] = payload[: first.size]
        second[:] = payload[first.size :]
        self._publish(1, n_bytes, payload.size)

    def _publish(self, datagrams: int, n_bytes: int, payload_bytes: int) -> None:
        counts = self.ring.counts
        counts[Mark.DATAGRAMS] += datagrams
        counts[Mark.PAYLOAD_BYTES] += payload_bytes
        self.ring.publish(n_bytes)

    # --- index records ----------------------------------------------------------------------------------------------

    def _mark_stretch(self, now: int) -> int:
        """Open a new index record every 1 MiB or 10 ms. Returns what is received."""
        offset = self.ring.received
        if offset - self._stretch[0] >= STRETCH_BYTES or now - self._stretch[1] >= STRETCH_NS:
            self._stretch = (offset, now)
            self._record(Kind.STRETCH, now)
        return offset

    def _seal(self) -> None:
        """The last bytes get a checksum too."""
        n = int(self.ring.marks[Mark.INDEX_RECORDS])
        if n and self._index["offset"][(n - 1) % self._index.size] < self.ring.received:
            self._record(Kind.STRETCH, time.monotonic_ns())

    def _lose(self, kind: Kind, lost: int, chip: int, now: int, until: int = UNKNOWN) -> None:
        """Datagrams are missing just before the next byte; some of them later, up to the address `until`."""
        if not lost:
            return
        marks = self.ring.marks
        marks[Mark.KERNEL_DROPPED] = max(self._located, int(marks[Mark.KERNEL_DROPPED]))
        self._record(kind, now, lost=lost, chip=chip, received_before=until)

    def _roll(self, now: int) -> None:
        """A new segment begins with the next chunk, if that lies where O_DIRECT can write it, or none does for long."""
        start = self.ring.received
        if start % ALIGNMENT and start - self._segment_full < min(LONGEST_SEARCH, self._segment_bytes):
            return
        self._segment_full = start + self._segment_bytes
        self._record(Kind.SEGMENT, now)

    def _record(
        self,
        kind: Kind,
        now: int,
        *,
        end_counts: int = UNKNOWN,
        sent: int = UNKNOWN,
        received_before: int = UNKNOWN,
        lost: int = 0,
        chip: int = -1,
        kernel_dropped: int | None = None,
        words: int = UNKNOWN,
        paused: int = UNKNOWN,
    ) -> None:
        """An index record at the address of the next byte. Its checksum is the writer's business."""
        counts, size = self.ring.counts, self._index.size
        k = counts[Mark.INDEX_RECORDS]
        while k - counts[Mark.INDEX_ON_DISK] >= size:
            self._wait_for_the_writer()
        row = Row(
            self.ring.received,
            now,
            counts[Mark.DATAGRAMS],
            self._located if kernel_dropped is None else kernel_dropped,
            self._acquisition,
            end_counts,
            sent,
            received_before,
            counts[Mark.MALFORMED_DATAGRAMS],
            counts[Mark.UNRECORDED],
            lost,
            chip,
            kind,
            sent_words=words,
            paused=paused,
        )
        row.put(self._index_memory, k % size)
        counts[Mark.INDEX_RECORDS] = k + 1

    # --- when there is no room --------------------------------------------------------------------------------------

    @property
    def _stopped(self) -> bool:
        return bool(self.ring.counts[Mark.STOPPED_BY])

    def _room_for(self, n_bytes: int) -> bool:
        """Room in the ring, waited for if it must be. False: nothing more is recorded in this acquisition.

        While the disk is behind by a whole ring, the socket's buffer takes what comes.
        """
        while not self._stopped:
            if self.ring.free >= n_bytes:
                return True
            recording = self._recording
            if recording is not None and not recording.waits:
                recording.write(self.ring, self._index)
                if self.ring.free < n_bytes:
                    self.ring.marks[Mark.STOPPED_BY] = Stopped.RING_FULL
                    log.warning("the ring (%d MiB) is full: the acquisition ends here", self.ring.size >> 20)
                continue
            self.ring.marks[Mark.RING_FULL_WAITS] += 1
            self._wait_for_the_writer()
        if not self.ring.marks[Mark.STOP]:
            self.ring.marks[Mark.STOP] = self.ring.received + 1
        return False

    def _wait_for_the_writer(self) -> None:
        self._new_bytes.set()
        if self._writer_stop.wait(0.001):
            raise RuntimeError(
                f"the ring ({self.ring.size >> 20} MiB) is full and its writer has ended: the disk is slower than the "
                f"camera"
            )

    def _put_aside(self, batch: BatchReceiver, which: range, counter: Mark, now: int, chip: int) -> None:
        for k in which:
            self._keep_aside(batch.payloads[k, : int(batch.lengths[k])].tobytes(), counter, now, chip)

    def _keep_aside(self, payload: bytes, counter: Mark, now: int, chip: int) -> None:
        self.ring.marks[counter] += 1
        self.ring.marks[Mark.MALFORMED_BYTES] += len(payload)
        if len(self._set_aside) < SET_ASIDE_LIMIT:
            self._set_aside.append((now, chip, payload))

    # --- strangers --------------------------------------------------------------------------------------------------

    def _turn_away(self, channel: Channel, which: range, now: int) -> None:
        """Datagrams that are not the board's, as far as it has told. Before it was heard they wait: it may be wrong."""
        if channel.knows_sender:
            self._put_aside(channel.batch, which, Mark.WRONG_SENDER, now, channel.chip)
            return
        batch = channel.batch
        channel.waiting += [batch.payloads[k, : int(batch.lengths[k])].tobytes() for k in which]
        if len(channel.waiting) >= STRANGERS_MAX:
            self._believe(channel, now)

    def _set_aside_what_waits(self, channel: Channel, now: int) -> None:
        """The board was heard: the others were strangers."""
        for payload in channel.waiting:
            self._keep_aside(payload, Mark.WRONG_SENDER, now, channel.chip)
        channel.waiting.clear()

    def _believe_all(self) -> None:
        """The end, and the board was never heard from where it should be: those who were are the board."""
        for channel in self._channels:
            if channel.waiting:
                self._believe(channel, time.monotonic_ns())

    def _believe(self, channel: Channel, now: int) -> None:
        """What waited is recorded after all."""
        log.warning("chip %d: data come from another address than the board tells; they are taken", channel.chip)
        for payload in channel.believe():
            if not is_good(len(payload)):
                self._keep_aside(payload, Mark.MALFORMED_DATAGRAMS, now, channel.chip)
                self._lose(Kind.LOSS_MALFORMED, 1, channel.chip, now)
            elif not self._room_for(len(payload) + HEADER_BYTES):
                self.ring.marks[Mark.UNRECORDED] += 1
            else:
                if self.ring.received >= self._segment_full:
                    self._roll(now)
                self._append_one(channel.chip, np.frombuffer(payload, np.uint8))

    # --- the writer thread ------------------------------------------------------------------------------------------

    def _write(self, recording: Recorder) -> None:
        try:
            while not self._writer_stop.is_set():
                if not recording.write(self.ring, self._index):
                    self._new_bytes.wait(WAKE_S)
                    self._new_bytes.clear()
        except OSError:
            self.ring.marks[Mark.STOPPED_BY] = Stopped.DISK_FAILED  # what is in the ring stays there
            raise
        finally:
            self._writer_stop.set()  # a receive thread that waits for room must not wait for a writer that failed

    def _write_set_aside(self, recording: Path) -> None:
        """Datagrams that are no whole words or came from elsewhere: kept beside the recording, not in it."""
        if not self._set_aside:
            return
        with contextlib.suppress(OSError), open(recording.with_name(recording.name + ".aside"), "wb") as file:
            while self._set_aside:
                host_ns, chip, payload = self._set_aside.popleft()
                file.write(_SET_ASIDE.pack(host_ns, len(payload), chip, 0) + payload)
