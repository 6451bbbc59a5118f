"""The identity of a chip: its id word and the name made of it, as W0026_K06 (wafer 26, column K, row 6)."""

import re
from dataclasses import dataclass
from enum import IntEnum
from typing import Final, Self

from .commands import ABSENT_CHIP_IDS
from .words import Field

_X: Final = Field(0, 4)
_Y: Final = Field(4, 4)
_WAFER: Final = Field(8, 12)
_OVERRIDE: Final = Field(20, 2)
_OVERRIDE_VALUE: Final = Field(22, 10)
_NAME: Final = re.compile(r"W(\d{4})_([A-O])(\d{2})")


class Override(IntEnum):
    """Fuses cannot be unburned: which field bits 31:22 of the id replace (CERN test library)."""

    NONE = 0
    X = 1
    Y = 2
    WAFER = 3
    """The low 10 bits of it."""


@dataclass(frozen=True)
class ChipId:
    """A chip's id word."""

    value: int

    @classmethod
    def from_name(cls, name: str) -> Self:
        """The id of `W0026_K06`. Raises ValueError for another form or number."""
        match = _NAME.fullmatch(name)
        if match is None:
            raise ValueError(f"{name!r} is no chip name; one looks like W0026_K06 (wafer, column A to O, row)")
        wafer, row = int(match[1]), int(match[3])
        return cls(_WAFER.put(wafer) | _Y.put(row) | _X.put(ord(match[2]) - ord("A") + 1))

    @property
    def absent(self) -> bool:
        """Whether this is what the board reports where there is no chip."""
        return self.value in ABSENT_CHIP_IDS

    @property
    def x(self) -> int:
        """Column on the wafer, A = 1."""
        return self._overridden(Override.X, _X)

    @property
    def y(self) -> int:
        """Row on the wafer."""
        return self._overridden(Override.Y, _Y)

    @property
    def wafer(self) -> int:
        """Wafer number."""
        kept = _WAFER.get(self.value)
        if _OVERRIDE.get(self.value) == Override.WAFER:
            return kept & ~_OVERRIDE_VALUE.mask | _OVERRIDE_VALUE.get(self.value)
        return kept

    @property
    def name(self) -> str:
        """As W0026_K06; '?' for a column that is no letter; empty where there is no chip."""
        if self.absent:
            return ""
        column = chr(ord("A") + self.x - 1) if self.x else "?"
        return f"W{self.wafer:04d}_{column}{self.y:02d}"

    def _overridden(self, which: Override, field: Field) -> int:
        if _OVERRIDE.get(self.value) == which:
            return _OVERRIDE_VALUE.get(self.value) & field.mask
        return field.get(self.value)
