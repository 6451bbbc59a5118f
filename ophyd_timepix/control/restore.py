"""After a line was lost and is back: compare what the board holds with what was set, and set again what it lost.

What tells a power cycle from a cable that was pulled, from cheap to dear:

1. A chip's 48-bit timer (one request), where one was read before: when it stands where the host's clock says, the chip
   was on all the time. When it went back, it was not. Anything else proves nothing.
2. All single values that can be read: DACs, words, registers, addresses (some 30 requests a chip). These are always
   compared: another client may have been there.
3. The pixel matrix (256 requests a chip) is compared unless the timer proves that the chip was on *and* no value was
   lost. What cannot be read back at all (fans, masks of links) is set again in the same cases.

Actions are never repeated: nothing starts. Knows the line and the bias supply; it is called within the line's lock,
with noting suspended, so that what is wanted stays what it was, however this ends.
"""

import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

import numpy as np

from ophyd_timepix.clock import NS_PER_COUNT
from ophyd_timepix.protocol import Command, LinkStatus, PixelMatrix, Register, Scope
from ophyd_timepix.protocol.commands import MAX_DEVICES
from ophyd_timepix.protocol.pixel_matrix import CODE_MAX, pack
from ophyd_timepix.protocol.words import MATRIX_SIDE

from .bias import BiasSupply
from .errors import BoardError, ReadBackError
from .info import TimerReading
from .memory import MatrixMemory, ReadBack, Remembered, SettingsMemory

log = logging.getLogger(__name__)

TIMER_TOLERANCE_S = 0.001
TIMER_TOLERANCE_PPM: Final = 200.0
"""Two quartz clocks, and room; half of each round trip comes on top. Tight, because a board that was power-cycled
right after its timer was restarted must not pass; in doubt everything is compared, which costs little."""
_NAMES_IN_TEXT: Final = 5
_TRIGGER_WORDS: Final = 5
_REGISTERS: Final = {register.address: register for register in Register}


@dataclass(frozen=True)
class RestoreReport:
    """What a comparison after a loss found."""

    address: str
    compared: int
    """Settings that were remembered; a matrix is one."""
    lost: tuple[str, ...]
    """Those that the board did not hold any more; they were set again."""
    undone: tuple[str, ...]
    """Those whose last request got no answer and had been carried out; they are as they were before it."""
    restarted: bool
    """The board lost its state: its timers, counters and read-out began anew too, and a run that was on is over."""
    seconds: float
    away: tuple[int, ...] = ()
    """Chips whose links are not locked: what they were set to waits until they are asked something and are there."""

    @property
    def is_news(self) -> bool:
        """Whether something is not as it was."""
        return bool(self.lost or self.undone or self.restarted or self.away)

    def __str__(self) -> str:
        waiting = "".join(f"; chip {chip} is not there, its settings wait for it" for chip in self.away)
        return self._outcome() + waiting

    def _outcome(self) -> str:
        text = f"the board at {self.address} was gone and is back"
        if self.lost:
            return f"{text}; {len(self.lost)} of {self.compared} settings were lost and set again ({_some(self.lost)})"
        if self.restarted:
            return f"{text}; it was restarted, and no setting was lost"
        if self.undone:
            return f"{text}; set back, as their requests got no answer: {_some(self.undone)}"
        return f"{text}; " + (f"its {self.compared} settings are as they were" if self.compared else "nothing was set")


def _some(names: tuple[str, ...]) -> str:
    more = f" and {len(names) - _NAMES_IN_TEXT} more" if len(names) > _NAMES_IN_TEXT else ""
    return ", ".join(names[:_NAMES_IN_TEXT]) + more


class Continuity(Enum):
    """What the timers say about the time in between."""

    PROVEN = auto()
    """The chips were on."""
    UNKNOWN = auto()
    BROKEN = auto()
    """They were not."""


