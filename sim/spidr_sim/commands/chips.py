"""Commands of the simulated board: DACs, test pixels, resets, pixel configuration and words of the chips."""

from typing import Final

from ophyd_timepix.protocol import DAC_BY_CODE, Command, ErrorId, Reply, Request, column_phase, pack_dac, unpack_dac
from ophyd_timepix.protocol.dacs import SENSE_CODES
from spidr_sim.answers import Refused, Table, ack, at_most, value_of
from spidr_sim.chip import STORED
from spidr_sim.hardware import Hardware

_BY_SETTER: Final = {stored.setter: stored for stored in STORED}
_BY_GETTER: Final = {stored.getter: stored for stored in STORED if stored.getter is not None}


class ChipCommands:
    """DACs, test pixels, resets, pixel configuration and configuration words of the chips."""

    def __init__(self, board: Hardware) -> None:
        self._board = board

    def table(self) -> Table:
        """Their handlers."""
        c = Command
        table: Table = {
            c.GET_DAC: self._get_dac,
            c.SET_DAC: self._set_dac,
            c.SET_DACS_DFLT: self._reset_dacs,
            c.SET_EXTDAC: self._set_external_dac,
            c.SET_SENSEDAC: self._set_sense,
            c.CONFIG_CTPR: self._configure_column,
            c.SET_CTPR: self._set_test_columns,
            c.GET_CTPR: lambda r: Reply(r.command, r.device, (), self._board.chips[r.device].test_columns),
            c.RESET_DEVICE: self._reset_chip,
            c.REINIT_DEVICE: self._reinit_chip,
            c.RESET_DEVICES: self._reset_chips,
            c.REINIT_DEVICES: self._reinit_chips,
            c.GET_EFUSES: lambda r: value_of(r, self._board.chips[r.device].fuses),
            c.BURN_EFUSE: self._burn_fuse,
            c.SET_PIXCONF: self._upload_pixels,
            c.GET_PIXCONF: self._read_pixels,
            c.RESET_PIXELS: ack,  # it does not clear the configuration bits
            c.UPLOAD_PACKET: self._upload_packet,
            c.T0_SYNC: ack,
        }
        for stored in STORED:
            table[stored.setter] = self._store
            if stored.getter is not None:
                table[stored.getter] = self._recall
        return table

    def _get_dac(self, request: Request) -> Reply:
        dac = DAC_BY_CODE.get(request.ints[0])
        if dac is None:
            raise Refused(ErrorId.ILLEGAL_PARAMETER)
        return value_of(request, pack_dac(dac.code, self._board.chips[request.device].dacs[dac]))

    def _set_dac(self, request: Request) -> Reply:
        code, value = unpack_dac(request.ints[0])
        dac = DAC_BY_CODE.get(code)
        if dac is None:
            raise Refused(ErrorId.ILLEGAL_PARAMETER)
        self._board.chips[request.device].dacs[dac] = at_most(value, dac.max)
        return ack(request)

    def _reset_dacs(self, request: Request) -> Reply:
        chip = self._board.chips[request.device]
        chip.dacs = {dac: dac.reset for dac in chip.dacs}
        return ack(request)

    def _set_external_dac(self, request: Request) -> Reply:
        code, value = unpack_dac(request.ints[0])
        external = self._board.chips[request.device].external
        dac = DAC_BY_CODE.get(code)
        if dac is not None:
            external[dac] = at_most(value, dac.max)
        elif code:
            raise Refused(ErrorId.ILLEGAL_PARAMETER)
        else:
            external.clear()
        return ack(request)

    def _set_sense(self, request: Request) -> Reply:
        if request.ints[0] not in SENSE_CODES:
            raise Refused(ErrorId.ILLEGAL_PARAMETER)
        self._board.chips[request.device].sense = request.ints[0]
        return ack(request)

    def _configure_column(self, request: Request) -> Reply:
        self._board.chips[request.device].configure_column(request.ints[0])
        return ack(request)

    def _set_test_columns(self, request: Request) -> Reply:
        self._board.chips[request.device].test_columns = request.data
        return ack(request)

    def _reset_chip(self, request: Request) -> Reply:
        self._board.chips[request.device].reset()
        return ack(request)

    def _reset_chips(self, request: Request) -> Reply:
        for index, chip in enumerate(self._board.chips):
            chip.reset()
            self._board.chip_changed(index)
        return ack(request)

    def _reinit_chip(self, request: Request) -> Reply:
        self._board.lock(request.device)
        return ack(request)

    def _reinit_chips(self, request: Request) -> Reply:
        for index in range(self._board.n_chips):
            self._board.lock(index)
        return ack(request)

    def _burn_fuse(self, request: Request) -> Reply:
        self._board.chips[request.device].fuses |= 1 << (request.ints[0] >> 6 & 0x1F)
        return ack(request)

    def _upload_pixels(self, request: Request) -> Reply:
        try:
            self._board.chips[request.device].upload(request.ints[0], request.data)
        except ValueError:
            raise Refused(ErrorId.ILLEGAL_PARAMETER) from None
        return ack(request)

    def _read_pixels(self, request: Request) -> Reply:
        column = at_most(request.ints[0], 255)
        return Reply(request.command, request.device, (column,), self._board.chips[request.device].column(column))

    def _upload_packet(self, request: Request) -> Reply:
        size = at_most(request.ints[0], len(request.data))
        self._board.chips[request.device].last_packet = request.data[:size]
        return ack(request)

    def _store(self, request: Request) -> Reply:
        stored = _BY_SETTER[request.command]
        value = at_most(request.ints[0], stored.max)
        if request.command is Command.SET_PLLCONFIG:
            _check_phases(value)
        self._board.chips[request.device].words[stored.name] = value
        return ack(request)

    def _recall(self, request: Request) -> Reply:
        return value_of(request, self._board.chips[request.device].words[_BY_GETTER[request.command].name])


def _check_phases(pll_word: int) -> None:
    """Nobody knows the times that a chip gives with 4 or 8 phases, so no words can be made for it."""
    try:
        column_phase(pll_word)
    except ValueError:
        raise Refused(ErrorId.ILLEGAL_PARAMETER) from None
