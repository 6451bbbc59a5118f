"""Starting spidr-sim as a process: it is there when we have its address, and gone when we are."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ophyd_timepix.app.simulator import Simulator, SimulatorError


def is_listening(address: str) -> bool:
    host, port = address.rsplit(":", 1)
    try:
        with socket.create_connection((host, int(port)), timeout=2):
            return True
    except OSError:
        return False


def test_it_listens_until_it_is_stopped(tmp_path: Path) -> None:
    with Simulator.start(["--truth", str(tmp_path / "truth.h5")], log=tmp_path / "log") as simulator:
        assert is_listening(simulator.address)
        assert simulator.tell("fault unreachable=3600") == "fault unreachable=3600 armed"
        assert simulator.tell("clear") == "faults cleared"
        with pytest.raises(SimulatorError, match="there is no fault 'fire'"):
            simulator.tell("fault fire")
    assert not is_listening(simulator.address)
    simulator.stop()


def test_a_simulator_that_does_not_start_says_why() -> None:
    with pytest.raises(SimulatorError, match=r"ended at its start with code 2: .*no-such-scene"):
        Simulator.start(["--scene", "no-such-scene"])


def test_it_ends_with_the_process_that_started_it() -> None:
    script = (
        "import os\n"
        "from ophyd_timepix.app.simulator import Simulator\n"
        "simulator = Simulator.start()\n"
        "print(simulator.address, simulator._process.pid, flush=True)\n"
        "os.kill(os.getpid(), 9)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=200, check=False)
    address, pid = done.stdout.split()
    deadline = time.monotonic() + 20
    while os.path.exists(f"/proc/{pid}/exe") and time.monotonic() < deadline:
        is_listening(address)  # a refused connection returns at once; this loop ends with the process
    assert not is_listening(address)
