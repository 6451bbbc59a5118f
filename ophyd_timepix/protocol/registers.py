"""The FPGA registers of a SPIDR board (GET_SPIDRREG, SET_SPIDRREG), with their fields.

Sources: [P] Pymepix SPIDR/spidrdefs.py, [N] the NIKHEF library, [V] its Velopix sibling. What no source confirms
says so in `uncertain`. This module knows no socket and no device.
"""

from dataclasses import dataclass
from enum import Enum
from typing import Final

from .chip_config import ConfigWord
from .commands import TRIGGER_MODES
from .fields import NamedField, bit_field

_WHOLE: Final = bit_field("value", 0, 32, "the whole register")

PIXEL_FILTER_FIELDS: Final = (
    bit_field("pixel", 0, 3, "pixel in the super-pixel"),
    bit_field("super_pixel", 3, 6, "super-pixel"),
    bit_field("dcol", 9, 7, "double column"),
    bit_field("enable", 16, 1, "on"),
)
"""Of each PIXEL_FILTER register [N]."""
_SHUTTER_MODES: Final = {code: mode.meaning for code, mode in TRIGGER_MODES.items()}


class Register(Enum):
    """A register: address, meaning, unit, fields, address step from chip to chip (0: one for all), uncertainty."""

    def __init__(
        self,
        address: int,
        meaning: str,
        unit: str = "",
        fields: tuple[NamedField, ...] = (_WHOLE,),
        chip_step: int = 0,
        uncertain: str = "",
    ) -> None:
        self.address = address
        self.meaning = meaning
        self.unit = unit
        self.fields = fields
        self.chip_step = chip_step
        self.uncertain = uncertain

    def __repr__(self) -> str:
        return f"<Register.{self.name} 0x{self.address:04X}>"

    def at(self, chip: int) -> int:
        """The register's address for `chip`."""
        return self.address + self.chip_step * chip

    def field(self, name: str) -> NamedField:
        """The field of that name."""
        return next(field for field in self.fields if field.name == name)

    CPU_TO_TPX = (
        0x01C8,
        "control of the link from CPU to chips",
        "",
        (
            bit_field("clock_80_mhz", 24, 1, "80 MHz peripheral clock"),
            bit_field("external_clock", 25, 1, "external reference clock"),
        ),
    )
    SHUTTER_CONTROL = (
        0x0290,
        "shutter control",
        "",
        (
            bit_field("mode", 0, 3, "shutter mode", _SHUTTER_MODES),
            bit_field("monitor_packets", 12, 1, "monitor datagrams on [V]"),
        ),
    )
    SHUTTER_COUNT = 0x0294, "number of automatic shutters"
    SHUTTER_PERIOD = 0x0298, "period of the automatic shutter", "25 ns"
    SHUTTER_LENGTH = 0x029C, "length of the shutter", "25 ns"
    DECODER_CONTROL = (
        0x02A8,
        "decoders in the FPGA",
        "",
        (bit_field("decoders", 0, 4, "which decoders are on"),),
        0,
        "meaning of the single bits",
    )
    SHUTTER_DELAY = 0x02AC, "delay of the shutter", "25 ns"
    TDC_CONTROL = (
        0x02B8,
        "TDC control; 0 = both inputs, both edges enabled",
        "",
        (_WHOLE,),
        0,
        "values other than 0",
    )
    DEVICES_AND_PORTS = (
        0x02C0,
        "devices and ports",
        "",
        (bit_field("links_minus_1", 8, 4, "links of a chip, less 1"),),
    )
    TDC_TRIGGERS = 0x02F8, "TDC triggers, modulo 2**32", "triggers"
    TLU_CONTROL = 0x02FC, "trigger logic unit", "", (bit_field("enable", 0, 1, "on"),)
    LINK_STATUS = (
        0x0300,
        "GTX control and status of a chip's links",
        "",
        (
            bit_field("disabled", 0, 8, "links that are not enabled, a mask"),
            bit_field("locked", 16, 8, "links that are locked, a mask"),
        ),
        4,
    )
    PIXEL_WORDS = (
        0x0340,
        "pixel words of a chip, modulo 2**32",
        "words",
        (_WHOLE,),
        1,
        "steps by 1, not 4, from chip to chip: so [P] and [V]",
    )
    IPMUX_CONFIG = 0x0380, "multiplexer of the datagrams"
    UDP_DATAGRAMS = (
        0x0384,
        "UDP data datagrams of all chips, modulo 2**32",
        "datagrams",
        (_WHOLE,),
        0,
        "whether it counts datagrams with timer and control words too (by its name: yes)",
    )
    UDP_MONITOR_DATAGRAMS = 0x0388, "UDP monitor datagrams", "datagrams"
    UDP_PAUSED_DATAGRAMS = 0x038C, "datagrams while read-out was paused", "datagrams"
    PIXEL_WORDS_OLD = 0x0390, "pixel words of all chips (2014 firmware)", "words"
    PIXEL_FILTER_0 = 0x0394, "single-pixel filter 0", "", PIXEL_FILTER_FIELDS
    PIXEL_FILTER_1 = 0x0398, "single-pixel filter 1", "", PIXEL_FILTER_FIELDS
    PIXEL_FILTER_2 = 0x039C, "single-pixel filter 2", "", PIXEL_FILTER_FIELDS
    PIXEL_FILTER_3 = 0x03A0, "single-pixel filter 3", "", PIXEL_FILTER_FIELDS


