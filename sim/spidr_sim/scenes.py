"""Scenes: what is in front of the camera. Each is a pure function of (seed, timer epoch, slice of virtual time).

`vmi`      laser shots, ions in mass peaks and velocity rings
`uniform`  particles anywhere at any time, triggers beside them
`dark`     noise pixels
`load`     words of `uniform` at the rate of a link, see `load.py`: no scene of particles

A scene turns a slice of time into particles and particles into deposits, with the thresholds of a front end. It knows
no gate, no dead time and no word.
"""

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final, Protocol

import numpy as np

from ophyd_timepix.clock import TICKS_PER_COUNT, TICKS_PER_SECOND
from ophyd_timepix.protocol.words import MAX_CHIPS
from spidr_sim import deposits as d
from spidr_sim import particles as p
from spidr_sim.frontend import FrontEnd
from spidr_sim.readout import TriggerPlan
from spidr_sim.rng import key_of

SLICE_COUNTS: Final = 40_000
"""1 ms of virtual time: what is generated, ordered and sent in one go."""
SLICE_TICKS: Final = SLICE_COUNTS * TICKS_PER_COUNT
SPILL_COUNTS: Final = 800
"""20 us: hits of a slice's particles fall at most this long after it (flight of the heaviest ion, time-walk)."""
LATENCY_COUNTS: Final = 160_000
"""4 ms: how far the stream stays behind the timer, so that what the board says of the present is never too late."""

_PARTICLES, _DEPOSITS, _READOUT, _NOISE, _PULSES = 1, 2, 3, 16, 32
"""Purposes of random keys; those of single chips leave room for their number."""

MAX_SHOT_RATE_HZ: Final = 100_000.0
MAX_RATE_HZ: Final = 1e9


class SceneName(StrEnum):
    """What `--scene` offers."""

    VMI = "vmi"
    UNIFORM = "uniform"
    DARK = "dark"
    LOAD = "load"


_DEFAULT_RATES: Final = {
    SceneName.VMI: (500_000.0, 1000.0),
    SceneName.UNIFORM: (1e6, 1000.0),
    SceneName.DARK: (1000.0, 0.0),
    SceneName.LOAD: (80e6, 1000.0),
}


@dataclass(frozen=True)
class SceneSettings:
    """What the user chose. `rate_hz` is the mean rate of hits over all chips."""

    scene: SceneName
    rate_hz: float
    shot_rate_hz: float
    seed: int
    n_chips: int

    @classmethod
    def chosen(
        cls,
        scene: str,
        *,
        rate_hz: float | None = None,
        shot_rate_hz: float | None = None,
        seed: int = 1,
        n_chips: int = 1,
    ) -> "SceneSettings":
        """Settings with the scene's own rates where none is given. Raises ValueError naming value and limit."""
        name = SceneName(scene)
        rate, shot_rate = _DEFAULT_RATES[name]
        settings = cls(
            name,
            rate if rate_hz is None else rate_hz,
            shot_rate if shot_rate_hz is None else shot_rate_hz,
            seed,
            n_chips,
        )
        settings.check()
        return settings

    def check(self) -> None:
        """Refuse what cannot be simulated."""
        if not 1 <= self.n_chips <= MAX_CHIPS:
            raise ValueError(f"a board has 1 to {MAX_CHIPS} chips, not {self.n_chips}")
        if not 0 <= self.rate_hz <= MAX_RATE_HZ:
            raise ValueError(f"the hit rate must be 0 to {MAX_RATE_HZ:g} hits/s, not {self.rate_hz:g}")
        if not 0 <= self.shot_rate_hz <= MAX_SHOT_RATE_HZ:
            raise ValueError(f"the shot rate must be 0 to {MAX_SHOT_RATE_HZ:g} Hz, not {self.shot_rate_hz:g}")
        if self.scene is SceneName.VMI and self.shot_rate_hz == 0:
            raise ValueError("the vmi scene needs a shot rate above 0 Hz: ions come after laser shots")
        if not 0 <= self.seed < 1 << 63:
            raise ValueError(f"the seed must be 0 to 2**63 - 1, not {self.seed}")


