"""Errors of the catalog. Each says what, where, and what to do."""

from importlib import import_module
from types import ModuleType


class CatalogError(RuntimeError):
    """The catalog refused, or cannot do, what was asked of it."""


class CatalogMissingError(CatalogError):
    """There is no catalog of that name."""


class EventFileError(CatalogError):
    """The event file of a run is not where the catalog says."""


class NoCentroidsError(CatalogError):
    """The run has no stream of centroids."""


class NotReadableError(CatalogError):
    """The catalog would register files of this directory, but may not serve them."""


class CatalogWriteError(CatalogError):
    """Documents of a run did not reach the catalog; they are kept in a backup."""


def require(module: str) -> ModuleType:
    """Import a module of the extra `databroker`, or say how to get it."""
    try:
        return import_module(module)
    except ModuleNotFoundError as missing:
        raise CatalogError(
            f"The catalog needs the package {missing.name!r}, which is not installed; "
            'install it with: pip install "ophyd_timepix[databroker]"'
        ) from missing
