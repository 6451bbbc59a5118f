"""`load`: words as fast as a link carries them. Some milliseconds of the scene `uniform` are made once; they come again
and again, with the time of their slice added by a kernel.

So hits lie in clusters, come out of order and spread over all pixels as in that scene, and nothing is drawn at run
time. Triggers are those of every scene. Of the settings of a chip its power, its PLL word and the header filter act.
The read-out is always data driven. The truth has the triggers and shots, and of hits their number.
"""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Final

import numpy as np
import numpy.typing as npt

from ophyd_timepix.clock import TICKS_PER_COUNT
from ophyd_timepix.protocol import column_phase
from ophyd_timepix.protocol import words as w
from spidr_sim.data_faults import TriggerFaults
from spidr_sim.encode import BINS_PER_COUNT, TDC_BYTES, coarse_of, tdc_word
from spidr_sim.jit import kernel
from spidr_sim.particles import IntArray
from spidr_sim.readout import TDC_LATENCY_COUNTS, TriggerPlan, WordArray
from spidr_sim.scenes import LATENCY_COUNTS, SLICE_COUNTS, SLICE_TICKS, SceneName, SceneSettings
from spidr_sim.settings import ALL_PASS, BiasRamp, ChipSettings
from spidr_sim.source import COLUMNS, Changes, Departures, SliceTruth, Source, edges_leave, scene_source

_TEMPLATE_WORDS: Final = 500_000
_TEMPLATE_SLICES: Final = (4, 64)
_SETTLING_SLICES: Final = 2
"""Until late words of slices before come at their full rate."""
_MORE: Final = 1.03
_SPREAD: Final = 5.0
"""More are made than wanted, and thinned: a scene knows its mean rate to a percent or so, and numbers spread."""
_FOREVER: Final = 1 << 50
_MOST_BINS: Final = SLICE_COUNTS * BINS_PER_COUNT
"""A word leaves after its hit, so no hit is later than the slice in which it leaves."""

_TOA, _TOA_BITS, _TOA_MASK = w.TOA.shift, w.TOA.width, w.TOA.mask
_SPIDR_MASK: Final = w.SPIDR_TIME.mask
_FTOA, _FTOA_MASK = w.FTOA.shift, w.FTOA.mask
_BELOW_HEADER: Final = np.uint64((1 << w.HEADER.shift) - 1)
_DCOL, _DCOL_MASK = w.DCOL.shift, w.DCOL.mask
_TIMELESS: Final = np.uint64(
    (1 << 64) - 1 - (w.TOA.mask << w.TOA.shift) - (w.FTOA.mask << w.FTOA.shift) - w.SPIDR_TIME.mask
)
_PIXEL_NIBBLE: Final = w.PIXEL_DATA_DRIVEN
_MANY_DATAGRAMS: Final = 8
"""Of a chip that sends so many in a slice each is full; else a word would wait for long."""
_TDC_NIBBLE: Final = w.TdcByte.TDC1_RISING >> 4

Bins = npt.NDArray[np.int32]


class Template:
    """Words of one chip over some slices, without their times, in the order in which they leave.

    Slice k has rows `borders[k]` to `borders[k + 1]`; `bins` are fToA bins after its start.
    """

    def __init__(self, slices: list[WordArray]) -> None:
        words = np.concatenate(slices)
        self.borders = np.concatenate([[0], np.cumsum([part.size for part in slices])]).tolist()
        self.bins: Bins = bins_of(words, np.array(self.borders))
        self.earliest_bins = int(self.bins.min(initial=0))
        self._plain = words & _TIMELESS
        self.words = self._plain.copy()
        self.counts: Bins = np.empty(words.size, np.int32)
        self.set_phase(np.zeros(COLUMNS, np.int64))

    def set_phase(self, phase_bins: IntArray) -> None:
        """State the same times as a chip with these column phases does."""
        state_times(self._plain, self.bins, phase_bins, self.words, self.counts)


