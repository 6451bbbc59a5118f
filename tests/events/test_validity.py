"""Shots that a loss may have touched are not valid, and no others."""

import numpy as np
import pytest

from ophyd_timepix.clock import ns_to_ticks
from ophyd_timepix.config import Processing
from ophyd_timepix.events import BlockArrays, BlockBuilder
from ophyd_timepix.events.validity import InvalidSpans
from ophyd_timepix.pipeline.losses import Losses
from tests import naive
from tests.events.test_builder import edge
from tests.rows import HandMade, Rows, flush

PERIOD_NS = 1_000_000.0
PERIOD = 3_840_000
"""The same in ticks."""


def run(edges, processing=None, lost=()):
    processing = processing or Processing()
    rows, builder = Rows(processing, 1), BlockBuilder(processing, 1)
    for low, high in lost:
        builder.invalidate(low, high)
    builder.add(HandMade(edges=edges))
    flush(builder, rows)
    return rows.table("shots")["valid"].tolist(), builder


def test_a_lost_trigger_makes_the_shot_invalid_that_it_would_have_ended():
    valid, builder = run([edge(k * PERIOD, counter) for k, counter in enumerate((5, 6, 7, 8, 10, 11, 12))])
    assert valid == [1, 1, 1, 0, 1, 1, 0]
    assert builder.take_gaps() == [(1, 1, 3 * PERIOD, 4 * PERIOD)]
    assert builder.take_gaps() == []


@pytest.mark.parametrize("delay_ns", [5e6, -5e6, 300.0])
def test_with_a_delay_a_gap_is_told_at_the_shots_that_it_touches(delay_ns):
    edges = [edge(k * PERIOD, k) for k in range(30) if k not in (15, 16)]
    processing = Processing(trigger_delay_ns=delay_ns, tof_max_ns=1e5)
    _, plain = run(edges)
    _, builder = run(edges, processing)
    delay = ns_to_ticks(delay_ns) if delay_ns > 0 else -ns_to_ticks(-delay_ns)
    ((tdc, missing, low, high),) = plain.take_gaps()
    assert builder.take_gaps() == [(tdc, missing, low + delay, high + delay)]


def test_a_gap_in_the_other_input_makes_the_shots_around_it_invalid():
    shots = [edge(k * PERIOD, k) for k in range(6)]
    others = [edge(k * PERIOD + 99, 40 + k, tdc=2) for k in (0, 4, 5)]
    valid, builder = run([*shots, *others])
    assert valid == [0, 0, 0, 0, 0, 0]
    assert [(gap.input, gap.missing) for gap in builder.take_gaps()] == [(2, 1)]


def test_a_counter_that_counts_edges_which_are_not_sent_has_no_gaps():
    valid, builder = run([edge(k * PERIOD, 4090 + 2 * k) for k in range(6)])
    assert valid == [1] * 5 + [0]
    assert builder.take_gaps() == []
    assert builder.irregular_edges == 0


def test_a_counter_that_stands_still_is_told_but_is_no_loss():
    valid, builder = run([edge(k * PERIOD) for k in range(4)])
    assert valid == [1, 1, 1, 0]
    assert builder.irregular_edges == 3


def test_a_garbled_counter_costs_the_shots_around_it_and_settles_nothing():
    counters = [2 * k for k in range(20)]
    counters[9] += 1
    valid, builder = run([edge(k * PERIOD, counter) for k, counter in enumerate(counters)])
    assert valid == [1] * 8 + [0] + [1] * 10 + [0]
    assert [gap.missing for gap in builder.take_gaps()] == [2]


@pytest.mark.parametrize(
    ("counters", "missing", "irregular"),
    [
        ((5, 6, 7, 8, 9, 500, 11, 12), [490, -489], 1),  # the edge with the garbled counter is the one that is missing
        ((5, 6, 7, 8, 9, 3000, 11, 12), [2990, -2989], 1),
        ((5, 6, 7, 8, 9, 8, 10, 11), [4094, -4094], 1),
        ((5, 6, 7, 8, 9, 500, 700, 12, 13), [490, 199, -687], 1),
        ((4, 6, 8, 500, 12, 14), [245, -244], 1),
        ((5, 6, 7, 8, 9, 500, 501, 12), [490, 3606], 1),  # that was a gap
    ],
)
def test_counters_that_were_garbled_do_not_count_as_edges_that_are_missing(counters, missing, irregular):
    edges = [edge(k * PERIOD, counter) for k, counter in enumerate(counters)]
    _, builder = run(edges)
    gaps = builder.take_gaps()
    assert [gap.missing for gap in gaps] == missing
    assert builder.irregular_edges == irregular
    assert naive.gaps([found[:4] for found in edges]) == [(g.low_ticks, g.high_ticks, g.input, g.missing) for g in gaps]
    losses = Losses(0, 0, lambda low, high: None)
    losses.gaps(gaps)
    spans = losses.spans(None, 0)
    assert sum(span.amount for span in spans) == sum(missing)
    assert all(span.amount >= 0 for span in spans)


