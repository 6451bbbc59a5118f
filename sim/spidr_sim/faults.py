"""Faults by name: what can go wrong between a client and a board, to be had when a test or an operator asks for it.

A fault is written as one word of text::

    NAME[=VALUE][:COMMAND[:FIRST[:TIMES]]]

COMMAND is a name of the command table, or `any`; from the FIRST-th such request on (1: the next one) the fault strikes
TIMES times (1; 0: always). Faults of the board and of the line strike at once when no COMMAND is given. Examples:
`error-reply=0x0B06:SET_DAC`, `slow-reply=3:any:10:0`, `power-cycle`, `chip-gone=1`.

Faults of the data strike what leaves from now on, by its number, TIMES times (0: until `clear`)::

    NAME[=VALUE][:TIMES]

Examples: `drop=100`, `drop-at=7`, `truncate=5:3`, `pause=0.2`.

This module knows names and counts; `tcp.py` does the harm, and `data_faults.py` to the data.
"""

import threading
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum, auto
from itertools import pairwise
from typing import Final, Self

from ophyd_timepix.protocol import Command, ErrorId, ErrorWord, Tpx3Error
from ophyd_timepix.protocol.commands import MAX_DEVICES

ANY: Final = "any"
_MAX_SECONDS: Final = 3600.0
_SAID: Final = ErrorWord.of(ErrorId.TPX3_HARDWARE, Tpx3Error.TX_TIMEOUT).value


class Reach(Enum):
    """What a fault strikes."""

    REPLY = auto()
    """The reply to a request; the request was carried out, unless the meaning says otherwise."""
    LINE = auto()
    """The connection."""
    BOARD = auto()
    """The board or a chip, until `clear` where the meaning does not say otherwise."""


class Unit(Enum):
    """What the VALUE of a fault is."""

    NONE = auto()
    SECONDS = auto()
    CHIP = auto()
    BYTES = auto()
    ERROR_WORD = auto()
    EVERY = auto()
    PROBABILITY = auto()
    MICROSECONDS = auto()
    COUNTS = auto()


_FRACTIONS: Final = (Unit.SECONDS, Unit.PROBABILITY, Unit.MICROSECONDS)


class FaultName(Enum):
    """The faults: name, what is struck, unit and default of VALUE, meaning."""

    def __init__(self, text: str, reach: Reach, unit: Unit, default: float, meaning: str) -> None:
        self.text = text
        self.reach = reach
        self.unit = unit
        self.default = default
        self.meaning = meaning

    def __repr__(self) -> str:
        return f"<FaultName.{self.name}>"

    ERROR_REPLY = (
        "error-reply",
        Reach.REPLY,
        Unit.ERROR_WORD,
        _SAID,
        "the request is not carried out and answered with this error word",
    )
    SHORT_REPLY = (
        "short-reply",
        Reach.REPLY,
        Unit.NONE,
        0,
        "the last word of the reply is missing, and its length says so",
    )
    LONG_REPLY = "long-reply", Reach.REPLY, Unit.NONE, 0, "the reply states a length that no SPIDR message has"
    STRAY_BYTES = "stray-bytes", Reach.REPLY, Unit.BYTES, 8, "bytes that nobody asked for follow the reply"
    SPLIT_REPLY = (
        "split-reply",
        Reach.REPLY,
        Unit.SECONDS,
        0.02,
        "the reply comes in three parts, cut within the header and within the payload, with this pause between them",
    )
    MERGED_REPLIES = "merged-replies", Reach.REPLY, Unit.NONE, 0, "two replies in one piece: this one and a copy of it"
    STALLED = "stalled", Reach.REPLY, Unit.NONE, 0, "no reply; the connection stays"
    SLOW_REPLY = "slow-reply", Reach.REPLY, Unit.SECONDS, 1.0, "the reply comes so much later"
    WRONG_DEVICE = "wrong-device", Reach.REPLY, Unit.NONE, 0, "the reply names another chip"
    WRONG_COMMAND = "wrong-command", Reach.REPLY, Unit.NONE, 0, "the reply names another command"
    RESET = "reset", Reach.LINE, Unit.NONE, 0, "the connection is reset; the request was carried out"
    HALF_OPEN = (
        "half-open",
        Reach.LINE,
        Unit.NONE,
        0,
        "the connection is dead without a word; new ones work. The request is not carried out",
    )
    UNREACHABLE = (
        "unreachable",
        Reach.LINE,
        Unit.SECONDS,
        1.0,
        "the connection is reset and the port is closed for so long; the board keeps its state",
    )
    POWER_CYCLE = (
        "power-cycle",
        Reach.BOARD,
        Unit.NONE,
        0,
        "the connection is reset and all state that is not in the flash is lost",
    )
    REBOOT = "reboot", Reach.BOARD, Unit.SECONDS, 1.0, "as power-cycle, and the port is closed for so long"
    CHIP_GONE = "chip-gone", Reach.BOARD, Unit.CHIP, 0, "the chip is not there any more"
    LINK_UNLOCKED = (
        "link-unlocked",
        Reach.BOARD,
        Unit.CHIP,
        0,
        "a link of the chip loses its lock; REINIT_DEVICE or RESET_MODULE locks it again",
    )


