"""A simulated board with two chips, served over TCP, and the control room's view of it."""

import threading
from collections.abc import Iterator

import pytest

from ophyd_timepix.control import Board, SpidrClient
from ophyd_timepix.protocol import Command, Reply, Request
from spidr_sim.board import Board as SimulatedBoard
from spidr_sim.faults import Faults
from spidr_sim.tcp import TcpServer
from tests.sim.board_doubles import COUNTS_PER_MS, RecordingStreams, StandingClock


class Traffic:
    """The requests that reached the simulated board, in order."""

    def __init__(self, simulated: SimulatedBoard) -> None:
        self.requests: list[Request] = []
        self._answer = simulated.answer
        simulated.answer = self._note  # type: ignore[method-assign]

    def _note(self, request: Request) -> Reply:
        self.requests.append(request)
        return self._answer(request)

    def clear(self) -> None:
        self.requests.clear()

    def of(self, *commands: Command) -> list[Request]:
        return [request for request in self.requests if request.command in commands]

    @property
    def setting(self) -> list[Command]:
        """Commands that are no GET."""
        return [request.command for request in self.requests if not request.command.name.startswith("GET_")]


class LentTime:
    """Time that passes only while somebody waits: for the program and for the simulated board alike."""

    def __init__(self, clock: StandingClock) -> None:
        self._clock = clock
        self.waits: list[float] = []

    def seconds(self) -> float:
        return self._clock.now / COUNTS_PER_MS / 1000

    def wait(self, event: threading.Event, seconds: float) -> bool:
        self.waits.append(seconds)
        self._clock.now += round(seconds * 1000 * COUNTS_PER_MS)
        return event.is_set()


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
def traffic(simulated: SimulatedBoard) -> Traffic:
    return Traffic(simulated)


@pytest.fixture
def server(simulated: SimulatedBoard) -> Iterator[TcpServer]:
    with TcpServer(simulated) as server:
        yield server
    assert server.failure is None


@pytest.fixture
def faults(server: TcpServer) -> Faults:
    return server.faults


@pytest.fixture
def client(server: TcpServer) -> Iterator[SpidrClient]:
    with SpidrClient(*server.address, timeout_s=10.0) as client:
        yield client


@pytest.fixture
def lent(clock: StandingClock) -> LentTime:
    return LentTime(clock)


@pytest.fixture
def board(client: SpidrClient, lent: LentTime) -> Board:
    return Board(client, clock=lent.seconds, wait=lent.wait)
