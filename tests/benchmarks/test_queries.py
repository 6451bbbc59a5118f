"""A gate query on a long run against reading the columns that it needs, with its memory. The real embedded catalog.

TIMEPIX_BENCH_ROWS=100_000_000 takes 4.5 GB of disk (TIMEPIX_BENCH_DIR, else the tests' own) and about five minutes.
"""

import os
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from ophyd_timepix.catalog import CatalogProfile, CatalogWriter, counts, init_catalog, regate
from ophyd_timepix.catalog.recorded import look_up
from ophyd_timepix.config import Gate
from ophyd_timepix.files.event_file import EventFile
from ophyd_timepix.files.reader import open_event_file
from tests.benchmarks.cores import Others
from tests.catalog.conftest import catalog, db, profiles
from tests.catalog.gated_run import COUNTED, send_documents

__all__ = ["catalog", "db", "profiles"]

pytestmark = pytest.mark.bench

ROWS = int(os.environ.get("TIMEPIX_BENCH_ROWS", 10_000_000))
BLOCK_ROWS = 1 << 20
ROWS_PER_SHOT = 20
POINTS = 10
MEMORY_BYTES = 200_000_000
TIMES = 2.0
RUNS = 3 if ROWS > 50_000_000 else 4

PEAK = Gate(name="peak", tof=(13_800, 14_100))
GATES: dict[str, tuple[Gate, tuple[str, ...]]] = {
    "time of flight": (PEAK, ("tof", "shot")),
    "time of flight, region": (PEAK.model_copy(update={"roi": (20, 200, 20, 200)}), ("tof", "x", "y", "shot")),
    "region of a disc": (Gate(name="disc", circle=(128, 128, 60)), ("x", "y", "shot")),
    "ToF, size and ToT": (
        Gate(name="c", tof=(4_000, 14_100), size=(2, 8), tot=(20, 300)),
        ("tof", "size", "tot", "shot"),
    ),
}


@dataclass(frozen=True)
class Long:
    """The run: its uid, its file and its rows."""

    uid: str
    path: Path
    rows: int


