"""What differs between two configurations, one line per setting. What one of the two does not say is passed over."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
from pydantic import BaseModel

from ophyd_timepix.protocol import PixelMatrix
from ophyd_timepix.protocol.chip_config import ConfigWord
from ophyd_timepix.protocol.registers import BIAS_TOLERANCE_V

from .dac_values import DacValues
from .human import word_fields
from .model import BoardConfig, ChipConfig, DetectorConfig
from .processing import Processing

NOT_THERE: Final = "not there"


@dataclass(frozen=True)
class Difference:
    """A setting that differs: where, and its value on either side."""

    path: str
    left: object
    right: object

    def __str__(self) -> str:
        return f"{self.path}: {self.left} -> {self.right}"


def diff(left: BoardConfig | DetectorConfig, right: BoardConfig | DetectorConfig) -> tuple[Difference, ...]:
    """All settings that differ, in the order in which they are applied.

    Bias voltages count as equal within 0.5 V. Of matrices: how many pixels, and the first. Comments do not count.
    A BoardConfig compares with the board of a DetectorConfig.
    """
    found = _board_differences(_board_of(left), _board_of(right))
    if isinstance(left, DetectorConfig) and isinstance(right, DetectorConfig):
        for name in ("geometry", "processing"):
            found += _differences(f"{name}.", _flat(getattr(left, name)), _flat(getattr(right, name)))
    return tuple(found)


def _board_of(config: BoardConfig | DetectorConfig) -> BoardConfig:
    return config if isinstance(config, BoardConfig) else config.board


def _board_differences(left: BoardConfig, right: BoardConfig) -> list[Difference]:
    lefts, rights = ({chip.index: chip for chip in board.chips} for board in (left, right))
    found: list[Difference] = []
    for index in sorted(lefts.keys() | rights.keys()):
        if index in lefts and index in rights:
            found += chip_differences(lefts[index], rights[index])
        else:
            found.append(Difference(f"chip {index}", _title(lefts.get(index)), _title(rights.get(index))))
    return found + _differences("", _flat(left, without=("chips",)), _flat(right, without=("chips",)))


def _title(chip: ChipConfig | None) -> str:
    return NOT_THERE if chip is None else chip.name or "there"


def chip_differences(left: ChipConfig, right: ChipConfig) -> list[Difference]:
    """What differs between two chips; names only where both have one."""
    without = ("index",) if left.name and right.name else ("index", "name")
    return _differences(f"chip {right.index} ", _flat(left, without=without), _flat(right, without=without))


def _flat(model: BaseModel, *, without: tuple[str, ...] = ()) -> dict[str, object]:
    """Every setting by its dotted name. What is not given is not in it, except where None is a value."""
    none_is_a_value = isinstance(model, Processing)
    flat: dict[str, object] = {}
    for name in type(model).model_fields:
        value = getattr(model, name)
        if name in without or (value is None and not none_is_a_value):
            continue
        inner = _inner(value)
        if inner is None:
            flat[name] = value
        else:
            flat |= {f"{name}.{key}": part for key, part in inner.items()}
    return flat


def _inner(value: object) -> dict[str, object] | None:
    if isinstance(value, DacValues):
        return dict(value)
    if isinstance(value, ConfigWord):
        return dict(word_fields(value))
    return _flat(value) if isinstance(value, BaseModel) else None


def _differences(prefix: str, left: dict[str, object], right: dict[str, object]) -> list[Difference]:
    found: list[Difference] = []
    for name, value in left.items():
        if name in right:
            compare = _SPECIAL.get(name, _compare_plain)
            found += compare(prefix + name, value, right[name])
    return found


def _compare_plain(path: str, left: object, right: object) -> list[Difference]:
    return [] if left == right else [Difference(path, _text(left), _text(right))]


def _text(value: object) -> object:
    return value.name.lower() if hasattr(value, "name") and not isinstance(value, str) else value


def _compare_volts(path: str, left: object, right: object) -> list[Difference]:
    if isinstance(left, float) and isinstance(right, float) and abs(left - right) <= BIAS_TOLERANCE_V:
        return []
    return _compare_plain(path, left, right)


def _compare_matrices(path: str, left: object, right: object) -> list[Difference]:
    if not isinstance(left, PixelMatrix) or not isinstance(right, PixelMatrix):
        return []
    different = np.argwhere(left.codes() != right.codes())
    if not len(different):
        return []
    column, row = map(int, different[0])
    where = f"{path} ({len(different)} pixels, the first at column {column}, row {row})"
    return [Difference(where, _pixel(left, column, row), _pixel(right, column, row))]


def _pixel(matrix: PixelMatrix, column: int, row: int) -> str:
    marks = ["masked"] * bool(matrix.mask[column, row]) + ["test pulses"] * bool(matrix.test[column, row])
    return ", ".join([*marks, f"adjustment {matrix.threshold_adjust[column, row]}"])


_SPECIAL: Final[dict[str, Callable[[str, object, object], list[Difference]]]] = {
    "matrix": _compare_matrices,
    "bias.volts": _compare_volts,
}
