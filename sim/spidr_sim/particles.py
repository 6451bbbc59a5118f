"""Particles: where and when something reaches the sensor. Ions of a velocity-map imaging spectrometer, or noise.

Ions: a laser shot breaks molecules (methyl iodide); the fragments fly t = t0 + k * sqrt(m/q) to the sensor, so that
each mass has its peak in time of flight, and they land where their velocity brings them: fragments of one channel
share one speed, their Newton sphere is projected on the sensor and shows as a ring (anisotropic about the laser's
polarisation, the y axis); the velocity along the flight axis widens the peak in time.

Pump and probe: where a delay between two laser pulses is told, the ions of one peak grow with it (`PUMP_PROBE`).

All kernels are pure: (random key, span of virtual time) in, particles out. Times are ticks (25/96 ns). This module
knows no pixel, no word and no clock.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from ophyd_timepix.clock import TICK_NS
from ophyd_timepix.protocol.words import MATRIX_SIDE
from spidr_sim.jit import kernel
from spidr_sim.rng import bell, draw, poisson, uniform

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


# --- the molecule -----------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Ring:
    """One fragmentation channel: ions of (nearly) one speed. Lengths in pixels of a one-chip picture."""

    weight: float
    radius_px: float
    """0: no recoil, a thermal blob."""
    sigma_px: float
    beta: float = 0.0
    """Anisotropy: the density over the angle to the polarisation is 1 + beta * P2(cos)."""


@dataclass(frozen=True)
class MassPeak:
    """The ions of one m/q: their share of all ions and their channels."""

    name: str
    mass_per_charge: float
    share: float
    rings: tuple[Ring, ...]


PEAKS: Final = (
    MassPeak("H+", 1.008, 0.10, (Ring(0.6, 98, 2.5, 0.5), Ring(0.4, 60, 6.0))),
    MassPeak("C+", 12.0, 0.08, (Ring(1.0, 45, 7.0),)),
    MassPeak("CH3+", 15.023, 0.34, (Ring(0.6, 84, 1.6, 1.8), Ring(0.4, 64, 1.6, 1.2))),
    MassPeak("I++", 63.45, 0.10, (Ring(0.7, 52, 2.0, 1.0), Ring(0.3, 34, 2.0))),
    MassPeak("I+", 126.90, 0.28, (Ring(0.55, 40, 1.4, 1.8), Ring(0.35, 27, 1.4, 1.2), Ring(0.10, 0, 4.0))),
    MassPeak("CH3I+", 141.93, 0.10, (Ring(1.0, 0, 5.0),)),
)
T0_NS: Final = 400.0
NS_PER_SQRT_MASS: Final = 1200.0
TURN_AROUND_NS: Final = 0.15
"""Change in time of flight per sqrt(m/q) and per pixel of velocity along the flight axis."""


@dataclass(frozen=True)
class Growth:
    """How the ions of one peak grow with the delay of the probe pulse after the pump pulse."""

    peak: str
    t0_fs: float
    """The delay at which the pulses overlap; before it there are none of these ions."""
    tau_fs: float

    def at(self, delay_fs: float) -> float:
        """The yield relative to that at long delays: 1 - exp(-(delay - t0) / tau)."""
        return float(-np.expm1(-max(delay_fs - self.t0_fs, 0.0) / self.tau_fs))


PUMP_PROBE: Final = Growth("I+", t0_fs=100.0, tau_fs=400.0)


def time_of_flight_ns(peak: MassPeak) -> float:
    """The centre of a mass peak."""
    return T0_NS + NS_PER_SQRT_MASS * float(np.sqrt(peak.mass_per_charge))


@dataclass(frozen=True)
class Spectrometer:
    """The tables of `PEAKS` as the kernel wants them."""

    tof_ticks: FloatArray
    share: FloatArray
    ticks_per_px: FloatArray
    ring_start: IntArray
    ring_table: FloatArray
    """Columns: cumulative weight within the peak, radius, sigma, beta."""


def spectrometer(peaks: tuple[MassPeak, ...] = PEAKS) -> Spectrometer:
    """Tables for `ions`."""
    rings = [(np.cumsum([ring.weight for ring in peak.rings]), peak.rings) for peak in peaks]
    rows = [
        (float(edge), ring.radius_px, ring.sigma_px, ring.beta)
        for edges, members in rings
        for edge, ring in zip(edges, members, strict=True)
    ]
    return Spectrometer(
        tof_ticks=np.array([time_of_flight_ns(peak) / TICK_NS for peak in peaks]),
        share=np.array([peak.share for peak in peaks]),
        ticks_per_px=np.array([TURN_AROUND_NS * np.sqrt(peak.mass_per_charge) / TICK_NS for peak in peaks]),
        ring_start=np.cumsum([0] + [len(peak.rings) for peak in peaks]).astype(np.int64),
        ring_table=np.array(rows, dtype=np.float64),
    )


# --- chips in the picture ---------------------------------------------------------------------------------------------
_SIDE: Final = MATRIX_SIDE
_GAP_PX: Final = 4
_FAR: Final = _SIDE + _GAP_PX
_QUAD: Final = (
    (1, _FAR, 1, 0),
    (-1, _FAR + _SIDE - 1, -1, _FAR + _SIDE - 1),
    (-1, _SIDE - 1, -1, _FAR + _SIDE - 1),
    (1, 0, 1, 0),
)
"""X = sx * x + ox, Y = sy * y + oy of each chip of a 2x2 quad with a gap of 4 px, in the order of public decoders."""


def placements(n_chips: int) -> IntArray:
    """(sx, ox, sy, oy) of each chip: one chip as it is, two to four as parts of a quad."""
    table = ((1, 0, 1, 0),) if n_chips == 1 else _QUAD[:n_chips]
    return np.array(table, dtype=np.int64)


def picture_side_px(n_chips: int) -> int:
    """Side of the square picture that the chips lie in."""
    return _SIDE if n_chips == 1 else 2 * _SIDE + _GAP_PX


_ANGLES: Final = 4096
_CIRCLE: Final = np.stack([fun(2 * np.pi * np.arange(_ANGLES) / _ANGLES) for fun in (np.cos, np.sin)], axis=1)
"""Unit vectors, so that kernels need no trigonometry."""


# --- particles --------------------------------------------------------------------------------------------------------
class Particles:
    """A growing set of columns, one row per particle; rows beyond the count in use are meaningless."""

    def __init__(self, capacity: int = 4096) -> None:
        self._allocate(capacity)

    def _allocate(self, capacity: int) -> None:
        self.tick: IntArray = np.empty(capacity, np.int64)
        self.x: FloatArray = np.empty(capacity, np.float64)
        self.y: FloatArray = np.empty(capacity, np.float64)
        self.chip: npt.NDArray[np.uint8] = np.empty(capacity, np.uint8)
        self.peak: npt.NDArray[np.int16] = np.empty(capacity, np.int16)
        self.shot: IntArray = np.empty(capacity, np.int64)

    def filled_by(self, fill: Callable[["Particles"], int]) -> int:
        """Run `fill`, which returns the number of rows or, when they do not fit, minus the number it needs."""
        n = fill(self)
        while n < 0:
            self._allocate(-n * 5 // 4)
            n = fill(self)
        return n


@kernel
def ions(
    key: np.uint64,
    first_shot: int,
    shot_ticks: IntArray,
    ions_per_shot: float,
    tof_ticks: FloatArray,
    share: FloatArray,
    ticks_per_px: FloatArray,
    ring_start: IntArray,
    ring_table: FloatArray,
    chips: IntArray,
    centre_px: float,
    scale: float,
    tick: IntArray,
    x: FloatArray,
    y: FloatArray,
    chip: npt.NDArray[np.uint8],
    peak: npt.NDArray[np.int16],
    shot: IntArray,
) -> int:
    """Ions of the shots at `shot_ticks`, mass by mass. Returns the rows filled, or minus the rows needed."""
    n = 0
    wanted = 0
    at = 0
    for s in range(shot_ticks.size):
        for p in range(share.size):
            count = poisson(draw(key, (s * share.size + p) * 2 + 1), ions_per_shot * share[p])
            wanted += count
            if wanted > tick.size:
                continue
            ions_key = draw(key, (s * share.size + p) * 2 + 2)
            at = 0
            for _ in range(count):
                at, speed, ux, uy, uz = _velocity(ions_key, at, ring_table, ring_start[p], ring_start[p + 1])
                picture_x = centre_px + scale * speed * ux
                picture_y = centre_px + scale * speed * uy
                c = _chip_at(picture_x, picture_y, chips)
                if c < 0:
                    continue
                tick[n] = shot_ticks[s] + int(tof_ticks[p] - ticks_per_px[p] * speed * uz)
                x[n] = (picture_x - chips[c, 1]) * chips[c, 0]
                y[n] = (picture_y - chips[c, 3]) * chips[c, 2]
                chip[n] = c
                peak[n] = p
                shot[n] = first_shot + s
                n += 1
    return n if wanted <= tick.size else -wanted


@kernel
def _velocity(
    key: np.uint64, at: int, ring_table: FloatArray, first: int, stop: int
) -> tuple[int, float, float, float, float]:
    """(next draw, speed in px, unit vector) of an ion: picks a ring, a speed and a direction."""
    pick = uniform(key, at)
    ring = first
    while ring < stop - 1 and pick >= ring_table[ring, 0]:
        ring += 1
    radius = ring_table[ring, 1]
    sigma = ring_table[ring, 2]
    beta = ring_table[ring, 3]
    spread = bell(key, at + 1)
    at += 2
    if radius > 0.0:
        speed = abs(radius + sigma * spread)
    else:  # Maxwell: the length of a vector of three bell-shaped components
        speed = sigma * np.sqrt(spread * spread + bell(key, at) ** 2 + bell(key, at + 1) ** 2)
        at += 2
    uy, angle = _direction(draw(key, at))
    while beta > 0.0 and uniform(key, at + 1) * (1.0 + beta) > 1.0 + beta * (1.5 * uy * uy - 0.5):
        at += 2
        uy, angle = _direction(draw(key, at))
    across = np.sqrt(1.0 - uy * uy)
    return at + 2, speed, across * _CIRCLE[angle, 0], uy, across * _CIRCLE[angle, 1]


@kernel
def _direction(bits: np.uint64) -> tuple[float, int]:
    """(cosine to the y axis, row of `_CIRCLE`): even over the sphere."""
    return float(bits >> np.uint64(32)) * 2.0**-31 - 1.0, int(bits & np.uint64(_ANGLES - 1))


@kernel
def _chip_at(picture_x: float, picture_y: float, chips: IntArray) -> int:
    """The chip whose matrix covers a point of the picture, or -1."""
    for c in range(chips.shape[0]):
        local_x = (picture_x - chips[c, 1]) * chips[c, 0]
        local_y = (picture_y - chips[c, 3]) * chips[c, 2]
        if -0.5 <= local_x < _SIDE - 0.5 and -0.5 <= local_y < _SIDE - 0.5:
            return c
    return -1


@kernel
def uniform_particles(
    key: np.uint64,
    start_tick: int,
    stop_tick: int,
    mean_gap_ticks: float,
    n_chips: int,
    tick: IntArray,
    x: FloatArray,
    y: FloatArray,
    chip: npt.NDArray[np.uint8],
    peak: npt.NDArray[np.int16],
    shot: IntArray,
) -> int:
    """A Poisson process in [start, stop), even over the chips. Returns the rows filled, or minus the rows needed."""
    n = 0
    # From 0, so that a timer of 48 bits does not cost the times their last bits.
    now = -mean_gap_ticks * np.log(1.0 - uniform(key, 0))
    while now < stop_tick - start_tick:
        if n < tick.size:
            place = draw(key, 2 * n + 1)
            tick[n] = start_tick + int(now)
            x[n] = float(place >> np.uint64(40)) * (_SIDE / 2.0**24) - 0.5
            y[n] = float((place >> np.uint64(16)) & np.uint64(0xFFFFFF)) * (_SIDE / 2.0**24) - 0.5
            chip[n] = ((place & np.uint64(0xFFFF)) * np.uint64(n_chips)) >> np.uint64(16)
            peak[n] = -1
            shot[n] = -1
        n += 1
        now -= mean_gap_ticks * np.log(1.0 - uniform(key, 2 * n))
    return n if n <= tick.size else -n


@kernel
def noise(
    key: np.uint64,
    start_tick: int,
    stop_tick: int,
    mean_gap_ticks: float,
    n_chips: int,
    noisy_pixels: IntArray,
    noisy_share: float,
    tick: IntArray,
    x: FloatArray,
    y: FloatArray,
    chip: npt.NDArray[np.uint8],
    peak: npt.NDArray[np.int16],
    shot: IntArray,
) -> int:
    """Dark counts: a share of them in a few noisy pixels (the first the noisiest), the rest anywhere."""
    n = uniform_particles(key, start_tick, stop_tick, mean_gap_ticks, n_chips, tick, x, y, chip, peak, shot)
    choice = draw(key, -1)
    for i in range(n):
        x[i] = np.rint(x[i])
        y[i] = np.rint(y[i])
        if uniform(choice, 2 * i) < noisy_share:
            skewed = uniform(choice, 2 * i + 1) ** 2
            pixel = noisy_pixels[int(skewed * noisy_pixels.size)]
            chip[i] = pixel >> 16
            y[i] = (pixel >> 8) & 0xFF
            x[i] = pixel & 0xFF
    return n
