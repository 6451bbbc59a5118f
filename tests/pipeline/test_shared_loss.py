"""Malformed datagrams in several places of one batch are one loss: it is read as a whole, and its time covers all."""

import mmap

import numpy as np
import pytest

from ophyd_timepix.clock import TICKS_PER_COUNT, ns_to_ticks
from ophyd_timepix.config import Processing
from ophyd_timepix.decode.decoder import Framing
from ophyd_timepix.pipeline.decode_stage import _Stream
from ophyd_timepix.pipeline.live_source import LiveSource
from ophyd_timepix.pipeline.losses import FINE_TICKS, LossSpan
from ophyd_timepix.pipeline.messages import RunRequest
from ophyd_timepix.protocol.words import chunk_header
from ophyd_timepix.spool.index import RECORD, Kind, Loss, Row
from ophyd_timepix.spool.ring import N_MARKS, Mark, Ring
from ophyd_timepix.spool.sources import Slice
from sim.spidr_sim.encode import pixel_word

BINS_PER_COUNT = 16
SPAN_COUNTS = 12_000
"""0.3 ms between two datagrams."""
CHUNK_BYTES = 16


def chunks(*counts: int) -> np.ndarray:
    """A chunk with one hit at each time (25 ns counts)."""
    words = [(chunk_header(0, 8), pixel_word(100, 100, c * BINS_PER_COUNT, 20, 0)) for c in counts]
    return np.array(words, np.uint64).reshape(-1)


def slices(*parts: tuple[int, int, tuple[Loss, ...]]) -> list[Slice]:
    """(first datagram, last datagram, what is missing before the first) of each."""
    return [
        Slice(chunks(*(SPAN_COUNTS * k for k in range(a, b))), None, a * CHUNK_BYTES, losses) for a, b, losses in parts
    ]


def spans_of(pieces: list[Slice]) -> list[LossSpan]:
    """The times that the losses may have touched."""
    stream = _Stream(RunRequest(event_file="run.h5", processing=Processing()), Framing.TPX3)
    stream.begin(1, 0)
    for piece in pieces:
        stream.add(piece)
    stream.flush_decoder()
    return stream.end_acquisition(None, 0).losses


def test_the_time_of_a_shared_loss_reaches_from_its_first_place_to_its_last():
    shared = Loss(0, "malformed", 5, 8 * CHUNK_BYTES)
    last = Loss(0, "malformed", 1)
    pieces = slices((1, 5, ()), (5, 13, (shared,)), (13, 20, (last,)))
    alone = slices((1, 5, ()), *((k, k + 1, (last,)) for k in range(5, 13)), (13, 20, (last,)))
    (told,) = spans_of(pieces)
    (one_by_one,) = spans_of(alone)
    assert told.amount == 6
    assert (told.low_ticks, told.high_ticks) == (one_by_one.low_ticks, one_by_one.high_ticks)
    lateness = ns_to_ticks(Processing().lateness_ns) + FINE_TICKS
    assert told.low_ticks == 4 * SPAN_COUNTS * TICKS_PER_COUNT - lateness
    assert told.high_ticks == 13 * SPAN_COUNTS * TICKS_PER_COUNT + lateness


@pytest.mark.parametrize("ended", [False, True])
def test_a_live_reader_waits_for_all_of_a_shared_loss_unless_no_more_comes(ended):
    ring = Ring(np.frombuffer(mmap.mmap(-1, 1 << 16), np.uint8), np.zeros(N_MARKS, np.int64))
    index = np.zeros(64, RECORD)
    source = LiveSource(ring, index, None, 0)
    out = np.empty(1 << 12, np.uint8)

    def record(offset: int, **fields: int) -> None:
        index[int(ring.marks[Mark.INDEX_RECORDS])] = Row(offset, 0, **fields)
        ring.marks[Mark.INDEX_RECORDS] += 1

    def publish(n: int) -> None:
        start = ring.reserve(n * CHUNK_BYTES)
        ring.parts(start, start + n * CHUNK_BYTES)[0][:] = chunks(*range(n)).view(np.uint8)
        ring.publish(n * CHUNK_BYTES)

    record(0, kind=Kind.LOSS_MALFORMED, lost=2, chip=0, received_before=3 * CHUNK_BYTES)
    publish(2)
    assert source.next_slice(out) is None
    if ended:
        source.stop = ring.received
        assert source.next_slice(out).words.size == 4
        return
    publish(1)
    record(ring.received, kind=Kind.LOSS_MALFORMED, lost=1, chip=0)
    publish(2)
    first, second = source.next_slice(out), source.next_slice(out)
    assert (first.words.size, first.losses) == (6, (Loss(0, "malformed", 2, 3 * CHUNK_BYTES),))
    assert (second.words.size, second.losses) == (4, (Loss(0, "malformed", 1),))
