"""Pixels to leave out: proposed from a recording, read from a file or a command line, refused where there are none."""

import argparse
import json
from pathlib import Path

import numpy as np
import pytest

from ophyd_timepix.app.info import add_arguments, run
from ophyd_timepix.app.process import add_processing_arguments, processing_of
from ophyd_timepix.config import Processing
from ophyd_timepix.config.masked_pixels import MASKED_MAX, parse_pixels, pixels_text
from ophyd_timepix.protocol.words import chunk_header
from tests.strategies import hit_word


def parsed(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser(exit_on_error=False)
    add_processing_arguments(parser)
    return parser.parse_args(arguments)


def test_info_proposes_hot_pixels_in_the_form_that_process_takes(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    hits = [hit_word(100 * n, 0, 40, 50, 5) for n in range(100)] + [hit_word(100 * n, 0, n, 9, 5) for n in range(100)]
    payload = np.array([chunk_header(2, 8 * len(hits)), *hits], np.uint64)
    payload.tofile(tmp_path / "hot.tpx3")
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    assert run(parser.parse_args([str(tmp_path / "hot.tpx3"), "--hot-pixels", "--json"])) == 0
    proposed = json.loads(capsys.readouterr().out)["hot_pixels"]
    assert proposed == "2,40,50"
    assert processing_of(parsed("--masked-pixels", proposed)).masked_pixels == ((2, 40, 50),)


def test_a_file_of_pixels_has_remarks_and_each_pixel_counts_once(tmp_path: Path):
    (tmp_path / "hot.txt").write_text("# of Tuesday\n1,2,3  # loud\n0,5,6 1,2,3\n")
    assert processing_of(parsed("--masked-pixels", str(tmp_path / "hot.txt"))).masked_pixels == ((0, 5, 6), (1, 2, 3))


def test_a_list_of_pixels_may_be_longer_than_any_name_of_a_file():
    pixels = tuple((1, x, y) for x in range(64) for y in range(10, 14))
    assert len(pixels_text(pixels)) > 1024
    assert processing_of(parsed("--masked-pixels", pixels_text(pixels))).masked_pixels == pixels


def test_text_and_list_of_pixels_say_the_same():
    pixels = ((0, 5, 6), (3, 255, 0))
    assert parse_pixels(pixels_text(pixels)) == pixels
    assert Processing(masked_pixels=pixels_text(pixels)) == Processing(masked_pixels=pixels[::-1])


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"tot_min": -1}, "greater than or equal to 0"),
        ({"tot_max": 1024}, "less than or equal to 1023"),
        ({"tot_min": 5, "tot_max": 4}, r"tot_min \(5\) must not be above tot_max \(4\), in 25 ns counts"),
        ({"masked_pixels": [(4, 0, 0)]}, "chips go from 0 to 3, x and y from 0 to 255"),
        ({"masked_pixels": "0,1"}, "give chip,x,y for each"),
        ({"masked_pixels": [(0, n % 256, n // 256) for n in range(MASKED_MAX + 1)]}, "mask them on the chip"),
    ],
)
def test_filters_that_make_no_sense_are_refused_with_their_range(wrong, words):
    with pytest.raises(ValueError, match=words):
        Processing(**wrong)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("0,1", "give chip,x,y for each"),
        ("nofile.txt", "there is no file nofile.txt, and it is no list of pixels"),
        ("", "no pixel is given; say none to leave out none"),
    ],
)
def test_a_list_of_pixels_that_is_none_is_a_wrong_command_line(given, words):
    with pytest.raises(argparse.ArgumentError, match=words):
        parsed("--masked-pixels", given)


def test_pixels_that_a_run_left_out_can_be_taken_in_again():
    run = Processing(masked_pixels=[(0, 1, 2)])
    assert processing_of(parsed(), run).masked_pixels == ((0, 1, 2),)
    assert processing_of(parsed("--masked-pixels", "none"), run).masked_pixels == ()
