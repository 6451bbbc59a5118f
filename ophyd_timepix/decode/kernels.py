"""The kernels that turn 64-bit words into hits and TDC edges on one time line.

One pass over the words. The hot path takes a pixel word whose time lies in the window that its chip's newest time
allows; every other word goes through `_rare`. All integers are int64: mixing int64 and uint64 would make floats.

Times are judged in counts of 25 ns as the chip sent them; fToA and column phase enter only the ticks that come out.

All memory is in one `Store`: what outlives a call, and the outputs of a call.

Rules of time (all of them functions of the stream, never of how it is cut into calls):

* Epoch. A time known modulo a period is the one in [reference - 3.4 s, reference + period - 3.4 s): nothing comes
  seconds too late, silence may last long. The reference is the newest accepted time, an anchor or a timer pair.
* Without any reference the first word's own value counts from epoch 0; wider words (TDC 32 bit, timer 48 bit) that come
  later are brought onto the same line by an offset.
* Lateness. A word older than its chip's newest time by more than `lateness`, or, with several chips, older than the
  newest of all by more than `skew`, is late: counted, not returned.
* Early. Where it is known when an acquisition began, a word that is older by more than `lateness` is of the time
  before: counted, not returned, and nothing else is judged by it.
* Latest. Where it is known when words came, none is believed that is later by more than some seconds, unless 256 in a
  row of its chip agree.
* Jumps. A word ahead of everything accepted by more than `jump` is held until the chip's next timed word confirms it
  (not older than it by more than `lateness`) or refutes it (counted, not returned), or another chip gets that far.
* Doubt. After a word without sense (unknown, an edge with impossible fields, a chunk cut short) random words may
  follow, and random words confirm each other. Until `DOUBT` words of the chip had their place in time, so many in a
  row must confirm a word that is held, unless it is known when words came, or seconds pass between them.
* Uncertain epochs. A silence longer than half a period may have been longer by whole periods. The shortest is taken,
  and it is counted and marked. So is a hit that goes on just where its chip had left, a period later: then damaged
  words may have led astray.
"""

from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from ..clock import TICKS_PER_COUNT, TICKS_PER_FTOA, TICKS_PER_TDC_COUNT
from ..jit import inlined, internal, kernel
from ..protocol import words as w
from .counts import Count, Mark

Ints = npt.NDArray[np.int64]
Bytes = npt.NDArray[np.uint8]

NEVER: Final = -(1 << 56)
"""Before every time; its ticks still fit in int64."""

# --- indices into `state` ---------------------------------------------------------------------------------------------
S_LEFT: Final = 0
"""Words left of the current chunk."""
S_CHIP: Final = 1
"""Chip of the current chunk."""
S_MODE: Final = 2
"""Mode byte of the last chunk header, -1 before the first."""
S_REFERENCE: Final = 3
"""Time from which epochs are counted."""
S_KNOWN: Final = 4
"""Bits of the wire's time that the offset below is known to: 0, 30, 32 or 48."""
S_OFFSET: Final = 5
"""Wire time minus time line."""
S_NEWEST: Final = 6
"""Newest accepted time of all chips."""
S_N_HELD: Final = 7
S_LATENESS: Final = 8
S_JUMP: Final = 9
S_SKEW: Final = 10
S_N_CHIPS: Final = 11
S_ANCHORED: Final = 12
"""1: the reference came from an anchor or a timer pair, not from a word's own value."""
S_HITS: Final = 13
"""Hits in the output."""
S_EDGES: Final = 14
"""Edges in the output."""
S_WORST: Final = 15
"""Largest lateness of an accepted hit; set it to 0 to begin anew."""
S_CEILING: Final = 16
"""No timer word is believed beyond this."""
S_LATE: Final = 17
"""Late words in the output."""
S_LATEST: Final = 18
"""Later than the host's clock allows: a hit or edge beyond is not believed."""
S_TOLD: Final = 19
"""Newest time that an anchor or a timer pair told."""
S_WORD: Final = 20
"""Place of the present word in the call."""
S_MARKS: Final = 21
"""Marks in the output."""
S_COUNTING: Final = 22
"""Words of pixels that count in the output."""
S_N_OPEN: Final = 23
"""Chips that have not gone on after a mark."""
S_FLOOR: Final = 24
"""Before the acquisition: what is older is of the time before. `NEVER` where nobody knows when it began."""
N_STATE: Final = 25

# --- indices into a row of `chips` ------------------------------------------------------------------------------------
C_NEWEST: Final = 0
C_N_HELD: Final = 1
"""Words that are held."""
C_HELD_NEWEST: Final = 2
"""Time of the newest of them."""
C_DOUBT: Final = 3
"""Words that must have their place before the chip's stream is trusted again."""
C_TIMER_LOW: Final = 4
"""Low half of a timer pair, -1 when there is none."""
C_PACKET: Final = 5
"""Newest number of a packet, -1 before the first."""
C_FAR: Final = 6
"""Words in a row beyond the latest that agree with each other."""
C_FAR_TIME: Final = 7
"""Time of the last of them."""
C_HOW: Final = 8
"""What its pixels measure, by the `HOW_...` bits."""
C_SILENCE: Final = 9
"""Before its last word, if that was held; else 0. More than `SPARSE`: others come as seldom, none waits for many."""
C_LEFT: Final = 10
"""Its newest time before it last went far ahead."""
C_HELD: Final = 11
"""From here on word and time of each that is held, and since when nothing was sure if its epoch is not (else `NEVER`).
"""

DOUBT: Final = 16
HELD_MAX: Final = DOUBT
C_OPEN: Final = C_HELD + 3 * HELD_MAX
"""1: the chip has not gone on after a mark, ..."""
C_OPEN_SINCE: Final = C_OPEN + 1
"""before which this was its newest time."""
C_OTHERS: Final = C_OPEN + 2
"""Words of timer and control in its chunk; while it has not gone on after a mark, since the chunk of the mark."""
N_CHIP: Final = C_OPEN + 3

HOW_COUNTING: Final = 1
"""Events and the sum of their ToT, no time."""
HOW_NO_FTOA: Final = 2
"""The oscillators are off: where fToA would be is the number of hits."""

