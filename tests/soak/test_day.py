"""A day of virtual time through `process`: every time exact, memory bounded."""

import pytest

from ophyd_timepix.pipeline.client import Pipeline
from tests.virtual_time import Told, assert_all_is_there, process_watched, record

pytestmark = pytest.mark.soak

DAY_S = 86_400.0
MOST_BYTES = 1e9


def test_a_day_with_every_roll_over_pauses_and_losses_keeps_every_time_exact(tmp_path):
    told: Told = record(tmp_path / "run.tpx3", DAY_S, losses=40, silences=(60.0, 300.0, 3600.0), drift=500e-6)
    with Pipeline() as pipeline:
        summary, largest, seconds = process_watched(pipeline, tmp_path / "run.tpx3", tmp_path / "again.h5")
    print(
        f"\n{len(told.ticks):,} hits and {len(told.edges):,} triggers of {DAY_S:,.0f} s in {seconds:.0f} s, "
        f"{told.losses} datagrams lost, {largest / 1e6:.0f} MB at most"
    )
    assert_all_is_there(told, summary)
    assert largest < MOST_BYTES
