"""The front end of the pixels: from settings as on the wire to the tables that the kernels look up. Pure.

The scale is the simulator's own, round numbers near those of a real chip: a fine threshold step is 10 electrons, a
coarse one 160 fine steps, the baseline of the analogue output lies at 1180 steps and its noise is 8 steps (80 e-) wide.
So the operating defaults (coarse 6, fine 420) are 200 steps above the noise. A count of ToT is 50 steps of charge at
the operating discharge current.

Pixels differ: each has an offset of its own, a function of (seed, chip). Tables are indexed by address, y << 8 | x, and
thresholds in them are steps above the baseline of the pixel. No word, no clock, no kernel here.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil, exp
from typing import Final

import numpy as np
import numpy.typing as npt

from ophyd_timepix.protocol import Dac, GeneralConfig, Mode, PixelMatrix, Polarity, PulseTiming, column_phase
from ophyd_timepix.protocol import words as w
from ophyd_timepix.protocol.chip_config import N_DCOLS
from ophyd_timepix.protocol.pixel_matrix import ADJUST_MAX, CODE_MAX, SHAPE, decode_ctpr
from spidr_sim.settings import ALL_PASS, ONE_PHASE_PLL, OPERATING_BIAS_V, PIXELS, ChipSettings

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]
Least = npt.NDArray[np.uint16]
BoolArray = npt.NDArray[np.bool_]

STEPS_PER_COARSE: Final = 160
ELECTRONS_PER_STEP: Final = 10.0
BASELINE_STEPS: Final = 1180
STEPS_PER_TOT: Final = 50.0
TRIM_STEPS: Final = 6.0
"""Per unit of a pixel's adjustment, at the operating value of Ibias_PixelDAC; proportional to that DAC."""
OFFSET_SIGMA_STEPS: Final = 15.0
OFFSET_LIMIT: Final = 3.5
"""Sigmas beyond which no pixel's offset lies."""
AMPLITUDES_PER_TOT: Final = 16
"""Amplitudes of particles are compared in 16ths of a nominal count: in two bytes, so that the table stays in cache."""
SILENT: Final = 0xFFFF
"""More than any amplitude."""

NOISE_SIGMA_STEPS: Final = 8.0
NOISE_AT_BASELINE_HZ: Final = 40_000.0
NOISE_OF_A_CHIP_HZ: Final = 1e6
"""Shared out evenly over the pixels that are not masked: no pixel makes more than its share. So the noise of a chip is
bounded, and each pixel still shows its edges where they are, whatever the others do."""
_NO_NOISE_HZ: Final = 1e-3
"""Of a whole chip: less is none."""

BIAS_SCALE_V: Final = 15.0
_GAIN_STEPS: Final = 1024
"""The gain is a multiple of 1 / 1024, so that it is 1 although the board's bias DAC cannot say 50 V exactly."""

VTP_COARSE_MV: Final = 5.0
VTP_FINE_MV: Final = 2.5
ELECTRONS_PER_MV: Final = 18.7
"""3 fF."""
DIGITAL_PULSE_TOT: Final = 20
HITS_PER_COUNT: Final = 2
"""A chip can be read out at 80 Mhit/s: pulses that come while its pixels wait for that find them busy."""

TOT_ONE: Final = 256
"""`tot_factor` of the operating discharge current."""
TOA_ONLY: Final = 1
COUNTING: Final = 2
WITHOUT_FTOA: Final = 4
ONE_HIT: Final = 8

_TDC_NIBBLE: Final = w.TdcByte.TDC1_RISING >> 4
_GENERAL_MASK: Final = (1 << GeneralConfig.BITS) - 1
_TIMING_MASK: Final = (1 << PulseTiming.BITS) - 1
"""Registers keep no more bits than they have."""


# --- threshold --------------------------------------------------------------------------------------------------------
def pixel_offsets(seed: int, chip: int) -> FloatArray:
    """How far the threshold of each pixel lies above that of the chip, in steps."""
    rng = np.random.default_rng([seed, chip, 0x7EA])
    sigmas = np.clip(rng.standard_normal(PIXELS), -OFFSET_LIMIT, OFFSET_LIMIT)
    return np.asarray(OFFSET_SIGMA_STEPS * sigmas)


def threshold_steps(dacs: Mapping[Dac, int]) -> int:
    """The threshold of a chip above the baseline, in steps."""
    return STEPS_PER_COARSE * dacs[Dac.VTHRESHOLD_COARSE] + dacs[Dac.VTHRESHOLD_FINE] - BASELINE_STEPS


OPERATING_STEPS: Final = threshold_steps(ChipSettings().dacs)


def pixel_thresholds(dacs: Mapping[Dac, int], adjust: npt.NDArray[np.uint8], offsets: FloatArray) -> FloatArray:
    """The threshold of each pixel above its baseline, in steps. `adjust` is 0 to 15."""
    step = TRIM_STEPS * dacs[Dac.IBIAS_PIXELDAC] / Dac.IBIAS_PIXELDAC.default
    trims = step * np.arange(ADJUST_MAX + 1)
    return np.asarray(threshold_steps(dacs) + offsets + trims[adjust])


