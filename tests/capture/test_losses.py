"""What is missing stands in the index exactly where it is missing, whoever lost it."""

import itertools
import mmap
import random
import socket
import threading
import time

import numpy as np
import pytest

from ophyd_timepix.capture.batch import BATCH
from ophyd_timepix.capture.capture import Capture
from ophyd_timepix.capture.channel import Channel
from ophyd_timepix.spool.index import RECORD, Kind, read_index
from ophyd_timepix.spool.recording import RecordingWriter
from ophyd_timepix.spool.ring import N_MARKS, Mark, Ring

HOST = "127.0.0.1"
DEADLINE_S = 60.0
"""Never reached where all is well, however busy the machine."""
SMALL_BUFFER = 16_384
CHUNK = 16
"""Bytes of a chunk with one word."""


@pytest.fixture
def capture():
    failures = []
    ring = Ring(np.frombuffer(mmap.mmap(-1, 1 << 22), np.uint8), np.zeros(N_MARKS, np.int64))
    made = Capture(ring, np.zeros(64, RECORD), failures.append)
    yield made
    made.close()
    made.unbind()
    assert not failures


class Sender:
    """Sends numbered datagrams to one port."""

    def __init__(self, port: int) -> None:
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.connect((HOST, port))
        self.sent = 0

    def send(self, n: int, tail: bytes = b"") -> None:
        for _ in range(n):
            self.socket.send(self.sent.to_bytes(8, "little") + tail)
            self.sent += 1


@pytest.fixture
def make_sender():
    made = []

    def make(port):
        made.append(Sender(port))
        return made[-1]

    yield make
    for sender in made:
        sender.socket.close()


def drained(capture: Capture, n: int) -> None:
    """Wait until all that was sent is taken or known to be dropped."""
    deadline = time.monotonic() + DEADLINE_S
    pause = threading.Event()
    while capture.totals().arrived < n:
        assert time.monotonic() < deadline
        pause.wait(0.001)


def losses_of(records, *kinds) -> list[tuple[int, int, int]]:
    """(address, chip, datagrams) of each loss."""
    return [(int(r["offset"]), int(r["chip"]), int(r["lost"])) for r in records if r["kind"] in kinds]


def gaps_of(numbers: list[int], sent: int) -> list[tuple[int, int]]:
    """(address, datagrams) of each gap in the numbers that a recording of chunks with one word holds."""
    edges = [-1, *numbers, sent]
    steps = itertools.pairwise(edges)
    return [(k * CHUNK, b - a - 1) for k, (a, b) in enumerate(steps) if b - a > 1]


def numbers_in(path) -> list[int]:
    return np.fromfile(path, "<u8")[1::2].tolist()


def test_a_drop_of_the_kernel_stands_exactly_before_the_first_datagram_after_it(capture, make_sender, tmp_path):
    (endpoint,) = capture.bind([(2, HOST, 0, ())])
    capture._channels[0].sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL_BUFFER)
    capture.open(RecordingWriter(tmp_path / "a.tpx3", {}))
    capture.begin(1)
    sender = make_sender(endpoint.port)
    for n in (5, 300, 1, 200):
        sender.send(n)
        drained(capture, sender.sent)
        with capture._lock:  # the receiver stands still: its buffer overflows
            sender.send(300)
        drained(capture, sender.sent)
    stop, totals = capture.end()
    capture.close()
    numbers = numbers_in(tmp_path / "a.tpx3")
    index = read_index(tmp_path / "a.tpx3")
    expected = gaps_of(numbers, sender.sent)
    assert losses_of(index.records, Kind.LOSS_KERNEL) == [(address, 2, n) for address, n in expected]
    assert len(expected) >= 4
    assert expected[-1][0] == stop
    assert totals.kernel_dropped == sender.sent - len(numbers) == sum(n for _, n in expected)
    end = index.records[index.records["kind"] == Kind.END]
    assert end["kernel_dropped"].tolist() == [totals.kernel_dropped]


def test_what_was_dropped_before_the_recording_is_none_of_its_losses(capture, make_sender, tmp_path):
    (endpoint,) = capture.bind([(0, HOST, 0, ())])
    capture._channels[0].sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL_BUFFER)
    sender = make_sender(endpoint.port)
    with capture._lock:
        sender.send(300)
    deadline = time.monotonic() + DEADLINE_S
    while capture.backlog():
        assert time.monotonic() < deadline
    capture.open(RecordingWriter(tmp_path / "a.tpx3", {}))
    capture.begin(1)
    sender.send(3)
    drained(capture, 3)
    _, totals = capture.end()
    capture.close()
    assert totals.kernel_dropped == 0
    assert losses_of(read_index(tmp_path / "a.tpx3").records, Kind.LOSS_KERNEL) == []


