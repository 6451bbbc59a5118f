"""A run on one page, asked from the catalog."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("matplotlib")

from ophyd_timepix.catalog import CatalogProfile, CatalogWriter, centroids, counts
from ophyd_timepix.config import Gate, MassCalibration
from ophyd_timepix.plots import run_picture
from tests.catalog.conftest import catalog, db, profiles
from tests.catalog.gated_run import record

__all__ = ["catalog", "db", "profiles"]

IODINE = Gate(name="iodine", tof=(13_800, 14_050))


@pytest.fixture
def run(db: Any, catalog: CatalogProfile, tmp_path: Path) -> Any:
    writer = CatalogWriter(catalog.name, backup_directory=tmp_path / "backup")
    recorded = record(writer, catalog.readable[0] / f"{tmp_path.name}.h5")
    writer.close(timeout_s=60)
    return db[recorded.uid]


def test_a_run_on_one_page_counts_what_the_catalog_counts(run: Any, tmp_path: Path) -> None:
    figure = run_picture(run, [IODINE], calibration=MassCalibration(t0_ns=400, k_ns=1200), mass_axis=True)
    titles = {axes.get_title() for axes in figure.axes}
    total, gated = len(centroids(run, ["x"])), counts(run, IODINE).counts
    assert {f"iodine: {gated:,} centroids", f"Cluster size: {total:,} centroids", f"ToT: {total:,} centroids"} <= titles
    assert any(title.endswith(f"{run.start['uid'][:8]}: {total:,} centroids") for title in titles)
    (spectrum,) = (axes for axes in figure.axes if axes.get_title().startswith("Mass spectrum"))
    values = np.asarray(spectrum.patches[0].get_data().values)
    assert values.sum() == pytest.approx(total, rel=0.01)
    figure.savefig(tmp_path / "run.png")


def test_without_gates_there_are_fewer_pictures(run: Any) -> None:
    assert len(run_picture(run).axes) == 6
    with pytest.raises(ValueError, match="an axis of m/q needs a calibration"):
        run_picture(run, mass_axis=True)


def test_all_gates_are_marked_in_the_spectrum_and_an_ended_run_without_ledger_says_so(
    run: Any, catalog: CatalogProfile
) -> None:
    gates = [Gate(name=f"gate_{n}", tof=(13_500 + 100 * n, 13_590 + 100 * n)) for n in range(5)]
    figure = run_picture(run.start["uid"], gates, range_ns=(0, 15_000), catalog=catalog.name)
    (spectrum,) = (axes for axes in figure.axes if axes.get_title().startswith("Time of flight"))
    assert [text.get_text() for text in spectrum.get_legend().get_texts()] == [gate.name for gate in gates]
    assert "no ledger: the run ended without one" in {text.get_text() for axes in figure.axes for text in axes.texts}