class DataFaultName(Enum):
    """The faults of the data: name, unit and default of VALUE, default of TIMES, meaning.

    Datagrams are counted over all chips of the board, in the order in which they are cut.
    """

    def __init__(self, text: str, unit: Unit, default: float, times: int, meaning: str) -> None:
        self.text = text
        self.unit = unit
        self.default = default
        self.times = times
        self.meaning = meaning

    def __repr__(self) -> str:
        return f"<DataFaultName.{self.name}>"

    DROP = "drop", Unit.EVERY, 100, 0, "every so-many-th datagram is lost on the way"
    DROP_AT = "drop-at", Unit.EVERY, 1, 1, "TIMES datagrams in a row are lost on the way, the first of them this one"
    DROP_RANDOM = "drop-random", Unit.PROBABILITY, 0.01, 0, "each datagram is lost on the way with this probability"
    REORDER = "reorder", Unit.EVERY, 100, 0, "every so-many-th datagram comes after the next one of its chip"
    DUPLICATE = "duplicate", Unit.EVERY, 100, 0, "every so-many-th datagram comes twice"
    TRUNCATE = "truncate", Unit.EVERY, 100, 0, "every so-many-th datagram lacks its last 3 bytes"
    CORRUPT = "corrupt", Unit.EVERY, 100, 0, "every so-many-th datagram has random words for its own"
    FOREIGN = "foreign", Unit.EVERY, 100, 0, "with every so-many-th datagram another comes from a stranger"
    BURST = "burst", Unit.SECONDS, 0.02, 1, "what leaves in this time is held up on the way and comes in one go"
    PAUSE = (
        "pause",
        Unit.SECONDS,
        0.1,
        1,
        "the board sends nothing for so long; then comes what waited, which it counts",
    )
    LATE = (
        "late",
        Unit.MICROSECONDS,
        500.0,
        100,
        "so many pixel words reach the board so much later; it stamps them then",
    )
    COUNTER_ROLL = "counter-roll", Unit.COUNTS, 1000, 1, "the board's counters start so many counts before their end"
    LOST_TIMER = "lost-timer", Unit.NONE, 0, 0, "GET_TIMER leaves no words in the stream"
    MISS_TRIGGER = "miss-trigger", Unit.EVERY, 100, 0, "every so-many-th pulse does not reach TDC input 1"
    DOUBLE_TRIGGER = "double-trigger", Unit.EVERY, 100, 0, "every so-many-th pulse on TDC input 1 has an echo"
    EDGES_ALWAYS = "edges-always", Unit.NONE, 0, 0, "the TDC sends edges while the shutter is closed, too"
    STALE = (
        "stale",
        Unit.COUNTS,
        50,
        0,
        "the board keeps the last so many words of each chip; those of one acquisition come with the next",
    )


FAULT_BY_TEXT: Final[dict[str, FaultName | DataFaultName]] = {
    name.text: name for names in (FaultName, DataFaultName) for name in names
}

_LIMITS: Final[dict[Unit, tuple[float, float]]] = {
    Unit.EVERY: (1, 1 << 40),
    Unit.PROBABILITY: (0.0, 1.0),
    Unit.MICROSECONDS: (0.0, 1e6),
    Unit.COUNTS: (1, 0xFFFF_FFFF),
    Unit.SECONDS: (0.0, _MAX_SECONDS),
    Unit.CHIP: (0, MAX_DEVICES - 1),
    Unit.BYTES: (1, 4096),
    Unit.ERROR_WORD: (1, 0xFFFF_FFFF),
}


