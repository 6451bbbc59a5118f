"""Documents in, runs out: through the coalescing writer into the embedded catalog, and back as runs, tables, rows."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ophyd_timepix.catalog import CatalogError, CatalogProfile, CatalogWriter, JsonlWriter, centroids, replay
from tests.catalog.conftest import COLUMNS, IMAGE_SHAPE, EventFile, RunDocuments, rows

POINTS = [(0, 700), (700, 700), (700, 2500)]


@pytest.fixture
def writer(catalog: CatalogProfile, db: Any, tmp_path: Path) -> Any:
    writer = CatalogWriter(catalog.name, backup_directory=tmp_path / "backup")
    yield writer
    writer.close()


@pytest.fixture(scope="module")
def scan(db: Any, catalog: CatalogProfile, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A finished run of three points, the second without any centroid."""
    backup = tmp_path_factory.mktemp("scan") / "backup"
    writer = CatalogWriter(catalog.name, backup_directory=backup)
    event_file = EventFile(catalog.readable[0] / "scan.h5")
    run = RunDocuments(writer, {"sample": "three points", "scan_id": 7})
    uid = run.start()
    for first, stop in POINTS:
        event_file.append(stop - first)
        run.point(first, stop)
        if stop > run.registered:
            run.register(event_file.path, stop)
    run.stop()
    writer.close(timeout_s=60)
    assert writer.failure is None
    assert writer.lag.documents == 0
    assert list(backup.iterdir()) == []  # nothing to keep: the run is in the catalog
    yield uid
    event_file.close()


def test_a_run_is_found_as_the_last_one_by_uid_and_by_its_metadata(db: Any, scan: str) -> None:
    assert db[-1].start["uid"] == scan
    assert db[scan].start["scan_id"] == 7
    assert [header.start["uid"] for header in db(sample="three points")] == [scan]
    assert list(db[scan].table()["tpx_row_stop"]) == [700, 700, 2500]


def test_row_slices_of_a_column_are_those_of_the_file(db: Any, scan: str) -> None:
    toa = db.v3[scan]["tpx_centroids"]["tpx_centroids_toa"]
    assert toa.shape == (2500,)
    np.testing.assert_array_equal(toa[690:710], rows(690, 710)["toa"])


@pytest.mark.filterwarnings("ignore:Tiled server does not support remote validation")
def test_a_run_validates(db: Any, scan: str) -> None:
    assert db.v3[scan].validate()


def test_centroids_are_a_table_of_all_columns_indexed_by_row(scan: str, catalog: CatalogProfile) -> None:
    table = centroids(scan, catalog=catalog.name)
    assert list(table.columns) == list(COLUMNS)
    assert [str(dtype.str) for dtype in table.dtypes] == list(COLUMNS.values())
    for name, expected in rows(0, 2500).items():
        np.testing.assert_array_equal(table[name], expected)


def test_centroids_of_points_windows_and_rows(scan: str, db: Any) -> None:
    assert list(centroids(db[scan], "x", point=3).index) == list(range(700, 2500))
    assert len(centroids(db.v3[scan], "x", point=2)) == 0
    assert len(centroids(db.v2[scan], "x", point=[1, 3])) == 2500
    assert list(centroids(db[scan], ["x"], rows=(2490, 9000)).index) == list(range(2490, 2500))
    gated = centroids(db[scan], ["tof", "shot"], tof=(200, 300), shots=(10, 20))
    assert list(gated["tof"]) == [200.0] * 10
    assert list(gated["shot"]) == list(range(10, 20))


def test_a_tof_window_leaves_out_centroids_without_a_shot(scan: str, db: Any) -> None:
    assert len(centroids(db[scan], "tof", tof=(None, None))) == 2500 - 250


def test_wrong_questions_are_answered_with_what_there_is(scan: str, db: Any) -> None:
    with pytest.raises(ValueError, match="no column 'mass'; there are: shot, x, y"):
        centroids(db[scan], "mass")
    with pytest.raises(ValueError, match="no column 'energy'; there are: shot, x, y"):
        centroids(db[scan], energy=(1, 2))
    with pytest.raises(ValueError, match=r"no point 4 in stream 'primary'; it has \[1, 2, 3\]"):
        centroids(db[scan], "x", point=4)
    with pytest.raises(ValueError, match="window of tof is empty"):
        centroids(db[scan], "x", tof=(300, 200))
    with pytest.raises(CatalogError, match="no centroids of the detector 'other'; its streams are"):
        centroids(db[scan], "x", detector="other")


def test_a_run_without_centroids_reads_back_as_an_empty_table(db: Any, writer: CatalogWriter) -> None:
    run = RunDocuments(writer)
    uid = run.start()
    run.point(0, 0)
    run.stop()
    writer.wait(timeout_s=60)
    table = centroids(db[uid], tof=(0, 100))
    assert list(table.columns) == list(COLUMNS)
    assert len(table) == 0


def test_events_that_wait_together_are_one_request_and_read_back_one_by_one(db: Any, writer: CatalogWriter) -> None:
    run = RunDocuments(writer)
    uid = run.start()
    run.point(0, 0)
    writer.wait(timeout_s=60)
    before = writer.written
    for stop in range(1, 301):
        run.point(0, stop)
    assert writer.lag.documents == 300
    run.stop()
    writer.wait(timeout_s=60)
    assert writer.written == before + 2  # a page, and the stop document
    points = db.v3[uid]["primary"].read()
    np.testing.assert_array_equal(points["tpx_row_stop"], np.arange(301))
    assert points["tpx_image"].shape == (301, *IMAGE_SHAPE)
    assert len(set(points["tpx_image"].dims)) == 3  # a square image has two dimensions, not one twice
    np.testing.assert_array_equal(points["tpx_image"][:, 3, 4], np.arange(301))


