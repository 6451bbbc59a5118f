"""Hits to shots, clusters and centroids: kernels on arrays.

Names are resolved when they are first used: `import ophyd_timepix.events.columns` must not load numba.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .columns import CENTROIDS, HITS, SHOTS, TRIGGERS, Column, Flag

if TYPE_CHECKING:
    from .block import BlockArrays, BlockHeader, Capacity
    from .builder import BlockBuilder
    from .centroid import CentroidFinder, centroid_block
    from .histograms import add_histogram, add_image
    from .warm import warm_up

_LAZY = {
    "BlockArrays": "block",
    "BlockBuilder": "builder",
    "BlockHeader": "block",
    "Capacity": "block",
    "CentroidFinder": "centroid",
    "add_histogram": "histograms",
    "add_image": "histograms",
    "centroid_block": "centroid",
    "warm_up": "warm",
}

__all__ = [
    "CENTROIDS",
    "HITS",
    "SHOTS",
    "TRIGGERS",
    "BlockArrays",
    "BlockBuilder",
    "BlockHeader",
    "Capacity",
    "CentroidFinder",
    "Column",
    "Flag",
    "add_histogram",
    "add_image",
    "centroid_block",
    "warm_up",
]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(f".{_LAZY[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
