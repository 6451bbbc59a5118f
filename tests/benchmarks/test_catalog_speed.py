"""What the catalog costs a plan, how far it lags, and what it keeps in memory. With the real embedded catalog."""

import gc
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import bluesky.plans as bp
import psutil
import pytest
from ophyd.sim import SynAxis

from ophyd_timepix.catalog import CatalogProfile, CatalogWriter, init_catalog
from ophyd_timepix.wiring import install
from tests.benchmarks.cores import Others
from tests.bluesky_fixtures import RE, fake_board, pipe, pipelines, spidr, tpx
from tests.catalog.conftest import EventFile, RunDocuments, catalog, db, profiles

__all__ = ["RE", "catalog", "db", "fake_board", "pipe", "pipelines", "profiles", "spidr", "tpx"]

pytestmark = pytest.mark.bench

POINTS = 150
ADDED_MS = 150
LAG_S = 5.0
EVENTS = 2000
ROWS = 2_000_000
GROWTH_BYTES = 50_000_000
"""Half of what the rows themselves take."""


@pytest.fixture
def writer(catalog: CatalogProfile, db: Any, tmp_path: Path) -> Iterator[CatalogWriter]:
    writer = CatalogWriter(catalog.name, backup_directory=tmp_path / "backup")
    yield writer
    writer.close(timeout_s=120)


def ms_per_point(RE: Any, tpx: Any, seen: list[float]) -> float:
    """Seconds of the points of a scan alone, start and end of the run left out."""
    seen.clear()
    RE(bp.scan([tpx], SynAxis(name="delay"), -1, 1, POINTS))
    return (seen[-1] - seen[0]) / (POINTS - 1) * 1e3


def test_a_step_scan_with_the_catalog(RE: Any, tpx: Any, pipe: Any, catalog: CatalogProfile, db: Any) -> None:
    seen: list[float] = []
    lags: list[Any] = []
    others = Others()
    RE.subscribe(lambda _name, _doc: seen.append(time.monotonic()), "event")
    installation = install(RE, [tpx], min_free_bytes=0)
    without = min(ms_per_point(RE, tpx, seen) for _ in range(2))
    installation.uninstall()
    init_catalog(catalog.name, readable=[tpx.data_dir])
    installation = install(RE, [tpx], catalog=catalog.name, min_free_bytes=0)
    watch = RE.subscribe(lambda _name, _doc: lags.append(installation.writer.lag), "event")
    with_catalog = [ms_per_point(RE, tpx, seen) for _ in range(2)]
    RE.unsubscribe(watch)
    began = time.monotonic()
    installation.writer.wait(timeout_s=120)
    behind = time.monotonic() - began
    installation.uninstall()
    added = max(with_catalog) - without
    lag = max(lag.seconds for lag in lags)
    print(
        f"\nscan of {POINTS} points: {without:.1f} ms a point without catalog, {added:.1f} ms more with it; "
        f"largest lag {lag:.2f} s, {max(lag.documents for lag in lags)} documents; {behind:.2f} s behind at the end"
    )
    if others.left_it_alone():
        assert added <= ADDED_MS
        assert lag <= LAG_S


def test_events_per_second(writer: CatalogWriter) -> None:
    """Events as fast as they can be given: how many a second reach the catalog."""
    run = RunDocuments(writer)
    run.start()
    run.point(0, 0)
    writer.wait(timeout_s=60)
    others, begin = Others(), time.monotonic()
    for _ in range(EVENTS):
        run.point(0, 0)
    given = time.monotonic() - begin
    writer.wait(timeout_s=300)
    taken = time.monotonic() - begin
    run.stop()
    print(f"\n{EVENTS} events: {given / EVENTS * 1e6:.0f} us each for the plan, {EVENTS / taken:.0f} a second in Tiled")
    if others.left_it_alone():
        assert EVENTS / taken > 100


def test_memory_of_two_million_rows(writer: CatalogWriter, catalog: CatalogProfile) -> None:
    """Rows that are registered while a run goes leave nothing behind in the process that registers them."""
    event_file = EventFile(catalog.readable[0] / "two_million.h5")
    run = RunDocuments(writer)
    run.start()
    for _ in range(3):
        event_file.append(1000)
        run.register(event_file.path, event_file.n_rows)
        writer.wait(timeout_s=60)
    gc.collect()
    process = psutil.Process()
    before = process.memory_info().rss
    begin = time.monotonic()
    written = writer.written
    largest = 0
    while event_file.n_rows < ROWS:
        event_file.append(100_000)
        run.point(event_file.n_rows - 100_000, event_file.n_rows)
        run.register(event_file.path, event_file.n_rows)
        largest = max(largest, process.memory_info().rss - before)
        writer.wait(timeout_s=60)
    growth = process.memory_info().rss - before
    seconds = time.monotonic() - begin
    run.stop()
    event_file.close()
    print(
        f"\n{event_file.n_rows:,} rows in {writer.written - written} requests, {seconds:.0f} s: memory grew by "
        f"{growth / 1e6:.1f} MB, {largest / 1e6:.1f} MB at most"
    )
    assert largest < GROWTH_BYTES
