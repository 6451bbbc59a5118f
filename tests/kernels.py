"""Kernels compiled before the workers of the tests begin: each of them would compile all, which takes a minute."""

import subprocess
import sys
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[1]
_DECODE_AND_SIMULATOR: Final = """
from ophyd_timepix.decode import decoder, repeats
from spidr_sim.data_faults import compile_kernels
from spidr_sim.synth import synthesize
decoder.warm_up(), repeats.warm_up(), compile_kernels()
synthesize("vmi", seed=1, duration_s=0.01, rate_hz=1e5, shot_rate_hz=1000)
"""
_EVENTS: Final = """
from ophyd_timepix.events import warm
warm.warm_up()
"""
WARMING: Final = (_DECODE_AND_SIMULATOR, _EVENTS)
"""What takes about equally long, side by side."""


def compile_where_nothing_is_compiled() -> None:
    """In a new clone, that is; else the little that changed is compiled by who needs it."""
    if any(ROOT.glob("ophyd_timepix/*/__pycache__/*.nbi")):
        return
    running = [subprocess.Popen([sys.executable, "-c", part], cwd=ROOT) for part in WARMING]
    for process in running:
        process.wait()  # when it failed, the tests say why