# --- columns of `marks` -----------------------------------------------------------------------------------------------
M_KIND: Final = 0
"""A `Mark`."""
M_CHIP: Final = 1
M_WORD: Final = 2
"""Place of the word in the call; -1: it came in an earlier one."""
M_AMOUNT: Final = 3
M_BEFORE: Final = 4
"""Time before it: the newest of its chip, of EPOCH the newest of all."""
M_AFTER: Final = 5
"""Time after it, `NEVER` where that is not known yet."""
N_MARK: Final = 6

# --- from the word table ----------------------------------------------------------------------------------------------
_TOA_SHIFT: Final = w.TOA.shift
_TOA_WIDTH: Final = w.TOA.width
_TOA_MASK: Final = w.TOA.mask
_SPIDR_MASK: Final = w.SPIDR_TIME.mask
_TOT_SHIFT: Final = w.TOT.shift
_TOT_MASK: Final = w.TOT.mask
_FTOA_SHIFT: Final = w.FTOA.shift
_FTOA_MASK: Final = w.FTOA.mask
_ITOT_SHIFT: Final = w.ITOT.shift
_ITOT_MASK: Final = w.ITOT.mask
_ITOT_WIDTH: Final = w.ITOT.width
_DCOL_SHIFT: Final = w.DCOL.shift
_DCOL_MASK: Final = w.DCOL.mask
_SUPER_PIXEL_SHIFT: Final = w.SUPER_PIXEL.shift
_SUPER_PIXEL_MASK: Final = w.SUPER_PIXEL.mask
_PIXEL_SHIFT: Final = w.PIXEL.shift
_PIXEL_HEADER: Final = w.PIXEL_SEQUENTIAL >> 1
"""Sequential (0xA) and data driven (0xB) differ in the lowest bit of the header."""
_PIXEL_HEADER_SHIFT: Final = w.HEADER.shift + 1
_HEADER_SHIFT: Final = w.HEADER.shift
_DATA_DRIVEN: Final = w.PIXEL_DATA_DRIVEN - (1 << w.HEADER.width)
"""As the top of a signed word."""
_TDC_COUNTER_SHIFT: Final = w.TDC_COUNTER.shift
_TDC_COUNTER_MASK: Final = w.TDC_COUNTER.mask
_TDC_TIME_SHIFT: Final = w.TDC_TIME.shift
_TDC_COARSE_SHIFT: Final = w.TDC_TIME.shift + 3
"""Eight TDC counts of 3.125 ns are one count of 25 ns."""
_TDC_COARSE_MASK: Final = (1 << 32) - 1
_TDC_STAMP_SHIFT: Final = w.TDC_STAMP.shift
_TDC_STAMP_MASK: Final = w.TDC_STAMP.mask
_TDC_STAMPS: Final = w.TDC_STAMPS
_TDC_ZERO_MASK: Final = w.TDC_ZERO.mask
_TIMER_LOW_SHIFT: Final = w.TIMER_LOW.shift
_TIMER_LOW_MASK: Final = w.TIMER_LOW.mask
_TIMER_HIGH_SHIFT: Final = w.TIMER_HIGH.shift
_TIMER_HIGH_MASK: Final = w.TIMER_HIGH.mask
_PACKET_ID_MASK: Final = w.PACKET_ID.mask
_CONTROL_CODE_SHIFT: Final = w.CONTROL_CODE.shift
_CONTROL_CODE_MASK: Final = w.CONTROL_CODE.mask
_END_SEQUENTIAL: Final = w.END_OF_READOUT_SEQUENTIAL
_END_DATA_DRIVEN: Final = w.END_OF_READOUT_DATA_DRIVEN
_MAGIC: Final = w.CHUNK_MAGIC
_MAGIC_MASK: Final = w.CHUNK_MAGIC_FIELD.mask
_CHUNK_CHIP_SHIFT: Final = w.CHUNK_CHIP.shift
_CHUNK_CHIP_MASK: Final = w.CHUNK_CHIP.mask
_CHUNK_MODE_SHIFT: Final = w.CHUNK_MODE.shift
_CHUNK_MODE_MASK: Final = w.CHUNK_MODE.mask
_CHUNK_BYTES_SHIFT: Final = w.CHUNK_BYTES.shift
_CHUNK_BYTES_MASK: Final = w.CHUNK_BYTES.mask
_MAX_CHIPS: Final = w.MAX_CHIPS
_TDC2: Final = (int(w.TdcByte.TDC2_RISING), int(w.TdcByte.TDC2_FALLING))
_FALLING: Final = (int(w.TdcByte.TDC1_FALLING), int(w.TdcByte.TDC2_FALLING))

_HIT_BITS: Final = 30
_TDC_BITS: Final = 32
TIMER_BITS: Final = 48
_HIT_PERIOD_MASK: Final = (1 << _HIT_BITS) - 1

BACKWARD: Final = 1 << 27
"""Counts (3.4 s) that a time may lie before the reference."""
FIRST_SILENCE: Final = 1 << 29
"""Counts (13.4 s) that the second word of an unanchored stream may come after the first, across a roll-over."""
ANCHOR_MARGIN: Final = (1 << (_HIT_BITS - 1)) - BACKWARD
"""An anchor becomes the reference this much lower, so that a hit may lie 13.4 s to either side of it."""
CEILING_MARGIN: Final = 1 << (_HIT_BITS - 1)
"""A timer word may be this far beyond an anchor (13.4 s)."""
LATEST_MARGIN: Final = 10_000_000
"""Counts (0.25 s) that a word may be later than when it came, as far as the host's clock can tell."""
EXACT_MARGIN: Final = 400_000
"""The same (10 ms) right after the board's timer was read, where it is known when words came as exactly."""
DRIFT_SHIFT: Final = 3
"""The margin grows by 1 / 8 of a silence: no clock drifts as much."""
FOREVER: Final = 1 << 54
"""No stream lasts 14 years: lies that add up to more are not believed, and ticks stay far from the end of int64."""
_PAIR_GAP: Final = 64
"""The SPIDR time of a high timer word may be this many units of 0.41 ms after the low word: pixels pass between."""