@dataclass(frozen=True)
class Fault:
    """One fault, as asked for. Raises ValueError for what cannot be."""

    name: FaultName
    value: float
    command: Command | None = None
    """None: any request."""
    first: int = 1
    times: int = 1
    """0: always."""
    at_once: bool = False
    """Waits for no request."""

    def __post_init__(self) -> None:
        if self.first < 1 or self.times < 0:
            raise ValueError(f"{self.name.text}: FIRST is 1 or more and TIMES 0 or more, not {self.first}:{self.times}")
        if self.at_once and self.name.reach is Reach.REPLY:
            raise ValueError(f"{self.name.text} strikes a reply: it needs a request")

    @classmethod
    def parse(cls, spec: str) -> Self:
        """From `NAME[=VALUE][:COMMAND[:FIRST[:TIMES]]]`. Raises ValueError that says what is wrong."""
        head, *rest = spec.strip().split(":")
        text, equals, value = head.partition("=")
        name = _named(text)
        if isinstance(name, DataFaultName):
            raise ValueError(f"{text} is a fault of the data")
        if len(rest) > 3:
            raise ValueError(f"{spec!r} has too many parts; a fault is NAME[=VALUE][:COMMAND[:FIRST[:TIMES]]]")
        first, times = (_count(spec, part) for part in (*rest[1:], *("1", "1")[len(rest[1:]) :]))
        number = _value(name, value) if equals else name.default
        at_once = not rest and name.reach is not Reach.REPLY
        return cls(name, number, _command(rest[0] if rest else ANY), first, times, at_once)

    def __str__(self) -> str:
        value = "" if self.name.unit is Unit.NONE else f"={_said(self.name.unit, self.value)}"
        where = "" if self.at_once else f":{self.command.name if self.command else ANY}:{self.first}:{self.times}"
        return f"{self.name.text}{value}{where}"


@dataclass(frozen=True)
class DataFault:
    """One fault of the data, as asked for. Raises ValueError for what cannot be."""

    name: DataFaultName
    value: float
    times: int
    """0: until `clear`."""

    def __post_init__(self) -> None:
        if self.times < 0:
            raise ValueError(f"{self.name.text}: TIMES is 0 or more, not {self.times}")

    @classmethod
    def parse(cls, spec: str) -> Self:
        """From `NAME[=VALUE][:TIMES]`. Raises ValueError that says what is wrong."""
        head, *rest = spec.strip().split(":")
        text, equals, value = head.partition("=")
        name = _named(text)
        if isinstance(name, FaultName):
            raise ValueError(f"{text} is no fault of the data")
        if len(rest) > 1:
            raise ValueError(f"{spec!r} has too many parts; a fault of the data is NAME[=VALUE][:TIMES]")
        number = _value(name, value) if equals else name.default
        return cls(name, number, _count(spec, rest[0]) if rest else name.times)

    def __str__(self) -> str:
        value = "" if self.name.unit is Unit.NONE else f"={_said(self.name.unit, self.value)}"
        return f"{self.name.text}{value}:{self.times}"


def parse_fault(spec: str) -> Fault | DataFault:
    """A fault from its text. Raises ValueError that says what is wrong."""
    of_data = isinstance(_named(spec.strip().partition(":")[0].partition("=")[0]), DataFaultName)
    return DataFault.parse(spec) if of_data else Fault.parse(spec)


def _named(text: str) -> FaultName | DataFaultName:
    name = FAULT_BY_TEXT.get(text)
    if name is None:
        raise ValueError(f"there is no fault {text!r}; there are: {', '.join(FAULT_BY_TEXT)}")
    return name


def _said(unit: Unit, value: float) -> str:
    if unit is Unit.ERROR_WORD:
        return f"0x{int(value):04X}"
    return f"{value:g}" if unit in _FRACTIONS else str(int(value))


def _command(text: str) -> Command | None:
    if text == ANY:
        return None
    if text not in Command.__members__:
        raise ValueError(f"there is no command {text!r}; give a name of the command table, or {ANY}")
    return Command[text]


def _count(spec: str, text: str) -> int:
    if not text.isdecimal():
        raise ValueError(f"{spec!r}: {text!r} is no number of times")
    return int(text)


def _value(name: FaultName | DataFaultName, text: str) -> float:
    if name.unit is Unit.NONE:
        raise ValueError(f"{name.text} takes no value, not {text!r}")
    try:
        value = float(text) if name.unit in _FRACTIONS else int(text, 0)
    except ValueError:
        raise ValueError(f"{name.text}: {text!r} is no number ({name.unit.name.lower()})") from None
    low, high = _LIMITS[name.unit]
    if not low <= value <= high:
        raise ValueError(f"{name.text} is {low:g} to {high:g} ({name.unit.name.lower()}), not {value:g}")
    return value


@dataclass
class _Armed:
    fault: Fault
    seen: int = 0
    """Requests of the fault's command so far."""

    def due(self) -> bool:
        """Count a request; whether the fault strikes it."""
        self.seen += 1
        return self.seen >= self.fault.first

    @property
    def spent(self) -> bool:
        return self.fault.times > 0 and self.seen >= self.fault.first + self.fault.times - 1


