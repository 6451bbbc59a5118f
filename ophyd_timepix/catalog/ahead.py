"""Reading ahead: the columns of the next rows come from the disk while somebody looks at these."""

from collections.abc import Callable, Generator, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain, cycle, pairwise
from types import MappingProxyType
from typing import Any, Final, Protocol, TypeVar

import numpy.typing as npt

from .columns import Read, Room

Array = npt.NDArray[Any]
Coming = Mapping[str, "Future[Array]"]
"""Columns that are on their way."""


class Looked(Protocol):
    """Rows that are looked at."""

    @property
    def looked_at(self) -> tuple[str, ...]:
        """Columns that were asked for until now."""


class Rows(Protocol):
    """Rows [start, stop)."""

    @property
    def start(self) -> int: ...
    @property
    def stop(self) -> int: ...


S = TypeVar("S", bound=Rows)
L = TypeVar("L", bound=Looked)
NOTHING: Final[Coming] = MappingProxyType({})


def looked_at_in_turn(
    spans: Iterator[S], read: Read, look: Callable[[S, Room, Coming], L], *, ahead: bool
) -> Generator[L, None, None]:
    """What `look` makes of each span, in turn: good until the next is asked for, because they share their memory.

    ahead: with the columns on their way that the last one needed. Takes the memory of two spans then, and a thread
    until it is closed.
    """
    if not ahead:
        room: Room = {}
        yield from (look(span, room, NOTHING) for span in spans)
        return
    rooms: Iterator[tuple[Room, Room]] = pairwise(cycle(({}, {})))
    with ThreadPoolExecutor(1, "timepix-read-ahead") as reader:
        coming: Coming = NOTHING
        columns: tuple[str, ...] = ()
        for span, following in pairwise(chain(spans, (None,))):
            if span is not None:
                here, there = next(rooms)
                looked = look(span, here, coming)
                coming = _begun(reader, read, columns, following, there) if following is not None else NOTHING
                yield looked
                columns = looked.looked_at


def _begun(reader: ThreadPoolExecutor, read: Read, columns: tuple[str, ...], span: Rows, room: Room) -> Coming:
    return {name: reader.submit(read, name, span.start, span.stop, room) for name in columns}