WRAP_SUSPECT: Final = (1 << _TOA_WIDTH) - (1 << (_TOA_WIDTH - 4))
"""Lateness (384 us) near the 409.6 us beyond which the board's extension of ToA is wrong by a wrap."""
SPARSE: Final = 40_000_000
"""Counts (1 s)."""
FAR_AGREE: Final = 1 << 25
"""Counts (0.8 s) within which words beyond the latest agree with the one before."""
FAR_ENOUGH: Final = 256
"""So many that agree are not damaged: then it is the host's clock that is not believed."""
PACKETS_MAX: Final = 1 << 16
"""A larger step between numbers of packets is no loss but another count."""

# Top bytes of words that are not pixels.
_K_UNKNOWN: Final = 0
_K_TDC: Final = 1
_K_TIMER_LOW: Final = 2
_K_TIMER_HIGH: Final = 3
_K_CONTROL: Final = 4
_K_END: Final = 5
_K_PACKET: Final = 6


def _kinds() -> npt.NDArray[np.int64]:
    kinds = np.full(256, _K_UNKNOWN, np.int64)
    kinds[list(w.CONTROL_BYTES)] = _K_CONTROL
    kinds[w.COMMAND_END_BYTE] = _K_END
    kinds[w.PACKET_ID_BYTE] = _K_PACKET
    kinds[[int(byte) for byte in w.TdcByte]] = _K_TDC
    kinds[w.TIMER_LOW_BYTE] = _K_TIMER_LOW
    kinds[w.TIMER_HIGH_BYTE] = _K_TIMER_HIGH
    return kinds


_KINDS: Final = _kinds()

_N_WORDS: Final = int(Count.WORDS)
_N_CHUNK_HEADERS: Final = int(Count.CHUNK_HEADERS)
_N_HITS: Final = int(Count.HITS)
_N_LATE_HITS: Final = int(Count.LATE_HITS)
_N_JUMPED_HITS: Final = int(Count.JUMPED_HITS)
_N_EDGES: Final = int(Count.EDGES)
_N_LATE_EDGES: Final = int(Count.LATE_EDGES)
_N_JUMPED_EDGES: Final = int(Count.JUMPED_EDGES)
_N_REJECTED_EDGES: Final = int(Count.REJECTED_EDGES)
_N_TIMER_WORDS: Final = int(Count.TIMER_WORDS)
_N_CONTROL_WORDS: Final = int(Count.CONTROL_WORDS)
_N_UNKNOWN_WORDS: Final = int(Count.UNKNOWN_WORDS)
_N_FOREIGN: Final = int(Count.FOREIGN_CHIP_WORDS)
_N_UNFRAMED: Final = int(Count.UNFRAMED_WORDS)
_N_CUT_CHUNKS: Final = int(Count.CUT_CHUNKS)
_N_TIMER_PAIRS: Final = int(Count.TIMER_PAIRS)
_N_END: Final = int(Count.END_OF_READOUT_0)
_N_TIMER_JUMPS: Final = int(Count.TIMER_JUMPS)
_N_SUSPECTS: Final = int(Count.TOA_WRAP_SUSPECTS)
_N_CHUNKS: Final = int(Count.CHUNKS_0)
_N_CHIP_HITS: Final = int(Count.HITS_0)
_N_COUNTING: Final = int(Count.COUNTING_WORDS)
_N_SEQUENTIAL: Final = int(Count.SEQUENTIAL_WORDS)
_N_EPOCHS: Final = int(Count.EPOCH_UNCERTAIN)
_N_EARLY_HITS: Final = int(Count.EARLY_HITS)
_N_EARLY_EDGES: Final = int(Count.EARLY_EDGES)
_N_PACKET_IDS: Final = int(Count.PACKET_IDS)
_N_MISSING_PACKETS: Final = int(Count.MISSING_PACKETS)

_M_UNFRAMED: Final = int(Mark.UNFRAMED)
_M_CUT_CHUNK: Final = int(Mark.CUT_CHUNK)
_M_FOREIGN_CHIP: Final = int(Mark.FOREIGN_CHIP)
_M_UNKNOWN: Final = int(Mark.UNKNOWN)
_M_REJECTED_EDGE: Final = int(Mark.REJECTED_EDGE)
_M_JUMPED: Final = int(Mark.JUMPED)
_M_MISSING_PACKETS: Final = int(Mark.MISSING_PACKETS)
_M_EPOCH: Final = int(Mark.EPOCH)
_M_RESUMED: Final = int(Mark.RESUMED)
_M_ASTRAY: Final = int(Mark.ASTRAY)
_M_EARLY: Final = int(Mark.EARLY)
_M_SUSPECT: Final = int(Mark.WRAP_SUSPECT)


class Store(NamedTuple):
    """The arrays of one stream."""

    state: Ints
    """Scalars, by the `S_...` indices."""
    chips: Ints
    """Per chip, by the `C_...` indices."""
    phase: Ints
    """Ticks to add, per chip and double column."""
    counts: Ints
    """By `Count`."""
    unknown: Ints
    """Words of no known kind, by their top byte."""
    controls: Ints
    """Row 0: control words by their top byte; row 1: commands that ended, by their code."""
    ticks: Ints
    pixels: npt.NDArray[np.uint32]
    edge_ticks: Ints
    edge_input: Bytes
    edge_falling: Bytes
    edge_counter: npt.NDArray[np.uint16]
    edge_chip: Bytes
    counting_pixels: npt.NDArray[np.uint32]
    counting_sums: npt.NDArray[np.uint32]
    late: Ints
    marks: Ints
    """By the `M_...` columns."""


@inlined
def _is_pixel(word: int) -> bool:
    return (word >> _PIXEL_HEADER_SHIFT) & 7 == _PIXEL_HEADER


@inlined
def _hit_time(word: int) -> int:
    """spidr_time << 14 | toa: 30 bits of 25 ns."""
    return ((word & _SPIDR_MASK) << _TOA_WIDTH) | ((word >> _TOA_SHIFT) & _TOA_MASK)


