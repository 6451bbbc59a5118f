"""From triggers to shots: delay, pre-scale, triggers that are missing."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ophyd_timepix.clock import TICKS_PER_SECOND, ns_to_ticks
from ophyd_timepix.config import MissingTriggers, Processing
from ophyd_timepix.events import BlockArrays, BlockBuilder
from ophyd_timepix.events.triggers import INFERRED_MAX, ShotTriggers
from ophyd_timepix.events.validity import FOREVER
from tests import naive
from tests.rows import HandMade, Rows, assert_same_rows, flush
from tests.strategies import N_EXAMPLES

US = 1000.0
PERIOD = 100 * US
"""ns."""
TICKS = ns_to_ticks(PERIOD)


def rows_of(processing, hits, triggers, *, step=None, end_tick=None, partial=False) -> Rows:
    """Hits and triggers in the order of time, `step` of them a batch."""
    rows, builder, block = Rows(processing, 1), BlockBuilder(processing, 1, target_hits=1, sort_piece=1), BlockArrays()
    items = sorted([(tick, 1, 0) for tick in triggers] + [(tick, 0, n) for n, tick in enumerate(hits)])
    edge = 0
    for start in range(0, len(items), step or len(items) or 1):
        part = items[start : start + (step or len(items))]
        edges = []
        for tick, is_edge, _ in part:
            if is_edge:
                edges.append((tick, 1, 0, edge & 4095, 0))
                edge += 1
        batch = HandMade([(t, 0, n % 250, 7, 9) for t, is_edge, n in part if not is_edge], edges, part[-1][0])
        builder.add(batch)
        rows.horizon = batch.horizon_ticks
        while builder.take(block):
            rows.add(block)
        if partial and builder.take_partial(block):
            rows.add(block)
    flush(builder, rows, end_tick, block)
    rows.rhythm = (builder.rhythm.missing, builder.rhythm.double, builder.rhythm.inferred)
    return rows


@st.composite
def trains(draw) -> tuple[list[int], list[int]]:
    """(hits, triggers): triggers that keep a period, nearly, with some missing, double or shaken; hits all over."""
    kept = draw(st.lists(st.sampled_from("xxxxx.....d"), min_size=1, max_size=50))
    rng = np.random.default_rng(draw(st.integers(0, 1 << 32)))
    triggers = []
    for place, kind in enumerate(kept):
        tick = 10_000_000 + place * TICKS + int(rng.integers(-TICKS // 50, TICKS // 50))
        triggers += [] if kind == "." else [tick] if kind == "x" else [tick, tick + TICKS // 5]
    hits = rng.integers(10_000_000 - TICKS, 10_000_000 + (len(kept) + 1) * TICKS, 60).tolist()
    near = [tick + int(rng.integers(-3, 3)) for tick in triggers]
    return hits + near, triggers


processings = st.builds(
    Processing,
    trigger_period_ns=st.just(PERIOD),
    missing_triggers=st.sampled_from(MissingTriggers),
    trigger_delay_ns=st.sampled_from((0.0, 40 * US, 250 * US, -40 * US, -1000 * US)),
    trigger_prescale=st.sampled_from((1, 1, 2, 5)),
    tof_max_ns=st.sampled_from((None, 30 * US, 99 * US)),
    window_ns=st.just(1.0),
    hits=st.just(True),
)


def without_a_period(processing: Processing) -> Processing:
    return processing.model_copy(update={"trigger_period_ns": None, "missing_triggers": MissingTriggers.REPORT})


@settings(max_examples=N_EXAMPLES, deadline=None)
@given(
    train=trains(),
    processing=processings | processings.map(without_a_period),
    end_after=st.sampled_from((None, 0, TICKS // 2, 5 * TICKS)),
    step=st.sampled_from((1, 3, 40)),
    partial=st.booleans(),
)
def test_shots_equal_the_slow_twin_however_the_stream_is_cut(train, processing, end_after, step, partial):
    hits, triggers = train
    end_tick = None if end_after is None else max([*hits, *triggers]) + end_after
    rows = rows_of(processing, hits, triggers, step=step, end_tick=end_tick, partial=partial)
    assert_same_rows(rows, rows_of(processing, hits, triggers, end_tick=end_tick))
    edges = [(tick, 1, 0, n & 4095, 0) for n, tick in enumerate(triggers)]
    named = [(tick, 0, n % 250, 7, 9) for n, tick in enumerate(hits)]
    expected = naive.assign_shots(named, edges, processing, 1, end_tick, horizon=rows.horizon)
    shots = rows.table("shots")
    assert shots["time"].tolist() == [naive.ns(tick) for tick in expected.opened]
    assert shots["valid"].tolist() == expected.valid
    assert shots.get("inferred", np.zeros(len(expected.opened))).tolist() == expected.inferred
    assert rows.table("hits")["shot"].tolist() == expected.shot
    assert rows.rhythm == expected.rhythm


def test_with_a_delay_hits_between_trigger_and_opening_belong_to_the_shot_before():
    rows = rows_of(Processing(trigger_delay_ns=25.0, hits=True), [150, 195, 196, 1000, 1096], [100, 1000])
    assert rows.table("hits")["shot"].tolist() == [-1, -1, 0, 0, 1]
    assert rows.table("shots")["time"].tolist() == [naive.ns(196), naive.ns(1096)]
    assert rows.table("hits")["tof"].tolist()[2:] == [0.0, naive.ns(804), 0.0]


def test_with_a_negative_delay_a_shot_opens_before_its_trigger():
    rows = rows_of(Processing(trigger_delay_ns=-25.0, hits=True), [903, 904, 999], [1000], step=1)
    assert rows.table("hits")["shot"].tolist() == [-1, 0, 0]


def test_a_shot_that_ends_by_its_delay_after_the_shutter_has_closed_is_not_valid():
    valid = [
        rows_of(Processing(trigger_delay_ns=25.0), [], [100, 1000], end_tick=end).table("shots")["valid"].tolist()
        for end in (1095, 1096)
    ]
    assert valid == [[0, 0], [1, 0]]


def test_with_a_negative_delay_what_opens_before_the_first_trigger_of_an_acquisition_is_not_valid():
    """The shutter may have opened after it."""
    processing = Processing(trigger_delay_ns=-25.0)
    rows, builder = Rows(processing, 1), BlockBuilder(processing, 1)
    for start in (0, 10_000):
        builder.add(HandMade(edges=[(start + tick, 1, 0, n, 0) for n, tick in enumerate((100, 195, 196, 500))]))
        flush(builder, rows)
    assert rows.table("shots")["valid"].tolist() == 2 * [0, 0, 1, 0]


def test_with_a_negative_delay_only_the_first_trigger_of_all_has_none_before_it():
    rows = rows_of(Processing(trigger_delay_ns=-25.0), [], [100, 500, 900, 1300], step=1)
    assert rows.table("shots")["valid"].tolist() == [0, 1, 1, 0]


def test_every_nth_trigger_opens_a_shot_from_the_first_of_each_acquisition_on():
    processing = Processing(trigger_prescale=3)
    rows, builder = Rows(processing, 1), BlockBuilder(processing, 1)
    for start in (0, 10_000):
        builder.add(HandMade(edges=[(start + 100 * n, 1, 0, n, 0) for n in range(1, 6)]))
        flush(builder, rows)
    assert rows.table("shots")["time"].tolist() == [naive.ns(tick) for tick in (100, 400, 10_100, 10_400)]
    assert len(rows.table("triggers")["time"]) == 10


def regular(missing: int, *, infers: bool, **options) -> Rows:
    """Three triggers, `missing` ones that do not come, three more."""
    how = MissingTriggers.INFER if infers else MissingTriggers.REPORT
    processing = Processing(trigger_period_ns=PERIOD, missing_triggers=how, **options)
    return rows_of(processing, [], [n * TICKS for n in range(6 + missing) if not 3 <= n < 3 + missing])


def test_a_missing_trigger_is_put_in_at_its_time_and_its_shot_is_marked_and_not_valid():
    rows = regular(1, infers=True)
    assert rows.table("shots")["time"].tolist() == [naive.ns(n * TICKS) for n in range(7)]
    assert rows.table("shots")["inferred"].tolist() == [0, 0, 0, 1, 0, 0, 0]
    assert rows.table("shots")["valid"].tolist() == [1, 1, 1, 0, 1, 1, 0]
    assert rows.rhythm == (1, 0, 1)
    assert len(rows.table("triggers")["time"]) == 6


def test_reported_it_costs_the_shot_that_it_should_have_ended():
    rows = regular(1, infers=False)
    assert rows.table("shots")["valid"].tolist() == [1, 1, 0, 1, 1, 0]
    assert "inferred" not in rows.table("shots")
    assert rows.rhythm == (1, 0, 0)


def test_more_than_a_few_in_a_row_are_a_pause():
    most, more = regular(INFERRED_MAX, infers=True), regular(INFERRED_MAX + 1, infers=True)
    assert most.table("shots")["inferred"].sum() == most.rhythm[2] == INFERRED_MAX
    assert len(more.table("shots")["time"]) == 6
    assert more.table("shots")["valid"].tolist() == [1, 1, 0, 1, 1, 0]
    assert more.rhythm == (INFERRED_MAX + 1, 0, 0)


@pytest.mark.parametrize("infers", [False, True])
@pytest.mark.parametrize(
    ("hits", "triggers", "closed", "missing"),
    [
        ([], range(100), 1000, 900),  # the laser stops
        ([], range(100), 100.4, 0),
        ([], range(100), 100.6, 1),
        ([0], range(7, 20), 20, 6),  # it starts late
        ([0.6], range(2, 20), 20, 0),
        ([0, 50], range(5, 20), None, 4 + 30),  # nobody knows when the shutter closed
        ([0, 50], [], 80.6, 80),  # nothing triggers
        ([0, 50], [], None, 49),
        ([], [], 80, 1),
        ([1, 2], [], 2, 0),
    ],
)
def test_triggers_are_missing_before_the_first_and_behind_the_last_too(infers, hits, triggers, closed, missing):
    how = MissingTriggers.INFER if infers else MissingTriggers.REPORT
    processing = Processing(trigger_period_ns=PERIOD, missing_triggers=how)
    end_tick = None if closed is None else round(closed * TICKS)
    rows = rows_of(processing, [round(t * TICKS) for t in hits], [n * TICKS for n in triggers], end_tick=end_tick)
    assert rows.rhythm == (missing, 0, 0)
    assert len(rows.table("shots").get("time", ())) == len(triggers), "there nothing is put in"


@pytest.mark.parametrize(("tof_max", "valid"), [(0.9, 1), (1.5, 0)])
def test_a_shot_that_lasts_over_the_place_of_a_missing_trigger_at_the_end_is_not_valid(tof_max, valid):
    processing = Processing(trigger_period_ns=PERIOD, tof_max_ns=tof_max * PERIOD)
    rows = rows_of(processing, [], [n * TICKS for n in range(5)], end_tick=9 * TICKS)
    assert rows.table("shots")["valid"].tolist()[-2:] == [1, valid]


@pytest.mark.parametrize(
    ("hits", "triggers", "missing"),
    [
        ([], [], 69),  # no hit tells that the shutter was open
        ([], range(30, 80), 19),
        ([20], range(30, 80), 19),
        ([7], range(30, 80), 22),  # it was open before the timer was read
        ([], range(5, 80), 0),  # edges pass the closed shutter
    ],
)
def test_triggers_are_missing_since_the_shutter_opened(hits, triggers, missing):
    processing = Processing(trigger_period_ns=PERIOD)
    rows, builder = Rows(processing, 1), BlockBuilder(processing, 1)
    builder.open_shutter(10 * TICKS)
    edges = [(n * TICKS, 1, 0, k, 0) for k, n in enumerate(triggers)]
    builder.add(HandMade([(n * TICKS, 0, 0, 0, 9) for n in hits], edges))
    flush(builder, rows, 80 * TICKS)
    assert builder.rhythm.missing == missing


@pytest.mark.parametrize("delay_ns", [0.0, 3 * PERIOD, -0.5 * PERIOD])
@pytest.mark.parametrize("infers", [False, True])
def test_what_is_wrong_with_triggers_is_told_with_its_time_on_the_line_of_the_shots(infers, delay_ns):
    how = MissingTriggers.INFER if infers else MissingTriggers.REPORT
    processing = Processing(trigger_period_ns=PERIOD, missing_triggers=how, trigger_delay_ns=delay_ns)
    rows, builder = Rows(processing, 1), BlockBuilder(processing, 1)
    builder.open_shutter(0)
    periods = (4, 5, 6, 6.25, 7, 10, 11)
    builder.add(HandMade(edges=[(round(n * TICKS), 1, 0, k, 0) for k, n in enumerate(periods)]))
    flush(builder, rows, 15 * TICKS)
    found = builder.take_irregular()
    delay = round(delay_ns * TICKS / PERIOD)
    between = [(8, 8), (9, 9)] if infers else [(8, 9)]
    expected = [(False, 1, 6, 6.25), *((True, 2 - infers, *at) for at in between), (True, 3, 0, 3), (True, 3, 12, None)]
    assert [(one.missing, one.amount) for one in found] == [one[:2] for one in expected]
    for one, (_, _, low, high) in zip(found, expected, strict=True):
        assert one.low_ticks == pytest.approx(low * TICKS + delay, abs=2)
        assert one.high_ticks == (FOREVER if high is None else pytest.approx(high * TICKS + delay, abs=2))
    assert sum(one.amount for one in found if one.missing) == builder.rhythm.missing
    assert builder.take_irregular() == []


def test_where_no_trigger_came_they_are_missing_all_the_time():
    processing = Processing(trigger_period_ns=PERIOD)
    rows, builder = Rows(processing, 1), BlockBuilder(processing, 1)
    flush(builder, rows, None)
    assert builder.take_irregular() == [(True, 1, -FOREVER, FOREVER)]


def test_the_ends_of_each_acquisition_are_judged_by_themselves():
    processing = Processing(trigger_period_ns=PERIOD)
    rows, builder = Rows(processing, 1), BlockBuilder(processing, 1)
    for start, n in ((0, 3), (100, 0), (200, 3)):
        edges = [((start + k) * TICKS, 1, 0, k, 0) for k in range(n)]
        builder.add(HandMade([((start + 1) * TICKS, 0, 0, 0, 9)], edges))
        flush(builder, rows, (start + 10) * TICKS)
    assert builder.rhythm.missing == 7 + 8 + 7


def test_a_put_in_trigger_counts_for_the_pre_scale():
    rows = regular(1, infers=True, trigger_prescale=2)
    assert rows.table("shots")["time"].tolist() == [naive.ns(n * TICKS) for n in (0, 2, 4, 6)]
    assert rows.table("shots")["valid"].tolist() == [1, 0, 1, 0], "the second has the missing one in its midst"


def test_hits_do_not_wait_for_a_trigger_for_more_than_a_second():
    period_ns = 4e8
    triggers = ShotTriggers(Processing(trigger_period_ns=period_ns, missing_triggers="infer"))
    triggers.take(np.array([0], np.int64), 1)
    assert triggers.decided == 1
    triggers.take(np.zeros(0, np.int64), TICKS_PER_SECOND)
    assert triggers.decided == ns_to_ticks(0.75 * period_ns) - 1
    triggers.take(np.zeros(0, np.int64), TICKS_PER_SECOND + 1)
    assert triggers.decided == TICKS_PER_SECOND + 1
    triggers.take(np.zeros(0, np.int64), FOREVER)
    assert triggers.decided == FOREVER


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"missing_triggers": "infer"}, "from 1000 to 5e[+]08 ns, not None"),
        ({"missing_triggers": "infer", "trigger_period_ns": 6e8}, "from 1000 to 5e[+]08 ns, not 600000000"),
        ({"missing_triggers": "infer", "trigger_period_ns": 900}, "or use missing_triggers='report'"),
        ({"trigger_prescale": 0}, "greater than or equal to 1"),
        ({"trigger_delay_ns": 2e8}, "less than or equal to 100000000"),
        ({"trigger_delay_ns": float("nan")}, "trigger_delay_ns"),
    ],
)
def test_triggers_that_make_no_sense_are_refused_with_their_range(wrong, words):
    with pytest.raises(ValueError, match=words):
        Processing(**wrong)
