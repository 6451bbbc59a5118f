"""What was set through a line, so that it can be compared and set again when the board was away.

A setting is what stays as it was set; an action (start the shutter, switch the read-out on, restart timers) is not
remembered, so restoring can start nothing. A reset makes forget what it resets, from the moment it is *asked for*:
whether or not its answer comes, nobody wants the old values back.

Pure: knows requests and answers, no socket. Its owner calls it under one lock.
"""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

import numpy as np

from ophyd_timepix.protocol import DAC_BY_CODE, Command, Register, Request, Scope
from ophyd_timepix.protocol.commands import MAX_DEVICES
from ophyd_timepix.protocol.pixel_matrix import SHAPE, Codes, decode_upload
from ophyd_timepix.protocol.words import MATRIX_SIDE

from .info import TimerReading

Key = tuple[Command, int, int]


class ReadBack(Enum):
    """How a setting can be compared with what the board holds."""

    WORDS = auto()
    """The getter answers with the words (or bytes) of the setter."""
    SELECTED = auto()
    """The getter takes the selector (DAC code) and answers with the word of the setter."""
    REGISTER = auto()
    """GET_SPIDRREG; of registers with named fields, these alone."""
    DECODERS = auto()
    """A register says whether any decoder is on."""
    NONE = auto()
    """The protocol has no way to read it."""


@dataclass(frozen=True)
class Setting:
    """A command that sets: how it is read back, and what tells several values of one command apart."""

    setter: Command
    getter: Command | None = None
    read_back: ReadBack = ReadBack.WORDS
    selector: Callable[[tuple[int, ...]], int] = lambda _: 0


def _high_half(ints: tuple[int, ...]) -> int:
    return ints[0] >> 16


def _first(ints: tuple[int, ...]) -> int:
    return ints[0]


def _blind(setter: Command, selector: Callable[[tuple[int, ...]], int] = lambda _: 0) -> Setting:
    return Setting(setter, None, ReadBack.NONE, selector)


_C: Final = Command

SETTINGS: Final = (
    Setting(_C.SET_SPIDRREG, _C.GET_SPIDRREG, ReadBack.REGISTER, _first),
    _blind(_C.SET_OUTPUTMASK),
    Setting(_C.SET_READOUTSPEED, _C.GET_READOUTSPEED),
    Setting(_C.SET_SLVSCONFIG, _C.GET_SLVSCONFIG),
    Setting(_C.SET_OUTBLOCKCONFIG, _C.GET_OUTBLOCKCONFIG),
    Setting(_C.SET_PLLCONFIG, _C.GET_PLLCONFIG),
    Setting(_C.SET_GENCONFIG, _C.GET_GENCONFIG),
    Setting(_C.SET_PWRPULSECONFIG, _C.GET_PWRPULSECONFIG),
    _blind(_C.PWRPULSE_ENA),
    Setting(_C.SET_DAC, _C.GET_DAC, ReadBack.SELECTED, _high_half),
    _blind(_C.SET_EXTDAC, _high_half),
    Setting(_C.SET_CTPR, _C.GET_CTPR),
    Setting(_C.SET_TPPERIODPHASE, _C.GET_TPPERIODPHASE),
    Setting(_C.SET_TPNUMBER, _C.GET_TPNUMBER),
    Setting(_C.SET_IPADDR_SRC, _C.GET_IPADDR_SRC),
    Setting(_C.SET_IPADDR_DEST, _C.GET_IPADDR_DEST),
    Setting(_C.SET_SERVERPORT, _C.GET_SERVERPORT),
    Setting(_C.DECODERS_ENA, _C.GET_SPIDRREG, ReadBack.DECODERS),
    Setting(_C.SET_HEADERFILTER, _C.GET_HEADERFILTER),
    Setting(_C.SET_TRIGCONFIG, _C.GET_TRIGCONFIG),
    _blind(_C.SET_FANSPEED, _high_half),
)
"""All that is remembered as single values, in the order of setting again. Power of the chips comes before, the pixel
matrix after, the bias last: they have their own rules."""

SPECIAL: Final = (_blind(_C.TPX_POWER_ENA), _blind(_C.SET_BIAS_ADJUST), _blind(_C.BIAS_SUPPLY_ENA))