def least_tots(thresholds: FloatArray, silent: BoolArray, least_at_operation: float) -> Least:
    """The smallest amplitude that fires each pixel, in 16ths of a nominal count of ToT; `SILENT` when none does.

    `least_at_operation` is the scene's smallest amplitude at the operating threshold. A discriminator whose threshold
    lies below the baseline is always on: it shows no edge, so it never fires.
    """
    least = least_at_operation + (thresholds - OPERATING_STEPS) / STEPS_PER_TOT
    least = np.maximum(np.ceil(AMPLITUDES_PER_TOT * least), 1)
    least[silent | (thresholds <= 0)] = SILENT
    return least.astype(np.uint16)


def tot_factor(dacs: Mapping[Dac, int]) -> int:
    """Counts of ToT per nominal count, in 256ths: inverse to the discharge current."""
    return round(TOT_ONE * Dac.IBIAS_IKRUM.default / max(1, dacs[Dac.IBIAS_IKRUM]))


def bias_gain(volts: float) -> float:
    """Share of the charge that the sensor collects, relative to that at 50 V; 0 without bias."""
    share = (1 - exp(-max(0.0, volts) / BIAS_SCALE_V)) / (1 - exp(-OPERATING_BIAS_V / BIAS_SCALE_V))
    return round(share * _GAIN_STEPS) / _GAIN_STEPS


# --- noise ------------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class NoiseTable:
    """Noise of one chip."""

    rate_hz: float
    """Of all its pixels."""
    cumulative_hz: FloatArray
    """Of the pixels up to and with an address."""


def noise_hz(thresholds: FloatArray, masked: BoolArray) -> FloatArray:
    """Noise of each pixel: a Gaussian about its baseline, cut off at its share of what a chip may make."""
    rates = NOISE_AT_BASELINE_HZ * np.exp(-0.5 * (thresholds / NOISE_SIGMA_STEPS) ** 2)
    rates[masked] = 0.0
    share = NOISE_OF_A_CHIP_HZ / max(1, int(np.count_nonzero(~masked)))
    return np.asarray(np.minimum(rates, share))


def noise_table(thresholds: FloatArray, masked: BoolArray) -> NoiseTable | None:
    """None for a chip without noise."""
    cumulative = np.cumsum(noise_hz(thresholds, masked))
    rate = float(cumulative[-1])
    return NoiseTable(rate, cumulative) if rate > _NO_NOISE_HZ else None


