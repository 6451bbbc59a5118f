"""The page of signals is that of the devices."""

from pathlib import Path

from ophyd_timepix.app import cli, reference
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
