"""Making, extending and checking the embedded catalog's profile. No catalog is opened here."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ophyd_timepix.catalog import (
    CatalogError,
    CatalogMissingError,
    NotReadableError,
    check_readable,
    find_profile,
    init_catalog,
    is_readable,
    open_catalog,
)
from ophyd_timepix.catalog import profile as profile_module


@pytest.fixture
def without_database(monkeypatch: pytest.MonkeyPatch) -> None:
    """Making the tables takes seconds; what is asked here is what the profile says."""
    monkeypatch.setattr(profile_module, "_init_database", lambda database: database.touch())


@pytest.fixture
def name(tmp_path: Path) -> str:
    return tmp_path.name


@pytest.mark.usefixtures("without_database")
def test_a_new_catalog_serves_its_readable_directories_and_only_them(profiles: Path, tmp_path: Path, name: str) -> None:
    made = init_catalog(name, tmp_path / "catalog", readable=[tmp_path / "data"])
    assert made == find_profile(name)
    assert made.path == profiles / f"{name}.yml"
    assert (tmp_path / "data").is_dir()
    assert is_readable(name, tmp_path / "data" / "2026-11" / "run.h5")
    assert not is_readable(name, tmp_path / "data-of-others")


@pytest.mark.usefixtures("without_database")
def test_a_directory_that_the_catalog_may_not_serve_is_refused_with_the_remedy(
    profiles: Path, tmp_path: Path, name: str
) -> None:
    init_catalog(name, tmp_path / "catalog", readable=[tmp_path / "data"])
    elsewhere = tmp_path / "elsewhere"
    with pytest.raises(NotReadableError, match=f"catalog init --name {name} --readable {elsewhere}"):
        check_readable(name, elsewhere)
    init_catalog(name, readable=[elsewhere])
    check_readable(name, elsewhere)
    check_readable(name, tmp_path / "data")


@pytest.mark.usefixtures("without_database")
def test_a_linked_data_directory_is_served_under_both_its_names(profiles: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "data").symlink_to(tmp_path / "disk")
    init_catalog(name, tmp_path / "catalog", readable=[tmp_path / "data"])
    assert is_readable(name, tmp_path / "data")
    assert is_readable(name, tmp_path / "disk")


@pytest.mark.usefixtures("without_database")
def test_calling_again_keeps_what_a_user_wrote_into_the_file(profiles: Path, tmp_path: Path, name: str) -> None:
    import yaml

    path = init_catalog(name, tmp_path / "catalog", readable=[tmp_path / "a"]).path
    content = yaml.safe_load(path.read_text())
    content[name]["direct"]["response_bytesize_limit"] = 1_000_000
    content["beamline"] = {"uri": "http://localhost:8000"}
    path.write_text(yaml.safe_dump(content))
    init_catalog(name, readable=[tmp_path / "b"])
    kept = yaml.safe_load(path.read_text())
    assert kept[name]["direct"]["response_bytesize_limit"] == 1_000_000
    assert kept["beamline"] == {"uri": "http://localhost:8000"}
    assert find_profile(name).readable == (tmp_path / "a", tmp_path / "b")
    assert is_readable("beamline", "/anywhere")
    with pytest.raises(CatalogError, match="not an embedded catalog"):
        init_catalog("beamline", readable=[tmp_path / "b"])
    path.unlink()


@pytest.mark.usefixtures("without_database")
def test_an_existing_catalog_is_neither_moved_nor_emptied(profiles: Path, tmp_path: Path, name: str) -> None:
    made = init_catalog(name, tmp_path / "catalog")
    assert made.database is not None
    made.database.write_text("runs of a year")
    with pytest.raises(CatalogError, match=f"lies in {tmp_path / 'catalog'}, not in {tmp_path / 'other'}"):
        init_catalog(name, tmp_path / "other")
    init_catalog(name, tmp_path / "catalog")
    assert made.database.read_text() == "runs of a year"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_directory_without_permission_is_named(profiles: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "locked").mkdir(mode=0o500)
    with pytest.raises(CatalogError, match=f"{tmp_path / 'locked' / 'data'} cannot be made: Permission denied"):
        init_catalog(name, tmp_path / "catalog", readable=[tmp_path / "locked" / "data"])


def test_a_file_in_the_way_is_named(profiles: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CatalogError, match=f"{tmp_path / 'file' / 'data'} cannot be made: Not a directory"):
        init_catalog(name, tmp_path / "catalog", readable=[tmp_path / "file" / "data"])


def test_a_catalog_that_is_not_there_says_how_to_make_it(profiles: Path) -> None:
    with pytest.raises(CatalogMissingError, match="ophyd-timepix catalog init --name nobody"):
        open_catalog("nobody")


@pytest.mark.usefixtures("without_database")
def test_a_catalog_that_lost_its_database_says_so(profiles: Path, tmp_path: Path, name: str) -> None:
    made = init_catalog(name, tmp_path / "catalog")
    assert made.database is not None
    made.database.unlink()
    with pytest.raises(CatalogError, match="has lost its database"):
        open_catalog(name)


def test_profiles_changed_after_tiled_was_imported_are_refused(
    profiles: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TILED_PROFILES", str(tmp_path / "late"))
    with pytest.raises(CatalogError, match="set it before Python starts"):
        init_catalog("late", tmp_path / "catalog")


def test_without_the_extra_there_is_one_sentence() -> None:
    script = (
        "import sys\n"
        "sys.modules['tiled'] = None\n"
        "import ophyd_timepix.catalog as catalog\n"
        "try:\n"
        "    catalog.open_catalog()\n"
        "except catalog.CatalogError as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert 'pip install "ophyd_timepix[databroker]"' in done.stdout, done.stderr


def test_importing_the_room_imports_neither_tiled_nor_pandas() -> None:
    script = "import sys, ophyd_timepix.catalog; print([m for m in ('tiled', 'pandas', 'numba') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout.strip() == "[]", done.stderr
