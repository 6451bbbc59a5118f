"""Reading ahead gives the same rows as reading in turn, and ends when nobody looks any more."""

import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from ophyd_timepix.catalog import selection
from ophyd_timepix.catalog.ahead import looked_at_in_turn
from ophyd_timepix.catalog.columns import FileColumns
from ophyd_timepix.catalog.selection import Part, Piece, Span

N = 1000
BLOCK = 64


@pytest.fixture
def columns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FileColumns:
    monkeypatch.setattr(selection, "BLOCK_ROWS", BLOCK)
    path = tmp_path / "run.h5"
    with h5py.File(path, "w", libver="latest") as file:
        for name, dtype in (("tof", "f8"), ("shot", "i8"), ("size", "u4")):
            file.create_dataset(
                f"entry/centroids/{name}", data=np.arange(N, dtype=dtype), chunks=(BLOCK,), maxshape=(None,)
            )
    return FileColumns(path, "/entry/centroids")


def spans() -> Iterator[Span]:
    return (Span((Part(0, start, min(start + BLOCK, N)),)) for start in range(0, N, BLOCK))


@pytest.mark.parametrize("ahead", [True, False])
def test_every_piece_has_its_own_rows_whichever_columns_it_looks_at(columns: FileColumns, ahead: bool) -> None:
    with columns.opened() as read:
        pieces = looked_at_in_turn(spans(), read, lambda s, room, coming: Piece(s, read, room, coming), ahead=ahead)
        for number, piece in enumerate(pieces):
            expected = np.arange(piece.span.start, piece.span.stop)
            wanted = ("tof", "shot", "size") if number % 3 else ("size",)  # what the next one needs is not always known
            for name in wanted:
                np.testing.assert_array_equal(piece.column(name), expected)
    assert number == N // BLOCK


def test_columns_that_the_last_piece_needed_are_on_their_way(columns: FileColumns) -> None:
    with columns.opened() as read:
        pieces = looked_at_in_turn(spans(), read, lambda s, room, coming: Piece(s, read, room, coming), ahead=True)
        next(pieces).column("tof")
        assert set(next(pieces).coming) == set()  # begun before the first was looked at
        assert set(next(pieces).coming) == {"tof"}
        pieces.close()
    assert not [thread for thread in threading.enumerate() if "read-ahead" in thread.name]


def test_an_error_of_reading_comes_to_who_looks(columns: FileColumns) -> None:
    def broken(name: str, start: int, stop: int, room: Any = None, /) -> Any:
        if start > 2 * BLOCK:
            raise OSError("unreadable sector")
        return np.zeros(stop - start)

    pieces = looked_at_in_turn(spans(), broken, lambda s, room, coming: Piece(s, broken, room, coming), ahead=True)
    with closing(pieces), pytest.raises(OSError, match="unreadable sector"):
        [piece.column("tof") for piece in pieces]
