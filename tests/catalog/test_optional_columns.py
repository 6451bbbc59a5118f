"""Columns that the processing asks for (energy, inferred triggers) are in the catalog like any other."""

from pathlib import Path
from typing import Any

import bluesky.plans as bp
import numpy as np
import pytest
from bluesky import RunEngine

from ophyd_timepix.catalog import CatalogProfile, centroids, counts, image
from ophyd_timepix.config import Calibration, Gate, Processing
from ophyd_timepix.devices import SpidrBoard, TimepixDetector
from ophyd_timepix.events.columns import CENTROIDS
from ophyd_timepix.wiring import install
from tests.bluesky_fixtures import RE, fake_board, spidr
from tests.fakes import ROWS, FakePipeline

__all__ = ["RE", "fake_board", "spidr"]

COLUMNS = [*(column.name for column in CENTROIDS), "energy"]
N_POINTS = 2
GATE = Gate(name="all", roi=(0, 256, 0, 256))


@pytest.fixture
def run(RE: RunEngine, spidr: SpidrBoard, catalog: CatalogProfile, db: Any, tmp_path: Path) -> Any:
    """A run with both columns, as the catalog has it."""
    chip = Calibration(energy_abct=[(1.8, 12, 60, 2)]).save(tmp_path / "chip.npz")
    data = catalog.readable[0] / tmp_path.name
    detector = TimepixDetector(spidr, name="tpx", data_dir=data, shots=100, pipeline=FakePipeline)
    detector.processing.adopt(Processing(calibration=chip, trigger_period_ns=1e6, missing_triggers="infer"))
    installation = install(RE, [detector], catalog=catalog.name, min_free_bytes=0)
    (uid,) = RE(bp.count([detector], num=N_POINTS)).run_start_uids
    installation.uninstall()
    detector.close()
    return db.v3[uid]


def energies() -> np.ndarray:
    expected = np.arange(N_POINTS * ROWS, dtype=np.float32)
    expected[::ROWS] = np.nan
    return expected


def test_they_are_read_like_any_other_and_chosen_by(run: Any) -> None:
    assert list(centroids(run).columns) == COLUMNS
    for direct in (True, False):
        found = centroids(run, ["energy", "tot"], direct=direct)
        np.testing.assert_array_equal(found["energy"], energies())
        assert found["energy"].dtype == np.float32
        assert counts(run, GATE, direct=direct).counts == N_POINTS * ROWS
    np.testing.assert_array_equal(centroids(run, "energy", point=2)["energy"], energies()[ROWS:])
    np.testing.assert_array_equal(centroids(run, "energy", form="dask").compute()["energy"], energies())
    lazy = centroids(run, "energy", form="xarray")["energy"]
    np.testing.assert_array_equal(lazy.values, energies())
    assert lazy.attrs["units"] == "keV"
    np.testing.assert_array_equal(run["tpx_centroids"]["tpx_centroids_energy"][:], energies())
    # a window leaves out what has no energy
    assert list(centroids(run, "energy", energy=(3, 7))["energy"]) == [3, 4, 5, 6]
    assert len(centroids(run, "energy", energy=(None, None))) == N_POINTS * (ROWS - 1)
    assert counts(run, energy=(3, 7)).counts == image(run, energy=(3, 7)).sum() == 4
    # shots that were put in
    shots = run["tpx_shots"]
    inferred, valid = shots["tpx_shots_inferred"][:], shots["tpx_shots_valid"][:]
    assert inferred.sum() == N_POINTS
    assert not valid[inferred == 1].any()
    assert np.array_equal(np.asarray(shots.read(["tpx_shots_inferred"])["tpx_shots_inferred"]), inferred)
