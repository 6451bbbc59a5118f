"""A source of words: what the chips of one board would send, slice by slice of virtual time. No socket, no thread.

Between `open` and `finish` a source is asked for one slice (1 ms) after the other, each only when the present is
past its end plus `SPILL_COUNTS`: then no later closing of the gate can touch its hits, and what it tells as truth is
final. `finish` closes the gate and hands over what is left.

Other settings act from the first slice that begins after they were told, so that they too are a function of virtual
time; those told while the gate is closed act when it opens. The bias has a time of its own.
"""

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt

from ophyd_timepix.clock import TICKS_PER_COUNT, TICKS_PER_FTOA, TICKS_PER_SECOND
from ophyd_timepix.protocol.words import MATRIX_SIDE
from spidr_sim import deposits as d
from spidr_sim import readout
from spidr_sim.data_faults import TriggerFaults
from spidr_sim.deposits import Deposits
from spidr_sim.encode import BINS_PER_COUNT
from spidr_sim.frontend import NOISE_SIGMA_STEPS, FrontEnd, NoiseTable, PulseTable, bias_gain
from spidr_sim.particles import FloatArray, IntArray, Particles
from spidr_sim.readout import Pool, TriggerPlan, WordArray
from spidr_sim.scenes import (
    LATENCY_COUNTS,
    SLICE_COUNTS,
    SLICE_TICKS,
    SPILL_COUNTS,
    Moment,
    Scene,
    SceneSettings,
    build_scene,
    chip_keys,
    probing,
    readout_key,
)
from spidr_sim.settings import OPERATING_BIAS_V, PIXELS, BiasRamp, ChipSettings

AnyIntArray = npt.NDArray[np.integer[Any]]

COLUMNS: Final = MATRIX_SIDE // 2
_FOREVER: Final = readout.NEVER
_COUNTS_PER_SECOND: Final = TICKS_PER_SECOND // TICKS_PER_COUNT
_LISTS_OF_PARTICLES_AND_HITS: Final = 11
_BUCKETS: Final = SLICE_COUNTS // readout.BUCKET_COUNTS


@dataclass(frozen=True)
class SliceTruth:
    """What really happened in a slice. Rows of `hit_particle` point into the particles of this slice (-1: none)."""

    particle_shot: IntArray
    particle_chip: AnyIntArray
    particle_x: FloatArray
    particle_y: FloatArray
    particle_tick: IntArray
    particle_peak: AnyIntArray
    particle_hits: IntArray
    hit_pixel: AnyIntArray
    """chip << 16 | y << 8 | x"""
    hit_tot: AnyIntArray
    hit_tick: IntArray
    hit_particle: IntArray
    edges: IntArray
    """Rows (input, falling, counter, tick)."""
    first_shot: int
    shot_ticks: IntArray
    n_hits: int | None = None
    """Where hits are only counted; None: as many as are listed."""

    @classmethod
    def of_counts(cls, n_hits: int, edges: IntArray, first_shot: int, shot_ticks: IntArray) -> "SliceTruth":
        """A truth that lists neither particles nor hits."""
        none: Any = np.empty(0, np.int64)
        return cls(*(none,) * _LISTS_OF_PARTICLES_AND_HITS, edges, first_shot, shot_ticks, n_hits)


@dataclass(frozen=True)
class Departures:
    """Words that leave now. Views: valid until the source is asked again."""

    words: WordArray
    borders: tuple[int, ...]
    """Words of chip c are `words[borders[c]:borders[c + 1]]`."""
    pixel_words: tuple[int, ...]
    n_edges: int = 0
    """Physical edges taken by the TDC, each in the stream of every chip."""
    truth: SliceTruth | None = None

    def of_chip(self, chip: int) -> WordArray:
        """The words of one chip, in their order."""
        return self.words[self.borders[chip] : self.borders[chip + 1]]


