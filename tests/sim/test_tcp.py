"""The simulated board over a real TCP connection, asked with bytes that are written from the reference's tables.

Nothing here uses this package's client or protocol: messages are built from code numbers, as another program would.
"""

import socket
import struct
import threading
from collections.abc import Iterator

import pytest

from spidr_sim.board import Board
from spidr_sim.settings import Readout
from spidr_sim.streams import StreamCounters
from spidr_sim.tcp import TcpServer
from tests.sim.board_doubles import RecordingStreams, StandingClock

TIMEOUT_S = 10.0


class Wire:
    """A client made of struct and socket."""

    def __init__(self, address: tuple[str, int]) -> None:
        self.socket = socket.create_connection(address, timeout=TIMEOUT_S)

    def close(self) -> None:
        self.socket.close()

    def read(self, n: int) -> bytes:
        data = b""
        while len(data) < n:
            portion = self.socket.recv(n - len(data))
            if not portion:
                raise ConnectionError(f"closed after {len(data)} of {n} bytes")
            data += portion
        return data

    def reply(self) -> tuple[int, int, int, int, bytes]:
        head = self.read(16)
        word0, length, error, device = struct.unpack(">4I", head)
        return word0, length, error, device, self.read(length - 16)

    def ask(self, code: int, device: int, *words: int, data: bytes = b"") -> bytes:
        """Sends, checks the header of the reply byte for byte, returns its payload."""
        payload = struct.pack(f">{len(words)}I", *words) + data
        self.socket.sendall(struct.pack(">4I", code, 16 + len(payload), 0, device) + payload)
        word0, length, error, echoed, answer = self.reply()
        assert (word0, error, echoed) == (code | 0x10000, 0, device)
        assert length == 16 + len(answer)
        return answer

    def get(self, code: int, device: int, *words: int) -> tuple[int, ...]:
        answer = self.ask(code, device, *(words or (0,)))
        return struct.unpack(f">{len(answer) // 4}I", answer)

    def set(self, code: int, device: int, *words: int, data: bytes = b"") -> None:
        assert len(self.ask(code, device, *(words or (0,)), data=data)) == 4


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


def connect(wire: Wire, udp_port: int) -> list[int]:
    """'Connect' of the reference. Returns the chips accepted."""
    (count,) = wire.get(0x90D, 0)
    for chip in range(count):
        wire.get(0x110, chip)
        wire.set(0x119, chip, udp_port + chip)
    accepted = []
    for chip in range(count):
        address, status = wire.get(0x783, 0, 0x300 + 4 * chip)
        assert address == 0x300 + 4 * chip
        enabled, locked = ~status & 0xFF, status >> 16 & 0xFF
        if enabled != 0 and locked == enabled:
            accepted.append(chip)
            configure(wire, chip, udp_port + chip)
        wire.get(0x110, chip)
    wire.set(0x55F, 0, 1)
    wire.set(0x560, 0, int((50 - 12) * 4095 / 92))
    return accepted


DACS = (128, 8, 128, 5, 128, 420, 6, 84, 8, 128, 8, 192, 128, 128, 128, 256, 128, 128)


def configure(wire: Wire, chip: int, port: int) -> None:
    assert wire.get(0x114, chip) == (0x7F00_0001,)
    assert wire.get(0x117, chip) == (port,)
    wire.set(0x124, chip)
    wire.set(0x126, chip)
    for code, value in enumerate(DACS, start=1):
        wire.set(0x11B, chip, code << 16 | value)
    wire.set(0x22E, chip)
    for first in range(0, 255, 3):
        wire.set(0x22A, chip, first, data=bytes(576))
    # Column 255: its pixels 0 to 3 have the values 1, 0, 0x3F, 2.
    wire.set(0x22A, chip, 255, data=bytes([0x04, 0x0F, 0xC2]) + bytes(189))
    for column in range(256):
        answer = wire.ask(0x22D, chip, column)
        assert answer[:4] == struct.pack(">I", column)
        assert answer[4:] == (bytes([1, 0, 0x3F, 2]) + bytes(252) if column == 255 else bytes(256))
    (word,) = wire.get(0x905, chip)
    wire.set(0x906, chip, (word & 0xFFFF_0000) | 0xFFFF)
    assert wire.get(0x905, chip)[0] & 0xFFFF == 0xFFFF


def start(wire: Wire, chips: list[int]) -> None:
    """'Start' of the reference."""
    _, control = wire.get(0x783, 0, 0x1C8)
    wire.set(0x784, 0, 0x1C8, control & ~(1 << 25))
    wire.set(0x784, 0, 0x2B8, 0)
    wire.set(0x561, 0, 1)
    wire.set(0x446, 0)
    wire.set(0x551, 0)
    wire.set(0x550, 0)
    for chip in chips:
        wire.get(0x110, chip)
        for word in (0x000, 0x008, 0x048, 0x048):
            wire.get(0x334, chip)
            wire.set(0x335, chip, word)
            assert wire.get(0x334, chip) == (word,)
        wire.set(0x337, chip, 0x11E)
    wire.set(0x550, 0)
    wire.set(0x441, 0, 4, 0, 10, 1)
    wire.set(0x442, 0)


def test_sequences_of_the_reference_connect_configure_start_heartbeat_stop(wire: Wire, streams: RecordingStreams):
    chips = connect(wire, udp_port=18192)
    assert chips == [0, 1]
    assert [wire.get(0x11A, 1, code) for code in range(1, 19)] == [
        (code << 16 | value,) for code, value in enumerate(DACS, start=1)
    ]
    streams.calls.clear()
    start(wire, chips)
    for _ in range(3):
        assert wire.get(0x552, 0) == (0, 0)
    streams.totals = StreamCounters(10, (20, 30), 5)
    assert [wire.get(0x783, 0, address)[1] for address in (0x384, 0x340, 0x341, 0x2F8)] == [10, 20, 30, 5]
    wire.set(0x441, 0, 0, 10000, 5, 1)
    wire.set(0x443, 0)
    wire.set(0x447, 0)
    assert [call for call in streams.calls if call[0] != "chip"] == [
        ("readout", Readout.DATA_DRIVEN),
        ("timers_restarted", 0, 0),
        ("timers_restarted", 0, 0),
        ("timers_restarted", 0, 0),
        ("shutter", True, 0),
        *[("timer_request", 0, 0)] * 3,
        ("shutter", False, 0),
        ("readout", Readout.OFF),
    ]


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
    wire.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
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
