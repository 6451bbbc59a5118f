"""Site wiring: one call that joins detectors, RunEngine and catalog, and checks what is not wired."""

from .checks import NotReady
from .installation import Installation, install

__all__ = ["Installation", "NotReady", "install"]
