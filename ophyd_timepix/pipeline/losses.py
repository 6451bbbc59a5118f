"""What was lost, and which time it may have touched: followed slice by slice in the decode process. With it pauses.

A loss that stands in the stream (the kernel dropped datagrams, one was no whole words) lies between two words of its
chip. A lost word may be older than the newest that came before it, by the lateness bound; and as what comes after may
be late by as much, a lost word may be newer than that, too. What was lost on the way shows at the end of the
acquisition only; see `locating`.

Knows no process and no file.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from ..clock import TICKS_PER_COUNT, TICKS_PER_SECOND
from ..decode import kernels as k
from ..decode.counts import Mark
from ..decode.decoder import SKEW_TICKS
from ..events.triggers import Irregular
from ..events.validity import Gap
from ..protocol.words import MAX_CHIPS, TOA
from ..spool.index import DAMAGED, UNKNOWN, Loss, Poll
from ..spool.sources import Slice
from .locating import Place, Reading, Way, places, unexplained

ALWAYS: Final = 1 << 62
"""Ticks: no word is this far from zero."""
READINGS_MAX: Final = 4096
"""Readings that are kept: of more, every second is forgotten."""
CHUNKS_WAITED: Final = 64
"""Chunks of other chips after which a chip that is silent is not waited for."""
FINE_TICKS: Final = 2 * TICKS_PER_COUNT
"""Column phase and fToA move a hit by less than this from its coarse time."""
NEAR_TICKS: Final = TICKS_PER_SECOND // 1000
PAUSE: Final = "pause"
"""Cause of a row that is no loss: datagrams waited on the board because its read-out was paused."""
MISSING_TRIGGER: Final = "trigger"
DOUBLE_TRIGGER: Final = "double"
"""Causes of rows about triggers that are missing or too many: of their shots the builder has taken `valid`."""
UNFRAMED: Final = "unframed"
"""Cause of a loss: words outside of chunks, of each chip at most so many."""
ALTERED: Final = "altered"
"""Cause of a loss: words that came as something else than they were sent, or not with their datagram."""
MARKED: Final = {
    int(Mark.UNKNOWN): ALTERED,
    int(Mark.REJECTED_EDGE): ALTERED,
    int(Mark.JUMPED): "jump",
    int(Mark.MISSING_PACKETS): "packet",
    int(Mark.CUT_CHUNK): "cut",
    int(Mark.ASTRAY): UNFRAMED,
    int(Mark.UNFRAMED): "",
    int(Mark.RESUMED): "",
}
"""Causes of losses that marks of the decoder tell of."""
WRAP: Final = "wrap"
"""Cause of hits that are suspiciously late: their time, and that of others that came with them, may be a wrap of ToA
too late."""
WRAP_TICKS: Final = (1 << TOA.width) * TICKS_PER_COUNT
"""409.6 us."""
SPANS_MAX: Final = 10_000
"""Spans that are told one by one; further ones are joined to the last of their kind."""

Ints = npt.NDArray[np.int64]


class LossSpan(NamedTuple):
    """A time of which something may be missing."""

    cause: str
    """'kernel', 'malformed', 'unrecorded' (datagrams), 'way' (datagrams at most), 'tdc' (edges), 'late', 'altered',
    'jump' (words), 'cut', 'unframed' (words at most), 'packet' (packets), 'damaged' (bytes), 'epoch' (silences of
    unknown length), 'pause' (datagrams that waited: no loss), 'trigger', 'double' (triggers that are missing, or too
    many)."""
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


class Sums(NamedTuple):
    """What came of an acquisition up to some place."""

    repeats: int = 0
    """Datagrams that came once more."""
    words: int = 0
    """Words of pixels."""
    largest: int = 0
    """Words of the largest datagram of the run."""
    early: int = 0
    """Of the words, those of the time before the acquisition: the board may have counted them before, or not."""


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
    arrived: int
    """Datagrams, those that came twice included."""
    words: Reading | None = None
    """The same in words of pixels, where the board told of them."""
    paused: int = UNKNOWN
    """Datagrams that had waited on the board."""
    high_ticks: int = ALWAYS


class Losses:
    """Those of one acquisition. `invalidate(low, high)` is told of each loss before the words behind it are built."""

    def __init__(
        self,
        start: int,
        lateness_ticks: int,
        invalidate: Callable[[int, int], None],
        moves_ticks: int = 0,
        n_chips: int = MAX_CHIPS,
    ) -> None:
        """moves_ticks: by how much corrections move a hit at most. n_chips: those whose words are decoded."""
        self._n_chips = n_chips
        self._start = start
        self._moves = moves_ticks
        self._lateness = lateness_ticks + FINE_TICKS + moves_ticks
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
        self._unsure = 0
        """Words of timer and control that came with altered ones: they may have been pixels."""
        self._passed_over: dict[tuple[int, str], LossSpan] = {}
        """Of each chip and cause, until the chip goes on."""
        self.words_before = 0
        """Words of pixels that came between the beginning and the board's answer that its counts are compared from:
        stragglers of the acquisition before."""

    @property
    def waiting(self) -> bool:
        """Does something want to know the next time that comes?"""
        return bool(self._open) or self._unanswered is not None

    def before(self, piece: Slice, newest: Ints, horizon: int, sums: Sums = Sums()) -> None:  # noqa: B008
        """What stands before the words of a slice. newest: time of each chip so far (ticks); sums: what came so far."""
        if piece.is_base:
            self.words_before = sums.words
        for loss in piece.losses:
            known = int(newest[loss.chip]) if 0 <= loss.chip < len(newest) else horizon + self._lateness
            self._open.append(_Open(loss, max(known - self._lateness, -ALWAYS), known))
        if piece.poll is not None:
            self._unanswered = self._mark(piece.poll, piece.address, sums, max(horizon, -ALWAYS))
            self._marks.append(self._unanswered)
            if len(self._marks) > READINGS_MAX:
                del self._marks[1::2]

    def _mark(self, poll: Poll, address: int, sums: Sums, low_ticks: int) -> _Mark:
        """A reading that stands at an address. What came twice came once."""
        sums = self._compared(sums)
        low, words_before = self._begin_of(poll, address, sums.words)
        before, after = poll.arrived_before - sums.repeats, poll.arrived_after - sums.repeats
        reading = Reading(poll.sent, before, after, low, address)
        words = Reading(poll.sent_words, words_before, sums.words, low, address) if poll.sent_words >= 0 else None
        return _Mark(reading, low_ticks, poll.arrived_after, words, poll.paused)

    def _compared(self, sums: Sums) -> Sums:
        """What came, as the board's counts are compared with it."""
        return sums._replace(words=sums.words - self.words_before)

    def _begin_of(self, poll: Poll, address: int, words: int) -> tuple[int, int]:
        """The last address that is known to lie before what arrived after the question, and the words before it."""
        if poll.arrived_after <= poll.arrived_before:
            return address, words
        for mark in reversed(self._marks):
            if mark.arrived <= poll.arrived_before and mark.words is not None:
                return mark.reading.high, mark.words.arrived_after
            if mark.arrived <= poll.arrived_before:
                return mark.reading.high, 0
        return self._start, 0

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
            word, group = LossSpan("late", -1, 1, tick - self._moves, tick + self._moves), self._late
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

    def wraps(self, marks: Ints) -> None:
        """Hits so late that their time may be a wrap too late, or that of others that were as late or later: shots are
        not valid where they are said to be, nor a wrap before.
        """
        marks = marks[marks[:, k.M_KIND] == Mark.WRAP_SUSPECT]
        reach = WRAP_TICKS + self._lateness
        for chip in np.unique(marks[:, k.M_CHIP]).tolist():
            ticks = marks[marks[:, k.M_CHIP] == chip, k.M_AFTER] * TICKS_PER_COUNT
            apart = ticks[1:] - reach > np.maximum.accumulate(ticks + reach)[:-1]
            for group in np.split(ticks, 1 + np.flatnonzero(apart)):
                low, high = int(group.min()) - reach, int(group.max()) + reach
                self._invalidate(low, high)
                self._add(LossSpan(WRAP, chip, len(group), low, high))

    def passed_over(self, marks: Ints) -> None:
        """Words without sense, time or chunk, and packets that are missing: they lie between the words around them."""
        told = np.isin(marks[:, k.M_KIND], list(MARKED))
        for kind, chip, _, amount, before, after in marks[told].tolist():
            if kind == Mark.RESUMED:
                self._unsure += amount
                self._resume(chip, after * TICKS_PER_COUNT + self._lateness)
                continue
            if kind == Mark.UNFRAMED:
                self._go_astray(amount)
                continue
            if chip >= self._n_chips:
                continue
            span = self._passed_over.get((chip, MARKED[kind]))
            if span is None:
                low = max(before * TICKS_PER_COUNT - self._lateness, -ALWAYS)
                span = LossSpan(MARKED[kind], chip, 0, low, ALWAYS)
            self._passed_over[chip, MARKED[kind]] = span._replace(amount=span.amount + amount)

    def _go_astray(self, amount: int) -> None:
        """Words outside of chunks: of each chip that has not gone on since the last mark, and none has."""
        for (chip, _), span in list(self._passed_over.items()):
            astray = self._passed_over.get((chip, UNFRAMED), span._replace(cause=UNFRAMED, amount=0))
            self._passed_over[chip, UNFRAMED] = astray
        for key, span in self._passed_over.items():
            if key[1] == UNFRAMED:
                self._passed_over[key] = span._replace(amount=span.amount + amount)

    def _resume(self, chip: int, high: int) -> None:
        """A chip has gone on: what was passed over has its end. A packet that came after all is not missing."""
        for key in [key for key in self._passed_over if key[0] == chip]:
            span = self._passed_over.pop(key)._replace(high_ticks=high)
            if span.amount > 0:
                self._invalidate(span.low_ticks, span.high_ticks)
                self._add(span)

    def gaps(self, found: list[Gap]) -> None:
        """Edges are missing; the builder knows it already."""
        for gap in found:
            self._add(LossSpan("tdc", -1, gap.missing, gap.low_ticks, gap.high_ticks))

    def triggers(self, found: list[Irregular]) -> None:
        """Triggers are missing or too many; the builder knows it already."""
        for one in found:
            cause = MISSING_TRIGGER if one.missing else DOUBLE_TRIGGER
            span = LossSpan(cause, -1, one.amount, one.low_ticks, one.high_ticks)
            last = self._last.get((cause, -1))
            if last is not None and span.high_ticks < self._spans[last].low_ticks:  # before the first of all
                self._spans.append(span)
            else:
                self._add(span)

    def end(self) -> None:
        """No more words: what still waits lasts to the end of the acquisition. Before the last shots are closed."""
        for one in self._open:
            self._close(one, ALWAYS)
        self._open.clear()
        for chip in {chip for chip, _ in self._passed_over}:
            self._resume(chip, ALWAYS)

    def spans(self, way: Way | None, stop: int, sums: Sums = Sums()) -> list[LossSpan]:  # noqa: B008
        """All of them in the order of time, with what was lost on the way if that is known. stop: the last address;
        sums: all that came.
        """
        sums = self._compared(sums)
        if self._late is not None:
            self._add(self._late)
            self._late = None
        if way is not None:
            way = way._replace(arrived=way.arrived - sums.repeats)
            if way.missing != 0 or way.sent_words != sums.words:  # else readings that say otherwise were of late ones
                self._place(way, stop)
            self._place_words(way, stop, sums)
            self._place_pauses(way)
        return sorted(self._spans, key=lambda span: (span.low_ticks, span.high_ticks, span.cause, span.chip))

    def _place_pauses(self, way: Way) -> None:
        """Between which readings datagrams waited on the board. Nothing is lost by that: no shot is the worse."""
        before = None if way.paused_before is None else (way.paused_before, -ALWAYS, -ALWAYS)
        after = None if way.paused is None else (way.paused, ALWAYS, ALWAYS)
        told = [(mark.paused, mark.low_ticks, mark.high_ticks) for mark in self._marks if mark.paused >= 0]
        for (n, low, _), (m, _, high) in pairwise([one for one in (before, *told, after) if one is not None]):
            if m > n:
                self._add(LossSpan(PAUSE, -1, m - n, low, high))

    def _place(self, way: Way, stop: int) -> None:
        begin = Reading(way.sent_before, way.arrived_before, way.arrived_before, self._start, self._start)
        end = Reading(way.sent, way.arrived, way.arrived, stop, stop)
        for place in places(begin, [mark.reading for mark in self._marks], end):
            self.lost_on_the_way += place.least
            self._add_place("way", place)

    def _add_place(self, cause: str, place: Place) -> None:
        low = next((m.low_ticks for m in reversed(self._marks) if m.reading.high <= place.low), -ALWAYS)
        high = next((m.high_ticks for m in self._marks if m.reading.high >= place.high), ALWAYS)
        self._add(LossSpan(cause, -1, place.most, low, high))

    def _place_words(self, way: Way, stop: int, sums: Sums) -> None:
        """Where words of pixels are missing, or too many, though no datagram is: they came as something else, or a
        datagram came shortened.
        """
        if way.sent_words is None or way.words_before is None:
            return
        noted = dict.fromkeys(("kernel", "malformed", "unrecorded", DAMAGED, ALTERED), 0)
        for span in self._spans:
            if span.cause in noted:
                noted[span.cause] += span.amount
        here = noted.pop(ALTERED) + noted.pop(DAMAGED) // 8 + self._unsure  # those have their place already
        lost = max(0, way.missing) + sum(noted.values())
        missing = unexplained(way.sent_words - sums.words, lost, max(0, -way.missing), sums.largest)
        missing += min(max(0, -missing), sums.early)
        if -here <= missing <= here:
            return
        sign = 1 if missing > 0 else -1
        readings = [_signed(m.words, sign, way.words_before) for m in self._marks if m.words is not None]
        end = Reading(way.words_before + way.sent_words, sums.words, sums.words, stop, stop)
        begin = Reading(0, 0, 0, self._start, self._start)
        for place in places(begin, readings, _signed(end, sign, way.words_before)):
            self._add_place(ALTERED, place)


def _signed(reading: Reading, sign: int, words_before: int) -> Reading:
    """Words since the acquisition began; with the sign -1 what is too much counts as missing."""
    sent, few, many = reading.sent - words_before, reading.arrived_before, reading.arrived_after
    if sign > 0:
        return reading._replace(sent=sent)
    return reading._replace(sent=-sent, arrived_before=-many, arrived_after=-few)
