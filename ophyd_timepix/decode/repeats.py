"""Datagrams that came twice: told by their first words, and left out before anything becomes of them.

A word of a data-driven pixel or of the TDC bears its own time, and a numbered packet its number: no two datagrams of a
chip have the same one within seconds. So a datagram of the same chip, size and words, up to the first such, as one of
the last thousand is that one again. Timer and control words, and pixels of a sequential read-out, may stand before it
(32 words at most are looked at). Of a datagram without such a word all have to agree, as they say when they were sent
to 0.4 ms only; and one of them has to be the timer's, the end of a read-out or a pixel: other remarks of a chip may
come again so soon. What begins with yet another word cannot be told.

The same datagrams are found wherever the stream is cut into calls.
"""

from bisect import bisect_right
from typing import Final

import numpy as np
import numpy.typing as npt

from ..jit import inlined, kernel
from ..protocol import words as w

Words = npt.NDArray[np.uint64]
Ints = npt.NDArray[np.int64]

REMEMBERED: Final = 1024
"""Datagrams of each chip that are remembered: how many a repeat may be behind."""

# --- indices into `state` ---------------------------------------------------------------------------------------------
LEFT: Final = 0
"""Words left of the current chunk."""
SKIPS: Final = 1
"""1: it is a repeat."""
LARGEST: Final = 2
"""Words of the largest chunk."""
WAITING: Final = 3
"""Words at the end that open a datagram which cannot be told yet, its header included."""
NUMBERS: Final = 4
"""Chunks so far, of each chip."""
N_STATE: Final = NUMBERS + w.MAX_CHIPS

# --- indices into `memory`, of a chip and a place ---------------------------------------------------------------------
# A datagram stands at its number modulo REMEMBERED; those whose names fall into one slot form a chain.
NAME: Final = 0
"""Its first word with its own time, mixed with those before it."""
SIZE: Final = 1
BEFORE: Final = 2
"""1 + number of the datagram before it in the chain; 0: none."""
HEAD: Final = 3
"""1 + number of the last datagram in the chain of a slot."""
N_MEMORY: Final = 4

_MAGIC: Final = w.CHUNK_MAGIC
_MAGIC_MASK: Final = w.CHUNK_MAGIC_FIELD.mask
_CHIP_SHIFT: Final = w.CHUNK_CHIP.shift
_CHIP_MASK: Final = w.CHUNK_CHIP.mask
_BYTES_SHIFT: Final = w.CHUNK_BYTES.shift
_BYTES_MASK: Final = w.CHUNK_BYTES.mask
_MAX_CHIPS: Final = w.MAX_CHIPS
_DATA_DRIVEN: Final = w.PIXEL_DATA_DRIVEN
_SEQUENTIAL: Final = w.PIXEL_SEQUENTIAL
_TDC: Final = w.TdcByte.TDC1_RISING >> 4
_TIMER: Final = w.TIMER_LOW_BYTE >> 4
_CONTROL: Final = w.COMMAND_END_BYTE >> 4
_PACKET_ID: Final = w.PACKET_ID_BYTE
_TIMER_LOW: Final = w.TIMER_LOW_BYTE
_ENDS: Final = tuple(
    w.COMMAND_END_BYTE << 8 | code for code in (w.END_OF_READOUT_SEQUENTIAL, w.END_OF_READOUT_DATA_DRIVEN)
)
_NEVER: Final = -1
"""It cannot be known again."""
_NOTHING: Final = 0
"""Nothing yet: more words may say it."""
_ENOUGH: Final = 1
"""It can if no more words follow; those that do belong to its name."""
_ALL: Final = 2
"""It can."""
LOOKED_AT: Final = 32
"""Words of a datagram that are looked at."""
_SPREAD: Final = 0x1E3779B97F4A7C15
"""Odd and large: a product's high bits depend on all bits of a word."""


@inlined
def _name(words: Ints, start: int, stop: int) -> tuple[int, int]:
    """What words that begin a datagram say of whether it can be known again, and its name so far."""
    name, told = 0, _NOTHING
    for word in words[start:stop]:
        header, byte = (word >> 60) & 0xF, (word >> 56) & 0xFF
        name = name * _SPREAD ^ word
        if header in (_DATA_DRIVEN, _TDC) or byte == _PACKET_ID:
            return _ALL, name
        if header not in (_TIMER, _CONTROL, _SEQUENTIAL):
            return _NEVER, name
        if header == _SEQUENTIAL or byte == _TIMER_LOW or (word >> 48) & 0xFFFF in _ENDS:
            told = _ENOUGH
    return told, name


@inlined
def _came_before(memory: Ints, number: int, name: int, size: int) -> bool:
    """Whether a chip's datagram is one of the last; it is remembered from now on. memory: of the chip."""
    slot = ((name * _SPREAD) >> 40) & (REMEMBERED - 1)
    newest = memory[slot, HEAD]
    earlier, came = newest, False
    while not came and earlier > max(0, number - REMEMBERED):
        place = (earlier - 1) & (REMEMBERED - 1)
        came = memory[place, NAME] == name and memory[place, SIZE] == size
        earlier = memory[place, BEFORE]
    place = number & (REMEMBERED - 1)
    memory[place, NAME], memory[place, SIZE], memory[place, BEFORE] = name, size, newest
    memory[slot, HEAD] = number + 1
    return came


