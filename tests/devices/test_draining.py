"""What is lost at the end of an acquisition is counted exactly, also when the board goes on sending edges."""

from collections.abc import Callable
from itertools import product

import pytest

from ophyd_timepix.control import SentCounters
from ophyd_timepix.devices import draining
from ophyd_timepix.devices.draining import drained, paired
from ophyd_timepix.pipeline.messages import Arrived, Sent

BEGUN = 7
"""Had been sent and not arrived when the acquisition began."""


class Line:
    """A board, a cable, a receiver and a clock.

    sends: datagrams a millisecond, evenly; all are `under_way_ms` on their way. held: from when until when (ms) nothing
    gets through, as in a switch. rests: the same of the receiver, which then knows that it has not looked. takes_ms: an
    answer of the board takes so long to come, and as long to be asked for; `looks_ms` that of the receiver.
    """

    def __init__(
        self,
        sent: int,
        lost: int,
        *,
        sends: float = 0.0,
        under_way_ms: float = 0.3,
        extra: int = 0,
        held: tuple[float, float] = (0, 0),
        rests: tuple[float, float] = (0, 0),
        takes_ms: float = 0.7,
        looks_ms: float = 0.5,
        began_ms: float = 0.0,
    ) -> None:
        self.now_ms = self._began_ms = began_ms
        self._sent, self._lost, self._sends, self._under_way_ms, self._extra = sent, lost, sends, under_way_ms, extra
        self._held, self._rests, self._takes_ms, self._looks_ms = held, rests, takes_ms, looks_ms

    def monotonic(self) -> float:
        return self.now_ms / 1000

    def read(self) -> Sent:
        self.now_ms += self._takes_ms
        sent = self._sent_at(self.now_ms)
        self.now_ms += self._takes_ms
        return Sent(datagrams=sent)

    def counters(self) -> SentCounters:
        return SentCounters(self.read().datagrams, (0,))

    def arrived(self) -> Arrived:
        self.now_ms += self._looks_ms
        looked = _until(self._rests, self.now_ms)
        here = self._sent_at(_until(self._held, looked) - self._under_way_ms)
        return Arrived(datagrams=here - self._lost + self._extra - BEGUN, is_all=looked == self.now_ms)

    def _sent_at(self, ms: float) -> int:
        return self._sent + int(max(0.0, ms) * self._sends)


def _until(away: tuple[float, float], ms: float) -> float:
    """When somebody who was away for a while was there last."""
    return away[0] if away[0] < ms < away[1] else ms


class Pause:
    """Waits on the line's clock."""

    def __init__(self, line: Line) -> None:
        self._line = line

    def wait(self, seconds: float) -> None:
        self._line.now_ms += 1000 * seconds


@pytest.fixture
def on(monkeypatch: pytest.MonkeyPatch) -> Callable[[Line], Line]:
    """Time is that of a line."""

    def use(line: Line) -> Line:
        monkeypatch.setattr(draining, "time", line)
        monkeypatch.setattr(draining.threading, "Event", lambda: Pause(line))
        return line

    return use


def drain(line: Line) -> tuple[int, float]:
    """(missing, milliseconds)."""
    told, _ = drained(Sent(datagrams=1000), BEGUN, line.read, line.arrived)
    assert told.arrived is not None
    return told.datagrams - BEGUN - told.arrived, line.now_ms


@pytest.mark.parametrize("lost", [0, 1, 30])
@pytest.mark.parametrize("every_ms", [None, 500, 90, 30, 11])
def test_what_was_lost_is_known_while_edges_go_on(on, lost, every_ms):
    line = on(Line(1000, lost, sends=0.0 if every_ms is None else 1 / every_ms))
    missing, took_ms = drain(line)
    assert missing == lost
    assert took_ms < (250 if lost else 40)


@pytest.mark.parametrize("lost", [0, 1, 30])
def test_where_edges_come_faster_than_datagrams_take_no_loss_is_invented_and_a_large_one_is_seen(on, lost):
    line = on(Line(1000, lost, sends=1.0))
    missing, took_ms = drain(line)
    assert 0 <= missing <= lost
    assert missing >= lost - 10
    assert took_ms < 400


def test_what_arrives_late_is_waited_for(on):
    assert drain(on(Line(1000, 0, under_way_ms=150, sends=0.01)))[0] == 0


@pytest.mark.parametrize("away", ["held", "rests"])
def test_no_loss_is_invented_when_a_machine_waits_for_its_turn_while_edges_go_on(on, away):
    """What is sent meanwhile is missing for some of the readings, and each reading has an edge around it. Whenever that
    begins, however long the answers take.
    """
    for begins_ms, lasts_ms, takes_ms, sends in product(range(0, 200, 7), (6, 20, 60, 90), (0.7, 3.0), (0.4, 1.0)):
        line = on(Line(1000, 0, sends=sends, takes_ms=takes_ms, **{away: (begins_ms, begins_ms + lasts_ms)}))
        assert drain(line)[0] == 0, (begins_ms, lasts_ms, takes_ms, sends)


