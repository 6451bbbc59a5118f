"""The verbs of a SPIDR board: identify, configure, start, stop, watch.

The order of a run::

    board.identify()                      # once
    board.chip(i).set_destination(None, port)
    board.prepare_readout()
    board.reset_counters(); board.reset_timers()
    board.open_shutter() ... board.close_shutter()
    board.pause_readout()

Receivers are to be bound and draining before `prepare_readout`. This module knows no ophyd and no data.
"""

import logging
import threading
import time
import weakref
from collections.abc import Callable
from typing import Final

from ophyd_timepix.protocol import Command, Register, Setting, TriggerMode
from ophyd_timepix.protocol import words as w
from ophyd_timepix.protocol.commands import (
    ALL_HEADERS,
    MAX_DEVICES,
    RESET_DEFAULT_SPEED,
    RESET_HARMLESS_STATUS,
    TRIGGER_MODES,
)

from .bias import BiasSupply
from .chip import Chip
from .client import SpidrClient
from .counters import UnwrappedCounter
from .errors import ChipMissing, ConnectionLost, ControlError, LimitError, ReadBackError, SpidrClosed
from .info import BoardInfo, ChipInfo, SentCounters, ShutterTimes, TriggerConfig
from .limits import flag, whole_setting
from .poller import Poller, Watch
from .restore import Restoration, RestoreReport
from .wire import Clock, Wait

log = logging.getLogger(__name__)

OPEN_UNTIL_STOPPED: Final = TriggerConfig(TriggerMode.AUTO, length_us=0, frequency_hz=10, count=1)
_CLOCK: Final = Register.CPU_TO_TPX
_TDC: Final = Register.TDC_CONTROL


_WORDS_OF_DATA: Final = {
    w.PIXEL_DATA_DRIVEN: "pixel words (there will be no hits)",
    w.TdcByte.TDC1_RISING >> 4: "TDC words (there will be no shots)",
    w.TIMER_LOW_BYTE >> 4: "timer words (times cannot be extended to 48 bits)",
    w.COMMAND_END_BYTE >> 4: "control words (the end of the read-out is not seen)",
}
"""Header nibbles that a run needs, and what they are."""

COUNTERS_POLL_S: Final = 5.0
"""At 80 Mhit/s the counter of pixel words wraps after 54 s."""
RESET_RETURN_S: Final = 15.0
"""How long a board that hung up at a reset may take until it listens again."""
_RESET_RETRY_S: Final = 0.5


