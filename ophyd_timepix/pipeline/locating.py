"""Where datagrams were lost on the way: between the board that counted them and this machine that did not.

A datagram carries no number, so what is missing shows only in sums. While an acquisition runs the board is asked now
and then how many it has sent. When it answers S, it had sent them at a moment between question and answer. Let R be the
number that had arrived before the question and R' the number some milliseconds after the answer, when all that were on
their way must have come. Then of the first S datagrams between S - R' and S - R are lost. The total is exact at the
end, when nothing is on its way any more. Losses only add up, so each bound holds for its neighbours too, and a stretch
between two readings may hide a loss only if the upper bound at its end exceeds the lower bound at its beginning.

Where more came than was sent (a datagram was doubled, a stranger sends), sums prove less: if they speak for both a loss
and a surplus, the loss may lie anywhere. Datagrams that were on their way for longer than those milliseconds look the
same, so that no such loss is counted; only its place is told. A loss and a surplus between the same two readings
cancel, and nothing shows.

So a reading settles what came before it if few datagrams are on their way: at a low rate, or in a pause. At a high rate
a small loss may lie anywhere in its acquisition, and that is what is told.

Pure: integers in, intervals out.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

JUMBO_WORDS: Final = 1125
"""Words in 9000 bytes."""


class Reading(NamedTuple):
    """An answer of the board, and what had arrived around it. All counts are of the same run."""

    sent: int
    arrived_before: int
    """Before the question."""
    arrived_after: int
    """When everything sent before the answer must have come."""
    low: int
    """An address that lies not after what arrived first after the question."""
    high: int
    """An address that lies not before what was sent before the answer."""


class Way(NamedTuple):
    """Datagrams since the run was opened, as the board and this machine count them, around an acquisition.

    It is compared from its own beginning: what came too late, or twice, of an earlier one plays no part.
    """

    sent_before: int
    arrived_before: int
    sent: int
    arrived: int
    words_before: int | None = None
    """Words of pixels among what was sent, ..."""
    words: int | None = None
    """at the end; None: the board was not asked."""
    paused_before: int | None = None
    """Datagrams that had waited on the board because its read-out was paused, ..."""
    paused: int | None = None
    """at the end."""

    @property
    def sent_words(self) -> int | None:
        """Words of pixels that the board sent in this acquisition."""
        return None if self.words is None or self.words_before is None else self.words - self.words_before

    @property
    def missing(self) -> int:
        """Datagrams that were sent and have not arrived; negative: more came than was sent."""
        return (self.sent - self.sent_before) - (self.arrived - self.arrived_before)


class Strays(NamedTuple):
    """What came between two acquisitions, against what the board sent there."""

    too_many: int = 0
    """Datagrams that came: doubled, a stranger's, or later than the end of the acquisition waited for them."""
    lost: int = 0
    """Datagrams that were sent and did not come."""
    sent: int = 0
    """Datagrams that were sent."""

    @classmethod
    def between(cls, sent: int, expected: int, came_before: int, came_after: int) -> "Strays":
        """expected: datagrams that should have arrived when the board was asked; before that and after so many had."""
        return cls(max(0, came_before - expected), max(0, expected - came_after), sent)


class Place(NamedTuple):
    """Addresses [low, high] of a recording between which datagrams are missing."""

    low: int
    high: int
    least: int
    """Datagrams that certainly were lost here."""
    most: int


def unexplained(missing: int, lost: int, surplus: int, largest: int) -> int:
    """Of words that are missing (negative: too many), those beyond what datagrams may have held.

    So many datagrams are lost or too many; the largest that came has so many words, and one that did not may have had
    as many as a frame of the network takes. It holds for an acquisition only, at whose ends all counters stand still:
    the board may count words, at a reading in between, that wait in it for their datagram to be full.
    """
    largest = max(largest, JUMBO_WORDS)
    return missing - min(max(missing, -surplus * largest), lost * largest)


def places(begin: Reading, readings: Sequence[Reading], end: Reading) -> list[Place]:
    """Where datagrams may have been lost between `begin` and `end`, at both of which nothing was on its way.

    The list is empty when nothing was lost in between. Neighbouring stretches are joined.
    """
    base = begin.sent - begin.arrived_after
    points = [begin, *readings, end]
    most = np.array([point.sent - point.arrived_before - base for point in points])
    least = np.minimum([point.sent - point.arrived_after - base for point in points], most)
    least[0] = most[0] = 0
    least[-1] = most[-1] = total = end.sent - end.arrived_after - base
    certain = _largest_rise(most, least)
    if certain <= 0:
        return []
    if _largest_rise(-least, -most) > 0:
        return [Place(begin.low, end.high, max(0, total), max(certain, total))]
    least = np.clip(np.maximum.accumulate(least), 0, total)
    most = np.clip(np.minimum.accumulate(most[::-1])[::-1], least, total)
    found: list[Place] = []
    for k in range(len(points) - 1):
        if most[k + 1] <= least[k]:
            continue
        first = k
        if found and found[-1].high >= points[k].low:
            first = _first_of(points, found.pop().low)
        certain = max(0, int(least[k + 1] - most[first]))
        found.append(Place(points[first].low, points[k + 1].high, certain, int(most[k + 1] - least[first])))
    return found


def _largest_rise(upper: npt.NDArray[np.int64], lower: npt.NDArray[np.int64]) -> int:
    """How much a sum that lies between the bounds certainly rises from an earlier to a later point."""
    return int((lower[1:] - np.minimum.accumulate(upper)[:-1]).max())


def _first_of(points: Sequence[Reading], low: int) -> int:
    return next(k for k, point in enumerate(points) if point.low == low)
