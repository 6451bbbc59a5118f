"""The catalog of runs: an embedded default, the writer behind the RunEngine, and questions about centroids.

`databroker` and `tiled` are imported when a catalog is made or opened, never before; without them there is one clear
error. Names are resolved on first use: reading pandas takes a second.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .errors import CatalogError, CatalogMissingError, CatalogWriteError, NotReadableError
from .profile import CatalogProfile, check_readable, find_profile, init_catalog, is_readable

_HOME = {
    "CatalogFailure": ".writer",
    "CatalogWriter": ".writer",
    "EventListConsolidator": ".consolidator",
    "Lag": ".writer",
    "centroids": ".query",
    "open_catalog": ".opening",
    "replay": ".writer",
}

__all__ = [
    "CatalogError",
    "CatalogFailure",
    "CatalogMissingError",
    "CatalogProfile",
    "CatalogWriteError",
    "CatalogWriter",
    "EventListConsolidator",
    "Lag",
    "NotReadableError",
    "centroids",
    "check_readable",
    "find_profile",
    "init_catalog",
    "is_readable",
    "open_catalog",
    "replay",
]

if TYPE_CHECKING:
    from .consolidator import EventListConsolidator
    from .opening import open_catalog
    from .query import centroids
    from .writer import CatalogFailure, CatalogWriter, Lag, replay


def __getattr__(name: str) -> Any:
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(home, __name__), name)
    globals()[name] = value
    return value
