"""Capture to the recording at the full rate of one chip: what is lost, and what it costs. Prints what was measured."""

import json
import time
from pathlib import Path
from typing import Any

import pytest

from ophyd_timepix.config import Geometry, Processing
from ophyd_timepix.control import Board, SpidrClient
from ophyd_timepix.devices.recording import Recording, RunFile
from ophyd_timepix.pipeline.client import Pipeline
from ophyd_timepix.spool.segments import files_of
from ophyd_timepix.spool.sources import open_recording
from tests.benchmarks.cores import Cores
from tests.sim_process import running_sim

pytestmark = pytest.mark.bench

SECONDS = 10
HALF_A_CORE = 0.5


def capture(directory: Path, rate: float, length: int, n_chips: int) -> tuple[dict[str, Any], bool]:
    """One acquisition of raw words: what it cost, and whether the machine was free."""
    with (
        running_sim(scene="load", rate=rate, datagram_bytes=length, chips=n_chips, seed=1) as sim,
        SpidrClient(sim.host, sim.port) as client,
        Pipeline() as pipeline,
    ):
        board = Board(client)
        recording = Recording(lambda: board, n_chips, lambda: pipeline)
        recording.open("run", RunFile(directory / "run.h5", Processing(), Geometry.for_chips(n_chips), centroid=False))
        recording.begin()
        cores = Cores({**pipeline.pids, "simulator": sim.process.pid})
        recording.open_shutter()
        begin = time.monotonic()
        left = None
        while time.monotonic() - begin < SECONDS:
            time.sleep(0.5)
            left = recording.progress().disk_seconds_left
        recording.close_shutter()
        seconds = time.monotonic() - begin
        used = cores.used()
        acquired = recording.end(end_counts=None, cancelled=False)
        recording.close({}, {})
    ledger = acquired.ledger
    path = directory / "run.tpx3"
    report = {
        "chips": n_chips,
        "wanted Mhit/s": rate / 1e6,
        "datagram bytes": length,
        "Mhit/s": round(ledger["sent_pixel_words"] / seconds / 1e6, 1),
        "sent": ledger["sent_datagrams"],
        "received": ledger["received_datagrams"],
        "dropped by the kernel": ledger["kernel_dropped"],
        "lost on the way": ledger["lost_on_the_way"],
        "unaccounted": ledger["unaccounted"],
        "ended by": acquired.ended_by,
        "waits for the disk": ledger["ring_full_waits"],
        "cores of capture": round(used.own["capture"], 3),
        "cores of the simulator": round(used.own["simulator"], 3),
        "cores of others": round(used.others, 2),
        "disk seconds left": left and round(left),
        "recorded GB": round(open_recording(path).n_bytes / 1e9, 2),
    }
    for file in files_of(path):
        file.unlink()
    return report, used.machine_was_free


@pytest.mark.parametrize(
    ("rate", "length", "n_chips"), [(80e6, 8960, 1), (80e6, 8960, 4), (40e6, 1400, 1), (20e6, 8960, 1)]
)
def test_to_the_recording_without_a_loss(tmp_path, rate, length, n_chips):
    """On a machine that is free; one chip or four that share the rate. On any other each loss has its name."""
    report, free = capture(tmp_path, rate, length, n_chips)
    print(json.dumps(report))
    assert report["unaccounted"] == 0
    assert report["sent"] == report["received"] + report["dropped by the kernel"] + report["lost on the way"]
    if length == 8960 and n_chips == 1:
        assert report["cores of capture"] <= HALF_A_CORE
    if free:
        assert report["sent"] == report["received"]
        assert report["Mhit/s"] > 0.9 * rate / 1e6
