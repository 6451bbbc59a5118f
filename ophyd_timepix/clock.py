"""The time base. One integer grid holds every time that a Timepix3 and a SPIDR board can state.

The tick is 25/96 ns (260.4167 ps), so that all wire units are whole numbers of ticks:

=======================  =============  ======  =======================================
unit                     length         ticks   source
=======================  =============  ======  =======================================
TDC stamp                260.4167 ps         1  SPIDR TDC, 12 stamps in 3.125 ns
fToA bin                 1.5625 ns           6  Timepix3 manual, 640 MHz oscillator
TDC counter              3.125 ns           12  SPIDR, 320 MHz
ToA count, timer count   25 ns              96  40 MHz matrix clock
=======================  =============  ======  =======================================

A 48-bit timer spans 2**48 * 96 = 2.7e16 ticks: exact in int64. int32 ticks last only 0.559 s; relative times
in fewer bits than 64 need a bound on the span of what they describe.

This module knows nothing of words, arrays or devices.
"""

from typing import Final

TICKS_PER_STAMP: Final = 1
TICKS_PER_FTOA: Final = 6
TICKS_PER_TDC_COUNT: Final = 12
TICKS_PER_COUNT: Final = 96
"""Ticks in 25 ns, the unit of ToA, of ToT and of the 48-bit timer ("count")."""

NS_PER_COUNT: Final = 25
TICK_NS: Final = 25 / 96
TICKS_PER_SECOND: Final = 3_840_000_000

HIT_TIME_BITS: Final = 30
"""ToA (14) and SPIDR time (16): a hit's time wraps after 2**30 counts = 26.8435456 s."""
TDC_TIME_BITS: Final = 32
"""The TDC time wraps after 2**32 counts = 107.3741824 s."""
TIMER_BITS: Final = 48

HIT_WRAP_TICKS: Final = (1 << HIT_TIME_BITS) * TICKS_PER_COUNT
TDC_WRAP_TICKS: Final = (1 << TDC_TIME_BITS) * TICKS_PER_COUNT


def ticks_to_ns(ticks: int) -> float:
    """Nanoseconds of a tick count. A whole count of 25 ns comes out exact."""
    return ticks * 25 / 96


def ns_to_ticks(ns: float) -> int:
    """The last tick at or before `ns` (a window of `ns` holds this many ticks)."""
    return int(ns * 96 // 25)


def seconds_to_ticks(seconds: float) -> int:
    """The tick nearest to `seconds`."""
    return round(seconds * TICKS_PER_SECOND)


def nearest_epoch(value: int, reference: int, period: int) -> int:
    """Extend `value`, known modulo `period`, to the number nearest to `reference`.

    Valid while the true value is within half a period of the reference: 13.4 s for hits, 53.7 s for TDC edges.
    """
    half = period >> 1
    return reference + ((value - reference + half) % period) - half
