"""The coalescing writer by itself: a stand-in for Tiled takes the documents, as slowly or as badly as a test wants."""

import json
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ophyd_timepix.catalog import CatalogWriteError, CatalogWriter, waiting
from ophyd_timepix.catalog import writer as writer_module
from ophyd_timepix.catalog.waiting import PAGE_EVENTS
from tests.catalog.conftest import COLUMNS, IMAGE_SHAPE, RunDocuments

IMAGE_BYTES = 8 * IMAGE_SHAPE[0] * IMAGE_SHAPE[1]
SCALAR = {"motor": {"source": "test", "dtype": "number", "dtype_numpy": "<f8", "shape": []}}
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
    monkeypatch.setattr(writer_module, "sink_factory", lambda _catalog: lambda: fake)
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
    assert re.search(r"\d+ documents, \d+\.\d s behind", repr(writer))
    tiled.gate.set()
    writer.wait(timeout_s=10)
    data = [doc for name, doc in tiled.taken if name == "stream_datum"]
    assert len(data) == len(COLUMNS)
    assert all(doc["indices"] == {"start": 0, "stop": 5000} for doc in data)
    assert all(doc["seq_nums"] == {"start": 1, "stop": 5001} for doc in data)
    assert tiled.names()[-1] == "stop"
    assert writer.lag.documents == 0
    assert repr(writer) == "<CatalogWriter: up to date>"


def test_events_that_wait_together_become_a_page(tiled: FakeTiled, make_writer: Callable[..., CatalogWriter]) -> None:
    tiled.gate.clear()
    writer = make_writer()
    run = RunDocuments(writer)
    run.start()
    for point in range(PAGE_EVENTS + 5):
        run.point(point, point + 1)
    run.stop()
    assert writer.lag.documents == 1 + 2 + PAGE_EVENTS + 5 + 1
    tiled.gate.set()
    writer.wait(timeout_s=10)
    assert tiled.names() == ["start", "descriptor", "descriptor", "event_page", "event_page", "stop"]
    pages = [doc for name, doc in tiled.taken if name == "event_page"]
    assert [len(page["seq_num"]) for page in pages] == [PAGE_EVENTS, 5]
    assert [row for page in pages for row in page["data"]["tpx_row_start"]] == list(range(PAGE_EVENTS + 5))


def test_pages_of_images_are_small_and_so_is_what_waits(
    tiled: FakeTiled, make_writer: Callable[..., CatalogWriter], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "PAGE_BYTES", 3 * IMAGE_BYTES)
    monkeypatch.setattr(writer_module, "WAITING_BYTES", 8 * IMAGE_BYTES)
    tiled.gate.clear()
    writer = make_writer()
    run = RunDocuments(writer)
    uid = run.start()
    for point in range(8):
        run.point(point, point)
    tiled.gate.set()
    writer.wait(timeout_s=10)
    assert [len(doc["seq_num"]) for name, doc in tiled.taken if name == "event_page"] == [3, 3, 2]
    tiled.gate.clear()
    for point in range(20):
        run.point(point, point)
    run.stop()
    tiled.gate.set()
    with pytest.raises(CatalogWriteError, match="MB of arrays in events wait for it"):
        writer.wait(timeout_s=10)
    assert journal(writer.backup_directory / f"{uid}.jsonl").count("event") == 28


def test_pages_of_a_flight_and_single_events_of_other_streams_find_their_own_page(
    tiled: FakeTiled, make_writer: Callable[..., CatalogWriter]
) -> None:
    tiled.gate.clear()
    writer = make_writer()
    run = RunDocuments(writer)
    run.start()
    baseline = run.run.compose_descriptor(name="baseline", data_keys=SCALAR)
    writer("descriptor", baseline.descriptor_doc)
    for point in range(4):
        run.point(point, point)
        writer("event_page", baseline.compose_event_page(
            data={"motor": [1.0, 2.0]}, timestamps={"motor": [1.0, 1.0]}, seq_num=[2 * point + 1, 2 * point + 2]
        ))  # fmt: skip
    tiled.gate.set()
    writer.wait(timeout_s=10)
    pages = [doc for name, doc in tiled.taken if name == "event_page"]
    assert [page["seq_num"] for page in pages] == [[1, 2, 3, 4], [1, 2, 3, 4, 5, 6, 7, 8]]


def test_a_changed_configuration_starts_a_new_page(tiled: FakeTiled, make_writer: Callable[..., CatalogWriter]) -> None:
    tiled.gate.clear()
    writer = make_writer()
    run = RunDocuments(writer)
    run.start()
    for threshold in (0, 1, 2):
        if threshold:
            run.configure(threshold)
        run.point(0, 1)
        run.point(1, 2)
    tiled.gate.set()
    writer.wait(timeout_s=10)
    assert tiled.names()[3:] == ["event_page", "descriptor", "event_page", "descriptor", "event_page"]


