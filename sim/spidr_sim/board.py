"""The simulated SPIDR board: a pure state machine that answers every command of the table.

It knows no socket and no thread. Requests come in, replies go out; time is asked of the clock; the data side
(`Streams`) is told what concerns it. What is set is read back. Chips beyond `n_chips` are absent: their links are not
locked, their ids are those of absent chips, and what needs a chip is answered with LINKS_UNLOCKED.

Power-up and RESET_MODULE load what the flash holds; RESET_DEVICE gives a chip its own reset values.

Simplified: one clock is the timer of the board and of all chips. ADC channels 1 and 2 are bias and VDDA, so chips 1 and
2 cannot be sensed (how a real board tells them apart stands in no source). Decoders off, single-pixel filters, power
pulsing, link speeds, the ports of the output block, the output mask and external clocks are stored and change no data:
a chip with one port on sends as many hits as one with eight.
"""

from ipaddress import IPv4Address
from typing import Final

from ophyd_timepix.protocol import Command, ErrorId, Reply, Request, Scope, Tpx3Error
from ophyd_timepix.protocol.commands import MAX_DEVICES, RESET_DEFAULT_SPEED, RESET_HIGH_SPEED, RESET_LOW_SPEED
from spidr_sim.answers import Refused, Table, ack, value_of
from spidr_sim.chip import CHIP_NAMES, FAST_MBPS, SLOW_MBPS, STORED
from spidr_sim.commands.chips import ChipCommands
from spidr_sim.commands.flash import FlashCommands
from spidr_sim.commands.monitor import MonitorCommands
from spidr_sim.commands.network import NetworkCommands
from spidr_sim.commands.pins import PinCommands
from spidr_sim.commands.run import RunCommands
from spidr_sim.faults import DataFault, DataFaultName
from spidr_sim.flash import Flash
from spidr_sim.hardware import COUNTERS, Hardware
from spidr_sim.streams import Clock, StreamCounters, Streams

__all__ = ["CHIP_NAMES", "Board", "Clock", "StreamCounters", "Streams"]

SOFTWARE_VERSION: Final = 0x2207_1500
FIRMWARE_VERSION: Final = 0x2301_1200


