"""The master as the NeXus readers of the field see it: scippnexus, silx, nexusformat; and pandas.

One run with every case that a table may have: rows before the first trigger, a shot without rows, a masked pixel, a row
that rounds onto it, and none of them lost on the way.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pytest

from ophyd_timepix.config import Geometry
from ophyd_timepix.events.columns import CENTROIDS, SHOTS
from ophyd_timepix.files import events
from ophyd_timepix.files.event_file import EventFile, tof_edges
from ophyd_timepix.files.master import GAP, MASKED_BY_USER, write_master
from ophyd_timepix.files.reader import read_ledger, read_table
from tests.pages import Guide

ZERO = "2026-11-21T07:00:00.250000+00:00"
SHOT = [-1, -1, 0, 0, 0, 2, -1, 3]
X = [5.0, 6.0, 10.4, 10.6, 255.4, 0.0, 7.0, 30.0]
Y = [5.0, 6.0, 20.0, 20.0, 255.0, 0.0, 7.0, 40.0]
TOA = [100.0, 200.0, 11_000.0, 12_000.0, 13_000.0, 31_000.0, 35_000.0, 41_500.0]
SHOT_TIMES = [10_000.0, 20_000.0, 30_000.0, 40_000.0, 50_000.0]
TOF = [np.nan, np.nan, 1000.0, 2000.0, 3000.0, 1000.0, np.nan, 1500.0]
MASKED = (30, 40)
"""Column, row."""
LEDGER = {"unaccounted": 0, "hits": 20, "centroids": 8, "shots": 5}
START = {"uid": "1b2c", "plan_name": "count", "time": 1_795_244_400.0, "sample": {"name": "CF3I"}}


def write_run(directory: Path, name: str = "run") -> Path:
    """Event file, matrix and master of the run. Returns the master."""
    columns = {"shot": SHOT, "x": X, "y": Y, "toa": TOA, "tof": TOF, "tot": range(8)}
    file = EventFile(
        directory / f"{name}.h5", image_shape=(256, 256), tof_edges_ns=tof_edges((0, 4000), 4), attributes={}
    )
    file.append("centroids", {c.name: np.asarray(columns.get(c.name, [0] * 8), c.dtype) for c in CENTROIDS})
    file.append("shots", {c.name: np.asarray({"time": SHOT_TIMES, "valid": [1] * 5}[c.name], c.dtype) for c in SHOTS})
    for x, y in zip(X, Y, strict=True):
        file.image[int(np.floor(y + 0.5)), int(np.floor(x + 0.5))] += 1
    file.tof[:] = [0, 3, 1, 1]
    file.close()
    mask = np.zeros((256, 256), bool)
    mask[MASKED] = True
    np.savez(directory / "matrix.npz", mask=mask)
    configuration = {
        "request": {"timer_zero_iso": ZERO},
        "matrices": [str(directory / "matrix.npz")],
        "settings": "board: {}\n",
        "detector": {"tpx_chip_ids": "W2_J10"},
    }
    write_master(
        directory / f"{name}.nxs", directory / f"{name}.h5", start=START, configuration=configuration, ledger=LEDGER
    )
    return directory / f"{name}.nxs"


@pytest.fixture(scope="module")
def master(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A master whose directory was moved after the run: its links must be relative."""
    made = tmp_path_factory.mktemp("made")
    write_run(made)
    moved = made.with_name(made.name + "-moved")
    shutil.move(made, moved)
    return moved / "run.nxs"


def detector_of(loaded: Any) -> Any:
    return loaded["instrument"]["timepix"]


@pytest.fixture(scope="module")
def by_scippnexus(master: Path) -> Any:
    snx = pytest.importorskip("scippnexus")
    with snx.File(master) as file:
        return file["entry"][()]


def test_scippnexus_has_the_image_on_axes_in_metres_with_the_mask(by_scippnexus):
    image = detector_of(by_scippnexus)["data"]
    assert image.dims == ("y_pixel_offset", "x_pixel_offset")
    assert str(image.unit) == "counts"
    assert image.values[20, 10] == 1
    assert image.values.sum() == 8
    assert str(image.coords["x_pixel_offset"].unit) == "m"
    assert image.coords["x_pixel_offset"].values[129] == pytest.approx(1.5 * 55e-6)
    (mask,) = image.masks.values()
    assert np.argwhere(mask.values).tolist() == [[MASKED[1], MASKED[0]]]


