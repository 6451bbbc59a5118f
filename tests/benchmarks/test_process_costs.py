"""What `ophyd-timepix process` costs beside time: memory, whatever the file's size, and compilation, only once."""

import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.memory import memory_of
from tests.synthesis import CHUNK_WORDS, busy_stream

pytestmark = pytest.mark.bench

N_HITS = 60_000_000
TIMES = 3
"""How much longer the long file is."""
HITS_PER_S = 20e6
SAMPLE_S = 0.1
GROWTH = 0.05
TIMEOUT_S = 300
COMPILED = 0.3
"""Share of the CPU time of a first start that a second may take, at most."""


def command(file: Path, output: Path) -> list[str | Path]:
    return [sys.executable, "-m", "ophyd_timepix.app.cli", "process", file, "-o", output, "--json"]


def peak_of(file: Path, output: Path) -> int:
    """Largest proportional set size (bytes) of all processes together, libraries left out."""
    peak, end = 0, time.monotonic() + TIMEOUT_S
    with subprocess.Popen(command(file, output), stdout=subprocess.DEVNULL) as running:
        while time.monotonic() < end:
            peak = max(peak, _own(running.pid))
            try:
                code = running.wait(SAMPLE_S)
            except subprocess.TimeoutExpired:
                continue
            assert code == 0
            return peak
        running.terminate()
    raise TimeoutError(f"{file.name} was not processed within {TIMEOUT_S} s")


def _own(pid: int) -> int:
    """A process that ends meanwhile had its largest size before."""
    try:
        family = [pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))]
        return memory_of(family).own
    except (psutil.NoSuchProcess, OSError):
        return 0


def test_memory_does_not_depend_on_the_size_of_the_file(tmp_path: Path) -> None:
    words = busy_stream(N_HITS, HITS_PER_S)
    parts = {"short": words[: len(words) // TIMES // (1 + CHUNK_WORDS) * (1 + CHUNK_WORDS)], "long": words}
    peaks = {}
    for name, part in parts.items():
        file = tmp_path / f"{name}.tpx3"
        part.tofile(file)
        peaks[name] = peak_of(file, tmp_path / f"{name}.h5")
        print(f"\n{name}, {file.stat().st_size / 1e6:.0f} MB: {peaks[name] / 1e6:.0f} MB in all processes")
    assert peaks["long"] < (1 + GROWTH) * peaks["short"]


def test_a_second_start_compiles_nothing(tmp_path: Path) -> None:
    cache = tmp_path / "compiled"
    cache.mkdir()
    file = tmp_path / "few.tpx3"
    busy_stream(1, HITS_PER_S)[: 100 * (1 + CHUNK_WORDS)].tofile(file)
    seconds, compiled = [], []
    for start in range(2):
        before = _cpu_s()
        subprocess.run(
            command(file, tmp_path / f"{start}.h5"),
            env=os.environ | {"NUMBA_CACHE_DIR": str(cache)},
            check=True,
            stdout=subprocess.DEVNULL,
            timeout=TIMEOUT_S,
        )
        seconds.append(_cpu_s() - before)
        compiled.append({path: path.stat().st_mtime_ns for path in cache.rglob("*") if path.is_file()})
    print(f"\nCPU of a first start {seconds[0]:.1f} s, of a second {seconds[1]:.1f} s, {len(compiled[0])} files kept")
    assert compiled[0]
    assert compiled[1] == compiled[0]
    assert seconds[1] < COMPILED * seconds[0]


def _cpu_s() -> float:
    """Of all processes that were started here and have ended, theirs included."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