class Scene(Protocol):
    """A source of particles and deposits."""

    settings: SceneSettings
    least_tot: float
    """The smallest amplitude that fires a pixel at the operating threshold, in counts of ToT."""
    has_delay: bool
    """Whether a delay between pump and probe pulse changes anything."""

    def set_delay(self, delay_fs: float) -> None:
        """The probe pulse comes so long after the pump pulse from now on."""
        ...

    def particles(self, epoch: int, index: int, into: p.Particles) -> int:
        """Particles of slice `index`; returns their number."""
        ...

    def deposits(self, at: "Moment", particles: p.Particles, n: int, front: FrontEnd, into: d.Deposits) -> int:
        """Pixels that the first `n` particles fire; returns their number."""
        ...


@dataclass(frozen=True)
class Moment:
    """Which slice, and what the sensor collects in it."""

    epoch: int
    index: int
    gain: float


class _NoDelay:
    """A scene without pump and probe."""

    has_delay = False

    def set_delay(self, delay_fs: float) -> None:
        """Nothing: there is none."""


class VmiScene:
    """Laser shots on a molecular beam in a velocity-map imaging spectrometer.

    Until a delay is told all mass peaks have their full shares, as at very long delays.
    """

    least_tot = d.CLOUD_LEAST_TOT
    has_delay = True

    def __init__(self, settings: SceneSettings, ions_per_hit: float) -> None:
        self.settings = settings
        self.triggers = TriggerPlan(settings.shot_rate_hz, settings.seed)
        self.ions_per_shot = settings.rate_hz / settings.shot_rate_hz * ions_per_hit
        self._spectrometer = p.spectrometer()
        self._share = self._spectrometer.share
        self._chips = p.placements(settings.n_chips)
        side = p.picture_side_px(settings.n_chips)
        self._centre = (side - 1) / 2
        self._scale = side / p.picture_side_px(1)
        self._clouds = (d.charge_table(), d.profile_table(), d.time_walk_ticks())

    def set_delay(self, delay_fs: float) -> None:
        """The ions of one peak are fewer from now on."""
        share = self._spectrometer.share.copy()
        share[[peak.name for peak in p.PEAKS].index(p.PUMP_PROBE.peak)] *= p.PUMP_PROBE.at(delay_fs)
        self._share = share

    def particles(self, epoch: int, index: int, into: p.Particles) -> int:
        """Ions of the shots in slice `index`."""
        first, ticks = self.triggers.shots_in(index * SLICE_TICKS, (index + 1) * SLICE_TICKS)
        if not ticks.size:
            return 0
        key = _key(self.settings, epoch, index, _PARTICLES)
        s = self._spectrometer
        return into.filled_by(
            lambda to: p.ions(
                key, first, ticks, self.ions_per_shot,
                s.tof_ticks, self._share, s.ticks_per_px, s.ring_start, s.ring_table,
                self._chips, self._centre, self._scale,
                to.tick, to.x, to.y, to.chip, to.peak, to.shot,
            )
        )  # fmt: skip

    def deposits(self, at: Moment, particles: p.Particles, n: int, front: FrontEnd, into: d.Deposits) -> int:
        """Charge clouds of the ions."""
        into.reserve(n * d.MAX_PIXELS)
        key = _key(self.settings, at.epoch, at.index, _DEPOSITS)
        return d.charge_clouds(
            key, n, particles.tick, particles.x, particles.y, particles.chip, *self._clouds,
            front.least, front.lowest, at.gain,
            into.pixel, into.tot, into.bins, into.particle,
        )  # fmt: skip


class UniformScene(_NoDelay):
    """Particles uniform in space and time."""

    least_tot = d.CLUSTER_LEAST_TOT

    def __init__(self, settings: SceneSettings, particles_per_hit: float) -> None:
        self.settings = settings
        self._gap_ticks = _mean_gap_ticks(settings.rate_hz * particles_per_hit)
        self._clusters = (d.charge_table(), d.size_table(), d.shape_table(), d.time_walk_ticks())

    def particles(self, epoch: int, index: int, into: p.Particles) -> int:
        """Particles that come in slice `index`."""
        key = _key(self.settings, epoch, index, _PARTICLES)
        start = index * SLICE_TICKS
        return into.filled_by(
            lambda to: p.uniform_particles(
                key, start, start + SLICE_TICKS, self._gap_ticks, self.settings.n_chips,
                to.tick, to.x, to.y, to.chip, to.peak, to.shot,
            )
        )  # fmt: skip

    def deposits(self, at: Moment, particles: p.Particles, n: int, front: FrontEnd, into: d.Deposits) -> int:
        """Random clusters."""
        into.reserve(n * d.MAX_PIXELS)
        key = _key(self.settings, at.epoch, at.index, _DEPOSITS)
        return d.random_clusters(
            key, n, particles.tick, particles.x, particles.y, particles.chip, *self._clusters,
            front.least, at.gain,
            into.pixel, into.tot, into.bins, into.particle,
        )  # fmt: skip


