"""What a board measures, and the limits of what it is told, in the units that people use.

The command table says what stands on the wire; here each number of a reply has its own unit, precision and meaning, and
each setting that is no DAC and no field of a word has its limits. This module knows no socket and no device.
"""

from collections.abc import Callable, Sequence
from enum import Enum
from typing import Final

from .chip_config import TEST_PULSES_MAX
from .commands import MAX_INT, Command
from .registers import (
    ADC_BIAS_CHANNEL,
    ADC_MV_PER_BIAS_V,
    ADC_VDDA_CHANNEL,
    BIAS_MAX_V,
    BIAS_MIN_V,
    SHUTTER_CLOCK_HZ,
    VDDA_DIVIDER,
    adc_mv,
)

_ONE_SAMPLE: Final = 1 << 16


def _signed(word: int) -> int:
    """It freezes, and currents flow back."""
    return word - (1 << 32) if word >> 31 else word


def _milli(word: int) -> float:
    return _signed(word) / 1000


def _bias(word: int) -> float:
    return adc_mv(word) / ADC_MV_PER_BIAS_V


def _vdda(word: int) -> float:
    return adc_mv(word) * VDDA_DIVIDER / 1000


class Quantity(Enum):
    """A measured quantity: unit, digits after the point, meaning; command, argument, word of the reply, conversion."""

    def __init__(
        self,
        unit: str,
        precision: int,
        meaning: str,
        command: Command,
        argument: int = 0,
        word: int = 0,
        convert: Callable[[int], float] = float,
    ) -> None:
        self.unit = unit
        self.precision = precision
        self.meaning = meaning
        self.command = command
        self.argument = argument
        self.word = word
        self._convert = convert

    def __repr__(self) -> str:
        return f"<Quantity.{self.name} {self.unit}>"

    def of(self, ints: Sequence[int]) -> float:
        """Its value, in its unit, from the words of a reply."""
        return self._convert(ints[self.word])

    CHIP_TEMPERATURE = "degC", 3, "at the chips, by the remote sensor", Command.GET_REMOTETEMP, 0, 0, _milli
    BOARD_TEMPERATURE = "degC", 3, "of the board", Command.GET_LOCALTEMP, 0, 0, _milli
    FPGA_TEMPERATURE = "degC", 3, "of the FPGA", Command.GET_FPGATEMP, 0, 0, _milli
    ANALOGUE_V = "V", 3, "analogue supply", Command.GET_AVDD_NOW, 0, 0, _milli
    ANALOGUE_A = "A", 3, "analogue supply", Command.GET_AVDD_NOW, 0, 1, _milli
    ANALOGUE_W = "W", 3, "analogue supply", Command.GET_AVDD_NOW, 0, 2, _milli
    DIGITAL_V = "V", 3, "digital supply", Command.GET_DVDD_NOW, 0, 0, _milli
    DIGITAL_A = "A", 3, "digital supply", Command.GET_DVDD_NOW, 0, 1, _milli
    DIGITAL_W = "W", 3, "digital supply", Command.GET_DVDD_NOW, 0, 2, _milli
    VDD_V = "V", 3, "third supply", Command.GET_VDD_NOW, 0, 0, _milli
    VDD_A = "A", 3, "third supply", Command.GET_VDD_NOW, 0, 1, _milli
    VDD_W = "W", 3, "third supply", Command.GET_VDD_NOW, 0, 2, _milli
    BIAS = "V", 2, "bias of the sensor", Command.GET_SPIDR_ADC, ADC_BIAS_CHANNEL | _ONE_SAMPLE, 0, _bias
    VDDA = "V", 3, "analogue supply at the ADC", Command.GET_SPIDR_ADC, ADC_VDDA_CHANNEL | _ONE_SAMPLE, 0, _vdda
    HUMIDITY = "%", 0, "relative humidity", Command.GET_HUMIDITY
    PRESSURE = "mbar", 0, "air pressure", Command.GET_PRESSURE
    CHIP_FAN = "rpm", 0, "fan of the chip board", Command.GET_FANSPEED, 0
    BOARD_FAN = "rpm", 0, "fan of the board", Command.GET_FANSPEED, 1
    SHUTTERS = "", 0, "openings of the shutter since the reset of the counters", Command.GET_SHUTTERCNTR
    EXTERNAL_SHUTTERS = "", 0, "external shutters since the reset of the counters", Command.GET_EXTSHUTTERCNTR


class Setting(Enum):
    """A setting: unit, smallest and largest value, digits after the point, meaning."""

    def __init__(self, unit: str, low: float, high: float, precision: int, meaning: str) -> None:
        self.unit = unit
        self.low = low
        self.high = high
        self.precision = precision
        self.meaning = meaning

    def __repr__(self) -> str:
        return f"<Setting.{self.name} {self.low} to {self.high} {self.unit}>"

    @property
    def limits(self) -> tuple[float, float]:
        """(smallest, largest)."""
        return self.low, self.high

    BIAS = "V", BIAS_MIN_V, BIAS_MAX_V, 2, "bias of the sensor"
    FAN = "%", 0, 100, 0, "speed of a fan"
    SHUTTER_LENGTH = "us", 0, MAX_INT // 40, 0, "how long an opening lasts; 0: until stopped"
    SHUTTER_FREQUENCY = "Hz", 1, SHUTTER_CLOCK_HZ, 0, "openings a second"
    SHUTTER_COUNT = "", 0, MAX_INT, 0, "number of openings"
    SHUTTER_DELAY = "ns", 0, MAX_INT, 0, "from the start, or the signal, to the opening; steps of 25 ns"
    TEST_PULSES = "", 0, TEST_PULSES_MAX, 0, "number of test pulses"
    UDP_PORT = "", 1, 0xFFFF, 0, "where datagrams go"
    TIMER = "25 ns", 0, (1 << 48) - 1, 0, "the 48-bit timer"
