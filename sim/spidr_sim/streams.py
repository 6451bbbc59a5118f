"""Where the two halves of the simulator meet: what the board tells and asks the data side, and the clock both read.

The board (`board.py`) calls `Streams`; the data side implements it. All calls come from one thread, in the order of the
commands. Times are 25 ns counts of the virtual clock, never later than its present. No socket and no word here.
"""

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class StreamCounters:
    """What was really sent, as running totals (the board cuts them to 32 bits, as its registers do)."""

    datagrams: int
    """UDP data datagrams of all chips."""
    pixel_words: tuple[int, ...]
    """Pixel words of each chip."""
    tdc_triggers: int
    """Edges that the TDC took."""


class Clock(Protocol):
    """The 48-bit timer that board and chips share."""

    def counts(self) -> int:
        """25 ns counts since the last restart."""
        ...

    def restart(self) -> int:
        """Begin at 0 again; returns the counts at that moment."""
        ...

    def seconds_until(self, counts: int) -> float:
        """Host seconds until the clock shows `counts`; 0 when it has."""
        ...


class Streams(Protocol):
    """The data side, as the board sees it."""

    def shutter(self, is_open: bool, at_counts: int) -> None:
        """The shutter opened or closed."""
        ...

    def readout(self, enabled: bool) -> None:
        """Data-driven read-out was started, or paused."""
        ...

    def timer_request(self, chip: int, at_counts: int) -> None:
        """GET_TIMER: the chip answers in its stream too (0x44, 0x7144, 0x45, 0x7145)."""
        ...

    def timers_restarted(self, at_counts_before: int) -> None:
        """The timers began at 0 again, when they stood at `at_counts_before`."""
        ...

    def destination(self, chip: int, address: str, port: int) -> None:
        """Datagrams of `chip` go to `address`:`port` from now on."""
        ...

    def pll(self, chip: int, word: int) -> None:
        """The PLL word of `chip`: it sets the column phases of the words."""
        ...

    def counters(self) -> StreamCounters:
        """Totals since the start or the last `reset_counters`."""
        ...

    def reset_counters(self) -> None:
        """Begin all totals at 0 again."""
        ...
