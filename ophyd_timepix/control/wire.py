"""What all verbs of a board stand on: its line, its registers, and a way to wait that a stop can end."""

import threading
import time
from collections.abc import Callable
from typing import Final

from ophyd_timepix.protocol import Command, Register

from .client import SpidrClient
from .errors import ReadBackError
from .limits import flag, whole

Clock = Callable[[], float]
"""Seconds that only grow."""
Wait = Callable[[threading.Event, float], bool]
"""Wait for an event at most so many seconds; True when it is set."""

REGISTER_MAX: Final = 0xFFFF_FFFF


class Wire:
    """Requests and registers of the board behind `client`."""

    def __init__(
        self, client: SpidrClient, *, clock: Clock = time.monotonic, wait: Wait = threading.Event.wait
    ) -> None:
        self.client = client
        self._clock = clock
        self._wait = wait

    def read_register(self, address: int) -> int:
        """An FPGA register."""
        echoed, value = self.client.request(Command.GET_SPIDRREG, 0, (address,)).ints
        if echoed != address:
            raise ReadBackError(
                f"{self.client.address}: asked for register 0x{address:04X}, the board answered for 0x{echoed:04X}; "
                "another client may be talking to it"
            )
        return value

    def write_register(self, address: int, value: int) -> None:
        """Set an FPGA register. Not read back: some are commands, some count."""
        self.client.request(Command.SET_SPIDRREG, 0, (address, value))

    def _set_register(self, register: Register, value: int) -> None:
        """Set a register that holds a setting, and read it back."""
        word = whole(self.client.address, f"register {register.name}", value, 0, REGISTER_MAX, "(32 bits)")
        with self.client.exclusive():
            self.write_register(register.address, word)
            self._check(f"register {register.name}", word, self.read_register(register.address))

    def _flag(self, register: Register, field: str) -> bool:
        return bool(register.field(field).get(self.read_register(register.address)))

    def _set_flag(self, register: Register, field: str, value: bool) -> None:
        """Set one field, leave the others, read it back."""
        wanted = flag(self.client.address, f"{field} of register {register.name}", value)
        with self.client.exclusive():
            word = self.read_register(register.address)
            self.write_register(register.address, register.field(field).put(word, int(wanted)))
            self._check(f"{field} of register {register.name}", wanted, self._flag(register, field))

    def _request(self, command: Command, value: int = 0) -> None:
        self.client.request(command, 0, (value,))

    def _get(self, command: Command, value: int = 0) -> int:
        return self.client.request(command, 0, (value,)).value

    def _check(self, name: str, wanted: object, got: object) -> None:
        if wanted != got:
            raise ReadBackError(
                f"{self.client.address}: {name} was set to {wanted} and reads back {got}; "
                "set it again, else reset the board"
            )
