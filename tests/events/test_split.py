"""Touching particles: cut at their peaks, against the slow twin and against the truth; counts stay exact."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ophyd_timepix.config import CentroidTime, Metric, Processing
from ophyd_timepix.events import BlockBuilder, Flag
from tests import naive
from tests.rows import HandMade, Rows, flush, process
from tests.strategies import N_EXAMPLES
from tests.synthesis import busy_stream_with_truth

EXAMPLES = settings(max_examples=N_EXAMPLES, deadline=None)
CROWDED = st.lists(
    st.tuples(
        st.integers(0, 700),
        st.integers(0, 1),
        st.integers(0, 8),
        st.integers(0, 14),
        st.sampled_from((0, 1, 2, 5, 20, 60, 61, 200, 1022)),
    ),
    max_size=60,
)


def rows_of(hits, processing, n_chips=1, **options) -> Rows:
    rows = Rows(processing, n_chips)
    builder = BlockBuilder(processing, n_chips, **options)
    builder.add(HandMade(hits))
    flush(builder, rows)
    return rows


def particle(x: int, y: int, tick: int, strongest: int = 200) -> list[tuple[int, int, int, int, int]]:
    """Nine hits: the middle one the strongest and the first, the corners the weakest and the last."""
    around = [(dx, dy) for dx in (-1, 0, 1) for dy in (-1, 0, 1)]
    return [(tick + 12 * (dx * dx + dy * dy), 0, y + dy, x + dx, strongest >> (dx * dx + dy * dy)) for dx, dy in around]


@EXAMPLES
@given(CROWDED, st.data())
def test_parts_equal_those_of_the_slow_twin(drawn, data):
    processing = Processing(
        split=True,
        split_radius_px=data.draw(st.sampled_from((1.0, 1.5, 2.5, 4.0))),
        split_time_ns=data.draw(st.sampled_from((1.0, 10.0, 15.0, 60.0))),
        metric=data.draw(st.sampled_from(Metric)),
        min_samples=data.draw(st.sampled_from((1, 3))),
        min_size=data.draw(st.sampled_from((1, 2))),
        centroid_time=data.draw(st.sampled_from(CentroidTime)),
        hits=True,
    )
    hits = sorted((6 * tick, *rest) for tick, *rest in drawn)
    shot = [-1] * len(hits)
    labels, parts = naive.split(hits, naive.clusters(hits, shot, processing), processing)
    table = [[1, 0, 0, 0, 1, 0], [1, 0, 0, 0, 1, 0]]
    expected = naive.centroids(hits, shot, [], labels, table, processing.min_size, parts, processing.centroid_time)

    rows = rows_of(hits, processing, n_chips=2)
    found = rows.table("centroids")
    row_of = {i: row for row, centroid in enumerate(expected) for i in centroid.members}
    assert rows.table("hits").get("cluster", np.empty(0)).tolist() == [row_of.get(i, -1) for i in range(len(hits))]
    for name in ("toa", "tot", "tot_max", "size"):
        assert found[name].tolist() == [getattr(row, name) for row in expected]
    assert [bool(flags & Flag.SPLIT) for flags in found["flags"]] == [row.split for row in expected]
    assert rows.totals["n_clusters"] == len(set(labels) - {-1})
    assert rows.totals["n_parts"] == len(parts)
    assert rows.totals["n_hits"] == sum(rows.totals[name] for name in ("n_clustered", "n_noise", "n_small_hits"))


def test_two_particles_side_by_side_are_two_rows_with_the_flag():
    hits = sorted(particle(50, 50, 0) + particle(54, 50, 0, strongest=100))
    assert rows_of(hits, Processing()).table("centroids")["size"].tolist() == [18]
    rows = rows_of(hits, Processing(split=True))
    found = rows.table("centroids")
    assert sorted(zip(found["x"].tolist(), found["size"].tolist(), strict=True)) == [(50.0, 9), (54.0, 9)]
    assert all(flags & Flag.SPLIT for flags in found["flags"])
    assert (rows.totals["n_split"], rows.totals["n_parts"], rows.totals["n_clusters"]) == (1, 2, 2)


def test_two_particles_in_one_place_are_told_apart_by_their_times():
    """The second comes 60 ns later: no time-walk explains that for hits as strong as those of the first."""
    hits = sorted(particle(50, 50, 0) + particle(51, 50, 228))
    rows = rows_of(hits, Processing(split=True))
    assert rows.table("centroids")["size"].tolist() == [9, 9]
    assert rows.table("centroids")["x"].tolist() == [50.0, 51.0]


def test_weak_hits_of_one_particle_may_be_late():
    """Time-walk: the rim of a cluster comes 60 ns late, and is no particle of its own."""
    hits = sorted([*particle(50, 50, 0), (228, 0, 50, 52, 9), (240, 0, 52, 50, 8)])
    rows = rows_of(hits, Processing(split=True))
    assert rows.table("centroids")["size"].tolist() == [11]
    assert rows.table("centroids")["flags"].tolist() == [0]


def test_a_very_large_cluster_stays_whole():
    rng = np.random.default_rng(3)
    hits = [(960, 0, y, x, int(rng.integers(1, 1000))) for x in range(60) for y in range(60)]
    rows = rows_of(sorted(hits), Processing(split=True))
    assert rows.table("centroids")["size"].tolist() == [3600]


def exact_share(labels, truth) -> float:
    """The share of particles whose hits are those of one cluster, none missing and none too many."""
    n_hits, n_in_cluster = np.bincount(truth.particle), np.bincount(labels)
    seen = np.flatnonzero(n_hits)
    lowest, highest = np.full(len(n_hits), len(labels)), np.full(len(n_hits), -1)
    np.minimum.at(lowest, truth.particle, labels)
    np.maximum.at(highest, truth.particle, labels)
    return float(np.mean((lowest == highest)[seen] & (n_in_cluster[lowest[seen]] == n_hits[seen])))


@pytest.mark.parametrize(
    ("hits_per_s", "whole", "split"), [(None, 0.977, 0.992), (1e6, 0.9999, 0.9999)], ids=["pulsed", "uniform"]
)
def test_splitting_finds_more_particles_and_harms_none_that_lie_apart(hits_per_s, whole, split):
    words, truth = busy_stream_with_truth(400_000, hits_per_s)
    for processing, least in ((Processing(hits=True), whole), (Processing(hits=True, split=True), split)):
        labels = process(words, processing).table("hits")["cluster"]
        assert exact_share(labels, truth) >= least
