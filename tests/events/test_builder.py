"""Blocks: acquisitions, shots at their ends, capacities, sparse streams, what the builder refuses."""

import numpy as np
import pytest

from ophyd_timepix.clock import TICKS_PER_SECOND
from ophyd_timepix.config import Processing
from ophyd_timepix.events import BlockArrays, BlockBuilder, Capacity, cutting
from tests.rows import HandMade, Rows, assert_same_rows, flush

LATE = TICKS_PER_SECOND // 2000
SMALL = Capacity(hits=1 << 10, shots=16, edges=16)


def edge(tick, counter=0, tdc=1, falling=0, chip=0):
    return tick, tdc, falling, counter & 4095, chip


def test_hits_before_the_first_trigger_have_shot_minus_one_and_no_tof():
    rows, builder = Rows(Processing(), 1), BlockBuilder(Processing(), 1)
    builder.add(HandMade([(100, 0, 1, 1, 1), (5000, 0, 9, 9, 1)], [edge(4000)]))
    flush(builder, rows)
    centroids = rows.table("centroids")
    assert centroids["shot"].tolist() == [-1, 0]
    assert np.isnan(centroids["tof"][0])
    assert centroids["tof"][1] == 1000 * 25 / 96
    assert rows.totals["n_before_first_trigger"] == 1


def test_a_hit_at_the_very_tick_of_a_trigger_belongs_to_its_shot():
    rows, builder = Rows(Processing(), 1), BlockBuilder(Processing(), 1)
    builder.add(HandMade([(3999, 0, 1, 1, 1), (4000, 0, 1, 1, 1)], [edge(4000)]))
    flush(builder, rows)
    assert rows.table("centroids")["shot"].tolist() == [-1, 0]


@pytest.mark.parametrize(
    ("tof_max_ns", "end_tick", "valid"), [(None, 10**9, 0), (25.0, None, 0), (25.0, 4095, 0), (25.0, 4096, 1)]
)
def test_the_last_shot_is_valid_when_its_tof_window_ends_before_the_shutter_closes(tof_max_ns, end_tick, valid):
    processing = Processing(tof_max_ns=tof_max_ns)
    rows, builder = Rows(processing, 1), BlockBuilder(processing, 1)
    builder.add(HandMade(edges=[edge(100), edge(4000)]))
    flush(builder, rows, end_tick)
    assert rows.table("shots")["valid"].tolist() == [1, valid]


@pytest.mark.parametrize(
    ("tof_max_ns", "valid"), [(None, [0, 1, 1, 0, 0]), (100.0, [0, 1, 1, 1, 0])], ids=["to the next", "to tof_max"]
)
def test_only_shots_that_lie_wholly_inside_the_open_shutter_are_valid(tof_max_ns, valid):
    processing = Processing(tof_max_ns=tof_max_ns)
    rows, builder = Rows(processing, 1), BlockBuilder(processing, 1)
    builder.open_shutter(2000)
    builder.add(HandMade(edges=[edge(tick) for tick in (1999, 2000, 3000, 4000, 5001)]))
    builder.close_shutter(4999)
    flush(builder, rows, 4999)
    assert rows.table("shots")["valid"].tolist() == valid
    assert (builder.shots, builder.early_shots) == (5, 1)
    builder.add(HandMade(edges=[edge(tick) for tick in (6000, 7000)]))  # of the next nobody knows when it opened
    flush(builder, rows)
    assert rows.table("shots")["valid"].tolist() == [*valid, 1, 0]


