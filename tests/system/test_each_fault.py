"""Faults of the data one by one, against what the simulator says that it did: so many were sent, so many were struck,
the ledger says exactly so many by name, the rows are those that were sent less those that were struck, and each shot
that overlaps the damage is not valid.

Faults that lose whole datagrams are in `test_losses`.
"""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from ophyd_timepix.config import Processing
from ophyd_timepix.pipeline.client import Pipeline
from ophyd_timepix.protocol import Register
from ophyd_timepix.protocol import words as w
from ophyd_timepix.protocol.words import TdcByte
from tests.system.fault_bench import PROCESSING, SCENE, TICK_NS, Taken, bench_with, take

SEED = 1238
"""Of random words: none of the first 350 claims a time in the first 6 s of a run, nor is one a sound trigger edge."""
SEED_HOLDS_TICKS = 6 / 25e-9 * 96
ROWS = PROCESSING.model_copy(update={"hits": True})
PULSED = {**SCENE, "rate": 60_000}
"""What a shot leaves is less than a datagram."""
CONTINUOUS = {**SCENE, "scene": "uniform", "rate": 1_000_000}
"""Hits without a pause: what is late is late by as much as it should be."""
READINGS = 3
"""Of the board's timer: before the shutter opens, once it is open, before it closes."""
WRAP = (1 << w.TOA.width) * 96
COUNTERS = Register.UDP_DATAGRAMS.address, Register.UDP_PAUSED_DATAGRAMS.address, Register.PIXEL_WORDS.at(0)
PAGES = Path(__file__).parents[2] / "docs/explanations"


@pytest.fixture(scope="module")
def pipeline():
    with Pipeline(workers=1, ring_bytes=1 << 24) as pipeline:
        yield pipeline


@pytest.fixture(scope="module")
def bench(pipeline, tmp_path_factory):
    truth = tmp_path_factory.mktemp("pulsed") / "truth.h5"
    with bench_with(pipeline, truth, **PULSED, seed=SEED) as bench:
        yield bench


@pytest.fixture(scope="module")
def continuous(pipeline, tmp_path_factory):
    truth = tmp_path_factory.mktemp("continuous") / "truth.h5"
    with bench_with(pipeline, truth, **CONTINUOUS, seed=SEED) as bench:
        yield bench


def assert_all_came_as_it_was(taken: Taken) -> None:
    assert taken.hits == taken.sent_hits
    assert taken.edges == taken.sent_edges
    assert taken.ledger["hits"] == taken.ledger["sent_pixel_words"] == taken.sent_hits.total()
    assert taken.ledger["lost_datagrams"] == 0


# --- what harms nothing -----------------------------------------------------------------------------------------------
def test_a_stranger_is_counted_datagram_by_datagram_and_none_of_its_words_is_data(bench, tmp_path):
    taken = take(bench, tmp_path, "foreign=20", processing=ROWS)
    assert taken.ledger["wrong_sender_datagrams"] == taken.faults["datagrams"].sum() == len(taken.faults["name"]) >= 5
    assert_all_came_as_it_was(taken)
    assert taken.ledger["verdict"].startswith("complete")
    taken.assert_all_shots_are_valid()


def test_what_is_held_up_on_the_way_comes_all_and_nothing_is_the_worse_for_it(bench, tmp_path):
    taken = take(bench, tmp_path, midway=["burst=0.02"], processing=ROWS)
    assert taken.faults["name"].tolist() == [b"burst"]
    assert taken.faults["datagrams"].sum() > 1
    assert_all_came_as_it_was(taken)
    assert taken.ledger["verdict"].startswith("complete")
    taken.assert_all_shots_are_valid()


def test_each_datagram_that_a_pause_held_is_counted_and_told_and_takes_no_shot(bench, tmp_path):
    taken = take(bench, tmp_path, midway=["pause=0.05"], processing=ROWS)
    (n,) = taken.faults["datagrams"]
    assert taken.ledger["board_pauses"] == n > 1
    losses = taken.losses
    assert set(losses["cause"]) == {b"pause"}
    assert losses["amount"].sum() == n
    assert losses["start"].min() <= taken.faults["first_tick"].min() * TICK_NS
    assert losses["stop"].max() >= taken.faults["last_tick"].max() * TICK_NS
    assert_all_came_as_it_was(taken)
    assert taken.ledger["verdict"].startswith("complete")
    taken.assert_all_shots_are_valid()


@pytest.mark.parametrize("times", [0, 1, 2])
def test_timer_words_are_as_many_as_were_not_lost(bench, tmp_path, times):
    """Two for each reading and two echoes of the chip; the ledger has no name for those that are missing."""
    taken = take(bench, tmp_path, f"lost-timer:{times}", processing=ROWS)
    n_lost = len(taken.faults["name"])
    assert n_lost == (times or READINGS)
    n_came = READINGS - n_lost
    assert taken.ledger["timer_words"] == 2 * n_came
    assert taken.ledger["control_words"] == 2 * n_came + taken.ledger["ends_of_readout"] == 2 * n_came + 1
    assert_all_came_as_it_was(taken)
    taken.assert_all_shots_are_valid()


