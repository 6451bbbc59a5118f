import json

import h5py
import numpy as np
import pytest

from ophyd_timepix.events.columns import CENTROIDS
from ophyd_timepix.files.event_file import ACQUISITIONS, CHUNK_ROWS, EventFile, tof_edges
from ophyd_timepix.files.master import write_master
from ophyd_timepix.files.reader import open_event_file, read_ledger, read_table


def rows(n: int, first: int = 0) -> dict[str, np.ndarray]:
    return {c.name: np.arange(first, first + n).astype(c.dtype) for c in CENTROIDS}


@pytest.fixture
def event_file(tmp_path):
    made = EventFile(
        tmp_path / "run.h5",
        image_shape=(256, 256),
        tof_edges_ns=tof_edges((0, 100), 10),
        attributes={"processing": "{}"},
    )
    yield made
    made.close()


def test_rows_are_readable_while_the_file_grows(event_file):
    event_file.append("centroids", rows(3))
    event_file.flush()
    event_file.append("centroids", rows(2, 3))
    event_file.flush()
    table = read_table(event_file.path, "centroids", ["x", "toa"])
    assert table["x"].tolist() == [0, 1, 2, 3, 4]
    assert read_table(event_file.path, "centroids", ["x"], 1, 3)["x"].tolist() == [1, 2]


@pytest.mark.parametrize("flushes", [False, True])
def test_rows_come_back_in_order_however_many_are_appended_at_once(event_file, flushes):
    """Less than a chunk, up to its border, across it, more than two."""
    pieces = [1, CHUNK_ROWS - 1, 10, 2 * CHUNK_ROWS + 7, CHUNK_ROWS - 17, CHUNK_ROWS, 3]
    n = 0
    for piece in pieces:
        event_file.append("centroids", rows(piece, n))
        n += piece
        if flushes:
            event_file.flush()
            assert len(read_table(event_file.path, "centroids", ["toa"])["toa"]) == n
    assert event_file.rows("centroids") == n
    event_file.close()
    table = read_table(event_file.path, "centroids")
    for column in CENTROIDS:
        assert np.array_equal(table[column.name], np.arange(n).astype(column.dtype))


def test_a_column_holds_the_rows_appended_last(event_file):
    event_file.append("centroids", rows(5))
    event_file.column("centroids", "x")[1:3] = 7
    event_file.flush()
    assert read_table(event_file.path, "centroids", ["x"])["x"].tolist() == [0, 7, 7, 3, 4]


@pytest.mark.parametrize("seed", range(3))
def test_what_is_written_into_a_column_stays_whatever_is_appended_behind_it(event_file, seed):
    """Within a chunk, over its border, with readers looking between."""
    rng = np.random.default_rng(seed)
    expected = rows(0)
    for _ in range(60):
        n = len(expected["x"])
        match rng.integers(4):
            case 0:
                event_file.flush()
                assert np.array_equal(read_table(event_file.path, "centroids", ["x"])["x"], expected["x"])
            case 1 if n:
                first = int(rng.integers(n))
                event_file.column("centroids", "x")[first : first + 9] = -1
                expected["x"][first : first + 9] = -1
            case _:
                more = rows(int(rng.choice([1, 500, CHUNK_ROWS // 3, CHUNK_ROWS])), n)
                event_file.append("centroids", more)
                expected = {name: np.concatenate([column, more[name]]) for name, column in expected.items()}
    event_file.close()
    table = read_table(event_file.path, "centroids")
    for name, column in expected.items():
        assert np.array_equal(table[name], column)


def test_a_watcher_is_given_each_row_once_when_it_is_stored(event_file):
    seen: list[float] = []
    event_file.watch("centroids", lambda stored: seen.extend(stored["toa"]))
    event_file.append("centroids", rows(3))
    assert seen == []
    event_file.flush()
    assert seen == [0, 1, 2]
    event_file.append("centroids", rows(CHUNK_ROWS, 3))
    assert len(seen) == CHUNK_ROWS
    event_file.close()
    assert seen == list(range(CHUNK_ROWS + 3))


def test_a_writer_that_died_leaves_all_flushed_rows(event_file, tmp_path):
    event_file.append("centroids", rows(3))
    event_file.flush()
    copy = tmp_path / "left_by_a_killed_writer.h5"
    copy.write_bytes(event_file.path.read_bytes())
    assert read_table(copy, "centroids", ["x"])["x"].tolist() == [0, 1, 2]


def test_every_column_tells_its_unit_and_meaning(event_file):
    with open_event_file(event_file.path) as file:
        for column in CENTROIDS:
            attributes = file["entry/centroids"][column.name].attrs
            assert attributes["long_name"] == column.meaning
            assert attributes.get("units", "") == column.unit
        assert file["entry/centroids/toa"].attrs["units"] == "ns"


def test_an_event_file_is_never_overwritten(event_file):
    with pytest.raises(FileExistsError):
        EventFile(event_file.path, image_shape=(1, 1), tof_edges_ns=np.arange(2), attributes={})


def test_the_ledger_comes_back(event_file):
    event_file.write_ledger({"hits": 3, "unaccounted": 0})
    event_file.close()
    assert read_ledger(event_file.path) == {"hits": 3, "unaccounted": 0}


def test_a_run_without_an_end_has_no_ledger(event_file):
    assert read_ledger(event_file.path) == {}


def test_the_master_links_the_columns_and_holds_the_documents(event_file, tmp_path):
    event_file.append("centroids", rows(3))
    event_file.image[1, 2] = 7
    event_file.tof[4] = 5
    event_file.close()
    master = tmp_path / "run.nxs"
    write_master(
        master, event_file.path, start={"uid": "abc", "plan_name": "count"}, configuration={"a": 1},
        ledger={"unaccounted": 0, "hits": 3},
    )  # fmt: skip
    with h5py.File(master) as file:
        entry = file["entry"]
        assert entry["centroids/x"][:].tolist() == [0, 1, 2]
        assert entry["instrument/timepix/data"][1, 2] == 7
        assert entry["tof_spectrum/counts"][4] == 5
        assert entry["tof_spectrum/time_of_flight"][4] == 45
        assert json.loads(entry["start_document/data"][()])["plan_name"] == "count"
        assert json.loads(entry["ledger/data"][()]) == {"unaccounted": 0, "hits": 3}
        assert entry["ledger"].attrs["unaccounted"] == 0


def test_an_acquisition_can_be_flagged_after_the_fact(event_file):
    for number in (1, 2, 5):
        row = {c.name: np.array([0]) for c in ACQUISITIONS} | {"acquisition": np.array([number])}
        event_file.append("acquisitions", row)
    event_file.flag_cancelled([2, 5])
    event_file.flush()
    assert read_table(event_file.path, "acquisitions", ["cancelled"])["cancelled"].tolist() == [0, 1, 1]


def test_a_finished_file_that_somebody_holds_open_in_this_process_is_read_all_the_same(event_file):
    event_file.append("centroids", rows(3))
    event_file.close()
    with h5py.File(event_file.path) as held:  # as in a notebook
        assert read_table(event_file.path, "centroids", ["x"])["x"].tolist() == [0, 1, 2]
        assert held["entry/centroids/x"].shape == (3,)


def test_a_file_that_is_no_hdf5_is_refused_as_before(tmp_path):
    (tmp_path / "no.h5").write_bytes(b"no")
    with pytest.raises(OSError, match="signature"):
        open_event_file(tmp_path / "no.h5")
    with pytest.raises(FileNotFoundError):
        open_event_file(tmp_path / "gone.h5")
