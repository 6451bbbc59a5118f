from datetime import datetime

from ophyd_timepix.devices import DatedPaths


def paths(tmp_path):
    return DatedPaths(tmp_path, today=lambda: datetime(2026, 11, 21))


def test_a_folder_per_day_and_a_name_with_the_uid(tmp_path):
    assert paths(tmp_path)("tpx", "0123456789abcdef") == tmp_path / "2026-11-21" / "tpx_01234567.h5"


def test_no_file_of_a_run_is_ever_overwritten(tmp_path):
    first = paths(tmp_path)("tpx", "0123456789abcdef")
    first.with_suffix(".tpx3").touch()
    second = paths(tmp_path)("tpx", "0123456789abcdef")
    assert second.name == "tpx_01234567_2.h5"
    second.touch()
    assert paths(tmp_path)("tpx", "0123456789abcdef").name == "tpx_01234567_3.h5"