def test_a_malformed_datagram_stands_where_it_came(capture, make_sender, tmp_path):
    (endpoint,) = capture.bind([(1, HOST, 0, ())])
    capture.open(RecordingWriter(tmp_path / "a.tpx3", {}))
    capture.begin(1)
    sender = make_sender(endpoint.port)
    kinds = random.Random(1).choices(["good", "bad", "longer"], k=400)
    with capture._lock:  # many in one batch
        for kind in kinds:
            sender.send(1, {"good": b"", "bad": b"123", "longer": bytes(8)}[kind])
    drained(capture, len(kinds))
    capture.end()
    totals = capture.close()
    assert totals.malformed_datagrams == kinds.count("bad")
    address, expected = 0, {}
    for kind in kinds:
        if kind == "bad":
            expected[address] = expected.get(address, 0) + 1
        address += {"good": CHUNK, "bad": 0, "longer": CHUNK + 8}[kind]
    records = read_index(tmp_path / "a.tpx3").records
    told = records[records["kind"] == Kind.LOSS_MALFORMED]
    assert set(told["chip"]) == {1}
    assert told["lost"].sum() == sum(expected.values())
    places = np.array(sorted(expected))
    until = np.maximum(told["received_before"], told["offset"])
    for place in expected:  # those of one batch share two records: the first and the last place
        assert ((told["offset"] <= place) & (place <= until)).any()
    assert set(told["offset"]) | set(until) <= set(places)
    assert (until - told["offset"] <= BATCH * (CHUNK + 8)).all()
    assert len(told) <= 2 * (len(kinds) // BATCH + 2)
    assert records["malformed"].max() == totals.malformed_datagrams


def test_a_reading_of_the_boards_counter_follows_when_what_was_under_way_is_taken(capture, make_sender, tmp_path):
    (endpoint,) = capture.bind([(0, HOST, 0, ())])
    capture.open(RecordingWriter(tmp_path / "a.tpx3", {}))
    capture.begin(1)
    sender = make_sender(endpoint.port)
    sender.send(7)
    drained(capture, 7)
    with capture._lock:
        sender.send(20)  # they wait in the socket while the board answers
    capture.poll(sent=30, received_before=7)
    asked = time.monotonic_ns()
    deadline = time.monotonic() + DEADLINE_S
    while capture.polls_waiting:
        capture.tend()
        assert time.monotonic() < deadline
    capture.end(end_counts=5, sent=31)
    capture.close()
    records = read_index(tmp_path / "a.tpx3").records
    poll, end = records[records["kind"] == Kind.POLL], records[records["kind"] == Kind.END]
    assert (poll["sent"].item(), poll["received_before"].item(), poll["datagrams"].item()) == (30, 7, 27)
    assert poll["host_ns"].item() >= asked + 4_000_000
    assert (end["sent"].item(), end["end_counts"].item()) == (31, 5)


class Announcing:
    """A lock that tells when the thread `waiter` begins to wait for it."""

    def __init__(self):
        self._lock = threading.Lock()
        self.waiter = None
        self.waits = threading.Event()

    def __enter__(self):
        if threading.current_thread() is self.waiter:
            self.waits.set()
        self._lock.acquire()

    def __exit__(self, *_):
        self._lock.release()


def test_a_reading_that_waited_for_the_lock_is_not_older_than_the_words_before_it(capture, make_sender, tmp_path):
    """Words behind it are held against its time: they would be far ahead of an older one."""
    capture._lock = lock = Announcing()
    (endpoint,) = capture.bind([(0, HOST, 0, ())])
    capture.open(RecordingWriter(tmp_path / "a.tpx3", {}))
    capture.begin(1)
    make_sender(endpoint.port).send(7)
    drained(capture, 7)
    capture.poll(sent=7, received_before=7)
    deadline = time.monotonic() + DEADLINE_S
    while capture._channels[0].caught_up_ns < capture._polls[0].due_ns:
        assert time.monotonic() < deadline
    lock.waiter = threading.Thread(target=capture.tend)
    with lock:
        lock.waiter.start()
        assert lock.waits.wait(DEADLINE_S)
        meanwhile = time.monotonic_ns()
    lock.waiter.join()
    capture.end()
    capture.close()
    records = read_index(tmp_path / "a.tpx3").records
    assert records["host_ns"][records["kind"] == Kind.POLL].item() >= meanwhile


def test_the_counter_of_drops_may_wrap(monkeypatch):
    channel = Channel(0, HOST, 0, ())
    try:
        channel._located = (1 << 32) - 3
        counters = np.array([(1 << 32) - 5, (1 << 32) - 3, (1 << 32) - 1, 4, 4], np.uint32)
        channel.batch._dropped[:5] = counters
        channel.batch._control_bytes[:5] = 24
        assert channel.newly_dropped(5).tolist() == [0, 0, 2, 5, 0]
        assert channel.newly_dropped(5) is None
    finally:
        channel.close()


def test_many_losses_wait_for_room_in_the_index(capture, make_sender, tmp_path):
    """64 records fit; thousands come."""
    (endpoint,) = capture.bind([(0, HOST, 0, ())])
    capture.open(RecordingWriter(tmp_path / "a.tpx3", {}))
    capture.begin(1)
    sender = make_sender(endpoint.port)
    for _ in range(50):
        for _ in range(60):
            sender.send(1)
            sender.send(1, b"1")
        drained(capture, sender.sent)
    capture.end()
    capture.close()
    records = read_index(tmp_path / "a.tpx3").records
    assert records["lost"][records["kind"] == Kind.LOSS_MALFORMED].sum() == 3000
    assert (np.diff(records["offset"]) >= 0).all()
    assert capture.ring.marks[Mark.INDEX_ON_DISK] == len(records)
