"""Plans, and the preprocessor that makes everybody else's plans record centroids."""

from .fly import tpx_fly
from .preprocessor import TimepixStreams

__all__ = ["TimepixStreams", "tpx_fly"]
