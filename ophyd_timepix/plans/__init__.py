"""Plans, and the preprocessor that makes everybody else's plans record centroids."""

from .calibrate_mass import calibrate_mass
from .fly import tpx_fly
from .preprocessor import TimepixStreams
from .until import count_until, until, with_settings

__all__ = ["TimepixStreams", "calibrate_mass", "count_until", "tpx_fly", "until", "with_settings"]
