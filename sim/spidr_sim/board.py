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

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from ipaddress import IPv4Address
from typing import Final

from ophyd_timepix.protocol import (
    DAC_BY_CODE,
    ChipId,
    Command,
    ErrorId,
    ErrorWord,
    FlashError,
    LinkStatus,
    Register,
    Reply,
    Request,
    Scope,
    Setting,
    StartOptions,
    Tpx3Error,
    column_phase,
    pack_dac,
    unpack_dac,
)
from ophyd_timepix.protocol.commands import (
    ABSENT_CHIP_IDS,
    ALL_HEADERS,
    MAX_DEVICES,
    RESET_DEFAULT_SPEED,
    RESET_HIGH_SPEED,
    RESET_LOW_SPEED,
    SEQ_READOUT_NOW,
)
from ophyd_timepix.protocol.dacs import SENSE_CODES
from ophyd_timepix.protocol.registers import (
    ADC_BIAS_CHANNEL,
    ADC_MV_PER_BIAS_V,
    ADC_VDDA_CHANNEL,
    BIAS_DAC_MAX,
    BIAS_MAX_V,
    BIAS_MIN_V,
    START_OPTIONS_VALID,
    VDDA_DIVIDER,
    adc_sample,
    bias_dac,
)
from spidr_sim import sensors
from spidr_sim.chip import CHIP_NAMES, FAST_MBPS, LINKS, SLOW_MBPS, STORED, ChipNetwork, ChipState
from spidr_sim.faults import DataFault, DataFaultName
from spidr_sim.flash import ERASED_PAGE, Flash
from spidr_sim.sensors import BiasSupply
from spidr_sim.settings import Readout
from spidr_sim.shutter import Shutter
from spidr_sim.streams import Clock, StreamCounters, Streams

__all__ = ["CHIP_NAMES", "Board", "Clock", "StreamCounters", "Streams"]

SOFTWARE_VERSION: Final = 0x2207_1500
FIRMWARE_VERSION: Final = 0x2301_1200
BOARD_ID: Final = 0x5350_4944
CHIP_BOARD_ID: Final = 0x0000_0301
EXTERNAL_SHUTTER_PIN: Final = 0
"""In the simulation alone: this pin of the GPIO commands is the external shutter input."""
_WORD: Final = 0xFFFF_FFFF
_PINS: Final = 32
_DECODERS: Final = 0xF
_LINKS_PER_CHIP: Final = 8

Handler = Callable[[Request], Reply]


class _RefusedError(Exception):
    """The board answers with this error word."""

    def __init__(self, error: ErrorId, sub_code: int = 0) -> None:
        super().__init__(error)
        self.word = ErrorWord.of(error, sub_code)


def _ack(request: Request) -> Reply:
    return Reply(request.command, request.device)


def _value(request: Request, *ints: int) -> Reply:
    return Reply(request.command, request.device, ints)


def _at_most(value: int, limit: int) -> int:
    if value > limit:
        raise _RefusedError(ErrorId.ILLEGAL_PARAMETER)
    return value


