"""The shutter of the simulated board: modes, openings in virtual time or by an external signal, counts.

Mode 4 (auto) opens `count` times at the set frequency for the set length, or with length 0 until it is stopped. Mode 6
opens until it is stopped. Modes 0 to 3 follow the external signal between start and stop; 2 and 3 after the delay, for
the set length. Mode 5 opens at the start and closes after `count` rising edges. Times are 25 ns counts. It knows no
socket and no command.

Simplified, for no source says it: the external modes act only after AUTOTRIG_START; the delay holds where a timer
closes the shutter.
"""

from collections.abc import Callable
from typing import Final

from ophyd_timepix.protocol import Setting, TriggerMode
from ophyd_timepix.protocol.commands import TRIGGER_MODES
from ophyd_timepix.protocol.registers import SHUTTER_CLOCK_HZ

COUNTS_PER_US: Final = 40
NS_PER_COUNT: Final = 25
DEFAULT_WORDS: Final = (TriggerMode.AUTO.code, 0, 10, 1, 0)
"""Mode, length (us), frequency (Hz), count, delay (ns)."""

_OPENS_AT: Final = {
    TriggerMode.EXTERNAL_RISING_FALLING: True,
    TriggerMode.EXTERNAL_FALLING_RISING: False,
    TriggerMode.EXTERNAL_RISING_TIMER: True,
    TriggerMode.EXTERNAL_FALLING_TIMER: False,
}
"""The level of the external signal that opens."""
_TIMED: Final = (TriggerMode.EXTERNAL_RISING_TIMER, TriggerMode.EXTERNAL_FALLING_TIMER)


def _check(setting: Setting, value: int) -> None:
    low, high = setting.limits
    if not low <= value <= high:
        raise ValueError(f"{setting.name} is {low:g} to {high:g} {setting.unit}, not {value}")


class Shutter:
    """`moved(is_open, at_counts)` is called at each edge."""

    def __init__(self, moved: Callable[[bool, int], None]) -> None:
        self._moved = moved
        self.configure(DEFAULT_WORDS)
        self.is_open = False
        self.openings = 0
        self.external_openings = 0
        self.opened_at = 0
        self.closed_at = 0
        self._close_at: int | None = None
        self._open_at = 0
        self._remaining = 0
        self._started: TriggerMode | None = None
        """The mode in which it was started; None: it is stopped."""
        self._level = False
        self._pulses = 0

    # --- the settings -------------------------------------------------------------------------------------------------
    @property
    def words(self) -> tuple[int, int, int, int, int]:
        """Mode, length (us), frequency (Hz), count, delay (ns): as GET_TRIGCONFIG says them."""
        return self.mode.code, self._length_us, self._frequency_hz, self.count, self._delay_ns

    def configure(self, words: tuple[int, ...]) -> None:
        """The words of SET_TRIGCONFIG, four or five. Raises ValueError for a mode or frequency that cannot be."""
        mode, length_us, frequency_hz, count, *delay = words
        if mode not in TRIGGER_MODES:
            raise ValueError(f"there is no shutter mode {mode}")
        _check(Setting.SHUTTER_FREQUENCY, frequency_hz)
        _check(Setting.SHUTTER_LENGTH, length_us)
        self.mode = TRIGGER_MODES[mode]
        self.count = count
        self.set_length(length_us * COUNTS_PER_US)
        self.set_period(SHUTTER_CLOCK_HZ // frequency_hz)
        self.set_delay((delay[0] if delay else 0) // NS_PER_COUNT)
        # As they were said: their registers hold them in other units, rounded.
        self._length_us, self._frequency_hz, self._delay_ns = length_us, frequency_hz, delay[0] if delay else 0

    def set_mode(self, code: int) -> None:
        """Raises ValueError for a code that no mode has."""
        if code not in TRIGGER_MODES:
            raise ValueError(f"there is no shutter mode {code}")
        self.mode = TRIGGER_MODES[code]

    def set_length(self, counts: int) -> None:
        """How long an opening lasts; 0: until stopped."""
        self.length_counts, self._length_us = counts, counts // COUNTS_PER_US

    def set_period(self, counts: int) -> None:
        """From opening to opening. Raises ValueError for 0."""
        if counts < 1:
            raise ValueError("the shutter period is 1 count (25 ns) or more, not 0")
        self.period_counts, self._frequency_hz = counts, SHUTTER_CLOCK_HZ // counts

    def set_delay(self, counts: int) -> None:
        """From the start, or the signal, to the opening."""
        self.delay_counts, self._delay_ns = counts, counts * NS_PER_COUNT

    # --- the life -----------------------------------------------------------------------------------------------------
    def start(self, now: int) -> None:
        """AUTOTRIG_START."""
        self.stop(now)
        self._started = self.mode
        if self.mode is TriggerMode.OPEN:
            self._open(now, None)
        elif self.mode is TriggerMode.PULSE_COUNTER:
            self._pulses = 0
            self._open(now, None)
        elif self.mode is TriggerMode.AUTO:
            self._plan(now, self.count if self.length_counts else 1)

    def stop(self, now: int) -> None:
        """AUTOTRIG_STOP: closes, and forgets the openings to come."""
        self._remaining = 0
        self._started = None
        if self.is_open:
            self._close(now)

    def signal(self, level: bool, now: int) -> None:
        """The external signal goes up (True) or down. The same level again is no edge."""
        self.advance(now)
        if level == self._level:
            return
        self._level = level
        if self._started is TriggerMode.PULSE_COUNTER:
            self._count_pulse(level, now)
        elif self._started in _OPENS_AT:
            self._follow(level is _OPENS_AT[self._started], now)

    def advance(self, now: int) -> None:
        """Do what is due by `now`."""
        while (due := self.next_due) is not None and due <= now:
            if self.is_open:
                self._close(due)
            else:
                self._open_next(due)

    @property
    def next_due(self) -> int | None:
        """When the shutter moves next by itself."""
        if self.is_open:
            return self._close_at
        return self._open_at if self._remaining else None

    def timers_restarted(self, before: int, now: int) -> None:
        """The clock stood at `before` and went on from `now`."""
        self._open_at += now - before
        if self._close_at is not None:
            self._close_at += now - before

    def reset_counters(self) -> None:
        """RESET_COUNTERS."""
        self.openings = self.external_openings = 0

    def _follow(self, opens: bool, now: int) -> None:
        if self._started in _TIMED:
            if opens and not self.is_open and not self._remaining:
                self.external_openings += 1
                self._plan(now, 1)
        elif opens:
            self.external_openings += 1
            self._open(now, None)
        elif self.is_open:
            self._close(now)

    def _count_pulse(self, level: bool, now: int) -> None:
        self._pulses += level
        if self.is_open and self._pulses >= max(self.count, 1):
            self._close(now)

    def _plan(self, now: int, openings: int) -> None:
        self._open_at = now + self.delay_counts
        self._remaining = openings
        self.advance(now)

    def _open_next(self, at: int) -> None:
        self._remaining -= 1
        length = self.length_counts
        self._open_at = max(at + self.period_counts, at + length)
        self._open(at, at + length if length else None)

    def _open(self, at: int, close_at: int | None) -> None:
        self.is_open = True
        self.openings += 1
        self.opened_at = at
        self._close_at = close_at
        self._moved(True, at)

    def _close(self, at: int) -> None:
        self.is_open = False
        self.closed_at = at
        self._close_at = None
        self._moved(False, at)
