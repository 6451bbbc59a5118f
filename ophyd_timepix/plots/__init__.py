"""Pictures of runs, as matplotlib figures that belong to no window.

`run_picture` asks the catalog for a run, the others take numbers; `LiveView` shows a camera while it counts.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

_HOME = {
    "LiveView": "live",
    "distribution_picture": "pictures",
    "image_picture": "pictures",
    "ledger_picture": "ledger",
    "new_figure": "pictures",
    "run_picture": "runs",
    "spectrum_picture": "pictures",
    "tof_picture": "pictures",
    "vmi_picture": "pictures",
}

__all__ = [
    "LiveView",
    "distribution_picture",
    "image_picture",
    "ledger_picture",
    "new_figure",
    "run_picture",
    "spectrum_picture",
    "tof_picture",
    "vmi_picture",
]

if TYPE_CHECKING:
    from .ledger import ledger_picture
    from .live import LiveView
    from .pictures import (
        distribution_picture,
        image_picture,
        new_figure,
        spectrum_picture,
        tof_picture,
        vmi_picture,
    )
    from .runs import run_picture


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it offers {', '.join(__all__)}")
    return getattr(import_module(f".{_HOME[name]}", __name__), name)
