"""A loss in the stream has a beginning and an end in time; one on the way is placed when the acquisition has ended."""

import numpy as np
import pytest

from ophyd_timepix.decode import Mark, kernels
from ophyd_timepix.decode.decoder import SKEW_TICKS
from ophyd_timepix.events.triggers import Irregular
from ophyd_timepix.events.validity import Gap
from ophyd_timepix.pipeline.locating import Way
from ophyd_timepix.pipeline.losses import (
    ALWAYS,
    CHUNKS_WAITED,
    FINE_TICKS,
    READINGS_MAX,
    SPANS_MAX,
    Losses,
    LossSpan,
    Sums,
)
from ophyd_timepix.spool.index import Loss, Poll
from ophyd_timepix.spool.sources import Slice

LATENESS = 100
BOUND = LATENESS + FINE_TICKS
NEVER = -(1 << 40)


def piece(address=0, losses=(), poll=None, *, is_base=False) -> Slice:
    return Slice(np.zeros(4, np.uint64), None, address, tuple(losses), poll, is_base=is_base)


def times(*newest) -> np.ndarray:
    return np.array(newest, np.int64)


class Told:
    """What the builder was told."""

    def __init__(self) -> None:
        self.spans: list[tuple[int, int]] = []
        self.losses = Losses(0, LATENESS, lambda low, high: self.spans.append((low, high)))


def test_a_loss_lasts_from_the_lateness_before_it_to_the_lateness_after_the_next_words_of_its_chip():
    told = Told()
    told.losses.before(piece(losses=[Loss(1, "kernel", 3)]), times(9000, 5000), 4000)
    told.losses.after(times(9900, 5000))
    assert told.losses.waiting
    told.losses.after(times(9950, 5500))
    low, high = 5000 - BOUND, 5500 + BOUND
    assert told.spans == [(low, high)]
    assert told.losses.spans(None, 0) == [LossSpan("kernel", 1, 3, low, high)]
    assert not told.losses.waiting


def test_in_a_sparse_stream_a_loss_lasts_to_the_word_that_is_not_confirmed_yet():
    told = Told()
    told.losses.before(piece(losses=[Loss(0, "kernel", 1)]), times(1000), 900)
    told.losses.after(times(1000), times(40_000))  # the word that came before the loss is held still
    assert told.losses.waiting
    told.losses.after(times(40_000), times(80_000))
    assert told.spans == [(1000 - BOUND, 80_000 + BOUND)]


def test_a_loss_before_the_first_word_reaches_back_to_the_beginning_and_one_behind_the_last_to_the_end():
    told = Told()
    told.losses.before(piece(losses=[Loss(0, "malformed", 1)]), times(NEVER), NEVER)
    told.losses.after(times(500))
    told.losses.before(piece(losses=[Loss(0, "kernel", 2)]), times(700), 600)
    told.losses.end()
    assert told.spans == [(NEVER - BOUND, 500 + BOUND), (700 - BOUND, ALWAYS)]


@pytest.mark.parametrize("together", [True, False])
def test_hits_that_are_late_by_nearly_a_turn_mark_a_turn_around_them_however_words_are_cut(together):
    counts = [50_000, 50_000 - 7_000, 50_000 + 7_000, 150_000]
    marks = np.zeros((len(counts), kernels.N_MARK), np.int64)
    marks[:, kernels.M_KIND], marks[:, kernels.M_CHIP], marks[:, kernels.M_AFTER] = Mark.WRAP_SUSPECT, 1, counts
    told, reach = Told(), 16_384 * 96 + BOUND
    for part in [marks] if together else np.split(marks, len(marks)):
        told.losses.wraps(part)
    first = LossSpan("wrap", 1, 3, 43_000 * 96 - reach, 57_000 * 96 + reach)
    second = LossSpan("wrap", 1, 1, 150_000 * 96 - reach, 150_000 * 96 + reach)
    assert told.losses.spans(None, 0) == [first, second]
    assert (min(told.spans)[0], max(told.spans)[1]) == (first.low_ticks, second.high_ticks)


def test_what_has_no_chip_may_touch_any():
    told = Told()
    told.losses.before(piece(losses=[Loss(-1, "unrecorded", 9)]), times(700, 900), 600)
    told.losses.end()
    assert told.spans == [(600, ALWAYS)]


def test_a_loss_on_the_way_lies_between_the_readings_that_enclose_it():
    told = Told()
    for k in range(1, 6):  # ten datagrams between two readings; three of the fourth ten are lost
        lost = 3 * (k >= 4)
        poll = Poll(10 * k, 10 * k - lost, 10 * k - lost)
        told.losses.before(piece(100 * k, poll=poll), times(1000 * k), 1000 * k - LATENESS)
        told.losses.after(times(1000 * k + 50))
    assert told.losses.spans(Way(0, 0, 55, 52), 550) == [LossSpan("way", -1, 3, 2900, 4050 + BOUND)]
    assert told.spans == []


