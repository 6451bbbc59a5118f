"""The flash of the simulated board: what a power cycle does not take. Pure values; `board.py` fills and reads it.

What is stored is a copy of the present state of a chip, under its number. ERASE_* forgets it, VALID_* asks for it, and
power-up and RESET_MODULE load what is there.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from ophyd_timepix.protocol import Dac, StartOptions
from ophyd_timepix.protocol.commands import FLASH_PAGE_BYTES
from spidr_sim.chip import ChipNetwork, ChipState

ERASED_PAGE: Final = b"\xff" * FLASH_PAGE_BYTES
OPERATING_BIAS_V: Final = 50


@dataclass(frozen=True)
class StoredRegisters:
    """The configuration words of a chip."""

    words: Mapping[str, int]
    test_columns: bytes


@dataclass
class Flash:
    """Fresh: erased."""

    dacs: dict[int, Mapping[Dac, int]] = field(default_factory=dict)
    registers: dict[int, StoredRegisters] = field(default_factory=dict)
    pixels: dict[int, npt.NDArray[np.uint8]] = field(default_factory=dict)
    networks: dict[int, ChipNetwork] = field(default_factory=dict)
    start_options: int = 0
    """The word of STORE_STARTOPTS."""
    pages: dict[int, bytes] = field(default_factory=dict)
    """What WRITE_FLASH wrote, by its address word. Apart from the rest: nobody says where in the flash that lies."""

    @classmethod
    def operating(cls, n_chips: int) -> "Flash":
        """As a camera in use has it: operating DACs for each chip, power and fast links on, bias on at 50 V."""
        dacs = {dac: dac.default for dac in Dac}
        options = StartOptions(tpx_power=1, links_fast=1, bias_on=1, bias_volts=OPERATING_BIAS_V)
        return cls(dacs=dict.fromkeys(range(n_chips), dacs), start_options=options.word)

    def area(self, kind: str) -> dict[int, Any]:
        """What is stored of a kind (ADDRPORTS, DACS, REGISTERS or PIXCONF), by chip."""
        areas: dict[str, dict[int, Any]] = {
            "ADDRPORTS": self.networks,
            "DACS": self.dacs,
            "REGISTERS": self.registers,
            "PIXCONF": self.pixels,
        }
        return areas[kind]

    def store(self, kind: str, index: int, chip: ChipState) -> None:
        """Keep a copy of the chip's DACS, REGISTERS or PIXCONF."""
        if kind == "DACS":
            self.dacs[index] = dict(chip.dacs)
        elif kind == "REGISTERS":
            self.registers[index] = StoredRegisters(dict(chip.words), chip.test_columns)
        else:
            self.pixels[index] = chip.codes.copy()

    def load(self, index: int, chip: ChipState) -> None:
        """Give the chip what is stored of it."""
        if index in self.dacs:
            chip.dacs = dict(self.dacs[index])
        if index in self.registers:
            stored = self.registers[index]
            chip.words, chip.test_columns = dict(stored.words), stored.test_columns
        if index in self.pixels:
            chip.codes = self.pixels[index].copy()
