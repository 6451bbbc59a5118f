"""The pages of a session, run from top to bottom in the profile's session with a simulated camera."""

import json
import runpy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
import zarr
from bluesky import RunEngine

from ophyd_timepix.wiring import PersistentMetadata
from spidr_sim.cli import main as spidr_sim
from tests.catalog.conftest import profiles
from tests.pages import Guide, call
from tests.warm_pipeline import running_pipeline, warm_pipeline

__all__ = ["profiles", "running_pipeline", "warm_pipeline"]

ROOT = Path(__file__).parents[2]
STARTUP = sorted((ROOT / "profiles" / "timepix" / "startup").glob("*.py"))


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
    shorter = {"10_000": "500", "put(500)": "put(100)", "1.8, 6": "1.8, 3", "320, 5": "320, 2", "put(1) ": "put(0.1) "}
    with Guide("docs/tutorials/first-run.md", "python") as guide:
        guide.run(session, changes=shorter)
    session["installation"].writer.wait(60)
    scan = next(run for run in session["db"](plan_name="scan") if "tpx_gates_gate0_counts" in run.table())
    iodine = scan.table()["tpx_gates_gate0_counts"].to_numpy()
    assert iodine[-1] > 10 * (iodine[0] + 1)
    assert isinstance(session["RE"].md, PersistentMetadata)


