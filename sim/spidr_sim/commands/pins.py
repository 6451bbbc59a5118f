"""Commands of the simulated board: pins, and the registers of the board."""

from typing import Final

from ophyd_timepix.protocol import Command, ErrorId, LinkStatus, Register, Reply, Request
from ophyd_timepix.protocol.commands import MAX_DEVICES
from spidr_sim.answers import WORD, Refused, Table, ack, at_most, value_of
from spidr_sim.chip import LINKS
from spidr_sim.hardware import COUNTERS, DECODERS, EXTERNAL_SHUTTER_PIN, Hardware

_LINK_REGISTERS: Final = {Register.LINK_STATUS.at(chip): chip for chip in range(MAX_DEVICES)}
_SHUTTER_REGISTERS: Final = frozenset(
    {
        Register.SHUTTER_CONTROL.address,
        Register.SHUTTER_COUNT.address,
        Register.SHUTTER_PERIOD.address,
        Register.SHUTTER_LENGTH.address,
        Register.SHUTTER_DELAY.address,
    }
)
_READ_ONLY: Final = frozenset({*_LINK_REGISTERS, Register.DEVICES_AND_PORTS.address})
_PINS: Final = 32
_LINKS_PER_CHIP: Final = 8


class PinCommands:
    """Pins, and the registers of the board."""

    def __init__(self, board: Hardware) -> None:
        self._board = board

    def table(self) -> Table:
        """Their handlers."""
        c = Command
        return {
            c.GET_GPIO: lambda r: value_of(r, self._board.gpio),
            c.SET_GPIO: self._set_pins,
            c.SET_GPIO_PIN: self._set_pin,
            c.GET_SPIDRREG: self._get_register,
            c.SET_SPIDRREG: self._set_register,
        }

    def _set_pins(self, request: Request) -> Reply:
        self._board.gpio = request.ints[0]
        self._board.external_signal(bool(self._board.gpio >> EXTERNAL_SHUTTER_PIN & 1))
        return ack(request)

    def _set_pin(self, request: Request) -> Reply:
        pin = at_most(request.ints[0] >> 16, _PINS - 1)
        level = bool(at_most(request.ints[0] & 0xFFFF, 1))
        self._board.set_bit(pin, level)
        if pin == EXTERNAL_SHUTTER_PIN:
            self._board.external_signal(level)
        return ack(request)

    def _get_register(self, request: Request) -> Reply:
        address = at_most(request.ints[0], 0xFFFF)
        return value_of(request, address, self._read(address) & WORD)

    def _set_register(self, request: Request) -> Reply:
        address, value = at_most(request.ints[0], 0xFFFF), request.ints[1]
        if address in COUNTERS:
            self._board.counter_zero[address] = self._board.count(address) - (value or self._board.counters_start)
        elif address in _SHUTTER_REGISTERS:
            self._set_shutter_register(address, value)
        elif address == Register.DECODER_CONTROL.address:
            self._board.decoders = value & DECODERS
        elif address not in _READ_ONLY:
            self._board.registers[address] = value
        return ack(request)

    def _read(self, address: int) -> int:
        if address in COUNTERS:
            return self._board.count(address) - self._board.counter_zero[address]
        if address in _LINK_REGISTERS:
            return LinkStatus(LINKS, self._locked_links(_LINK_REGISTERS[address])).word
        if address in _SHUTTER_REGISTERS:
            return self._shutter_registers()[address]
        if address == Register.DECODER_CONTROL.address:
            return self._board.decoders
        if address == Register.DEVICES_AND_PORTS.address:
            return Register.DEVICES_AND_PORTS.field("links_minus_1").put(MAX_DEVICES, _LINKS_PER_CHIP - 1)
        return self._board.registers.get(address, 0)

    def _locked_links(self, index: int) -> int:
        if not self._board.has_chip(index):
            return 0
        return LINKS & ~1 if index in self._board.unlocked else LINKS

    def _shutter_registers(self) -> dict[int, int]:
        r, shutter = Register, self._board.shutter
        control = self._board.registers.get(r.SHUTTER_CONTROL.address, 0)
        return {
            r.SHUTTER_CONTROL.address: r.SHUTTER_CONTROL.field("mode").put(control, shutter.mode.code),
            r.SHUTTER_COUNT.address: shutter.count,
            r.SHUTTER_PERIOD.address: shutter.period_counts,
            r.SHUTTER_LENGTH.address: shutter.length_counts,
            r.SHUTTER_DELAY.address: shutter.delay_counts,
        }

    def _set_shutter_register(self, address: int, value: int) -> None:
        r, shutter = Register, self._board.shutter
        try:
            if address == r.SHUTTER_CONTROL.address:
                shutter.set_mode(r.SHUTTER_CONTROL.field("mode").get(value))
                self._board.registers[address] = value
            elif address == r.SHUTTER_COUNT.address:
                shutter.count = value
            elif address == r.SHUTTER_PERIOD.address:
                shutter.set_period(value)
            elif address == r.SHUTTER_LENGTH.address:
                shutter.set_length(value)
            else:
                shutter.set_delay(value)
        except ValueError:
            raise Refused(ErrorId.ILLEGAL_PARAMETER) from None
