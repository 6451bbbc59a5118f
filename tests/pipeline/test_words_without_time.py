"""Chips that count instead of telling times: their words become no hits, wherever the mode comes from."""

import numpy as np

from ophyd_timepix.decode import Count, Framing
from ophyd_timepix.pipeline.decode_stage import _Stream
from ophyd_timepix.pipeline.ledger import Ledger
from ophyd_timepix.pipeline.messages import RunRequest
from ophyd_timepix.protocol import words as w
from ophyd_timepix.spool.index import Span
from ophyd_timepix.spool.sources import Format, Recording, Slice
from tests.strategies import as_words, hit_word


def count_word(x: int, y: int, events: int, itot: int) -> int:
    word = hit_word(0, 0, x, y, events)
    return word | w.ITOT.put(itot)


def closed(tmp_path, words: np.ndarray, **run) -> dict:
    request = RunRequest(event_file=tmp_path / "run.h5", **run)
    stream = _Stream(request, Framing.RAW)
    stream.begin(1, 0)
    stream.add(Slice(words, None, 0))
    stream.flush_decoder()
    totals = stream.end_acquisition(None, words.nbytes)
    recording = Recording(
        path=tmp_path / "a.raw", format=Format.PYMEPIX_RAW, data_offset=0, n_bytes=words.nbytes, truncated_bytes=0
    )
    ledger = Ledger()
    ledger.take_recording(Span(1, 0, words.nbytes, None), recording)
    ledger.take_decode(totals)
    assert totals.counts[Count.WORDS] == len(words)
    return ledger.as_dict()


def test_words_of_a_chip_that_counts_are_counted_and_have_no_time(tmp_path):
    words = as_words([count_word(x, 7, 100 + x, 9000 + x) for x in range(50)])
    ledger = closed(tmp_path, words, general=(0x04C,))
    assert (ledger["counting_words"], ledger["hits"], ledger["unaccounted"]) == (50, 0, 0)
    assert (ledger["pixel_words"], ledger["rejected_time_jumps"]) == (50, 0)


def test_a_sequential_read_out_is_doubtful(tmp_path):
    words = as_words([hit_word(5 + i, 0, 1, 1, 1, w.PIXEL_SEQUENTIAL) for i in range(9)])
    ledger = closed(tmp_path, words)
    assert (ledger["sequential_words"], ledger["hits"]) == (9, 9)
    assert ledger["verdict"].startswith("doubtful: 9 words of a sequential read-out")


def test_a_silence_that_nothing_decides_is_doubtful_and_a_loss_of_its_own(tmp_path):
    second = 40_000_000
    words = as_words([hit_word(t * second + more, 0, 1, 1, 1) for t in (0, 20) for more in (0, 5, 9)])
    ledger = closed(tmp_path, words)
    assert (ledger["epoch_uncertain"], ledger["loss_intervals"], ledger["hits"]) == (1, 1, 6)
    assert ledger["verdict"].startswith("doubtful: 1 silences of which nothing tells how many turns")


def test_control_words_are_told_by_name(tmp_path):
    kinds = (w.SHUTTER_OPEN_BYTE, w.SHUTTER_CLOSE_BYTE, w.HEARTBEAT_BYTE, 0x06, 0x47, w.COMMAND_OTHER_CHIP_BYTE)
    words = [w.TOP_BYTE.put(byte) for byte in kinds]
    words += [w.TOP_BYTE.put(w.COMMAND_END_BYTE) | w.CONTROL_CODE.put(code) for code in (0xB0, 0x02, 0x02, 0x77)]
    ledger = closed(tmp_path, as_words(words))
    assert ledger["control_words"] == 10
    assert ledger["control_kinds"] == {
        "power pulse": 1,
        "time of the shutter's start": 1,
        "shutter closed": 1,
        "heartbeat": 1,
        "shutter open": 1,
        "command to another chip": 1,
        "set DAC": 2,
        "command 0x77 ended": 1,
        "end of read-out, data driven": 1,
    }


def test_what_is_passed_over_stands_in_the_ledger_with_its_place(tmp_path):
    words = as_words([hit_word(5, 0, 1, 1, 1), 0xC7 << 56, 0xC7 << 56, *[hit_word(6, 0, 1, 1, 1)] * 20])
    ledger = closed(tmp_path, words)
    assert [list(place)[:3] for place in ledger["skipped_at"]] == [["unknown", 8, 16]]
    assert ledger["unknown_words"] == 2
