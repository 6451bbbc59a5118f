"""Event files that are no longer where the catalog says: which ones, and how the catalog learns where they are.

Works on the database of the embedded catalog, for Tiled knows no request that changes where a file is. Each file is a
line of its table `assets`. A session that has the catalog open must open it again, unless it may read the new place.
"""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from .addresses import address_of, check_usable, path_of
from .errors import CatalogError
from .profile import DEFAULT_NAME, find_profile, init_catalog

LOCK_TIMEOUT_S = 30.0


@dataclass(frozen=True)
class Moved:
    """What `move_files` did, or would do."""

    moved: tuple[tuple[Path, Path], ...]
    """Files that are at the new place: old path, new path."""
    kept: tuple[Path, ...]
    """Files that are not at the new place, but still at the old one: left as they were."""
    missing: tuple[Path, ...]
    """Files that are at neither place: left as they were."""


def missing_files(name: str = DEFAULT_NAME) -> tuple[Path, ...]:
    """The files that the embedded catalog points to and that are not there."""
    with _database(name) as database:
        return tuple(path for _, path in _files(database) if not path.exists())


def move_files(old: str | Path, new: str | Path, *, name: str = DEFAULT_NAME, dry_run: bool = False) -> Moved:
    """Tell the embedded catalog that the files below `old` (or the file `old`) are below `new` now (or at `new`).

    Moves no file: call it when they have been moved. Only what is found at its new place is changed, all in one step;
    `new` becomes readable for the catalog. Raises `CatalogError` when the catalog has no files below `old`.
    """
    before, after = (Path(os.path.abspath(Path(path).expanduser())) for path in (old, new))
    if refusal := check_usable(after):
        raise CatalogError(refusal)
    with _database(name) as database:
        places = [(asset, path, _new_place(path, before, after)) for asset, path in _files(database)]
        places = [(asset, path, place) for asset, path, place in places if place is not None]
        if not places:
            raise CatalogError(
                f"The catalog {name!r} has no files in {before}; `ophyd-timepix catalog check --name {name}` "
                "lists those that it misses"
            )
        found = [(asset, path, place) for asset, path, place in places if place is not None and place.exists()]
        lost = [path for _, path, place in places if place is not None and not place.exists()]
        if found and not dry_run:
            for asset, _, place in found:
                _point(database, asset, place)
            database.commit()
    if found and not dry_run:
        init_catalog(name, readable=[after if after.is_dir() else after.parent])
    return Moved(
        tuple((path, place) for _, path, place in found),
        tuple(path for path in lost if path.exists()),
        tuple(path for path in lost if not path.exists()),
    )


@contextmanager
def _database(name: str) -> Iterator[sqlite3.Connection]:
    profile = find_profile(name)
    if profile.database is None:
        raise CatalogError(
            f"The catalog {name!r} of {profile.path} is a server's; ask for this on the machine that has its database"
        )
    if not profile.database.exists():
        raise CatalogError(f"The catalog {name!r} has lost its database {profile.database}; bring it back")
    try:
        with closing(sqlite3.connect(profile.database, timeout=LOCK_TIMEOUT_S)) as database:
            yield database
    except sqlite3.Error as error:
        raise CatalogError(
            f"The database {profile.database} of the catalog {name!r} could not be used: {error}; "
            "nothing was changed: try again when no run is being written"
        ) from error


def _files(database: sqlite3.Connection) -> list[tuple[int, Path]]:
    """Each file outside the catalog's own storage, with the number of its asset."""
    lines = database.execute(
        "SELECT DISTINCT assets.id, assets.data_uri FROM assets"
        " JOIN data_source_asset_association ON assets.id = data_source_asset_association.asset_id"
        " JOIN data_sources ON data_sources.id = data_source_asset_association.data_source_id"
        " WHERE data_sources.management = 'external' AND assets.data_uri LIKE 'file://%' ORDER BY assets.id"
    )
    return [(asset, path_of(uri)) for asset, uri in lines]


def _new_place(path: Path, before: Path, after: Path) -> Path | None:
    """Where a file below `before` would be; None: it is not below it."""
    if path == before:
        return after
    return after / path.relative_to(before) if path.is_relative_to(before) else None


def _point(database: sqlite3.Connection, asset: int, place: Path) -> None:
    """Let an asset point to a file; where the catalog knows that file already, its data use that one."""
    uri = address_of(place)
    known = database.execute("SELECT id FROM assets WHERE data_uri = ?", (uri,)).fetchone()
    if known is None:
        database.execute("UPDATE assets SET data_uri = ? WHERE id = ?", (uri, asset))
    elif known[0] != asset:
        database.execute("UPDATE data_source_asset_association SET asset_id = ? WHERE asset_id = ?", (known[0], asset))
        database.execute("DELETE FROM assets WHERE id = ?", (asset,))
