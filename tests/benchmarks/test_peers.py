"""The same recordings through other programs and through ours: speed of one core, memory, accuracy against truth.

Each runs in a process of its own, bound to one core; CPU seconds count, so that other jobs on the machine matter
little. Tables and figures: build/bench/peers.md and peers.json; `make bench-page` puts them into the pages.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.synthesis import CHUNK_WORDS, busy_stream, busy_stream_with_truth

from . import report
from .accuracy import save_truth
from .contenders import CONTENDERS, OURS, Contender, missing
from .cores import Others

pytestmark = pytest.mark.bench

N_HITS = int(os.environ.get("TIMEPIX_BENCH_HITS", 20_000_000))
N_HITS_OF_SLOW = min(N_HITS, 2_000_000)
"""For programs of about 2 Mhit/s and less, and for the accuracy of all."""
SCENES = {"1 Mhit/s": 1e6, "20 Mhit/s": 20e6, "pulsed": None}
WARM_UP_WORDS = 200 * (1 + CHUNK_WORDS)
TIMEOUT_S = 300

FASTER_THAN_ANY = 2.0
FASTER_THAN_EXACT = 5.0
"""Less than what a quiet machine shows: a gross loss of speed fails, noise does not."""
EXACT_PERCENT = {"1 Mhit/s": 99.99, "pulsed": 97.7}


class Scene(NamedTuple):
    """Files of one kind of stream."""

    name: str
    file: Path
    n_hits: int
    small: Path
    n_small: int
    smallest: Path
    truth: Path


@pytest.fixture(scope="module")
def others() -> Others:
    """What other jobs took, from the beginning on."""
    return Others()


@pytest.fixture(scope="module")
def results(others: Others) -> Iterator[dict[str, Any]]:
    """All figures; at the end they are written."""
    found: dict[str, Any] = {"machine": report.machine(), "scenes": list(SCENES), "rows": {}}
    yield found
    report.write(found | {"others": others.cores})


@pytest.fixture(scope="module", params=SCENES)
def scene(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """A long recording, and a short one of which everything is known."""
    name, rate = request.param, SCENES[request.param]
    folder = tmp_path_factory.mktemp("streams")
    small, truth = busy_stream_with_truth(N_HITS_OF_SLOW, rate)
    small.tofile(folder / "small.tpx3")
    save_truth(folder / "truth.npz", truth)
    small[:WARM_UP_WORDS].tofile(folder / "smallest.tpx3")
    words = busy_stream(N_HITS, rate)
    words.tofile(folder / "long.tpx3")
    yield Scene(
        name=name,
        file=folder / "long.tpx3",
        n_hits=_n_hits(words),
        small=folder / "small.tpx3",
        n_small=len(truth.tick),
        smallest=folder / "smallest.tpx3",
        truth=folder / "truth.npz",
    )
    for path in folder.iterdir():
        path.unlink()


def _n_hits(words: Any) -> int:
    return int((words >> 60 == 0xB).sum())


@pytest.mark.parametrize("contender", [pytest.param(c, id=name) for name, c in CONTENDERS.items()])
def test_a_contender(scene: Scene, contender: Contender, results: dict[str, Any]) -> None:
    row = results["rows"].setdefault(contender.name, {})
    if scene.name == "20 Mhit/s" and (contender.slow or contender.aside):
        pytest.skip("measured with the other streams")
    if reason := missing(contender):
        row[scene.name] = {"reason": reason}
        pytest.skip(reason)
    file, n_hits = (scene.small, scene.n_small) if contender.slow else (scene.file, scene.n_hits)
    found = _measured(contender, scene, file)
    found |= {
        "hits": n_hits, "fewer": contender.slow, "decodes": contender.decodes, "step_ns": contender.step_ns,
        "mhit_per_cpu_s": n_hits / min(found["cpu_s"]) / 1e6, "mhit_per_s": n_hits / min(found["wall_s"]) / 1e6,
    }  # fmt: skip
    row[scene.name] = found
    print(f"\n{contender.name}, {scene.name}: {found['mhit_per_cpu_s']:.1f} Mhit/s{_told(found)}")
    if contender.package == OURS and "accuracy" in found:
        _assert_accurate(contender, scene, found["accuracy"])


def _measured(contender: Contender, scene: Scene, file: Path) -> dict[str, Any]:
    command = [
        sys.executable, "-m", "tests.benchmarks.contenders", contender.name, file,
        "--warm-up", scene.smallest, "--truth", scene.small, scene.truth,
    ]  # fmt: skip
    command += ["--peaks"] if SCENES[scene.name] is None else []
    done = subprocess.run(command, cwd=report.ROOT, capture_output=True, text=True, timeout=TIMEOUT_S)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout.splitlines()[-1]))


def _told(found: dict[str, Any]) -> str:
    known = found.get("accuracy", {})
    if "sent" in known:
        return f", {known['exact']} of {known['sent']} hits exact"
    if "particles" in known:
        return f", {100 * known['exact'] / known['particles']:.3f} % exact, time +- {known['time_spread_ns']:.2f} ns"
    return ""


def _assert_accurate(contender: Contender, scene: Scene, accuracy: dict[str, Any]) -> None:
    if contender.decodes:
        assert accuracy["exact"] == accuracy["sent"] == accuracy["found"]
    elif contender.exact and scene.name in EXACT_PERCENT:
        assert 100 * accuracy["exact"] / accuracy["particles"] >= EXACT_PERCENT[scene.name]


def test_no_other_program_is_near(results: dict[str, Any], others: Others) -> None:
    """And the tables."""
    print("\n" + report.markdown(results | {"others": others.cores}))
    alone = others.left_it_alone()
    peers = [c for c in CONTENDERS.values() if c.package != OURS and not c.decodes]
    for scene in SCENES:
        own = results["rows"].get(report.OWN, {}).get(scene, {}).get("mhit_per_cpu_s", 0.0)
        for bound, rivals in ((FASTER_THAN_ANY, peers), (FASTER_THAN_EXACT, [c for c in peers if c.exact])):
            speeds = [results["rows"].get(c.name, {}).get(scene, {}).get("mhit_per_cpu_s") for c in rivals]
            fastest = max((speed for speed in speeds if speed), default=None)
            if fastest is not None:
                least = bound if alone else 1.0
                assert own >= least * fastest, f"{scene}: {own:.1f} Mhit/s, another program {fastest:.1f}"
