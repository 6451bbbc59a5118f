"""Recordings taken apart: `.tpx3` (chunk headers, several chips) and Pymepix `.raw` (bare words of one chip).

Each word gets its time since the recording began, unrolled from the wrapped numbers in it; hits and edges are read out
for the truth. Words that state an end of read-out are left out: the board says that itself. It knows no board.
"""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from ophyd_timepix.clock import HIT_TIME_BITS
from ophyd_timepix.protocol import words as w
from spidr_sim.encode import BINS_PER_COUNT, TDC_BYTES
from spidr_sim.jit import kernel
from spidr_sim.particles import IntArray
from spidr_sim.readout import WordArray

log = logging.getLogger(__name__)

_WORD_BYTES: Final = 8
_CHUNK_CHIP: Final = w.CHUNK_CHIP.shift
_CHUNK_CHIP_MASK: Final = w.CHUNK_CHIP.mask
_CHUNK_BYTES: Final = w.CHUNK_BYTES.shift
_HEADER_MASK: Final = np.uint64(w.CHUNK_MAGIC_FIELD.mask)
_MAGIC: Final = np.uint64(w.CHUNK_MAGIC)
_HOST_TIME_NIBBLE: Final = 1
"""Top nibble of host nanoseconds between 2006 and 2043: a `.raw` file may begin with them."""

PIXEL, TDC, TIMER_LOW, TIMER_HIGH, CONTROL, OTHER = range(6)
"""Kinds of words, by what has to be done to move them in time."""
_HALF_HIT_WRAP: Final = 1 << (HIT_TIME_BITS - 1)
_HIT_WRAP_MASK: Final = (1 << HIT_TIME_BITS) - 1
_SURPRISE_COUNTS: Final = 40_000_000
"""1 s: a longer step in time needs a second word that says so."""


class RecordingError(Exception):
    """A file that cannot be replayed: which, why, what to do."""


@dataclass(frozen=True)
class Hits:
    """What the pixel words of a chip say."""

    row: IntArray
    """Of its word."""
    pixel: IntArray
    """chip << 16 | y << 8 | x"""
    tot: IntArray
    bins: IntArray
    """fToA bins since the recording began, without column phase."""


@dataclass(frozen=True)
class Edges:
    """What the valid TDC words of a chip say."""

    row: IntArray
    """Of its word."""
    table: IntArray
    """Rows (input, falling, counter, tick since the recording began)."""


@dataclass(frozen=True)
class ChipRecording:
    """Words of one chip in their order, with the time of each in 25 ns counts since the recording began."""

    words: WordArray
    kind: npt.NDArray[np.int8]
    counts: IntArray
    """What the word states; words without a time have that of the word before."""
    due: IntArray
    """When it came: the latest time stated so far."""
    hits: Hits
    edges: Edges


@dataclass(frozen=True)
class Recording:
    """A recording taken apart."""

    path: Path
    chips: tuple[ChipRecording, ...]

    @property
    def seconds(self) -> float:
        """From its first to its last word."""
        return max((int(chip.due[-1]) for chip in self.chips if chip.due.size), default=0) * 25e-9


