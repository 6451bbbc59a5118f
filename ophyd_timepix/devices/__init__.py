"""ophyd devices: board and chips (roots of their own), and the detector that any plan can use."""

from ..pipeline.messages import Storage
from .board import SpidrBoard
from .chip import Dacs, DacSignal, Timepix3Chip
from .detector import TimepixDetector
from .exposure import AcquisitionError, AcquisitionStopped
from .paths import DatedPaths, PathProvider
from .status import ProgressStatus

__all__ = [
    "AcquisitionError",
    "AcquisitionStopped",
    "DacSignal",
    "Dacs",
    "DatedPaths",
    "PathProvider",
    "ProgressStatus",
    "SpidrBoard",
    "Storage",
    "Timepix3Chip",
    "TimepixDetector",
]
