"""The same as Pymepix: clusters are scikit-learn's DBSCAN over (shot, x, y, ToF), centroids ToT-weighted means."""

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ophyd_timepix.config import CentroidTime, Geometry, Metric, Processing
from ophyd_timepix.decode import Decoder, Framing
from ophyd_timepix.events import BlockArrays, BlockBuilder, CentroidFinder
from ophyd_timepix.protocol.chip_config import column_phase
from tests.pymepix_oracle import assert_same_centroids, assert_same_clusters
from tests.rows import HandMade, Rows, Table, assert_same_rows, flush
from tests.strategies import N_EXAMPLES
from tests.synthesis import CHUNK_WORDS, busy_stream

DATA = Path(os.environ.get("TIMEPIX_REAL_DATA", "../shared/data"))
IONS = DATA / "centroid_pipeline_test.raw"

SAME = Processing(
    metric=Metric.ELLIPSOID,
    radius_px=2.0,
    window_ns=117.6470588,
    min_samples=3,
    centroid_time=CentroidTime.WEIGHTED,
    hits=True,
)
PYMEPIX_PLL = 0x11E


def rows_of_raw(words: np.ndarray, phase: tuple[int, ...] | None = None) -> Rows:
    """Rows of a `.raw`: words without chunks."""
    table = None if phase is None else np.array([phase], np.int32)
    decoder, builder, rows = Decoder(Framing.RAW, 1, table), BlockBuilder(SAME, 1), Rows(SAME, 1)
    for start in range(0, len(words), 10_000):
        builder.add(decoder.decode(words[start : start + 10_000]))
    builder.add(decoder.flush())
    flush(builder, rows)
    return rows


def in_shots(rows: Rows) -> tuple[Table, Table]:
    """Hits and centroids without those before the first trigger, which Pymepix leaves out.

    `cluster` counts the rows that stay.
    """
    hits, centroids = rows.table("hits"), rows.table("centroids")
    n_before = int(np.count_nonzero(centroids["shot"] < 0))
    hits = {name: column[hits["shot"] >= 0] for name, column in hits.items()}
    hits["cluster"] = np.where(hits["cluster"] < 0, -1, hits["cluster"] - n_before)
    return hits, {name: column[n_before:] for name, column in centroids.items()}


def test_pulses_of_ions_give_the_clusters_and_centroids_of_pymepix():
    words = busy_stream(1, None, rings=True).reshape(-1, 1 + CHUNK_WORDS)[:20, 1:].ravel()
    rows = rows_of_raw(words)
    hits, centroids = in_shots(rows)
    labels = assert_same_clusters(hits)
    assert labels.max() > 2000
    assert assert_same_centroids(hits, centroids, labels) < 0.01 * labels.max()


@pytest.mark.skipif(not IONS.exists(), reason=f"no recordings in {DATA} (set TIMEPIX_REAL_DATA)")
def test_a_recording_of_pymepix_gives_its_clusters_and_centroids():
    """Real ions, with the column phase of the PLL setting that Pymepix writes."""
    rows = rows_of_raw(np.fromfile(IONS, "<u8")[1:], column_phase(PYMEPIX_PLL))
    hits, centroids = in_shots(rows)
    labels = assert_same_clusters(hits)
    assert labels.max() + 1 > 50
    assert assert_same_centroids(hits, centroids, labels) == 0


@settings(max_examples=N_EXAMPLES // 2, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 500), st.integers(0, 6), st.integers(0, 6), st.integers(1, 1022)),
        min_size=1,
        max_size=60,
    ),
    st.lists(st.integers(0, 500 * 6), max_size=3),
)
def test_crowds_give_the_clusters_and_centroids_of_pymepix(drawn, triggers):
    hits = sorted((6 * tick, 0, y, x, tot) for tick, y, x, tot in drawn)
    edges = [(-100, 1, 0, 0, 0), *((tick, 1, 0, i + 1, 0) for i, tick in enumerate(sorted(triggers)))]
    rows, builder = Rows(SAME, 1), BlockBuilder(SAME, 1)
    builder.add(HandMade(hits, edges))
    flush(builder, rows)
    hits, centroids = in_shots(rows)
    assert_same_centroids(hits, centroids, assert_same_clusters(hits))


@pytest.mark.parametrize(
    "processing",
    [
        SAME,
        SAME.model_copy(update={"split": True}),
        Processing(min_samples=2, hits=True),
        Processing(split=True, hits=True),
    ],
    ids=["as Pymepix", "as Pymepix, split", "cylinder, min_samples 2", "split"],
)
def test_labels_and_rows_are_the_same_for_one_worker_and_for_three(processing):
    """Workers share blocks, not memory: three finders in turn give the rows and the labels of one."""
    words = busy_stream(1, None, rings=True)[:40_040]
    table = Geometry().table()
    tables = []
    for n_workers, target_hits in ((1, 1 << 17), (3, 200)):
        finders = [CentroidFinder(processing, table) for _ in range(n_workers)]
        rows = Rows(processing, 1)
        decoder, builder, block = (
            Decoder(n_chips=1),
            BlockBuilder(processing, 1, target_hits=target_hits),
            BlockArrays(),
        )
        for batch in (decoder.decode(words), decoder.flush()):
            builder.add(batch)
        more = True
        while more:
            more = builder.flush(block)
            rows.finder = finders[rows.n_blocks % n_workers]
            rows.add(block)
        assert rows.n_blocks > 10 * (n_workers > 1)
        tables.append(rows)
    assert_same_rows(*tables)
    assert np.unique(tables[0].table("hits")["cluster"]).size > 1000
