"""What a point costs beside its exposure, and how late its first and last words are. The simulator is beside it."""

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from typing import Any

import bluesky.plans as bp
import pytest
from ophyd.sim import SynAxis

from ophyd_timepix.catalog import CatalogProfile, init_catalog
from ophyd_timepix.config import Gate, Processing
from ophyd_timepix.devices import SpidrBoard, TimepixDetector
from ophyd_timepix.spool.index import Kind, read_index
from ophyd_timepix.wiring import install
from tests.benchmarks.cores import Others
from tests.bluesky_fixtures import RE
from tests.catalog.conftest import catalog, db, profiles
from tests.sim_process import running_sim

__all__ = ["RE", "catalog", "db", "profiles"]

pytestmark = pytest.mark.bench

POINTS = 40
ADDED_MS = 150
LAG_S = 5.0
FIRST_MS = 50
LAST_MS = 150


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., TimepixDetector]]:
    """A detector on a simulator of this rate (hits per second), and of 1000 shots a second."""
    with ExitStack() as stack:
        made: list[TimepixDetector] = []

        def make(rate: float, **kwargs: Any) -> TimepixDetector:
            sim = running_sim(scene="vmi", rate=rate, shot_rate=1000, datagram_bytes=1400, seed=1)
            board = SpidrBoard(stack.enter_context(sim).address, name="spidr")
            made.append(TimepixDetector(board, name="tpx", data_dir=tmp_path / "data", **kwargs))
            return made[-1]

        yield make
        for tpx in made:
            tpx.close()
            tpx.board.disconnect()


@pytest.mark.parametrize("length", ["0.1 s", "100 shots"])
def test_a_scan_with_eight_gates_and_the_catalog(
    make: Callable[..., TimepixDetector], RE: Any, catalog: CatalogProfile, db: Any, length: str
) -> None:
    tpx = make(5000.0, exposure=0.1, shots=0 if length == "0.1 s" else 100)
    init_catalog(catalog.name, readable=[tpx.data_dir])
    installation = install(RE, [tpx], catalog=catalog.name, min_free_bytes=0)
    tpx.gates.define(*[Gate(name=f"g{k}", tof=(k * 1000.0, k * 1000.0 + 900)) for k in range(8)])
    seen: list[tuple[float, float, float, int, int]] = []

    def note(_name: str, doc: dict[str, Any]) -> None:
        data = doc["data"]
        if "tpx_open_time" in data:
            told = data["tpx_open_time"], installation.lag, data["tpx_n_shots"], data["tpx_n_valid_shots"]
            seen.append((time.monotonic(), *told))

    RE.subscribe(note, "event")
    RE(bp.count([tpx], num=3))
    seen.clear()
    others = Others()
    RE(bp.scan([tpx], SynAxis(name="delay"), -1, 1, POINTS))
    installation.writer.wait(timeout_s=120)
    installation.uninstall()
    each = [(b[0] - a[0]) * 1e3 for a, b in pairwise(seen)]
    added, lag = statistics.median(each) - 100, max(one[2] for one in seen)
    open_ms = statistics.median(one[1] for one in seen) * 1e3
    valid = [one[4] for one in seen]
    print(
        f"\npoints of {length}, 8 gates, catalog: {added:.0f} ms over the exposure (median; "
        f"largest {max(each) - 100:.0f}), shutter open {open_ms:.1f} ms, "
        f"{statistics.median(one[3] for one in seen):.0f} shots, at least {min(valid)} valid; "
        f"catalog {lag:.1f} s behind at most"
    )
    if others.left_it_alone():
        assert added <= ADDED_MS
        assert lag <= LAG_S
    if length == "100 shots":
        assert min(valid) >= 100


@pytest.mark.parametrize("rate", [1e5, 1e6])
def test_the_first_and_the_last_word_of_a_step(
    make: Callable[..., TimepixDetector], monkeypatch: pytest.MonkeyPatch, rate: float
) -> None:
    """From `trigger` to the first datagram, as the index knows it; from closing the shutter to the signals."""
    tpx = make(rate, exposure=0.3, processing=Processing(tof_max_ns=500_000.0))
    closed: list[float] = []
    close_shutter = tpx._recording.close_shutter
    monkeypatch.setattr(tpx._recording, "close_shutter", lambda: (closed.append(time.monotonic()), close_shutter()))
    opened: list[int] = []
    open_shutter = tpx._recording.open_shutter
    monkeypatch.setattr(tpx._recording, "open_shutter", lambda: (opened.append(time.monotonic_ns()), open_shutter())[1])
    triggered: list[int] = []
    last_ms = []
    tpx.stage()
    others = Others()
    for _ in range(10):
        triggered.append(time.monotonic_ns())
        tpx.trigger().wait(30)
        last_ms.append((time.monotonic() - closed[-1]) * 1e3)
    spool = tpx._recording.paths.spool
    alone = others.left_it_alone()
    lost = tpx.ledger_now.lost_datagrams.get()
    tpx.unstage()
    index = read_index(spool)
    assert index is not None
    came = index.records["host_ns"][index.records["kind"] == Kind.STRETCH]  # a record every 10 ms: so late at most
    first = [int(came[came > order].min()) for order in opened]
    first_ms = [(at - before) / 1e6 for at, before in zip(first, triggered, strict=True)]
    print(
        f"\n{rate / 1e6:g} Mhit/s: trigger to first datagram {statistics.median(first_ms[1:]):.1f} ms "
        f"(largest {max(first_ms[1:]):.1f}, the first point {first_ms[0]:.0f}); end of the exposure to signals "
        f"{statistics.median(last_ms):.1f} ms (largest {max(last_ms):.1f})"
    )
    if alone:
        assert lost == 0
        assert statistics.median(first_ms[1:]) < FIRST_MS
        assert statistics.median(last_ms) < LAST_MS
