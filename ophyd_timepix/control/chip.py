"""The verbs of one Timepix3. What is set is read back, unless said otherwise; limits are checked before the wire."""

import threading
from collections.abc import Mapping
from dataclasses import replace
from ipaddress import AddressValueError, IPv4Address
from typing import Final, SupportsIndex

import numpy as np
import numpy.typing as npt

from ophyd_timepix.protocol import (
    ChipId,
    Command,
    Dac,
    GeneralConfig,
    LinkStatus,
    OutputBlockConfig,
    PixelMatrix,
    PllConfig,
    PulseTiming,
    Register,
    SenseCode,
    Setting,
    pack_dac,
    unpack_dac,
)
from ophyd_timepix.protocol.chip_config import ConfigWord, Mode
from ophyd_timepix.protocol.commands import ALL_HEADERS
from ophyd_timepix.protocol.dacs import SENSE_OFF
from ophyd_timepix.protocol.pixel_matrix import decode_ctpr, encode_ctpr, matrix_from_columns
from ophyd_timepix.protocol.registers import (
    ADC_BIAS_CHANNEL,
    ADC_VDDA_CHANNEL,
    SENSE_SETTLING_S,
    TEMPERATURE_SAMPLES,
    adc_sum_mv,
    chip_temperature_degc,
)
from ophyd_timepix.protocol.words import MATRIX_SIDE

from .client import Answer, SpidrClient
from .errors import ChipMissing, LimitError, ReadBackError
from .info import ChipInfo, TestPulse, TimerReading
from .limits import whole, whole_setting

DEFAULT_DACS: Final[Mapping[Dac, int]] = {dac: dac.default for dac in Dac}
"""What a camera runs with; a chip after reset has other values."""

LINKS_MASK: Final = 0xFF
_HALF_WORD: Final = 0xFFFF
_WORD: Final = 0xFFFF_FFFF


