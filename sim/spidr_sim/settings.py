"""What the data of a simulated chip depend on: its settings as on the wire, the bias of the sensor, the read-out.

Pure values that the board makes (`board.py`) and the data side takes (`frontend.py`). No array, no kernel, no socket.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from math import exp
from typing import Final

from ophyd_timepix.protocol import Dac, GeneralConfig, PllConfig
from ophyd_timepix.protocol.commands import ALL_HEADERS, CTPR_BYTES
from ophyd_timepix.protocol.words import MATRIX_SIDE

PIXELS: Final = MATRIX_SIDE * MATRIX_SIDE
BIAS_SETTLED_V: Final = 0.05
"""A ramp that is so near to its target has arrived."""
OPERATING_BIAS_V: Final = 50.0
ONE_PHASE_PLL: Final = 0x01E
"""PLL word without column phases."""
ALL_PASS: Final = ALL_HEADERS
"""The header filter that lets every word leave."""


class Readout(Enum):
    """What the board does with the hits of its chips."""

    OFF = "off"
    DATA_DRIVEN = "data driven"
    """Each hit leaves by itself."""
    SEQUENTIAL = "sequential"
    """The matrix is read when the shutter has closed."""


def _operating_dacs() -> dict[Dac, int]:
    return {dac: dac.default for dac in Dac}


@dataclass(frozen=True)
class ChipSettings:
    """What the front end of a chip depends on, as on the wire. Fresh: what a camera runs with, nothing masked."""

    dacs: Mapping[Dac, int] = field(default_factory=_operating_dacs)
    general: int = GeneralConfig().word
    """GENCONFIG word."""
    pll: int = PllConfig().word
    """PLLCONFIG word."""
    codes: bytes = bytes(PIXELS)
    """Six-bit codes of the pixels, [column][row]."""
    test_columns: bytes = bytes(CTPR_BYTES)
    """The column test-pulse register."""
    test_pulse_period: int = 0
    """phase << 16 | period"""
    test_pulses: int = 0
    alive: bool = True
    """False: no chip, unlocked links or no power. It is silent."""


@dataclass(frozen=True)
class BiasRamp:
    """The bias on its way from `start_v` to `target_v` since `since_s` (virtual seconds): exponential with `tau_s`."""

    start_v: float
    target_v: float
    since_s: float = 0.0
    tau_s: float = 1.0

    @classmethod
    def settled(cls, volts: float) -> "BiasRamp":
        """A bias that stands."""
        return cls(volts, volts)

    def at(self, seconds: float) -> float:
        """Volts at a virtual time; before `since_s` they are `start_v`."""
        elapsed_s = max(0.0, seconds - self.since_s)
        away = (self.start_v - self.target_v) * exp(-elapsed_s / self.tau_s)
        return self.target_v if abs(away) < BIAS_SETTLED_V else self.target_v + away