def test_nothing_is_lost_on_the_way_when_counts_agree_or_are_unknown():
    told = Told()
    assert told.losses.spans(Way(10, 7, 20, 17), 10) == []
    assert told.losses.spans(None, 10) == []


def test_without_readings_a_loss_on_the_way_may_lie_anywhere():
    told = Told()
    assert told.losses.spans(Way(10, 7, 20, 16), 10) == [LossSpan("way", -1, 1, -ALWAYS, ALWAYS)]


def test_the_list_of_spans_does_not_grow_for_ever_and_joins_what_comes_later():
    told = Told()
    told.losses.gaps([Gap(1, 2, 10 * k, 10 * k + 1) for k in range(SPANS_MAX + 5)])
    told.losses.late(times(1, 10**9))
    spans = told.losses.spans(None, 0)
    edges = [span for span in spans if span.cause == "tdc"]
    assert len(edges) == SPANS_MAX
    assert sum(span.amount for span in edges) == 2 * (SPANS_MAX + 5)
    assert edges[-1].high_ticks == 10 * (SPANS_MAX + 4) + 1
    assert sum(span.amount for span in spans if span.cause == "late") == 2


def test_triggers_that_are_missing_or_too_many_have_rows_like_losses():
    """Those that are missing before the first are told last, and are joined to none that is not near."""
    told = Told()
    told.losses.triggers([Irregular(True, 2, 50, 60), Irregular(False, 1, 70, 71), Irregular(True, 1, 90, 90)])
    told.losses.triggers([Irregular(True, 3, 0, 30), Irregular(True, 4, 100, ALWAYS)])
    assert told.losses.spans(None, 0) == [
        LossSpan("trigger", -1, 3, 0, 30),
        LossSpan("trigger", -1, 2, 50, 60),
        LossSpan("double", -1, 1, 70, 71),
        LossSpan("trigger", -1, 1, 90, 90),
        LossSpan("trigger", -1, 4, 100, ALWAYS),
    ]
    assert told.spans == [], "the builder knows it already"


def test_losses_of_a_kind_that_touch_are_one():
    told = Told()
    told.losses.gaps([Gap(1, 1, 0, 10), Gap(1, 1, 10, 20), Gap(1, 1, 30, 40)])
    assert told.losses.spans(None, 0) == [LossSpan("tdc", -1, 2, 0, 20), LossSpan("tdc", -1, 1, 30, 40)]


def test_of_readings_that_are_thinned_out_the_nearest_that_is_kept_is_used():
    told = Told()
    for k in range(1, READINGS_MAX + 1000):
        lost = k > READINGS_MAX
        told.losses.before(piece(100 * k, poll=Poll(10 * k, 10 * k - lost, 10 * k - lost)), times(1000 * k), 1000 * k)
        told.losses.after(times(1000 * k + 50))
    n = 10 * (READINGS_MAX + 1000)
    (span,) = told.losses.spans(Way(0, 0, n, n - 1), 100 * n)
    assert 1000 * (READINGS_MAX - 4) <= span.low_ticks < 1000 * (READINGS_MAX + 1) <= span.high_ticks


def test_late_words_that_lie_near_each_other_make_one_span():
    told = Told()
    told.losses.late(times(10_000_000, 9_000_000))
    told.losses.late(times(8_000_000, 100_000_000))
    assert told.losses.spans(None, 0) == [
        LossSpan("late", -1, 3, 8_000_000, 10_000_000),
        LossSpan("late", -1, 1, 100_000_000, 100_000_000),
    ]


def test_a_chip_that_stays_silent_is_not_waited_for_beyond_some_chunks_of_the_others():
    told = Told()
    told.losses.before(piece(losses=[Loss(1, "kernel", 1)]), times(9000, 5000), 4000)
    for k in range(CHUNKS_WAITED):
        assert told.losses.waiting
        told.losses.after(times(9000 + k, 5000))
    assert told.spans == [(5000 - BOUND, 9000 + CHUNKS_WAITED - 1 + SKEW_TICKS + BOUND)]


def readings_of_words(told: Told, sent_words, came_words) -> None:
    """One reading for every ten datagrams, of which none is missing; but words of them are."""
    for k, (sent, came) in enumerate(zip(sent_words, came_words, strict=True), 1):
        poll = Poll(10 * k, 10 * k, 10 * k, 500 + sent)
        told.losses.before(piece(100 * k, poll=poll), times(1000 * k), 1000 * k - LATENESS, Sums(words=came))
        told.losses.after(times(1000 * k + 50))


@pytest.mark.parametrize("change", [-7, 7], ids=["missing", "too many"])
def test_words_of_which_no_datagram_is_missing_are_placed_between_the_readings_that_enclose_them(change):
    told = Told()
    readings_of_words(told, [100, 200, 300, 400], [100, 200, 300 + change, 400 + change])
    way = Way(0, 0, 50, 50, 500, 1000)
    spans = told.losses.spans(way, 500, Sums(words=500 + change, largest=20))
    assert spans == [LossSpan("altered", -1, 7, 1900, 3050 + BOUND)]


