"""Clusters against scikit-learn's DBSCAN, and what the slow twin's small streams do not reach."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import DBSCAN

from ophyd_timepix.config import Geometry, Metric, Processing
from ophyd_timepix.events import BlockArrays, BlockBuilder, CentroidFinder, Flag, dbscan
from ophyd_timepix.events.centroid import Scratch, centroid_block
from ophyd_timepix.events.cluster import neighbourhood
from tests import naive
from tests.rows import HandMade, Rows, assert_same_rows, flush
from tests.strategies import N_EXAMPLES, lists_to

TICKS_PER_NS = 96 / 25


def cloud(seed: int, n_particles: int, span_ns: float, n_chips: int = 1) -> list[tuple[int, int, int, int, int]]:
    """Particles of a few hits each, noise, and pixels that fire again within the window."""
    rng = np.random.default_rng(seed)
    hits = set()
    for _ in range(n_particles):
        chip, start = int(rng.integers(n_chips)), rng.uniform(0, span_ns)
        centre = rng.uniform(3, 60, 2)
        for _ in range(int(rng.integers(1, 14))):
            x, y = (int(v) for v in np.clip(np.rint(rng.normal(centre, 1.1)), 0, 255))
            tick = int((start + rng.exponential(30)) * TICKS_PER_NS) // 6 * 6
            hits.add((tick, chip, y, x, int(rng.integers(1, 300))))
            if rng.random() < 0.1:
                hits.add((tick + 6 * int(rng.integers(1, 60)), chip, y, x, int(rng.integers(1, 300))))
    return sorted(hits)


def block_of(hits, processing, edges=(), n_chips=1) -> BlockArrays:
    builder, block = BlockBuilder(processing, n_chips), BlockArrays()
    builder.add(HandMade(hits, edges))
    while builder.flush(block):
        raise AssertionError("one block should do")
    return block


def test_a_cluster_at_a_rim_that_faces_another_chip_is_told_from_one_at_the_outer_rim():
    lone = [(0, 128), (255, 128), (128, 0), (128, 255), (128, 128)]
    hits = [(10_000 * (4 * k + chip) + 960, chip, y, x, 9) for k, (x, y) in enumerate(lone) for chip in range(4)]
    large = [(500_000 + x, 0, y, x, 1000) for x in range(100) for y in range(1, 100)]  # at column 0
    small = [(600_000, 0, 1, 1, 9), (600_000, 0, 1, 0, 9), (600_000, 0, 0, 0, 9)]  # both rims of a corner
    processing = Processing()
    builder, rows = BlockBuilder(processing, 4), Rows(processing, 4)
    builder.add(HandMade([*hits, *large, *small]))
    flush(builder, rows)
    found = rows.table("centroids")
    both, outer = Flag.EDGE | Flag.GAP, Flag.EDGE
    expected = [both, outer, both, outer] + [outer, both, outer, both] + [outer] * 4 + [both] * 4 + [0] * 4
    assert found["flags"].tolist() == [*expected, both, both]


def reference(hits, shot, processing):
    """scikit-learn's labels and core hits. Chips and shots lie far apart."""
    table = np.array(hits, float)
    apart = 1e6 * (4 * np.array(shot, float) + table[:, 1])
    if processing.metric is Metric.ELLIPSOID:
        z = table[:, 0] / TICKS_PER_NS / processing.window_ns * processing.radius_px
        features = np.stack([table[:, 3] + apart, table[:, 2], z], axis=1)
        found = DBSCAN(eps=processing.radius_px, min_samples=processing.min_samples).fit(features)
    else:
        d2 = (table[:, None, 3] - table[None, :, 3]) ** 2 + (table[:, None, 2] - table[None, :, 2]) ** 2
        dt = np.abs(table[:, None, 0] - table[None, :, 0]) / TICKS_PER_NS
        near = (d2 <= processing.radius_px**2) & (dt <= processing.window_ns) & (apart[:, None] == apart[None, :])
        found = DBSCAN(eps=0.5, min_samples=processing.min_samples, metric="precomputed").fit(1.0 - near)
    is_core = np.zeros(len(hits), bool)
    is_core[found.core_sample_indices_] = True
    return found.labels_, is_core


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("min_samples", [1, 3, dbscan.PAIRED_MAX + 1])
@pytest.mark.parametrize("metric", Metric)
@pytest.mark.parametrize("radius_px", [1.5, 2.0, 3.0])
def test_clusters_equal_those_of_scikit_learn(metric, min_samples, radius_px, seed):
    window_ns = 117.6470588 if metric is Metric.ELLIPSOID else 100.0
    processing = Processing(metric=metric, min_samples=min_samples, radius_px=radius_px, window_ns=window_ns)
    hits = cloud(seed, 150, 4000, n_chips=2)
    edges = [(tick, 1, 0, i, 0) for i, tick in enumerate(range(2000, 16000, 4000))]
    block = block_of(hits, processing, edges, n_chips=2)
    scratch = Scratch(neighbourhood(processing), 2)
    centroid_block(block, processing, Geometry.for_chips(2).table(), scratch, hits=True)
    ours = block.labels[: len(hits)]
    shot = np.searchsorted([edge[0] for edge in edges], [hit[0] for hit in hits], side="right") - 1
    labels, is_core = reference(hits, shot, processing)

    assert np.array_equal(ours == -1, labels == -1)
    if min_samples > 1:
        assert np.array_equal(scratch.neighbours[: len(hits)] >= min_samples, is_core)
    pairs = set(zip(ours[is_core].tolist(), labels[is_core].tolist(), strict=True))
    assert len(pairs) == len({a for a, _ in pairs}) == len({b for _, b in pairs})
    border = np.flatnonzero(~is_core & (labels >= 0))
    assert min_samples == 1 or len(border)
    table = np.array(hits, float)
    for i in border:
        d2 = (table[:, 3] - table[i, 3]) ** 2 + (table[:, 2] - table[i, 2]) ** 2
        dt = np.abs(table[:, 0] - table[i, 0]) / TICKS_PER_NS
        if metric is Metric.ELLIPSOID:
            near = d2 + (dt / window_ns * radius_px) ** 2 <= radius_px**2 * (1 + 1e-12)
        else:
            near = (d2 <= radius_px**2) & (dt <= window_ns)
        near &= is_core & (shot == shot[i]) & (table[:, 1] == table[i, 1])
        assert ours[i] in ours[near]