class Board:
    """`Board(n_chips, streams, clock)`: one SPIDR with `n_chips` (1 to 4) Timepix3, powered up from its `flash`.

    Without `flash` it is that of a camera in use: operating DACs, bias on at 50 V. It has been on for a while.
    """

    def __init__(self, n_chips: int, streams: Streams, clock: Clock, flash: Flash | None = None) -> None:
        if not 1 <= n_chips <= MAX_DEVICES:
            raise ValueError(f"a board carries 1 to {MAX_DEVICES} chips, not {n_chips}")
        self.n_chips = n_chips
        self._streams = streams
        self._clock = clock
        self.flash = Flash.operating(n_chips) if flash is None else flash
        self._client_address = 0
        self._board_id, self._chip_board_id = BOARD_ID, CHIP_BOARD_ID
        self._bias = BiasSupply()
        self._counters_start = 0
        """What a counter shows that is set to 0; below 0 it shows 2**32 more."""
        self._gone: set[int] = set()
        """Chips that a fault took away."""
        self._unlocked: set[int] = set()
        """Chips of which a link has lost its lock."""
        self._changed: set[int] = set()
        """Chips whose settings the data side has not been told."""
        self._readout_told = Readout.OFF
        self._shutter = Shutter(self._shutter_moved)
        self._power_up()
        self._streams.bias(self._bias.settle())
        self._handlers = self._table()

    def _power_up(self) -> None:
        """Everything that a reset of the module sets back, then what the flash holds."""
        self.chips = [ChipState(ChipId.from_name(name)) for name in CHIP_NAMES[: self.n_chips]]
        self.networks = [ChipNetwork(index) for index in range(MAX_DEVICES)]
        for network in self.networks:
            network.destination = self._client_address
        self._registers: dict[int, int] = {}
        self._counter_zero = dict.fromkeys(_COUNTERS, -self._counters_start)
        self._powered = True
        self._decoders = _DECODERS
        self._readout = Readout.OFF
        self._busy = False
        self._gpio = 0
        self._fan_percent = [50, 50]
        self._kept: dict[Command, int] = {}
        self._unlocked.clear()
        self._load_flash()
        self._changed.update(range(self.n_chips))

    def _load_flash(self) -> None:
        for index, chip in enumerate(self.chips):
            self.flash.load(index, chip)
        for index, network in self.flash.networks.items():
            self.networks[index] = replace(network)
        options = _start_options(self.flash.start_options)
        valid = options.valid == START_OPTIONS_VALID
        if valid:
            self._powered = bool(options.tpx_power)
            self._set_link_speed(FAST_MBPS if options.links_fast else SLOW_MBPS)
        on = valid and bool(options.bias_on)
        self._bias.set(self._clock.seconds(), on=on, dac=bias_dac(options.bias_volts) if on else 0)

    # --- what the server uses -----------------------------------------------------------------------------------------
    @property
    def chip_ids(self) -> tuple[int, ...]:
        """Ids of the chips, as their control words state them."""
        return tuple(chip.chip_id.value for chip in self.chips)

    def client_connected(self, address: str) -> None:
        """Chips whose destination was never set send to the connected client: existing clients set only the port."""
        self._client_address = int(IPv4Address(address))
        for network in self.networks:
            if not network.destination_is_set:
                network.destination = self._client_address
                self._tell_destination(network)

    def answer(self, request: Request) -> Reply:
        """The reply to a request of the table."""
        self.advance()
        try:
            self._require_chip(request)
            reply = self._handlers[request.command](request)
        except _RefusedError as refused:
            return Reply(request.command, request.device, error=refused.word)
        # 86 uploads to a closed shutter are told once, when it opens.
        if request.command in _DATA_COMMANDS:
            self._chip_changed(request.device)
        return reply

    def advance(self) -> None:
        """Do what is due by now: the automatic shutter."""
        self._shutter.advance(self._clock.counts())

    def seconds_until_due(self) -> float | None:
        """Host seconds until `advance` has something to do; None while nothing is planned."""
        due = self._shutter.next_due
        return None if due is None else self._clock.seconds_until(due)

    def external_signal(self, level: bool) -> None:
        """The external shutter input goes up or down."""
        self._set_bit(EXTERNAL_SHUTTER_PIN, level)
        self._shutter.signal(level, self._clock.counts())

    @property
    def shutter_is_open(self) -> bool:
        """Whether the shutter is open."""
        return self._shutter.is_open

    # --- faults -------------------------------------------------------------------------------------------------------
    def power_cycle(self) -> None:
        """Off and on again: what the flash does not hold is lost, the timers begin at 0, the bias ramps up."""
        self.advance()
        self._shutter.stop(self._clock.counts())
        self._bias.cut()
        self._start_again()
        self._restart_clock(0)

    def lose_chip(self, index: int) -> None:
        """The chip is not there any more, until `restore_chips`."""
        self._gone.add(index)
        self._chip_changed(index)

    def unlock_link(self, index: int) -> None:
        """A link of the chip loses its lock, until the chip is initialised again or `restore_chips`."""
        self._unlocked.add(index)
        self._chip_changed(index)

    def restore_chips(self) -> None:
        """All chips are there again, with the settings they had, and locked."""
        for index in self._gone | self._unlocked:
            self._gone.discard(index)
            self._unlocked.discard(index)
            self._chip_changed(index)

    def spoil_data(self, fault: DataFault) -> None:
        """Let a fault of the data happen from now on."""
        if fault.name is DataFaultName.COUNTER_ROLL:
            self._counters_start = -int(fault.value)
            self._counter_zero = {address: self._count(address) - self._counters_start for address in _COUNTERS}
        else:
            self._streams.fault(fault)

    def heal_data(self) -> None:
        """No fault of the data any more. Counters go on."""
        self._counters_start = 0
        self._streams.clear_faults()

    # --- the table ----------------------------------------------------------------------------------------------------
    def _table(self) -> dict[Command, Handler]:
        c = Command
        table: dict[Command, Handler] = {
            c.NOP: _ack,
            c.GET_SOFTWVERSION: lambda r: _value(r, SOFTWARE_VERSION),
            c.GET_FIRMWVERSION: lambda r: _value(r, FIRMWARE_VERSION),
            c.RESET_MODULE: self._reset_module,
            c.SET_BUSY: lambda r: self._set_busy(r, True),
            c.CLEAR_BUSY: lambda r: self._set_busy(r, False),
            c.SET_LOGLEVEL: self._keep,
            c.DISPLAY_INFO: _ack,
            c.SET_TIMEOFDAY: self._keep,
            c.GET_DEVICECOUNT: lambda r: _value(r, MAX_DEVICES),
            c.GET_BOARDID: lambda r: _value(r, self._board_id),
            c.SET_BOARDID: self._set_board_id,
            c.GET_CHIPBOARDID: lambda r: _value(r, self._chip_board_id),
            c.SET_CHIPBOARDID: self._set_chip_board_id,
            c.SELECT_CHIPBOARD: self._keep,
            c.GET_DEVICEID: lambda r: _value(r, self._id_of(r.device)),
            c.GET_DEVICEIDS: lambda r: _value(r, *(self._id_of(index) for index in range(MAX_DEVICES))),
        }
        table |= self._network_table() | self._chip_table() | self._run_table()
        return table | self._monitor_table() | self._flash_table() | self._pin_table()

    def _network_table(self) -> dict[Command, Handler]:
        c = Command
        return {
            c.GET_HEADERFILTER: lambda r: _value(r, self.networks[r.device].header_filter),
            c.SET_HEADERFILTER: self._set_header_filter,
            c.GET_IPADDR_SRC: lambda r: _value(r, self.networks[r.device].source),
            c.SET_IPADDR_SRC: self._set_source,
            c.GET_IPADDR_DEST: lambda r: _value(r, self.networks[r.device].destination),
            c.SET_IPADDR_DEST: self._set_destination,
            c.GET_DEVICEPORT: lambda r: _value(r, self.networks[r.device].source_port),
            c.GET_SERVERPORT: lambda r: _value(r, self.networks[r.device].port),
            c.SET_SERVERPORT: self._set_port,
        }

    def _chip_table(self) -> dict[Command, Handler]:
        c = Command
        table: dict[Command, Handler] = {
            c.GET_DAC: self._get_dac,
            c.SET_DAC: self._set_dac,
            c.SET_DACS_DFLT: self._reset_dacs,
            c.SET_EXTDAC: self._set_external_dac,
            c.SET_SENSEDAC: self._set_sense,
            c.CONFIG_CTPR: self._configure_column,
            c.SET_CTPR: self._set_test_columns,
            c.GET_CTPR: lambda r: Reply(r.command, r.device, (), self.chips[r.device].test_columns),
            c.RESET_DEVICE: self._reset_chip,
            c.REINIT_DEVICE: self._reinit_chip,
            c.RESET_DEVICES: self._reset_chips,
            c.REINIT_DEVICES: self._reinit_chips,
            c.GET_EFUSES: lambda r: _value(r, self.chips[r.device].fuses),
            c.BURN_EFUSE: self._burn_fuse,
            c.SET_PIXCONF: self._upload_pixels,
            c.GET_PIXCONF: self._read_pixels,
            c.RESET_PIXELS: _ack,  # it does not clear the configuration bits
            c.UPLOAD_PACKET: self._upload_packet,
            c.T0_SYNC: _ack,
        }
        for stored in STORED:
            table[stored.setter] = self._store
            if stored.getter is not None:
                table[stored.getter] = self._recall
        return table

    def _run_table(self) -> dict[Command, Handler]:
        c = Command
        return {
            c.GET_TRIGCONFIG: lambda r: _value(r, *self._shutter.words),
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
            c.GET_SHUTTERSTART: lambda r: _value(r, *_time_words(self._shutter.opened_at)),
            c.GET_SHUTTEREND: lambda r: _value(r, *_time_words(self._shutter.closed_at)),
            c.GET_EXTSHUTTERCNTR: lambda r: _value(r, self._shutter.external_openings & _WORD),
            c.GET_SHUTTERCNTR: lambda r: _value(r, self._shutter.openings & _WORD),
            c.RESET_COUNTERS: self._reset_counters,
            c.PWRPULSE_ENA: self._keep_switch,
            c.TPX_POWER_ENA: self._power_chips,
            c.BIAS_SUPPLY_ENA: self._switch_bias,
            c.SET_BIAS_ADJUST: self._adjust_bias,
            c.DECODERS_ENA: self._switch_decoders,
        }

    def _monitor_table(self) -> dict[Command, Handler]:
        c = Command
        table: dict[Command, Handler] = {
            c.GET_ADC: lambda r: self._adc_reply(r, 0, r.ints[0]),
            c.GET_REMOTETEMP: lambda r: _value(r, self._temperature(sensors.CHIP_MDEGC)),
            c.GET_LOCALTEMP: lambda r: _value(r, self._temperature(sensors.BOARD_MDEGC)),
            c.GET_FPGATEMP: lambda r: _value(r, self._temperature(sensors.FPGA_MDEGC)),
            c.GET_SPIDR_ADC: self._get_adc,
            c.GET_FANSPEED: self._get_fan,
            c.SET_FANSPEED: self._set_fan,
            c.GET_HUMIDITY: lambda r: _value(r, sensors.HUMIDITY_PERCENT),
            c.GET_PRESSURE: lambda r: _value(r, sensors.PRESSURE_MBAR),
        }
        supplies = {
            (c.GET_AVDD, c.GET_AVDD_NOW): (sensors.VDDA_MV, 420),
            (c.GET_DVDD, c.GET_DVDD_NOW): (1500, 310),
            (c.GET_VDD, c.GET_VDD_NOW): (2500, 150),
        }
        for commands, (mv, ma) in supplies.items():
            for command in commands:
                table[command] = partial(self._get_supply, mv, ma)
        return table

    def _flash_table(self) -> dict[Command, Handler]:
        c = Command
        table: dict[Command, Handler] = {
            c.STORE_STARTOPTS: self._set_start_options,
            c.GET_STARTOPTS: lambda r: _value(r, self.flash.start_options),
            c.READ_FLASH: self._read_flash,
            c.WRITE_FLASH: self._write_flash,
        }
        for kind in ("ADDRPORTS", "DACS", "REGISTERS", "PIXCONF"):
            table[c[f"STORE_{kind}"]] = partial(self._store_in_flash, kind)
            table[c[f"ERASE_{kind}"]] = partial(self._erase_flash, kind)
            table[c[f"VALID_{kind}"]] = partial(self._is_in_flash, kind)
        return table | {c.STORE_ADDRPORTS: self._store_addresses}

    def _pin_table(self) -> dict[Command, Handler]:
        c = Command
        return {
            c.GET_GPIO: lambda r: _value(r, self._gpio),
            c.SET_GPIO: self._set_pins,
            c.SET_GPIO_PIN: self._set_pin,
            c.GET_SPIDRREG: self._get_register,
            c.SET_SPIDRREG: self._set_register,
        }

    # --- identity and presence ----------------------------------------------------------------------------------------
    def _id_of(self, index: int) -> int:
        return self.chips[index].chip_id.value if self._has_chip(index) else ABSENT_CHIP_IDS[0]

    def _has_chip(self, index: int) -> bool:
        return index < self.n_chips and self._powered and index not in self._gone

    def _is_alive(self, index: int) -> bool:
        return self._has_chip(index) and index not in self._unlocked

    def _require_chip(self, request: Request) -> None:
        needs_chip = request.command.scope is Scope.CHIP and request.command not in _WITHOUT_CHIP
        heals = request.command is Command.REINIT_DEVICE and self._has_chip(request.device)
        if needs_chip and not heals and not self._is_alive(request.device):
            raise _RefusedError(ErrorId.TPX3_HARDWARE, Tpx3Error.LINKS_UNLOCKED)

    # --- what the data side is told of chips --------------------------------------------------------------------------
    def _chip_changed(self, index: int) -> None:
        if index < self.n_chips:
            self._changed.add(index)
        if self._shutter.is_open:
            self._tell_chips()

    def _tell_chips(self) -> None:
        for index in sorted(self._changed):
            self._streams.chip(index, self.chips[index].settings(self._is_alive(index)))
        self._changed.clear()

    def _shutter_moved(self, is_open: bool, at_counts: int) -> None:
        if is_open:
            self._tell_chips()
        self._streams.shutter(is_open, at_counts)

    def _set_board_id(self, request: Request) -> Reply:
        self._board_id = request.ints[0]
        return _ack(request)

    def _set_chip_board_id(self, request: Request) -> Reply:
        self._chip_board_id = request.ints[0]
        return _ack(request)

    def _reset_module(self, request: Request) -> Reply:
        if request.ints[0] not in (RESET_DEFAULT_SPEED, RESET_HIGH_SPEED, RESET_LOW_SPEED):
            raise _RefusedError(ErrorId.ILLEGAL_PARAMETER)
        self._shutter.stop(self._clock.counts())
        self._start_again()
        if request.ints[0] != RESET_DEFAULT_SPEED:
            self._set_link_speed(FAST_MBPS if request.ints[0] == RESET_HIGH_SPEED else SLOW_MBPS)
        return _value(request, 0)

    def _start_again(self) -> None:
        self._shutter = Shutter(self._shutter_moved)
        self._power_up()
        self._tell_readout()
        for network in self.networks:
            self._tell_destination(network)
            self._tell_filter(network)
        self._streams.bias(self._bias.ramp)
        self._clear_counters()

    def _set_link_speed(self, mbps: int) -> None:
        for chip in self.chips:
            chip.words["readout_speed"] = mbps

    def _keep(self, request: Request) -> Reply:
        """A value that nothing reads."""
        self._kept[request.command] = request.ints[0]
        return _ack(request)

    # --- network ------------------------------------------------------------------------------------------------------
    def _tell_destination(self, network: ChipNetwork) -> None:
        if network.index < self.n_chips and network.destination:
            self._streams.destination(network.index, str(IPv4Address(network.destination)), network.port)

    def _tell_filter(self, network: ChipNetwork) -> None:
        if network.index < self.n_chips:
            self._streams.header_filter(network.index, network.header_filter & ALL_HEADERS)

    def _set_header_filter(self, request: Request) -> Reply:
        network = self.networks[request.device]
        network.header_filter = request.ints[0]
        self._tell_filter(network)
        return _ack(request)

    def _set_source(self, request: Request) -> Reply:
        self.networks[request.device].source = request.ints[0]
        return _ack(request)

    def _set_destination(self, request: Request) -> Reply:
        network = self.networks[request.device]
        network.destination = request.ints[0]
        network.destination_is_set = True
        self._tell_destination(network)
        return _ack(request)

    def _set_port(self, request: Request) -> Reply:
        network = self.networks[request.device]
        network.port = _at_most(request.ints[0], 0xFFFF)
        self._tell_destination(network)
        return _ack(request)

    # --- chips --------------------------------------------------------------------------------------------------------
    def _get_dac(self, request: Request) -> Reply:
        dac = DAC_BY_CODE.get(request.ints[0])
        if dac is None:
            raise _RefusedError(ErrorId.ILLEGAL_PARAMETER)
        return _value(request, pack_dac(dac.code, self.chips[request.device].dacs[dac]))

    def _set_dac(self, request: Request) -> Reply:
        code, value = unpack_dac(request.ints[0])
        dac = DAC_BY_CODE.get(code)
        if dac is None:
            raise _RefusedError(ErrorId.ILLEGAL_PARAMETER)
        self.chips[request.device].dacs[dac] = _at_most(value, dac.max)
        return _ack(request)

    def _reset_dacs(self, request: Request) -> Reply:
        chip = self.chips[request.device]
        chip.dacs = {dac: dac.reset for dac in chip.dacs}
        return _ack(request)

    def _set_external_dac(self, request: Request) -> Reply:
        code, value = unpack_dac(request.ints[0])
        external = self.chips[request.device].external
        dac = DAC_BY_CODE.get(code)
        if dac is not None:
            external[dac] = _at_most(value, dac.max)
        elif code:
            raise _RefusedError(ErrorId.ILLEGAL_PARAMETER)
        else:
            external.clear()
        return _ack(request)

    def _set_sense(self, request: Request) -> Reply:
        if request.ints[0] not in SENSE_CODES:
            raise _RefusedError(ErrorId.ILLEGAL_PARAMETER)
        self.chips[request.device].sense = request.ints[0]
        return _ack(request)

    def _configure_column(self, request: Request) -> Reply:
        self.chips[request.device].configure_column(request.ints[0])
        return _ack(request)

    def _set_test_columns(self, request: Request) -> Reply:
        self.chips[request.device].test_columns = request.data
        return _ack(request)

    def _reset_chip(self, request: Request) -> Reply:
        self.chips[request.device].reset()
        return _ack(request)

    def _reset_chips(self, request: Request) -> Reply:
        for index, chip in enumerate(self.chips):
            chip.reset()
            self._chip_changed(index)
        return _ack(request)

    def _reinit_chip(self, request: Request) -> Reply:
        self._lock(request.device)
        return _ack(request)

    def _reinit_chips(self, request: Request) -> Reply:
        for index in range(self.n_chips):
            self._lock(index)
        return _ack(request)

    def _lock(self, index: int) -> None:
        if index in self._unlocked:
            self._unlocked.discard(index)
            self._chip_changed(index)

    def _burn_fuse(self, request: Request) -> Reply:
        self.chips[request.device].fuses |= 1 << (request.ints[0] >> 6 & 0x1F)
        return _ack(request)

    def _upload_pixels(self, request: Request) -> Reply:
        try:
            self.chips[request.device].upload(request.ints[0], request.data)
        except ValueError:
            raise _RefusedError(ErrorId.ILLEGAL_PARAMETER) from None
        return _ack(request)

    def _read_pixels(self, request: Request) -> Reply:
        column = _at_most(request.ints[0], 255)
        return Reply(request.command, request.device, (column,), self.chips[request.device].column(column))

    def _upload_packet(self, request: Request) -> Reply:
        size = _at_most(request.ints[0], len(request.data))
        self.chips[request.device].last_packet = request.data[:size]
        return _ack(request)

    def _store(self, request: Request) -> Reply:
        stored = _BY_SETTER[request.command]
        value = _at_most(request.ints[0], stored.max)
        if request.command is Command.SET_PLLCONFIG:
            _check_phases(value)
        self.chips[request.device].words[stored.name] = value
        return _ack(request)

    def _recall(self, request: Request) -> Reply:
        return _value(request, self.chips[request.device].words[_BY_GETTER[request.command].name])

    # --- shutter, read-out, timers ------------------------------------------------------------------------------------
    def _set_trigger(self, request: Request) -> Reply:
        try:
            self._shutter.configure(request.ints)
        except ValueError:
            raise _RefusedError(ErrorId.ILLEGAL_PARAMETER) from None
        return _ack(request)

    def _start_shutter(self, request: Request) -> Reply:
        self._shutter.start(self._clock.counts())
        return _ack(request)

    def _stop_shutter(self, request: Request) -> Reply:
        self._shutter.stop(self._clock.counts())
        return _ack(request)

    def _read_sequentially(self, request: Request) -> Reply:
        self._kept[request.command] = request.ints[0] & ~SEQ_READOUT_NOW
        return self._set_readout(request, Readout.SEQUENTIAL)

    def _set_readout(self, request: Request, mode: Readout) -> Reply:
        self._readout = mode
        self._tell_readout()
        return _ack(request)

    def _set_busy(self, request: Request, busy: bool) -> Reply:
        self._busy = busy
        self._tell_readout()
        return _ack(request)

    def _tell_readout(self) -> None:
        mode = self._readout if self._powered and not self._busy else Readout.OFF
        if mode is not self._readout_told:
            self._readout_told = mode
            self._streams.readout(mode)

    def _restart_timers(self, request: Request) -> Reply:
        self._restart_clock(0)
        return _ack(request)

    def _set_timer(self, request: Request) -> Reply:
        low, high = request.ints
        self._restart_clock(_at_most(high, 0xFFFF) << 32 | low)
        return _ack(request)

    def _restart_clock(self, now: int) -> None:
        before = self._clock.restart(now)
        self._shutter.timers_restarted(before, now)
        self._streams.timers_restarted(before, now)

    def _get_timer(self, request: Request) -> Reply:
        counts = self._clock.counts()
        self._streams.timer_request(request.device, counts)
        return _value(request, *_time_words(counts))

    # --- power, bias, decoders ----------------------------------------------------------------------------------------
    def _keep_switch(self, request: Request) -> Reply:
        _at_most(request.ints[0], 1)
        return self._keep(request)

    def _power_chips(self, request: Request) -> Reply:
        powered = bool(_at_most(request.ints[0], 1))
        if powered and not self._powered:
            self.chips = [ChipState(chip.chip_id) for chip in self.chips]
        self._powered = powered
        for index in range(self.n_chips):
            self._chip_changed(index)
        self._tell_readout()
        return _ack(request)

    def _switch_bias(self, request: Request) -> Reply:
        on = bool(_at_most(request.ints[0], 1))
        self._streams.bias(self._bias.set(self._clock.seconds(), on=on))
        return _ack(request)

    def _adjust_bias(self, request: Request) -> Reply:
        dac = _at_most(request.ints[0], BIAS_DAC_MAX)
        self._streams.bias(self._bias.set(self._clock.seconds(), dac=dac))
        return _ack(request)

    def _switch_decoders(self, request: Request) -> Reply:
        self._decoders = _DECODERS if _at_most(request.ints[0], 1) else 0
        return _ack(request)

    # --- monitoring ---------------------------------------------------------------------------------------------------
    def _temperature(self, mdegc: int) -> int:
        return sensors.drifting(mdegc, self._clock.seconds()) & _WORD

    def _get_supply(self, mv: int, ma: int, request: Request) -> Reply:
        alive = sum(self._has_chip(index) for index in range(self.n_chips))
        return _value(request, *sensors.supply(mv, ma * alive, self._powered))

    def _get_adc(self, request: Request) -> Reply:
        return self._adc_reply(request, request.ints[0] & 0xFFFF, request.ints[0] >> 16)

    def _adc_reply(self, request: Request, channel: int, samples: int) -> Reply:
        """The sum of some samples; 0 samples count as one."""
        _at_most(channel, MAX_DEVICES - 1)
        return _value(request, adc_sample(self._adc_mv(channel)) * max(samples, 1) & _WORD)

    def _adc_mv(self, channel: int) -> float:
        if channel == ADC_BIAS_CHANNEL:
            return self._bias.ramp.at(self._clock.seconds()) * ADC_MV_PER_BIAS_V
        if channel == ADC_VDDA_CHANNEL:
            return sensors.VDDA_MV / VDDA_DIVIDER if self._powered else 0.0
        if not self._is_alive(channel):
            return 0.0
        chip = self.chips[channel]
        chip_mdegc = self._temperature(sensors.CHIP_MDEGC)
        return sensors.sensed_mv(chip.sense, chip.dacs | chip.external, chip_mdegc)

    def _get_fan(self, request: Request) -> Reply:
        percent = self._fan_percent[_at_most(request.ints[0], 1)]
        return _value(request, sensors.FAN_RPM_AT_FULL * percent // 100)

    def _set_fan(self, request: Request) -> Reply:
        index, percent = request.ints[0] >> 16, request.ints[0] & 0xFFFF
        self._fan_percent[_at_most(index, 1)] = _at_most(percent, int(Setting.FAN.high))
        return _ack(request)

    # --- flash --------------------------------------------------------------------------------------------------------
    def _is_in_flash(self, kind: str, request: Request) -> Reply:
        return _value(request, int(request.device in self.flash.area(kind)))

    def _store_in_flash(self, kind: str, request: Request) -> Reply:
        if not self._is_alive(request.device):
            raise _RefusedError(ErrorId.FLASH_STORAGE, FlashError.TPX)
        self.flash.store(kind, request.device, self.chips[request.device])
        return _ack(request)

    def _store_addresses(self, request: Request) -> Reply:
        """The present addresses of a chip; its source address and destination port are those given, where not 0."""
        address, port = request.ints
        network = replace(self.networks[request.device])
        network.source = address or network.source
        network.port = _at_most(port, 0xFFFF) or network.port
        self.flash.networks[request.device] = network
        return _ack(request)

    def _erase_flash(self, kind: str, request: Request) -> Reply:
        self.flash.area(kind).pop(request.device, None)
        return _ack(request)

    def _set_start_options(self, request: Request) -> Reply:
        options = _start_options(request.ints[0])
        counts = options.valid == START_OPTIONS_VALID and options.bias_on
        if counts and not BIAS_MIN_V <= options.bias_volts <= BIAS_MAX_V:
            raise _RefusedError(ErrorId.ILLEGAL_PARAMETER)
        self.flash.start_options = request.ints[0]
        return _ack(request)

    def _read_flash(self, request: Request) -> Reply:
        page = self.flash.pages.get(request.ints[0], ERASED_PAGE)
        return Reply(request.command, request.device, (), page)

    def _write_flash(self, request: Request) -> Reply:
        self.flash.pages[request.ints[0]] = request.data
        return _ack(request)

    # --- pins and registers -------------------------------------------------------------------------------------------
    def _set_pins(self, request: Request) -> Reply:
        self._gpio = request.ints[0]
        self.external_signal(bool(self._gpio >> EXTERNAL_SHUTTER_PIN & 1))
        return _ack(request)

    def _set_pin(self, request: Request) -> Reply:
        pin = _at_most(request.ints[0] >> 16, _PINS - 1)
        level = bool(_at_most(request.ints[0] & 0xFFFF, 1))
        self._set_bit(pin, level)
        if pin == EXTERNAL_SHUTTER_PIN:
            self.external_signal(level)
        return _ack(request)

    def _set_bit(self, pin: int, level: bool) -> None:
        self._gpio = self._gpio & ~(1 << pin) | level << pin

    def _get_register(self, request: Request) -> Reply:
        address = _at_most(request.ints[0], 0xFFFF)
        return _value(request, address, self._read(address) & _WORD)

    def _set_register(self, request: Request) -> Reply:
        address, value = _at_most(request.ints[0], 0xFFFF), request.ints[1]
        if address in _COUNTERS:
            self._counter_zero[address] = self._count(address) - (value or self._counters_start)
        elif address in _SHUTTER_REGISTERS:
            self._set_shutter_register(address, value)
        elif address == Register.DECODER_CONTROL.address:
            self._decoders = value & _DECODERS
        elif address not in _READ_ONLY:
            self._registers[address] = value
        return _ack(request)

    def _read(self, address: int) -> int:
        if address in _COUNTERS:
            return self._count(address) - self._counter_zero[address]
        if address in _LINK_REGISTERS:
            return LinkStatus(LINKS, self._locked_links(_LINK_REGISTERS[address])).word
        if address in _SHUTTER_REGISTERS:
            return self._shutter_registers()[address]
        if address == Register.DECODER_CONTROL.address:
            return self._decoders
        if address == Register.DEVICES_AND_PORTS.address:
            return Register.DEVICES_AND_PORTS.field("links_minus_1").put(MAX_DEVICES, _LINKS_PER_CHIP - 1)
        return self._registers.get(address, 0)

    def _locked_links(self, index: int) -> int:
        if not self._has_chip(index):
            return 0
        return LINKS & ~1 if index in self._unlocked else LINKS

    def _count(self, address: int) -> int:
        """A counter since the data side's own zero."""
        counters = self._streams.counters()
        if address == Register.UDP_DATAGRAMS.address:
            return counters.datagrams
        if address == Register.TDC_TRIGGERS.address:
            return counters.tdc_triggers
        if address == Register.UDP_PAUSED_DATAGRAMS.address:
            return counters.paused_datagrams
        if address == Register.PIXEL_WORDS_OLD.address:
            return sum(counters.pixel_words)
        chip = address - Register.PIXEL_WORDS.address
        return counters.pixel_words[chip] if chip < len(counters.pixel_words) else 0

    def _reset_counters(self, request: Request) -> Reply:
        self._clear_counters()
        return _ack(request)

    def _clear_counters(self) -> None:
        self._shutter.reset_counters()
        self._counter_zero = dict.fromkeys(_COUNTERS, -self._counters_start)
        self._streams.reset_counters()

    def _shutter_registers(self) -> dict[int, int]:
        r, shutter = Register, self._shutter
        control = self._registers.get(r.SHUTTER_CONTROL.address, 0)
        return {
            r.SHUTTER_CONTROL.address: r.SHUTTER_CONTROL.field("mode").put(control, shutter.mode.code),
            r.SHUTTER_COUNT.address: shutter.count,
            r.SHUTTER_PERIOD.address: shutter.period_counts,
            r.SHUTTER_LENGTH.address: shutter.length_counts,
            r.SHUTTER_DELAY.address: shutter.delay_counts,
        }

    def _set_shutter_register(self, address: int, value: int) -> None:
        r, shutter = Register, self._shutter
        try:
            if address == r.SHUTTER_CONTROL.address:
                shutter.set_mode(r.SHUTTER_CONTROL.field("mode").get(value))
                self._registers[address] = value
            elif address == r.SHUTTER_COUNT.address:
                shutter.count = value
            elif address == r.SHUTTER_PERIOD.address:
                shutter.set_period(value)
            elif address == r.SHUTTER_LENGTH.address:
                shutter.set_length(value)
            else:
                shutter.set_delay(value)
        except ValueError:
            raise _RefusedError(ErrorId.ILLEGAL_PARAMETER) from None


def _start_options(word: int) -> StartOptions:
    """The options of any word: bits without a meaning are kept in the word alone."""
    return StartOptions(**{field.name: field.get(word) for field in StartOptions.TABLE})


def _check_phases(pll_word: int) -> None:
    """Nobody knows the times that a chip gives with 4 or 8 phases, so no words can be made for it."""
    try:
        column_phase(pll_word)
    except ValueError:
        raise _RefusedError(ErrorId.ILLEGAL_PARAMETER) from None


def _time_words(counts: int) -> tuple[int, int]:
    """Low and high word of a 25 ns count."""
    return counts & _WORD, counts >> 32 & 0xFFFF


_BY_SETTER: Final = {stored.setter: stored for stored in STORED}
_BY_GETTER: Final = {stored.getter: stored for stored in STORED if stored.getter is not None}

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

_LINK_REGISTERS: Final = {Register.LINK_STATUS.at(chip): chip for chip in range(MAX_DEVICES)}
_COUNTERS: Final = frozenset(
    {
        Register.UDP_DATAGRAMS.address,
        Register.UDP_PAUSED_DATAGRAMS.address,
        Register.TDC_TRIGGERS.address,
        Register.PIXEL_WORDS_OLD.address,
        *(Register.PIXEL_WORDS.at(chip) for chip in range(MAX_DEVICES)),
    }
)
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
