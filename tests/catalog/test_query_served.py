"""Questions to a Tiled server over HTTP, as from a machine that has none of the files."""

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from ophyd_timepix.catalog import CatalogError, CatalogProfile, CatalogWriter, centroids, counts, open_catalog, regate
from ophyd_timepix.catalog.columns import ServedColumns
from ophyd_timepix.catalog.profile import connect_catalog
from ophyd_timepix.config import Gate
from tests.catalog.gated_run import GatedRun, record
from tests.catalog.test_serve import STOP_TIMEOUT_S, start

IODINE = Gate(name="iodine", tof=(13_800, 14_000))


@pytest.fixture(scope="module")
def scan(db: Any, catalog: CatalogProfile, tmp_path_factory: pytest.TempPathFactory) -> GatedRun:
    writer = CatalogWriter(catalog.name, backup_directory=tmp_path_factory.mktemp("served"))
    scan = record(writer, catalog.readable[0] / "gated_and_served.h5", shots=True)
    writer.close(timeout_s=60)
    return scan


@pytest.fixture(scope="module")
def remote(catalog: CatalogProfile, profiles: Path) -> Iterator[Any]:
    server = start(catalog.name, profiles)
    connect_catalog(server.address, "elsewhere")
    yield open_catalog("elsewhere")
    server.process.send_signal(signal.SIGTERM)
    server.process.communicate(timeout=STOP_TIMEOUT_S)


def test_a_server_answers_as_the_files_do(remote: Any, scan: GatedRun, db: Any) -> None:
    far, near = remote.v3[scan.uid], db.v3[scan.uid]
    pd.testing.assert_frame_equal(
        centroids(far, ["x", "tof"], gate=IODINE, point=2, direct=False),
        centroids(near, ["x", "tof"], gate=IODINE, point=2),
    )
    pd.testing.assert_frame_equal(regate(far, IODINE, direct=False), regate(near, IODINE))
    assert counts(far, IODINE, direct=False) == counts(near, IODINE)
    lazy = centroids(far, ["tof"], form="dask", direct=False).compute(scheduler="synchronous")
    pd.testing.assert_frame_equal(lazy, centroids(near, ["tof"]))


def test_rows_that_a_server_does_not_give_are_named_with_their_file() -> None:
    class Refusing:
        dtype, shape = np.dtype("f8"), (100,)

        def __getitem__(self, rows: slice) -> None:
            raise RuntimeError("500: Internal Server Error")

    columns = ServedColumns({"tof": Refusing()}, "/data/run.h5")
    with columns.opened() as read, pytest.raises(CatalogError) as refused:
        read("tof", 5, 200)
    assert "does not serve rows 5 to 100 of the column 'tof' (500: Internal Server Error)" in str(refused.value)
    assert "they are in /data/run.h5: was it moved" in str(refused.value)
