"""Hits and centroids that a program found, against what the synthetic stream was made of.

A cluster is exact when it holds all hits of one particle and no other. Programs that tell no hit of its cluster can be
compared too: number of hits, sum of ToT, and the sums of ToT times x and y together tell one set of hits from another.
"""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ophyd_timepix.clock import TICK_NS
from tests.synthesis import PEAKS, SHOT, Truth

TICKS_PER_FTOA = 6
SHOT_TICKS = TICKS_PER_FTOA * SHOT
PEAKS_NS = PEAKS * TICKS_PER_FTOA * TICK_NS
NEAR_NS = 1000.0
"""Time of flight of two centroids that may be the same: a time comes with the resolution of the program."""
PEAK_REACH_NS = 500.0
"""What lies this near to a mass peak belongs to it."""
TIME_BITS = 37
FACTORS = np.array([0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0xD6E8FEB86659FD93], np.uint64)

Numbers = npt.NDArray[Any]


class Centroids(NamedTuple):
    """What a program says of its clusters."""

    x: Numbers
    y: Numbers
    tof_ns: Numbers
    tot: Numbers
    """Sum, in 25 ns."""
    size: Numbers


class Hits(NamedTuple):
    """Decoded hits, in any order."""

    x: Numbers
    y: Numbers
    tot: Numbers
    time: Numbers
    """In `resolution_ns`, rounded up; 0 is that of the board."""
    resolution_ns: float


class HitScore(NamedTuple):
    """Decoded hits against those that were sent."""

    sent: int
    found: int
    exact: int
    """The same x, y, ToT and time, in the resolution of the program."""


class Score(NamedTuple):
    """Centroids against particles."""

    particles: int
    found: int
    exact: int
    """Particles whose hits make one cluster, without another's."""
    position_rms_px: float
    """Distance from where the particle landed, of exact ones."""
    time_offset_ns: float
    """Mean time after the particle's arrival, of exact ones."""
    time_spread_ns: float
    """Standard deviation of the same."""
    peak_width_ns: float
    """Standard deviation of the time of flight about the mass peaks, of all centroids; NaN if there are no peaks."""
    true_peak_width_ns: float
    """The same of the particles."""

    @property
    def exact_percent(self) -> float:
        return 100 * self.exact / self.particles

    @property
    def found_per_particle(self) -> float:
        return self.found / self.particles


def save_truth(path: Path, truth: Truth) -> None:
    """Beside the stream, for other processes."""
    np.savez(path, **truth._asdict())


def load_truth(path: Path) -> Truth:
    with np.load(path) as arrays:
        return Truth(**{name: arrays[name] for name in Truth._fields})


