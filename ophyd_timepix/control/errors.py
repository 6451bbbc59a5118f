"""What can go wrong between this program and a board. Each message says where, in which command, what, and the way out.

::

    ControlError
      ConnectionLost      the line is of no more use; the next request opens a new one
        SpidrUnreachable    no such host, no way there, nobody answers the call
        SpidrRefused        the host is there, nobody listens at the port
        SpidrClosed         the board hung up
        SpidrTimeout        the board is silent
        SpidrGarbled        what came is no answer to the question
        RestoreFailed       the board was lost and is back, but its settings could not be set again
      BoardError          the board answered with an error word
      ChipMissing         there is no such chip, or its links are not locked
      ReadBackError       the board took a value and holds another
      LimitError          refused before the wire (a ValueError too)

`OSError` and `ProtocolError` do not leave this room.
"""

from typing import Final

from ophyd_timepix.protocol import Command, ErrorId, ErrorWord, Tpx3Error


class ControlError(Exception):
    """Base of all."""


class ConnectionLost(ControlError):
    """The connection failed and is closed; the next request opens a new one."""


class SpidrUnreachable(ConnectionLost):
    """The address leads nowhere."""


class SpidrRefused(ConnectionLost):
    """Nobody listens at the port."""


class SpidrClosed(ConnectionLost):
    """The board closed the connection."""

    sent = True
    """False: before the request went out, so it was certainly not carried out."""


class SpidrTimeout(ConnectionLost):
    """No reply in time."""


class SpidrGarbled(ConnectionLost):
    """The reply breaks the protocol."""


class RestoreFailed(ConnectionLost):
    """The board is back after a loss, but what was set could not be set again; the cause is chained."""


class BoardError(ControlError):
    """The board answered with an error word."""

    def __init__(self, where: str, command: Command, device: int, ints: tuple[int, ...], error: ErrorWord) -> None:
        self.command = command
        self.device = device
        self.error = error
        given = ", ".join(f"0x{value:X}" for value in ints[:5])
        super().__init__(f"{where}: the board answers {command.name}({given}) with {error}; {remedy(error)}")


class ChipMissing(ControlError):
    """There is no such chip, or its links are not locked."""


class ReadBackError(ControlError):
    """What was read back is not what was set."""


class LimitError(ControlError, ValueError):
    """A value that the hardware does not have; nothing was sent."""


_POWER: Final = "check the chip's power and cable, then reset the board"

_REMEDIES: Final[dict[ErrorId | None, str]] = {
    ErrorId.UNKNOWN_COMMAND: "its firmware does not have this command: a newer one is needed",
    ErrorId.MESSAGE_LENGTH: "its firmware expects another form of this command: compare firmware versions",
    ErrorId.SEQUENCE: "it came at a time when it is not possible: stop the read-out and try again",
    ErrorId.ILLEGAL_PARAMETER: "the value or the chip number is not possible on this board",
    ErrorId.NOT_IMPLEMENTED: "this board cannot do it",
    ErrorId.TPX3_HARDWARE: _POWER,
    ErrorId.ADC_HARDWARE: "the board's ADC failed: power-cycle the board",
    ErrorId.DAC_HARDWARE: "the board's DAC failed: power-cycle the board",
    ErrorId.MONITOR_HARDWARE: "a sensor of the board failed: read-out works without it, power-cycle the board",
    ErrorId.MONITOR: "a sensor of the board failed: read-out works without it, power-cycle the board",
    ErrorId.FLASH_STORAGE: "the board's flash failed; settings hold until the power goes",
    None: "no table knows this error: note it with the firmware version",
}

_CHIP_REMEDIES: Final[dict[Tpx3Error, str]] = {
    Tpx3Error.LINKS_UNLOCKED: f"the chip is missing or its links are not locked: {_POWER}",
    Tpx3Error.TX_TIMEOUT: f"the chip does not answer: {_POWER}",
}


def remedy(error: ErrorWord) -> str:
    """What to do about an error word."""
    sub_code = error.sub_code
    if isinstance(sub_code, Tpx3Error) and sub_code in _CHIP_REMEDIES:
        return _CHIP_REMEDIES[sub_code]
    return _REMEDIES.get(error.id, _REMEDIES[None])
