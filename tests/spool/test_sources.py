import itertools
import struct

import numpy as np
import pytest

from ophyd_timepix.app.asking import recorded_file
from ophyd_timepix.protocol.words import CHUNK_BYTES, CHUNK_MAGIC, chunk_header
from ophyd_timepix.spool.index import DAMAGED, RECORD, SILENCE_NS, STRETCH_NS, Kind, Loss, Poll, Row, header, index_path
from ophyd_timepix.spool.sources import Format, RecordingError, RecordingReader, open_recording

TIME_NS = 0x1700_0000_0000_0000


def words(*values: int) -> bytes:
    return np.array(values, "<u8").tobytes()


def test_a_tpx3_file_is_known_by_its_first_chunk(tmp_path):
    path = tmp_path / "no_suffix"
    path.write_bytes(words(chunk_header(2, 8), 0xB << 60))
    assert open_recording(path).format is Format.TPX3


@pytest.mark.parametrize(("head", "offset", "start"), [((TIME_NS,), 8, TIME_NS), ((), 0, None)])
def test_a_pymepix_file_may_open_with_a_host_time(tmp_path, head, offset, start):
    path = tmp_path / "a.raw"
    path.write_bytes(words(*head, 0xB << 60, 0xB << 60))
    found = open_recording(path)
    assert (found.format, found.data_offset, found.n_bytes) == (Format.PYMEPIX_RAW, offset, 16)
    assert found.start_time_ns == start


def test_the_header_of_a_spidr_file_is_skipped(tmp_path):
    path = tmp_path / "run-1.dat"
    path.write_bytes(b"SPDR" + (768).to_bytes(4, "little") + bytes(760) + words(0xB << 60))
    found = open_recording(path)
    assert (found.format, found.data_offset, found.n_bytes) == (Format.SPIDR_DAT, 768, 8)
    assert (found.general, found.pll) == (None, None)


def test_a_dat_of_spidr_says_how_its_chip_was_set(tmp_path):
    path = tmp_path / "run-1.dat"
    device = b"TPX3" + struct.pack("<10I", 256, 256, 1, 0x1234, 0x04C, 0x901, 0x05E, 0, 0, 0)
    path.write_bytes((b"SPDR" + struct.pack("<I", 768)).ljust(512, b"\xdd") + device.ljust(256, b"\xdd") + bytes(8))
    found = open_recording(path)
    assert (found.general, found.pll) == (0x04C, 0x05E)
    file = recorded_file(found, 1)
    assert file.general == (0x04C,)
    assert file.phase == (tuple(-8 if column % 2 else 0 for column in range(128)),)


def test_a_broken_last_word_is_counted_and_left_out(tmp_path):
    path = tmp_path / "a.tpx3"
    path.write_bytes(words(chunk_header(0, 8), 0xB << 60) + b"abc")
    found = open_recording(path)
    assert (found.n_bytes, found.truncated_bytes) == (16, 3)


