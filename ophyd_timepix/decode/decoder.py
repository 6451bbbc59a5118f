"""The decoder: 64-bit words in, hits and TDC edges on one time line out. Owns the state and the reused arrays.

Knows no file, no socket, no process. The rules of time stand in `kernels`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

import numpy as np
import numpy.typing as npt

from ..clock import TICKS_PER_COUNT, TICKS_PER_FTOA, TICKS_PER_SECOND
from ..protocol.chip_config import GeneralConfig, Mode
from ..protocol.words import COMMAND_END_BYTE, COMMAND_NAMES, CONTROL_NAMES, FTOA, MATRIX_SIDE, MAX_CHIPS
from . import kernels as k
from .counts import Count

DEFAULT_LATENESS_TICKS: Final = TICKS_PER_SECOND // 2000
"""0.5 ms: hits were seen 0.453 ms late in recordings."""
SKEW_TICKS: Final = TICKS_PER_SECOND // 4
"""How far the chips of one stream may be apart: 250 ms."""
MIN_JUMP_TICKS: Final = TICKS_PER_SECOND // 2000
"""A word is held for confirmation when it is ahead by more than the lateness bound, and by at least this (0.5 ms)."""

SHORT_COUNTS: Final = 1_000_000
"""Words that came within so long (25 ms) are judged by when they came, where the board's timer is known as exactly."""
FOLLOWED_COUNTS: Final = 1 << 28
"""6.7 s: an anchor that is suddenly off by more is not what a clock does, and is taken as it is."""

Words = npt.NDArray[np.uint64]


class Framing(IntEnum):
    """How words come."""

    TPX3 = 0
    """In chunks: a header word names chip and size."""
    RAW = 1
    """Bare words of chip 0."""


@dataclass(frozen=True, slots=True)
class Batch:
    """What one call gave: views on the decoder's arrays, valid until its next call.

    Hits are in the order of the stream. Edges of a TDC input may be repeated by several chips.
    """

    ticks: npt.NDArray[np.int64]
    """Time of each hit, 25/96 ns, column phase included."""
    pixels: npt.NDArray[np.uint32]
    """chip << 26 | y << 18 | x << 10 | ToT."""
    edge_ticks: npt.NDArray[np.int64]
    edge_input: npt.NDArray[np.uint8]
    edge_falling: npt.NDArray[np.uint8]
    edge_counter: npt.NDArray[np.uint16]
    edge_chip: npt.NDArray[np.uint8]
    late_ticks: npt.NDArray[np.int64]
    """Times of hits and edges that came too late to be returned, in the order of the stream."""
    newest_ticks: npt.NDArray[np.int64]
    """Newest accepted time of each chip; very negative before its first."""
    horizon_ticks: int
    """No later hit or edge of this stream will be earlier than this."""
    counting_pixels: npt.NDArray[np.uint32]
    """Pixels of chips that count instead of telling times: as `pixels`, with the number of events in place of ToT."""
    counting_sums: npt.NDArray[np.uint32]
    """Of each of them: hits << 14 | sum of ToT (25 ns counts). hits: 0 where the oscillators were on."""
    marks: npt.NDArray[np.int64]
    """What was passed over and where, by the `M_...` columns of `kernels`; times in 25 ns counts."""
    counts: npt.NDArray[np.int64]
    """Totals since the decoder was made, by `Count`."""
    unknown: npt.NDArray[np.int64]
    """Unknown words by their top byte, totals."""


