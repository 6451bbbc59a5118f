"""Where the two halves of the simulator meet: what the board tells and asks the data side, and the clock both read.

The board (`board.py`) calls `Streams`; the data side implements it. All calls come from one thread, in the order of the
commands. Times are 25 ns counts of the virtual clock, never later than its present. No socket and no word here.
"""

from dataclasses import dataclass
from typing import Protocol

from spidr_sim.faults import DataFault
from spidr_sim.settings import BiasRamp, ChipSettings, Readout


@dataclass(frozen=True)
class StreamCounters:
    """What was really sent, as running totals (the board cuts them to 32 bits, as its registers do)."""

    datagrams: int
    """UDP data datagrams of all chips."""
    pixel_words: tuple[int, ...]
    """Pixel words of each chip."""
    tdc_triggers: int
    """Edges that the TDC took."""
    paused_datagrams: int = 0
    """Datagrams that waited for the end of a pause."""


class Clock(Protocol):
    """The 48-bit timer that board and chips share."""

    def counts(self) -> int:
        """25 ns counts since the last restart."""
        ...

    def seconds(self) -> float:
        """Virtual seconds since the simulator began; they never restart."""
        ...

    def restart(self, at: int = 0) -> int:
        """Go on from `at` counts; returns the counts at that moment."""
        ...

    def seconds_until(self, counts: int) -> float:
        """Host seconds until the clock shows `counts`; 0 when it has."""
        ...


class Streams(Protocol):
    """The data side, as the board sees it."""

    def shutter(self, is_open: bool, at_counts: int) -> None:
        """The shutter opened or closed."""
        ...

    def readout(self, mode: Readout) -> None:
        """A read-out was started, or paused (`OFF`)."""
        ...

    def timer_request(self, chip: int, at_counts: int) -> None:
        """GET_TIMER: the chip answers in its stream too (0x44, 0x7144, 0x45, 0x7145)."""
        ...

    def timers_restarted(self, at_counts_before: int, at_counts_now: int = 0) -> None:
        """The timers stood at `at_counts_before` and went on from `at_counts_now`."""
        ...

    def destination(self, chip: int, address: str, port: int) -> None:
        """Datagrams of `chip` go to `address`:`port` from now on."""
        ...

    def chip(self, chip: int, settings: ChipSettings) -> None:
        """All settings of `chip`. While the shutter is open they act from the next millisecond on."""
        ...

    def bias(self, ramp: BiasRamp) -> None:
        """The bias of the sensor is on its way to another voltage."""
        ...

    def header_filter(self, chip: int, eth_mask: int) -> None:
        """Words of `chip` leave by UDP when bit k of `eth_mask` is set, k being their header nibble."""
        ...

    def fault(self, fault: DataFault) -> None:
        """Let it happen to the data from now on."""
        ...

    def clear_faults(self) -> None:
        """Nothing happens to the data any more."""
        ...

    def counters(self) -> StreamCounters:
        """Totals since the start or the last `reset_counters`."""
        ...

    def reset_counters(self) -> None:
        """Begin all totals at 0 again."""
        ...
