"""Recordings as a source of words: `.tpx3` (chunk headers, several chips) and Pymepix `.raw` (bare words of one chip).

A recording starts anew whenever the gate opens. Its first word then comes at the opening, and all words that state a
time (pixels, TDC edges, timer words, echoes of the chips) state it on the board's timer, the distances between them
unchanged. Words of one chip keep their order. Words that state an end of read-out are left out: the board says that
itself.

It knows no scene, no clock and no socket.
"""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from ophyd_timepix.clock import HIT_TIME_BITS, TICKS_PER_FTOA
from ophyd_timepix.protocol import words as w
from spidr_sim.encode import BINS_PER_COUNT, TDC_BYTES
from spidr_sim.jit import kernel
from spidr_sim.particles import IntArray
from spidr_sim.readout import WordArray
from spidr_sim.scenes import LATENCY_COUNTS, SLICE_COUNTS
from spidr_sim.source import COLUMNS, DepartureQueue, Departures, SliceTruth

log = logging.getLogger(__name__)

_WORD_BYTES: Final = 8
_CHUNK_CHIP: Final = w.CHUNK_CHIP.shift
_CHUNK_CHIP_MASK: Final = w.CHUNK_CHIP.mask
_CHUNK_BYTES: Final = w.CHUNK_BYTES.shift
_HEADER_MASK: Final = np.uint64(w.CHUNK_MAGIC_FIELD.mask)
_MAGIC: Final = np.uint64(w.CHUNK_MAGIC)
_HOST_TIME_NIBBLE: Final = 1
"""Top nibble of host nanoseconds between 2006 and 2043: a `.raw` file may begin with them."""

_PIXEL, _TDC, _TIMER_LOW, _TIMER_HIGH, _CONTROL, _OTHER = range(6)
"""Kinds of words, by what has to be done to move them in time."""
_HALF_HIT_WRAP: Final = 1 << (HIT_TIME_BITS - 1)
_HIT_WRAP_MASK: Final = (1 << HIT_TIME_BITS) - 1
_SURPRISE_COUNTS: Final = 40_000_000
"""1 s: a longer step in time needs a second word that says so."""


class RecordingError(Exception):
    """A file that cannot be replayed: which, why, what to do."""


@dataclass(frozen=True)
class ChipRecording:
    """Words of one chip in their order, with the time of each in 25 ns counts since the recording began."""

    words: WordArray
    kind: npt.NDArray[np.int8]
    counts: IntArray
    """What the word states; words without a time have that of the word before."""
    due: IntArray
    """When it came: the latest time stated so far."""


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
    if not words.size or int(chip_of.max()) >= w.MAX_CHIPS:
        raise RecordingError(
            f"{path} has words of chip {int(chip_of.max(initial=-1))}; a board has chips 0 to {w.MAX_CHIPS - 1}"
        )
    kinds = kinds_of(words)
    counts = unroll(_stated(words, kinds), kinds)
    return Recording(
        path, tuple(_of_chip(words, kinds, counts, chip_of == chip) for chip in range(int(chip_of.max()) + 1))
    )


def _framed(path: Path, words: WordArray) -> tuple[WordArray, npt.NDArray[np.int8]]:
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
    return bare, np.zeros(bare.size, np.int8)


@kernel
def chips_of_chunks(words: WordArray) -> tuple[npt.NDArray[np.int8], int]:
    """(chip of each word or -1 for headers and words outside chunks, bytes missing at the end)."""
    chip_of = np.full(words.size, -1, np.int8)
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
    kinds = np.full(words.size, _OTHER, np.int8)
    kinds[(top >> 4 == w.PIXEL_DATA_DRIVEN) | (top >> 4 == w.PIXEL_SEQUENTIAL)] = _PIXEL
    kinds[np.isin(top, TDC_BYTES)] = _TDC
    kinds[top == w.TIMER_LOW_BYTE] = _TIMER_LOW
    kinds[top == w.TIMER_HIGH_BYTE] = _TIMER_HIGH
    kinds[(top >= w.COMMAND_ACK_BYTE) & (top <= w.COMMAND_WRONG_BYTE)] = _CONTROL
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
        if kinds[i] > _TIMER_LOW:
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
    return np.select([kinds == _PIXEL, kinds == _TDC], [toa, tdc], _get(words, w.TIMER_LOW)) & _HIT_WRAP_MASK


