"""What the decoder cannot use has an interval: from the word of its chip before it to the one behind."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ophyd_timepix.clock import TICKS_PER_COUNT, ns_to_ticks
from ophyd_timepix.config import Processing
from ophyd_timepix.decode.decoder import Framing
from ophyd_timepix.pipeline.decode_stage import _Stream
from ophyd_timepix.pipeline.ledger import DecodeTotals
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


def chunks(*contents: list[int]) -> np.ndarray:
    return np.array([word for words in contents for word in (chunk_header(0, 8 * len(words)), *words)], np.uint64)


def decode(words: np.ndarray, cuts: list[int]) -> DecodeTotals:
    stream = _Stream(RunRequest(event_file="run.h5", processing=Processing()), Framing.TPX3)
    stream.begin(1, 0)
    edges = [0, *sorted(min(cut, len(words)) for cut in cuts), len(words)]
    for start, stop in pairwise(edges):
        stream.add(Slice(words[start:stop].copy(), None, 8 * start))
    stream.flush_decoder()
    return stream.end_acquisition(None, 8 * len(words))


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


def test_behind_the_last_word_it_lasts_to_the_end():
    totals = decode(chunks([hit(0), hit(STEP), hit(2 * STEP)], [UNKNOWN]), [])
    (span,) = totals.losses
    assert (span.cause, span.low_ticks < 2 * STEP * TICKS_PER_COUNT < span.high_ticks) == ("altered", True)
    assert span.high_ticks > 1 << 60


def test_a_packet_that_comes_behind_the_next_is_not_missing():
    good = [hit(k * STEP) for k in range(8)]
    numbered = [PACKET | 1, good[0], good[1], PACKET | 3, PACKET | 2, *good[2:]]
    assert decode(chunks(numbered), []).losses == []