class DarkScene(_NoDelay):
    """Noise: a few bad pixels and single counts anywhere."""

    NOISY_PIXELS_PER_CHIP: Final = 20
    NOISY_SHARE: Final = 0.6

    least_tot = d.CLUSTER_LEAST_TOT

    def __init__(self, settings: SceneSettings, particles_per_hit: float) -> None:
        self.settings = settings
        self._gap_ticks = _mean_gap_ticks(settings.rate_hz * particles_per_hit)
        rng = np.random.default_rng(settings.seed)
        count = self.NOISY_PIXELS_PER_CHIP * settings.n_chips
        self._noisy = rng.choice(settings.n_chips << 16, size=count, replace=False).astype(np.int64)

    def particles(self, epoch: int, index: int, into: p.Particles) -> int:
        """Dark counts of slice `index`."""
        key = _key(self.settings, epoch, index, _PARTICLES)
        start = index * SLICE_TICKS
        return into.filled_by(
            lambda to: p.noise(
                key, start, start + SLICE_TICKS, self._gap_ticks, self.settings.n_chips, self._noisy, self.NOISY_SHARE,
                to.tick, to.x, to.y, to.chip, to.peak, to.shot,
            )
        )  # fmt: skip

    def deposits(self, at: Moment, particles: p.Particles, n: int, front: FrontEnd, into: d.Deposits) -> int:
        """One pixel each."""
        into.reserve(n)
        key = _key(self.settings, at.epoch, at.index, _DEPOSITS)
        return d.single_pixels(
            key, n, particles.tick, particles.x, particles.y, particles.chip, front.least, at.gain,
            into.pixel, into.tot, into.bins, into.particle,
        )  # fmt: skip


def _mean_gap_ticks(rate_hz: float) -> float:
    return TICKS_PER_SECOND / rate_hz if rate_hz > 0 else np.inf


def _key(settings: SceneSettings, epoch: int, index: int, purpose: int) -> np.uint64:
    return np.uint64(key_of(settings.seed, epoch, index, purpose))


def readout_key(settings: SceneSettings, epoch: int, index: int) -> np.uint64:
    """The random key of the read-out of slice `index`."""
    return _key(settings, epoch, index, _READOUT)


def chip_keys(settings: SceneSettings, at: Moment, chip: int) -> tuple[np.uint64, np.uint64]:
    """The random keys of noise and of test pulses of a chip in a slice."""
    return (
        _key(settings, at.epoch, at.index, _NOISE + chip),
        _key(settings, at.epoch, at.index, _PULSES + chip),
    )


def build_scene(settings: SceneSettings, particles_per_hit: float) -> Scene:
    """The scene named in the settings."""
    settings.check()
    match settings.scene:
        case SceneName.VMI:
            return VmiScene(settings, particles_per_hit)
        case SceneName.UNIFORM:
            return UniformScene(settings, particles_per_hit)
        case SceneName.DARK:
            return DarkScene(settings, particles_per_hit)
        case SceneName.LOAD:
            raise ValueError("the scene load has no particles: it is a source of its own")


def probing(settings: SceneSettings) -> SceneSettings:
    """Like `settings`, but with enough particles per millisecond to measure how many hits a particle makes.

    Where few particles come the hits of one do not depend on the rate; where many come, the rate stays as it is.
    """
    least_hits_per_slice = 100.0
    if settings.scene is SceneName.VMI:
        hits_per_shot = max(settings.rate_hz / settings.shot_rate_hz, least_hits_per_slice)
        shot_rate = min(settings.shot_rate_hz, 1000.0) if hits_per_shot > least_hits_per_slice else 1000.0
        return replace(settings, rate_hz=hits_per_shot * shot_rate, shot_rate_hz=shot_rate)
    return replace(settings, rate_hz=max(settings.rate_hz, least_hits_per_slice * 1000))
