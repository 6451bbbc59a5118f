"""64-bit words to hits and TDC edges on one time line: kernels on arrays.

Names are resolved when they are first used: counting names (`Count`) must not load numba.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .counts import CLASSES, PIXEL_CLASSES, SKIPPED, TDC_CLASSES, TIME_JUMPS, Count, Mark, total

if TYPE_CHECKING:
    from .decoder import Batch, Decoder, Framing, warm_up

_LAZY = ("Batch", "Decoder", "Framing", "warm_up")

__all__ = [
    "CLASSES",
    "PIXEL_CLASSES",
    "SKIPPED",
    "TDC_CLASSES",
    "TIME_JUMPS",
    "Batch",
    "Count",
    "Decoder",
    "Framing",
    "Mark",
    "total",
    "warm_up",
]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(".decoder", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
