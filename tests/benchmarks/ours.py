"""Recordings through decoder, builder and centroiding in one thread: no files, queues or processes beside."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ophyd_timepix.config import Geometry, Processing
from ophyd_timepix.config.calibration import Calibration
from ophyd_timepix.decode import Batch, Decoder
from ophyd_timepix.events import BlockArrays, BlockBuilder, CentroidFinder
from ophyd_timepix.events.corrections import Corrections
from ophyd_timepix.spool.sources import SLICE_BYTES

SLICE_WORDS = SLICE_BYTES // 8
"""As the decode stage takes them from a file."""
KEPT = ("x", "y", "tof", "tot", "size", "chip")

Words = npt.NDArray[np.uint64]


def slices_of(path: Path) -> Iterator[Words]:
    """A recording, read into one array again and again."""
    buffer = np.empty(SLICE_WORDS, np.uint64)
    with path.open("rb", buffering=0) as file:
        while n_bytes := file.readinto(buffer):
            yield buffer[: n_bytes // 8]


def in_slices(words: Words) -> Iterator[Words]:
    """The same from memory."""
    return (words[start : start + SLICE_WORDS] for start in range(0, len(words), SLICE_WORDS))


def decoded(slices: Iterable[Words]) -> Iterator[Batch]:
    """Every hit with x, y, ToT and its time at 1.5625 ns, into reused arrays."""
    decoder = Decoder(n_chips=1, batch_words=SLICE_WORDS)
    for words in slices:
        yield decoder.decode(words)
    yield decoder.flush()


def blocks_of(
    slices: Iterable[Words], processing: Processing, calibration: Calibration | None = None
) -> Iterator[BlockArrays]:
    """Decode, order, shots, clusters, centroids: one block after the other, in the same arrays."""
    corrections, builder, block = Corrections(processing, calibration), BlockBuilder(processing, 1), BlockArrays()
    finder = CentroidFinder(processing, Geometry().table())
    for batch in decoded(slices):
        builder.add(corrections.apply(batch))
        while builder.take(block):
            finder.process(block)
            yield block
    more = True
    while more:  # the end of the acquisition
        more = builder.flush(block)
        finder.process(block)
        yield block


def count_decoded(slices: Iterable[Words]) -> int:
    """Hits, decoded."""
    return sum(len(batch.ticks) for batch in decoded(slices))


def count_centroided(slices: Iterable[Words], processing: Processing) -> int:
    """Hits that went into centroids or their columns; every block is given away."""
    return sum(block.header.n_hits for block in blocks_of(slices, processing))


def table_of(
    slices: Iterable[Words], n_words: int, processing: Processing, calibration: Calibration | None = None
) -> dict[str, npt.NDArray[Any]]:
    """The columns that other programs have too, of all centroids, kept in memory as they do.

    n_words: of the recording; there are no more centroids. Pages that are not written take no memory.
    """
    table: dict[str, npt.NDArray[Any]] = {}
    n = 0
    for block in blocks_of(slices, processing, calibration):
        columns = {name: column for name, column in block.centroid_columns().items() if name in KEPT}
        table = table or {name: np.empty(n_words, column.dtype) for name, column in columns.items()}
        end = n + block.header.n_centroids
        for name, column in columns.items():
            table[name][n:end] = column
        n = end
    return {name: column[:n] for name, column in table.items()}
