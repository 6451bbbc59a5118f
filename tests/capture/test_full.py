"""When there is no room: for one more file, on the disk, in the ring. Nothing that was received is lost."""

import errno
import logging
import mmap
import os
import socket
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from ophyd_timepix.capture.capture import Capture
from ophyd_timepix.pipeline.live_source import LiveSource
from ophyd_timepix.pipeline.ring_only import RingOnly
from ophyd_timepix.spool.index import RECORD, Kind, read_index
from ophyd_timepix.spool.recording import RecordingWriter, salvage
from ophyd_timepix.spool.ring import ALIGNMENT, N_MARKS, Mark, Ring, disk_seconds_left, stopped_by
from ophyd_timepix.spool.segments import files_of
from ophyd_timepix.spool.sound import sound_part
from ophyd_timepix.spool.sources import RecordingReader, open_recording
from ophyd_timepix.spool.space import Limits, SpaceWatch
from tests.small_disk import small_disk

HOST = "127.0.0.1"
DEADLINE_S = 60.0
"""Never reached where all is well, however busy the machine."""
RING = 1 << 21
MIB = 1 << 20


@pytest.fixture
def failures():
    return []


@pytest.fixture
def capture(failures):
    ring = Ring(np.frombuffer(mmap.mmap(-1, RING), np.uint8), np.zeros(N_MARKS, np.int64))
    made = Capture(ring, np.zeros(1024, RECORD), failures.append)
    yield made
    made.close()
    made.unbind()