@pytest.mark.parametrize(
    ("name", "content"), [("a.txt", b"hello, world"), ("a.tpx3", b"hello, world"), ("a.raw", b"1234")]
)
def test_a_foreign_file_is_refused_with_what_would_be_known(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(RecordingError, match=r"unknown file type|too few"):
        open_recording(path)


def test_a_reader_gives_every_word_once(tmp_path):
    path = tmp_path / "a.raw"
    path.write_bytes(words(*range(1000)))
    with RecordingReader(open_recording(path)) as reader:
        pieces = []
        while (piece := reader.next_slice(np.empty(56, np.uint8))) is not None:
            pieces.append(piece.words.copy())
    assert np.array_equal(np.concatenate(pieces), np.arange(1000))


def indexed(tmp_path, *rows: Row, n_words: int = 8):
    path = tmp_path / "a.tpx3"
    data = np.array([chunk_header(0, 8 * (n_words - 1)), *range(1, n_words)], "<u8")
    path.write_bytes(data.tobytes())
    records = np.array(list(rows), RECORD)
    borders = [0, *(records["offset"] // 8).tolist()]
    records["checksum"] = [data[a:b].sum() for a, b in itertools.pairwise(borders)]
    index_path(path).write_bytes(header({}) + records.tobytes())
    return open_recording(path)


def test_a_loss_before_the_words_and_one_behind_the_last_are_both_told(tmp_path):
    recording = indexed(
        tmp_path,
        Row(0, 5, acquisition=1),
        Row(0, 5, acquisition=1, kind=Kind.LOSS_KERNEL, lost=3, chip=0),
        Row(32, 6, 2, 3, acquisition=1, kind=Kind.POLL, sent=9, received_before=5, malformed=1),
        Row(64, 7, acquisition=1, kind=Kind.LOSS_KERNEL, lost=4, chip=1),
        Row(64, 7, kind=Kind.END),
    )
    with RecordingReader(recording, 0, 64, acquisition=1) as reader:
        out = np.empty(1024, np.uint8)
        pieces = [(p.words.size, *p[1:5]) for p in iter(lambda: reader.next_slice(out), None)]
        assert reader.at_end
    assert pieces == [
        (4, 5, 0, (Loss(0, "kernel", 3),), None),
        (4, 6, 32, (), Poll(sent=9, arrived_before=5, arrived_after=6)),
        (0, 7, 64, (Loss(1, "kernel", 4),), None),
    ]


@pytest.mark.parametrize(("at", "told"), [(0, [True, False]), (32, [False, True]), (64, [False, False, True])])
def test_a_slice_tells_that_the_acquisition_is_compared_from_it(tmp_path, at, told):
    """Behind the last word, too."""
    base = Row(at, 6, acquisition=1, kind=Kind.BASELINE, sent=9, received_before=5)
    stretches = [Row(0, 5, acquisition=1), Row(32, 10**9, acquisition=1)]
    recording = indexed(
        tmp_path, *sorted([*stretches, base], key=lambda row: row.offset), Row(64, 10**9, kind=Kind.END)
    )
    with RecordingReader(recording, 0, 64, acquisition=1) as reader:
        out = np.empty(1024, np.uint8)
        assert [p.is_base for p in iter(lambda: reader.next_slice(out), None)] == told


def test_slices_of_the_first_200_ms_hold_a_stretch_each_so_that_it_is_known_better_when_they_came(tmp_path):
    ms = [5, 15, 30, 190, 206, 230, 300]
    rows = [Row(8 * k, 1_000_000 * at, acquisition=1) for k, at in enumerate(ms)]
    recording = indexed(tmp_path, *rows, Row(64, 10**9, kind=Kind.END))
    with RecordingReader(recording, 0, 64, acquisition=1) as reader:
        out = np.empty(1024, np.uint8)
        pieces = [(p.address, p.lasting_ns) for p in iter(lambda: reader.next_slice(out), None)]
    assert pieces == [(0, STRETCH_NS), (8, STRETCH_NS), (16, STRETCH_NS), (24, STRETCH_NS), (32, SILENCE_NS)]


STRETCHES = [Row(8 * k, 5, acquisition=1) for k in (0, 2, 4, 8, 12)] + [Row(128, 9, kind=Kind.END)]


def damaged(tmp_path, *words: int):
    """A recording of 16 words, some of which are not as they were received."""
    recording = indexed(tmp_path, *STRETCHES, n_words=16)
    with open(recording.path, "r+b") as file:
        for word in words:
            file.seek(8 * word)
            file.write(b"changed!")
    return recording


def pieces_of(recording, size: int = 1024) -> list[tuple[int, int, tuple[Loss, ...]]]:
    """(address, words, losses) of each slice."""
    with RecordingReader(recording, 0, 128, acquisition=1) as reader:
        out = np.empty(size, np.uint8)
        return [(p.address, p.words.size, p.losses) for p in iter(lambda: reader.next_slice(out), None)]


def test_a_damaged_stretch_is_a_slice_of_its_own_and_told_at_both_ends(tmp_path):
    whole, behind = Loss(-1, "damaged", 32, 32), Loss(-1, "damaged", 0)
    assert pieces_of(damaged(tmp_path)) == [(0, 16, ())]
    assert pieces_of(damaged(tmp_path, 5)) == [(0, 4, ()), (32, 4, (whole,)), (64, 8, (behind,))]
    assert pieces_of(damaged(tmp_path, 4, 9)) == [
        (0, 4, ()),
        (32, 4, (whole,)),
        (64, 4, (whole,)),
        (96, 4, (behind,)),
    ]
    assert pieces_of(damaged(tmp_path, 15)) == [(0, 12, ()), (96, 4, (whole,)), (128, 0, (behind,))]


def test_a_damaged_stretch_that_is_longer_than_a_slice_is_damaged_in_all_its_parts(tmp_path):
    part, behind = Loss(-1, "damaged", 24, 24), Loss(-1, "damaged", 0)
    assert pieces_of(damaged(tmp_path, 7), 24) == [
        (0, 2, ()),
        (16, 2, ()),
        (32, 3, (part,)),
        (56, 1, (Loss(-1, "damaged", 8, 8),)),
        (64, 3, (behind,)),
        (88, 1, ()),
        (96, 3, ()),
        (120, 1, ()),
    ]


def test_bytes_behind_the_last_record_have_nothing_to_be_compared_with(tmp_path):
    recording = indexed(tmp_path, *STRETCHES[:4], n_words=16)
    with open(recording.path, "r+b") as file:
        file.seek(96)
        file.write(b"changed!")
    assert [losses for *_, losses in pieces_of(recording)] == [()]


# --- chunks at odd bytes ----------------------------------------------------------------------------------------------


def numbered_chunks(n_chunks: int, n_words: int) -> bytes:
    """Words that count on through chunks of one chip."""
    payload = np.arange(1, n_chunks * n_words + 1, dtype="<u8").reshape(n_chunks, n_words)
    return b"".join(words(chunk_header(1, 8 * n_words)) + part.tobytes() for part in payload)


def read_all(path, slice_bytes):
    """Numbered words in chunks, headers left out, and the bytes that were told to be of no word."""
    out, odd = [], 0
    with RecordingReader(open_recording(path)) as reader:
        while (piece := reader.next_slice(np.empty(slice_bytes, np.uint8))) is not None:
            out += piece.words.tolist()
            odd += sum(loss.datagrams for loss in piece.losses if loss.cause == DAMAGED)
        assert reader.at_end
    numbers, left = [], 0
    for word in out:
        if word & 0xFFFFFFFF == CHUNK_MAGIC:
            left = CHUNK_BYTES.get(word) // 8
        elif left:
            left -= 1
            numbers.append(word)
    return numbers, odd


@pytest.mark.parametrize("slice_bytes", [352, 1 << 12, 1 << 20])
def test_chunks_behind_missing_or_added_bytes_are_found_at_any_byte(tmp_path, slice_bytes):
    """Wherever that is, the words of all other chunks are there, wherever slices end. A chunk before a header that is
    hurt may be the one that is.
    """
    n_chunks, n_words = 12, 20
    content, chunk = numbered_chunks(n_chunks, n_words), 8 * (n_words + 1)
    path = tmp_path / "a.tpx3"
    for inside, change in itertools.product((0, 3, 8, 77), range(-7, 8)):
        if change == 0:
            continue
        at = 4 * chunk + inside
        path.write_bytes(content[:at] + bytes(max(change, 0)) + content[at + max(-change, 0) :])
        found, odd = read_all(path, slice_bytes)
        hurt = (3, 4) if inside < 8 else (4,)
        others = [word for word in range(1, n_chunks * n_words + 1) if (word - 1) // n_words not in hurt]
        assert [word for word in found if word in others] == others, (inside, change)
        if slice_bytes > 2 * chunk + 16:
            assert set(found) <= {*others, *range(3 * n_words + 1, 5 * n_words + 1)}, (inside, change)
        assert odd == change % 8


def test_a_recording_behind_one_that_was_cut_off_within_a_word_is_read_to_its_end(tmp_path):
    path = tmp_path / "a.tpx3"
    path.write_bytes(numbered_chunks(3, 20)[:-5] + numbered_chunks(3, 20))
    found, odd = read_all(path, 1 << 20)
    assert found == [*range(1, 41), *range(1, 61)]
    assert odd == 3
