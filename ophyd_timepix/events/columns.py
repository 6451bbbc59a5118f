"""The columns of all tables of events: name, type, unit, meaning. Kernels, files and catalog share this description.

This module must stay cheap to import: no numba, no arrays.
"""

from enum import IntFlag
from typing import Final, NamedTuple


class Column(NamedTuple):
    """One column of a table."""

    name: str
    dtype: str
    """Little-endian numpy type."""
    unit: str
    """Empty for counts, numbers and flags."""
    meaning: str


class Flag(IntFlag):
    """Remarks on a centroid (column `flags`)."""

    SATURATED = 1
    """A hit's ToT stands at its end, 1022 counts: the sum is too small."""
    EDGE = 2
    """A hit lies on the rim of its chip: part of the cluster may be missing, and rim pixels may be wider."""
    GAP = 16
    """Beside EDGE: that rim faces another chip, so that a part of the cluster may be a row of its own over there."""
    SPLIT = 4
    """Cut out of a cluster of several particles."""
    FORCED_CUT = 8
    """A forced cut of the stream touches the cluster's time window: a part of it may be its own row."""


CENTROIDS: Final = (
    Column("shot", "<i8", "", "row of /entry/shots, -1 before the first trigger"),
    Column("x", "<f4", "pixel", "ToT-weighted mean column in the picture"),
    Column("y", "<f4", "pixel", "ToT-weighted mean row in the picture"),
    Column("toa", "<f8", "ns", "since the timer's zero: of the hit with the largest ToT, or the weighted mean"),
    Column("tof", "<f8", "ns", "toa since the trigger that opened the shot, NaN outside a shot"),
    Column("tot", "<u4", "25 ns", "sum of ToT"),
    Column("tot_max", "<u2", "25 ns", "largest ToT of a hit"),
    Column("size", "<u4", "", "hits"),
    Column("chip", "<u1", "", "chip number"),
    Column(
        "flags",
        "<u1",
        "",
        "1 saturated, 2 at the rim of a chip, 4 split from a larger cluster, 8 at a forced cut, 16 at a rim that faces "
        "another chip",
    ),
)

HITS: Final = (
    Column("shot", "<i8", "", "row of /entry/shots, -1 before the first trigger"),
    Column("x", "<u2", "pixel", "column in the picture"),
    Column("y", "<u2", "pixel", "row in the picture"),
    Column("toa", "<f8", "ns", "time of arrival since the timer's zero"),
    Column("tof", "<f8", "ns", "toa since the trigger that opened the shot, NaN outside a shot"),
    Column("tot", "<u2", "25 ns", "time over threshold"),
    Column("chip", "<u1", "", "chip number"),
    Column("cluster", "<i8", "", "row of /entry/centroids, -1 for hits that belong to none"),
)

SHOTS: Final = (
    Column("time", "<f8", "ns", "when the shot opened, its trigger and the delay, since the timer's zero"),
    Column("valid", "<u1", "", "1: the shot is complete"),
)

INFERRED: Final = Column("inferred", "<u1", "", "1: no trigger came, it was put in at its time; never valid")
ENERGY: Final = Column("energy", "<f4", "keV", "sum of the energies of the hits; NaN where a pixel is not calibrated")
OPTIONAL: Final = {"centroids": (ENERGY,), "shots": (INFERRED,)}
"""Columns that a table has only where the processing asks for them, behind the others."""

TRIGGERS: Final = (
    Column("time", "<f8", "ns", "time of the edge since the timer's zero"),
    Column("channel", "<u1", "", "TDC input, 1 or 2"),
    Column("edge", "<u1", "", "0 rising, 1 falling"),
    Column("counter", "<u2", "", "the input's edge counter, wraps at 4096"),
)