class Restoration:
    """One comparison. `run` raises ControlError when the board refuses, or does not hold what is set again."""

    def __init__(self, supply: BiasSupply) -> None:
        self._supply = supply
        self._client = supply.client
        self._memory = supply.client.memory
        self._away: tuple[int, ...] = ()
        self._lost: list[str] = []
        self._undone: list[str] = []

    def run(self) -> RestoreReport:
        """Compare, set again, report."""
        began = time.monotonic()
        memory = self._memory
        compared = len(memory)
        continuity = self._continuity()
        proven = continuity is Continuity.PROVEN
        self._restore_power()
        self._away = self._chips_away()
        items = [item for item in memory.items() if not self._is_away(item)]
        for item in items:
            if item.setting.read_back is not ReadBack.NONE:
                self._restore_item(item)
        for chip, matrix in memory.matrices().items():
            if chip in self._away:
                continue
            if self._lost or not proven or memory.in_doubt(Command.SET_PIXCONF, device=chip):
                self._restore_matrix(chip, matrix)
        restarted = continuity is Continuity.BROKEN or (bool(self._lost) and not proven)
        for item in items:
            if item.setting.read_back is ReadBack.NONE and (self._lost or not proven or _doubtful(memory, item)):
                self._set_unreadable(item, restarted)
        bias_in_doubt = memory.in_doubt(Command.SET_BIAS_ADJUST, Command.BIAS_SUPPLY_ENA)
        if self._lost or not proven or bias_in_doubt:
            (self._undone if bias_in_doubt else self._lost).extend(self._supply.restore_bias())
        memory.settle_doubts()
        if not proven:
            memory.forget_timers()
        seconds = time.monotonic() - began
        return RestoreReport(
            self._client.address, compared, tuple(self._lost), tuple(self._undone), restarted, seconds, self._away
        )

    # --- signs --------------------------------------------------------------------------------------------------------
    def _continuity(self) -> Continuity:
        signs = [self._sign_of(chip, before) for chip, before in self._memory.timers().items()]
        if Continuity.BROKEN in signs:
            return Continuity.BROKEN
        return Continuity.PROVEN if signs and set(signs) == {Continuity.PROVEN} else Continuity.UNKNOWN

    def _sign_of(self, chip: int, before: TimerReading) -> Continuity:
        try:
            answer = self._client.request(Command.GET_TIMER, chip)
        except BoardError:  # no such chip any more: what concerns it will say so
            return Continuity.UNKNOWN
        low, high = answer.ints
        now = TimerReading(high << 32 | low, answer.sent_ns, answer.received_ns)
        if now.went_back_since(before):
            return Continuity.BROKEN
        passed_s = (now.host_ns - before.host_ns) / 1e9
        off_s = (now.counts - before.counts) * NS_PER_COUNT / 1e9 - passed_s
        trips_s = (_trip_ns(before) + _trip_ns(now)) / 2e9
        near = abs(off_s) <= TIMER_TOLERANCE_S + trips_s + passed_s * TIMER_TOLERANCE_PPM * 1e-6
        return Continuity.PROVEN if near else Continuity.UNKNOWN

    # --- single values ------------------------------------------------------------------------------------------------
    def _restore_power(self) -> None:
        """The chips' power, as far as it was switched: whether it is on shows in the links."""
        words = self._memory.last(Command.TPX_POWER_ENA)
        if words is None:
            return
        if any(self._is_ready(chip) for chip in range(MAX_DEVICES)) != bool(words[0]):
            self._client.request(Command.TPX_POWER_ENA, 0, words)
            self._lost.append("power of the chips")

    def _chips_away(self) -> tuple[int, ...]:
        """Chips that were set and cannot be asked now. The others, the bias above all, must not wait for them."""
        of_chips = (item.device for item in self._memory.items() if item.setting.setter.scope is Scope.CHIP)
        return tuple(chip for chip in sorted({*of_chips, *self._memory.matrices()}) if not self._is_ready(chip))

    def _is_away(self, item: Remembered) -> bool:
        return item.setting.setter.scope is Scope.CHIP and item.device in self._away

    def _is_ready(self, chip: int) -> bool:
        return LinkStatus.from_word(self._register(Register.LINK_STATUS.at(chip))).ready

    def _restore_item(self, item: Remembered) -> None:
        held = self._held(item)
        if held == _wanted(item):
            return
        self._set(item)
        if self._held(item) != _wanted(item):
            raise ReadBackError(
                f"{self._client.address}: {item.name} was lost, and reads back another value after it was set again; "
                "reset the board and configure it"
            )
        (self._undone if _doubtful(self._memory, item) else self._lost).append(item.name)

    def _held(self, item: Remembered) -> tuple[int, ...] | bytes:
        """What the board holds, in the form of `_wanted`."""
        setting, getter = item.setting, item.setting.getter
        if getter is None:
            raise ValueError(f"{item.name} cannot be read")
        if setting.read_back is ReadBack.DECODERS:
            return (int(bool(_DECODERS.get(self._register(Register.DECODER_CONTROL.address)))),)
        if setting.read_back is ReadBack.REGISTER:
            return (self._register(item.selector) & _mask_of(item.selector),)
        answer = self._client.request(getter, item.device, (item.selector,))
        if item.data:
            return answer.data
        return _with_delay(answer.ints) if getter is Command.GET_TRIGCONFIG else answer.ints

    def _set(self, item: Remembered) -> None:
        ints = item.ints
        if item.setting.read_back is ReadBack.REGISTER:
            mask = _mask_of(item.selector)
            ints = (item.selector, self._register(item.selector) & ~mask | ints[1] & mask)
        self._client.request(item.setting.setter, item.device, ints, item.data)
        if item.setting.setter is Command.SET_TRIGCONFIG and self._held(item) != _wanted(item):
            # Without a delay it was sent without one: older firmware knows none. This one holds another.
            self._client.request(Command.SET_TRIGCONFIG, 0, _with_delay(ints))

    def _set_unreadable(self, item: Remembered, restarted: bool) -> None:
        self._client.request(item.setting.setter, item.device, item.ints, item.data)
        if restarted:
            self._lost.append(item.name)

    def _register(self, address: int) -> int:
        return self._client.request(Command.GET_SPIDRREG, 0, (address,)).ints[1]

    # --- the matrix ---------------------------------------------------------------------------------------------------
    def _restore_matrix(self, chip: int, matrix: MatrixMemory) -> None:
        lost = self._differing(chip, matrix)
        if not lost:
            return
        self._client.request(Command.RESET_PIXELS, chip)
        for first_column, data in _messages(matrix):
            self._client.request(Command.SET_PIXCONF, chip, (first_column,), data)
        left = self._differing(chip, matrix)
        if left:
            raise ReadBackError(
                f"{self._client.address} chip {chip}: {len(left)} columns of the pixel matrix read back other than "
                f"uploaded, the first is {left[0]}; reset the chip and configure it"
            )
        names = self._undone if self._memory.in_doubt(Command.SET_PIXCONF, device=chip) else self._lost
        names.append(f"chip {chip} pixel matrix ({len(lost)} columns)")

    def _differing(self, chip: int, matrix: MatrixMemory) -> list[int]:
        """The uploaded columns that the chip holds otherwise."""
        return [
            int(column)
            for column in np.flatnonzero(matrix.known)
            if self._column(chip, int(column)) != matrix.codes[column].tobytes()
        ]

    def _column(self, chip: int, column: int) -> bytes:
        data = self._client.request(Command.GET_PIXCONF, chip, (column,)).data
        return (np.frombuffer(data, np.uint8) & np.uint8(CODE_MAX)).tobytes()


