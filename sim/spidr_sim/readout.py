"""Chip and board read-out: from deposits and trigger edges to words in the order in which they leave.

A pixel that has fired is dead for 475 ns plus its ToT. Its word waits for the end of the ToT, then for its column:
mostly a few microseconds, now and then up to 0.3 ms, always below the 0.4096 ms at which the 14-bit ToA would wrap.
So words leave out of time order. Trigger edges leave half a microsecond after they came, in the stream of every chip.

Words of a sequential read-out wait until the gate has closed; each pixel has one, of its first hit. Pixels that count
have one word each too, when the gate has closed.

All kernels are pure. `pool` is what waits to leave: (word, 4 * departure count + chip). This module knows no clock.
"""

from typing import Final

import numpy as np
import numpy.typing as npt

from ophyd_timepix.clock import TICK_NS, TICKS_PER_COUNT, TICKS_PER_FTOA
from ophyd_timepix.protocol import words as w
from spidr_sim.encode import BINS_PER_COUNT, TDC_BYTES, coarse_of, count_word, pixel_word, tdc_word
from spidr_sim.frontend import COUNTING, HITS_PER_COUNT, ONE_HIT, TOA_ONLY, TOT_ONE, WITHOUT_FTOA
from spidr_sim.jit import kernel
from spidr_sim.particles import IntArray
from spidr_sim.rng import draw

WordArray = npt.NDArray[np.uint64]

DEAD_COUNTS: Final = 19
"""475 ns after the end of the ToT."""
PIXEL_LATENCY_COUNTS: Final = 16
TDC_LATENCY_COUNTS: Final = 20
NEVER: Final = np.iinfo(np.int64).max
EVENTS_SATURATED: Final = w.TOT_SATURATED
ITOT_SATURATED: Final = (1 << w.TOA.width) - 2
"""Both counters are shift registers: 10 and 14 bits have 2**n - 1 states, from 0."""
MAX_LATENESS_COUNTS: Final = 12_000
"""0.3 ms: the longest wait of a word after the end of its ToT."""
_LATENESS_STEPS: Final = 4096
_TAIL_SHARE: Final = 0.04

BUCKET_BITS: Final = 5
BUCKET_COUNTS: Final = 1 << BUCKET_BITS
"""Words that leave within 0.8 us of each other keep the order in which they came."""
_TOT_SHIFT: Final = TOT_ONE.bit_length() - 1
_FIRST: Final = np.uint64(0)
_ONE: Final = np.uint64(1)
_ADDRESS_BITS: Final = np.uint64(16)
_TO_LATENESS: Final = np.uint64(65 - _LATENESS_STEPS.bit_length())
_CHIP_BITS: Final = 2
CHIP_MASK: Final = (1 << _CHIP_BITS) - 1
_PIXEL_NIBBLE: Final = np.uint64(w.PIXEL_DATA_DRIVEN)
_EITHER_NIBBLE: Final = np.uint64(w.PIXEL_DATA_DRIVEN ^ w.PIXEL_SEQUENTIAL)
"""`| _EITHER_NIBBLE` makes both headers of pixel words the same."""
_NIBBLE_SHIFT: Final = np.uint64(w.HEADER.shift)


def lateness_table() -> npt.NDArray[np.int32]:
    """Waits in counts by quantile: exponential with a mean of 2.5 us, and a tail of 4 % with a mean of 45 us."""
    quantile = (np.arange(_LATENESS_STEPS) + 0.5) / _LATENESS_STEPS
    body = quantile < 1 - _TAIL_SHARE
    waits = np.empty(_LATENESS_STEPS)
    waits[body] = -100.0 * np.log(1 - quantile[body] / (1 - _TAIL_SHARE))
    waits[~body] = -1800.0 * np.log((1 - quantile[~body]) / _TAIL_SHARE)
    waits[-1] = MAX_LATENESS_COUNTS
    return np.minimum(waits, MAX_LATENESS_COUNTS).astype(np.int32)


