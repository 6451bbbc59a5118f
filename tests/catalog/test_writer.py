"""The coalescing writer by itself: a stand-in for Tiled takes the documents, as slowly or as badly as a test wants."""

import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ophyd_timepix.catalog import CatalogWriteError, CatalogWriter
from ophyd_timepix.catalog import writer as writer_module
from tests.catalog.conftest import COLUMNS, RunDocuments

FILE = Path("/nowhere/events.h5")


class FakeTiled:
    """Collects documents; waits at each until the gate is open; refuses those named in `refuses`."""

    def __init__(self) -> None:
        self.taken: list[tuple[str, dict[str, Any]]] = []
        self.refuses: set[str] = set()
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Event()

    def __call__(self, name: str, doc: dict[str, Any]) -> None:
        self.entered.set()
        self.gate.wait(timeout=30)
        if name in self.refuses:
            raise RuntimeError(f"Tiled does not like a {name}\nand says why at length")
        self.taken.append((name, doc))

    def names(self) -> list[str]:
        return [name for name, _ in self.taken]


@pytest.fixture
def tiled(monkeypatch: pytest.MonkeyPatch) -> FakeTiled:
    fake = FakeTiled()
    monkeypatch.setattr(writer_module, "_sink_factory", lambda _catalog: lambda: fake)
    return fake


@pytest.fixture
def make_writer(tiled: FakeTiled, tmp_path: Path) -> Iterator[Callable[..., CatalogWriter]]:
    made: list[CatalogWriter] = []

    def make(**options: Any) -> CatalogWriter:
        made.append(CatalogWriter(object(), **{"backup_directory": tmp_path / "backup", **options}))
        return made[-1]

    yield make
    tiled.gate.set()
    for writer in made:
        try:
            writer.close(timeout_s=5)
        except CatalogWriteError:
            continue


def journal(path: Path) -> list[str]:
    return [json.loads(line)["name"] for line in path.read_text().splitlines()]


def test_stream_datums_that_wait_together_become_one_per_column(
    tiled: FakeTiled, make_writer: Callable[..., CatalogWriter]
) -> None:
    tiled.gate.clear()
    writer = make_writer()
    run = RunDocuments(writer)
    run.start()
    for stop in range(100, 5100, 100):
        run.register(FILE, stop)
    run.stop()
    assert writer.lag.documents == 1 + 2 + len(COLUMNS) + len(COLUMNS) + 1
    assert writer.lag.seconds > 0
    tiled.gate.set()
    writer.wait(timeout_s=10)
    data = [doc for name, doc in tiled.taken if name == "stream_datum"]
    assert len(data) == len(COLUMNS)
    assert all(doc["indices"] == {"start": 0, "stop": 5000} for doc in data)
    assert all(doc["seq_nums"] == {"start": 1, "stop": 5001} for doc in data)
    assert tiled.names()[-1] == "stop"
    assert writer.lag.documents == 0


def test_rows_that_do_not_follow_each_other_are_not_merged(
    tiled: FakeTiled, make_writer: Callable[..., CatalogWriter]
) -> None:
    tiled.gate.clear()
    writer = make_writer()
    run = RunDocuments(writer)
    run.start()
    run.register(FILE, 10)
    run.registered = 20
    run.register(FILE, 30)
    tiled.gate.set()
    writer.wait(timeout_s=10)
    assert tiled.names().count("stream_datum") == 2 * len(COLUMNS)


def test_the_plan_never_waits_for_the_catalog(tiled: FakeTiled, make_writer: Callable[..., CatalogWriter]) -> None:
    tiled.gate.clear()
    writer = make_writer()
    run = RunDocuments(writer)
    run.start()
    run.point(0, 1)
    run.stop()  # all calls have returned while the catalog has taken nothing
    assert tiled.taken == []
    with pytest.raises(TimeoutError, match="documents behind"):
        writer.wait(timeout_s=0.05)


