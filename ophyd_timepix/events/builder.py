"""From batches of the decoder to blocks: time order, shots, ToF filter, cuts.

The rows do not depend on how the stream is cut into batches, nor on where blocks end.

Hits wait in a pool until the horizon has passed them (no later hit can be earlier); then they are sorted, once, behind
those that are ready. Edges likewise. From the ready hits blocks are cut at natural cuts (see `cutting`). Keys are
relative to a base that moves on with the stream; hits too far ahead of it (hours lie in one batch of a sparse stream)
wait outside.

Knows no file and no process. Everything is reused: memory grows to the largest pending set and stays.
"""

import math
from typing import Final, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from ..clock import NS_PER_COUNT, TICKS_PER_COUNT, ns_to_ticks
from ..config import Edge, Processing
from ..protocol.words import TDC_COUNTER
from . import cutting, order
from .block import REL_TICK_MAX, REL_TICK_MIN, REL_TICK_SHIFT, BlockArrays, Capacity
from .finish import find_shots
from .queue import ColumnQueue
from .triggers import Irregular, ShotTriggers
from .validity import FALLING_SHIFT, INPUT_SHIFT, EdgeSequence, Gap, InvalidSpans

CHAIN_MAX: Final = 1_000_000
"""Hits without a natural cut before a forced one."""
SORT_PIECE: Final = 1 << 15
"""Hits that are sorted together at least: they fit in the cache."""
PILE: Final = 1 << 12
"""About so many hits are sorted to find a cut among them, where the order of the others is left to somebody else."""

_SPAN: Final = REL_TICK_MAX - REL_TICK_MIN
"""Ticks within reach of a base."""
_FOREVER: Final = 1 << 62
_LAST_KEY: Final = (1 << 63) - 1
_EDGES_MAX: Final = Capacity().edges
"""Edges or closed shots that call for a block, with hits or without."""
_EDGE_STEPS: Final = 16
"""Mean steps per edge that insertion sort may take."""

Ints = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]


class HitBatch(Protocol):
    """What the builder takes from `decode.Batch`."""

    @property
    def ticks(self) -> Ints: ...
    @property
    def pixels(self) -> npt.NDArray[np.uint32]: ...
    @property
    def edge_ticks(self) -> Ints: ...
    @property
    def edge_input(self) -> npt.NDArray[np.uint8]: ...
    @property
    def edge_falling(self) -> npt.NDArray[np.uint8]: ...
    @property
    def edge_counter(self) -> npt.NDArray[np.uint16]: ...
    @property
    def horizon_ticks(self) -> int: ...


class _Pile(NamedTuple):
    """Ready hits in no order; all are later than those before them."""

    start: int
    stop: int


