"""The guide `ask-for-centroids`: each of its code blocks runs, one after the other, on a recorded run."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ophyd_timepix.catalog import CatalogProfile, CatalogWriter
from tests.catalog.gated_run import record
from tests.pages import Guide


@pytest.fixture
def written(db: Any, catalog: CatalogProfile, tmp_path: Path) -> None:
    writer = CatalogWriter(catalog.name, backup_directory=tmp_path / "backup")
    record(writer, catalog.readable[0] / f"{tmp_path.name}.h5", sample="methyl iodide")
    writer.close(timeout_s=60)
    assert writer.failure is None


@pytest.mark.usefixtures("written")
def test_every_block_of_the_guide_runs(catalog: CatalogProfile) -> None:
    names: dict[str, Any] = {}
    with Guide("docs/how-to/ask-for-centroids.md", "python") as guide:
        guide.run(names, changes={'"timepix"': f'"{catalog.name}"'})
    assert len(names["table"]) == 3
    assert names["found"].counts == names["table"]["iodine_counts"].sum() + _cancelled(names)
    assert names["calibration"].tof_ns(142) == pytest.approx(14_700, abs=50)
    assert int(names["picture"].sum()) > 100
    assert names["fine"].shape == (512, 512)
    assert np.all(names["per_point"].sum("tof") > 0)


def _cancelled(names: dict[str, Any]) -> int:
    """Counts in the gate of what belongs to no point."""
    every, points = (names["centroids"](names["run"], [], gate=names["iodine"], point=p) for p in (None, "all"))
    return len(every) - len(points)
