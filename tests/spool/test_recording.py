import mmap
import os
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ophyd_timepix.spool import recording as recording_module
from ophyd_timepix.spool.index import (
    MAGIC,
    MAGIC_2,
    MAGIC_3,
    RECORD,
    RECORD_2,
    RECORD_3,
    SILENCE_NS,
    Cut,
    Kind,
    Loss,
    PagedWindow,
    Poll,
    Row,
    Span,
    cut_slice,
    header,
    index_path,
    read_index,
    spans,
)
from ophyd_timepix.spool.recording import AHEAD_S, HASTEN_S, RecordingWriter, claim, salvage
from ophyd_timepix.spool.ring import N_MARKS, Mark, Ring

RING = 1 << 22
NO_RECORDS = np.zeros(8, RECORD)


def make_ring() -> Ring:
    """O_DIRECT wants aligned memory, as the pipeline's is."""
    return Ring(np.frombuffer(mmap.mmap(-1, RING), np.uint8), np.zeros(N_MARKS, np.int64))


def fill(ring: Ring, n_bytes: int, seed: int) -> np.ndarray:
    data = np.random.default_rng(seed).integers(0, 256, n_bytes).astype(np.uint8)
    first, second = ring.parts(ring.received, ring.received + n_bytes)
    first[:] = data[: first.size]
    second[:] = data[first.size :]
    ring.publish(n_bytes)
    return data


def records(*rows: tuple[int, ...]) -> np.ndarray:
    return np.array([Row(*row) for row in rows], RECORD)


@pytest.fixture(params=["disk", "no O_DIRECT"])
def place(request, tmp_path, monkeypatch) -> Path:
    if request.param == "no O_DIRECT":
        real_open = os.open

        def refusing(path, flags, mode=0o777):
            if flags & os.O_DIRECT:
                raise OSError(22, "Invalid argument")
            return real_open(path, flags, mode)

        monkeypatch.setattr(os, "open", refusing)
    return tmp_path


@pytest.mark.parametrize("sizes", [[8], [1 << 20], [4096, 8], [3 << 20, 3 << 20, 1000], []])
def test_the_file_holds_every_received_byte_and_no_more(place, sizes):
    ring = make_ring()
    writer = RecordingWriter(place / "a.tpx3", {"n_chips": 1})
    parts = []
    for k, n in enumerate(sizes):
        parts.append(fill(ring, n, k))
        while writer.write(ring, NO_RECORDS):
            pass
    writer.finish(ring, NO_RECORDS)
    expected = np.concatenate([np.zeros(0, np.uint8), *parts])
    assert np.array_equal(np.fromfile(place / "a.tpx3", np.uint8), expected)
    assert ring.on_disk == ring.received


def test_what_fills_no_block_is_on_disk_soon_all_the_same(place, monkeypatch):
    """Seconds of data at a low rate: whoever looks at the file after a crash finds them."""
    now = 1000.0
    monkeypatch.setattr(recording_module.time, "monotonic", lambda: now)
    ring, parts = make_ring(), []
    writer = RecordingWriter(place / "a.tpx3", {"n_chips": 1})
    for k, n in enumerate([8, 5000, 4096, 16, 1 << 20, 24]):
        parts.append(fill(ring, n, k))
        now += AHEAD_S
        while writer.write(ring, NO_RECORDS):
            pass
        expected = np.concatenate(parts)
        held = np.fromfile(place / "a.tpx3", np.uint8)
        assert np.array_equal(held[: expected.size], expected)
        assert not held[expected.size :].any()
        assert ring.on_disk == expected.size >> 20 << 20
    parts.append(fill(ring, 64, 99))
    assert not writer.write(ring, NO_RECORDS)  # not yet: it is no 0.1 s since
    assert not np.fromfile(place / "a.tpx3", np.uint8)[expected.size : expected.size + 64].any()
    writer.finish(ring, NO_RECORDS)
    assert np.array_equal(np.fromfile(place / "a.tpx3", np.uint8), np.concatenate(parts))


