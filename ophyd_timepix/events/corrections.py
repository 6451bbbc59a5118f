"""What is done to hits between decoder and builder: those of masked pixels and of a ToT out of range are taken out.

A hit that is taken out is counted under the first reason that fits: its pixel, its ToT, and later its ToF. Nothing here
depends on how the stream is cut.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from ..config import Processing
from ..jit import kernel
from ..protocol.words import MAX_CHIPS, TOT
from .block import CHIP_SHIFT, X_SHIFT, Y_SHIFT
from .builder import HitBatch, Ints

Pixels = npt.NDArray[np.uint32]
Flags = npt.NDArray[np.bool_]

_TOT_MASK: Final = TOT.mask


@dataclass(frozen=True, slots=True)
class Corrected:
    """A batch as the builder takes it: views on the decoder's arrays, valid as long as these."""

    ticks: Ints
    pixels: Pixels
    edge_ticks: Ints
    edge_input: npt.NDArray[np.uint8]
    edge_falling: npt.NDArray[np.uint8]
    edge_counter: npt.NDArray[np.uint16]
    horizon_ticks: int


@kernel
def keep_hits(ticks: Ints, pixels: Pixels, masked: Flags, tot_min: int, tot_max: int) -> tuple[int, int, int]:
    """Close up hits of good pixels with tot_min <= ToT <= tot_max, in place.

    masked: by address, chip << 16 | y << 8 | x. Returns (hits left, of masked pixels, of another ToT).
    """
    kept = 0
    n_masked = 0
    for i in range(ticks.shape[0]):
        pixel = pixels[i]
        tot = pixel & np.uint32(_TOT_MASK)
        bad = masked[pixel >> np.uint32(X_SHIFT)]
        ticks[kept] = ticks[i]
        pixels[kept] = pixel
        n_masked += bad
        kept += (not bad) & (tot_min <= tot) & (tot <= tot_max)
    return kept, n_masked, ticks.shape[0] - kept - n_masked


class Corrections:
    """Those of a run. `apply` each batch of the decoder, then give it to the builder."""

    def __init__(self, processing: Processing) -> None:
        self.filtered_masked = 0
        """Hits so far of pixels that are masked."""
        self.filtered_tot = 0
        """Hits so far of a ToT out of range, of other pixels."""
        self._tot = _tot_range(processing)
        self._masked = np.zeros(MAX_CHIPS << (CHIP_SHIFT - X_SHIFT), np.bool_)
        for chip, x, y in processing.masked_pixels:
            self._masked[(chip << CHIP_SHIFT | y << Y_SHIFT | x << X_SHIFT) >> X_SHIFT] = True
        self._filters = bool(processing.masked_pixels) or self._tot != (0, _TOT_MASK)

    def apply(self, batch: HitBatch) -> HitBatch:
        """The batch as the builder takes it: itself when there is nothing to do, else its arrays changed in place."""
        if not self._filters:
            return batch
        kept, n_masked, n_tot = keep_hits(batch.ticks, batch.pixels, self._masked, *self._tot)
        self.filtered_masked += n_masked
        self.filtered_tot += n_tot
        return Corrected(
            ticks=batch.ticks[:kept],
            pixels=batch.pixels[:kept],
            edge_ticks=batch.edge_ticks,
            edge_input=batch.edge_input,
            edge_falling=batch.edge_falling,
            edge_counter=batch.edge_counter,
            horizon_ticks=batch.horizon_ticks,
        )


def _tot_range(processing: Processing) -> tuple[int, int]:
    """Smallest and largest ToT to keep."""
    low, high = processing.tot_min, processing.tot_max
    return 0 if low is None else low, _TOT_MASK if high is None else high
