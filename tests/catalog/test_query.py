"""Questions about single centroids, through the event file and through the catalog alone, against the rows recorded."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from ophyd_timepix.catalog import (
    CatalogError,
    CatalogProfile,
    CatalogWriter,
    EventFileError,
    centroids,
    counts,
    image,
    points,
    recorded,
    regate,
    selection,
    tof_spectrum,
)
from ophyd_timepix.catalog.recorded import Recorded
from ophyd_timepix.config import Gate, MassCalibration
from tests.catalog.conftest import COLUMNS, RunDocuments
from tests.catalog.gated_run import IODINE_TOF_NS, METHYL_TOF_NS, GatedRun, record

CALIBRATION = MassCalibration.from_peaks([(127, IODINE_TOF_NS), (15, METHYL_TOF_NS)])
IODINE = Gate(name="iodine", tof=(IODINE_TOF_NS - 100, IODINE_TOF_NS + 100))
METHYL = Gate(name="methyl", mq=(14, 16))


@pytest.fixture(scope="module")
def send(db: Any, catalog: CatalogProfile, tmp_path_factory: pytest.TempPathFactory) -> Iterator[CatalogWriter]:
    writer = CatalogWriter(catalog.name, backup_directory=tmp_path_factory.mktemp("query") / "backup")
    yield writer
    writer.close(timeout_s=60)
    assert writer.failure is None


@pytest.fixture(scope="module")
def scan(send: CatalogWriter, catalog: CatalogProfile) -> GatedRun:
    return record(send, catalog.readable[0] / "gated.h5", sample="gated")


@pytest.fixture(scope="module")
def run(scan: GatedRun, send: CatalogWriter, db: Any) -> Any:
    """The run as the catalog gives it: looked up once for all tests."""
    send.wait(timeout_s=60)
    return db.v3[scan.uid]


@pytest.fixture(autouse=True)
def looked_up_once(scan: GatedRun, monkeypatch: pytest.MonkeyPatch, looked_up: dict[Any, Recorded]) -> None:
    """What the catalog says of the finished scan does not change: asking it for each question would take most time."""

    def look_up(run: Any, detector: str | None, catalog: str, *, direct: bool) -> Recorded:
        key = (getattr(run, "metadata", {}).get("start", {}).get("uid"), detector, direct)
        if key[0] != scan.uid:
            return recorded.look_up(run, detector, catalog, direct=direct)
        if key not in looked_up:
            looked_up[key] = recorded.look_up(run, detector, catalog, direct=direct)
        return looked_up[key]

    monkeypatch.setattr(selection, "look_up", look_up)


@pytest.fixture(scope="module")
def looked_up() -> dict[Any, Recorded]:
    return {}


@pytest.fixture(params=[1 << 20, 16], ids=["one block", "blocks of 16 rows"])
def block_rows(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Runs are cut into blocks of so many rows."""
    monkeypatch.setattr(selection, "BLOCK_ROWS", request.param)
    return int(request.param)


