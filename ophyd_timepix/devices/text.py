"""Text for a person at a prompt."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Final

MAX_RANGES: Final = 8
"""Ranges of numbers that are written out."""


class Text(str):
    """A text that a prompt shows as it is, line by line, and not with quotes and backslashes."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


def table(rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> Text:
    """Rows under their first one, in columns; `right` names those that are right-aligned."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = (
        "  ".join(
            cell.rjust(width) if index in right else cell.ljust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )
    return Text("\n".join(lines))


def ranges(numbers: Sequence[int]) -> str:
    """Ascending numbers as "0-7, 12, 20-31 (21)", the last their count; "none" without any."""
    if not numbers:
        return "none"
    gaps = [index for index, (one, next_one) in enumerate(pairwise(numbers), 1) if next_one != one + 1]
    spans = [numbers[begin:end] for begin, end in zip([0, *gaps], [*gaps, len(numbers)], strict=True)]
    texts = [str(span[0]) if len(span) == 1 else f"{span[0]}-{span[-1]}" for span in spans[:MAX_RANGES]]
    return f"{', '.join([*texts, *(['...'] if len(spans) > MAX_RANGES else [])])} ({len(numbers)})"
