"""The tables of an empty catalog: Tiled takes five seconds to make them, so tests that ask something else copy them."""

import fcntl
import shutil
from pathlib import Path

import pytest

from ophyd_timepix.catalog import profile

_made_by_tiled = profile._init_database


class EmptyCatalog:
    """A database as `init_catalog` leaves it, made by it when the first test asks; one for all workers."""

    def __init__(self, shared: Path) -> None:
        self._path = shared / "empty-catalog.db"

    def copy_to(self, database: Path) -> None:
        """A copy, where there is no database yet."""
        if database.exists() and database.stat().st_size > 0:
            return
        with self._path.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not self._path.exists():
                making = self._path.with_suffix(".making")
                _made_by_tiled(making)
                making.rename(self._path)
        database.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(self._path, database)

    def replace_tiled(self, patch: pytest.MonkeyPatch) -> None:
        """From here on `init_catalog` copies."""
        patch.setattr(profile, "_init_database", self.copy_to)


def made_by_tiled(patch: pytest.MonkeyPatch) -> None:
    """For a test of `init_catalog` itself."""
    patch.setattr(profile, "_init_database", _made_by_tiled)
