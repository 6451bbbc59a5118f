"""A point that adds up while its blocks come, against the same question asked of all its rows at once."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ophyd_timepix.config import Gate
from ophyd_timepix.events.counting import LOOKED_AT, PointCounter
from ophyd_timepix.events.gates import Condition, Tally, rows_of_valid_shots
from ophyd_timepix.events.sums import N_GATES, PointArrays, Spectrum
from tests import naive
from tests.strategies import N_EXAMPLES

GATES = (
    Gate(name="early", tof=(0, 400)),
    Gate(name="late_small", tof=(300, None), roi=(10, 200, 0, 100), tot=(None, 200), size=(1, 5)),
    Gate(name="round", circle=(128, 128, 60)),
)
CONDITIONS = [Condition.of(gate) for gate in GATES]
SPECTRUM = Spectrum(0.0, 10.0, 75)


def rows_of(rng, n, first_shot, n_shots):
    shot = np.sort(rng.integers(-1, n_shots, n))
    return {
        "shot": np.where(shot < 0, -1, shot + first_shot),
        "x": rng.uniform(0, 255, n).astype(np.float32),
        "y": rng.uniform(0, 255, n).astype(np.float32),
        "tof": np.where(shot < 0, np.nan, rng.integers(-50, 1000, n) // 5 * 5.0),  # borders of bins and gates, too
        "tot": rng.integers(0, 6000, n).astype(np.uint32),
        "size": rng.integers(1, 300, n).astype(np.uint32),
    }


def cut(columns, start, stop):
    return {name: columns[name][start:stop] for name in LOOKED_AT}


@settings(max_examples=min(40, N_EXAMPLES), deadline=None)
@given(
    seed=st.integers(0, 1000),
    n=st.integers(0, 120),
    n_shots=st.integers(0, 40),
    first_shot=st.sampled_from([0, 17]),
    row_cuts=st.lists(st.integers(0, 120), max_size=6),
    shot_cuts=st.lists(st.integers(0, 40), max_size=6),
)
def test_what_is_added_block_by_block_is_what_all_rows_give(seed, n, n_shots, first_shot, row_cuts, shot_cuts):
    """However rows and ends of shots are dealt to blocks, whichever comes first."""
    rng = np.random.default_rng(seed)
    columns = rows_of(rng, n, first_shot, n_shots)
    valid = (rng.random(n_shots) < 0.8).astype(np.uint8)
    arrays = PointArrays.empty((256, 256), SPECTRUM)
    counter = PointCounter(arrays, CONDITIONS, triggered=first_shot > 0)
    blocks = max(len(row_cuts), len(shot_cuts)) + 1
    row_stops = [*sorted(min(c, n) for c in row_cuts), *[n] * blocks][:blocks]
    shot_stops = [*sorted(min(c, n_shots) for c in shot_cuts), *[n_shots] * blocks][:blocks]
    row = shot = 0
    for row_stop, shot_stop in zip([*row_stops, n], [*shot_stops, n_shots], strict=True):
        counter.add(cut(columns, row, row_stop), first_shot + shot, valid[shot:shot_stop])
        row, shot = row_stop, shot_stop
    kept = np.arange(n, dtype=np.int32)
    if n_shots or first_shot:
        kept = rows_of_valid_shots(kept, columns["shot"], valid, first_shot)
    assert arrays.centroids == len(kept)
    assert arrays.valid_shots == valid.sum()
    points = list(zip(columns["x"].tolist(), columns["y"].tolist(), strict=True))
    for place, (gate, result) in enumerate(zip(CONDITIONS, counter.results(), strict=True)):
        inside = gate.select(kept, columns.__getitem__)
        tally = Tally()
        tally.add(inside, columns["shot"])
        np.testing.assert_equal(result, tally.result(int(valid.sum())))
        np.testing.assert_equal(arrays.gate(place), result)
        assert arrays.gate_images[place].tolist() == naive.picture([points[row] for row in inside], 256, 256)
    assert arrays.image.tolist() == naive.picture([points[row] for row in kept], 256, 256)
    assert arrays.tof[:75].tolist() == naive.histogram(columns["tof"][kept].tolist(), 0.0, 10.0, 75)
    assert arrays.size.tolist() == naive.spectrum(columns["size"][kept].tolist(), 256)
    assert arrays.tot.tolist() == naive.spectrum(columns["tot"][kept].tolist(), 4096)
    assert arrays.sums == pytest.approx([columns[name][kept].sum(dtype=float) for name in ("x", "y")])


def test_without_triggers_all_rows_count_and_the_first_trigger_makes_those_before_it_strays():
    arrays = PointArrays.empty((256, 256), SPECTRUM)
    counter = PointCounter(arrays, [Condition.of(Gate(name="all"))])
    early = rows_of(np.random.default_rng(0), 9, 0, 0)
    counter.add(early)
    assert counter.results()[0].counts == arrays.centroids == arrays.gate_images[0].sum() == 9
    counter.add(cut(early, 0, 0), 0, np.ones(1, np.uint8))
    assert counter.results()[0].counts == arrays.centroids == arrays.gate_images[0].sum() == 0


def test_what_has_no_room_is_refused_with_the_size():
    with pytest.raises(ValueError, match="pictures of 256 x 128 pixels"):
        PointArrays(memoryview(bytearray(1000)), (128, 256), SPECTRUM)
    with pytest.raises(ValueError, match=f"9 gates were given, a point counts at most {N_GATES}"):
        PointCounter(PointArrays.empty((4, 4), SPECTRUM), CONDITIONS * 3)


def test_a_copy_stays_as_it_was():
    arrays = PointArrays.empty((256, 256), SPECTRUM)
    counter = PointCounter(arrays)
    counter.add(rows_of(np.random.default_rng(0), 9, 0, 0))
    then = arrays.copy()
    counter.add(rows_of(np.random.default_rng(1), 5, 0, 0))
    assert (then.centroids, arrays.centroids) == (9, 14)
