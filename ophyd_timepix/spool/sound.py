"""What a power cut left of a recording: good up to the last index record whose checksum agrees with its bytes.

Blocks reach the disk in no certain order: there may be holes before that, a file may end in zeros or lack its end, and
the index may know more than the recording holds, or less. A segment that another follows was made durable before, so
that only the last is read through.
"""

from typing import NamedTuple

from .comparison import checksum_of
from .index import Index, Records, first_at, read_index
from .segments import SegmentReader
from .sources import Recording


class Sound(NamedTuple):
    """What of a recording is as it was received."""

    n_bytes: int
    """From the beginning to the last record whose checksum agrees."""
    n_records: int
    """Index records up to and with that one."""
    cut_bytes: int
    """Bytes that the files hold behind it: not to be trusted."""
    missing_bytes: int
    """Bytes that the index knows of behind it."""
    damaged: tuple[tuple[int, int], ...] = ()
    """Addresses [start, stop) of stretches before it that are not as they were received: blocks that the disk lost."""

    @property
    def is_whole(self) -> bool:
        """True when nothing had to be cut, nothing is missing and nothing is damaged."""
        return not self.cut_bytes and not self.missing_bytes and not self.damaged


def sound_part(recording: Recording, *, everything: bool = False) -> Sound:
    """Find the last good record of a recording. Without checksums (other programs, older indices) all counts as good.

    everything: read all segments, not the last alone, for recordings that were not made durable in between.
    """
    index: Index | None = read_index(recording.path) if recording.chunked else None
    if index is None or not index.has_checksums or not len(index.records):
        return Sound(recording.n_bytes, 0 if index is None else len(index.records), 0, 0)
    last_file = recording.segments[-1].start if recording.segments is not None and not everything else 0
    offsets = index.records["offset"]
    first = first_at(index.records, last_file)
    good, damaged = _compare(recording, index.records, first)
    n_bytes = int(offsets[good])
    return Sound(
        n_bytes,
        good + 1,
        recording.n_bytes + recording.truncated_bytes - n_bytes,
        max(0, int(offsets[-1]) - n_bytes),
        damaged,
    )


def sound(recording: Recording) -> Recording:
    """The same recording without what is not good: what is cut counts as truncated."""
    return cut_recording(recording, sound_part(recording).n_bytes)


def cut_recording(recording: Recording, n_bytes: int) -> Recording:
    """A recording without what lies behind its first `n_bytes`: that counts as truncated."""
    there = recording.n_bytes + recording.truncated_bytes
    return recording.model_copy(update={"n_bytes": n_bytes, "truncated_bytes": there - n_bytes})


def _compare(recording: Recording, records: Records, first: int) -> tuple[int, tuple[tuple[int, int], ...]]:
    """(number of the last record whose checksum agrees, stretches before it that do not); `first` itself is good."""
    starts = [0] if recording.segments is None else [segment.start for segment in recording.segments]
    file = SegmentReader(recording.path, recording.data_offset, starts)
    good = first
    damaged: list[tuple[int, int]] = []
    between: list[tuple[int, int]] = []
    try:
        for k in range(first + 1, len(records)):
            start, stop = int(records["offset"][k - 1]), int(records["offset"][k])
            if stop > recording.n_bytes:
                break
            if start < stop and checksum_of(file, start, stop) != int(records["checksum"][k]):
                between.append((start, stop))
            elif start < stop or good == k - 1:  # nothing between two records says nothing by itself
                good, damaged, between = k, damaged + between, []
    finally:
        file.close()
    return good, tuple(damaged)