def _of_chip(
    words: WordArray, kinds: npt.NDArray[np.int8], counts: IntArray, mine: npt.NDArray[np.bool_]
) -> ChipRecording:
    ends = (kinds == _CONTROL) & np.isin(
        _get(words, w.CONTROL_CODE), (w.END_OF_READOUT_DATA_DRIVEN, w.END_OF_READOUT_SEQUENTIAL)
    )
    keep = mine & ~ends
    return ChipRecording(words[keep], kinds[keep], counts[keep], np.maximum.accumulate(counts[keep]))


class RecordingSource:
    """A recording as the board's source of words."""

    def __init__(self, recording: Recording, n_chips: int, *, keep_truth: bool = False) -> None:
        if len(recording.chips) > n_chips:
            raise RecordingError(
                f"{recording.path} has words of {len(recording.chips)} chips; a board with {n_chips} is too small"
            )
        self.n_chips = n_chips
        self.next_counts = 0
        self.final_counts = 0
        self._chips = recording.chips
        self._edge_chip = int(np.argmax([np.count_nonzero(chip.kind == _TDC) for chip in recording.chips]))
        self._keep_truth = keep_truth
        self._phase = np.zeros((n_chips, COLUMNS), np.int64)
        self._queue = DepartureQueue(n_chips)
        self._position = [0] * len(self._chips)
        self._open_counts = 0
        self._index = 0

    def set_phase(self, chip: int, phase_bins: IntArray) -> None:
        """Column phases of `chip`: words stay as recorded, what a decoder must find changes."""
        self._phase[chip] = phase_bins

    def open(self, epoch: int, at_counts: int) -> None:
        """The recording begins."""
        self._open_counts = at_counts
        self._position = [0] * len(self._chips)
        self._queue.pool.n = 0
        self._go_to(at_counts // SLICE_COUNTS)

    def advance(self) -> Departures:
        """The words of the next slice."""
        return self._slice((self._index + 1) * SLICE_COUNTS)

    def finish(self, at_counts: int) -> Iterator[Departures]:
        """The words that came before the closing."""
        while self._index * SLICE_COUNTS < at_counts:
            yield self._slice(min((self._index + 1) * SLICE_COUNTS, at_counts))
        while self._queue.pool.n:
            yield self._queue.leave(self._index)
            self._go_to(self._index + 1)

    def inject(self, chip: int, at_counts: int, words: tuple[int, ...]) -> None:
        """Words of the chip itself join the recorded ones."""
        for word in words:
            self._queue.pool.add(word, chip, at_counts)

    def _go_to(self, index: int) -> None:
        self._index = index
        self.final_counts = index * SLICE_COUNTS
        self.next_counts = self.final_counts + SLICE_COUNTS + LATENCY_COUNTS

    def _slice(self, until_counts: int) -> Departures:
        index = self._index
        hits = []
        edges = _NO_EDGES
        for chip, recorded in enumerate(self._chips):
            start = self._position[chip]
            stop = int(np.searchsorted(recorded.due, until_counts - self._open_counts))
            self._position[chip] = stop
            words, kind, counts = self._send(chip, recorded, start, stop)
            hits.append(_hits(words[kind == _PIXEL], counts[kind == _PIXEL], chip, self._phase))
            if chip == self._edge_chip:  # every chip repeats every edge
                edges = _edges(words[kind == _TDC], counts[kind == _TDC])
        self._go_to(index + 1)
        return self._queue.leave(index, len(edges), _truth(hits, edges) if self._keep_truth else None)

    def _send(
        self, chip: int, recorded: ChipRecording, start: int, stop: int
    ) -> tuple[WordArray, npt.NDArray[np.int8], IntArray]:
        """Put the words `start` to `stop` of a chip into the pool. Returns them, their kinds and their counts."""
        kind = recorded.kind[start:stop]
        counts = recorded.counts[start:stop] + self._open_counts
        due = recorded.due[start:stop] + self._open_counts
        words = restamped(recorded.words[start:stop], kind, counts, due)
        pool = self._queue.pool
        pool.reserve(words.size)
        pool.word[pool.n : pool.n + words.size] = words
        pool.departure[pool.n : pool.n + words.size] = due << 2 | chip
        pool.n += words.size
        return words, kind, counts


def restamped(words: WordArray, kind: npt.NDArray[np.int8], counts: IntArray, due: IntArray) -> WordArray:
    """The same words, stating `counts` (control words: `due`) instead of the times in them."""
    moved = words.copy()
    pixel, tdc, low, high, control = (kind == k for k in (_PIXEL, _TDC, _TIMER_LOW, _TIMER_HIGH, _CONTROL))
    moved[pixel] = _put(_put(moved[pixel], w.TOA, counts[pixel]), w.SPIDR_TIME, counts[pixel] >> w.TOA.width)
    below_25_ns = _get(moved[tdc], w.TDC_TIME) & 7
    moved[tdc] = _put(moved[tdc], w.TDC_TIME, (counts[tdc] << 3) | below_25_ns)
    moved[low] = _put(moved[low], w.TIMER_LOW, counts[low])
    moved[high] = _put(moved[high], w.TIMER_HIGH, due[high] >> w.TIMER_LOW.width)
    board_time = low | high | control
    moved[board_time] = _put(moved[board_time], w.SPIDR_TIME, due[board_time] >> w.TOA.width)
    return moved


def _get(words: WordArray, field: w.Field) -> IntArray:
    return ((words >> np.uint64(field.shift)) & np.uint64(field.mask)).astype(np.int64)


def _put(words: WordArray, field: w.Field, values: IntArray) -> WordArray:
    """`words` with the low bits of `values` in a field."""
    cleared = words & ~np.uint64(field.mask << field.shift)
    return cleared | ((values & field.mask).astype(np.uint64) << np.uint64(field.shift))


@dataclass(frozen=True)
class _Hits:
    pixel: IntArray
    tot: IntArray
    tick: IntArray


def _hits(words: WordArray, counts: IntArray, chip: int, phase: IntArray) -> _Hits:
    """What pixel words say."""
    dcol, in_super_pixel = _get(words, w.DCOL), _get(words, w.PIXEL)
    x = 2 * dcol + (in_super_pixel >> 2)
    y = 4 * _get(words, w.SUPER_PIXEL) + (in_super_pixel & 3)
    bins = counts * BINS_PER_COUNT - _get(words, w.FTOA) + phase[chip][dcol]
    return _Hits(chip << 16 | y << 8 | x, _get(words, w.TOT), bins * TICKS_PER_FTOA)


def _edges(words: WordArray, counts: IntArray) -> IntArray:
    """Rows (input, falling, counter, tick) of valid TDC words."""
    stamp = _get(words, w.TDC_STAMP)
    valid = (stamp >= 1) & (stamp <= w.TDC_STAMPS) & (_get(words, w.TDC_ZERO) == 0)
    words, counts, stamp = words[valid], counts[valid], stamp[valid]
    top = _get(words, w.TOP_BYTE)
    falling = np.isin(top, TDC_BYTES[:, 1])
    fine = (counts << 3) | (_get(words, w.TDC_TIME) & 7)
    tick = fine * w.TDC_STAMPS + stamp - 1
    return np.stack([1 + np.isin(top, TDC_BYTES[1]), falling, _get(words, w.TDC_COUNTER), tick], axis=1).astype(
        np.int64
    )


_NO_EDGES: Final = np.empty((0, 4), np.int64)


def _truth(hits: list[_Hits], edges: IntArray) -> SliceTruth:
    """The truth of a slice: what its words say. A recording does not know its particles."""
    n_hits = sum(part.tick.size for part in hits)
    none = np.empty(0, np.int64)
    return SliceTruth(
        particle_shot=none, particle_chip=none, particle_x=none.astype(np.float64), particle_y=none.astype(np.float64),
        particle_tick=none, particle_peak=none, particle_hits=none,
        hit_pixel=np.concatenate([part.pixel for part in hits]),
        hit_tot=np.concatenate([part.tot for part in hits]),
        hit_tick=np.concatenate([part.tick for part in hits]),
        hit_particle=np.full(n_hits, -1, np.int64),
        edges=edges,
        first_shot=0,
        shot_ticks=none,
    )  # fmt: skip