@pytest.mark.parametrize("away", ["held", "rests"])
def test_a_loss_is_told_all_the_same(on, away):
    for begins_ms, lasts_ms, sends in product(range(0, 200, 7), (6, 20, 60, 90), (0.0, 0.01, 0.4, 1.0)):
        line = on(Line(1000, 30, sends=sends, **{away: (begins_ms, begins_ms + lasts_ms)}))
        assert 30 - 10 * sends <= drain(line)[0] <= 30, (begins_ms, lasts_ms, sends)


def test_a_receiver_that_never_catches_up_hides_no_loss(on):
    line = on(Line(1000, 3))
    look = line.arrived
    assert drain_with(line, lambda: look().model_copy(update={"is_all": False})) == 3


def drain_with(line: Line, arrived: Callable[[], Arrived]) -> int:
    line.arrived = arrived
    return drain(line)[0]


@pytest.mark.parametrize("every_ms", [None, 500, 40, 11, 3])
def test_a_run_begins_with_a_reading_and_what_had_arrived_of_it(on, every_ms):
    """Edges that come between the two are not taken for what was sent before: they would be missing ever after."""
    sends = 0.0 if every_ms is None else 1 / every_ms
    for began_tenth in range(0, 120, 7):
        line = on(Line(1000, 0, sends=sends, began_ms=100 + began_tenth / 10))
        begin = paired(line.counters(), line.counters, line.arrived)
        ahead = begin.counters.datagrams - begin.arrived
        assert ahead <= BEGUN <= ahead + begin.unsure
        assert begin.unsure == 0 or every_ms == 3


@pytest.mark.parametrize("away", ["held", "rests"])
@pytest.mark.parametrize("lost", [0, 30])
@pytest.mark.parametrize("takes_ms", [0.7, 3.0])
def test_where_edges_come_too_fast_for_that_it_shows_later_and_invents_neither_loss_nor_surplus(
    on, away, lost, takes_ms
):
    """Two acquisitions, each from what the one before has left: a pair of counts and how sure it is."""
    for begins_ms, sends in product(range(0, 500, 23), (0.4, 1.0)):
        busy = {"sends": sends, away: (begins_ms, begins_ms + 15)}
        line = on(Line(1000, 0, takes_ms=takes_ms, **busy))
        begin = paired(line.counters(), line.counters, line.arrived)
        ahead, unsure = begin.counters.datagrams - begin.arrived, begin.unsure
        assert ahead <= BEGUN <= ahead + unsure
        told = 0
        for number, takes_ms_now in enumerate((takes_ms, 0.1)):
            line = on(Line(1000, lost, began_ms=600, takes_ms=takes_ms_now, looks_ms=0.1, sends=sends))
            sent, unsure = drained(Sent(datagrams=1000), ahead + told, line.read, line.arrived, unsure)
            missing = sent.datagrams - ahead - told - sent.arrived
            assert lost - 25 <= missing <= lost if number == 0 else missing == 0  # it was lost in the first
            told += missing
            assert ahead + told <= BEGUN + lost <= ahead + told + unsure


@pytest.mark.parametrize("sends", [0.0, 0.01])
def test_a_loss_that_edges_have_hidden_is_not_told_of_another_acquisition_and_hides_none_there(on, sends):
    """The second is as quiet as one likes."""
    first = on(Line(1000, 2, sends=1.0))
    sent, unsure = drained(Sent(datagrams=1000), BEGUN, first.read, first.arrived)
    assert sent.datagrams - BEGUN - sent.arrived == 0
    assert unsure >= 2
    for lost in (0, 1, 30):
        second = on(Line(1000, 2 + lost, sends=sends))
        now, _ = drained(Sent(datagrams=900), BEGUN, second.read, second.arrived, 2)
        assert now.datagrams - BEGUN - now.arrived == lost


def test_more_than_was_sent_is_told(on):
    missing, took_ms = drain(on(Line(1000, 0, extra=3)))
    assert missing == -3
    assert took_ms < 20


def test_somebody_who_sends_without_end_is_not_waited_for(on):
    line = on(Line(1000, 0, sends=0.0))
    came = iter(range(-10_000, 10_000))
    drain_with(line, lambda: Arrived(datagrams=next(came), is_all=True))  # one more each time
    assert line.now_ms < 1000 * (draining.LONGEST_S + 1)
