"""One simulated Timepix3 as the board sees it: what is stored in it. It knows no data and no socket."""

from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt

from ophyd_timepix.protocol import ChipId, Command, Dac, GeneralConfig, OutputBlockConfig, PllConfig
from ophyd_timepix.protocol.chip_config import TEST_PULSES_MAX
from ophyd_timepix.protocol.commands import ALL_HEADERS, CTPR_BYTES
from ophyd_timepix.protocol.dacs import SENSE_OFF
from ophyd_timepix.protocol.pixel_matrix import CODE_MAX, decode_upload
from ophyd_timepix.protocol.words import MATRIX_SIDE
from spidr_sim.settings import ChipSettings

CHIP_NAMES: Final = ("W0026_K06", "W0026_J06", "W0026_J07", "W0026_K07")
LINKS: Final = 0xFF
DEFAULT_UDP_PORT: Final = 8192
SOURCE_UDP_PORT: Final = 8192
SOURCE_ADDRESS: Final = 192 << 24 | 168 << 16 | 100 << 8 | 10
FAST_MBPS: Final = 640
SLOW_MBPS: Final = 320
"""Of the links, as RESET_MODULE and the start options choose; the numbers stand in no source."""


@dataclass
class ChipNetwork:
    """Where the chip's datagrams come from and go to. It belongs to the board: it is there without a chip too."""

    index: int
    source: int = SOURCE_ADDRESS
    source_port: int = SOURCE_UDP_PORT
    destination: int = 0
    destination_is_set: bool = False
    """By SET_IPADDR_DEST; until then it is the address of the connected client."""
    port: int = 0
    header_filter: int = ALL_HEADERS << 16 | ALL_HEADERS

    def __post_init__(self) -> None:
        self.source_port += self.index
        self.port = self.port or DEFAULT_UDP_PORT + self.index


@dataclass
class ChipState:
    """All that a chip stores. Fresh: as after a reset."""

    chip_id: ChipId
    dacs: dict[Dac, int] = field(default_factory=lambda: {dac: dac.reset for dac in Dac})
    sense: int = SENSE_OFF
    test_columns: bytes = bytes(CTPR_BYTES)
    codes: npt.NDArray[np.uint8] = field(default_factory=lambda: np.zeros((MATRIX_SIDE, MATRIX_SIDE), np.uint8))
    """Configuration of the pixels, indexed [column, row], as on the wire."""
    words: dict[str, int] = field(default_factory=dict)
    """Configuration words and other single values, by the name in `STORED`."""
    external: dict[Dac, int] = field(default_factory=dict)
    """DACs that are driven from outside (SET_EXTDAC)."""
    fuses: int = 0
    """They hold the id from the wafer test on."""
    last_packet: bytes = b""

    def __post_init__(self) -> None:
        self.words = {stored.name: stored.reset for stored in STORED}
        self.fuses = self.chip_id.value

    def settings(self, alive: bool) -> ChipSettings:
        """What the chip's data depend on."""
        return ChipSettings(
            dacs=dict(self.dacs),
            general=self.words["general"],
            pll=self.words["pll"],
            codes=self.codes.tobytes(),
            test_columns=self.test_columns,
            test_pulse_period=self.words["test_pulse_period"],
            test_pulses=self.words["test_pulses"],
            alive=alive,
        )

    def reset(self) -> None:
        """RESET_DEVICE: registers to their reset values. The matrix stays, as in the chip."""
        fresh = ChipState(self.chip_id)
        self.dacs, self.sense, self.external = fresh.dacs, fresh.sense, fresh.external
        self.words, self.test_columns = fresh.words, fresh.test_columns

    def upload(self, first_column: int, data: bytes) -> None:
        """SET_PIXCONF, packed or not. Raises ValueError for what is no whole columns."""
        codes = decode_upload(first_column, data)
        self.codes[first_column : first_column + len(codes)] = codes

    def column(self, column: int) -> bytes:
        """GET_PIXCONF."""
        return bytes((self.codes[column] & CODE_MAX).tobytes())

    def configure_column(self, word: int) -> None:
        """CONFIG_CTPR: column << 16 | bit."""
        columns = bytearray(self.test_columns)
        column, bit = word >> 16 & 0xFF, word & 1
        position = CTPR_BYTES - 1 - (column >> 3)
        columns[position] = columns[position] & ~(1 << (column & 7)) | bit << (column & 7)
        self.test_columns = bytes(columns)


@dataclass(frozen=True)
class Stored:
    """A value that one command sets and another reads."""

    name: str
    setter: Command
    getter: Command | None
    max: int
    reset: int = 0
    is_data: bool = False
    """Whether the data of the chip depend on it."""


_WORD: Final = 0xFFFF_FFFF

STORED: Final = (
    Stored("general", Command.SET_GENCONFIG, Command.GET_GENCONFIG, 0xFFF, GeneralConfig().word, is_data=True),
    Stored("pll", Command.SET_PLLCONFIG, Command.GET_PLLCONFIG, 0x3FFF, PllConfig().word, is_data=True),
    Stored("output_block", Command.SET_OUTBLOCKCONFIG, Command.GET_OUTBLOCKCONFIG, 0xFFFF, OutputBlockConfig().word),
    Stored("slvs", Command.SET_SLVSCONFIG, Command.GET_SLVSCONFIG, _WORD),
    Stored("power_pulse", Command.SET_PWRPULSECONFIG, Command.GET_PWRPULSECONFIG, _WORD),
    Stored("test_pulse_period", Command.SET_TPPERIODPHASE, Command.GET_TPPERIODPHASE, _WORD, is_data=True),
    Stored("test_pulses", Command.SET_TPNUMBER, Command.GET_TPNUMBER, TEST_PULSES_MAX, is_data=True),
    Stored("readout_speed", Command.SET_READOUTSPEED, Command.GET_READOUTSPEED, FAST_MBPS, FAST_MBPS),
    Stored("output_mask", Command.SET_OUTPUTMASK, None, 0xFF, LINKS),
    Stored("ctpr_from_leon", Command.SET_CTPR_LEON, None, _WORD),
)