class Decoder:
    """Decodes one stream of words, which may be cut into calls anywhere: the hits are the same.

    phase: column phase in fToA bins, shape (chips, 128); zeros when absent.
    lateness_ticks: how much older than its chip's newest time a hit may be.
    general: GENCONFIG of each chip; where it says that a chip counts events, or has no fToA, its words are read so.
    batch_words: size for which arrays are made at first; they grow with larger calls.
    """

    def __init__(
        self,
        framing: Framing = Framing.TPX3,
        n_chips: int = 4,
        phase: npt.NDArray[np.int32] | None = None,
        lateness_ticks: int = DEFAULT_LATENESS_TICKS,
        batch_words: int = 1 << 16,
        general: Sequence[int] = (),
    ) -> None:
        if not 1 <= n_chips <= MAX_CHIPS:
            raise ValueError(f"a board has 1 to {MAX_CHIPS} chips, not {n_chips}")
        if not 0 <= lateness_ticks <= SKEW_TICKS // 2:
            raise ValueError(f"the lateness bound must be 0 to {SKEW_TICKS // 2} ticks (125 ms), not {lateness_ticks}")
        self.framing = Framing(framing)
        self.n_chips = n_chips
        self.counts = np.zeros(len(Count), np.int64)
        self.unknown = np.zeros(256, np.int64)
        self.controls = np.zeros((2, 256), np.int64)
        """Control words by their top byte; commands that ended (0x71) by their code."""
        self._phase = _phase_ticks(phase, n_chips)
        self._margin = FTOA.mask * TICKS_PER_FTOA - int(self._phase.min())
        self._state = np.zeros(k.N_STATE, np.int64)
        self._state[k.S_MODE] = -1
        self._state[k.S_NEWEST] = self._state[k.S_TOLD] = self._state[k.S_FLOOR] = k.NEVER
        self._state[k.S_LATENESS] = -(-lateness_ticks // TICKS_PER_COUNT)
        self._state[k.S_JUMP] = max(int(self._state[k.S_LATENESS]), MIN_JUMP_TICKS // TICKS_PER_COUNT)
        self._state[k.S_SKEW] = SKEW_TICKS // TICKS_PER_COUNT
        self._state[k.S_N_CHIPS] = n_chips
        self._chips = np.zeros((n_chips, k.N_CHIP), np.int64)
        self._chips[:, [k.C_NEWEST, k.C_LEFT]] = k.NEVER
        self._chips[:, k.C_TIMER_LOW] = -1
        self._chips[:, k.C_PACKET] = -1
        for chip, word in enumerate(general[:n_chips]):
            self._chips[chip, k.C_HOW] = _how(word)
        self._followed = 0
        """The last anchor that words came with."""
        self._least_ahead = 0
        """The same at least, as far as clocks drift."""
        self._ahead = 0
        """Counts by which anchors were ahead of the words when these came last."""
        self._is_exact = False
        """The board's timer was read when the acquisition began."""
        self._make_outputs(batch_words)

    @property
    def held(self) -> int:
        """Words that wait for confirmation: given, yet in no class so far."""
        return int(self._state[k.S_N_HELD])

    @property
    def missing_words(self) -> int:
        """Words of the last chunk that have not come: a recording that ends here was cut."""
        return int(self._state[k.S_LEFT]) if self.framing is Framing.TPX3 else 0

    @property
    def newest_ticks(self) -> npt.NDArray[np.int64]:
        """Newest accepted time of each chip; very negative before its first."""
        return np.asarray(self._chips[:, k.C_NEWEST] * TICKS_PER_COUNT, np.int64)

    @property
    def reached_ticks(self) -> npt.NDArray[np.int64]:
        """The same with words that are held until another confirms them."""
        held = np.where(self._chips[:, k.C_N_HELD] != 0, self._chips[:, k.C_HELD_NEWEST], k.NEVER)
        return np.asarray(np.maximum(self._chips[:, k.C_NEWEST], held) * TICKS_PER_COUNT, np.int64)

    @property
    def horizon_ticks(self) -> int:
        """No later hit or edge of this stream will be earlier than this."""
        return self._horizon()

    def take_lateness(self) -> int:
        """Largest lateness (25 ns counts) of a hit that was returned since the last call."""
        worst = int(self._state[k.S_WORST])
        self._state[k.S_WORST] = 0
        return worst

    def begin(self, counts: int | None, anchor_counts: int | None = None) -> None:
        """An acquisition begins on this time line.

        counts: the board's timer (25 ns counts) at a moment when the shutter was still closed. Words that are older by
        more than the lateness bound are of the time before: they are counted, and move nothing. None: nobody knows.
        anchor_counts: the estimate for that moment, as `decode` gets it for others: by how much such are ahead is known
        then.
        """
        state, chips = self._state, self._chips
        state[k.S_FLOOR] = k.NEVER
        self._is_exact = False
        if counts is None or state[k.S_KNOWN] not in (0, k.TIMER_BITS):
            return
        state[k.S_KNOWN] = k.TIMER_BITS
        time = self._on_line(counts, anchor_counts)
        state[k.S_FLOOR] = time - state[k.S_LATENESS]
        state[k.S_NEWEST] = state[k.S_TOLD] = time
        # Half a turn of a hit's time lies before, half of it after.
        state[k.S_REFERENCE] = time - k.ANCHOR_MARGIN
        state[k.S_ANCHORED] = 1
        chips[:, k.C_NEWEST] = time
        chips[:, k.C_LEFT] = k.NEVER
        chips[:, [k.C_SILENCE, k.C_FAR]] = 0
        if anchor_counts is not None:
            self._ahead = self._least_ahead = anchor_counts - int(state[k.S_OFFSET]) - time
            self._followed = anchor_counts
            self._is_exact = True

    def place(self, counts: int) -> int:
        """The time on the line, in counts, of a reading of the board's timer near the present."""
        return self._on_line(counts, None) if self._state[k.S_KNOWN] == k.TIMER_BITS else counts

    def _on_line(self, counts: int, anchor_counts: int | None) -> int:
        """The time on the line of a reading of the timer, which runs over after 81 days."""
        offset = int(self._state[k.S_OFFSET])
        if anchor_counts is not None:
            near = anchor_counts - offset
        elif self._state[k.S_NEWEST] != k.NEVER:
            near = int(self._state[k.S_NEWEST])
        else:
            near = counts - offset
        period = 1 << k.TIMER_BITS
        return counts - offset + round((near - counts + offset) / period) * period

    def decode(self, words: Words, anchor_counts: int | None = None, lasting_counts: int | None = None) -> Batch:
        """Decode the next words of the stream.

        anchor_counts: an estimate of the timer (25 ns counts) when these words came. It serves only to choose the epoch
        after a silence. It may drift away from the timer as far as it will, yet only by seconds within a silence: the
        host's clock is not the board's.
        lasting_counts: how long after the anchor the last of the words came, at most; with it words are refused that
        claim to be later.
        """
        if len(words) > self._capacity:
            self._make_outputs(len(words))
        if not words.flags.writeable or not words.flags.c_contiguous:
            words = words.copy()  # one type of array is one compilation
        self._state[k.S_CEILING] = k.FOREVER
        newest_before = int(self._state[k.S_NEWEST])
        self._state[k.S_LATEST] = k.FOREVER
        if anchor_counts is not None:
            self._anchor(anchor_counts - self._ahead)
            if lasting_counts is not None:
                self._state[k.S_LATEST] = self._latest(anchor_counts, lasting_counts)
        k.decode_words(words.view(np.int64), self.framing is Framing.TPX3, self._store)
        if anchor_counts is not None:
            self._follow(anchor_counts)
            self._follow_closely(anchor_counts, newest_before)
        return self._batch()

    def flush(self) -> Batch:
        """The end of an acquisition: words that were held come out."""
        k.release_held(self._store)
        return self._batch()

    def _anchor(self, anchor_counts: int) -> None:
        state = self._state
        if state[k.S_KNOWN] == 0:
            state[k.S_KNOWN] = 48
            state[k.S_REFERENCE] = anchor_counts - k.ANCHOR_MARGIN
            anchor = anchor_counts
        else:
            anchor = anchor_counts - int(state[k.S_OFFSET])
            state[k.S_REFERENCE] = max(int(state[k.S_REFERENCE]), anchor - k.ANCHOR_MARGIN)
        state[k.S_CEILING] = anchor + k.CEILING_MARGIN
        state[k.S_TOLD] = max(int(state[k.S_TOLD]), anchor)
        state[k.S_ANCHORED] = 1

    def _latest(self, anchor_counts: int, lasting_counts: int) -> int:
        """No word of a slice is later. The anchor may have drifted since words came last."""
        drift = max(0, anchor_counts - self._followed) >> k.DRIFT_SHIFT
        present = anchor_counts - self._least_ahead - int(self._state[k.S_OFFSET])
        exact = self._is_exact and lasting_counts <= SHORT_COUNTS
        return present + lasting_counts + drift + (k.EXACT_MARGIN if exact else k.LATEST_MARGIN)

    def _follow(self, anchor_counts: int) -> None:
        """Note by how much the anchor was ahead of the first word that it was given for."""
        if self._state[k.S_HITS]:
            first = int(self._store.ticks[0])
        elif self._state[k.S_EDGES]:
            first = int(self._store.edge_ticks[0])
        else:
            return
        ahead = anchor_counts - int(self._state[k.S_OFFSET]) - first // TICKS_PER_COUNT
        if abs(ahead - self._ahead) < FOLLOWED_COUNTS:
            self._ahead = ahead

    def _follow_closely(self, anchor_counts: int, newest_before: int) -> None:
        """Note by how much at least anchors are ahead: of the newest word, for others may have been held for long."""
        newest = int(self._state[k.S_NEWEST])
        if newest == newest_before or self._state[k.S_N_HELD]:
            return
        least = anchor_counts - int(self._state[k.S_OFFSET]) - newest
        drift = max(0, anchor_counts - self._followed) >> k.DRIFT_SHIFT
        self._least_ahead = min(least, self._least_ahead + drift)
        self._followed = anchor_counts

    def _make_outputs(self, n_words: int) -> None:
        """Arrays that are touched as far as they are used, and used again by the next call."""
        self._capacity = n_words
        room = n_words + MAX_CHIPS * k.HELD_MAX  # words that were held may come out too
        self._store = k.Store(
            state=self._state,
            chips=self._chips,
            phase=self._phase,
            counts=self.counts,
            unknown=self.unknown,
            controls=self.controls,
            ticks=np.empty(room, np.int64),
            pixels=np.empty(room, np.uint32),
            edge_ticks=np.empty(room, np.int64),
            edge_input=np.empty(room, np.uint8),
            edge_falling=np.empty(room, np.uint8),
            edge_counter=np.empty(room, np.uint16),
            edge_chip=np.empty(room, np.uint8),
            counting_pixels=np.empty(n_words, np.uint32),
            counting_sums=np.empty(n_words, np.uint32),
            late=np.empty(n_words, np.int64),
            marks=np.empty((4 * room, k.N_MARK), np.int64),  # at most 9 for a hit between a header and no header
        )

    def _batch(self) -> Batch:
        store = self._store
        n_hits, n_edges, n_late, n_counting, n_marks = (
            int(self._state[index]) for index in (k.S_HITS, k.S_EDGES, k.S_LATE, k.S_COUNTING, k.S_MARKS)
        )
        return Batch(
            ticks=store.ticks[:n_hits],
            pixels=store.pixels[:n_hits],
            edge_ticks=store.edge_ticks[:n_edges],
            edge_input=store.edge_input[:n_edges],
            edge_falling=store.edge_falling[:n_edges],
            edge_counter=store.edge_counter[:n_edges],
            edge_chip=store.edge_chip[:n_edges],
            late_ticks=store.late[:n_late],
            newest_ticks=self.newest_ticks,
            horizon_ticks=self._horizon(),
            counting_pixels=store.counting_pixels[:n_counting],
            counting_sums=store.counting_sums[:n_counting],
            marks=store.marks[:n_marks],
            counts=self.counts,
            unknown=self.unknown,
        )

    def _horizon(self) -> int:
        """The lateness bound of every chip, in ticks that may carry fToA and phase."""
        floors = self._chips[:, k.C_NEWEST] - self._state[k.S_LATENESS]
        if self.n_chips > 1:
            floors = np.maximum(floors, self._state[k.S_NEWEST] - self._state[k.S_SKEW])
        return int(floors.min()) * TICKS_PER_COUNT - self._margin


def _phase_ticks(phase: npt.NDArray[np.int32] | None, n_chips: int) -> npt.NDArray[np.int64]:
    columns = MATRIX_SIDE // 2
    if phase is None:
        return np.zeros((n_chips, columns), np.int64)
    table = np.ascontiguousarray(phase, np.int64)
    if table.shape != (n_chips, columns):
        raise ValueError(f"the phase table must have shape {(n_chips, columns)}, not {table.shape}")
    return table * TICKS_PER_FTOA


def _how(general: int) -> int:
    """What the words of a chip with this GENCONFIG mean, for the kernels."""
    config = GeneralConfig.from_word(general)
    how = k.HOW_COUNTING if config.mode == Mode.COUNT_ITOT else 0
    return how if config.fast_toa else how | k.HOW_NO_FTOA


def control_names(controls: npt.NDArray[np.int64]) -> dict[str, int]:
    """How many control words there are of each kind, by name; commands that ended by what they were."""
    named: dict[str, int] = {}
    for byte in np.flatnonzero(controls[0]).tolist():
        if byte != COMMAND_END_BYTE:
            name = CONTROL_NAMES[byte]
            named[name] = named.get(name, 0) + int(controls[0, byte])
    for code in np.flatnonzero(controls[1]).tolist():
        name = COMMAND_NAMES.get(code, f"command 0x{code:02X} ended")
        named[name] = named.get(name, 0) + int(controls[1, code])
    return named


def warm_up() -> None:
    """Load (or, the first time on a machine, compile) every kernel of this room."""
    Decoder().decode(np.zeros(0, np.uint64))
    Decoder().flush()