def test_scippnexus_bins_every_event_into_its_pixel(by_scippnexus):
    events = detector_of(by_scippnexus)["timepix_events"]
    sizes = events.bins.size()
    image = detector_of(by_scippnexus)["data"]
    assert sizes.values.sum() == 8
    assert np.array_equal(sizes.values, image.values)
    assert set(events.masks) == set(image.masks)
    inside = events["y_pixel_offset", 20]["x_pixel_offset", 11].value
    assert str(inside.coords["event_time_offset"].unit) == "µs"
    assert inside.coords["event_time_offset"].values.tolist() == [2.0]


def test_scippnexus_gives_events_the_time_of_their_shot_as_a_date(by_scippnexus):
    event = detector_of(by_scippnexus)["timepix_events"]["y_pixel_offset", 0]["x_pixel_offset", 0].value
    zero = event.coords["event_time_zero"].values[0]
    assert zero == np.datetime64("2026-11-21T07:00:00.250030000")


def test_scippnexus_draws_the_spectrum_in_ns_by_default(by_scippnexus):
    spectrum = by_scippnexus["tof_spectrum"]
    assert spectrum.values.tolist() == [0, 3, 1, 1]
    assert spectrum.coords["time_of_flight"].values.tolist() == [500, 1500, 2500, 3500]
    assert str(spectrum.coords["time_of_flight"].unit) == "ns"


def test_scippnexus_reads_some_shots_only(master):
    snx = pytest.importorskip("scippnexus")
    with snx.File(master) as file:
        some = file["entry/timepix_events"]["event_time_zero", 4:5]
    assert some.bins.size().values.sum() == 1


def test_silx_draws_spectrum_and_image_with_their_axes(master):
    nxdata = pytest.importorskip("silx.io.nxdata")
    silx_io = pytest.importorskip("silx.io")
    with silx_io.open(str(master)) as file:
        default = nxdata.get_default(file)
        assert default.is_valid
        assert default.signal.name == "/entry/tof_spectrum/counts"
        assert [axis.name for axis in default.axes] == ["/entry/tof_spectrum/time_of_flight"]
        assert default.signal[()].tolist() == [0, 3, 1, 1]
        assert default.axes[0].attrs["units"] == "ns"
        picture = nxdata.NXdata(file["entry/image"])
        assert picture.is_valid
        assert not picture.issues
        assert picture.is_image
        assert picture.axes[1].attrs["units"] == "m"
        assert picture.signal[20, 10] == 1


def test_silx_follows_the_links_to_the_tables(master):
    silx_io = pytest.importorskip("silx.io")
    with silx_io.open(str(master)) as file:
        assert file["entry/centroids/x"][()].tolist() == pytest.approx(X)
        assert file["entry/shots/time"][()].tolist() == SHOT_TIMES


def test_nexusformat_finds_the_default_plot_the_events_and_the_tables(master):
    nexus = pytest.importorskip("nexusformat.nexus")
    root = nexus.nxload(str(master))
    plot = root.plottable_data
    assert plot.nxsignal.nxvalue.tolist() == [0, 3, 1, 1]
    assert plot.nxaxes[0].attrs["units"] == "ns"
    detector = root["entry/instrument/timepix"]
    assert detector.nxclass == "NXdetector"
    assert detector["timepix_events"].nxclass == "NXevent_data"
    assert detector["timepix_events/event_time_offset"].attrs["units"] == "microsecond"
    assert root["entry/centroids/toa"].nxvalue.tolist() == TOA
    assert root["entry/image"].nxsignal.nxvalue.sum() == 8
    assert root["entry/title"].nxvalue == "count"


def test_pandas_gets_the_flat_tables_through_the_master(tmp_path):
    master = write_run(tmp_path)
    table = pd.DataFrame(read_table(master, "centroids"))
    assert list(table["x"]) == pytest.approx(X)
    assert list(table.columns.sort_values()) == sorted(c.name for c in CENTROIDS)
    assert table["tof"].isna().sum() == 3
    assert read_ledger(master) == LEDGER


def test_events_correspond_to_rows_and_pulses_to_shots(master):
    """Rows outside any shot are pulses of their own; a shot without rows is an empty pulse."""
    with h5py.File(master) as file:
        group = file["entry/timepix_events"]
        assert group["shot"][:].tolist() == [-1, 0, 1, 2, -1, 3, 4]
        assert group["event_index"][:].tolist() == [0, 2, 5, 5, 6, 7, 8]
        assert group["event_time_zero"][:].tolist() == [100, 10_000, 20_000, 30_000, 35_000, 40_000, 50_000]
        assert group["valid"][:].tolist() == [0, 1, 1, 1, 0, 1, 1]
        assert group["event_id"][:].tolist() == [
            5 * 257, 6 * 257, 20 * 256 + 10, 20 * 256 + 11, 65_535, 0, 7 * 257, 40 * 256 + 30
        ]  # fmt: skip
        offsets = group["event_time_offset"][:]
        assert np.array_equal(offsets * 1000, np.asarray(TOF, "f4"), equal_nan=True)
        types = {name: group[name].dtype.str for name in ("event_id", "event_index", "event_time_offset")}
        assert types == {"event_id": "<u4", "event_index": "<u8", "event_time_offset": "<f4"}


