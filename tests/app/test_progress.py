"""The progress bar of a plan, with Status objects as bluesky hands them over."""

import io
from collections.abc import Callable
from typing import Any

from rich.console import Console

from ophyd_timepix.app.progress import PlanProgress


class FakeStatus:
    """Has what bluesky's progress bars ask for."""

    def __init__(self) -> None:
        self.done = False
        self.watchers: list[Callable[..., None]] = []

    def watch(self, watcher: Callable[..., None]) -> None:
        self.watchers.append(watcher)

    def tell(self, current: float) -> None:
        for watcher in self.watchers:
            watcher(name="tpx", current=current, initial=0, target=200.0, unit="shots", precision=1, fraction=0.5)


def terminal() -> tuple[Console, io.StringIO]:
    screen = io.StringIO()
    return Console(file=screen, force_terminal=True, width=120), screen


def test_a_flight_keeps_its_line_over_many_waits() -> None:
    console, screen = terminal()
    progress = PlanProgress(console)
    status = FakeStatus()
    for current in (50, 100, 150):
        progress([status])
        status.tell(current)
        progress(None)
    assert len(status.watchers) == 1
    status.done = True
    progress(None)
    text = screen.getvalue()
    assert "tpx" in text
    assert "150/200" in text
    assert "shots" in text
    status.tell(200)  # late news of a wait that is over
    assert progress._bar is None


def test_a_motor_has_no_line() -> None:
    console, screen = terminal()
    progress = PlanProgress(console)
    status = FakeStatus()
    progress([status])
    for watcher in status.watchers:
        watcher(name="delay", current=0.2, initial=-1.0, target=1.0, unit="mm", precision=3, fraction=0.5)
    status.done = True
    progress(None)
    assert screen.getvalue() == ""


def test_a_status_that_cannot_be_watched_has_no_line() -> None:
    console, screen = terminal()
    progress: Any = PlanProgress(console)
    progress([object()])
    progress(None)
    assert screen.getvalue() == ""


def test_the_next_wait_begins_anew() -> None:
    console, _ = terminal()
    progress = PlanProgress(console)
    for _ in range(2):
        status = FakeStatus()
        progress([status])
        status.done = True
        progress(None)
        assert len(status.watchers) == 1
