"""Rows of /entry/losses against shots: which they touch, and from which they take `valid`."""

import numpy as np
import pytest

from ophyd_timepix.clock import NS_PER_COUNT, TICKS_PER_COUNT
from ophyd_timepix.pipeline.losses import LossSpan
from ophyd_timepix.pipeline.settling import invalidate_shots


class Shots:
    """An event file of ten shots, 25 ns apart, all valid."""

    def __init__(self) -> None:
        self.columns = {"time": np.arange(10) * NS_PER_COUNT * 1.0, "valid": np.ones(10, np.uint8)}

    def column(self, table: str, name: str) -> np.ndarray:
        assert table == "shots"
        return self.columns[name]


@pytest.mark.parametrize(
    ("cause", "taken"),
    [("way", [3, 4, 5]), ("tdc", [3, 4]), ("pause", []), ("trigger", []), ("double", [])],
)
def test_a_row_takes_valid_from_the_shots_that_it_touches_but_for_those_that_lost_nothing_or_had_it_taken(cause, taken):
    """Of triggers the builder has taken it, shot by shot; rows of very many are joined and may hold good ones."""
    file = Shots()
    span = LossSpan(cause, -1, 1, 3 * TICKS_PER_COUNT, 5 * TICKS_PER_COUNT)
    touched, invalidated = invalidate_shots(file, [span], (0, 10), None)  # type: ignore[arg-type]
    assert touched == [2 if cause == "tdc" else 3]
    assert np.flatnonzero(file.columns["valid"] == 0).tolist() == taken
    assert invalidated == len(taken)
