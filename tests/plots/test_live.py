"""The live view: shows what the signals say, at most twice a second, and nobody waits for it."""

import threading
from typing import Any

import bluesky.plans as bp
import numpy as np
import pytest

pytest.importorskip("matplotlib")

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ophyd_timepix import Gate
from ophyd_timepix.devices import TimepixDetector
from ophyd_timepix.plots import LiveView
from ophyd_timepix.wiring import install
from tests.bluesky_fixtures import RE, fake_board, pipelines, spidr, tpx

__all__ = ["RE", "fake_board", "pipelines", "spidr", "tpx"]


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def window() -> Any:
    figure = Figure(figsize=(10.0, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def view(tpx: TimepixDetector, clock: Clock) -> Any:
    view = LiveView(tpx, figure=window(), clock=clock)
    view.start()
    yield view
    view.stop()


def picture(n: int) -> Any:
    image = np.zeros((256, 256), np.uint32)
    image[100, 50] = n
    return image


def publish(tpx: TimepixDetector, view: LiveView, n: int) -> None:
    """Subscriptions are called in a thread of ophyd's: wait for it."""
    heard = threading.Event()
    token = tpx.image.subscribe(lambda **_: heard.set(), run=False)
    tpx.image.publish(picture(n))
    assert heard.wait(60)
    tpx.image.unsubscribe(token)


def shown(view: LiveView) -> int:
    return int(np.asarray(view.figure.axes[0].images[0].get_array())[100, 50])


def test_it_shows_the_newest_picture_and_draws_only_news(tpx: TimepixDetector, view: LiveView, clock: Clock) -> None:
    assert view.look(), "an empty window at first"
    for n in (3, 7):
        assert not view.look()
        publish(tpx, view, n)
        clock.now += 1
        assert view.look()
        assert shown(view) == n
    assert view.figure.axes[0].get_title().startswith("7 centroids of")


def test_it_draws_twice_a_second_at_most(tpx: TimepixDetector, view: LiveView, clock: Clock) -> None:
    for n in range(1, 11):
        publish(tpx, view, n)
        view.look()
        clock.now += 0.1
    assert (view.drawings, view.skipped) == (2, 8)
    with pytest.raises(ValueError, match=r"every 0\.5 s at most"):
        LiveView(tpx, period_s=0.1)


def test_after_a_slow_drawing_it_rests(
    tpx: TimepixDetector, view: LiveView, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slow(*_: Any) -> None:
        clock.now += 2.0

    monkeypatch.setattr(view, "_draw", slow)
    publish(tpx, view, 1)
    assert view.look()
    publish(tpx, view, 2)
    clock.now = 9.9
    assert not view.look()
    clock.now = 10.0
    assert view.look()


def test_nobody_waits_for_a_drawing(tpx: TimepixDetector, view: LiveView, monkeypatch: pytest.MonkeyPatch) -> None:
    """While one is under way the detector publishes on."""
    drawing, finish = threading.Event(), threading.Event()

    def stuck(*_: Any) -> None:
        drawing.set()
        finish.wait(20)

    monkeypatch.setattr(view, "_draw", stuck)
    publish(tpx, view, 1)
    painter = threading.Thread(target=view.look)
    painter.start()
    assert drawing.wait(60)
    for n in range(2, 20):
        publish(tpx, view, n)
    assert painter.is_alive()
    finish.set()
    painter.join()


def test_the_spectrum_has_the_gates_that_count(tpx: TimepixDetector, view: LiveView, clock: Clock) -> None:
    publish(tpx, view, 1)
    assert view.look()
    assert view.figure.axes[1].get_legend() is None
    tpx.gates.define(Gate(name="iodine", tof=(13_800, 14_050)), Gate(name="unknown", mq=(1, 2)))
    publish(tpx, view, 2)
    clock.now += 1
    assert view.look()
    (spectrum,) = (axes for axes in view.figure.axes if axes.get_xlabel() == "time of flight (µs)")
    assert [text.get_text() for text in spectrum.get_legend().get_texts()] == ["iodine"]


def test_a_point_of_a_plan_is_shown_and_afterwards_nobody_looks(RE: Any, tpx: TimepixDetector, clock: Clock) -> None:
    install(RE, [tpx], min_free_bytes=0)
    view = LiveView(tpx, figure=window(), clock=clock).start()
    assert view.start() is view
    assert tpx.image.watched
    assert tpx.tof.histogram.watched
    RE(bp.count([tpx]))
    clock.now += 1
    assert view.look()
    view.stop()
    view.stop()
    assert not tpx.image.watched
    assert not tpx.tof.histogram.watched
