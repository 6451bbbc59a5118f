"""How long an exposure still lasts.

Of N shots the pipeline knows each some tens of milliseconds late. The TDC's counter on the board knows it at once, but
boards differ in what it counts: so what a shot is worth on it is learnt from points.

Knows a recording only by the few questions that it asks.
"""

import math
import time
from typing import Final, Protocol

SHARES: Final = (1.0, 0.5)
"""Of the edges in the stream the counter takes all, or one of each pulse."""
FEW: Final = 3
"""By so many counts a point may disagree."""
FORGETS: Final = 0.8
"""What was learnt from a point counts so much less with each that follows."""
FINEST_S: Final = 0.001
UNKNOWN_S: Final = 0.01
"""How long to wait while nothing is known of the rate."""
SHARE: Final = 0.5
"""The counter is read again after this part of the time that seems to be left."""
PER_SHOT: Final = 10
"""At the end it is read so often in the time of a shot."""


class CountsPerShot:
    """What the TDC's counter moves by for a shot; None while nobody knows.

    It may take both edges or one, and those of the other input, too: 2 counts a shot, or 2.2 with another signal of a
    tenth of the rate. How many edges a shot has, the stream says; a point tells whether the counter takes them all.
    """

    def __init__(self) -> None:
        self.value: float | None = None
        self._trigger: object = None
        self._edges = self._shots = 0.0

    def of(self, trigger: object) -> None:
        """Shots come from this input and edge; what was learnt of another does not hold."""
        if trigger != self._trigger:
            self._trigger = trigger
            self._forget()

    def learn(self, counts: tuple[int, int], edges: int, shots: int) -> None:
        """A point had so many shots, and edges of all kinds, while the counter moved by (at least, at most) so much."""
        low, high = counts
        shares = [share for share in SHARES if low - FEW <= share * edges <= high + FEW]
        if not shots or not high or not shares:
            self._forget()
        elif len(shares) == 1:
            self._edges = FORGETS * self._edges + edges
            self._shots = FORGETS * self._shots + shots
            each = self._edges / self._shots
            exact = abs(edges - round(each) * shots) < round(each) and edges <= round(each) * shots
            self.value = shares[0] * (round(each) if exact else each)

    def needed(self, shots: int) -> float | None:
        """Counts after which there are surely so many shots; None while nobody knows. Between other edges one more."""
        value = self.value
        return None if value is None else value * shots + (0.0 if value * 2 == round(value * 2) else value + 1)

    def _forget(self) -> None:
        self.value = None
        self._edges = self._shots = 0.0


class Counting(Protocol):
    """What a pace asks of a recording."""

    counts_per_shot: CountsPerShot

    @property
    def tof_max_s(self) -> float | None: ...
    @property
    def shot_delay_s(self) -> float: ...
    def tdc_counts(self) -> int: ...


class Pace(Protocol):
    """How far an exposure is. Made while the shutter is still closed."""

    def begin(self, opened: float) -> None:
        """The shutter has opened, at this time of `time.monotonic`."""

    @property
    def shots(self) -> int:
        """Shots so far, as far as anybody knows; 0 where nobody counts."""

    def note_shots(self, shots: int) -> None:
        """The pipeline knows so many."""

    def look(self) -> tuple[float, float]:
        """(seconds that are left, as far as known; seconds until the next look). No time is left: it is over."""

    def close(self) -> None:
        """The shutter is about to close."""

    def end(self, edges: int, shots: int, counted: int) -> None:
        """It is over, and had so many edges at the TDC, and shots; the TDC's counter stands at `counted`."""


class TimePace:
    """An exposure of `seconds`; 0: without an end of its own."""

    shots = 0

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds or math.inf
        self._over_at = math.inf

    def begin(self, opened: float) -> None:
        self._over_at = opened + self._seconds

    def note_shots(self, shots: int) -> None: ...

    def look(self) -> tuple[float, float]:
        left = self._over_at - time.monotonic()
        return left, min(left, UNKNOWN_S)

    def close(self) -> None: ...

    def end(self, edges: int, shots: int, counted: int) -> None: ...


class ShotPace:
    """An exposure of `shots` whole shots.

    A shot is whole when the next has come, or after the longest time of flight where there is one. So without such a
    limit one trigger more is waited for.
    """

    def __init__(self, recording: Counting, shots: int) -> None:
        self.shots = 0
        self._recording = recording
        self._after_s = recording.tof_max_s
        self._delay_s = recording.shot_delay_s
        self._target = shots + (self._after_s is None)
        self._needed = recording.counts_per_shot.needed(self._target)
        self._before = self._first = self._last = recording.tdc_counts()
        self._began = self._look_at = time.monotonic()
        self._left = math.inf
        self._over_at: float | None = None

    def begin(self, opened: float) -> None:
        self._began = self._look_at = time.monotonic()
        self._first = self._last = self._recording.tdc_counts()

    def note_shots(self, shots: int) -> None:
        self.shots = max(self.shots, shots)
        if shots >= self._target:
            self._reached()

    def look(self) -> tuple[float, float]:
        now = time.monotonic()
        if self._needed is not None and self._over_at is None and now >= self._look_at:
            self._count(self._needed)
            now = time.monotonic()
        if self._over_at is not None:
            return self._over_at - now, self._over_at - now
        if self._needed is None:
            return math.inf, UNKNOWN_S
        return self._left, self._look_at - now

    def close(self) -> None:
        if self._needed is None or self._look_at > time.monotonic():
            self._last = self._recording.tdc_counts()

    def end(self, edges: int, shots: int, counted: int) -> None:
        counts = self._last - self._first, counted - self._before
        self._recording.counts_per_shot.learn(counts, edges, shots)

    def _count(self, needed: float) -> None:
        self._last = self._recording.tdc_counts()
        counts = self._last - self._first
        self.shots = max(self.shots, int(self._target * min(counts / needed, 1.0)))
        if counts >= needed:
            self._reached()
            return
        now = time.monotonic()
        elapsed = max(now - self._began, UNKNOWN_S)  # the rate of the first moments is not believed for long
        each_s = elapsed * needed / (counts * self._target) if counts else math.inf
        self._left = each_s * self._target * (1 - counts / needed)
        self._look_at = now + (
            max(min(self._left * SHARE, elapsed), each_s / PER_SHOT, FINEST_S) if counts else UNKNOWN_S
        )

    def _reached(self) -> None:
        if self._over_at is None:
            self._over_at = time.monotonic() + (self._after_s or 0.0) + self._delay_s