@inlined
def _hit_pixel(word: int) -> int:
    """y << 18 | x << 10 | ToT with x = 2 dcol + pixel // 4, y = 4 super_pixel + pixel % 4."""
    dcol = (word >> _DCOL_SHIFT) & _DCOL_MASK
    super_pixel = (word >> _SUPER_PIXEL_SHIFT) & _SUPER_PIXEL_MASK
    x = (dcol << 1) | ((word >> (_PIXEL_SHIFT + 2)) & 1)
    y = (super_pixel << 2) | ((word >> _PIXEL_SHIFT) & 3)
    return (y << 18) | (x << 10) | ((word >> _TOT_SHIFT) & _TOT_MASK)


@inlined
def _hit_ticks(word: int, time: int, phase: Ints) -> int:
    """Ticks: 96 a count, minus 6 for each fToA bin, plus the phase of the column. phase: that of the chip."""
    ftoa = (word >> _FTOA_SHIFT) & _FTOA_MASK
    ticks: int = time * TICKS_PER_COUNT - ftoa * TICKS_PER_FTOA + phase[(word >> _DCOL_SHIFT) & _DCOL_MASK]
    return ticks


@internal
def _mark(kind: int, chip: int, amount: int, before: int, after: int, store: Store) -> None:
    """Note that something is wrong at the present word."""
    n = store.state[S_MARKS]
    row = store.marks[n]
    row[M_KIND] = kind
    row[M_CHIP] = chip
    row[M_WORD] = store.state[S_WORD]
    row[M_AMOUNT] = amount
    row[M_BEFORE] = before
    row[M_AFTER] = after
    store.state[S_MARKS] = n + 1
    opens = kind in (_M_UNKNOWN, _M_REJECTED_EDGE, _M_JUMPED, _M_MISSING_PACKETS, _M_CUT_CHUNK, _M_ASTRAY)
    if opens and 0 <= chip < store.state[S_N_CHIPS]:
        store.state[S_N_OPEN] += 1 - store.chips[chip, C_OPEN]
        store.chips[chip, C_OPEN] = 1
        store.chips[chip, C_OPEN_SINCE] = before


@internal
def _resume(store: Store) -> None:
    """Chips that went on after a mark. One that stays silent is not waited for when others are beyond the skew."""
    state, chips = store.state, store.chips
    for chip in range(state[S_N_CHIPS]):
        if chips[chip, C_OPEN] == 0:
            continue
        since, newest = chips[chip, C_OPEN_SINCE], chips[chip, C_NEWEST]
        if newest <= since:
            if state[S_NEWEST] - since <= state[S_SKEW]:
                continue
            newest = state[S_NEWEST] + state[S_SKEW]
        chips[chip, C_OPEN] = 0
        state[S_N_OPEN] -= 1
        _mark(_M_RESUMED, chip, chips[chip, C_OTHERS], since, newest, store)


@internal
def _mark_astray(store: Store) -> None:
    """Words outside of chunks begin: they may be of any chip. One that has not gone on after a mark needs no other."""
    state, chips = store.state, store.chips
    if state[S_N_OPEN]:
        _resume(store)
    for chip in range(state[S_N_CHIPS]):
        if chips[chip, C_OPEN] == 0:
            # A chip that is silent for longer would be taken to have gone on at once, again and again.
            _mark(_M_ASTRAY, chip, 0, max(chips[chip, C_NEWEST], state[S_NEWEST] - state[S_SKEW]), NEVER, store)


@internal
def _mark_words(kind: int, chip: int, n_words: int, store: Store) -> None:
    """Note words that are passed over, the present one and those behind it: one mark for all that follow each other."""
    n = store.state[S_MARKS]
    if n:
        row = store.marks[n - 1]
        if row[M_KIND] == kind and row[M_CHIP] == chip and row[M_WORD] + row[M_AMOUNT] == store.state[S_WORD]:
            row[M_AMOUNT] += n_words
            return
    before = store.chips[chip, C_NEWEST] if 0 <= chip < store.state[S_N_CHIPS] else NEVER
    _mark(kind, chip, n_words, before, NEVER, store)


@internal
def _extend(value: int, bits: int, state: Ints) -> int:
    """The time on the line of a wire time that is known modulo 2**bits."""
    known = state[S_KNOWN]
    if known == 0:
        return value
    usable = min(bits, known)
    mask = (1 << usable) - 1
    own: int = value - state[S_OFFSET]
    forward = (own - state[S_REFERENCE]) & mask
    if state[S_NEWEST] == NEVER and state[S_ANCHORED] == 0:
        # Nothing is accepted yet: the reference is a first word that may be garbage. Only a word near it relies on it.
        if FIRST_SILENCE < forward < mask + 1 - state[S_LATENESS] and bits == known:
            return own
        backward = state[S_LATENESS]
    else:
        backward = BACKWARD
    if forward > mask - backward:
        forward -= mask + 1
    time: int = state[S_REFERENCE] + forward
    return time


@inlined
def _is_uncertain(time: int, since: int, bits: int, state: Ints) -> bool:
    """May whole periods have passed unseen between the newest time that is sure and this one?"""
    return since != NEVER and time - since > 1 << (min(bits, state[S_KNOWN]) - 1)


@internal
def _learn_offset(value: int, bits: int, time: int, state: Ints) -> None:
    """An accepted time with more bits than known so far settles the epoch of the time line against the wire's."""
    if bits > state[S_KNOWN]:
        state[S_OFFSET] = (value - time) & ((1 << bits) - 1)
        state[S_KNOWN] = bits


@internal
def _emit(word: int, time: int, chip: int, store: Store) -> None:
    """Put a timed word into the output."""
    state = store.state
    if _is_pixel(word):
        n = state[S_HITS]
        if store.chips[chip, C_HOW] & HOW_NO_FTOA:
            word &= ~(_FTOA_MASK << _FTOA_SHIFT)
        store.ticks[n] = _hit_ticks(word, time, store.phase[chip])
        store.pixels[n] = (chip << 26) | _hit_pixel(word)
        state[S_HITS] = n + 1
        store.counts[_N_CHIP_HITS + chip] += 1
        return
    n = state[S_EDGES]
    byte = (word >> 56) & 0xFF
    stamp = (word >> _TDC_STAMP_SHIFT) & _TDC_STAMP_MASK
    fine = ((word >> _TDC_TIME_SHIFT) & 7) * TICKS_PER_TDC_COUNT + stamp - 1
    store.edge_ticks[n] = time * TICKS_PER_COUNT + fine
    store.edge_input[n] = 2 if byte in _TDC2 else 1
    store.edge_falling[n] = 1 if byte in _FALLING else 0
    store.edge_counter[n] = (word >> _TDC_COUNTER_SHIFT) & _TDC_COUNTER_MASK
    store.edge_chip[n] = chip
    state[S_EDGES] = n + 1
    store.counts[_N_EDGES] += 1


