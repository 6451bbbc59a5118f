"""From triggers to shots: the period that they should keep, missing ones put in, pre-scale, delay. In this order.

All rules are functions of the triggers in time order, never of how the stream is cut. Knows no hit.
"""

import math
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from ..clock import NS_PER_COUNT, TICKS_PER_COUNT, TICKS_PER_SECOND
from ..config import MissingTriggers, Processing
from .validity import FOREVER

INFERRED_MAX: Final = 8
"""Missing triggers in a row that are put in; more are a pause."""
INFERRED_SPAN_TICKS: Final = TICKS_PER_SECOND
"""1 s between the triggers around them; longer is a pause. Hits wait so long at most to know their shots."""
_EARLIEST: Final = 0.75
"""No missing trigger is put in earlier than this many periods after the one before: of 1.5 periods the half."""

Ints = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]

_NONE: Final = np.zeros(0, np.int64)


class Judged(NamedTuple):
    """What is wrong between triggers."""

    spans: list[tuple[int, int]]
    """Times that no valid shot touches."""
    added: Ints
    """Missing triggers to put in, ascending."""


class Irregular(NamedTuple):
    """Triggers that are missing, or one that came too early."""

    missing: bool
    """False: it came within half a period of the one before."""
    amount: int
    low_ticks: int
    high_ticks: int

    def moved(self, ticks: int) -> "Irregular":
        """The same on another line of times. What has no end keeps none."""
        low, high = (one if abs(one) >= FOREVER else one + ticks for one in self[2:])
        return self._replace(low_ticks=low, high_ticks=high)


class Rhythm:
    """Triggers against the period that they should keep. infers: missing ones are put in, if they are not too many."""

    def __init__(self, period_ticks: float | None, *, infers: bool = False) -> None:
        self._period = period_ticks
        self._infers = infers
        self.missing = 0
        """Triggers so far that should have come: between others, before the first and behind the last."""
        self.double = 0
        """Triggers so far that came within half a period of the one before."""
        self.inferred = 0
        """Missing ones so far that were put in."""
        self.found: list[Irregular] = []
        """What was missing or double, in the order of time but for what is missing before the first; for `take_found`
        of `ShotTriggers`.
        """

    def judge(self, triggers: Ints) -> Judged:
        """What is wrong between consecutive `triggers`; the first was judged before."""
        if self._period is None or len(triggers) < 2:
            return Judged([], _NONE)
        periods = np.diff(triggers) / self._period
        missing = np.maximum(np.floor(periods + 0.5).astype(np.int64) - 1, 0)
        double = periods < 0.5
        self.missing += int(missing.sum())
        self.double += int(np.count_nonzero(double))
        spans = [(int(triggers[k]), int(triggers[k + 1])) for k in np.flatnonzero(double)]
        self.found += [Irregular(False, 1, low, high) for low, high in spans]
        added: list[int] = []
        for k in np.flatnonzero(missing):
            first, last, n = int(triggers[k]), int(triggers[k + 1]), int(missing[k])
            pause = (last - first) / (n + 1)
            if self._infers and n <= INFERRED_MAX and last - first <= INFERRED_SPAN_TICKS:
                between = [first + int(pause * i) for i in range(1, n + 1)]
                spans += [(tick, tick) for tick in between]
                self.found += [Irregular(True, 1, tick, tick) for tick in between]
                added += between
            else:
                spans.append((first + int(pause), last - int(pause)))
                self.found.append(Irregular(True, n, *spans[-1]))
        self.inferred += len(added)
        return Judged(spans, np.array(added, np.int64))

    def judge_ends(self, opened: int | None, first: int | None, last: int | None, closed: int | None) -> bool:
        """What is missing before the first trigger of an acquisition and behind its last. True: some are, behind it.

        opened, closed: ticks between which the shutter was open, where they are known. Of an acquisition without any
        trigger one is missing at least, unless it is known to be shorter than they may be apart.
        """
        if self._period is None:
            return False
        no_earlier = -FOREVER if opened is None else opened
        if first is None or last is None:
            n = 1 if opened is None or closed is None else self._within(opened, closed)
            self._miss(n, no_earlier, FOREVER if closed is None else closed)
            return False
        self._miss(self._within(opened, first), no_earlier, first - int(self._period))
        behind = self._within(last, closed)
        self._miss(behind, last + int(self._period), FOREVER)
        return behind > 0

    def _miss(self, n: int, low: int, high: int) -> None:
        self.missing += n
        if n:
            self.found.append(Irregular(True, n, low, max(low, high)))

    def _within(self, begin: int | None, end: int | None) -> int:
        """Triggers that should have come between two ticks, one of which may be a trigger."""
        if self._period is None or begin is None or end is None:
            return 0
        return max(0, math.floor((end - begin) / self._period - 0.5))


