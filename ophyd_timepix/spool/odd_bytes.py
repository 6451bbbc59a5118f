"""Chunks that begin between whole words: in recordings of other programs some bytes may be missing, or be too many.

A copy that broke off, with more put behind it, leaves all that follows at odd bytes. The decoder finds the next header
by itself, but among whole words only; here it is told where words begin again. Ours have an index, and need none of it.

The chunk before such a place loses its header, so that its words lie outside of chunks and are passed over. Nobody
knows where in it bytes are missing, and words at odd bytes are worse than random ones: they agree on a time that is
none.
"""

from typing import Final

import numpy as np
import numpy.typing as npt

from ..decode.chunks import follow_chunks
from ..protocol.words import CHUNK_BYTES, CHUNK_CHIP, CHUNK_MAGIC, MAX_CHIPS

Bytes = npt.NDArray[np.uint8]

WORD: Final = 8
MAGIC: Final = CHUNK_MAGIC.to_bytes(4, "little")


class OddBytes:
    """Follows a reader from header to header.

    A slice ends before a chunk of which it is not known yet whether another follows it, so that where a header is
    missing the chunk before it can be searched for one.
    """

    def __init__(self) -> None:
        self._expected = 0
        """Where the next header should be."""

    def look(self, data: Bytes, start: int, *, is_end: bool) -> tuple[int, int]:
        """Of bytes that were read from `start` on: how many make the next slice, whole words, and how many of those
        behind it are of no word (0 to 7). is_end: no more can be read.
        """
        whole = data.size // WORD * WORD
        words = data[:whole].view("<u8")
        at = (self._expected - start) // WORD
        while at < words.size:
            last, at = follow_chunks(words, at)
            if at >= words.size:
                n = whole if is_end or last == 0 else last * WORD
                self._expected = start + (at * WORD if n == whole else n)
                return n, 0
            found = _next_header(data, (last + 1) * WORD)
            if found is None:
                # The first bytes of a header may be the last that are here.
                n = whole if is_end or whole == WORD else whole - WORD
                self._expected = start + n
                return n, 0
            if found % WORD:
                self._expected = start + found
                if last >= 0:
                    words[last] = 0
                return found // WORD * WORD, found % WORD
            at = found // WORD
        return whole, 0


def _next_header(data: Bytes, begin: int) -> int | None:
    """The first header at `begin` or behind it, at any byte, whose chunk another one follows or nothing at all."""
    content = data.tobytes()
    at = content.find(MAGIC, begin)
    while at >= 0:
        header = int.from_bytes(content[at : at + WORD], "little")
        n_bytes, behind = CHUNK_BYTES.get(header), at + WORD + CHUNK_BYTES.get(header)
        is_one = at + WORD <= len(content) and CHUNK_CHIP.get(header) < MAX_CHIPS and n_bytes % WORD == 0
        if is_one and (behind >= len(content) or content.startswith(MAGIC, behind)):
            return at
        at = content.find(MAGIC, at + 1)
    return None