def test_shots_and_edges_count_on_through_the_acquisitions_of_a_run():
    rows, builder = Rows(Processing(), 1), BlockBuilder(Processing(), 1)
    for start in (0, 10**9, 2 * 10**9):
        hits = [(start + 50, 0, 1, 1, 1), (start + 150, 0, 5, 5, 1), (start + 1150, 0, 5, 5, 1)]
        builder.add(HandMade(hits, [edge(start + 100), edge(start + 1000)]))
        flush(builder, rows)
    assert rows.table("centroids")["shot"].tolist() == [-1, 0, 1, -1, 2, 3, -1, 4, 5]
    assert len(rows.table("shots")["time"]) == 6
    assert [header["acquisition"] for header in rows.headers if header["last"]] == [1, 2, 3]
    assert [header["first_closed"] for header in rows.headers if header["last"]] == [0, 2, 4]
    assert builder.shots == 6


def test_an_acquisition_without_anything_is_one_empty_last_block():
    rows, builder = Rows(Processing(), 1), BlockBuilder(Processing(), 1)
    flush(builder, rows)
    assert rows.n_blocks == rows.totals["last"] == 1
    assert rows.totals["n_hits"] == 0


def test_edges_that_several_chips_repeat_are_one_trigger():
    rows, builder = Rows(Processing(), 4), BlockBuilder(Processing(), 4)
    repeated = [edge(tick, i, chip=chip) for chip in range(4) for i, tick in enumerate((100, 5000, 9000))]
    builder.add(HandMade(edges=repeated))
    flush(builder, rows)
    assert rows.table("triggers")["counter"].tolist() == [0, 1, 2]
    assert len(rows.table("shots")["time"]) == 3


def test_two_edges_at_one_tick_whose_counter_skips_are_two_triggers():
    """Damaged words can say so; between them lies no time that could be lost."""
    rows, builder = Rows(Processing(), 1), BlockBuilder(Processing(), 1)
    builder.add(HandMade(edges=[edge(100, 1), edge(5000, 2), edge(5000, 9), edge(9000, 10), edge(12_000, 11)]))
    flush(builder, rows)
    assert [gap.missing for gap in builder.take_gaps()] == [6]
    assert rows.table("triggers")["counter"].tolist() == [1, 2, 9, 10, 11]
    assert rows.table("shots")["valid"].tolist() == [1, 1, 0, 1, 0]


def test_nothing_is_lost_when_triggers_outnumber_the_room_of_a_block():
    processing = Processing(hits=True)
    rows, builder = Rows(processing, 1), BlockBuilder(processing, 1, chain_max=1000)
    block = BlockArrays(capacity=SMALL)
    ticks = np.arange(1, 60_000, 3)
    edges = [edge(int(tick), i) for i, tick in enumerate(ticks)]
    hits = [(int(tick) + 1, 0, 5, 5, 1) for tick in ticks[:1500]]
    builder.add(HandMade(hits, edges, horizon_ticks=70_000))
    while builder.take(block):
        rows.add(block)
    flush(builder, rows, block=block)
    assert np.array_equal(rows.table("triggers")["time"], ticks * 25 / 96)
    assert np.array_equal(rows.table("shots")["time"], ticks * 25 / 96)
    assert rows.table("hits")["shot"].tolist() == list(range(1500))
    assert len(rows.table("centroids")["toa"]) == 1500


def test_a_sparse_stream_of_hours_comes_out_whole():
    """One hit in 70 s for 20 hours, in batches that hold hours each."""
    ticks = np.arange(1000) * 70 * TICKS_PER_SECOND
    rows, builder, block = Rows(Processing(), 1), BlockBuilder(Processing(), 1), BlockArrays()
    for part in np.array_split(ticks, 7):
        builder.add(HandMade([(int(t), 0, 1, 1, 1) for t in part], [edge(int(part[0]))], int(part[-1]) - LATE))
        while builder.take(block):
            rows.add(block)
    flush(builder, rows)
    assert np.array_equal(rows.table("centroids")["toa"], ticks * 25 / 96)
    assert rows.table("centroids")["shot"][-1] == 6


