"""One capture: receive threads fill the ring, a writer thread empties it onto the disk.

The receive threads do nothing but receive and copy; they never touch a file. What they cannot place in the ring waits
in the socket's buffer, and what the kernel must drop there is counted. All addresses are those of the recording.
"""

import contextlib
import logging
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol

import numpy as np

from ..protocol.words import CHUNK_MAX_BYTES, chunk_header
from ..spool.index import STRETCH_BYTES, STRETCH_NS, Kind, Records, Row
from ..spool.recording import BLOCK_BYTES
from ..spool.ring import Mark, Ring
from .batch import BatchReceiver
from .sockets import Buffer, enlarge_buffer, kernel_drops, open_socket, waiting_bytes

log = logging.getLogger(__name__)

WAKE_S: Final = 0.05
"""How often idle threads look whether they should stop."""
SMALLEST_RING: Final = 2 * BLOCK_BYTES
SET_ASIDE_LIMIT: Final = 256
"""Datagrams with a wrong length or sender that are kept for the side file before more are only counted."""
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


class Recorder(Protocol):
    """What the writer thread writes to: a recording, or nothing."""

    @property
    def path(self) -> Path | None: ...
    def write_blocks(self, ring: Ring) -> bool: ...
    def write_index(self, records: Records, n_records: int) -> None: ...
    def finish(self, ring: Ring) -> None: ...


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
        self._sockets: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._stopping = threading.Event()
        self._recording: Recorder | None = None
        self._writer: threading.Thread | None = None
        self._writer_stop = threading.Event()
        self._new_bytes = threading.Event()
        self._set_aside: deque[tuple[int, int, bytes]] = deque()
        self._drop_base = 0
        self.last_datagram_ns = 0
        """Host time (CLOCK_MONOTONIC) of the newest datagram; 0 before the first."""
        self._acquisition = 0
        self._stretch = (-STRETCH_BYTES, -STRETCH_NS)

    # --- sockets ----------------------------------------------------------------------------------------------------

    def bind(self, receivers: Sequence[tuple[int, str, int, str | None]]) -> list[Endpoint]:
        """Bind a socket for each (chip, host, port, sender) and start to drain it. Replaces earlier ones."""
        self.unbind()
        endpoints: list[Endpoint] = []
        try:
            for chip, host, port, sender in receivers:
                sock = open_socket(host, port)
                self._sockets.append(sock)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", 0, round(WAKE_S * 1e6)))
                endpoints.append(Endpoint(chip, host, sock.getsockname()[1], enlarge_buffer(sock)))
                thread = threading.Thread(
                    target=self._guarded, args=(self._receive, sock, chip, sender), name=f"receive-{chip}", daemon=True
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
        for sock in self._sockets:
            sock.close()
        self._threads.clear()
        self._sockets.clear()
        self._stopping.clear()

    def drops(self) -> int:
        """Datagrams that the kernel dropped in all sockets since they were bound."""
        return sum(kernel_drops(sock) for sock in self._sockets)

    # --- recordings -------------------------------------------------------------------------------------------------

    def open(self, recording: Recorder) -> None:
        """Begin a recording: from now on datagrams go to the ring."""
        if self._recording is not None:
            raise RuntimeError(f"a recording is open already: {self._recording.path}")
        with self._lock:
            self.ring.rewind()
            self._drop_base = self.drops()
            self._stretch = (-STRETCH_BYTES, -STRETCH_NS)
            self._recording = recording
        self._writer_stop.clear()
        self._writer = threading.Thread(target=self._guarded, args=(self._write, recording), name="writer", daemon=True)
        self._writer.start()

    def close(self) -> Totals:
        """Finish the recording: all received bytes are on disk and durable. Safe to call when none is open."""
        with self._lock:
            totals = self.totals()
            recording, self._recording = self._recording, None
        if recording is None:
            return totals
        self._writer_stop.set()
        self._new_bytes.set()
        if self._writer is not None and self._writer is not threading.current_thread():
            self._writer.join()
        recording.write_index(self._index, int(self.ring.marks[Mark.INDEX_RECORDS]))
        if recording.path is not None:
            self._write_set_aside(recording.path)
        self._set_aside.clear()
        recording.finish(self.ring)
        return totals

    def begin(self, acquisition: int) -> tuple[int, Totals]:
        """An acquisition begins: the address of its first byte, and the counters before it."""
        with self._lock:
            self._acquisition = acquisition
            self._stretch = (-STRETCH_BYTES, -STRETCH_NS)
            self.ring.marks[Mark.STOP] = 0
            return self.ring.received, self.totals()

    def end(self, end_counts: int | None = None) -> tuple[int, Totals]:
        """The acquisition ends: the address after its last byte, and the counters up to it.

        end_counts: the board's timer when the shutter closed; goes into the index.
        """
        with self._lock:
            stop = self.ring.received
            self.ring.marks[Mark.STOP] = stop + 1
            self._acquisition = 0
            self._index_record(stop, time.monotonic_ns(), -1 if end_counts is None else end_counts)
            self._stretch = (-STRETCH_BYTES, -STRETCH_NS)
            return stop, self.totals()

    def backlog(self) -> int:
        """Memory of the datagrams that wait in the sockets (bytes)."""
        return sum(waiting_bytes(sock) for sock in self._sockets)

    def totals(self) -> Totals:
        """Counters since `open`."""
        marks = self.ring.marks
        if self._recording is not None:
            marks[Mark.KERNEL_DROPPED] = self.drops() - self._drop_base
        return Totals(
            int(marks[Mark.DATAGRAMS]),
            int(marks[Mark.PAYLOAD_BYTES]),
            int(marks[Mark.MALFORMED_DATAGRAMS]),
            int(marks[Mark.MALFORMED_BYTES]),
            int(marks[Mark.WRONG_SENDER]),
            int(marks[Mark.KERNEL_DROPPED]),
            int(marks[Mark.RING_FULL_WAITS]),
        )

    # --- the receive threads ----------------------------------------------------------------------------------------

    def _guarded(self, target: Callable[..., None], *args: object) -> None:
        try:
            target(*args)
        except Exception as error:
            log.exception("%s failed", threading.current_thread().name)
            self._on_failure(error)

    def _receive(self, sock: socket.socket, chip: int, sender: str | None) -> None:
        batch = BatchReceiver(sock)
        while not self._stopping.is_set():
            n = batch.receive()
            if n:
                self._take(batch, n, chip, sender)

    def _take(self, batch: BatchReceiver, n: int, chip: int, sender: str | None) -> None:
        now = time.monotonic_ns()
        lengths = batch.lengths[:n]
        good = (lengths % 8 == 0) & (lengths > 0) & (lengths <= CHUNK_MAX_BYTES)
        with self._lock:
            self.last_datagram_ns = now
            if self._recording is None:
                self.ring.marks[Mark.IDLE_DATAGRAMS] += n
                return
            if sender is not None:
                own = batch.sent_by(sender, n)
                self._put_aside(batch, np.flatnonzero(~own), Mark.WRONG_SENDER, now, chip)
                good &= own
                self._put_aside(batch, np.flatnonzero(own & ~good), Mark.MALFORMED_DATAGRAMS, now, chip)
            else:
                self._put_aside(batch, np.flatnonzero(~good), Mark.MALFORMED_DATAGRAMS, now, chip)
            self._mark_stretch(now)
            first = int(lengths[0])
            if good.all() and (n == 1 or (lengths == first).all()):
                self._append_equal(batch, n, first, chip)
            else:
                for k in np.flatnonzero(good):
                    self._append(batch.payloads[k, : int(lengths[k])], chip)
        self._new_bytes.set()

    def _mark_stretch(self, now: int) -> None:
        """Open a new index record every 1 MiB or 10 ms."""
        offset = self.ring.received
        if offset - self._stretch[0] < STRETCH_BYTES and now - self._stretch[1] < STRETCH_NS:
            return
        self._stretch = (offset, now)
        self._index_record(offset, now)

    def _index_record(self, offset: int, now: int, end_counts: int | None = None) -> None:
        marks = self.ring.marks
        marks[Mark.KERNEL_DROPPED] = self.drops() - self._drop_base
        k = int(marks[Mark.INDEX_RECORDS])
        kind = Kind.STRETCH if end_counts is None else Kind.END
        self._index[k % self._index.size] = Row(
            offset,
            now,
            int(marks[Mark.DATAGRAMS]),
            int(marks[Mark.KERNEL_DROPPED]),
            self._acquisition,
            -1 if end_counts is None else end_counts,
            malformed=int(marks[Mark.MALFORMED_DATAGRAMS]),
            kind=kind,
        )
        marks[Mark.INDEX_RECORDS] = k + 1

    def _append_equal(self, batch: BatchReceiver, n: int, length: int, chip: int) -> None:
        """The usual case at high rate, all datagrams of one length: two strided copies for the whole batch."""
        stride = length + 8
        if self.ring.contiguous < n * stride:
            for k in range(n):
                self._append(batch.payloads[k, :length], chip)
            return
        self._wait_for_room(n * stride)
        start = self.ring.reserve(n * stride)
        first, _ = self.ring.parts(start, start + n * stride)
        rows = first.reshape(n, stride)
        rows[:, :8] = np.frombuffer(chunk_header(chip, length).to_bytes(8, "little"), np.uint8)
        rows[:, 8:] = batch.payloads[:n, :length]
        self._publish(n, n * stride, n * length)

    def _append(self, payload: "np.ndarray[Any, np.dtype[np.uint8]]", chip: int) -> None:
        n_bytes = payload.size + 8
        self._wait_for_room(n_bytes)
        start = self.ring.reserve(n_bytes)
        header = np.frombuffer(chunk_header(chip, payload.size).to_bytes(8, "little"), np.uint8)
        self.ring.parts(start, start + 8)[0][:] = header  # the ring's size is a multiple of 8: a word never wraps
        first, second = self.ring.parts(start + 8, start + n_bytes)
        first[:] = payload[: first.size]
        second[:] = payload[first.size :]
        self._publish(1, n_bytes, payload.size)

    def _publish(self, datagrams: int, n_bytes: int, payload_bytes: int) -> None:
        marks = self.ring.marks
        marks[Mark.DATAGRAMS] += datagrams
        marks[Mark.PAYLOAD_BYTES] += payload_bytes
        self.ring.publish(n_bytes)

    def _wait_for_room(self, n_bytes: int) -> None:
        """The disk is behind by a whole ring: wait; the socket's buffer takes what comes meanwhile."""
        while self.ring.free < n_bytes:
            self.ring.marks[Mark.RING_FULL_WAITS] += 1
            if self._writer_stop.wait(0.001):
                raise RuntimeError(
                    f"the ring ({self.ring.size >> 20} MiB) is full and its writer has ended: the disk is slower than "
                    f"the camera"
                )

    def _put_aside(
        self, batch: BatchReceiver, which: "np.ndarray[Any, np.dtype[np.intp]]", counter: Mark, now: int, chip: int
    ) -> None:
        for k in which:
            payload = batch.payloads[k, : int(batch.lengths[k])]
            self.ring.marks[counter] += 1
            self.ring.marks[Mark.MALFORMED_BYTES] += payload.size
            if len(self._set_aside) < SET_ASIDE_LIMIT:
                self._set_aside.append((now, chip, payload.tobytes()))

    # --- the writer thread ------------------------------------------------------------------------------------------

    def _write(self, recording: Recorder) -> None:
        try:
            while not self._writer_stop.is_set():
                recording.write_index(self._index, int(self.ring.marks[Mark.INDEX_RECORDS]))
                if not recording.write_blocks(self.ring):
                    self._new_bytes.wait(WAKE_S)
                    self._new_bytes.clear()
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
