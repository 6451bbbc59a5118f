"""The scene `load`: exactly as many words as asked for, at the times that they state, and counted as they leave."""

from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from ophyd_timepix.protocol import column_phase
from spidr_sim.data_faults import DataFaults
from spidr_sim.faults import DataFault
from spidr_sim.load import LoadSource
from spidr_sim.scenes import SceneSettings
from spidr_sim.settings import ONE_PHASE_PLL, ChipSettings, Readout
from spidr_sim.source import Departures
from spidr_sim.synth import joined
from tests.sim import slow_decoder as slow
from tests.sim.test_source import collected, pieces
from tests.sim.test_udp import columns, rig, summary

MS = 40_000
NO_PHASE = np.zeros(128, np.int64)
WRAP_MS = 26_843.5456
Words = npt.NDArray[np.uint64]


@cache
def made(rate_hz: float, n_chips: int, shot_rate_hz: float) -> LoadSource:
    """A source; its templates are costly, and opening it begins anew."""
    settings = SceneSettings.chosen("load", rate_hz=rate_hz, n_chips=n_chips, shot_rate_hz=shot_rate_hz)
    return LoadSource(settings, keep_truth=True)


def opened(
    rate_hz: float = 1e6, n_chips: int = 1, shot_rate_hz: float = 1000.0, at_counts: int = 0, pll: int = ONE_PHASE_PLL
) -> LoadSource:
    source = made(rate_hz, n_chips, shot_rate_hz)
    source.trigger_faults = DataFaults([], "", 0, lambda: 0.0).triggers
    for chip in range(n_chips):
        source.set_chip(chip, ChipSettings(pll=pll))
        source.set_filter(chip, 0xFFFF)
    source.open(0, at_counts)
    return source


def pixels(words: Words) -> Words:
    return words[slow.is_pixel(words)]


@pytest.mark.parametrize(("rate_hz", "n_chips"), [(1e6, 1), (1e6, 2), (5e6, 4), (80e6, 1)])
def test_the_rate_is_exact(rate_hz: float, n_chips: int) -> None:
    source = opened(rate_hz, n_chips)
    source.advance()  # what was late before comes from the second slice on
    period = source._n_slices
    counts = np.array([source.advance().pixel_words for _ in range(2 * period)])
    np.testing.assert_array_equal(counts.sum(axis=0), [round(2 * period * rate_hz / 1000 / n_chips)] * n_chips)


def test_words_come_again_with_the_time_of_their_slice() -> None:
    source = opened(shot_rate_hz=0.0)
    source.advance()
    period = source._n_slices
    slices = [source.advance().of_chip(0).copy() for _ in range(period + 5)]
    for k in range(5):
        first, again = (slow.hits(slices[i], NO_PHASE, i * MS * 96) for i in (k, k + period))
        np.testing.assert_array_equal(again - first, [[0, 0, 0, period * MS * 96]] * len(first))
    # Counting words once: all are different hits.
    everything = np.concatenate(slices)
    assert np.unique(everything).size == everything.size


@pytest.mark.parametrize("open_ms", [0, 3.21, WRAP_MS - 5.5, 3 * WRAP_MS + 0.1])
def test_the_gate_is_exact_and_the_counters_are_those_of_the_words(open_ms: float) -> None:
    opening = round(open_ms * MS)
    closing = opening + round(12.34 * MS)
    source = opened(2e6, 2, 5000.0, at_counts=opening)
    leaving = [copied(departures) for departures in pieces(source, 7, closing)]
    truth = joined([departures.truth for departures in leaving if departures.truth is not None])
    for chip, words in enumerate(collected(iter(leaving), 2)):
        hits, edges = slow.hits(words, NO_PHASE, opening * 96), slow.edges(words, opening * 96)
        assert opening * 96 <= hits[:, 3].min() < hits[:, 3].max() < closing * 96
        assert len(hits) == sum(departures.pixel_words[chip] for departures in leaving)
        np.testing.assert_array_equal(slow.as_rows(edges), slow.as_rows(truth.edges))
        assert words.size == len(hits) + len(edges)
        assert len(hits) == pytest.approx(1e6 * 12.34e-3, rel=0.1)
    assert truth.n_hits == sum(sum(departures.pixel_words) for departures in leaving)
    assert len(truth.edges) == sum(departures.n_edges for departures in leaving)
    rising = (truth.edges[:, 0] == 1) & (truth.edges[:, 1] == 0)
    np.testing.assert_array_equal(truth.shot_ticks, truth.edges[rising, 3])


def copied(departures: Departures) -> Departures:
    return Departures(
        departures.words.copy(), departures.borders, departures.pixel_words, departures.n_edges, departures.truth
    )


def test_the_same_words_leave_however_often_it_is_asked() -> None:
    once, often = (collected(pieces(opened(at_counts=777), n, 9 * MS + 55), 1)[0] for n in (0, 8))
    np.testing.assert_array_equal(once, often)


