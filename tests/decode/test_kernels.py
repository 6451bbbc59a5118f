"""The decoder against its slow twin, and against what was sent."""

from itertools import pairwise

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from ophyd_timepix.decode import CLASSES, Count, Decoder, Framing, Mark, kernels, total
from tests import naive
from tests.strategies import LATENESS, MS, N_EXAMPLES, SECOND, Stream, as_words, cuts, streams

Hits = list[tuple[int, int, int, int, int]]
EXAMPLES = settings(max_examples=N_EXAMPLES, deadline=None)
GENERAL = (0x048, 0x048, 0x048, 0x008, 0x04A, 0x04C, 0x00C)
"""As a run has it; without oscillators; ToA alone; counting, with oscillators and without."""
PHASE = np.array([[(col % 16) or 16 for col in range(128)], *[[-col % 3 for col in range(128)]] * 3], np.int32)


def hits_of(batch) -> Hits:
    pixels = batch.pixels.astype(np.int64)
    columns = batch.ticks, pixels >> 26, (pixels >> 18) & 255, (pixels >> 10) & 255, pixels & 1023
    return list(zip(*(column.tolist() for column in columns), strict=True))


def edges_of(batch):
    columns = batch.edge_ticks, batch.edge_input, batch.edge_falling, batch.edge_counter, batch.edge_chip
    return list(zip(*(column.tolist() for column in columns), strict=True))


def counting_of(batch):
    pixels, sums = batch.counting_pixels.astype(np.int64), batch.counting_sums.astype(np.int64)
    columns = pixels >> 26, (pixels >> 18) & 255, (pixels >> 10) & 255, pixels & 1023, sums >> 14, sums & 0x3FFF
    return list(zip(*(column.tolist() for column in columns), strict=True))


def marks_of(batch, first_word):
    """As the slow twin has them: one for each word that was passed over."""
    found = []
    for kind, chip, word, amount, before, after in batch.marks.tolist():
        if kind in (Mark.RESUMED, Mark.ASTRAY):  # of `tests/pipeline/test_passed_over.py`
            continue
        times = (None if before == kernels.NEVER else before), (None if after == kernels.NEVER else after)
        # A word that another chip confirms comes out at the end of a call at the latest: its place depends on the cuts.
        place = None if kind in (Mark.EPOCH, Mark.WRAP_SUSPECT) else first_word + word
        each = kind in (Mark.UNFRAMED, Mark.FOREIGN_CHIP, Mark.UNKNOWN, Mark.REJECTED_EDGE, Mark.EARLY)
        mark = Mark(kind), chip, amount, *times
        found += [(Mark(kind), chip, 1, *times, place + i) for i in range(amount)] if each else [(*mark, place)]
    return found


def decode(words, places, *, n_chips=1, framing=Framing.TPX3, anchors=None, phase=None, general=(), begin=None):
    decoder = Decoder(framing, n_chips, phase, LATENESS * 96, batch_words=16, general=general)
    decoder.begin(begin)
    hits, edges, late, marks, counting = [], [], [], [], []
    for start, stop in pairwise(places):
        batch = decoder.decode(as_words(words[start:stop]), None if anchors is None else anchors.get(start))
        assert total(decoder.counts, CLASSES) + decoder.held == decoder.counts[Count.WORDS] == stop
        hits += hits_of(batch)
        edges += edges_of(batch)
        late += batch.late_ticks.tolist()
        marks += marks_of(batch, start)
        counting += counting_of(batch)
    batch = decoder.flush()
    decoder.late = late
    decoder.marks = marks + marks_of(batch, 0)
    decoder.counting = counting
    return hits + hits_of(batch), edges + edges_of(batch), decoder


@EXAMPLES
@given(st.data(), st.booleans(), st.booleans())
def test_decoder_equals_its_slow_twin_however_the_words_are_cut(data, bad, framed):
    stream = data.draw(streams(bad=bad, framed=framed))
    places = data.draw(cuts(len(stream.words)))
    phase = PHASE[: stream.n_chips]
    framing = Framing.TPX3 if framed else Framing.RAW
    how = data.draw(st.lists(st.sampled_from(GENERAL), min_size=stream.n_chips, max_size=stream.n_chips))
    options = {"n_chips": stream.n_chips, "framing": framing, "phase": phase, "general": how}
    hits, edges, decoder = decode(stream.words, places, **options)
    twin = naive.NaiveDecoder(framed, stream.n_chips, phase.tolist(), LATENESS, general=how)
    twin.decode(stream.words)
    twin.flush()
    # A word that another chip confirms comes out at the end of a call at the latest: the order depends on the cuts.
    assert sorted(hits) == sorted(twin.hits)
    assert sorted(edges) == sorted(twin.edges)
    assert {count: int(decoder.counts[count]) for count in Count} == twin.counts
    assert decoder.late == twin.late
    assert decoder.counting == twin.counting
    assert sorted(decoder.marks, key=str) == sorted(twin.marks, key=str)
    assert decoder.take_lateness() == twin.worst
    assert decoder.take_lateness() == 0