@internal
def _accept(word: int, time: int, chip: int, store: Store) -> None:
    """Put a timed word into the output; the newest times follow it."""
    state, chips = store.state, store.chips
    if _is_pixel(word):
        late = chips[chip, C_NEWEST] - time
        state[S_WORST] = max(state[S_WORST], late)
        if late > WRAP_SUSPECT:
            store.counts[_N_SUSPECTS] += 1
            _mark(_M_SUSPECT, chip, 1, chips[chip, C_NEWEST], time, store)
    _believe(time, chip, 1, store)
    if not _is_pixel(word):
        _learn_offset((word >> _TDC_COARSE_SHIFT) & _TDC_COARSE_MASK, _TDC_BITS, time, state)
    _emit(word, time, chip, store)


@internal
def _believe(newest: int, chip: int, n_words: int, store: Store) -> None:
    """So many words of a chip have found their place in time."""
    state, chips = store.state, store.chips
    chips[chip, C_NEWEST] = max(chips[chip, C_NEWEST], newest)
    state[S_NEWEST] = max(state[S_NEWEST], newest)
    state[S_REFERENCE] = max(state[S_REFERENCE], newest)
    chips[chip, C_DOUBT] = max(0, chips[chip, C_DOUBT] - n_words)
    chips[chip, C_SILENCE] = 0


@inlined
def _jumped_class(word: int) -> int:
    return _N_JUMPED_HITS if _is_pixel(word) else _N_JUMPED_EDGES


@internal
def _hold(word: int, time: int, bits: int, chip: int, store: Store) -> None:
    """Keep a word that is far ahead until others speak for it or against it."""
    state, chips = store.state, store.chips
    n = chips[chip, C_N_HELD]
    held_newest = chips[chip, C_HELD_NEWEST] if n else NEVER
    since = max(state[S_NEWEST], state[S_TOLD], held_newest)
    at = C_HELD + 3 * n
    chips[chip, at] = word
    chips[chip, at + 1] = time
    left = chips[chip, C_LEFT]
    if left != NEVER and bits == _HIT_BITS and (time - left) & _HIT_PERIOD_MASK <= state[S_JUMP]:
        since = left
    chips[chip, at + 2] = since if _is_uncertain(time, since, bits, state) else NEVER
    chips[chip, C_HELD_NEWEST] = max(held_newest, time)
    chips[chip, C_N_HELD] = n + 1
    state[S_N_HELD] += 1


@internal
def _note_epoch(since: int, time: int, chip: int, store: Store) -> None:
    """The silence from `since` to `time` may have been longer by whole periods; if `since` is no time, it was not."""
    if since != NEVER:
        store.counts[_N_EPOCHS] += 1
        _mark(_M_EPOCH, chip, 1, since, time, store)


@internal
def _take_first_held(chip: int, store: Store) -> None:
    """Accept the first word that is held; the others move up."""
    state, chips = store.state, store.chips
    word, time, since = chips[chip, C_HELD], chips[chip, C_HELD + 1], chips[chip, C_HELD + 2]
    for at in range(C_HELD, C_HELD + 3 * (chips[chip, C_N_HELD] - 1)):
        chips[chip, at] = chips[chip, at + 3]
    chips[chip, C_N_HELD] -= 1
    state[S_N_HELD] -= 1
    _note_epoch(since, time, chip, store)
    newest = chips[chip, C_NEWEST]
    if chips[chip, C_SILENCE] == 0:
        chips[chip, C_LEFT] = newest
    _accept(word, time, chip, store)
    chips[chip, C_SILENCE] = max(1, time - newest) if newest != NEVER else 1


@internal
def _refute_held(time: int, chip: int, store: Store) -> None:
    """A word of `time` came: from the first on that is newer by more than words may be late, what is held
    was no time."""
    state, chips = store.state, store.chips
    limit = time + state[S_LATENESS]
    n = chips[chip, C_N_HELD]
    left = 0
    newest = NEVER
    while left < n and chips[chip, C_HELD + 3 * left + 1] <= limit:
        newest = max(newest, chips[chip, C_HELD + 3 * left + 1])
        left += 1
    for i in range(left, n):
        store.counts[_jumped_class(chips[chip, C_HELD + 3 * i])] += 1
    _mark(_M_JUMPED, chip, n - left, chips[chip, C_NEWEST], chips[chip, C_HELD_NEWEST], store)
    chips[chip, C_HELD_NEWEST] = newest
    chips[chip, C_N_HELD] = left
    state[S_N_HELD] -= n - left


@internal
def _confirm_held(chip: int, store: Store) -> None:
    """Another word speaks for those that are held: accept those that enough speak for."""
    state, chips = store.state, store.chips
    trusted = chips[chip, C_DOUBT] == 0 or chips[chip, C_SILENCE] > SPARSE or state[S_LATEST] < FOREVER
    needed = 1 if trusted else DOUBT
    while chips[chip, C_N_HELD] and (
        chips[chip, C_N_HELD] >= needed or chips[chip, C_HELD + 1] <= state[S_NEWEST] + state[S_JUMP]
    ):
        _take_first_held(chip, store)


@internal
def _is_too_far(time: int, chip: int, store: Store) -> bool:
    """Is a word later than it came, and not one of very many that say so?"""
    chips = store.chips
    if time <= store.state[S_LATEST]:
        chips[chip, C_FAR] = 0
        return False
    agrees = abs(time - chips[chip, C_FAR_TIME]) <= FAR_AGREE
    chips[chip, C_FAR] = chips[chip, C_FAR] + 1 if agrees else 1
    chips[chip, C_FAR_TIME] = time
    far: bool = chips[chip, C_FAR] < FAR_ENOUGH
    return far


