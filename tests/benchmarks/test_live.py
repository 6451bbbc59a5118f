"""Live: simulator, capture, decode, centroid and file on the same cores. Prints what was measured.

Where others use the cores, too, the simulator's clock slows down and processing falls behind; nothing may be lost
without a word then. How fast it is is judged on a machine that was free.
"""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from ophyd_timepix.config import Geometry, Processing
from ophyd_timepix.control import Board, SpidrClient
from ophyd_timepix.devices.recording import Recording, RunFile
from ophyd_timepix.pipeline.client import Pipeline
from tests.benchmarks.cores import Cores
from tests.memory import memory_of
from tests.sim_process import running_sim

pytestmark = pytest.mark.bench

SECONDS = 6.0
MOST_LAG_S = 1.0


def fly(
    board: Board, pipeline: Pipeline, path: Path, seconds: float, sim_pid: int, processing: Processing
) -> tuple[dict[str, Any], bool]:
    """One flight: what it cost, and whether the machine was free."""
    recording = Recording(lambda: board, 1, lambda: pipeline)
    recording.open("run", RunFile(path, processing, Geometry()))
    recording.begin()
    pids = {**pipeline.pids, "simulator": sim_pid}
    cores, all_along = Cores(pids), Cores(pids)
    recording.open_shutter()
    begin = time.monotonic()
    lags = []
    while time.monotonic() - begin < seconds:
        time.sleep(0.25)
        lags.append(recording.progress().lag_seconds)
        recording.tend()
    recording.close_shutter()
    open_s = time.monotonic() - begin
    used = cores.used()
    acquired = recording.end(end_counts=None, cancelled=False)
    behind_s = time.monotonic() - begin - open_s
    cost = all_along.used().own
    memory = memory_of(pipeline.pids.values())
    recording.close({}, {})
    ledger = acquired.ledger
    path.unlink()
    for file in path.parent.glob(f"{path.stem}*.tpx3*"):
        file.unlink()
    report = {
        "sent Mhit/s": round(ledger["sent_pixel_words"] / open_s / 1e6, 2),
        "sent": ledger["sent_datagrams"],
        "received": ledger["received_datagrams"],
        "unaccounted": ledger["unaccounted"],
        "largest lag s": round(max(lags), 3),
        "behind at the end s": round(behind_s, 3),
        "ns per hit": {n: round(c * (open_s + behind_s) / acquired.hits * 1e9, 1) for n, c in cost.items()},
        "cores of others": round(used.others, 2),
        "PSS MB": round(memory.total / 1e6),
    }
    return report, used.machine_was_free


@pytest.mark.parametrize(
    ("scene", "rate", "length", "hits"),
    [
        pytest.param("load", 15e6, 1400, False, id="15 Mhit/s, 1400 B"),
        pytest.param("load", 5e6, 1400, True, id="5 Mhit/s, 1400 B, hit columns"),
        pytest.param("vmi", 2e6, 1400, False, id="vmi, 2 Mhit/s, 1400 B"),
        pytest.param("uniform", 10e6, 8960, False, id="uniform, 10 Mhit/s, 8960 B"),
    ],
)
def test_live_centroids_keep_up_and_lose_nothing(tmp_path, scene, rate, length, hits):
    with (
        running_sim(scene=scene, rate=rate, shot_rate=1000, datagram_bytes=length, seed=1) as sim,
        SpidrClient(sim.host, sim.port) as client,
        Pipeline() as pipeline,
    ):
        processing = Processing(hits=hits)
        report, free = fly(Board(client), pipeline, tmp_path / "run.h5", SECONDS, sim.process.pid, processing)
    print(json.dumps(report))
    assert report["unaccounted"] == 0
    if free:
        assert report["sent"] == report["received"]
        assert report["largest lag s"] < MOST_LAG_S


def test_memory_does_not_grow_with_the_length_of_a_run(tmp_path):
    """After ring and blocks have been round, three times the run takes no more. Five minutes of it: `make soak`."""
    totals = []
    with (
        running_sim(scene="load", rate=5e6, shot_rate=1000, seed=1) as sim,
        SpidrClient(sim.host, sim.port) as client,
        Pipeline(ring_bytes=1 << 26) as pipeline,
    ):
        for seconds in (SECONDS, 3 * SECONDS):
            path = tmp_path / f"{seconds:g}s.h5"
            fly(Board(client), pipeline, path, seconds, sim.process.pid, Processing())
            totals.append(memory_of(pipeline.pids.values()).own / 1e6)
    first, more = SECONDS, 3 * SECONDS
    print(
        f"own memory of all stages after {first:g} s: {totals[0]:.0f} MB, after {more:g} s more: {totals[1]:.0f} MB "
        f"(ring 67 MB)"
    )
    assert totals[1] < 1.1 * totals[0]


def test_process_from_file_to_file(tmp_path):
    recording = tmp_path / "synthetic.tpx3"
    make = [sys.executable, "-m", "spidr_sim", "--scene", "uniform", "--rate", "20e6", "--shot-rate", "1000"]
    subprocess.run([*make, "--write", str(recording), "--seconds", "1", "--seed", "1"], check=True)
    line = [sys.executable, "-m", "ophyd_timepix.app.cli", "process", str(recording), "--json", "--workers"]
    for workers in (1, 2):
        done = subprocess.run(
            [*line, str(workers), "-o", str(tmp_path / f"{workers}.h5")], capture_output=True, text=True, check=True
        )
        result = json.loads(done.stdout)
        print(f"{workers} workers: {result['hits_per_second'] / 1e6:.1f} Mhit/s")
        assert result["ledger"]["unaccounted"] == 0
