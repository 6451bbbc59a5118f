"""The energy of centroids: that of each hit from its ToT, summed over the hits of the cluster."""

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from ..config import Calibration
from ..config.calibration import N_TOT, energy_kev
from ..jit import kernel
from ..protocol.words import MATRIX_SIDE, TOT
from .block import CHIP_SHIFT, X_SHIFT

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

_TOT_MASK: Final = TOT.mask
_TOT_BITS: Final = TOT.width
_CHIP_MASK: Final = 3
_ADDRESS_MASK: Final = 4 * MATRIX_SIDE * MATRIX_SIDE - 1


@kernel
def sum_by_tot(keys: Ints, n: int, labels: npt.NDArray[np.int32], n_rows: int, table: Floats, sums: Floats) -> None:
    """sums[row]: of table[chip << 10 | ToT] over the hits of the row, in the order of time."""
    sums[:n_rows] = 0.0
    for i in range(n):
        row = labels[i]
        if row >= 0:
            chip = (keys[i] >> CHIP_SHIFT) & _CHIP_MASK
            sums[row] += table[(chip << _TOT_BITS) | (keys[i] & _TOT_MASK)]


@kernel
def sum_by_pixel(keys: Ints, n: int, labels: npt.NDArray[np.int32], n_rows: int, abct: Floats, sums: Floats) -> None:
    """The same with a function for each pixel, abct[chip << 16 | y << 8 | x, 4]; see `calibration.energy_kev`."""
    sums[:n_rows] = 0.0
    for i in range(n):
        row = labels[i]
        if row >= 0:
            p = abct[(keys[i] >> X_SHIFT) & _ADDRESS_MASK]
            q = p[0] * p[3] + p[1] - np.float64(keys[i] & _TOT_MASK)
            root = np.sqrt(q * q + 4 * p[0] * p[2])
            above = (2 * p[2] / (q + root) if q + root > 0 else 0.0) if q > 0 else (root - q) / (2 * p[0])
            sums[row] += p[3] + above


class EnergySum:
    """Those of a calibration that has energies."""

    def __init__(self, calibration: Calibration) -> None:
        abct = calibration.energy_abct
        if abct is None:
            raise ValueError("the calibration has no energies (energy_abct)")
        self._kernel: Any
        if abct.ndim > 2:
            self._kernel, self._table = sum_by_pixel, np.ascontiguousarray(abct.reshape(-1, 4)).copy()
        else:
            self._kernel = sum_by_tot
            self._table = np.ascontiguousarray(energy_kev(abct[:, None, :], np.arange(N_TOT))).ravel()
        self._sums = np.empty(0, np.float64)

    def write(
        self, keys: Ints, n: int, labels: npt.NDArray[np.int32], n_rows: int, energy: npt.NDArray[np.float32]
    ) -> None:
        """energy[row] (keV) of the rows of a block, whose hits have `labels`."""
        if len(self._sums) < n_rows:
            self._sums = np.empty(2 * n_rows, np.float64)
        self._kernel(keys, n, labels, n_rows, self._table, self._sums)
        energy[:n_rows] = self._sums[:n_rows]
