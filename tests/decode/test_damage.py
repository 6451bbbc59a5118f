"""Damage: random words move no time, and what is passed over has a place."""

import numpy as np
import pytest

from ophyd_timepix.decode import Count, Decoder, Framing, Mark, kernels
from ophyd_timepix.pipeline.skipped import PLACES_MAX, Place, Skipped
from ophyd_timepix.protocol import words as w
from tests import garbage
from tests.strategies import LATENESS, MS, SECOND, as_words, edge_word, hit_word, timer_words

GAPS = {"dense": 400, "1 kHz": MS, "10 Hz": 100 * MS}


def good(start: int, n: int, gap: int) -> np.ndarray:
    counts = (start + np.arange(n) * gap).astype(np.uint64)
    return garbage.with_time(as_words([hit_word(0, 0, 7, 7, 7)] * n), counts)


def around_garbage(seed: int, make, gap: int) -> tuple[list[int], list[int], Decoder]:
    """Times of good hits around random words, as sent and as found: nothing but the hits themselves tells the time."""
    rng = np.random.default_rng(seed)
    decoder = Decoder(Framing.RAW, 1, lateness_ticks=LATENESS * 96)
    start, n = int(rng.integers(1 << 29)), 100
    found = decoder.decode(good(start, n, gap)).ticks.tolist()
    decoder.decode(make(rng, int(rng.choice([1, 2, 3, 10, 500, 8000])), 0))
    found += decoder.decode(good(start + n * gap, n, gap)).ticks.tolist() + decoder.flush().ticks.tolist()
    return [(start + i * gap) * 96 for i in range(2 * n)], found, decoder


@pytest.mark.parametrize("gap", GAPS.values(), ids=GAPS)
def test_random_words_do_not_change_the_time_of_good_ones(gap):
    broken = 0
    for seed in range(200):
        sent, found, _ = around_garbage(seed, garbage.noise, gap)
        broken += len(set(sent) - set(found)) > 2
    assert broken <= 200 // 50


@pytest.mark.parametrize("make", [garbage.noise, garbage.headers], ids=["noise", "known headers"])
def test_when_random_words_confirm_each_other_it_is_said(make):
    """Two in a row before any that is senseless: nothing can tell them from a silence."""
    for seed in range(200):
        sent, found, decoder = around_garbage(seed, make, GAPS["dense"])
        said = decoder.counts[[Count.EPOCH_UNCERTAIN, Count.LATE_HITS, Count.JUMPED_HITS]].sum()
        assert not set(sent) - set(found) or said


@pytest.mark.parametrize("pause_s", [2, 7, 10])
def test_a_senseless_word_in_a_stream_of_few_words_takes_none_with_it(pause_s):
    times = [i * pause_s * SECOND for i in range(50)]
    words = [hit_word(time, 0, 7, 7, 7) for time in times]
    words[25:25] = [0xC7 << 56]
    decoder = Decoder(Framing.RAW, 1, lateness_ticks=LATENESS * 96)
    found = [tick // 96 for tick in [*decoder.decode(as_words(words)).ticks, *decoder.flush().ticks]]
    assert found == times


def test_what_is_passed_over_has_its_place_however_it_is_cut():
    foreign = [hit_word(9, 0, 1, 1, 1)] * 3
    words = [
        *[7] * 4,
        w.chunk_header(0, 40),
        hit_word(5, 0, 1, 1, 1),
        0xC7 << 56,
        0xC8 << 56,
        edge_word(9, 0, 13, 0x6F, 1),
        hit_word(6, 0, 1, 1, 1),
        w.chunk_header(9, 24),
        *foreign,
        w.chunk_header(0, 80),
        hit_word(7, 0, 1, 1, 1),
        hit_word(12 * SECOND, 0, 1, 1, 1),
        hit_word(8, 0, 1, 1, 1),
        w.chunk_header(0, 8),
        hit_word(9, 0, 1, 1, 1),
    ]
    expected = [
        Place("unframed", 1000, 32),
        Place("unknown", 1000 + 6 * 8, 16),
        Place("rejected_edge", 1000 + 8 * 8, 8),
        Place("foreign_chip", 1000 + 11 * 8, 24),
        Place("jumped", 1000 + 17 * 8, 8),
        Place("cut_chunk", 1000 + 18 * 8, 0),
    ]
    for step in range(1, len(words) + 1):
        decoder, skipped, n_hits = Decoder(n_chips=1), Skipped(), 0
        for i in range(0, len(words), step):
            batch = decoder.decode(as_words(words[i : i + step]))
            n_hits += len(batch.ticks)
            skipped.add(batch.marks, 1000 + 8 * i)
        assert skipped.places == expected
        assert n_hits + len(decoder.flush().ticks) == 5


def test_of_many_places_the_first_hundred_are_told():
    marks = np.zeros((300, kernels.N_MARK), np.int64)
    marks[:, kernels.M_KIND], marks[:, kernels.M_AMOUNT] = Mark.UNKNOWN, 1
    marks[:, kernels.M_WORD] = np.arange(300) * 2
    skipped = Skipped()
    skipped.add(marks, 0)
    assert len(skipped.places) == PLACES_MAX
    assert skipped.places[-1] == Place("unknown", (PLACES_MAX - 1) * 16, 8)


def test_after_a_damaged_header_reading_goes_on_at_the_next_one():
    hits = [hit_word(5 + i, 0, 1, 1, 1) for i in range(6)]
    words = [w.chunk_header(0, 16), *hits[:2], w.chunk_header(0, 16) ^ 1, *hits[2:4], w.chunk_header(0, 16), *hits[4:]]
    decoder = Decoder(n_chips=1)
    assert [tick // 96 for tick in decoder.decode(as_words(words)).ticks] == [5, 6, 9, 10]
    assert decoder.counts[Count.UNFRAMED_WORDS] == 3


def test_timer_words_in_disorder_move_nothing():
    now = SECOND
    low, high = timer_words(now + 100)
    old = timer_words(now - 20 * MS)
    orders = [(high, low), (low, low, high), (low, high, high), (*old, low, high), (low, high, *old), (low, *old, high)]
    for order in orders:
        decoder = Decoder(Framing.RAW, 1, lateness_ticks=LATENESS * 96)
        hits = [hit_word(now + i * 10, 0, 1, 1, 1) for i in range(20)]
        found = decoder.decode(as_words([*hits[:10], *order, *hits[10:]])).ticks // 96
        assert found.tolist() == [now + i * 10 for i in range(20)]


def test_a_timer_word_that_contradicts_itself_is_half_of_nothing():
    """Random words that look like the halves of a timer are recognised: a SPIDR time that fits is one in a thousand."""
    rng = np.random.default_rng(3)
    tops = rng.choice([w.TIMER_LOW_BYTE, w.TIMER_HIGH_BYTE], 100_000)
    decoder = Decoder(Framing.RAW, 1)
    decoder.decode(garbage.put(w.TOP_BYTE, garbage.noise(rng, tops.size, 0), tops))
    assert decoder.counts[Count.TIMER_PAIRS] + decoder.counts[Count.TIMER_JUMPS] <= 3
    assert decoder.counts[Count.TIMER_WORDS] == tops.size
