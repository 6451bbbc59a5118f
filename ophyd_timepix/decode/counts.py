"""What a decoder counts. Every word is in exactly one class, so that the classes add up to the words given.

This module knows no array and no kernel.
"""

from collections.abc import Sequence
from enum import IntEnum
from typing import Final


class Mark(IntEnum):
    """What a row of `Batch.marks` tells of."""

    UNFRAMED = 1
    """Words outside a chunk. amount: words."""
    CUT_CHUNK = 2
    """A header within a chunk. amount: words that the chunk should still have had."""
    FOREIGN_CHIP = 3
    """Words of a chip that is not there. amount: words."""
    UNKNOWN = 4
    """Words of no known kind. amount: words."""
    REJECTED_EDGE = 5
    """TDC words with impossible fields. amount: words."""
    JUMPED = 6
    """Words with an impossible time, at the word that refutes them. amount: words."""
    MISSING_PACKETS = 7
    """Numbers of packets were passed over. amount: packets; negative: such a packet came after all."""
    EPOCH = 8
    """A silence, and nothing tells how many turns of the counter it lasted. before, after: its ends."""
    RESUMED = 9
    """A chip goes on after marks of missing or senseless words: what they tell of is not later than `after`, but for
    the lateness bound. It stands at a header, so that it does not depend on calls. amount: words of timer and control
    in the chunks of those: words may be damaged so that they look like these."""
    ASTRAY = 10
    """Words outside of chunks may be of this chip. It stands before the mark of the words. amount: 0."""
    EARLY = 11
    """Words of the time before the acquisition. amount: words."""
    WRAP_SUSPECT = 12
    """A hit so late that its time, `after`, may be a wrap of ToA too late, and that of others near it. amount: 1."""


SKIPPED: Final = (
    Mark.UNFRAMED,
    Mark.CUT_CHUNK,
    Mark.FOREIGN_CHIP,
    Mark.UNKNOWN,
    Mark.REJECTED_EDGE,
    Mark.JUMPED,
    Mark.EARLY,
)
"""Marks of words that were passed over."""


class Count(IntEnum):
    """Index into the counts of a decoder."""

    WORDS = 0
    """Words given."""

    # classes
    CHUNK_HEADERS = 1
    HITS = 2
    LATE_HITS = 3
    """Older than the newest time by more than the lateness bound: time order cannot take them any more."""
    JUMPED_HITS = 4
    """A lone word far ahead of the stream, refuted by the next one."""
    EDGES = 5
    LATE_EDGES = 6
    JUMPED_EDGES = 7
    REJECTED_EDGES = 8
    """TDC words whose stamp is not 1 to 12 or whose zero bits are not zero."""
    TIMER_WORDS = 9
    CONTROL_WORDS = 10
    UNKNOWN_WORDS = 11
    FOREIGN_CHIP_WORDS = 12
    """Words in chunks of a chip that the decoder was not told of."""
    UNFRAMED_WORDS = 13
    """Words outside a chunk: skipped up to the next chunk header."""

    # remarks, beside the classes
    CUT_CHUNKS = 14
    """Chunks that ended before their stated size."""
    TIMER_PAIRS = 15
    """Pairs of timer words that were whole and consistent."""
    END_OF_READOUT_0 = 16
    """End-of-read-out words of chip 0 (they are control words too); the next three are those of chips 1 to 3."""
    END_OF_READOUT_1 = 17
    END_OF_READOUT_2 = 18
    END_OF_READOUT_3 = 19
    TIMER_JUMPS = 20
    """Pairs of timer words that contradict the stream or the anchor: not believed."""
    TOA_WRAP_SUSPECTS = 21
    """Hits so late that others near them may have missed the 409.6 µs after which a board stamps them a wrap too late:
    later than 384 µs."""
    PACKET_IDS = 22
    """Words that number the packets of a chip (they are control words too)."""
    MISSING_PACKETS = 23
    """Numbers of packets that were passed over and did not come later."""
    CHUNKS_0 = 24
    """Chunks of chip 0, one a datagram; the next three are those of chips 1 to 3."""
    CHUNKS_1 = 25
    CHUNKS_2 = 26
    CHUNKS_3 = 27
    HITS_0 = 28
    """Hits of chip 0; the next three are those of chips 1 to 3."""
    HITS_1 = 29
    HITS_2 = 30
    HITS_3 = 31
    COUNTING_WORDS = 32
    """A class too: words of pixels that count instead of telling times."""
    SEQUENTIAL_WORDS = 33
    """Words of a sequential read-out among those of pixels: where they wait for longer than 409.6 µs their time is
    wrong by multiples of that."""
    EPOCH_UNCERTAIN = 34
    """Silences so long that nothing tells which turn of the counter ended them."""
    EARLY_HITS = 35
    """A class too: older than the acquisition, by more than the lateness bound. The shutter was closed then: they are
    of the acquisition before."""
    EARLY_EDGES = 36
    """A class too."""


CLASSES: Final = (
    *(Count(i) for i in range(Count.CHUNK_HEADERS, Count.UNFRAMED_WORDS + 1)),
    Count.COUNTING_WORDS,
    Count.EARLY_HITS,
    Count.EARLY_EDGES,
)
PIXEL_CLASSES: Final = (Count.HITS, Count.LATE_HITS, Count.JUMPED_HITS, Count.COUNTING_WORDS, Count.EARLY_HITS)
TDC_CLASSES: Final = (Count.EDGES, Count.LATE_EDGES, Count.JUMPED_EDGES, Count.REJECTED_EDGES, Count.EARLY_EDGES)
ENDS_OF_READOUT: Final = tuple(Count(i) for i in range(Count.END_OF_READOUT_0, Count.END_OF_READOUT_3 + 1))
TIME_JUMPS: Final = (Count.JUMPED_HITS, Count.JUMPED_EDGES)


def total(counts: Sequence[int], classes: Sequence[Count]) -> int:
    """The sum of some classes, e.g. `total(counts, PIXEL_CLASSES)` for all pixel words."""
    return sum(int(counts[c]) for c in classes)
