"""What waits in a socket may be lost: the capture goes before everything else."""

import os
import subprocess
import sys
from pathlib import Path

from ophyd_timepix.pipeline.capture_stage import AUTOGROUP, FIRST

LOOK = """
import os
from ophyd_timepix.pipeline.capture_stage import AUTOGROUP, _go_first
if os.fork() == 0:
    _go_first()
    group = AUTOGROUP.read_text().split() if AUTOGROUP.exists() else [""]
    print(os.getsid(0) == os.getpid(), os.getpriority(os.PRIO_PROCESS, 0), group[-1], flush=True)
    os._exit(0)
os.wait()
"""


def test_capture_has_a_session_of_its_own_and_where_the_system_lets_it_the_first_place_among_them():
    """Linux shares cores among sessions before it looks at niceness."""
    done = subprocess.run([sys.executable, "-c", LOOK], capture_output=True, text=True, check=True)
    leads, niceness, group = done.stdout.split(" ")
    assert leads == "True"
    if os.geteuid() == 0:
        assert int(niceness) == FIRST
        if AUTOGROUP.exists() and Path("/proc/sys/kernel/sched_autogroup_enabled").read_text().strip() == "1":
            assert int(group) == FIRST
