"""A glance: words of a moment, received and decoded in this process, without stages and without a file.

For looking whether a camera is well set before anything is recorded. Sockets and ring are those of every run; what fits
into the ring is kept and decoded afterwards, what comes then is counted.
"""

import mmap
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt

from ..capture.capture import Capture
from ..capture.recorder import Totals
from ..capture.sockets import Buffer
from ..clock import TICKS_PER_SECOND
from ..decode import Batch, Count, Decoder
from ..events.block import CHIP_SHIFT, X_SHIFT, Y_SHIFT
from ..protocol.words import MATRIX_SIDE, MAX_CHIPS
from ..spool.index import RECORD, Records
from ..spool.ring import N_MARKS, Mark, Ring
from .messages import Receiver

Array = npt.NDArray[Any]

RING_BYTES: Final = 64 << 20
"""8 million hits."""
SILENCE_S: Final = 0.1
LONGEST_DRAIN_S: Final = 3.0
LATENESS_TICKS: Final = TICKS_PER_SECOND // 100
"""10 ms: nothing is to be sorted here, so nothing needs to be turned away."""
_INDEX_ROOM: Final = 1 << 14


@dataclass(frozen=True)
class Seen:
    """What a glance saw. Hits in the order of the stream; edges as every chip repeats them."""

    totals: Totals
    """Datagrams of the time between `begin` and `end`."""
    ticks: Array
    chip: Array
    x: Array
    y: Array
    edge_ticks: Array
    edge_input: Array
    edge_falling: Array
    edge_counter: Array
    edge_chip: Array
    counts: dict[str, int]
    """Words by the decoder's classes, in lower case."""
    complete: bool
    """False: more came than is kept; the rest was counted only."""


class _KeepFirst:
    """Stands for a recording: what fits into the ring stays there."""

    path = None
    waits = False

    def begin(self, ring: Ring) -> None:
        """Nothing is in the way."""

    def write(self, ring: Ring, records: Records) -> bool:
        ring.marks[Mark.INDEX_ON_DISK] = ring.marks[Mark.INDEX_RECORDS]
        return False

    def finish(self, ring: Ring, records: Records) -> None:
        """The ring keeps it."""


class Glance:
    """Sockets that are drained from the start; `begin` and `end` around what is looked at. Once each."""

    def __init__(self, receivers: Sequence[Receiver], ring_bytes: int = RING_BYTES) -> None:
        memory = np.frombuffer(mmap.mmap(-1, ring_bytes), np.uint8)
        self._failures: list[BaseException] = []
        self._ring = Ring(memory, np.zeros(N_MARKS, np.int64))
        self._capture = Capture(self._ring, np.zeros(_INDEX_ROOM, RECORD), self._failures.append)
        endpoints = self._capture.bind([(r.chip, r.host, r.port, r.senders) for r in receivers])
        self.ports = [endpoint.port for endpoint in endpoints]
        self.buffers: list[Buffer] = [endpoint.buffer for endpoint in endpoints]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the sockets. Twice is harmless."""
        self._capture.close()
        self._capture.unbind()

    def begin(self) -> None:
        """From now on words are kept."""
        self._capture.open(_KeepFirst())

    def end(self, sent: int, anchor_counts: int) -> Seen:
        """Wait until all is here that the board sent (datagrams), or nothing comes any more; decode it.

        anchor_counts: the board's timer within the last seconds (25 ns counts).
        """
        self._drain(sent)
        totals = self._capture.close()
        self._capture.unbind()
        if self._failures:
            raise self._failures[0]
        kept = self._ring.received
        return _seen(self._ring.parts(0, kept)[0].view(np.uint64), anchor_counts, totals)

    def _drain(self, sent: int) -> None:
        never = threading.Event()
        begin = time.monotonic()
        while self._capture.totals().arrived < sent and time.monotonic() - begin < LONGEST_DRAIN_S:
            last = max(self._capture.last_datagram_ns / 1e9, begin)
            if time.monotonic() - last > SILENCE_S:
                return
            never.wait(0.005)


def _seen(words: npt.NDArray[np.uint64], anchor_counts: int, totals: Totals) -> Seen:
    decoder = Decoder(n_chips=MAX_CHIPS, lateness_ticks=LATENESS_TICKS, batch_words=max(1, words.size))
    parts = [_copied(decoder.decode(words, anchor_counts)), _copied(decoder.flush())]
    ticks, pixels, edge_ticks, number, falling, counter, edge_chip = (
        np.concatenate(pair) for pair in zip(*parts, strict=True)
    )
    return Seen(
        totals=totals,
        ticks=ticks,
        chip=pixels >> CHIP_SHIFT,
        x=(pixels >> X_SHIFT) & (MATRIX_SIDE - 1),
        y=(pixels >> Y_SHIFT) & (MATRIX_SIDE - 1),
        edge_ticks=edge_ticks,
        edge_input=number,
        edge_falling=falling,
        edge_counter=counter,
        edge_chip=edge_chip,
        counts={count.name.lower(): int(decoder.counts[count]) for count in Count},
        complete=not totals.unrecorded,
    )


def _copied(batch: Batch) -> tuple[Array, ...]:
    parts = (
        batch.ticks,
        batch.pixels,
        batch.edge_ticks,
        batch.edge_input,
        batch.edge_falling,
        batch.edge_counter,
        batch.edge_chip,
    )
    return tuple(part.copy() for part in parts)