@pytest.fixture(scope="module")
def long_run(db: Any, catalog: CatalogProfile, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Long]:
    directory = Path(os.environ.get("TIMEPIX_BENCH_DIR") or tmp_path_factory.mktemp("long"))
    init_catalog(catalog.name, readable=[directory])
    path = directory / "long.h5"
    path.unlink(missing_ok=True)
    begin = time.monotonic()
    file = EventFile(path, image_shape=(256, 256), tof_edges_ns=np.linspace(0, 20_000, 101), attributes={})
    rng = np.random.default_rng(1)
    pool = [_rows(rng) for _ in range(4)]
    while (first := file.rows("centroids")) < ROWS:
        n = min(BLOCK_ROWS, ROWS - first)
        block = pool[first // BLOCK_ROWS % len(pool)]
        shot = np.arange(first, first + n) // ROWS_PER_SHOT
        file.append("centroids", {name: values[:n] for name, values in block.items()} | {"shot": shot})
    n_shots = -(-ROWS // ROWS_PER_SHOT)
    valid = np.ones(n_shots, np.uint8)
    valid[::100] = 0
    file.append("shots", {"time": np.arange(n_shots) * 1e6, "valid": valid})
    file.close()
    print(f"\n{ROWS:,} rows, {path.stat().st_size / 1e9:.2f} GB, made in {time.monotonic() - begin:.0f} s")
    writer = CatalogWriter(catalog.name, backup_directory=tmp_path_factory.mktemp("backup"))
    uid = send_documents(writer, path, _points(valid), ROWS, geometry=True, n_shots=n_shots)
    writer.close(timeout_s=60)
    yield Long(uid, path, ROWS)
    path.unlink()


def _rows(rng: np.random.Generator) -> dict[str, np.ndarray[Any, Any]]:
    """A block of rows: a third of them in a peak."""
    n = BLOCK_ROWS
    tof = np.where(rng.random(n) < 1 / 3, rng.normal(13_950, 60, n), rng.uniform(0, 20_000, n))
    return {
        "x": rng.uniform(0, 255, n).astype("f4"), "y": rng.uniform(0, 255, n).astype("f4"), "toa": np.sort(tof),
        "tof": tof, "tot": rng.integers(1, 400, n).astype("u4"), "tot_max": rng.integers(1, 200, n).astype("u2"),
        "size": rng.integers(1, 12, n).astype("u4"), "chip": np.zeros(n, "u1"), "flags": np.zeros(n, "u1"),
    }  # fmt: skip


def _points(valid: np.ndarray[Any, np.dtype[np.uint8]]) -> pd.DataFrame:
    edges = np.linspace(0, len(valid), POINTS + 1).astype(int)
    spans = [
        (a * ROWS_PER_SHOT, min(b * ROWS_PER_SHOT, ROWS), a, b, b - a, int(valid[a:b].sum()))
        for a, b in pairwise(edges)
    ]
    return pd.DataFrame(spans, columns=list(COUNTED), index=pd.Index(range(1, POINTS + 1), name="seq_num"))


def read_columns(path: Path, columns: tuple[str, ...]) -> None:
    """Each of the columns once, in blocks, and nothing done with it."""
    with open_event_file(path) as file:
        for name in columns:
            dataset = file["entry/centroids"][name]
            for start in range(0, dataset.shape[0], BLOCK_ROWS):
                dataset[start : start + BLOCK_ROWS]
        file["entry/shots/valid"][:]


def fastest(action: Callable[[], Any], forgotten: Path | None = None) -> float:
    """Seconds of the fastest of a few runs. forgotten: a file that the page cache is to forget before each."""
    seconds = []
    for _ in range(RUNS):
        if forgotten is not None:
            with forgotten.open("rb") as file:
                os.fsync(file.fileno())
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        begin = time.perf_counter()
        action()
        seconds.append(time.perf_counter() - begin)
    return min(seconds)


def looking_up(run: Any) -> float:
    """Seconds that the catalog takes to say where the run is, and which points it has."""

    def look() -> None:
        recorded = look_up(run, None, "", direct=True)
        assert recorded.shots is not None
        assert len(recorded.points) == POINTS

    return fastest(look)


def peak_bytes(action: Callable[[], Any]) -> int:
    """By how much the process grows while it does it (Linux counts the largest resident set from here on)."""
    Path("/proc/self/clear_refs").write_text("5")
    before = _resident("VmRSS")
    action()
    return _resident("VmHWM") - before


def _resident(name: str) -> int:
    found = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(found.group(1)) * 1024 if found else 0


@pytest.mark.parametrize("kind", GATES)
def test_a_gate_query_takes_at_most_twice_the_time_of_reading_its_columns(long_run: Long, db: Any, kind: str) -> None:
    gate, columns = GATES[kind]
    run = db.v3[long_run.uid]
    answers = []
    others = Others()
    memory = peak_bytes(lambda: answers.append(counts(run, gate)))  # warms kernels and the page cache, too
    (found,) = answers
    cold_reading = fastest(lambda: read_columns(long_run.path, columns), forgotten=long_run.path)
    cold_asking = fastest(lambda: counts(run, gate), forgotten=long_run.path)
    reading = fastest(lambda: read_columns(long_run.path, columns))
    asking = fastest(lambda: counts(run, gate))
    looking = looking_up(run)
    print(
        f"\n{long_run.rows:,} rows, {kind}, {len(columns)} columns: "
        f"from disk {cold_asking:.2f} s, reading {cold_reading:.2f} s ({cold_asking / cold_reading:.2f} times); "
        f"from memory {asking:.2f} s, reading {reading:.2f} s ({asking / reading:.2f} times); "
        f"of which looking up {looking:.2f} s; {memory / 1e6:.0f} MB more; "
        f"{found.counts:,} counts in {found.shots:,} shots"
    )
    assert found.shots == pytest.approx(0.99 * long_run.rows / ROWS_PER_SHOT, rel=1e-3)
    assert memory < MEMORY_BYTES
    if others.left_it_alone():  # a question has the time of its look-up in any case, however short the run
        assert cold_asking - looking <= TIMES * cold_reading


def test_regating_a_scan(long_run: Long, db: Any) -> None:
    run = db.v3[long_run.uid]
    regate(run, PEAK)
    others = Others()
    reading = fastest(lambda: read_columns(long_run.path, ("tof", "shot")), forgotten=long_run.path)
    asking = fastest(lambda: regate(run, PEAK), forgotten=long_run.path)
    print(
        f"\nregate of {POINTS} points from disk: {asking:.2f} s, reading {reading:.2f} s ({asking / reading:.2f} times)"
    )
    if others.left_it_alone():
        assert asking - looking_up(run) <= TIMES * reading
