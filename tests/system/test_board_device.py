"""The board's device on the simulated board: real TCP, no data."""

from collections.abc import Iterator

import bluesky.plan_stubs as bps
import bluesky.plans as bp
import pytest
from bluesky import RunEngine

from ophyd_timepix.control import ChipMissing, ConnectionLost
from ophyd_timepix.devices import SpidrBoard
from tests.doc_checker import DocChecker
from tests.sim_process import SimProcess, running_sim


@pytest.fixture(scope="module")
def sim() -> Iterator[SimProcess]:
    with running_sim(scene="dark", chips=2) as process:
        yield process


@pytest.fixture
def spidr(sim: SimProcess) -> Iterator[SpidrBoard]:
    board = SpidrBoard(sim.address, name="spidr", chips=2)
    yield board
    board.disconnect()


def test_connect_read_and_summary(spidr):
    info = spidr.connect()
    assert info.present == (0, 1)
    assert set(spidr.read()) == set(spidr.describe())
    assert info.chips[1].name in spidr.summary()
    assert spidr.monitor.read().keys() == spidr.monitor.describe().keys()


def test_a_dac_moves_in_a_plan_and_stands_in_every_event(spidr):
    RE, checker = RunEngine({}), DocChecker()
    RE.subscribe(checker)
    dac = spidr.chip1.dacs.vthreshold_fine
    RE(bp.scan([], dac, 400, 404, 3))
    RE(bps.mv(dac, 411))
    assert [event["spidr_chip1_dacs_vthreshold_fine"] for event in checker.run.stream("primary")] == [400, 402, 404]
    assert spidr.chip1.dacs.vthreshold_fine.get() == 411


def test_a_chip_that_is_not_there_is_said(spidr):
    three = SpidrBoard(f"{spidr.host}:{spidr.port}", name="spidr", chips=3)
    with pytest.raises(ChipMissing, match=r"chip 2 is declared \(chips=3\)"):
        three.connect()
    three.disconnect()


def test_nobody_at_the_address_is_one_clear_error():
    board = SpidrBoard("127.0.0.1:1", name="spidr", timeout_s=0.5)
    with pytest.raises(ConnectionLost, match=r"127\.0\.0\.1:1"):
        board.connect()