_BY_SETTER: Final = {setting.setter: setting for setting in (*SETTINGS, *SPECIAL)}

SETTING_REGISTERS: Final = frozenset(
    register.address
    for register in (
        Register.CPU_TO_TPX,
        Register.TDC_CONTROL,
        Register.TLU_CONTROL,
        Register.IPMUX_CONFIG,
        Register.PIXEL_FILTER_0,
        Register.PIXEL_FILTER_1,
        Register.PIXEL_FILTER_2,
        Register.PIXEL_FILTER_3,
    )
)
"""Registers that hold a setting. The others count, are commands, or are set by SET_TRIGCONFIG and DECODERS_ENA."""

_OF_CHIP: Final = frozenset(
    setting.setter
    for setting in SETTINGS
    if setting.setter.scope is Scope.CHIP
    and setting.setter not in (_C.SET_IPADDR_SRC, _C.SET_IPADDR_DEST, _C.SET_SERVERPORT, _C.SET_HEADERFILTER)
)
"""What the chip holds, and loses when it is reset; addresses and filter are in the board."""

_TIMERS: Final = frozenset({_C.RESET_TIMER, _C.RESTART_TIMERS, _C.SET_TIMER})


@dataclass(frozen=True)
class Remembered:
    """A setting as it was set last."""

    setting: Setting
    device: int
    ints: tuple[int, ...]
    data: bytes = b""

    @property
    def selector(self) -> int:
        """DAC code, register address or the like; 0 where there is one value only."""
        return self.setting.selector(self.ints)

    @property
    def name(self) -> str:
        """For reports: "chip 0 DAC VFBK", "register TDC_CONTROL", "SET_TRIGCONFIG"."""
        where = f"chip {self.device} " if self.setting.setter.scope is Scope.CHIP else ""
        command = self.setting.setter
        if command is Command.SET_DAC:
            dac = DAC_BY_CODE.get(self.selector)
            return f"{where}DAC {dac.name if dac else self.selector}"
        if command is Command.SET_SPIDRREG:
            register = next((each for each in Register if each.address == self.selector), None)
            return f"register {register.name if register else hex(self.selector)}"
        return where + command.name.removeprefix("SET_")


class MatrixMemory:
    """The pixel configuration of a chip, as far as it was uploaded. Indexed [column, row], codes of the chip."""

    def __init__(self) -> None:
        self.codes: Codes = np.zeros(SHAPE, np.uint8)
        self.known = np.zeros(MATRIX_SIDE, np.bool_)
        """Which columns were uploaded."""

    def upload(self, first_column: int, data: bytes) -> None:
        """A SET_PIXCONF message."""
        codes = decode_upload(first_column, data)
        columns = slice(first_column, first_column + len(codes))
        self.codes[columns] = codes
        self.known[columns] = True


