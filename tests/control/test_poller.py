"""The poller, mostly without its thread: `turn` is called, and time is a number."""

import math
import threading
from collections.abc import Callable

import pytest

from ophyd_timepix.control import Board, BoardError, ConnectionLost, Poller, SpidrClient, SpidrClosed
from spidr_sim.faults import Faults


class Bench:
    """A poller whose time stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 100.0
        self.poller = Poller("bench", clock=lambda: self.now)
        self.ran: list[str] = []
        self.fails: Exception | None = None

    def job(self, name: str = "job") -> Callable[[], None]:
        def run() -> None:
            if self.fails is not None:
                raise self.fails
            self.ran.append(name)

        return run

    def after(self, seconds: float) -> float:
        self.now += seconds
        return self.poller.turn()


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_job_runs_at_once_and_then_each_period(bench: Bench):
    bench.poller.add(lambda: 0.5, bench.job())
    assert bench.after(0) == 0.5
    assert bench.after(0.25) == 0.25
    assert bench.ran == ["job"]
    bench.after(0.25)
    assert bench.ran == ["job", "job"]


def test_late_job_is_not_made_up_for(bench: Bench):
    bench.poller.add(lambda: 0.4, bench.job())
    bench.after(0)
    bench.after(10)
    bench.after(0.1)
    assert bench.ran == ["job", "job"]


def test_period_that_changes_takes_effect(bench: Bench):
    period = 30.0
    bench.poller.add(lambda: period, bench.job())
    assert bench.after(0) == 1.0
    period = 0.5
    assert bench.after(0.2) == pytest.approx(0.3)
    bench.after(0.3)
    assert bench.ran == ["job", "job"]


@pytest.mark.parametrize(("period", "pause"), [(0.0, 0.01), (-1.0, 0.01), (math.inf, 1.0), (math.nan, 1.0)])
def test_period_that_makes_no_sense_does_no_harm(bench: Bench, period: float, pause: float):
    bench.poller.add(lambda: period, bench.job())
    assert bench.after(0) == pytest.approx(pause)
    assert bench.ran == ["job"]


def test_cancelled_job_runs_no_more(bench: Bench):
    watch = bench.poller.add(lambda: 0.1, bench.job("first"))
    bench.poller.add(lambda: 0.1, bench.job("second"))
    bench.after(0)
    watch.cancel()
    watch.cancel()
    bench.after(1)
    assert bench.ran == ["first", "second", "second"]


def test_job_may_cancel_another_that_is_due(bench: Bench):
    watches = []
    watches.append(bench.poller.add(lambda: 1, lambda: watches[1].cancel()))
    watches.append(bench.poller.add(lambda: 1, bench.job("never")))
    bench.after(0)
    assert bench.ran == []


def test_lost_board_is_asked_ever_more_seldom_and_said_once(bench: Bench, caplog: pytest.LogCaptureFixture):
    bench.poller.add(lambda: 0.1, bench.job())
    bench.poller.add(lambda: 0.1, bench.job())
    bench.fails = SpidrClosed("gone")
    pauses = []
    for _ in range(9):
        began, tries = bench.now, 0
        while tries == 0:
            pause = bench.poller.turn()
            tries = int(bench.poller._back_off.until_s > bench.now)
        while bench.poller._back_off.until_s > bench.now:
            bench.now += bench.poller.turn()
        pauses.append(round(bench.now - began, 6))
        assert pause <= 1.0
    assert pauses == [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 30.0]
    assert bench.poller.holding_back
    assert len(caplog.records) == 1
    bench.fails = None
    bench.after(0)
    assert bench.ran == ["job", "job"]
    assert not bench.poller.holding_back
    assert [record.levelname for record in caplog.records] == ["WARNING", "WARNING"]
    assert "answers again" in caplog.text
    bench.fails = SpidrClosed("gone")
    bench.after(1)
    bench.fails = None
    bench.after(0.5)
    assert len(bench.ran) == 4


def test_one_failing_job_is_logged_once_and_stops_no_other(bench: Bench, caplog: pytest.LogCaptureFixture):
    def broken() -> None:
        raise ValueError("of its own")

    bench.poller.add(lambda: 0.1, broken)
    bench.poller.add(lambda: 0.1, bench.job())
    for _ in range(3):
        bench.after(1)
    assert bench.ran == ["job"] * 3
    assert caplog.text.count("a polled quantity failed: of its own") == 1


def test_error_of_the_board_is_no_reason_to_hold_back(bench: Bench):
    bench.poller.add(lambda: 0.1, bench.job())
    bench.fails = BoardError.__new__(BoardError)
    bench.after(0)
    assert not bench.poller.holding_back


def test_waking_tries_at_once(bench: Bench):
    bench.poller.add(lambda: 0.1, bench.job())
    bench.fails = ConnectionLost("gone")
    bench.after(0)
    bench.after(0.5)
    bench.fails = None
    bench.after(0.2)
    assert bench.ran == []
    bench.poller.wake()
    bench.after(0)
    assert bench.ran == ["job"]


def test_thread_begins_with_the_first_job_and_ends_with_the_last():
    poller, ran = Poller("threads"), threading.Semaphore(0)
    before = threading.active_count()
    watch = poller.every(lambda: 0.01, ran.release)
    for _ in range(3):
        assert ran.acquire(timeout=10)
    assert threading.active_count() == before + 1
    watch.cancel()
    poller.close()
    assert threading.active_count() == before
    poller.every(lambda: 0.01, ran.release)
    assert ran.acquire(timeout=10)
    poller.close()
    poller.close()
    assert threading.active_count() == before


def test_job_may_close_its_poller():
    poller, closed = Poller("threads"), threading.Event()

    def last() -> None:
        poller.close()
        closed.set()

    poller.every(lambda: 1, last)
    assert closed.wait(60)
    poller.close()


def test_period_that_raises_is_logged_and_ends_nothing(caplog: pytest.LogCaptureFixture):
    poller, asked = Poller("threads"), threading.Semaphore(0)

    def period() -> float:
        asked.release()
        raise ValueError("no period")

    poller.every(period, lambda: None)
    assert asked.acquire(timeout=10)
    poller.wake()
    assert asked.acquire(timeout=10)
    poller.close()
    assert "no period" in caplog.text


def test_foreground_request_tries_at_once_and_wakes_the_poller(client: SpidrClient, faults: Faults):
    board, asked = Board(client), threading.Semaphore(0)

    def job() -> None:
        board.humidity_percent()
        asked.release()

    board.poller.every(lambda: 0.01, job)
    assert asked.acquire(timeout=10)
    lost = threading.Event()
    client.subscribe(lambda connected: None if connected else lost.set())
    faults.arm("unreachable=600")
    assert lost.wait(60)
    faults.clear()
    while True:
        try:
            board.chip_temperature()
            break
        except ConnectionLost:
            continue
    while asked.acquire(blocking=False):
        pass
    assert asked.acquire(timeout=10)
    board.close()
    assert not client.connected