@pytest.fixture
def send(capture):
    """Send datagrams of given lengths, a few at a time: nothing is dropped."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        random = np.random.default_rng(1)
        pause = threading.Event()

        def send(port, *lengths):
            for k in range(0, len(lengths), 16):
                wanted = capture.totals().arrived + len(lengths[k : k + 16])
                for n in lengths[k : k + 16]:
                    sender.sendto(random.bytes(n), (HOST, port))
                deadline = time.monotonic() + DEADLINE_S
                while capture.totals().arrived < wanted:
                    assert time.monotonic() < deadline
                    pause.wait(0.0001)

        yield send


def wait_for(condition) -> None:
    deadline = time.monotonic() + DEADLINE_S
    pause = threading.Event()
    while not condition():
        assert time.monotonic() < deadline
        pause.wait(0.001)


def words_of(path) -> bytes:
    out = np.empty(MIB, np.uint8)
    with RecordingReader(open_recording(path)) as reader:
        return b"".join(p.words.tobytes() for p in iter(lambda: reader.next_slice(out), None))


def ring_bytes(ring: Ring, start: int, stop: int) -> bytes:
    return b"".join(part.tobytes() for part in ring.parts(start, stop))


@pytest.mark.parametrize("lengths", [[1400] * 2000, [8960, 1400, 24] * 200, [2040, 8, 16] * 300])
def test_a_recording_goes_on_in_the_next_file_where_a_chunk_ends(capture, send, tmp_path, lengths):
    (endpoint,) = capture.bind([(0, HOST, 0, ())])
    capture.open(RecordingWriter(tmp_path / "a.tpx3", {}), segment_bytes=1 << 16)
    capture.begin(1)
    send(endpoint.port, *lengths)
    capture.end()
    capture.close()
    recording = open_recording(tmp_path / "a.tpx3")
    assert recording.n_bytes == sum(lengths) + 8 * len(lengths)
    assert len(recording.segments) > 3
    sizes = [s.stop - s.start for s in recording.segments[:-1]]
    assert all(1 << 16 <= size <= (1 << 17) + 8968 for size in sizes)
    assert all(s.path.read_bytes()[:4] == b"TPX3" for s in recording.segments)
    if lengths[0] == 1400:
        assert all(s.start % ALIGNMENT == 0 for s in recording.segments)
    assert sound_part(recording, everything=True).is_whole
    assert len(files_of(tmp_path / "a.tpx3")) == len(recording.segments) + 1


# --- the disk ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def disk(monkeypatch):
    """A file system as one wishes: `free` bytes of 1 TB."""
    made = SimpleNamespace(free=1 << 40)
    monkeypatch.setattr("ophyd_timepix.spool.space.LOOK_NS", 0)
    monkeypatch.setattr(
        "ophyd_timepix.spool.space.os.statvfs",
        lambda _: SimpleNamespace(f_bavail=made.free, f_blocks=1 << 40, f_frsize=1),
    )
    return made


def test_little_room_warns_and_less_ends_the_acquisition_with_everything_kept(
    capture, send, disk, tmp_path, caplog, failures
):
    (endpoint,) = capture.bind([(0, HOST, 0, ())])
    capture.open(RecordingWriter(tmp_path / "a.tpx3", {}, limits=Limits(low_bytes=10**9, stop_bytes=10**8)))
    capture.begin(1)
    marks = capture.ring.marks
    send(endpoint.port, 800)
    assert not marks[Mark.DISK_LOW]
    disk.free = 900_000_000
    wait_for(lambda: "0.9 GB are left" in caplog.text)
    assert marks[Mark.DISK_LOW]
    send(endpoint.port, 800)
    disk.free = 90_000_000
    wait_for(lambda: stopped_by(marks) is not None)
    assert "free space" in stopped_by(marks)
    assert len([r for r in caplog.records if r.levelno == logging.WARNING]) == 1
    send(endpoint.port, 800, 800, 800)
    stop, totals = capture.end(sent=5)
    assert (totals.datagrams, totals.unrecorded, totals.arrived) == (2, 3, 5)
    with pytest.raises(OSError, match=r"90 MB are free, .* at least 100 MB: free space"):
        capture.begin(2)
    disk.free = 1 << 40
    assert capture.begin(2)[0] == stop
    send(endpoint.port, 800)
    capture.end()
    assert capture.close().datagrams == 3
    records = read_index(tmp_path / "a.tpx3").records
    loss = records[records["kind"] == Kind.LOSS_UNRECORDED]
    assert (loss["offset"].tolist(), loss["lost"].tolist(), loss["acquisition"].tolist()) == ([stop], [3], [1])
    assert len(words_of(tmp_path / "a.tpx3")) == 3 * 808
    assert not failures


def test_the_time_that_the_disk_lasts_is_predicted(disk, tmp_path, monkeypatch):
    clock = SimpleNamespace(now_ns=1_000_000_000)
    monkeypatch.setattr("ophyd_timepix.spool.space.time", SimpleNamespace(monotonic_ns=lambda: clock.now_ns))
    disk.free = 2_000_000_000
    ring = Ring(np.zeros(4096, np.uint8), np.zeros(N_MARKS, np.int64))
    ring.rewind()
    assert disk_seconds_left(ring.marks) is None
    watch = SpaceWatch(tmp_path / "a.tpx3", Limits(stop_bytes=10**9))
    watch.look(ring)
    assert disk_seconds_left(ring.marks) is None
    clock.now_ns += 20_000_000
    ring.marks[Mark.RECEIVED] = ring.marks[Mark.ON_DISK] = 1_000_000
    watch.look(ring)
    assert disk_seconds_left(ring.marks) == pytest.approx(1_000_000_000 / (1_000_000 / 0.02))


def test_a_file_system_that_does_not_tell_its_size_is_not_watched(monkeypatch, tmp_path):
    unknown = SimpleNamespace(f_bavail=0, f_blocks=0, f_frsize=4096)
    monkeypatch.setattr("ophyd_timepix.spool.space.os.statvfs", lambda _: unknown)
    ring = Ring(np.zeros(4096, np.uint8), np.zeros(N_MARKS, np.int64))
    ring.marks[Mark.RECEIVED] = 4096
    watch = SpaceWatch(tmp_path / "a.tpx3", Limits())
    watch.check()
    watch.look(ring)
    assert stopped_by(ring.marks) is None
    assert not ring.marks[Mark.DISK_LOW]


def test_a_recording_is_not_begun_where_it_would_have_to_end(disk, tmp_path):
    disk.free = 50_000_000
    with pytest.raises(OSError, match=r"50 MB are free, a recording needs at least 100 MB.*a\.tpx3"):
        RecordingWriter(tmp_path / "a.tpx3", {}, limits=Limits(stop_bytes=10**8))
    assert list(tmp_path.iterdir()) == []


def test_a_look_at_the_disk_that_fails_ends_no_recording(disk, tmp_path, monkeypatch, caplog):
    """The files are open, and can be written: a file server was away for a moment, or a directory was renamed."""
    ring = Ring(np.zeros(4096, np.uint8), np.zeros(N_MARKS, np.int64))
    watch = SpaceWatch(tmp_path / "a.tpx3", Limits(stop_bytes=10**8))
    watch.look(ring)
    with monkeypatch.context() as away:

        def statvfs(path):
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), str(path))

        away.setattr("ophyd_timepix.spool.space.os.statvfs", statvfs)
        watch.look(ring)
        watch.look(ring)
        with pytest.raises(OSError, match=r"cannot be seen \(Stale file handle\): mount it again, or choose another"):
            watch.check()
    assert [r.levelno for r in caplog.records] == [logging.WARNING]
    assert "Stale file handle" in caplog.text
    disk.free = 10**7
    watch.look(ring)
    assert stopped_by(ring.marks) is not None


def test_a_disk_that_would_be_full_before_the_next_look_is_looked_at_sooner(disk, tmp_path, monkeypatch):
    monkeypatch.setattr("ophyd_timepix.spool.space.LOOK_NS", 1 << 62)
    ring = Ring(np.zeros(4096, np.uint8), np.zeros(N_MARKS, np.int64))
    watch = SpaceWatch(tmp_path / "a.tpx3", Limits(stop_bytes=10**8))
    disk.free = full = 120_000_000
    while stopped_by(ring.marks) is None and disk.free > 0:
        watch.look(ring)
        ring.marks[Mark.RECEIVED] += 1_000_000
        ring.marks[Mark.ON_DISK] = ring.marks[Mark.RECEIVED]
        disk.free = full - ring.received
    assert 90_000_000 < disk.free < 100_000_000


def test_an_acquisition_is_not_begun_where_what_the_ring_holds_takes_the_last_room(disk, tmp_path):
    """It ended the one before; begun all the same, the next would fill the disk between two looks at it."""
    ring = Ring(np.zeros(4096, np.uint8), np.zeros(N_MARKS, np.int64))
    disk.free = 150_000_000
    writer = RecordingWriter(tmp_path / "a.tpx3", {}, limits=Limits(stop_bytes=10**8))
    writer.begin(ring)
    ring.marks[Mark.RECEIVED] = 60_000_000
    with pytest.raises(OSError, match=r"90 MB are free, a recording needs at least 100 MB"):
        writer.begin(ring)
    writer.close()


@pytest.fixture
def full_after(monkeypatch):
    """From a byte on, every write of a file that ends in .tpx3 fails."""
    real = os.pwrite
    state = SimpleNamespace(limit=1 << 40, code=errno.ENOSPC)

    def pwrite(fd, data, offset):
        room = state.limit - offset
        if len(data) > room and (room < len(data) or state.code != errno.ENOSPC):
            raise OSError(state.code, os.strerror(state.code))
        return real(fd, data, offset)

    monkeypatch.setattr("ophyd_timepix.spool.recording.os.pwrite", pwrite)
    return state


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
@pytest.mark.parametrize("limit", [0, 4096, MIB, MIB + 40_960, 3 * MIB])
def test_a_write_that_fails_loses_nothing_of_what_was_received(
    capture, send, failures, full_after, tmp_path, code, limit
):
    full_after.limit, full_after.code = limit, code
    path = tmp_path / "a.tpx3"
    (endpoint,) = capture.bind([(0, HOST, 0, ())])
    capture.open(RecordingWriter(path, {}))
    capture.begin(1)
    for _ in range(1000):
        send(endpoint.port, 8184)
        if stopped_by(capture.ring.marks) is not None:
            break
    send(endpoint.port, 8184)
    wait_for(lambda: bool(failures))
    error = failures[0]
    assert error.errno == code
    for part in ("cannot write the recording at byte", os.strerror(code), "free space", str(path)):
        assert part in str(error)
    stop, totals = capture.end()
    assert totals.unrecorded > 0
    assert totals.datagrams * 8192 == stop
    ring = capture.ring
    whole = path.read_bytes()[: ring.on_disk] + ring_bytes(ring, ring.on_disk, stop)
    with pytest.raises(OSError, match="cannot write the recording"):
        capture.close()
    if code == errno.ENOSPC:
        assert path.stat().st_size == limit, "what fits is written"
    full_after.limit = 1 << 40  # somebody frees space: what the ring holds completes the recording
    salvage(path, ring, capture._index)
    assert words_of(path) == whole
    assert len(whole) == stop
    assert sound_part(open_recording(path)).is_whole


def test_an_index_that_cannot_be_written_is_told_too(tmp_path):
    writer = RecordingWriter(tmp_path / "a.tpx3", {})
    with open("/dev/full", "wb") as full:
        os.dup2(full.fileno(), writer._index_fd)
    ring = Ring(np.frombuffer(mmap.mmap(-1, RING), np.uint8), np.zeros(N_MARKS, np.int64))
    ring.marks[Mark.INDEX_RECORDS] = 1
    with pytest.raises(OSError, match=r"cannot write the index at byte .*free space.*a\.tpx3\.idx"):
        writer.write(ring, np.zeros(8, RECORD))
    writer.close()


@pytest.fixture
def disk_of_4_mb(tmp_path):
    with small_disk(tmp_path / "small", 4 << 20) as place:
        yield place


UNWATCHED = Limits(0, -(1 << 40), 0.0)
"""No disk is so full."""


@pytest.mark.parametrize("limits", [UNWATCHED, Limits()], ids=["until it is full", "watched"])
def test_a_small_disk_holds_what_fits_and_all_of_it_is_good(capture, send, failures, disk_of_4_mb, limits, monkeypatch):
    monkeypatch.setattr("ophyd_timepix.spool.space.LOOK_NS", 0)
    path: Path = disk_of_4_mb / "a.tpx3"
    (endpoint,) = capture.bind([(0, HOST, 0, ())])
    capture.open(RecordingWriter(path, {}, limits=limits))
    capture.begin(1)
    while stopped_by(capture.ring.marks) is None:
        send(endpoint.port, 8184)
    send(endpoint.port, 8184)
    stop, totals = capture.end()
    assert totals.unrecorded > 0
    if limits != UNWATCHED:
        capture.close()
        assert not failures
        assert len(words_of(path)) == stop
        assert sound_part(open_recording(path)).is_whole
    else:
        wait_for(lambda: bool(failures))
        assert failures[0].errno == errno.ENOSPC
        with pytest.raises(OSError, match="No space left"):
            capture.close()
        recording = open_recording(path)
        part = sound_part(recording)
        assert recording.n_bytes > 3 * MIB
        assert part.n_bytes > recording.n_bytes - 2 * MIB


# --- the ring alone ---------------------------------------------------------------------------------------------------


def test_without_a_file_a_full_ring_ends_the_acquisition_and_the_next_begins_empty(capture, send, failures):
    decoded = 0
    (endpoint,) = capture.bind([(0, HOST, 0, ())])
    capture.open(RingOnly(capture.ring, lambda: decoded))
    send(endpoint.port, *[8184] * (RING // 8192))  # outside any acquisition: nobody needs it
    wait_for(lambda: capture.ring.on_disk == RING)
    send(endpoint.port, *[8184] * 10)
    start, before = capture.begin(1)
    assert before.unrecorded == 0
    n = RING // 8192
    send(endpoint.port, *[8184] * (n + 5))
    assert "the whole ring" in stopped_by(capture.ring.marks)
    stop, totals = capture.end()
    assert (stop - start, totals.unrecorded) == (RING, 5)
    decoded = stop
    assert capture.begin(2)[0] == stop
    for _ in range(3):
        send(endpoint.port, *[8184] * (n // 2))
        decoded = capture.ring.received
    stop, totals = capture.end()
    assert totals.unrecorded == 5
    assert totals.datagrams == 2 * n + 10 + 3 * (n // 2)
    assert capture.ring.marks[Mark.RING_FULL_WAITS] == 0
    assert not failures


def test_the_pages_of_the_ring_are_there_before_the_first_datagram():
    memory = np.frombuffer(mmap.mmap(-1, RING), np.uint8)
    before = _resident(memory)
    RingOnly(Ring(memory, np.zeros(N_MARKS, np.int64)), lambda: 0)
    assert before < RING
    assert _resident(memory) == RING


def _resident(memory: np.ndarray) -> int:
    """Bytes of the mapping that are in memory now, from /proc/self/smaps."""
    address = f"{memory.ctypes.data:x}-"
    lines = iter(Path("/proc/self/smaps").read_text().splitlines())
    for line in lines:
        if line.startswith(address):
            return next(int(x.split()[1]) * 1024 for x in lines if x.startswith("Rss:"))
    raise LookupError(address)


def test_without_a_file_what_is_decoded_in_time_is_all_decoded(failures):
    """Several times round the ring of words and the ring of index records, with losses on the way."""
    ring = Ring(np.frombuffer(mmap.mmap(-1, RING), np.uint8), np.zeros(N_MARKS, np.int64))
    capture = Capture(ring, np.zeros(64, RECORD), failures.append)
    (endpoint,) = capture.bind([(0, HOST, 0, ())])
    sources: list[LiveSource] = []
    capture.open(RingOnly(ring, lambda: sources[-1].position if sources else 0))
    random, record = np.random.default_rng(1), 0
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            for number in (1, 2):
                start, _ = capture.begin(number)
                sources.append(LiveSource(ring, capture._index, None, start, record, number))
                sent, read, lost = [], [], 0
                for k in range(300):
                    arrived = capture.totals().arrived
                    sent.append(random.bytes(16_000))
                    for payload in (sent[-1], b"123") if k % 3 == 0 else (sent[-1],):
                        sender.sendto(payload, (HOST, endpoint.port))
                    wait_for(lambda n=arrived + 1 + (k % 3 == 0): capture.totals().arrived == n)
                    lost += _read(sources[-1], read)
                sources[-1].stop, _ = capture.end()
                lost += _read(sources[-1], read)
                assert read == sent
                assert lost == 100
                record = sources[-1].record
    finally:
        capture.close()
        capture.unbind()
    assert ring.marks[Mark.INDEX_RECORDS] > 4 * 64
    assert stopped_by(ring.marks) is None
    assert not failures


def _read(source: LiveSource, read: list[bytes]) -> int:
    """Append the payloads of what is there to `read`; datagrams that are told as lost."""
    out, lost = np.empty(MIB, np.uint8), 0
    while (piece := source.next_slice(out)) is not None:
        data = piece.words.tobytes()
        read += [data[k + 8 : k + 16_008] for k in range(0, len(data), 16_008)]
        lost += sum(loss.datagrams for loss in piece.losses)
    return lost
