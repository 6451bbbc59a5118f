"""Loading every kernel before the first hit comes: from the cache, or by compiling on a machine's first start."""

import numpy as np

from ..config import Calibration, CentroidTime, Gate, Geometry, Metric, Processing
from . import cutting, order
from .block import BlockArrays, Capacity
from .builder import BlockBuilder
from .centroid import CentroidFinder
from .corrections import Corrections
from .counting import PointCounter
from .energy import EnergySum
from .gates import Condition
from .histograms import add_histogram, add_image
from .pulses import NO_SHOT, events_of, pulses_of
from .sums import PointArrays, Spectrum

_GATES = (
    Gate(name="box", tof=(0, 1e9), roi=(0, 255, 0, 255), tot=(0, 1000), size=(1, 100)),
    Gate(name="circle", circle=(0, 0, 1e3)),
    Gate(name="polygon", polygon=((0, 0), (300, 0), (0, 300))),
)
_KERNELS = (
    (Metric.CYLINDER, 2.0, 1),
    (Metric.ELLIPSOID, 2.0, 1),
    (Metric.ELLIPSOID, 3.0, 1),
    (Metric.CYLINDER, 2.0, 2),
    (Metric.CYLINDER, 3.0, 2),
    (Metric.CYLINDER, 2.0, 9),
)
"""(metric, radius, min_samples): a way of clustering each."""


class _TwoHits:
    """A batch of two hits in one shot."""

    ticks = np.array([1000, 1006], np.int64)
    pixels = np.array([5, 5], np.uint32)
    edge_ticks = np.array([900], np.int64)
    edge_input = np.array([1], np.uint8)
    edge_falling = np.array([0], np.uint8)
    edge_counter = np.array([1], np.uint16)
    horizon_ticks = 0


def warm_up() -> None:
    """Run every kernel of this room once."""
    block = BlockArrays(capacity=Capacity(hits=16, shots=16, edges=16))
    for metric, radius_px, min_samples in _KERNELS:
        processing = Processing(
            metric=metric,
            radius_px=radius_px,
            min_samples=min_samples,
            tof_max_ns=1e9,
            hits=True,
            split=True,
            split_time_ns=1.0,  # so that two hits are two peaks
            centroid_time=CentroidTime.WEIGHTED,
        )
        builder = BlockBuilder(processing, n_chips=2, target_hits=1, chain_max=2)
        builder.add(Corrections(Processing(tot_min=1)).apply(_TwoHits()))
        while builder.flush(block):
            pass
        block.header.forced_cut = 1
        CentroidFinder(processing, Geometry.for_chips(2).table()).process(block)
        block.keys[:2] &= ~0x3FF  # without ToT
        CentroidFinder(processing, Geometry.for_chips(2).table()).process(block)
    _warm_calibrations(block)
    columns = block.centroid_columns()
    add_image(np.zeros((4, 4), np.uint64), columns["x"], columns["y"])
    x, y, tof = columns["x"], columns["y"], columns["tof"]
    events_of(x, y, tof, 4, 4, np.empty(len(x), np.uint32), np.empty(len(x), np.float32))
    pulses_of(columns["shot"], NO_SHOT, NO_SHOT)
    add_histogram(np.zeros(4, np.uint64), columns["tof"], 0.0, 1.0)
    counter = PointCounter(PointArrays.empty((4, 4), Spectrum(0.0, 1.0, 4)), [Condition.of(gate) for gate in _GATES])
    counter.add(columns, 0, block.shot_columns()["valid"])
    order.shift_keys(block.keys, 0, 0, 0)
    cutting.find_last_cut(block.keys, 0, 2, 0, 1, block.shot_tick, 0, 0)


def _warm_calibrations(block: BlockArrays) -> None:
    for calibration in (
        Calibration(time_walk_table_ns=np.ones((1, 1024)), energy_abct=np.ones((1, 4))),
        Calibration(time_walk_abc=np.ones((1, 256, 256, 3)), energy_abct=np.ones((1, 256, 256, 4))),
    ):
        Corrections(Processing(), calibration).apply(_TwoHits())
        EnergySum(calibration).write(block.keys, 0, block.labels, 0, block.energy)
