"""The kernels that turn 64-bit words into hits and TDC edges on one time line.

One pass over the words. The hot path takes a pixel word whose time lies in the window that its chip's newest time
allows; every other word goes through `_rare`. All integers are int64: mixing int64 and uint64 would make floats.

Times are judged in counts of 25 ns as the chip sent them; fToA and column phase enter only the ticks that come out.

=================  ==================================================================================================
`state`            scalars that outlive a call, by the `S_...` indices
`chips`            per chip: newest accepted time, the word that is held back, the last timer word (`C_...`)
`counts`           `Count`
=================  ==================================================================================================

Rules of time (all of them functions of the stream, never of how it is cut into calls):

* Epoch. A time known modulo a period is the one in [reference - 3.4 s, reference + period - 3.4 s): nothing comes
  seconds too late, silence may last long. The reference is the newest accepted time, an anchor or a timer pair.
* Without any reference the first word's own value counts from epoch 0; wider words (TDC 32 bit, timer 48 bit) that come
  later are brought onto the same line by an offset.
* Lateness. A word older than its chip's newest time by more than `lateness`, or, with several chips, older than the
  newest of all by more than `skew`, is late: counted, not returned.
* Latest. Where it is known when words came, none is believed that is later by more than some seconds, unless 256 in a
  row of its chip agree.
* Jumps. A word ahead of everything accepted by more than `jump` is held until the chip's next timed word confirms it
  (not older than it by more than `lateness`) or refutes it (counted, not returned), or another chip gets that far.
"""

from typing import Final

import numpy as np
import numpy.typing as npt

from ..clock import TICKS_PER_COUNT, TICKS_PER_FTOA, TICKS_PER_TDC_COUNT
from ..jit import inlined, kernel
from ..protocol import words as w
from .counts import Count

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
N_STATE: Final = 19

# --- indices into a row of `chips` ------------------------------------------------------------------------------------
C_NEWEST: Final = 0
C_HELD: Final = 1
"""1: a word is held."""
C_WORD: Final = 2
C_TIME: Final = 3
"""Time of the held word."""
C_TIMER_LOW: Final = 4
"""Low half of a timer pair, -1 when there is none."""
C_PACKET: Final = 5
"""Newest number of a packet, -1 before the first."""
C_FAR: Final = 6
"""Words in a row beyond the latest that agree with each other."""
C_FAR_TIME: Final = 7
"""Time of the last of them."""
N_CHIP: Final = 8

# --- from the word table ----------------------------------------------------------------------------------------------
_TOA_SHIFT: Final = w.TOA.shift
_TOA_WIDTH: Final = w.TOA.width
_TOA_MASK: Final = w.TOA.mask
_SPIDR_MASK: Final = w.SPIDR_TIME.mask
_TOT_SHIFT: Final = w.TOT.shift
_TOT_MASK: Final = w.TOT.mask
_FTOA_SHIFT: Final = w.FTOA.shift
_FTOA_MASK: Final = w.FTOA.mask
_DCOL_SHIFT: Final = w.DCOL.shift
_DCOL_MASK: Final = w.DCOL.mask
_SUPER_PIXEL_SHIFT: Final = w.SUPER_PIXEL.shift
_SUPER_PIXEL_MASK: Final = w.SUPER_PIXEL.mask
_PIXEL_SHIFT: Final = w.PIXEL.shift
_PIXEL_HEADER: Final = w.PIXEL_SEQUENTIAL >> 1
"""Sequential (0xA) and data driven (0xB) differ in the lowest bit of the header."""
_PIXEL_HEADER_SHIFT: Final = w.HEADER.shift + 1
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
_TIMER_BITS: Final = 48
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
DRIFT_SHIFT: Final = 3
"""The margin grows by 1 / 8 of a silence: no clock drifts as much."""
FOREVER: Final = 1 << 54
"""No stream lasts 14 years: lies that add up to more are not believed, and ticks stay far from the end of int64."""
_PAIR_GAP: Final = 64
"""The SPIDR time of a high timer word may be this many units of 0.41 ms after the low word: pixels pass between."""