@pytest.mark.parametrize("min_samples", [2, 3, 5, dbscan.PAIRED_MAX])
@pytest.mark.parametrize("metric", Metric)
def test_one_pass_over_the_map_and_two_give_the_same(metric, min_samples, monkeypatch):
    """Pairs that wait for the last numbers of neighbours, or another look at all of them."""
    processing = Processing(metric=metric, min_samples=min_samples, hits=True)
    hits = cloud(5, 600, 9000)
    edges = [(tick, 1, 0, i, 0) for i, tick in enumerate(range(2000, 34000, 900))]
    found = []
    for paired_max in (dbscan.PAIRED_MAX, 1):
        monkeypatch.setattr(dbscan, "PAIRED_MAX", paired_max)
        rows = Rows(processing, 1)
        for _ in range(2):  # the map holds what was before
            builder = BlockBuilder(processing, 1)
            builder.add(HandMade(hits, edges))
            builder.sequence = rows.n_blocks
            flush(builder, rows)
        found.append(rows)
    assert_same_rows(*found)
    assert found[0].totals["n_noise"] > 0


@settings(max_examples=min(40, N_EXAMPLES), deadline=None)
@given(
    lists_to(
        50, st.tuples(st.integers(0, 300), st.integers(0, 1), st.integers(0, 5), st.integers(0, 6), st.integers(0, 9))
    ),
    st.sampled_from(Metric),
    st.sampled_from((2, 3, 5)),
    st.sampled_from((1.0, 2.0, 2.5)),
    st.sampled_from((1, dbscan.PAIRED_MAX)),
)
def test_dense_clusters_are_those_of_the_slow_twin_in_one_pass_and_in_two(drawn, metric, min_samples, radius, paired):
    processing = Processing(metric=metric, min_samples=min_samples, radius_px=radius, hits=True)
    hits = sorted((6 * tick, *rest) for tick, *rest in drawn)
    labels = naive.clusters(hits, [-1] * len(hits), processing)
    rows = Rows(processing, 2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dbscan, "PAIRED_MAX", paired)
        builder = BlockBuilder(processing, 2)
        builder.add(HandMade(hits))
        flush(builder, rows)
    expected = naive.centroids(hits, [-1] * len(hits), [], labels, Geometry.for_chips(2).table().tolist())
    row_of = {i: row for row, centroid in enumerate(expected) for i in centroid.members}
    assert rows.table("hits").get("cluster", np.empty(0)).tolist() == [row_of.get(i, -1) for i in range(len(hits))]


