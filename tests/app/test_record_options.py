"""What `record` is told of the disk."""

import argparse
import re
from types import SimpleNamespace

import pytest

from ophyd_timepix.app import record
from ophyd_timepix.pipeline.messages import Storage


def parsed(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    record.add_arguments(parser)
    return parser.parse_args(["camera", "--seconds", "1", "-o", "data", *arguments])


def test_without_options_the_disk_is_used_as_by_a_detector(tmp_path):
    assert record._run_file(SimpleNamespace(**vars(parsed()) | {"output": tmp_path}), 1).storage == Storage()


def test_sizes_are_given_in_gib(tmp_path):
    options = parsed("--segment-gib", "0.5", "--disk-low-gib", "100", "--disk-stop-gib", "20", "--no-sync")
    options.output = tmp_path
    assert record._run_file(options, 1).storage == Storage(
        segment_bytes=1 << 29, disk_low_bytes=100 << 30, disk_stop_bytes=20 << 30, durable=False
    )


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--segment-gib", "0", "--segment-gib is 0.001 to 1,000,000 GiB, not 0"),
        ("--disk-low-gib", "-1", "--disk-low-gib is 0 to 1,000,000 GiB, not -1"),
        ("--disk-stop-gib", "nan", "--disk-stop-gib is 0 to 1,000,000 GiB, not nan"),
    ],
)
def test_sizes_out_of_range_are_refused_before_anything_is_made(tmp_path, option, value, said):
    options = parsed(option, value)
    options.output = tmp_path / "data"
    with pytest.raises(ValueError, match=re.escape(said)):
        record._run_file(options, 1)
    assert not options.output.exists()
