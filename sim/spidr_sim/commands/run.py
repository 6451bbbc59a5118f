"""Commands of the simulated board: shutter, read-out, timers and counters; power, bias and decoders."""

from ophyd_timepix.protocol import Command, ErrorId, Reply, Request
from ophyd_timepix.protocol.commands import SEQ_READOUT_NOW
from ophyd_timepix.protocol.registers import BIAS_DAC_MAX
from spidr_sim.answers import WORD, Refused, Table, ack, at_most, time_words, value_of
from spidr_sim.chip import ChipState
from spidr_sim.hardware import DECODERS, Hardware
from spidr_sim.settings import Readout


class RunCommands:
    """Shutter, read-out, timers and counters; power, bias and decoders."""

    def __init__(self, board: Hardware) -> None:
        self._board = board

    def table(self) -> Table:
        """Their handlers."""
        c = Command
        return {
            c.GET_TRIGCONFIG: lambda r: value_of(r, *self._board.shutter.words),
            c.SET_TRIGCONFIG: self._set_trigger,
            c.AUTOTRIG_START: self._start_shutter,
            c.AUTOTRIG_STOP: self._stop_shutter,
            c.SEQ_READOUT: self._read_sequentially,
            c.DDRIVEN_READOUT: lambda r: self._set_readout(r, Readout.DATA_DRIVEN),
            c.PAUSE_READOUT: lambda r: self._set_readout(r, Readout.OFF),
            c.RESTART_TIMERS: self._restart_timers,
            c.RESET_TIMER: self._restart_timers,
            c.GET_TIMER: self._get_timer,
            c.SET_TIMER: self._set_timer,
            c.GET_SHUTTERSTART: lambda r: value_of(r, *time_words(self._board.shutter.opened_at)),
            c.GET_SHUTTEREND: lambda r: value_of(r, *time_words(self._board.shutter.closed_at)),
            c.GET_EXTSHUTTERCNTR: lambda r: value_of(r, self._board.shutter.external_openings & WORD),
            c.GET_SHUTTERCNTR: lambda r: value_of(r, self._board.shutter.openings & WORD),
            c.RESET_COUNTERS: self._reset_counters,
            c.PWRPULSE_ENA: self._keep_switch,
            c.TPX_POWER_ENA: self._power_chips,
            c.BIAS_SUPPLY_ENA: self._switch_bias,
            c.SET_BIAS_ADJUST: self._adjust_bias,
            c.DECODERS_ENA: self._switch_decoders,
        }

    def _set_trigger(self, request: Request) -> Reply:
        try:
            self._board.shutter.configure(request.ints)
        except ValueError:
            raise Refused(ErrorId.ILLEGAL_PARAMETER) from None
        return ack(request)

    def _start_shutter(self, request: Request) -> Reply:
        self._board.shutter.start(self._board.clock.counts())
        return ack(request)

    def _stop_shutter(self, request: Request) -> Reply:
        self._board.shutter.stop(self._board.clock.counts())
        return ack(request)

    def _read_sequentially(self, request: Request) -> Reply:
        self._board.kept[request.command] = request.ints[0] & ~SEQ_READOUT_NOW
        return self._set_readout(request, Readout.SEQUENTIAL)

    def _set_readout(self, request: Request, mode: Readout) -> Reply:
        self._board.readout = mode
        self._board.tell_readout()
        return ack(request)

    def _restart_timers(self, request: Request) -> Reply:
        self._board.restart_clock(0)
        return ack(request)

    def _set_timer(self, request: Request) -> Reply:
        low, high = request.ints
        self._board.restart_clock(at_most(high, 0xFFFF) << 32 | low)
        return ack(request)

    def _get_timer(self, request: Request) -> Reply:
        counts = self._board.clock.counts()
        self._board.streams.timer_request(request.device, counts)
        return value_of(request, *time_words(counts))

    def _reset_counters(self, request: Request) -> Reply:
        self._board.clear_counters()
        return ack(request)

    def _keep_switch(self, request: Request) -> Reply:
        at_most(request.ints[0], 1)
        return self._board.keep(request)

    def _power_chips(self, request: Request) -> Reply:
        powered = bool(at_most(request.ints[0], 1))
        if powered and not self._board.powered:
            self._board.chips = [ChipState(chip.chip_id) for chip in self._board.chips]
        self._board.powered = powered
        for index in range(self._board.n_chips):
            self._board.chip_changed(index)
        self._board.tell_readout()
        return ack(request)

    def _switch_bias(self, request: Request) -> Reply:
        on = bool(at_most(request.ints[0], 1))
        self._board.streams.bias(self._board.bias.set(self._board.clock.seconds(), on=on))
        return ack(request)

    def _adjust_bias(self, request: Request) -> Reply:
        dac = at_most(request.ints[0], BIAS_DAC_MAX)
        self._board.streams.bias(self._board.bias.set(self._board.clock.seconds(), dac=dac))
        return ack(request)

    def _switch_decoders(self, request: Request) -> Reply:
        self._board.decoders = DECODERS if at_most(request.ints[0], 1) else 0
        return ack(request)
