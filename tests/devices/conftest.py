"""What these tests share."""

from collections.abc import Iterator

import pytest

from ophyd_timepix.devices import SpidrBoard
from spidr_sim.board import Board as SimulatedBoard
from spidr_sim.clock import VirtualClock
from spidr_sim.tcp import TcpServer
from tests.bluesky_fixtures import RE, checker, fake_board, installed, pipe, pipelines, spidr, tpx
from tests.sim.board_doubles import RecordingStreams

__all__ = ["RE", "checker", "fake_board", "installed", "pipe", "pipelines", "spidr", "tpx"]


@pytest.fixture
def server() -> Iterator[TcpServer]:
    """A simulated board with one chip, without data, in this process."""
    with TcpServer(SimulatedBoard(1, RecordingStreams(), VirtualClock())) as server:
        yield server
    assert server.failure is None


@pytest.fixture
def simulated(server: TcpServer) -> Iterator[SpidrBoard]:
    """The device of that board; it waits for an answer as long as a busy machine may need."""
    host, port = server.address
    board = SpidrBoard(f"{host}:{port}", name="spidr", timeout_s=20.0)
    yield board
    board.disconnect()
