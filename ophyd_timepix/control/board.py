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
from typing import Final

from ophyd_timepix.protocol import Command, Register, TriggerMode
from ophyd_timepix.protocol.commands import (
    MAX_DEVICES,
    RESET_DEFAULT_SPEED,
    RESET_HARMLESS_STATUS,
)
from ophyd_timepix.protocol.registers import (
    ADC_BIAS_CHANNEL,
    ADC_MV_PER_BIAS_V,
    adc_mv,
    bias_dac,
)

from .chip import Chip
from .client import SpidrClient
from .counters import UnwrappedCounter
from .errors import ChipMissing, ControlError, LimitError, ReadBackError
from .info import (
    BoardInfo,
    ChipInfo,
    Environment,
    SentCounters,
    Supplies,
    Supply,
    Temperatures,
    TriggerConfig,
)

log = logging.getLogger(__name__)

OPEN_UNTIL_STOPPED: Final = TriggerConfig(TriggerMode.AUTO, length_us=0, frequency_hz=10, count=1)
_TRIGGER_MODES: Final = {mode.code: mode for mode in TriggerMode}


class Board:
    """A SPIDR with up to four chips."""

    def __init__(self, client: SpidrClient) -> None:
        self.client = client
        self._chips = tuple(Chip(client, index) for index in range(MAX_DEVICES))
        self._info: BoardInfo | None = None
        self._counter_lock = threading.RLock()
        self._datagrams = UnwrappedCounter()
        self._tdc_triggers = UnwrappedCounter()
        self._pixel_words = tuple(UnwrappedCounter() for _ in range(MAX_DEVICES))

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

    # --- start and stop -----------------------------------------------------------------------------------------------
    def prepare_readout(self) -> None:
        """All that comes before the shutter: clock, TDC inputs, decoders, what pixels measure, read-out, filter."""
        chips = self.present_chips()
        with self.client.exclusive():
            for chip in chips:
                # Links may have unlocked since: better told now than found as missing data.
                chip.require_present()
            self.set_external_clock(False)
            self.write_register(Register.TDC_CONTROL.address, 0)
            self.enable_decoders(True)
            for chip in chips:
                chip.measure_toa_tot()
            self._request(Command.DDRIVEN_READOUT)
            # After the read-out command, as the LHCb programs do: it may set the filter back.
            for chip in chips:
                chip.set_header_filter()

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
        """How the shutter opens at `start_trigger`."""
        words = (config.mode.code, config.length_us, config.frequency_hz, config.count, config.delay_ns)
        # Older firmware knows no delay.
        self.client.request(Command.SET_TRIGCONFIG, 0, words if config.delay_ns else words[:4])

    def trigger(self) -> TriggerConfig:
        """How the shutter opens."""
        code, length_us, frequency_hz, count, *delay_ns = self.client.request(Command.GET_TRIGCONFIG).ints
        mode = _TRIGGER_MODES.get(code)
        if mode is None:
            raise ReadBackError(f"{self.client.address}: the board states the shutter mode {code}; 0 to 6 are known")
        return TriggerConfig(mode, length_us, frequency_hz, count, *delay_ns)

    def start_trigger(self) -> None:
        """Start the shutter as `set_trigger` said."""
        self._request(Command.AUTOTRIG_START)

    # --- counters -----------------------------------------------------------------------------------------------------
    def sent_counters(self) -> SentCounters:
        """What the board sent since `reset_counters`. The board's own counters wrap: call it once a second or so."""
        with self._counter_lock:
            pixel_words = [0] * len(self.info.chips)
            for index in self.info.present:
                reading = self.read_register(Register.PIXEL_WORDS.at(index))
                pixel_words[index] = self._pixel_words[index].update(reading)
            datagrams = self._datagrams.update(self.read_register(Register.UDP_DATAGRAMS.address))
            tdc_triggers = self._tdc_triggers.update(self.read_register(Register.TDC_TRIGGERS.address))
            return SentCounters(datagrams, tuple(pixel_words), tdc_triggers)

    def reset_counters(self) -> None:
        """All counters to 0, the board's and ours."""
        with self._counter_lock, self.client.exclusive():
            self._request(Command.RESET_COUNTERS)
            for address in (Register.UDP_DATAGRAMS.address, Register.TDC_TRIGGERS.address):
                self.write_register(address, 0)
            for index in self.info.present:
                self.write_register(Register.PIXEL_WORDS.at(index), 0)
            for counter in (self._datagrams, self._tdc_triggers, *self._pixel_words):
                counter.reset()

    # --- registers, clocks, power -------------------------------------------------------------------------------------
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

    def set_external_clock(self, external: bool) -> None:
        """The reference clock: from outside, or the board's own."""
        register = Register.CPU_TO_TPX
        with self.client.exclusive():
            word = self.read_register(register.address)
            self.write_register(register.address, register.field("external_clock").put(word, int(external)))

    def enable_decoders(self, enabled: bool) -> None:
        """Whether the FPGA decodes the chips' counters. This package decodes no raw codes: leave it on."""
        self._request(Command.DECODERS_ENA, int(enabled))

    def power_chips(self, enabled: bool) -> None:
        """Power of the chips. Off: all their settings are lost."""
        self._request(Command.TPX_POWER_ENA, int(enabled))

    def reset(self, speed: int = RESET_DEFAULT_SPEED) -> int:
        """Reset board and chips: all settings are lost. Takes seconds. Returns the board's status word (0 = good)."""
        status = self.client.request(Command.RESET_MODULE, 0, (speed,)).value
        self._info = None
        if status == RESET_HARMLESS_STATUS:
            log.info(f"{self.client.address}: reset with status 0x{status:X}, which is known to be harmless")
        elif status:
            raise ControlError(
                f"{self.client.address}: RESET_MODULE ended with the status 0x{status:X}: "
                "some part of the board did not start; power-cycle the camera"
            )
        return status

    # --- bias ---------------------------------------------------------------------------------------------------------
    def set_bias(self, volts: float) -> None:
        """Bias voltage of the sensor, 12 to 104 V. Takes effect while the bias is on."""
        try:
            word = bias_dac(volts)
        except ValueError as error:
            raise LimitError(f"{self.client.address}: {error}; nothing was sent") from None
        self._request(Command.SET_BIAS_ADJUST, word)

    def bias_enable(self, enabled: bool) -> None:
        """Bias supply on or off."""
        self._request(Command.BIAS_SUPPLY_ENA, int(enabled))

    def bias_v(self) -> float:
        """Bias voltage, measured by the board's ADC (steps of 37 mV)."""
        return adc_mv(self.adc(ADC_BIAS_CHANNEL)) / ADC_MV_PER_BIAS_V

    def adc(self, channel: int, samples: int = 1) -> int:
        """Sum of some 12-bit samples of an ADC channel."""
        return self._get(Command.GET_SPIDR_ADC, samples << 16 | channel)

    # --- monitoring ---------------------------------------------------------------------------------------------------
    def temperatures(self) -> Temperatures:
        """Chip, board and FPGA."""
        commands = (Command.GET_REMOTETEMP, Command.GET_LOCALTEMP, Command.GET_FPGATEMP)
        return Temperatures(*(_signed(self._get(command)) / 1000 for command in commands))

    def supplies(self) -> Supplies:
        """Analogue and digital supply of the chips, measured now."""
        return Supplies(self._supply(Command.GET_AVDD_NOW), self._supply(Command.GET_DVDD_NOW))

    def environment(self) -> Environment:
        """Humidity, pressure, fans."""
        fans = (self._get(Command.GET_FANSPEED, 0), self._get(Command.GET_FANSPEED, 1))
        return Environment(self._get(Command.GET_HUMIDITY), self._get(Command.GET_PRESSURE), fans)

    # --- the wire -----------------------------------------------------------------------------------------------------
    def _request(self, command: Command, value: int = 0) -> None:
        self.client.request(command, 0, (value,))

    def _get(self, command: Command, value: int = 0) -> int:
        return self.client.request(command, 0, (value,)).value

    def _supply(self, command: Command) -> Supply:
        mv, ma, mw = self.client.request(command).ints
        return Supply(_signed(mv) / 1000, _signed(ma) / 1000, _signed(mw) / 1000)


def _signed(word: int) -> int:
    """A 32-bit word as a signed number: it freezes, and currents flow back."""
    return word - (1 << 32) if word >> 31 else word
