"""Counting centroids into pictures and spectra, at the full rate."""

from typing import Any

import numpy as np
import numpy.typing as npt

from ..jit import kernel

Counts = npt.NDArray[np.uint64]


@kernel
def add_image(image: Counts, x: npt.NDArray[Any], y: npt.NDArray[Any]) -> None:
    """Count points into image[row, column] at the nearest pixel; points outside are left out."""
    rows, columns = image.shape
    one = np.uint64(1)
    for i in range(x.shape[0]):
        column = int(np.floor(x[i] + 0.5))
        row = int(np.floor(y[i] + 0.5))
        if 0 <= row < rows and 0 <= column < columns:
            image[row, column] += one


@kernel
def add_histogram(counts: Counts, values: npt.NDArray[Any], start: float, width: float) -> None:
    """Count values into bins [start + k width, start + (k + 1) width); NaN and values outside are left out."""
    n_bins = counts.shape[0]
    one = np.uint64(1)
    for i in range(values.shape[0]):
        place = (values[i] - start) / width
        if 0.0 <= place < n_bins:
            counts[int(place)] += one
