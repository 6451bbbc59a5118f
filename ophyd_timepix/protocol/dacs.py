"""The DACs of a Timepix3 chip, and what else can be routed to the board's ADC.

Sources: [P] Pymepix timepixdef.py and config/defaultconfig.py (`default`: what a camera runs with), [B] the YAML tables
of GasDet-Bonn/tpx3-daq (`reset`: what the chip has after a reset). This module knows no device.
"""

from enum import Enum, IntEnum
from typing import Final

SENSE_OFF: Final = 0


class Dac(Enum):
    """A DAC: code on the wire (also its sense code), width in bits, operating default, reset value, meaning."""

    def __init__(self, code: int, bits: int, default: int, reset: int, meaning: str) -> None:
        self.code = code
        self.bits = bits
        self.default = default
        self.reset = reset
        self.meaning = meaning

    def __repr__(self) -> str:
        return f"<Dac.{self.name} {self.code}>"

    @property
    def max(self) -> int:
        """The largest value; the smallest is 0."""
        return (1 << self.bits) - 1

    @property
    def wire_name(self) -> str:
        """The name in the chip's manual and in SoPhy files."""
        return _WIRE_NAMES[self]

    IBIAS_PREAMP_ON = 1, 8, 128, 128, "preamplifier bias, on"
    IBIAS_PREAMP_OFF = 2, 4, 8, 8, "preamplifier bias, power pulsed off"
    VPREAMP_NCAS = 3, 8, 128, 128, "preamplifier cascode"
    IBIAS_IKRUM = 4, 8, 5, 128, "discharge current: sets the length of ToT"
    VFBK = 5, 8, 128, 128, "preamplifier feedback"
    VTHRESHOLD_FINE = 6, 9, 420, 256, "threshold, fine"
    VTHRESHOLD_COARSE = 7, 4, 6, 8, "threshold, coarse"
    IBIAS_DISCS1_ON = 8, 8, 84, 128, "discriminator stage 1 bias, on"
    IBIAS_DISCS1_OFF = 9, 4, 8, 8, "discriminator stage 1 bias, power pulsed off"
    IBIAS_DISCS2_ON = 10, 8, 128, 128, "discriminator stage 2 bias, on"
    IBIAS_DISCS2_OFF = 11, 4, 8, 8, "discriminator stage 2 bias, power pulsed off"
    IBIAS_PIXELDAC = 12, 8, 192, 128, "step of the threshold adjustment of a pixel"
    IBIAS_TPBUFFERIN = 13, 8, 128, 128, "test pulse buffer, input"
    IBIAS_TPBUFFEROUT = 14, 8, 128, 128, "test pulse buffer, output"
    VTP_COARSE = 15, 8, 128, 128, "test pulse voltage, coarse"
    VTP_FINE = 16, 9, 256, 256, "test pulse voltage, fine"
    IBIAS_CP_PLL = 17, 8, 128, 128, "charge pump of the PLL"
    PLL_VCNTRL = 18, 8, 128, 128, "control voltage of the PLL"


_WIRE_NAMES: Final[dict[Dac, str]] = dict(
    zip(
        Dac,
        (
            "Ibias_Preamp_ON",
            "Ibias_Preamp_OFF",
            "VPreamp_NCAS",
            "Ibias_Ikrum",
            "Vfbk",
            "Vthreshold_fine",
            "Vthreshold_coarse",
            "Ibias_DiscS1_ON",
            "Ibias_DiscS1_OFF",
            "Ibias_DiscS2_ON",
            "Ibias_DiscS2_OFF",
            "Ibias_PixelDAC",
            "Ibias_TPbufferIn",
            "Ibias_TPbufferOut",
            "VTP_coarse",
            "VTP_fine",
            "Ibias_CP_PLL",
            "PLL_Vcntrl",
        ),
        strict=True,
    )
)

DAC_BY_CODE: Final[dict[int, Dac]] = {dac.code: dac for dac in Dac}


class SenseCode(IntEnum):
    """What SET_SENSEDAC can route to the ADC beyond the DACs themselves [N]."""

    BANDGAP_OUTPUT = 28
    BANDGAP_TEMPERATURE = 29
    IBIAS_DAC = 30
    IBIAS_DAC_CAS = 31


SENSE_CODES: Final = frozenset({SENSE_OFF, *DAC_BY_CODE, *(int(code) for code in SenseCode)})
"""All arguments of SET_SENSEDAC that have a meaning."""


def pack_dac(code: int, value: int) -> int:
    """The word of SET_DAC and GET_DAC: code << 16 | value."""
    return code << 16 | value


def unpack_dac(word: int) -> tuple[int, int]:
    """(code, value) of such a word."""
    return word >> 16, word & 0xFFFF
