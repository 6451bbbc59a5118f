"""One chip's socket while it is drained: where its kernel dropped datagrams, and whether its queue has been empty."""

import select
from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from ..protocol.words import CHUNK_MAX_BYTES
from .batch import BatchReceiver
from .sockets import FULL_RATE, Buffer, enlarge_buffer, kernel_drops, open_socket, waiting_bytes

LONGEST_PAUSE_S: Final = 0.004
TURN_S: Final = 0.05
"""Of several channels each takes about so much of its time before it is another's turn: what of one chip comes much
later than that of another cannot be ordered any more."""
SMALLEST_TURN: Final = 16
_WRAP: Final = 1 << 32
"""The kernel counts what it drops in 32 bits."""


class Channel:
    """A bound socket. All but `wait`, `follow` and `lags_more_than` is called with the capture's lock held.

    senders: addresses that the board's datagrams may come from; () takes any. Others are strangers, from the first
    datagram on. Yet what the board says of its addresses may be wrong: whoever sends is believed when nothing has ever
    come from these.
    """

    def __init__(self, chip: int, host: str, port: int, senders: Sequence[str] = ()) -> None:
        self.chip = chip
        self._senders = tuple(dict.fromkeys(senders))
        self.knows_sender = False
        """A datagram from one of the addresses has come."""
        self.waiting: list[bytes] = []
        """Datagrams of strangers, as long as it is not known whether they are the board's."""
        self._believes = False
        self.sock = open_socket(host, port)
        self.buffer: Buffer = enlarge_buffer(self.sock)
        self.batch = BatchReceiver(self.sock)
        self.pause_s = min(LONGEST_PAUSE_S, self.buffer.holds_bytes() / FULL_RATE / 8)
        """Rest after a small batch: at full rate an eighth of the buffer fills meanwhile, at most."""
        self._readable = select.poll()
        self._readable.register(self.sock, select.POLLIN)
        self.likely_length = 0
        """Bytes that the next datagrams will have, most likely. 0: unknown."""
        self._begun_ns, self._taken = 0, 0
        self._turns, self._lags_since = 0, 0
        """Turns since it had caught up last, and when the first of them began."""
        self.caught_up_ns = 0
        """All that had arrived at this host time (CLOCK_MONOTONIC) has been taken."""
        self._located = 0

    @property
    def port(self) -> int:
        """The port that the kernel gave."""
        return int(self.sock.getsockname()[1])

    @property
    def waiting_bytes(self) -> int:
        """Memory of the datagrams that wait."""
        return waiting_bytes(self.sock)

    def wait(self, seconds: float) -> None:
        """Until a datagram is there, or so long. Called without the lock."""
        self._readable.poll(seconds * 1000)

    def close(self) -> None:
        self.sock.close()

    def own(self, n: int) -> npt.NDArray[np.bool_] | None:
        """Which of the last `n` datagrams are the board's; None: all, as far as one can tell."""
        if not self._senders or self.batch.all_from_known(n):
            return None
        own = self.batch.sent_by(self._senders[0], n)
        for sender in self._senders[1:]:
            own |= self.batch.sent_by(sender, n)
        if own.all():
            self.knows_sender = True
            self.batch.know_sender()
            return None
        self.knows_sender = self.knows_sender or bool(own.any())
        return None if self._believes and not self.knows_sender else own

    def believe(self) -> list[bytes]:
        """Whoever sends is the board, until it is heard from an address of its own. Returns what waited for that."""
        self._believes = True
        waited, self.waiting = self.waiting, []
        return waited

    def begin(self, now: int) -> None:
        """An acquisition begins at this host time: of it the rate is learnt."""
        self._begun_ns, self._taken = now, 0

    def took(self, n: int) -> None:
        """So many datagrams were taken."""
        self._taken += n

    def turn(self, now: int) -> int:
        """Datagrams to take at most until it is another channel's turn: those of `TURN_S` at the mean rate.

        What waits since longer, because this process was not given the time, comes in several turns.
        """
        seconds = max(1.0, (now - self._begun_ns) / 1e9)
        return max(SMALLEST_TURN, int(self._taken / seconds * TURN_S))

    def follow(self, asked: int, *, full: bool) -> None:
        """A turn that began at host time `asked` is over. full: more waits, most likely; else all is taken."""
        if not full:
            self._turns, self.caught_up_ns = 0, asked
            return
        if not self._turns:
            self._lags_since = asked
        self._turns += 1

    def lags_more_than(self, other: "Channel") -> bool:
        """Whether something waits here for as long as there, and `other` has had more turns since."""
        for_as_long = self.caught_up_ns < other._lags_since
        return self._turns < other._turns and for_as_long and self.waiting_bytes > 0

    def learn_length(self, n: int) -> None:
        """The next datagrams will be as long as most of the last `n` are, if those hold whole words."""
        length = int(np.sort(self.batch.lengths[:n])[n // 2])
        self.likely_length = length if is_good(length) else 0

    def missing(self) -> int:
        """Datagrams that the kernel dropped behind the last one that was taken: no later one told of them yet."""
        return _since(kernel_drops(self.sock), self._located)

    def forget(self) -> int:
        """What is missing now is told elsewhere, or nobody's concern: no later datagram shall tell of it."""
        missing = self.missing()
        self._located += missing
        return missing

    def newly_dropped(self, n: int) -> npt.NDArray[np.int64] | None:
        """How many were dropped just before each datagram of the last batch; None, the usual case: none at all."""
        last = self.batch.dropped_before(n - 1)
        if _since(last, self._located) == 0:
            return None
        known = (self.batch.all_dropped_before(n).astype(np.int64) - self._located + _WRAP // 2) % _WRAP - _WRAP // 2
        steps = np.diff(np.maximum(np.maximum.accumulate(known), 0), prepend=0)
        self._located += int(steps.sum())
        return steps


def is_good(length: int) -> bool:
    """Whether a datagram holds whole words."""
    return length % 8 == 0 and 0 < length <= CHUNK_MAX_BYTES


def _since(counter: int, before: int) -> int:
    """How far a 32-bit counter went beyond `before`; 0 when it is still behind it."""
    ahead = (counter - before) % _WRAP
    return ahead if ahead < _WRAP // 2 else 0
