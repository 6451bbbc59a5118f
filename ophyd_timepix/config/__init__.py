"""What an operator chooses, saves and loads: validated models."""

from .geometry import Geometry
from .processing import Edge, Metric, Processing

__all__ = ["Edge", "Geometry", "Metric", "Processing"]
