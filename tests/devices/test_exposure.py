"""How an exposure fails: with what says most."""

import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from ophyd_timepix.devices.exposure import AcquisitionError, Exposure, Goal
from ophyd_timepix.pipeline.errors import StageDied
from ophyd_timepix.pipeline.messages import StageDeath

DIED = StageDied(StageDeath(stage="capture", reason="No space left on device", log=Path("/pipeline.log")))


class FullDisk:
    """A recording that nothing is added to any more."""

    number = 1
    seen = SimpleNamespace(datagrams=0, paused=0)

    def __init__(self, at_rest: Exception | None) -> None:
        self._at_rest = at_rest

    def begin(self, counting):
        pass

    def progress(self):
        return SimpleNamespace(shots=0, stopped_by="run.tpx3: the disk took no more")

    def open_shutter(self):
        return time.monotonic()

    def close_shutter(self):
        pass

    def missing(self, now):
        return 0

    def abandon(self):
        if self._at_rest is not None:
            raise self._at_rest


def failure_of(recording: FullDisk) -> Exception | None:
    ended = threading.Event()
    outcomes = []

    def finished(exposure, outcome):
        outcomes.append(outcome)
        ended.set()

    nothing = lambda *_: None  # noqa: E731
    exposure = Exposure(recording, Goal(0, 60.0), prepare=nothing, opened=nothing, looked=nothing, finished=finished)
    exposure.start()
    assert ended.wait(10)
    exposure.give_up()
    return outcomes[0].error


def test_that_nothing_is_recorded_any_more_ends_the_exposure():
    with pytest.raises(AcquisitionError, match=r"nothing more is recorded: run\.tpx3: the disk took no more"):
        raise failure_of(FullDisk(None))


def test_a_stage_that_is_found_dead_afterwards_is_the_reason_and_says_more():
    failure = failure_of(FullDisk(DIED))
    assert failure is DIED
    assert isinstance(failure.__cause__, AcquisitionError)


def test_what_fails_while_all_is_put_to_rest_does_not_hide_the_failure(caplog):
    failure = failure_of(FullDisk(OSError("cannot")))
    assert isinstance(failure, AcquisitionError)
    assert "could not be ended after a failure: cannot" in caplog.text
