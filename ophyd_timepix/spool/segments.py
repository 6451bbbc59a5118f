"""The files of one recording: `run.tpx3`, `run.0002.tpx3` ... Each is a whole `.tpx3` of its own, one index tells all.

Addresses are run-wide: a segment that begins at address `start` holds byte `start + o` at its byte `o`.
"""

import os
import re
from bisect import bisect_right
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from .index import Kind, Records, index_path, places_of, read_index

SEGMENT_BYTES: Final = 16 << 30
"""At 640 MB/s a segment takes 26 s. After a power cut only the last one needs to be read through: 8 s at 2 GB/s."""


class Segment(NamedTuple):
    """A file of a recording."""

    path: Path
    start: int
    """Run-wide address of its first byte."""
    stop: int
    """Address behind its last byte that is there."""


def segment_path(recording: Path, number: int) -> Path:
    """The file of segment `number`, from 1 on."""
    return recording if number == 1 else recording.with_name(f"{recording.stem}.{number:04d}{recording.suffix}")


def further_segments(recording: Path) -> list[Path]:
    """Files that are there and bear names of later segments, in order, whoever made them."""
    name = re.compile(rf"{re.escape(recording.stem)}\.\d{{4,}}{re.escape(recording.suffix)}")
    return sorted(path for path in recording.parent.iterdir() if name.fullmatch(path.name))


def segment_starts(records: Records) -> list[int]:
    """The address at which each segment begins."""
    return [0, *(int(records["offset"][k]) for k in places_of(records, Kind.SEGMENT))]


def find_segments(recording: Path, records: Records | None) -> tuple[Segment, ...]:
    """The files that are there, up to the first that is missing or too short for the next to follow it.

    records: of the recording's index; None: it has none, the first file is all. Raises OSError when that is missing.
    """
    starts = [0] if records is None else segment_starts(records)
    found: list[Segment] = []
    for number, start in enumerate(starts, 1):
        path = segment_path(recording, number)
        if number > 1 and (found[-1].stop < start or not path.exists()):
            break
        stop = start + path.stat().st_size
        if number < len(starts):
            stop = min(stop, starts[number])
        found.append(Segment(path, start, stop))
    return tuple(found)


def files_of(recording: Path) -> list[Path]:
    """All files of a recording that exist: segments, index, what was set aside."""
    index = read_index(recording)
    n_segments = 1 if index is None else len(segment_starts(index.records))
    paths = [segment_path(recording, number) for number in range(1, n_segments + 1)]
    paths += [index_path(recording), recording.with_name(recording.name + ".aside")]
    return [path for path in paths if path.exists()]


class SegmentReader:
    """Reads bytes of a recording by their address. Keeps one file open.

    data_offset: bytes of the first file that precede address 0. starts: where each segment begins; None: the recording
    still grows, and a segment is complete when the file of the next is there.
    """

    def __init__(self, recording: Path, data_offset: int = 0, starts: Sequence[int] | None = None) -> None:
        self._recording = recording
        self._data_offset = data_offset
        self._grows = starts is None
        self._starts = [0] if starts is None else list(starts)
        self._open = 0
        self._fd = -1

    def close(self) -> None:
        """Release the file."""
        if self._fd >= 0:
            os.close(self._fd)
        self._fd, self._open = -1, 0

    def read(self, out: npt.NDArray[np.uint8], address: int) -> None:
        """Fill `out` from `address` on. Raises OSError when the recording is shorter."""
        while out.size:
            number = self._number(address)
            if number != self._open:
                self.close()
                self._fd, self._open = os.open(segment_path(self._recording, number), os.O_RDONLY), number
            last = number == len(self._starts)
            n = out.size if last else min(out.size, self._starts[number] - address)
            _read_exactly(self._fd, out[:n], self._data_offset + address - self._starts[number - 1])
            out, address = out[n:], address + n

    def _number(self, address: int) -> int:
        """The segment that holds `address`."""
        while self._grows and segment_path(self._recording, len(self._starts) + 1).exists():
            size = segment_path(self._recording, len(self._starts)).stat().st_size
            self._starts.append(self._starts[-1] + size)
        return bisect_right(self._starts, address)


def _read_exactly(fd: int, out: npt.NDArray[np.uint8], offset: int) -> None:
    """Fill `out` from `offset`. Raises OSError when the file is shorter."""
    view = out.data
    while view.nbytes:
        n = os.preadv(fd, [view], offset)
        if n == 0:
            raise OSError(f"the recording ends at byte {offset}, {view.nbytes} bytes short of what was expected")
        view = view[n:]
        offset += n