def test_what_the_kernel_holds_of_index_and_recording_is_on_its_way_to_the_disk_within_a_second(place, monkeypatch):
    """By itself the kernel waits for half a minute: a power cut would take the index and what it vouches for."""
    now = 1000.0
    monkeypatch.setattr(recording_module.time, "monotonic", lambda: now)
    hastened: list[str] = []
    advise = os.posix_fadvise

    def watched(fd, offset, length, advice):
        if (offset, length, advice) == (0, 0, os.POSIX_FADV_DONTNEED):
            hastened.append(Path(os.readlink(f"/proc/self/fd/{fd}")).name)
        advise(fd, offset, length, advice)

    monkeypatch.setattr(os, "posix_fadvise", watched)
    ring = make_ring()
    writer = RecordingWriter(place / "a.tpx3", {"n_chips": 1})
    held_by_the_kernel = ["a.tpx3.idx"] if writer.direct else ["a.tpx3.idx", "a.tpx3"]
    for n_bytes in (8, 3 << 20):  # a low rate, and a high one
        fill(ring, n_bytes, 1)
        hastened.clear()
        now += HASTEN_S
        while writer.write(ring, NO_RECORDS):
            pass
        assert hastened == held_by_the_kernel
    writer.finish(ring, NO_RECORDS)


def test_an_existing_recording_is_never_overwritten(tmp_path):
    (tmp_path / "a.tpx3").write_bytes(b"precious")
    with pytest.raises(FileExistsError):
        RecordingWriter(tmp_path / "a.tpx3", {})
    assert (tmp_path / "a.tpx3").read_bytes() == b"precious"


@pytest.mark.parametrize("stale", ["a.0002.tpx3", "a.0007.tpx3", "a.12345.tpx3"])
def test_a_recording_is_refused_while_a_later_file_of_another_is_there(tmp_path, stale):
    """A reader that is behind would take it for ours."""
    for name in ("a.1.tpx3", "a.0002.tpx3.idx", "b.0002.tpx3", "a.0002.h5"):
        (tmp_path / name).touch()
    RecordingWriter(tmp_path / "a.tpx3", {}).close()
    for name in ("a.tpx3", "a.tpx3.idx"):
        (tmp_path / name).unlink()
    (tmp_path / stale).write_bytes(b"precious")
    with pytest.raises(FileExistsError, match=stale):
        RecordingWriter(tmp_path / "a.tpx3", {})
    assert not (tmp_path / "a.tpx3").exists()


def test_the_ring_of_a_killed_writer_completes_its_recording(tmp_path):
    ring = make_ring()
    writer = RecordingWriter(tmp_path / "a.tpx3", {"n_chips": 1})
    data = fill(ring, (1 << 20) + 5000, 1)
    index = records((0, 5, 0, 0, 1, -1), (4096, 6, 2, 0, 1, -1), (8192, 7, 3, 0, 1, -1), (0, 0))
    ring.marks[Mark.INDEX_RECORDS] = 2
    writer.write(ring, index)
    ring.marks[Mark.INDEX_RECORDS] = 3
    writer.close()
    assert salvage(tmp_path / "a.tpx3", ring, index) == 5000
    assert np.array_equal(np.fromfile(tmp_path / "a.tpx3", np.uint8), data)
    found = read_index(tmp_path / "a.tpx3")
    assert found is not None
    assert found.run == {"n_chips": 1}
    assert found.records.tolist() == index.tolist()
    assert index["offset"].tolist() == [0, 4096, 8192, data.size]
    assert index["acquisition"].tolist() == [1, 1, 1, 1]


def salvaged(tmp_path: Path, *rows: Row, marks: dict[Mark, int]) -> np.ndarray:
    """The index of a recording of 2000 bytes whose capture was killed, after its ring was salvaged."""
    ring = make_ring()
    writer = RecordingWriter(tmp_path / "a.tpx3", {"n_chips": 1})
    fill(ring, 2000, 1)
    index = np.zeros(16, RECORD)
    index[: len(rows)] = list(rows)
    ring.marks[Mark.INDEX_RECORDS] = len(rows)
    for mark, count in marks.items():
        ring.marks[mark] = count
    writer.close()
    salvage(tmp_path / "a.tpx3", ring, index)
    found = read_index(tmp_path / "a.tpx3")
    assert found is not None
    return found.records