class Source(Protocol):
    """What the board's read-out asks."""

    n_chips: int
    next_counts: int
    """The next slice is to be asked for when the timer has reached this."""
    has_delay: bool
    """Whether a delay between pump and probe pulse changes anything."""
    final_counts: int
    """Up to here everything is decided: a later closing of the gate changes nothing before."""
    trigger_faults: TriggerFaults
    """What goes wrong before the TDC. What has been recorded stays as it is."""
    datagram_words: int
    """Words that a full datagram of the board holds; 0: not told."""

    def set_chip(self, chip: int, settings: ChipSettings, at_counts: int = 0) -> None:
        """Other settings of `chip`, told at `at_counts`. Raises ValueError for a PLL word with unknown phases."""
        ...

    def set_filter(self, chip: int, eth_mask: int, at_counts: int = 0) -> None:
        """Other words of `chip` leave: those whose header nibble is a bit of the mask. Told at `at_counts`."""
        ...

    def set_bias(self, ramp: BiasRamp) -> None:
        """The bias of the sensor."""
        ...

    def set_delay(self, delay_fs: float, at_counts: int = 0) -> None:
        """Another delay between pump and probe pulse, told at `at_counts`."""
        ...

    def open(
        self,
        epoch: int,
        at_counts: int,
        *,
        sequential: bool = False,
        shutter_counts: int | None = None,
        zero_s: float = 0.0,
    ) -> None:
        """The gate opens in timer epoch `epoch`, `at_counts`.

        The shutter opened at `shutter_counts` (with the gate unless told); the timer stood at 0 at the virtual
        second `zero_s`.
        """
        ...

    def advance(self) -> Departures:
        """The next slice."""
        ...

    def finish(self, at_counts: int) -> Iterator[Departures]:
        """The gate closes: the slices up to `at_counts`, then what still waits."""
        ...

    def idle(self, start_counts: int, stop_counts: int) -> tuple[Departures, IntArray]:
        """What a TDC that goes on takes while the gate is closed: words, and rows (input, falling, counter, tick)."""
        ...

    def inject(self, chip: int, at_counts: int, words: tuple[int, ...]) -> None:
        """Let the chip's own words (timer, control) leave at `at_counts`, while the gate is open."""
        ...


class Changes:
    """What was told and has not acted yet."""

    def __init__(self) -> None:
        self._waiting: deque[tuple[int, Callable[[], None]]] = deque()

    def add(self, at_counts: int, change: Callable[[], None]) -> None:
        """`change` was told at `at_counts`."""
        self._waiting.append((at_counts, change))

    def act(self, until_counts: int = _FOREVER) -> None:
        """Let all act that was told up to `until_counts`, in its order."""
        while self._waiting and self._waiting[0][0] <= until_counts:
            self._waiting.popleft()[1]()


class DepartureQueue:
    """Words wait in a pool and leave in the order of their departure."""

    def __init__(self, n_chips: int) -> None:
        self.pool = Pool()
        self._n_chips = n_chips
        self._nothing = (0,) * (n_chips + 1)
        self._fill = np.zeros(n_chips * _BUCKETS + 1, np.int64)
        self._out = np.empty(8192, np.uint64)
        self._pixel_words = np.zeros(n_chips, np.int64)

    def leave(self, index: int, n_edges: int = 0, truth: SliceTruth | None = None) -> Departures:
        """The words that leave before the end of slice `index`."""
        pool = self.pool
        if not pool.n:
            return Departures(self._out, self._nothing, self._nothing[1:], n_edges, truth)
        if pool.n > self._out.size:
            self._out = np.empty(pool.word.size, np.uint64)
        pool.n = readout.depart(
            pool.word, pool.departure, pool.n, index * SLICE_COUNTS, _BUCKETS,
            self._n_chips, self._fill, self._out, self._pixel_words,
        )  # fmt: skip
        ends = self._fill[_BUCKETS - 1 : -1 : _BUCKETS].tolist()
        return Departures(self._out, (0, *ends), tuple(self._pixel_words.tolist()), n_edges, truth)


def edges_leave(edges: IntArray, sends: npt.NDArray[np.bool_]) -> Departures:
    """Words of edges alone, of each chip that sends them."""
    pool = Pool(max(1, len(edges) * sends.size))
    n = readout.read_edges(edges, sends, pool.word, pool.departure, 0)
    chips = pool.departure[:n] & readout.CHIP_MASK
    order = np.argsort(chips, kind="stable")
    borders = np.searchsorted(chips[order], np.arange(sends.size + 1))
    return Departures(pool.word[:n][order], tuple(borders.tolist()), (0,) * sends.size, len(edges))