def test_hits_of_a_sparse_stream_wait_for_the_horizon_of_the_slowest_chip():
    rows, builder, block = Rows(Processing(), 2), BlockBuilder(Processing(), 2), BlockArrays()
    builder.add(HandMade([(0, 0, 1, 1, 1), (100 * TICKS_PER_SECOND, 0, 1, 1, 1)], horizon_ticks=-LATE))
    assert not builder.take(block)
    assert not builder.take_partial(block)
    builder.add(HandMade([(50, 1, 1, 1, 1)], horizon_ticks=99 * TICKS_PER_SECOND))
    assert builder.take_partial(block)
    rows.add(block)
    assert rows.table("centroids")["chip"].tolist() == [0, 1]
    flush(builder, rows)
    assert rows.table("centroids")["chip"].tolist() == [0, 1, 0]


def test_a_partial_block_ends_at_the_last_silence_before_the_horizon():
    builder, block = BlockBuilder(Processing(), 1), BlockArrays()
    hits = [(0, 0, 1, 1, 1), (10_000, 0, 1, 1, 1), (10_300, 0, 1, 1, 1), (10_600, 0, 9, 9, 1)]
    builder.add(HandMade(hits, horizon_ticks=10_500))
    assert builder.take_partial(block)
    assert block.header.n_hits == 1
    assert builder.pending_hits == 3
    builder.add(HandMade(horizon_ticks=11_000))
    assert builder.take_partial(block)
    assert block.header.n_hits == 3


def test_hits_behind_the_horizon_are_refused_in_plain_words():
    builder, block = BlockBuilder(Processing(), 1), BlockArrays()
    builder.add(HandMade([(1000, 0, 1, 1, 1)], horizon_ticks=2000))
    builder.take_partial(block)
    with pytest.raises(ValueError, match="tick 500 came after the stream's horizon had reached 2000"):
        builder.add(HandMade([(500, 0, 1, 1, 1)], horizon_ticks=2000))


def test_a_block_too_small_for_a_chain_is_refused():
    builder = BlockBuilder(Processing(), 1)
    with pytest.raises(ValueError, match="room for 1000000 hits, this one has 1024"):
        builder.flush(BlockArrays(capacity=SMALL))


def test_the_tof_filter_counts_what_it_removes_and_leaves_hits_outside_shots():
    processing = Processing(tof_min_ns=100, tof_max_ns=1000, hits=True)
    rows, builder = Rows(processing, 1), BlockBuilder(processing, 1)
    hits = [(tick, 0, 1, 1, 1) for tick in (10, 1383, 1384, 4840, 4841)]
    builder.add(HandMade(hits, [edge(1000)]))
    flush(builder, rows)
    assert rows.table("hits")["tof"][1:].tolist() == [100.0, 1000.0]
    assert rows.totals["n_filtered"] == 2


def test_memory_does_not_grow_with_the_length_of_the_stream():
    builder, block = BlockBuilder(Processing(), 1), BlockArrays()
    rng = np.random.default_rng(0)

    def feed(n_batches: int, now: int) -> int:
        for _ in range(n_batches):
            batch = HandMade()
            batch.ticks = now + rng.integers(0, 2 * LATE, 20_000)
            batch.pixels = rng.integers(0, 1 << 26, 20_000).astype(np.uint32)
            now += LATE
            batch.horizon_ticks = now
            builder.add(batch)
            while builder.take(block):
                pass
        return now

    now = feed(30, 0)
    sizes = len(builder._pool), len(builder._ready)
    feed(300, now)
    assert (len(builder._pool), len(builder._ready)) == sizes


def test_a_long_pending_set_is_sorted_once_not_again_and_again(monkeypatch):
    """One chip lags 250 ms behind: work per hit must not grow with what waits."""
    from ophyd_timepix.events import order

    looked_at = 0
    split = order.split_final

    def counting(pool, n_pool, *args):
        nonlocal looked_at
        looked_at += n_pool
        return split(pool, n_pool, *args)

    monkeypatch.setattr(order, "split_final", counting)
    builder, block = BlockBuilder(Processing(), 2), BlockArrays()
    now, n = 0, 0
    for _ in range(200):
        batch = HandMade()
        batch.ticks = now + np.arange(10_000) * 100
        batch.pixels = np.zeros(10_000, np.uint32)
        now += 1_000_000
        batch.horizon_ticks = now - 100_000_000
        builder.add(batch)
        n += 10_000
        while builder.take(block):
            pass
    assert looked_at < 6 * n


