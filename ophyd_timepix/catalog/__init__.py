"""The catalog of runs: an embedded default, the writer behind the RunEngine, and questions about centroids.

`databroker` and `tiled` are imported when a catalog is made or opened, never before; without them there is one clear
error. Names are resolved on first use: reading pandas takes a second.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .errors import (
    CatalogError,
    CatalogMissingError,
    CatalogWriteError,
    EventFileError,
    NoCentroidsError,
    NotReadableError,
)
from .profile import CatalogProfile, check_readable, find_profile, init_catalog, is_readable

_HOME = {
    "CatalogFailure": ".writer",
    "CatalogWriter": ".writer",
    "DatumForm": ".datum_form",
    "EventListConsolidator": ".consolidator",
    "JsonlWriter": ".jsonl",
    "Lag": ".writer",
    "RecordedRun": ".jsonl",
    "centroids": ".query",
    "counts": ".gating",
    "image": ".images",
    "open_catalog": ".opening",
    "points": ".gating",
    "read_run": ".jsonl",
    "regate": ".gating",
    "replay": ".writer",
    "tof_spectrum": ".images",
}

__all__ = [
    "CatalogError",
    "CatalogFailure",
    "CatalogMissingError",
    "CatalogProfile",
    "CatalogWriteError",
    "CatalogWriter",
    "DatumForm",
    "EventFileError",
    "EventListConsolidator",
    "JsonlWriter",
    "Lag",
    "NoCentroidsError",
    "NotReadableError",
    "RecordedRun",
    "centroids",
    "check_readable",
    "counts",
    "find_profile",
    "image",
    "init_catalog",
    "is_readable",
    "open_catalog",
    "points",
    "read_run",
    "regate",
    "replay",
    "tof_spectrum",
]

if TYPE_CHECKING:
    from .consolidator import EventListConsolidator
    from .datum_form import DatumForm
    from .gating import counts, points, regate
    from .images import image, tof_spectrum
    from .jsonl import JsonlWriter, RecordedRun, read_run
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
