"""Garbage of every kind through decoder, builder and centroiding: no crash, no hang, no word and no hit uncounted."""

import resource
import time
from collections.abc import Iterator

import numpy as np
import pytest

from ophyd_timepix.config import Geometry, Metric, Processing
from ophyd_timepix.decode import CLASSES, Count, Decoder, Framing, total
from ophyd_timepix.events import BlockArrays, BlockBuilder, CentroidFinder
from tests import garbage

CALL = 1 << 16
"""Words given to the decoder at once."""
FULL = Processing(trigger_period_ns=1e6, tof_max_ns=50_000.0, min_size=2)
DBSCAN = Processing(hits=True, min_samples=3, metric=Metric.ELLIPSOID)
WAYS = (
    (1, Framing.TPX3, False, FULL),
    (4, Framing.TPX3, True, DBSCAN),
    (1, Framing.RAW, True, FULL),
    (1, Framing.RAW, False, DBSCAN),
)
"""Chips, framing, whether the host's clock tells the epoch, processing."""
STEP_COUNTS = 1 << 26
"""From one acquisition to the next, 25 ns: 1.7 s."""


class Chain:
    """Decoder, builder and centroiding of one endless stream, and what they counted."""

    def __init__(self, name: str, way: tuple[int, Framing, bool, Processing], block: BlockArrays) -> None:
        self.n_chips, self.framing, self.anchored, processing = way
        self.name = f"{name}, {self.n_chips} chips, {self.framing.name}, {'' if self.anchored else 'not '}anchored"
        self.decoder = Decoder(self.framing, self.n_chips)
        self.builder = BlockBuilder(processing, self.n_chips)
        self._finder = CentroidFinder(processing, Geometry.for_chips(self.n_chips).table())
        self._block = block
        self.given = 0
        self.most_pending = 0
        self.sums = dict.fromkeys(("hits", "filtered", "clustered", "noise", "small", "edges"), 0)

    def add(self, words: np.ndarray, anchor: int) -> None:
        """An acquisition."""
        for start in range(0, words.size, CALL):
            self._build(self.decoder.decode(words[start : start + CALL], anchor if self.anchored else None))
        self.given += words.size
        assert total(self.decoder.counts, CLASSES) + self.decoder.held == self.given
        self._build(self.decoder.flush())
        more = True
        while more:
            more = self.builder.flush(self._block)
            self._take()
        self.builder.take_gaps()
        self.assert_all_is_counted()

    def forget(self) -> None:
        """Of many chains the counts stay."""
        del self.builder, self._finder, self._block

    def _build(self, batch) -> None:
        self.builder.add(batch)
        while self.builder.take(self._block):
            self._take()
        self.most_pending = max(self.most_pending, self.builder.pending_hits)
        self.builder.take_gaps()

    def _take(self) -> None:
        self._finder.process(self._block)
        header, sums = self._block.header, self.sums
        assert header.n_hits or header.n_edges or header.n_closed or header.n_filtered or header.last, "no progress"
        assert np.isfinite(self._block.centroid_columns()["toa"]).all()
        sums["hits"] += header.n_hits
        sums["filtered"] += header.n_filtered
        sums["clustered"] += header.n_clustered
        sums["noise"] += header.n_noise
        sums["small"] += header.n_small_hits
        sums["edges"] += header.n_edges

    def assert_all_is_counted(self) -> None:
        """Every word is in one class, every hit and edge in one block, every hit of a block has one fate."""
        counts, sums = self.decoder.counts, self.sums
        assert total(counts, CLASSES) == self.given == counts[Count.WORDS]
        assert counts[Count.UNKNOWN_WORDS] == self.decoder.unknown.sum()
        assert counts[Count.HITS] == sums["hits"] + sums["filtered"]
        assert sums["hits"] == sums["clustered"] + sums["noise"] + sums["small"]
        assert counts[Count.EDGES] == sums["edges"] + self.builder.repeated_edges


def feed(n_words: int, piece: int) -> list[Chain]:
    """About so many words in all; an acquisition has `piece` of them."""
    return [chain for kind in garbage.KINDS for chain in _feed_kind(kind, n_words, piece)]


def _feed_kind(kind: str, n_words: int, piece: int) -> Iterator[Chain]:
    share, make = garbage.KINDS[kind]
    rng = np.random.default_rng(20)
    block = BlockArrays()
    for way in WAYS:
        chain = Chain(kind, way, block)
        n = round(n_words * share / len(WAYS))
        for turn, begin in enumerate(range(0, n, piece)):
            start = (1 << 29) + turn * STEP_COUNTS
            words = make(rng, min(piece, n - begin), start)
            if chain.framing is Framing.TPX3 and turn % 8 != 7:
                words = garbage.in_datagrams(rng, words, chain.n_chips)
            chain.add(words, start)
        chain.forget()
        yield chain


def test_a_million_words_of_garbage_are_each_counted_once():
    assert sum(chain.given for chain in feed(1_000_000, 50_000)) >= 1_000_000


@pytest.mark.soak
def test_a_hundred_million_words_of_garbage_are_each_counted_once_in_bounded_memory():
    feed(8_000_000, 1_000_000)
    before_mb = _peak_mb()
    begin = time.monotonic()
    chains = feed(100_000_000, 1_000_000)
    seconds = time.monotonic() - begin
    grown_mb = _peak_mb() - before_mb
    for chain in chains:
        told = {count.name: int(n) for count, n in zip(Count, chain.decoder.counts, strict=True) if n}
        print(f"{chain.name}: {chain.most_pending:,} pending at most, {chain.sums}, {told}")
    given = sum(chain.given for chain in chains)
    print(f"{given:,} words in {seconds:.0f} s; {grown_mb:.0f} MB more memory than after 8,000,000")
    assert given >= 100_000_000
    assert grown_mb < 300


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
