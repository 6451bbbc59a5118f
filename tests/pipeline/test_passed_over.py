"""What the decoder cannot use has an interval: from the word of its chip before it to the one behind."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ophyd_timepix.clock import TICKS_PER_COUNT, ns_to_ticks
from ophyd_timepix.config import Geometry, Processing
from ophyd_timepix.decode.decoder import Framing
from ophyd_timepix.pipeline.decode_stage import _Stream
from ophyd_timepix.pipeline.ledger import DecodeTotals
from ophyd_timepix.pipeline.locating import Way
from ophyd_timepix.pipeline.losses import FINE_TICKS, LossSpan
from ophyd_timepix.pipeline.messages import RunRequest
from ophyd_timepix.protocol.words import chunk_header
from ophyd_timepix.spool.sources import Slice

STEP = 4000
"""Counts (0.1 ms) from one hit to the next."""
BOUND = ns_to_ticks(Processing().lateness_ns) + FINE_TICKS
UNKNOWN, BAD_EDGE, PACKET = 0x1 << 60, 0x6F << 56, 0x50 << 56
FAR = 1 << 28


def hit(counts: int) -> int:
    return 0xB << 60 | (counts & 0x3FFF) << 30 | 20 << 20 | counts >> 14 & 0xFFFF


def chunks(*contents: list[int], chip: int = 0) -> np.ndarray:
    return np.array([word for words in contents for word in (chunk_header(chip, 8 * len(words)), *words)], np.uint64)


def decode(words: np.ndarray, cuts: list[int], n_chips: int = 1, way: Way | None = None) -> DecodeTotals:
    run = RunRequest(event_file="run.h5", n_chips=n_chips, geometry=Geometry.for_chips(n_chips))
    stream = _Stream(run, Framing.TPX3)
    stream.begin(1, 0)
    edges = [0, *sorted(min(cut, len(words)) for cut in cuts), len(words)]
    for start, stop in pairwise(edges):
        stream.add(Slice(words[start:stop].copy(), None, 8 * start))
    stream.flush_decoder()
    return stream.end_acquisition(way, 8 * len(words))


@given(cuts=st.lists(st.integers(0, 60), max_size=4))
def test_a_datagram_of_rubbish_explains_all_pixels_that_it_lacks_those_that_look_like_control_too(cuts):
    """Nothing else of the acquisition is in doubt then, although nobody can say which word is missing where."""
    control, timer = 0x71 << 56, 0x44 << 56
    good = [hit(k * STEP) for k in range(40)]
    rubbish = [control, UNKNOWN, timer, UNKNOWN, control]
    words = chunks(good[:10], good[10:20], rubbish, good[23:30], [control], good[30:])

    def losses(n_sent: int) -> list[LossSpan]:
        way = Way(0, 0, sent=6, arrived=6, words_before=0, words=n_sent)
        return decode(words, cuts, way=way).losses

    n_came = 37
    (span,) = losses(n_came + len(rubbish))
    assert (span.cause, span.chip, span.amount) == ("altered", 0, 2)
    assert [(one.cause, one.chip) for one in losses(n_came + len(rubbish) + 1)] == [("altered", -1), ("altered", 0)]


@pytest.mark.parametrize(
    ("bad", "cause", "amount"),
    [
        ([UNKNOWN, UNKNOWN], "altered", 2),
        ([BAD_EDGE], "altered", 1),
        ([hit(5 * STEP + FAR)], "jump", 1),
        ([PACKET | 7, PACKET | 11], "packet", 3),
    ],
    ids=["no kind", "no stamp", "no time", "packets"],
)
@given(cuts=st.lists(st.integers(0, 40), max_size=4))
def test_what_is_senseless_or_missing_lies_between_the_words_of_its_chip_around_it(bad, cause, amount, cuts):
    good = [hit(k * STEP) for k in range(20)]
    words = chunks(good[:5], [*good[5:8], *bad, good[8]], good[9:12], good[12:])
    totals = decode(words, cuts)
    low = 7 * STEP * TICKS_PER_COUNT - BOUND
    (span,) = totals.losses
    assert span[:4] == LossSpan(cause, 0, amount, low, 0)[:4]
    assert 8 * STEP * TICKS_PER_COUNT <= span.high_ticks - BOUND <= 9 * STEP * TICKS_PER_COUNT
    assert totals.losses == decode(words, []).losses


@pytest.mark.parametrize(
    ("header", "cause", "amount", "before"),
    [
        (chunk_header(0, 8 * 2), "unframed", 2, 6),
        (chunk_header(0, 8 * 6), "cut", 2, 8),
        (0x0123 << 40, "unframed", 5, 4),
    ],
    ids=["too short", "too long", "no header"],
)
@given(cuts=st.lists(st.integers(0, 40), max_size=4))
def test_what_a_damaged_header_costs_lies_between_the_words_of_its_chip_around_it(header, cause, amount, before, cuts):
    good = [hit(k * STEP) for k in range(20)]
    words = chunks(good[:5], good[5:9], good[9:12], good[12:])
    words[6] = header
    totals = decode(words, cuts)
    (span,) = totals.losses
    low = before * STEP * TICKS_PER_COUNT - BOUND
    assert span[:4] == LossSpan(cause, 0, amount, low, 0)[:4]
    assert 9 * STEP * TICKS_PER_COUNT <= span.high_ticks - BOUND <= 12 * STEP * TICKS_PER_COUNT
    assert totals.losses == decode(words, []).losses


def test_words_outside_of_chunks_may_be_of_any_chip_and_each_has_its_interval():
    words = [chunks([hit(k * STEP)], chip=chip) for k in range(8) for chip in (0, 1)]
    words[9][0] = 0x0123 << 40  # the fifth of chip 1: between its hits 3 and 5, and those of chip 0, 4 and 5
    totals = decode(np.concatenate(words), [], n_chips=2)
    found = [(span.cause, span.chip, span.amount, span.low_ticks + BOUND) for span in totals.losses]
    assert found == [("unframed", 1, 2, 3 * STEP * TICKS_PER_COUNT), ("unframed", 0, 2, 4 * STEP * TICKS_PER_COUNT)]
    assert [span.high_ticks - BOUND >= 5 * STEP * TICKS_PER_COUNT for span in totals.losses] == [True, True]


def test_a_chunk_that_is_cut_of_a_chip_that_is_not_there_costs_no_shot():
    foreign = chunks([hit(0)], chip=3)
    foreign[0] = chunk_header(3, 8 * 5)
    assert decode(np.concatenate([chunks([hit(0)]), foreign, chunks([hit(STEP), hit(2 * STEP)])]), []).losses == []


def test_behind_the_last_word_it_lasts_to_the_end():
    totals = decode(chunks([hit(0), hit(STEP), hit(2 * STEP)], [UNKNOWN]), [])
    (span,) = totals.losses
    assert (span.cause, span.low_ticks < 2 * STEP * TICKS_PER_COUNT < span.high_ticks) == ("altered", True)
    assert span.high_ticks > 1 << 60


def test_a_packet_that_comes_behind_the_next_is_not_missing():
    good = [hit(k * STEP) for k in range(8)]
    numbered = [PACKET | 1, good[0], good[1], PACKET | 3, PACKET | 2, *good[2:]]
    assert decode(chunks(numbered), []).losses == []