def test_a_configuration_that_changes_amid_a_run_keeps_points_in_order(db: Any, writer: CatalogWriter) -> None:
    run = RunDocuments(writer)
    uid = run.start(threshold=420)
    for threshold in (420, 421, 422):
        if threshold > 420:
            run.configure(threshold)
        for _ in range(3):
            run.point(threshold, threshold)
    run.stop()
    writer.wait(timeout_s=60)
    stream = db.v3[uid]["primary"]
    assert list(stream.read()["tpx_row_stop"]) == [420] * 3 + [421] * 3 + [422] * 3
    told = [
        doc["configuration"]["tpx"]["data"]["tpx_threshold"]
        for name, doc in db[uid].documents()
        if name == "descriptor" and doc["name"] == "primary"
    ]
    assert told == [420, 421, 422]
    assert len(db[uid].table()) == 9


QUESTIONS = """
import sys
from databroker import Broker

name, scan, running = sys.argv[1:]
db = Broker.named(name)
print(list(db[scan].table()["tpx_row_stop"]), db.v3[scan]["tpx_centroids"]["tpx_centroids_toa"][700])
print("ophyd_timepix" in sys.modules)

from ophyd_timepix.catalog import centroids

table = centroids(running, ["toa", "shot"], catalog=name)
print(len(table), table["toa"].iloc[-1])
"""


@pytest.fixture(scope="module")
def answers(scan: str, db: Any, catalog: CatalogProfile, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """What a second process is told while a run goes on."""
    writer = CatalogWriter(catalog.name, backup_directory=tmp_path_factory.mktemp("running"))
    event_file = EventFile(catalog.readable[0] / "running.h5")
    run = RunDocuments(writer)
    uid = run.start()
    event_file.append(3000)
    run.register(event_file.path, 2000)  # the file is longer than the catalog knows
    writer.wait(timeout_s=60)
    line = [sys.executable, "-W", "ignore", "-c", QUESTIONS, catalog.name, scan, uid]
    answer = subprocess.run(line, capture_output=True, text=True, timeout=120, check=False)
    run.stop()
    writer.close(timeout_s=60)
    event_file.close()
    assert answer.returncode == 0, answer.stderr
    return answer.stdout.splitlines()


def test_databroker_alone_opens_the_catalog_by_its_name(answers: list[str]) -> None:
    assert answers[:2] == ["[700, 700, 2500] 700000.0", "False"]


def test_a_second_process_reads_rows_while_the_run_goes_on(answers: list[str]) -> None:
    assert answers[2] == "2000 1999000.0"


def test_a_million_rows_are_registered_in_pieces_and_read_at_the_end(
    db: Any, writer: CatalogWriter, event_file: EventFile
) -> None:
    run = RunDocuments(writer)
    uid = run.start()
    for _ in range(10):
        event_file.append(100_000)
        run.register(event_file.path, event_file.n_rows)
    run.stop()
    writer.wait(timeout_s=120)
    assert writer.written < writer.received
    table = centroids(db[uid], ["toa"], rows=(999_990, 1_000_000))
    np.testing.assert_array_equal(table["toa"], rows(999_990, 1_000_000)["toa"])


def test_a_run_that_the_catalog_refuses_comes_in_by_replay(
    db: Any, writer: CatalogWriter, event_file: EventFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bluesky_tiled_plugins.writing import tiled_writer

    from ophyd_timepix.catalog import CatalogWriteError

    event_file.append(50)
    run = RunDocuments(writer, {"sample": "refused"})
    with monkeypatch.context() as broken:

        def refuse(*_: object) -> None:
            raise OSError("no space left on the catalog's disk")

        broken.setattr(tiled_writer._RunWriter, "stream_datum", refuse)
        uid = run.start()
        run.register(event_file.path, 50)
        run.point(0, 50)
        run.stop()
        with pytest.raises(CatalogWriteError, match=f"run {uid} .*no space left.*catalog replay"):
            writer.wait(timeout_s=60)
    assert writer.failure is not None
    assert writer.failure.backup is not None
    assert "uid" not in db[uid].stop  # what is there of it does not pass for a whole run
    assert replay(writer.failure.backup, db) == uid
    assert len(centroids(db[uid], "x")) == 50
    assert db[uid].stop["exit_status"] == "success"
    assert event_file.path.exists()
    assert replay(writer.failure.backup, db) == uid  # again: nothing to do


def test_a_run_taken_without_a_catalog_goes_into_one_later(db: Any, event_file: EventFile, tmp_path: Path) -> None:
    lines = JsonlWriter(tmp_path / "documents")
    run = RunDocuments(lines)
    uid = run.start()
    for _ in range(30):
        event_file.append(10)
        run.point(event_file.n_rows - 10, event_file.n_rows)
        run.register(event_file.path, event_file.n_rows)
    run.stop()
    assert lines.last_file is not None
    assert replay(lines.last_file, db) == uid
    assert len(centroids(db[uid], "x", point=30)) == 10
    assert len(db[uid].table()) == 30


def test_a_look_right_after_a_run_sees_that_run_whole(writer: CatalogWriter, db: Any, catalog: CatalogProfile) -> None:
    event_file = EventFile(catalog.readable[0] / "just_done.h5")
    run = RunDocuments(writer, {"sample": "just done"})
    uid = run.start()
    event_file.append(50)
    run.point(0, 50)
    run.register(event_file.path, 50)
    run.stop()
    assert db[-1].start["uid"] == uid  # nobody waited for the writer
    assert len(centroids(db[-1], "x")) == 50
    event_file.close()