@EXAMPLES
@given(st.data(), st.booleans())
def test_words_of_before_the_acquisition_are_left_out_as_by_the_slow_twin(data, bad):
    stream = data.draw(streams(bad=bad))
    near = data.draw(st.sampled_from([stream.start, *stream.times]))
    begin = max(0, near + data.draw(st.sampled_from((-SECOND, -LATENESS, -1, 0, 1, LATENESS, LATENESS + 1, SECOND))))
    places = data.draw(cuts(len(stream.words)))
    hits, edges, decoder = decode(stream.words, places, n_chips=stream.n_chips, begin=begin)
    twin = naive.NaiveDecoder(True, stream.n_chips, lateness=LATENESS)
    twin.begin(begin)
    twin.decode(stream.words)
    twin.flush()
    assert sorted(hits) == sorted(twin.hits)
    assert sorted(edges) == sorted(twin.edges)
    assert {count: int(decoder.counts[count]) for count in Count} == twin.counts
    assert sorted(decoder.marks, key=str) == sorted(twin.marks, key=str)
    floor = 96 * (begin - LATENESS) - 15 * 6
    assert all(tick >= floor for tick, *_ in [*hits, *edges])


@EXAMPLES
@given(st.data())
def test_words_later_than_they_can_be_are_refused_as_the_slow_twin_refuses_them(data):
    stream = data.draw(streams(bad=True))
    late = data.draw(st.sampled_from((0, SECOND, 20 * SECOND)))
    decoder = Decoder(n_chips=stream.n_chips, lateness_ticks=LATENESS * 96)
    hits = hits_of(decoder.decode(as_words(stream.words), stream.start, late))
    hits += hits_of(decoder.flush())
    twin = naive.NaiveDecoder(True, stream.n_chips, lateness=LATENESS)
    twin.decode(stream.words, stream.start, stream.start + late + 10_000_000 + (stream.start >> 3))
    twin.flush()
    assert sorted(hits) == sorted(twin.hits)
    assert {count: int(decoder.counts[count]) for count in Count} == twin.counts


def assert_all_found(stream: Stream, hits, edges) -> int:
    """Every hit and edge that was sent came out, all on one time line. Returns its epoch in ticks."""
    expected_edges = sorted((*edge, chip) for edge in stream.edges for chip in range(stream.n_chips))
    assert len(hits) == len(stream.hits)
    assert len(edges) == len(expected_edges)
    expected, found = sorted([*stream.hits, *expected_edges]), sorted([*hits, *edges])
    epoch = expected[0][0] - found[0][0] if found else 0
    assert [(tick + epoch, *rest) for tick, *rest in found] == expected
    return epoch


@EXAMPLES
@given(st.data(), st.sampled_from(((1, 10 * SECOND), (4, 4 * SECOND))))
def test_every_good_word_comes_out_though_nothing_tells_the_epoch(data, limits):
    """A lone word after a silence is held until its chip's next one: four chips can hold four silences in a row."""
    max_chips, max_silence = limits
    stream: Stream = data.draw(streams(max_chips=max_chips, max_silence=max_silence))
    places = data.draw(cuts(len(stream.words)))
    hits, edges, _ = decode(stream.words, places, n_chips=stream.n_chips)
    assert assert_all_found(stream, hits, edges) % (96 << 30) == 0


@EXAMPLES
@given(st.data())
def test_with_anchors_every_good_word_comes_out_at_its_time_after_any_silence(data):
    pauses = (0, 0, 1, 20, 400, LATENESS + 1, MS, SECOND, 25 * SECOND, 300 * SECOND, 7200 * SECOND)
    stream: Stream = data.draw(streams(pauses=pauses, max_silence=1 << 45))
    error = data.draw(st.integers(-3 * SECOND, 3 * SECOND))
    anchors = {i: stream.times[i] + error for i in range(len(stream.words))}
    hits, edges, _ = decode(stream.words, range(len(stream.words) + 1), n_chips=stream.n_chips, anchors=anchors)
    assert assert_all_found(stream, hits, edges) == 0


@EXAMPLES
@given(st.lists(st.integers(0, (1 << 64) - 1), max_size=200), st.integers(1, 4), st.sampled_from(Framing), st.data())
def test_random_words_are_counted_in_exactly_one_class_each(words, n_chips, framing, data):
    places = data.draw(cuts(len(words)))
    _, _, decoder = decode(words, places, n_chips=n_chips, framing=framing)
    assert total(decoder.counts, CLASSES) == len(words)
    assert decoder.counts[Count.UNKNOWN_WORDS] == decoder.unknown.sum()


@EXAMPLES
@given(st.data())
def test_later_batches_never_reach_behind_the_horizon(data):
    stream = data.draw(streams(bad=data.draw(st.booleans())))
    places = data.draw(cuts(len(stream.words)))
    decoder = Decoder(n_chips=stream.n_chips, phase=PHASE[: stream.n_chips], lateness_ticks=LATENESS * 96)
    horizon = -(1 << 63)
    for start, stop in pairwise(places):
        batch = decoder.decode(as_words(stream.words[start:stop]))
        assert all(tick >= horizon for tick in [*batch.ticks, *batch.edge_ticks])
        assert batch.horizon_ticks >= horizon
        horizon = batch.horizon_ticks
    batch = decoder.flush()
    assert all(tick >= horizon for tick in [*batch.ticks, *batch.edge_ticks])
