"""Preprocessors of a RunEngine, with those of this package around all others whatever the order of appending.

What another preprocessor adds before the end of a run (a baseline, a flight) must come before the books are closed.
"""

from collections.abc import Iterator
from typing import Any

from ..plans import TimepixStreams


class OutermostLast(list[Any]):
    """A list of preprocessors; iterating, which is what a RunEngine does, gives `TimepixStreams` last."""

    def __iter__(self) -> Iterator[Any]:
        there = list(super().__iter__())
        yield from (one for one in there if not isinstance(one, TimepixStreams))
        yield from (one for one in there if isinstance(one, TimepixStreams))
