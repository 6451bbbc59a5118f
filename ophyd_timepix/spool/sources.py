"""Recordings as sources of words: `.tpx3`, Pymepix `.raw`, SPIDR `.dat`. Knows where words start, not what they say."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

from ..protocol import words
from ..protocol.chip_config import GeneralConfig, PllConfig
from .comparison import Comparison
from .index import DAMAGED, RECORD, SILENCE_NS, Beginning, Index, Loss, PagedWindow, Poll, read_index
from .segments import Segment, SegmentReader, find_segments

if TYPE_CHECKING:
    from .odd_bytes import OddBytes

Words = npt.NDArray[np.uint64]

SPIDR_DAT_MAGICS: Final = (b"SPDR", b"SPT3")
DAT_DEVICE_PART: Final = 512
"""Where the header of a `.dat` tells of the chip: 'TPX3', then words of 32 bits."""
DAT_DEVICE_WORDS: Final = 11
DAT_GENERAL: Final = DAT_DEVICE_PART + 5 * 4
DAT_PLL: Final = DAT_DEVICE_PART + 7 * 4
GENERAL_MASK: Final = (1 << GeneralConfig.BITS) - 1
PLL_MASK: Final = (1 << PllConfig.BITS) - 1
TPX3_MAGIC: Final = b"TPX3"
SLICE_BYTES: Final = 4 << 20
NO_RECORDS: Final = np.zeros(0, RECORD)


class Slice(NamedTuple):
    """Words that follow each other without a gap, and what stands before the first of them."""

    words: Words
    """A view of the caller's buffer. None in it: at the end of an acquisition `losses` or `poll` may come alone."""
    host_ns: int | None
    """When the first of them came (CLOCK_MONOTONIC); None: unknown."""
    address: int
    """Of the first byte, in the recording."""
    losses: tuple[Loss, ...] = ()
    """What is missing just before `address`."""
    poll: Poll | None = None
    """A reading of the board's counter that stands at `address`."""
    lasting_ns: int = SILENCE_NS
    """Within so long after `host_ns` all of them came."""
    is_base: bool = False
    """What the board says it sent in this acquisition, it sent after what stands before `address`."""


class RecordingError(ValueError):
    """A file that is not a recording, or one whose frame is damaged beyond use."""


class Format(StrEnum):
    """Kinds of recordings."""

    TPX3 = "tpx3"
    PYMEPIX_RAW = "raw"
    SPIDR_DAT = "dat"


class Recording(BaseModel):
    """A recording on disk: where its words lie."""

    model_config = ConfigDict(frozen=True)

    path: Path
    format: Format
    data_offset: int = Field(description="bytes before the first word")
    n_bytes: int = Field(description="bytes of whole words")
    truncated_bytes: int = Field(description="bytes of a broken last word")
    segments: tuple[Segment, ...] | None = Field(None, description="the files, when there are several")
    general: int | None = Field(None, description="GENCONFIG of its chips: in a SPIDR `.dat`, or said by the user")
    pll: int | None = Field(None, description="PLLCONFIG of its chips: likewise")
    start_time_ns: int | None = Field(None, description="host time at open, Pymepix `.raw` only (ns since 1970)")

    @property
    def chunked(self) -> bool:
        """True when chunk headers lie between the words."""
        return self.format is Format.TPX3


def open_recording(path: Path) -> Recording:
    """Find out what `path` is. Raises RecordingError for a foreign or empty file, OSError when it cannot be read."""
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(DAT_DEVICE_PART + 4 * DAT_DEVICE_WORDS)
    if size < 8:
        raise RecordingError(f"{path}: {size} bytes are too few for a recording (a word has 8 bytes)")
    if head[:4] == TPX3_MAGIC:
        return _tpx3(path, size)
    if head[:4] in SPIDR_DAT_MAGICS:
        return _spidr_dat(path, head, size)
    if path.suffix.lower() == ".raw":
        return _pymepix_raw(path, head, size)
    raise RecordingError(
        f"{path}: unknown file type (first bytes {head[:8].hex(' ')}); known are .tpx3 (starts with 'TPX3'), "
        f"SPIDR .dat (starts with 'SPDR') and Pymepix .raw (by its name)"
    )


def _recording(path: Path, kind: Format, offset: int, size: int, start_time_ns: int | None = None) -> Recording:
    whole = (size - offset) // 8 * 8
    return Recording(
        path=path,
        format=kind,
        data_offset=offset,
        n_bytes=whole,
        truncated_bytes=size - offset - whole,
        start_time_ns=start_time_ns,
    )


def _tpx3(path: Path, size: int) -> Recording:
    """One of ours may go on in other files; its index, which lies beside the first, says so."""
    index = read_index(path)
    segments = find_segments(path, index.records) if index is not None else ()
    if len(segments) < 2:
        return _recording(path, Format.TPX3, 0, size)
    whole = _recording(path, Format.TPX3, 0, segments[-1].stop)
    return whole.model_copy(update={"segments": segments})


def _pymepix_raw(path: Path, head: bytes, size: int) -> Recording:
    """Newer files open with a host time (its top nibble is 1 from 2006 to 2043), older ones with data."""
    first = int.from_bytes(head[:8], "little")
    if words.HEADER.get(first) == 1:
        return _recording(path, Format.PYMEPIX_RAW, 8, size, start_time_ns=first)
    return _recording(path, Format.PYMEPIX_RAW, 0, size)