def score_hits(found: Hits, truth: Truth) -> HitScore:
    """Both in the order of time and pixel, one against the other."""
    unit = round(found.resolution_ns / TICK_NS)
    sent = _packed(-(-truth.tick // unit), truth.y, truth.x, truth.tot)
    ours = _packed(found.time, found.y, found.x, found.tot)
    return HitScore(len(sent), len(ours), _common(sent, ours))


def _packed(time: Numbers, y: Numbers, x: Numbers, tot: Numbers) -> npt.NDArray[np.int64]:
    """One number for each hit, in order."""
    if int(np.max(time, initial=0)) >> TIME_BITS:
        raise ValueError(f"times are compared up to 2**{TIME_BITS} ({2**TIME_BITS * TICK_NS / 1e9:.0f} s)")
    time, y, x, tot = (np.asarray(column).astype(np.int64) for column in (time, y, x, tot))
    return np.asarray(np.sort(time << 26 | y << 18 | x << 10 | tot))


def _common(a: npt.NDArray[np.int64], b: npt.NDArray[np.int64]) -> int:
    """How many numbers are in both."""
    if np.array_equal(a, b):
        return len(a)
    values, counts = np.unique(a, return_counts=True)
    others, other_counts = np.unique(b, return_counts=True)
    _, at, other_at = np.intersect1d(values, others, assume_unique=True, return_indices=True)
    return int(np.minimum(counts[at], other_counts[other_at]).sum())


def score(found: Centroids, truth: Truth, *, peaks: bool) -> Score:
    """peaks: the stream has mass peaks."""
    expected, particle = _expected(truth)
    match = _matches(expected, found)
    exact = match >= 0
    at, whose = match[exact], particle[exact]
    squares = (found.x[at] - truth.centre_x[whose]) ** 2 + (found.y[at] - truth.centre_y[whose]) ** 2
    late = _nearest(found.tof_ns[at] - truth.born[whose] % SHOT_TICKS * TICK_NS, np.array([0.0]))
    return Score(
        particles=len(particle),
        found=len(found.x),
        exact=int(np.count_nonzero(exact)),
        position_rms_px=float(np.sqrt(np.mean(squares))),
        time_offset_ns=float(np.mean(late)),
        time_spread_ns=float(np.std(late)),
        peak_width_ns=_width(found.tof_ns) if peaks else float("nan"),
        true_peak_width_ns=_width(truth.born[particle] % SHOT_TICKS * TICK_NS) if peaks else float("nan"),
    )


def inseparable(
    truth: Truth, radius_px: float, window_ns: float
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Of each particle what no clustering by distance alone can tell: told by the truth, every pair of hits looked at.

    Whether one of its hits lies within radius and window of another particle's; whether a trigger fell among its hits.
    """
    touched = np.zeros(len(truth.born), np.bool_)
    window = int(window_ns / TICK_NS)
    for step in range(1, len(truth.tick)):
        at = np.flatnonzero(truth.tick[step:] - truth.tick[:-step] <= window)
        if not len(at):
            break
        squares = (truth.x[at] - truth.x[at + step]) ** 2 + (truth.y[at] - truth.y[at + step]) ** 2
        one, other = truth.particle[at], truth.particle[at + step]
        near = (squares <= radius_px**2) & (one != other)
        touched[one[near]] = touched[other[near]] = True
    shot = truth.tick // SHOT_TICKS
    first, last = np.full(len(truth.born), shot.max(initial=0)), np.zeros(len(truth.born), np.int64)
    np.minimum.at(first, truth.particle, shot)
    np.maximum.at(last, truth.particle, shot)
    return touched, first < last


def exact_particles(found: Centroids, truth: Truth) -> npt.NDArray[np.bool_]:
    """Which particles have a centroid of just their hits. Those without a hit have none."""
    expected, particle = _expected(truth)
    exact = np.zeros(len(truth.born), np.bool_)
    exact[particle[_matches(expected, found) >= 0]] = True
    return exact


def _expected(truth: Truth) -> tuple[Centroids, npt.NDArray[np.int64]]:
    """The centroids of all particles that left hits, and which those are."""
    n = len(truth.born)
    size = np.bincount(truth.particle, minlength=n)
    particle = np.flatnonzero(size)
    tot = np.bincount(truth.particle, truth.tot, n)[particle]
    x = np.bincount(truth.particle, truth.tot * truth.x, n)[particle] / tot
    y = np.bincount(truth.particle, truth.tot * truth.y, n)[particle] / tot
    tof = truth.born[particle] % SHOT_TICKS * TICK_NS
    return Centroids(x, y, tof, tot, size[particle]), particle


def _matches(expected: Centroids, found: Centroids) -> npt.NDArray[np.int64]:
    """Row of the centroid that has the same hits, -1 where there is none."""
    prints, own = _fingerprints(found), _fingerprints(expected)
    order = np.argsort(prints, kind="stable")
    first, last = (np.searchsorted(prints[order], own, side=side) for side in ("left", "right"))
    match = np.full(len(own), -1)
    for step in range(int((last - first).max(initial=0))):
        row = order[np.minimum(first + step, len(order) - 1)]
        near = np.abs(_nearest(found.tof_ns[row] - expected.tof_ns, np.array([0.0]))) < NEAR_NS
        match = np.where((first + step < last) & near, row, match)
    return match


def _fingerprints(table: Centroids) -> npt.NDArray[np.uint64]:
    """One number for each set of hits, from sums that are whole numbers."""
    tot = np.asarray(table.tot, np.float64)
    sums = np.stack([table.size, tot, np.rint(table.x * tot), np.rint(table.y * tot)]).astype(np.uint64)
    return np.asarray((sums * FACTORS[:, None]).sum(axis=0), np.uint64)


def _nearest(tof_ns: Numbers, centres_ns: Numbers) -> Numbers:
    """Time from the nearest of the centres; shots follow each other."""
    period = SHOT_TICKS * TICK_NS
    away = (tof_ns[:, None] - centres_ns + period / 2) % period - period / 2
    return np.asarray(away[np.arange(len(away)), np.argmin(np.abs(away), axis=1)])


def _width(tof_ns: Numbers) -> float:
    """Standard deviation about each mass peak's own mean, all peaks together."""
    away = np.stack([_nearest(tof_ns, np.array([peak])) for peak in PEAKS_NS.astype(np.float64)])
    peak = np.argmin(np.abs(away), axis=0)
    away = away[peak, np.arange(len(tof_ns))]
    near = np.abs(away) < PEAK_REACH_NS
    peak, away = peak[near], away[near]
    mean = np.bincount(peak, away, len(PEAKS_NS)) / np.maximum(np.bincount(peak, minlength=len(PEAKS_NS)), 1)
    return float(np.std(away - mean[peak]))