@pytest.fixture(params=["from the file", "from the file in blocks of 16 rows", "through the catalog"])
def direct(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Where the rows are read."""
    if "16" in request.param:
        monkeypatch.setattr(selection, "BLOCK_ROWS", 16)
    return "file" in request.param


def expected_counts(scan: GatedRun, keep: "pd.Series[bool]", first: int, stop: int) -> tuple[int, int, float, float]:
    """Counts, shots, mean and standard error in the valid shots of [first, stop), one shot at a time."""
    shots = [shot for shot in range(first, stop) if scan.valid[shot]]
    per_shot = [int((scan.rows["shot"][keep] == shot).sum()) for shot in shots]
    return sum(per_shot), len(shots), np.mean(per_shot), np.std(per_shot, ddof=1) / math.sqrt(len(shots))


def test_only_rows_of_valid_shots_are_given_unless_all_are_asked_for(scan: GatedRun, run: Any, direct: bool) -> None:
    assert 0 < scan.is_valid.sum() < len(scan.rows)
    table = centroids(run, direct=direct, valid_only=direct)  # the catalog alone does not know which shots are valid
    expected = scan.rows[scan.is_valid] if direct else scan.rows
    pd.testing.assert_frame_equal(table, expected.rename_axis("row"), check_index_type=False)
    if not direct:
        with pytest.raises(
            CatalogError, match=rf"no stream 'tpx_shots', and the event file {scan.path} .*valid_only=F"
        ):
            centroids(run, direct=False)


WINDOWS: dict[str, tuple[dict[str, Any], Any]] = {
    "tof": ({"tof": (4790, 4810)}, lambda r: (r.tof >= 4790) & (r.tof < 4810)),
    "any tof": ({"tof": (None, None)}, lambda r: r.tof.notna()),
    "mq": ({"mq": (120, 134), "calibration": CALIBRATION}, lambda r: r.tof > 10_000),
    "roi": ({"roi": (10, 128, 0, 100.5)}, lambda r: (r.x >= 10) & (r.x < 128) & (r.y < 100.5)),
    "x and y": ({"x": (10, 128), "y": (None, 100.5)}, lambda r: (r.x >= 10) & (r.x < 128) & (r.y < 100.5)),
    "tot and size": ({"tot": (100, None), "size": (2, 4)}, lambda r: (r.tot >= 100) & r["size"].isin([2, 3])),
    "shots": ({"shots": (40, 60)}, lambda r: (r.shot >= 40) & (r.shot < 60)),
    "gate": ({"gate": IODINE, "size": (2, None)}, lambda r: (r.tof > 10_000) & (r["size"] >= 2)),
    "circle": (
        {"gate": Gate(name="disc", circle=(128, 128, 50))},
        lambda r: np.hypot(r.x.astype(float) - 128, r.y.astype(float) - 128) < 50,
    ),
}


@pytest.mark.parametrize("name", WINDOWS)
def test_windows_keep_what_they_say(scan: GatedRun, run: Any, name: str, direct: bool) -> None:
    which, expected = WINDOWS[name]
    table = centroids(run, ["shot", "tof"], direct=direct, valid_only=direct, **which)
    keep = expected(scan.rows) & (scan.is_valid | (not direct))
    assert 0 < keep.sum() < len(scan.rows)
    assert list(table.index) == list(scan.rows.index[keep])
    np.testing.assert_array_equal(table["tof"], scan.rows["tof"][keep])


def test_points_are_given_in_the_order_asked_for_and_all_of_them_leave_out_what_was_cancelled(
    scan: GatedRun, run: Any, block_rows: int
) -> None:
    def rows(point: int) -> list[int]:
        return list(range(scan.points["row_start"][point], scan.points["row_stop"][point]))

    assert list(centroids(run, "x", point=2, valid_only=False).index) == rows(2)
    assert list(centroids(run, "x", point=[3, 1], valid_only=False).index) == rows(3) + rows(1)
    every = centroids(run, "x", point="all", valid_only=False)
    assert list(every.index) == rows(1) + rows(2) + rows(3)
    assert len(every) < len(scan.all_rows)


def test_what_was_cancelled_is_in_no_answer_unless_it_is_asked_for(scan: GatedRun, run: Any, block_rows: int) -> None:
    points = regate(run, IODINE)
    assert counts(run, IODINE).counts == points["iodine_counts"].sum()
    assert counts(run).shots == points["tpx_n_valid_shots"].sum()
    for kept, cancelled, valid in ((scan.rows, False, scan.valid), (scan.all_rows, True, scan.all_valid)):
        assert list(centroids(run, "x", valid_only=False, cancelled=cancelled).index) == list(kept.index)
        assert counts(run, cancelled=cancelled).shots == valid.sum()
        assert counts(run, valid_only=False, cancelled=cancelled).counts == len(kept)
        assert int(image(run, valid_only=False, cancelled=cancelled).sum()) == len(kept)
        assert int(tof_spectrum(run, valid_only=False, cancelled=cancelled).sum()) == kept["tof"].notna().sum()


def test_a_dask_table_has_the_rows_of_the_pandas_table_in_partitions_of_a_block(
    scan: GatedRun, run: Any, block_rows: int
) -> None:
    which: dict[str, Any] = {"gate": METHYL, "calibration": CALIBRATION, "columns": ["x", "tof"]}
    lazy = centroids(run, form="dask", **which)
    assert lazy.npartitions == math.ceil(len(scan.all_rows) / block_rows)
    assert lazy.known_divisions
    table = centroids(run, **which)
    pd.testing.assert_frame_equal(lazy.compute(scheduler="threads"), table)
    assert lazy["x"].mean().compute(scheduler="threads") == pytest.approx(table["x"].mean())
    backwards = centroids(run, form="dask", point=[3, 1], **which)
    pd.testing.assert_frame_equal(backwards.compute(scheduler="threads"), centroids(run, point=[3, 1], **which))


def test_a_dask_table_reads_nothing_before_it_is_computed(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from ophyd_timepix.catalog.columns import FileColumns

    monkeypatch.setattr(FileColumns, "opened", None)
    centroids(run, form="dask", tof=(0, 100))
    centroids(run, form="xarray", valid_only=False)
    with pytest.raises(TypeError):
        centroids(run, tof=(0, 100))


def test_a_dataset_has_columns_of_known_length_with_units_and_rows(scan: GatedRun, run: Any, direct: bool) -> None:
    which: dict[str, Any] = {"tof": IODINE.tof, "direct": direct, "valid_only": direct}
    table = centroids(run, ["x", "tof"], **which)
    found = centroids(run, ["x", "tof"], form="xarray", **which)
    assert found["x"].shape == (len(table),)
    assert found["tof"].attrs["units"] == "ns"
    assert found["x"].dtype == np.float32
    assert found.attrs["uid"] == scan.uid
    loaded = found.compute(scheduler="synchronous")
    np.testing.assert_array_equal(loaded["x"], table["x"])
    np.testing.assert_array_equal(loaded["row"], table.index)
    whole = centroids(run, form="xarray", direct=direct, valid_only=False)
    assert list(whole) == list(COLUMNS)
    np.testing.assert_array_equal(whole["toa"].compute(scheduler="synchronous"), scan.rows["toa"])


def test_counts_are_the_mean_and_its_error_over_valid_shots(scan: GatedRun, run: Any, block_rows: int) -> None:
    result = counts(run, IODINE)
    keep = scan.rows["tof"].between(*IODINE.tof or (), inclusive="left") & scan.is_valid
    number, shots, mean, error = expected_counts(scan, keep, 0, len(scan.valid))
    assert (result.counts, result.shots) == (number, shots)
    assert result.counts_per_shot == pytest.approx(mean)
    assert result.error == pytest.approx(error)
    assert result.counts_error == pytest.approx(error * shots)
    assert counts(run).counts == scan.is_valid.sum()
    few = counts(run, IODINE, shots=(10, 50))
    assert (few.counts, few.shots) == expected_counts(scan, keep, 10, 50)[:2]


def test_a_table_of_gates_and_points_is_what_single_questions_give(scan: GatedRun, run: Any, block_rows: int) -> None:
    both = counts(run, [IODINE, METHYL], per_point=True, calibration=CALIBRATION)
    assert both.index.names == ["seq_num", "gate"]
    for point in scan.points.index:
        assert both.loc[(point, "iodine"), "counts"] == counts(run, IODINE, point=int(point)).counts
        assert both.loc[(point, "methyl"), "shots"] == counts(run, point=int(point)).shots == 38
    together = counts(run, IODINE, point="all")
    assert together.counts == both.xs("iodine", level="gate")["counts"].sum()
    assert together.shots == 3 * 38
    assert list(counts(run, [IODINE, METHYL], calibration=CALIBRATION).index) == ["iodine", "methyl"]


def test_counts_across_runs_have_a_row_per_run(scan: GatedRun, run: Any, db: Any, send: CatalogWriter) -> None:
    empty = RunDocuments(send, {"sample": "gated"})
    uid = empty.start()
    empty.stop()
    send.wait(timeout_s=60)
    table = counts(db(sample="gated"), IODINE)
    assert set(table.index) == {scan.uid, uid}
    assert table.loc[scan.uid, "counts"] == counts(run, IODINE).counts
    assert table.loc[scan.uid, "scan_id"] == 11
    assert table.loc[uid, "counts"] == 0
    points = counts([run], IODINE, per_point=True)
    assert points.index.names == ["uid", "seq_num"]
    assert len(points) == 3


def test_regating_gives_the_table_that_the_scan_would_have_had(scan: GatedRun, run: Any, block_rows: int) -> None:
    table = regate(run, [IODINE, METHYL], calibration=CALIBRATION)
    assert list(table.index) == [1, 2, 3]
    assert list(table["delay"]) == [0.5, 1.0, 1.5]
    assert list(table["tpx_row_stop"]) == list(scan.points["row_stop"])
    for gate, low, high in (("iodine", 13_800, 14_000), ("methyl", 4_000, 5_500)):
        keep = scan.rows["tof"].between(low, high, inclusive="left") & scan.is_valid
        for seq_num, point in scan.points.iterrows():
            number, _, mean, error = expected_counts(scan, keep, point["shot_start"], point["shot_stop"])
            assert table[f"{gate}_counts"][seq_num] == number
            assert table[f"{gate}_counts_per_shot"][seq_num] == pytest.approx(mean)
            assert table[f"{gate}_error"][seq_num] == pytest.approx(error)
    assert table["iodine_counts_per_shot"].is_monotonic_decreasing  # the gate follows the delay


def test_a_table_of_points_begins_with_what_was_scanned_and_what_is_plotted(scan: GatedRun, run: Any) -> None:
    table = points(run)
    assert list(table.columns)[:3] == ["time", "delay", "tpx_n_valid_shots"]
    assert list(table["tpx_row_stop"]) == list(scan.points["row_stop"])
    assert set(table.columns) >= {f"tpx_{name}" for name in scan.points}


def test_a_picture_counts_centroids_per_pixel(scan: GatedRun, run: Any, block_rows: int) -> None:
    kept = scan.rows[scan.is_valid]
    edges = np.arange(257) - 0.5
    expected, _, _ = np.histogram2d(kept["y"], kept["x"], bins=(edges, edges))
    picture = image(run)
    np.testing.assert_array_equal(picture, expected)
    assert picture.dims == ("y", "x")
    assert picture.sel(x=10, y=20) == expected[20, 10]
    fine = image(run, bins_per_px=4, gate=IODINE)
    coarse = fine.coarsen(x=4, y=4).sum()
    np.testing.assert_array_equal(coarse, image(run, gate=IODINE))
    np.testing.assert_allclose(coarse["x"], picture["x"])
    pictures = image(run, per_point=True)
    assert pictures.dims == ("seq_num", "y", "x")
    np.testing.assert_array_equal(pictures.sum("seq_num"), image(run, point="all"))


def test_a_spectrum_counts_centroids_per_bin_and_knows_masses(scan: GatedRun, run: Any, block_rows: int) -> None:
    spectrum = tof_spectrum(run, tof=(4_700, 4_900), bin_ns=10, calibration=CALIBRATION)
    kept = scan.rows["tof"][scan.is_valid]
    expected, _ = np.histogram(kept[kept < 4_900], np.arange(4_700, 4_901, 10))
    np.testing.assert_array_equal(spectrum, expected)
    assert spectrum["tof"].values[0] == 4_705
    assert float(spectrum["mq"].interp(tof=METHYL_TOF_NS)) == pytest.approx(15, rel=1e-3)
    assert int(tof_spectrum(run).sum()) == len(kept)  # all there is, found by itself
    cut = tof_spectrum(run, range_ns=(4_700, 4_815), bin_ns=50)  # the third bin reaches to 4,850 ns
    assert int(cut.sum()) == len(centroids(run, tof=(4_700, 4_815)))
    assert int(cut[-1]) < int(tof_spectrum(run, range_ns=(4_700, 4_850), bin_ns=50)[-1])
    assert cut.attrs["range_ns"] == (4_700, 4_815)
    apart = tof_spectrum(run, gate=IODINE, tof=(0, 1_000))  # as all questions: nothing lies in both
    assert int(apart.sum()) == len(centroids(run, gate=IODINE, tof=(0, 1_000))) == 0
    of_points = tof_spectrum(run, mq=(120, 134), calibration=CALIBRATION, per_point=True)
    assert list(of_points.sum("tof").values) == list(regate(run, IODINE)["iodine_counts"])


def test_wrong_questions_are_refused_with_a_way_out(run: Any) -> None:
    wrong: list[tuple[str, Any]] = [
        ("leaves the sensor: x from 0 to 300 px", lambda: centroids(run, roi=(0, 300, 0, 10))),
        ("no calibration; give calibration=", lambda: centroids(run, mq=(1, 2))),
        ("by tof= or by mq=", lambda: centroids(run, mq=(1, 2), tof=(1, 2))),
        ("by roi= or by x= and y=", lambda: centroids(run, x=(1, 2), roi=(1, 2, 1, 2))),
        ("window of size is empty", lambda: centroids(run, size=(3, 2))),
        ("no form 'list'; there are: pandas", lambda: centroids(run, form="list")),  # type: ignore[arg-type]
        ("give a seq_num, several, or 'all'", lambda: centroids(run, point="last")),
        ("only any to 20000 ns are recorded", lambda: counts(run, Gate(name="late", tof=(20_000, None)))),
        ("two gates have the name 'iodine'", lambda: regate(run, [IODINE, IODINE])),
        ("no gate; give a Gate", lambda: regate(run, [])),
        ("do not say how many shots", lambda: counts(run, IODINE, rows=(0, 10))),
        ("goes with point=, not with rows=", lambda: counts(run, IODINE, rows=(0, 10), per_point=True)),
        ("bins_per_px is 0", lambda: image(run, bins_per_px=0)),
        ("bin_ns is -1 ns", lambda: tof_spectrum(run, bin_ns=-1)),
        ("range_ns is empty", lambda: tof_spectrum(run, range_ns=(5, 5))),
        ("bin_ns is nan ns", lambda: tof_spectrum(run, bin_ns=math.nan)),
        ("makes 1e.13 bins from 0 to 10000 ns", lambda: tof_spectrum(run, range_ns=(0, 10_000), bin_ns=1e-9)),
        ("point 1 is asked for twice", lambda: counts(run, IODINE, point=[1, 1])),
    ]
    for message, question in wrong:
        with pytest.raises(ValueError, match=message):
            question()


def test_of_several_detectors_in_a_run_one_is_to_be_chosen_and_the_run_is_named() -> None:
    class Run:
        metadata = {"start": {"uid": "ea04cbfa", "scan_id": 7}}  # noqa: RUF012

    with pytest.raises(ValueError, match=r"in run ea04cbfa \(scan 7\); choose with detector=: 'a', 'b'"):
        recorded._stream_of(Run(), {"a_centroids": None, "b_centroids": None}, None)


def test_without_triggers_all_rows_are_given_and_counts_have_no_rate(
    send: CatalogWriter, catalog: CatalogProfile, db: Any
) -> None:
    scan = record(send, catalog.readable[0] / "untriggered.h5", triggers=False, geometry=False)
    send.wait(timeout_s=60)
    run = db.v3[scan.uid]
    assert len(centroids(run, "x")) == len(scan.rows)
    result = counts(run)
    assert (result.counts, result.shots) == (len(scan.rows), 0)
    assert math.isnan(result.counts_per_shot)
    assert result.counts_error == pytest.approx(math.sqrt(len(scan.rows)))
    assert image(run).shape == (256, 256)  # the documents do not tell its size, the event file does


def test_a_stream_of_shots_without_a_row_says_that_nobody_gave_triggers(
    send: CatalogWriter, catalog: CatalogProfile, db: Any
) -> None:
    scan = record(send, catalog.readable[0] / "untriggered_stream.h5", triggers=False, shots=True)
    send.wait(timeout_s=60)
    run = db.v3[scan.uid]
    assert len(centroids(run, "x", direct=False)) == len(scan.rows)
    result = counts(run, direct=False)
    assert (result.counts, result.shots) == (len(scan.rows), 0)


def test_a_run_without_centroids_reads_back_as_empty_tables_of_the_right_types(send: CatalogWriter, db: Any) -> None:
    documents = RunDocuments(send)
    uid = documents.start()
    documents.point(0, 0)
    documents.stop()
    send.wait(timeout_s=60)
    run = db.v3[uid]
    for table in (centroids(run, tof=(0, 100)), centroids(run, form="dask").compute()):
        assert [str(dtype.str) for dtype in table.dtypes] == list(COLUMNS.values())
        assert len(table) == 0
        assert table.index.name == "row"
    empty = centroids(run, form="xarray", mq=(1, 2), calibration=CALIBRATION)
    assert {name: str(empty[name].dtype.str) for name in empty} == COLUMNS
    assert counts(run, IODINE).counts == 0
    assert int(tof_spectrum(run).sum()) == 0
    assert int(image(run, size_px=(256, 256)).sum()) == 0
    with pytest.raises(CatalogError, match="how large its picture is; give size_px="):
        image(run)
    with pytest.raises(CatalogError, match="which shots belong to a point"):
        regate(run, IODINE)


def test_an_event_file_that_was_moved_is_named_with_the_way_to_mend_it(
    send: CatalogWriter, catalog: CatalogProfile, db: Any
) -> None:
    old, new = catalog.readable[0] / "old", catalog.readable[0] / "new"
    old.mkdir()
    scan = record(send, old / "moved.h5")
    send.wait(timeout_s=60)
    old.rename(new)
    run = db.v3[scan.uid]
    for question in (lambda: centroids(run), lambda: centroids(run, valid_only=False), lambda: regate(run, IODINE)):
        with pytest.raises(EventFileError, match=rf"{scan.path} is not there any more; .*catalog move {old} NEW"):
            question()
    old.symlink_to(new)  # as good as telling the catalog
    assert len(centroids(run, valid_only=False)) == len(scan.rows)


def test_a_catalog_with_a_stream_of_shots_answers_all_that_the_file_does(
    send: CatalogWriter, catalog: CatalogProfile, db: Any
) -> None:
    scan = record(send, catalog.readable[0] / "shots.h5", shots=True)
    send.wait(timeout_s=60)
    run = db.v3[scan.uid]
    table = centroids(run, direct=False)
    pd.testing.assert_frame_equal(table, scan.rows[scan.is_valid], check_index_type=False, check_names=False)
    assert counts(run, IODINE, direct=False) == counts(run, IODINE)
    pd.testing.assert_frame_equal(
        regate(run, METHYL, calibration=CALIBRATION, direct=False), regate(run, METHYL, calibration=CALIBRATION)
    )
    np.testing.assert_array_equal(image(run, direct=False), image(run))


def test_a_file_of_the_same_name_with_other_columns_is_not_taken_for_the_run(scan: GatedRun, run: Any) -> None:
    from ophyd_timepix.catalog.columns import FileColumns, ServedColumns, choose_columns

    class Served:
        dtype, shape = np.dtype("f8"), (10**9,)

    def choose(path: Path, arrays: Any) -> Any:
        return choose_columns(path, "/entry/centroids", arrays, direct=True)

    assert isinstance(choose(scan.path, {}), FileColumns)
    assert isinstance(choose(scan.path, {"tof": Served}), ServedColumns)  # longer than the file
    assert isinstance(choose(scan.path, {"mass": Served}), ServedColumns)
    assert isinstance(choose(scan.path.parent, {}), ServedColumns)


def test_of_a_running_run_shots_are_counted_whose_rows_are_known(
    send: CatalogWriter, catalog: CatalogProfile, db: Any
) -> None:
    documents: list[tuple[str, Any]] = []
    scan = record(lambda name, doc: documents.append((name, doc)), catalog.readable[0] / "running_rows.h5")
    for name, doc in documents[:-1]:
        send(name, doc)
    send.wait(timeout_s=60)
    run = db.v3[scan.uid]
    last = int(scan.all_rows["shot"].iloc[-1])
    found = counts(run, cancelled=True)
    assert found.shots == scan.all_valid[:last].sum()
    assert found.counts == (scan.all_rows["shot"].between(0, last - 1) & scan.all_valid[scan.all_rows["shot"]]).sum()
    assert len(regate(run, IODINE)) == 3
    assert counts(run, IODINE).counts == regate(run, IODINE)["iodine_counts"].sum()
    send(*documents[-1])
    send.wait(timeout_s=60)


def test_of_a_running_run_shots_are_counted_that_the_catalog_knows(
    send: CatalogWriter, catalog: CatalogProfile, db: Any
) -> None:
    documents: list[tuple[str, Any]] = []
    scan = record(lambda name, doc: documents.append((name, doc)), catalog.readable[0] / "running_shots.h5", shots=True)
    known = 60  # the centroids of all points are known already
    for name, doc in documents[:-1]:
        if name == "stream_datum" and doc["indices"]["stop"] == len(scan.valid):
            doc = {**doc, "indices": {"start": 0, "stop": known}, "seq_nums": {"start": 1, "stop": known + 1}}
        send(name, doc)
    send.wait(timeout_s=60)
    run = db.v3[scan.uid]
    found = counts(run, direct=False, cancelled=True)
    assert found.shots == scan.all_valid[:known].sum()
    every = counts(run, direct=False, valid_only=False, cancelled=True)
    assert (every.shots, every.counts) == (known, (scan.all_rows["shot"].between(-1, known - 1)).sum())
    assert counts(run, direct=False).counts == counts(run, point=1).counts
    assert list(regate(run, IODINE, direct=False).index) == [1]  # the second point ends with shot 87
    send(*documents[-1])
    send.wait(timeout_s=60)
