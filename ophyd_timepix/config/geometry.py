"""Where each chip lies in the picture: a table of integer affine maps, pixel (column, row) to picture (x, y)."""

from enum import StrEnum
from typing import Final, Self

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

from ..protocol.words import MATRIX_SIDE

Placement = tuple[int, int, int, int, int, int]
"""(a, b, c, d, e, f): x = a * column + b * row + c, y = d * column + e * row + f."""

GAP_MAX_PX: Final = 1000


class Orientation(StrEnum):
    """How a picture is turned. The names are Pymepix's."""

    UP = "up"
    """As it is."""
    LEFT = "left"
    """(x, y) goes to (y, width - 1 - x)."""
    DOWN = "down"
    """By half a turn."""
    RIGHT = "right"
    """(x, y) goes to (height - 1 - y, x)."""


_SINGLE: tuple[Placement, ...] = ((1, 0, 0, 0, 1, 0),)


def _quad(gap_px: int) -> tuple[Placement, ...]:
    far = 256 + gap_px
    return (
        (1, 0, far, 0, 1, 0),
        (-1, 0, 255 + far, 0, -1, 255 + far),
        (-1, 0, 255, 0, -1, 255 + far),
        (1, 0, 0, 0, 1, 0),
    )


def inner_sides(table: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Which sides of each chip face another one in the picture, however wide the gap. Bits: 1 column 0, 2 column 255,
    4 row 0, 8 row 255. table: `Geometry.table()`.
    """
    sides = np.zeros(len(table), np.int64)
    corners = [_corners(row) for row in table]
    for chip, (a, b, _, d, e, _) in enumerate(table.tolist()):
        low, high = corners[chip]
        for bit, out in enumerate(((-a, -d), (a, d), (-b, -e), (b, e))):
            axis = int(out[0] == 0)  # 0: to the left or right
            for other, (from_, to) in enumerate(corners):
                beyond = from_[axis] > high[axis] if out[axis] > 0 else to[axis] < low[axis]
                beside = from_[1 - axis] <= high[1 - axis] and to[1 - axis] >= low[1 - axis]
                if other != chip and beyond and beside:
                    sides[chip] |= 1 << bit
    return sides


def _corners(row: npt.NDArray[np.int64]) -> tuple[tuple[int, int], tuple[int, int]]:
    """(x, y) of a chip's lowest and highest pixel in the picture."""
    last = MATRIX_SIDE - 1
    a, b, c, d, e, f = row.tolist()
    xs = [a * column + b * line + c for column in (0, last) for line in (0, last)]
    ys = [d * column + e * line + f for column in (0, last) for line in (0, last)]
    return (min(xs), min(ys)), (max(xs), max(ys))


class Geometry(BaseModel):
    """Placement of each chip and the size of the picture in pixels."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    placements: tuple[Placement, ...] = Field(
        _SINGLE, description="(a, b, c, d, e, f) of each chip: x = a column + b row + c, y = d column + e row + f"
    )
    width_px: int = Field(256, description="width of the picture (pixels)")
    height_px: int = Field(256, description="height of the picture (pixels)")

    @classmethod
    def for_chips(cls, n_chips: int, gap_px: int = 4) -> Self:
        """One chip as it is; two to four as a 2x2 quad in the order that public decoders use (gap 4 px)."""
        if n_chips == 1:
            return cls()
        if not 0 <= gap_px <= GAP_MAX_PX:
            raise ValueError(f"the gap between chips is 0 to {GAP_MAX_PX} pixels, not {gap_px}")
        side = 512 + gap_px
        return cls(placements=_quad(gap_px)[:n_chips], width_px=side, height_px=side)

    def turned(self, orientation: Orientation) -> Self:
        """The same picture, turned."""
        if orientation is Orientation.UP:
            return self
        right, top = self.width_px - 1, self.height_px - 1
        flip_x = orientation in (Orientation.LEFT, Orientation.DOWN)
        flip_y = orientation in (Orientation.RIGHT, Orientation.DOWN)
        placements = []
        for a, b, c, d, e, f in self.placements:
            x = (-a, -b, right - c) if flip_x else (a, b, c)
            y = (-d, -e, top - f) if flip_y else (d, e, f)
            placements.append((*x, *y) if orientation is Orientation.DOWN else (*y, *x))
        size = (self.width_px, self.height_px)
        width, height = size if orientation is Orientation.DOWN else size[::-1]
        return type(self)(placements=tuple(placements), width_px=width, height_px=height)

    def table(self) -> npt.NDArray[np.int64]:
        """Shape (chips, 6), for the kernels."""
        return np.asarray(self.placements, dtype=np.int64)
