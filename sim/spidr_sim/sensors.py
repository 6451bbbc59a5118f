"""What the simulated board measures: temperatures that drift, supplies, bias, and DACs at its ADC.

Times are virtual seconds that go on through every restart of the timers. It knows no command and no socket.
"""

import math
from collections.abc import Mapping
from typing import Final

from ophyd_timepix.protocol import DAC_BY_CODE, Dac, SenseCode
from ophyd_timepix.protocol.registers import DEGC_PER_V, TEMPERATURE_OFFSET_DEGC, bias_of_dac
from spidr_sim.settings import BiasRamp

_DRIFT_PERIOD_S: Final = 300.0
_DRIFT_MDEGC: Final = 400
CHIP_MDEGC: Final = 41_500
BOARD_MDEGC: Final = 36_200
FPGA_MDEGC: Final = 52_800
HUMIDITY_PERCENT: Final = 35
PRESSURE_MBAR: Final = 1013
FAN_RPM_AT_FULL: Final = 6000
BIAS_TAU_S: Final = 0.3

VDDA_MV: Final = 1500
_DAC_FULL_SCALE_MV: Final = 1200
_BANDGAP_MV: Final = 600.0
_FIXED_MV: Final[Mapping[int, float]] = {
    SenseCode.BANDGAP_OUTPUT: _BANDGAP_MV,
    SenseCode.IBIAS_DAC: 500.0,
    SenseCode.IBIAS_DAC_CAS: 800.0,
}
"""The bias currents' voltages are plausible numbers, no source states them."""


def drifting(mdegc: int, seconds: float) -> int:
    """A temperature that swings slowly around `mdegc`."""
    return mdegc + round(_DRIFT_MDEGC * math.sin(2 * math.pi * seconds / _DRIFT_PERIOD_S))


def supply(mv: int, ma: int, powered: bool) -> tuple[int, int, int]:
    """mV, mA, mW."""
    return (mv, ma, mv * ma // 1000) if powered else (0, 0, 0)


def sensed_mv(code: int, dacs: Mapping[Dac, int], chip_mdegc: int) -> float:
    """Millivolts that the chip puts out for a sense code; 0 for one that it does not have."""
    dac = DAC_BY_CODE.get(code)
    if dac is not None:
        return dacs[dac] / dac.max * _DAC_FULL_SCALE_MV
    if code == SenseCode.BANDGAP_TEMPERATURE:
        return _BANDGAP_MV + (TEMPERATURE_OFFSET_DEGC - chip_mdegc / 1000) / DEGC_PER_V * 1000
    return _FIXED_MV.get(code, 0.0)


class BiasSupply:
    """The bias of the sensor: it follows its DAC and its switch exponentially."""

    def __init__(self) -> None:
        self.on = False
        self.dac = 0
        self.ramp = BiasRamp.settled(0.0)

    @property
    def target_v(self) -> float:
        """Where it goes."""
        return bias_of_dac(self.dac) if self.on else 0.0

    def set(self, now_s: float, *, on: bool | None = None, dac: int | None = None) -> BiasRamp:
        """Switch it, or give it another voltage; what is not given stays. Returns its way from now on."""
        self.on = self.on if on is None else on
        self.dac = self.dac if dac is None else dac
        if self.target_v != self.ramp.target_v:
            self.ramp = BiasRamp(self.ramp.at(now_s), self.target_v, now_s, BIAS_TAU_S)
        return self.ramp

    def settle(self) -> BiasRamp:
        """It has been on for long."""
        self.ramp = BiasRamp.settled(self.target_v)
        return self.ramp

    def cut(self) -> None:
        """The board lost its power: no bias, at once."""
        self.on, self.dac = False, 0
        self.ramp = BiasRamp.settled(0.0)