@kernel
def find_repeats(words: Ints, state: Ints, memory: Ints, found: Ints) -> int:
    """Places [start, stop) of repeats in `words` go to `found`, with their chip, -1 where it began in an earlier call.

    memory: what came last, of each chip. Returns how many repeats there are.
    """
    n_words, n, i = words.shape[0], 0, 0
    state[WAITING] = 0
    if state[LEFT]:
        i = min(n_words, state[LEFT])
        state[LEFT] -= i
        if state[SKIPS] and i:
            found[0, 0], found[0, 1], found[0, 2] = 0, i, -1
            n = 1
    while i < n_words:
        word = words[i]
        size = ((word >> _BYTES_SHIFT) & _BYTES_MASK) >> 3
        if word & _MAGIC_MASK != _MAGIC or size == 0:
            i += 1
            continue
        looked_at = i + 1 + min(size, LOOKED_AT)
        told, name = _name(words, i + 1, min(looked_at, n_words))
        if looked_at > n_words and told in (_NOTHING, _ENOUGH):
            state[WAITING] = n_words - i
            break
        chip = (word >> _CHIP_SHIFT) & _CHIP_MASK
        repeats = False
        if chip < _MAX_CHIPS and told in (_ENOUGH, _ALL):
            repeats = _came_before(memory[chip], state[NUMBERS + chip], name, size)
            state[NUMBERS + chip] += 1
        state[LARGEST] = max(state[LARGEST], size)
        stop = min(n_words, i + 1 + size)
        state[LEFT] = i + 1 + size - stop
        state[SKIPS] = 1 if repeats else 0
        if repeats:
            found[n, 0], found[n, 1], found[n, 2] = i, stop, chip
            n += 1
        i = stop
    return n


class Repeats:
    """Takes datagrams that came twice out of a stream of chunks."""

    def __init__(self) -> None:
        self._state = np.zeros(N_STATE, np.int64)
        self._memory = np.zeros((w.MAX_CHIPS, REMEMBERED, N_MEMORY), np.int64)
        self._found = np.empty((1024, 3), np.int64)
        self._waiting: Words = np.zeros(0, np.uint64)
        self.datagrams = np.zeros(w.MAX_CHIPS, np.int64)
        """Repeats so far, of each chip."""
        self.words = 0
        """Words of them that were left out, headers included."""
        self._kept = [0]
        self._origins = [0]

    @property
    def largest(self) -> int:
        """Words of the largest datagram so far."""
        return int(self._state[LARGEST])

    def without(self, words: Words) -> Words:
        """The same words without repeats. The beginning of a datagram at the very end may wait for the next call."""
        n_waited = len(self._waiting)
        self._kept, self._origins = [0], [-n_waited]
        if n_waited:
            words = np.concatenate([self._waiting, words])
            self._waiting = words[:0]
        if not words.flags.writeable or not words.flags.c_contiguous:
            words = words.copy()  # one type of array is one compilation
        if len(words) // 2 >= len(self._found):  # as many chunks as there may be
            self._found = np.empty((len(words) // 2 + 1, 3), np.int64)
        n = find_repeats(words.view(np.int64), self._state, self._memory, self._found)
        if n_waiting := int(self._state[WAITING]):
            words, self._waiting = words[:-n_waiting], words[-n_waiting:].copy()
        return words if n == 0 else self._leave_out(words, self._found[:n])

    def origin(self, word: int) -> int:
        """Where a word that was returned last stood among those that were given; below 0: it had waited."""
        k = bisect_right(self._kept, word) - 1
        return self._origins[k] + word - self._kept[k]

    def flush(self) -> Words:
        """No more words: those that wait, if any do. What may come of their datagram after all is no other one."""
        waiting, self._waiting = self._waiting, self._waiting[:0]
        if len(waiting):
            self._state[LEFT] = 1 + w.CHUNK_BYTES.get(int(waiting[0])) // 8 - len(waiting)
            self._state[SKIPS] = self._state[WAITING] = 0
        return waiting

    def _leave_out(self, words: Words, found: Ints) -> Words:
        starts = np.append(0, found[:, 1])
        stops = np.append(found[:, 0], len(words))
        self._kept = np.append(0, np.cumsum(stops - starts)[:-1]).tolist()
        self._origins = (starts + self._origins[0]).tolist()
        self.words += int((found[:, 1] - found[:, 0]).sum())
        began = found[:, 2] >= 0
        self.datagrams += np.bincount(found[began, 2], minlength=w.MAX_CHIPS)
        return np.concatenate([words[a:b] for a, b in zip(starts.tolist(), stops.tolist(), strict=True)])


def warm_up() -> None:
    """Load (or, the first time on a machine, compile) the kernel."""
    Repeats().without(np.zeros(1, np.uint64))
