"""The page of signals is that of the devices."""

import re
from pathlib import Path

import h5py

from ophyd_timepix.app import cli, file_layout, reference
from ophyd_timepix.files.event_file import EventFile, tof_edges
from ophyd_timepix.files.master import write_master
from ophyd_timepix.protocol import Dac

PAGE = Path(__file__).parents[2] / "docs/reference/signals.md"


def test_the_page_in_the_docs_is_current():
    text = reference.page()
    assert PAGE.read_text() == text, "signals or tables changed: ophyd-timepix reference -o docs/reference/signals.md"


def test_the_page_names_every_dac_with_its_range_and_marks_what_is_uncertain():
    text = reference.page()
    assert all(dac.wire_name in text for dac in Dac)
    assert "| threshold, fine | DAC step | 0 to 511, default 420 | yes | event, configuration |" in text
    assert "(?)" in text
    assert "- `TDC_CONTROL`: values other than 0" in text


def test_the_command_writes_and_prints_it(tmp_path, capsys):
    assert cli.main(["reference", "-o", str(tmp_path / "page.md")]) == 0
    assert cli.main(["reference"]) == 0
    assert capsys.readouterr().out == (tmp_path / "page.md").read_text()


FILES_PAGE = Path(__file__).parents[2] / "docs/reference/file-layout.md"


def test_the_page_of_files_in_the_docs_is_current(capsys):
    text = file_layout.page()
    told = "a table changed: ophyd-timepix reference --page files -o docs/reference/file-layout.md"
    assert FILES_PAGE.read_text() == text, told
    assert cli.main(["reference", "--page", "files"]) == 0
    assert capsys.readouterr().out == text


def test_every_path_on_the_page_is_in_a_master_and_has_the_class_that_it_says(tmp_path):
    file = EventFile(tmp_path / "a.h5", image_shape=(4, 4), tof_edges_ns=tof_edges((0, 4), 4), attributes={})
    file.close()
    start = {"uid": "u", "time": 1.0, "sample": "s", "proposal": "p"}
    configuration = {"request": {"timer_zero_iso": "2026-11-21T07:00:00+00:00"}, "settings": "x"}
    write_master(tmp_path / "a.nxs", tmp_path / "a.h5", start=start, configuration=configuration, ledger={})
    rows = re.findall(r"^\| `(/entry[^|]*)` \| ?(\w*) \|", file_layout.MASTER, re.MULTILINE)
    assert len(rows) > 8
    with h5py.File(tmp_path / "a.nxs") as master:
        for paths, nx_class in rows:
            first, *beside = [path.strip(" `") for path in paths.split(",")]
            for path in [first, *(f"/entry/{name}" for name in beside)]:
                assert path in master, path
                if nx_class.startswith("NX"):
                    assert master[path].attrs["NX_class"] == nx_class, path
        for field in (
            "title",
            "start_time",
            "end_time",
            "entry_identifier_uuid",
            "experiment_identifier",
            "sample/name",
        ):
            assert field in master["entry"], field
        events = master["entry/timepix_events"]
        assert set(events) == {
            "event_id", "event_time_offset", "event_time_zero", "event_index", "shot", "valid", "total_counts"
        }  # fmt: skip
    paths = re.findall(r"^\| `(/entry/[^|]*)` \|", file_layout.EVENT_FILE_REST, re.MULTILINE)
    assert "/entry/preview/image" in paths