WRAP_SUSPECT: Final = (1 << _TOA_WIDTH) - (1 << (_TOA_WIDTH - 4))
"""Lateness (384 us) near the 409.6 us beyond which the board's extension of ToA is wrong by a wrap."""
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
_N_PACKET_IDS: Final = int(Count.PACKET_IDS)
_N_MISSING_PACKETS: Final = int(Count.MISSING_PACKETS)


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


@kernel
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


@kernel
def _learn_offset(value: int, bits: int, time: int, state: Ints) -> None:
    """An accepted time with more bits than known so far settles the epoch of the time line against the wire's."""
    if bits > state[S_KNOWN]:
        state[S_OFFSET] = (value - time) & ((1 << bits) - 1)
        state[S_KNOWN] = bits


@kernel
def _emit(
    word: int,
    time: int,
    chip: int,
    state: Ints,
    phase: Ints,
    counts: Ints,
    ticks: Ints,
    pixels: npt.NDArray[np.uint32],
    edge_ticks: Ints,
    edge_input: Bytes,
    edge_falling: Bytes,
    edge_counter: npt.NDArray[np.uint16],
    edge_chip: Bytes,
) -> None:
    """Put a timed word into the output."""
    if _is_pixel(word):
        n = state[S_HITS]
        ticks[n] = _hit_ticks(word, time, phase[chip])
        pixels[n] = (chip << 26) | _hit_pixel(word)
        state[S_HITS] = n + 1
        counts[_N_CHIP_HITS + chip] += 1
        return
    n = state[S_EDGES]
    byte = (word >> 56) & 0xFF
    stamp = (word >> _TDC_STAMP_SHIFT) & _TDC_STAMP_MASK
    edge_ticks[n] = time * TICKS_PER_COUNT + ((word >> _TDC_TIME_SHIFT) & 7) * TICKS_PER_TDC_COUNT + stamp - 1
    edge_input[n] = 2 if byte in _TDC2 else 1
    edge_falling[n] = 1 if byte in _FALLING else 0
    edge_counter[n] = (word >> _TDC_COUNTER_SHIFT) & _TDC_COUNTER_MASK
    edge_chip[n] = chip
    state[S_EDGES] = n + 1
    counts[_N_EDGES] += 1


@kernel
def _accept(
    word: int,
    time: int,
    chip: int,
    state: Ints,
    chips: Ints,
    phase: Ints,
    counts: Ints,
    ticks: Ints,
    pixels: npt.NDArray[np.uint32],
    edge_ticks: Ints,
    edge_input: Bytes,
    edge_falling: Bytes,
    edge_counter: npt.NDArray[np.uint16],
    edge_chip: Bytes,
) -> None:
    """Put a timed word into the output; the newest times follow it."""
    if _is_pixel(word):
        late = chips[chip, C_NEWEST] - time
        state[S_WORST] = max(state[S_WORST], late)
        if late > WRAP_SUSPECT:
            counts[_N_SUSPECTS] += 1
    chips[chip, C_NEWEST] = max(chips[chip, C_NEWEST], time)
    state[S_NEWEST] = max(state[S_NEWEST], time)
    state[S_REFERENCE] = max(state[S_REFERENCE], time)
    if not _is_pixel(word):
        _learn_offset((word >> _TDC_COARSE_SHIFT) & _TDC_COARSE_MASK, _TDC_BITS, time, state)
    _emit(
        word, time, chip, state, phase, counts, ticks, pixels,
        edge_ticks, edge_input, edge_falling, edge_counter, edge_chip,
    )  # fmt: skip


