"""A glance: what is kept, what is only counted."""

import socket

import numpy as np
import pytest

from ophyd_timepix.pipeline.glance import Glance, Seen
from ophyd_timepix.pipeline.messages import Receiver
from ophyd_timepix.protocol import words as w

HOST = "127.0.0.1"


def pixel(dcol: int, super_pixel: int, toa: int) -> int:
    return w.PIXEL_DATA_DRIVEN << 60 | dcol << 53 | super_pixel << 47 | toa << 30 | 20 << 20


def look_at(*datagrams: tuple[int, bytes], sent: int | None = None, ring_bytes: int = 4 << 20) -> Seen:
    """Datagrams to the sockets of chips 0 and 1."""
    with Glance([Receiver(chip=chip, host=HOST) for chip in (0, 1)], ring_bytes) as glance:
        glance.begin()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            for chip, payload in datagrams:
                sock.sendto(payload, (HOST, glance.ports[chip]))
        return glance.end(len(datagrams) if sent is None else sent, anchor_counts=2000)


def test_hits_come_with_their_chip_and_pixel() -> None:
    words = np.array([pixel(3, 10, 1000), pixel(127, 63, 1004)], np.uint64)
    seen = look_at((1, words.tobytes()))
    assert seen.chip.tolist() == [1, 1]
    assert seen.x.tolist() == [6, 254]
    assert seen.y.tolist() == [40, 252]
    assert seen.ticks[1] - seen.ticks[0] == 4 * 96
    assert (seen.counts["hits"], seen.complete, seen.totals.arrived) == (2, True, 1)


def test_edges_come_with_input_kind_and_counter() -> None:
    word = (w.TdcByte.TDC2_FALLING << 56) | 77 << 44 | 5000 << 9 | 3 << 5
    seen = look_at((0, word.to_bytes(8, "little")))
    assert (seen.edge_input.tolist(), seen.edge_falling.tolist(), seen.edge_counter.tolist()) == ([2], [1], [77])


def test_the_last_datagram_is_waited_for_only_as_long_as_some_come() -> None:
    assert look_at((0, bytes(8)), sent=1000).totals.arrived == 1


def test_what_does_not_fit_is_counted() -> None:
    payload = np.full(8000, pixel(1, 1, 1000), np.uint64).tobytes()
    n = 100  # of 64 kB: more than a ring of 4 MiB holds
    with Glance([Receiver(chip=0, host=HOST)], 4 << 20) as glance:
        if glance.buffers[0].granted_bytes < 2 * n * len(payload):
            pytest.skip("the kernel's buffer is too small for what is sent at once here")
        glance.begin()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            for _ in range(n):
                sock.sendto(payload, (HOST, glance.ports[0]))
        seen = glance.end(n, anchor_counts=2000)
    assert not seen.complete
    assert seen.totals.arrived == n
    assert 0 < seen.totals.datagrams < n
    assert seen.ticks.size == 8000 * seen.totals.datagrams
