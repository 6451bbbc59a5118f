"""Pixels whose hits are left out, as (chip, x, y): a list in a program, a text on a command line, a file.

x and y count on the chip itself, 0 to 255, whatever place and orientation it has in the picture. A text is
`chip,x,y` for each pixel, with spaces or line breaks between them; in a file what follows a `#` is a remark.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from ..protocol.words import MATRIX_SIDE, MAX_CHIPS

Pixel = tuple[int, int, int]
"""(chip, x, y)."""
MASKED_MAX: Final = 10_000
"""More than these are no hot pixels but a matrix that is set wrongly: mask it on the chip."""


def as_pixels(value: Any) -> Any:
    """A list from a text. Raises ValueError for a text that is none."""
    return parse_pixels(value) if isinstance(value, str) else value


def checked(pixels: Iterable[Pixel]) -> tuple[Pixel, ...]:
    """Each once, in order. Raises ValueError for a pixel that no board has, and for too many."""
    unique = tuple(sorted(set(pixels)))
    for chip, x, y in unique:
        if not (0 <= chip < MAX_CHIPS and 0 <= x < MATRIX_SIDE and 0 <= y < MATRIX_SIDE):
            raise ValueError(
                f"there is no pixel ({chip}, {x}, {y}): chips go from 0 to {MAX_CHIPS - 1}, "
                f"x and y from 0 to {MATRIX_SIDE - 1}, as (chip, x, y)"
            )
    if len(unique) > MASKED_MAX:
        raise ValueError(f"up to {MASKED_MAX} pixels can be left out, not {len(unique)}: mask them on the chip")
    return unique


def parse_pixels(text: str) -> tuple[Pixel, ...]:
    """The pixels of a text or of a file's content. Raises ValueError that names what is no pixel."""
    words = (word for line in text.splitlines() for word in line.partition("#")[0].split())
    return tuple(_pixel(word) for word in words)


def _pixel(word: str) -> Pixel:
    try:
        chip, x, y = map(int, word.split(","))
    except ValueError:
        raise ValueError(
            f"{word!r} is no pixel: give chip,x,y for each, with spaces between them, as in 0,12,200 0,13,200"
        ) from None
    return chip, x, y


def read_pixels(path: Path) -> tuple[Pixel, ...]:
    """The pixels of a file. Raises OSError, and ValueError that names file and trouble."""
    try:
        return checked(parse_pixels(path.read_text()))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def pixels_text(pixels: Iterable[Pixel]) -> str:
    """`chip,x,y` for each, as `parse_pixels` reads it."""
    return " ".join(",".join(map(str, pixel)) for pixel in pixels)
