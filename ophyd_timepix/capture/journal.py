"""What a capture writes into the index: stretches of bytes, what is missing between them, where files begin."""

import time
from typing import Final

import numpy as np

from ..spool.index import STRETCH_BYTES, STRETCH_NS, UNKNOWN, Kind, Records, Row
from ..spool.ring import ALIGNMENT, Mark, Ring
from ..spool.segments import SEGMENT_BYTES
from .writer import Writer

LONGEST_SEARCH: Final = 64 << 20
"""How much longer a segment may get until a chunk ends where the next file can be written past the page cache."""
_NO_STRETCH: Final = (-STRETCH_BYTES, -STRETCH_NS)


class Journal:
    """The records of a capture, each at the address of the next byte. Called with the capture's lock held."""

    def __init__(self, ring: Ring, index: Records, writer: Writer) -> None:
        self._ring = ring
        self._index = index
        self._memory = index.view(np.uint8).data
        self._writer = writer
        self.located = 0
        """Datagrams that the kernel dropped, of which it is known where."""
        self.acquisition = 0
        """Number of the one that runs; 0: none does."""
        self._stretch = _NO_STRETCH
        self._segment_bytes = self._segment_full = SEGMENT_BYTES

    def restart(self, segment_bytes: int) -> None:
        """A recording begins at address 0; a new file is begun after so many bytes of one."""
        self.located = 0
        self._stretch = _NO_STRETCH
        self._segment_bytes = self._segment_full = segment_bytes

    def end_stretch(self) -> None:
        """Whatever comes next begins a new one."""
        self._stretch = _NO_STRETCH

    @property
    def segment_full(self) -> int:
        """Address from which on a new file shall begin."""
        return self._segment_full

    def mark_stretch(self, now: int) -> int:
        """Open a new index record every 1 MiB or 10 ms. Returns what is received."""
        offset = self._ring.received
        if offset - self._stretch[0] >= STRETCH_BYTES or now - self._stretch[1] >= STRETCH_NS:
            self._stretch = (offset, now)
            self.record(Kind.STRETCH, now)
        return offset

    def seal(self) -> None:
        """The last bytes get a checksum too."""
        n = int(self._ring.marks[Mark.INDEX_RECORDS])
        if n and self._index["offset"][(n - 1) % self._index.size] < self._ring.received:
            self.record(Kind.STRETCH, time.monotonic_ns())

    def lose(self, kind: Kind, lost: int, chip: int, now: int, until: int = UNKNOWN) -> None:
        """Datagrams are missing just before the next byte; some of them later, up to the address `until`."""
        if not lost:
            return
        marks = self._ring.marks
        marks[Mark.KERNEL_DROPPED] = max(self.located, int(marks[Mark.KERNEL_DROPPED]))
        self.record(kind, now, lost=lost, chip=chip, received_before=until)

    def roll(self, now: int) -> None:
        """A new segment begins with the next chunk, if that lies where O_DIRECT can write it, or none does for long."""
        start = self._ring.received
        if start % ALIGNMENT and start - self._segment_full < min(LONGEST_SEARCH, self._segment_bytes):
            return
        self._segment_full = start + self._segment_bytes
        self.record(Kind.SEGMENT, now)

    def record(
        self,
        kind: Kind,
        now: int,
        *,
        end_counts: int = UNKNOWN,
        sent: int = UNKNOWN,
        received_before: int = UNKNOWN,
        lost: int = 0,
        chip: int = -1,
        kernel_dropped: int | None = None,
        words: int = UNKNOWN,
        paused: int = UNKNOWN,
    ) -> None:
        """An index record at the address of the next byte. Its checksum is the writer's business."""
        counts, size = self._ring.counts, self._index.size
        k = counts[Mark.INDEX_RECORDS]
        while k - counts[Mark.INDEX_ON_DISK] >= size:
            self._writer.wait()
        row = Row(
            self._ring.received,
            now,
            counts[Mark.DATAGRAMS],
            self.located if kernel_dropped is None else kernel_dropped,
            self.acquisition,
            end_counts,
            sent,
            received_before,
            counts[Mark.MALFORMED_DATAGRAMS],
            counts[Mark.UNRECORDED],
            lost,
            chip,
            kind,
            sent_words=words,
            paused=paused,
        )
        row.put(self._memory, k % size)
        counts[Mark.INDEX_RECORDS] = k + 1
