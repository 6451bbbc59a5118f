"""What the simulated board is: chips, networks, flash, bias, shutter, counters, and what the data side is told of it.

It answers nothing; that do the groups of `commands`.

Simplified: one clock is the timer of the board and of all chips.
"""

from dataclasses import replace
from ipaddress import IPv4Address
from typing import Final

from ophyd_timepix.protocol import ChipId, Command, Register, Reply, Request
from ophyd_timepix.protocol.commands import ABSENT_CHIP_IDS, ALL_HEADERS, MAX_DEVICES
from ophyd_timepix.protocol.registers import START_OPTIONS_VALID, bias_dac
from spidr_sim.answers import ack, start_options_of
from spidr_sim.chip import CHIP_NAMES, FAST_MBPS, SLOW_MBPS, ChipNetwork, ChipState
from spidr_sim.flash import Flash
from spidr_sim.sensors import BiasSupply
from spidr_sim.settings import Readout
from spidr_sim.shutter import Shutter
from spidr_sim.streams import Clock, Streams

BOARD_ID: Final = 0x5350_4944
CHIP_BOARD_ID: Final = 0x0000_0301
EXTERNAL_SHUTTER_PIN: Final = 0
"""In the simulation alone: this pin of the GPIO commands is the external shutter input."""
DECODERS: Final = 0xF
COUNTERS: Final = frozenset(
    {
        Register.UDP_DATAGRAMS.address,
        Register.UDP_PAUSED_DATAGRAMS.address,
        Register.TDC_TRIGGERS.address,
        Register.PIXEL_WORDS_OLD.address,
        *(Register.PIXEL_WORDS.at(chip) for chip in range(MAX_DEVICES)),
    }
)


