"""The command sequences of existing SPIDR clients, byte for byte, from the reference's tables (section 1.13).

Each exchange states the bytes of the request and of the whole reply; nothing here uses our own client or protocol.
"""

import random
import socket
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from spidr_sim.board import Board
from spidr_sim.flash import Flash
from spidr_sim.settings import Readout
from spidr_sim.streams import StreamCounters
from spidr_sim.tcp import TcpServer
from tests.sim.board_doubles import RecordingStreams, StandingClock
from tests.sim.raw_wire import Wire, message
from tests.sim_process import running_sim

REPLY, NOREPLY = 0x0001_0000, 0x0008_0000
CHIP_IDS = (0x1A6B, 0x1A6A, 0x7FFF_FFFF, 0x7FFF_FFFF)
DACS = (128, 8, 128, 5, 128, 420, 6, 84, 8, 128, 8, 192, 128, 128, 128, 256, 128, 128)
LOCALHOST = 0x7F00_0001
UDP_PORT = 18192


@dataclass
class Script:
    """Says requests and holds the replies against what they must be."""

    wire: Wire

    def get(self, code: int, device: int, argument: int = 0, *answer: int, data: bytes = b"") -> None:
        self._exchange(message(code, device, argument), code, device, answer, data)

    def set(self, code: int, device: int, *words: int, data: bytes = b"") -> None:
        self._exchange(message(code, device, *(words or (0,)), data=data), code, device, (0,), b"")

    def _exchange(self, request: bytes, code: int, device: int, answer: tuple[int, ...], data: bytes) -> None:
        self.wire.socket.sendall(request)
        payload = struct.pack(f">{len(answer)}I", *answer) + data
        expected = struct.pack(">4I", code | REPLY, 16 + len(payload), 0, device) + payload
        assert self.wire.read(len(expected)).hex(" ", 4) == expected.hex(" ", 4), f"command 0x{code:03X}"


