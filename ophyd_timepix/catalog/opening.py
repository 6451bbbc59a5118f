"""Opening a catalog by name, once per process."""

import logging
import threading
import warnings
from typing import Any

from .errors import CatalogError, require
from .profile import DEFAULT_NAME, CatalogProfile, find_profile
from .settling import settle

_opened: dict[str, tuple[CatalogProfile, Any]] = {}
_opening = threading.Lock()


def open_catalog(name: str = DEFAULT_NAME) -> Any:
    """databroker's `Broker` on the catalog `name`: `db[-1]`, `db(sample=...)`, `db.v2`, `db.v3`.

    The same object each time, until the profile changes: opening takes seconds.
    """
    profile = find_profile(name)
    with _opening:
        known = _opened.get(name)
        if known is None or known[0] != profile:
            _opened[name] = known = (profile, _open(profile))
        return known[1]


def _open(profile: CatalogProfile) -> Any:
    if profile.database is not None and not profile.database.exists():
        raise CatalogError(
            f"The catalog {profile.name!r} of {profile.path} has lost its database {profile.database}; "
            f"bring it back, or start an empty one with: ophyd-timepix catalog init --name {profile.name}"
        )
    broker = require("databroker.v1").Broker
    require("ophyd_timepix.catalog.consolidator").register()
    require("tiled.server.app")
    logging.getLogger("tiled.server.app").setLevel(logging.WARNING)  # its import makes it tell its version on stderr
    with warnings.catch_warnings():
        # starlette announces the successor of a test client that Tiled uses to run in this process
        warnings.filterwarnings("ignore", message=".*starlette.testclient.*")
        return _settling(broker)(broker.named(profile.name).v2)


def _settling(broker: Any) -> Any:
    """databroker's Broker that waits first for what this process has still to write: `db[-1]` is the run just done."""

    class SettlingBroker(broker):
        def __getitem__(self, key: Any) -> Any:
            settle()
            return super().__getitem__(key)

        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            settle()
            return super().__call__(*args, **kwargs)

        @property
        def v3(self) -> Any:
            settle()
            return broker.v3.fget(self)

    return SettlingBroker
