"""The report of `ophyd-timepix recover`."""

from typing import Any

import pytest

from ophyd_timepix.app import recover


def test_paths_are_never_cut_however_narrow_the_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    paths = [f"/data/a-rather-long-proposal-name/2026-11-21/and/deeper/tpx_{number:08x}.h5" for number in (1, 2)]
    rows: list[dict[str, Any]] = [
        {"event_file": path, "state": "complete", "done": "", "todo": "", "catalog": "complete"} for path in paths
    ]
    recover._print_table(rows, 2)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:3]] == paths