@kernel
def _timed(
    word: int,
    chip: int,
    state: Ints,
    chips: Ints,
    phase: Ints,
    counts: Ints,
    late: Ints,
    ticks: Ints,
    pixels: npt.NDArray[np.uint32],
    edge_ticks: Ints,
    edge_input: Bytes,
    edge_falling: Bytes,
    edge_counter: npt.NDArray[np.uint16],
    edge_chip: Bytes,
) -> None:
    """Judge one hit or TDC word: late, held, or accepted; and what it says of the word that is held."""
    is_hit = _is_pixel(word)
    if is_hit:
        value, bits = _hit_time(word), _HIT_BITS
    else:
        value, bits = (word >> _TDC_COARSE_SHIFT) & _TDC_COARSE_MASK, _TDC_BITS
    time = _extend(value, bits, state)
    if time > state[S_LATEST]:
        agrees = abs(time - chips[chip, C_FAR_TIME]) <= FAR_AGREE
        chips[chip, C_FAR] = chips[chip, C_FAR] + 1 if agrees else 1
        chips[chip, C_FAR_TIME] = time
        if chips[chip, C_FAR] < FAR_ENOUGH:
            counts[_N_JUMPED_HITS if is_hit else _N_JUMPED_EDGES] += 1
            return
    else:
        chips[chip, C_FAR] = 0
    if chips[chip, C_HELD]:
        held = chips[chip, C_TIME]
        held_word = chips[chip, C_WORD]
        chips[chip, C_HELD] = 0
        state[S_N_HELD] -= 1
        if time >= held - state[S_LATENESS]:
            _accept(
                held_word, held, chip, state, chips, phase, counts, ticks, pixels,
                edge_ticks, edge_input, edge_falling, edge_counter, edge_chip,
            )  # fmt: skip
        else:
            counts[_N_JUMPED_HITS if _is_pixel(held_word) else _N_JUMPED_EDGES] += 1
            if state[S_NEWEST] == NEVER and state[S_ANCHORED] == 0 and state[S_N_HELD] == 0:
                state[S_KNOWN] = 0
                time = value
    newest = state[S_NEWEST]
    floor = chips[chip, C_NEWEST] - state[S_LATENESS]
    if state[S_N_CHIPS] > 1:
        floor = max(floor, newest - state[S_SKEW])
    if time < floor:
        counts[_N_LATE_HITS if is_hit else _N_LATE_EDGES] += 1
        late[state[S_LATE]] = time * TICKS_PER_COUNT
        state[S_LATE] += 1
    elif time > FOREVER:
        counts[_N_JUMPED_HITS if is_hit else _N_JUMPED_EDGES] += 1
    elif newest == NEVER or time > newest + state[S_JUMP]:
        if state[S_KNOWN] == 0:
            state[S_REFERENCE] = time
            state[S_KNOWN] = bits
            state[S_OFFSET] = 0
        elif newest == NEVER and state[S_ANCHORED] == 0:
            state[S_REFERENCE] = max(state[S_REFERENCE], time)
        chips[chip, C_HELD] = 1
        chips[chip, C_WORD] = word
        chips[chip, C_TIME] = time
        state[S_N_HELD] += 1
    else:
        _accept(
            word, time, chip, state, chips, phase, counts, ticks, pixels,
            edge_ticks, edge_input, edge_falling, edge_counter, edge_chip,
        )  # fmt: skip


