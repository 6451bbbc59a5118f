"""Minutes of virtual time through `process`. A day of it: `make soak`."""

import pytest

from ophyd_timepix.pipeline.client import Pipeline
from tests.virtual_time import DRIFT, assert_all_is_there, process_watched, record


@pytest.fixture(scope="module")
def pipeline():
    with Pipeline(ring_bytes=1 << 24) as made:
        yield made


@pytest.mark.parametrize("drift", [DRIFT, 0.1], ids=["quartz", "half a minute off in the end"])
def test_roll_overs_pauses_a_drifting_clock_and_losses_leave_every_time_exact(pipeline, tmp_path, drift):
    """Five minutes: eleven roll-overs of the pixels' time, two of the triggers', a silence longer than one."""
    told = record(tmp_path / "run.tpx3", 300, losses=5, silences=(60.0,), drift=drift)
    summary, _, _ = process_watched(pipeline, tmp_path / "run.tpx3", tmp_path / "again.h5")
    assert_all_is_there(told, summary)