def stream_of(n: int, edges_every: int = 0) -> HandMade:
    """Hits in no order within 400 ticks, over the whole chip, and edges among them."""
    rng = np.random.default_rng(11)
    ticks = 10**6 + 40 * np.arange(n) + rng.integers(0, 400, n)
    hits = np.stack([ticks, np.zeros(n, np.int64), *rng.integers(0, 256, (2, n)), rng.integers(1, 1000, n)], 1)
    edges = [edge(10**6 + 40 * k, k) for k in range(5, n, edges_every)] if edges_every else []
    return HandMade(hits, edges, horizon_ticks=10**6 + 39 * n)


def rows_from(stream: HandMade, leaves_order: bool, capacity: Capacity = Capacity()) -> Rows:  # noqa: B008
    processing, block = Processing(hits=True, window_ns=25.0), BlockArrays(capacity=capacity)
    rows = Rows(processing, 1)
    builder = BlockBuilder(
        processing, 1, target_hits=200, chain_max=1 << 10, sort_piece=64, leaves_order=leaves_order, pile=16
    )
    for start in range(0, len(stream.ticks), 90):
        part = HandMade(horizon_ticks=int(stream.ticks[start : start + 90].min()) - 400)
        part.ticks, part.pixels = stream.ticks[start : start + 90], stream.pixels[start : start + 90]
        edges = (stream.edge_ticks >= 10**6 + 40 * start) & (stream.edge_ticks < 10**6 + 40 * (start + 90))
        for name in ("edge_ticks", "edge_input", "edge_falling", "edge_counter"):
            setattr(part, name, getattr(stream, name)[edges])
        builder.add(part)
        while builder.take(block):
            rows.add(block)
    flush(builder, rows, block=block)
    return rows


@pytest.mark.parametrize("edges_every", [0, 1, 7, 300])
def test_whoever_takes_a_block_may_sort_it_and_finds_the_same_rows(edges_every):
    stream = stream_of(4000, edges_every)
    ours, theirs = rows_from(stream, False), rows_from(stream, True)
    assert_same_rows(ours, theirs)
    assert ours.n_unfinished == 0
    assert theirs.n_unfinished > 10
    assert theirs.totals["n_before_first_trigger"] == ours.totals["n_before_first_trigger"]


@pytest.mark.parametrize("for_those_who_wait", [False, True])
def test_hits_without_any_cut_are_looked_through_a_few_times_not_once_for_every_pile(monkeypatch, for_those_who_wait):
    name = "find_last_cut" if for_those_who_wait else "find_cut"
    looks, find = [], getattr(cutting, name)
    monkeypatch.setattr(cutting, name, lambda *args: looks.append(args) or find(*args))
    target = 100_000 if for_those_who_wait else 500
    builder = BlockBuilder(Processing(), 1, target, sort_piece=64, leaves_order=True, pile=600)
    batch = HandMade(horizon_ticks=500_000)
    batch.ticks, batch.pixels = 1000 + 10 * np.arange(50_000), np.zeros(50_000, np.uint32)
    builder.add(batch)
    assert not (builder.take_partial if for_those_who_wait else builder.take)(BlockArrays())
    assert 0 < len(looks) < 20


def test_a_block_with_more_triggers_than_it_has_room_for_is_sorted_at_once():
    stream = stream_of(4000, 1)
    ours, theirs = (rows_from(stream, later, SMALL) for later in (False, True))
    assert_same_rows(ours, theirs)
    assert theirs.n_unfinished == 0