@kernel
def _timer_high(word: int, chip: int, state: Ints, chips: Ints, counts: Ints) -> None:
    """The second half of a timer pair: when both halves fit, the full 48 bits of the present time."""
    low = chips[chip, C_TIMER_LOW]
    chips[chip, C_TIMER_LOW] = -1
    if low < 0 or ((word & _SPIDR_MASK) - (low >> _TOA_WIDTH)) & _SPIDR_MASK > _PAIR_GAP:
        return
    value = (((word >> _TIMER_HIGH_SHIFT) & _TIMER_HIGH_MASK) << 32) | low
    undecided = state[S_NEWEST] == NEVER and state[S_ANCHORED] == 0
    if undecided and state[S_N_HELD]:
        return
    time = value if undecided else _extend(value, _TIMER_BITS, state)
    ceiling = state[S_CEILING]
    if not undecided and ceiling < FOREVER:
        # Words of a slow camera that are read in one go may be minutes younger than their anchor.
        ceiling = max(ceiling, state[S_REFERENCE] + CEILING_MARGIN)
    if time > ceiling or (not undecided and time < state[S_REFERENCE] - BACKWARD):
        counts[_N_TIMER_JUMPS] += 1
        return
    counts[_N_TIMER_PAIRS] += 1
    state[S_REFERENCE] = time if undecided else max(state[S_REFERENCE], time)
    state[S_ANCHORED] = 1
    if undecided:
        state[S_OFFSET] = 0
        state[S_KNOWN] = _TIMER_BITS
    else:
        _learn_offset(value, _TIMER_BITS, time, state)


@kernel
def _packet_id(number: int, chip: int, chips: Ints, counts: Ints) -> None:
    """The number of a packet: what was passed over is missing until it comes after all."""
    counts[_N_PACKET_IDS] += 1
    newest = chips[chip, C_PACKET]
    step = number - newest
    if newest >= 0 and -PACKETS_MAX <= step < 0:
        counts[_N_MISSING_PACKETS] -= 1
        return
    if newest >= 0 and 0 < step <= PACKETS_MAX:
        counts[_N_MISSING_PACKETS] += step - 1
    chips[chip, C_PACKET] = number


@kernel
def _rare(
    word: int,
    chip: int,
    state: Ints,
    chips: Ints,
    phase: Ints,
    counts: Ints,
    unknown: Ints,
    late: Ints,
    ticks: Ints,
    pixels: npt.NDArray[np.uint32],
    edge_ticks: Ints,
    edge_input: Bytes,
    edge_falling: Bytes,
    edge_counter: npt.NDArray[np.uint16],
    edge_chip: Bytes,
) -> None:
    """Every word that the hot path leaves: pixel words outside their window, and all others."""
    timed = _is_pixel(word)
    if not timed:
        byte = (word >> 56) & 0xFF
        kind = _KINDS[byte]
        if kind == _K_TDC:
            stamp = (word >> _TDC_STAMP_SHIFT) & _TDC_STAMP_MASK
            timed = 1 <= stamp <= _TDC_STAMPS and word & _TDC_ZERO_MASK == 0
            if not timed:
                counts[_N_REJECTED_EDGES] += 1
        elif kind == _K_TIMER_LOW:
            counts[_N_TIMER_WORDS] += 1
            chips[chip, C_TIMER_LOW] = (word >> _TIMER_LOW_SHIFT) & _TIMER_LOW_MASK
        elif kind == _K_TIMER_HIGH:
            counts[_N_TIMER_WORDS] += 1
            _timer_high(word, chip, state, chips, counts)
        elif kind == _K_UNKNOWN:
            counts[_N_UNKNOWN_WORDS] += 1
            unknown[byte] += 1
        else:
            counts[_N_CONTROL_WORDS] += 1
            if kind == _K_PACKET:
                _packet_id(word & _PACKET_ID_MASK, chip, chips, counts)
            elif kind == _K_END:
                code = (word >> _CONTROL_CODE_SHIFT) & _CONTROL_CODE_MASK
                if code in (_END_SEQUENTIAL, _END_DATA_DRIVEN):
                    counts[_N_END + chip] += 1
    if timed:
        _timed(
            word, chip, state, chips, phase, counts, late, ticks, pixels,
            edge_ticks, edge_input, edge_falling, edge_counter, edge_chip,
        )  # fmt: skip


