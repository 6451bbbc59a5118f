"""Live: simulator, capture, decode, centroid and file on the same cores. Prints what was measured."""

import json
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from ophyd_timepix.config import Processing
from ophyd_timepix.control import Board, SpidrClient
from ophyd_timepix.pipeline.client import Pipeline
from ophyd_timepix.pipeline.messages import Receiver, RunRequest, Sent
from tests.sim_process import running_sim

pytestmark = pytest.mark.bench

FLOOR_HITS_PER_S = 10e6


def pss_bytes(pids: dict[str, int]) -> dict[str, int]:
    """Proportional set size of each process: shared pages are counted once, divided among who maps them."""
    return {name: psutil.Process(pid).memory_full_info().pss for name, pid in pids.items()}


def fly(board: Board, pipeline: Pipeline, directory: Path, seconds: float):
    chip = board.present_chips()[0]
    (port,) = pipeline.bind([Receiver(chip=0, host="127.0.0.1")])
    chip.set_destination("127.0.0.1", port)
    board.prepare_readout()
    board.reset_timers()
    pipeline.open_run(RunRequest(event_file=directory / f"{seconds:g}s.h5", processing=Processing()))
    base = board.sent_counters()
    pipeline.begin(1)
    board.open_shutter()
    readings = []
    clock = psutil.time.monotonic
    begin = clock()
    while clock() - begin < seconds:
        progress = pipeline.progress()
        readings.append((progress.lag_seconds, sum(pss_bytes(pipeline.pids).values())))
        psutil.time.sleep(0.25)
    board.close_shutter()
    closed = clock()
    sent = board.sent_counters()
    acquired = pipeline.end(Sent(datagrams=sent.datagrams - base.datagrams))
    behind = clock() - closed
    memory = pss_bytes(pipeline.pids)
    pipeline.close_run()
    return acquired, closed - begin, behind, readings, memory


@pytest.mark.parametrize("rate", [10e6, 12e6, 15e6])
def test_live_against_the_simulator(tmp_path, rate):
    with (
        running_sim(scene="uniform", rate=rate, shot_rate=1000, seed=1) as sim,
        SpidrClient(sim.host, sim.port) as client,
        Pipeline() as pipeline,
    ):
        acquired, open_s, behind_s, readings, memory = fly(Board(client), pipeline, tmp_path, 10)
    ledger = acquired.ledger
    report = {
        "wanted Mhit/s": rate / 1e6,
        "sent Mhit/s": round(acquired.hits / open_s / 1e6, 2),
        "centroids": acquired.centroids,
        "lost datagrams": ledger["lost_datagrams"],
        "kernel dropped": ledger["kernel_dropped"],
        "unaccounted": ledger["unaccounted"],
        "largest lag s": round(max(lag for lag, _ in readings), 3),
        "seconds to finish after the shutter": round(behind_s, 3),
        "PSS MB": {name: round(n / 1e6) for name, n in memory.items()},
    }
    print("\n" + json.dumps(report))
    assert ledger["unaccounted"] == 0
    assert ledger["lost_datagrams"] == 0
    if rate == FLOOR_HITS_PER_S:
        assert acquired.hits / open_s > 0.95 * FLOOR_HITS_PER_S


def test_memory_does_not_grow_with_the_length_of_a_run(tmp_path):
    """After the ring has been round once, ten times the run takes no more."""
    totals = []
    with (
        running_sim(scene="uniform", rate=5e6, shot_rate=1000, seed=1) as sim,
        SpidrClient(sim.host, sim.port) as client,
        Pipeline(ring_bytes=1 << 26) as pipeline,
    ):
        for seconds in (5, 50):
            *_, memory = fly(Board(client), pipeline, tmp_path, seconds)
            totals.append(sum(memory.values()))
    print(f"\nPSS of all stages after 5 s: {totals[0] / 1e6:.0f} MB, after 50 s more: {totals[1] / 1e6:.0f} MB")
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
        print(f"\n{workers} workers: {result['hits_per_second'] / 1e6:.1f} Mhit/s")
        assert result["ledger"]["unaccounted"] == 0
