"""The one line about a run says what a reader of its numbers must know, and nothing is left out."""

import pytest

from ophyd_timepix.pipeline.verdict import DOUBTED, LOST, verdict

GOOD = {
    "unaccounted": 0,
    "shots": 5000,
    "valid_shots": 4999,
    "lost_on_the_way": 0,
    "sent_datagrams": 100,
    "ended_by": "counters",
}


def test_a_run_without_a_loss_is_complete():
    assert verdict(GOOD) == "complete: nothing was lost; 4,999 of 5,000 shots are valid"


@pytest.mark.parametrize("name", LOST)
def test_a_loss_leaves_the_valid_shots(name):
    line = verdict(GOOD | {name: 3, "valid_shots": 4900})
    assert line == f"valid shots only: 3 {LOST[name]}; 4,900 of 5,000 shots are valid"
    assert verdict({"unaccounted": 0, name: 3}) == f"incomplete: 3 {LOST[name]}; no shots"


def test_where_every_shot_is_touched_none_is_offered():
    assert verdict(GOOD | {"lost_on_the_way": 1, "valid_shots": 0}).startswith("no valid shot: 1 datagrams lost")


@pytest.mark.parametrize("name", DOUBTED)
def test_what_may_be_wrong_is_said_before_what_is_missing(name):
    line = verdict(GOOD | {name: -2, "kernel_dropped": 1})
    assert line.startswith(f"doubtful: 2 {DOUBTED[name]}, 1 datagrams dropped by the kernel; ")


def test_a_run_is_not_called_complete_when_the_board_could_not_be_asked():
    assert verdict(GOOD | {"sent_datagrams": None}).startswith("not known: the board could not be asked")
    line = verdict(GOOD | {"sent_datagrams": None, "malformed_datagrams": 30, "timer_jumps": 2})
    assert "2 timer words that contradict the stream, 30 malformed datagrams; " in line


def test_a_time_of_a_loss_without_a_name_is_said_all_the_same():
    assert verdict(GOOD | {"loss_intervals": 2}).startswith(
        "valid shots only: 2 intervals with a loss, see /entry/losses; "
    )


def test_an_acquisition_that_never_came_to_rest_is_doubtful():
    assert verdict(GOOD | {"ended_by": "counters, time"}).startswith("doubtful: data still came")


def test_of_a_recording_alone_only_the_reading_is_called_complete():
    assert verdict({"unaccounted": 0}) == "complete: all of the recording was read; no shots"


def test_nothing_is_published_before_everything_is_accounted_for():
    assert verdict(GOOD | {"unaccounted": 1234, "kernel_dropped": 1}) == (
        "do not publish: 1,234 words, hits or datagrams are unaccounted for"
    )


def test_a_run_finished_without_its_recording_says_that_it_does_not_know():
    assert verdict(GOOD | {"unaccounted": None}).startswith("not known")


def test_shots_outside_of_the_open_shutter_are_told_and_no_loss():
    line = verdict(GOOD | {"valid_shots": 4990, "shots_outside_shutter": 10, "rejected_early_edges": 7})
    assert line == "complete: nothing was lost; 4,990 of 5,000 shots are valid, 10 not wholly inside the open shutter"
