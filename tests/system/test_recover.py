"""`ophyd-timepix recover`: a session is killed in the middle of a run, and its files suffer in every way that files do.

One session and one call of `recover` for all damages: what comes out is what the words say.
"""

import contextlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from ophyd_timepix.app.cli import main
from ophyd_timepix.app.recovery import State, find_runs, is_product
from ophyd_timepix.files.event_file import EventFile
from ophyd_timepix.files.reader import count_rows, read_about, read_ledger, read_table
from ophyd_timepix.protocol import words as w
from ophyd_timepix.spool.index import index_path
from ophyd_timepix.spool.recording import claim
from spidr_sim.synth import synthesize
from tests.pages import Guide
from tests.user_process import UserWorld

START = {"uid": "6a1f6c1e-0000-4000-8000-000000000001", "plan_name": "count", "time": 1_795_244_400.0}
WORDS = {"scene": "vmi", "seed": 5, "duration_s": 1.0, "rate_hz": 3e5, "shot_rate_hz": 1000}
SESSION = f"""
import os, signal, socket, sys, threading
from pathlib import Path
from ophyd_timepix.config import Processing
from ophyd_timepix.pipeline.client import Pipeline
from ophyd_timepix.pipeline.messages import Receiver, RunRequest
from spidr_sim.synth import synthesize

words = synthesize(**{WORDS!r}).words[0]
pipe = Pipeline(ring_bytes=1 << 23)
pipe.start()
port, = pipe.bind([Receiver(chip=0, host="127.0.0.1")])
pause = threading.Event()

def send(part):
    goal = pipe.progress().received_bytes + part.nbytes
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        for k in range(0, part.size, 1000):
            sender.sendto(part[k : k + 1000].tobytes(), ("127.0.0.1", port))
            pause.wait(0.0005)
    while pipe.progress().received_bytes < goal:
        pause.wait(0.01)

pipe.open_run(RunRequest(
    event_file=Path(sys.argv[1]) / "run.h5",
    start={START!r},
    configuration={{"detector": {{"tpx_chip_ids": "W1"}}}},
    processing=Processing(hits=True),
    timer_zero_iso="2026-11-21T07:00:00+00:00",
))
half = words.size // 2
pipe.begin(1)
send(words[:half])
before = pipe.end().row_stop
pipe.begin(2)
send(words[half:])
while pipe.progress().rows_on_disk <= before:
    pause.wait(0.01)
os.kill(os.getpid(), signal.SIGKILL)
"""
TABLES = ("centroids", "hits", "shots", "triggers", "losses")
KILLED = "killed"
REBUILT = (KILLED, "absent", "garbage")
FROM_ROWS = ("lost-end", "no-recording")


def cut_in_half(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


DAMAGES: dict[str, Callable[[Path], Any]] = {
    "absent": lambda d: (d / "run.h5").unlink(),
    "garbage": lambda d: (d / "run.h5").write_bytes(b"\0" * 5000),
    "lost-end": lambda d: cut_in_half(d / "run.tpx3"),
    "no-recording": lambda d: [(d / name).unlink() for name in ("run.tpx3", "run.tpx3.idx")],
}
"""What a power loss, or a hand, does to the files of a killed session."""
UNREADABLE: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda index: b"",
    "cut": lambda index: index[:2000],
    "zeros": lambda index: bytes(4096),
    "other-version": lambda index: b"TPXIDX99" + index[8:],
    "other-settings": lambda index: index.replace(b'"n_chips"', b'"m_chips"'),
}
"""What may be left of an index, by which nobody can read it."""


def call(*words: object) -> int:
    return main([str(word) for word in words])


def report(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, dict[str, dict[str, Any]]]:
    """(exit code, row per folder) of `recover --json`."""
    capsys.readouterr()
    code = call("recover", *words, "--json", "--all")
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    return code, {Path(row["event_file"]).parent.name: row for row in rows}


def contents(directory: Path) -> dict[str, bytes]:
    return {str(p.relative_to(directory)): p.read_bytes() for p in directory.rglob("*") if p.is_file()}