@internal
def _timed(word: int, chip: int, store: Store) -> None:
    """Judge one hit or TDC word: early, late, held, or accepted; and what it says of the words that are held."""
    state, chips, counts = store.state, store.chips, store.counts
    is_hit = _is_pixel(word)
    if is_hit:
        value, bits = _hit_time(word), _HIT_BITS
    else:
        value, bits = (word >> _TDC_COARSE_SHIFT) & _TDC_COARSE_MASK, _TDC_BITS
    time = _extend(value, bits, state)
    if time < state[S_FLOOR]:
        counts[_N_EARLY_HITS if is_hit else _N_EARLY_EDGES] += 1
        _mark_words(_M_EARLY, chip, 1, store)
        return
    if _is_too_far(time, chip, store):
        counts[_jumped_class(word)] += 1
        _mark(_M_JUMPED, chip, 1, chips[chip, C_NEWEST], time, store)
        return
    if chips[chip, C_N_HELD]:
        if time < chips[chip, C_HELD_NEWEST] - state[S_LATENESS]:
            _refute_held(time, chip, store)
        if chips[chip, C_N_HELD]:
            _confirm_held(chip, store)
        elif state[S_NEWEST] == NEVER and state[S_ANCHORED] == 0 and state[S_N_HELD] == 0:
            state[S_KNOWN] = 0
            time = value
    newest = state[S_NEWEST]
    floor = chips[chip, C_NEWEST] - state[S_LATENESS]
    if state[S_N_CHIPS] > 1:
        floor = max(floor, newest - state[S_SKEW])
    if time < floor:
        counts[_N_LATE_HITS if is_hit else _N_LATE_EDGES] += 1
        store.late[state[S_LATE]] = time * TICKS_PER_COUNT
        state[S_LATE] += 1
    elif time > FOREVER:
        counts[_jumped_class(word)] += 1
        _mark(_M_JUMPED, chip, 1, chips[chip, C_NEWEST], time, store)
    elif newest == NEVER or time > newest + state[S_JUMP]:
        if state[S_KNOWN] == 0:
            state[S_REFERENCE] = time
            state[S_KNOWN] = bits
            state[S_OFFSET] = 0
        elif newest == NEVER and state[S_ANCHORED] == 0:
            state[S_REFERENCE] = max(state[S_REFERENCE], time)
        _hold(word, time, bits, chip, store)
    else:
        _accept(word, time, chip, store)


@internal
def _timer_low(word: int, chip: int, chips: Ints) -> None:
    """The first half of a timer pair, if it came when it says: its SPIDR time may be 1 too small.

    Just before it runs over it says nothing: the second half may be that of a later pair.
    """
    low = (word >> _TIMER_LOW_SHIFT) & _TIMER_LOW_MASK
    since = ((word & _SPIDR_MASK) + 1 - (low >> _TOA_WIDTH)) & _SPIDR_MASK
    runs_over = low > _TIMER_LOW_MASK - ((_PAIR_GAP + 1) << _TOA_WIDTH)
    chips[chip, C_TIMER_LOW] = -1 if runs_over or since > _PAIR_GAP + 1 else low


@internal
def _timer_high(word: int, chip: int, store: Store) -> None:
    """The second half of a timer pair: when both halves fit, the full 48 bits of the present time."""
    state, chips, counts = store.state, store.chips, store.counts
    low = chips[chip, C_TIMER_LOW]
    chips[chip, C_TIMER_LOW] = -1
    if low < 0 or ((word & _SPIDR_MASK) - (low >> _TOA_WIDTH)) & _SPIDR_MASK > _PAIR_GAP:
        return
    value = (((word >> _TIMER_HIGH_SHIFT) & _TIMER_HIGH_MASK) << 32) | low
    undecided = state[S_NEWEST] == NEVER and state[S_ANCHORED] == 0
    if undecided and state[S_N_HELD]:
        return
    time = value if undecided else _extend(value, TIMER_BITS, state)
    ceiling = state[S_CEILING]
    if not undecided and ceiling < FOREVER:
        # Words of a slow camera that are read in one go may be minutes younger than their anchor.
        ceiling = max(ceiling, state[S_REFERENCE] + CEILING_MARGIN)
    if time > ceiling or (not undecided and time < state[S_REFERENCE] - BACKWARD):
        counts[_N_TIMER_JUMPS] += 1
        return
    counts[_N_TIMER_PAIRS] += 1
    since = max(state[S_NEWEST], state[S_TOLD])
    if not undecided and _is_uncertain(time, since, TIMER_BITS, state):
        _note_epoch(since, time, chip, store)
    state[S_REFERENCE] = time if undecided else max(state[S_REFERENCE], time)
    state[S_TOLD] = max(state[S_TOLD], time)
    state[S_ANCHORED] = 1
    if undecided:
        state[S_OFFSET] = 0
        state[S_KNOWN] = TIMER_BITS
    else:
        _learn_offset(value, TIMER_BITS, time, state)


@internal
def _packet_id(number: int, chip: int, store: Store) -> None:
    """The number of a packet: what was passed over is missing until it comes after all."""
    chips, counts = store.chips, store.counts
    counts[_N_PACKET_IDS] += 1
    newest = chips[chip, C_PACKET]
    step = number - newest
    if newest >= 0 and -PACKETS_MAX <= step < 0:
        counts[_N_MISSING_PACKETS] -= 1
        _mark(_M_MISSING_PACKETS, chip, -1, chips[chip, C_NEWEST], NEVER, store)
        return
    if newest >= 0 and 1 < step <= PACKETS_MAX:
        counts[_N_MISSING_PACKETS] += step - 1
        _mark(_M_MISSING_PACKETS, chip, step - 1, chips[chip, C_NEWEST], NEVER, store)
    chips[chip, C_PACKET] = number


@internal
def _counting(word: int, chip: int, store: Store) -> None:
    """A pixel that counts: how many events, and the sum of their ToT. It has no time."""
    n = store.state[S_COUNTING]
    # EVENTS lies where ToT lies.
    store.counting_pixels[n] = (chip << 26) | _hit_pixel(word)
    hits = (word >> _FTOA_SHIFT) & _FTOA_MASK if store.chips[chip, C_HOW] & HOW_NO_FTOA else 0
    store.counting_sums[n] = (hits << _ITOT_WIDTH) | ((word >> _ITOT_SHIFT) & _ITOT_MASK)
    store.state[S_COUNTING] = n + 1
    store.counts[_N_COUNTING] += 1


