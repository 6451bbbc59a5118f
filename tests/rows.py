"""From words to rows through decoder, builder and centroiding, in one process: what the pipeline does, without it."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from ophyd_timepix.config import Calibration, Geometry, Processing
from ophyd_timepix.decode import Decoder, Framing
from ophyd_timepix.events import BlockArrays, BlockBuilder, CentroidFinder
from ophyd_timepix.events.corrections import Corrections
from ophyd_timepix.events.validity import Gap

Table = dict[str, npt.NDArray[Any]]


Hit = tuple[int, int, int, int, int]
"""(tick, chip, y, x, ToT)."""
Edge = tuple[int, int, int, int, int]
"""(tick, input, falling, counter, chip)."""


class HandMade:
    """A batch of hits and edges given one by one."""

    def __init__(self, hits: Sequence[Hit] = (), edges: Sequence[Edge] = (), horizon_ticks: int = -(1 << 61)) -> None:
        table = np.array(hits, np.int64).reshape(-1, 5)
        edge_table = np.array(edges, np.int64).reshape(-1, 5)
        self.ticks = table[:, 0].copy()
        self.pixels = (table[:, 1] << 26 | table[:, 2] << 18 | table[:, 3] << 10 | table[:, 4]).astype(np.uint32)
        self.edge_ticks = edge_table[:, 0].copy()
        self.edge_input = edge_table[:, 1].astype(np.uint8)
        self.edge_falling = edge_table[:, 2].astype(np.uint8)
        self.edge_counter = edge_table[:, 3].astype(np.uint16)
        self.horizon_ticks = horizon_ticks


def flush(builder: BlockBuilder, rows: "Rows", end_tick: int | None = None, block: BlockArrays | None = None) -> None:
    """End the acquisition."""
    block = block or BlockArrays()
    more = True
    while more:
        more = builder.flush(block, end_tick)
        rows.add(block)


class Rows:
    """Tables that grow block by block."""

    def __init__(self, processing: Processing, n_chips: int, calibration: Calibration | None = None) -> None:
        self.finder = CentroidFinder(processing, Geometry.for_chips(n_chips).table(), calibration)
        self._with_hits = processing.hits
        self._tables: dict[str, list[Table]] = {name: [] for name in ("centroids", "hits", "shots", "triggers")}
        self.totals: dict[str, int] = {}
        self.n_blocks = 0
        self.headers: list[dict[str, int]] = []
        self.n_unfinished = 0
        """Blocks that came in no order."""
        self.gaps: list[Gap] = []
        self.rhythm = (0, 0, 0)
        """Missing, double, and put-in triggers."""
        self.horizon = 0
        """Up to here the stream was whole when it ended."""
        self.filtered = (0, 0)
        """Hits of masked pixels, and of a ToT out of range."""

    def add(self, block: BlockArrays) -> None:
        """Centroid a block and keep its rows."""
        assert block.header.sequence == self.n_blocks
        self.n_unfinished += block.header.unfinished
        self.finder.process(block)
        first_row = sum(len(part["toa"]) for part in self._tables["centroids"])
        parts = {
            "centroids": block.centroid_columns(),
            "shots": block.shot_columns(),
            "triggers": block.trigger_columns(),
        }
        if self._with_hits:
            parts["hits"] = block.hit_columns(first_row)
        for name, part in parts.items():
            self._tables[name].append({column: values.copy() for column, values in part.items()})
        self.headers.append(block.header.as_dict())
        for name, value in self.headers[-1].items():
            self.totals[name] = self.totals.get(name, 0) + value
        self.n_blocks += 1

    def table(self, name: str) -> Table:
        """All rows of a table."""
        parts = self._tables[name]
        return {column: np.concatenate([part[column] for part in parts]) for column in parts[0]} if parts else {}


def batches(decoder: Decoder, words: npt.NDArray[np.uint64], places: Iterable[int]) -> Iterator[Any]:
    """Decode words[places[0]:places[1]], ... and flush."""
    for start, stop in pairwise(places):
        yield decoder.decode(words[start:stop])
    yield decoder.flush()


def process(
    words: npt.NDArray[np.uint64],
    processing: Processing,
    *,
    n_chips: int = 1,
    framing: Framing = Framing.TPX3,
    places: Iterable[int] | None = None,
    partial: bool = False,
    end_tick: int | None = None,
    open_tick: int | None = None,
    lateness_ticks: int = 1_920_000,
    block: BlockArrays | None = None,
    lost: Iterable[tuple[int, int]] = (),
    calibration: Calibration | None = None,
    **builder_options: Any,
) -> Rows:
    """One acquisition. partial: take whatever is final after each batch. lost: spans of ticks."""
    decoder = Decoder(framing, n_chips, lateness_ticks=lateness_ticks)
    builder = BlockBuilder(processing, n_chips, **builder_options)
    block = block or BlockArrays()
    corrections = Corrections(processing, calibration, n_chips)
    rows = Rows(processing, n_chips, calibration)
    if open_tick is not None:
        builder.open_shutter(open_tick)
    for low, high in lost:
        builder.invalidate(low, high)
    for batch in batches(decoder, words, (0, len(words)) if places is None else places):
        builder.add(corrections.apply(batch))
        while builder.take(block):
            rows.add(block)
        if partial and builder.take_partial(block):
            rows.add(block)
        rows.horizon = batch.horizon_ticks - corrections.earlier_ticks
    flush(builder, rows, end_tick, block)
    rows.gaps = builder.take_gaps()
    rows.filtered = (corrections.filtered_masked, corrections.filtered_tot)
    rows.rhythm = (builder.rhythm.missing, builder.rhythm.double, builder.rhythm.inferred)
    return rows


def assert_same_rows(a: Rows, b: Rows) -> None:
    """Bit for bit, in the same order."""
    for name in ("centroids", "hits", "shots", "triggers"):
        left, right = a.table(name), b.table(name)
        assert left.keys() == right.keys()
        for column in left:
            assert left[column].dtype == right[column].dtype
            assert left[column].tobytes() == right[column].tobytes(), f"{name}/{column} differs"
