"""The master of a run of 10^7 centroids: what it costs at the end of the run, and that memory stays flat."""

import threading
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from ophyd_timepix.events.columns import CENTROIDS
from ophyd_timepix.files.event_file import EventFile, tof_edges
from ophyd_timepix.files.master import write_master
from tests.benchmarks.cores import Others

pytestmark = pytest.mark.bench

ROWS = 10_000_000
PER_SHOT = 10
STEP = 1 << 20
LONGEST_S = 5.0
MOST_BYTES = 100e6


def write_event_file(path: Path) -> None:
    rng = np.random.default_rng(1)
    file = EventFile(path, image_shape=(256, 256), tof_edges_ns=tof_edges((0, 1e5), 2000), attributes={})
    for first in range(0, ROWS, STEP):
        row = np.arange(first, min(first + STEP, ROWS))
        values = {
            "shot": row // PER_SHOT, "x": rng.uniform(0, 255, row.size), "y": rng.uniform(0, 255, row.size),
            "toa": row * 100.0, "tof": rng.uniform(0, 1e5, row.size),
        }  # fmt: skip
        file.append("centroids", {c.name: values.get(c.name, row % 100).astype(c.dtype) for c in CENTROIDS})
    n_shots = ROWS // PER_SHOT
    file.append("shots", {"time": np.arange(n_shots) * 1000.0, "valid": np.ones(n_shots, np.uint8)})
    file.close()


class Peak(threading.Thread):
    """The largest resident memory of this process while it lives."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self._process = psutil.Process()
        self.base = self.bytes = self._process.memory_info().rss
        self._over = threading.Event()

    def run(self) -> None:
        while not self._over.wait(0.005):
            self.bytes = max(self.bytes, self._process.memory_info().rss)

    def grown(self) -> int:
        self._over.set()
        self.join()
        return self.bytes - self.base


def test_the_master_of_ten_million_centroids(tmp_path):
    write_event_file(tmp_path / "run.h5")
    peak = Peak()
    peak.start()
    others, begin = Others(), time.perf_counter()
    write_master(tmp_path / "run.nxs", tmp_path / "run.h5", start={}, configuration={}, ledger={})
    seconds = time.perf_counter() - begin
    grown = peak.grown()
    size = (tmp_path / "run.nxs").stat().st_size
    print(f"\nmaster of {ROWS:.0e} rows: {seconds:.2f} s, {size / 1e6:.0f} MB, memory + {grown / 1e6:.1f} MB")
    if others.left_it_alone():
        assert seconds < LONGEST_S
    assert grown < MOST_BYTES
