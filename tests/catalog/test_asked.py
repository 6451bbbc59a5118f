"""What a question must not look like, and what it may."""

from typing import Any

import numpy as np
import pandas as pd
import pytest

from ophyd_timepix.catalog import asked, centroids, counts, image, tof_spectrum
from ophyd_timepix.catalog.gating import is_one_run
from ophyd_timepix.config import Gate

IODINE = Gate(name="iodine", tof=(13_800, 14_000))


@pytest.mark.parametrize("question", [counts, image, tof_spectrum])
def test_a_misspelt_keyword_is_refused_before_anything_is_read(question: Any) -> None:
    with pytest.raises(TypeError, match=r"unknown keyword 'toff'; there are: point, rows, .*; did you mean 'tof'\?"):
        question("no-such-run", toff=(1, 2))
    with pytest.raises(TypeError, match=r"unknown keyword 'columns'; there are: point, .*catalog, direct$"):
        question("no-such-run", columns=["x"])


def test_points_may_be_numbers_of_any_kind_each_once() -> None:
    assert asked.points(np.int64(3)) == [3]
    assert asked.points(pd.Index([2, 1])) == [2, 1]
    assert asked.points(np.array([4])) == [4]
    with pytest.raises(ValueError, match="point 1 is asked for twice, and would count twice; name each point once"):
        asked.points([1, 2, 1])
    for wrong in ("last", 1.5, True, [None]):
        with pytest.raises(ValueError, match="give a seq_num, several, or 'all'"):
            asked.points(wrong)


@pytest.mark.parametrize(
    ("check", "wrong", "message"),
    [
        (asked.roi, (None, 10, 0, 10), r"roi=\(None, 10, 0, 10\) is no region; give \(x0, x1, y0, y1\) in px"),
        (asked.roi, 7, "roi=7 is no region"),
        (asked.rows, (None, 10), r"rows=\(None, 10\) is no range of rows; give \(first, end\) in whole numbers"),
        (asked.rows, 5, "rows=5 is no range of rows"),
        (asked.rows, (5, 4), "0 <= first <= end"),
        (asked.shots, (0, 10.5), r"shots=\(0, 10.5\): shots are counted in whole numbers"),
        (asked.shots, 3, "shots=3 is no window"),
        (lambda given: asked.window("tof", given), 5, r"tof=5 is no window; give \(low, high\) in numbers"),
        (lambda given: asked.window("tof", given), ("a", "b"), "is no window"),
        (lambda given: asked.window("tof", given), (2, 1), "the window of tof is empty"),
        (lambda given: asked.edges("range_ns", given), (0, float("inf")), "range_ns=.* give .* finite numbers"),
        (lambda given: asked.edges("range_ns", given), (5, 5), "range_ns is empty: 5 is not below 5"),
    ],
)
def test_what_has_not_the_right_form_is_named_with_the_form_it_should_have(
    check: Any, wrong: Any, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        check(wrong)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"gate": "iodine"}, "gate='iodine' is no Gate; give one, as Gate"),
        ({"gate": [IODINE]}, "is no Gate"),
        ({"calibration": (1, 2)}, r"calibration=\(1, 2\) is no MassCalibration; give one"),
    ],
)
def test_what_is_no_gate_and_no_calibration_is_told(wrong: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        centroids("no-such-run", **wrong)


@pytest.mark.parametrize("wrong", [None, {"uid": "a"}, 1.5, True])
def test_what_is_no_run_is_told(wrong: Any) -> None:
    with pytest.raises(TypeError, match="is no run; give a uid, a scan id, or a run of a catalog"):
        centroids(wrong)


def test_scan_ids_of_numpy_name_a_run_and_a_range_names_several() -> None:
    assert is_one_run(np.int64(2))
    assert is_one_run("ea04")
    assert not is_one_run(range(2, 4))
    assert not is_one_run([2, 3])
