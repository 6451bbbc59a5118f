"""A configuration that changed amid a run, through the writer into the embedded catalog and back."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import bluesky.plan_stubs as bps
import bluesky.plans as bp
import bluesky.preprocessors as bpp
import pytest
from bluesky import RunEngine

from ophyd_timepix.catalog import CatalogProfile, CatalogWriter
from ophyd_timepix.devices import SpidrBoard, TimepixDetector
from ophyd_timepix.wiring import install
from tests.bluesky_fixtures import RE, fake_board, spidr
from tests.catalog.conftest import catalog, db, profiles
from tests.fakes import FakePipeline

__all__ = ["RE", "catalog", "db", "fake_board", "profiles", "spidr"]


@pytest.fixture
def tpx(spidr: SpidrBoard, catalog: CatalogProfile) -> Iterator[TimepixDetector]:
    detector = TimepixDetector(spidr, name="tpx", data_dir=catalog.readable[0], shots=100, pipeline=FakePipeline)
    yield detector
    detector.close()


@pytest.fixture
def writer(RE: RunEngine, tpx: TimepixDetector, catalog: CatalogProfile, db: Any, tmp_path: Path) -> Iterator[Any]:
    installation = install(RE, [tpx], min_free_bytes=0)
    writer = CatalogWriter(catalog.name, backup_directory=tmp_path / "backup")
    RE.subscribe(lambda name, doc: writer(name, doc))
    yield writer
    writer.close()
    installation.uninstall()


def test_both_configurations_and_all_points_are_in_the_catalog(RE, spidr, tpx, db, writer):
    dac = spidr.chip0.dacs.vfbk

    @bpp.stage_decorator([tpx])
    @bpp.run_decorator()
    def plan():
        for value in (100, 100, 101):
            yield from bps.mv(dac, value)
            yield from bps.checkpoint()
            yield from bps.trigger_and_read([tpx])

    uid = RE(plan()).run_start_uids[0]
    writer.wait(60)
    assert writer.failure is None
    run = db.v3[uid]
    metadata = run["primary"].metadata
    assert metadata["configuration"]["tpx"]["data"]["tpx_chip0_vfbk"] == 100
    (update,) = metadata["_config_updates"]
    assert update["configuration"]["tpx"]["data"]["tpx_chip0_vfbk"] == 101
    assert list(run["primary"]["tpx_row_stop"][:]) == [100, 200, 300]
    assert run["tpx_centroids"]["tpx_centroids_x"].shape == (300,)


def test_a_scanned_dac_is_a_column_of_the_table(RE, spidr, tpx, db, writer):
    uid = RE(bp.scan([tpx], spidr.chip0.dacs.vthreshold_fine, 400, 402, 3)).run_start_uids[0]
    writer.wait(60)
    assert list(db[uid].table()["spidr_chip0_dacs_vthreshold_fine"]) == [400, 401, 402]
    assert "_config_updates" not in db.v3[uid]["primary"].metadata
