"""Deposits: from particles, noise and test pulses to the pixels that fire. Cluster shape, ToT profile, time-walk.

A deposit is what one pixel gets: address, amplitude (as the ToT in 25 ns counts that it gives at the operating
settings) and the time at which its discriminator crosses the threshold (fToA bins). Small signals cross late
(time-walk): at the smallest amplitude by 90 ns, above 100 counts by less than 5.

`least` is the smallest amplitude that fires each pixel, `lowest` the smallest of them; `gain` is the share of the
charge that the sensor collects. All kernels are pure. This module knows no word, no dead time and no clock.
"""

from functools import lru_cache
from typing import Final

import numpy as np
import numpy.typing as npt

from ophyd_timepix.clock import TICK_NS, TICKS_PER_FTOA, TICKS_PER_SECOND
from ophyd_timepix.protocol.words import MATRIX_SIDE, TOT_SATURATED
from spidr_sim.frontend import AMPLITUDES_PER_TOT
from spidr_sim.jit import kernel
from spidr_sim.particles import FloatArray, IntArray
from spidr_sim.rng import bell, draw, uniform
from spidr_sim.settings import PIXELS

REACH_PX: Final = 2
"""A cluster fills at most the 5 x 5 pixels around its centre."""
WIDTH_PX: Final = 2 * REACH_PX + 1
MAX_PIXELS: Final = WIDTH_PX * WIDTH_PX

CLOUD_SIGMA_PX: Final = 0.72
MEDIAN_TOT: Final = 60.0
CLOUD_LEAST_TOT: Final = 4.0
"""Deposits of ions below this many counts do not cross the threshold at the operating settings."""
CLUSTER_LEAST_TOT: Final = 1.0
"""The same for clusters of the uniform scene and for dark counts: all that are made cross it."""
SUBPIXELS: Final = 16
CHARGES: Final = 2048
MAX_WALK_NS: Final = 90.0
_WALK_SCALE: Final = 6.0

MEAN_EXTRA_PIXELS: Final = 7.0
"""Clusters of the uniform scene have 1 + Poisson(7) pixels."""
SHAPES: Final = 1024
NOISE_TOT: Final = 2.0
"""Mean ToT of noise beyond its first count."""


Int32Array = npt.NDArray[np.int32]


