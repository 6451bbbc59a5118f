"""Hopping from chunk header to chunk header of a `.tpx3` stream, without looking at the words between."""

from typing import Final

import numpy as np
import numpy.typing as npt

from ..jit import kernel
from ..protocol import words as w

_MAGIC: Final = np.uint64(w.CHUNK_MAGIC)
_MAGIC_MASK: Final = np.uint64(w.CHUNK_MAGIC_FIELD.mask)
_CHIP_SHIFT: Final = np.uint64(w.CHUNK_CHIP.shift)
_CHIP_MASK: Final = np.uint64(w.CHUNK_CHIP.mask)
_BYTES_SHIFT: Final = np.uint64(w.CHUNK_BYTES.shift)
_WORD_SHIFT: Final = np.uint64(3)


@kernel
def count_chunks(words: npt.NDArray[np.uint64], skip: int, chunks: npt.NDArray[np.int64]) -> int:
    """Count the chunks of each chip. `skip`: words of a chunk that began in the slice before.

    chunks: int64[256], incremented. Returns the words of the last chunk that lie beyond this slice. Words where a
    header should be but is none are passed over one by one.
    """
    n = words.size
    i = skip
    while i < n:
        word = words[i]
        i += 1
        if word & _MAGIC_MASK == _MAGIC:
            chunks[np.int64((word >> _CHIP_SHIFT) & _CHIP_MASK)] += 1
            i += int(np.int64(word >> _BYTES_SHIFT >> _WORD_SHIFT))
    beyond: int = i - n
    return beyond


@kernel
def follow_chunks(words: npt.NDArray[np.uint64], first: int) -> tuple[int, int]:
    """Hop from header to header, the first of them at `first`. Returns (the last header that is there, or -1; where the
    next should be): beyond the words, or at one that is none.
    """
    last = -1
    i = first
    while i < words.size and words[i] & _MAGIC_MASK == _MAGIC:
        last = i
        i += 1 + int(np.int64(words[i] >> _BYTES_SHIFT >> _WORD_SHIFT))
    return last, i


def first_chunk(words: npt.NDArray[np.uint64]) -> int:
    """Words of the first chunk, its header included, as far as they are here; all of them when there is no header."""
    first = int(words[0])
    if w.CHUNK_MAGIC_FIELD.get(first) != w.CHUNK_MAGIC:
        return len(words)
    return min(len(words), 1 + w.CHUNK_BYTES.get(first) // 8)