@internal
def _pixel(word: int, chip: int, store: Store) -> None:
    """A pixel word that the hot path leaves."""
    if (word >> _HEADER_SHIFT) != _DATA_DRIVEN:
        store.counts[_N_SEQUENTIAL] += 1
    if store.chips[chip, C_HOW] & HOW_COUNTING:
        _counting(word, chip, store)
    else:
        _timed(word, chip, store)


@internal
def _edge(word: int, chip: int, store: Store) -> None:
    """A TDC word: a stamp that is none, or a bit that must be 0, is no time."""
    stamp = (word >> _TDC_STAMP_SHIFT) & _TDC_STAMP_MASK
    if 1 <= stamp <= _TDC_STAMPS and word & _TDC_ZERO_MASK == 0:
        _timed(word, chip, store)
        return
    store.counts[_N_REJECTED_EDGES] += 1
    store.chips[chip, C_DOUBT] = DOUBT
    _mark_words(_M_REJECTED_EDGE, chip, 1, store)


@internal
def _control(word: int, kind: int, chip: int, store: Store) -> None:
    """A word of chip or board that is neither hit nor edge nor timer."""
    counts = store.counts
    counts[_N_CONTROL_WORDS] += 1
    store.controls[0, (word >> 56) & 0xFF] += 1
    if kind == _K_PACKET:
        _packet_id(word & _PACKET_ID_MASK, chip, store)
    elif kind == _K_END:
        code = (word >> _CONTROL_CODE_SHIFT) & _CONTROL_CODE_MASK
        store.controls[1, code] += 1
        if code in (_END_SEQUENTIAL, _END_DATA_DRIVEN):
            counts[_N_END + chip] += 1


@internal
def _rare(word: int, chip: int, store: Store) -> None:
    """Every word that the hot path leaves: pixel words outside their window, and all others."""
    if _is_pixel(word):
        _pixel(word, chip, store)
        return
    byte = (word >> 56) & 0xFF
    kind = _KINDS[byte]
    if kind not in (_K_TDC, _K_UNKNOWN):
        store.chips[chip, C_OTHERS] += 1
    if kind == _K_TDC:
        _edge(word, chip, store)
    elif kind == _K_TIMER_LOW:
        store.counts[_N_TIMER_WORDS] += 1
        _timer_low(word, chip, store.chips)
    elif kind == _K_TIMER_HIGH:
        store.counts[_N_TIMER_WORDS] += 1
        _timer_high(word, chip, store)
    elif kind == _K_UNKNOWN:
        store.counts[_N_UNKNOWN_WORDS] += 1
        store.unknown[byte] += 1
        store.chips[chip, C_DOUBT] = DOUBT
        _mark_words(_M_UNKNOWN, chip, 1, store)
    else:
        _control(word, kind, chip, store)


@internal
def _release_overtaken(store: Store) -> None:
    """Accept held words that another chip has caught up with."""
    state, chips = store.state, store.chips
    if state[S_N_HELD] == 0:
        return
    n_before = state[S_HITS]
    for chip in range(state[S_N_CHIPS]):
        while chips[chip, C_N_HELD] and chips[chip, C_HELD + 1] <= state[S_NEWEST]:
            _take_first_held(chip, store)
    store.counts[_N_HITS] += state[S_HITS] - n_before


@kernel
def release_held(store: Store) -> None:
    """The end of an acquisition: nothing speaks against held words any more, so they come out.

    Nothing speaks for them either: they do not move the time, lest what follows be late.
    """
    state, chips = store.state, store.chips
    _begin(store)
    for chip in range(state[S_N_CHIPS]):
        for i in range(chips[chip, C_N_HELD]):
            at = C_HELD + 3 * i
            _note_epoch(chips[chip, at + 2], chips[chip, at + 1], chip, store)
            _emit(chips[chip, at], chips[chip, at + 1], chip, store)
        chips[chip, C_N_HELD] = 0
        chips[chip, C_OPEN] = 0
    state[S_N_HELD] = 0
    state[S_N_OPEN] = 0
    store.counts[_N_HITS] += state[S_HITS]


@internal
def _begin(store: Store) -> None:
    """Nothing is in the outputs."""
    for index in (S_HITS, S_EDGES, S_LATE, S_MARKS, S_COUNTING):
        store.state[index] = 0
    store.state[S_WORD] = -1


@inlined
def _window(chip: int, state: Ints, chips: Ints) -> int:
    """Width of the hot path's window, -1 when no word of the chip may take it.

    The window is [newest of the chip - lateness, newest + jump], modulo the period of a hit's time (offsets are whole
    periods); so the epoch must be beyond doubt, and the chip not so far behind the others that the skew decides.
    """
    newest = chips[chip, C_NEWEST]
    if chips[chip, C_N_HELD] or chips[chip, C_HOW] or state[S_REFERENCE] - newest + state[S_LATENESS] > BACKWARD:
        return -1
    if state[S_N_CHIPS] > 1 and newest - state[S_LATENESS] < state[S_NEWEST] - state[S_SKEW]:
        return -1
    width: int = state[S_LATENESS] + state[S_JUMP]
    return width


@internal
def _tell_suspects(words: Ints, start: int, stop: int, suspect: int, chip: int, store: Store) -> None:
    """Those of words[start:stop], all hits of the hot path, that are suspiciously late: it only asks for the latest."""
    state = store.state
    newest, lateness = store.chips[chip, C_NEWEST], state[S_LATENESS]
    for i in range(start, stop):
        ahead = (_hit_time(words[i]) - newest + lateness) & _HIT_PERIOD_MASK
        time = newest + ahead - lateness
        if ahead < suspect:
            store.counts[_N_SUSPECTS] += 1
            state[S_WORD] = i
            _mark(_M_SUSPECT, chip, 1, newest, time, store)
        newest = max(newest, time)


