"""Pictures of runs, as matplotlib figures. Numbers in, figure out: no file, no catalog, no global state of pyplot."""

from .pictures import new_figure, tof_picture, vmi_picture

__all__ = ["new_figure", "tof_picture", "vmi_picture"]
