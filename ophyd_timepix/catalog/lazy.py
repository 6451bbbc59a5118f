"""Answers that read nothing until they are computed: dask DataFrames and xarray Datasets of dask arrays.

dask, which comes with the extra `databroker`, is imported when such an answer is asked for.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from ..events.columns import CENTROIDS, ENERGY
from .columns import Columns
from .errors import require
from .selection import Filter, Piece, Question, Span
from .tables import empty_table, rows_of

_UNITS = {column.name: column.unit for column in (*CENTROIDS, ENERGY)}


@dataclass(frozen=True)
class _Reader:
    """Reads a span wherever it is asked to: it holds no open file."""

    columns: Columns
    filter: Filter

    def table(self, span: Span, wanted: Sequence[str]) -> pd.DataFrame:
        with self.columns.opened() as read:
            piece = Piece(span, read)
            self.filter.narrow(piece)
            return rows_of(piece, wanted)

    def kept(self, span: Span) -> npt.NDArray[np.int64]:
        """Which rows of the span are kept, from its first on."""
        with self.columns.opened() as read:
            piece = Piece(span, read)
            self.filter.narrow(piece)
            return piece.kept.astype(np.int64)

    def take(self, kept: npt.NDArray[np.int64], span: Span, column: str) -> npt.NDArray[Any]:
        if not len(kept):
            return self.empty(column)
        with self.columns.opened() as read:
            return read(column, span.start, span.stop)[kept]

    def empty(self, column: str) -> npt.NDArray[Any]:
        with self.columns.opened() as read:
            return read(column, 0, 0)


def dask_table(question: Question, wanted: Sequence[str]) -> Any:
    """The answer as a dask DataFrame: a partition for each span, indexed by row."""
    frame = require("dask.dataframe")
    meta = empty_table(question, wanted)
    spans = list(question.spans())
    if not spans:
        return frame.from_pandas(meta, npartitions=1)
    reader = _Reader(question.recorded.columns, question.filter)
    ascending = all(a.stop <= b.start for a, b in pairwise(spans))
    divisions = (*(span.start for span in spans), spans[-1].stop - 1) if ascending else None
    return frame.from_map(reader.table, spans, wanted=list(wanted), meta=meta, divisions=divisions, label="centroids")


def dataset(question: Question, wanted: Sequence[str]) -> Any:
    """The answer as an xarray Dataset along `centroid`; the coordinate `row` is the row in the event file."""
    xarray, delayed, arrays = require("xarray"), require("dask").delayed, require("dask.array")
    reader = _Reader(question.recorded.columns, question.filter)
    spans = list(question.spans())
    counts = _counts(question, reader, spans)
    filled = [(span, n) for span, n in zip(spans, counts, strict=True) if n]
    kept = [delayed(reader.kept)(span) for span, _ in filled]

    def column(name: str) -> Any:
        dtype = question.recorded.dtypes[name]
        parts = [
            arrays.from_delayed(delayed(reader.take)(rows, span, name), shape=(n,), dtype=dtype)
            for rows, (span, n) in zip(kept, filled, strict=True)
        ]
        return arrays.concatenate(parts) if parts else arrays.zeros(0, dtype=dtype)

    rows = [
        arrays.from_delayed(found + span.start, shape=(n,), dtype="int64")
        for found, (span, n) in zip(kept, filled, strict=True)
    ]
    start = question.recorded.start
    return xarray.Dataset(
        {name: ("centroid", column(name), {"units": _UNITS.get(name, "")}) for name in wanted},
        coords={"row": ("centroid", arrays.concatenate(rows) if rows else arrays.zeros(0, dtype="int64"))},
        attrs={"uid": start["uid"], "scan_id": start.get("scan_id", 0), "detector": question.recorded.detector},
    )


def _counts(question: Question, reader: _Reader, spans: Sequence[Span]) -> list[int]:
    """Rows of each span that are kept: arrays must know their length."""
    if question.filter.takes_all:
        return [sum(part.stop - part.start for part in span.parts) for span in spans]
    with question.recorded.columns.opened() as read:
        return [reader.filter.narrow(Piece(span, read)) for span in spans]
