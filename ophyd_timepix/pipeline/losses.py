"""What was lost, and which time it may have touched: followed slice by slice in the decode process.

A loss that stands in the stream (the kernel dropped datagrams, one was no whole words) lies between two words of its
chip. A lost word may be older than the newest that came before it, by the lateness bound; and as what comes after may
be late by as much, a lost word may be newer than that, too. What was lost on the way shows at the end of the
acquisition only; see `locating`.

Knows no process and no file.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from ..clock import TICKS_PER_COUNT, TICKS_PER_SECOND
from ..decode import kernels as k
from ..decode.counts import Mark
from ..decode.decoder import SKEW_TICKS
from ..events.validity import Gap
from ..spool.index import Loss, Poll
from ..spool.sources import Slice
from .locating import Reading, Way, places

ALWAYS: Final = 1 << 62
"""Ticks: no word is this far from zero."""
READINGS_MAX: Final = 4096
"""Readings that are kept: of more, every second is forgotten."""
CHUNKS_WAITED: Final = 64
"""Chunks of other chips after which a chip that is silent is not waited for."""
FINE_TICKS: Final = 2 * TICKS_PER_COUNT
"""Column phase and fToA move a hit by less than this from its coarse time."""
NEAR_TICKS: Final = TICKS_PER_SECOND // 1000
SPANS_MAX: Final = 10_000
"""Spans that are told one by one; further ones are joined to the last of their kind."""

Ints = npt.NDArray[np.int64]


class LossSpan(NamedTuple):
    """A time of which something may be missing."""

    cause: str
    """'kernel', 'malformed', 'unrecorded' (datagrams), 'way' (datagrams at most), 'tdc' (edges), 'late' (words),
    'epoch' (silences of unknown length)."""
    chip: int
    """-1: any."""
    amount: int
    low_ticks: int
    high_ticks: int

    def joined(self, other: "LossSpan") -> "LossSpan":
        """One span of both, which are of one cause and chip."""
        return self._replace(
            amount=self.amount + other.amount,
            low_ticks=min(self.low_ticks, other.low_ticks),
            high_ticks=max(self.high_ticks, other.high_ticks),
        )


@dataclass
class _Open:
    """A loss whose end in time is not known yet."""

    loss: Loss
    low: int
    known: int
    """The newest time before it."""
    chunks: int = 0
    """Chunks since."""


@dataclass
class _Mark:
    """A place in the stream where the board was read, and the times around it."""

    reading: Reading
    low_ticks: int
    high_ticks: int = ALWAYS


class Losses:
    """Those of one acquisition. `invalidate(low, high)` is told of each loss before the words behind it are built."""

    def __init__(self, start: int, lateness_ticks: int, invalidate: Callable[[int, int], None]) -> None:
        self._start = start
        self._lateness = lateness_ticks + FINE_TICKS
        self._invalidate = invalidate
        self._open: list[_Open] = []
        self._unanswered: _Mark | None = None
        self._marks: list[_Mark] = []
        self._spans: list[LossSpan] = []
        self._last: dict[tuple[str, int], int] = {}
        """Place of the last span of each cause and chip: what touches it joins it."""
        self.lost_on_the_way = 0
        """Datagrams that certainly were; known after `spans`."""
        self._late: LossSpan | None = None

    @property
    def waiting(self) -> bool:
        """Does something want to know the next time that comes?"""
        return bool(self._open) or self._unanswered is not None

    def before(self, piece: Slice, newest: Ints, horizon: int) -> None:
        """What stands before the words of a slice. newest: time of each chip so far (ticks)."""
        for loss in piece.losses:
            known = int(newest[loss.chip]) if 0 <= loss.chip < len(newest) else horizon + self._lateness
            self._open.append(_Open(loss, max(known - self._lateness, -ALWAYS), known))
        if piece.poll is not None:
            poll, low = piece.poll, self._begin_of(piece.poll, piece.address)
            reading = Reading(poll.sent, poll.arrived_before, poll.arrived_after, low, piece.address)
            self._unanswered = _Mark(reading, max(horizon, -ALWAYS))
            self._marks.append(self._unanswered)
            if len(self._marks) > READINGS_MAX:
                del self._marks[1::2]

    def _begin_of(self, poll: Poll, address: int) -> int:
        """The last address that is known to lie before what arrived after the question."""
        if poll.arrived_after <= poll.arrived_before:
            return address
        earlier = (m.reading.high for m in reversed(self._marks) if m.reading.arrived_after <= poll.arrived_before)
        return next(earlier, self._start)

    def after(self, newest: Ints, reached: Ints | None = None) -> None:
        """A chunk was decoded: what waited for a later time of its chip has its end.

        reached: the same with words that the decoder holds until the next one confirms them; those of a sparse stream.
        A chip that stays silent is not waited for long: chips are never apart by more than the skew.
        """
        reached = newest if reached is None else reached
        if self._unanswered is not None:
            self._unanswered.high_ticks = int(reached.max()) + self._lateness
            self._unanswered = None
        still_open = []
        for one in self._open:
            one.chunks += 1
            chip = one.loss.chip
            chips = slice(chip, chip + 1) if 0 <= chip < len(newest) else slice(None)
            if int(newest[chips].max()) > one.known:
                self._close(one, int(reached[chips].max()) + self._lateness)
            elif one.chunks >= CHUNKS_WAITED:
                self._close(one, int(reached.max()) + SKEW_TICKS + self._lateness)
            else:
                still_open.append(one)
        self._open = still_open

    def _close(self, one: "_Open", high: int) -> None:
        self._invalidate(one.low, high)
        self._add(LossSpan(one.loss.cause, one.loss.chip, one.loss.datagrams, one.low, high))

    def _add(self, span: LossSpan) -> None:
        last = self._last.get((span.cause, span.chip))
        if last is None or (len(self._spans) < SPANS_MAX and span.low_ticks > self._spans[last].high_ticks):
            self._last[span.cause, span.chip] = len(self._spans)
            self._spans.append(span)
            return
        self._spans[last] = self._spans[last].joined(span)

    def late(self, ticks: Ints) -> None:
        """Words that came too late for their shots: those that lie near each other make one span."""
        for tick in ticks.tolist():
            word, group = LossSpan("late", -1, 1, tick, tick), self._late
            if group is not None and group.low_ticks - NEAR_TICKS <= tick <= group.high_ticks + NEAR_TICKS:
                self._late = group.joined(word)
                continue
            if group is not None:
                self._add(group)
            self._late = word

    def epochs(self, marks: Ints) -> None:
        """Silences of which nothing tells how long they were: shots that last into them are not valid."""
        for mark in marks[marks[:, k.M_KIND] == Mark.EPOCH].tolist():
            low, high = mark[k.M_BEFORE] * TICKS_PER_COUNT, mark[k.M_AFTER] * TICKS_PER_COUNT - FINE_TICKS
            self._invalidate(low, high)
            self._add(LossSpan("epoch", -1, 1, low, high))

    def gaps(self, found: list[Gap]) -> None:
        """Edges are missing; the builder knows it already."""
        for gap in found:
            self._add(LossSpan("tdc", -1, gap.missing, gap.low_ticks, gap.high_ticks))

    def end(self) -> None:
        """No more words: what still waits lasts to the end of the acquisition. Before the last shots are closed."""
        for one in self._open:
            self._close(one, ALWAYS)
        self._open.clear()

    def spans(self, way: Way | None, stop: int) -> list[LossSpan]:
        """All of them in the order of time, with what was lost on the way if that is known. stop: the last address."""
        if self._late is not None:
            self._add(self._late)
            self._late = None
        if way is not None:
            self._place(way, stop)
        return sorted(self._spans, key=lambda span: (span.low_ticks, span.high_ticks, span.cause, span.chip))

    def _place(self, way: Way, stop: int) -> None:
        begin = Reading(way.sent_before, way.arrived_before, way.arrived_before, self._start, self._start)
        end = Reading(way.sent, way.arrived, way.arrived, stop, stop)
        for place in places(begin, [mark.reading for mark in self._marks], end):
            self.lost_on_the_way += place.least
            low = next((m.low_ticks for m in reversed(self._marks) if m.reading.high <= place.low), -ALWAYS)
            high = next((m.high_ticks for m in self._marks if m.reading.high >= place.high), ALWAYS)
            self._add(LossSpan("way", -1, place.most, low, high))
