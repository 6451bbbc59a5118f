"""Capture to the recording at the full rate of one chip: what is lost, and what it costs. Prints what was measured."""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from ophyd_timepix.pipeline.client import Pipeline
from ophyd_timepix.pipeline.messages import Receiver, RunRequest, Sent
from ophyd_timepix.spool.sources import open_recording

pytestmark = pytest.mark.bench

SENDER = Path(__file__).with_name("datagram_load.py")
SECONDS = 10
BYTES_OF_A_HIT = 8
HALF_A_CORE = 0.5


def capture(directory: Path, mhit_per_s: float, length: int, seconds: float = SECONDS) -> dict[str, Any]:
    """One acquisition of raw words."""
    with Pipeline() as pipeline:
        (port,) = pipeline.bind([Receiver(chip=0, host="127.0.0.1")])
        paths = pipeline.open_run(RunRequest(event_file=directory / "run.h5", centroid=False))
        process = psutil.Process(pipeline.pids["capture"])
        pipeline.begin(1)
        before, begin = process.cpu_times(), time.monotonic()
        rate = mhit_per_s * 1e6 * BYTES_OF_A_HIT
        line = [sys.executable, str(SENDER), str(port), str(rate), str(seconds), str(length)]
        sender = subprocess.Popen(line, stdout=subprocess.PIPE, text=True)
        sender_cpu = psutil.Process(sender.pid)
        left = 0.0
        while sender.poll() is None:
            time.sleep(0.2)
            left = pipeline.progress().disk_seconds_left or left
            if sender.poll() is None:
                sender_times = sender_cpu.cpu_times()
        elapsed = time.monotonic() - begin
        sent = int(sender.communicate()[0])
        acquired = pipeline.end(Sent(datagrams=sent))
        after = process.cpu_times()
        pipeline.close_run()
    recording = open_recording(paths.spool)
    ledger = acquired.ledger
    return {
        "wanted Mhit/s": mhit_per_s,
        "datagram bytes": length,
        "sent Mhit/s": round(sent * length / BYTES_OF_A_HIT / elapsed / 1e6, 1),
        "sent": sent,
        "received": ledger["received_datagrams"],
        "dropped by the kernel": ledger["kernel_dropped"],
        "unaccounted": ledger["unaccounted"],
        "waits for the disk": ledger["ring_full_waits"],
        "CPU share of capture": round((sum(after[:2]) - sum(before[:2])) / elapsed, 3),
        "CPU share of the sender": round(sum(sender_times[:2]) / elapsed, 3),
        "disk seconds left": round(left),
        "recorded GB": round(recording.n_bytes / 1e9, 2),
    }


@pytest.mark.parametrize(("mhit_per_s", "length"), [(80, 8960), (40, 1400), (20, 8960)])
def test_one_chip_to_the_recording_without_a_loss(tmp_path, mhit_per_s, length):
    report = capture(tmp_path, mhit_per_s, length)
    for path in tmp_path.glob("run*"):
        path.unlink()  # gigabytes
    print("\n" + json.dumps(report))
    assert report["unaccounted"] == 0
    assert report["sent"] == report["received"] + report["dropped by the kernel"]
    assert report["dropped by the kernel"] == 0
    assert report["sent Mhit/s"] > 0.9 * mhit_per_s
    if length == 8960:
        assert report["CPU share of capture"] <= HALF_A_CORE