_DECODERS: Final = Register.DECODER_CONTROL.field("decoders")


def _trip_ns(reading: TimerReading) -> int:
    return reading.host_after_ns - reading.host_before_ns


def _doubtful(memory: SettingsMemory, item: Remembered) -> bool:
    return memory.in_doubt(item.setting.setter, device=item.device, selector=item.selector)


def _wanted(item: Remembered) -> tuple[int, ...] | bytes:
    if item.setting.read_back is ReadBack.REGISTER:
        return (item.ints[1] & _mask_of(item.selector),)
    if item.data:
        return item.data
    return _with_delay(item.ints) if item.setting.setter is Command.SET_TRIGCONFIG else item.ints


def _with_delay(words: tuple[int, ...]) -> tuple[int, ...]:
    return (words + (0,) * _TRIGGER_WORDS)[:_TRIGGER_WORDS]


def _mask_of(address: int) -> int:
    """The bits of a register that its table names; the others may be the board's own."""
    mask = 0
    for field in _REGISTERS[address].fields:
        mask |= field.bits.mask << field.bits.shift
    return mask


def _messages(matrix: MatrixMemory) -> Iterator[tuple[int, bytes]]:
    """What uploads the known columns: the usual messages when all are known, else a message for each column."""
    if int(matrix.known.sum()) == MATRIX_SIDE:
        yield from PixelMatrix.from_codes(matrix.codes).upload()
        return
    for column in np.flatnonzero(matrix.known):
        yield int(column), pack(matrix.codes[column])
