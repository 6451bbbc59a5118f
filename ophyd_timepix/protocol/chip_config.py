"""The configuration words of a Timepix3 as named fields: general configuration, PLL, output block, test pulses.

Sources: [P] Pymepix timepixdef.py, [B] the YAML tables of GasDet-Bonn/tpx3-daq (they agree with each other and with the
later chip manual), [N] NIKHEF tpx3defs.h for PLL and output block. This module knows no device.
"""

from dataclasses import dataclass, fields
from enum import IntEnum
from operator import index
from typing import ClassVar, Final, Self, SupportsIndex

from .fields import NamedField, bit_field

N_DCOLS: Final = 128


class ConfigWord:
    """A word of named fields. Subclasses are frozen dataclasses whose attributes bear the fields' names."""

    TABLE: ClassVar[tuple[NamedField, ...]]
    BITS: ClassVar[int]
    UNCERTAIN: ClassVar[str] = ""
    """What no public source confirms."""

    @classmethod
    def from_word(cls, word: SupportsIndex) -> Self:
        """Take a word apart. Raises ValueError when it has more bits than the register."""
        value = index(word)
        if not 0 <= value < 1 << cls.BITS:
            raise ValueError(f"{cls.__name__} has {cls.BITS} bits (0 to 0x{(1 << cls.BITS) - 1:X}), not 0x{value:X}")
        return cls(**{field.name: field.get(value) for field in cls.TABLE})

    @property
    def word(self) -> int:
        """The register's value. Raises ValueError when a field does not fit."""
        word = 0
        for field in self.TABLE:
            word = field.put(word, index(getattr(self, field.name)))
        return word

    def __index__(self) -> int:
        return self.word

    def __str__(self) -> str:
        named = ", ".join(f"{field.name}={getattr(self, field.name)}" for field in self.TABLE)
        return f"{type(self).__name__} 0x{self.word:03X} ({named})"


class Polarity(IntEnum):
    """What the sensor collects."""

    HOLES = 0
    ELECTRONS = 1


class Mode(IntEnum):
    """What a pixel measures."""

    TOA_TOT = 0
    TOA = 1
    COUNT_ITOT = 2


@dataclass(frozen=True)
class GeneralConfig(ConfigWord):
    """GENCONFIG, 12 bits. The defaults are the run set-up of [P], 0x048."""

    polarity: int = Polarity.HOLES
    mode: int = Mode.TOA_TOT
    gray_counter: int = 1
    ack_command: int = 0
    test_pulse: int = 0
    fast_toa: int = 1
    timer_overflow: int = 0
    unused: int = 0
    test_pulse_digital: int = 0
    test_pulse_external: int = 0
    toa_system_clock: int = 0

    BITS = 12
    TABLE = (
        bit_field("polarity", 0, 1, "charge collected", {0: "holes (positive)", 1: "electrons (negative)"}),
        bit_field("mode", 1, 2, "what a pixel measures", {0: "ToA and ToT", 1: "ToA only", 2: "event count and iToT"}),
        bit_field("gray_counter", 3, 1, "ToA in Gray code", {0: "off", 1: "on"}),
        bit_field("ack_command", 4, 1, "the chip acknowledges commands", {0: "off", 1: "on"}),
        bit_field("test_pulse", 5, 1, "test pulses", {0: "off", 1: "on"}),
        bit_field("fast_toa", 6, 1, "super-pixel oscillator: fast ToA", {0: "off", 1: "on"}),
        bit_field("timer_overflow", 7, 1, "at the timer's end", {0: "cycle", 1: "stop"}),
        bit_field("unused", 8, 1, "without meaning, kept as it is"),
        bit_field("test_pulse_digital", 9, 1, "test pulses go to", {0: "analogue front end", 1: "discriminator"}),
        bit_field("test_pulse_external", 10, 1, "test pulses come from", {0: "the chip", 1: "outside"}),
        bit_field("toa_system_clock", 11, 1, "ToA clock", {0: "phase-shifted", 1: "system clock"}),
    )


