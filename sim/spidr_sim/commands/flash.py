"""Commands of the simulated board: what is stored for the next power-up."""

from dataclasses import replace
from functools import partial

from ophyd_timepix.protocol import Command, ErrorId, FlashError, Reply, Request
from ophyd_timepix.protocol.registers import BIAS_MAX_V, BIAS_MIN_V, START_OPTIONS_VALID
from spidr_sim.answers import Refused, Table, ack, at_most, start_options_of, value_of
from spidr_sim.flash import ERASED_PAGE
from spidr_sim.hardware import Hardware


class FlashCommands:
    """What is stored for the next power-up."""

    def __init__(self, board: Hardware) -> None:
        self._board = board

    def table(self) -> Table:
        """Their handlers."""
        c = Command
        table: Table = {
            c.STORE_STARTOPTS: self._set_start_options,
            c.GET_STARTOPTS: lambda r: value_of(r, self._board.flash.start_options),
            c.READ_FLASH: self._read_flash,
            c.WRITE_FLASH: self._write_flash,
        }
        for kind in ("ADDRPORTS", "DACS", "REGISTERS", "PIXCONF"):
            table[c[f"STORE_{kind}"]] = partial(self._store_in_flash, kind)
            table[c[f"ERASE_{kind}"]] = partial(self._erase_flash, kind)
            table[c[f"VALID_{kind}"]] = partial(self._is_in_flash, kind)
        return table | {c.STORE_ADDRPORTS: self._store_addresses}

    def _is_in_flash(self, kind: str, request: Request) -> Reply:
        return value_of(request, int(request.device in self._board.flash.area(kind)))

    def _store_in_flash(self, kind: str, request: Request) -> Reply:
        if not self._board.is_alive(request.device):
            raise Refused(ErrorId.FLASH_STORAGE, FlashError.TPX)
        self._board.flash.store(kind, request.device, self._board.chips[request.device])
        return ack(request)

    def _store_addresses(self, request: Request) -> Reply:
        """The present addresses of a chip; its source address and destination port are those given, where not 0."""
        address, port = request.ints
        network = replace(self._board.networks[request.device])
        network.source = address or network.source
        network.port = at_most(port, 0xFFFF) or network.port
        self._board.flash.networks[request.device] = network
        return ack(request)

    def _erase_flash(self, kind: str, request: Request) -> Reply:
        self._board.flash.area(kind).pop(request.device, None)
        return ack(request)

    def _set_start_options(self, request: Request) -> Reply:
        options = start_options_of(request.ints[0])
        counts = options.valid == START_OPTIONS_VALID and options.bias_on
        if counts and not BIAS_MIN_V <= options.bias_volts <= BIAS_MAX_V:
            raise Refused(ErrorId.ILLEGAL_PARAMETER)
        self._board.flash.start_options = request.ints[0]
        return ack(request)

    def _read_flash(self, request: Request) -> Reply:
        page = self._board.flash.pages.get(request.ints[0], ERASED_PAGE)
        return Reply(request.command, request.device, (), page)

    def _write_flash(self, request: Request) -> Reply:
        self._board.flash.pages[request.ints[0]] = request.data
        return ack(request)