def test_a_refused_run_keeps_all_its_documents_and_the_next_run_goes_through(
    tiled: FakeTiled, make_writer: Callable[..., CatalogWriter], caplog: pytest.LogCaptureFixture
) -> None:
    tiled.refuses = {"event"}
    writer = make_writer()
    bad = RunDocuments(writer)
    uid = bad.start()
    bad.point(0, 1)
    bad.register(FILE, 10)
    bad.stop()
    with pytest.raises(CatalogWriteError, match=f"run {uid} is not complete in the catalog: a event document"):
        writer.wait(timeout_s=10)
    writer.wait(timeout_s=10)  # reported once
    failure = writer.failure
    assert failure is not None
    assert failure.backup is not None
    assert "at length" not in failure.reason
    assert journal(failure.backup) == [
        "start", "descriptor", "descriptor", "event",
        *["stream_resource"] * len(COLUMNS), *["stream_datum"] * len(COLUMNS), "stop",
    ]  # fmt: skip
    assert "stop" not in tiled.names()
    assert sum("ophyd-timepix catalog replay" in record.getMessage() for record in caplog.records) == 1
    tiled.refuses = set()
    good = RunDocuments(writer)
    good.start()
    good.stop()
    writer.wait(timeout_s=10)
    assert tiled.names()[-1] == "stop"
    assert [path.name for path in writer.backup_directory.iterdir()] == [f"{uid}.jsonl"]


def test_too_many_waiting_documents_end_in_the_backup_not_in_memory(
    tiled: FakeTiled, make_writer: Callable[..., CatalogWriter]
) -> None:
    tiled.gate.clear()
    writer = make_writer(waiting_limit=5)
    run = RunDocuments(writer)
    uid = run.start()
    for _ in range(10):
        run.point(0, 1)
    assert writer.lag.documents <= 6
    run.stop()
    tiled.gate.set()
    with pytest.raises(CatalogWriteError, match="more than 5 documents wait"):
        writer.wait(timeout_s=10)
    assert journal(writer.backup_directory / f"{uid}.jsonl").count("event") == 10


def test_without_a_backup_the_run_is_still_catalogued(
    tiled: FakeTiled, make_writer: Callable[..., CatalogWriter], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("no directory")
    writer = make_writer(backup_directory=tmp_path / "file" / "backup")
    run = RunDocuments(writer)
    run.start()
    run.stop()
    writer.wait(timeout_s=10)
    assert tiled.names() == ["start", "descriptor", "descriptor", "stop"]
    assert "no backup in" in caplog.text


def test_close_gives_up_after_its_timeout_and_says_where_the_documents_are(
    tiled: FakeTiled, make_writer: Callable[..., CatalogWriter]
) -> None:
    tiled.gate.clear()
    writer = make_writer()
    run = RunDocuments(writer)
    uid = run.start()
    run.stop()
    with pytest.raises(CatalogWriteError, match="closed while 4 documents waited"):
        writer.close(timeout_s=0.05)
    assert journal(writer.backup_directory / f"{uid}.jsonl") == ["start", "descriptor", "descriptor", "stop"]


def test_a_run_that_never_ends_is_kept_when_the_writer_closes(
    tiled: FakeTiled, make_writer: Callable[..., CatalogWriter]
) -> None:
    writer = make_writer()
    uid = RunDocuments(writer).start()
    with pytest.raises(CatalogWriteError, match="had not ended"):
        writer.close(timeout_s=5)
    assert (writer.backup_directory / f"{uid}.jsonl").exists()


def test_documents_of_two_interleaved_runs_go_to_their_own_backups(
    tiled: FakeTiled, make_writer: Callable[..., CatalogWriter]
) -> None:
    tiled.refuses = {"stop"}
    writer = make_writer()
    one, two = RunDocuments(writer), RunDocuments(writer)
    uids = [one.start(), two.start()]
    one.point(0, 1)
    two.register(FILE, 5)
    two.stop()
    one.stop()
    with pytest.raises(CatalogWriteError):
        writer.wait(timeout_s=10)
    kept = [journal(writer.backup_directory / f"{uid}.jsonl") for uid in uids]
    assert [names.count("event") for names in kept] == [1, 0]
    assert [names.count("stream_datum") for names in kept] == [0, len(COLUMNS)]


def test_the_interpreter_ends_although_the_catalog_hangs(tmp_path: Path) -> None:
    script = (
        "import threading, sys\n"
        "from ophyd_timepix.catalog import writer as module\n"
        "module._sink_factory = lambda _catalog: lambda: (lambda name, doc: threading.Event().wait())\n"
        f"writer = module.CatalogWriter(object(), backup_directory={str(tmp_path)!r}, exit_timeout_s=0.2)\n"
        "writer('start', {'uid': 'a-run', 'time': 0.0})\n"
        "writer('stop', {'uid': 'its-stop', 'run_start': 'a-run', 'time': 1.0, 'exit_status': 'success'})\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert "closed while 2 documents waited" in done.stderr
    assert journal(tmp_path / "a-run.jsonl") == ["start", "stop"]
