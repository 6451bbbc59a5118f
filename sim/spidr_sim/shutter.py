"""The shutter of the simulated board: modes, automatic openings in virtual time, counts.

Mode 4 (auto) opens `count` times at the set frequency for the set length, or with length 0 until it is stopped. Mode 6
opens until it is stopped. The other modes wait for an external signal, which never comes here. Times are 25 ns counts.
It knows no socket and no command.
"""

from collections.abc import Callable
from typing import Final

from ophyd_timepix.protocol import TriggerMode
from ophyd_timepix.protocol.registers import SHUTTER_CLOCK_HZ

COUNTS_PER_US: Final = 40
NS_PER_COUNT: Final = 25
DEFAULT_WORDS: Final = (TriggerMode.AUTO.code, 0, 10, 1, 0)
"""Mode, length (us), frequency (Hz), count, delay (ns)."""


class Shutter:
    """`moved(is_open, at_counts)` is called at each edge."""

    def __init__(self, moved: Callable[[bool, int], None]) -> None:
        self._moved = moved
        self.words = DEFAULT_WORDS
        self.is_open = False
        self.openings = 0
        self.opened_at = 0
        self.closed_at = 0
        self._close_at: int | None = None
        self._open_at = 0
        self._remaining = 0

    # --- the settings, also as the registers hold them ----------------------------------------------------------------
    @property
    def mode(self) -> int:
        """Code of the TriggerMode."""
        return self.words[0]

    @property
    def length_counts(self) -> int:
        """How long an opening lasts; 0: until stopped."""
        return self.words[1] * COUNTS_PER_US

    @property
    def period_counts(self) -> int:
        """From opening to opening."""
        return SHUTTER_CLOCK_HZ // self.words[2]

    @property
    def count(self) -> int:
        """Number of openings."""
        return self.words[3]

    @property
    def delay_counts(self) -> int:
        """From the start to the first opening."""
        return self.words[4] // NS_PER_COUNT

    def configure(self, words: tuple[int, ...]) -> None:
        """The words of SET_TRIGCONFIG, four or five. Raises ValueError for a mode or frequency that cannot be."""
        mode, length_us, frequency_hz, count, *delay = words
        if mode not in {known.code for known in TriggerMode}:
            raise ValueError(f"there is no shutter mode {mode}")
        if not 0 < frequency_hz <= SHUTTER_CLOCK_HZ:
            raise ValueError(f"the shutter frequency is 1 to {SHUTTER_CLOCK_HZ} Hz, not {frequency_hz}")
        self.words = (mode, length_us, frequency_hz, count, delay[0] if delay else 0)

    # --- the life -----------------------------------------------------------------------------------------------------
    def start(self, now: int) -> None:
        """AUTOTRIG_START."""
        self.stop(now)
        if self.mode == TriggerMode.OPEN.code:
            self._open(now, None)
        elif self.mode == TriggerMode.AUTO.code:
            self._open_at = now + self.delay_counts
            self._remaining = self.count if self.length_counts else 1
            self.advance(now)

    def stop(self, now: int) -> None:
        """AUTOTRIG_STOP: closes, and forgets the openings to come."""
        self._remaining = 0
        if self.is_open:
            self._close(now)

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

    def timers_restarted(self, before: int) -> None:
        """The clock stood at `before` and began at 0 again."""
        self._open_at -= before
        if self._close_at is not None:
            self._close_at -= before

    def reset_counters(self) -> None:
        """RESET_COUNTERS."""
        self.openings = 0

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
