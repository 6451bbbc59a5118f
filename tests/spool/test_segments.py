"""A recording of several files is one recording; of one that was cut, the good part is found."""

import mmap
import os
from pathlib import Path

import numpy as np
import pytest

from ophyd_timepix.pipeline import live_source
from ophyd_timepix.pipeline.live_source import LiveSource
from ophyd_timepix.protocol.words import chunk_header
from ophyd_timepix.spool.index import HEADER_BYTES, RECORD, Kind, Row, index_path, read_index
from ophyd_timepix.spool.recording import RecordingWriter, salvage
from ophyd_timepix.spool.ring import ALIGNMENT, N_MARKS, Mark, Ring
from ophyd_timepix.spool.segments import files_of, find_segments
from ophyd_timepix.spool.sound import sound, sound_part
from ophyd_timepix.spool.sources import RecordingReader, open_recording

RING = 1 << 22
MIB = 1 << 20


class Capture:
    """Fills a ring as the receive threads do, and has it written."""

    def __init__(self, path: Path) -> None:
        self.ring = Ring(np.frombuffer(mmap.mmap(-1, RING), np.uint8), np.zeros(N_MARKS, np.int64))
        self.index = np.zeros(1 << 12, RECORD)
        self.writer = RecordingWriter(path, {"n_chips": 1})
        self.path = path
        self.bytes = bytearray()
        self.random = np.random.default_rng(1)

    def record(self, kind: Kind = Kind.STRETCH) -> None:
        number = int(self.ring.marks[Mark.INDEX_RECORDS])
        self.index[number] = Row(self.ring.received, 1000 + number, acquisition=1, kind=kind)
        self.ring.marks[Mark.INDEX_RECORDS] += 1

    def receive(self, n_bytes: int, *, write: bool = True) -> None:
        """Chunks with `n_bytes` in all, each of at most 8 KiB; an index record before each 64 KiB."""
        while n_bytes:
            if len(self.bytes) % (1 << 16) == 0:
                self.record()
            n = min(n_bytes, 8192)
            payload = self.random.integers(0, 1 << 63, n // 8 - 1).astype("<u8")
            chunk = np.concatenate([np.array([chunk_header(0, n - 8)], "<u8"), payload]).view(np.uint8)
            start = self.ring.reserve(n)
            first, second = self.ring.parts(start, start + n)
            first[:] = chunk[: first.size]
            second[:] = chunk[first.size :]
            self.ring.publish(n)
            self.bytes += chunk.tobytes()
            n_bytes -= n
            while write and self.writer.write(self.ring, self.index):
                pass

    def finish(self) -> None:
        self.record(Kind.END)
        self.writer.finish(self.ring, self.index)


@pytest.fixture
def capture(tmp_path):
    made = Capture(tmp_path / "run.tpx3")
    yield made
    made.writer.close()


def read_all(source, size: int = 1 << 18) -> tuple[bytes, list[int]]:
    """All bytes of a source, and the addresses of its slices."""
    out = np.empty(size, np.uint8)
    pieces = [(p.words.tobytes(), p.address) for p in iter(lambda: source.next_slice(out), None)]
    return b"".join(data for data, _ in pieces), [address for _, address in pieces]


SEGMENTS = [
    pytest.param([3 * MIB, 2 * MIB + ALIGNMENT, 5 * MIB + 8], id="aligned"),
    pytest.param([MIB + 24, 16, 3 * MIB + 8, MIB], id="unaligned"),
    pytest.param([2 * MIB, 2 * MIB, 0], id="at block borders"),
]


@pytest.mark.parametrize("sizes", SEGMENTS)
def test_each_segment_is_a_whole_recording_and_all_are_one(capture, sizes):
    starts = [0]
    capture.receive(sizes[0])
    for n in sizes[1:]:
        if n:
            starts.append(len(capture.bytes))
            capture.record(Kind.SEGMENT)
        capture.receive(n)
    capture.finish()
    recording = open_recording(capture.path)
    assert [s.start for s in recording.segments] == starts
    assert recording.n_bytes == len(capture.bytes)
    for segment in recording.segments:
        data = segment.path.read_bytes()
        assert data == capture.bytes[segment.start : segment.stop]
        assert data[:4] == b"TPX3"
    with RecordingReader(recording) as reader:
        data, addresses = read_all(reader)
    assert data == capture.bytes
    assert set(starts) <= set(addresses), "no slice spans two files"
    assert sound_part(recording).is_whole
    assert len(files_of(capture.path)) == len(starts) + 1


def test_a_live_reader_that_is_behind_follows_through_the_files(capture):
    source = LiveSource(capture.ring, capture.index, capture.path, 0)
    for n in (3 * MIB, 3 * MIB, 5 * MIB):
        capture.receive(n)
        capture.record(Kind.SEGMENT)
    capture.receive(MIB)
    source.stop = capture.ring.received
    data, _ = read_all(source)
    source.close()
    assert data == capture.bytes
    assert source.at_end
    capture.finish()


def test_many_losses_are_each_told_once_and_looked_up_once(capture, monkeypatch):
    monkeypatch.setattr(live_source, "RECORDS_AT_ONCE", 100)
    source = LiveSource(capture.ring, capture.index, capture.path, 0)
    fetches = []
    fetch = source._fetch
    monkeypatch.setattr(source, "_fetch", lambda limit: fetches.append(limit) or fetch(limit))
    expected = []
    for k in range(700):
        capture.record(Kind.LOSS_MALFORMED)
        if k in (300, 301):  # many in one place: words do not tell how many records there are
            for _ in range(250):
                capture.record(Kind.LOSS_MALFORMED)
        expected.append((len(capture.bytes), 251 if k in (300, 301) else 1))
        capture.receive(64, write=False)
    source.stop = capture.ring.received
    out = np.empty(1 << 18, np.uint8)
    pieces = [(p.address, len(p.losses)) for p in iter(lambda: source.next_slice(out), None)]
    source.close()
    assert pieces == expected
    assert source.at_end
    assert len(fetches) < 30
    assert source.record == capture.ring.marks[Mark.INDEX_RECORDS] - 1


@pytest.mark.parametrize("roll_seen", [True, False], ids=["after the roll", "before the roll"])
@pytest.mark.parametrize("extra", [0, 4096, 3000 * 8])
def test_the_ring_of_a_killed_writer_completes_all_segments(capture, roll_seen, extra):
    capture.receive(2 * MIB + extra)
    capture.record(Kind.SEGMENT)
    capture.receive(MIB + 8, write=roll_seen)
    capture.writer.close()
    salvage(capture.path, capture.ring, capture.index)
    recording = open_recording(capture.path)
    with RecordingReader(recording) as reader:
        assert read_all(reader)[0] == capture.bytes
    records = read_index(capture.path).records
    assert len(records) == capture.ring.marks[Mark.INDEX_RECORDS]
    part = sound_part(recording, everything=True)
    assert part.is_whole
    assert part.n_records == len(records)


# --- power cuts -------------------------------------------------------------------------------------------------------


def last_record_before(records, address: int) -> int:
    return int(records["offset"][records["offset"] <= address].max())


@pytest.fixture
def recorded(capture):
    capture.receive(2 * MIB)
    capture.record(Kind.SEGMENT)
    capture.receive(MIB + 40_000)
    capture.finish()
    return capture


@pytest.mark.parametrize("cut", [1, 8, 4096, 100_000, MIB])
def test_a_truncated_segment_is_good_up_to_its_last_whole_stretch(recorded, cut):
    last = recorded.path.with_name("run.0002.tpx3")
    os.truncate(last, last.stat().st_size - cut)
    part = sound_part(open_recording(recorded.path))
    there = len(recorded.bytes) - cut
    assert part.n_bytes == last_record_before(read_index(recorded.path).records, there)
    assert part.cut_bytes == there - part.n_bytes
    assert part.missing_bytes == len(recorded.bytes) - part.n_bytes


def test_a_tail_of_zeros_is_cut_off(recorded):
    last = recorded.path.with_name("run.0002.tpx3")
    size = last.stat().st_size
    os.truncate(last, size - 300_000)
    os.truncate(last, size + 5000)
    recording = sound(open_recording(recorded.path))
    assert recording.n_bytes == last_record_before(read_index(recorded.path).records, len(recorded.bytes) - 300_000)
    assert recording.n_bytes + recording.truncated_bytes == len(recorded.bytes) + 5000
    with RecordingReader(recording) as reader:
        assert read_all(reader)[0] == recorded.bytes[: recording.n_bytes]


def test_a_block_that_never_reached_the_disk_is_named(recorded):
    last = recorded.path.with_name("run.0002.tpx3")
    with open(last, "r+b") as file:
        file.seek(400_000)
        file.write(bytes(4096))
    part = sound_part(open_recording(recorded.path))
    offsets = read_index(recorded.path).records["offset"]
    start = last_record_before(read_index(recorded.path).records, 2 * MIB + 400_000)
    assert part.damaged == ((start, offsets[offsets > start].min()),)
    assert (part.n_bytes, part.cut_bytes, part.missing_bytes) == (len(recorded.bytes), 0, 0)
    assert not part.is_whole


def test_a_damaged_file_before_the_last_is_found_when_everything_is_read(recorded):
    with open(recorded.path, "r+b") as file:
        file.seek(MIB)
        file.write(bytes(4096))
    recording = open_recording(recorded.path)
    assert sound_part(recording).is_whole
    assert sound_part(recording, everything=True).damaged == ((MIB, MIB + (1 << 16)),)


def test_a_truncated_index_bounds_the_good_part(recorded):
    index = index_path(recorded.path)
    records = read_index(recorded.path).records
    kept = len(records) - 5
    os.truncate(index, HEADER_BYTES + kept * RECORD.itemsize + 17)
    part = sound_part(open_recording(recorded.path))
    n_bytes = int(records["offset"][kept - 1])
    assert part == (n_bytes, kept, len(recorded.bytes) - n_bytes, 0, ())


def test_a_missing_segment_ends_the_recording_before_it(recorded):
    recorded.path.with_name("run.0002.tpx3").unlink()
    recording = open_recording(recorded.path)
    assert recording.n_bytes == 2 * MIB
    assert sound_part(recording).missing_bytes == MIB + 40_000


def test_a_file_that_another_program_numbered_alike_is_none_of_ours(tmp_path):
    for name in ("a.tpx3", "a.0002.tpx3"):
        (tmp_path / name).write_bytes(chunk_header(0, 8).to_bytes(8, "little") + bytes(8))
    assert open_recording(tmp_path / "a.tpx3").segments is None
    assert len(find_segments(tmp_path / "a.tpx3", None)) == 1
