"""Both halves of the simulator in one process: what is said over TCP is seen in the words that the board sends."""

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from spidr_sim.board import Board
from spidr_sim.clock import VirtualClock
from spidr_sim.scenes import SceneSettings
from spidr_sim.source import scene_source
from spidr_sim.tcp import TcpServer
from spidr_sim.udp import UdpStreams
from tests.sim.raw_wire import TIMEOUT_S, Wire, wire_when_it_listens

CHIP_IDS = (0x1A6B, 0x1A6A)
SET_SERVERPORT, DDRIVEN_READOUT, AUTOTRIG_START, AUTOTRIG_STOP = 0x119, 0x446, 0x442, 0x443
SET_TRIGCONFIG, GET_REGISTER, BIAS_SUPPLY_ENA, SET_TIMER, GET_TIMER = 0x441, 0x783, 0x55F, 0x553, 0x552
MANY = 2000
"""Words that take some ms: what was told before has been heard by then."""


class Simulation:
    """A board of two chips that sends to sockets nobody reads: its own counters tell what it sends."""

    def __init__(self, server: TcpServer, ports: list[int]) -> None:
        self.server = server
        self.ports = ports
        self.wire = Wire(server.address)

    def reconnect(self) -> None:
        self.wire.close()
        self.wire = wire_when_it_listens(self.server.address)

    def start(self, mode: int = 4) -> None:
        for chip, port in enumerate(self.ports):
            self.wire.set(SET_SERVERPORT, chip, port)
        self.wire.set(DDRIVEN_READOUT, 0)
        self.wire.set(SET_TRIGCONFIG, 0, mode, 0, 10, 1)
        self.wire.set(AUTOTRIG_START, 0)

    def sent(self, chip: int) -> int:
        return self.wire.get(GET_REGISTER, 0, 0x340 + chip)[1]

    def until(self, holds: Callable[[], bool]) -> None:
        end_s = time.monotonic() + TIMEOUT_S
        while not holds():
            assert time.monotonic() < end_s, "it did not come to that"

    def until_more(self, chip: int, words: int = MANY) -> None:
        before = self.sent(chip)
        self.until(lambda: self.sent(chip) >= before + words)


@pytest.fixture
def simulation() -> Iterator[Simulation]:
    settings = SceneSettings.chosen("uniform", rate_hz=400_000, n_chips=2)
    clock = VirtualClock()
    with ExitStack() as stack:
        streams = UdpStreams(scene_source(settings, keep_truth=False), clock, chip_ids=CHIP_IDS)
        stack.callback(streams.close)
        streams.start()
        sockets = [stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) for _ in CHIP_IDS]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        server = stack.enter_context(TcpServer(Board(2, streams, clock)))
        simulation = Simulation(server, [each.getsockname()[1] for each in sockets])
        stack.callback(lambda: simulation.wire.close())
        yield simulation
        assert streams.failure is server.failure is None


def test_chip_that_is_gone_is_silent_and_the_other_goes_on(simulation: Simulation):
    simulation.start()
    simulation.until_more(1)
    simulation.server.faults.arm("chip-gone=1")

    def is_silent_while_the_other_goes_on() -> bool:
        before = simulation.sent(1)
        simulation.until_more(0)
        return simulation.sent(1) == before

    simulation.until(is_silent_while_the_other_goes_on)  # what it had sent off before still leaves
    assert is_silent_while_the_other_goes_on()
    simulation.server.faults.clear()
    simulation.until_more(1)


def test_board_without_power_is_silent_and_sends_again_when_it_is_started_again(simulation: Simulation):
    simulation.start()
    simulation.until_more(0)
    simulation.server.faults.arm("power-cycle")
    with pytest.raises(ConnectionResetError):
        simulation.wire.read(1)
    simulation.reconnect()
    assert (simulation.sent(0), simulation.sent(1)) == (0, 0)
    simulation.start()
    simulation.until_more(0)
    simulation.until_more(1)


def test_external_signal_opens_and_closes_for_the_data(simulation: Simulation):
    simulation.start(mode=0)
    assert simulation.sent(0) == 0
    simulation.server.external_signal(True)
    simulation.until_more(0)
    simulation.server.external_signal(False)
    opened, closed = (simulation.wire.get(code, 0)[0] for code in (0x554, 0x555))
    simulation.until(lambda: simulation.wire.get(GET_TIMER, 0)[0] > closed + 40_000 * 20)
    before = simulation.sent(0)
    simulation.until(lambda: simulation.wire.get(GET_TIMER, 0)[0] > closed + 40_000 * 40)
    assert simulation.sent(0) == before > 0
    assert closed > opened


def test_bias_that_falls_takes_the_particles_with_it(simulation: Simulation):
    simulation.start()
    simulation.until_more(0)
    simulation.wire.set(BIAS_SUPPLY_ENA, 0, 0)

    def is_silent() -> bool:
        before, began = simulation.sent(0), time.monotonic()
        while time.monotonic() < began + 0.05:
            simulation.wire.get(GET_TIMER, 0)
        return simulation.sent(0) == before

    simulation.until(is_silent)
    simulation.wire.set(BIAS_SUPPLY_ENA, 0, 1)
    simulation.until_more(0)


def test_data_go_on_when_the_timer_is_set(simulation: Simulation):
    simulation.start()
    simulation.until_more(0)
    simulation.wire.set(SET_TIMER, 0, 0x1000_0000, 0x12)
    assert simulation.wire.get(GET_TIMER, 1)[1] == 0x12
    simulation.until_more(0)
    simulation.wire.set(AUTOTRIG_STOP, 0)
    assert simulation.wire.get(0x554, 0)[1] == 0  # it opened before
    assert simulation.wire.get(0x555, 0)[1] == 0x12