# --- test pulses ------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class PulseTable:
    """Test pulses of one chip: pulse n (from 0) comes n + 1 periods after the shutter opens."""

    pixel: npt.NDArray[np.int32]
    """Addresses that get them."""
    threshold_steps: npt.NDArray[np.float32]
    """Of these pixels."""
    period_counts: int
    phase_bins: int
    """What they come later than the count, in fToA bins."""
    pulses: int
    stride: int
    """Each so many-th pulse finds the pixels ready."""
    steps: float
    """Amplitude, infinite when the pulses go to the discriminator."""
    tot: int
    """Nominal counts."""

    @property
    def digital(self) -> bool:
        """Whether the pulses go to the discriminator."""
        return self.steps == np.inf

    def between(self, start_counts: int, stop_counts: int) -> IntArray:
        """Times of the pulses in [start, stop) counts after the shutter opened, counts."""
        first = max(0, ceil(start_counts / self.period_counts) - 1)
        stop = min(self.pulses, ceil(stop_counts / self.period_counts) - 1)
        first = -(-first // self.stride) * self.stride
        return (np.arange(first, max(first, stop), self.stride, dtype=np.int64) + 1) * self.period_counts


def pulse_electrons(dacs: Mapping[Dac, int]) -> float:
    """Charge of a test pulse."""
    return abs(dacs[Dac.VTP_COARSE] * VTP_COARSE_MV - dacs[Dac.VTP_FINE] * VTP_FINE_MV) * ELECTRONS_PER_MV


def pulse_table(
    settings: ChipSettings, test: BoolArray, thresholds: FloatArray, silent: BoolArray
) -> PulseTable | None:
    """None for a chip whose settings give no pulses. `test` is the test bit of each pixel."""
    general = GeneralConfig.from_word(settings.general & _GENERAL_MASK)
    # Nothing is connected to the input for pulses from outside.
    if not general.test_pulse or general.test_pulse_external or not settings.test_pulses:
        return None
    columns = np.tile(decode_ctpr(settings.test_columns), SHAPE[1])
    pixel = np.flatnonzero(test & columns & ~silent)
    if not pixel.size:
        return None
    timing = PulseTiming.from_word(settings.test_pulse_period & _TIMING_MASK)
    steps = np.inf if general.test_pulse_digital else pulse_electrons(settings.dacs) / ELECTRONS_PER_STEP
    return PulseTable(
        pixel=pixel.astype(np.int32),
        threshold_steps=thresholds[pixel].astype(np.float32),
        period_counts=timing.period_counts,
        phase_bins=timing.phase,
        pulses=settings.test_pulses,
        stride=ceil(pixel.size / (HITS_PER_COUNT * timing.period_counts)),
        steps=steps,
        tot=DIGITAL_PULSE_TOT if general.test_pulse_digital else int(steps / STEPS_PER_TOT),
    )


# --- all chips --------------------------------------------------------------------------------------------------------
def style_of(general: GeneralConfig) -> int:
    """What the words of a chip state: flags for the kernels. Mode 3 has no meaning and acts as mode 0."""
    style = {int(Mode.TOA): TOA_ONLY, int(Mode.COUNT_ITOT): COUNTING}.get(general.mode, 0)
    return style if general.fast_toa else style | WITHOUT_FTOA


class FrontEnd:
    """The tables of all chips of a board. Fresh: operating defaults without column phases, everything passes.

    What is set shows in the tables after `refresh`.
    """

    def __init__(self, n_chips: int, seed: int, least_at_operation: float) -> None:
        self.n_chips = n_chips
        self.least: Least = np.full(n_chips * PIXELS, SILENT, np.uint16)
        """Smallest amplitude that fires, 16ths of a nominal count of ToT, [chip << 16 | y << 8 | x]."""
        self.lowest = SILENT / AMPLITUDES_PER_TOT
        """The smallest of them, nominal counts."""
        self.phase: IntArray = np.zeros((n_chips, N_DCOLS), np.int64)
        self.tot_factor: IntArray = np.full(n_chips, TOT_ONE, np.int64)
        self.style: IntArray = np.zeros(n_chips, np.int64)
        self.plain = True
        """Whether all chips send each hit with its ToA, fToA and nominal ToT."""
        self.counting = False
        """Whether some chip counts instead of sending each hit."""
        self.sends_edges: BoolArray = np.ones(n_chips, np.bool_)
        self.noise: list[NoiseTable | None] = [None] * n_chips
        self.pulses: list[PulseTable | None] = [None] * n_chips
        self._least_at_operation = least_at_operation
        self._offsets = [pixel_offsets(seed, chip) for chip in range(n_chips)]
        self._settings = [ChipSettings(pll=ONE_PHASE_PLL)] * n_chips
        self._masks = [ALL_PASS] * n_chips
        self._pixel_nibble = w.PIXEL_DATA_DRIVEN
        self._outdated = set(range(n_chips))
        self.refresh()

    def set_chip(self, chip: int, settings: ChipSettings) -> None:
        """Other settings of a chip."""
        self._settings[chip] = settings
        self._outdated.add(chip)

    def set_filter(self, chip: int, eth_mask: int) -> None:
        """Other words of a chip leave: bit k passes those with header nibble k."""
        self._masks[chip] = eth_mask
        self._outdated.add(chip)

    def set_sequential(self, sequential: bool) -> None:
        """Pixel words have another header in a sequential read-out, which the filter may hold back."""
        nibble = w.PIXEL_SEQUENTIAL if sequential else w.PIXEL_DATA_DRIVEN
        if nibble != self._pixel_nibble:
            self._pixel_nibble = nibble
            self._outdated.update(range(self.n_chips))

    def refresh(self) -> None:
        """Bring the tables up to date with all that was set: a matrix comes in many steps, its tables in one."""
        for chip in self._outdated:
            self._build(chip)
        self._outdated.clear()

    def _build(self, chip: int) -> None:
        settings = self._settings[chip]
        general = GeneralConfig.from_word(settings.general & _GENERAL_MASK)
        codes = np.frombuffer(settings.codes, np.uint8).reshape(SHAPE) & CODE_MAX
        # From [column, row] to addresses.
        matrix = PixelMatrix.from_codes(codes.T)
        mask, test, adjust = matrix.mask.ravel(), matrix.test.ravel(), matrix.threshold_adjust.ravel()
        sends_pixels = settings.alive and self._masks[chip] >> self._pixel_nibble & 1
        silent = mask if sends_pixels else np.ones(PIXELS, np.bool_)
        thresholds = pixel_thresholds(settings.dacs, adjust, self._offsets[chip])
        blind = silent if general.polarity == Polarity.HOLES else np.ones(PIXELS, np.bool_)
        self.least[chip * PIXELS : (chip + 1) * PIXELS] = least_tots(thresholds, blind, self._least_at_operation)
        self.lowest = float(self.least.min()) / AMPLITUDES_PER_TOT
        self.phase[chip] = column_phase(settings.pll)
        self.tot_factor[chip] = tot_factor(settings.dacs)
        self.style[chip] = style_of(general) | (ONE_HIT if self._pixel_nibble == w.PIXEL_SEQUENTIAL else 0)
        self.sends_edges[chip] = settings.alive and self._masks[chip] >> _TDC_NIBBLE & 1
        self.noise[chip] = noise_table(thresholds, silent)
        self.plain = not self.style.any() and bool(np.all(self.tot_factor == TOT_ONE))
        self.counting = bool(np.any(self.style & COUNTING))
        self.pulses[chip] = pulse_table(settings, test, thresholds, silent)