class Pixels:
    """Random six-bit codes of a chip, and their two forms on the wire."""

    def __init__(self, seed: int) -> None:
        rng = random.Random(seed)
        self.columns = [bytes(rng.randrange(64) for _ in range(256)) for _ in range(256)]

    def packed(self, first: int, n: int) -> bytes:
        """Six bits each, concatenated, the most significant first."""
        codes = b"".join(self.columns[first : first + n])
        bits = int("".join(f"{code:06b}" for code in codes), 2)
        return bits.to_bytes(len(codes) * 6 // 8, "big")

    def packed_messages(self) -> Iterator[tuple[int, bytes]]:
        for first in range(0, 255, 3):
            yield first, self.packed(first, 3)
        yield 255, self.packed(255, 1)


@pytest.fixture
def streams() -> RecordingStreams:
    return RecordingStreams()


@pytest.fixture
def clock() -> StandingClock:
    return StandingClock()


@pytest.fixture
def script(streams: RecordingStreams, clock: StandingClock) -> Iterator[Script]:
    """On a board of two chips that has never been configured."""
    with TcpServer(Board(2, streams, clock, Flash())) as server:
        wire = Wire(server.address)
        yield Script(wire)
        wire.close()
    assert server.failure is None


def connect_as_pymepix(script: Script) -> None:
    script.get(0x90D, 0, 0, 4)
    for chip in range(4):
        script.get(0x110, chip, 0, CHIP_IDS[chip])
        script.set(0x119, chip, UDP_PORT + chip)
    for chip in range(4):
        is_there = chip < 2
        script.get(0x783, 0, 0x300 + 4 * chip, 0x300 + 4 * chip, 0x00FF_0000 if is_there else 0)
        if is_there:
            configure_as_pymepix(script, chip)
    for chip in range(2):
        script.get(0x110, chip, 0, CHIP_IDS[chip])
    script.get(0x552, 0, 0, 0, 0)  # the heartbeat thread starts before it is paused
    for chip in range(2):
        script.get(0x110, chip, 0, CHIP_IDS[chip])
    script.set(0x55F, 0, 1)
    script.set(0x560, 0, 1691)


def configure_as_pymepix(script: Script, chip: int) -> None:
    pixels = Pixels(chip)
    script.get(0x110, chip, 0, CHIP_IDS[chip])
    script.get(0x114, chip, 0, LOCALHOST)
    script.get(0x117, chip, 0, UDP_PORT + chip)
    script.set(0x124, chip)
    script.set(0x126, chip)
    for code, value in enumerate(DACS, start=1):
        script.set(0x11B, chip, code << 16 | value)
    script.set(0x22E, chip)
    messages = list(pixels.packed_messages())
    assert [len(data) for _, data in messages] == [576] * 85 + [192]
    for first, data in messages:
        script.set(0x22A, chip, first, data=data)
    for column in range(256):
        script.get(0x22D, chip, column, column, data=pixels.columns[column])
    script.get(0x905, chip, 0, 0xFFFF_FFFF)
    script.set(0x906, chip, 0xFFFF_FFFF)
    script.get(0x905, chip, 0, 0xFFFF_FFFF)


def start_as_pymepix(script: Script) -> None:
    script.get(0x783, 0, 0x1C8, 0x1C8, 0)
    script.set(0x784, 0, 0x1C8, 0)
    script.set(0x784, 0, 0x2B8, 0)
    script.set(0x561, 0, 1)
    script.set(0x446, 0)
    script.set(0x551, 0)
    script.set(0x550, 0)
    for chip in range(2):
        script.get(0x110, chip, 0, CHIP_IDS[chip])
        before = 0x048
        for word in (0x048, 0x048, 0x048, 0x068 if chip else 0x048):
            script.get(0x334, chip, 0, before)
            script.set(0x335, chip, word)
            script.get(0x334, chip, 0, word)
            before = word
        script.set(0x337, chip, 0x11E)
    script.set(0x550, 0)
    script.set(0x441, 0, 4, 0, 10, 1)
    script.set(0x442, 0)


def test_pymepix_connects_and_configures(script: Script, streams: RecordingStreams):
    connect_as_pymepix(script)
    for code, value in enumerate(DACS, start=1):
        script.get(0x11A, 1, code, code << 16 | value)
    # It sets the port alone: the address is that of the connected client.
    assert streams.named("destination")[-2:] == [(0, "127.0.0.1", UDP_PORT), (1, "127.0.0.1", UDP_PORT + 1)]


def test_pymepix_starts_watches_and_stops(script: Script, streams: RecordingStreams, clock: StandingClock):
    connect_as_pymepix(script)
    streams.calls.clear()
    start_as_pymepix(script)
    for second in (1, 2, 3):
        clock.now = second * 40_000_000 + (5 << 32)
        script.get(0x552, 0, 0, second * 40_000_000, 5)
    script.set(0x551, 0)  # start_recording
    script.set(0x550, 0)
    script.set(0x441, 0, 0, 10_000, 5, 1)
    script.set(0x443, 0)
    stamps = [("timer_request", 0, second * 40_000_000 + (5 << 32)) for second in (1, 2, 3)]
    restarted_at = 3 * 40_000_000 + (5 << 32)
    assert [call for call in streams.calls if call[0] != "chip"] == [
        ("readout", Readout.DATA_DRIVEN),
        *[("timers_restarted", 0, 0)] * 3,
        ("shutter", True, 0),
        *stamps,
        ("timers_restarted", restarted_at, 0),
        ("timers_restarted", 0, 0),
        ("shutter", False, 0),
    ]
    told = dict(call for call in streams.named("chip"))
    assert [(told[chip].general, told[chip].pll) for chip in (0, 1)] == [(0x048, 0x11E), (0x068, 0x11E)]
    assert [told[chip].codes for chip in (0, 1)] == [b"".join(Pixels(chip).columns) for chip in (0, 1)]
    assert list(told[0].dacs.values()) == list(DACS)


def test_eudaq_stops_and_asks_the_counters(script: Script, streams: RecordingStreams):
    connect_as_pymepix(script)
    start_as_pymepix(script)
    for chip in range(2):  # the LHCb programs write the filter again after the read-out command
        script.set(0x906, chip, 0xF39F_0C70)
        script.get(0x905, chip, 0, 0xF39F_0C70)
    streams.totals = StreamCounters(10, (20, 30), 5)
    script.set(0x443, 0)
    script.set(0x447, 0)
    for address, value in ((0x384, 10), (0x340, 20), (0x341, 30), (0x2F8, 5)):
        script.get(0x783, 0, address, address, value)
    assert [call for call in streams.calls if call[0] in ("shutter", "readout", "header_filter")][-4:] == [
        ("header_filter", 0, 0x0C70),
        ("header_filter", 1, 0x0C70),
        ("shutter", False, 0),
        ("readout", Readout.OFF),
    ]


def test_eudaq_measures_the_temperature_of_a_chip_by_its_band_gap(script: Script):
    sums = []
    for code in (29, 28):
        script.set(0x338, 0, code)
        (total,) = script.wire.get(0x54E, 0, 0 | 64 << 16)
        sums.append(total)
    celsius = 88.75 - 607.3 * (1.5 * sums[0] / 64 / 4096 - 1.5 * sums[1] / 64 / 4096)
    assert 30 < celsius < 60


def upload_packed_without_replies(script: Script, pixels: Pixels) -> None:
    script.wire.socket.sendall(
        b"".join(message(0x22A | NOREPLY, 1, first, data=data) for first, data in pixels.packed_messages())
    )


def upload_unpacked(script: Script, pixels: Pixels) -> None:
    for first in range(0, 256, 2):
        script.set(0x22A, 1, first, data=b"".join(pixels.columns[first : first + 2]))


def upload_unpacked_of_other_sizes(script: Script, pixels: Pixels) -> None:
    first = 0
    for n in (1, 2, 3, 4) * 26:
        n = min(n, 256 - first)
        if n:
            script.set(0x22A, 1, first, data=b"".join(pixels.columns[first : first + n]))
        first += n


@pytest.mark.parametrize("upload", [upload_packed_without_replies, upload_unpacked, upload_unpacked_of_other_sizes])
def test_every_way_to_upload_a_matrix_is_read_back(script: Script, upload: Callable[[Script, Pixels], None]):
    pixels = Pixels(7)
    script.set(0x22E, 1)
    upload(script, pixels)
    for column in range(256):
        script.get(0x22D, 1, column, column, data=pixels.columns[column])
    script.get(0x22D, 0, 3, 3, data=bytes(256))


def test_client_that_sets_only_the_port_gets_the_data_of_the_process() -> None:
    """As Pymepix: it binds its socket to the address that the chip reports."""
    with running_sim(scene="uniform", rate=100_000) as sim, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        wire = Wire((sim.host, sim.port))
        script = Script(wire)
        udp.bind((socket.inet_ntoa(struct.pack(">I", *wire.get(0x114, 0))), 0))
        udp.settimeout(20)
        port = udp.getsockname()[1]
        script.set(0x119, 0, port)
        script.get(0x117, 0, 0, port)
        script.set(0x446, 0)
        script.set(0x550, 0)
        script.set(0x441, 0, 4, 0, 10, 1)
        script.set(0x442, 0)
        words = received(udp)
        while not any(word >> 60 == 0xB for word in words):
            words = received(udp)
        script.set(0x443, 0)
        while words[-1] >> 48 != 0x71B0:
            words = received(udp)
        script.set(0x447, 0)
        wire.close()


def received(udp: socket.socket) -> tuple[int, ...]:
    data = udp.recv(65_536)
    return struct.unpack(f"<{len(data) // 8}Q", data)