@internal
def _settle(words: Ints, since: int, stop: int, newest: int, least: int, chip: int, store: Store) -> None:
    """The hot path took words[since:stop], all of them hits: what it knew by itself goes to the store.

    least: how far at least one of them was inside the window.
    """
    state = store.state
    n = stop - since
    if n == 0:
        return
    lateness = state[S_LATENESS]
    suspect = lateness - WRAP_SUSPECT
    if least < suspect:
        _tell_suspects(words, since, stop, suspect, chip, store)
    state[S_WORST] = max(state[S_WORST], lateness - least)
    state[S_HITS] += n
    store.counts[_N_CHIP_HITS + chip] += n
    _believe(newest, chip, n, store)


@internal
def _open_chunk(word: int, store: Store) -> None:
    """The header of a chunk."""
    state, counts = store.state, store.counts
    counts[_N_CHUNK_HEADERS] += 1
    chip = (word >> _CHUNK_CHIP_SHIFT) & _CHUNK_CHIP_MASK
    state[S_CHIP] = chip
    if chip < _MAX_CHIPS:
        counts[_N_CHUNKS + chip] += 1
    if chip < state[S_N_CHIPS] and store.chips[chip, C_OPEN] == 0:
        store.chips[chip, C_OTHERS] = 0
    state[S_MODE] = (word >> _CHUNK_MODE_SHIFT) & _CHUNK_MODE_MASK
    state[S_LEFT] = ((word >> _CHUNK_BYTES_SHIFT) & _CHUNK_BYTES_MASK) >> 3
    _release_overtaken(store)


@internal
def _between_chunks(word: int, store: Store) -> None:
    """Where a header should be."""
    if word & _MAGIC_MASK == _MAGIC:
        if store.state[S_N_OPEN]:
            _resume(store)
        _open_chunk(word, store)
    else:
        store.counts[_N_UNFRAMED] += 1
        _mark_astray(store)
        _mark_words(_M_UNFRAMED, -1, 1, store)


@inlined
def _breaks_in(word: int, state: Ints) -> bool:
    """Is this word, which has the magic but stands inside a chunk, the header of the next one?

    A hit can have the same 32 low bits. The rest of the word must look like a header too: known chip, the mode of the
    headers so far, whole words.
    """
    chip = (word >> _CHUNK_CHIP_SHIFT) & _CHUNK_CHIP_MASK
    mode = (word >> _CHUNK_MODE_SHIFT) & _CHUNK_MODE_MASK
    n_bytes = (word >> _CHUNK_BYTES_SHIFT) & _CHUNK_BYTES_MASK
    return chip < _MAX_CHIPS and mode == state[S_MODE] and n_bytes & 7 == 0


@internal
def _cut_chunk(store: Store) -> None:
    """A header inside a chunk: that was cut short, and what came last of it may be anything."""
    state = store.state
    chip = state[S_CHIP]
    store.counts[_N_CUT_CHUNKS] += 1
    before = NEVER
    if chip < state[S_N_CHIPS]:
        store.chips[chip, C_DOUBT] = DOUBT
        before = store.chips[chip, C_NEWEST]
    _mark(_M_CUT_CHUNK, chip, state[S_LEFT], before, NEVER, store)
    state[S_LEFT] = 0


@internal
def _pass_over(words: Ints, start: int, stop: int, store: Store) -> int:
    """Words of a chip that is not there. Returns where they end: at a header, at `stop` at the latest."""
    i = start
    while i < stop and not (words[i] & _MAGIC_MASK == _MAGIC and _breaks_in(words[i], store.state)):
        i += 1
    if i > start:
        store.counts[_N_FOREIGN] += i - start
        _mark_words(_M_FOREIGN_CHIP, store.state[S_CHIP], i - start, store)
    return i


@internal
def _decode_stretch(words: Ints, start: int, stop: int, framed: bool, store: Store) -> int:
    """Words of one chip. Returns where they end: at the header of another chunk, at `stop` at the latest."""
    state, chips, ticks, pixels = store.state, store.chips, store.ticks, store.pixels
    chip = state[S_CHIP]
    lateness = state[S_LATENESS]
    chip_phase = store.phase[chip]
    chip_bits = chip << 26
    n_before = state[S_HITS]
    n = n_before
    newest = chips[chip, C_NEWEST]
    window = _window(chip, state, chips)
    least = lateness
    since = i = start
    while i < stop:
        word = words[np.uint64(i)]
        if framed and word & _MAGIC_MASK == _MAGIC and _breaks_in(word, state):
            break
        i += 1
        if word >> _HEADER_SHIFT == _DATA_DRIVEN:
            ahead = (_hit_time(word) - newest + lateness) & _HIT_PERIOD_MASK
            if ahead <= window:
                time = newest + ahead - lateness
                newest = max(newest, time)
                least = min(least, ahead)
                # Unsigned: the compiler need not think of negative indices.
                ticks[np.uint64(n)] = _hit_ticks(word, time, chip_phase)
                pixels[np.uint64(n)] = chip_bits | _hit_pixel(word)
                n += 1
                continue
        _settle(words, since, i - 1, newest, least, chip, store)
        state[S_WORD] = i - 1
        _rare(word, chip, store)
        n = state[S_HITS]
        newest = chips[chip, C_NEWEST]
        window = _window(chip, state, chips)
        least = lateness
        since = i
    _settle(words, since, i, newest, least, chip, store)
    store.counts[_N_HITS] += state[S_HITS] - n_before
    return i


@kernel
def decode_words(words: Ints, framed: bool, store: Store) -> None:
    """Decode `words`; what comes of them goes to the outputs from index 0 on (`state[S_HITS]` hits and so on)."""
    state = store.state
    _begin(store)
    n_words = words.shape[0]
    store.counts[_N_WORDS] += n_words
    i = 0
    while i < n_words:
        state[S_WORD] = i
        if framed and state[S_LEFT] == 0:
            _between_chunks(words[i], store)
            i += 1
            continue
        first = i
        stop = min(n_words, i + state[S_LEFT]) if framed else n_words
        if state[S_CHIP] >= state[S_N_CHIPS]:
            i = _pass_over(words, i, stop, store)
        else:
            i = _decode_stretch(words, i, stop, framed, store)
        if framed:
            state[S_LEFT] -= i - first
            if i < stop:
                state[S_WORD] = i
                _cut_chunk(store)
    _release_overtaken(store)
    if not framed and state[S_N_OPEN]:
        _resume(store)