class Hardware:
    """State of a board with `n_chips` (1 to 4) Timepix3, powered up from its `flash`; see `Board`."""

    def __init__(self, n_chips: int, streams: Streams, clock: Clock, flash: Flash | None = None) -> None:
        if not 1 <= n_chips <= MAX_DEVICES:
            raise ValueError(f"a board carries 1 to {MAX_DEVICES} chips, not {n_chips}")
        self.n_chips = n_chips
        self.streams = streams
        self.clock = clock
        self.flash = Flash.operating(n_chips) if flash is None else flash
        self.client_address = 0
        self.board_id, self.chip_board_id = BOARD_ID, CHIP_BOARD_ID
        self.bias = BiasSupply()
        self.counters_start = 0
        """What a counter shows that is set to 0; below 0 it shows 2**32 more."""
        self.gone: set[int] = set()
        """Chips that a fault took away."""
        self.unlocked: set[int] = set()
        """Chips of which a link has lost its lock."""
        self._changed: set[int] = set()
        """Chips whose settings the data side has not been told."""
        self._readout_told = Readout.OFF
        self.shutter = Shutter(self._shutter_moved)
        self._power_up()
        self.streams.bias(self.bias.settle())

    def _power_up(self) -> None:
        """Everything that a reset of the module sets back, then what the flash holds."""
        self.chips = [ChipState(ChipId.from_name(name)) for name in CHIP_NAMES[: self.n_chips]]
        self.networks = [ChipNetwork(index) for index in range(MAX_DEVICES)]
        for network in self.networks:
            network.destination = self.client_address
        self.registers: dict[int, int] = {}
        self.counter_zero = dict.fromkeys(COUNTERS, -self.counters_start)
        self.powered = True
        self.decoders = DECODERS
        self.readout = Readout.OFF
        self.busy = False
        self.gpio = 0
        self.fan_percent = [50, 50]
        self.kept: dict[Command, int] = {}
        self.unlocked.clear()
        self._load_flash()
        self._changed.update(range(self.n_chips))

    def _load_flash(self) -> None:
        for index, chip in enumerate(self.chips):
            self.flash.load(index, chip)
        for index, network in self.flash.networks.items():
            self.networks[index] = replace(network)
        options = start_options_of(self.flash.start_options)
        valid = options.valid == START_OPTIONS_VALID
        if valid:
            self.powered = bool(options.tpx_power)
            self.set_link_speed(FAST_MBPS if options.links_fast else SLOW_MBPS)
        on = valid and bool(options.bias_on)
        self.bias.set(self.clock.seconds(), on=on, dac=bias_dac(options.bias_volts) if on else 0)

    def start_again(self) -> None:
        """A reset of the module: what the flash does not hold is as after power-up."""
        self.shutter = Shutter(self._shutter_moved)
        self._power_up()
        self.tell_readout()
        for network in self.networks:
            self.tell_destination(network)
            self.tell_filter(network)
        self.streams.bias(self.bias.ramp)
        self.clear_counters()

    def set_link_speed(self, mbps: int) -> None:
        """Of all links of all chips."""
        for chip in self.chips:
            chip.words["readout_speed"] = mbps

    def has_chip(self, index: int) -> bool:
        """Is there a chip at this place, with power?"""
        return index < self.n_chips and self.powered and index not in self.gone

    def is_alive(self, index: int) -> bool:
        """Is there one, with its links locked?"""
        return self.has_chip(index) and index not in self.unlocked

    def id_of(self, index: int) -> int:
        """Of the chip at a place; that of an absent chip where there is none."""
        return self.chips[index].chip_id.value if self.has_chip(index) else ABSENT_CHIP_IDS[0]

    def lock(self, index: int) -> None:
        """The links of a chip find their lock again."""
        if index in self.unlocked:
            self.unlocked.discard(index)
            self.chip_changed(index)

    def chip_changed(self, index: int) -> None:
        """What the data of a chip depend on is new: the data side is told now, or when the shutter opens."""
        if index < self.n_chips:
            self._changed.add(index)
        if self.shutter.is_open:
            self._tell_chips()

    def _tell_chips(self) -> None:
        for index in sorted(self._changed):
            self.streams.chip(index, self.chips[index].settings(self.is_alive(index)))
        self._changed.clear()

    def _shutter_moved(self, is_open: bool, at_counts: int) -> None:
        if is_open:
            self._tell_chips()
        self.streams.shutter(is_open, at_counts)

    def tell_destination(self, network: ChipNetwork) -> None:
        """The data side is told where the data of a chip go."""
        if network.index < self.n_chips and network.destination:
            self.streams.destination(network.index, str(IPv4Address(network.destination)), network.port)

    def tell_filter(self, network: ChipNetwork) -> None:
        """And which words of it."""
        if network.index < self.n_chips:
            self.streams.header_filter(network.index, network.header_filter & ALL_HEADERS)

    def tell_readout(self) -> None:
        """And how chips are read out, when that has changed."""
        mode = self.readout if self.powered and not self.busy else Readout.OFF
        if mode is not self._readout_told:
            self._readout_told = mode
            self.streams.readout(mode)

    def external_signal(self, level: bool) -> None:
        """The external shutter input goes up or down."""
        self.set_bit(EXTERNAL_SHUTTER_PIN, level)
        self.shutter.signal(level, self.clock.counts())

    def set_bit(self, pin: int, level: bool) -> None:
        """A pin goes up or down."""
        self.gpio = self.gpio & ~(1 << pin) | level << pin

    def restart_clock(self, now: int) -> None:
        """Timers of board and chips go on from `now`."""
        before = self.clock.restart(now)
        self.shutter.timers_restarted(before, now)
        self.streams.timers_restarted(before, now)

    def count(self, address: int) -> int:
        """A counter since the data side's own zero."""
        counters = self.streams.counters()
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

    def clear_counters(self) -> None:
        """All counters of the board begin anew."""
        self.shutter.reset_counters()
        self.counter_zero = dict.fromkeys(COUNTERS, -self.counters_start)
        self.streams.reset_counters()

    def keep(self, request: Request) -> Reply:
        """A value that nothing reads."""
        self.kept[request.command] = request.ints[0]
        return ack(request)
