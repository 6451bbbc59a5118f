"""What can go wrong on the wire: the board's error words with every sub-code, and the exceptions of this room.

Two kinds of exception, as in h11: *local* (we ask for something that the protocol cannot say) and *remote* (the peer
broke the protocol). Any other exception out of `ophyd_timepix.protocol` is a bug. An error word is no exception here:
it is a well-formed answer. Sources: [P] Pymepix SPIDR/error.py, [N] the NIKHEF library.
"""

from dataclasses import dataclass
from enum import IntEnum, IntFlag
from typing import Final


class ProtocolError(Exception):
    """Base of both kinds."""


class LocalProtocolError(ProtocolError, ValueError):
    """Wrong use of the protocol by this program; nothing was sent."""


class RemoteProtocolError(ProtocolError):
    """The peer sent what the protocol does not allow. The connection is of no further use."""


class ErrorId(IntEnum):
    """Low byte of an error word."""

    OK = 0
    UNKNOWN_COMMAND = 1
    MESSAGE_LENGTH = 2
    SEQUENCE = 3
    ILLEGAL_PARAMETER = 4
    NOT_IMPLEMENTED = 5
    TPX3_HARDWARE = 6
    ADC_HARDWARE = 7
    DAC_HARDWARE = 8
    MONITOR_HARDWARE = 9
    FLASH_STORAGE = 10
    MONITOR = 11
    """Newer firmware. Pymepix names its parts TEMP_DAQ and POWER_DAQ; no source states their codes."""


class Tpx3Error(IntEnum):
    """Byte 1 of an error word TPX3_HARDWARE: what the chip, or the way to it, did."""

    OK = 0
    SC_ILLEGAL = 1
    SC_STATE = 2
    SC_ERRSTATE = 3
    SC_WORDS = 4
    TX_TIMEOUT = 5
    EMPTY = 6
    NOTEMPTY = 7
    FULL = 8
    UNEXP_REPLY = 9
    UNEXP_HEADER = 10
    LINKS_UNLOCKED = 11


class FlashError(IntEnum):
    """Byte 1 of an error word FLASH_STORAGE."""

    OK = 0
    TPX = 1
    WRITE = 2
    WRITE_CHECK = 3
    READ = 4
    UNMATCHED_ID = 5
    NOFLASH = 6


class MonitorError(IntFlag):
    """Byte 1 of an error word MONITOR_HARDWARE, a bit mask: names of newer libraries (not verified on a board)."""

    I2C_INIT = 1 << 0
    LINK_INIT = 1 << 1
    MPL_INIT = 1 << 2
    MPU_INIT = 1 << 3
    MAX6642_INIT = 1 << 4
    INA219_0_INIT = 1 << 5
    INA219_1_INIT = 1 << 6
    I2C = 1 << 7


class OldMonitorError(IntFlag):
    """The same byte with the older firmware of [N]."""

    MAX6642_DAQ = 1 << 0
    INA219_0_DAQ = 1 << 1
    INA219_1_DAQ = 1 << 2
    MAX6642_INIT = 1 << 4
    INA219_0_INIT = 1 << 5
    INA219_1_INIT = 1 << 6


_SUB_CODES: Final[dict[ErrorId, type[Tpx3Error] | type[FlashError]]] = {
    ErrorId.TPX3_HARDWARE: Tpx3Error,
    ErrorId.FLASH_STORAGE: FlashError,
}


@dataclass(frozen=True)
class ErrorWord:
    """Word 2 of a reply: error id in the low byte, extra information above."""

    value: int

    @classmethod
    def of(cls, error: ErrorId, sub_code: int = 0) -> "ErrorWord":
        """The word of an error id and its sub-code (byte 1)."""
        return cls(error | sub_code << 8)

    def __bool__(self) -> bool:
        return self.value != 0

    @property
    def id(self) -> ErrorId | None:
        """The error id; None for one that no table knows."""
        low = self.value & 0xFF
        return ErrorId(low) if low in _ERROR_IDS else None

    @property
    def byte_1(self) -> int:
        """The sub-code, or mask."""
        return self.value >> 8 & 0xFF

    @property
    def sub_code(self) -> Tpx3Error | FlashError | MonitorError | None:
        """The chip's, flash's or monitor's own code; None where the id has none or the code is unknown."""
        error = self.id
        if error is ErrorId.MONITOR_HARDWARE:
            return MonitorError(self.byte_1)
        names = _SUB_CODES.get(error) if error is not None else None
        return names(self.byte_1) if names is not None and self.byte_1 in set(names) else None

    def __str__(self) -> str:
        error = self.id
        text = f"{error.name} ({int(error)})" if error is not None else f"unknown error {self.value & 0xFF}"
        sub_code = self.sub_code
        if isinstance(sub_code, MonitorError):
            older = OldMonitorError(self.byte_1).name
            text += f", {sub_code.name or 'no bit'} (mask 0x{self.byte_1:02X}; older firmware: {older or 'no bit'})"
        elif sub_code is not None:
            text += f", {sub_code.name} ({self.byte_1})"
        elif self.value >> 8:
            text += f", unknown sub-code {self.byte_1}"
        return f"{text} [error word 0x{self.value:08X}]"


_ERROR_IDS: Final = frozenset(int(error) for error in ErrorId)
OK: Final = ErrorWord(0)
