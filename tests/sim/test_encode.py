"""Words state exactly what was put into them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ophyd_timepix.protocol import column_phase
from spidr_sim.encode import TDC_BYTES, count_word, end_of_readout_word, pixel_word, tdc_word, timer_words
from tests.sim import slow_decoder as slow

ADDRESSES = st.integers(0, 255)
PHASED = st.sampled_from([column_phase(word) for word in (0x01E, 0x05E, 0x11E)])


@settings(deadline=None)  # the first example compiles
@given(x=ADDRESSES, y=ADDRESSES, tot=st.integers(0, 1023), bins=st.integers(16, (1 << 52) - 1), phase=PHASED)
def test_a_pixel_word_decodes_to_the_very_hit(x: int, y: int, tot: int, bins: int, phase: tuple[int, ...]) -> None:
    word = pixel_word(x, y, bins, tot, phase[x // 2])
    assert slow.pixel(int(word), phase, near_tick=bins * 6) == (x, y, tot, bins * 6)


@settings(deadline=None)  # the first example compiles
@given(
    number=st.sampled_from([1, 2]), falling=st.booleans(), counter=st.integers(0, 10_000), tick=st.integers(0, 1 << 54)
)
def test_a_tdc_word_decodes_to_the_very_edge(number: int, falling: bool, counter: int, tick: int) -> None:
    word = tdc_word(TDC_BYTES[number - 1, int(falling)], counter, tick)
    assert slow.tdc(int(word), near_tick=tick) == (number, falling, counter % 4096, tick)


@settings(deadline=None)  # the first example compiles
@given(counts=st.integers(0, (1 << 48) - 1), chip_id=st.integers(0, (1 << 32) - 1))
def test_timer_words_hold_the_48_bit_timer_and_their_echoes_the_chip(counts: int, chip_id: int) -> None:
    low, low_echo, high, high_echo = timer_words(counts, chip_id)
    assert [word >> 56 for word in (low, high)] == [0x44, 0x45]
    assert ((low >> 16) & 0xFFFFFFFF) | ((high >> 16) & 0xFFFF) << 32 == counts
    assert [word >> 48 for word in (low_echo, high_echo)] == [0x7144, 0x7145]
    assert {(word >> 16) & 0xFFFFFFFF for word in (low_echo, high_echo)} == {chip_id}
    assert {word & 0xFFFF for word in (low_echo, high_echo)} == {(counts >> 14) & 0xFFFF}


@settings(deadline=None)  # the first example compiles
@given(counts=st.integers(1 << 14, (1 << 48) - 1))
def test_the_spidr_time_of_a_timer_word_is_one_less_when_its_bits_43_30_pass_for_a_later_toa(counts: int) -> None:
    low = timer_words(counts, 0)[0]
    looks_later = (low >> 30) & 0x3FFF > counts & 0x3FFF
    assert low & 0xFFFF == ((counts >> 14) - looks_later) & 0xFFFF


def test_the_end_of_readout_is_0x71b0_or_0x71a0() -> None:
    assert end_of_readout_word(5 << 14, 0x1A6B) == 0x71B0 << 48 | 0x1A6B << 16 | 5
    assert end_of_readout_word(5 << 14, 0x1A6B, sequential=True) == 0x71A0 << 48 | 0x1A6B << 16 | 5


@settings(deadline=None)  # the first example compiles
@given(
    x=ADDRESSES,
    y=ADDRESSES,
    events=st.integers(1, 1022),
    itot=st.integers(1, 16_382),
    counts=st.integers(1 << 14, (1 << 48) - 1),
)
def test_a_word_of_a_counting_pixel_holds_both_counters_and_the_boards_stamp(
    x: int, y: int, events: int, itot: int, counts: int
) -> None:
    word = int(count_word(x, y, events, itot, counts))
    assert slow.pixel(word, [0] * 128, near_tick=0)[:2] == (x, y)
    assert word >> 60 == 0xB
    assert (word >> 20 & 0x3FF, word >> 30 & 0x3FFF, word >> 16 & 0xF) == (events, itot, 0)
    assert word & 0xFFFF == ((counts >> 14) - (itot > counts & 0x3FFF)) & 0xFFFF


@pytest.mark.parametrize("stamp", range(1, 13))
def test_every_stamp_occurs(stamp: int) -> None:
    assert (int(tdc_word(0x6F, 0, 1200 + stamp - 1)) >> 5) & 0xF == stamp


def test_kernels_take_numpy_integers() -> None:
    assert pixel_word(np.int64(3), np.int64(4), np.int64(1600), np.int64(5), np.int64(0)) == pixel_word(
        3, 4, 1600, 5, 0
    )
