"""Real recordings: known numbers, no word unaccounted, the same rows however they are cut."""

import os
from pathlib import Path

import numpy as np
import pytest

from ophyd_timepix.config import Metric, Processing
from ophyd_timepix.decode import CLASSES, Count, Decoder, Framing, total
from tests.rows import assert_same_rows, process

DATA = Path(os.environ.get("TIMEPIX_REAL_DATA", "../shared/data"))
QUAD = DATA / "suann_socket_background_serval32.tpx3"
IONS = DATA / "centroid_pipeline_test.raw"
pytestmark = pytest.mark.skipif(not QUAD.exists(), reason=f"no recordings in {DATA} (set TIMEPIX_REAL_DATA)")


def load(path: Path) -> tuple[np.ndarray, Framing, int]:
    words = np.fromfile(path, "<u8")
    return (words, Framing.TPX3, 4) if path == QUAD else (words[1:], Framing.RAW, 1)


def edges(table, channel, falling):
    return int(np.count_nonzero((table["channel"] == channel) & (table["edge"] == falling)))


def test_ions_of_one_chip():
    words, framing, n_chips = load(IONS)
    rows = process(words, Processing(hits=True), framing=framing, n_chips=n_chips)
    triggers = rows.table("triggers")
    assert rows.totals["n_hits"] == 1858
    assert [edges(triggers, channel, falling) for channel in (1, 2) for falling in (0, 1)] == [14, 14, 1100, 1101]
    assert rows.totals["n_centroids"] == 132
    for channel in (1, 2):
        counters = triggers["counter"][triggers["channel"] == channel].astype(int)
        assert set(np.diff(counters) % 4096) == {1}


def test_quad_background():
    words, framing, n_chips = load(QUAD)
    rows = process(words, Processing(), framing=framing, n_chips=n_chips)
    assert rows.totals["n_hits"] == 98_548
    assert len(rows.table("shots")["time"]) == len(rows.table("triggers")["time"]) == 7200
    assert np.diff(rows.table("shots")["time"]).max() < 17e6


@pytest.mark.parametrize(
    "path", [QUAD, IONS, *sorted((DATA / "tpx3awkward").glob("*.tpx3"))], ids=lambda p: p.stem[:20]
)
def test_no_word_is_unaccounted(path):
    words = np.fromfile(path, "<u8")
    framing = Framing.TPX3 if path.suffix == ".tpx3" else Framing.RAW
    decoder = Decoder(framing, 4 if framing is Framing.TPX3 else 1)
    decoder.decode(words)
    decoder.flush()
    assert total(decoder.counts, CLASSES) == len(words)
    for none in (Count.UNFRAMED_WORDS, Count.FOREIGN_CHIP_WORDS, Count.LATE_HITS, Count.JUMPED_HITS):
        assert decoder.counts[none] == 0
    if path == QUAD:
        assert decoder.counts[Count.EDGES] == 28_800


@pytest.mark.parametrize("path", [QUAD, IONS], ids=["quad", "ions"])
@pytest.mark.parametrize("metric", Metric)
def test_rows_do_not_depend_on_how_a_recording_is_cut(path, metric):
    words, framing, n_chips = load(path)
    processing = Processing(hits=True, metric=metric, min_samples=2)
    reference = process(words, processing, framing=framing, n_chips=n_chips)
    for step, partial in ((137, False), (1000, True), (100_000, True)):
        places = [*range(0, len(words), step), len(words)]
        other = process(
            words, processing, framing=framing, n_chips=n_chips, places=places, partial=partial, target_hits=500
        )
        assert_same_rows(reference, other)
