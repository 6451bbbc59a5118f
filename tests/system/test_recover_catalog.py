"""`recover --catalog`: a run is halted, the next one loses its session to a kill; the catalog gets what is left."""

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import pytest

from ophyd_timepix.app.cli import main
from ophyd_timepix.catalog import centroids, open_catalog
from ophyd_timepix.files.reader import count_rows, read_ledger
from tests.catalog.conftest import profiles_in
from tests.empty_catalog import EmptyCatalog
from tests.sim_process import running_sim
from tests.user_process import UserWorld

NAME = "timepix-recovered"
SESSION = f"""
import os, signal, sys, threading
from pathlib import Path
import bluesky.plans as bp
from bluesky import RunEngine
from bluesky.utils import RunEngineInterrupted
from ophyd_timepix import SpidrBoard, TimepixDetector, install
from ophyd_timepix.catalog import init_catalog

address, data = sys.argv[1:]
init_catalog({NAME!r}, Path(data).parent / "catalog", readable=[data])
spidr = SpidrBoard(address, name="spidr")
tpx = TimepixDetector(spidr, name="tpx", data_dir=data, exposure=0.2)
RE = RunEngine({{}})
installation = install(RE, [tpx], catalog={NAME!r}, min_free_bytes=0)

def in_second_point(then):
    def look(name, doc):
        if "tpx_n_centroids" in doc["data"]:
            threading.Thread(target=then, daemon=True).start()
    return RE.subscribe(look, "event")

RE(bp.count([tpx]))
token = in_second_point(RE.halt)
try:
    RE(bp.count([tpx], num=50))
except RunEngineInterrupted:
    print("halted", flush=True)
RE.unsubscribe(token)
installation.writer.wait(60)

def killed_with_its_second_point(name, doc, points=[]):
    # amid an exposure it would not be known how much the board sent
    points.extend(n for n in doc["data"] if n == "tpx_n_centroids")
    if len(points) == 2:
        os.kill(os.getpid(), signal.SIGKILL)

RE.subscribe(killed_with_its_second_point, "event")
RE(bp.count([tpx], num=50))
"""


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory, empty_catalog: EmptyCatalog) -> dict[str, Any]:
    """What two calls of the command say, and what the catalog has then."""
    home = tmp_path_factory.mktemp("recover")
    world = UserWorld(home)
    (home / "session.py").write_text(SESSION)
    empty_catalog.copy_to(home / "catalog" / "catalog.db")
    with running_sim(scene="vmi", rate=2e5, shot_rate=1000, seed=11) as sim:
        killed = world.run("session.py", sim.address, world.data)
    assert killed.returncode == -9, killed.stderr
    assert "halted" in killed.stdout
    world.wait_until_gone()
    with profiles_in(home / "tiled"):
        first, again = recover(world.data), recover(world.data)
        return {"first": first, "again": again, "runs": [told_of(header) for header in last_three()]}


def recover(data: Path) -> tuple[int, list[dict[str, Any]]]:
    """Exit code of the command, and what it says of each run."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        code = main(["recover", str(data), "--catalog", NAME, "--all", "--json"])
    return code, [json.loads(line) for line in said.getvalue().splitlines()]


def last_three() -> list[Any]:
    db = open_catalog(NAME)
    return [db[-3], db[-2], db[-1]]


def told_of(header: Any) -> dict[str, Any]:
    """A run by the catalog and by its file."""
    table = header.table()
    file = str(table["tpx_file"].iloc[0])
    return {
        "file": file,
        "exit_status": header.stop["exit_status"],
        "points": len(table),
        "rows": len(centroids(header, ["toa"], valid_only=False, cancelled=True)),
        "in_file": count_rows(file),
        "of_first_point": len(centroids(header, ["toa"], point=1, valid_only=False)),
        "told": int(table["tpx_n_centroids"].iloc[0]),
        "shots": len(shots_of(header)),
        "shots_in_file": count_rows(file, "shots"),
        "ledger": header.table("tpx_ledger").iloc[0].to_dict(),
        "ledger_in_file": read_ledger(file),
    }


def shots_of(header: Any) -> Any:
    return open_catalog(NAME).v3[header.start["uid"]]["tpx_shots"]["tpx_shots_valid"].read()


def test_the_files_of_the_killed_run_are_finished_and_those_of_the_halted_one_are_well(answers):
    code, rows = answers["first"]
    assert code == 0
    states = {Path(row["event_file"]).name: row["state"] for row in rows}
    names = [Path(run["file"]).name for run in answers["runs"]]
    assert [states[name] for name in names] == ["complete", "complete", "event file unfinished"]


def test_the_catalog_has_every_row_of_all_three(answers):
    for run in answers["runs"]:
        assert run["rows"] == run["in_file"] > 0
        assert run["of_first_point"] == run["told"] > 0
        assert run["points"] >= 1
        assert run["shots"] == run["shots_in_file"] > 0


def test_every_run_has_the_ledger_row_of_an_undisturbed_one(answers):
    undisturbed, halted, killed = (run["ledger"] for run in answers["runs"])
    assert set(halted) == set(undisturbed)
    missing = {key.removeprefix("tpx_ledger_") for key in set(undisturbed) - set(killed)}
    assert missing >= {"board_pauses", "ring_full_waits"}  # not in a recording
    assert not missing & {
        "received_datagrams",
        "kernel_dropped",
        "malformed_datagrams",
        "sent_pixel_words",
    }  # in its index
    assert not missing & {"hits", "pixel_words", "decoded_words", "shots", "valid_shots", "centroids", "lost_datagrams"}
    for run in answers["runs"]:
        row = run["ledger"]
        assert json.loads(row["tpx_ledger_json"]) == run["ledger_in_file"]
        assert row["tpx_ledger_rows"] == run["in_file"]
        assert row["tpx_ledger_file"] == run["file"]
        assert row["tpx_ledger_master"] == run["file"].replace(".h5", ".nxs")
        assert row["tpx_ledger_recording"] == run["file"].replace(".h5", ".tpx3")
        assert row["tpx_ledger_written"] == run["in_file"]
        assert row["tpx_ledger_unaccounted"] == 0
        assert row["tpx_ledger_error"] == ""
    assert undisturbed["tpx_ledger_acquisitions"] == 1
    assert undisturbed["tpx_ledger_cancelled_acquisitions"] == undisturbed["tpx_ledger_cancelled_rows"] == 0


def test_the_call_is_that_of_the_how_to():
    page = (Path(__file__).parents[2] / "docs/how-to/recover.md").read_text()
    assert "ophyd-timepix recover /data/2026-11 --catalog timepix\n" in page


def test_how_each_run_ended_is_told(answers):
    assert [run["exit_status"] for run in answers["runs"]] == ["success", "abort", "abort"]


def test_the_report_says_what_was_registered_and_a_second_call_finds_nothing(answers):
    told = {row["event_file"]: row["catalog"] for row in answers["first"][1]}
    of_runs = [told[run["file"]] for run in answers["runs"]]
    assert of_runs[0] == "complete"
    assert of_runs[1].endswith("the ledger registered")
    assert of_runs[2].startswith("run registered")
    code, again = answers["again"]
    assert code == 0
    assert {row["catalog"] for row in again} == {"complete"}