def test_datagrams_that_an_earlier_point_could_not_record_are_not_those_of_one_whose_capture_was_killed(tmp_path):
    index = salvaged(
        tmp_path,
        Row(0, 0, acquisition=1),
        Row(1000, 1, 10, acquisition=1, unrecorded=7, lost=7, kind=Kind.LOSS_UNRECORDED),
        Row(1000, 2, 10, unrecorded=7, sent=17, kind=Kind.END),
        Row(1000, 3, 10, acquisition=2, unrecorded=7),
        marks={Mark.DATAGRAMS: 20, Mark.UNRECORDED: 7},
    )
    assert [span.counted for span in spans(index, 2000)] == [(10, 0, 0, 7), (10, 0, 0, 0)]


def test_what_a_killed_capture_counted_as_missing_is_missing_at_the_end_of_its_recording(tmp_path):
    index = salvaged(
        tmp_path,
        Row(0, 0, acquisition=1, kernel_dropped=2, unrecorded=3),
        Row(1000, 1, 10, 4, acquisition=1, unrecorded=3, lost=2, kind=Kind.LOSS_KERNEL),
        Row(1000, 2, 10, 6, acquisition=1, unrecorded=3, sent=17, kind=Kind.POLL),  # two that have no place yet
        marks={Mark.DATAGRAMS: 20, Mark.UNRECORDED: 8, Mark.KERNEL_DROPPED: 7},
    )
    (span,) = spans(index, 2000)
    assert span.counted == (20, 5, 0, 5)
    assert cut_slice(index, 2000, 2000, 1).losses == (Loss(-1, "kernel", 3), Loss(-1, "unrecorded", 5))


def test_a_capture_that_was_killed_between_two_points_leaves_no_loss_to_any(tmp_path):
    index = salvaged(
        tmp_path,
        Row(0, 0, acquisition=1),
        Row(2000, 1, 10, sent=10, kind=Kind.END),
        marks={Mark.DATAGRAMS: 10, Mark.UNRECORDED: 3, Mark.KERNEL_DROPPED: 2},
    )
    assert len(index) == 2
    assert spans(index, 2000)[0].counted == (10, 0, 0, 0)


def test_an_index_cut_anywhere_is_readable_to_its_last_whole_record(tmp_path):
    ring = make_ring()
    writer = RecordingWriter(tmp_path / "a.tpx3", {})
    fill(ring, 8, 1)
    ring.marks[Mark.INDEX_RECORDS] = 2
    writer.finish(ring, records((0, 5, 0, 0, 1, -1), (8, 6, 2, 0, 1, -1)))
    whole = index_path(tmp_path / "a.tpx3").read_bytes()
    index_path(tmp_path / "a.tpx3").write_bytes(whole[:-1])
    found = read_index(tmp_path / "a.tpx3")
    assert found is not None
    assert len(found.records) == 1


def test_a_slice_ends_before_the_words_that_follow_a_silence():
    index = records(
        (0, 0, 0, 0, 1, -1),
        (100, 10, 0, 0, 1, -1),
        (200, 10 + SILENCE_NS, 0, 0, 1, -1),
        (300, SILENCE_NS + 20, 0, 0, 1, -1),
    )
    assert cut_slice(index, 0, 1000) == Cut(200, 0)
    assert cut_slice(index, 150, 1000) == Cut(200, 10)
    assert cut_slice(index, 200, 1000) == Cut(1000, 10 + SILENCE_NS)
    assert cut_slice(index[1:], 50, 1000) == Cut(1000, None)


@pytest.mark.parametrize("kind", [k for k in Kind if k is not Kind.STRETCH])
def test_no_slice_spans_a_record_that_is_more_than_a_stretch(kind):
    index = np.array([Row(0, 0), Row(100, 1), Row(200, 2, kind=kind), Row(300, 3)], RECORD)
    assert cut_slice(index, 0, 1000).stop == 200
    assert cut_slice(index, 100, 200).stop == 200
    assert cut_slice(index, 200, 1000).stop == 1000


