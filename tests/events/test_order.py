"""Keys are sorted whatever their order was, piece by piece where they are nearly in order."""

from itertools import chain, pairwise, takewhile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ophyd_timepix.events.block import REL_TICK_MIN, REL_TICK_SHIFT
from ophyd_timepix.events.order import (
    LOOKED_AT,
    SORTED_TOGETHER,
    _close_seams,
    deal_final,
    pack_keys,
    shift_keys,
    sort_keys,
    split_final,
)
from tests import naive
from tests.strategies import N_EXAMPLES, lists_to

N = 5 * SORTED_TOGETHER + 17


def keys_at(ticks: np.ndarray) -> np.ndarray:
    """Keys of pixels that repeat, so that there are ties in time and equal keys."""
    return ((REL_TICK_MIN + ticks.astype(np.int64)) << REL_TICK_SHIFT) | (np.arange(len(ticks)) % 7)


def nearly_in_order(rng: np.random.Generator) -> np.ndarray:
    return np.arange(N) * 3 + rng.integers(0, 60, N)


def with_a_straggler_over_several_pieces(rng: np.random.Generator) -> np.ndarray:
    ticks = nearly_in_order(rng)
    ticks[4 * SORTED_TOGETHER + 5] = 7
    ticks[SORTED_TOGETHER - 1] = 14 * SORTED_TOGETHER
    return ticks


def with_some_that_are_ahead_of_several_pieces(rng: np.random.Generator) -> np.ndarray:
    ticks = nearly_in_order(rng)
    ticks[SORTED_TOGETHER - 4 : SORTED_TOGETHER] += 10 * SORTED_TOGETHER
    return ticks


def with_two_pieces_that_changed_places(rng: np.random.Generator) -> np.ndarray:
    ticks = nearly_in_order(rng)
    first, second = (slice(k * SORTED_TOGETHER, (k + 1) * SORTED_TOGETHER) for k in (2, 3))
    ticks[first], ticks[second] = ticks[second].copy(), ticks[first].copy()
    return ticks


ORDERS = {
    "in order": lambda rng: np.arange(N),
    "nearly in order": nearly_in_order,
    "stragglers": with_a_straggler_over_several_pieces,
    "ahead of several pieces": with_some_that_are_ahead_of_several_pieces,
    "two pieces that changed places": with_two_pieces_that_changed_places,
    "shuffled": lambda rng: rng.permutation(N),
    "reversed": lambda rng: np.arange(N)[::-1],
    "one time": lambda rng: np.full(N, 5),
    "less than a piece": lambda rng: rng.permutation(100),
    "pieces of equal times": lambda rng: np.arange(N) // SORTED_TOGETHER,
    "none": lambda rng: np.zeros(0, np.int64),
}


@pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS)
def test_keys_are_in_order_whatever_their_order_was(order):
    keys = keys_at(order(np.random.default_rng(5)))
    expected = np.sort(keys)
    sort_keys(keys)
    assert np.array_equal(keys, expected)


@settings(max_examples=N_EXAMPLES, deadline=None)
@given(lists_to(60, st.integers(0, 60)), st.integers(1, 9), st.sampled_from((0, 3, 20, 1000)))
def test_seams_are_closed_until_one_costs_too_much_as_in_the_slow_twin(ticks, piece, steps):
    keys = keys_at(np.array(ticks, np.int64))
    for start in range(0, len(keys), piece):
        keys[start : start + piece].sort()
    before = keys.tolist()
    seam = _close_seams(keys, piece, piece, steps)
    assert seam == naive.close_seams(before, piece, piece, steps)
    assert sorted(before) == sorted(keys.tolist())
    assert keys[:seam].tolist() == sorted(keys[:seam].tolist())


