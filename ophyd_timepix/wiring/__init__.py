"""Site wiring: one call that joins detectors, RunEngine and catalog, and checks what is not wired."""

from .checks import NotReady
from .installation import Installation, install
from .metadata import PersistentMetadata
from .site import Site

__all__ = ["Installation", "NotReady", "PersistentMetadata", "Site", "install"]
