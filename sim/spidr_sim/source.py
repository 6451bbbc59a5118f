"""A source of words: what the chips of one board would send, slice by slice of virtual time. No socket, no thread.

Between `open` and `finish` a source is asked for one slice (1 ms) after the other, each only when the present is
past its end plus `SPILL_COUNTS`: then no later closing of the gate can touch its hits, and what it tells as truth is
final. `finish` closes the gate and hands over what is left.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt

from ophyd_timepix.clock import TICKS_PER_COUNT, TICKS_PER_FTOA
from ophyd_timepix.protocol.words import MATRIX_SIDE
from spidr_sim import readout
from spidr_sim.deposits import Deposits
from spidr_sim.particles import FloatArray, IntArray, Particles
from spidr_sim.readout import Pool, TriggerPlan, WordArray
from spidr_sim.scenes import (
    LATENCY_COUNTS,
    SLICE_COUNTS,
    SLICE_TICKS,
    SPILL_COUNTS,
    Scene,
    SceneSettings,
    build_scene,
    probing,
    readout_key,
)

AnyIntArray = npt.NDArray[np.integer[Any]]

COLUMNS: Final = MATRIX_SIDE // 2
_FOREVER: Final = np.iinfo(np.int64).max
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
    final_counts: int
    """Up to here everything is decided: a later closing of the gate changes nothing before."""

    def set_phase(self, chip: int, phase_bins: IntArray) -> None:
        """Column phases of `chip` (fToA bins, 128 double columns) from now on."""
        ...

    def open(self, epoch: int, at_counts: int) -> None:
        """The gate opens in timer epoch `epoch`."""
        ...

    def advance(self) -> Departures:
        """The next slice."""
        ...

    def finish(self, at_counts: int) -> Iterator[Departures]:
        """The gate closes: the slices up to `at_counts`, then what still waits."""
        ...

    def inject(self, chip: int, at_counts: int, words: tuple[int, ...]) -> None:
        """Let the chip's own words (timer, control) leave at `at_counts`, while the gate is open."""
        ...


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


class SceneSource:
    """Words of a simulated scene: particles, deposits, dead time, read-out."""

    def __init__(self, scene: Scene, *, keep_truth: bool = False) -> None:
        self.settings: SceneSettings = scene.settings
        self.n_chips = self.settings.n_chips
        self.next_counts = 0
        self.final_counts = 0
        self._scene = scene
        self._keep_truth = keep_truth
        self._triggers = TriggerPlan(self.settings.shot_rate_hz, self.settings.seed)
        self._particles = Particles()
        self._deposits = Deposits()
        self._queue = DepartureQueue(self.n_chips)
        self._lateness = readout.lateness_table()
        self._phase = np.zeros((self.n_chips, COLUMNS), np.int64)
        self._busy_until = np.empty(self.n_chips * MATRIX_SIDE * MATRIX_SIDE, np.int64)
        self._epoch = 0
        self._index = 0
        self._open_counts = 0

    def set_phase(self, chip: int, phase_bins: IntArray) -> None:
        """Column phases of `chip` from now on."""
        self._phase[chip] = phase_bins

    def open(self, epoch: int, at_counts: int) -> None:
        """The gate opens: all pixels are alive."""
        self._epoch = epoch
        self._open_counts = at_counts
        self._busy_until[:] = -1
        self._queue.pool.n = 0
        self._go_to(max(0, at_counts - SPILL_COUNTS) // SLICE_COUNTS)

    def advance(self) -> Departures:
        """The next slice, with the gate open beyond it."""
        return self._slice(_FOREVER)

    def finish(self, at_counts: int) -> Iterator[Departures]:
        """The slices up to the closing of the gate, then the late words."""
        while self._index * SLICE_COUNTS < at_counts:
            yield self._slice(at_counts * TICKS_PER_COUNT)
        while self._queue.pool.n:
            yield self._queue.leave(self._index)
            self._go_to(self._index + 1)

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
        n_particles = self._scene.particles(self._epoch, index, self._particles)
        n_hits = self._read_pixels(n_particles, close_tick)
        edges = self._read_edges(close_tick)
        truth = self._truth(n_particles, n_hits, edges, close_tick) if self._keep_truth else None
        self._go_to(index + 1)
        return self._queue.leave(index, len(edges), truth)

    def _read_pixels(self, n_particles: int, close_tick: int) -> int:
        if not n_particles:
            return 0
        deposits, pool = self._deposits, self._queue.pool
        n_deposits = self._scene.deposits(self._epoch, self._index, self._particles, n_particles, deposits)
        pool.reserve(n_deposits)
        n_hits = readout.read_pixels(
            readout_key(self.settings, self._epoch, self._index),
            n_deposits, deposits.pixel, deposits.tot, deposits.bins, deposits.particle,
            self._open_counts * TICKS_PER_COUNT, close_tick, self._phase, self._lateness, self._busy_until,
            pool.word, pool.departure, pool.n,
        )  # fmt: skip
        pool.n += n_hits
        return n_hits

    def _read_edges(self, close_tick: int) -> IntArray:
        start = max(self._index * SLICE_TICKS, self._open_counts * TICKS_PER_COUNT)
        stop = min((self._index + 1) * SLICE_TICKS, close_tick)
        edges = self._triggers.edges_in(start, stop)
        pool = self._queue.pool
        pool.reserve(len(edges) * self.n_chips)
        pool.n += readout.read_edges(edges, self.n_chips, pool.word, pool.departure, pool.n)
        return edges

    def _truth(self, n_particles: int, n_hits: int, edges: IntArray, close_tick: int) -> SliceTruth:
        """Copies of what this slice left, with the particles that left no hit taken out."""
        p, d = self._particles, self._deposits
        hits_of = np.bincount(d.particle[:n_hits], minlength=n_particles)[:n_particles]
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


_FIRST_GUESS: Final = 1 / 8
_PROBED_HITS: Final = 200_000
_PROBED_SLICES: Final = (4, 2000)


def scene_source(settings: SceneSettings, *, keep_truth: bool = False) -> SceneSource:
    """A source whose mean hit rate is the one in the settings.

    How many hits a particle makes depends on the clusters, the borders and, at high rates, the dead time: it is
    measured on a few slices, with the same random keys for the same settings.
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