@dataclass(frozen=True)
class PllConfig(ConfigWord):
    """PLLCONFIG, 14 bits. The defaults are 0x11E of [P]: 40 MHz matrix clock, 16 clock phases."""

    bypass: int = 0
    run: int = 1
    vcntrl_from_pll: int = 1
    dual_edge: int = 1
    divider: int = 1
    phases: int = 4
    pll_out: int = 0

    BITS = 14
    TABLE = (
        bit_field("bypass", 0, 1, "PLL bypassed"),
        bit_field("run", 1, 1, "PLL runs"),
        bit_field("vcntrl_from_pll", 2, 1, "control voltage from", {0: "DAC", 1: "PLL"}),
        bit_field("dual_edge", 3, 1, "dual-edge clock"),
        bit_field("divider", 4, 2, "phase divider", {0: "/16", 1: "/8", 2: "/4", 3: "/2"}),
        bit_field("phases", 6, 3, "clock phases", {0: "1", 1: "2", 2: "4", 3: "8", 4: "16"}),
        bit_field("pll_out", 9, 5, "PLL output"),
    )

    @property
    def n_phases(self) -> int:
        """Number of clock phases. Raises ValueError for the codes 5 to 7, which have no meaning."""
        if self.phases > 4:
            raise ValueError(f"phase code {self.phases} of the PLL word 0x{self.word:X} has no meaning; 0 to 4 have")
        return 1 << self.phases


_CLOCKS: Final = {1: "160/320 MHz", 2: "80/160 MHz", 3: "40/80 MHz", 4: "20/40 MHz", 5: "external"}


@dataclass(frozen=True)
class OutputBlockConfig(ConfigWord):
    """OUTBLOCKCONFIG, 16 bits."""

    ports: int = 0xFF
    clock_source: int = 1
    code_8b10b: int = 1
    fast_clock_out: int = 0
    clock_out: int = 1

    BITS = 16
    TABLE = (
        bit_field("ports", 0, 8, "output ports that are on, a mask"),
        bit_field("clock_source", 8, 3, "clock of the output (single/dual edge)", _CLOCKS),
        bit_field("code_8b10b", 11, 1, "8b10b coding"),
        bit_field("fast_clock_out", 12, 1, "fast clock at the output"),
        bit_field("clock_out", 13, 3, "clock at the clock output", _CLOCKS),
    )


@dataclass(frozen=True)
class PulseTiming(ConfigWord):
    """TPPERIODPHASE: phase << 16 | period."""

    period: int = 0
    phase: int = 0

    BITS = 20
    TABLE = (
        bit_field("period", 0, 8, "from pulse to pulse: 2 * (64 * period + 1) counts of 25 ns"),
        bit_field("phase", 16, 4, "shift of the pulses, in sixteenths of a count (1.5625 ns)"),
    )
    UNCERTAIN = "the sources state the packing alone; widths and units are those of the chip's manual, not verified"

    @property
    def period_counts(self) -> int:
        """From pulse to pulse, in 25 ns counts."""
        return 2 * (64 * self.period + 1)


TEST_PULSES_MAX: Final = 0xFFFF
"""Largest value of SET_TPNUMBER."""

CONFIG_WORDS: Final = (GeneralConfig, PllConfig, OutputBlockConfig, PulseTiming)


def _check_tables() -> None:
    """A table and its dataclass name the same fields, in the same order."""
    for config in CONFIG_WORDS:
        if [field.name for field in fields(config)] != [field.name for field in config.TABLE]:
            raise TypeError(f"the fields of {config.__name__} and of its table differ")


_check_tables()


def column_phase(pll_word: SupportsIndex) -> tuple[int, ...]:
    """What to add to the ToA of each of the 128 double columns, in fToA bins (1.5625 ns), for a PLL word.

    16 phases: dcol % 16, with 16 where that is 0 (measured: the 25 ns step lies between dcol % 16 = 0 and 1).
    2 phases: odd double columns -8. 1 phase: nothing. For 4 and 8 phases no source states the shifts, so they raise
    ValueError: a guessed time would be worse than none.
    """
    n_phases = PllConfig.from_word(pll_word).n_phases
    if n_phases == 16:
        return tuple(dcol % 16 or 16 for dcol in range(N_DCOLS))
    if n_phases == 2:
        return tuple(-8 if dcol % 2 else 0 for dcol in range(N_DCOLS))
    if n_phases == 1:
        return (0,) * N_DCOLS
    raise ValueError(
        f"the column phases of {n_phases} clock phases (PLL word 0x{index(pll_word):X}) are not known; use 1, 2 or 16, "
        f"or give a table of column phases"
    )
