"""What a point adds up to: gates, picture, spectra; laid over memory that several processes may share.

`counting` adds to it; whoever has the memory may look while it grows. Cheap to import: no kernels.
"""

import math
from typing import Any, Final, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from .tallies import TALLY_FIELDS, GateCounts, counted

N_GATES: Final = 8
SIZES: Final = 256
TOTS: Final = 4096
"""Clusters as large as this, or larger, count in the last bin."""

Array = npt.NDArray[Any]

VALID, SHOTS, COUNTED, _ROOM = 0, 1, 2, 4
"""Places in `totals`."""


class Spectrum(NamedTuple):
    """Bins [start + k width, start + (k + 1) width) of time of flight (ns)."""

    start_ns: float
    width_ns: float
    bins: int

    @property
    def edges_ns(self) -> Array:
        """Shape (bins + 1,)."""
        return self.start_ns + self.width_ns * np.arange(self.bins + 1)


class PointArrays:
    """Views over one buffer. shape: (rows, columns) of the picture.

    Raises ValueError when the buffer has not the room.
    """

    def __init__(self, buffer: memoryview, shape: tuple[int, int], spectrum: Spectrum) -> None:
        wanted = self.nbytes(shape, spectrum.bins)
        if buffer.nbytes < wanted:
            raise ValueError(
                f"pictures of {shape[1]} x {shape[0]} pixels and a spectrum of {spectrum.bins} bins take {wanted} "
                f"bytes, there are {buffer.nbytes}; choose a smaller picture or fewer bins"
            )
        self.spectrum = spectrum
        memory, offset, views = np.frombuffer(buffer, np.uint8), 0, []
        for dims, dtype in _layout(shape, spectrum.bins):
            n_bytes = math.prod(dims) * np.dtype(dtype).itemsize
            views.append(memory[offset : offset + n_bytes].view(dtype).reshape(dims))
            offset += n_bytes
        self._views = tuple(views)
        self.totals, self.gates, self.sums, self.size, self.tot, self.tof, self.image, self.gate_images = views

    @staticmethod
    def nbytes(shape: tuple[int, int], bins: int) -> int:
        """Bytes that they take."""
        return sum(math.prod(dims) * np.dtype(dtype).itemsize for dims, dtype in _layout(shape, bins))

    @classmethod
    def empty(cls, shape: tuple[int, int], spectrum: Spectrum) -> Self:
        """With memory of their own, all zeros."""
        return cls(np.zeros(cls.nbytes(shape, spectrum.bins), np.uint8).data, shape, spectrum)

    def copy(self, n_gates: int = N_GATES) -> "PointArrays":
        """As they are now, for good. Pictures of the first `n_gates` gates alone."""
        shape = (self.image.shape[0], self.image.shape[1])
        other = PointArrays.empty(shape, self.spectrum)
        for mine, theirs in zip(self._views[:-1], other._views[:-1], strict=True):
            theirs[...] = mine
        other.gate_images[:n_gates] = self.gate_images[:n_gates]
        return other

    def clear(self, n_gates: int = N_GATES) -> None:
        """All sums to 0. Of the gates' pictures the first `n_gates`: memory that is not touched costs nothing."""
        for view in self._views[:-1]:
            view[...] = 0
        self.gate_images[:n_gates] = 0

    @property
    def valid_shots(self) -> int:
        """Valid ones among the shots that have ended."""
        return int(self.totals[VALID])

    @property
    def shots(self) -> int:
        """Shots that have ended."""
        return int(self.totals[SHOTS])

    @property
    def centroids(self) -> int:
        """Centroids of valid shots; where there are no triggers, all."""
        return int(self.totals[COUNTED])

    def gate(self, place: int) -> GateCounts:
        """What gate number `place` has until now."""
        return counted(self.gates[place], self.valid_shots)


def _layout(shape: tuple[int, int], bins: int) -> list[tuple[tuple[int, ...], str]]:
    bins += bins % 2  # whole words
    return [
        ((_ROOM,), "<i8"),
        ((N_GATES, TALLY_FIELDS), "<i8"),
        ((2,), "<f8"),
        ((SIZES,), "<u4"),
        ((TOTS,), "<u4"),
        ((bins,), "<u4"),
        (shape, "<u4"),
        ((N_GATES, *shape), "<u4"),
    ]