class SceneSource:
    """Words of a simulated scene: particles, deposits, thresholds, dead time, read-out."""

    def __init__(self, scene: Scene, *, keep_truth: bool = False) -> None:
        self.settings: SceneSettings = scene.settings
        self.n_chips = self.settings.n_chips
        self.has_delay = scene.has_delay
        self.next_counts = 0
        self.final_counts = 0
        self.trigger_faults = TriggerFaults()
        self.datagram_words = 0
        self._scene = scene
        self._keep_truth = keep_truth
        self._front = FrontEnd(self.n_chips, self.settings.seed, scene.least_tot)
        self._changes = Changes()
        self._bias = BiasRamp.settled(OPERATING_BIAS_V)
        self._triggers = TriggerPlan(self.settings.shot_rate_hz, self.settings.seed)
        self._particles = Particles()
        self._deposits = Deposits()
        self._queue = DepartureQueue(self.n_chips)
        self._held = Pool()
        """Words of a sequential read-out."""
        self._lateness = readout.lateness_table()
        self._walk_ticks = d.time_walk_ticks()
        self._busy_until = np.empty(self.n_chips * PIXELS, np.int64)
        self._events = _NOTHING_COUNTED
        self._itot = _NOTHING_COUNTED
        self._sequential = False
        self._epoch = 0
        self._index = 0
        self._open_counts = 0
        self._shutter_counts = 0
        self._zero_s = 0.0

    def set_chip(self, chip: int, settings: ChipSettings, at_counts: int = 0) -> None:
        """Other settings of `chip`."""
        self._changes.add(at_counts, partial(self._front.set_chip, chip, settings))

    def set_filter(self, chip: int, eth_mask: int, at_counts: int = 0) -> None:
        """Other words of `chip` leave."""
        self._changes.add(at_counts, partial(self._front.set_filter, chip, eth_mask))

    def set_bias(self, ramp: BiasRamp) -> None:
        """The bias of the sensor."""
        self._bias = ramp

    def set_delay(self, delay_fs: float, at_counts: int = 0) -> None:
        """Another delay between pump and probe pulse."""
        self._changes.add(at_counts, partial(self._scene.set_delay, delay_fs))

    def open(
        self,
        epoch: int,
        at_counts: int,
        *,
        sequential: bool = False,
        shutter_counts: int | None = None,
        zero_s: float = 0.0,
    ) -> None:
        """The gate opens: all pixels are alive and have counted nothing."""
        if epoch != self._epoch:
            self.trigger_faults.restart()
        self._epoch = epoch
        self._open_counts = at_counts
        self._shutter_counts = at_counts if shutter_counts is None else shutter_counts
        self._zero_s = zero_s
        self._sequential = sequential
        self._front.set_sequential(sequential)
        self.trigger_faults.open()
        self._changes.act()
        self._front.refresh()
        self._busy_until[:] = -1
        self._events = self._itot = _NOTHING_COUNTED
        self._queue.pool.n = self._held.n = 0
        self._go_to(max(0, at_counts - SPILL_COUNTS) // SLICE_COUNTS)

    def advance(self) -> Departures:
        """The next slice, with the gate open beyond it."""
        return self._slice(_FOREVER)

    def finish(self, at_counts: int) -> Iterator[Departures]:
        """The slices up to the closing of the gate, then what waited for it, then the late words."""
        while self._index * SLICE_COUNTS < at_counts:
            yield self._slice(at_counts * TICKS_PER_COUNT)
        self._read_matrix(at_counts)
        while self._queue.pool.n:
            yield self._queue.leave(self._index)
            self._go_to(self._index + 1)

    def idle(self, start_counts: int, stop_counts: int) -> tuple[Departures, IntArray]:
        """Edges of the triggers, which know nothing of the gate."""
        sends = self._front.sends_edges
        start, stop = start_counts * TICKS_PER_COUNT, stop_counts * TICKS_PER_COUNT
        edges = self.trigger_faults.spoil(self._triggers.edges_in(start, stop if sends.any() else start), stop)
        return edges_leave(edges, sends), edges

    def inject(self, chip: int, at_counts: int, words: tuple[int, ...]) -> None:
        """Words of the chip itself join those that wait."""
        for word in words:
            self._queue.pool.add(word, chip, at_counts)

    def _go_to(self, index: int) -> None:
        self._index = index
        self.final_counts = index * SLICE_COUNTS + SPILL_COUNTS
        self.next_counts = self.final_counts + SLICE_COUNTS + LATENCY_COUNTS

    def _slice(self, close_tick: int) -> Departures:
        index = self._index
        self._changes.act(index * SLICE_COUNTS)
        self._front.refresh()
        n_particles = self._scene.particles(self._epoch, index, self._particles)
        n_hits = self._read_pixels(self._make_deposits(n_particles), close_tick)
        edges = self._read_edges(close_tick)
        truth = self._truth(n_particles, n_hits, edges, close_tick) if self._keep_truth else None
        self._go_to(index + 1)
        return self._queue.leave(index, len(edges), truth)

    # --- what fires ---------------------------------------------------------------------------------------------------
    def _make_deposits(self, n_particles: int) -> int:
        """What the pixels of this slice get; returns the number of deposits."""
        middle_s = self._zero_s + (self._index + 0.5) * SLICE_COUNTS / _COUNTS_PER_SECOND
        at = Moment(self._epoch, self._index, bias_gain(self._bias.at(middle_s)))
        n = 0
        if n_particles and at.gain > 0:
            n = self._scene.deposits(at, self._particles, n_particles, self._front, self._deposits)
        n_particle_deposits = n
        for chip in range(self.n_chips):
            noise, pulses = self._front.noise[chip], self._front.pulses[chip]
            if noise is not None:
                n += self._add_noise(at, chip, noise, n)
            if pulses is not None:
                n += self._add_pulses(at, chip, pulses, n)
        if n > n_particle_deposits:
            # The dead time of a pixel wants its deposits in the order of time.
            self._deposits.sort(n)
        return n

    def _add_noise(self, at: Moment, chip: int, noise: NoiseTable, n: int) -> int:
        room = d.noise_room(noise.rate_hz, SLICE_TICKS)
        columns = self._deposits.columns(n, room)
        start = self._index * SLICE_TICKS
        key, _ = chip_keys(self.settings, at, chip)
        return d.noise_hits(key, start, start + SLICE_TICKS, chip, noise.cumulative_hz, *columns)

    def _add_pulses(self, at: Moment, chip: int, pulses: PulseTable, n: int) -> int:
        start = self._index * SLICE_COUNTS - self._shutter_counts
        counts = pulses.between(start, start + SLICE_COUNTS) + self._shutter_counts
        columns = self._deposits.columns(n, counts.size * pulses.pixel.size)
        _, key = chip_keys(self.settings, at, chip)
        return d.pulse_hits(
            key, counts * BINS_PER_COUNT + pulses.phase_bins, chip, pulses.pixel, pulses.threshold_steps,
            pulses.steps, NOISE_SIGMA_STEPS, pulses.tot, self._walk_ticks, *columns,
        )  # fmt: skip

    # --- what is read out ---------------------------------------------------------------------------------------------
    def _read_pixels(self, n_deposits: int, close_tick: int) -> int:
        if not n_deposits:
            return 0
        front, deposits = self._front, self._deposits
        if front.counting and not self._events.size:
            self._events, self._itot = np.zeros((2, self.n_chips * PIXELS), np.int64)
        pool = self._held if self._sequential else self._queue.pool
        pool.reserve(n_deposits)
        n_hits, n_words = readout.read_pixels(
            readout_key(self.settings, self._epoch, self._index),
            n_deposits, deposits.pixel, deposits.tot, deposits.bins, deposits.particle,
            self._open_counts * TICKS_PER_COUNT, close_tick, front.phase, front.tot_factor, front.style,
            front.plain, self._lateness, self._busy_until, self._events, self._itot,
            pool.word, pool.departure, pool.n,
        )  # fmt: skip
        pool.n += n_words
        return n_hits

    def _read_edges(self, close_tick: int) -> IntArray:
        sends = self._front.sends_edges
        start = max(self._index * SLICE_TICKS, self._open_counts * TICKS_PER_COUNT)
        stop = min((self._index + 1) * SLICE_TICKS, close_tick)
        edges = self.trigger_faults.spoil(self._triggers.edges_in(start, stop if sends.any() else start), stop)
        pool = self._queue.pool
        pool.reserve(len(edges) * self.n_chips)
        pool.n += readout.read_edges(edges, sends, pool.word, pool.departure, pool.n)
        return edges

    def _read_matrix(self, at_counts: int) -> None:
        """The gate has closed: what pixels counted, and what waited for the closing, joins the queue."""
        pool = self._held if self._sequential else self._queue.pool
        if self._events.size:
            for chip in range(self.n_chips):
                pool.reserve(PIXELS)
                mine = slice(chip * PIXELS, (chip + 1) * PIXELS)
                pool.n += readout.read_counters(
                    chip, self._events[mine], self._itot[mine], at_counts, pool.word, pool.departure, pool.n
                )
        if self._sequential:
            readout.release(self._held, at_counts, self._queue.pool)

    def _truth(self, n_particles: int, n_hits: int, edges: IntArray, close_tick: int) -> SliceTruth:
        """Copies of what this slice left, with the particles that left no hit taken out."""
        p, d = self._particles, self._deposits
        # Hits without a particle are counted in a place of their own, before the others.
        hits_of = np.bincount(d.particle[:n_hits] + 1, minlength=n_particles + 1)[1:]
        seen = np.flatnonzero(hits_of)
        new_row = np.full(n_particles + 1, -1, np.int64)
        new_row[seen] = np.arange(seen.size)
        start = max(self._index * SLICE_TICKS, self._open_counts * TICKS_PER_COUNT)
        first_shot, shot_ticks = self._triggers.shots_in(start, min((self._index + 1) * SLICE_TICKS, close_tick))
        return SliceTruth(
            particle_shot=p.shot[seen],
            particle_chip=p.chip[seen],
            particle_x=p.x[seen],
            particle_y=p.y[seen],
            particle_tick=p.tick[seen],
            particle_peak=p.peak[seen],
            particle_hits=hits_of[seen],
            hit_pixel=d.pixel[:n_hits].copy(),
            hit_tot=d.tot[:n_hits].copy(),
            hit_tick=d.bins[:n_hits] * TICKS_PER_FTOA,
            hit_particle=new_row[d.particle[:n_hits]],
            edges=edges,
            first_shot=first_shot,
            shot_ticks=shot_ticks,
        )


_NOTHING_COUNTED: Final = np.empty(0, np.int64)
_FIRST_GUESS: Final = 1 / 8
_PROBED_HITS: Final = 200_000
_PROBED_SLICES: Final = (4, 2000)


def scene_source(settings: SceneSettings, *, keep_truth: bool = False) -> SceneSource:
    """A source whose mean hit rate is the one in the settings.

    How many hits a particle makes depends on the clusters, the borders and, at high rates, the dead time: it is
    measured on a few slices at the operating settings of the chips, with the same random keys for the same settings.
    """
    settings.check()
    if settings.rate_hz == 0:
        return SceneSource(build_scene(settings, 0.0), keep_truth=keep_truth)
    probe = probing(settings)
    slices = int(np.clip(_PROBED_HITS / probe.rate_hz * 1000, *_PROBED_SLICES))
    particles_per_hit = _FIRST_GUESS
    for _ in range(2):
        hits = _count_hits(SceneSource(build_scene(probe, particles_per_hit)), slices)
        wanted = probe.rate_hz * slices / 1000
        particles_per_hit *= wanted / max(hits, 1)
    return SceneSource(build_scene(settings, particles_per_hit), keep_truth=keep_truth)


def _count_hits(source: SceneSource, slices: int) -> int:
    source.open(0, 0)
    return sum(sum(departures.pixel_words) for departures in source.finish(slices * SLICE_COUNTS))