# --- order ------------------------------------------------------------------------------------------------------------
def test_datagrams_out_of_order_within_the_lateness_bound_lose_nothing(bench, tmp_path):
    """They have no name of their own: what is told is that each of their hits came a millisecond late."""
    taken = take(bench, tmp_path, "reorder=10:5", processing=ROWS.model_copy(update={"lateness_ns": 2e6}))
    assert len(taken.faults["name"]) == 5
    assert_all_came_as_it_was(taken)
    assert taken.ledger["rejected_late_hits"] == taken.ledger["rejected_late_edges"] == 0
    assert taken.ledger["toa_wrap_suspects"] == taken.faults["hits"].sum() == amount(taken, b"wrap")
    taken.assert_touched_shots_are_invalid()
    taken.assert_most_shots_are_valid()


def test_datagrams_out_of_order_beyond_the_lateness_bound_are_counted_word_by_word(bench, tmp_path):
    taken = take(bench, tmp_path, "reorder=10:5", processing=ROWS)
    n_hits, n_edges = taken.faults["hits"].sum(), taken.faults["edges"].sum()
    assert (taken.ledger["rejected_late_hits"], taken.ledger["rejected_late_edges"]) == (n_hits, n_edges)
    assert amount(taken, b"late") == n_hits + n_edges > 5
    assert_only_struck_are_missing(taken)
    taken.assert_touched_shots_are_invalid()
    taken.assert_most_shots_are_valid()


def amount(taken: Taken, cause: bytes) -> int:
    losses = taken.losses
    return int(losses["amount"][losses["cause"] == cause].sum())


def assert_only_struck_are_missing(taken: Taken) -> None:
    """Of what left the board, all hits and edges of struck datagrams and none else; no row is not what left it."""
    for came, sent, kind in ((taken.hits, taken.sent_hits, "hits"), (taken.edges, taken.sent_edges, "edges")):
        missing = sent - came
        assert not came - sent
        assert missing.total() == taken.faults[kind].sum()
        first, last = taken.faults["first_tick"], taken.faults["last_tick"]
        assert all(((first <= tick) & (tick <= last)).any() for *_, tick in missing)


# --- words that are others --------------------------------------------------------------------------------------------
def kinds(words: np.ndarray) -> Counter[str]:
    """What words are, by their class in the ledger."""
    top, header = words >> np.uint64(w.TOP_BYTE.shift), words >> np.uint64(w.HEADER.shift)
    control = {*w.CONTROL_BYTES, w.COMMAND_END_BYTE, w.PACKET_ID_BYTE}
    timer = {w.TIMER_LOW_BYTE, w.TIMER_HIGH_BYTE}
    found: Counter[str] = Counter()
    for byte, nibble in zip(top.tolist(), header.tolist(), strict=True):
        if nibble in (w.PIXEL_DATA_DRIVEN, w.PIXEL_SEQUENTIAL):
            found["pixel_words"] += 1
            found["sequential_words"] += nibble == w.PIXEL_SEQUENTIAL
        elif byte in iter(TdcByte):
            found["rejected_edges"] += 1
        else:
            found["timer_words" if byte in timer else "control_words" if byte in control else "unknown_words"] += 1
    return found


def test_each_word_of_a_corrupt_datagram_is_counted_as_what_it_became_and_none_is_data(bench, tmp_path):
    """Where a random word is by chance a sound one of another kind, the ledger has it there, and one more."""
    taken = take(bench, tmp_path, "corrupt=20:2", processing=ROWS)
    ledger, was, became = taken.ledger, kinds(taken.altered["sent"]), kinds(taken.altered["became"])
    assert len(taken.faults["name"]) == 2
    assert taken.faults["last_tick"].max() < SEED_HOLDS_TICKS  # else a random word may claim to be of the present
    assert became.total() - became["sequential_words"] == taken.faults["words"].sum()
    for name in ("unknown_words", "rejected_edges", "sequential_words"):
        assert ledger[name] == became[name], name
    assert ledger["unknown_words"] > 0
    assert ledger["timer_words"] == 2 * READINGS - was["timer_words"] + became["timer_words"]
    own_control = 2 * READINGS + 1  # the end of the read-out
    assert ledger["control_words"] == own_control - was["control_words"] + became["control_words"]
    assert ledger["altered_words"] == taken.faults["hits"].sum() - became["pixel_words"] > 0
    # A pixel word of another time is no hit.
    out_of_time = ("rejected_time_jumps", "rejected_late_hits", "rejected_early_hits")
    assert sum(ledger[name] for name in out_of_time) == became["pixel_words"]
    assert ledger["hits"] == ledger["sent_pixel_words"] - taken.faults["hits"].sum()
    assert ledger["lost_datagrams"] == 0
    assert_only_struck_are_missing(taken)
    taken.assert_touched_shots_are_invalid()
    taken.assert_most_shots_are_valid()


