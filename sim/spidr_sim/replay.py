"""A recording as the board's source of words.

It starts anew whenever the gate opens. Its first word then comes at the opening, and all words that state a time
(pixels, TDC edges, timer words, echoes of the chips) state it on the board's timer, the distances between them
unchanged. Words of one chip keep their order. It knows no scene, no clock and no socket.

A recording has been measured: of the settings of a chip only its power, its PLL word (for the truth) and the header
filter act on it.
"""

from collections.abc import Iterator
from functools import partial

import numpy as np
import numpy.typing as npt

from ophyd_timepix.clock import TICKS_PER_COUNT, TICKS_PER_FTOA
from ophyd_timepix.protocol import column_phase
from ophyd_timepix.protocol import words as w
from spidr_sim.data_faults import TriggerFaults
from spidr_sim.encode import BINS_PER_COUNT
from spidr_sim.jit import kernel
from spidr_sim.particles import IntArray
from spidr_sim.readout import WordArray
from spidr_sim.recording import OTHER, PIXEL, TDC, TIMER_HIGH, TIMER_LOW, ChipRecording, Recording, RecordingError
from spidr_sim.scenes import LATENCY_COUNTS, SLICE_COUNTS
from spidr_sim.settings import ALL_PASS, BiasRamp, ChipSettings
from spidr_sim.source import COLUMNS, Changes, DepartureQueue, Departures, SliceTruth, edges_leave

_TOA, _TOA_BITS, _TOA_MASK = w.TOA.shift, w.TOA.width, w.TOA.mask
_SPIDR, _SPIDR_MASK = w.SPIDR_TIME.shift, w.SPIDR_TIME.mask
_TDC_COUNTS, _TDC_COUNTS_MASK = w.TDC_TIME.shift + 3, w.TDC_TIME.mask >> 3
"""The 25 ns part of a TDC time."""
_LOW, _LOW_BITS, _LOW_MASK = w.TIMER_LOW.shift, w.TIMER_LOW.width, w.TIMER_LOW.mask
_HIGH, _HIGH_MASK = w.TIMER_HIGH.shift, w.TIMER_HIGH.mask

_AN_EDGE = np.array([w.TOP_BYTE.put(w.TdcByte.TDC1_RISING)], np.uint64)


