"""The writer thread of a capture: whoever waits for it learns why it ended."""

import contextlib

import numpy as np
import pytest

from ophyd_timepix.capture.writer import Writer
from ophyd_timepix.spool.index import RECORD
from ophyd_timepix.spool.ring import N_MARKS, Mark, Ring, Stopped


class Failing:
    path = None
    waits = True

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def begin(self, ring):
        pass

    def write(self, ring, records):
        raise self.error

    def finish(self, ring, records):
        pass


def quietly(work):
    with contextlib.suppress(OSError, ValueError):
        work()


def for_ever(wait):
    while True:
        wait()


@pytest.fixture
def writer():
    made = Writer(Ring(np.zeros(1 << 21, np.uint8), np.zeros(N_MARKS, np.int64)), np.zeros(4, RECORD), quietly)
    yield made
    made.stop()


@pytest.mark.parametrize("error", [OSError(5, "the disk is gone"), ValueError("a bug")])
def test_whoever_waits_for_room_hears_why_there_will_be_none(writer, error):
    writer.start(Failing(error))
    with pytest.raises(RuntimeError, match=f"its writer has ended: it failed: .*{error.args[-1]}"):
        for_ever(writer.wait)


def test_when_the_disk_has_failed_nothing_more_is_recorded_and_nobody_waits(writer):
    writer.start(Failing(OSError(5, "the disk is gone")))
    with contextlib.suppress(RuntimeError):
        while not writer.stopped:
            writer.wait()
    assert writer._ring.marks[Mark.STOPPED_BY] == Stopped.DISK_FAILED
    assert not writer.room_for(8)