@kernel
def _release_overtaken(
    state: Ints,
    chips: Ints,
    phase: Ints,
    counts: Ints,
    ticks: Ints,
    pixels: npt.NDArray[np.uint32],
    edge_ticks: Ints,
    edge_input: Bytes,
    edge_falling: Bytes,
    edge_counter: npt.NDArray[np.uint16],
    edge_chip: Bytes,
) -> None:
    """Accept held words that another chip has caught up with."""
    n_before = state[S_HITS]
    for chip in range(state[S_N_CHIPS]):
        if chips[chip, C_HELD] and chips[chip, C_TIME] <= state[S_NEWEST]:
            chips[chip, C_HELD] = 0
            state[S_N_HELD] -= 1
            _accept(
                chips[chip, C_WORD], chips[chip, C_TIME], chip, state, chips, phase, counts, ticks, pixels,
                edge_ticks, edge_input, edge_falling, edge_counter, edge_chip,
            )  # fmt: skip
    counts[_N_HITS] += state[S_HITS] - n_before


@kernel
def release_held(
    state: Ints,
    chips: Ints,
    phase: Ints,
    counts: Ints,
    ticks: Ints,
    pixels: npt.NDArray[np.uint32],
    edge_ticks: Ints,
    edge_input: Bytes,
    edge_falling: Bytes,
    edge_counter: npt.NDArray[np.uint16],
    edge_chip: Bytes,
) -> None:
    """The end of an acquisition: nothing speaks against a held word any more, so it comes out.

    Nothing speaks for it either: it does not move the time, lest what follows be late.
    """
    state[S_HITS] = 0
    state[S_EDGES] = 0
    for chip in range(state[S_N_CHIPS]):
        if chips[chip, C_HELD]:
            chips[chip, C_HELD] = 0
            _emit(
                chips[chip, C_WORD], chips[chip, C_TIME], chip, state, phase, counts, ticks, pixels,
                edge_ticks, edge_input, edge_falling, edge_counter, edge_chip,
            )  # fmt: skip
    state[S_N_HELD] = 0
    counts[_N_HITS] += state[S_HITS]


@inlined
def _window(chip: int, state: Ints, chips: Ints) -> int:
    """Width of the hot path's window, -1 when no word of the chip may take it.

    The window is [newest of the chip - lateness, newest + jump], modulo the period of a hit's time (offsets are whole
    periods); so the epoch must be beyond doubt, and the chip not so far behind the others that the skew decides.
    """
    newest = chips[chip, C_NEWEST]
    if chips[chip, C_HELD] or state[S_REFERENCE] - newest + state[S_LATENESS] > BACKWARD:
        return -1
    if state[S_N_CHIPS] > 1 and newest - state[S_LATENESS] < state[S_NEWEST] - state[S_SKEW]:
        return -1
    width: int = state[S_LATENESS] + state[S_JUMP]
    return width


@kernel
def _suspects(words: Ints, start: int, stop: int, newest: int, lateness: int, suspect: int) -> int:
    """How many of words[start:stop], all hits of the hot path, are suspiciously late: it only asks for the latest."""
    n = 0
    for i in range(start, stop):
        ahead = (_hit_time(words[i]) - newest + lateness) & _HIT_PERIOD_MASK
        newest = max(newest, newest + ahead - lateness)
        n += ahead < suspect
    return n


@kernel
def _open_chunk(word: int, state: Ints, counts: Ints) -> None:
    counts[_N_CHUNK_HEADERS] += 1
    chip = (word >> _CHUNK_CHIP_SHIFT) & _CHUNK_CHIP_MASK
    state[S_CHIP] = chip
    if chip < _MAX_CHIPS:
        counts[_N_CHUNKS + chip] += 1
    state[S_MODE] = (word >> _CHUNK_MODE_SHIFT) & _CHUNK_MODE_MASK
    state[S_LEFT] = ((word >> _CHUNK_BYTES_SHIFT) & _CHUNK_BYTES_MASK) >> 3


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


