"""The pages of a session, run from top to bottom in the profile's session with a simulated camera."""

import re
import runpy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
import zarr

from ophyd_timepix.app import cli
from ophyd_timepix.wiring import PersistentMetadata
from spidr_sim.cli import main as spidr_sim
from tests.catalog.conftest import profiles

__all__ = ["profiles"]

ROOT = Path(__file__).parents[2]
STARTUP = sorted((ROOT / "profiles" / "timepix" / "startup").glob("*.py"))


def blocks(page: str, language: str = "python") -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / "docs" / page).read_text(), re.DOTALL)


def run_page(page: str, names: dict[str, Any], **changes: str) -> None:
    """Each block, one after the other. changes: texts of the page, and what stands for them here."""
    for number, block in enumerate(blocks(page)):
        for text, other in changes.items():
            block = block.replace(text, other)
        exec(compile(block, f"{page}, block {number}", "exec"), names)


@pytest.fixture(scope="module")
def session(profiles: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """What one has at the prompt."""
    home = tmp_path_factory.mktemp("session")
    zarr.zeros(1)  # it keeps a thread for as long as the interpreter lives
    matplotlib.use("Agg")
    names: dict[str, Any] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TIMEPIX_ADDRESS", "sim")
        patch.setenv("TIMEPIX_DATA", str(home / "data"))
        patch.setenv("XDG_DATA_HOME", str(home / "share"))
        patch.chdir(home)
        try:
            for file in STARTUP:
                names |= runpy.run_path(str(file), init_globals=names)
            names["tpx"].connect()
            yield names
        finally:
            plt.close("all")
            if "installation" in names:
                names["installation"].uninstall()
                names["tpx"].close()
                names["spidr"].disconnect()
            names["simulator"].stop()


def test_the_tutorial(session: dict[str, Any]) -> None:
    """docs/tutorials/first-run.md"""
    shorter = {"10_000": "500", "put(500)": "put(100)", "1.8, 6": "1.8, 3", "320, 5": "320, 2"}
    run_page("tutorials/first-run.md", session, **shorter)
    session["installation"].writer.wait(60)
    scan = next(run for run in session["db"](plan_name="scan") if "tpx_gates_gate0_counts" in run.table())
    iodine = scan.table()["tpx_gates_gate0_counts"].to_numpy()
    assert iodine[-1] > 10 * (iodine[0] + 1)
    assert isinstance(session["RE"].md, PersistentMetadata)


def test_the_catalogs_guide(session: dict[str, Any]) -> None:
    """docs/how-to/use-the-catalog.md"""
    names = dict(session)
    parts = blocks("how-to/use-the-catalog.md")
    for block in parts[:3]:
        exec(compile(block, "use-the-catalog.md", "exec"), names)
    assert names["installation"] is session["installation"]
    assert len(parts) == 5, "the last two, runs without a catalog, are in tests/catalog/test_jsonl.py"


def test_a_coincidence_experiment(session: dict[str, Any]) -> None:
    """docs/how-to/run-a-coincidence-experiment.md: ions of the simulator are independent, and it comes out so."""
    session["delay"].set(3.0)
    names = dict(session)
    run_page("how-to/run-a-coincidence-experiment.md", names)
    assert len(names["chance"]) > 1000
    assert abs(names["true_pairs"]) < 6 * names["error"] + 0.05 * len(names["chance"])
    assert names["covariance"].shape == (25, 15)
    assert np.all(np.isin(names["pairs"]["shot"], names["ions"]["shot"]))


def test_looking_at_runs(session: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """docs/how-to/look-at-runs.md"""
    monkeypatch.chdir(tmp_path)
    session["tpx"].shots.put(100)
    names = dict(session)
    run_page("how-to/look-at-runs.md", names)
    assert (tmp_path / "run.png").stat().st_size > 20_000
    assert not session["tpx"].image.watched


def test_where_runs_go_at_a_site(session: dict[str, Any]) -> None:
    """docs/how-to/set-up-a-site.md"""
    session["tpx"].shots.put(20)
    run_page("how-to/set-up-a-site.md", dict(session))
    data = session["site"].data
    assert {"2026-117", "2026-118"} <= {path.parent.parent.name for path in data.rglob("*.h5")}
    del session["RE"].md["proposal"]
    assert session["site"].metadata.exists()


def test_more_workers_as_tune_the_host_says(session: dict[str, Any], tmp_path: Path) -> None:
    """docs/how-to/tune-the-host.md"""
    names = {"TimepixDetector": session["TimepixDetector"], "spidr": session["spidr"], "data_dir": tmp_path}
    run_page("how-to/tune-the-host.md", names)
    assert names["tpx"].name == "tpx"


def test_reprocessing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """docs/how-to/reprocess.md"""
    monkeypatch.chdir(tmp_path)
    assert spidr_sim(["--write", "recording.tpx3", "--seconds", "0.2", "--rate", "1e5"]) == 0
    for line in blocks("how-to/reprocess.md", "sh")[0].splitlines():
        assert cli.main(line.split()[1:]) == 0, capsys.readouterr().err
    names: dict[str, Any] = {}
    run_page("how-to/reprocess.md", names)
    assert names["strict"]["size"].min() == 3
    assert 0 < len(names["strict"]["x"]) < len(names["wide"]["x"])
    assert names["strict"]["tof"].min() >= 4000
