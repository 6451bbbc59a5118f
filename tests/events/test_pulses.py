"""Events and pulses as other programs have them, against slow twins."""

from itertools import pairwise

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from ophyd_timepix.events.pulses import NO_SHOT, events_of, pulses_of
from tests import naive
from tests.strategies import N_EXAMPLES

EXAMPLES = settings(max_examples=N_EXAMPLES, deadline=None)
SIXTEENTHS = st.integers(-40, 400).map(lambda n: n / 16)
"""Places that float32 can tell, and their halves too."""


@EXAMPLES
@given(st.lists(st.tuples(SIXTEENTHS, SIXTEENTHS, st.floats(0, 1e6) | st.just(float("nan"))), max_size=40))
def test_an_event_has_the_pixel_nearest_to_it_and_its_flight_in_microseconds(points):
    x, y, tof = (np.array([point[i] for point in points], kind) for i, kind in enumerate(("<f4", "<f4", "<f8")))
    ids, offsets = np.empty(len(points), np.uint32), np.empty(len(points), np.float32)
    events_of(x, y, tof, 8, 16, ids, offsets)
    assert ids.tolist() == [naive.pixel(x, y, 8, 16) for x, y, _ in points]
    np.testing.assert_array_equal(offsets, np.array([tof / 1000 for *_, tof in points], np.float32))


@EXAMPLES
@given(st.lists(st.integers(NO_SHOT, 12), max_size=40).map(sorted), st.lists(st.integers(0, 40), max_size=5))
def test_pulses_are_those_of_the_slow_twin_however_rows_are_cut(shot, cuts):
    found, before, last = [], NO_SHOT - 1, NO_SHOT
    for start, stop in pairwise([0, *sorted(min(cut, len(shot)) for cut in cuts), len(shot)]):
        block = np.array(shot[start:stop], np.int64)
        numbers, rows, last = pulses_of(block, before, last)
        before = shot[stop - 1] if stop > start else before
        found += zip(numbers.tolist(), (rows + start).tolist(), strict=True)
    assert found == naive.pulses(shot)
