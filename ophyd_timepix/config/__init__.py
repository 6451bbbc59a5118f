"""What an operator chooses, saves and loads: validated models, their files, and what differs between two of them."""

from .calibration import Calibration, CalibrationFile
from .dac_values import DacValues
from .difference import Difference, diff
from .errors import ConfigError
from .gates import Gate, MassCalibration, Peak
from .geometry import Geometry, Orientation
from .model import (
    BiasConfig,
    BoardConfig,
    ChipConfig,
    DetectorConfig,
    PulseSettings,
    TriggerSettings,
)
from .processing import CentroidTime, Edge, Metric, MissingTriggers, Processing

__all__ = [
    "BiasConfig",
    "BoardConfig",
    "Calibration",
    "CalibrationFile",
    "CentroidTime",
    "ChipConfig",
    "ConfigError",
    "DacValues",
    "DetectorConfig",
    "Difference",
    "Edge",
    "Gate",
    "Geometry",
    "MassCalibration",
    "Metric",
    "MissingTriggers",
    "Orientation",
    "Peak",
    "Processing",
    "PulseSettings",
    "TriggerSettings",
    "diff",
]