@kernel
def decode_words(
    words: Ints,
    framed: bool,
    state: Ints,
    chips: Ints,
    phase: Ints,
    counts: Ints,
    unknown: Ints,
    late: Ints,
    ticks: Ints,
    pixels: npt.NDArray[np.uint32],
    edge_ticks: Ints,
    edge_input: Bytes,
    edge_falling: Bytes,
    edge_counter: npt.NDArray[np.uint16],
    edge_chip: Bytes,
) -> None:
    """Decode `words`; hits and edges go to the outputs from index 0 on (`state[S_HITS]`, `state[S_EDGES]` of them)."""
    state[S_HITS] = 0
    state[S_EDGES] = 0
    state[S_LATE] = 0
    n_words = words.shape[0]
    counts[_N_WORDS] += n_words
    lateness = state[S_LATENESS]
    suspect = lateness - WRAP_SUSPECT
    i = 0
    while i < n_words:
        if framed:
            if state[S_LEFT] == 0:
                word = words[i]
                i += 1
                if word & _MAGIC_MASK == _MAGIC:
                    _open_chunk(word, state, counts)
                    if state[S_N_HELD]:
                        _release_overtaken(
                            state, chips, phase, counts, ticks, pixels,
                            edge_ticks, edge_input, edge_falling, edge_counter, edge_chip,
                        )  # fmt: skip
                else:
                    counts[_N_UNFRAMED] += 1
                continue
            stop = min(n_words, i + state[S_LEFT])
        else:
            stop = n_words
        chip = state[S_CHIP]
        first = i
        if chip >= state[S_N_CHIPS]:
            while i < stop and not (words[i] & _MAGIC_MASK == _MAGIC and _breaks_in(words[i], state)):
                i += 1
            counts[_N_FOREIGN] += i - first
        else:
            n = state[S_HITS]
            n_before = n
            newest = chips[chip, C_NEWEST]
            window = _window(chip, state, chips)
            chip_phase = phase[chip]
            chip_bits = chip << 26
            least = lateness
            since = i
            newest_before = newest
            while i < stop:
                word = words[np.uint64(i)]
                if framed and word & _MAGIC_MASK == _MAGIC and _breaks_in(word, state):
                    break
                i += 1
                if _is_pixel(word):
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
                counts[_N_CHIP_HITS + chip] += n - state[S_HITS]
                state[S_HITS] = n
                if least < suspect:
                    counts[_N_SUSPECTS] += _suspects(words, since, i - 1, newest_before, lateness, suspect)
                state[S_WORST] = max(state[S_WORST], lateness - least)
                least = lateness
                chips[chip, C_NEWEST] = newest
                state[S_NEWEST] = max(state[S_NEWEST], newest)
                state[S_REFERENCE] = max(state[S_REFERENCE], newest)
                _rare(
                    word, chip, state, chips, phase, counts, unknown, late, ticks, pixels,
                    edge_ticks, edge_input, edge_falling, edge_counter, edge_chip,
                )  # fmt: skip
                n = state[S_HITS]
                newest = chips[chip, C_NEWEST]
                window = _window(chip, state, chips)
                since = i
                newest_before = newest
            counts[_N_CHIP_HITS + chip] += n - state[S_HITS]
            state[S_HITS] = n
            if least < suspect:
                counts[_N_SUSPECTS] += _suspects(words, since, i, newest_before, lateness, suspect)
            state[S_WORST] = max(state[S_WORST], lateness - least)
            counts[_N_HITS] += n - n_before
            chips[chip, C_NEWEST] = newest
            state[S_NEWEST] = max(state[S_NEWEST], newest)
            state[S_REFERENCE] = max(state[S_REFERENCE], newest)
        if framed:
            state[S_LEFT] -= i - first
            if i < stop:
                # A header inside the chunk: the chunk was cut short. Read on there.
                counts[_N_CUT_CHUNKS] += 1
                state[S_LEFT] = 0
    if state[S_N_HELD]:
        _release_overtaken(
            state, chips, phase, counts, ticks, pixels,
            edge_ticks, edge_input, edge_falling, edge_counter, edge_chip,
        )  # fmt: skip