def test_the_catalogs_guide(
    session: dict[str, Any], profiles: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = dict(session)
    with Guide("docs/how-to/use-the-catalog.md", "python") as guide:
        guide.run(names, 3)
        assert names["installation"] is session["installation"]
        lines = take_a_run_without_a_catalog(session, guide, tmp_path)
    (day,) = {path.parent for path in session["site"].data.rglob("*.h5")}
    changes = {
        "--readable /data": f"--readable {session['site'].data}",
        "~/.local/share/ophyd_timepix/catalogs/timepix/backup/<uid>.jsonl": str(lines),
        "/data/2026-11 /archive/2026-11": f"{day} {tmp_path / 'archive'}",
    }
    with Guide("docs/how-to/use-the-catalog.md", "sh") as shell:
        *before, check, move = shell.commands(changes)
    for line in before:
        assert call(line) == 0, capsys.readouterr().err
    assert f"{lines}: run" in capsys.readouterr().out
    assert (profiles / "lab.yml").exists()
    day.rename(tmp_path / "archive")
    assert [call(line) for line in (check, move, check)] == [1, 0, 0], capsys.readouterr().err


def take_a_run_without_a_catalog(session: dict[str, Any], guide: Guide, directory: Path) -> Path:
    """The last two blocks of the page, with a run between them. Returns the file of its documents."""
    names = dict(session, RE=RunEngine())
    session["tpx"].shots.put(20)
    guide.run(names, 1, {"/data/documents": str(directory)})
    try:
        names["RE"](session["bp"].count([session["tpx"]]))
    finally:
        names["install"](names["RE"], [], catalog=None).uninstall()
    (lines,) = directory.glob("*.jsonl")
    guide.run(names, 1, {"/data/documents/20261103-141500_0f3a9c21.jsonl": str(lines)})
    assert len(names["run"].streams["primary"]) == 1
    assert all(path.exists() for path in names["run"].files)
    return lines


def test_a_coincidence_experiment(session: dict[str, Any]) -> None:
    """Ions of the simulator are independent, and it comes out so."""
    session["delay"].set(3.0)
    names = dict(session)
    with Guide("docs/how-to/run-a-coincidence-experiment.md", "python") as guide:
        guide.run(names)
    assert len(names["chance"]) > 1000
    assert abs(names["true_pairs"]) < 6 * names["error"] + 0.05 * len(names["chance"])
    assert names["covariance"].shape == (25, 15)
    assert np.all(np.isin(names["pairs"]["shot"], names["ions"]["shot"]))


def test_looking_at_runs(session: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    session["tpx"].shots.put(100)
    with Guide("docs/how-to/look-at-runs.md", "python") as guide:
        guide.run(dict(session))
    assert (tmp_path / "run.png").stat().st_size > 20_000
    assert not session["tpx"].image.watched


def test_where_runs_go_at_a_site(session: dict[str, Any]) -> None:
    session["tpx"].shots.put(20)
    with Guide("docs/how-to/set-up-a-site.md", "python") as guide:
        guide.run(dict(session))
    data = session["site"].data
    assert {"2026-117", "2026-118"} <= {path.parent.parent.name for path in data.rglob("*.h5")}
    del session["RE"].md["proposal"]
    assert session["site"].metadata.exists()


def test_more_workers_as_tune_the_host_says(session: dict[str, Any], tmp_path: Path) -> None:
    names = {"TimepixDetector": session["TimepixDetector"], "spidr": session["spidr"], "data_dir": tmp_path}
    with Guide("docs/how-to/tune-the-host.md", "python") as guide:
        guide.run(names)
    assert names["tpx"].name == "tpx"


@pytest.mark.usefixtures("warm_pipeline")
def test_reprocessing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    assert spidr_sim(["--write", "recording.tpx3", "--seconds", "0.2", "--rate", "1e5"]) == 0
    with Guide("docs/how-to/reprocess.md", "sh") as shell:
        for line in shell.commands():
            assert call(line) == 0, capsys.readouterr().err
    names: dict[str, Any] = {}
    with Guide("docs/how-to/reprocess.md", "python") as guide:
        guide.run(names)
    assert names["strict"]["size"].min() == 3
    assert 0 < len(names["strict"]["x"]) < len(names["wide"]["x"])
    assert names["strict"]["tof"].min() >= 4000


@pytest.mark.usefixtures("warm_pipeline")
def test_correcting_time_walk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert spidr_sim(["--write", "recording.tpx3", "--seconds", "0.1", "--rate", "1e6"]) == 0
    names: dict[str, Any] = {}
    with (
        Guide("docs/how-to/correct-time-walk.md", "sh") as shell,
        Guide("docs/how-to/correct-time-walk.md", "python") as guide,
    ):
        measure, correct, energies = shell.commands()
        assert call(measure) == call(correct) == 0, capsys.readouterr().err
        guide.run(names, 1)
        assert call(energies) == 0, capsys.readouterr().err
        guide.run(names, 1)
    assert names["walk"].time_walk_abc[0] == pytest.approx([540, -5, 0], rel=0.05, abs=0.01)
    assert names["found"]["energy"].min() > 0


def test_the_readme(session: dict[str, Any]) -> None:
    """Its session, with a board and a detector of its own, and shorter points."""
    data = session["site"].data
    changes = {
        "192.168.100.10:50000": session["simulator"].address,
        'data_dir="/data/2026-11"': f"data_dir={str(data)!r}, exposure=0.1",
        "100_000": "300",
    }
    session["spidr"].disconnect()  # a board serves one client at a time
    names: dict[str, Any] = {}
    try:
        with Guide("README.md", "python") as guide:
            guide.run(names, changes=changes)
        plans = [names["db"][-k].start["plan_name"] for k in (3, 2, 1)]
    finally:
        names["install"](names["RE"], [names["tpx"]], catalog="timepix").uninstall()
        names["tpx"].close()
        names["spidr"].disconnect()
    assert plans == ["count", "scan", "tpx_fly"]


@pytest.mark.usefixtures("warm_pipeline")
def test_connecting_a_camera_and_the_two_commands_without_bluesky(
    session: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """README, connect-a-camera and run-without-bluesky: one recording for all, good as the page says what is good."""
    monkeypatch.chdir(tmp_path)
    session["spidr"].disconnect()  # a board serves one client at a time
    changes = {"192.168.100.10:50000": session["simulator"].address, "-o /data/today": "-o first"}
    changes |= {"--seconds 10": "--seconds 0.3", "--seconds 1 ": "--seconds 0.3 "}
    with (
        Guide("docs/how-to/connect-a-camera.md", "sh") as connect,
        Guide("README.md", "sh") as readme,
        Guide("docs/how-to/run-without-bluesky.md", "sh") as without,
    ):
        show, record = connect.commands(changes)
        same, process = readme.commands(changes | {"events.h5": "one.h5"})
        once_more, other = without.commands(changes | {"events.h5": "two.h5"})
        assert record == same == once_more
    assert call(show) == 0
    assert "  chips:\n" in capsys.readouterr().out
    assert call(f"{record} --json") == 0
    ledger = json.loads(capsys.readouterr().out)["ledger"]
    assert ledger["sent_datagrams"] == ledger["received_datagrams"] > 0
    assert ledger["hits"] > 0 < ledger["shots"]
    assert ledger["lost_datagrams"] == ledger["unaccounted"] == 0
    (recording,) = Path("first").glob("*.tpx3")
    for path in (recording, recording.with_suffix(".tpx3.idx")):
        path.rename(path.name.replace(recording.name, "recording.tpx3"))
    for line in (process, other):
        assert call(line) == 0, capsys.readouterr().err
    with Guide("docs/how-to/connect-a-camera.md", "python") as guide:
        guide.run({}, changes=changes)
    explained = (ROOT / "docs/explanations/loss-ledger.md").read_text()
    with h5py.File("one.h5") as file:
        of_a_recording = json.loads(file["/entry/ledger"][()])
    assert not [entry for entry in ledger | of_a_recording if f"`{entry}`" not in explained]
