"""The virtual clock: the 48-bit, 25 ns timer that board and chips share.

It follows the host's monotonic clock (times `speed`) from its last restart. A source that cannot keep up may hold it
back (`hold_at`): it then stands still until the source has caught up, and is late from then on, but between restarts it
never jumps, never runs backwards, and nothing is skipped.

It knows no word, no socket and no scene.
"""

import math
import threading
import time
from collections.abc import Callable
from typing import Final

from ophyd_timepix.clock import NS_PER_COUNT

_NS_PER_SECOND: Final = 1_000_000_000


class VirtualClock:
    """25 ns counts since the last restart. `lock` lets several readings and what follows from them be one step."""

    def __init__(self, host_ns: Callable[[], int] = time.monotonic_ns, speed: float = 1.0) -> None:
        if not 0 < speed < math.inf:
            raise ValueError(f"the clock's speed must be above 0 and finite, not {speed}")
        self.lock = threading.RLock()
        self._host_ns = host_ns
        self._counts_per_ns = speed / NS_PER_COUNT
        self._limit: int | None = None
        self._slipped = 0
        self._base_ns = host_ns()
        self._base_counts = 0
        self._zero = 0
        """What counts of all restarts together stood at when the timer stood at 0 (or would have)."""

    def counts(self) -> int:
        """The present, never before an earlier answer and never beyond the limit."""
        with self.lock:
            now_ns = self._host_ns()
            counts = self._base_counts + int((now_ns - self._base_ns) * self._counts_per_ns)
            if self._limit is None or counts <= self._limit:
                return counts
            self._slipped += counts - self._limit
            self._rebase(now_ns, self._limit)
            return self._limit

    def seconds(self) -> float:
        """Virtual seconds since the clock was made: it goes on through restarts, and stands while the clock is held."""
        with self.lock:
            return (self._zero + self.counts()) * NS_PER_COUNT / _NS_PER_SECOND

    def seconds_at_zero(self) -> float:
        """`seconds` at the moment at which the timer stood at 0, or would have."""
        with self.lock:
            return self._zero * NS_PER_COUNT / _NS_PER_SECOND

    def restart(self, at: int = 0) -> int:
        """Go on from `at` counts. Returns the counts at that moment."""
        with self.lock:
            before = self.counts()
            self._limit = None
            self._zero += before - at
            self._rebase(self._host_ns(), at)
            return before

    def hold_at(self, limit: int | None) -> None:
        """Let the clock run up to `limit` counts and wait there; None sets it free."""
        with self.lock:
            present = self.counts()
            self._limit = None if limit is None else max(limit, present)

    def seconds_until(self, counts: int) -> float:
        """Host seconds until the clock shows `counts`; 0 when it has."""
        missing = counts - self.counts()
        return max(0.0, missing / self._counts_per_ns / _NS_PER_SECOND)

    @property
    def slipped_seconds(self) -> float:
        """How much later than the host's clock this one is by now, in its own seconds."""
        return self._slipped * NS_PER_COUNT / _NS_PER_SECOND

    def _rebase(self, now_ns: int, counts: int) -> None:
        self._base_ns = now_ns
        self._base_counts = counts