def test_words_leave_out_of_order_by_less_than_the_wrap_and_edges_in_their_place() -> None:
    source = opened(10e6, shot_rate_hz=100_000.0)
    words = collected(source.finish(20 * MS), 1)[0]
    ticks = slow.hits(words, NO_PHASE)[:, 3]
    behind_us = (np.maximum.accumulate(ticks) - ticks) / 3840
    assert 100 < behind_us.max() < 350
    # The newest hit before an edge is not far from it in time.
    places = np.flatnonzero(~slow.is_pixel(words))[20:-20]
    hits_before = np.cumsum(slow.is_pixel(words))[places] - 1
    newest = np.maximum.accumulate(ticks)[hits_before]
    assert np.abs(newest - slow.edges(words)[20:-20, 3]).max() / 3840 < 60


def test_a_chip_with_column_phases_states_other_fields_and_the_same_times() -> None:
    plain = collected(opened(pll=ONE_PHASE_PLL).finish(10 * MS), 1)[0]
    phased = collected(opened(pll=0x11E).finish(10 * MS), 1)[0]
    assert np.any(plain != phased)
    np.testing.assert_array_equal(
        slow.hits(plain, np.array(column_phase(ONE_PHASE_PLL))), slow.hits(phased, np.array(column_phase(0x11E)))
    )


def test_a_dead_chip_and_a_filter_are_obeyed() -> None:
    source = opened(2e6, 2)
    source.set_chip(0, ChipSettings(alive=False), at_counts=2 * MS)
    source.set_filter(1, 1 << 0x6, at_counts=4 * MS)
    leaving = [copied(departures) for departures in pieces(source, 0, 8 * MS)]
    counts = np.array([departures.pixel_words for departures in leaving])
    assert np.all(counts[:2] > 0)
    assert not counts[2:, 0].any()
    assert np.all(counts[2:4, 1] > 0)
    assert not counts[4:, 1].any()
    assert slow.edges(np.concatenate([departures.of_chip(1) for departures in leaving[4:]])).size
    assert not np.concatenate([departures.of_chip(0) for departures in leaving[2:]]).size


def test_own_words_of_a_chip_leave_once() -> None:
    source = opened(2e6, 2)
    source.advance()
    source.inject(1, MS, (0x71A0 << 48, 0x4400 << 48))
    words = collected(source.finish(5 * MS), 2)
    own = [part[(part >> np.uint64(60) == 4) | (part >> np.uint64(60) == 7)].tolist() for part in words]
    assert own == [[], [0x71A0 << 48, 0x4400 << 48]]


def test_triggers_can_be_missed_here_too() -> None:
    source = opened(2e6)
    faults = DataFaults([], "", 0, lambda: 0.0)
    source.trigger_faults = faults.triggers
    faults.arm(DataFault.parse("miss-trigger=4"))
    edges = slow.edges(collected(source.finish(20 * MS), 1)[0])
    mine = edges[edges[:, 0] == 1]
    assert len(mine) == 30
    np.testing.assert_array_equal(mine[:, 2], np.arange(30))
    assert len(faults.strikes) == 5


@pytest.mark.parametrize("datagram_bytes", [8960, 1400])
def test_registers_and_truth_count_what_arrives(tmp_path: Path, datagram_bytes: int) -> None:
    path = tmp_path / "truth.h5"
    with rig(scene="load", rate_hz=2e6, truth=path, datagram_bytes=datagram_bytes) as r:
        r.streams.readout(Readout.DATA_DRIVEN)
        r.expose()
        sent = r.streams.counters()
        totals, acquisitions, triggers = summary(path), columns(path, "acquisitions"), columns(path, "triggers")
        datagrams, words = r.listeners[0].datagrams, r.listeners[0].words()
    n_pixels = int(np.count_nonzero(slow.is_pixel(words)))
    assert sent.datagrams == len(datagrams) == totals["datagrams"]
    assert sent.pixel_words == (n_pixels,)
    assert totals["hits"] == acquisitions["hits"].sum() == n_pixels
    assert totals["words"] == words.size
    assert sent.tdc_triggers == len(slow.edges(words)) == triggers["tick"].size == totals["triggers"]
    assert n_pixels + sent.tdc_triggers + 1 == words.size


def test_a_chip_that_sends_many_datagrams_fills_each_and_no_word_waits_longer_than_a_slice() -> None:
    words_per_datagram, advances, close = 175, 20, 20 * MS + 5
    plain = collected(pieces(opened(4e6, n_chips=2), advances, close), 2)
    filling = opened(4e6, n_chips=2)
    filling.datagram_words = words_per_datagram
    sizes: list[int] = []
    counted = np.zeros(2, int)

    def leaving() -> Iterator[Departures]:
        for departures in pieces(filling, advances, close):
            sizes.extend(departures.of_chip(chip).size for chip in range(2))
            counted[:] += departures.pixel_words
            yield departures

    try:
        found = collected(leaving(), 2)
    finally:
        filling.datagram_words = 0
    assert all(size % words_per_datagram == 0 for size in sizes[: 2 * advances])
    for mine, expected in zip(found, plain, strict=True):
        np.testing.assert_array_equal(mine, expected)
    assert counted.tolist() == [pixels(words).size for words in plain]