class Chip:
    """Chip `index` (0 to 3) of the board behind `client`."""

    def __init__(self, client: SpidrClient, index: int) -> None:
        self._client = client
        self.index = index
        self._sense_lock = threading.RLock()
        """Held while a voltage settles, so that nobody routes another one; the line is free meanwhile."""
        self._sensed = SENSE_OFF

    def __repr__(self) -> str:
        return f"Chip({self._client.address!r}, {self.index})"

    # --- identity -----------------------------------------------------------------------------------------------------
    def identify(self) -> ChipInfo:
        """Id and links, read now."""
        chip_id = ChipId(self._get(Command.GET_DEVICEID))
        links = self.link_status()
        present = links.ready and not chip_id.absent
        return ChipInfo(self.index, chip_id.value, chip_id.name, links.enabled, links.locked, present)

    def link_status(self) -> LinkStatus:
        """Which links are enabled, which are locked."""
        address = Register.LINK_STATUS.at(self.index)
        return LinkStatus.from_word(self._client.request(Command.GET_SPIDRREG, 0, (address,)).ints[1])

    def require_present(self) -> ChipInfo:
        """Raises ChipMissing when there is no such chip or its links are not locked."""
        info = self.identify()
        if not info.present:
            raise ChipMissing(
                f"{self._client.address}: {info}; check the chip's power and cable and the chip number, "
                "then reset the board"
            )
        return info

    def reset(self) -> None:
        """Reset the chip: its registers go to their reset values."""
        self._request(Command.RESET_DEVICE)

    def reinitialise(self) -> None:
        """Initialise the chip and its links again."""
        self._request(Command.REINIT_DEVICE)

    # --- DACs ---------------------------------------------------------------------------------------------------------
    def dac(self, dac: Dac) -> int:
        """A DAC setting, read from the board."""
        code, value = unpack_dac(self._get(Command.GET_DAC, dac.code))
        if code != dac.code:
            raise ReadBackError(
                f"{self._where}: asked for DAC {dac.name} (code {dac.code}), the board answered for code {code}; "
                "its firmware and this table disagree"
            )
        return value

    def set_dac(self, dac: Dac, value: int) -> None:
        """Set a DAC and read it back."""
        code = whole(self._where, dac.name, value, 0, dac.max, "(DAC code)")
        with self._client.exclusive():
            self._request(Command.SET_DAC, pack_dac(dac.code, code))
            self._check(dac.name, code, self.dac(dac))

    def dacs(self) -> dict[Dac, int]:
        """All DAC settings."""
        return {dac: self.dac(dac) for dac in Dac}

    def set_dacs(self, values: Mapping[Dac, int]) -> None:
        """Set some DACs."""
        for dac, value in values.items():
            self.set_dac(dac, value)

    def set_defaults(self) -> None:
        """All DACs to what a camera runs with; the matrix open: nothing masked, no adjustment, no test pulses."""
        self.set_dacs(DEFAULT_DACS)
        self.upload_matrix(PixelMatrix())

    def reset_dacs(self) -> None:
        """All DACs to the chip's own reset values. Nothing is read back."""
        self._request(Command.SET_DACS_DFLT)

    def sense(self, source: Dac | SenseCode | None) -> None:
        """Route a DAC or a reference voltage to the board's ADC, to stay; None: nothing."""
        code = _sense_code(source)
        with self._sense_lock:
            self._request(Command.SET_SENSEDAC, code)
            self._sensed = code

    def sensed_mv(
        self, source: Dac | SenseCode, *, samples: int = TEMPERATURE_SAMPLES, settle_s: float = SENSE_SETTLING_S
    ) -> float:
        """The voltage of a DAC or a reference, measured by the board's ADC (mV, mean of some samples).

        Takes the time to settle; other threads use the line meanwhile. Afterwards what `sense` chose is routed again.
        Raises LimitError for the chips 1 and 2: their ADC channels are those of the bias and of VDDA, and no source
        says where their voltages can be read.
        """
        channel = self._adc_channel()
        samples = whole(self._where, "what the ADC adds up", samples, 1, _HALF_WORD, "samples")
        with self._sense_lock:
            self._request(Command.SET_SENSEDAC, _sense_code(source))
            try:
                # Nobody sets it: this waits, and Ctrl-C ends it.
                threading.Event().wait(settle_s)
                total = self._client.request(Command.GET_SPIDR_ADC, 0, (samples << 16 | channel,)).value
            finally:
                if self._client.connected:
                    self._request(Command.SET_SENSEDAC, self._sensed)
        return adc_sum_mv(total, samples)

    def temperature(self, *, settle_s: float = SENSE_SETTLING_S) -> float:
        """Temperature of the chip by its own bandgap (degC). Takes twice the time to settle."""
        with self._sense_lock:
            temperature_mv = self.sensed_mv(SenseCode.BANDGAP_TEMPERATURE, settle_s=settle_s)
            bandgap_mv = self.sensed_mv(SenseCode.BANDGAP_OUTPUT, settle_s=settle_s)
        return chip_temperature_degc(temperature_mv, bandgap_mv)

    # --- pixel matrix -------------------------------------------------------------------------------------------------
    def upload_matrix(self, matrix: PixelMatrix, *, verify: bool = True) -> None:
        """Write the configuration of all pixels, and read it back unless `verify` is off."""
        with self._client.exclusive():
            self._request(Command.RESET_PIXELS)
            for first_column, data in matrix.upload():
                self._client.request(Command.SET_PIXCONF, self.index, (first_column,), data)
            if verify:
                self._check_matrix(matrix, self.read_matrix())

    def read_matrix(self) -> PixelMatrix:
        """The configuration of all pixels."""
        with self._client.exclusive():
            return matrix_from_columns([self._read_column(column) for column in range(MATRIX_SIDE)])

    def set_test_columns(self, columns: npt.ArrayLike) -> None:
        """Which of the 256 columns get test pulses."""
        try:
            data = encode_ctpr(columns)
        except ValueError as error:
            raise LimitError(f"{self._where}: {error}; nothing was sent") from None
        with self._client.exclusive():
            self._client.request(Command.SET_CTPR, self.index, (0,), data)
            if self._request(Command.GET_CTPR).data != data:
                raise ReadBackError(f"{self._where}: the column test-pulse register reads back other columns")

    def test_columns(self) -> npt.NDArray[np.bool_]:
        """Which of the 256 columns get test pulses."""
        return decode_ctpr(self._request(Command.GET_CTPR).data)

    def test_pulse(self) -> TestPulse:
        """Period, phase and number of test pulses."""
        with self._client.exclusive():
            timing = PulseTiming.from_word(self._get(Command.GET_TPPERIODPHASE))
            return TestPulse(timing.period, timing.phase, self._get(Command.GET_TPNUMBER))

    def set_test_pulse(self, pulse: TestPulse) -> None:
        """Period, phase and number of test pulses. Which pixels get them: the matrix and `set_test_columns`."""
        count = whole_setting(self._where, Setting.TEST_PULSES, pulse.count)
        try:
            word = PulseTiming(pulse.period, pulse.phase).word
        except (TypeError, ValueError) as error:
            raise LimitError(f"{self._where}: test pulses: {error}; nothing was sent") from None
        with self._client.exclusive():
            self._request(Command.SET_TPPERIODPHASE, word)
            self._request(Command.SET_TPNUMBER, count)
            self._check("test pulse", pulse, self.test_pulse())

    # --- configuration words ------------------------------------------------------------------------------------------
    def general_config(self) -> GeneralConfig:
        """The general configuration."""
        return GeneralConfig.from_word(self._get(Command.GET_GENCONFIG))

    def set_general_config(self, config: SupportsIndex) -> None:
        """Set the general configuration: a GeneralConfig or its word."""
        self._set_word(Command.SET_GENCONFIG, Command.GET_GENCONFIG, GeneralConfig, config)

    def pll_config(self) -> PllConfig:
        """The PLL configuration."""
        return PllConfig.from_word(self._get(Command.GET_PLLCONFIG))

    def set_pll_config(self, config: SupportsIndex) -> None:
        """Set the PLL: a PllConfig or its word. It decides the column phase of the times."""
        self._set_word(Command.SET_PLLCONFIG, Command.GET_PLLCONFIG, PllConfig, config)

    def measure_toa_tot(self) -> None:
        """What the decoder relies on: ToA and ToT in Gray code with fast ToA, and a PLL that runs.

        Polarity, test pulses and the words of a running PLL stay as they are. A chip after power-up gets the PLL word
        of [P], 0x11E.
        """
        config = self.general_config()
        wanted = replace(config, mode=Mode.TOA_TOT, gray_counter=1, fast_toa=1)
        if wanted != config:
            self.set_general_config(wanted)
        if not self.pll_config().run:
            self.set_pll_config(PllConfig())

    def output_block_config(self) -> OutputBlockConfig:
        """The output block."""
        return OutputBlockConfig.from_word(self._get(Command.GET_OUTBLOCKCONFIG))

    def set_output_block_config(self, config: SupportsIndex) -> None:
        """Set the output block: an OutputBlockConfig or its word."""
        self._set_word(Command.SET_OUTBLOCKCONFIG, Command.GET_OUTBLOCKCONFIG, OutputBlockConfig, config)

    def slvs(self) -> int:
        """The word of the SLVS drivers."""
        return self._get(Command.GET_SLVSCONFIG)

    def set_slvs(self, word: int) -> None:
        """The word of the SLVS drivers; no public source names its fields."""
        self._set_plain(Command.SET_SLVSCONFIG, Command.GET_SLVSCONFIG, "SLVS word", word, _WORD)

    def readout_speed(self) -> int:
        """Speed of the links (Mbit/s)."""
        return self._get(Command.GET_READOUTSPEED)

    def set_readout_speed(self, mbps: int) -> None:
        """Speed of the links (Mbit/s). The board refuses what it cannot do."""
        self._set_plain(Command.SET_READOUTSPEED, Command.GET_READOUTSPEED, "read-out speed", mbps, _WORD)

    @property
    def output_mask(self) -> int | None:
        """The links that `set_output_mask` chose last; None before: the board cannot be asked."""
        words = self._client.memory.last(Command.SET_OUTPUTMASK, self.index)
        return None if words is None else words[0]

    def set_output_mask(self, mask: int) -> None:
        """Which links send, a mask of 8 bits. The board cannot read it back."""
        word = whole(self._where, "the output mask", mask, 0, LINKS_MASK, "(a bit per link)")
        self._request(Command.SET_OUTPUTMASK, word)

    def t0_sync(self) -> None:
        """T0 synchronisation: the chip marks the moment in its stream."""
        self._request(Command.T0_SYNC)

    # --- time and data ------------------------------------------------------------------------------------------------
    def timer(self) -> TimerReading:
        """The 48-bit timer. The chip repeats it in its data stream: that is the reference for times offline."""
        answer = self._request(Command.GET_TIMER)
        low, high = answer.ints
        return TimerReading(high << 32 | low, answer.sent_ns, answer.received_ns)

    def set_destination(self, address: str | None, port: int) -> None:
        """Where this chip's datagrams go; None: our end of the control connection."""
        port = whole_setting(self._where, Setting.UDP_PORT, port)
        destination = _ipv4(address or self._client.local_address())
        with self._client.exclusive():
            self._request(Command.SET_IPADDR_DEST, destination)
            self._request(Command.SET_SERVERPORT, port)
            self._check("destination", (str(IPv4Address(destination)), port), self.destination())

    def destination(self) -> tuple[str, int]:
        """Where this chip's datagrams go."""
        address = self._get(Command.GET_IPADDR_DEST)
        return str(IPv4Address(address)), self._get(Command.GET_SERVERPORT)

    def source(self) -> tuple[str, int]:
        """Where this chip's datagrams come from."""
        address = self._get(Command.GET_IPADDR_SRC)
        return str(IPv4Address(address)), self._get(Command.GET_DEVICEPORT)

    def header_filter(self) -> tuple[int, int]:
        """Masks of header nibbles that go to Ethernet and to the board's CPU."""
        word = self._get(Command.GET_HEADERFILTER)
        return word & 0xFFFF, word >> 16

    @property
    def chosen_header_filter(self) -> int:
        """The mask to Ethernet that was set last; all headers when none was."""
        words = self._client.memory.last(Command.SET_HEADERFILTER, self.index)
        return ALL_HEADERS if words is None else words[0] & _HALF_WORD

    def set_header_filter(self, eth: int = ALL_HEADERS, cpu: int | None = None) -> None:
        """Which header nibbles go to Ethernet, and to the board's CPU (None: as it is)."""
        eth, to_cpu = (
            whole(self._where, "the header filter", mask, 0, ALL_HEADERS, "(16 bits)")
            for mask in (eth, 0 if cpu is None else cpu)
        )
        with self._client.exclusive():
            wanted = (eth, self.header_filter()[1] if cpu is None else to_cpu)
            self._request(Command.SET_HEADERFILTER, wanted[1] << 16 | eth)
            self._check("header filter", wanted, self.header_filter())

    # --- the wire -----------------------------------------------------------------------------------------------------
    @property
    def _where(self) -> str:
        return f"{self._client.address} chip {self.index}"

    def _request(self, command: Command, value: int = 0) -> Answer:
        return self._client.request(command, self.index, (value,))

    def _get(self, command: Command, value: int = 0) -> int:
        return self._request(command, value).value

    def _read_column(self, column: int) -> bytes:
        answer = self._request(Command.GET_PIXCONF, column)
        self._check("column", column, answer.value)
        return answer.data

    def _set_word(self, setter: Command, getter: Command, kind: type[ConfigWord], config: SupportsIndex) -> None:
        try:
            word = kind.from_word(config).word
        except (TypeError, ValueError) as error:
            raise LimitError(f"{self._where}: {error}; nothing was sent") from None
        with self._client.exclusive():
            self._request(setter, word)
            self._check(kind.__name__, hex(word), hex(self._get(getter)))

    def _set_plain(self, setter: Command, getter: Command, name: str, value: int, limit: int) -> None:
        word = whole(self._where, f"the {name}", value, 0, limit)
        with self._client.exclusive():
            self._request(setter, word)
            self._check(name, value, self._get(getter))

    def _adc_channel(self) -> int:
        """The ADC channel of a chip's sensed voltages bears the chip's number, but two are those of the board (?)."""
        if self.index in (ADC_BIAS_CHANNEL, ADC_VDDA_CHANNEL):
            raise LimitError(
                f"{self._where}: the ADC channel {self.index} measures the bias or VDDA on a board with several chips; "
                "no source states the channel of this chip. Ask chip 0 or 3"
            )
        return self.index

    def _check(self, name: str, wanted: object, got: object) -> None:
        if wanted != got:
            raise ReadBackError(
                f"{self._where}: {name} was set to {wanted} and reads back {got}; reset the chip and configure it again"
            )

    def _check_matrix(self, wanted: PixelMatrix, got: PixelMatrix) -> None:
        different = np.argwhere(wanted.codes() != got.codes())
        if len(different):
            column, row = different[0]
            raise ReadBackError(
                f"{self._where}: {len(different)} pixels read back other than uploaded, the first at column {column}, "
                f"row {row}; upload again, else reset the chip"
            )


def _sense_code(source: Dac | SenseCode | None) -> int:
    return SENSE_OFF if source is None else source.code if isinstance(source, Dac) else int(source)


def _ipv4(address: str) -> int:
    try:
        return int(IPv4Address(address))
    except AddressValueError:
        raise LimitError(f"{address!r} is no IPv4 address; a board can send to no other") from None