class Board(Hardware):
    """`Board(n_chips, streams, clock)`: one SPIDR with `n_chips` (1 to 4) Timepix3, powered up from its `flash`.

    Without `flash` it is that of a camera in use: operating DACs, bias on at 50 V. It has been on for a while.
    """

    def __init__(self, n_chips: int, streams: Streams, clock: Clock, flash: Flash | None = None) -> None:
        super().__init__(n_chips, streams, clock, flash)
        self._handlers = self._table()

    # --- what the server uses -----------------------------------------------------------------------------------------
    @property
    def chip_ids(self) -> tuple[int, ...]:
        """Ids of the chips, as their control words state them."""
        return tuple(chip.chip_id.value for chip in self.chips)

    def client_connected(self, address: str) -> None:
        """Chips whose destination was never set send to the connected client: existing clients set only the port."""
        self.client_address = int(IPv4Address(address))
        for network in self.networks:
            if not network.destination_is_set:
                network.destination = self.client_address
                self.tell_destination(network)

    def answer(self, request: Request) -> Reply:
        """The reply to a request of the table."""
        self.advance()
        try:
            self._require_chip(request)
            reply = self._handlers[request.command](request)
        except Refused as refused:
            return Reply(request.command, request.device, error=refused.word)
        # 86 uploads to a closed shutter are told once, when it opens.
        if request.command in _DATA_COMMANDS:
            self.chip_changed(request.device)
        return reply

    def advance(self) -> None:
        """Do what is due by now: the automatic shutter."""
        self.shutter.advance(self.clock.counts())

    def seconds_until_due(self) -> float | None:
        """Host seconds until `advance` has something to do; None while nothing is planned."""
        due = self.shutter.next_due
        return None if due is None else self.clock.seconds_until(due)

    @property
    def shutter_is_open(self) -> bool:
        """Whether the shutter is open."""
        return self.shutter.is_open

    # --- faults -------------------------------------------------------------------------------------------------------
    def power_cycle(self) -> None:
        """Off and on again: what the flash does not hold is lost, the timers begin at 0, the bias ramps up."""
        self.advance()
        self.shutter.stop(self.clock.counts())
        self.bias.cut()
        self.start_again()
        self.restart_clock(0)

    def lose_chip(self, index: int) -> None:
        """The chip is not there any more, until `restore_chips`."""
        self.gone.add(index)
        self.chip_changed(index)

    def unlock_link(self, index: int) -> None:
        """A link of the chip loses its lock, until the chip is initialised again or `restore_chips`."""
        self.unlocked.add(index)
        self.chip_changed(index)

    def restore_chips(self) -> None:
        """All chips are there again, with the settings they had, and locked."""
        for index in self.gone | self.unlocked:
            self.gone.discard(index)
            self.unlocked.discard(index)
            self.chip_changed(index)

    def spoil_data(self, fault: DataFault) -> None:
        """Let a fault of the data happen from now on."""
        if fault.name is DataFaultName.COUNTER_ROLL:
            self.counters_start = -int(fault.value)
            self.counter_zero = {address: self.count(address) - self.counters_start for address in COUNTERS}
        else:
            self.streams.fault(fault)

    def heal_data(self) -> None:
        """No fault of the data any more. Counters go on."""
        self.counters_start = 0
        self.streams.clear_faults()

    # --- the table ----------------------------------------------------------------------------------------------------
    def _table(self) -> Table:
        c = Command
        table: Table = {
            c.NOP: ack,
            c.GET_SOFTWVERSION: lambda r: value_of(r, SOFTWARE_VERSION),
            c.GET_FIRMWVERSION: lambda r: value_of(r, FIRMWARE_VERSION),
            c.RESET_MODULE: self._reset_module,
            c.SET_BUSY: lambda r: self._set_busy(r, True),
            c.CLEAR_BUSY: lambda r: self._set_busy(r, False),
            c.SET_LOGLEVEL: self.keep,
            c.DISPLAY_INFO: ack,
            c.SET_TIMEOFDAY: self.keep,
            c.GET_DEVICECOUNT: lambda r: value_of(r, MAX_DEVICES),
            c.GET_BOARDID: lambda r: value_of(r, self.board_id),
            c.SET_BOARDID: self._set_board_id,
            c.GET_CHIPBOARDID: lambda r: value_of(r, self.chip_board_id),
            c.SET_CHIPBOARDID: self._set_chip_board_id,
            c.SELECT_CHIPBOARD: self.keep,
            c.GET_DEVICEID: lambda r: value_of(r, self.id_of(r.device)),
            c.GET_DEVICEIDS: lambda r: value_of(r, *(self.id_of(index) for index in range(MAX_DEVICES))),
        }
        for group in (NetworkCommands, ChipCommands, RunCommands, MonitorCommands, FlashCommands, PinCommands):
            table |= group(self).table()
        return table

    def _require_chip(self, request: Request) -> None:
        needs_chip = request.command.scope is Scope.CHIP and request.command not in _WITHOUT_CHIP
        heals = request.command is Command.REINIT_DEVICE and self.has_chip(request.device)
        if needs_chip and not heals and not self.is_alive(request.device):
            raise Refused(ErrorId.TPX3_HARDWARE, Tpx3Error.LINKS_UNLOCKED)

    def _set_busy(self, request: Request, busy: bool) -> Reply:
        self.busy = busy
        self.tell_readout()
        return ack(request)

    def _set_board_id(self, request: Request) -> Reply:
        self.board_id = request.ints[0]
        return ack(request)

    def _set_chip_board_id(self, request: Request) -> Reply:
        self.chip_board_id = request.ints[0]
        return ack(request)

    def _reset_module(self, request: Request) -> Reply:
        if request.ints[0] not in (RESET_DEFAULT_SPEED, RESET_HIGH_SPEED, RESET_LOW_SPEED):
            raise Refused(ErrorId.ILLEGAL_PARAMETER)
        self.shutter.stop(self.clock.counts())
        self.start_again()
        if request.ints[0] != RESET_DEFAULT_SPEED:
            self.set_link_speed(FAST_MBPS if request.ints[0] == RESET_HIGH_SPEED else SLOW_MBPS)
        return value_of(request, 0)


_DATA_COMMANDS: Final = frozenset(
    {
        Command.SET_DAC,
        Command.SET_DACS_DFLT,
        Command.CONFIG_CTPR,
        Command.SET_CTPR,
        Command.RESET_DEVICE,
        Command.SET_PIXCONF,
        *(stored.setter for stored in STORED if stored.is_data),
    }
)
"""They change what the data of a chip depend on."""

_WITHOUT_CHIP: Final = frozenset(
    {
        Command.GET_DEVICEID,
        Command.GET_HEADERFILTER,
        Command.SET_HEADERFILTER,
        Command.GET_IPADDR_SRC,
        Command.SET_IPADDR_SRC,
        Command.GET_IPADDR_DEST,
        Command.SET_IPADDR_DEST,
        Command.GET_DEVICEPORT,
        Command.GET_SERVERPORT,
        Command.SET_SERVERPORT,
        Command.GET_SHUTTERSTART,
        Command.GET_SHUTTEREND,
    }
)
"""Commands with a chip number that the board answers by itself: clients send some of them to all four."""
