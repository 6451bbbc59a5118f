"""How fast one core makes and sends words: what the simulated board can offer to a live run."""

import socket
import time

import pytest

from spidr_sim.datagrams import DatagramSender
from spidr_sim.scenes import SceneSettings
from spidr_sim.source import scene_source

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