# --- trigger inputs ---------------------------------------------------------------------------------------------------
class TriggerPlan:
    """When edges come: a pulse on TDC1 for every shot, on TDC2 for every `EVERY`-th, later. A function of time
    alone."""

    EVERY: Final = 10
    PULSE_NS: Final = (10_000.0, 5_000.0)
    DELAY_NS: Final = (0.0, 3_000.0)
    JITTER_TICKS: Final = 8
    """Shots come up to 2 ns late, so that all TDC stamps occur."""

    def __init__(self, shot_rate_hz: float, seed: int) -> None:
        self.active = shot_rate_hz > 0
        self.period_ticks = 1e9 / shot_rate_hz / TICK_NS if self.active else np.inf
        self.seed = seed
        quarter = self.period_ticks / 4
        delays = [min(ns / TICK_NS, quarter) for ns in self.DELAY_NS]
        widths = [min(ns / TICK_NS, quarter) for ns in self.PULSE_NS]
        self.offsets: IntArray = np.array(
            [[delay, delay + width] for delay, width in zip(delays, widths, strict=True)]
            if self.active
            else [[0, 0]] * 2,
            dtype=np.int64,
        )
        """Ticks after the shot, [input - 1][falling]."""
        self._reach = int(self.offsets.max())

    def shots_in(self, start_tick: int, stop_tick: int) -> tuple[int, IntArray]:
        """The number of the first shot at or after `start_tick`, and the ticks of those before `stop_tick`."""
        if not self.active:
            return 0, _NO_SHOTS
        first, ticks = shots_between(start_tick, stop_tick, self.period_ticks, self.seed, self.JITTER_TICKS)
        return first, ticks

    def edges_in(self, start_tick: int, stop_tick: int) -> IntArray:
        """Rows (input, falling, counter, tick) of the edges from `start_tick` to before `stop_tick`."""
        if not self.active:
            return _NO_EDGES
        first, ticks = self.shots_in(start_tick - self._reach, stop_tick)
        return edges(start_tick, stop_tick, ticks, first, self.EVERY, self.offsets)


_NO_SHOTS: Final = np.empty(0, np.int64)
_NO_EDGES: Final = np.empty((0, 4), np.int64)


@kernel
def shots_between(
    start_tick: int, stop_tick: int, period_ticks: float, seed: int, jitter_ticks: int
) -> tuple[int, IntArray]:
    """Shot n comes at (n + 1/2) periods, with a jitter that hangs on n. (first n, ticks) of those in [start, stop)."""
    first = max(0, int(start_tick / period_ticks) - 2)
    ticks = np.empty(max(0, int((stop_tick - start_tick) / period_ticks)) + 5, np.int64)
    n = 0
    for number in range(first, first + ticks.size):
        jitter = int(draw(np.uint64(seed), number) >> np.uint64(1)) % jitter_ticks
        tick = int((number + 0.5) * period_ticks) + jitter
        if tick < start_tick:
            first = number + 1
        elif tick < stop_tick:
            ticks[n] = tick
            n += 1
    return first, ticks[:n]


