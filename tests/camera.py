"""A detector on a simulator of its own, and an engine that has it installed: what tests of whole runs share."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bluesky import RunEngine

from ophyd_timepix.devices import SpidrBoard, TimepixDetector
from ophyd_timepix.wiring import install
from tests.sim_process import running_sim


@contextmanager
def simulated_camera(data_dir: Path, *, rate: float, seed: int, **options: Any) -> Iterator[TimepixDetector]:
    """`tpx`, connected, at the scene `vmi` with `rate` hits and 1000 shots a second. options: the detector's."""
    with running_sim(scene="vmi", rate=rate, shot_rate=1000.0, seed=seed) as sim:
        spidr = SpidrBoard(sim.address, name="spidr")
        tpx = TimepixDetector(spidr, name="tpx", data_dir=data_dir, **options)
        try:
            tpx.connect()
            yield tpx
        finally:
            tpx.close()
            spidr.disconnect()


@contextmanager
def engine_with(tpx: TimepixDetector) -> Iterator[RunEngine]:
    """A RunEngine for one test; a plan that the test left unfinished is halted."""
    engine = RunEngine({}, call_returns_result=True)
    installation = install(engine, [tpx], min_free_bytes=0)
    yield engine
    if engine.state not in ("idle", "panicked"):
        engine.halt()
    installation.uninstall()