class RecordingSource:
    """A recording as the board's source of words."""

    def __init__(self, recording: Recording, n_chips: int, *, keep_truth: bool = False) -> None:
        if len(recording.chips) > n_chips:
            raise RecordingError(
                f"{recording.path} has words of {len(recording.chips)} chips; a board with {n_chips} is too small"
            )
        self.n_chips = n_chips
        self.has_delay = False
        self.trigger_faults = TriggerFaults()
        self.datagram_words = 0
        self.next_counts = 0
        self.final_counts = 0
        self._chips = recording.chips
        self._edge_chip = int(np.argmax([chip.edges.row.size for chip in recording.chips]))
        """Every chip repeats every edge; this one has them all."""
        self._keep_truth = keep_truth
        self._phase = np.zeros((n_chips, COLUMNS), np.int64)
        self._masks = [ALL_PASS] * n_chips
        self._alive = [True] * n_chips
        self._changes = Changes()
        self._queue = DepartureQueue(n_chips)
        self._position = [0] * len(self._chips)
        self._open_counts = 0
        self._shots = 0
        self._index = 0

    def set_chip(self, chip: int, settings: ChipSettings, at_counts: int = 0) -> None:
        """Words stay as recorded: another PLL word changes what a decoder must find."""
        phase = np.array(column_phase(settings.pll), np.int64)
        self._changes.add(at_counts, partial(self._set_chip, chip, phase, settings.alive))

    def set_filter(self, chip: int, eth_mask: int, at_counts: int = 0) -> None:
        """Other words of `chip` leave."""
        self._changes.add(at_counts, partial(self._masks.__setitem__, chip, eth_mask))

    def set_bias(self, ramp: BiasRamp) -> None:
        """Nothing: the recording has been measured."""

    def set_delay(self, delay_fs: float, at_counts: int = 0) -> None:
        """Nothing, either."""

    def open(
        self,
        epoch: int,
        at_counts: int,
        *,
        sequential: bool = False,
        shutter_counts: int | None = None,
        zero_s: float = 0.0,
    ) -> None:
        """The recording begins."""
        self._changes.act()
        self._open_counts = at_counts
        self._position = [0] * len(self._chips)
        self._shots = 0
        self._queue.pool.n = 0
        self._go_to(at_counts // SLICE_COUNTS)

    def advance(self) -> Departures:
        """The words of the next slice."""
        return self._slice((self._index + 1) * SLICE_COUNTS)

    def finish(self, at_counts: int) -> Iterator[Departures]:
        """The words that came before the closing."""
        while self._index * SLICE_COUNTS < at_counts:
            yield self._slice(min((self._index + 1) * SLICE_COUNTS, at_counts))
        while self._queue.pool.n:
            yield self._queue.leave(self._index)
            self._go_to(self._index + 1)

    def idle(self, start_counts: int, stop_counts: int) -> tuple[Departures, IntArray]:
        """What was recorded tells nothing of the time while the gate is closed."""
        edges = np.empty((0, 4), np.int64)
        return edges_leave(edges, np.zeros(self.n_chips, np.bool_)), edges

    def inject(self, chip: int, at_counts: int, words: tuple[int, ...]) -> None:
        """Words of the chip itself join the recorded ones."""
        for word in words:
            self._queue.pool.add(word, chip, at_counts)

    def _go_to(self, index: int) -> None:
        self._index = index
        self.final_counts = index * SLICE_COUNTS
        self.next_counts = self.final_counts + SLICE_COUNTS + LATENCY_COUNTS

    def _set_chip(self, chip: int, phase_bins: IntArray, alive: bool) -> None:
        self._phase[chip] = phase_bins
        self._alive[chip] = alive

    def _passes(self, chip: int, words: WordArray) -> npt.NDArray[np.bool_]:
        """Which words of a chip leave, by their header nibbles."""
        mask = self._masks[chip] if self._alive[chip] else 0
        passing = (mask >> np.arange(16) & 1).astype(np.bool_)
        return np.asarray(passing[(words >> np.uint64(w.HEADER.shift)).astype(np.int64)])

    def _slice(self, until_counts: int) -> Departures:
        self._changes.act(self._index * SLICE_COUNTS)
        rows = [self._rows_until(chip, until_counts) for chip in range(len(self._chips))]
        for chip, (start, stop) in enumerate(rows):
            if start < stop:
                self._send(chip, start, stop)
        edges = self._edges(*rows[self._edge_chip])
        truth = self._truth(rows, edges) if self._keep_truth and any(start < stop for start, stop in rows) else None
        index = self._index
        self._go_to(index + 1)
        return self._queue.leave(index, len(edges), truth)

    def _rows_until(self, chip: int, until_counts: int) -> tuple[int, int]:
        """The rows of a chip that are next, up to a time."""
        start = self._position[chip]
        stop = int(np.searchsorted(self._chips[chip].due, until_counts - self._open_counts))
        self._position[chip] = stop
        return start, stop

    def _send(self, chip: int, start: int, stop: int) -> None:
        """Put rows of a chip into the pool, on the board's timer."""
        recorded: ChipRecording = self._chips[chip]
        pool = self._queue.pool
        pool.reserve(stop - start)
        restamp(
            recorded.words[start:stop], recorded.kind[start:stop],
            recorded.counts[start:stop], recorded.due[start:stop],
            self._open_counts, chip, pool.word[pool.n :], pool.departure[pool.n :],
        )  # fmt: skip
        new = slice(pool.n, pool.n + stop - start)
        leaves = self._passes(chip, pool.word[new])
        n = int(np.count_nonzero(leaves))
        if n < stop - start:
            pool.word[pool.n : pool.n + n] = pool.word[new][leaves]
            pool.departure[pool.n : pool.n + n] = pool.departure[new][leaves]
        pool.n += n

    def _edges(self, start: int, stop: int) -> IntArray:
        """Edges among rows of the chip that has them all, on the board's timer."""
        recorded = self._chips[self._edge_chip].edges
        first, last = np.searchsorted(recorded.row, (start, stop))
        edges = recorded.table[first:last].copy()
        if not any(self._passes(chip, _AN_EDGE)[0] for chip in range(len(self._chips))):
            return edges[:0]
        edges[:, 3] += self._open_counts * TICKS_PER_COUNT
        return edges

    def _truth(self, rows: list[tuple[int, int]], edges: IntArray) -> SliceTruth:
        """What the words say. A recording does not know its particles."""
        parts = [self._hits(chip, start, stop) for chip, (start, stop) in enumerate(rows)]
        pixel, tot, tick = (np.concatenate(columns) for columns in zip(*parts, strict=True))
        shots = edges[(edges[:, 0] == 1) & (edges[:, 1] == 0), 3]
        first_shot = self._shots
        self._shots += shots.size
        none = np.empty(0, np.int64)
        return SliceTruth(
            particle_shot=none,
            particle_chip=none,
            particle_x=np.empty(0),
            particle_y=np.empty(0),
            particle_tick=none,
            particle_peak=none,
            particle_hits=none,
            hit_pixel=pixel,
            hit_tot=tot,
            hit_tick=tick,
            hit_particle=np.full(tick.size, -1, np.int64),
            edges=edges,
            first_shot=first_shot,
            shot_ticks=shots,
        )

    def _hits(self, chip: int, start: int, stop: int) -> tuple[IntArray, IntArray, IntArray]:
        """(pixel, ToT, tick) of the hits among rows of a chip, on the board's timer, with its column phase."""
        recorded = self._chips[chip].hits
        first, last = np.searchsorted(recorded.row, (start, stop))
        left = np.arange(first, last)[self._passes(chip, self._chips[chip].words[recorded.row[first:last]])]
        pixel = recorded.pixel[left]
        bins = recorded.bins[left] + self._open_counts * BINS_PER_COUNT + self._phase[chip][(pixel & 0xFF) >> 1]
        return pixel, recorded.tot[left], bins * TICKS_PER_FTOA


@kernel
def restamp(
    words: WordArray,
    kind: npt.NDArray[np.int8],
    counts: IntArray,
    due: IntArray,
    zero: int,
    chip: int,
    out: WordArray,
    departure: IntArray,
) -> None:
    """The same words, stating `zero + counts` instead of their times (the board's own stamps: `zero + due`)."""
    for i in range(words.size):
        time = zero + counts[i]
        now = zero + due[i]
        word = words[i]
        if kind[i] == PIXEL:
            word = _put(word, _TOA, _TOA_MASK, time)
            word = _put(word, _SPIDR, _SPIDR_MASK, time >> _TOA_BITS)
        elif kind[i] == TDC:
            word = _put(word, _TDC_COUNTS, _TDC_COUNTS_MASK, time)
        elif kind[i] != OTHER:
            if kind[i] == TIMER_LOW:
                word = _put(word, _LOW, _LOW_MASK, time)
            elif kind[i] == TIMER_HIGH:
                word = _put(word, _HIGH, _HIGH_MASK, now >> _LOW_BITS)
            word = _put(word, _SPIDR, _SPIDR_MASK, now >> _TOA_BITS)
        out[i] = word
        departure[i] = now << 2 | chip


@kernel
def _put(word: np.uint64, shift: int, mask: int, value: int) -> np.uint64:
    """`word` with the low bits of `value` in a field."""
    cleared = word & ~(np.uint64(mask) << np.uint64(shift))
    return cleared | (np.uint64(value & mask) << np.uint64(shift))
