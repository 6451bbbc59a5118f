"""The simulated board over a real TCP connection, asked with bytes that are written from the reference's tables.

Nothing here uses this package's client or protocol: see `raw_wire`. Whole sequences are in `test_sequences`.
"""

import socket
import struct
import threading
from collections.abc import Iterator

import pytest

from spidr_sim.board import Board
from spidr_sim.tcp import TcpServer
from tests.sim.board_doubles import RecordingStreams, StandingClock
from tests.sim.raw_wire import TIMEOUT_S, Wire


@pytest.fixture
def streams() -> RecordingStreams:
    return RecordingStreams()


@pytest.fixture
def server(streams: RecordingStreams) -> Iterator[TcpServer]:
    with TcpServer(Board(2, streams, StandingClock())) as server:
        yield server
    assert server.failure is None


@pytest.fixture
def wire(server: TcpServer) -> Iterator[Wire]:
    wire = Wire(server.address)
    yield wire
    wire.close()


def test_message_and_reply_byte_for_byte(wire: Wire):
    wire.socket.sendall(bytes.fromhex("0000090d 00000014 00000000 00000000 00000000"))
    assert wire.read(20) == bytes.fromhex("0001090d 00000014 00000000 00000000 00000004")
    wire.socket.sendall(bytes.fromhex("00000783 00000014 00000000 00000000 00000300"))
    assert wire.read(24) == bytes.fromhex("00010783 00000018 00000000 00000000 00000300 00ff0000")


def test_unknown_command_wrong_length_and_wrong_device_are_error_replies(wire: Wire):
    for request, error in (
        ("00000abc 00000014 00000000 00000000 00000000", 1),
        ("0000011b 00000010 00000000 00000000", 2),
        ("0000011a 00000014 00000000 00000000 00000063", 4),
        ("0000011a 00000014 00000000 00000009 00000006", 4),
        ("0000011a 00000014 00000000 00000002 00000006", 0x0B06),
    ):
        wire.socket.sendall(bytes.fromhex(request))
        word0, length, got, _, _ = wire.reply()
        assert (word0, length, got) == (int(request[:8], 16) | 0x10000, 20, error)
    assert wire.get(0x90D, 0) == (4,)


def test_request_in_single_bytes_and_requests_in_one_piece_are_answered_alike(wire: Wire):
    request = bytes.fromhex("0000090d 00000014 00000000 00000000 00000000")
    for i in range(len(request)):
        wire.socket.sendall(request[i : i + 1])
    wire.socket.sendall(request * 3)
    for _ in range(4):
        assert wire.reply()[4] == b"\0\0\0\x04"


def test_request_with_the_noreply_flag_is_done_in_silence(wire: Wire):
    wire.socket.sendall(struct.pack(">5I", 0x0008_0119, 20, 0, 0, 9000))
    assert wire.get(0x117, 0) == (9000,)


def test_second_client_is_closed_and_the_first_goes_on(server: TcpServer, wire: Wire):
    wire.get(0x90D, 0)
    second = Wire(server.address)
    with pytest.raises(OSError, match=r"closed|reset"):
        second.get(0x90D, 0)
    second.close()
    assert wire.get(0x90D, 0) == (4,)


def test_next_client_is_served_when_the_first_has_hung_up(server: TcpServer):
    for _ in range(20):
        wire = Wire(server.address)
        assert wire.get(0x90D, 0) == (4,)
        wire.close()


def test_state_outlives_the_connection(server: TcpServer):
    first = Wire(server.address)
    first.set(0x11B, 0, 6 << 16 | 333)
    first.close()
    second = Wire(server.address)
    assert second.get(0x11A, 0, 6) == (6 << 16 | 333,)
    second.close()


def test_bytes_that_are_no_request_end_the_connection_and_nothing_else(server: TcpServer):
    noise = Wire(server.address)
    noise.socket.sendall(b"GET / HTTP/1.1\r\nHost: camera\r\n\r\n")
    assert noise.socket.recv(100) == b""
    noise.close()
    again = Wire(server.address)
    assert again.get(0x90D, 0) == (4,)
    again.close()


def test_port_in_use_says_so(server: TcpServer):
    with pytest.raises(OSError, match="in use"):
        TcpServer(Board(1, RecordingStreams(), StandingClock()), *server.address).serve()


def test_stop_closes_connection_and_port_and_may_be_repeated():
    server = TcpServer(Board(1, RecordingStreams(), StandingClock()))
    server.stop()
    server = TcpServer(Board(1, RecordingStreams(), StandingClock()))
    address = server.serve()
    wire = Wire(address)
    wire.get(0x90D, 0)
    server.stop()
    server.stop()
    assert wire.socket.recv(1) == b""
    wire.close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address, timeout=TIMEOUT_S)
    assert not [thread for thread in threading.enumerate() if thread.name == "spidr-sim-tcp"]


def test_failure_of_the_data_side_ends_the_service_and_is_kept():
    class Broken(RecordingStreams):
        def timer_request(self, chip: int, at_counts: int) -> None:
            raise RuntimeError("the data side is gone")

    failed = threading.Event()
    server = TcpServer(Board(1, Broken(), StandingClock()), on_failure=failed.set)
    wire = Wire(server.serve())
    with pytest.raises(OSError, match=r"closed|reset"):
        wire.get(0x552, 0)
    assert failed.wait(TIMEOUT_S)
    assert "data side is gone" in str(server.failure)
    wire.close()
    server.stop()
