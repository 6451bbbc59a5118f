"""The tables of a comparison say what was measured, what was not, and why."""

import pytest

from . import report
from .contenders import CONTENDERS, OURS

SPEED = {
    "mhit_per_cpu_s": 30.0,
    "mhit_per_s": 29.0,
    "hits": 20e6,
    "fewer": False,
    "decodes": False,
    "step_ns": 1.5625,
    "peak_bytes": 3e8,
}
ACCURACY = {
    "particles": 1000,
    "found": 1003,
    "exact": 999,
    "position_rms_px": 0.4,
    "time_offset_ns": 3.5,
    "time_spread_ns": 0.7,
    "peak_width_ns": 31.2,
    "true_peak_width_ns": 31.0,
}
RESULTS = {
    "machine": {"processor": "P", "cores": 2, "system": "S", "python": "3", "versions": {"rustpix": "1"}},
    "scenes": ["pulsed"],
    "others": 0.0,
    "rows": {
        report.OWN: {"pulsed": SPEED | {"accuracy": ACCURACY}},
        "rustpix abs": {"pulsed": SPEED | {"mhit_per_cpu_s": 10.0, "fewer": True}},
        "tdcsophiread abs": {"pulsed": {"reason": "tdcsophiread is not installed"}},
    },
}


def test_rows_tell_speed_ratio_and_what_is_missing() -> None:
    tables = report.markdown(RESULTS)
    assert "| rustpix abs | 10.0 (29.0) (of 20.0 M hits) | 3.0 | 300 MB |" in tables
    assert "not measured: tdcsophiread is not installed" in tables
    assert "| 99.900 % | 1.0030 | 0.400 px | 3.5 ns | 0.70 ns | 31.20 ns (of ions: 31.00) |" in tables


def test_a_machine_that_others_used_is_said() -> None:
    assert "say little" not in report.markdown(RESULTS)
    assert "say little" in report.markdown(RESULTS | {"others": 1.0})


def test_tables_stand_between_the_marks_of_the_page() -> None:
    page = report.put_into(report.PAGE.read_text(), "TABLES")
    assert page.index(report.BEGIN) < page.index("TABLES") < page.index(report.END)
    assert report.put_into(page, "TABLES") == page
    with pytest.raises(ValueError, match="no place"):
        report.put_into("no marks", "TABLES")


def test_our_rows_stand_in_the_list_of_contenders() -> None:
    assert {report.OWN, report.OWN_DECODE} <= CONTENDERS.keys()
    assert {c.package for c in CONTENDERS.values()} == {OURS, *report.PEERS}
