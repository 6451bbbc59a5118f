"""The memory of a run does not know how long the run lasts."""

import time

import numpy as np
import pytest

from ophyd_timepix.config import Geometry, Processing
from ophyd_timepix.control import Board, SpidrClient
from ophyd_timepix.devices.recording import Recording, RunFile
from ophyd_timepix.pipeline.client import Pipeline
from tests.memory import Memory, memory_of
from tests.sim_process import running_sim

pytestmark = pytest.mark.soak

RATE = 2e6
SECONDS = 300.0
EVERY_S = 10.0
SETTLED_S = 100.0
"""Until then the ring has come round, and every block has been full once."""
MOST_BYTES = 1e9
MOST_BYTES_PER_MINUTE = 10e6
"""Pages of blocks and buffers that were never so full before, as when others take the cores. Their size is fixed."""


def test_five_minutes_at_2_mhits_take_less_than_a_gigabyte_and_do_not_grow(tmp_path):
    """Proportional set size of all processes of the pipeline, its ring of 256 MiB included."""
    series: list[tuple[float, Memory]] = []
    with (
        running_sim(scene="load", rate=RATE, shot_rate=1000, datagram_bytes=1400, seed=1) as sim,
        SpidrClient(sim.host, sim.port) as client,
        Pipeline() as pipeline,
    ):
        board = Board(client)
        recording = Recording(lambda: board, 1, lambda: pipeline)
        recording.open("run", RunFile(tmp_path / "run.h5", Processing(), Geometry()))
        recording.begin()
        recording.open_shutter()
        begin = time.monotonic()
        while (elapsed := time.monotonic() - begin) < SECONDS:
            time.sleep(EVERY_S - elapsed % EVERY_S)
            recording.tend()
            lag_s = recording.progress().lag_seconds
            memory = memory_of(pipeline.pids.values())
            series.append((time.monotonic() - begin, memory))
            each = {name: round(memory_of([pid]).own / 1e6) for name, pid in pipeline.pids.items()}
            print(
                f"{series[-1][0]:5.0f} s {memory.total / 1e6:4.0f} MB, without libraries {memory.own / 1e6:4.0f} MB ",
                end="",
            )
            print(f"(shared {memory.shared / 1e6:.0f}) {each}; lag {lag_s:.2f} s")
        recording.close_shutter()
        acquired = recording.end(end_counts=None, cancelled=False)
        recording.close({}, {})
    settled = np.array([(t, memory.own) for t, memory in series if t > SETTLED_S])
    per_minute = float(np.polyfit(settled[:, 0], settled[:, 1], 1)[0]) * 60
    largest = max(memory.total for _, memory in series)
    print(f"{acquired.hits / series[-1][0] / 1e6:.2f} Mhit/s; {largest / 1e6:.0f} MB at most, ", end="")
    print(f"{per_minute / 1e6:+.2f} MB a minute after {SETTLED_S:.0f} s, libraries left out")
    assert acquired.ledger["unaccounted"] == 0
    assert largest < MOST_BYTES
    assert per_minute < MOST_BYTES_PER_MINUTE
