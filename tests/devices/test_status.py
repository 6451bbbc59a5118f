"""The text of a Status is what bluesky shows of a failure, and keeps as the reason of a failed run."""

import pytest
from ophyd.sim import SynAxis

from ophyd_timepix.devices.status import PlainStatus, ProgressStatus

MAKE = {
    "plain": lambda: PlainStatus(SynAxis(name="axis")),
    "progress": lambda: ProgressStatus(SynAxis(name="axis"), target=1.0, unit="s"),
}


@pytest.mark.parametrize("make", MAKE.values(), ids=MAKE)
def test_a_failed_status_says_why_in_one_line(make):
    status = make()
    status.set_exception(RuntimeError("stage 'decode' was killed\nTraceback of the stage"))
    with pytest.raises(RuntimeError):
        status.wait(60)
    assert str(status).endswith("success=False): stage 'decode' was killed")
    assert repr(status) == str(status)


@pytest.mark.parametrize("make", MAKE.values(), ids=MAKE)
def test_a_status_without_an_error_looks_like_any_other(make):
    status = make()
    assert str(status).endswith("done=False, success=False)")
    status.set_finished()
    status.wait(60)
    assert str(status).endswith("done=True, success=True)")