def test_losses_and_readings_are_told_with_the_slice_that_begins_behind_them():
    index = np.array(
        [
            Row(0, 0, acquisition=1),
            Row(64, 1, acquisition=1, kind=Kind.LOSS_KERNEL, chip=2, lost=5),
            Row(64, 1, 10, 5, acquisition=1, kind=Kind.POLL, sent=17, received_before=12),
            Row(64, 1, acquisition=1, kind=Kind.LOSS_MALFORMED, chip=0, lost=1),
            Row(64, 1, kind=Kind.END),
            Row(64, 2, acquisition=2),
            Row(64, 2, acquisition=2, kind=Kind.LOSS_KERNEL, chip=1, lost=7),
        ],
        RECORD,
    )
    first = (Loss(2, "kernel", 5), Loss(0, "malformed", 1))
    assert cut_slice(index, 0, 128, 1) == Cut(64, 0)
    assert cut_slice(index, 64, 64, 1) == Cut(64, 2, first, Poll(17, 12, 15))
    assert cut_slice(index, 64, 128, 2) == Cut(128, 2, (Loss(1, "kernel", 7),))
    assert cut_slice(index, 64, 128).losses == (*first, Loss(1, "kernel", 7))


def test_an_index_of_the_version_before_is_read_with_what_it_does_not_know_left_open(tmp_path):
    old = np.array([(0, 1, 0, 0, 1, -1), (8, 2, 1, 0, 0, 77), (8, 3, 1, 0, 2, -1)], RECORD_2)
    index_path(tmp_path / "a.tpx3").write_bytes(header({"n": 1}).replace(MAGIC, MAGIC_2) + old.tobytes())
    found = read_index(tmp_path / "a.tpx3")
    assert found is not None
    assert not found.has_checksums
    assert found.run == {"n": 1}
    assert found.records["kind"].tolist() == [Kind.STRETCH, Kind.END, Kind.STRETCH]
    assert found.records["sent"].tolist() == [-1, -1, -1]
    assert places_of(spans(found.records, 16)) == [Span(1, 0, 8, 77), Span(2, 8, 16, None, closed=False)]


def test_an_index_of_version_3_is_read_and_knows_no_words_that_were_sent(tmp_path):
    old = np.zeros(2, RECORD_3)
    old["sent"], old["checksum"] = [5, 6], [7, 8]
    index_path(tmp_path / "a.tpx3").write_bytes(header({}).replace(MAGIC, MAGIC_3) + old.tobytes())
    found = read_index(tmp_path / "a.tpx3")
    assert found is not None
    assert found.has_checksums
    assert found.records[["sent", "checksum", "sent_words", "paused"]].tolist() == [(5, 7, -1, -1), (6, 8, -1, -1)]


