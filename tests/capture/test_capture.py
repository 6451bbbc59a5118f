import mmap
import socket
import threading
import time

import numpy as np
import pytest

from ophyd_timepix.capture.aside import SET_ASIDE_LIMIT, Aside
from ophyd_timepix.capture.capture import Capture
from ophyd_timepix.capture.intake import STRANGERS_MAX
from ophyd_timepix.capture.sockets import PAYLOAD_SHARE, Buffer, enlarge_buffer, kernel_drops, open_socket
from ophyd_timepix.spool.index import RECORD, read_index, spans
from ophyd_timepix.spool.recording import RecordingWriter
from ophyd_timepix.spool.ring import N_MARKS, Mark, Ring

HOST = "127.0.0.1"


@pytest.fixture
def failures():
    return []


@pytest.fixture
def capture(failures):
    ring = Ring(np.frombuffer(mmap.mmap(-1, 1 << 22), np.uint8), np.zeros(N_MARKS, np.int64))
    made = Capture(ring, np.zeros(1024, RECORD), failures.append)
    yield made
    made.close()
    made.unbind()


def wait_for(condition, timeout_s: float = 60.0) -> None:
    deadline = time.monotonic() + timeout_s
    event = threading.Event()
    while not condition():
        assert time.monotonic() < deadline, "did not happen in time"
        event.wait(0.001)


def send(port: int, *payloads: bytes, sender: str = HOST) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind((sender, 0))
        for payload in payloads:
            sock.sendto(payload, (HOST, port))


def parse(raw: bytes) -> list[tuple[int, bytes]]:
    """(chip, payload) of each chunk, straight from the description of the format."""
    chunks = []
    while raw:
        assert raw[:4] == b"TPX3"
        chip, n = raw[4], int.from_bytes(raw[6:8], "little")
        chunks.append((chip, raw[8 : 8 + n]))
        raw = raw[8 + n :]
    return chunks


def payloads_of(sizes) -> list[bytes]:
    return [np.random.default_rng(k).bytes(n) for k, n in enumerate(sizes)]