def templates(settings: SceneSettings) -> list[Template]:
    """Of each chip, from the scene `uniform`, after the first slices: the rate is exact over all slices."""
    n = int(np.clip(_TEMPLATE_WORDS * 1000 / max(settings.rate_hz, 1.0), *_TEMPLATE_SLICES))
    wanted = round(settings.rate_hz * n / 1000 / settings.n_chips)
    more = _MORE + _SPREAD / max(wanted, 1) ** 0.5
    source = scene_source(replace(settings, scene=SceneName.UNIFORM, rate_hz=settings.rate_hz * more, shot_rate_hz=0.0))
    source.open(0, 0)
    for _ in range(_SETTLING_SLICES):
        source.advance()
    slices: list[list[WordArray]] = [[] for _ in range(settings.n_chips)]
    for _ in range(n):
        departures = source.advance()
        for chip, parts in enumerate(slices):
            parts.append(departures.of_chip(chip).copy())
    rng = np.random.default_rng(settings.seed)
    return [Template(thinned(rng, parts, wanted)) for parts in slices]


def thinned(rng: np.random.Generator, slices: list[WordArray], wanted: int) -> list[WordArray]:
    """Without those that are more than `wanted`, anywhere."""
    ends = np.cumsum([part.size for part in slices])
    surplus = rng.choice(ends[-1], max(0, ends[-1] - wanted), replace=False)
    kept = np.ones(ends[-1], np.bool_)
    kept[surplus] = False
    return [part[keep] for part, keep in zip(slices, np.split(kept, ends[:-1]), strict=True)]


