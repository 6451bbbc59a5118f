"""What the simulated board measures: temperatures that drift, supplies, bias, and DACs at its ADC. Pure functions."""

import math
from typing import Final

from ophyd_timepix.clock import NS_PER_COUNT
from ophyd_timepix.protocol import DAC_BY_CODE, Dac, SenseCode

_DRIFT_PERIOD_S: Final = 300.0
_DRIFT_MDEGC: Final = 400
CHIP_MDEGC: Final = 41_500
BOARD_MDEGC: Final = 36_200
FPGA_MDEGC: Final = 52_800
HUMIDITY_PERCENT: Final = 35
PRESSURE_MBAR: Final = 1013
FAN_RPM_AT_FULL: Final = 6000

VDDA_MV: Final = 1500
_DAC_FULL_SCALE_MV: Final = 1200
_BANDGAP_MV: Final = 600.0
# T = 88.75 degC - 607.3 degC/V * (V(29) - V(28)): the formula of EUDAQ and CERN, turned round.
_DEGC_AT_0: Final = 88.75
_DEGC_PER_V: Final = 607.3


def drifting(mdegc: int, counts: int) -> int:
    """A temperature that swings slowly around `mdegc`."""
    seconds = counts * NS_PER_COUNT * 1e-9
    return mdegc + round(_DRIFT_MDEGC * math.sin(2 * math.pi * seconds / _DRIFT_PERIOD_S))


def supply(mv: int, ma: int, powered: bool) -> tuple[int, int, int]:
    """mV, mA, mW."""
    return (mv, ma, mv * ma // 1000) if powered else (0, 0, 0)


def sensed_mv(code: int, dacs: dict[Dac, int], chip_mdegc: int) -> float:
    """Millivolts that the chip puts out for a sense code; 0 for one that it does not have."""
    dac = DAC_BY_CODE.get(code)
    if dac is not None:
        return dacs[dac] / dac.max * _DAC_FULL_SCALE_MV
    if code == SenseCode.BANDGAP_OUTPUT:
        return _BANDGAP_MV
    if code == SenseCode.BANDGAP_TEMPERATURE:
        return _BANDGAP_MV + (_DEGC_AT_0 - chip_mdegc / 1000) / _DEGC_PER_V * 1000
    return 0.0