class Openings(NamedTuple):
    """Shots that open, in the order of time."""

    ticks: Ints
    inferred: Flags
    spans: list[tuple[int, int]]
    """Times, on the line of the shots, that no valid shot touches."""


class ShotTriggers:
    """Those of one time line. Feed it the triggers as they become final; it says which shots open, and when.

    The first trigger of an acquisition opens a shot, and after it every `trigger_prescale`-th, put-in ones counted. A
    shot opens `trigger_delay_ns` after its trigger.
    """

    def __init__(self, processing: Processing) -> None:
        period = processing.trigger_period_ns
        self._period = None if period is None else period * TICKS_PER_COUNT / NS_PER_COUNT
        self.infers: Final = processing.missing_triggers is MissingTriggers.INFER
        self._prescale = processing.trigger_prescale
        self.delay_ticks: Final = round(processing.trigger_delay_ns * TICKS_PER_COUNT / NS_PER_COUNT)
        self.rhythm = Rhythm(self._period, infers=self.infers)
        self._pause = 0
        if self.infers and self._period is not None:
            self._pause = min(math.ceil((INFERRED_MAX + 1.5) * self._period), INFERRED_SPAN_TICKS) + 1
        self.restart()

    def restart(self) -> None:
        """The beginning of an acquisition."""
        self._first: int | None = None
        self._last: int | None = None
        self._counted = 0
        self.decided = -FOREVER
        """No shot that `take` did not tell of yet opens before this tick."""

    @property
    def has_begun(self) -> bool:
        """Has a trigger of this acquisition come?"""
        return self._last is not None

    @property
    def reach_ticks(self) -> int:
        """By how much triggers have to be known ahead of hits whose shots are to be decided."""
        return max(0, -self.delay_ticks) + self._pause

    def take(self, triggers: Ints, until: int) -> Openings:
        """The next triggers, in time order; no later one will come before the tick `until`."""
        if len(triggers) == 0 or (self._period is None and self._prescale == 1):
            self._last = int(triggers[-1]) if len(triggers) else self._last
            self._decide(until)
            opened = triggers + self.delay_ticks if self.delay_ticks else triggers
            return Openings(opened, np.zeros(len(triggers), np.bool_), [])
        line = triggers if self._last is None else np.concatenate([np.array([self._last], np.int64), triggers])
        spans, added = self.rhythm.judge(line)
        ticks, inferred = _merged(triggers, added)
        numbers = self._counted + np.arange(len(ticks))
        self._counted += len(ticks)
        self._first = int(triggers[0]) if self._first is None else self._first
        self._last = int(triggers[-1])
        self._decide(until)
        opens = numbers % self._prescale == 0
        delay = self.delay_ticks
        return Openings(ticks[opens] + delay, inferred[opens], [(low + delay, high + delay) for low, high in spans])

    def end(self, opened: int | None, closed: int | None) -> list[tuple[int, int]]:
        """There are no more triggers. opened, closed: ticks between which the shutter was open, where they are known.

        Returns times, on the line of the shots, that no valid shot touches. What is missing there is never put in.
        """
        last = self._last
        if not self.rhythm.judge_ends(opened, self._first, last, closed) or last is None or self._period is None:
            return []
        return [(last + int(self._period) + self.delay_ticks, FOREVER)]

    def take_found(self) -> list[Irregular]:
        """What was missing or double since the last call, on the line of the shots."""
        found, self.rhythm.found = self.rhythm.found, []
        return [one.moved(self.delay_ticks) for one in found]

    def _decide(self, until: int) -> None:
        known = until
        if self.infers and self._period is not None and self._last is not None and until < self._last + self._pause:
            known = min(until, self._last + math.floor(_EARLIEST * self._period) - 1)
        self.decided = FOREVER if until >= FOREVER else known + self.delay_ticks


def _merged(triggers: Ints, added: Ints) -> tuple[Ints, Flags]:
    """Both in the order of time, and which are added."""
    if not len(added):
        return triggers, np.zeros(len(triggers), np.bool_)
    ticks = np.concatenate([triggers, added])
    order = np.argsort(ticks, kind="stable")
    inferred: Flags = order >= len(triggers)
    return ticks[order], inferred
