import numpy as np
import pytest

from ophyd_timepix.protocol.words import chunk_header
from ophyd_timepix.spool.index import RECORD, Kind, Loss, Poll, Row, header, index_path
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
    path.write_bytes(words(chunk_header(0, 8 * (n_words - 1)), *range(1, n_words)))
    index_path(path).write_bytes(header({}) + np.array(list(rows), RECORD).tobytes())
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
        pieces = [(p.words.size, *p[1:]) for p in iter(lambda: reader.next_slice(out), None)]
        assert reader.at_end
    assert pieces == [
        (4, 5, 0, (Loss(0, "kernel", 3),), None),
        (4, 6, 32, (), Poll(sent=9, arrived_before=5, arrived_after=6)),
        (0, 7, 64, (Loss(1, "kernel", 4),), None),
    ]