class BlockBuilder:
    """Builds the blocks of one time line, acquisition by acquisition.

    Give it each batch (`add`), then take blocks while there are any (`take`); `take_partial` for those who wait;
    `flush` at the end of an acquisition. Shot and edge rows count on through all of them.

    target_hits: hits after which a block ends at the next natural cut.
    chain_max: hits without a natural cut before a forced one; a block must have room for as many.
    leaves_order: leave it to whoever takes a block to sort it (`finish_block`), where there are many hits at a time.
    """

    def __init__(
        self,
        processing: Processing,
        n_chips: int = 4,
        target_hits: int = 1 << 17,
        *,
        chain_max: int = CHAIN_MAX,
        sort_piece: int = SORT_PIECE,
        leaves_order: bool = False,
        pile: int = PILE,
        first_shot: int = 0,
        first_edge: int = 0,
    ) -> None:
        self.acquisition = 1
        self.sequence = 0
        self.n_chips = n_chips
        self._trigger_code = (processing.trigger_input - 1) << 1 | (processing.trigger_edge is Edge.FALLING)
        self._window = window_ticks(processing.window_ns)
        # A chain must fit in half the span of a key, whatever its window.
        self._chain_max = max(1, min(chain_max, (_SPAN >> 1) // (self._window + 1)))
        self._target = min(target_hits, self._chain_max)
        self._piece = sort_piece
        self._tof_filter = _tof_bounds(processing)
        self._tof_max = None if processing.tof_max_ns is None else ns_to_ticks(processing.tof_max_ns)

        self._leaves_order = leaves_order
        self._pile = pile
        self._ends = self._least = np.empty(0, np.int64)
        self._pool = np.empty(1 << 16, np.int64)
        self._ready = np.empty(1 << 19, np.int64)
        self._opened = np.empty(1 << 10, np.int64)
        self._far = ColumnQueue((np.int64, np.uint32))
        self._edges_pending = ColumnQueue((np.int64, np.int32))
        self._edges = ColumnQueue((np.int64, np.int32))
        self._triggers = ColumnQueue((np.int64,))
        self._openings = ColumnQueue((np.int64, np.bool_))
        self._closed = ColumnQueue((np.int64, np.uint8, np.bool_))
        self._first_trigger = first_shot
        self._next_closed = first_shot
        self._next_edge = first_edge
        self.shots = first_shot
        """Shots opened so far: the number of the next one."""
        self.repeated_edges = 0
        """Edges so far that a chip repeated after another."""
        self.early_shots = 0
        """Shots so far that opened before the shutter was open."""
        self._sequence = EdgeSequence()
        self._invalid = InvalidSpans()
        self._gaps: list[Gap] = []
        self._shot_triggers = ShotTriggers(processing)
        self.rhythm = self._shot_triggers.rhythm
        """What is wrong with the period of the triggers, counted so far."""
        self._reset()

    def _reset(self) -> None:
        """No hit, no edge, no open shot: the beginning of an acquisition."""
        self._base: int | None = None
        self._n_pool = 0
        self._left = 0
        self._start = 0
        self._stop = 0
        self._unsorted: list[_Pile] = []
        self._horizon = -_FOREVER
        self._ripened = -_FOREVER
        self._edges_ripened = -_FOREVER
        self._n_filtered = 0
        self._after_forced_cut = False
        self._cut: tuple[int, bool] | None = None
        self._open_shot: int | None = None
        self._open_is_inferred = False
        self._shutter_opens = -_FOREVER
        self._shutter_closes = _FOREVER
        self._seen: tuple[int, int] | None = None
        self._flushing = False
        self._ends_are_judged = False
        self._sequence.restart()
        self._shot_triggers.restart()
        self._openings.truncate(0)
        self._invalid = InvalidSpans()
        self._first_trigger += len(self._triggers)
        self._triggers.drop(len(self._triggers))

    # --- in -----------------------------------------------------------------------------------------------------------

    @property
    def pending_hits(self) -> int:
        """Hits that were added and are in no block yet."""
        return self._n_pool + len(self._far) + self._stop - self._start

    def add(self, batch: HitBatch) -> None:
        """Take over what a batch holds (copies it: the decoder may go on)."""
        ticks = batch.ticks
        _refuse_older_than(self._ripened, ticks)
        _refuse_older_than(self._edges_ripened, batch.edge_ticks)
        self._horizon = max(self._horizon, batch.horizon_ticks)
        self._edges_pending.append(batch.edge_ticks, _edge_codes(batch))
        n_admitted = 0 if len(self._far) else self._admit(ticks, batch.pixels)
        if n_admitted < len(ticks):
            self._wait_outside(ticks[n_admitted:], batch.pixels[n_admitted:])

    def open_shutter(self, tick: int) -> None:
        """The shutter is open from `tick` on: no shot that opens before is valid. Tell it before the first batch."""
        self._shutter_opens = tick
        self._invalid.add(-_FOREVER, tick - 1)

    def close_shutter(self, tick: int) -> None:
        """Behind `tick` the shutter may be closed: no shot that lasts longer is valid, but for those that are closed
        already. `flush` does it, too."""
        if tick != self._shutter_closes:
            self._shutter_closes = tick
            self._invalid.add(tick, _FOREVER)

    def invalidate(self, low_ticks: int, high_ticks: int) -> None:
        """Something of [low, high] was lost: no shot that touches it is valid.

        Shots that are closed already are no longer asked: tell of a loss before the batch that comes after it.
        """
        self._invalid.add(low_ticks, high_ticks)

    def take_gaps(self) -> list[Gap]:
        """The gaps in the counters of edges that were found since the last call; their shots are invalid already.

        They lie on the line of the shots: later than the edges around them by the triggers' delay.
        """
        gaps, self._gaps = self._gaps, []
        return gaps

    def take_irregular(self) -> list[Irregular]:
        """Triggers that were missing or double since the last call; no shot that they touch is valid."""
        return self._shot_triggers.take_found()

    @property
    def irregular_edges(self) -> int:
        """Edges so far whose counter stood still or ran backwards."""
        return self._sequence.irregular

    def _admit(self, ticks: Ints, pixels: npt.NDArray[np.uint32]) -> int:
        """Put hits into the pool up to the first one out of the base's reach. Returns how many."""
        n = len(ticks)
        if n == 0:
            return 0
        if self._base is None:
            self._base = self._base_for(int(ticks.min()))
        self._pool = _with_room(self._pool, 0, self._n_pool, n)
        n_admitted = int(order.pack_keys(ticks, pixels, self._base, self._pool[self._n_pool : self._n_pool + n]))
        self._n_pool += n_admitted
        return n_admitted

    def _base_for(self, earliest: int) -> int:
        """A base that later hits need not fall behind: the horizon, if that is near."""
        return max(min(earliest, self._horizon), earliest - _SPAN // 4) - REL_TICK_MIN

    def _wait_outside(self, ticks: Ints, pixels: npt.NDArray[np.uint32]) -> None:
        """Queue hits in time order."""
        self._far.append(ticks, pixels)
        waiting_ticks, waiting_pixels = self._far.columns()
        places = np.argsort(waiting_ticks, kind="stable")
        waiting_ticks[:], waiting_pixels[:] = waiting_ticks[places], waiting_pixels[places]

    # --- out ----------------------------------------------------------------------------------------------------------

    def ready(self) -> bool:
        """Is a full block ready to be taken?"""
        while self._cut is None:
            self._cut = self._full_cut()
            if self._cut is None and not self._advance():
                return False
        return True

    def take(self, into: BlockArrays) -> bool:
        """Fill `into` with the next full block. False: there is none yet, nothing was touched."""
        if not self.ready():
            return False
        self._fill(into)
        return True

    def take_partial(self, into: BlockArrays) -> bool:
        """Fill `into` with what is final now, though it fills no block. False: there is nothing."""
        while not self.ready():
            if self._ripen():
                continue
            self._cut = self._relaxed_cut()
            if self._cut is None:
                if not (len(self._edges) or len(self._closed)):
                    return False
                self._cut = (self._start, False)
        self._fill(into)
        return True

    def flush(self, into: BlockArrays, end_tick: int | None = None) -> bool:
        """The acquisition has ended: fill `into` with the rest. False: that was the last block; True: call again.

        end_tick: a time at which the shutter was still open, the last that is known. The last shot is valid when its
        ToF window ended before.
        """
        if not self._flushing:
            self._invalidate_unseen(end_tick)
        self._flushing = True
        self._horizon = _FOREVER
        while not self.ready():
            if not self._ripen():
                self._judge_ends(end_tick)
                self._close_last_shot(end_tick)
                self._cut = self._relaxed_cut() or (self._start, False)
        self._fill(into)
        if self.pending_hits or len(self._edges) or len(self._closed) or self._open_shot is not None:
            return True
        into.header.last = 1
        self._reset()
        self.acquisition += 1
        return False

    def _fill(self, into: BlockArrays) -> None:
        """Move everything up to the cut into a block."""
        if into.capacity.hits < self._chain_max:
            raise ValueError(f"a block must have room for {self._chain_max} hits, this one has {into.capacity.hits}")
        end, forced = self._cut or (self._start, False)
        self._cut = None
        header = into.header
        header.clear()
        header.sequence = self.sequence
        header.acquisition = self.acquisition
        header.infers = int(self._shot_triggers.infers)
        header.n_filtered, self._n_filtered = self._n_filtered, 0
        self.sequence += 1
        if end > self._start:
            self._fill_hits(into, end, forced)
        self._fill_edges(into)
        self._fill_closed(into)

    def _fill_hits(self, into: BlockArrays, end: int, forced: bool) -> None:
        header = into.header
        header.base_tick = self._base or 0
        n = end - self._start
        is_left = self._leave(into, end)
        into.keys[:n] = self._ready[self._start : end]
        if not is_left:
            find_shots(into, n, self._triggers.columns()[0], self._first_trigger)
        forced = forced and header.n_hits == n
        header.forced_cut = int(forced)
        header.after_forced_cut, self._after_forced_cut = int(self._after_forced_cut), forced
        self._start += header.n_hits
        if self._start == self._stop:
            self._start = self._stop = 0
        self._forget_triggers()

    def _leave(self, into: BlockArrays, end: int) -> bool:
        """Leave the order and the shots of a block to whoever takes it. False: it is in order, or would be too long."""
        left = [pile for pile in self._unsorted if pile.start < end]
        if not left:
            return False
        triggers = self._triggers.columns()[0]
        n_triggers = int(cutting.first_after(triggers, len(triggers), self._tick_at(end - 1)))
        if n_triggers >= into.capacity.shots:
            self._sort_from(self._start)
            return False
        del self._unsorted[: len(left)]
        header = into.header
        header.unfinished = 1
        header.n_hits, header.n_triggers, header.first_trigger = end - self._start, n_triggers, self._first_trigger
        into.shot_tick[:n_triggers] = triggers[:n_triggers]
        return True

    def _fill_edges(self, into: BlockArrays) -> None:
        n = min(len(self._edges), into.capacity.edges)
        ticks, codes = self._edges.columns(n)
        into.edge_tick[:n] = ticks
        into.edge_input[:n] = (codes >> INPUT_SHIFT) + 1
        into.edge_falling[:n] = (codes >> FALLING_SHIFT) & 1
        into.edge_counter[:n] = codes & TDC_COUNTER.mask
        into.header.n_edges = n
        into.header.first_edge = self._next_edge
        self._next_edge += n
        self._edges.drop(n)

    def _fill_closed(self, into: BlockArrays) -> None:
        n = min(len(self._closed), into.capacity.shots)
        into.closed_tick[:n], into.closed_valid[:n], into.closed_inferred[:n] = self._closed.columns(n)
        into.header.n_closed = n
        into.header.first_closed = self._next_closed
        into.header.n_valid = int(np.count_nonzero(into.closed_valid[:n]))
        self._next_closed += n
        self._closed.drop(n)

    # --- cuts ---------------------------------------------------------------------------------------------------------

    def _full_cut(self) -> tuple[int, bool] | None:
        """(end, forced) of a full block; one without hits when edges or shots have piled up."""
        if max(len(self._edges), len(self._closed)) >= _EDGES_MAX:
            return self._start, False
        if self._stop - self._start <= self._target:
            return None
        triggers = self._triggers.columns()[0]
        place = farther = self._start + self._target
        while True:
            known = self._sort_around(place, farther)
            if known - self._start > self._chain_max:
                self._sort_from(self._start)  # the cut may lie anywhere
            end, forced = cutting.find_cut(
                self._ready,
                self._start,
                known,
                self._base or 0,
                self._window,
                self._target,
                self._chain_max,
                triggers,
                len(triggers),
            )
            if end != cutting.NO_CUT:
                return int(end), bool(forced)
            if known == self._stop:
                return None
            place, farther = known + 1, 2 * known - self._start - self._target  # twice as many: few looks in all

    def _relaxed_cut(self) -> tuple[int, bool] | None:
        """(end, False) of what can be cut off now, full or not."""
        triggers = self._triggers.columns()[0]
        while True:
            end = cutting.find_last_cut(
                self._ready,
                self._unsorted[-1].stop if self._unsorted else self._start,
                self._stop,
                self._base or 0,
                self._window,
                triggers,
                len(triggers),
                self._ripened,
            )
            if end != cutting.NO_CUT:
                return int(end), False
            if not self._unsorted:
                return None
            unsorted = self._unsorted[-1].stop
            self._sort_from(min(unsorted - 1, 2 * unsorted - self._stop))  # twice as many: few looks in all

    # --- progress -----------------------------------------------------------------------------------------------------

    def _advance(self) -> bool:
        """Make more hits ready, if that is worth while. False: nothing moved."""
        if len(self._far):
            return self._advance_sparse()
        worth = max(self._piece, self._left + self._left // 2)
        if self._flushing or self._n_pool >= worth or len(self._edges_pending) >= self._piece:
            return self._ripen()
        return False

    def _advance_sparse(self) -> bool:
        """Hits wait outside the reach of the base: hand out what is ready, move the base, let them in."""
        if self._ripen():
            return True
        self._cut = self._relaxed_cut()
        if self._cut is not None:
            return True
        self._move_base()
        n_admitted = self._admit(*self._far.columns())
        self._far.drop(n_admitted)
        return n_admitted > 0

    def _limit(self) -> int:
        """No hit that is not in the pool or ready will be earlier, and all shots that open before it are known."""
        limit = min(self._horizon, self._shot_triggers.decided)
        return min(limit, self._first_outside()) if len(self._far) else limit

    def _first_outside(self) -> int:
        return int(self._far.columns(1)[0][0])

    def _ripen(self) -> bool:
        """Sort what the horizon has passed. False: the horizon stands where it stood."""
        self._ripen_edges()
        limit = self._limit()
        if limit <= self._ripened:
            return False
        self._ripened = limit
        self._open_shots(limit)
        self._invalid.settle(self._open_shot, limit)
        if self._base is not None:
            self._ripen_hits(limit)
            if limit < _FOREVER and limit - self._base - REL_TICK_MIN > _SPAN // 2:
                self._move_base()
        self._forget_triggers()
        return True

    def _ripen_hits(self, limit: int) -> None:
        base = self._base or 0
        limit_key = _LAST_KEY if limit - base >= REL_TICK_MAX else max(limit - base, 0) << REL_TICK_SHIFT
        self._make_room_for_ready(self._n_pool)
        start = self._stop
        if self._leaves_order and self._n_pool >= 2 * self._pile and self._tof_filter is None:
            self._deal(limit_key)
        else:
            self._stop += int(order.split_final(self._pool, self._n_pool, limit_key, self._ready, start))
            order.sort_keys(self._ready[start : self._stop])
        self._n_pool -= self._stop - start
        self._left = self._n_pool
        if self._stop > start:
            self._note_seen(start)
            if self._tof_filter is not None:
                self._stop = self._keep_tof(start, self._stop, *self._tof_filter)

    def _deal(self, limit_key: int) -> None:
        """Into piles that lie one behind the other in time, to be sorted by others."""
        n = self._n_pool
        if len(self._ends) < n // self._pile + 2 or len(self._least) < n // order.LOOKED_AT + 2:
            self._ends = np.empty(2 * n // self._pile + 2, np.int64)
            self._least = np.empty(2 * n // order.LOOKED_AT + 2, np.int64)
        _, n_piles = order.deal_final(
            self._pool, n, limit_key, self._pile, self._ready, self._stop, self._ends, self._least
        )
        for end in self._ends[:n_piles].tolist():
            self._unsorted.append(_Pile(self._stop, end))
            self._stop = end

    def _note_seen(self, start: int) -> None:
        """The first hit and the last of ready[start:stop]: they are in its first pile, and in its last."""
        if not self._unsorted:
            first, last = int(self._ready[start]), int(self._ready[self._stop - 1])
        else:
            first = int(self._ready[start : self._stop].min()) if self._seen is None else 0
            last = int(self._ready[self._unsorted[-1].start : self._stop].max())
        first, last = ((self._base or 0) + (key >> REL_TICK_SHIFT) for key in (first, last))
        self._seen = (first if self._seen is None else self._seen[0], last)

    def _keep_tof(self, start: int, stop: int, low: int, high: int) -> int:
        """Remove what comes too early or too late in its shot; where what is kept ends."""
        triggers = self._triggers.columns()[0]
        kept = int(cutting.keep_tof(self._ready, start, stop, self._base or 0, triggers, len(triggers), low, high))
        self._n_filtered += stop - kept
        return kept

    def _sort_from(self, place: int) -> None:
        """Sort what is not, from the pile on that ready[place] is in."""
        while self._unsorted and self._unsorted[-1].stop > place:
            start, stop = self._unsorted.pop()
            order.sort_keys(self._ready[start:stop])

    def _sort_around(self, place: int, farther: int) -> int:
        """Sort the piles that ready[place - 1] to ready[farther] are in. Returns where the next one begins."""
        around = [pile for pile in self._unsorted if pile.start <= farther and pile.stop >= place]
        for pile in around:
            order.sort_keys(self._ready[pile.start : pile.stop])
            self._unsorted.remove(pile)
        return next((pile.start for pile in self._unsorted if pile.start > farther), self._stop)

    def _tick_at(self, place: int) -> int:
        return (self._base or 0) + int(self._ready[place] >> REL_TICK_SHIFT)

    def _first_ready_tick(self) -> int:
        """Of the earliest hit that is ready."""
        if self._unsorted and self._unsorted[0].start == self._start:
            first = self._ready[self._start : self._unsorted[0].stop].min()
            return (self._base or 0) + int(first >> REL_TICK_SHIFT)
        return self._tick_at(self._start)

    def _make_room_for_ready(self, n: int) -> None:
        if self._stop + n > len(self._ready):
            self._ready = _with_room(self._ready, self._start, self._stop, n)
            by = self._start
            self._unsorted = [_Pile(start - by, stop - by) for start, stop in self._unsorted]
            self._start, self._stop = 0, self._stop - self._start

    def _move_base(self) -> None:
        """Refer keys to the earliest time that is still needed."""
        base = self._base or 0
        pending = [int(self._far.columns(1)[0][0])] if len(self._far) else []
        if self._stop > self._start:
            pending.append(self._first_ready_tick())
        if self._n_pool:
            pending.append(base + int(self._pool[: self._n_pool].min() >> REL_TICK_SHIFT))
        if not pending:
            self._base = None
            return
        self._base = self._base_for(min(pending))
        order.shift_keys(self._ready, self._start, self._stop, self._base - base)
        order.shift_keys(self._pool, 0, self._n_pool, self._base - base)

    # --- edges and shots ----------------------------------------------------------------------------------------------

    def _ripen_edges(self) -> None:
        """Order the edges that the horizon has passed; they need not be known farther than hits are."""
        limit = self._horizon
        if len(self._far):
            limit = min(limit, self._first_outside() + self._shot_triggers.reach_ticks)
        if limit > self._edges_ripened:
            self._edges_ripened = limit
            self._take_triggers(self._final_triggers(limit), limit)

    def _final_triggers(self, limit: int) -> Ints:
        """Edges before `limit` become rows; those that are triggers come back."""
        ticks, codes = self._edges_pending.columns()
        n = len(ticks)
        if n == 0:
            return self._opened[:0]
        if not order.sort_edges(ticks, codes, n, _EDGE_STEPS * n):
            places = np.lexsort((codes, ticks))
            ticks[:], codes[:] = ticks[places], codes[places]
        n_final = int(cutting.first_after(ticks, n, limit - 1))
        if n_final == 0:
            return self._opened[:0]
        self._opened = _with_room(self._opened, 0, 0, n_final)
        kept, n_opened = order.close_up_edges(
            ticks, codes, n_final, self.n_chips > 1, self._trigger_code, FALLING_SHIFT, self._opened
        )
        self.repeated_edges += n_final - kept
        self._edges.append(ticks[:kept], codes[:kept])
        for gap in self._sequence.follow(ticks[:kept], codes[:kept]):
            low, high = (tick + self._shot_triggers.delay_ticks for tick in (gap.low_ticks, gap.high_ticks))
            self._gaps.append(gap._replace(low_ticks=low, high_ticks=high))
            # Damaged words may say that two edges came at the same time.
            self._invalid.add(low, max(low, high - 1))
        self._edges_pending.drop(n_final)
        return self._opened[:n_opened]

    def _take_triggers(self, triggers: Ints, until: int) -> None:
        if self._shot_triggers.delay_ticks < 0 and not self._shot_triggers.has_begun and len(triggers):
            # What opens before the first trigger may have opened before the shutter.
            self._invalid.add(-_FOREVER, int(triggers[0]) - 1)
        openings = self._shot_triggers.take(triggers, until)
        for low, high in openings.spans:
            self._invalid.add(low, high)
        self._openings.append(openings.ticks, openings.inferred)

    def _open_shots(self, limit: int) -> None:
        """Those that open before `limit`. Each closes the shot before it, which is thereby complete."""
        if not len(self._openings):
            return
        ticks, inferred = self._openings.columns()
        n = int(cutting.first_after(ticks, len(ticks), limit - 1))
        if n == 0:
            return
        opened, inferred = ticks[:n], inferred[:n]
        if opened[0] < self._shutter_opens:
            self.early_shots += int(np.count_nonzero(opened < self._shutter_opens))
        if self._open_shot is not None:
            opened = np.concatenate([np.array([self._open_shot], np.int64), opened])
            inferred = np.concatenate([np.array([self._open_is_inferred]), inferred])
        self._close(opened[:-1], opened[1:], inferred[:-1])
        self._open_shot, self._open_is_inferred = int(opened[-1]), bool(inferred[-1])
        self._triggers.append(ticks[:n])
        self.shots += n
        self._openings.drop(n)

    def _invalidate_unseen(self, end_tick: int | None) -> None:
        """What lasts until the shutter closed; with a delay, until the last words where nobody knows when that was."""
        if end_tick is not None:
            self.close_shutter(end_tick)
        elif self._shot_triggers.delay_ticks > 0:
            self._invalid.add(self._horizon, _FOREVER)

    def _judge_ends(self, end_tick: int | None) -> None:
        """What is missing before the first trigger and behind the last. Where there are hits, the shutter was open."""
        if self._ends_are_judged:
            return
        self._ends_are_judged = True
        first_hit, last_hit = (_FOREVER, None) if self._seen is None else self._seen
        opened = self._shutter_opens if self._shutter_opens > -_FOREVER else _FOREVER
        opened = min(opened, first_hit)
        closed = last_hit if end_tick is None else end_tick
        for low, high in self._shot_triggers.end(None if opened == _FOREVER else opened, closed):
            self._invalid.add(low, high)

    def _close_last_shot(self, end_tick: int | None) -> None:
        if self._open_shot is None:
            return
        in_time = self._tof_max is not None and end_tick is not None and self._open_shot + self._tof_max <= end_tick
        inferred = np.array([self._open_is_inferred])
        self._close(np.array([self._open_shot]), np.array([_FOREVER]), inferred, complete=in_time)
        self._open_shot = None

    def _close(self, starts: Ints, ends: Ints, inferred: Flags, *, complete: bool = True) -> None:
        """Queue the rows of shots that end at `ends`, with what is to be said of them."""
        valid = np.full(len(starts), complete, np.bool_)
        if self._invalid:
            reach = ends if self._tof_max is None else np.minimum(ends, starts + self._tof_max)
            valid &= ~self._invalid.touch(starts, reach)
        self._closed.append(starts, valid.astype(np.uint8), inferred)

    def _forget_triggers(self) -> None:
        """Of the triggers before every hit that is still to come, only the last matters."""
        triggers = self._triggers.columns()[0]
        needed_from = self._ripened
        if self._stop > self._start:
            needed_from = self._first_ready_tick()
        n = int(cutting.first_after(triggers, len(triggers), needed_from)) - 1
        if n > 0:
            self._triggers.drop(n)
            self._first_trigger += n


def _refuse_older_than(horizon: int, ticks: Ints) -> None:
    """The decoder promises it; a violation would put rows out of order without a word."""
    if len(ticks) and int(ticks.min()) < horizon:
        raise ValueError(
            f"a hit or edge at tick {ticks.min()} came after the stream's horizon had reached {horizon}: "
            f"feed the batches of one decoder, in order, and flush at the end of an acquisition"
        )


def window_ticks(window_ns: float) -> int:
    """The largest difference of times within the window."""
    return ns_to_ticks(window_ns)


def _edge_codes(batch: HitBatch) -> npt.NDArray[np.int32]:
    """input - 1, falling and counter in one number, so that edges compare as one."""
    codes = (batch.edge_input.astype(np.int32) - 1) << INPUT_SHIFT
    codes |= batch.edge_falling.astype(np.int32) << FALLING_SHIFT
    codes |= batch.edge_counter
    return codes


def _tof_bounds(processing: Processing) -> tuple[int, int] | None:
    """Smallest and largest ToF to keep, in ticks; None when nothing is to be filtered."""
    low, high = processing.tof_min_ns, processing.tof_max_ns
    if low is None and high is None:
        return None
    return (
        -_FOREVER if low is None else math.ceil(low * TICKS_PER_COUNT / NS_PER_COUNT),
        _FOREVER if high is None else ns_to_ticks(high),
    )


def _with_room(array: Ints, start: int, stop: int, n: int) -> Ints:
    """array[start:stop] at the front of an array with room for `n` more: the same one, if it is large enough."""
    held = stop - start
    if start == 0 and held + n <= len(array):
        return array
    size = len(array)
    while size < held + n:
        size *= 2
    target = array if size == len(array) else np.empty(size, array.dtype)
    target[:held] = array[start:stop].copy() if target is array else array[start:stop]
    return target
