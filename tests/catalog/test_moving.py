"""Event files that have moved: the catalog says which, and learns where they are now."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ophyd_timepix.app import cli
from ophyd_timepix.catalog import CatalogError, CatalogProfile, CatalogWriter, centroids, find_profile, open_catalog
from ophyd_timepix.catalog.moving import missing_files, move_files
from tests.catalog.conftest import EventFile, RunDocuments, rows


@pytest.fixture(scope="module")
def day(catalog: CatalogProfile) -> Path:
    folder = catalog.readable[0] / "2026-11-03 night"
    folder.mkdir()
    return folder


@pytest.fixture(scope="module")
def run(catalog: CatalogProfile, db: Any, day: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A run whose event file lies in `day`."""
    writer = CatalogWriter(catalog.name, backup_directory=tmp_path_factory.mktemp("moving"))
    event_file = EventFile(day / "run.h5")
    documents = RunDocuments(writer)
    uid = documents.start()
    event_file.append(500)
    documents.register(event_file.path, 500)
    documents.stop()
    writer.close(timeout_s=60)
    event_file.close()
    return uid


@pytest.fixture(scope="module")
def archive(run: str, day: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the files are after somebody moved the day's folder."""
    archive = tmp_path_factory.mktemp("archive") / "nights"
    shutil.move(day, archive)
    return archive


def test_a_file_that_is_gone_is_named_with_the_remedy(
    archive: Path, day: Path, catalog: CatalogProfile, capsys: pytest.CaptureFixture[str]
) -> None:
    assert day / "run.h5" in missing_files(catalog.name)
    assert cli.main(["catalog", "check", "--name", catalog.name]) == 1
    told = capsys.readouterr()
    assert f"{day / 'run.h5'}\n" in told.out
    assert f"ophyd-timepix catalog move --name {catalog.name}" in told.err


def test_a_dry_run_changes_nothing(archive: Path, day: Path, catalog: CatalogProfile) -> None:
    told = move_files(day, archive, name=catalog.name, dry_run=True)
    assert told.moved == ((day / "run.h5", archive / "run.h5"),)
    assert day / "run.h5" in missing_files(catalog.name)


def test_a_place_where_the_file_is_not_is_refused_for_that_file(
    archive: Path, day: Path, catalog: CatalogProfile, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["catalog", "move", "--name", catalog.name, str(day), str(tmp_path)]) == 1
    assert f"{day / 'run.h5'} is neither there nor at its new place" in capsys.readouterr().err
    assert tmp_path not in find_profile(catalog.name).readable
    with pytest.raises(CatalogError, match=r"has no files in .*nowhere"):
        move_files(tmp_path / "nowhere", archive, name=catalog.name)


def test_after_a_move_or_a_new_name_the_rows_are_read_from_the_new_place(
    archive: Path, day: Path, run: str, catalog: CatalogProfile
) -> None:
    done = move_files(day, archive, name=catalog.name)
    assert done.moved == ((day / "run.h5", archive / "run.h5"),)
    assert day / "run.h5" not in missing_files(catalog.name)
    assert archive in find_profile(catalog.name).readable
    table = centroids(open_catalog(catalog.name)[run], ["toa"])
    np.testing.assert_array_equal(table["toa"], rows(0, 500)["toa"])

    # a single file that is renamed is found as well
    (archive / "run.h5").rename(archive / "the good one.h5")
    move_files(archive / "run.h5", archive / "the good one.h5", name=catalog.name)
    assert len(centroids(open_catalog(catalog.name)[run], ["toa"])) == 500
    kept = move_files(archive, archive.parent / "elsewhere", name=catalog.name)
    assert kept.kept == (archive / "the good one.h5",)
