"""32-bit counters of the board, made endless: at 80 Mhit/s one of pixel words wraps after 54 s."""

import time
from typing import Final

from .wire import Clock

_MODULUS: Final = 1 << 32

PER_SECOND: Final = 160e6
"""No counter moves faster: as many words fill a link of 10 Gb/s."""
BETWEEN_READINGS_S: Final = 1.0
"""By so much may the time between two readings seem too short."""


class UnwrappedCounter:
    """Adds up what a 32-bit counter moved between readings. Read it at least once per wrap."""

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self.total = 0
        self.restarts = 0
        """How often it was found to have begun at 0 again."""
        self._last = 0
        self._connection = 0
        self._clock = clock
        self._read_at = clock()

    def update(self, reading: int, connection: int = 0) -> int:
        """The total after this reading.

        `connection` numbers the connection that it came over: what is less than before over a new one did not wrap, the
        board began at 0 again. So it did when it would have to have moved faster than a counter can: another client has
        reset it.
        """
        now = self._clock()
        moved = (reading - self._last) % _MODULUS
        possible = PER_SECOND * (now - self._read_at + BETWEEN_READINGS_S)
        if reading < self._last and (connection != self._connection or moved > possible):
            self.rebase()
            self.restarts += 1
            moved = reading
        self._connection = connection
        self._read_at = now
        self.total += moved
        self._last = reading
        return self.total

    def reset(self, reading: int = 0, connection: int = 0) -> None:
        """Begin at 0, where the board's counter shows `reading`."""
        self.total = 0
        self._last = reading
        self._connection = connection
        self._read_at = self._clock()

    def rebase(self) -> None:
        """The board's counter began at 0 again, by a reset or a power cycle; the total goes on."""
        self._last = 0