@pytest.fixture(scope="module")
def left_behind(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the killed session, and damaged copies of it beside."""
    home = tmp_path_factory.mktemp("recover")
    world = UserWorld(home)
    (home / "session.py").write_text(SESSION)
    runs = world.data / KILLED
    runs.mkdir()
    done = world.run("session.py", runs)
    assert done.returncode == -9, done.stderr
    world.wait_until_gone()
    for name, damage in DAMAGES.items():
        shutil.copytree(runs, world.data / name)
        damage(world.data / name)
    return world.data


@pytest.fixture(scope="module")
def truth(left_behind: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The event file that `process` makes of the whole recording."""
    out = tmp_path_factory.mktemp("truth") / "truth.h5"
    assert call("process", left_behind / KILLED / "run.tpx3", "--hits", "-o", out) == 0
    return out


@pytest.fixture(scope="module")
def before(left_behind: Path) -> int:
    return count_rows(left_behind / KILLED / "run.h5")


@pytest.fixture(scope="module")
def recovered(left_behind: Path, truth: Path, before: int, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of it all, recovered by one call."""
    data = tmp_path_factory.mktemp("recovered") / "data"
    shutil.copytree(left_behind, data)
    with h5py.File(data / "of_somebody_else.h5", "w") as file:
        file["x"] = 1
    with contextlib.redirect_stdout(None):
        assert call("recover", data) == 0
    return data


def test_the_recording_of_the_killed_session_holds_every_word_that_was_sent(left_behind):
    words = np.fromfile(left_behind / KILLED / "run.tpx3", "<u8")
    sent = synthesize(**WORDS).words[0]
    is_header = words & np.uint64(w.CHUNK_MAGIC_FIELD.mask) == w.CHUNK_MAGIC
    assert np.array_equal(words[~is_header], sent)


def test_a_file_that_process_made_says_that_it_is_not_the_runs_own(truth, recovered):
    (made,), (own,) = find_runs([truth]), find_runs([recovered / KILLED])
    assert is_product(made)
    assert not is_product(own)


def test_a_dry_run_tells_what_is_wrong_and_touches_nothing(left_behind, capsys):
    before = contents(left_behind)
    code, rows = report(capsys, left_behind, "--dry-run")
    assert code == 1
    assert {name: row["state"] for name, row in rows.items()} == {
        KILLED: State.UNFINISHED,
        "absent": State.NO_EVENT_FILE,
        "garbage": State.UNREADABLE,
        "lost-end": State.UNFINISHED,
        "no-recording": State.UNFINISHED,
    }
    assert all(row["todo"] for row in rows.values())
    assert contents(left_behind) == before


@pytest.mark.parametrize("name", REBUILT)
def test_the_event_file_has_the_rows_that_the_words_say(recovered, truth, before, name):
    made = recovered / name / "run.h5"
    assert count_rows(made) > before > 0
    for table in TABLES:
        expected, found = read_table(truth, table), read_table(made, table)
        for column in expected:
            assert found[column].tobytes() == expected[column].tobytes(), f"{table}/{column}"
    assert read_ledger(made)["unaccounted"] == 0
    table = read_table(made, "acquisitions", ["acquisition"])
    assert table["acquisition"].tolist() == [1, 2]


@pytest.mark.parametrize("name", REBUILT)
def test_the_acquisition_that_did_not_end_belongs_to_no_point(recovered, name):
    assert read_table(recovered / name / "run.h5", "acquisitions", ["cancelled"])["cancelled"].tolist() == [0, 1]


@pytest.mark.parametrize("name", FROM_ROWS)
def test_without_the_end_of_the_recording_no_row_of_the_event_file_is_lost(recovered, left_behind, before, name):
    made = recovered / name / "run.h5"
    assert count_rows(made) == before
    for table in TABLES:
        expected, found = read_table(left_behind / name / "run.h5", table), read_table(made, table)
        for column in expected:
            assert found[column].tobytes() == expected[column].tobytes(), f"{table}/{column}"
    assert read_ledger(made)["written"] == before


@pytest.mark.parametrize("name", [*REBUILT, *FROM_ROWS])
def test_the_master_opens_with_rows_events_and_what_happened(recovered, name):
    with h5py.File(recovered / name / "run.nxs") as master:
        entry = master["entry"]
        rows = entry["centroids/x"].shape[0]
        assert rows == entry["timepix_events/event_id"].shape[0] == entry["instrument/timepix/data"][:].sum()
        recorded = json.loads(entry["configuration/data"][()])
        assert recorded["recovered"]["was"] in list(State)
        if name in ("absent", "garbage"):
            return  # the start document was in the event file alone
        assert json.loads(entry["start_document/data"][()]) == START
        assert recorded["detector"] == {"tpx_chip_ids": "W1"}


def test_the_start_document_is_kept_for_the_next_time_too(recovered):
    assert read_about(recovered / KILLED / "run.h5", "start_document") == START


def test_the_unfinished_file_is_kept_beside_and_nothing_else_stays(recovered, left_behind):
    names = sorted(p.name for p in (recovered / KILLED).iterdir())
    assert names == ["run.h5", "run.h5.unfinished", "run.nxs", "run.tpx3", "run.tpx3.idx"]
    kept = recovered / KILLED / "run.h5.unfinished"
    assert kept.read_bytes() == (left_behind / KILLED / "run.h5").read_bytes()
    with h5py.File(recovered / "of_somebody_else.h5") as file:
        assert list(file) == ["x"]


def test_what_is_complete_is_left_as_it_is(recovered, capsys):
    before = contents(recovered)
    code, rows = report(capsys, recovered)
    assert code == 0
    assert {row["state"] for row in rows.values()} == {State.COMPLETE}
    assert contents(recovered) == before


def test_a_missing_master_is_written_anew(recovered, tmp_path, capsys):
    run = shutil.copytree(recovered / KILLED, tmp_path / "run")
    (run / "run.nxs").unlink()
    event_file = (run / "run.h5").read_bytes()
    code, rows = report(capsys, run / "run.h5")
    assert (code, rows["run"]["state"], rows["run"]["done"]) == (0, State.NO_MASTER, "master written")
    assert (run / "run.h5").read_bytes() == event_file
    with h5py.File(run / "run.nxs") as again, h5py.File(recovered / KILLED / "run.nxs") as first:
        assert again["entry/tof_spectrum/counts"][:].tolist() == first["entry/tof_spectrum/counts"][:].tolist()
        assert again["entry/title"][()] == b"count"


def test_what_is_being_recorded_is_left_alone(left_behind, tmp_path, capsys):
    run = shutil.copytree(left_behind / KILLED, tmp_path / "run")
    before = contents(run)
    with open(index_path(run / "run.tpx3"), "rb") as index:
        assert claim(index.fileno())
        code, rows = report(capsys, run)
    assert (code, rows["run"]["state"], rows["run"]["done"]) == (0, State.BUSY, "left alone")
    assert contents(run) == before


def test_a_run_without_raw_data_is_left_alone_while_its_event_file_is_written(tmp_path, capsys):
    """There is no recording that anybody could hold: whoever writes the event file holds that."""
    (tmp_path / "tpx").mkdir()
    file = EventFile(
        tmp_path / "tpx" / "run.h5", image_shape=(4, 4), tof_edges_ns=np.arange(3.0), attributes={"run": "{}"}
    )
    try:
        code, rows = report(capsys, tmp_path)
        assert (code, rows["tpx"]["state"], rows["tpx"]["done"]) == (0, State.BUSY, "left alone")
        assert os.listdir(tmp_path / "tpx") == ["run.h5"]
    finally:
        file.close()
    assert report(capsys, tmp_path, "--dry-run")[1]["tpx"]["state"] == State.UNFINISHED


def test_what_another_recovery_has_begun_is_no_run(left_behind, tmp_path):
    place = tmp_path / "killed" / ".recovering-run"
    shutil.copytree(left_behind / "no-recording", place)
    assert find_runs([tmp_path]) == []


@pytest.mark.parametrize("damage", UNREADABLE)
def test_a_run_whose_index_cannot_be_read_is_told_and_the_others_are_finished(left_behind, tmp_path, capsys, damage):
    """Nothing is made of its event file alone while the words lie beside it: that has to be asked for."""
    shutil.copytree(left_behind / KILLED, tmp_path / "bad")
    shutil.copytree(left_behind / "no-recording", tmp_path / "other")
    index = index_path(tmp_path / "bad" / "run.tpx3")
    index.write_bytes(UNREADABLE[damage](index.read_bytes()))
    before = contents(tmp_path / "bad")
    code, rows = report(capsys, tmp_path)
    assert (code, rows["bad"]["state"], rows["bad"]["failed"]) == (1, State.NO_INDEX, True)
    assert contents(tmp_path / "bad") == before
    assert rows["other"]["done"] == "finished"
    assert call("recover", tmp_path) == 1
    assert str(index) in capsys.readouterr().err
    code, rows = report(capsys, tmp_path, "--keep-events")
    assert (code, rows["bad"]["done"]) == (0, "finished")


def test_an_index_of_another_version_is_named_by_process_too(left_behind, tmp_path, capsys):
    run = shutil.copytree(left_behind / KILLED, tmp_path / "run")
    index = index_path(run / "run.tpx3")
    index.write_bytes(UNREADABLE["other-settings"](index.read_bytes()))
    assert call("process", run / "run.tpx3", "-o", tmp_path / "out.h5", "--quiet") == 1
    said = capsys.readouterr().err
    assert str(index) in said
    assert "m_chips is no setting" in said


def test_rows_that_the_words_do_not_give_are_refused_and_all_stays(left_behind, tmp_path, capsys):
    """Somebody else's recording under this name."""
    run = shutil.copytree(left_behind / KILLED, tmp_path / "run")
    words = bytearray((run / "run.tpx3").read_bytes())
    words[16:24] = words[24:32]
    (run / "run.tpx3").write_bytes(words)
    before = contents(run)
    code, rows = report(capsys, run)
    assert (code, rows["run"]["failed"]) == (1, True)
    assert contents(run) == before


def test_a_path_that_is_not_there_is_one_clear_error(tmp_path, capsys):
    assert call("recover", tmp_path / "absent") == 1
    assert "no such file or directory" in capsys.readouterr().err


def test_a_folder_without_runs_has_nothing_to_recover(tmp_path, capsys):
    assert call("recover", tmp_path) == 0
    assert "nothing to recover" in capsys.readouterr().out
    assert find_runs([tmp_path]) == []


def test_the_commands_of_the_how_to_do_what_it_says(left_behind, tmp_path, capsys):
    run = shutil.copytree(left_behind / "no-recording", tmp_path / "run")
    with Guide("docs/how-to/recover.md", "sh") as guide:
        codes = [call(*line.split()[1:]) for line in guide.commands({"/data/2026-11": str(run)})]
    assert codes == [1, 0]
    said = capsys.readouterr().out
    assert "finish from its rows" in said
    assert f"kept: {run / 'run.h5.unfinished'}" in said