def test_pages_of_monitors_go_on_while_the_configuration_of_another_stream_changes(
    tiled: FakeTiled, make_writer: Callable[..., CatalogWriter]
) -> None:
    tiled.gate.clear()
    writer = make_writer()
    run = RunDocuments(writer)
    run.start()
    monitors = [run.run.compose_descriptor(name=f"{name}_monitor", data_keys=SCALAR) for name in "ab"]
    for monitor in monitors:
        writer("descriptor", monitor.descriptor_doc)
    for threshold in range(5):
        run.configure(threshold)
        run.point(threshold, threshold)
        for monitor in monitors:
            writer("event", monitor.compose_event(data={"motor": 1.0}, timestamps={"motor": 1.0}))
    tiled.gate.set()
    writer.wait(timeout_s=10)
    assert tiled.names().count("event_page") == 2, "one for each monitor"
    assert [len(doc["seq_num"]) for name, doc in tiled.taken if name == "event_page"] == [5, 5]
    assert tiled.names().count("event") == 5
    seen = [doc["uid"] if name == "descriptor" else doc["descriptor"] for name, doc in tiled.taken[3:]]
    assert all(seen.index(uid) <= place for place, uid in enumerate(seen)), "descriptors come before their events"


def test_events_that_point_to_external_data_stay_behind_their_datum(
    tiled: FakeTiled, make_writer: Callable[..., CatalogWriter]
) -> None:
    tiled.gate.clear()
    writer = make_writer()
    run = RunDocuments(writer)
    run.start()
    resource = run.run.compose_resource(spec="X", root="/", resource_path="x", resource_kwargs={})
    camera = run.run.compose_descriptor(
        name="camera",
        data_keys={"image": {"source": "test", "dtype": "array", "shape": [2], "external": "FILESTORE:"}},
    )
    writer("descriptor", camera.descriptor_doc)
    writer("resource", resource.resource_doc)
    for _ in range(2):
        datum = resource.compose_datum(datum_kwargs={})
        writer("datum", datum)
        event = camera.compose_event(
            data={"image": datum["datum_id"]}, timestamps={"image": 1.0}, filled={"image": False}
        )
        writer("event", event)
    tiled.gate.set()
    writer.wait(timeout_s=10)
    assert tiled.names()[4:] == ["resource", "datum", "event", "datum", "event"]


def test_an_event_waits_for_company_until_its_run_ends(
    tiled: FakeTiled, make_writer: Callable[..., CatalogWriter]
) -> None:
    writer = make_writer(hold_s=1000.0)
    run = RunDocuments(writer)
    run.start()
    for point in range(3):
        run.point(point, point)
    run.stop()
    writer.wait(timeout_s=10)
    assert tiled.names() == ["start", "descriptor", "descriptor", "event_page", "stop"]


def test_an_event_that_somebody_waits_for_is_written_at_once(
    tiled: FakeTiled, make_writer: Callable[..., CatalogWriter]
) -> None:
    writer = make_writer(hold_s=1000.0)
    run = RunDocuments(writer)
    run.start()
    run.point(0, 1)
    assert writer.settled(timeout_s=10)
    assert tiled.names()[-1] == "event"


def test_who_waits_does_not_wait_for_what_comes_later(
    tiled: FakeTiled, make_writer: Callable[..., CatalogWriter]
) -> None:
    writer = make_writer()
    run = RunDocuments(writer)
    run.start()
    writer.wait(timeout_s=10)
    stop = threading.Event()

    def scan() -> None:
        while not stop.is_set():
            run.point(0, 1)

    plan = threading.Thread(target=scan)
    plan.start()
    try:
        writer.wait(timeout_s=20)
    finally:
        stop.set()
        plan.join()


def test_a_lag_is_told_once_until_the_catalog_has_caught_up(
    tiled: FakeTiled,
    make_writer: Callable[..., CatalogWriter],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(writer_module, "LAG_LIMIT_S", 0.0)
    writer = make_writer()
    for _ in range(2):
        tiled.gate.clear()
        run = RunDocuments(writer)
        run.start()
        run.point(0, 1)
        run.stop()
        tiled.gate.set()
        writer.wait(timeout_s=10)
    told = [record.getMessage() for record in caplog.records if "behind; nothing is lost" in record.getMessage()]
    assert len(told) == 2
    assert str(writer.backup_directory) in told[0]


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
        "module.sink_factory = lambda _catalog: lambda: (lambda name, doc: threading.Event().wait())\n"
        f"writer = module.CatalogWriter(object(), backup_directory={str(tmp_path)!r}, exit_timeout_s=0.2)\n"
        "writer('start', {'uid': 'a-run', 'time': 0.0})\n"
        "writer('stop', {'uid': 'its-stop', 'run_start': 'a-run', 'time': 1.0, 'exit_status': 'success'})\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert "closed while 2 documents waited" in done.stderr
    assert journal(tmp_path / "a-run.jsonl") == ["start", "stop"]
