"""What a capture writes to, and what it has counted."""

from pathlib import Path
from typing import NamedTuple, Protocol

from ..spool.index import Records
from ..spool.ring import Ring


class Totals(NamedTuple):
    """Counters of a capture since its recording was opened."""

    datagrams: int
    payload_bytes: int
    malformed_datagrams: int
    malformed_bytes: int
    wrong_sender: int
    kernel_dropped: int
    ring_full_waits: int
    unrecorded: int
    """Datagrams that came when disk or ring were full, so that nothing more was recorded."""

    @property
    def arrived(self) -> int:
        """Datagrams of the board that reached this machine, whatever became of them."""
        return self.datagrams + self.malformed_datagrams + self.kernel_dropped + self.unrecorded


class Recorder(Protocol):
    """What the writer thread writes to: a recording, or nothing."""

    waits: bool
    """True: when the ring is full, receiving waits for the disk. False: the acquisition ends."""

    @property
    def path(self) -> Path | None: ...
    def write(self, ring: Ring, records: Records) -> bool:
        """A piece of what can be written now. True: there is more."""

    def begin(self, ring: Ring) -> None:
        """An acquisition begins at `ring.received`. Raises OSError, which says the remedy, when it had better not."""

    def finish(self, ring: Ring, records: Records) -> None:
        """Write all that is received, durably."""
