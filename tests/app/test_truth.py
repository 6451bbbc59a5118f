"""The comparison with the simulator's truth: it must agree with the truth, and notice whatever differs."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ophyd_timepix.app.truth import Agreement, compare, connected, epochs_with_data, flight_times_ns
from ophyd_timepix.clock import TICK_NS, ns_to_ticks
from ophyd_timepix.config import Processing
from tests import naive
from tests.strategies import N_EXAMPLES

EPOCH = 3
SHOT_TICKS = np.array([1_000_000, 5_000_000])

# chip, x, y, tot, tick, particle
HITS = np.array(
    [
        (0, 10, 10, 40, 1_000_600, 0), (0, 11, 10, 40, 1_000_606, 0), (0, 13, 10, 20, 1_000_900, 0),  # steps of 2
        (0, 16, 10, 30, 1_000_906, 1),  # 3 px away: its own
        (0, 100, 50, 5, 1_000_912, 2), (0, 100, 51, 50, 1_001_296, 2),  # exactly 100 ns apart
        (0, 101, 50, 5, 1_001_681, 3),  # 385 ticks later: its own
        (0, 20, 20, 9, 4_999_990, 4), (0, 20, 21, 9, 5_000_010, 4),  # either side of a shot's border
    ],
    dtype=np.int64,
)  # fmt: skip
CENTROIDS = [(11, 10, 1_000_600, 100, 3), (16, 10, 1_000_906, 30, 1), (100, 50 + 50 / 55, 1_001_296, 55, 2),
             (101, 50, 1_001_681, 5, 1), (20, 20, 4_999_990, 9, 1), (20, 21, 5_000_010, 9, 1)]  # fmt: skip


@pytest.fixture
def truth(tmp_path: Path) -> Path:
    tables: dict[str, dict[str, Any]] = {
        "hits": {name: HITS[:, i] for i, name in enumerate(("chip", "x", "y", "tot", "tick", "particle"))},
        "triggers": {
            "input": np.array([1, 2, 1]),
            "falling": np.zeros(3, int),
            "counter": np.arange(3),
            "tick": np.array([SHOT_TICKS[0], 2_000_000, SHOT_TICKS[1]]),
        },
        "particles": {
            "shot": np.array([0, 0, 0, 0, 0]),
            "chip": np.zeros(5, int),
            "x": np.array([11.0, 16.3, 100.0, 101.0, 20.0]),
            "y": np.array([10.0, 10.4, 50.9, 50.0, 20.0]),
            "tick": np.full(5, SHOT_TICKS[0] + 96),
            "peak": np.array([0, 0, 0, 0, -1]),
            "n_hits": np.array([3, 1, 2, 1, 2]),
        },
        "shots": {"number": np.arange(2), "tick": SHOT_TICKS},
        "acquisitions": {"hits": np.array([len(HITS)])},
    }
    path = tmp_path / "truth.h5"
    with h5py.File(path, "w", libver="latest") as file:
        for table, columns in tables.items():
            for name, values in columns.items():
                file[f"{table}/{name}"] = values
            file[f"{table}/epoch"] = np.full(next(iter(columns.values())).size, EPOCH)
    return path


def measured() -> dict[str, Any]:
    x, y, tick, tot, size = map(np.array, zip(*CENTROIDS, strict=True))
    return {
        "x": x.astype("<f4"), "y": y.astype("<f4"), "toa": tick * TICK_NS, "tot": tot, "size": size,
        "chip": np.zeros(len(tick), "u1"),
    }  # fmt: skip


def verdict(truth: Path, centroids: dict[str, Any], hits: int = len(HITS), shots: int = 2) -> Agreement:
    return compare(truth, EPOCH, centroids, hits=hits, shots=shots, processing=Processing(), n_chips=1)


def test_the_same_centroids_agree(truth: Path) -> None:
    agreement = verdict(truth, measured())
    assert agreement.holds
    assert agreement.exact == agreement.true_clusters == 6
    assert agreement.exact_share == 1.0


def test_particles_with_a_centroid_of_their_own_are_counted(truth: Path) -> None:
    agreement = verdict(truth, measured())
    assert (agreement.particles, agreement.alone) == (5, 4)  # the fifth was cut by the border of a shot
    assert agreement.error_px == pytest.approx(
        np.sqrt(np.mean([0, 0.3**2 + 0.4**2, (50 / 55 - 0.9) ** 2, 0])), rel=1e-6
    )


@pytest.mark.parametrize(
    ("column", "change"), [("x", 0.01), ("y", -0.01), ("toa", TICK_NS), ("tot", 1), ("size", 1), ("chip", 1)]
)
def test_any_difference_in_a_number_is_noticed(truth: Path, column: str, change: float) -> None:
    centroids = measured()
    centroids[column] = centroids[column] + np.array([change] + [0] * 5, dtype=centroids[column].dtype)
    agreement = verdict(truth, centroids)
    assert agreement.exact == 5
    assert not agreement.holds


def test_a_missing_hit_shot_or_centroid_is_noticed(truth: Path) -> None:
    assert not verdict(truth, measured(), hits=len(HITS) - 1).holds
    assert not verdict(truth, measured(), shots=1).holds
    assert not verdict(truth, {name: column[1:] for name, column in measured().items()}).holds
    assert not verdict(truth, {name: column[:0] for name, column in measured().items()}).holds


def test_order_does_not_matter(truth: Path) -> None:
    assert verdict(truth, {name: column[::-1] for name, column in measured().items()}).holds


def test_flight_times_are_medians_per_mass_peak(truth: Path) -> None:
    assert flight_times_ns(truth, EPOCH) == {0: 25.0}
    assert epochs_with_data(truth) == [EPOCH]


def test_what_the_oracle_does_not_know_is_refused(truth: Path) -> None:
    processing = replace_min_samples(Processing())
    with pytest.raises(ValueError, match="min_samples 1"):
        compare(truth, EPOCH, measured(), hits=1, shots=1, processing=processing, n_chips=1)


def replace_min_samples(processing: Processing) -> Processing:
    return processing.model_copy(update={"min_samples": 3})


def test_nothing_sent_and_nothing_recorded_is_no_agreement() -> None:
    empty = Agreement(0, 0, 0, 0, 0, 0, 0, 0, 0, float("nan"))
    assert not empty.holds
    assert not replace(empty, centroids=1).holds


@settings(max_examples=N_EXAMPLES, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 40), st.integers(0, 1), st.integers(0, 3), st.integers(0, 4)), max_size=40),
    st.lists(st.integers(0, 40), max_size=3),
    st.sampled_from((1.0, 1.5, 2.0)),
)
def test_clusters_of_the_oracle_are_those_of_the_slow_twin(
    drawn: list[tuple[int, int, int, int]], opened: list[int], radius_px: float
) -> None:
    processing = Processing(radius_px=radius_px, window_ns=50)
    hits = sorted((16 * tick, chip, y, x, 1) for tick, chip, y, x in drawn)
    shot = [sum(16 * tick <= hit[0] for tick in opened) for hit in hits]
    tick, chip, y, x, _ = np.array(hits, np.int64).reshape(-1, 5).T.copy()
    root = connected(tick, x, y, chip, np.array(shot, np.int64), radius_px**2, ns_to_ticks(50))
    labels = np.unique(root, return_inverse=True)[1]
    assert labels.tolist() == naive.clusters(hits, shot, processing)