class Board(BiasSupply):
    """A SPIDR with up to four chips. Any number of threads may use it at once.

    Hold it as long as its chips are used: it is the board that sets settings again after a loss. One board a client.
    """

    def __init__(
        self, client: SpidrClient, *, clock: Clock = time.monotonic, wait: Wait = threading.Event.wait
    ) -> None:
        super().__init__(client, clock=clock, wait=wait)
        self._chips = tuple(Chip(client, index) for index in range(MAX_DEVICES))
        self._info: BoardInfo | None = None
        self._datagrams = UnwrappedCounter(clock)
        self._tdc_triggers = UnwrappedCounter(clock)
        self._paused = UnwrappedCounter(clock)
        self._pixel_words = tuple(UnwrappedCounter(clock) for _ in range(MAX_DEVICES))

        self.poller = Poller(client.address, clock=clock)
        """For whatever is to be asked every now and then; its thread ends with its last job, or with `close`."""
        self.configuring = threading.Lock()
        """Held while a configuration is applied: two at once would put back each other's settings."""
        self.last_restore: RestoreReport | None = None
        """What the last comparison after a loss found."""
        self.losses = 0
        """How often the board was found to have lost its state. A run that saw it grow is over: its timers, counters
        and read-out began anew."""
        # Weakly: a board that nobody holds any more is to let go of its connection at once.
        board = weakref.ref(self)
        client.subscribe(lambda connected: _call(board, Board._line_changed, connected))
        client.on_reconnect = lambda: _call(board, Board.restore)

    def __repr__(self) -> str:
        return f"Board({self.client.address!r})"

    # --- identity -----------------------------------------------------------------------------------------------------
    def identify(self) -> BoardInfo:
        """Versions and chips, read now. Later verbs act on the chips that were present then."""
        count = min(self._get(Command.GET_DEVICECOUNT), MAX_DEVICES)
        info = BoardInfo(
            f"{self._get(Command.GET_SOFTWVERSION):08X}",
            f"{self._get(Command.GET_FIRMWVERSION):08X}",
            count,
            tuple(chip.identify() for chip in self._chips[:count]),
        )
        self._info = info
        return info

    @property
    def info(self) -> BoardInfo:
        """What `identify` found last; identifies if it never did."""
        return self._info or self.identify()

    def chip(self, index: int) -> Chip:
        """Chip `index`, there or not."""
        if not 0 <= index < MAX_DEVICES:
            raise LimitError(f"{self.client.address}: chips are numbered 0 to {MAX_DEVICES - 1}, there is no {index}")
        return self._chips[index]

    def present_chips(self) -> tuple[Chip, ...]:
        """The chips that `identify` found. Raises ChipMissing when there is none."""
        chips = tuple(self._chips[index] for index in self.info.present)
        if not chips:
            found = "; ".join(str(chip) for chip in self.info.chips)
            raise ChipMissing(
                f"{self.client.address}: the board has no chip with locked links ({found}); "
                "check the chips' power and cables, then reset the board"
            )
        return chips

    def require_chips(self, indices: tuple[int, ...]) -> tuple[ChipInfo, ...]:
        """What was found of these chips. Raises ChipMissing, read anew, when one is not there."""
        for index in indices:
            if index not in self.info.present:
                self.chip(index).require_present()
                self.identify()
        return tuple(self.info.chips[index] for index in indices)

    @property
    def local_address(self) -> str:
        """The address of our end of the TCP connection: where the board's datagrams can reach us."""
        return self.client.local_address()

    def data_senders(self, index: int) -> tuple[str, ...]:
        """Addresses that datagrams of chip `index` may come from: what it says of itself, and the board's own."""
        return (self.client.board_address(), self.chip(index).source()[0])

    # --- start and stop -----------------------------------------------------------------------------------------------
    def prepare_readout(self) -> None:
        """All that comes before the shutter: clock, TDC inputs, decoders, what pixels measure, read-out, filter.

        What this program chose stays: clock, TDC word and header filters; a filter that keeps back words of which data
        are made is logged. What nobody chose is set for read-out: the board's own clock, both TDC inputs, every header.
        """
        chips = self.present_chips()
        with self.client.exclusive():
            for chip in chips:
                # Links may have unlocked since: better told now than found as missing data.
                chip.require_present()
            self.set_external_clock(bool(Register.CPU_TO_TPX.field("external_clock").get(self._chosen(_CLOCK))))
            self.write_register(_TDC.address, self._chosen(_TDC))
            self.enable_decoders(True)
            for chip in chips:
                chip.measure_toa_tot()
            self._request(Command.DDRIVEN_READOUT)
            # After the read-out command, as the LHCb programs do: it may set the filter back.
            for chip in chips:
                chip.set_header_filter(chip.chosen_header_filter)
                _warn_of_blocked_words(chip)

    def pause_readout(self) -> None:
        """Read-out off: the chips send nothing more."""
        self._request(Command.PAUSE_READOUT)

    def reset_timers(self) -> None:
        """Timers of board and chips to 0, together. Once per run: it restarts the time of all data."""
        with self.client.exclusive():
            self._request(Command.RESET_TIMER)
            self._request(Command.RESTART_TIMERS)

    def open_shutter(self) -> None:
        """Open until `close_shutter`."""
        with self.client.exclusive():
            self.set_trigger(OPEN_UNTIL_STOPPED)
            self.start_trigger()

    def close_shutter(self) -> None:
        """Close the shutter, however it was opened."""
        self._request(Command.AUTOTRIG_STOP)

    def set_trigger(self, config: TriggerConfig) -> None:
        """How the shutter opens at `start_trigger`. Read back."""
        settings = (
            (Setting.SHUTTER_LENGTH, config.length_us),
            (Setting.SHUTTER_FREQUENCY, config.frequency_hz),
            (Setting.SHUTTER_COUNT, config.count),
            (Setting.SHUTTER_DELAY, config.delay_ns),
        )
        words = (config.mode.code, *(whole_setting(self.client.address, *setting) for setting in settings))
        with self.client.exclusive():
            # Older firmware knows no delay, so it is told one only where there is one, or was.
            self.client.request(Command.SET_TRIGCONFIG, 0, words if config.delay_ns else words[:4])
            if self.trigger() != config and not config.delay_ns:
                self.client.request(Command.SET_TRIGCONFIG, 0, words)
            self._check("shutter", config, self.trigger())

    def trigger(self) -> TriggerConfig:
        """How the shutter opens."""
        code, length_us, frequency_hz, count, *delay_ns = self.client.request(Command.GET_TRIGCONFIG).ints
        mode = TRIGGER_MODES.get(code)
        if mode is None:
            raise ReadBackError(f"{self.client.address}: the board states the shutter mode {code}; 0 to 6 are known")
        return TriggerConfig(mode, length_us, frequency_hz, count, *delay_ns)

    def start_trigger(self) -> None:
        """Start the shutter as `set_trigger` said."""
        self._request(Command.AUTOTRIG_START)

    def shutter_times(self, chip: int = 0) -> ShutterTimes:
        """When the shutter opened and closed last, by the timer of a chip."""
        device = self.chip(chip).index
        with self.client.exclusive():
            opened = self.client.request(Command.GET_SHUTTERSTART, device).ints
            closed = self.client.request(Command.GET_SHUTTEREND, device).ints
        return ShutterTimes(opened[1] << 32 | opened[0], closed[1] << 32 | closed[0])

    def shutter_count(self) -> int:
        """Openings of the shutter since `reset_counters`."""
        return self._get(Command.GET_SHUTTERCNTR)

    def external_shutter_count(self) -> int:
        """External shutter signals since `reset_counters`."""
        return self._get(Command.GET_EXTSHUTTERCNTR)

    # --- counters -----------------------------------------------------------------------------------------------------
    def sent_counters(self) -> SentCounters:
        """What the board sent since `reset_counters`. The board's own counters wrap: call it once a second or so."""
        with self.client.exclusive():
            pixel_words = [0] * len(self.info.chips)
            for index in self.info.present:
                pixel_words[index] = self._total(self._pixel_words[index], Register.PIXEL_WORDS.at(index))
            datagrams = self._total(self._datagrams, Register.UDP_DATAGRAMS.address)
            tdc_triggers = self._total(self._tdc_triggers, Register.TDC_TRIGGERS.address)
            paused = self._total(self._paused, Register.UDP_PAUSED_DATAGRAMS.address)
            return SentCounters(datagrams, tuple(pixel_words), tdc_triggers, paused)

    def tdc_triggers(self) -> int:
        """What the TDC has counted since `reset_counters`, alone: one request."""
        with self.client.exclusive():
            return self._total(self._tdc_triggers, Register.TDC_TRIGGERS.address)

    def _total(self, counter: UnwrappedCounter, address: int) -> int:
        reading, before = self.read_register(address), counter.restarts
        total = counter.update(reading, self.client.connections)
        if counter.restarts > before:
            log.warning(
                f"{self.client.address}: the counter at 0x{address:04X} began at 0 again: the board was restarted, or"
                " another client has reset it. What it counted since the reading before is not known"
            )
        return total

    def poll_counters(self, period_s: float = COUNTERS_POLL_S) -> Watch:
        """Read `sent_counters` every so often, so that no wrap is missed; until the watch is cancelled."""
        return self.poller.every(lambda: period_s, self.sent_counters)

    def reset_counters(self) -> None:
        """All counters to 0, the board's and ours; ours also where a board's stay as they are."""
        counters = {
            Register.UDP_DATAGRAMS.address: self._datagrams,
            Register.TDC_TRIGGERS.address: self._tdc_triggers,
            Register.UDP_PAUSED_DATAGRAMS.address: self._paused,
        }
        with self.client.exclusive():
            self._request(Command.RESET_COUNTERS)
            for index, counter in enumerate(self._pixel_words):
                counter.reset()
                if index in self.info.present:
                    counters[Register.PIXEL_WORDS.at(index)] = counter
            for address, counter in counters.items():
                self.write_register(address, 0)
                counter.reset(self.read_register(address), self.client.connections)

    # --- clocks, inputs, power ----------------------------------------------------------------------------------------
    def external_clock(self) -> bool:
        """Whether the reference clock comes from outside."""
        return self._flag(_CLOCK, "external_clock")

    def set_external_clock(self, external: bool) -> None:
        """The reference clock: from outside, or the board's own."""
        self._set_flag(_CLOCK, "external_clock", external)

    def clock_80_mhz(self) -> bool:
        """Whether the peripheral clock runs at 80 MHz."""
        return self._flag(_CLOCK, "clock_80_mhz")

    def set_clock_80_mhz(self, enabled: bool) -> None:
        """Peripheral clock at 80 MHz."""
        self._set_flag(_CLOCK, "clock_80_mhz", enabled)

    def tdc_control(self) -> int:
        """The TDC control word; 0: both inputs, both edges."""
        return self.read_register(_TDC.address)

    def set_tdc_control(self, word: int) -> None:
        """The TDC control word. No source states the meaning of others than 0 (both inputs, both edges)."""
        self._set_register(_TDC, word)

    def decoders_enabled(self) -> bool:
        """Whether the FPGA decodes the chips' counters."""
        return self._flag(Register.DECODER_CONTROL, "decoders")

    def enable_decoders(self, enabled: bool) -> None:
        """Whether the FPGA decodes the chips' counters. This package decodes no raw codes: leave it on."""
        wanted = flag(self.client.address, "decoding of the counters", enabled)
        with self.client.exclusive():
            self._request(Command.DECODERS_ENA, int(wanted))
            self._check("decoders", wanted, self.decoders_enabled())

    def power_chips(self, enabled: bool) -> None:
        """Power of the chips. Off: all their settings are lost."""
        self._request(Command.TPX_POWER_ENA, int(flag(self.client.address, "the power of the chips", enabled)))

    def reset(self, speed: int = RESET_DEFAULT_SPEED) -> int | None:
        """Reset board and chips: all settings are lost, here too. Takes seconds. Identifies the board anew.

        Returns the board's status word (0: good), None when the board hung up in place of an answer; then it has 15 s
        to be back. Other threads may ask meanwhile: nothing is set again behind a reset. Ends a ramp of the bias.
        """
        self._info = None
        with self.client.exclusive():
            self._bias_turn += 1
        try:
            status = self._request_reset(speed)
        except SpidrClosed as closed:
            log.info(f"{self.client.address}: the board hung up at the reset ({closed}); waiting until it is back")
            status = None
            self._wait_until_back()
        self._rebase_counters()
        if status == RESET_HARMLESS_STATUS:
            log.info(f"{self.client.address}: reset with status 0x{status:X}, which is known to be harmless")
        elif status:
            raise ControlError(
                f"{self.client.address}: RESET_MODULE ended with the status 0x{status:X}: "
                "some part of the board did not start; power-cycle the camera"
            )
        self.identify()
        return status

    def _request_reset(self, speed: int) -> int:
        try:
            return self.client.request(Command.RESET_MODULE, 0, (speed,)).value
        except SpidrClosed as closed:
            if closed.sent:
                raise
        # The connection had ended before: on a new one.
        return self.client.request(Command.RESET_MODULE, 0, (speed,)).value

    def restore(self) -> RestoreReport:
        """Compare what the board holds with what this program set, and set again what was lost; see `restore.py`.

        Comes by itself with the first request after a lost connection. Starts nothing. Raises ControlError when the
        board refuses; what is wanted stays remembered. Takes a few ms a chip, 30 ms more where a matrix is compared,
        and the time of a ramp where the bias was lost.
        """
        with self.client.exclusive(), self.client.memory.frozen():
            report = Restoration(self).run()
            self.last_restore = report
            self.client.awaited_chips = report.away
            if report.restarted:
                self.losses += 1
                self._info = None
                self._rebase_counters()
        log.log(logging.WARNING if report.is_news else logging.INFO, f"{report}")
        return report

    def _wait_until_back(self) -> None:
        deadline_s = self._clock() + RESET_RETURN_S
        never = threading.Event()
        while True:
            try:
                self._get(Command.GET_DEVICECOUNT)
                return
            except ConnectionLost as error:
                if self._clock() >= deadline_s:
                    raise type(error)(f"{error}; it hung up at a reset {RESET_RETURN_S:g} s ago") from error
            self._wait(never, _RESET_RETRY_S)

    def _rebase_counters(self) -> None:
        """The board's counters began at 0 again; ours go on from where they are."""
        for counter in (self._datagrams, self._tdc_triggers, self._paused, *self._pixel_words):
            counter.rebase()

    def _chosen(self, register: Register) -> int:
        """The word of a register that this program set last; 0 when it set none."""
        words = self.client.memory.last(Command.SET_SPIDRREG, 0, register.address)
        return 0 if words is None else words[1]

    def _line_changed(self, connected: bool) -> None:
        if connected:
            self.poller.wake()

    def close(self) -> None:
        """End the polling and hang up. A later request connects again, with nothing remembered."""
        self.poller.close()
        self.client.close()


def _warn_of_blocked_words(chip: Chip) -> None:
    mask = chip.chosen_header_filter
    blocked = [f"0x{nibble:X} {what}" for nibble, what in _WORDS_OF_DATA.items() if not mask >> nibble & 1]
    if blocked:
        log.warning(
            f"{chip}: its header filter 0x{mask:04X} keeps back {', '.join(blocked)}; "
            f"0x{ALL_HEADERS:04X} lets all words pass (set_header_filter() or header_filter.put(0x{ALL_HEADERS:04X}))"
        )


def _call(board: "weakref.ref[Board]", verb: Callable[..., object], *arguments: object) -> None:
    """A verb of a board that is still there."""
    there = board()
    if there is not None:
        verb(there, *arguments)
