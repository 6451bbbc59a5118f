"""The demo, as a user starts it, with a short flight."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("databroker")
matplotlib = pytest.importorskip("matplotlib")
zarr = pytest.importorskip("zarr")

PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, "subprocess.CompletedProcess[str]"]:
    zarr.zeros(1)  # it keeps a thread for as long as the interpreter lives
    directory = tmp_path_factory.mktemp("demo")
    home = tmp_path_factory.mktemp("home")
    fonts = matplotlib.get_configdir()  # listing them anew takes ten seconds
    environment = {**os.environ, "HOME": str(home), "COLUMNS": "120", "MPLCONFIGDIR": fonts}
    for name in ("TILED_PROFILES", "XDG_CONFIG_HOME", "XDG_DATA_HOME"):
        environment.pop(name, None)
    command = [sys.executable, "-m", "ophyd_timepix.app.cli", "demo", "--directory", str(directory), "--shots", "300"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, env=environment)
    assert not any("tiled" in path.name or path.suffix == ".db" for path in home.rglob("*"))
    return directory, done


def test_it_ends_well(demo: tuple[Path, "subprocess.CompletedProcess[str]"]) -> None:
    _, done = demo
    assert done.returncode == 0, done.stdout + done.stderr
    # on a busy machine the catalog may be told to lag; nothing else is to complain about
    assert [line for line in done.stderr.splitlines() if "behind; nothing is lost" not in line] == []
    assert "The ledger closes and the catalog agrees with the truth" in done.stdout
    assert done.stdout.count("agrees") == 3 + 1


def test_it_draws_its_pictures(demo: tuple[Path, "subprocess.CompletedProcess[str]"]) -> None:
    directory, _ = demo
    for name in ("vmi.png", "tof.png", "delay.png"):
        assert (directory / name).read_bytes().startswith(PNG)


def test_its_scan_finds_the_time_constant(demo: tuple[Path, "subprocess.CompletedProcess[str]"]) -> None:
    _, done = demo
    found = re.search(r"time constant of ([\d.]+) ± ([\d.]+) ps; the simulator has ([\d.]+) ps", done.stdout)
    assert found, done.stdout
    tau, error, truth = map(float, found.groups())
    assert tau == pytest.approx(truth, abs=4 * error + 0.01)
    assert error < truth / 4


def test_it_leaves_no_process(demo: tuple[Path, "subprocess.CompletedProcess[str]"]) -> None:
    directory, _ = demo
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = process.read_bytes()
        except OSError:
            continue  # ended while we looked
        assert str(directory).encode() not in words


def test_its_catalog_is_found_by_databroker(demo: tuple[Path, "subprocess.CompletedProcess[str]"]) -> None:
    from databroker import Broker

    from tests.catalog.conftest import profiles_in

    directory, _ = demo
    with profiles_in(directory / "catalog" / "profiles"):
        db = Broker.named("timepix")
        assert db[-1].start["plan_name"] == "tpx_fly"
        assert len(list(db(sample="methyl iodide"))) == 3
        assert len(db[2].table()) == 7