class SettingsMemory:
    """`asked`, `sent` and `answered` or `refused` for each request; then `items`, `matrices` and `last` tell."""

    def __init__(self) -> None:
        self._items: dict[Key, Remembered] = {}
        self._matrices: dict[int, MatrixMemory] = {}
        self._timers: dict[int, TimerReading] = {}
        self._in_doubt: set[Key] = set()
        self._frozen = 0

    # --- what it is told ----------------------------------------------------------------------------------------------
    def asked(self, request: Request) -> None:
        """Somebody wants this, on whatever connection: a reset makes forget what it resets."""
        command = request.command
        if command is Command.RESET_MODULE:
            self.clear()
        elif command is Command.RESET_DEVICE:
            self._forget_chip(request.device)
        elif command is Command.RESET_DEVICES or (command is Command.TPX_POWER_ENA and not request.ints[0]):
            for chip in range(MAX_DEVICES):
                self._forget_chip(chip)
        elif command is Command.SET_DACS_DFLT:
            self._forget(lambda key: key[:2] == (Command.SET_DAC, request.device))
        elif command is Command.CONFIG_CTPR:
            self._forget(lambda key: key[:2] == (Command.SET_CTPR, request.device))
        elif command in _TIMERS:
            self._timers.clear()

    def sent(self, request: Request) -> None:
        """A request goes out: what it sets is in doubt until it is answered."""
        key = _key_of(request)
        if key is not None and not self._frozen:
            self._in_doubt.add(key)

    def refused(self, request: Request) -> None:
        """The board answered with an error: what was set before holds."""
        self._in_doubt.discard(_key_of(request) or _NO_KEY)

    def answered(self, request: Request, ints: tuple[int, ...], sent_ns: int, received_ns: int) -> None:
        """The board took a request and answered with `ints`; times of the host's `time.monotonic_ns`."""
        if self._frozen:
            return
        self._in_doubt.discard(_key_of(request) or _NO_KEY)
        if request.command is Command.SET_PIXCONF:
            self._matrices.setdefault(request.device, MatrixMemory()).upload(request.ints[0], request.data)
        elif request.command is Command.GET_TIMER:
            low, high = ints
            self._timers[request.device] = TimerReading(high << 32 | low, sent_ns, received_ns)
        else:
            self._note(request)

    def want(self, request: Request) -> None:
        """Remember a setting that was not sent, or failed: the board may hold another value, and that is no sign of a
        loss. It is what the next comparison sets."""
        self.answered(request, (), 0, 0)
        key = _key_of(request)
        if key is not None:
            self._in_doubt.add(key)

    def clear(self) -> None:
        """Forget everything."""
        self._items.clear()
        self._matrices.clear()
        self._timers.clear()
        self._in_doubt.clear()

    def settle_doubts(self) -> None:
        """Every setting in doubt was compared."""
        self._in_doubt.clear()

    def forget_timers(self) -> None:
        """What was read of the timers says nothing about them any more."""
        self._timers.clear()

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """What is answered meanwhile is not noted: setting again must not change what is wanted."""
        self._frozen += 1
        try:
            yield
        finally:
            self._frozen -= 1

    # --- what it tells ------------------------------------------------------------------------------------------------
    def items(self) -> tuple[Remembered, ...]:
        """The single values, in the order of setting again; power and bias are not among them."""
        order = {setting.setter: rank for rank, setting in enumerate(SETTINGS)}
        ordinary = [item for item in self._items.values() if item.setting.setter in order]
        return tuple(sorted(ordinary, key=lambda item: (order[item.setting.setter], item.device, item.selector)))

    def matrices(self) -> dict[int, MatrixMemory]:
        """The uploaded matrices by chip."""
        return dict(self._matrices)

    def timers(self) -> dict[int, TimerReading]:
        """The last reading of each chip's timer since timers were restarted."""
        return dict(self._timers)

    def in_doubt(self, *setters: Command, device: int | None = None, selector: int | None = None) -> bool:
        """Whether a request of these commands got no answer: the board may hold the old value or the new one."""
        return any(
            key[0] in setters and device in (None, key[1]) and selector in (None, key[2]) for key in self._in_doubt
        )

    def last(self, setter: Command, device: int = 0, selector: int = 0) -> tuple[int, ...] | None:
        """The words that were set last; None when none were, or a reset came after."""
        item = self._items.get((setter, device, selector))
        return None if item is None else item.ints

    def __len__(self) -> int:
        return len(self._items) + len(self._matrices)

    # --- within -------------------------------------------------------------------------------------------------------
    def _note(self, request: Request) -> None:
        key = _key_of(request)
        if key is not None:
            self._items[key] = Remembered(_BY_SETTER[request.command], request.device, request.ints, request.data)

    def _forget_chip(self, chip: int) -> None:
        self._forget(lambda key: key[0] in _OF_CHIP and key[1] == chip)
        self._matrices.pop(chip, None)
        self._timers.pop(chip, None)

    def _forget(self, of: Callable[[Key], bool]) -> None:
        for key in [key for key in self._items if of(key)]:
            del self._items[key]


_NO_KEY: Final[Key] = (Command.NOP, 0, 0)


def _key_of(request: Request) -> Key | None:
    """What a request sets; None when it sets nothing that is remembered."""
    if request.command is Command.SET_PIXCONF:
        return request.command, request.device, request.ints[0]
    setting = _BY_SETTER.get(request.command)
    if setting is None:
        return None
    selector = setting.selector(request.ints)
    if request.command is Command.SET_SPIDRREG and selector not in SETTING_REGISTERS:
        return None
    return request.command, request.device, selector
