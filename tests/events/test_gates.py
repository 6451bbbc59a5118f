"""Gates on arrays against slow, obvious twins."""

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ophyd_timepix.config import Gate, MassCalibration
from ophyd_timepix.events.gates import Condition, Tally, conditions, rows_of_valid_shots, shot_span
from tests import naive
from tests.strategies import N_EXAMPLES


def table(n, seed=0):
    rng = np.random.default_rng(seed)
    tof = rng.uniform(0, 1000, n)
    tof[rng.random(n) < 0.1] = np.nan
    return {
        "shot": np.sort(rng.integers(-1, max(n // 3, 1), n)),
        "x": rng.uniform(0, 255, n).astype(np.float32),
        "y": rng.uniform(0, 255, n).astype(np.float32),
        "tof": tof,
        "tot": rng.integers(0, 400, n).astype(np.uint32),
        "size": rng.integers(1, 9, n).astype(np.uint32),
    }


def every(n):
    return np.arange(n, dtype=np.int32)


def centroids_of(columns):
    """Row by row."""
    return [{name: float(column[row]) for name, column in columns.items()} for row in range(len(columns["x"]))]


@pytest.mark.parametrize(
    "gate",
    [
        Gate(name="all"),
        Gate(name="tof", tof=(100, 500)),
        Gate(name="open", tof=(None, None)),
        Gate(name="mass", mq=(2, 20)),
        Gate(name="roi", roi=(10, 90.5, 100, 200)),
        Gate(name="circle", circle=(100, 120, 40.5)),
        Gate(name="ring", ring=(100, 120, 20.5, 60)),
        Gate(name="star", polygon=((20, 20), (240, 60), (120, 100), (200, 240), (30, 200))),
        Gate(name="many", tof=(100, 900), tot=(50, None), size=(2, 5), roi=(5, 250, 5, 250)),
    ],
)
def test_a_gate_keeps_what_a_loop_over_its_definition_keeps(gate):
    columns, calibration = table(500), MassCalibration(t0_ns=10, k_ns=100)
    rows = Condition.of(gate, calibration).select(every(500), columns.__getitem__)
    kept = [row for row, one in enumerate(centroids_of(columns)) if naive.keeps(gate, one, calibration)]
    assert rows.tolist() == kept


def test_rows_that_are_out_already_stay_out():
    columns = table(500)
    few = every(500)[::3]
    rows = Condition.of(Gate(name="tof", tof=(100, 500))).select(few, columns.__getitem__)
    assert rows.tolist() == [row for row in range(0, 500, 3) if 100 <= columns["tof"][row] < 500]
    assert few.tolist() == list(range(0, 500, 3))


def test_windows_are_half_open():
    tot = {"tot": np.array([1, 2, 3], np.uint32)}
    assert Condition.of(Gate(name="g", tot=(1, 3))).select(every(3), tot.__getitem__).tolist() == [0, 1]


def test_columns_are_not_asked_for_when_no_row_is_left():
    asked = []

    def read(name):
        asked.append(name)
        return table(10)[name]

    condition = Condition.of(Gate(name="none", tof=(5000, None), roi=(0, 5, 0, 5), tot=(1, None)))
    assert len(condition.select(every(10), read)) == 0
    assert asked == ["tof"]
    assert condition.columns == ("tof", "tot", "x", "y")


SHOTS = st.lists(st.integers(-1, 12), max_size=40).map(sorted)
FEW = settings(max_examples=N_EXAMPLES, deadline=None)


@FEW
@given(SHOTS, st.lists(st.booleans(), max_size=12), st.integers(0, 9), st.integers(1, 3))
def test_rows_of_valid_shots_are_those_of_the_slow_twin(shot, valid, first, step):
    rows = every(len(shot))[::step].copy()
    found = rows_of_valid_shots(rows, np.array(shot, np.int64), np.array(valid, np.uint8), first)
    assert found.tolist() == naive.of_valid_shots(rows.tolist(), shot, valid, first)
    assert shot_span(rows, np.array(shot, np.int64)) == naive.shot_span(rows.tolist(), shot)


def test_only_rows_of_valid_shots_stay():
    shot = np.array([-1, 4, 4, 5, 6, 7, 7])
    rows = rows_of_valid_shots(every(7), shot, np.array([1, 0, 1], np.uint8), 4)
    assert rows.tolist() == [1, 2, 4]  # shot 7 is not in the table yet
    assert shot_span(every(7), shot) == (4, 8)
    assert shot_span(every(1), shot) == (-1, -1)


@settings(max_examples=N_EXAMPLES // 2, deadline=None)
@given(st.integers(0, 200), st.integers(0, 2**32 - 1), st.lists(st.integers(0, 200), max_size=4))
def test_a_tally_is_the_mean_and_its_error_over_shots_however_the_rows_are_cut(n, seed, cuts):
    columns = table(n, seed)
    keep = columns["tot"] < 200
    tally = Tally()
    places = [0, *sorted(min(cut, n) for cut in cuts), n]
    for start, stop in pairwise(places):
        tally.add(np.flatnonzero(keep[start:stop]).astype(np.int32), columns["shot"][start:stop])
    shots = max(n // 3, 1) + 5
    result = tally.result(shots)
    per_shot = naive.per_shot(columns["shot"][keep].tolist(), shots)
    assert result.counts == keep.sum()
    assert result.counts_per_shot == pytest.approx(np.mean(per_shot))
    assert result.error == pytest.approx(np.std(per_shot, ddof=1) / math.sqrt(shots))
    assert result.counts_error == pytest.approx(result.error * shots)


def test_without_shots_a_count_has_a_counting_error_and_no_rate():
    tally = Tally()
    tally.add(every(9), np.full(9, -1))
    counts, shots, per_shot, error, counts_error = tally.result(0)
    assert (counts, shots, counts_error) == (9, 0, 3.0)
    assert math.isnan(per_shot)
    assert math.isnan(error)
    tally.add(every(1), np.array([0]))
    assert tally.result(1).counts_per_shot == 1
    assert math.isnan(tally.result(1).error)


def test_gates_by_name():
    assert list(conditions([Gate(name="a"), Gate(name="b", tof=(0, 1))])) == ["a", "b"]
