"""The warning about a full disk counts the rows that words on the disk will still become."""

import mmap

import numpy as np
import pytest

from ophyd_timepix.pipeline.capture_stage import FEW_BYTES, RowsToCome
from ophyd_timepix.pipeline.shared import Gauge, Shared
from ophyd_timepix.spool.ring import N_MARKS, Mark, Ring
from ophyd_timepix.spool.space import Limits, SpaceWatch

BLOCK = 1 << 16


@pytest.fixture
def shared():
    return Shared(1 << 20)


def test_words_that_wait_will_be_rows_as_the_others_were(tmp_path, shared):
    event_file = tmp_path / "run.h5"
    event_file.write_bytes(bytes(BLOCK))
    owed = RowsToCome(event_file, tmp_path / "run.tpx3", shared)
    shared.ring.marks[Mark.RECEIVED] = 3 * FEW_BYTES
    shared.gauges[Gauge.DECODED_BYTES] = FEW_BYTES - 8
    assert owed() == 0
    shared.gauges[Gauge.DECODED_BYTES] = FEW_BYTES
    assert owed() == 0
    event_file.write_bytes(bytes(5 * BLOCK))
    assert owed() == 2 * 4 * BLOCK
    shared.gauges[Gauge.DECODED_BYTES] = 3 * FEW_BYTES
    assert owed() == 0


def test_rows_to_come_bring_the_warning_and_end_no_recording(tmp_path):
    limits = Limits(low_bytes=1 << 20, stop_bytes=1 << 10, low_seconds=0.0)
    marks = {}
    for owed in (0, 1 << 62):
        ring = Ring(np.frombuffer(mmap.mmap(-1, 1 << 16), np.uint8), np.zeros(N_MARKS, np.int64))
        SpaceWatch(tmp_path / "a.tpx3", limits, lambda n=owed: n).look(ring)
        marks[owed] = (int(ring.marks[Mark.DISK_LOW]), int(ring.marks[Mark.STOPPED_BY]))
        assert bool(ring.marks[Mark.DISK_FREE] == 0) is (owed > 0)
    assert marks == {0: (0, 0), 1 << 62: (1, 0)}