@pytest.mark.parametrize("step", [1, 2, 3, 7])
def test_the_size_of_the_pieces_changes_nothing(master, tmp_path, monkeypatch, step):
    monkeypatch.setattr(events, "STEP_ROWS", step)
    again = write_run(tmp_path)
    with h5py.File(master) as one, h5py.File(again) as other:
        for name in one["entry/timepix_events"]:
            left, right = one["entry/timepix_events"][name][()], other["entry/timepix_events"][name][()]
            assert left.tobytes() == right.tobytes(), name


def test_everything_about_the_run_is_inside(master):
    with h5py.File(master) as file:
        entry = file["entry"]
        assert json.loads(entry["start_document/data"][()])["uid"] == "1b2c"
        assert entry["settings/data"][()] == b"board: {}\n"
        assert json.loads(entry["configuration/data"][()])["detector"] == {"tpx_chip_ids": "W2_J10"}
        assert json.loads(entry["ledger/data"][()]) == LEDGER
        assert entry["sample/name"][()] == b"CF3I"
        assert entry["start_time"][()] == b"2026-11-21T07:00:00+00:00"
        assert entry["end_time"][()] == b"2026-11-21T07:00:00.250050+00:00"
        assert entry["instrument/timepix/serial_number"][()] == b"W2_J10"
        assert entry["instrument/timepix/pixel_mask"][MASKED[1], MASKED[0]] == MASKED_BY_USER
        link = entry.get("centroids", getlink=True)
        assert (link.filename, link.path) == ("run.h5", "/entry/centroids")


def test_a_run_without_a_single_row_opens_everywhere(tmp_path):
    file = EventFile(tmp_path / "run.h5", image_shape=(256, 256), tof_edges_ns=tof_edges((0, 4), 4), attributes={})
    file.close()
    path = tmp_path / "run.nxs"
    write_master(path, tmp_path / "run.h5", start={}, configuration={}, ledger={})
    assert pd.DataFrame(read_table(path, "centroids")).empty
    snx = pytest.importorskip("scippnexus")
    with snx.File(path) as opened:
        assert detector_of(opened["entry"][()])["timepix_events"].bins.size().values.sum() == 0
    nexus = pytest.importorskip("nexusformat.nexus")
    assert nexus.nxload(str(path)).plottable_data.nxsignal.nxvalue.sum() == 0


def test_the_gaps_of_a_quad_are_masked(tmp_path):
    quad = Geometry.for_chips(4)
    file = EventFile(
        tmp_path / "run.h5", image_shape=(quad.height_px, quad.width_px), tof_edges_ns=tof_edges((0, 4), 4),
        attributes={},
    )  # fmt: skip
    file.close()
    configuration = {"request": {"geometry": quad.model_dump(mode="json")}}
    write_master(tmp_path / "run.nxs", tmp_path / "run.h5", start={}, configuration=configuration, ledger={})
    with h5py.File(tmp_path / "run.nxs") as opened:
        mask = opened["entry/instrument/timepix/pixel_mask"][:]
    assert np.count_nonzero(mask == GAP) == 516**2 - 4 * 256**2
    assert mask[257, 257] == GAP
    assert mask[0, 0] == mask[255, 255] == 0


def test_an_existing_master_is_never_overwritten_and_nothing_is_left_behind(tmp_path):
    path = write_run(tmp_path)
    before = path.read_bytes()
    with pytest.raises(FileExistsError, match="never overwritten"):
        write_master(path, tmp_path / "run.h5", start={}, configuration={}, ledger={})
    assert path.read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["matrix.npz", "run.h5", "run.nxs"]


def test_every_line_of_python_in_the_how_to_runs(tmp_path, monkeypatch):
    pytest.importorskip("scippnexus")
    monkeypatch.chdir(tmp_path)
    write_run(tmp_path, "events")
    names: dict[str, Any] = {}
    with Guide("docs/how-to/run-without-bluesky.md", "python") as guide:
        guide.run(names)
    assert list(names["centroids"]["toa"]) == TOA
    assert names["events"].bins.size().values.sum() == len(TOA)
    assert (tmp_path / "vmi.png").exists()