def columns_of(hits, processing, **options):
    rows = Rows(processing, 1)
    builder = BlockBuilder(processing, 1, **options)
    builder.add(HandMade(hits))
    flush(builder, rows)
    return rows


def test_a_test_pulse_on_every_pixel_is_one_cluster():
    """65,536 hits in one tick: ties throughout, and sums beyond the fields of small clusters."""
    rng = np.random.default_rng(0)
    hits = [(960, 0, y, x, 1 + (x * y) % 1000) for x in range(256) for y in range(256)]
    rng.shuffle(hits)
    rows = columns_of([tuple(hit) for hit in hits], Processing(hits=True))
    centroids = rows.table("centroids")
    table = np.array(sorted(tuple(hit) for hit in hits))
    assert centroids["size"].tolist() == [65536]
    assert centroids["tot"].tolist() == [table[:, 4].sum()]
    assert centroids["x"][0] == pytest.approx((table[:, 4] * table[:, 3]).sum() / table[:, 4].sum(), rel=1e-6)
    assert centroids["y"][0] == pytest.approx((table[:, 4] * table[:, 2]).sum() / table[:, 4].sum(), rel=1e-6)
    assert centroids["flags"][0] == Flag.EDGE
    found = rows.table("hits")
    assert np.array_equal(found["y"], table[:, 2])
    assert np.array_equal(found["x"], table[:, 3])


def test_a_large_cluster_inside_the_chip_is_not_at_the_rim():
    hits = [(960 + x, 0, y, x, 1000) for x in range(1, 101) for y in range(1, 101)]
    centroids = columns_of(hits, Processing()).table("centroids")
    assert centroids["size"].tolist() == [10_000]
    assert (centroids["x"][0], centroids["y"][0], centroids["flags"][0]) == (50.5, 50.5, 0)


def test_a_cluster_without_any_tot_is_weighed_equally():
    centroids = columns_of([(96, 0, 10, 20, 0), (102, 0, 11, 21, 0)], Processing()).table("centroids")
    assert (centroids["x"].tolist(), centroids["y"].tolist(), centroids["tot"].tolist()) == ([20.5], [10.5], [0])


def test_a_pixel_that_fires_again_within_the_window_links_what_it_touches():
    """No dead time: (5, 5) at 0 and 90 ns; a neighbour at 180 ns is linked through the second."""
    hits = [(0, 0, 5, 5, 9), (345, 0, 5, 5, 8), (690, 0, 5, 6, 7)]
    assert columns_of(hits, Processing()).table("centroids")["size"].tolist() == [3]


def test_a_chain_without_end_is_cut_by_force_and_flagged():
    """A pixel fires every 60 ns for 2,500 hits, cut every 1,000."""
    hits = [(i * 240, 0, 5, 5, 9) for i in range(2500)]
    rows = columns_of(hits, Processing(), chain_max=1000, target_hits=700)
    centroids = rows.table("centroids")
    assert centroids["size"].tolist() == [1000, 1000, 500]
    assert all(flags & Flag.FORCED_CUT for flags in centroids["flags"])
    assert rows.totals["forced_cut"] == 2


def test_a_forced_cut_flags_nothing_in_another_shot_wherever_blocks_end():
    """Cut behind 20 of 25 hits; a trigger comes behind the first of the five that are left."""
    builder, rows = BlockBuilder(Processing(), 1, chain_max=10), Rows(Processing(), 1)
    builder.add(HandMade([(i * 240, 0, 5, 5, 9) for i in range(25)], [(5000, 1, 0, 0, 0)]))
    flush(builder, rows)
    centroids = rows.table("centroids")
    assert centroids["size"].tolist() == [10, 10, 1, 4]
    assert [bool(flags & Flag.FORCED_CUT) for flags in centroids["flags"]] == [True, True, True, False]


def test_blocks_of_hours_do_not_confuse_the_map():
    """Running time of the map is bounded: blocks of 9 s, with hits of one pixel, for longer than it lasts."""
    processing = Processing()
    finder = CentroidFinder(processing, Geometry().table())
    block = BlockArrays()
    for _ in range(300):
        builder = BlockBuilder(processing, 1)
        builder.add(HandMade([(0, 0, 5, 5, 1), (8 << 30, 0, 5, 5, 1)]))
        assert not builder.flush(block)
        finder.process(block)
        assert block.header.n_centroids == 2
