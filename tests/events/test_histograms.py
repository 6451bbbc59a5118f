"""Pictures and spectra."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from ophyd_timepix.events import add_histogram, add_image
from tests import naive
from tests.strategies import N_EXAMPLES

EXAMPLES = settings(max_examples=N_EXAMPLES, deadline=None)
FLOATS = st.floats(-10, 30, width=32) | st.sampled_from((-1.0, 1.0, 3.0, 19.0, 21.0, 23.0, float("nan")))


@EXAMPLES
@given(st.lists(st.tuples(st.floats(-10, 30, width=32), st.floats(-10, 30, width=32)), max_size=50))
def test_a_point_counts_in_its_nearest_pixel_and_none_outside(points):
    x, y = (np.array([p[i] for p in points], np.float32) for i in (0, 1))
    image = np.zeros((8, 16), np.uint64)
    add_image(image, x, y)
    assert image.tolist() == naive.picture(points, 8, 16)


@EXAMPLES
@given(st.lists(FLOATS, max_size=50))
def test_a_value_counts_in_its_bin_and_nan_in_none(values):
    counts = np.zeros(10, np.uint64)
    add_histogram(counts, np.array(values, np.float64), 1.0, 2.0)
    assert counts.tolist() == naive.histogram(values, 1.0, 2.0, 10)
