"""Every command of the SPIDR control protocol, one table entry each: code, scope, payload forms, unit, meaning.

Client, simulator, devices and documentation read this table; a wire layout stands nowhere else. Sources: [P] Pymepix
(spidrcmds.py, spidrcontroller.py, spidrdevice.py), [N] the NIKHEF SPIDR library. What no public source confirms says so
in the last column (`uncertain`). This module knows no socket and no device.
"""

import struct
from dataclasses import dataclass
from enum import Enum
from typing import Final

from .errors import LocalProtocolError

INT_BYTES: Final = 4
MAX_INT: Final = 0xFFFF_FFFF


class Scope(Enum):
    """What the device number of a request means."""

    BOARD = "board"
    """Always 0."""
    CHIP = "chip"
    """0-based index of a chip."""
    EITHER = "board or chip"
    """0 for the board, or the index of a chip."""


@dataclass(frozen=True)
class Form:
    """The payload of a message: some 32-bit words in network order, then some raw bytes. A range where both occur."""

    min_ints: int
    max_ints: int
    min_bytes: int = 0
    max_bytes: int = 0
    is_ack: bool = False
    """The values mean nothing: the message says only that the command was taken."""

    @property
    def min_length(self) -> int:
        """Bytes of the shortest payload."""
        return self.min_ints * INT_BYTES + self.min_bytes

    @property
    def max_length(self) -> int:
        """Bytes of the longest payload."""
        return self.max_ints * INT_BYTES + self.max_bytes

    def fits(self, length: int) -> bool:
        """Whether a payload of `length` bytes can have this form."""
        whole_ints = self.max_bytes > 0 or length % INT_BYTES == 0
        return whole_ints and self.min_length <= length <= self.max_length

    def join(self, ints: tuple[int, ...], data: bytes) -> bytes:
        """The payload of these values. Raises LocalProtocolError when they do not have this form."""
        if not self.min_ints <= len(ints) <= self.max_ints:
            raise LocalProtocolError(f"{len(ints)} words given, {_range(self.min_ints, self.max_ints)} needed")
        if not self.min_bytes <= len(data) <= self.max_bytes:
            raise LocalProtocolError(f"{len(data)} bytes given, {_range(self.min_bytes, self.max_bytes)} needed")
        for value in ints:
            if not hasattr(value, "__index__") or not 0 <= value <= MAX_INT:
                raise LocalProtocolError(f"value {value!r} does not fit in a word of 32 bits (0 to {MAX_INT})")
        return struct.pack(f">{len(ints)}I", *ints) + data

    def split(self, payload: bytes) -> tuple[tuple[int, ...], bytes]:
        """(words, bytes) of a payload. What goes beyond the form is left out: no known client objects to it [P] [N]."""
        n_ints = self.min_ints if self.max_bytes else min(self.max_ints, len(payload) // INT_BYTES)
        end = n_ints * INT_BYTES
        return struct.unpack_from(f">{n_ints}I", payload), bytes(payload[end : end + self.max_bytes])


def _range(low: int, high: int) -> str:
    return str(low) if low == high else f"{low} to {high}"


def _ints(low: int, high: int | None = None) -> Form:
    return Form(low, low if high is None else high)


def _bytes(n: int) -> Form:
    return Form(0, 0, n, n)


def _int_and_bytes(low: int, high: int | None = None) -> Form:
    return Form(1, 1, low, low if high is None else high)


_INT = _ints(1)
_ACK = Form(1, 1, is_ack=True)
_OPTIONAL_INT = _ints(0, 1)
_TRIGGER = _ints(4, 5)
"""Mode, length (us), frequency (Hz), count, and with newer firmware delay (ns)."""
_SUPPLY = _ints(3)
_TIME = _ints(2)
"""Low 32 bits, then high bits, of a 25 ns count."""

PACKET_MAX_BYTES: Final = 1024
FLASH_PAGE_BYTES: Final = 1024
CTPR_BYTES: Final = 32

_BOARD, _CHIP, _EITHER = Scope.BOARD, Scope.CHIP, Scope.EITHER
_UNUSED = "no public client uses it"
_PAYLOAD = "payload not confirmed by a public source"
_ADDRESSES = "whose address and port these are"
_SWAPPED = "a table of names in [N] swaps 0x332 and 0x333; these are the numbers of its definitions"


class Command(Enum):
    """A command: code, scope, form of the request, form of the reply, unit of the value, meaning, what is uncertain."""

    def __init__(
        self, code: int, scope: Scope, request: Form, reply: Form, unit: str, meaning: str, uncertain: str = ""
    ) -> None:
        self.code = code
        self.scope = scope
        self.request = request
        self.reply = reply
        self.unit = unit
        self.meaning = meaning
        self.uncertain = uncertain

    def __repr__(self) -> str:
        return f"<Command.{self.name} 0x{self.code:03X}>"

    # --- the module ---------------------------------------------------------------------------------------------------
    NOP = 0x000, _BOARD, _OPTIONAL_INT, _OPTIONAL_INT, "", "does nothing", _PAYLOAD
    GET_SOFTWVERSION = 0x901, _BOARD, _INT, _INT, "hex YYMMDDrr", "version of the LEON software"
    GET_FIRMWVERSION = 0x902, _BOARD, _INT, _INT, "hex YYMMDDrr", "version of the FPGA firmware"
    GET_HEADERFILTER = 0x905, _CHIP, _INT, _INT, "bits", "low 16: header nibbles passed to UDP; high 16: to the CPU"
    SET_HEADERFILTER = 0x906, _CHIP, _INT, _ACK, "bits", "header nibbles passed: eth | cpu << 16"
    RESET_MODULE = (
        0x907,
        _BOARD,
        _INT,
        _INT,
        "bits",
        "reset all; argument: link speed magic; reply: status of the init, 0 = good",
        "what the bits of the status say",
    )
    SET_BUSY = 0x908, _BOARD, _INT, _ACK, "", "hold the data: the receiver is nearly full"
    CLEAR_BUSY = 0x909, _BOARD, _INT, _ACK, "", "let the data flow again"
    SET_LOGLEVEL = 0x90A, _BOARD, _INT, _ACK, "", "verbosity of the board's own log"
    DISPLAY_INFO = 0x90B, _BOARD, _INT, _ACK, "", "show information on the board's display"
    SET_TIMEOFDAY = 0x90C, _BOARD, _INT, _ACK, "", "set the board's time of day", _PAYLOAD
    GET_DEVICECOUNT = 0x90D, _BOARD, _INT, _INT, "chips", "chips that the board can carry (4, also when absent)"
    GET_BOARDID = 0x90E, _BOARD, _INT, _INT, "", "id of the board", "old firmware: number of ports"
    GET_CHIPBOARDID = 0x90F, _BOARD, _INT, _INT, "", "id of the chip board"

    # --- identity and network -----------------------------------------------------------------------------------------
    GET_DEVICEID = 0x110, _CHIP, _INT, _INT, "", "id of a chip (wafer, X, Y)"
    GET_DEVICEIDS = 0x111, _BOARD, _INT, _ints(1, 4), "", "ids of all chips"
    GET_IPADDR_SRC = 0x112, _CHIP, _INT, _INT, "IPv4", "source address of the chip's datagrams"
    SET_IPADDR_SRC = 0x113, _CHIP, _INT, _ACK, "IPv4", "source address of the chip's datagrams"
    GET_IPADDR_DEST = 0x114, _CHIP, _INT, _INT, "IPv4", "destination address of the chip's datagrams"
    SET_IPADDR_DEST = 0x115, _CHIP, _INT, _ACK, "IPv4", "destination address of the chip's datagrams"
    GET_DEVICEPORT = 0x116, _CHIP, _INT, _INT, "port", "source port of the chip's datagrams"
    GET_SERVERPORT = 0x117, _CHIP, _INT, _INT, "port", "destination port of the chip's datagrams"
    SET_SERVERPORT = 0x119, _CHIP, _INT, _ACK, "port", "destination port of the chip's datagrams"

    # --- DACs, column test pulses, resets -----------------------------------------------------------------------------
    GET_DAC = 0x11A, _CHIP, _INT, _INT, "code << 16 | value", "a DAC setting; argument: DAC code"
    SET_DAC = 0x11B, _CHIP, _INT, _ACK, "code << 16 | value", "a DAC setting"
    SET_DACS_DFLT = 0x11F, _CHIP, _INT, _ACK, "", "all DACs to the chip's reset values"
    CONFIG_CTPR = 0x120, _CHIP, _INT, _ACK, "column << 16 | bit", "one bit of the column test-pulse register", _UNUSED
    SET_CTPR = 0x121, _CHIP, _int_and_bytes(CTPR_BYTES), _ACK, "bits", "the column test-pulse register; argument 0"
    GET_CTPR = 0x122, _CHIP, _INT, _bytes(CTPR_BYTES), "bits", "the column test-pulse register"
    SET_CTPR_LEON = 0x123, _CHIP, _INT, _ACK, "", "column test-pulse register from the LEON's memory", _PAYLOAD
    RESET_DEVICE = 0x124, _CHIP, _INT, _ACK, "", "reset a chip"
    RESET_DEVICES = 0x125, _BOARD, _INT, _ACK, "", "reset all chips"
    REINIT_DEVICE = 0x126, _CHIP, _INT, _ACK, "", "initialise a chip and its links again"
    REINIT_DEVICES = 0x127, _BOARD, _INT, _ACK, "", "initialise all chips and their links again"
    GET_EFUSES = 0x128, _CHIP, _INT, _INT, "bits", "the chip's fuses"
    BURN_EFUSE = 0x129, _CHIP, _INT, _ACK, "selection << 6 | width", "burns a fuse for ever; wafer probing only"

    # --- pixel matrix -------------------------------------------------------------------------------------------------
    SET_PIXCONF = (
        0x22A,
        _CHIP,
        _int_and_bytes(192, 1024),
        _ACK,
        "",
        "first column and pixel configuration, packed or a byte per pixel",
        "how the board tells the two apart; probably by length",
    )
    GET_PIXCONF = 0x22D, _CHIP, _INT, _int_and_bytes(256), "", "column number and its 256 pixels, one byte each"
    RESET_PIXELS = 0x22E, _CHIP, _INT, _ACK, "", "reset the matrix; does not clear the pixel configuration bits"

    # --- test pulses and configuration words --------------------------------------------------------------------------
    GET_TPPERIODPHASE = 0x330, _CHIP, _INT, _INT, "phase << 16 | period", "test pulse period and phase"
    SET_TPPERIODPHASE = 0x331, _CHIP, _INT, _ACK, "phase << 16 | period", "test pulse period and phase"
    SET_TPNUMBER = 0x332, _CHIP, _INT, _ACK, "pulses", "number of test pulses", _SWAPPED
    GET_TPNUMBER = 0x333, _CHIP, _INT, _INT, "pulses", "number of test pulses", _SWAPPED
    GET_GENCONFIG = 0x334, _CHIP, _INT, _INT, "bits", "general configuration (12 bits)"
    SET_GENCONFIG = 0x335, _CHIP, _INT, _ACK, "bits", "general configuration (12 bits)"
    GET_PLLCONFIG = 0x336, _CHIP, _INT, _INT, "bits", "PLL configuration (14 bits)"
    SET_PLLCONFIG = 0x337, _CHIP, _INT, _ACK, "bits", "PLL configuration (14 bits)"
    SET_SENSEDAC = 0x338, _CHIP, _INT, _ACK, "code", "route a DAC to the board's ADC; 0 = none"
    SET_EXTDAC = 0x33A, _CHIP, _INT, _ACK, "code << 16 | value", "drive a DAC from outside"
    UPLOAD_PACKET = 0x33B, _CHIP, _int_and_bytes(1, PACKET_MAX_BYTES), _ACK, "", "size and a raw slow-control packet"
    GET_OUTBLOCKCONFIG = 0x33C, _CHIP, _INT, _INT, "bits", "output block configuration (16 bits)"
    SET_OUTBLOCKCONFIG = 0x33D, _CHIP, _INT, _ACK, "bits", "output block configuration (16 bits)"
    GET_SLVSCONFIG = 0x33E, _CHIP, _INT, _INT, "bits", "SLVS drivers of the chip"
    SET_SLVSCONFIG = 0x33F, _CHIP, _INT, _ACK, "bits", "SLVS drivers of the chip"

    # --- shutter and read-out -----------------------------------------------------------------------------------------
    GET_TRIGCONFIG = 0x440, _BOARD, _INT, _TRIGGER, "", "shutter mode, length (us), frequency (Hz), count, delay (ns)"
    SET_TRIGCONFIG = 0x441, _BOARD, _TRIGGER, _ACK, "", "shutter mode, length (us), frequency (Hz), count, delay (ns)"
    AUTOTRIG_START = 0x442, _BOARD, _INT, _ACK, "", "start the automatic shutter"
    AUTOTRIG_STOP = 0x443, _BOARD, _INT, _ACK, "", "stop it; closes the shutter"
    SEQ_READOUT = 0x445, _BOARD, _INT, _ACK, "tokens", "sequential read-out; bit 31: now"
    DDRIVEN_READOUT = 0x446, _BOARD, _INT, _ACK, "", "data-driven read-out on"
    PAUSE_READOUT = 0x447, _BOARD, _INT, _ACK, "", "read-out off"

    # --- monitoring ---------------------------------------------------------------------------------------------------
    GET_ADC = 0x548, _BOARD, _INT, _INT, "samples", "obsolete ADC reading", "obsolete; " + _UNUSED
    GET_REMOTETEMP = 0x549, _BOARD, _INT, _INT, "mdegC", "temperature of the remote sensor (chip)"
    GET_LOCALTEMP = 0x54A, _BOARD, _INT, _INT, "mdegC", "temperature of the board"
    GET_AVDD = 0x54B, _BOARD, _INT, _SUPPLY, "mV, mA, mW", "analogue supply"
    GET_DVDD = 0x54C, _BOARD, _INT, _SUPPLY, "mV, mA, mW", "digital supply"
    GET_AVDD_NOW = 0x54D, _BOARD, _INT, _SUPPLY, "mV, mA, mW", "analogue supply, measured now"
    GET_SPIDR_ADC = (
        0x54E,
        _BOARD,
        _INT,
        _INT,
        "12 bit",
        "sum of samples; argument: channel | samples << 16; channel n: what chip n puts out, 1: bias, 2: VDDA",
        "how the channels 1 and 2 are shared with the chips 1 and 2",
    )
    GET_DVDD_NOW = 0x54F, _BOARD, _INT, _SUPPLY, "mV, mA, mW", "digital supply, measured now"

    # --- timers and counters ------------------------------------------------------------------------------------------
    RESTART_TIMERS = 0x550, _BOARD, _INT, _ACK, "", "start the timers of board and chips together"
    RESET_TIMER = 0x551, _EITHER, _INT, _ACK, "", "48-bit timer to 0"
    GET_TIMER = 0x552, _CHIP, _INT, _TIME, "25 ns", "48-bit timer, low and high; the chip answers in its UDP stream too"
    SET_TIMER = 0x553, _CHIP, _TIME, _ACK, "25 ns", "48-bit timer, low and high"
    GET_SHUTTERSTART = 0x554, _CHIP, _INT, _TIME, "25 ns", "timer at the last opening of the shutter"
    GET_SHUTTEREND = 0x555, _CHIP, _INT, _TIME, "25 ns", "timer at the last closing of the shutter"
    GET_EXTSHUTTERCNTR = 0x556, _BOARD, _INT, _INT, "", "external shutters", "2014 firmware: shutters"
    GET_SHUTTERCNTR = 0x557, _BOARD, _INT, _INT, "", "shutters", "2014 firmware: triggers"
    RESET_COUNTERS = 0x558, _BOARD, _INT, _ACK, "", "shutter and trigger counters to 0", "which counters it resets"

    # --- power, bias, decoders ----------------------------------------------------------------------------------------
    GET_PWRPULSECONFIG = 0x55B, _CHIP, _INT, _INT, "bits", "power pulsing"
    SET_PWRPULSECONFIG = 0x55C, _CHIP, _INT, _ACK, "bits", "power pulsing"
    PWRPULSE_ENA = 0x55D, _BOARD, _INT, _ACK, "0 | 1", "power pulsing on"
    TPX_POWER_ENA = 0x55E, _BOARD, _INT, _ACK, "0 | 1", "power of the chips on"
    BIAS_SUPPLY_ENA = 0x55F, _BOARD, _INT, _ACK, "0 | 1", "bias supply on"
    SET_BIAS_ADJUST = 0x560, _BOARD, _INT, _ACK, "12 bit", "bias DAC: 12 V + value * 92 V / 4095"
    DECODERS_ENA = 0x561, _BOARD, _INT, _ACK, "0 | 1", "the FPGA decodes Gray and LFSR counters"
    SET_OUTPUTMASK = 0x562, _CHIP, _INT, _ACK, "bits", "output links of a chip"
    SET_READOUTSPEED = 0x563, _CHIP, _INT, _ACK, "Mbit/s", "speed of a chip's links"
    GET_READOUTSPEED = 0x564, _CHIP, _INT, _INT, "Mbit/s", "speed of a chip's links"
    T0_SYNC = 0x565, _CHIP, _INT, _ACK, "", "T0 synchronisation of a chip"

    # --- environment --------------------------------------------------------------------------------------------------
    GET_FPGATEMP = 0x568, _BOARD, _INT, _INT, "mdegC", "temperature of the FPGA"
    GET_FANSPEED = 0x569, _BOARD, _INT, _INT, "rpm", "a fan; argument: 0 chip board, 1 board"
    SET_FANSPEED = 0x56A, _BOARD, _INT, _ACK, "index << 16 | percent", "a fan"
    SELECT_CHIPBOARD = 0x56B, _BOARD, _INT, _ACK, "", "choose a chip board"
    GET_VDD = 0x56C, _BOARD, _INT, _SUPPLY, "mV, mA, mW", "third supply"
    GET_VDD_NOW = 0x56D, _BOARD, _INT, _SUPPLY, "mV, mA, mW", "third supply, measured now"
    GET_HUMIDITY = 0x56E, _BOARD, _INT, _INT, "%", "relative humidity"
    GET_PRESSURE = 0x56F, _BOARD, _INT, _INT, "mbar", "air pressure"

    # --- flash --------------------------------------------------------------------------------------------------------
    STORE_ADDRPORTS = (
        0x670,
        _EITHER,
        _ints(2),
        _ACK,
        "IPv4, port",
        "store addresses; active after a power cycle",
        _ADDRESSES,
    )
    STORE_DACS = 0x671, _EITHER, _INT, _ACK, "", "store the DACs"
    STORE_REGISTERS = 0x672, _EITHER, _INT, _ACK, "", "store the registers"
    STORE_PIXCONF = 0x673, _EITHER, _INT, _ACK, "", "store the pixel configuration"
    ERASE_ADDRPORTS = 0x674, _EITHER, _INT, _ACK, "", "erase stored addresses"
    ERASE_DACS = 0x675, _EITHER, _INT, _ACK, "", "erase stored DACs"
    ERASE_REGISTERS = 0x676, _EITHER, _INT, _ACK, "", "erase stored registers"
    ERASE_PIXCONF = 0x677, _EITHER, _INT, _ACK, "", "erase stored pixel configuration"
    VALID_ADDRPORTS = 0x678, _EITHER, _INT, _INT, "0 | 1", "whether addresses are stored"
    VALID_DACS = 0x679, _EITHER, _INT, _INT, "0 | 1", "whether DACs are stored"
    VALID_REGISTERS = 0x67A, _EITHER, _INT, _INT, "0 | 1", "whether registers are stored"
    VALID_PIXCONF = 0x67B, _EITHER, _INT, _INT, "0 | 1", "whether a pixel configuration is stored"
    STORE_STARTOPTS = 0x67C, _BOARD, _INT, _ACK, "bits", "what is on after power-up: see StartOptions in registers"
    GET_STARTOPTS = 0x67D, _BOARD, _INT, _INT, "bits", "what is on after power-up"
    READ_FLASH = 0x67E, _BOARD, _INT, _bytes(FLASH_PAGE_BYTES), "address | id << 24", "a page of the flash", _PAYLOAD
    WRITE_FLASH = (
        0x67F,
        _BOARD,
        _int_and_bytes(FLASH_PAGE_BYTES),
        _ACK,
        "address | id << 24",
        "a page of the flash",
        _PAYLOAD,
    )

    # --- pins and registers -------------------------------------------------------------------------------------------
    GET_GPIO = 0x780, _BOARD, _INT, _INT, "bits", "all pins"
    SET_GPIO = 0x781, _BOARD, _INT, _ACK, "bits", "all pins"
    SET_GPIO_PIN = 0x782, _BOARD, _INT, _ACK, "pin << 16 | state", "one pin"
    GET_SPIDRREG = 0x783, _BOARD, _INT, _ints(2), "", "an FPGA register: address; reply: address, value"
    SET_SPIDRREG = 0x784, _BOARD, _ints(2), _ACK, "", "an FPGA register: address, value"
    SET_CHIPBOARDID = 0x785, _BOARD, _INT, _ACK, "", "id of the chip board"
    SET_BOARDID = 0x786, _BOARD, _INT, _ACK, "", "id of the board"


BY_CODE: Final[dict[int, Command]] = {command.code: command for command in Command}

MAX_DEVICES: Final = 4
"""Device numbers of a request are 0 to 3; 0 for the board. (A docstring of [P] says n + 1; its code and [N] do not.)"""

RESET_HIGH_SPEED: Final = 0x89AB_CDEF
"""Arguments of RESET_MODULE: fast links, slow links, as configured."""
RESET_LOW_SPEED: Final = 0x1234_5678
RESET_DEFAULT_SPEED: Final = 0
RESET_HARMLESS_STATUS: Final = 0x6000
"""EUDAQ takes this status of RESET_MODULE for harmless: read access to an EEPROM that is not there."""

ABSENT_CHIP_IDS: Final = (0x7FFF_FFFF, 0x8000_0000)
"""Ids that the board reports where there is no chip; both were seen."""

SEQ_READOUT_NOW: Final = 0x8000_0000
ALL_HEADERS: Final = 0xFFFF
"""Header filter that passes every word."""


class TriggerMode(Enum):
    """Shutter modes of SET_TRIGCONFIG: wire value, meaning. Only AUTO works reliably, says [P]; LHCb runs mode 0.

    Not documented: whether the external modes need AUTOTRIG_START, and what opens the shutter of PULSE_COUNTER.
    """

    def __init__(self, code: int, meaning: str) -> None:
        self.code = code
        self.meaning = meaning

    def __repr__(self) -> str:
        return f"<TriggerMode.{self.name} {self.code}>"

    EXTERNAL_RISING_FALLING = 0, "opens at a rising edge, closes at the falling edge"
    EXTERNAL_FALLING_RISING = 1, "opens at a falling edge, closes at the rising edge"
    EXTERNAL_RISING_TIMER = 2, "opens at a rising edge for the set length"
    EXTERNAL_FALLING_TIMER = 3, "opens at a falling edge for the set length"
    AUTO = 4, "opens `count` times at the set frequency for the set length; length 0: open until stopped"
    PULSE_COUNTER = 5, "closes after a number of pulses"
    OPEN = 6, "always open"


TRIGGER_MODES: Final[dict[int, TriggerMode]] = {mode.code: mode for mode in TriggerMode}
