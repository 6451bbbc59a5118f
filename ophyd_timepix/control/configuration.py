"""The settings of a board as a whole: read them, and apply them as a transaction.

Applying reads the old settings, writes what differs, item by item, each read back, and the bias last, as a ramp. When
an item fails, all old settings come back, and the error names the item, the cause, and whether the old state is back.
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydantic import ValidationError

from ophyd_timepix.config import BiasConfig, BoardConfig, ChipConfig, PulseSettings, TriggerSettings
from ophyd_timepix.config.text import explain
from ophyd_timepix.protocol import Command, Dac, PixelMatrix, Register, Request, pack_dac
from ophyd_timepix.protocol.chip_config import ConfigWord, PulseTiming
from ophyd_timepix.protocol.pixel_matrix import encode_ctpr
from ophyd_timepix.protocol.registers import BIAS_MAX_V, BIAS_MIN_V, BIAS_TOLERANCE_V, bias_dac
from ophyd_timepix.protocol.words import MATRIX_SIDE

from .bias import RAMP_V_PER_S
from .board import Board
from .chip import Chip
from .errors import ConnectionLost, ControlError, LimitError, ReadBackError
from .info import TestPulse, TriggerConfig

log = logging.getLogger(__name__)


class ApplyError(ControlError):
    """A configuration was not applied. `restored` says whether all is as it was before."""

    def __init__(self, where: str, item: str, cause: BaseException, not_restored: tuple[str, ...]) -> None:
        self.item = item
        """The setting at which it failed, named as in differences."""
        self.cause = cause
        self.not_restored = not_restored
        """Settings that may not have their old values."""
        super().__init__(f"{where}: {item} could not be set: {cause}; {self._outcome()}")

    @property
    def restored(self) -> bool:
        """Whether every setting has its old value."""
        return not self.not_restored

    @property
    def connection_lost(self) -> bool:
        """Whether the line failed, not the setting."""
        return isinstance(self.cause, ConnectionLost)

    def _outcome(self) -> str:
        if self.restored:
            again = "the board is there again and " if self.connection_lost else ""
            return f"{again}all settings are as they were before"
        if self.connection_lost:
            return (
                "the connection was lost in the middle, so the board may hold some of the new settings; the old ones "
                "are remembered and set again when the board is back"
            )
        return (
            f"{len(self.not_restored)} old settings could not be set again ({', '.join(self.not_restored)}): the "
            "board is in between; remove the cause and load a whole configuration, else reset the board"
        )


@dataclass(frozen=True, repr=False)
class Applied:
    """What applying a configuration did."""

    changed: tuple[str, ...]
    """The settings that were written, in their order."""
    unchanged: int
    """How many had the right value already."""
    before: BoardConfig
    """The settings that were there before."""

    def __str__(self) -> str:
        names = ": " + ", ".join(self.changed) if self.changed else ""
        return f"{len(self.changed)} settings changed{names}; {self.unchanged} were right already"

    __repr__ = __str__  # it is what a prompt shows after `load`


# --- read -------------------------------------------------------------------------------------------------------------
def read_configuration(board: Board, chips: Sequence[int] | None = None) -> BoardConfig:
    """All settings of the board and of some chips (None: of those that are there), read from the board.

    What the protocol cannot read is taken from what this program set: the bias setting; where it set none, the ADC's
    reading. Raises ControlError when the board does not tell.
    """
    indices = board.info.present if chips is None else tuple(chips)
    with board.client.exclusive():
        infos = board.require_chips(indices)
        try:
            return BoardConfig(
                bias=_read_bias(board),
                trigger=_trigger_settings(board.trigger()),
                external_clock=board.external_clock(),
                tdc=board.tdc_control(),
                chips=tuple(_read_chip(board.chip(info.index), info.name) for info in infos),
            )
        except ControlError:
            raise
        except ValueError as error:
            what = explain(error, BoardConfig) if isinstance(error, ValidationError) else str(error)
            raise ReadBackError(
                f"{board.client.address}: the board holds a setting that cannot be: {what}; reset it"
            ) from error


def _read_bias(board: Board) -> BiasConfig:
    measured_v = board.bias_v()
    enabled = board.bias_is_on(measured_v)
    volts = board.bias_setting
    if volts is None and enabled:
        volts = min(max(measured_v, BIAS_MIN_V), BIAS_MAX_V)
    return BiasConfig(enabled=enabled, volts=None if volts is None else round(volts, 1))


def _trigger_settings(trigger: TriggerConfig) -> TriggerSettings:
    return TriggerSettings(
        mode=trigger.mode,
        length_us=trigger.length_us,
        # A board that waits for signals may state no frequency; none below 1 Hz can be set.
        frequency_hz=max(trigger.frequency_hz, 1),
        count=trigger.count,
        delay_ns=trigger.delay_ns,
    )


def _read_chip(chip: Chip, name: str) -> ChipConfig:
    pulse = chip.test_pulse()
    return ChipConfig.model_validate(
        {
            "index": chip.index,
            "name": name,
            "dacs": chip.dacs(),
            "general": chip.general_config(),
            "pll": chip.pll_config(),
            "output_block": chip.output_block_config(),
            "matrix": chip.read_matrix(),
            "test_columns": chip.test_columns(),
            "test_pulse": PulseSettings(period=pulse.period, phase=pulse.phase, count=pulse.count),
            "header_filter": chip.header_filter()[0],
        }
    )


# --- apply ------------------------------------------------------------------------------------------------------------
def apply_configuration(
    board: Board, config: BoardConfig, *, any_chip: bool = False, ramp_v_per_s: float = RAMP_V_PER_S
) -> Applied:
    """Set what differs from `config`; parts that it leaves out stay. All of it, or nothing.

    any_chip: apply the settings of a chip also to another one than they were made for. Thresholds and equalisation
    belong to one chip, so this is refused otherwise. The bias is ramped, without holding up the line.
    Raises ApplyError that names the item that failed; other ControlErrors come before anything is written, also where
    another configuration is just being applied.
    """
    if not board.configuring.acquire(blocking=False):
        raise ControlError(
            f"{board.client.address}: another configuration is being applied; nothing was sent. Wait until it is done"
        )
    try:
        return _apply(board, config, any_chip, ramp_v_per_s)
    finally:
        board.configuring.release()


def _apply(board: Board, config: BoardConfig, any_chip: bool, ramp_v_per_s: float) -> Applied:
    indices = tuple(chip.index for chip in config.chips)
    with board.client.exclusive():
        _require_names(board, config, any_chip)
        before = read_configuration(board, indices)
        items = tuple(_items(board, before, config, ramp_v_per_s))
        wanted = tuple(item for item in items if item.differs)
        _write_all(board, [item for item in wanted if not item.is_bias], items)
    # A ramp takes seconds: the line is free meanwhile.
    _write_all(board, [item for item in wanted if item.is_bias], items, done=wanted)
    return Applied(tuple(item.path for item in wanted), len(items) - len(wanted), before)


def _require_names(board: Board, config: BoardConfig, any_chip: bool) -> None:
    found = board.require_chips(tuple(chip.index for chip in config.chips))
    for chip, info in zip(config.chips, found, strict=True):
        if chip.name and chip.name != info.name and not any_chip:
            raise LimitError(
                f"{board.client.address}: the settings are for chip {chip.name}, but chip {chip.index} is {info.name}; "
                "thresholds and equalisation of one chip do not fit another (any_chip=True applies them all the same); "
                "nothing was sent"
            )


@dataclass(frozen=True)
class _Item:
    """A setting: its name, its value before and as wanted, how to write it, and which requests a write amounts to."""

    path: str
    old: Any
    new: Any
    write: Callable[[Any], object]
    requests: Callable[[Any], Iterable[Request]]

    @property
    def differs(self) -> bool:
        if isinstance(self.old, BiasConfig) and isinstance(self.new, BiasConfig):
            return not _same_bias(self.old, self.new)
        return bool(self.old != self.new)

    @property
    def is_bias(self) -> bool:
        return isinstance(self.old, BiasConfig)


def _same_bias(old: BiasConfig, new: BiasConfig) -> bool:
    if old.enabled != new.enabled:
        return False
    if new.volts is None:
        return True
    return old.volts is not None and abs(old.volts - new.volts) <= BIAS_TOLERANCE_V


def _write_all(board: Board, wanted: Sequence[_Item], items: Sequence[_Item], done: Sequence[_Item] = ()) -> None:
    """Write each item; when one fails, put back what was written (`done` before, and here)."""
    written = [item for item in done if not item.is_bias]
    for item in wanted:
        written.append(item)
        try:
            item.write(item.new)
        except BaseException as error:
            # Also after Ctrl-C: half of a configuration is worse than either.
            not_restored = _put_back(board, written, items, lost=isinstance(error, ConnectionLost))
            if not isinstance(error, ControlError):
                raise
            raise ApplyError(board.client.address, item.path, error, not_restored) from error


def _put_back(board: Board, written: Sequence[_Item], items: Sequence[_Item], *, lost: bool) -> tuple[str, ...]:
    """Write the old values, the last first. Returns the items that may not have them."""
    # A board that was away may have lost more than was written here.
    others = [item for item in items if lost and item not in written and not item.is_bias]
    left = [*others, *written]
    failed: list[str] = []
    with board.client.exclusive():
        while left:
            item = left[-1]
            try:
                item.write(item.old)
            except ConnectionLost as error:
                log.warning(f"{board.client.address}: the old settings cannot be set again: {error}")
                _remember(board, left, written)
                return tuple(failed + [each.path for each in reversed(left)])
            except ControlError as error:
                log.warning(f"{board.client.address}: {item.path} cannot be set again: {error}")
                failed.append(item.path)
            left.pop()
    return tuple(failed)


def _remember(board: Board, items: Iterable[_Item], written: Sequence[_Item]) -> None:
    """Make the line's memory hold the old values: they are what is set again when the board is back.

    Where a new value was written, finding it there is no sign that the board lost its settings.
    """
    memory = board.client.memory
    for item in items:
        for request in item.requests(item.old):
            if item in written:
                memory.want(request)
            else:
                memory.answered(request, (), 0, 0)


# --- the items --------------------------------------------------------------------------------------------------------
def _items(board: Board, before: BoardConfig, config: BoardConfig, ramp_v_per_s: float) -> Iterator[_Item]:
    """Everything that `config` says, in the order of writing."""
    for chip in config.chips:
        yield from _chip_items(board.chip(chip.index), before.chip(chip.index), chip)
    yield from _board_items(board, before, config)
    if config.bias is not None:
        yield _Item(
            "bias", before.bias, config.bias, lambda bias: _write_bias(board, bias, ramp_v_per_s), _bias_requests
        )


def _chip_items(chip: Chip, before: ChipConfig, config: ChipConfig) -> Iterator[_Item]:
    words: tuple[tuple[str, Command, Callable[[Any], object]], ...] = (
        ("general", Command.SET_GENCONFIG, chip.set_general_config),
        ("pll", Command.SET_PLLCONFIG, chip.set_pll_config),
        ("output_block", Command.SET_OUTBLOCKCONFIG, chip.set_output_block_config),
    )
    for name, command, write in words:
        yield from _part(chip, name, before, config, write, _word_requests(command, chip.index))
    for dac in Dac:
        path = f"chip {chip.index} dacs.{dac.name.lower()}"
        yield _Item(path, before.dacs[dac], config.dacs[dac], _dac_writer(chip, dac), _dac_requests(chip.index, dac))
    index = chip.index
    yield from _part(chip, "matrix", before, config, chip.upload_matrix, lambda matrix: _matrix_requests(index, matrix))
    yield from _part(
        chip, "test_columns", before, config,
        lambda columns: chip.set_test_columns(_columns(columns)),
        lambda columns: (Request(Command.SET_CTPR, index, (0,), encode_ctpr(_columns(columns))),),
    )  # fmt: skip
    yield from _part(
        chip, "test_pulse", before, config,
        lambda pulse: chip.set_test_pulse(TestPulse(pulse.period, pulse.phase, pulse.count)),
        lambda pulse: _pulse_requests(index, pulse),
    )  # fmt: skip
    if config.header_filter is not None:
        _, cpu = chip.header_filter()
        yield from _part(
            chip, "header_filter", before, config, chip.set_header_filter,
            lambda eth: (Request(Command.SET_HEADERFILTER, index, (cpu << 16 | eth,)),),
        )  # fmt: skip


def _part(
    chip: Chip,
    name: str,
    before: ChipConfig,
    config: ChipConfig,
    write: Callable[[Any], object],
    requests: Callable[[Any], Iterable[Request]],
) -> Iterator[_Item]:
    """The item of a part of a chip, unless the configuration leaves it out."""
    new = getattr(config, name)
    if new is not None:
        yield _Item(f"chip {chip.index} {name}", getattr(before, name), new, write, requests)


def _board_items(board: Board, before: BoardConfig, config: BoardConfig) -> Iterator[_Item]:
    if config.trigger is not None:
        yield _Item(
            "trigger", before.trigger, config.trigger,
            lambda trigger: board.set_trigger(TriggerConfig(**dict(trigger))),
            lambda trigger: (Request(Command.SET_TRIGCONFIG, 0, _trigger_words(trigger)),),
        )  # fmt: skip
    if config.external_clock is not None:
        clock = Register.CPU_TO_TPX
        word, field = board.read_register(clock.address), clock.field("external_clock")
        yield _Item(
            "external_clock", before.external_clock, config.external_clock, board.set_external_clock,
            lambda on: (Request(Command.SET_SPIDRREG, 0, (clock.address, field.put(word, int(on)))),),
        )  # fmt: skip
    if config.tdc is not None:
        yield _Item(
            "tdc", before.tdc, config.tdc, board.set_tdc_control,
            lambda word: (Request(Command.SET_SPIDRREG, 0, (Register.TDC_CONTROL.address, word)),),
        )  # fmt: skip


def _write_bias(board: Board, bias: BiasConfig, ramp_v_per_s: float) -> None:
    if bias.enabled and bias.volts is not None:
        board.ramp_bias(bias.volts, ramp_v_per_s)
        return
    board.ramp_bias_off(ramp_v_per_s)
    if bias.volts is not None:
        board.set_bias(bias.volts)


def _dac_writer(chip: Chip, dac: Dac) -> Callable[[int], None]:
    return lambda value: chip.set_dac(dac, value)


def _columns(numbers: Iterable[int]) -> Any:
    return np.isin(np.arange(MATRIX_SIDE), list(numbers))


# --- the requests that a write amounts to -----------------------------------------------------------------------------
def _word_requests(command: Command, chip: int) -> Callable[[ConfigWord], Iterable[Request]]:
    return lambda word: (Request(command, chip, (word.word,)),)


def _dac_requests(chip: int, dac: Dac) -> Callable[[int], Iterable[Request]]:
    return lambda value: (Request(Command.SET_DAC, chip, (pack_dac(dac.code, value),)),)


def _matrix_requests(chip: int, matrix: PixelMatrix) -> Iterator[Request]:
    for first_column, data in matrix.upload():
        yield Request(Command.SET_PIXCONF, chip, (first_column,), data)


def _pulse_requests(chip: int, pulse: PulseSettings) -> Iterator[Request]:
    yield Request(Command.SET_TPPERIODPHASE, chip, (PulseTiming(pulse.period, pulse.phase).word,))
    yield Request(Command.SET_TPNUMBER, chip, (pulse.count,))


def _trigger_words(trigger: TriggerSettings) -> tuple[int, ...]:
    return (trigger.mode.code, trigger.length_us, trigger.frequency_hz, trigger.count, trigger.delay_ns)


def _bias_requests(bias: BiasConfig) -> Iterator[Request]:
    if bias.volts is not None:
        yield Request(Command.SET_BIAS_ADJUST, 0, (bias_dac(bias.volts),))
    yield Request(Command.BIAS_SUPPLY_ENA, 0, (int(bias.enabled),))
