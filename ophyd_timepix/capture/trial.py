"""What capture takes on this machine: datagrams over loopback into the real sockets, threads and ring.

The sender runs beside it on the same cores, so a machine that has a camera in place of it takes at least as much. There
is no network card in it: its interrupts cost what they cost.
"""

import mmap
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final, NamedTuple

import numpy as np

from ..spool.index import RECORD
from ..spool.ring import N_MARKS, Ring
from .capture import Capture
from .recorder import Recorder
from .sender import HOST
from .sockets import JUMBO_BYTES, Buffer, enlarge_buffer, open_socket

RING_BYTES: Final = 64 << 20
BYTES_PER_HIT: Final = 8
RATES: Final = (80e6, 40e6, 20e6, 10e6, 5e6)
"""Hits a second that are tried, one after the other, until nothing is lost."""
SECONDS: Final = 1.0
_PATIENCE_S: Final = 10.0
_SILENCE_S: Final = 0.2
_INDEX_ROOM: Final = 1 << 12


class LoopbackTrial(NamedTuple):
    """What was sent over loopback, and what of it capture had."""

    wanted_hits_per_s: float
    datagram_bytes: int
    seconds: float
    sent_datagrams: int
    received_datagrams: int
    cpu_share: float
    """Of one core, used by the receiving side."""

    @property
    def lost_datagrams(self) -> int:
        return self.sent_datagrams - self.received_datagrams

    @property
    def hits_per_s(self) -> float:
        """That were received."""
        return self.received_datagrams * self.datagram_bytes / BYTES_PER_HIT / self.seconds


def granted_buffer() -> Buffer:
    """The receive buffer that the kernel grants a socket."""
    sock = open_socket(HOST, 0)
    with sock:
        return enlarge_buffer(sock)


def loopback_trials(
    make_recorder: Callable[[], Recorder],
    *,
    datagram_bytes: int = JUMBO_BYTES,
    rates: Sequence[float] = RATES,
    seconds: float = SECONDS,
) -> list[LoopbackTrial]:
    """Rate after rate until nothing is lost. make_recorder: what the words go to."""
    trials: list[LoopbackTrial] = []
    with _capture() as (capture, failures):
        for rate in rates:
            capture.open(make_recorder())
            try:
                trials.append(_trial(capture, rate, seconds, datagram_bytes))
            finally:
                capture.close()
            if failures:
                raise failures[0]
            if not trials[-1].lost_datagrams:
                break
    return trials


@contextmanager
def _capture() -> Iterator[tuple[Capture, list[BaseException]]]:
    ring = Ring(np.frombuffer(mmap.mmap(-1, RING_BYTES), np.uint8), np.zeros(N_MARKS, np.int64))
    ring.memory[:] = 0  # first touches belong to nobody's rate
    failures: list[BaseException] = []
    capture = Capture(ring, np.zeros(_INDEX_ROOM, RECORD), failures.append)
    try:
        yield capture, failures
    finally:
        capture.unbind()


def _trial(capture: Capture, rate: float, seconds: float, length: int) -> LoopbackTrial:
    (endpoint,) = capture.bind([(0, HOST, 0, ())])
    command = [sys.executable, "-P", "-m", "ophyd_timepix.capture.sender"]
    numbers = (endpoint.port, rate * BYTES_PER_HIT, seconds, length)
    cpu_before = time.process_time()
    done = subprocess.run(
        [*command, *map(str, numbers)], capture_output=True, text=True, timeout=seconds + _PATIENCE_S, check=False
    )
    if done.returncode:
        raise OSError(
            f"the sender of datagrams failed: {(done.stderr.strip().splitlines() or ['it said nothing'])[-1]}"
        )
    sent, took = done.stdout.split()
    _drain(capture, int(sent))
    cpu_s = time.process_time() - cpu_before
    return LoopbackTrial(rate, length, float(took), int(sent), capture.totals().datagrams, cpu_s / float(took))


def _drain(capture: Capture, sent: int) -> None:
    """Until all that was sent is here or dropped, or nothing comes any more."""
    never = threading.Event()
    deadline = time.monotonic() + _PATIENCE_S
    while capture.totals().arrived < sent and time.monotonic() < deadline:
        if time.monotonic_ns() - capture.last_datagram_ns > _SILENCE_S * 1e9:
            return
        never.wait(0.005)
