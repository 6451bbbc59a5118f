"""A run whose words are kept nowhere but in the ring: what is decoded gives its place back.

Nothing can be recovered from it, and processing may fall behind by a ring at most: then the acquisition ends, which is
told by name and counted.
"""

from collections.abc import Callable

import numpy as np

from ..spool.index import Records
from ..spool.ring import ALIGNMENT, Mark, Ring
from ..spool.sources import SLICE_BYTES


class RingOnly:
    """Stands for a recording. decoded: the address up to which the words of the run are decoded."""

    path = None
    waits = False

    def __init__(self, ring: Ring, decoded: Callable[[], int]) -> None:
        self._decoded = decoded
        self._start: int | None = None
        ring.memory[::ALIGNMENT] = 0  # every page is there before the first datagram: none has to be found in haste

    def begin(self, ring: Ring) -> None:
        """An acquisition begins: its words stay until they are decoded."""
        self._start = ring.received

    def write(self, ring: Ring, records: Records) -> bool:
        """Give back what nobody needs any more, words and index records."""
        received, n_records = ring.received, int(ring.marks[Mark.INDEX_RECORDS])
        kept = self._kept_from(ring, received)
        ring.marks[Mark.ON_DISK] = kept
        done = int(ring.marks[Mark.INDEX_ON_DISK])
        pending = records["offset"][np.arange(done, n_records) % records.size]
        # the reader looks up the slice that it read last
        needless = n_records if kept == received else done + np.searchsorted(pending, kept - SLICE_BYTES)
        ring.marks[Mark.INDEX_ON_DISK] = max(done, int(needless) - 1)
        return False

    def _kept_from(self, ring: Ring, received: int) -> int:
        """The first address that must stay."""
        if self._start is None:
            return received  # before the first acquisition: words that belong to none
        decoded = max(self._start, self._decoded())
        stop = int(ring.marks[Mark.STOP])
        return received if stop and decoded >= stop - 1 else min(decoded, received)

    def finish(self, ring: Ring, records: Records) -> None:
        """Nothing is kept."""
