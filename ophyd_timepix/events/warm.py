"""Loading every kernel before the first hit comes: from the cache, or by compiling on a machine's first start."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from ..config import Geometry, Processing
from . import cutting, order
from .block import BlockArrays, Capacity
from .builder import BlockBuilder
from .centroid import CentroidFinder
from .histograms import add_histogram, add_image


def _column(values: list[int], dtype: Any) -> Any:
    return field(default_factory=lambda: np.array(values, dtype))


@dataclass
class _TwoHits:
    """A batch of two hits in one shot."""

    ticks: npt.NDArray[np.int64] = _column([1000, 1006], np.int64)
    pixels: npt.NDArray[np.uint32] = _column([5, 5], np.uint32)
    edge_ticks: npt.NDArray[np.int64] = _column([900], np.int64)
    edge_input: npt.NDArray[np.uint8] = _column([1], np.uint8)
    edge_falling: npt.NDArray[np.uint8] = _column([0], np.uint8)
    edge_counter: npt.NDArray[np.uint16] = _column([1], np.uint16)
    horizon_ticks: int = 0


def warm_up() -> None:
    """Run every kernel of this room once."""
    block = BlockArrays(capacity=Capacity(hits=16, shots=16, edges=16))
    for min_samples in (1, 2):
        processing = Processing(min_samples=min_samples, tof_max_ns=1e9, hits=True)
        builder = BlockBuilder(processing, n_chips=2, target_hits=1, chain_max=2)
        builder.add(_TwoHits())
        while builder.flush(block):
            pass
        block.header.forced_cut = 1
        CentroidFinder(processing, Geometry.for_chips(2).table()).process(block)
        block.keys[:2] &= ~0x3FF  # without ToT
        CentroidFinder(processing, Geometry.for_chips(2).table()).process(block)
    columns = block.centroid_columns()
    add_image(np.zeros((4, 4), np.uint64), columns["x"], columns["y"])
    add_histogram(np.zeros(4, np.uint64), columns["tof"], 0.0, 1.0)
    order.shift_keys(block.keys, 0, 0, 0)
    cutting.find_last_cut(block.keys, 0, 2, 0, 1, block.shot_tick, 0, 0)