@pytest.mark.parametrize(
    "sizes", [[8], [8960] * 300, [8, 65_504, 16, 8960], [1400, 1408, 24] * 100], ids=["one", "equal", "any", "mixed"]
)
def test_every_datagram_is_one_chunk_of_the_recording(capture, tmp_path, sizes):
    (endpoint,) = capture.bind([(3, HOST, 0, ())])
    capture.open(RecordingWriter(tmp_path / "a.tpx3", {}))
    sent = [p[: len(p) // 8 * 8] for p in payloads_of(sizes)]
    for k, payload in enumerate(sent):  # one after the other: nothing may be dropped here
        send(endpoint.port, payload)
        wait_for(lambda k=k: capture.totals().datagrams > k)
    totals = capture.close()
    assert parse((tmp_path / "a.tpx3").read_bytes()) == [(3, p) for p in sent]
    assert totals.payload_bytes == sum(map(len, sent))
    assert totals.kernel_dropped == 0


def test_chips_share_one_recording_and_keep_their_order(capture, tmp_path):
    endpoints = capture.bind([(chip, HOST, 0, ()) for chip in range(4)])
    capture.open(RecordingWriter(tmp_path / "a.tpx3", {}))
    for k in range(50):
        for e in endpoints:
            send(e.port, bytes([e.chip, k]) * 4)
    wait_for(lambda: capture.totals().datagrams == 200)
    capture.close()
    chunks = parse((tmp_path / "a.tpx3").read_bytes())
    for chip in range(4):
        assert [p for c, p in chunks if c == chip] == [bytes([chip, k]) * 4 for k in range(50)]


def test_what_waited_in_the_sockets_of_several_chips_is_taken_in_turns(capture, tmp_path):
    """Words of one chip that come a quarter of a second of its time behind another's cannot be ordered any more."""
    chips, waiting = 4, 400
    endpoints = capture.bind([(chip, HOST, 0, ()) for chip in range(chips)])
    capture.open(RecordingWriter(tmp_path / "a.tpx3", {}))
    capture.begin(1)
    with capture._lock, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:  # nobody gives the threads time
        for endpoint in endpoints:
            for _ in range(waiting):
                sender.sendto(bytes(64), (HOST, endpoint.port))
    wait_for(lambda: capture.totals().datagrams == chips * waiting)
    capture.end()
    capture.close()
    headers = np.fromfile(tmp_path / "a.tpx3", np.uint8).reshape(-1, 72)[:, 4]
    taken = np.cumsum(headers[:, np.newaxis] == np.arange(chips), axis=0)
    waits = taken.min(axis=1) < waiting
    assert (taken.max(axis=1) - taken.min(axis=1))[waits].max() < waiting // 2


def test_broken_lengths_and_foreign_senders_are_counted_and_set_aside(capture, tmp_path):
    good, other = capture.bind([(0, HOST, 0, ()), (1, HOST, 0, ("192.0.2.1", HOST))])
    capture.open(RecordingWriter(tmp_path / "a.tpx3", {}))
    send(good.port, b"12345678", b"123", b"abcdefgh")
    send(other.port, b"01234567")
    wait_for(lambda: capture.totals().datagrams == 3)
    send(other.port, b"ijklmnop", sender="127.0.0.99")
    wait_for(lambda: capture.totals().wrong_sender == 1)
    totals = capture.close()
    assert (totals.malformed_datagrams, totals.malformed_bytes) == (1, 11)
    found = parse((tmp_path / "a.tpx3").read_bytes())
    assert sorted(found) == [(0, b"12345678"), (0, b"abcdefgh"), (1, b"01234567")]
    aside = (tmp_path / "a.tpx3.aside").read_bytes()
    assert b"123" in aside
    assert b"ijklmnop" in aside


@pytest.mark.parametrize("n", [3, STRANGERS_MAX + 3], ids=["at the end", "when many have come"])
def test_whoever_sends_is_believed_when_nothing_ever_comes_from_where_the_board_says(capture, tmp_path, n):
    """The board may be wrong about its own address; its data are worth more than what it says."""
    (endpoint,) = capture.bind([(0, HOST, 0, ("192.0.2.1",))])
    capture.open(RecordingWriter(tmp_path / "a.tpx3", {}))
    capture.begin(1)
    sent = [k.to_bytes(8, "little") for k in range(n)]
    send(endpoint.port, *sent)
    held = lambda: len(capture._channels[0].waiting)  # noqa: E731
    wait_for(lambda: capture.totals().datagrams + held() == n)
    assert capture.totals().datagrams == (n if n > STRANGERS_MAX else 0)
    _, totals = capture.end()
    assert (totals.datagrams, totals.wrong_sender) == (n, 0)
    capture.close()
    assert [p for _, p in parse((tmp_path / "a.tpx3").read_bytes())] == sent


def test_a_stranger_who_speaks_before_the_board_is_a_stranger(capture, tmp_path):
    (endpoint,) = capture.bind([(0, HOST, 0, (HOST,))])
    capture.open(RecordingWriter(tmp_path / "a.tpx3", {}))
    capture.begin(1)
    send(endpoint.port, b"stranger", b"again...", sender="127.0.0.99")
    wait_for(lambda: len(capture._channels[0].waiting) == 2)
    assert capture.totals().arrived == 0
    send(endpoint.port, b"12345678")
    wait_for(lambda: capture.totals().datagrams == 1)
    assert capture.end()[1].wrong_sender == 2
    capture.close()
    assert [p for _, p in parse((tmp_path / "a.tpx3").read_bytes())] == [b"12345678"]
    assert b"stranger" in (tmp_path / "a.tpx3.aside").read_bytes()


@pytest.mark.parametrize(("sent", "believed"), [(7, False), (8, True), (None, True)])
def test_strangers_are_not_believed_at_the_end_when_the_board_says_that_all_is_here(capture, tmp_path, sent, believed):
    (endpoint,) = capture.bind([(0, HOST, 0, (HOST,))])
    capture.open(RecordingWriter(tmp_path / "a.tpx3", {}))
    capture.begin(1)
    capture.compare_from(7, 0)
    send(endpoint.port, b"stranger", sender="127.0.0.99")
    wait_for(lambda: len(capture._channels[0].waiting) == 1)
    _, totals = capture.end(sent=sent)
    assert (totals.datagrams, totals.wrong_sender) == (int(believed), int(not believed))
    capture.close()
    assert [p for _, p in parse((tmp_path / "a.tpx3").read_bytes())] == ([b"stranger"] if believed else [])


def test_a_stranger_does_not_keep_an_acquisition_from_its_end(capture, tmp_path):
    """It ends by silence when a datagram of the board is missing: that of the board."""
    (endpoint,) = capture.bind([(0, HOST, 0, (HOST,))])
    capture.open(RecordingWriter(tmp_path / "a.tpx3", {}))
    send(endpoint.port, b"12345678")
    wait_for(lambda: capture.totals().datagrams == 1)
    newest = capture.last_datagram_ns
    assert newest > 0
    send(endpoint.port, b"stranger", sender="127.0.0.99")
    wait_for(lambda: capture.totals().wrong_sender == 1)
    assert capture.last_datagram_ns == newest
    send(endpoint.port, b"12345678")
    wait_for(lambda: capture.totals().datagrams == 2 and capture.last_datagram_ns > newest)


def test_strangers_take_no_room_of_what_is_kept_of_malformed_datagrams(tmp_path):
    ring = Ring(np.zeros(1 << 13, np.uint8), np.zeros(N_MARKS, np.int64))
    aside = Aside(ring)
    for k in range(2 * SET_ASIDE_LIMIT):
        aside.keep(b"stranger", Mark.WRONG_SENDER, k, 0)
    for k in range(2 * SET_ASIDE_LIMIT):
        aside.keep(b"odd", Mark.MALFORMED_DATAGRAMS, k, 0)
    aside.write(tmp_path / "a.tpx3")
    kept = (tmp_path / "a.tpx3.aside").read_bytes()
    assert (kept.count(b"stranger"), kept.count(b"odd")) == (SET_ASIDE_LIMIT, SET_ASIDE_LIMIT)
    assert ring.marks[Mark.WRONG_SENDER] == ring.marks[Mark.MALFORMED_DATAGRAMS] == 2 * SET_ASIDE_LIMIT


def test_what_came_before_the_recording_is_not_in_it(capture, tmp_path):
    (endpoint,) = capture.bind([(0, HOST, 0, ())])
    send(endpoint.port, b"too soon")
    wait_for(lambda: capture.ring.marks[Mark.IDLE_DATAGRAMS] == 1)
    capture.open(RecordingWriter(tmp_path / "a.tpx3", {}))
    send(endpoint.port, b"in time!")
    wait_for(lambda: capture.totals().datagrams == 1)
    capture.close()
    assert [p for _, p in parse((tmp_path / "a.tpx3").read_bytes())] == [b"in time!"]


def test_the_index_tells_when_each_stretch_came(capture, tmp_path):
    (endpoint,) = capture.bind([(0, HOST, 0, ())])
    capture.open(RecordingWriter(tmp_path / "a.tpx3", {"n_chips": 1}))
    before = time.monotonic_ns()
    assert capture.begin(7)[0] == 0
    send(endpoint.port, bytes(64))
    wait_for(lambda: capture.totals().datagrams == 1)
    assert capture.end(end_counts=99)[0] == 72
    capture.close()
    index = read_index(tmp_path / "a.tpx3")
    assert index is not None
    begun, record, closing = index.records
    assert (begun["offset"], begun["acquisition"]) == (record["offset"], record["acquisition"]) == (0, 7)
    assert (closing["offset"], closing["acquisition"], closing["end_counts"]) == (72, 0, 99)
    assert before <= record["host_ns"] <= time.monotonic_ns()


def test_an_acquisition_of_which_nothing_came_is_in_the_index_all_the_same(capture, tmp_path):
    (endpoint,) = capture.bind([(0, HOST, 0, ())])
    capture.open(RecordingWriter(tmp_path / "a.tpx3", {"n_chips": 1}))
    for number, sends in ((1, True), (2, False), (3, True), (4, False)):
        capture.begin(number)
        if sends:
            send(endpoint.port, bytes(64))
            wait_for(lambda n=number: capture.totals().datagrams == (n + 1) // 2)
        capture.end(end_counts=number, sent=10 * number)
    capture.begin(5)  # and is never ended
    capture.close()
    index = read_index(tmp_path / "a.tpx3")
    found = spans(index.records, 144)
    assert [(s.acquisition, s.start, s.stop, s.end_counts, s.sent, s.arrived) for s in found] == [
        (1, 0, 72, 1, 10, 1),
        (2, 72, 72, 2, 20, 1),
        (3, 72, 144, 3, 30, 2),
        (4, 144, 144, 4, 40, 2),
    ]


def test_a_drop_of_the_kernel_is_counted_exactly_the_last_ones_too():
    sock = open_socket(HOST, 0)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    send(sock.getsockname()[1], *[bytes(1024)] * 100)
    dropped = kernel_drops(sock)
    sock.setblocking(False)
    received = 0
    while True:
        try:
            sock.recv(2048)
        except BlockingIOError:
            break
        received += 1
    sock.close()
    assert dropped > 0
    assert received + dropped == 100


def test_a_port_in_use_is_told_with_the_remedy(capture):
    (endpoint,) = capture.bind([(0, HOST, 0, ())])
    with pytest.raises(OSError, match=rf"{HOST}:{endpoint.port}: Address already in use.*choose port 0"):
        open_socket(HOST, endpoint.port)


def test_an_address_of_another_machine_is_told(capture):
    with pytest.raises(OSError, match=r"192\.0\.2\.1.*no such address"):
        capture.bind([(0, "192.0.2.1", 0, ())])


def test_a_small_buffer_comes_with_the_sysctl_line(monkeypatch):
    with open_socket(HOST, 0) as sock:
        monkeypatch.setattr("ophyd_timepix.capture.sockets.ENOUGH_BUFFER_BYTES", 1 << 40)
        buffer = enlarge_buffer(sock)
    assert buffer.warning is not None
    assert "sudo sysctl -w net.core.rmem_max=134217728" in buffer.warning
    assert f"holds {buffer.granted_bytes * 0.54 / 1e6:.1f} MB in datagrams of 8960 bytes" in buffer.warning


@pytest.mark.parametrize("length", PAYLOAD_SHARE)
def test_a_buffer_holds_as_much_payload_as_is_said(length):
    with open_socket(HOST, 0) as sock, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 18)
        buffer = Buffer(sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF), None)
        sender.connect(sock.getsockname())
        held = -length
        while not kernel_drops(sock):
            sender.send(bytes(length))
            held += length
    assert held == pytest.approx(buffer.holds_bytes(length), rel=0.2)


def test_a_disk_that_fails_is_told_to_the_owner(capture, failures, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("ophyd_timepix.spool.recording.RecordingWriter.write", full)
    capture.open(RecordingWriter(tmp_path / "a.tpx3", {}))
    wait_for(lambda: bool(failures))
    assert "No space" in str(failures[0])
    monkeypatch.undo()


def test_a_writer_that_fails_while_the_ring_is_full_ends_the_wait_of_the_receivers(
    capture, failures, tmp_path, monkeypatch
):
    started, go_on = threading.Event(), threading.Event()

    def failing_later(*_):
        started.set()
        go_on.wait(60)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("ophyd_timepix.spool.recording.RecordingWriter.write", failing_later)
    (endpoint,) = capture.bind([(0, HOST, 0, ())])
    capture.open(RecordingWriter(tmp_path / "a.tpx3", {}))
    while not capture.ring.marks[Mark.RING_FULL_WAITS]:
        send(endpoint.port, *[bytes(65_504)] * 8)
    assert started.is_set()
    go_on.set()
    # a receiver that meets the failed disk counts what it cannot place; one that meets the writer's end says so
    wait_for(lambda: capture.ring.marks[Mark.UNRECORDED] or len(failures) == 2)
    wait_for(lambda: bool(failures))
    assert "No space" in str(failures[0])
    monkeypatch.undo()
    capture.close()


def test_datagrams_received_in_place_are_recorded_as_they_were_sent(capture, tmp_path, failures):
    """Runs of equal lengths, which go straight into the ring, longer and shorter ones between them, wrong ones too."""
    random = np.random.default_rng(5)
    lengths: list[int] = []
    while sum(lengths) < 3 * capture.ring.size:
        lengths += [int(random.choice([64, 1400, 8184, 8960, 60_000]))] * int(random.integers(1, 60))
        lengths += [int(random.choice([8, 13, 4096, 65_000]))] * int(random.integers(0, 3))
    payloads = [random.bytes(n) for n in lengths]
    (endpoint,) = capture.bind([(2, HOST, 0, ())])
    capture.open(RecordingWriter(tmp_path / "a.tpx3", {}))
    capture.begin(1)
    for k in range(0, len(payloads), 50):
        send(endpoint.port, *payloads[k : k + 50])
        wait_for(lambda sent=k + 50: capture.totals().arrived == min(sent, len(payloads)))
    capture.end()
    totals = capture.close()
    assert not failures
    good = [(2, payload) for payload in payloads if len(payload) % 8 == 0]
    assert totals.malformed_datagrams == len(payloads) - len(good) > 0
    assert parse((tmp_path / "a.tpx3").read_bytes()) == good


def test_what_is_announced_to_be_overwritten_is_never_taken_back():
    """A reader may have seen it: bytes that were overwritten in vain must not look whole again."""
    ring = Ring(np.zeros(1 << 13, np.uint8), np.zeros(N_MARKS, np.int64))
    assert ring.reserve(4000) == 0
    ring.publish(8)
    assert ring.reserve(16) == 8
    assert ring.reserved == 4000