def read_recording(path: Path) -> Recording:
    """Read a recording. Raises RecordingError; a truncated one is used up to its last whole word, with a warning."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise RecordingError(f"cannot read {path}: {error.strerror}") from error
    if len(data) % _WORD_BYTES:
        log.warning("%s is cut within a word: its last %d bytes are left out", path, len(data) % _WORD_BYTES)
    words = np.frombuffer(data, np.dtype("<u8"), count=len(data) // _WORD_BYTES).astype(np.uint64)
    if not words.size:
        raise RecordingError(f"{path} holds no word")
    words, chip_of = _framed(path, words)
    if not words.size:
        raise RecordingError(f"{path} holds no word of a chip")
    last_chip = int(chip_of.max())
    if last_chip >= w.MAX_CHIPS:
        raise RecordingError(f"{path} has words of chip {last_chip}; a board has chips 0 to {w.MAX_CHIPS - 1}")
    kinds = kinds_of(words)
    counts = unroll(_stated(words, kinds), kinds)
    return Recording(
        path, tuple(_of_chip(words, kinds, counts, chip, chip_of == chip) for chip in range(last_chip + 1))
    )


def _framed(path: Path, words: WordArray) -> tuple[WordArray, npt.NDArray[np.int16]]:
    """The words without chunk headers or host time, and the chip of each."""
    if words[0] & _HEADER_MASK == _MAGIC:
        chip_of, cut = chips_of_chunks(words)
        if cut:
            log.warning("%s ends within a chunk: %d bytes are missing", path, cut)
        framed = chip_of >= 0
        return words[framed], chip_of[framed]
    if path.suffix != ".raw":
        raise RecordingError(f"{path} is neither a .tpx3 file (it does not begin with 'TPX3') nor a Pymepix .raw file")
    has_host_time = int(words[0]) >> w.HEADER.shift == _HOST_TIME_NIBBLE
    bare = words[1:] if has_host_time else words
    return bare, np.zeros(bare.size, np.int16)


@kernel
def chips_of_chunks(words: WordArray) -> tuple[npt.NDArray[np.int16], int]:
    """(chip of each word or -1 for headers and words outside chunks, bytes missing at the end)."""
    chip_of = np.full(words.size, -1, np.int16)
    chip = 0
    left = 0
    for i in range(words.size):
        if left:
            chip_of[i] = chip
            left -= 1
        elif words[i] & _HEADER_MASK == _MAGIC:
            chip = int(words[i] >> np.uint64(_CHUNK_CHIP)) & _CHUNK_CHIP_MASK
            left = int(words[i] >> np.uint64(_CHUNK_BYTES)) // _WORD_BYTES
    return chip_of, left * _WORD_BYTES


def kinds_of(words: WordArray) -> npt.NDArray[np.int8]:
    """The kind of each word."""
    top = (words >> np.uint64(w.TOP_BYTE.shift)).astype(np.int64)
    kinds = np.full(words.size, OTHER, np.int8)
    kinds[(top >> 4 == w.PIXEL_DATA_DRIVEN) | (top >> 4 == w.PIXEL_SEQUENTIAL)] = PIXEL
    kinds[np.isin(top, TDC_BYTES)] = TDC
    kinds[top == w.TIMER_LOW_BYTE] = TIMER_LOW
    kinds[top == w.TIMER_HIGH_BYTE] = TIMER_HIGH
    kinds[(top >= w.COMMAND_ACK_BYTE) & (top <= w.COMMAND_WRONG_BYTE)] = CONTROL
    return kinds


@kernel
def unroll(stated: IntArray, kinds: npt.NDArray[np.int8]) -> IntArray:
    """25 ns counts since the first word, from the wrapped times `stated`.

    A step of more than a second is believed when the next timed word is near it; else it is garbage and takes the
    time of the word before.
    """
    counts = np.empty(stated.size, np.int64)
    now = np.int64(-1)
    doubted = np.int64(-1)
    doubted_at = 0
    for i in range(stated.size):
        if kinds[i] > TIMER_LOW:
            counts[i] = now
            continue
        time = now + ((stated[i] - now + _HALF_HIT_WRAP) & _HIT_WRAP_MASK) - _HALF_HIT_WRAP if now >= 0 else stated[i]
        if now >= 0 and abs(time - now) > _SURPRISE_COUNTS:
            if doubted >= 0 and abs(time - doubted) <= _SURPRISE_COUNTS:
                counts[doubted_at:i] = doubted
            else:
                counts[i] = now
                doubted = time
                doubted_at = i
                continue
        now = time
        doubted = np.int64(-1)
        counts[i] = now
    first = counts[counts >= 0].min() if (counts >= 0).any() else 0
    return np.maximum(counts, first) - first


def _stated(words: WordArray, kinds: npt.NDArray[np.int8]) -> IntArray:
    """The times in the words, modulo 2**30 counts; of words without a time, nothing of meaning."""
    toa = _get(words, w.TOA) | _get(words, w.SPIDR_TIME) << w.TOA.width
    tdc = _get(words, w.TDC_TIME) >> 3
    return np.select([kinds == PIXEL, kinds == TDC], [toa, tdc], _get(words, w.TIMER_LOW)) & _HIT_WRAP_MASK


def _of_chip(
    words: WordArray, kinds: npt.NDArray[np.int8], counts: IntArray, chip: int, mine: npt.NDArray[np.bool_]
) -> ChipRecording:
    ends_of_readout = (w.END_OF_READOUT_DATA_DRIVEN, w.END_OF_READOUT_SEQUENTIAL)
    keep = mine & ~((kinds == CONTROL) & np.isin(_get(words, w.CONTROL_CODE), ends_of_readout))
    words, kinds, counts = words[keep], kinds[keep], counts[keep]
    due = np.maximum.accumulate(counts)
    return ChipRecording(words, kinds, counts, due, _hits(words, kinds, counts, chip), _edges(words, kinds, counts))


def _hits(words: WordArray, kinds: npt.NDArray[np.int8], counts: IntArray, chip: int) -> Hits:
    row = np.flatnonzero(kinds == PIXEL)
    words = words[row]
    dcol, in_super_pixel = _get(words, w.DCOL), _get(words, w.PIXEL)
    x = 2 * dcol + (in_super_pixel >> 2)
    y = 4 * _get(words, w.SUPER_PIXEL) + (in_super_pixel & 3)
    bins = counts[row] * BINS_PER_COUNT - _get(words, w.FTOA)
    return Hits(row, chip << 16 | y << 8 | x, _get(words, w.TOT), bins)


def _edges(words: WordArray, kinds: npt.NDArray[np.int8], counts: IntArray) -> Edges:
    stamp = _get(words, w.TDC_STAMP)
    valid = (kinds == TDC) & (stamp >= 1) & (stamp <= w.TDC_STAMPS) & (_get(words, w.TDC_ZERO) == 0)
    row = np.flatnonzero(valid)
    words = words[row]
    top = _get(words, w.TOP_BYTE)
    number, falling = 1 + np.isin(top, TDC_BYTES[1]), np.isin(top, TDC_BYTES[:, 1])
    fine_counts = (counts[row] << 3) | (_get(words, w.TDC_TIME) & 7)
    tick = fine_counts * w.TDC_STAMPS + stamp[row] - 1
    table = np.stack([number, falling, _get(words, w.TDC_COUNTER), tick], axis=1)
    return Edges(row, table.astype(np.int64))


def _get(words: WordArray, field: w.Field) -> IntArray:
    return ((words >> np.uint64(field.shift)) & np.uint64(field.mask)).astype(np.int64)
