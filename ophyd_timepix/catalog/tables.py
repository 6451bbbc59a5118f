"""Kept rows as DataFrames: of a piece, and of a whole question."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from .selection import Piece, Question


def read_table(question: Question, columns: Sequence[str]) -> pd.DataFrame:
    """The answer as a DataFrame."""
    pieces = [rows_of(piece, columns) for piece in question.pieces()]
    return pd.concat(pieces) if pieces else empty_table(question, columns)


def rows_of(piece: Piece, columns: Sequence[str]) -> pd.DataFrame:
    """The kept rows of a piece. Columns that only the answer needs are read here."""
    index = pd.Index(piece.kept.astype(np.int64) + piece.span.start, name="row")
    return pd.DataFrame({column: piece.values(column) for column in columns}, index=index, copy=False)


def empty_table(question: Question, columns: Sequence[str]) -> pd.DataFrame:
    """No rows, of the right types."""
    dtypes = question.recorded.dtypes
    return pd.DataFrame(
        {column: np.empty(0, dtype=dtypes[column]) for column in columns}, index=pd.Index([], dtype="int64", name="row")
    )
