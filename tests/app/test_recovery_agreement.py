"""An event file against one made anew from a recording that may lack its end."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ophyd_timepix.app.recovery_agreement import difference_before_the_cut, is_beginning
from ophyd_timepix.config import Processing
from ophyd_timepix.files.event_file import EventFile
from tests.catalog.conftest import rows as some_rows

ROWS = 500
PER_SHOT = 10
"""Shots are 10 ms long, a row a millisecond."""
PROCESSING = Processing(lateness_ns=500_000, window_ns=100)


def write(path: Path, n: int, **changed: Any) -> Path:
    """The first n rows of a run. changed: (row, value) of columns, of the shots where they have it."""
    columns = some_rows(0, n)
    columns["toa"] = np.arange(n) * 1e6
    columns["shot"] = np.arange(n) // PER_SHOT
    n_shots = -(-n // PER_SHOT)
    shots = {"time": np.arange(n_shots) * 1e7, "valid": np.ones(n_shots, np.uint8)}
    for name, (row, value) in changed.items():
        (shots if name in shots else columns)[name][row] = value
    file = EventFile(path, image_shape=(8, 8), tof_edges_ns=np.linspace(0, 1, 3), attributes={})
    file.append("centroids", columns)
    file.append("shots", shots)
    file.close()
    return path


@pytest.fixture
def longer(tmp_path: Path) -> Path:
    return write(tmp_path / "longer.h5", ROWS)


def test_a_file_begins_with_one_that_has_its_first_rows(longer: Path, tmp_path: Path) -> None:
    shorter = write(tmp_path / "shorter.h5", 300)
    assert is_beginning(shorter, longer)
    assert not is_beginning(longer, shorter)
    assert not is_beginning(write(tmp_path / "other.h5", 300, size=(299, 77)), longer)


def test_last_clusters_and_shots_of_a_cut_recording_may_differ(longer: Path, tmp_path: Path) -> None:
    cut = write(tmp_path / "cut.h5", 305, size=(304, 77), valid=(30, 0))
    assert difference_before_the_cut(longer, cut, PROCESSING) is None


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"size": (200, 77)}, "row 200 of centroids, 0.200000 s after the timer's zero"),
        ({"tof": (302, 77.0)}, "row 302 of centroids, 0.302000 s after"),
        ({"time": (12, 1.3e8)}, "row 12 of shots, 0.130000 s after"),
    ],
)
def test_what_differs_long_before_the_end_is_told(longer: Path, tmp_path: Path, changed: Any, told: str) -> None:
    cut = write(tmp_path / "cut.h5", 305, **changed)
    assert str(difference_before_the_cut(longer, cut, PROCESSING)).startswith(told)