class Faults:
    """The faults that are armed. `arm` and `clear` may be called from any thread; the server takes them from its own.

    What was armed or cleared before a request was sent holds for that request.
    """

    def __init__(self, specs: Iterable[str] = ()) -> None:
        self._lock = threading.Lock()
        self._armed: list[_Armed] = []
        self._orders: deque[Fault | DataFault | None] = deque()
        self._wake: Callable[[], None] = lambda: None
        for spec in specs:
            self.arm(spec)

    def attach(self, wake: Callable[[], None]) -> None:
        """`wake` is called when something is to be done at once."""
        self._wake = wake

    def arm(self, spec: str | Fault | DataFault) -> Fault | DataFault:
        """Let it happen. Raises ValueError for a text that names no fault."""
        fault = parse_fault(spec) if isinstance(spec, str) else spec
        with self._lock:
            if isinstance(fault, Fault) and not fault.at_once:
                self._armed.append(_Armed(fault))
                return fault
            self._orders.append(fault)
        self._wake()
        return fault

    def clear(self) -> None:
        """No fault is armed any more; chips are there again, links lock, the port opens, what was held up leaves."""
        with self._lock:
            self._armed.clear()
            self._orders.append(None)
        self._wake()

    @property
    def armed(self) -> tuple[Fault, ...]:
        """What waits for requests."""
        with self._lock:
            return tuple(armed.fault for armed in self._armed)

    # --- for the server -----------------------------------------------------------------------------------------------
    def next_order(self) -> tuple[Fault | DataFault | None] | None:
        """What is to be done at once: a fault, or None within the tuple for `clear`. None when there is nothing."""
        with self._lock:
            return (self._orders.popleft(),) if self._orders else None

    def strike(self, command: Command | None, *, no_reply: bool = False) -> Fault | None:
        """The fault that strikes this request (None: a code that no command has). Requests without reply pass those
        that strike replies."""
        with self._lock:
            due: Fault | None = None
            for armed in list(self._armed):
                if not _matches(armed.fault, command, no_reply):
                    continue
                if armed.due():
                    due = due or armed.fault
                if armed.spent:
                    self._armed.remove(armed)
            return due


def _matches(fault: Fault, command: Command | None, no_reply: bool) -> bool:
    if no_reply and fault.name.reach is Reach.REPLY:
        return False
    return fault.command is None or fault.command is command


# --- replies that are not right ---------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Delivery:
    """How bytes go out: parts, and the seconds to wait before each."""

    parts: tuple[bytes, ...]
    pause_s: float = 0.0


_WORD: Final = 4
_HEADER: Final = 16
_DEVICE_AT: Final = 12
_LENGTH_AT: Final = 4
_IMPOSSIBLE_LENGTH: Final = 0x0010_0000


def spoiled(fault: Fault, reply: bytes) -> Delivery:
    """How a reply fault changes the bytes of a reply."""
    make = _SPOILERS.get(fault.name)
    return make(fault, reply) if make is not None else Delivery((reply,))


def _with_word(reply: bytes, at: int, value: int) -> bytes:
    return reply[:at] + value.to_bytes(_WORD, "big") + reply[at + _WORD :]


def _word(reply: bytes, at: int) -> int:
    return int.from_bytes(reply[at : at + _WORD], "big")


def _short(_fault: Fault, reply: bytes) -> Delivery:
    kept = max(len(reply) - _WORD, _HEADER)
    return Delivery((_with_word(reply[:kept], _LENGTH_AT, kept),))


def _long(_fault: Fault, reply: bytes) -> Delivery:
    return Delivery((_with_word(reply, _LENGTH_AT, _IMPOSSIBLE_LENGTH),))


def _stray(fault: Fault, reply: bytes) -> Delivery:
    return Delivery((reply + b"\xa5" * int(fault.value),))


def _split(fault: Fault, reply: bytes) -> Delivery:
    # Within the second word of the header, and within the first of the payload.
    cuts = (0, _LENGTH_AT + 2, _HEADER + 2, len(reply))
    return Delivery(tuple(reply[a:b] for a, b in pairwise(cuts) if a < b), fault.value)


def _merged(_fault: Fault, reply: bytes) -> Delivery:
    return Delivery((reply + reply,))


def _slow(fault: Fault, reply: bytes) -> Delivery:
    return Delivery((b"", reply), fault.value)


def _other_device(_fault: Fault, reply: bytes) -> Delivery:
    return Delivery((_with_word(reply, _DEVICE_AT, (_word(reply, _DEVICE_AT) + 1) % MAX_DEVICES),))


def _other_command(_fault: Fault, reply: bytes) -> Delivery:
    return Delivery((_with_word(reply, 0, _word(reply, 0) ^ 1),))


_SPOILERS: Final[dict[FaultName, Callable[[Fault, bytes], Delivery]]] = {
    FaultName.SHORT_REPLY: _short,
    FaultName.LONG_REPLY: _long,
    FaultName.STRAY_BYTES: _stray,
    FaultName.SPLIT_REPLY: _split,
    FaultName.MERGED_REPLIES: _merged,
    FaultName.STALLED: lambda fault, reply: Delivery(()),
    FaultName.SLOW_REPLY: _slow,
    FaultName.WRONG_DEVICE: _other_device,
    FaultName.WRONG_COMMAND: _other_command,
}
