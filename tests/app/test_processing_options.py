"""What a command line does not say of processing is as the recording's own run had it."""

import argparse
from pathlib import Path

import numpy as np
import pytest

from ophyd_timepix.app.asking import Placing, recorded_processing
from ophyd_timepix.app.process import add_processing_arguments, processing_of
from ophyd_timepix.config import Calibration, Edge, Geometry, Processing


def parsed(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_processing_arguments(parser)
    return parser.parse_args(arguments)


def test_without_options_and_without_a_run_of_ours_there_are_the_defaults() -> None:
    assert processing_of(parsed(), recorded_processing([])) == Processing()


def test_what_is_given_goes_before_what_the_run_had_and_the_rest_stays() -> None:
    run = Processing(trigger_period_ns=1e6, radius_px=1.5, hits=True)
    found = processing_of(parsed("--radius-px", "3", "--trigger-edge", "falling", "--lateness-ns", "1e6"), run)
    assert found == run.model_copy(update={"radius_px": 3.0, "trigger_edge": Edge.FALLING, "lateness_ns": 1e6})
    assert not processing_of(parsed("--no-hits"), run).hits


@pytest.mark.parametrize(("option", "value"), [("--split-radius-px", "3"), ("--split-time-ns", "20")])
def test_limits_of_cutting_up_are_refused_where_nothing_is_cut_up(option: str, value: str) -> None:
    with pytest.raises(ValueError, match=f"{option} {value} comes to nothing .* add --split, or leave it out"):
        processing_of(parsed(option, value))
    with pytest.raises(ValueError, match=option):
        processing_of(parsed("--no-split", option, value), Processing(split=True))
    assert processing_of(parsed("--split", option, value)).split
    assert processing_of(parsed(option, value), Processing(split=True)).split


@pytest.mark.parametrize("gap", [-1, 1001])
def test_a_gap_out_of_range_is_refused_whatever_the_number_of_chips(gap: int) -> None:
    with pytest.raises(ValueError, match=f"--gap-px is 0 to 1000 pixels .* not {gap}"):
        Placing(gap_px=gap)


def test_a_gap_beside_a_geometry_is_refused() -> None:
    with pytest.raises(ValueError, match=r"--gap-px 2 .* --geometry .* give one of the two"):
        Placing(Geometry.for_chips(4), gap_px=2)


def test_a_gap_and_a_geometry_of_chips_that_are_not_there_are_told() -> None:
    (line,) = Placing(gap_px=2).remarks(1)
    assert line == "--gap-px 2 comes to nothing: a single chip has no gap beside it; leave it out"
    (line,) = Placing(Geometry.for_chips(4)).remarks(3)
    assert "--geometry places 4 chips, and the highest chip of the recordings is 2" in line
    assert Placing(gap_px=2).remarks(2) == Placing(Geometry.for_chips(4)).remarks(4) == Placing().remarks(1) == []


def test_pixels_and_calibrations_of_chips_that_are_not_there_are_told(tmp_path: Path) -> None:
    Calibration(chip_offset_ns=np.zeros(3)).save(tmp_path / "three.npz")
    chosen = Processing(masked_pixels=[(1, 2, 3), (2, 2, 3), (2, 4, 5)], calibration=tmp_path / "three.npz")
    pixels, calibration = chosen.remarks(1)
    assert pixels.startswith("masked_pixels has 3 pixels of chips 1, 2, and there is chip 0 alone")
    assert calibration.startswith(
        f"the calibration {tmp_path / 'three.npz'} describes 3 chips, and there is chip 0 alone"
    )
    pixels, calibration = chosen.remarks(2)
    assert pixels.startswith("masked_pixels has 2 pixels of chip 2, and there is no chip above 1")
    assert "describes 3 chips, and there is no chip above 1" in calibration
    assert chosen.remarks(3) == []


@pytest.mark.parametrize("option", ["--tof-min-ns", "--tof-max-ns", "--trigger-period-ns"])
@pytest.mark.parametrize("value", ["nan", "inf", "1e30"])
def test_a_time_that_ticks_cannot_count_is_refused_by_name(option: str, value: str) -> None:
    with pytest.raises(ValueError, match=option.removeprefix("--").replace("-", "_")):
        processing_of(parsed(option, value))


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("--radius-px 9", r"radius_px .* cannot be 9.0: it must be more than 0 and at most 8"),
        ("--window-ns nan", "window_ns .* cannot be nan: it must be more than 0 and at most 100,000"),
        ("--min-samples 0", "min_samples .* cannot be 0: it must be at least 1 and at most 1,000"),
        ("--lateness-ns -1", r"lateness_ns .* cannot be -1.0: it must be at least 0 and at most 2,000,000"),
        ("--tof-min-ns 5 --tof-max-ns 2", r"^tof_min_ns \(5.0 ns\) must be below tof_max_ns \(2.0 ns\)"),
    ],
)
def test_a_number_out_of_range_is_refused_with_both_ends_of_it(words: str, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        processing_of(parsed(*words.split()))


def test_a_word_that_is_none_of_the_choices_is_refused_with_all_of_them(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parsed("--metric", "ball")
    assert "--metric: 'ball' is none of cylinder, ellipsoid" in capsys.readouterr().err
