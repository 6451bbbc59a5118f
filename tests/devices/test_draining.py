"""What is lost at the end of an acquisition is counted exactly, also when the board goes on sending edges."""

import pytest

from ophyd_timepix.devices import draining
from ophyd_timepix.devices.draining import drained
from ophyd_timepix.pipeline.messages import Sent


class Line:
    """A board, a cable and a clock. sends: datagrams a millisecond, evenly; all are `under_way_ms` on their way."""

    def __init__(self, sent: int, lost: int, *, sends: float = 0.0, under_way_ms: float = 0.3, extra: int = 0) -> None:
        self.now_ms = 0.0
        self._sent, self._lost, self._sends, self._under_way_ms, self._extra = sent, lost, sends, under_way_ms, extra

    def monotonic(self) -> float:
        return self.now_ms / 1000

    def read(self) -> Sent:
        self.now_ms += 0.7
        sent = self._sent_at(self.now_ms)
        self.now_ms += 0.7
        return Sent(datagrams=sent)

    def arrived(self) -> int:
        self.now_ms += 0.5
        return self._sent_at(self.now_ms - self._under_way_ms) - self._lost + self._extra - 7

    def _sent_at(self, ms: float) -> int:
        return self._sent + int(max(0.0, ms) * self._sends)


class Pause:
    """Waits on the line's clock."""

    def __init__(self, line: Line) -> None:
        self._line = line

    def wait(self, seconds: float) -> None:
        self._line.now_ms += 1000 * seconds


def drain(monkeypatch: pytest.MonkeyPatch, line: Line) -> tuple[int, float]:
    """(missing, milliseconds). Seven had been sent and not arrived when the acquisition began."""
    monkeypatch.setattr(draining, "time", line)
    monkeypatch.setattr(draining.threading, "Event", lambda: Pause(line))
    told = drained(Sent(datagrams=1000), 7, line.read, line.arrived)
    assert told.arrived is not None
    return told.datagrams - 7 - told.arrived, line.now_ms


@pytest.mark.parametrize("lost", [0, 1, 30])
@pytest.mark.parametrize("every_ms", [None, 500, 90, 30, 11])
def test_what_was_lost_is_known_while_edges_go_on(monkeypatch, lost, every_ms):
    line = Line(1000, lost, sends=0.0 if every_ms is None else 1 / every_ms)
    missing, took_ms = drain(monkeypatch, line)
    assert missing == lost
    assert took_ms < (250 if lost else 40)


@pytest.mark.parametrize("lost", [0, 1, 30])
def test_where_edges_come_faster_than_datagrams_take_no_loss_is_invented_and_a_large_one_is_seen(monkeypatch, lost):
    line = Line(1000, lost, sends=1.0)
    missing, took_ms = drain(monkeypatch, line)
    assert 0 <= missing <= lost
    assert missing >= lost - 10
    assert took_ms < 400


def test_what_arrives_late_is_waited_for(monkeypatch):
    assert drain(monkeypatch, Line(1000, 0, under_way_ms=150, sends=0.01))[0] == 0


def test_more_than_was_sent_is_told(monkeypatch):
    missing, took_ms = drain(monkeypatch, Line(1000, 0, extra=3))
    assert missing == -3
    assert took_ms < 20


def test_somebody_who_sends_without_end_is_not_waited_for(monkeypatch):
    line = Line(1000, 0, sends=0.0)
    came = iter(range(-10_000, 10_000))
    line.arrived = lambda: next(came)  # one more each time
    assert drain(monkeypatch, line)[1] < 1000 * (draining.LONGEST_S + 1)