SHUTTER_CLOCK_HZ: Final = 40_000_000
"""SHUTTER_PERIOD = this / frequency."""

START_OPTIONS_VALID: Final = 1
"""Value of `StartOptions.valid` with which they count."""


@dataclass(frozen=True)
class StartOptions(ConfigWord):
    """What the board does at power-up: the word of STORE_STARTOPTS and GET_STARTOPTS."""

    tpx_power: int = 1
    links_fast: int = 1
    bias_on: int = 0
    bias_volts: int = 0
    valid: int = START_OPTIONS_VALID

    BITS = 32
    TABLE = (
        bit_field("tpx_power", 0, 1, "power of the chips on at power-up", {0: "off", 1: "on"}),
        bit_field("links_fast", 1, 1, "links", {0: "slow", 1: "fast"}),
        bit_field("bias_on", 7, 1, "bias on at power-up", {0: "off", 1: "on"}),
        bit_field("bias_volts", 8, 8, "bias at power-up, 12 to 104 V"),
        bit_field("valid", 30, 2, "1: the options count"),
    )


@dataclass(frozen=True)
class LinkStatus:
    """A LINK_STATUS register, read."""

    enabled: int
    """Mask of the links that are enabled."""
    locked: int
    """Mask of the links that are locked."""

    @classmethod
    def from_word(cls, word: int) -> "LinkStatus":
        """The register states the links that are *not* enabled."""
        status = Register.LINK_STATUS
        return cls(~status.field("disabled").get(word) & 0xFF, status.field("locked").get(word))

    @property
    def word(self) -> int:
        """The register's value."""
        return (~self.enabled & 0xFF) | self.locked << 16

    @property
    def ready(self) -> bool:
        """Whether there is a chip that can be read: some link is enabled, and all enabled ones are locked [P]."""
        return self.enabled != 0 and self.locked == self.enabled


BIAS_MIN_V: Final = 12
BIAS_MAX_V: Final = 104
BIAS_ON_V: Final = BIAS_MIN_V / 2
"""A supply that is on gives at least BIAS_MIN_V: what is measured below this comes from one that is off."""
BIAS_TOLERANCE_V: Final = 0.5
"""Bias voltages closer than this are the same: the ADC reads them in steps of 37 mV, and the divider is not exact."""
BIAS_DAC_MAX: Final = 4095
ADC_BITS: Final = 12
ADC_FULL_SCALE_MV: Final = 1500
ADC_BIAS_CHANNEL: Final = 1
ADC_VDDA_CHANNEL: Final = 2
ADC_MV_PER_BIAS_V: Final = 10


TEMPERATURE_OFFSET_DEGC: Final = 88.75
DEGC_PER_V: Final = 607.3
"""A chip's temperature from its band gap: see `chip_temperature_degc`."""
TEMPERATURE_SAMPLES: Final = 64
SENSE_SETTLING_S: Final = 0.1
"""Between SET_SENSEDAC and the ADC reading."""
VDDA_DIVIDER: Final = 2
"""The ADC sees the analogue supply divided by this."""


def bias_dac(volts: float) -> int:
    """The word of SET_BIAS_ADJUST. Raises ValueError outside 12 to 104 V."""
    if not BIAS_MIN_V <= volts <= BIAS_MAX_V:
        raise ValueError(f"bias is {BIAS_MIN_V} to {BIAS_MAX_V} V, not {volts} V")
    return int((volts - BIAS_MIN_V) * BIAS_DAC_MAX / (BIAS_MAX_V - BIAS_MIN_V))


def bias_of_dac(dac: int) -> float:
    """Volts that a word of SET_BIAS_ADJUST stands for."""
    return BIAS_MIN_V + dac * (BIAS_MAX_V - BIAS_MIN_V) / BIAS_DAC_MAX


def adc_mv(sample: int) -> float:
    """Millivolts at the ADC of one 12-bit sample, in the sources' rounding upwards."""
    return ((sample & 0xFFF) * ADC_FULL_SCALE_MV + 4095) / 4096


def adc_sample(mv: float) -> int:
    """The 12-bit sample of a voltage at the ADC."""
    return min(max(int(mv * 4096 / ADC_FULL_SCALE_MV), 0), 0xFFF)


def adc_sum_mv(total: int, samples: int) -> float:
    """Millivolts at the ADC of a sum of samples, without the rounding of `adc_mv`."""
    return total * ADC_FULL_SCALE_MV / samples / (1 << ADC_BITS)


def chip_temperature_degc(temperature_mv: float, bandgap_mv: float) -> float:
    """A chip's temperature from what it puts out for BANDGAP_TEMPERATURE and BANDGAP_OUTPUT (EUDAQ, CERN)."""
    return TEMPERATURE_OFFSET_DEGC - DEGC_PER_V * (temperature_mv - bandgap_mv) / 1000
