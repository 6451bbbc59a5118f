"""Chunk headers: cut chunks, damage, foreign chips, the header that looks like a hit."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ophyd_timepix.decode import Count, Decoder
from ophyd_timepix.decode.chunks import count_chunks, follow_chunks
from ophyd_timepix.protocol import words as w
from tests import naive
from tests.strategies import N_EXAMPLES, as_words, cuts, hit_word


def hits(n, start=0):
    return [hit_word(start + i, 0, 1, 1, 1) for i in range(n)]


def test_a_chunk_may_be_cut_by_calls_anywhere():
    decoder = Decoder(n_chips=1)
    words = [w.chunk_header(0, 80), *hits(10), w.chunk_header(0, 80), *hits(10, 10)]
    n = sum(len(decoder.decode(as_words([word])).ticks) for word in words)
    assert n == 20


def test_a_chunk_shorter_than_it_says_is_counted_and_the_next_one_read():
    decoder = Decoder(n_chips=2)
    words = [w.chunk_header(0, 800), *hits(5), w.chunk_header(0, 40), *hits(5, 5)]
    assert len(decoder.decode(as_words(words)).ticks) == 10
    assert decoder.counts[Count.CUT_CHUNKS] == 1


def test_words_between_chunks_are_counted_and_skipped():
    decoder = Decoder(n_chips=1)
    words = [*hits(3), w.chunk_header(0, 16), *hits(4), w.chunk_header(0, 16), *hits(2, 2)]
    assert len(decoder.decode(as_words(words)).ticks) == 4
    assert decoder.counts[Count.UNFRAMED_WORDS] == 5


@pytest.mark.parametrize("chip", [2, 3, 200])
def test_words_of_a_chip_that_is_not_there_are_counted(chip):
    decoder = Decoder(n_chips=2)
    words = [w.chunk_header(chip, 24), *hits(3), w.chunk_header(1, 16), *hits(2)]
    assert len(decoder.decode(as_words(words)).ticks) == 2
    assert decoder.counts[Count.FOREIGN_CHIP_WORDS] == 3


def test_a_hit_whose_low_half_reads_tpx3_is_a_hit():
    """ToT 821, fToA 8, SPIDR time 0x5054: the same 32 bits as the magic."""
    word = hit_word(0x5054 << 14 | 0x1000, 8, 40, 7, 821)
    assert w.CHUNK_MAGIC_FIELD.get(word) == w.CHUNK_MAGIC
    decoder = Decoder(n_chips=1)
    assert len(decoder.decode(as_words([w.chunk_header(0, 16), word, word])).ticks) == 2


def test_end_of_readout_is_told_by_chip():
    decoder = Decoder(n_chips=2)
    word = w.TOP_BYTE.put(w.COMMAND_END_BYTE) | w.CONTROL_CODE.put(w.END_OF_READOUT_DATA_DRIVEN)
    decoder.decode(as_words([w.chunk_header(1, 8), word]))
    assert decoder.counts[Count.END_OF_READOUT_0] == 0
    assert decoder.counts[Count.END_OF_READOUT_1] == 1
    assert decoder.counts[Count.CONTROL_WORDS] == 1


@settings(max_examples=N_EXAMPLES, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 255), st.integers(0, 5), st.integers(0, 7)), max_size=20), st.data())
def test_chunks_are_counted_as_by_the_slow_twin_wherever_the_words_are_cut(chunks, data):
    words = []
    for chip, n_between, n_words in chunks:
        words += [*hits(n_between), w.chunk_header(chip, 8 * n_words), *hits(n_words)]
    words = words[: data.draw(st.integers(0, len(words)))]
    counted, beyond = np.zeros(256, np.int64), 0
    for start, stop in pairwise(data.draw(cuts(len(words)))):
        beyond = count_chunks(as_words(words[start:stop]), beyond, counted)
    assert ({chip: n for chip, n in enumerate(counted.tolist()) if n}, beyond) == naive.chunks_of_chips(words)


@settings(max_examples=N_EXAMPLES, deadline=None)
@given(st.lists(st.one_of(st.integers(0, 4), st.none()), max_size=12), st.integers(0, 3), st.integers(0, 3))
def test_hopping_from_header_to_header_ends_where_none_is(sizes, before, cut):
    """None: a word that is no header."""
    words: list[int] = [1] * before
    headers = []
    sound = True
    for size in sizes:
        sound = sound and size is not None
        if sound:
            headers.append(len(words))
        words += [2] if size is None else [w.chunk_header(0, 8 * size), *[3] * size]
    stop = len(words) if None not in sizes else before + sum(1 + n for n in sizes[: sizes.index(None)])
    words = words[: max(before, len(words) - cut)]
    there = [at for at in headers if at < len(words)]
    behind = stop if len(there) == len(headers) else headers[len(there)]
    assert follow_chunks(as_words(words), before) == (there[-1] if there else -1, behind)
    assert naive.follow_chunks(words, before) == (there[-1] if there else -1, behind)
