"""What is done to hits between decoder and builder: some are taken out, the times of the others are corrected.

A hit that is taken out is counted under the first reason that fits: its pixel, its ToT, and later its ToF. Of others
time-walk and the offset of their chip are subtracted, rounded to ticks. Nothing here depends on how the stream is cut.
"""

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from ..clock import NS_PER_COUNT, TICKS_PER_COUNT
from ..config import Processing
from ..config.calibration import NEAREST, Calibration
from ..jit import kernel
from ..protocol.words import MAX_CHIPS, TOT
from .block import CHIP_SHIFT, X_SHIFT, Y_SHIFT
from .builder import HitBatch, Ints

Pixels = npt.NDArray[np.uint32]
Flags = npt.NDArray[np.bool_]

Floats = npt.NDArray[np.float64]

_TOT_MASK: Final = TOT.mask
_TOT_BITS: Final = TOT.width
_NEAREST: Final = NEAREST


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


@kernel
def subtract_by_tot(ticks: Ints, pixels: Pixels, table: Ints) -> None:
    """Subtract table[chip << 10 | ToT] ticks from each hit, in place."""
    for i in range(ticks.shape[0]):
        pixel = pixels[i]
        chip = pixel >> np.uint32(CHIP_SHIFT)
        ticks[i] -= table[(chip << np.uint32(_TOT_BITS)) | (pixel & np.uint32(_TOT_MASK))]


@kernel
def subtract_by_pixel(ticks: Ints, pixels: Pixels, abc: Floats) -> None:
    """Subtract a / (ToT - b) + c ticks of its pixel from each hit, in place. abc: [chip << 16 | y << 8 | x, 3]."""
    for i in range(ticks.shape[0]):
        pixel = pixels[i]
        row = abc[pixel >> np.uint32(X_SHIFT)]
        above = max(np.float64(pixel & np.uint32(_TOT_MASK)) - row[1], _NEAREST)
        ticks[i] -= np.int64(np.rint(row[0] / above + row[2]))


class Corrections:
    """Those of a run. `apply` each batch of the decoder, then give it to the builder.

    Raises ValueError when the calibration does not know all chips.
    """

    def __init__(self, processing: Processing, calibration: Calibration | None = None, n_chips: int = 1) -> None:
        self.filtered_masked = 0
        """Hits so far of pixels that are masked."""
        self.filtered_tot = 0
        """Hits so far of a ToT out of range, of other pixels."""
        self._tot = _tot_range(processing)
        self._masked = np.zeros(MAX_CHIPS << (CHIP_SHIFT - X_SHIFT), np.bool_)
        for chip, x, y in processing.masked_pixels:
            self._masked[(chip << CHIP_SHIFT | y << Y_SHIFT | x << X_SHIFT) >> X_SHIFT] = True
        self._by_tot: Ints | None = None
        self._by_pixel: Floats | None = None
        self.earlier_ticks = 0
        """By how much a hit may become earlier, at most."""
        self.later_ticks = 0
        if calibration is not None:
            self._calibrate(calibration, n_chips)
        self._filters = bool(processing.masked_pixels) or self._tot != (0, _TOT_MASK)

    def apply(self, batch: HitBatch) -> HitBatch:
        """The batch as the builder takes it: itself when there is nothing to do, else its arrays changed in place."""
        if not self._filters and self._by_tot is None and self._by_pixel is None:
            return batch
        ticks, pixels = self._kept(batch.ticks, batch.pixels)
        if self._by_tot is not None:
            subtract_by_tot(ticks, pixels, self._by_tot)
        if self._by_pixel is not None:
            subtract_by_pixel(ticks, pixels, self._by_pixel)
        return Corrected(
            ticks=ticks,
            pixels=pixels,
            edge_ticks=batch.edge_ticks,
            edge_input=batch.edge_input,
            edge_falling=batch.edge_falling,
            edge_counter=batch.edge_counter,
            horizon_ticks=batch.horizon_ticks - self.earlier_ticks,
        )

    def _kept(self, ticks: Ints, pixels: Pixels) -> tuple[Ints, Pixels]:
        if not self._filters:
            return ticks, pixels
        kept, n_masked, n_tot = keep_hits(ticks, pixels, self._masked, *self._tot)
        self.filtered_masked += n_masked
        self.filtered_tot += n_tot
        return ticks[:kept], pixels[:kept]

    def _calibrate(self, calibration: Calibration, n_chips: int) -> None:
        if calibration.n_chips < n_chips:
            raise ValueError(
                f"the calibration describes {calibration.n_chips} chips, the data come from {n_chips}; "
                "take one of all chips, or none"
            )
        table = _to_ticks(calibration.walk_table_ns())
        if table.any():
            self._by_tot = np.ascontiguousarray(np.rint(table), np.int64).ravel()
        if calibration.per_pixel and calibration.time_walk_abc is not None:
            abc = calibration.time_walk_abc.reshape(-1, 3).copy()
            abc[:, (0, 2)] = _to_ticks(abc[:, (0, 2)])
            self._by_pixel = np.ascontiguousarray(abc)
        low, high = (float(_to_ticks(np.array(ns))) for ns in calibration.range_ns)
        self.earlier_ticks = max(0, math.ceil(high) + 1)
        self.later_ticks = max(0, math.ceil(-low) + 1)


def _to_ticks(ns: Floats) -> Floats:
    return ns * TICKS_PER_COUNT / NS_PER_COUNT


def _tot_range(processing: Processing) -> tuple[int, int]:
    """Smallest and largest ToT to keep."""
    low, high = processing.tot_min, processing.tot_max
    return 0 if low is None else low, _TOT_MASK if high is None else high
