"""Control: what connecting, configuring and setting cost against the simulator. Prints what was measured."""

import json
import statistics
import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from ophyd_timepix.config import BiasConfig
from ophyd_timepix.control import Board, SpidrClient
from ophyd_timepix.control.configuration import apply_configuration, read_configuration
from ophyd_timepix.protocol import Dac, PixelMatrix
from tests.benchmarks.cores import Others
from tests.sim_process import SimProcess, running_sim

pytestmark = pytest.mark.bench

CONNECT_AND_CONFIGURE_S = 2.0
DAC_MS = 5.0
SCAN_POINT_MS = 10.0


@pytest.fixture(scope="module")
def sim() -> Iterator[SimProcess]:
    with running_sim(scene="dark", rate=1000, extra=["--blank"]) as sim:
        yield sim


def milliseconds(work: Callable[[], object]) -> float:
    begin = time.perf_counter()
    work()
    return (time.perf_counter() - begin) * 1e3


def test_connect_and_configure_one_chip(sim):
    """18 DACs, the matrix with its read-back, words, trigger and clock: all of it differs from what the chip has."""
    noise = np.random.default_rng(1).integers(0, 16, (256, 256))
    report, others = {}, Others()
    with SpidrClient(sim.host, sim.port) as client:
        board = Board(client)
        begin = time.perf_counter()
        report["identify ms"] = round(milliseconds(board.identify), 1)
        blank = read_configuration(board)
        chip = blank.chips[0]
        wanted = blank.changed(
            bias=BiasConfig(enabled=False),
            chips=(
                chip.changed(
                    dacs={dac.name.lower(): (chip.dacs[dac] + 1) % (dac.max + 1) for dac in Dac},
                    matrix=PixelMatrix(mask=noise > 14, threshold_adjust=noise),
                ),
            ),
        )
        applied = apply_configuration(board, wanted)
        seconds = time.perf_counter() - begin
        report |= {"settings changed": len(applied.changed), "connect and configure s": round(seconds, 3)}
        report["read all ms"] = round(milliseconds(lambda: read_configuration(board)), 1)
        report["apply what is there already ms"] = round(milliseconds(lambda: apply_configuration(board, wanted)), 1)
    print("\n" + json.dumps(report))
    assert len(applied.changed) >= len(Dac) + 1
    if others.left_it_alone():
        assert seconds < CONNECT_AND_CONFIGURE_S


def test_set_one_dac_with_read_back(sim):
    others = Others()
    with SpidrClient(sim.host, sim.port) as client:
        chip = Board(client).chip(0)
        times = [milliseconds(lambda v=v: chip.set_dac(Dac.VTHRESHOLD_FINE, v)) for v in range(500)]
    print("\n" + json.dumps({"DAC ms, median": round(statistics.median(times), 3), "largest": round(max(times), 3)}))
    if others.left_it_alone():
        assert statistics.median(times) < DAC_MS


def test_a_scan_over_one_dac_costs_little_for_control(sim):
    """What the RunEngine's scan spends in the DAC: its set, its read and their documents are the RunEngine's own."""
    import bluesky.plans as bp
    from bluesky import RunEngine
    from ophyd.sim import SynAxis

    from ophyd_timepix import SpidrBoard

    def scan(motor: object) -> float:
        points = 100
        return milliseconds(lambda: RE(bp.scan([], motor, 100, 199, points))) / points

    RE = RunEngine({}, call_returns_result=True)
    spidr = SpidrBoard(sim.address, name="spidr")
    spidr.connect()
    nothing = SynAxis(name="nothing")
    scan(nothing)
    others = Others()
    try:
        without, with_dac = scan(nothing), scan(spidr.chip0.dacs.vthreshold_fine)
    finally:
        spidr.disconnect()
    print("\n" + json.dumps({"ms a point": {"simulated motor": round(without, 2), "DAC": round(with_dac, 2)}}))
    if others.left_it_alone():
        assert with_dac - without < SCAN_POINT_MS