@kernel
def edges(
    start_tick: int, stop_tick: int, shot_tick: IntArray, first_shot: int, every: int, offsets: IntArray
) -> IntArray:
    """Rows (input, falling, counter, tick) of the edges in [start, stop) of the shots `first_shot` and following."""
    out = np.empty((4 * shot_tick.size, 4), np.int64)
    n = 0
    for s in range(shot_tick.size):
        number = first_shot + s
        for i in range(2):
            step = 1 if i == 0 else every
            if number % step:
                continue
            for falling in range(2):
                tick = shot_tick[s] + offsets[i, falling]
                if start_tick <= tick < stop_tick:
                    out[n, 0] = i + 1
                    out[n, 1] = falling
                    out[n, 2] = (2 * (number // step) + falling) & 0xFFF
                    out[n, 3] = tick
                    n += 1
    return out[:n]


# --- into the pool ----------------------------------------------------------------------------------------------------
class Pool:
    """Words that wait to leave."""

    def __init__(self, capacity: int = 8192) -> None:
        self.word: WordArray = np.empty(capacity, np.uint64)
        self.departure: IntArray = np.empty(capacity, np.int64)
        """4 * count + chip"""
        self.n = 0

    def reserve(self, more: int) -> None:
        """Make room for `more` words, keeping those that wait."""
        if self.n + more > self.word.size:
            capacity = (self.n + more) * 5 // 4
            self.word = np.concatenate([self.word[: self.n], np.empty(capacity - self.n, np.uint64)])
            self.departure = np.concatenate([self.departure[: self.n], np.empty(capacity - self.n, np.int64)])

    def add(self, word: int, chip: int, departure_counts: int) -> None:
        """Let one word wait."""
        self.reserve(1)
        self.word[self.n] = word
        self.departure[self.n] = departure_counts << _CHIP_BITS | chip
        self.n += 1


@kernel
def read_pixels(
    key: np.uint64,
    n_deposits: int,
    pixel: npt.NDArray[np.int32],
    tot: npt.NDArray[np.int32],
    bins: IntArray,
    particle: npt.NDArray[np.int32],
    open_tick: int,
    close_tick: int,
    phase: IntArray,
    tot_factor: IntArray,
    style: IntArray,
    plain: bool,
    lateness: npt.NDArray[np.int32],
    busy_until: IntArray,
    events: IntArray,
    itot: IntArray,
    word: WordArray,
    departure: IntArray,
    n_pool: int,
) -> tuple[int, int]:
    """Deposits that become hits: inside the gate, of a live pixel. Their words join the pool, or they are counted.

    `busy_until` (fToA bins, [chip << 16 | y << 8 | x]) is the memory of the dead time, `events` and `itot` (the same
    index) that of pixels that count. The hits, as their words state them, are moved to the front of the deposit
    columns; returns (hits, words).
    """
    first_bin = -(-open_tick // TICKS_PER_FTOA)
    stop_bin = -(-close_tick // TICKS_PER_FTOA)
    # Indices without sign: nothing looks whether they count from the end. That is a quarter of the time of this kernel.
    n = _FIRST
    n_words = _FIRST + np.uint64(n_pool)
    for k in range(n_deposits):
        i = np.uint64(k)
        time = bins[i]
        address = int(pixel[i])
        place = np.uint64(address)
        if time < first_bin or time >= stop_bin or time < busy_until[place]:
            continue
        chip = place >> _ADDRESS_BITS
        counts = min(tot[i], w.TOT_SATURATED) if plain else scaled_tot(tot[i], tot_factor[chip])
        busy_until[place] = time + (DEAD_COUNTS + counts) * BINS_PER_COUNT
        how = 0 if plain else style[chip]
        if how & COUNTING:
            events[place] += 1
            itot[place] += counts
        else:
            x = address & 0xFF
            column_phase = phase[chip, np.uint64(x >> 1)]
            coarse = coarse_of(time, column_phase)
            wait = lateness[draw(key, k) >> _TO_LATENESS]
            departure[n_words] = ((coarse + counts + PIXEL_LATENCY_COUNTS + wait) << _CHIP_BITS) | (address >> 16)
            if how & WITHOUT_FTOA:
                time = coarse * BINS_PER_COUNT + column_phase
            if how & TOA_ONLY:
                counts = 0
            if how & ONE_HIT:
                busy_until[place] = NEVER
            word[n_words] = pixel_word(x, (address >> 8) & 0xFF, time, counts, column_phase)
            n_words += _ONE
        pixel[n] = address
        tot[n] = counts
        bins[n] = time
        particle[n] = particle[i]
        n += _ONE
    return int(n), int(n_words) - n_pool


@kernel
def scaled_tot(nominal: int, factor: int) -> int:
    """ToT at another discharge current; a pixel that fired has at least one count."""
    return min(max((nominal * factor) >> _TOT_SHIFT, 1), w.TOT_SATURATED)


@kernel
def read_counters(
    chip: int,
    events: IntArray,
    itot: IntArray,
    at_counts: int,
    word: WordArray,
    departure: IntArray,
    n_pool: int,
) -> int:
    """Words of the pixels of a chip that counted something join the pool, in the order of addresses.

    `events` and `itot` are those of this chip. Counters stop at the last state of their shift registers. Returns the
    number of words.
    """
    n = n_pool
    for address in range(events.size):
        if events[address]:
            leaves = at_counts + PIXEL_LATENCY_COUNTS + (n - n_pool) // HITS_PER_COUNT
            counted = min(events[address], EVENTS_SATURATED)
            sum_of_tot = min(itot[address], ITOT_SATURATED)
            word[n] = count_word(address & 0xFF, address >> 8, counted, sum_of_tot, leaves)
            departure[n] = (leaves << _CHIP_BITS) | chip
            n += 1
    return n - n_pool


def release(held: Pool, at_counts: int, into: Pool) -> None:
    """Pixel words leave `held` with the header of a sequential read-out, each chip at the rate of its links, from
    `at_counts` on."""
    into.reserve(held.n)
    word, departure = held.word[: held.n], held.departure[: held.n]
    order = np.argsort(departure, kind="stable")
    chips = departure[order] & CHIP_MASK
    place = np.empty(held.n, np.int64)
    for chip in range(w.MAX_CHIPS):
        mine = chips == chip
        place[mine] = np.arange(np.count_nonzero(mine))
    leaves = at_counts + PIXEL_LATENCY_COUNTS + place // HITS_PER_COUNT
    into.word[into.n : into.n + held.n] = word[order] & ~(_EITHER_NIBBLE << _NIBBLE_SHIFT)
    into.departure[into.n : into.n + held.n] = leaves << _CHIP_BITS | chips
    into.n += held.n
    held.n = 0


@kernel
def read_edges(edge: IntArray, sends: npt.NDArray[np.bool_], word: WordArray, departure: IntArray, n_pool: int) -> int:
    """Words of TDC edges, one for each chip that sends them, join the pool. Returns the number of words."""
    n = n_pool
    for i in range(edge.shape[0]):
        tick = edge[i, 3]
        value = tdc_word(TDC_BYTES[edge[i, 0] - 1, edge[i, 1]], edge[i, 2], tick)
        leaves = tick // TICKS_PER_COUNT + TDC_LATENCY_COUNTS
        for chip in range(sends.size):
            if sends[chip]:
                word[n] = value
                departure[n] = (leaves << _CHIP_BITS) | chip
                n += 1
    return n - n_pool


# --- out of the pool --------------------------------------------------------------------------------------------------
@kernel
def depart(
    word: WordArray,
    departure: IntArray,
    n_pool: int,
    start_count: int,
    n_buckets: int,
    n_chips: int,
    fill: IntArray,
    out: WordArray,
    pixel_words: IntArray,
) -> int:
    """Words whose time has come leave, chip by chip, by counting sort over buckets of their departure.

    `fill` (n_chips * n_buckets + 1 numbers) ends as the border of the buckets in `out`: chip c's words end at
    `fill[(c + 1) * n_buckets - 1]`. `pixel_words[c]` is set to the pixel words among them. Returns how many stay in
    the pool.
    """
    fill[:] = 0
    pixel_words[:] = 0
    for i in range(n_pool):
        bucket = _bucket(departure[i], start_count)
        if bucket < n_buckets:
            fill[(departure[i] & CHIP_MASK) * n_buckets + bucket + 1] += 1
    for b in range(n_chips * n_buckets):
        fill[b + 1] += fill[b]
    stay = 0
    for i in range(n_pool):
        bucket = _bucket(departure[i], start_count)
        chip = departure[i] & CHIP_MASK
        if bucket < n_buckets:
            slot = chip * n_buckets + bucket
            out[fill[slot]] = word[i]
            fill[slot] += 1
            pixel_words[chip] += ((word[i] >> _NIBBLE_SHIFT) | _EITHER_NIBBLE) == _PIXEL_NIBBLE
        else:
            word[stay] = word[i]
            departure[stay] = departure[i]
            stay += 1
    return stay


@kernel
def _bucket(departure: int, start_count: int) -> int:
    return max(0, ((departure >> _CHIP_BITS) - start_count) >> BUCKET_BITS)
