"""What `recover --catalog` adds to a run that the catalog has, and which files it leaves alone."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from ophyd_timepix.catalog import CatalogError, CatalogProfile, CatalogWriter, NotReadableError, centroids, counts
from ophyd_timepix.catalog.completing import PRODUCT, register_rest
from ophyd_timepix.catalog.moving import missing_files, move_files
from ophyd_timepix.catalog.profile import check_readable, init_catalog
from ophyd_timepix.config import Gate
from tests.catalog.gated_run import GatedRun, record

IODINE = Gate(name="iodine", tof=(13_800, 14_000))


@pytest.fixture(scope="module")
def send(db: Any, catalog: CatalogProfile, tmp_path_factory: pytest.TempPathFactory) -> Iterator[CatalogWriter]:
    writer = CatalogWriter(catalog.name, backup_directory=tmp_path_factory.mktemp("registering"))
    yield writer
    writer.close(timeout_s=60)


@pytest.fixture(scope="module")
def scan(send: CatalogWriter, catalog: CatalogProfile) -> GatedRun:
    scan = record(send, catalog.readable[0] / "of_the_run.h5")
    send.wait(timeout_s=60)
    return scan


def test_a_file_that_somebody_made_of_the_run_is_left_alone(scan: GatedRun, db: Any, catalog: CatalogProfile) -> None:
    before = counts(db.v3[scan.uid], IODINE)
    other_name, other_place = scan.path.with_name("wide.h5"), scan.path.parent / "copy" / scan.path.name
    other_place.parent.mkdir()
    for path in (other_name, other_place):
        shutil.copyfile(scan.path, path)
        start = db.v3[scan.uid].metadata["start"]
        assert register_rest(path, start, "tpx", catalog=catalog.name) == PRODUCT
    assert counts(db.v3[scan.uid], IODINE) == before
    assert "tpx_shots" not in dict(db.v3[scan.uid].base.items())


def test_a_stream_of_shots_is_added_to_a_run_that_has_none(scan: GatedRun, db: Any, catalog: CatalogProfile) -> None:
    start = db.v3[scan.uid].metadata["start"]
    done = register_rest(scan.path, start, "tpx", catalog=catalog.name)
    assert done == f"{len(scan.valid)} shots registered"
    run = db.v3[scan.uid]
    pd.testing.assert_frame_equal(centroids(run, "x", direct=False), centroids(run, "x"))
    assert register_rest(scan.path, start, "tpx", catalog=catalog.name) == ""


def test_a_file_that_was_moved_with_its_name_is_the_runs_own(
    send: CatalogWriter, db: Any, catalog: CatalogProfile
) -> None:
    scan = record(send, catalog.readable[0] / "to_be_moved.h5")
    send.wait(timeout_s=60)
    place: Path = scan.path.parent / "moved"
    place.mkdir()
    moved = scan.path.rename(place / scan.path.name)
    start = db.v3[scan.uid].metadata["start"]
    assert "shots registered" in register_rest(moved, start, "tpx", catalog=catalog.name)


def test_files_of_any_directory_are_read_through_the_catalog_and_may_move(
    send: CatalogWriter, db: Any, catalog: CatalogProfile
) -> None:
    """A space, a plus, what looks like an escape, and a letter that is not of ASCII."""
    place, other = (catalog.readable[0] / name for name in ("Messzeit März a+b 50%20", "Messzeit März a+b 60%25 too"))
    place.mkdir()
    scan = record(send, place / "run.h5", shots=True)
    send.wait(timeout_s=60)
    pd.testing.assert_frame_equal(centroids(scan.uid, "x", catalog=catalog.name, direct=False), centroids(db[-1], "x"))
    assert len(db.v3[scan.uid]["tpx_centroids"]["tpx_centroids_x"][:3]) == 3
    place.rename(other)
    assert place / "run.h5" in missing_files(catalog.name)
    assert len(move_files(place, other, name=catalog.name).moved) > 0
    assert len(centroids(db.v3[scan.uid], "x", direct=False, valid_only=False)) == len(scan.rows)


@pytest.mark.parametrize("name", ["run #1", "what?"])
def test_a_directory_that_tiled_cannot_read_from_is_refused_before_a_run(catalog: CatalogProfile, name: str) -> None:
    place = catalog.readable[0] / name
    for refused in (
        lambda: init_catalog(catalog.name, readable=[place]),
        lambda: check_readable(catalog.name, place),
        lambda: move_files(catalog.readable[0], place, name=catalog.name),
    ):
        with pytest.raises((NotReadableError, CatalogError), match=r"the name holds .; choose a directory without"):
            refused()
    assert not place.exists()
