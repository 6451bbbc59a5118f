"""Epochs, lateness, jumps: the rules of time, one by one."""

import numpy as np
import pytest

from ophyd_timepix.decode import Count, Decoder, Framing, kernels
from ophyd_timepix.decode.counts import Mark
from tests.strategies import LATENESS, MS, SECOND, as_words, edge_word, hit_word, timer_words

WRAPS = {"26.8 s": 1 << 30, "107 s": 1 << 32, "48 bit": 1 << 48}
RISING = 0x6F


def raw(**options) -> Decoder:
    return Decoder(Framing.RAW, 1, lateness_ticks=LATENESS * 96, **options)


def counts_of(batch) -> list[int]:
    """Times of the hits in counts of 25 ns."""
    return [int(tick) // 96 for tick in batch.ticks]


def decode_singly(decoder: Decoder, words, anchors=None) -> list[int]:
    found = []
    for i, word in enumerate(words):
        found += counts_of(decoder.decode(as_words([word]), None if anchors is None else anchors[i]))
    return found + counts_of(decoder.flush())


@pytest.mark.parametrize("wrap", WRAPS.values(), ids=WRAPS)
@pytest.mark.parametrize("step", [100, 3 * SECOND, 10 * SECOND], ids=["dense", "3 s", "10 s"])
@pytest.mark.parametrize("cut", ["single", "whole"])
def test_every_roll_over_is_crossed_at_any_place_of_a_call(wrap, step, cut):
    times = [wrap + i * step for i in range(-6, 7)]
    anchor = times[0]
    words = [hit_word(time, 0, 1, 1, 1) for time in times]
    decoder = raw()
    if cut == "single":
        assert decode_singly(decoder, words, [anchor] + [None] * 12) == times
    else:
        assert counts_of(decoder.decode(as_words(words), anchor)) + counts_of(decoder.flush()) == times


@pytest.mark.parametrize("wrap", WRAPS.values(), ids=WRAPS)
def test_hits_late_up_to_the_bound_keep_their_epoch_across_a_roll_over(wrap):
    times = [wrap - 10, wrap + LATENESS - 10, wrap - 10, wrap - 1, wrap, wrap + LATENESS]
    words = [hit_word(time, 0, 1, 1, 1) for time in times]
    assert decode_singly(raw(), words, [wrap - 10] + [None] * 5) == times


def test_a_hit_later_than_the_bound_is_counted_and_not_returned():
    decoder = raw()
    words = [hit_word(time, 0, 1, 1, 1) for time in (SECOND, SECOND + LATENESS, SECOND - 1, SECOND + 2 * LATENESS)]
    assert decode_singly(decoder, words) == [SECOND, SECOND + LATENESS, SECOND + 2 * LATENESS]
    assert decoder.counts[Count.LATE_HITS] == 1


def test_a_lone_word_far_ahead_makes_nothing_late():
    decoder = raw()
    times = [SECOND, SECOND + 10, 9 * SECOND, SECOND + 20, SECOND + 30]
    found = decode_singly(decoder, [hit_word(time, 0, 1, 1, 1) for time in times])
    assert found == [SECOND, SECOND + 10, SECOND + 20, SECOND + 30]
    assert decoder.counts[Count.JUMPED_HITS] == 1
    assert decoder.counts[Count.LATE_HITS] == 0


def test_a_jump_that_the_next_word_confirms_is_a_pause():
    times = [SECOND, SECOND + 10, 9 * SECOND, 9 * SECOND - LATENESS, 9 * SECOND + 5]
    assert decode_singly(raw(), [hit_word(time, 0, 1, 1, 1) for time in times]) == times


def test_a_lone_garbage_word_at_the_start_makes_nothing_late():
    decoder = raw()
    times = [10 * SECOND, SECOND, SECOND + 10]
    assert decode_singly(decoder, [hit_word(time, 0, 1, 1, 1) for time in times]) == times[1:]
    assert decoder.counts[Count.JUMPED_HITS] == 1


def test_a_word_held_at_the_end_comes_out_and_does_not_move_the_time():
    decoder = raw()
    words = [hit_word(time, 0, 1, 1, 1) for time in (SECOND, SECOND + 1, 9 * SECOND)]
    batch = decoder.decode(as_words(words))
    assert (counts_of(batch), decoder.held) == ([SECOND, SECOND + 1], 1)
    assert counts_of(decoder.flush()) == [9 * SECOND]
    assert counts_of(decoder.decode(as_words([hit_word(SECOND + 2, 0, 1, 1, 1)]))) == [SECOND + 2]


@pytest.mark.parametrize("silence_s", [20, 60, 300, 3600, 100_000])
@pytest.mark.parametrize("error_s", [-5, 0, 5])
def test_an_anchor_tells_the_epoch_after_a_silence_of_any_length(silence_s, error_s):
    later = silence_s * SECOND
    decoder = raw()
    assert counts_of(decoder.decode(as_words([hit_word(t, 0, 1, 1, 1) for t in (5, 6)]), 0)) == [5, 6]
    words = [hit_word(later + t, 0, 1, 1, 1) for t in (0, 1)]
    assert counts_of(decoder.decode(as_words(words), later + error_s * SECOND)) == [later, later + 1]


@pytest.mark.parametrize("rate", [0.9, 1.1], ids=["slow", "fast"])
def test_an_anchor_whose_clock_goes_wrong_by_minutes_moves_no_epoch(rate):
    """Words in every second for ten minutes, then after silences of 20 s."""
    times = [*range(0, 600), *range(600, 1000, 20)]
    decoder = raw()
    for second in times:
        words = [hit_word(second * SECOND + t, 0, 1, 1, 1) for t in (5, 6)]
        batch = decoder.decode(as_words(words), round(rate * second * SECOND))
        assert counts_of(batch) == [second * SECOND + 5, second * SECOND + 6]


BEGIN = 100 * SECOND
HOST = BEGIN + 3 * SECOND + 7
"""What the host takes for the timer's reading when the acquisition begins: clocks drift."""


def begun() -> Decoder:
    decoder = raw()
    decoder.begin(BEGIN, HOST)
    return decoder


@pytest.mark.parametrize("age", [LATENESS + 1, MS, SECOND, 13 * SECOND])
def test_words_of_before_the_acquisition_are_counted_and_make_nothing_late(age):
    decoder = begun()
    old = [hit_word(BEGIN - age - i, 0, 1, 1, 1) for i in range(50)] + [edge_word(BEGIN - age, 0, 1, RISING, 7)]
    times = [BEGIN + i for i in range(2000)]
    batch = decoder.decode(as_words(old + [hit_word(time, 0, 1, 1, 1) for time in times]), HOST, SECOND // 100)
    assert counts_of(batch) == times
    assert len(batch.edge_ticks) == 0
    found = decoder.counts[[Count.EARLY_HITS, Count.EARLY_EDGES, Count.LATE_HITS, Count.JUMPED_HITS]]
    assert found.tolist() == [50, 1, 0, 0]
    assert batch.marks[:, kernels.M_KIND].tolist() == [Mark.EARLY]


@pytest.mark.parametrize("ahead_s", [0.03, 0.3, 3])
def test_words_ahead_of_the_present_when_an_acquisition_begins_make_nothing_late(ahead_s):
    """They came within 10 ms, and the timer had been read just before."""
    decoder = begun()
    old = [hit_word(BEGIN + round(ahead_s * SECOND) + i, 0, 1, 1, 1) for i in range(50)]
    times = [BEGIN + i for i in range(2000)]
    words = as_words(old + [hit_word(time, 0, 1, 1, 1) for time in times])
    assert counts_of(decoder.decode(words, HOST, SECOND // 100)) == times
    assert decoder.counts[Count.JUMPED_HITS] == 50


def test_an_acquisition_may_begin_where_words_had_led_astray():
    """The time of the acquisition before was too late by a second: this one begins with what the timer says."""
    decoder = begun()
    decoder.decode(as_words([hit_word(BEGIN + SECOND + i, 0, 1, 1, 1) for i in range(5)]))
    decoder.flush()
    decoder.begin(BEGIN + SECOND // 2)
    times = [BEGIN + SECOND // 2 + i for i in range(5)]
    assert counts_of(decoder.decode(as_words([hit_word(time, 0, 1, 1, 1) for time in times]))) == times


def test_the_timer_may_have_run_over_when_an_acquisition_begins():
    decoder, wrap = raw(), 1 << 48
    decoder.decode(as_words([hit_word(wrap - 5, 0, 1, 1, 1), hit_word(wrap - 4, 0, 1, 1, 1)]), wrap - 10)
    decoder.begin(7, wrap + SECOND)
    words = [hit_word(time, 0, 1, 1, 1) for time in (wrap - MS, wrap + 8, wrap + 9)]
    assert counts_of(decoder.decode(as_words(words))) == [wrap + 8, wrap + 9]


def test_a_timer_pair_tells_the_epoch_after_a_silence_of_any_length():
    later = 4000 * SECOND + 12345
    words = [*(hit_word(t, 0, 1, 1, 1) for t in (5, 6)), *timer_words(later), hit_word(later + 7, 0, 1, 1, 1)]
    decoder = raw()
    assert decode_singly(decoder, words, [0] + [None] * 4) == [5, 6, later + 7]
    assert decoder.counts[Count.TIMER_PAIRS] == 1


def test_edges_tell_the_epoch_after_a_silence_of_up_to_100_s():
    later = 95 * SECOND
    words = [hit_word(5, 0, 1, 1, 1), hit_word(6, 0, 1, 1, 1)]
    words += [edge_word(later + i, 0, 1, RISING, i) for i in (0, 1)]
    assert decode_singly(raw(), [*words, hit_word(later + 7, 0, 1, 1, 1)], [0] + [None] * 4) == [5, 6, later + 7]


@pytest.mark.parametrize("drop", [0, 1])
def test_half_a_timer_pair_says_nothing(drop):
    pair = list(timer_words(4000 * SECOND))
    pair.pop(drop)
    decoder = raw()
    assert decode_singly(decoder, [hit_word(5, 0, 1, 1, 1), *pair, hit_word(6, 0, 1, 1, 1)]) == [5, 6]
    assert decoder.counts[Count.TIMER_PAIRS] == 0


def test_a_timer_pair_whose_halves_do_not_fit_says_nothing():
    low, high = timer_words(10)[0], timer_words(4000 * SECOND)[1]
    decoder = raw()
    assert decode_singly(decoder, [hit_word(5, 0, 1, 1, 1), low, high, hit_word(6, 0, 1, 1, 1)]) == [5, 6]
    assert decoder.counts[Count.TIMER_PAIRS] == 0


def test_without_any_reference_the_first_word_is_in_epoch_0_and_edges_share_its_line():
    """An hour into a recording without anchors: hits count from their own 30 bits, edges and timer pairs follow."""
    hour = 3600 * SECOND + 777
    words = [hit_word(hour, 0, 1, 1, 1), hit_word(hour + 1, 0, 1, 1, 1), edge_word(hour + 2, 3, 5, RISING, 1)]
    words += [*timer_words(hour + 3), edge_word(hour + 4, 3, 5, RISING, 2)]
    batch = raw().decode(as_words(words))
    start = hour % (1 << 30)
    assert [tick // 96 for tick in batch.ticks] == [start, start + 1]
    assert batch.edge_ticks.tolist() == [(start + 2) * 96 + 40, (start + 4) * 96 + 40]


def test_ftoa_is_subtracted_and_the_columns_phase_added():
    phase = np.zeros((1, 128), np.int32)
    phase[0, 5] = 16
    batch = raw(phase=phase).decode(as_words([hit_word(1000, 3, 11, 7, 99), hit_word(1000, 0, 12, 7, 1)]))
    assert batch.ticks.tolist() == [1000 * 96 - 18 + 96, 1000 * 96]
    assert batch.pixels.tolist() == [7 << 18 | 11 << 10 | 99, 7 << 18 | 12 << 10 | 1]


@pytest.mark.parametrize("stamp", range(16))
def test_a_stamp_counts_from_1_to_12_and_others_are_rejected(stamp):
    decoder = raw()
    batch = decoder.decode(as_words([edge_word(1000, 0, 1, RISING, 1), edge_word(1000, 3, stamp, RISING, 2)]))
    if 1 <= stamp <= 12:
        assert batch.edge_ticks[1] == 1000 * 96 + 36 + stamp - 1
    else:
        assert len(batch.edge_ticks) == 0
        assert (decoder.counts[Count.REJECTED_EDGES], decoder.held) == (1, 1)


def test_an_edge_whose_low_bits_are_not_zero_is_rejected():
    decoder = raw()
    decoder.decode(as_words([edge_word(1000, 0, 1, RISING, 1) | 1]))
    assert decoder.counts[Count.REJECTED_EDGES] == 1


@pytest.mark.parametrize(("top", "tdc", "falling"), [(0x6F, 1, 0), (0x6A, 1, 1), (0x6E, 2, 0), (0x6B, 2, 1)])
def test_top_byte_names_input_and_edge(top, tdc, falling):
    decoder = raw()
    decoder.decode(as_words([edge_word(1000, 0, 1, top, 4095)]))
    batch = decoder.flush()
    assert (batch.edge_input[0], batch.edge_falling[0], batch.edge_counter[0]) == (tdc, falling, 4095)


def test_a_chip_behind_by_less_than_the_skew_is_heard_one_behind_by_more_is_late():
    decoder = Decoder(n_chips=2, lateness_ticks=LATENESS * 96)
    header = [0x33585054 | chip << 32 | 8 << 48 for chip in (0, 1)]
    words = []
    for time in (SECOND, SECOND + 1):
        words += [header[0], hit_word(time, 0, 1, 1, 1)]
    for time in (SECOND - 250 * MS, SECOND - 250 * MS + 2):
        words += [header[1], hit_word(time, 0, 1, 1, 1)]
    batch = decoder.decode(as_words(words))
    assert sorted(tick // 96 for tick in batch.ticks) == [SECOND - 250 * MS + 2, SECOND, SECOND + 1]
    assert decoder.counts[Count.LATE_HITS] == 1


def test_a_held_word_is_heard_when_another_chip_gets_that_far():
    """The lone hit of a dark chip must not wait for the chip's next one until it is late."""
    decoder = Decoder(n_chips=2, lateness_ticks=LATENESS * 96)
    header = [0x33585054 | chip << 32 | 8 << 48 for chip in (0, 1)]
    times = [(0, 0), (0, 1), (1, 2 * SECOND), (0, SECOND), (0, SECOND + 1), (0, 2 * SECOND), (0, 5 * SECOND)]
    words = [word for chip, time in times for word in (header[chip], hit_word(time, 0, 1, 1, 1))]
    batches = [decoder.decode(as_words(words[i : i + 1])) for i in range(len(words))]
    assert decoder.counts[Count.HITS] == 6
    assert decoder.counts[Count.LATE_HITS] == 0
    assert batches[-1].newest_ticks[1] == 2 * SECOND * 96


def test_wrong_use_is_refused_in_plain_words():
    with pytest.raises(ValueError, match="1 to 4 chips, not 5"):
        Decoder(n_chips=5)
    with pytest.raises(ValueError, match="lateness bound must be 0 to 480000000 ticks"):
        Decoder(lateness_ticks=10**10)
    with pytest.raises(ValueError, match=r"must have shape \(2, 128\), not \(128,\)"):
        Decoder(n_chips=2, phase=np.zeros(128, np.int32))


def test_read_only_words_are_taken():
    words = np.frombuffer(as_words([hit_word(1, 0, 1, 1, 1), hit_word(2, 0, 1, 1, 1)]).tobytes(), np.uint64)
    assert len(raw().decode(words).ticks) == 2


def test_a_timer_far_beyond_the_anchor_is_not_believed():
    """One damaged timer pair must not shift all later hits by turns of 26.8 s."""
    decoder = raw()
    times = [SECOND, SECOND + 10, SECOND + 20]
    words = [hit_word(times[0], 0, 1, 1, 1), *timer_words(1 << 40), *(hit_word(t, 0, 1, 1, 1) for t in times[1:])]
    assert decode_singly(decoder, words, [SECOND] * len(words)) == times
    assert decoder.counts[Count.TIMER_JUMPS] == 1
    assert decoder.counts[Count.TIMER_PAIRS] == 0


def test_the_largest_lateness_is_told_and_hits_near_the_wrap_are_suspects():
    decoder = raw()
    late = 385 * 40
    words = [hit_word(time, 0, 1, 1, 1) for time in (SECOND, SECOND + late, SECOND, SECOND + late - 7)]
    decode_singly(decoder, words)
    assert decoder.take_lateness() == late
    assert decoder.counts[Count.TOA_WRAP_SUSPECTS] == 1


def test_each_hit_near_the_wrap_is_marked_with_its_time():
    late = 385 * 40
    times = [SECOND, SECOND + late, SECOND, SECOND + 1000, SECOND + late + 1, SECOND + 3]
    batch = raw().decode(as_words([hit_word(time, 0, 1, 1, 1) for time in times]))
    marks = batch.marks[batch.marks[:, kernels.M_KIND] == Mark.WRAP_SUSPECT]
    assert marks[:, kernels.M_AFTER].tolist() == [SECOND, SECOND + 3]
    assert marks[:, kernels.M_BEFORE].tolist() == [SECOND + late, SECOND + late + 1]
    assert marks[:, kernels.M_WORD].tolist() == [2, 5]


def test_packets_that_are_passed_over_are_missing_until_they_come():
    def packets(*numbers):
        return as_words([0x50 << 56 | number for number in numbers])

    decoder = raw()
    decoder.decode(packets(7, 8, 9, 12))
    assert decoder.counts[Count.MISSING_PACKETS] == 2
    decoder.decode(packets(11, 13))
    assert decoder.counts[Count.MISSING_PACKETS] == 1
    assert decoder.counts[Count.PACKET_IDS] == 6


def test_timer_words_of_a_slow_camera_agree_with_an_anchor_of_minutes_ago():
    """Offline, a minute of two hits a second is one slice with one anchor."""
    words = []
    for now in range(1000, 60 * SECOND, SECOND // 2):
        words += [hit_word(now, 0, 1, 1, 5), *timer_words(now + 100)]
    decoder = Decoder(Framing.RAW, 1)
    decoder.decode(as_words(words), 1000)
    assert (decoder.counts[Count.TIMER_JUMPS], decoder.counts[Count.TIMER_PAIRS]) == (0, 120)


def test_timer_words_whose_lies_add_up_to_years_are_not_believed_for_ever():
    """Each jump is possible by itself; times stay where every later stage can count."""
    decoder, now = Decoder(Framing.RAW, 1), 1000
    for _ in range(500):
        decoder.decode(as_words([hit_word(now, 0, 1, 1, 5), hit_word(now, 0, 2, 2, 5), *timer_words(now)]))
        now += (1 << 47) - 1
    assert decoder.counts[Count.TIMER_JUMPS] > 100
    assert 1 << 58 < decoder.newest_ticks.max() < 1 << 61


def test_a_word_that_claims_to_be_later_than_it_came_moves_nothing():
    """Damaged words that agree by chance with one another would take the time with them."""
    decoder = raw()
    far = [hit_word(9 * SECOND + t, 0, 1, 1, 1) for t in (0, 1, 2)]
    good = [hit_word(SECOND + t, 0, 1, 1, 1) for t in (0, 1, 2)]
    found = counts_of(decoder.decode(as_words([*good, *far, *good]), SECOND, 0)) + counts_of(decoder.flush())
    assert found == [SECOND + t for t in (0, 1, 2)] * 2
    assert decoder.counts[Count.JUMPED_HITS] == 3


def test_a_host_clock_that_is_wrong_is_not_believed_against_hundreds_of_words():
    decoder = raw()
    words = [hit_word(9 * SECOND + t, 0, 1, 1, 1) for t in range(600)]
    found = counts_of(decoder.decode(as_words(words), SECOND, 0)) + counts_of(decoder.flush())
    assert found == [9 * SECOND + t for t in range(255, 600)]
    assert decoder.counts[Count.JUMPED_HITS] == 255
