"""A preview reads what the ring has, and skips to the newest when it is behind."""

import numpy as np
import pytest

from ophyd_timepix.pipeline.live_source import PREVIEW_SHARE, LiveSource
from ophyd_timepix.pipeline.preview import NoEventFile, NoRecording
from ophyd_timepix.spool.index import RECORD, Row
from ophyd_timepix.spool.ring import N_MARKS, Mark, Ring

CHUNK = 1 << 12


@pytest.fixture
def ring():
    return Ring(np.zeros(1 << 16, np.uint8), np.zeros(N_MARKS, np.int64))


@pytest.fixture
def index():
    return np.zeros(64, RECORD)


def receive(ring, index, n):
    """`n` chunks, each with its number in every word; an index record for each."""
    for _ in range(n):
        number = int(ring.marks[Mark.INDEX_RECORDS])
        index[number % index.size] = Row(ring.received, 1000 + number, acquisition=1)
        ring.marks[Mark.INDEX_RECORDS] += 1
        start = ring.reserve(CHUNK)
        ring.parts(start, start + CHUNK)[0].view(np.int64)[:] = number
        ring.publish(CHUNK)
        NoRecording().write(ring, index)


def read(source):
    out = np.zeros(4 * CHUNK, np.uint8)
    found = []
    while (piece := source.next_slice(out)) is not None:
        found += sorted(set(piece.words.tolist()))
    return found


def test_who_keeps_up_misses_nothing(ring, index):
    source = LiveSource(ring, index, None, 0, may_skip=True)
    found = []
    for _ in range(30):
        receive(ring, index, 2)
        found += read(source)
    assert found == list(range(60))
    assert source.skipped == 0


def test_who_is_behind_goes_on_with_the_newest_and_counts_what_is_left_out(ring, index):
    source = LiveSource(ring, index, None, 0, may_skip=True)
    receive(ring, index, 2)
    assert read(source) == [0, 1]
    receive(ring, index, 40)
    assert read(source) == [41]
    assert source.skipped == 39 * CHUNK
    assert ring.size // PREVIEW_SHARE < 40 * CHUNK


def test_at_the_end_of_an_acquisition_nothing_is_read_beyond_it(ring, index):
    source = LiveSource(ring, index, None, 0, may_skip=True)
    receive(ring, index, 30)
    source.stop = ring.received
    ring.marks[Mark.STOP] = ring.received + 1
    receive(ring, index, 5)
    assert read(source) == []
    assert source.at_end
    assert source.skipped == 30 * CHUNK


def test_no_file_counts_rows_and_keeps_none():
    file = NoEventFile((4, 4), 10)
    file.append("centroids", {"x": np.zeros(3)})
    file.append("centroids", {"x": np.zeros(2)})
    assert (file.rows("centroids"), file.stored_rows("centroids"), file.rows("shots")) == (5, 5, 0)
