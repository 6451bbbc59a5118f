"""32-bit counters of the board, made endless: at 80 Mhit/s one of pixel words wraps after 54 s."""

from typing import Final

_MODULUS: Final = 1 << 32


class UnwrappedCounter:
    """Adds up what a 32-bit counter moved between readings. Read it at least once per wrap."""

    def __init__(self) -> None:
        self.total = 0
        self._last = 0
        self._connection = 0

    def update(self, reading: int, connection: int = 0) -> int:
        """The total after this reading.

        `connection` numbers the connection that it came over: what is less than before over a new one did not wrap, the
        board began at 0 again.
        """
        if connection != self._connection and reading < self._last:
            self.rebase()
        self._connection = connection
        self.total += (reading - self._last) % _MODULUS
        self._last = reading
        return self.total

    def reset(self, reading: int = 0, connection: int = 0) -> None:
        """Begin at 0, where the board's counter shows `reading`."""
        self.total = 0
        self._last = reading
        self._connection = connection

    def rebase(self) -> None:
        """The board's counter began at 0 again, by a reset or a power cycle; the total goes on."""
        self._last = 0
