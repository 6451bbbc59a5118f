"""What a command line does not say of processing is as the recording's own run had it."""

import argparse

import pytest

from ophyd_timepix.app.asking import recorded_processing
from ophyd_timepix.app.process import add_processing_arguments, processing_of
from ophyd_timepix.config import Edge, Processing


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


@pytest.mark.parametrize("option", ["--tof-min-ns", "--tof-max-ns", "--trigger-period-ns"])
@pytest.mark.parametrize("value", ["nan", "inf", "1e30"])
def test_a_time_that_ticks_cannot_count_is_refused_by_name(option: str, value: str) -> None:
    with pytest.raises(ValueError, match=option.removeprefix("--").replace("-", "_")):
        processing_of(parsed(option, value))
