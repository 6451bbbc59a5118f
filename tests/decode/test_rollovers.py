"""Every roll-over, crossed at every place of a call; silences; and what cannot be decided is said."""

from itertools import pairwise, product

import numpy as np
import pytest

from ophyd_timepix.decode import Count, Decoder, Framing, Mark, kernels
from ophyd_timepix.protocol import words as w
from tests.strategies import LATENESS, SECOND, as_words, edge_word, hit_word, timer_words

WRAPS = {"26.8 s": 1 << 30, "107 s": 1 << 32, "48 bit": 1 << 48}
SILENCES = (LATENESS + 1, 3 * SECOND, 10 * SECOND)
LATE = (0, LATENESS)
TIMERS = {"both halves": (0, 1), "low lost": (1,), "high lost": (0,), "both lost": (), "swapped": (1, 0)}


def crossing(wrap: int, silence: int, late: int, halves: tuple[int, ...], n_chips: int):
    """Words around a roll-over, with their times: hits, the second one late, an edge on every chip, timer words."""
    words, hits, edges = [], [], []
    for i, time in enumerate((wrap - silence - 9, wrap - 9, wrap - 1, wrap + silence, wrap + 2 * silence)):
        for chip in range(n_chips):
            sent = [hit_word(time, 3, 1, 1, 1), hit_word(time - late, 0, 2, 2, 2), edge_word(time, 1, 2, 0x6F, i)]
            hits += [time * 96 - 18, (time - late) * 96]
            edges += [time * 96 + 13]
            sent += [timer_words(time + 4)[half] for half in halves]
            words += [w.chunk_header(chip, 8 * len(sent)), *sent]
    return words, hits, edges


@pytest.mark.parametrize("n_chips", [1, 2])
@pytest.mark.parametrize("timers", TIMERS.values(), ids=TIMERS)
@pytest.mark.parametrize("wrap", WRAPS.values(), ids=WRAPS)
def test_each_roll_over_at_each_place_of_a_call(wrap, timers, n_chips):
    for silence, late in product(SILENCES, LATE):
        words, hits, edges = crossing(wrap, silence, late, timers, n_chips)
        words = as_words(words)
        for cut in range(len(words) + 1):
            decoder = Decoder(Framing.TPX3, n_chips, lateness_ticks=LATENESS * 96, batch_words=64)
            found_hits, found_edges = [], []
            for part, anchor in ((words[:cut], wrap - silence), (words[cut:], None)):
                batch = decoder.decode(part, anchor)
                found_hits += batch.ticks.tolist()
                found_edges += batch.edge_ticks.tolist()
            batch = decoder.flush()
            assert sorted([*found_hits, *batch.ticks.tolist()]) == sorted(hits), (silence, late, cut)
            assert sorted([*found_edges, *batch.edge_ticks.tolist()]) == sorted(edges)
            assert decoder.counts[Count.EPOCH_UNCERTAIN] == 0


def stream(times, make):
    decoder = Decoder(Framing.RAW, 1, lateness_ticks=LATENESS * 96)
    words = [word for i, time in enumerate(times) for word in make(i, time)]
    batch = decoder.decode(as_words(words))
    marks = batch.marks[batch.marks[:, kernels.M_KIND] == Mark.EPOCH].tolist()
    found = [*batch.ticks.tolist(), *batch.edge_ticks.tolist()]
    rest = decoder.flush()
    return sorted([*found, *rest.ticks.tolist(), *rest.edge_ticks.tolist()]), marks, decoder


def pair(i, time):
    return hit_word(time, 0, 1, 1, 1), hit_word(time + 5, 0, 1, 1, 1)


def lone(i, time):
    return (hit_word(time, 0, 1, 1, 1),)


def with_timer(i, time):
    return (*timer_words(time), *pair(i, time))


def edges(i, time):
    return edge_word(time, 0, 1, 0x6F, 2 * i), edge_word(time + 5, 0, 1, 0x6A, 2 * i + 1)


HOURS = 3 * 3600 * SECOND
PAUSES = {
    "lone hits, 10 s": (lone, 10),
    "hits, 13 s": (pair, 13),
    "edges, 50 s": (edges, 50),
    "timer words, an hour": (with_timer, 3600),
}


@pytest.mark.parametrize(("make", "pause_s"), PAUSES.values(), ids=PAUSES)
def test_a_sparse_stream_of_hours_keeps_its_time(make, pause_s):
    times = range(0, HOURS, pause_s * SECOND)
    found, marks, decoder = stream(times, make)
    each = [0] if make is lone else [0, 5 * 96]
    assert found == [time * 96 + more for time in times for more in each]
    assert (marks, decoder.counts[Count.EPOCH_UNCERTAIN]) == ([], 0)


UNDECIDED = {"hits, 14 s": (pair, 14), "hits, 20 s": (pair, 20), "edges, 60 s": (edges, 60), "edges, 95 s": (edges, 95)}


@pytest.mark.parametrize(("make", "pause_s"), UNDECIDED.values(), ids=UNDECIDED)
def test_a_silence_above_half_a_turn_is_counted_and_marked_where_nothing_else_tells(make, pause_s):
    times = [i * pause_s * SECOND for i in range(9)]
    found, marks, decoder = stream(times, make)
    assert found == [time * 96 + more for time in times for more in (0, 5 * 96)]
    assert decoder.counts[Count.EPOCH_UNCERTAIN] == 8
    ends = [(mark[kernels.M_BEFORE], mark[kernels.M_AFTER]) for mark in marks]
    assert ends == [(before + 5, after) for before, after in pairwise(times)]


def test_with_the_hosts_clock_no_silence_is_undecided():
    decoder = Decoder(Framing.RAW, 1, lateness_ticks=LATENESS * 96)
    for hour in range(100):
        time = hour * 3600 * SECOND
        assert (decoder.decode(as_words(pair(0, time)), time + SECOND).ticks // 96).tolist() == [time, time + 5]
    assert decoder.counts[Count.EPOCH_UNCERTAIN] == 0


def test_the_silence_before_a_timer_word_is_undecided_as_long_as_the_timer_itself_is_unknown():
    words = [*pair(0, 0), *timer_words(20 * SECOND), *pair(0, 20 * SECOND), *timer_words(900 * SECOND)]
    decoder = Decoder(Framing.RAW, 1, lateness_ticks=LATENESS * 96)
    found = decoder.decode(as_words([*words, *pair(0, 901 * SECOND)])).ticks // 96
    assert found.tolist() == [t * SECOND + more for t in (0, 20, 901) for more in (0, 5)]
    assert decoder.counts[Count.EPOCH_UNCERTAIN] == 1


def test_ticks_do_not_overflow_though_the_timer_runs_over():
    start = (1 << 48) - 7 * SECOND
    decoder = Decoder(Framing.RAW, 1)
    found = []
    for i in range(200):
        found += decoder.decode(as_words(pair(0, start + i * 3600 * SECOND)), start + i * 3600 * SECOND).ticks.tolist()
    assert found[0] == start * 96
    assert np.diff(found).tolist() == [5 * 96, 3600 * SECOND * 96 - 5 * 96] * 199 + [5 * 96]