def test_words_that_came_before_the_board_was_asked_are_not_among_those_that_it_counted():
    """Nor do they hide as many that were altered."""
    told = Told()
    told.losses.before(piece(is_base=True), times(NEVER), NEVER, Sums(words=7))
    told.losses.before(piece(64, poll=Poll(12, 12, 12, 1100)), times(1000), 1000, Sums(words=107))
    told.losses.after(times(1100))
    told.losses.before(piece(96, poll=Poll(14, 14, 14, 1200)), times(2000), 2000, Sums(words=200))
    told.losses.after(times(2100))
    way = Way(10, 10, 16, 16, words_before=1000, words=1250)
    assert told.losses.words_before == 7
    assert told.losses.spans(way, 128, Sums(words=250)) == [LossSpan("altered", -1, 7, 1000, 2100 + BOUND)]


def test_words_that_a_lost_datagram_may_have_held_are_not_altered():
    told = Told()
    readings_of_words(told, [100, 200], [100, 200])
    told.losses.before(piece(250, losses=[Loss(0, "malformed", 1)]), times(2500), 2400)
    told.losses.after(times(2600))
    spans = told.losses.spans(Way(0, 0, 30, 30, 500, 800), 300, Sums(words=200, largest=20))
    assert [span.cause for span in spans] == ["malformed"]


def test_a_lost_datagram_may_have_held_the_words_that_are_missing_elsewhere_too():
    """What the page on the ledger says it does not tell: seven words of the fifth ten are altered, nothing shows."""
    told = Told()
    for k in range(1, 6):
        lost, altered = int(k >= 2), 7 * (k >= 5)
        poll = Poll(10 * k, 10 * k - lost, 10 * k - lost, 200 * k)
        sums = Sums(words=200 * k - 20 * lost - altered, largest=20)
        told.losses.before(piece(100 * k, poll=poll), times(1000 * k), 1000 * k - LATENESS, sums)
        told.losses.after(times(1000 * k + 50))
    spans = told.losses.spans(Way(0, 0, 60, 59, 0, 1200), 600, Sums(words=1200 - 27, largest=20))
    assert spans == [LossSpan("way", -1, 1, 900, 2050 + BOUND)]


def test_a_loss_that_a_doubled_datagram_hides_in_the_sums_is_placed():
    """Ten datagrams between two readings: in the second ten one comes twice, of the fourth one is lost."""
    told = Told()
    for k in range(1, 6):
        arrived = 10 * k + (k >= 2) - (k >= 4)
        poll = Poll(10 * k, arrived, arrived)
        sums = Sums(repeats=int(k >= 2))
        told.losses.before(piece(100 * k, poll=poll), times(1000 * k), 1000 * k - LATENESS, sums)
        told.losses.after(times(1000 * k + 50))
    assert told.losses.spans(Way(0, 0, 50, 50), 500, Sums(repeats=1)) == [LossSpan("way", -1, 1, 2900, 4050 + BOUND)]


def test_datagrams_that_were_late_are_no_loss_when_all_words_have_come_in_the_end():
    """Ten of the first thirty came after the reading; without words, one lost and one doubled would look alike."""
    for words, n_places in ((800, 0), (799, 1)):
        told = Told()
        poll = Poll(30, 20, 20, 800)
        told.losses.before(piece(300, poll=poll), times(3000), 3000 - LATENESS, Sums(words=200))
        told.losses.after(times(3050))
        way = Way(0, 0, 60, 60, 500, 1300)
        spans = told.losses.spans(way, 600, Sums(words=words, largest=20))
        assert sum(span.cause == "way" for span in spans) == n_places


def paused(n: int, address: int) -> Slice:
    return piece(address, poll=Poll(address, address, address, paused=n))


def test_a_pause_of_the_board_lies_between_the_readings_that_enclose_it_and_is_told_to_no_shot():
    told = Told()
    for k, n in enumerate((5, 5, 9, 12, 12), 1):
        told.losses.before(paused(n, 10 * k), times(1000 * k), 1000 * k - 100)
        told.losses.after(times(1000 * k + 50))
    way = Way(0, 0, 60, 60, paused_before=5, paused=12)
    assert told.losses.spans(way, 60) == [LossSpan("pause", -1, 7, 1900, 4050 + BOUND)]
    assert told.spans == []


def test_a_pause_before_the_first_reading_or_behind_the_last_reaches_to_the_end_of_its_acquisition():
    assert Told().losses.spans(Way(0, 0, 9, 9, paused_before=2, paused=6), 9) == [
        LossSpan("pause", -1, 4, -ALWAYS, ALWAYS)
    ]
    for unknown in (Way(0, 0, 9, 9), Way(0, 0, 9, 9, paused_before=2), Way(0, 0, 9, 9, paused_before=2, paused=2)):
        assert Told().losses.spans(unknown, 9) == []