@given(st.data())
def test_an_index_that_is_looked_through_a_page_at_a_time_tells_the_same_as_all_of_it(data):
    """What stands at each address, whatever the page; slices end at the same records, or earlier where a page ends."""
    kinds = st.sampled_from((Kind.STRETCH, Kind.STRETCH, Kind.LOSS_KERNEL, Kind.LOSS_MALFORMED, Kind.POLL))
    rows, address = [], 0
    for kind in data.draw(st.lists(kinds, max_size=30)):
        address += 8 * data.draw(st.integers(0, 2))
        reach = address + 8 * data.draw(st.integers(0, 3)) if kind == Kind.LOSS_MALFORMED else -1
        rows.append(Row(address, address * 10**6, kind=kind, lost=len(rows) + 1, chip=0, received_before=reach))
    records, stop = np.array(rows, RECORD), address + 16
    paged = PagedWindow(records, page=data.draw(st.integers(2, 8)))
    start = 8 * data.draw(st.integers(0, address // 8))
    while start < stop:
        here, whole = paged.cut(start, stop), cut_slice(records, start, stop)
        assert here[1:] == whole[1:]
        reach = start + max((loss.reach for loss in whole.losses), default=0)
        assert min(whole.stop, max(start + 8, reach)) <= here.stop <= whole.stop
        start = here.stop
    assert paged.cut(stop, stop) == cut_slice(records, stop, stop)


def test_an_index_of_a_day_is_not_read_into_memory(tmp_path):
    """40 MB of records cost less than a tenth of that, whatever is asked of them."""
    n = 400_000
    with index_path(tmp_path / "a.tpx3").open("wb") as file:
        file.write(header({}))
        records = np.full(n // 10, np.array(Row(0, 0, acquisition=1), RECORD))
        for part in range(10):
            records["offset"] = 8 * (np.arange(n // 10) + part * n // 10)
            records["acquisition"][-1] = int(part < 9)
            file.write(records.tobytes())
    del records
    tracemalloc.start()
    found = read_index(tmp_path / "a.tpx3")
    assert found is not None
    told = spans(found.records, 8 * n)
    window = PagedWindow(found.records)
    assert all(window.cut(start, start + 64).stop == start + 64 for start in range(0, 8 * n - 64, 8 * n // 16))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert [(span.start, span.stop) for span in told] == [(0, 8 * (n - 1))]
    assert peak < n * RECORD.itemsize / 10


def places_of(found: list[Span]) -> list[Span]:
    """Without what was counted."""
    return [span._replace(counted=None) for span in found]


def test_what_came_in_each_acquisition_is_counted_in_the_index():
    index = np.array(
        [
            Row(0, 0, 0, acquisition=1),
            Row(64, 1, 5, 1, acquisition=1, malformed=2, kind=Kind.LOSS_MALFORMED, lost=2),
            Row(100, 2, 7, 1, kind=Kind.END, sent=11, malformed=2, unrecorded=1),
            Row(100, 3, 8, 1, acquisition=2, malformed=2, unrecorded=1),
            Row(164, 4, 12, 4, acquisition=2, malformed=2, unrecorded=1),
        ],
        RECORD,
    )
    one, two = spans(index, 164)
    assert one.counted == (7, 1, 2, 1)
    assert (one.sent, one.arrived) == (11, 11)
    assert two.counted == (5, 3, 0, 0)
    assert two.sent is None


def test_the_acquisitions_of_a_recording_are_found_again():
    index = records(
        (0, 0, 0, 0, 0, -1), (100, 1, 0, 0, 1, -1), (150, 2, 0, 0, 1, -1), (200, 3, 0, 0, 0, 77),
        (208, 4, 0, 0, 0, -1), (300, 5, 0, 0, 2, -1),
    )  # fmt: skip
    assert places_of(spans(index, 400)) == [Span(1, 100, 200, 77), Span(2, 300, 400, None, closed=False)]
    assert spans(index[:0], 400) == []


def test_acquisitions_beyond_the_end_of_a_recording_are_left_out():
    """After a power loss the index may know more than the recording holds."""
    index = records(
        (0, 0, 0, 0, 1, -1), (200, 1, 0, 0, 0, 77), (200, 2, 0, 0, 2, -1), (300, 3, 0, 0, 0, 99),
    )  # fmt: skip
    assert places_of(spans(index, 250)) == [Span(1, 0, 200, 77), Span(2, 200, 250, None, closed=False)]
    assert places_of(spans(index, 200)) == [Span(1, 0, 200, 77)]
    assert places_of(spans(index, 120)) == [Span(1, 0, 120, None, closed=False)]
    assert spans(index, 0) == []


def test_a_recording_is_claimed_for_as_long_as_it_is_written(tmp_path):
    writer = RecordingWriter(tmp_path / "a.tpx3", {})
    with open(index_path(writer.path), "rb") as index:
        assert not claim(index.fileno())
        writer.close()
        assert claim(index.fileno())


def test_a_recording_that_cannot_be_made_leaves_no_index(tmp_path):
    with pytest.raises(ValueError, match="description of a run"):
        RecordingWriter(tmp_path / "a.tpx3", {"long": "x" * 5000})
    (tmp_path / "b.tpx3").write_bytes(b"precious")
    with pytest.raises(FileExistsError):
        RecordingWriter(tmp_path / "b.tpx3", {})
    assert [p.name for p in tmp_path.iterdir()] == ["b.tpx3"]


def test_a_recording_is_not_begun_where_its_continuation_could_not_be_made(tmp_path):
    (tmp_path / "a.0002.tpx3").write_bytes(b"precious")
    with pytest.raises(FileExistsError, match=r"a\.0002\.tpx3"):
        RecordingWriter(tmp_path / "a.tpx3", {})
    assert [p.name for p in tmp_path.iterdir()] == ["a.0002.tpx3"]


def test_a_full_disk_is_told_with_place_and_remedy(tmp_path):
    ring = make_ring()
    writer = RecordingWriter(tmp_path / "a.tpx3", {})
    with open("/dev/full", "wb") as full:
        os.dup2(full.fileno(), writer._fd)
    fill(ring, 1 << 20, 1)
    with pytest.raises(OSError, match=r"cannot write the recording at byte 0: No space left.*free space"):
        writer.write(ring, NO_RECORDS)
    writer.close()