# --- words that come too late for their stamp -------------------------------------------------------------------------
def late_hits(taken: Taken) -> tuple[np.ndarray, np.ndarray]:
    """Coarse times of late words in ticks: as they were, and as the board stamped them."""
    return coarse(taken.altered["sent"]), coarse(taken.altered["became"])


def coarse(words: np.ndarray) -> np.ndarray:
    spidr, toa = words & np.uint64(w.SPIDR_TIME.mask), (words >> np.uint64(w.TOA.shift)) & np.uint64(w.TOA.mask)
    return ((spidr << np.uint64(w.TOA.width)) | toa).astype(np.int64) * 96


def assert_rows_are_as_stamped(taken: Taken, n: int) -> None:
    """n hits are in the file with a time that is wrong by turns of ToA; all others as they were."""
    was, states = late_hits(taken)
    wrong, right = taken.hits - taken.sent_hits, taken.sent_hits - taken.hits
    assert len(was) == n == wrong.total() == right.total() == taken.faults["hits"].sum()
    turned = Counter((states - was).tolist())
    assert set(turned) <= {WRAP, 2 * WRAP}  # twice where the word was late by itself
    assert (
        sum(tick for *_, tick in wrong.elements()) - sum(tick for *_, tick in right.elements()) == (states - was).sum()
    )
    assert taken.edges == taken.sent_edges
    assert taken.ledger["hits"] == taken.ledger["sent_pixel_words"]


def suspects_of(recording: Path) -> int:
    """Hits of a recording of one chip that came more than 384 us after a newer one."""
    words = np.fromfile(recording, np.uint64)
    header = words >> np.uint64(w.HEADER.shift)
    is_hit = header == w.PIXEL_DATA_DRIVEN
    edge = (((words >> np.uint64(w.TDC_TIME.shift)) & np.uint64(w.TDC_TIME.mask)) >> np.uint64(3)).astype(np.int64) * 96
    is_edge = header == TdcByte.TDC1_RISING >> 4
    ticks = np.where(is_hit, coarse(words), edge)[is_hit | is_edge]
    late = np.maximum.accumulate(ticks) - ticks > 384 * 40 * 96
    return int(np.count_nonzero(late & is_hit[is_hit | is_edge]))


def test_hits_late_by_a_turn_that_show_it_are_counted_and_no_shot_near_them_is_valid(continuous, tmp_path):
    """806 us: the stamp is a turn too late, and what is left of the lateness, 396 us, is told by those behind it."""
    taken = take(continuous, tmp_path, midway=["late=806:300"], processing=Processing(hits=True), n_shots=60)
    assert_rows_are_as_stamped(taken, 300)
    n = taken.ledger["toa_wrap_suspects"]
    assert n == suspects_of(tmp_path / "run.tpx3") == amount(taken, b"wrap") > 0
    assert taken.ledger["verdict"].startswith(f"doubtful: {n} hits so late that their time may be wrong by 409.6 µs")
    taken.assert_touched_shots_are_invalid()
    _, states = late_hits(taken)
    valid = taken.shots["valid"]
    assert not valid[taken.touched(states.min(), states.max())].any()  # where they are said to be, too
    taken.assert_most_shots_are_valid()


def test_a_hit_late_by_a_turn_that_looks_in_its_place_is_told_by_nothing_as_the_pages_say(continuous, tmp_path):
    """500 us: 90 us are left, as of many a sound hit. What cannot be known is claimed nowhere."""
    taken = take(continuous, tmp_path, midway=["late=500:50"], processing=Processing(hits=True), n_shots=60)
    assert_rows_are_as_stamped(taken, 50)
    assert taken.ledger["toa_wrap_suspects"] == taken.ledger["loss_intervals"] == 0
    assert taken.ledger["verdict"].startswith("complete")
    taken.assert_all_shots_are_valid()
    assert "under no name" in (PAGES / "loss-ledger.md").read_text()
    assert "nothing in the word tells" in (PAGES / "time.md").read_text()


# --- the board's counters ---------------------------------------------------------------------------------------------
def test_the_boards_counters_roll_over_and_a_loss_is_counted_as_ever(bench, tmp_path):
    start = 10
    bench.sim.fault(f"counter-roll={start}")
    assert [bench.board.read_register(counter) for counter in COUNTERS] == [(1 << 32) - start] * len(COUNTERS)
    taken = take(bench, tmp_path, "drop-at=60:2", midway=["pause=0.05"], processing=ROWS)
    datagrams, paused, pixel_words = (start + bench.board.read_register(counter) for counter in COUNTERS)
    lost = taken.faults["name"] == b"drop-at"
    assert taken.ledger["lost_on_the_way"] == taken.ledger["lost_datagrams"] == lost.sum() == 2
    assert taken.ledger["sent_datagrams"] == datagrams - 1  # its timer was read when the files had been opened
    assert taken.ledger["sent_pixel_words"] == pixel_words == taken.sent_hits.total()
    assert taken.ledger["board_pauses"] == paused == taken.faults["datagrams"][~lost].sum() > start
    assert taken.ledger["hits"] == taken.ledger["sent_pixel_words"] - taken.faults["hits"][lost].sum()
    taken.assert_touched_shots_are_invalid(lost)
