"""Rows of /entry/losses against shots: which they touch, and from which they take `valid`."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ophyd_timepix.clock import NS_PER_COUNT, TICKS_PER_COUNT
from ophyd_timepix.pipeline.losses import LossSpan
from ophyd_timepix.pipeline.settling import inside, invalidate_shots, shots_outside


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


BOUND = st.none() | st.integers(-2, 21)


@given(st.lists(st.integers(0, 20), unique=True), BOUND, BOUND, st.sampled_from((None, 0.5, 2.0, 100.0)))
def test_shots_inside_the_open_shutter_are_those_that_open_and_end_in_it(times, opens, closes, tof_max):
    """In units of 25 ns."""
    times = sorted(times)
    ends = [*times, np.inf][1:]
    good = [
        k
        for k, (start, end) in enumerate(zip(times, ends, strict=True))
        if (opens is None or start >= opens)
        and (closes is None or min(end, np.inf if tof_max is None else start + tof_max) <= closes)
    ]
    shutter = tuple(None if bound is None else bound * TICKS_PER_COUNT for bound in (opens, closes))
    column = np.array(times, float) * NS_PER_COUNT
    low, high = inside(column, len(times), shutter, None if tof_max is None else tof_max * NS_PER_COUNT)
    assert list(range(low, high)) == good


def test_shots_outside_of_the_open_shutter_lose_valid_once_and_are_counted():
    file = Shots()
    file.columns["valid"][[0, 5]] = 0
    shutter = (2 * TICKS_PER_COUNT, 7 * TICKS_PER_COUNT)
    assert shots_outside(file, shutter, (0, 10), None) == (5, 4)  # type: ignore[arg-type]
    assert np.flatnonzero(file.columns["valid"]).tolist() == [2, 3, 4, 6]
    assert shots_outside(file, shutter, (0, 10), None) == (5, 0)  # type: ignore[arg-type]
    assert shots_outside(file, (None, None), (0, 10), None) == (0, 0)  # type: ignore[arg-type]
