"""Datagrams that came twice are left out, and no others."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ophyd_timepix.decode.repeats import LOOKED_AT, REMEMBERED, Repeats
from ophyd_timepix.protocol.words import chunk_header
from tests import naive
from tests.strategies import N_EXAMPLES

EXAMPLES = settings(max_examples=N_EXAMPLES, deadline=None)
PIXEL, TDC, PACKET, TIMER = 0xB << 60, 0x6F << 56, 0x50 << 56, 0x44 << 56
FRAME, END, CONTROL, UNKNOWN = 0xA << 60, 0x71B0 << 48, 0x7102 << 48, 0x30 << 56


def chunk(chip: int, *words: int) -> list[int]:
    return [chunk_header(chip, 8 * len(words)), *words]


def stream(*chunks: list[int]) -> np.ndarray:
    return np.array([word for one in chunks for word in one], np.uint64)


@st.composite
def streams(draw) -> tuple[list[list[int]], list[bool]]:
    """Datagrams, each with words of its own, some of them again some datagrams later; and which came twice."""
    chunks: list[list[int]] = []
    again: list[bool] = []
    for k in range(draw(st.integers(0, 25))):
        kind = draw(st.sampled_from((PIXEL, TDC, PACKET, FRAME, END)))
        timeless = [CONTROL | 7] * draw(st.integers(0, 3))
        more = range(draw(st.integers(0, 4))) if kind in (PIXEL, TDC, PACKET) else ()
        chunks.append(chunk(draw(st.integers(0, 3)), *timeless, kind | (k + 1) << 4, *more))
        again.append(False)
        if draw(st.booleans()):
            chunks.append(draw(st.sampled_from([one for one, twice in zip(chunks, again, strict=True) if not twice])))
            again.append(True)
    return chunks, again


@EXAMPLES
@given(streams(), st.lists(st.integers(0, 150), max_size=6))
def test_what_came_twice_is_left_out_wherever_the_stream_is_cut(case, cuts):
    chunks, again = case
    words, repeats = stream(*chunks), Repeats()
    edges = [0, *sorted(min(cut, len(words)) for cut in cuts), len(words)]
    kept = []
    for a, b in pairwise(edges):
        kept.append(repeats.without(words[a:b]))
        origins = [a + repeats.origin(k) for k in range(len(kept[-1]))]
        assert words[origins].tolist() == kept[-1].tolist()
    kept.append(repeats.flush())
    expected = [one for one, twice in zip(chunks, again, strict=True) if not twice]
    assert np.concatenate(kept).tolist() == stream(*expected).tolist()
    assert repeats.datagrams.sum() == sum(again)
    assert repeats.words == len(words) - len(stream(*expected))
    assert repeats.largest == max((len(one) - 1 for one in chunks), default=0)


@st.composite
def any_words(draw) -> list[int]:
    """Datagrams of all kinds of words, few different ones, so that many come again; some words lie between them."""
    kinds = st.sampled_from((PIXEL, PIXEL | 1, TDC, PACKET, TIMER, FRAME, CONTROL, END, UNKNOWN))
    long = st.integers(LOOKED_AT - 2, LOOKED_AT + 2).map(lambda n: [END] + [CONTROL] * (n - 1))
    words = []
    for inside in draw(st.lists(st.lists(kinds, max_size=3) | long, max_size=25)):
        if draw(st.integers(0, 9)) == 0:
            words += inside[:2]
        words += chunk(draw(st.sampled_from((0, 0, 1, 7))), *inside)
    return words


@EXAMPLES
@given(any_words(), st.lists(st.integers(0, 150), max_size=6), st.integers(0, 3))
def test_what_is_left_is_what_the_slow_twin_leaves(words, cuts, missing):
    words, repeats = words[: len(words) - missing], Repeats()
    edges = [0, *sorted(min(cut, len(words)) for cut in cuts), len(words)]
    kept = [word for a, b in pairwise(edges) for word in repeats.without(np.array(words[a:b], np.uint64)).tolist()]
    assert [*kept, *repeats.flush().tolist()] == naive.without_repeats(words, REMEMBERED, LOOKED_AT)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (chunk(0, UNKNOWN, PIXEL), chunk(0, UNKNOWN, PIXEL)),
        (chunk(0, CONTROL | 5), chunk(0, CONTROL | 5)),
        (chunk(0, TIMER | 1 << 16), chunk(0, TIMER | 2 << 16)),
        (chunk(0, CONTROL | 5, PIXEL | 1), chunk(0, CONTROL | 5, PIXEL | 2)),
        (chunk(0, CONTROL | 5, PIXEL | 1), chunk(0, CONTROL | 6, PIXEL | 1)),
        (chunk(0, FRAME, FRAME | 1), chunk(0, FRAME, FRAME | 2)),
        (chunk(0, TDC | 32), chunk(1, TDC | 32)),
        (chunk(0, PIXEL, 1), chunk(0, PIXEL, 1, 2)),
    ],
    ids=[
        "words of no known kind",
        "remarks",
        "answers of a timer",
        "a remark before two hits",
        "two remarks before a hit",
        "words of a frame",
        "an edge of each chip",
        "a longer one",
    ],
)
def test_words_that_may_come_again_are_no_repeats(first, second):
    words, repeats = stream(first, second), Repeats()
    assert repeats.without(words).tolist() == words.tolist()
    assert repeats.datagrams.tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize(
    "words",
    [
        [TIMER | 9, CONTROL | 1, 0x45 << 56, CONTROL | 2, PIXEL | 3, TDC | 32],
        [END | 1],
        [CONTROL | 1, END | 1],
        [FRAME | 1, FRAME | 2],
        [TIMER | 9, *[CONTROL | 1] * 40, PIXEL | 3],
    ],
    ids=[
        "a timer before hits",
        "the end of a read-out alone",
        "a remark before it",
        "words of a frame",
        "very many remarks",
    ],
)
def test_a_datagram_that_does_not_begin_with_a_time_of_its_own_is_known_again_too(words):
    repeats = Repeats()
    once = repeats.without(stream(chunk(1, *words)))
    assert len(once) == 1 + len(words)
    assert len(repeats.without(stream(chunk(1, *words)))) == 0
    assert repeats.datagrams.tolist() == [0, 1, 0, 0]


def test_words_that_waited_when_no_more_came_belong_to_their_datagram():
    """What comes of it after all is passed on, and what follows it is seen."""
    words, repeats = stream(chunk(0, CONTROL, CONTROL, PIXEL), chunk(0, PIXEL | 1), chunk(0, PIXEL | 1)), Repeats()
    first = repeats.without(words[:2])
    assert (len(first), repeats.flush().tolist()) == (0, words[:2].tolist())
    assert repeats.without(words[2:]).tolist() == words[2:6].tolist()


def test_a_word_that_comes_again_after_very_many_is_no_repeat():
    chunks = [chunk(0, PIXEL | k << 4) for k in range(1, 3 * REMEMBERED)]
    words, repeats = stream(*chunks, chunks[0]), Repeats()
    assert len(repeats.without(words)) == len(words)


def test_each_of_the_last_thousand_is_known_again():
    random = np.random.default_rng(7)
    first_words = (np.uint64(PIXEL) | random.integers(0, 1 << 60, REMEMBERED, np.uint64)).tolist()
    repeats = Repeats()
    for word in first_words:
        repeats.without(stream(chunk(2, word)))
    for word in first_words:  # each behind as many as are remembered
        assert len(repeats.without(stream(chunk(2, word)))) == 0
    assert repeats.datagrams.tolist() == [0, 0, REMEMBERED, 0]


def test_damaged_frames_pass_as_they_are():
    words = np.random.default_rng(3).integers(0, 1 << 63, 5000, np.uint64)
    assert Repeats().without(words).tolist() == words.tolist()
