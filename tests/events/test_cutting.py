"""Where blocks are cut, against slow twins."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from ophyd_timepix.events import cutting
from ophyd_timepix.events.block import REL_TICK_SHIFT
from ophyd_timepix.events.centroid import flag_forced_cut
from ophyd_timepix.events.columns import Flag
from tests import naive
from tests.strategies import N_EXAMPLES, lists_to

EXAMPLES = settings(max_examples=N_EXAMPLES, deadline=None)
BASE = 1000
TICKS = lists_to(40, st.integers(0, 150)).map(sorted)
TRIGGERS = st.lists(st.integers(0, 150), max_size=4).map(sorted)
WINDOWS = st.sampled_from((0, 3, 10, 1000))


def keys(ticks):
    """Of ticks that count from BASE on."""
    return (np.array(ticks, np.int64) << REL_TICK_SHIFT) | 5


def absolute(ticks):
    return np.array(ticks, np.int64) + BASE


@EXAMPLES
@given(TICKS, TRIGGERS, WINDOWS, st.integers(1, 12), st.integers(0, 12), st.integers(0, 9), st.booleans())
def test_a_block_ends_where_the_slow_twin_ends_it(ticks, triggers, window, target, more, start, fits):
    more = max(0, len(ticks) - start - target) if fits else more
    start, ready, opened = min(start, len(ticks)), keys(ticks), absolute(triggers)
    options = start, len(ticks), BASE, window, target, target + more, opened, len(opened)
    end, forced = cutting.find_cut(ready, *options)
    expected, by_force = naive.block_end(ticks[start:], triggers, window, target, target + more)
    assert forced == by_force
    assert end == (cutting.NO_CUT if expected is None else start + expected)


@EXAMPLES
@given(TICKS, TRIGGERS, WINDOWS, st.integers(0, 30), st.integers(0, 40))
def test_the_last_cut_is_that_of_the_slow_twin(ticks, triggers, window, after, start):
    start, opened = min(start, len(ticks)), absolute(triggers)
    horizon = (ticks[-1] if ticks else 0) + after
    end = cutting.find_last_cut(
        keys(ticks), start, len(ticks), BASE, window, opened, len(opened), BASE + horizon
    )  # fmt: skip
    expected = naive.last_cut(ticks[start:], triggers, window, horizon)
    assert end == (cutting.NO_CUT if expected is None else start + expected)
    if len(ticks) > start:
        last = cutting._last_cut(keys(ticks), start, len(ticks) - 1, BASE, window, opened, len(opened))
        cuts = naive.natural_cuts(ticks[start:], triggers, window)
        assert last == (start + cuts[-1] if cuts else cutting.NO_CUT)


@EXAMPLES
@given(TICKS, st.integers(0, 160), st.integers(0, 40))
def test_searches_find_what_a_look_at_each_finds(ticks, tick, start):
    assert cutting.first_after(absolute(ticks), len(ticks), tick + BASE) == naive.first_from(ticks, tick + 1)
    start = min(start, len(ticks))
    found = cutting._first_hit_from(keys(ticks), start, len(ticks), BASE, BASE + tick)
    assert found == naive.first_from(ticks, tick, start)


@EXAMPLES
@given(
    TICKS.filter(len), lists_to(4, st.integers(0, 40)), st.lists(st.integers(-1, 6), min_size=40), WINDOWS,
    st.booleans(), st.booleans(),
)  # fmt: skip
def test_clusters_that_a_forced_cut_may_have_cut_are_flagged(ticks, borders, labels, window, at_start, at_end):
    labels, flags = labels[: len(ticks)], np.zeros(7, np.uint8)
    first_hits = sorted({0, len(ticks), *(border for border in borders if border < len(ticks))})
    flag_forced_cut(
        keys(ticks), np.array(first_hits), len(first_hits) - 1, np.array(labels, np.int32), window, at_start, at_end,
        flags,
    )  # fmt: skip
    shots = [sum(first <= i for first in first_hits) for i in range(len(ticks))]
    found = {label for label in range(7) if flags[label] & Flag.FORCED_CUT}
    assert found == naive.may_be_cut(ticks, shots, labels, window, at_start, at_end)
