"""Pictures and spectra."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from ophyd_timepix.events import add_histogram, add_image

FLOATS = st.floats(-10, 30, width=32) | st.just(float("nan"))


@given(st.lists(st.tuples(st.floats(-10, 30, width=32), st.floats(-10, 30, width=32)), max_size=50))
def test_a_point_counts_in_its_nearest_pixel_and_none_outside(points):
    x, y = (np.array([p[i] for p in points], np.float32) for i in (0, 1))
    image = np.zeros((8, 16), np.uint64)
    add_image(image, x, y)
    expected = np.zeros((8, 16), np.uint64)
    for column, row in zip(np.floor(x + 0.5), np.floor(y + 0.5), strict=True):
        if 0 <= row < 8 and 0 <= column < 16:
            expected[int(row), int(column)] += 1
    assert np.array_equal(image, expected)


@given(st.lists(FLOATS, max_size=50))
def test_a_value_counts_in_its_bin_and_nan_in_none(values):
    counts = np.zeros(10, np.uint64)
    add_histogram(counts, np.array(values, np.float64), 1.0, 2.0)
    finite = [v for v in values if v == v]
    expected = [sum(1 + 2 * k <= v < 3 + 2 * k for v in finite) for k in range(10)]
    assert counts.tolist() == expected
