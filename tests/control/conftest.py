"""A simulated board with two chips, served over TCP, and the control room's view of it."""

from collections.abc import Iterator

import pytest

from ophyd_timepix.control import Board, SpidrClient
from spidr_sim.board import Board as SimulatedBoard
from spidr_sim.tcp import TcpServer
from tests.sim.board_doubles import RecordingStreams, StandingClock


@pytest.fixture
def clock() -> StandingClock:
    return StandingClock()


@pytest.fixture
def streams() -> RecordingStreams:
    return RecordingStreams()


@pytest.fixture
def simulated(streams: RecordingStreams, clock: StandingClock) -> SimulatedBoard:
    return SimulatedBoard(2, streams, clock)


@pytest.fixture
def server(simulated: SimulatedBoard) -> Iterator[TcpServer]:
    with TcpServer(simulated) as server:
        yield server
    assert server.failure is None


@pytest.fixture
def client(server: TcpServer) -> Iterator[SpidrClient]:
    with SpidrClient(*server.address, timeout_s=10.0) as client:
        yield client


@pytest.fixture
def board(client: SpidrClient) -> Board:
    return Board(client)