def test_more_edges_lost_than_half_a_turn_of_the_counter_are_a_gap_too():
    valid, builder = run([edge(k * PERIOD, counter) for k, counter in enumerate((0, 1, 2, 3, 3004, 3005))])
    assert valid == [1, 1, 1, 0, 1, 0]
    assert [gap.missing for gap in builder.take_gaps()] == [3000]
    assert builder.irregular_edges == 1


@pytest.mark.parametrize("first", [[], [edge(0, 1)]], ids=["no trigger", "one trigger"])
@pytest.mark.parametrize("tof_max_ns", [None, 1e6])
def test_losses_without_end_and_without_triggers_take_no_memory(first, tof_max_ns):
    processing = Processing(tof_max_ns=tof_max_ns)
    rows, builder, block = Rows(processing, 1), BlockBuilder(processing, 1), BlockArrays()
    for k in range(1, 500):
        builder.invalidate(k * PERIOD + 10, k * PERIOD + 20)
        builder.add(HandMade(edges=first if k == 1 else [], horizon_ticks=(k + 1) * PERIOD))
        while builder.take_partial(block):
            rows.add(block)
        assert len(builder._invalid) <= 2
    builder.add(HandMade(edges=[edge(k * PERIOD, k - 498) for k in (500, 501)]))
    flush(builder, rows)
    lossy = [int(tof_max_ns is not None)] if first else []
    assert rows.table("shots")["valid"].tolist() == [*lossy, 1, 0]


def test_many_gaps_and_many_shots_take_no_more_than_their_sum():
    spans = InvalidSpans()
    for k in range(0, 200_000, 2):
        spans.add(10 * k, 10 * k + 3)
    starts = np.arange(0, 2_000_000, 10)
    assert np.array_equal(spans.touch(starts, starts + 5), starts % 20 == 0)


@pytest.mark.parametrize("cut", [(), (2,), (1, 2, 3)])
def test_what_lies_between_two_acquisitions_is_no_gap(cut):
    builder = BlockBuilder(Processing(), 1)
    rows = Rows(Processing(), 1)
    for k, counter in enumerate((1, 2, 300, 301)):
        builder.add(HandMade(edges=[edge(k * PERIOD, counter)]))
        if k in cut or k == 1:
            flush(builder, rows)
    assert builder.take_gaps() == []


@pytest.mark.parametrize(
    ("tof_max_ns", "lost", "expected"),
    [
        (None, (2 * PERIOD, 2 * PERIOD), [1, 1, 0, 1, 0]),
        (None, (2 * PERIOD - 1, 2 * PERIOD), [1, 0, 0, 1, 0]),
        (1000.0, (PERIOD + 3841, 2 * PERIOD - 1), [1, 1, 1, 1, 0]),
        (1000.0, (PERIOD + 3839, 2 * PERIOD - 1), [1, 0, 1, 1, 0]),
        (None, (-(1 << 62), 1 << 62), [0] * 5),
    ],
)
def test_a_loss_makes_the_shots_invalid_whose_window_it_touches(tof_max_ns, lost, expected):
    valid, _ = run([edge(k * PERIOD, k) for k in range(5)], Processing(tof_max_ns=tof_max_ns), [lost])
    assert valid == expected


def test_a_loss_of_one_acquisition_says_nothing_about_the_next():
    rows, builder = Rows(Processing(), 1), BlockBuilder(Processing(), 1)
    builder.invalidate(0, 1 << 40)
    flush(builder, rows)
    builder.add(HandMade(edges=[edge(1, 1), edge(PERIOD, 2)]))
    flush(builder, rows)
    assert rows.table("shots")["valid"].tolist() == [1, 0]


def test_missing_and_double_triggers_are_counted_against_the_period():
    times = [0, 1, 2, 5, 6, 6.25, 7]  # in periods
    edges = [edge(int(t * PERIOD), k) for k, t in enumerate(times)]
    valid, builder = run(edges, Processing(trigger_period_ns=PERIOD_NS))
    assert (builder.rhythm.missing, builder.rhythm.double) == (2, 1)
    assert valid == [1, 1, 0, 1, 0, 0, 0]


def test_a_span_that_ends_before_it_begins_is_refused():
    with pytest.raises(ValueError, match="cannot end"):
        BlockBuilder(Processing(), 1).invalidate(2, 1)
