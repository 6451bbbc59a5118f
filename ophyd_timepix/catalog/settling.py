"""Who looks into a catalog wants to see the run just done: waiting for the writers of this process.

Knows writers only as things that settle.
"""

import logging
import weakref
from typing import Any, Final, Protocol

logger = logging.getLogger(__name__)

SETTLE_S: Final = 30.0


class Settling(Protocol):
    """Something that writes into a catalog behind the scenes."""

    @property
    def lag(self) -> Any:
        """How far it is behind, to be shown to a person."""

    def settled(self, timeout_s: float) -> bool:
        """Wait until everything so far is written, for `timeout_s` at most. False: it was not enough."""


_writers: "weakref.WeakSet[Settling]" = weakref.WeakSet()


def settle_with(writer: Settling) -> None:
    """From now on a look into a catalog waits for `writer` too, as long as it lives."""
    _writers.add(writer)


def settle(timeout_s: float = SETTLE_S) -> None:
    """Wait until all writers have caught up with what they were given until now."""
    for writer in list(_writers):
        if not writer.settled(timeout_s):
            logger.warning("the catalog is %s: what it shows is not the newest", writer.lag)