class Deposits:
    """A growing set of columns, one row per pixel that fires; rows beyond the count in use are meaningless."""

    def __init__(self, capacity: int = 4096) -> None:
        self._allocate(capacity)

    def _allocate(self, capacity: int) -> None:
        self.pixel: npt.NDArray[np.int32] = np.empty(capacity, np.int32)
        """chip << 16 | y << 8 | x"""
        self.tot: npt.NDArray[np.int32] = np.empty(capacity, np.int32)
        """At the operating settings, not saturated."""
        self.bins: IntArray = np.empty(capacity, np.int64)
        self.particle: npt.NDArray[np.int32] = np.empty(capacity, np.int32)
        """-1: none."""

    def reserve(self, capacity: int) -> None:
        """Make room for `capacity` rows; what was in them is lost."""
        if capacity > self.pixel.size:
            self._allocate(capacity * 5 // 4)

    def columns(self, n: int, more: int) -> tuple[Int32Array, Int32Array, IntArray, Int32Array]:
        """Room for `more` rows behind the `n` in use: pixel, tot, bins, particle."""
        if n + more > self.pixel.size:
            used = [column[:n] for column in (self.pixel, self.tot, self.bins, self.particle)]
            self._allocate((n + more) * 5 // 4)
            self.pixel[:n], self.tot[:n], self.bins[:n], self.particle[:n] = used
        rows = slice(n, n + more)
        return self.pixel[rows], self.tot[rows], self.bins[rows], self.particle[rows]

    def sort(self, n: int) -> None:
        """Bring the `n` rows in use into the order of time."""
        order = np.argsort(self.bins[:n], kind="stable")
        for column in (self.pixel, self.tot, self.bins, self.particle):
            column[:n] = column[:n][order]


# --- tables -----------------------------------------------------------------------------------------------------------
def time_walk_ticks() -> IntArray:
    """Delay of the threshold crossing, by amplitude."""
    tot = np.arange(TOT_SATURATED + 1)
    return np.asarray(MAX_WALK_NS * _WALK_SCALE / (tot + _WALK_SCALE - 1) / TICK_NS, dtype=np.int64)


def charge_table() -> FloatArray:
    """Peak ToT of a particle by quantile: log-normal as behind an MCP, and a rare large pulse that saturates."""
    rng = np.random.default_rng(20)
    charges = MEDIAN_TOT * np.exp(0.55 * rng.standard_normal(CHARGES))
    charges[::512] = 2000.0
    return charges


def profile_table() -> FloatArray:
    """Share of a Gaussian charge cloud by [sub-pixel position of the centre, pixel], relative to a centred peak."""
    centre = (np.arange(SUBPIXELS) + 0.5) / SUBPIXELS - 0.5
    offset = np.arange(-REACH_PX, REACH_PX + 1)
    table: FloatArray = np.exp(-((offset[None, :] - centre[:, None]) ** 2) / (2 * CLOUD_SIGMA_PX**2))
    return table


@lru_cache(maxsize=1)
def shape_table() -> npt.NDArray[np.int8]:
    """Orders in which a cluster fills its 5 x 5 pixels, [shape, step, (dx, dy)]: every step touches the ones before.

    Each step takes the unfilled neighbour that comes first in a random order in which near pixels tend to be early.
    """
    rng = np.random.default_rng(7)
    dy, dx = np.array(np.divmod(np.arange(MAX_PIXELS), WIDTH_PX)) - REACH_PX
    touch = np.abs(dx[:, None] - dx) + np.abs(dy[:, None] - dy) == 1
    centre = MAX_PIXELS // 2
    steps = np.full((SHAPES, MAX_PIXELS), centre)
    rank = rng.exponential(size=(SHAPES, MAX_PIXELS)) * (dx * dx + dy * dy)
    reached = np.tile(touch[centre], (SHAPES, 1))
    rank[:, centre] = np.inf
    for step in range(1, MAX_PIXELS):
        chosen = np.argmin(np.where(reached, rank, np.inf), axis=1)
        steps[:, step] = chosen
        rank[np.arange(SHAPES), chosen] = np.inf
        reached |= touch[chosen]
    return np.stack([dx[steps], dy[steps]], axis=2).astype(np.int8)


def size_table() -> npt.NDArray[np.int64]:
    """Cluster sizes of the uniform scene by quantile: 1 + Poisson(7), at most 25."""
    rng = np.random.default_rng(11)
    return np.minimum(1 + rng.poisson(MEAN_EXTRA_PIXELS, 4096), MAX_PIXELS).astype(np.int64)


# --- kernels ----------------------------------------------------------------------------------------------------------
# In the innermost loops indices have no sign: nothing looks whether they count from the end.
@kernel
def charge_clouds(
    key: np.uint64,
    n_particles: int,
    p_tick: IntArray,
    p_x: FloatArray,
    p_y: FloatArray,
    p_chip: npt.NDArray[np.uint8],
    charges: FloatArray,
    profile: FloatArray,
    walk_ticks: IntArray,
    least: npt.NDArray[np.uint16],
    lowest: float,
    gain: float,
    pixel: npt.NDArray[np.int32],
    tot: npt.NDArray[np.int32],
    bins: IntArray,
    particle: npt.NDArray[np.int32],
) -> int:
    """Deposits of ions: a Gaussian cloud shared by the pixels under it. Room for 25 per particle."""
    n = 0
    for i in range(n_particles):
        first = n
        charge = charges[int(draw(key, i) & np.uint64(CHARGES - 1))] * gain
        column = int(np.floor(p_x[i] + 0.5))
        row = int(np.floor(p_y[i] + 0.5))
        across = profile[int((p_x[i] + 0.5 - column) * SUBPIXELS)]
        along = profile[int((p_y[i] + 0.5 - row) * SUBPIXELS)]
        left = max(0, column - REACH_PX)
        right = min(MATRIX_SIDE, column + REACH_PX + 1)
        for y in range(max(0, row - REACH_PX), min(MATRIX_SIDE, row + REACH_PX + 1)):
            row_charge = charge * along[y - row + REACH_PX]
            if row_charge < lowest:
                continue
            address = (int(p_chip[i]) << 16) | (y << 8)
            for x in range(left, right):
                counts = row_charge * across[x - column + REACH_PX]
                if counts >= lowest and int(counts * AMPLITUDES_PER_TOT) >= least[np.uint64(address | x)]:
                    at = np.uint64(n)
                    pixel[at] = address | x
                    tot[at] = int(counts)
                    n += 1
        for k in range(first, n):
            at = np.uint64(k)
            bits = int(draw(key, first - k - 1 - i * MAX_PIXELS) >> np.uint64(1))
            t = max((tot[at] * (240 + (bits & 31))) >> 8, 1)
            tot[at] = t
            walk = walk_ticks[np.uint64(min(t, TOT_SATURATED))]
            bins[at] = (p_tick[i] + walk + ((bits >> 8) & 7)) // TICKS_PER_FTOA
            particle[at] = i
    return n


@kernel
def random_clusters(
    key: np.uint64,
    n_particles: int,
    p_tick: IntArray,
    p_x: FloatArray,
    p_y: FloatArray,
    p_chip: npt.NDArray[np.uint8],
    charges: FloatArray,
    sizes: IntArray,
    shapes: npt.NDArray[np.int8],
    walk_ticks: IntArray,
    least: npt.NDArray[np.uint16],
    gain: float,
    pixel: npt.NDArray[np.int32],
    tot: npt.NDArray[np.int32],
    bins: IntArray,
    particle: npt.NDArray[np.int32],
) -> int:
    """Deposits of the uniform scene: 1 + Poisson(7) pixels of 5 x 5. Room for 25 per particle."""
    n = 0
    for i in range(n_particles):
        bits = int(draw(key, i) >> np.uint64(1))
        charge = charges[bits & (CHARGES - 1)]
        size = sizes[(bits >> 16) & 4095]
        shape = shapes[(bits >> 32) & (SHAPES - 1)]
        column = int(np.floor(p_x[i] + 0.5))
        row = int(np.floor(p_y[i] + 0.5))
        for step in range(size):
            dx = int(shape[step, 0])
            dy = int(shape[step, 1])
            x = column + dx
            y = row + dy
            if x < 0 or x >= MATRIX_SIDE or y < 0 or y >= MATRIX_SIDE:
                continue
            address = (int(p_chip[i]) << 16) | (y << 8) | x
            bits = int(draw(key, -1 - i * MAX_PIXELS - step) >> np.uint64(1))
            counts = charge / (1 + dx * dx + dy * dy) * (0.8 + (bits & 0xFF) * (0.4 / 256))
            amplitude = max(counts, CLUSTER_LEAST_TOT) * gain
            if int(amplitude * AMPLITUDES_PER_TOT) < least[np.uint64(address)]:
                continue
            t = max(int(amplitude), 1)
            walk = walk_ticks[np.uint64(min(t, TOT_SATURATED))]
            at = np.uint64(n)
            pixel[at] = address
            tot[at] = t
            bins[at] = (p_tick[i] + walk + ((bits >> 8) & 7)) // TICKS_PER_FTOA
            particle[at] = i
            n += 1
    return n


@kernel
def single_pixels(
    key: np.uint64,
    n_particles: int,
    p_tick: IntArray,
    p_x: FloatArray,
    p_y: FloatArray,
    p_chip: npt.NDArray[np.uint8],
    least: npt.NDArray[np.uint16],
    gain: float,
    pixel: npt.NDArray[np.int32],
    tot: npt.NDArray[np.int32],
    bins: IntArray,
    particle: npt.NDArray[np.int32],
) -> int:
    """Deposits of dark counts: one pixel, a few counts of ToT."""
    n = 0
    for i in range(n_particles):
        address = (int(p_chip[i]) << 16) | (int(p_y[i]) << 8) | int(p_x[i])
        amplitude = (CLUSTER_LEAST_TOT - 4.0 * np.log(1.0 - uniform(key, i))) * gain
        if int(amplitude * AMPLITUDES_PER_TOT) < least[np.uint64(address)]:
            continue
        at = np.uint64(n)
        pixel[at] = address
        tot[at] = max(int(amplitude), 1)
        bins[at] = p_tick[i] // TICKS_PER_FTOA
        particle[at] = i
        n += 1
    return n


@kernel
def noise_hits(
    key: np.uint64,
    start_tick: int,
    stop_tick: int,
    chip: int,
    cumulative_hz: FloatArray,
    pixel: npt.NDArray[np.int32],
    tot: npt.NDArray[np.int32],
    bins: IntArray,
    particle: npt.NDArray[np.int32],
) -> int:
    """Deposits of electronic noise in [start, stop): a Poisson process that fills the room there is at most."""
    n = 0
    total = cumulative_hz[-1]
    mean_gap_ticks = TICKS_PER_SECOND / total
    now = -mean_gap_ticks * np.log(1.0 - uniform(key, 0))
    while now < stop_tick - start_tick and n < pixel.size:
        address = min(np.searchsorted(cumulative_hz, uniform(key, 3 * n + 1) * total, side="right"), PIXELS - 1)
        pixel[n] = (chip << 16) | address
        tot[n] = 1 - int(NOISE_TOT * np.log(1.0 - uniform(key, 3 * n + 2)))
        bins[n] = (start_tick + int(now)) // TICKS_PER_FTOA
        particle[n] = -1
        n += 1
        now -= mean_gap_ticks * np.log(1.0 - uniform(key, 3 * n))
    return n


def noise_room(rate_hz: float, ticks: int) -> int:
    """Rows that noise of this rate does not exceed in this time, but for one time in very many."""
    mean = rate_hz * ticks / TICKS_PER_SECOND
    return int(mean + 10 * np.sqrt(mean)) + 20


@kernel
def pulse_hits(
    key: np.uint64,
    pulse_bins: IntArray,
    chip: int,
    address: npt.NDArray[np.int32],
    threshold_steps: npt.NDArray[np.float32],
    steps: float,
    noise_steps: float,
    pulse_tot: int,
    walk_ticks: IntArray,
    pixel: npt.NDArray[np.int32],
    tot: npt.NDArray[np.int32],
    bins: IntArray,
    particle: npt.NDArray[np.int32],
) -> int:
    """Deposits of test pulses of `steps` and `pulse_tot` (noise on top) in the pixels at `address`. An infinite
    amplitude goes to the discriminator: no walk. Room for all."""
    n = 0
    counts = max(pulse_tot, 1)
    walk = 0 if steps == np.inf else walk_ticks[min(counts, TOT_SATURATED)] // TICKS_PER_FTOA
    for p in range(pulse_bins.size):
        for a in range(address.size):
            if steps + noise_steps * bell(key, p * address.size + a) < threshold_steps[a]:
                continue
            pixel[n] = (chip << 16) | address[a]
            tot[n] = counts
            bins[n] = pulse_bins[p] + walk
            particle[n] = -1
            n += 1
    return n
