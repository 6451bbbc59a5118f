"""What hits and triggers are asked before a run: claims on small arrays."""

import math

import numpy as np
import pytest

from ophyd_timepix.clock import TICKS_PER_SECOND
from ophyd_timepix.events.quality import edge_kinds, hot_pixels, pixel_counts, share_in_clusters

MS = TICKS_PER_SECOND // 1000


def edges(n: int, *, without: tuple[int, ...] = (), extra: tuple[int, ...] = ()) -> list[np.ndarray]:
    """Rising edges on input 1, 1 ms apart, whose counter counts all; some that did not come, some that came twice."""
    kept = [k for k in range(n) if k not in without]
    ticks = [k * MS for k in kept] + [k * MS + MS // 100 for k in extra]
    counters = [(4090 + k) % 4096 for k in range(n)]
    numbers = [counters[k] for k in kept] + [(4090 + n + i) % 4096 for i in range(len(extra))]
    size = len(ticks)
    return [np.array(ticks), np.ones(size, np.uint8), np.zeros(size, np.uint8), np.array(numbers, np.uint16)]


def test_a_regular_trigger_has_a_rate_a_spacing_and_no_gap() -> None:
    (kind,) = edge_kinds(*edges(101))
    assert (kind.name, kind.edges, kind.missing, kind.late, kind.doubled) == ("TDC 1 rising", 101, 0, 0, 0)
    assert kind.rate_hz == pytest.approx(1000)
    assert (kind.spacing_ns, kind.shortest_ns, kind.longest_ns) == pytest.approx((1e6, 1e6, 1e6))


def test_an_edge_that_was_lost_is_missing_by_the_counter_and_leaves_a_gap() -> None:
    (kind,) = edge_kinds(*edges(101, without=(50, 51)))
    assert (kind.missing, kind.late, kind.doubled) == (2, 1, 0)


def test_a_trigger_that_came_twice_is_doubled() -> None:
    (kind,) = edge_kinds(*edges(101, extra=(40,)))
    assert kind.doubled == 1


def test_both_edges_of_both_inputs_are_told_apart_in_any_order() -> None:
    n = 20
    ticks = np.concatenate([np.arange(n) * MS, np.arange(n) * MS + 500, np.arange(n) * 2 * MS])
    inputs = np.repeat([1, 1, 2], n).astype(np.uint8)
    falling = np.repeat([0, 1, 0], n).astype(np.uint8)
    counters = np.concatenate([2 * np.arange(n), 2 * np.arange(n) + 1, np.arange(n)]).astype(np.uint16)
    order = np.random.default_rng(1).permutation(3 * n)
    kinds = edge_kinds(ticks[order], inputs[order], falling[order], counters[order])
    assert [kind.name for kind in kinds] == ["TDC 1 rising", "TDC 1 falling", "TDC 2 rising"]
    assert [kind.missing for kind in kinds] == [0, 0, 0]
    assert [round(kind.rate_hz) for kind in kinds] == [1000, 1000, 500]


def test_a_single_edge_has_no_rate() -> None:
    (kind,) = edge_kinds(*edges(1))
    assert (kind.edges, kind.rate_hz) == (1, 0.0)
    assert math.isnan(kind.spacing_ns)


def test_a_pixel_far_above_those_around_it_is_hot_and_a_bright_spot_is_not() -> None:
    counts = np.random.default_rng(2).poisson(3, (256, 256))
    rows, columns = np.mgrid[:256, :256]
    counts += (2000 * np.exp(-((rows - 128) ** 2 + (columns - 100) ** 2) / 20)).astype(int)
    counts[7, 200], counts[0, 0] = 5000, 300
    assert hot_pixels(counts) == [(200, 7), (0, 0)]


def test_few_hits_make_no_pixel_hot() -> None:
    counts = np.zeros((256, 256), int)
    counts[5, 5] = 19
    assert hot_pixels(counts) == []


def test_hits_are_counted_by_row_and_column() -> None:
    counts = pixel_counts(np.array([3, 3, 255], np.uint32), np.array([9, 9, 0], np.uint32))
    assert (counts[9, 3], counts[0, 255], counts.sum()) == (2, 1, 3)


def test_hits_beside_each_other_within_100_ns_are_in_a_cluster() -> None:
    ticks = np.array([0, 384, 10_000, 10_001, 20_000, 20_010, 30_000, 30_000])
    x = np.array([5, 6, 5, 6, 50, 52, 7, 7])
    y = np.array([5, 6, 5, 5, 50, 50, 7, 7])
    assert share_in_clusters(ticks, x, y) == 4 / 8  # 100 ns are 384 ticks; two apart and the same pixel do not count
    assert share_in_clusters(ticks[:2] * 2, x[:2], y[:2]) == 0
    assert math.isnan(share_in_clusters(ticks[:0], x[:0], y[:0]))
