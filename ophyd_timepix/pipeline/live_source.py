"""The words of a running acquisition: from the ring while it holds them, else from the recording."""

from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from ..spool.index import HEADER_BYTES, RECORD, Beginning, Records, Window, index_path
from ..spool.ring import Mark, Ring
from ..spool.segments import SegmentReader
from ..spool.sources import Slice

RECORDS_AT_ONCE: Final = 4096
NO_WORDS: Final = np.zeros(0, "<u8")
NO_RECORDS: Final = np.zeros(0, RECORD)
PREVIEW_SHARE: Final = 4
"""A preview that is behind by this part of the ring, 1 / 4, goes on with what is newest."""


class LiveSource:
    """Reads [start, stop) of a recording that grows; `stop` is unknown until the acquisition ends.

    first_record: number of an index record at or before `start`. acquisition: the one whose losses are told; None: all.
    recording: None: there is only the ring. may_skip: of a preview: what is far behind is left out, and counted in
    `skipped`.
    """

    def __init__(
        self,
        ring: Ring,
        index: Records,
        recording: Path | None,
        start: int,
        first_record: int = 0,
        acquisition: int | None = None,
        *,
        may_skip: bool = False,
    ) -> None:
        self._ring = ring
        self._index = index
        self._recording = recording
        self._may_skip = may_skip
        self._file = None if recording is None else SegmentReader(recording)
        self._cursor = first_record
        self._window = Window(NO_RECORDS)
        self._known_to = start
        """All records of slices that end here at the latest are in the window."""
        self._acquisition = acquisition
        self._beginning = Beginning()
        self._told_end = False
        self.position = start
        self.stop: int | None = None
        self.skipped = 0

    @property
    def record(self) -> int:
        """Number of the index record that covers the position: where the next acquisition's source may begin."""
        return self._cursor + self._window.covering(self.position)

    @property
    def behind(self) -> int:
        """Bytes that are there and were not read yet."""
        return self._available() - self.position

    @property
    def at_end(self) -> bool:
        """True when the acquisition has ended, all of it was read, and what stands behind it was told."""
        return self._told_end

    def close(self) -> None:
        """Release the recording, if it was needed."""
        if self._file is not None:
            self._file.close()

    def next_slice(self, out: npt.NDArray[np.uint8]) -> Slice | None:
        """The next words, copied into `out`; None when there are none yet, or no more."""
        if self._may_skip:
            self._keep_up()
        start = self.position
        available = self._available()
        if available <= start:
            return self._end() if self.stop is not None and start >= self.stop else None
        if self._known_to <= start and not self._look_up(start, available):
            return None
        single = self._beginning.until_ns
        cut = self._window.cut(start, min(start + out.size, self._known_to), self._acquisition, single)
        reach = start + max((loss.reach for loss in cut.losses), default=0)
        if cut.stop < reach:  # such a slice is read as a whole, by everybody
            self._known_to = start
            if (available < reach and self.stop is None) or not self._look_up(start, available):
                return None
            cut = self._window.cut(start, min(start + out.size, self._known_to), self._acquisition, single)
        self._beginning.note(cut)
        view = out[: cut.stop - start]
        if not self._ring.copy_out(start, view):
            if self._may_skip:
                self._skip_to_newest()
                return None
            self._read(view, start)
        self.position = cut.stop
        return Slice(view.view("<u8"), cut.host_ns, start, cut.losses, cut.poll, cut.lasting_ns, cut.is_base)

    def _end(self) -> Slice | None:
        """What stands behind the last word, once."""
        if self._told_end:
            return None
        start = self.position
        if not self._look_up(start, start + 1):
            return None
        self._told_end = True
        cut = self._window.cut(start, start, self._acquisition)
        if not (cut.losses or cut.poll or cut.is_base):
            return None
        return Slice(NO_WORDS, cut.host_ns, start, cut.losses, cut.poll, is_base=cut.is_base)

    def _keep_up(self) -> None:
        if self._ring.received - self.position > self._ring.size // PREVIEW_SHARE:
            self._skip_to_newest()

    def _skip_to_newest(self) -> None:
        """Go on at the newest index record, where a chunk begins."""
        newest = int(self._ring.marks[Mark.INDEX_RECORDS]) - 1
        if newest < 0:
            return
        place = min(int(self._index["offset"][newest % self._index.size]), self._available())
        if place > self.position:
            self.skipped += place - self.position
            self.position = place
            self._cursor, self._window, self._known_to = newest, Window(NO_RECORDS), place

    def _available(self) -> int:
        """What is received, up to the end of the acquisition. The order of the readings matters: see `Mark.STOP`."""
        received = self._ring.received
        stop = int(self._ring.marks[Mark.STOP])
        return min(received, stop - 1) if stop else received

    def _read(self, view: npt.NDArray[np.uint8], start: int) -> None:
        """What the ring has overwritten is on disk: the writer frees room in the ring only behind itself."""
        if self._file is None:
            raise RuntimeError(f"the ring has overwritten byte {start} before it was decoded, and there is no file")
        self._file.read(view, start)

    def _look_up(self, start: int, available: int) -> bool:
        """Records from the one that covers `start` on, a limited number of them: more only if all stand at `start`.

        available: received when nobody had looked at the records yet: those before it are there. The cursor follows the
        position, so that a slice costs the same after hours as at the beginning. False: the file lacks some as yet.
        """
        self._cursor += self._window.covering(start)
        limit = RECORDS_AT_ONCE
        while True:
            records, all_of_them = self._fetch(limit)
            self._window = Window(records)
            if all_of_them or not records.size:
                self._known_to = available if all_of_them else start
            else:
                self._known_to = min(available, int(records["offset"][-1]))
            if self._known_to > start or records.size < limit:
                return self._known_to > start
            limit *= 2

    def _fetch(self, limit: int) -> tuple[Records, bool]:
        """Up to `limit` records from the cursor on, and whether these are all.

        They come from shared memory while it holds them, else from the file.
        """
        marks, size = self._ring.marks, self._index.size
        n_records = int(marks[Mark.INDEX_RECORDS])
        n = min(n_records - self._cursor, limit, size)
        first = self._cursor % size
        records = self._index[first : first + n].copy()
        if first + n > size:  # joining records takes long, and few looks go over the end
            records = np.concatenate([records, self._index[: first + n - size]])
        if int(marks[Mark.INDEX_RECORDS]) - size >= self._cursor:
            if self._recording is None:  # nobody needs what is overwritten: it was of words outside acquisitions
                self._cursor = int(marks[Mark.INDEX_RECORDS]) - size // 2
                return self._fetch(limit)
            offset = HEADER_BYTES + self._cursor * RECORD.itemsize
            records = np.fromfile(index_path(self._recording), RECORD, limit, offset=offset)
        return records, self._cursor + records.size >= n_records
