"""Timepix3 cameras behind a SPIDR board, as first-class Bluesky detectors.

Public names are resolved on first use, so `import ophyd_timepix` is cheap and pulls in neither numba nor tiled.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOME = {
    "SpidrBoard": "ophyd_timepix.devices",
    "TimepixDetector": "ophyd_timepix.devices",
    "install": "ophyd_timepix.wiring",
    "tpx_fly": "ophyd_timepix.plans",
    "calibrate_mass": "ophyd_timepix.plans",
    "count_until": "ophyd_timepix.plans",
    "Gate": "ophyd_timepix.config",
    "MassCalibration": "ophyd_timepix.config",
    "centroids": "ophyd_timepix.catalog",
    "counts": "ophyd_timepix.catalog",
    "regate": "ophyd_timepix.catalog",
}

__all__ = [
    "Gate",
    "MassCalibration",
    "SpidrBoard",
    "TimepixDetector",
    "__version__",
    "calibrate_mass",
    "centroids",
    "count_until",
    "counts",
    "install",
    "regate",
    "tpx_fly",
]

if TYPE_CHECKING:
    from .catalog import centroids, counts, regate
    from .config import Gate, MassCalibration
    from .devices import SpidrBoard, TimepixDetector
    from .plans import calibrate_mass, count_until, tpx_fly
    from .wiring import install


def __getattr__(name: str) -> Any:
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it offers {', '.join(sorted(_HOME))}")
    value = getattr(import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
