"""How fast one core makes and sends words: what the simulated board can offer to a live run."""

import json
import socket
import threading
import time

import psutil
import pytest

from ophyd_timepix.control import Board, SpidrClient
from spidr_sim.datagrams import DatagramSender
from spidr_sim.scenes import SceneSettings
from spidr_sim.source import scene_source
from tests.sim_process import running_sim

pytestmark = pytest.mark.bench

NEEDED_HITS_PER_S = 12e6
SLICES = 1500


@pytest.mark.parametrize("datagram_bytes", [8960, 1400])
@pytest.mark.parametrize("scene", ["uniform", "vmi"])
def test_one_core_makes_and_sends_12_mhits_per_second(scene: str, datagram_bytes: int) -> None:
    """CPU seconds of generation, ordering and sendmmsg; nobody reads, so the kernel drops at the receiving socket."""
    source = scene_source(SceneSettings.chosen(scene, rate_hz=NEEDED_HITS_PER_S))
    sender = DatagramSender("127.0.0.1", datagram_bytes)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as listener:
        listener.bind(("127.0.0.1", 0))
        sender.set_destination("127.0.0.1", listener.getsockname()[1])
        source.open(0, 0)
        source.advance()
        start = time.process_time()
        hits = 0
        for _ in range(SLICES):
            departures = source.advance()
            hits += departures.pixel_words[0]
            sender.send(departures.of_chip(0))
        seconds = time.process_time() - start
    sender.close()
    rate = hits / seconds
    print(f"\n{scene}, {datagram_bytes} B: {rate / 1e6:.1f} Mhit/s per core")
    assert rate >= (NEEDED_HITS_PER_S if datagram_bytes == 8960 else NEEDED_HITS_PER_S / 2)


class PlainReceiver:
    """Counts what comes to a port, in a thread of its own: one `recv_into` after the other, nothing is kept."""

    WAIT_S = 0.5

    def __init__(self) -> None:
        self.datagrams = self.bytes = 0
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        for option in (socket.SO_RCVBUF, SO_RCVBUFFORCE):
            try:
                self.socket.setsockopt(socket.SOL_SOCKET, option, 256 << 20)
            except PermissionError:
                print("a small receive buffer: not root")
        self.socket.bind(("127.0.0.1", 0))
        self.socket.settimeout(self.WAIT_S)
        self.port: int = self.socket.getsockname()[1]
        self._stopping = False
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        buffer = bytearray(65_536)
        receive = self.socket.recv_into
        datagrams = total = 0
        while True:
            try:
                total += receive(buffer)
                datagrams += 1
            except TimeoutError:
                self.datagrams, self.bytes = datagrams, total
                if self._stopping:
                    return

    def stop(self) -> None:
        """Return when nothing has come for a while."""
        self._stopping = True
        self._thread.join()
        self.socket.close()


SO_RCVBUFFORCE = 33
LOADS = [(80e6, 8960), (40e6, 1400), (80e6, 1400)]
SECONDS = 4.0


@pytest.mark.parametrize("repeat", range(2))
@pytest.mark.parametrize(("rate", "datagram_bytes"), LOADS)
def test_the_scene_load_over_loopback(rate: float, datagram_bytes: int, repeat: int) -> None:
    """A simulator of its own and a plain receiver: what it reaches, what of a core it takes, what comes.

    One core is enough for the rate, in CPU seconds: what it reaches depends on who else wants the cores.
    """
    with (
        running_sim(scene="load", rate=rate, shot_rate=1000, datagram_bytes=datagram_bytes) as sim,
        SpidrClient(sim.host, sim.port) as client,
    ):
        receiver = PlainReceiver()
        board = Board(client)
        board.chip(0).set_destination(None, receiver.port)
        board.prepare_readout()
        board.reset_timers()
        process = psutil.Process(sim.process.pid)
        board.open_shutter()
        before, begin = sum(process.cpu_times()[:2]), time.monotonic()
        first = board.sent_counters().pixel_words[0]
        time.sleep(SECONDS)
        last = board.sent_counters().pixel_words[0]
        cpu_s, seconds = sum(process.cpu_times()[:2]) - before, time.monotonic() - begin
        board.close_shutter()
        receiver.stop()
        sent = board.sent_counters()
    reached = (last - first) / seconds
    report = {
        "wanted Mhit/s": rate / 1e6,
        "datagram bytes": datagram_bytes,
        "reached Mhit/s": round(reached / 1e6, 2),
        "percent of a core": round(100 * cpu_s / seconds),
        "sent datagrams": sent.datagrams,
        "not received": sent.datagrams - receiver.datagrams,
    }
    print("\n" + json.dumps(report))
    if (rate, datagram_bytes) in LOADS[:2]:
        assert reached / (cpu_s / seconds) >= rate
