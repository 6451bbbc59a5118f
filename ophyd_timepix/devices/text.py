"""Text for a person at a prompt."""

from collections.abc import Sequence


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