class LoadSource:
    """Pre-built words as the board's source."""

    def __init__(self, settings: SceneSettings, *, keep_truth: bool = False) -> None:
        settings.check()
        self.n_chips = settings.n_chips
        self.has_delay = False
        self.next_counts = 0
        self.final_counts = 0
        self.trigger_faults = TriggerFaults()
        self.datagram_words = 0
        self._keep_truth = keep_truth
        self._templates = templates(settings)
        self._n_slices = len(self._templates[0].borders) - 1
        self._triggers = TriggerPlan(settings.shot_rate_hz, settings.seed)
        self._phases = [0] * self.n_chips
        self._masks = [ALL_PASS] * self.n_chips
        self._alive = [True] * self.n_chips
        self._changes = Changes()
        self._injected: list[list[int]] = [[] for _ in range(self.n_chips)]
        self._rests = [np.empty(0, np.uint64)] * self.n_chips
        """Of each chip, words that wait for the next slice to fill a datagram."""
        self._out = np.empty(8192, np.uint64)
        self._epoch = 0
        self._index = 0
        self._open_counts = 0

    def set_chip(self, chip: int, settings: ChipSettings, at_counts: int = 0) -> None:
        """Power and column phases of `chip`."""
        phase = np.array(column_phase(settings.pll), np.int64)
        self._changes.add(at_counts, partial(self._set_chip, chip, settings, phase))

    def set_filter(self, chip: int, eth_mask: int, at_counts: int = 0) -> None:
        """Other words of `chip` leave."""
        self._changes.add(at_counts, partial(self._masks.__setitem__, chip, eth_mask))

    def set_bias(self, ramp: BiasRamp) -> None:
        """Nothing: there is no sensor."""

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
        """The gate opens."""
        if epoch != self._epoch:
            self.trigger_faults.restart()
        self.trigger_faults.open()
        self._epoch = epoch
        self._open_counts = at_counts
        self._changes.act()
        for words in self._injected:
            words.clear()
        self._rests = [np.empty(0, np.uint64)] * self.n_chips
        self._go_to(at_counts // SLICE_COUNTS)

    def advance(self) -> Departures:
        """The next slice, with the gate open beyond it."""
        return self._slice(_FOREVER)

    def finish(self, at_counts: int) -> Iterator[Departures]:
        """The slices up to the closing of the gate, and the late words of the last."""
        last = -(-at_counts // SLICE_COUNTS)
        while self._index <= last:
            yield self._slice(at_counts)

    def idle(self, start_counts: int, stop_counts: int) -> tuple[Departures, IntArray]:
        """It measures speed: while the gate is closed there is nothing."""
        edges = np.empty((0, 4), np.int64)
        return edges_leave(edges, np.zeros(self.n_chips, np.bool_)), edges

    def inject(self, chip: int, at_counts: int, words: tuple[int, ...]) -> None:
        """Words of the chip itself leave with the next slice."""
        self._injected[chip] += words

    def _go_to(self, index: int) -> None:
        self._index = index
        self.final_counts = index * SLICE_COUNTS
        self.next_counts = self.final_counts + SLICE_COUNTS + LATENCY_COUNTS

    def _set_chip(self, chip: int, settings: ChipSettings, phase_bins: IntArray) -> None:
        self._alive[chip] = settings.alive
        if self._phases[chip] != settings.pll:
            self._phases[chip] = settings.pll
            self._templates[chip].set_phase(phase_bins)

    def _passes(self, chip: int, nibble: int) -> bool:
        return bool(self._alive[chip] and self._masks[chip] >> nibble & 1)

    def _slice(self, close_counts: int) -> Departures:
        self._changes.act(self._index * SLICE_COUNTS)
        edges = self._edges(close_counts)
        borders, pixel_words = [0], []
        for chip in range(self.n_chips):
            extra_at, extra_words = self._extras(chip, edges)
            n = self._write(chip, close_counts, extra_at, extra_words, borders[-1] + self._rests[chip].size)
            stop, waiting = self._keep_rest(chip, borders[-1], n, close_counts)
            borders.append(stop)
            pixel_words.append(n - extra_at.size - waiting)
        truth = self._truth(sum(pixel_words), edges, close_counts) if self._keep_truth else None
        self._go_to(self._index + 1)
        return Departures(self._out, tuple(borders), tuple(pixel_words), len(edges), truth)

    def _write(self, chip: int, close_counts: int, extra_at: IntArray, extra_words: WordArray, start: int) -> int:
        """The words of a chip go into `_out`; returns their number."""
        template = self._templates[chip]
        k = self._index % self._n_slices
        rows = slice(template.borders[k], template.borders[k + 1] if self._passes(chip, _PIXEL_NIBBLE) else 0)
        words = template.words[rows]
        self._reserve(start + words.size + extra_words.size)
        base = self._index * SLICE_COUNTS
        low, high = ((edge - base) * BINS_PER_COUNT for edge in (self._open_counts, close_counts))
        return write_slice(
            words, template.counts[rows], template.bins[rows], base, low, high,
            low <= template.earliest_bins and high >= _MOST_BINS,
            extra_at * words.size // SLICE_COUNTS, extra_words, self._out[start:],
        )  # fmt: skip

    def _keep_rest(self, chip: int, start: int, n: int, close_counts: int) -> tuple[int, int]:
        """What waited leaves before the `n` new words; what fills no datagram waits, where many leave.

        Returns where the words end that leave, and how many more pixel words wait than before.
        """
        before = self._rests[chip]
        self._out[start : start + before.size] = before
        stop = start + before.size + n
        many = close_counts == _FOREVER and stop - start >= _MANY_DATAGRAMS * self.datagram_words
        n_rest = (stop - start) % self.datagram_words if many and self.datagram_words else 0
        after = self._rests[chip] = self._out[stop - n_rest : stop].copy()
        return stop - n_rest, pixels_among(after) - pixels_among(before)

    def _reserve(self, size: int) -> None:
        if size > self._out.size:
            self._out = np.concatenate([self._out, np.empty(size * 5 // 4 - self._out.size, np.uint64)])

    def _edges(self, close_counts: int) -> IntArray:
        """Edges of this slice, if any chip sends them."""
        start = max(self._index * SLICE_COUNTS, self._open_counts) * TICKS_PER_COUNT
        stop = min((self._index + 1) * SLICE_COUNTS, close_counts) * TICKS_PER_COUNT
        sent = any(self._passes(chip, _TDC_NIBBLE) for chip in range(self.n_chips))
        return self.trigger_faults.spoil(self._triggers.edges_in(start, stop if sent else start), stop)

    def _extras(self, chip: int, edges: IntArray) -> tuple[IntArray, WordArray]:
        """(25 ns counts after the start of the slice, words) of what is no pixel, in order."""
        if not self._passes(chip, _TDC_NIBBLE):
            edges = edges[:0]
        at, words = edge_words(edges[np.argsort(edges[:, 3], kind="stable")], self._index * SLICE_COUNTS)
        injected = self._injected[chip]
        if injected:
            at = np.append(at, np.full(len(injected), SLICE_COUNTS))
            words = np.append(words, np.array(injected, np.uint64))
            injected.clear()
        return at, words

    def _truth(self, n_hits: int, edges: IntArray, close_counts: int) -> SliceTruth:
        start = max(self._index * SLICE_TICKS, self._open_counts * TICKS_PER_COUNT)
        stop = min((self._index + 1) * SLICE_TICKS, close_counts * TICKS_PER_COUNT)
        first_shot, shot_ticks = self._triggers.shots_in(start, stop)
        return SliceTruth.of_counts(n_hits, edges, first_shot, shot_ticks)


def pixels_among(words: WordArray) -> int:
    """How many of them are of pixels."""
    return int(np.count_nonzero(words >> np.uint64(w.HEADER.shift) == _PIXEL_NIBBLE))


def source_of(settings: SceneSettings, *, keep_truth: bool = False) -> Source:
    """The source of any scene."""
    if settings.scene is SceneName.LOAD:
        return LoadSource(settings, keep_truth=keep_truth)
    return scene_source(settings, keep_truth=keep_truth)


# --- kernels ----------------------------------------------------------------------------------------------------------
@kernel
def bins_of(words: WordArray, borders: IntArray) -> Bins:
    """fToA bins of pixel words without column phases, after the start of their slice; the first begins at 2 ms."""
    bins = np.empty(words.size, np.int32)
    for k in range(borders.size - 1):
        start = (_SETTLING_SLICES + k) * _MOST_BINS
        for i in range(borders[k], borders[k + 1]):
            word = int(words[i] & _BELOW_HEADER)
            coarse = ((word & _SPIDR_MASK) << _TOA_BITS) | ((word >> _TOA) & _TOA_MASK)
            bins[i] = coarse * BINS_PER_COUNT - ((word >> _FTOA) & _FTOA_MASK) - start
    return bins


@kernel
def state_times(plain: WordArray, bins: Bins, phase_bins: IntArray, words: WordArray, counts: Bins) -> None:
    """`words` get the fToA, `counts` the 25 ns counts, with which a chip states `bins`."""
    for i in range(plain.size):
        seen = bins[i] - phase_bins[int(plain[i] >> np.uint64(_DCOL)) & _DCOL_MASK]
        coarse = coarse_of(seen, 0)
        counts[i] = coarse
        words[i] = plain[i] | np.uint64((coarse * BINS_PER_COUNT - seen) << _FTOA)


@kernel
def edge_words(edges: IntArray, start_counts: int) -> tuple[IntArray, WordArray]:
    """When edges leave, as 25 ns counts after `start_counts` and within the slice, and their words."""
    at = np.empty(edges.shape[0], np.int64)
    words = np.empty(edges.shape[0], np.uint64)
    for i in range(edges.shape[0]):
        leaves = edges[i, 3] // TICKS_PER_COUNT + TDC_LATENCY_COUNTS - start_counts
        at[i] = min(max(leaves, 0), SLICE_COUNTS)
        words[i] = tdc_word(TDC_BYTES[edges[i, 0] - 1, edges[i, 1]], edges[i, 2], edges[i, 3])
    return at, words


@kernel
def write_slice(
    words: WordArray,
    counts: Bins,
    bins: Bins,
    start_counts: int,
    low_bins: int,
    high_bins: int,
    whole: bool,
    extra_row: IntArray,
    extra_words: WordArray,
    out: WordArray,
) -> int:
    """Words of a slice at `start_counts` with their times, each extra one before its row. Returns their number.

    Unless the gate is open all through (`whole`), only those of `low_bins` to before `high_bins` leave.
    """
    n = 0
    row = 0
    for e in range(extra_row.size + 1):
        stop = extra_row[e] if e < extra_row.size else words.size
        if whole:
            stamp(words[row:stop], counts[row:stop], start_counts, out[n:])
            n += stop - row
        else:
            for i in range(row, stop):
                if low_bins <= bins[i] < high_bins:
                    stamp(words[i : i + 1], counts[i : i + 1], start_counts, out[n:])
                    n += 1
        row = stop
        if e < extra_row.size:
            out[n] = extra_words[e]
            n += 1
    return n


@kernel
def stamp(words: WordArray, counts: Bins, start_counts: int, out: WordArray) -> None:
    """Words with the time that they state."""
    for i in range(words.size):
        time = start_counts + counts[i]
        out[i] = words[i] | np.uint64(((time & _TOA_MASK) << _TOA) | ((time >> _TOA_BITS) & _SPIDR_MASK))
