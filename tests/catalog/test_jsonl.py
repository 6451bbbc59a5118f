"""Runs without a catalog: documents in files of lines, which anybody can read."""

import json
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from event_model import Filler

from ophyd_timepix.catalog import CatalogError, JsonlWriter, read_run
from ophyd_timepix.catalog.handler import SPEC, EventListHandler
from tests.catalog.conftest import COLUMNS, EventFile, RunDocuments

FILE = Path("/data/2026-11/a run.h5")


@pytest.fixture
def writer(tmp_path: Path) -> Any:
    writer = JsonlWriter(tmp_path / "documents")
    yield writer
    writer.close()


def take(writer: JsonlWriter, **metadata: Any) -> str:
    run = RunDocuments(writer, metadata)
    uid = run.start()
    for point in range(3):
        run.point(10 * point, 10 * point + 10)
    run.register(FILE, 30)
    run.stop()
    return uid


def test_a_run_is_a_file_that_reads_back_whole(writer: JsonlWriter) -> None:
    uid = take(writer, sample="methyl iodide")
    (path,) = writer.directory.iterdir()
    assert path == writer.last_file
    run = read_run(path)
    assert run.uid == uid
    assert run.start["sample"] == "methyl iodide"
    assert run.is_complete
    assert [row["tpx_row_stop"] for row in run.streams["primary"]] == [10, 20, 30]
    assert [row["seq_num"] for row in run.streams["primary"]] == [1, 2, 3]
    assert run.streams["tpx_centroids"] == []
    assert run.files == (FILE,)
    assert [name for name, _ in run.documents].count("stream_datum") == len(COLUMNS)


def test_each_document_can_be_read_while_the_run_goes_on(writer: JsonlWriter) -> None:
    run = RunDocuments(writer)
    run.start()
    run.point(0, 5)
    assert writer.last_file is not None
    so_far = read_run(writer.last_file)
    assert not so_far.is_complete
    assert so_far.streams["primary"][0]["tpx_row_stop"] == 5


def test_a_last_line_that_was_cut_off_is_left_out(writer: JsonlWriter) -> None:
    take(writer)
    assert writer.last_file is not None
    whole = writer.last_file.read_bytes()
    writer.last_file.write_bytes(whole[:-20])
    assert read_run(writer.last_file).stop is None


def test_no_file_is_overwritten(tmp_path: Path) -> None:
    start = {"uid": "0123456789abcdef", "time": 1.0}
    stop = {"uid": "s", "run_start": start["uid"], "time": 2.0, "exit_status": "success"}
    for _ in range(3):
        writer = JsonlWriter(tmp_path)
        writer("start", start)
        writer("stop", stop)
    assert len(list(tmp_path.iterdir())) == 3


def test_files_and_directories_are_writable_for_the_group_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        writer = JsonlWriter(tmp_path / "proposal" / "documents")
        take(writer)
    finally:
        os.umask(before)
    assert writer.last_file is not None
    assert writer.last_file.stat().st_mode & 0o060 == 0o060
    for folder in (writer.directory, writer.directory.parent):
        assert folder.stat().st_mode & 0o070 == 0o070
        assert folder.stat().st_mode & stat.S_ISGID
    assert not writer.last_file.stat().st_mode & 0o007  # others get no more than the umask gave


def test_interleaved_runs_go_to_their_own_files(writer: JsonlWriter) -> None:
    one, two = RunDocuments(writer), RunDocuments(writer)
    uids = [one.start(), two.start()]
    one.point(0, 1)
    two.register(FILE, 5)
    two.stop()
    one.stop()
    runs = {run.uid: run for run in map(read_run, writer.directory.iterdir())}
    assert [len(runs[uid].streams["primary"]) for uid in uids] == [1, 0]
    assert [len(runs[uid].files) for uid in uids] == [0, 1]


def test_a_directory_in_the_way_stops_the_plan_before_it_begins(tmp_path: Path) -> None:
    (tmp_path / "documents").touch()
    writer = JsonlWriter(tmp_path / "documents" / "2026")
    with pytest.raises(CatalogError, match=r"cannot be written to .*documents/2026.*choose another directory"):
        writer("start", {"uid": "0123456789", "time": 1.0})


def test_a_disk_that_fills_up_is_told_and_lets_the_plan_go_on(
    writer: JsonlWriter, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    run = RunDocuments(writer)
    uid = run.start()
    (opened,) = writer._open.values()
    monkeypatch.setattr(opened, "file", FullDisk(opened.file))
    run.point(0, 1)
    run.point(1, 2)
    run.stop()
    assert writer.failures == [
        f"run {uid}: its documents end amid {writer.last_file}: No space left on device; the event file goes on"
    ]
    assert "No space left" in caplog.text


class FullDisk:
    """A file that takes nothing more."""

    def __init__(self, file: Any) -> None:
        self.close = file.close

    def write(self, _: str) -> int:
        raise OSError(28, "No space left on device")


def test_the_form_of_assets_is_one_setting(tmp_path: Path) -> None:
    event_file = EventFile(tmp_path / "run.h5")
    writer = JsonlWriter(tmp_path / "documents", assets="datum")
    run = RunDocuments(writer)
    run.start()
    event_file.append(40)
    run.register(event_file.path, 40)
    run.stop()
    event_file.close()
    assert writer.last_file is not None
    recorded = read_run(writer.last_file)
    assert recorded.files == (event_file.path,)
    with Filler({SPEC: EventListHandler}, inplace=False, retry_intervals=[]) as filler:
        filled = [filler(name, doc) for name, doc in recorded.documents]
    (event,) = [doc for name, doc in filled if name == "event"]
    assert len(event["data"]["tpx_centroids_x"]) == 40
    with pytest.raises(ValueError, match="neither 'stream' nor 'datum'"):
        JsonlWriter(tmp_path, assets="files")  # type: ignore[arg-type]


def test_a_file_that_is_no_run_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text(json.dumps({"name": "stop", "doc": {}}) + "\n")
    with pytest.raises(CatalogError, match="its first line should be a start document"):
        read_run(tmp_path / "x.jsonl")


def test_reading_needs_no_catalog_software(writer: JsonlWriter) -> None:
    take(writer)
    script = (
        "import sys\n"
        "for name in ('tiled', 'databroker', 'bluesky_tiled_plugins', 'pandas', 'bluesky', 'ophyd'):\n"
        "    sys.modules[name] = None\n"
        "from ophyd_timepix.catalog import read_run\n"
        f"print(len(read_run({str(writer.last_file)!r}).streams['primary']))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout.strip() == "3", done.stderr