@settings(max_examples=N_EXAMPLES, deadline=None)
@given(
    lists_to(40, st.tuples(st.integers(-1, 300), st.integers(0, 9))),
    st.integers(0, 9),
    st.integers(0, 300),
)
def test_hits_become_keys_move_with_their_base_and_are_final_below_the_horizon(drawn, later, horizon):
    base = 100
    hits = [(base + REL_TICK_MIN + tick, pixel) for tick, pixel in drawn]
    ticks, pixels = (np.array([hit[i] for hit in hits], kind) for i, kind in enumerate((np.int64, np.uint32)))
    pool, ready = np.zeros(len(hits), np.int64), np.full(len(hits) + 1, -1)
    n = pack_keys(ticks, pixels, base, pool)
    hits = list(takewhile(lambda hit: hit[0] >= base + REL_TICK_MIN, hits))  # the first too early one ends it
    assert pool[:n].tolist() == [naive.key(tick - base, pixel) for tick, pixel in hits]
    shift_keys(pool, 0, n, later)
    keys = [naive.key(tick - base - later, pixel) for tick, pixel in hits]
    assert pool[:n].tolist() == keys
    limit = naive.key(REL_TICK_MIN + horizon - later, 0)
    n_final = split_final(pool, n, limit, ready, 1)
    final, rest = naive.final(keys, limit)
    assert (n_final, pool[: n - n_final].tolist()) == (len(final), rest)
    assert ready[: 1 + n_final].tolist() == [-1, *final]


def dealt(keys: np.ndarray, limit: int, pile: int) -> tuple[list[list[int]], list[int]]:
    """Piles, and what is not final."""
    pool, ready = keys.copy(), np.full(len(keys) + 2, -1)
    ends, least = np.full(len(keys) // pile + 3, -1), np.full(len(keys) // LOOKED_AT + 3, -1)
    n_final, n_piles = deal_final(pool, len(pool), limit, pile, ready, 1, ends, least)
    assert (ends[len(keys) // pile + 2], least[len(keys) // LOOKED_AT + 2]) == (-1, -1)
    assert ready[0] == -1
    bounds = [1, *ends[:n_piles].tolist()]
    assert bounds[-1] == 1 + n_final
    return [ready[a:b].tolist() for a, b in pairwise(bounds)], pool[: len(pool) - n_final].tolist()


def assert_dealt_as_in_slow_motion(keys: np.ndarray, limit: int, pile: int) -> list[list[int]]:
    piles, rest = dealt(keys, limit, pile)
    assert all(piles)
    final, expected_rest = naive.final(keys.tolist(), limit)
    assert (sorted(chain.from_iterable(piles)), sorted(rest)) == (sorted(final), sorted(expected_rest))
    assert all(max(before) <= min(after) for before, after in pairwise(piles))
    return piles


@settings(max_examples=N_EXAMPLES, deadline=None)
@given(lists_to(60, st.integers(0, 60)), st.integers(0, 70), st.integers(1, 9))
def test_final_hits_are_dealt_into_piles_that_follow_each_other(ticks, horizon, pile):
    assert_dealt_as_in_slow_motion(keys_at(np.array(ticks, np.int64)), naive.key(REL_TICK_MIN + horizon, 0), pile)


@pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS)
@pytest.mark.parametrize("limit_share", [0.0, 0.5, 2.0])
def test_piles_follow_each_other_whatever_the_order_was(order, limit_share):
    keys = keys_at(order(np.random.default_rng(5)))
    span = int(keys.max() - keys.min()) if len(keys) else 0
    limit = int(keys.min() + limit_share * span) + 1 if len(keys) else 1
    assert_dealt_as_in_slow_motion(keys, limit, 300)


def test_piles_of_hits_that_are_nearly_in_order_are_even():
    keys = keys_at(nearly_in_order(np.random.default_rng(5)))
    sizes = [len(pile) for pile in assert_dealt_as_in_slow_motion(keys, int(keys.max()) + 1, 500)]
    assert len(sizes) > 15
    assert max(sizes) < 1000
