"""The writer thread of a capture, and the room that it makes in the ring for the receive threads."""

import logging
import threading
from collections.abc import Callable
from typing import Final

from ..spool.index import Records
from ..spool.recording import BLOCK_BYTES, LARGEST_WRITE
from ..spool.ring import Mark, Ring, Stopped
from .recorder import Recorder

log = logging.getLogger(__name__)

WAKE_S: Final = 0.05
"""How often idle threads look whether they should stop."""


class Writer:
    """Empties the ring into a recording. `guard` runs the thread's work and tells who has to know when it fails."""

    def __init__(self, ring: Ring, index: Records, guard: Callable[[Callable[[], None]], None]) -> None:
        self.recording: Recorder | None = None
        """None: what comes is not recorded. Changed with the capture's lock held."""
        self._ring = ring
        self._index = index
        self._guard = guard
        self._thread: threading.Thread | None = None
        self._ended = threading.Event()
        self._new_bytes = threading.Event()
        self._failure: BaseException | None = None
        self._worth_a_write = min(LARGEST_WRITE, max(BLOCK_BYTES, ring.size // 8))

    def start(self, recording: Recorder) -> None:
        """Write what comes to `recording`, from now on."""
        self._ended.clear()
        self._failure = None
        self._thread = threading.Thread(
            target=self._guard, args=(lambda: self._run(recording),), name="writer", daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        """End the thread. What it has not written yet is in the ring."""
        self._ended.set()
        self._new_bytes.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()

    def wake(self) -> None:
        """Bytes have come: the thread need not wait any longer, if they are worth a write."""
        ring = self._ring
        if ring.received - ring.on_disk >= self._worth_a_write and not self._new_bytes.is_set():
            self._new_bytes.set()

    def _run(self, recording: Recorder) -> None:
        try:
            while not self._ended.is_set():
                if not recording.write(self._ring, self._index):
                    self._new_bytes.wait(WAKE_S)
                    self._new_bytes.clear()
        except BaseException as error:
            self._failure = error
            if isinstance(error, OSError):
                self._ring.marks[Mark.STOPPED_BY] = Stopped.DISK_FAILED  # what is in the ring stays there
            raise
        finally:
            self._ended.set()  # a receive thread that waits for room must not wait for a writer that failed

    # --- room -------------------------------------------------------------------------------------------------------

    @property
    def stopped(self) -> bool:
        """Whether nothing more is recorded in this acquisition."""
        return bool(self._ring.counts[Mark.STOPPED_BY])

    def room_for(self, n_bytes: int) -> bool:
        """Room in the ring, waited for if it must be. False: nothing more is recorded in this acquisition.

        While the disk is behind by a whole ring, the socket's buffer takes what comes.
        """
        ring, recording = self._ring, self.recording
        while not self.stopped:
            if ring.free >= n_bytes:
                return True
            if recording is not None and not recording.waits:
                recording.write(ring, self._index)
                if ring.free < n_bytes:
                    ring.marks[Mark.STOPPED_BY] = Stopped.RING_FULL
                    log.warning("the ring (%d MiB) is full: the acquisition ends here", ring.size >> 20)
                continue
            ring.marks[Mark.RING_FULL_WAITS] += 1
            self.wait()
        if not ring.marks[Mark.STOP]:
            ring.marks[Mark.STOP] = ring.received + 1
        return False

    def wait(self) -> None:
        """A moment, for the thread to write. Raises RuntimeError when it never will."""
        self._new_bytes.set()
        if self._ended.wait(0.001):
            why = "nothing is recorded any more" if self._failure is None else f"it failed: {self._failure}"
            raise RuntimeError(
                f"the ring ({self._ring.size >> 20} MiB) is full and its writer has ended: {why}"
            ) from self._failure