def _spidr_dat(path: Path, head: bytes, size: int) -> Recording:
    """Header of the NIKHEF DAQ: total header size in the second u32; the device part follows 512 bytes in."""
    offset = int.from_bytes(head[4:8], "little")
    if not 8 <= offset <= size or offset % 8:
        raise RecordingError(
            f"{path}: SPIDR header size {offset} is not a multiple of 8 within the file's {size} bytes"
        )
    recording = _recording(path, Format.SPIDR_DAT, offset, size)
    if offset < DAT_DEVICE_PART + 4 * DAT_DEVICE_WORDS or head[DAT_DEVICE_PART:][: len(TPX3_MAGIC)] != TPX3_MAGIC:
        return recording
    general, pll = (int.from_bytes(head[at : at + 4], "little") for at in (DAT_GENERAL, DAT_PLL))
    return recording.model_copy(update={"general": general & GENERAL_MASK, "pll": pll & PLL_MASK})


class RecordingReader:
    """Reads the words of one recording in slices, in order. Use as a context manager.

    start, stop: the bytes to read, counted from the first word; all when absent. acquisition: its losses and readings
    are told, those of others that stand at the same addresses are not; None: all are told.
    """

    def __init__(
        self, recording: Recording, start: int = 0, stop: int | None = None, acquisition: int | None = None
    ) -> None:
        self.recording = recording
        self._stop = recording.n_bytes if stop is None else stop
        self._acquisition = acquisition
        self.index: Index | None = read_index(recording.path) if recording.chunked else None
        self._window = PagedWindow(NO_RECORDS if self.index is None else self.index.records)
        starts = [0] if recording.segments is None else [segment.start for segment in recording.segments]
        self._file = SegmentReader(recording.path, recording.data_offset, starts)
        self._comparison: Comparison | None = None
        if self.index is not None and self.index.has_checksums:
            self._comparison = Comparison(self.index, recording.n_bytes, self._file)
        self._odd_bytes = self._chunks_of_others(start)
        self._odd: tuple[Loss, ...] = ()
        """Bytes of no word just before the next slice."""
        self._damaged_to = -1
        self._beginning = Beginning()
        self._told_end = False
        self.position = start

    def _chunks_of_others(self, start: int) -> "OddBytes | None":
        """Who looks for chunks at odd bytes; None where an index tells of damage, or there are no chunks."""
        if not self.recording.chunked or self.index is not None or start:
            return None
        from .odd_bytes import OddBytes  # it has a kernel, and those who record need none

        return OddBytes()

    @property
    def at_end(self) -> bool:
        """True when all words were read, and what stands behind them was told."""
        return self.position >= self._stop and self._told_end

    def __enter__(self) -> "RecordingReader":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Release the file."""
        self._file.close()

    def next_slice(self, out: npt.NDArray[np.uint8]) -> Slice | None:
        """The next words, in `out`; None at the end."""
        if self._told_end:
            return None
        start = self.position
        self._told_end = start >= self._stop
        stop = min(start + out.size, self._stop)
        cut = self._beginning.note(self._window.cut(start, stop, self._acquisition, self._beginning.until_ns))
        view = out[: cut.stop - start]
        self._file.read(view, start)
        if self._odd_bytes is not None:
            return self._up_to_odd_bytes(view, self._odd_bytes) or self.next_slice(out)
        view, damage = self._compare(view, start)
        losses = cut.losses + damage
        if self._told_end and not (losses or cut.poll or cut.is_base):
            return None
        self.position += view.size
        return Slice(view.view("<u8"), cut.host_ns, start, losses, cut.poll, cut.lasting_ns, cut.is_base)

    def _up_to_odd_bytes(self, view: npt.NDArray[np.uint8], odd_bytes: "OddBytes") -> Slice | None:
        """The whole words of `view`, which begins at the present position, up to a chunk at an odd byte, if any.

        Behind that a last word may be whole that was none before.
        """
        start, losses = self.position, self._odd
        n, n_odd = odd_bytes.look(view, start, is_end=start + view.size >= self._stop)
        self.position += n + n_odd
        if n_odd:
            end = self.recording.n_bytes + self.recording.truncated_bytes
            self._stop = end - (end - self.position) % 8
        self._odd = (Loss(-1, DAMAGED, n_odd),) if n_odd else ()
        if n or (losses and not n_odd):
            return Slice(view[:n].view("<u8"), None, start, losses)
        self._odd = losses + self._odd
        return None

    def _compare(self, view: npt.NDArray[np.uint8], start: int) -> tuple[npt.NDArray[np.uint8], tuple[Loss, ...]]:
        """What of a slice is all as it was received, or all of it damaged; and what to tell of that.

        A damaged stretch is told where it begins, and where it ends: what it held may be newer than all that is left.
        """
        n, is_damaged = (view.size, False) if self._comparison is None else self._comparison.look(view, start)
        if is_damaged:
            self._damaged_to = start + n
            return view[:n], (Loss(-1, DAMAGED, n, n),)
        return view[:n], (Loss(-1, DAMAGED, 0),) if self._damaged_to == start else ()
