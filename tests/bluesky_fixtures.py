"""Fixtures of the rooms that speak bluesky: an engine, a detector on fakes, and hands that interrupt a plan."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from bluesky import RunEngine
from bluesky.utils import RunEngineInterrupted

from ophyd_timepix.devices import SpidrBoard, TimepixDetector
from ophyd_timepix.wiring import install
from tests.doc_checker import DocChecker
from tests.fakes import FakeBoard, FakePipeline


@pytest.fixture
def RE() -> Iterator[RunEngine]:
    engine = RunEngine({}, call_returns_result=True)
    yield engine
    if engine.state not in ("idle", "panicked"):
        engine.halt()
    asyncio.run_coroutine_threadsafe(_nothing(), engine.loop).result()


async def _nothing() -> None:
    """Let the engine's loop finish what it has begun."""


@pytest.fixture
def checker(RE: RunEngine) -> DocChecker:
    checker = DocChecker()
    RE.subscribe(checker)
    return checker


@pytest.fixture
def fake_board() -> FakeBoard:
    return FakeBoard()


@pytest.fixture
def pipelines() -> list[FakePipeline]:
    """The pipelines that the detector has made, newest last."""
    return []


@pytest.fixture
def spidr(fake_board: FakeBoard) -> SpidrBoard:
    return SpidrBoard("127.0.0.1:50000", name="spidr", control=lambda: fake_board)


@pytest.fixture
def tpx(spidr: SpidrBoard, pipelines: list[FakePipeline], tmp_path: Path) -> Iterator[TimepixDetector]:
    """A detector whose point is 100 shots; they come as fast as one asks, while `flow` of the pipeline is set."""

    def make() -> FakePipeline:
        pipelines.append(FakePipeline())
        return pipelines[-1]

    detector = TimepixDetector(spidr, name="tpx", data_dir=tmp_path / "data", shots=100, pipeline=make)
    yield detector
    detector.close()


@pytest.fixture
def pipe(tpx: TimepixDetector, pipelines: list[FakePipeline]) -> FakePipeline:
    """The detector's pipeline, started."""
    tpx.connect()
    return pipelines[0]


@pytest.fixture
def installed(RE: RunEngine, tpx: TimepixDetector) -> Iterator[Any]:
    installation = install(RE, [tpx], min_free_bytes=0)
    yield installation
    installation.uninstall()


def when(event: threading.Event, action: Callable[[], Any]) -> threading.Thread:
    """Do `action` in a thread once `event` is set."""

    def work() -> None:
        assert event.wait(20), "what the test waits for never came"
        action()

    thread = threading.Thread(target=work, name="test-ThreadPoolExecutor", daemon=True)
    thread.start()
    return thread


def run_and_interrupt(RE: RunEngine, plan: Any, event: threading.Event) -> None:
    """Run `plan`, pause it when `event` is set, return when the engine is paused."""
    hand = when(event, RE.request_pause)
    with pytest.raises(RunEngineInterrupted):
        RE(plan)
    hand.join()
    assert RE.state == "paused"
