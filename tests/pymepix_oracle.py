"""What Pymepix would find: scikit-learn's DBSCAN, called as Pymepix calls it, and ToT-weighted means.

Border hits between two clusters belong to the one that scikit-learn happens to reach first, so they are only asked
to be near a core hit of their cluster. Tables are those of the event file, without hits before the first trigger.
"""

import numpy as np
import pytest
from sklearn.cluster import DBSCAN

from tests.rows import Table

EPS = 2.0
TOF_SCALE_PER_S = 1.7e7
MIN_SAMPLES = 3


def features(hits: Table) -> np.ndarray:
    """What Pymepix gives to DBSCAN: shots lie far apart; ToF in seconds times its scale."""
    return np.column_stack((hits["shot"] * EPS * 1000, hits["x"], hits["y"], hits["tof"] * 1e-9 * TOF_SCALE_PER_S))


def assert_same_clusters(hits: Table) -> np.ndarray:
    """Equal noise, equal core hits, each border hit with one of its core neighbours. Returns scikit-learn's labels."""
    points = features(hits)
    theirs = DBSCAN(eps=EPS, min_samples=MIN_SAMPLES, metric="euclidean").fit(points)
    ours, core = hits["cluster"], theirs.core_sample_indices_
    assert np.array_equal(ours == -1, theirs.labels_ == -1)
    pairs = set(zip(ours[core].tolist(), theirs.labels_[core].tolist(), strict=True))
    assert len(pairs) == len({a for a, _ in pairs}) == len({b for _, b in pairs})
    assert len(pairs) == len(set(ours.tolist()) - {-1})  # no cluster without core hits
    is_core = np.zeros(len(points), bool)
    is_core[core] = True
    for i in np.flatnonzero(~is_core & (ours >= 0)):
        near = is_core & (((points - points[i]) ** 2).sum(axis=1) <= EPS**2 * (1 + 1e-12))
        assert ours[i] in ours[near]
    return theirs.labels_


def assert_same_centroids(hits: Table, found: Table, labels: np.ndarray) -> int:
    """Means of x, y and ToF, largest ToT, size, shot: Pymepix's columns, of each cluster with the same hits.

    Returns the clusters that differ in a border hit.
    """
    assert len(found["x"]) == labels.max() + 1
    n_different = 0
    for label in range(labels.max() + 1):
        own = np.flatnonzero(labels == label)
        row = np.bincount(hits["cluster"][own]).argmax()
        if not np.array_equal(np.flatnonzero(hits["cluster"] == row), own):
            n_different += 1
            continue
        tot = hits["tot"][own].astype(float)
        for name in ("x", "y", "tof"):
            assert found[name][row] == pytest.approx((hits[name][own] * tot).sum() / tot.sum(), rel=1e-6)
        assert found["tof"][row] == pytest.approx((hits["tof"][own] * tot).sum() / tot.sum(), abs=1e-3)
        assert found["tot_max"][row] == tot.max()
        assert found["tot"][row] / found["size"][row] == pytest.approx(tot.mean())
        assert found["size"][row] == len(own)
        assert set(hits["shot"][own]) == {found["shot"][row]}
    return n_different
