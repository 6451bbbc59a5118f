"""From a file of 20 M hits to centroids: on one core, on two, and into an event file on disk.

Whoever else is on the machine takes time, not CPU time: both are told, with what each stage took for a hit.
"""

import os
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import psutil
import pytest

from ophyd_timepix.config import Geometry, Processing
from ophyd_timepix.decode import Decoder
from ophyd_timepix.decode import warm_up as warm_up_decode
from ophyd_timepix.events import BlockArrays, BlockBuilder, CentroidFinder
from ophyd_timepix.events import warm_up as warm_up_events
from ophyd_timepix.pipeline.centroid_stage import CentroidStage
from ophyd_timepix.pipeline.client import SMALLEST_RING, Pipeline
from ophyd_timepix.pipeline.decode_stage import DecodeStage
from ophyd_timepix.pipeline.messages import RecordedFile, RunRequest
from ophyd_timepix.pipeline.recorded import recorded_parts
from ophyd_timepix.pipeline.shared import Shared
from ophyd_timepix.pipeline.stage import Stage, run_forked
from ophyd_timepix.spool.sources import SLICE_BYTES
from tests.benchmarks.cores import Cores
from tests.synthesis import busy_stream

pytestmark = pytest.mark.bench

N_HITS = 20_000_000
SLICE_WORDS = SLICE_BYTES // 8
RUNS = 3
SCENES = {"uniform 1 Mhit/s": 1e6, "uniform 20 Mhit/s": 20e6, "pulsed": None}

Words = npt.NDArray[np.uint64]


class Figures(NamedTuple):
    """Of one run."""

    n_hits: int
    seconds: float
    cpu_seconds: Mapping[str, float]

    @property
    def rate(self) -> float:
        """Mhit/s by the clock."""
        return self.n_hits / self.seconds / 1e6

    @property
    def cpu_ns(self) -> float:
        """Of all processes, for a hit."""
        return 1e9 * sum(self.cpu_seconds.values()) / self.n_hits

    @property
    def cores_free_ns(self) -> float:
        """For a hit, if two cores had nothing else to do: the busiest process, or half of all."""
        return max(1e9 * max(self.cpu_seconds.values()) / self.n_hits, self.cpu_ns / 2)

    def __str__(self) -> str:
        each = ", ".join(f"{name} {1e9 * spent / self.n_hits:.1f}" for name, spent in self.cpu_seconds.items())
        return f"{self.rate:.1f} Mhit/s by the clock, CPU {self.cpu_ns:.1f} ns a hit ({each})"


@pytest.fixture(scope="module", params=SCENES.values(), ids=SCENES)
def recording(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    warm_up_decode()
    warm_up_events()
    path = tmp_path_factory.mktemp("recording") / "busy.tpx3"
    busy_stream(N_HITS, request.param).tofile(path)
    yield path
    path.unlink()


def one_core(path: Path) -> Figures:
    """Decode, order, shots, clusters and centroids in this process; nothing is written. The best of several runs."""
    return min((_chain(path) for _ in range(RUNS)), key=lambda figures: figures.cpu_ns)


def _slices(path: Path) -> Iterator[Words]:
    """Read as the decode stage reads."""
    buffer = np.empty(SLICE_WORDS, np.uint64)
    with path.open("rb", buffering=0) as file:
        while n_bytes := file.readinto(buffer):
            yield buffer[: n_bytes // 8]


def _chain(path: Path) -> Figures:
    decoder, builder = Decoder(n_chips=1, batch_words=SLICE_WORDS), BlockBuilder(Processing(), 1)
    finder, block = CentroidFinder(Processing(), Geometry().table()), BlockArrays()
    n_hits = 0
    begin, cpu = time.monotonic(), time.process_time()
    for words in _slices(path):
        builder.add(decoder.decode(words))
        while builder.take(block):
            finder.process(block)
            n_hits += block.header.n_hits
    builder.add(decoder.flush())
    more = True
    while more:
        more = builder.flush(block)
        finder.process(block)
        n_hits += block.header.n_hits
    return Figures(n_hits, time.monotonic() - begin, {"chain": time.process_time() - cpu})


class Stages:
    """The decode stage and some centroid stages, forked; this process takes their blocks, looks at none, frees them."""

    def __init__(self, workers: int) -> None:
        self._shared = Shared(SMALLEST_RING)
        free_in, self._free = Pipe(duplex=False)
        ways = [(Pipe(duplex=False), Pipe(duplex=False)) for _ in range(workers)]
        self._blocks = [back[0] for _, back in ways]
        self._controls: dict[str, Connection] = {}
        self._processes: dict[str, psutil.Process] = {}
        outputs = [to[1] for to, _ in ways]
        self._fork("decode", lambda control: DecodeStage(control, self._shared, outputs, free_in))
        for k, (to, back) in enumerate(ways):
            name = f"centroid{k}"
            self._fork(name, partial(CentroidStage, name, shared=self._shared, source=to[0], sink=back[1]))

    def _fork(self, name: str, make: Callable[[Connection], Stage]) -> None:
        ours, theirs = Pipe()
        pid = os.fork()
        if pid == 0:
            run_forked(name, theirs, lambda: make(theirs))
        theirs.close()
        self._controls[name], self._processes[name] = ours, psutil.Process(pid)

    def run(self, path: Path) -> Figures:
        """A recording from its first word to its last centroid."""
        for control in self._controls.values():
            control.send(("open", RunRequest(event_file=path.with_suffix(".h5"))))
            assert control.recv()[1] == "ok"
        (part,) = recorded_parts(RecordedFile(path=path))
        before, begin = self._cpu_seconds(), time.monotonic()
        self._controls["decode"].send(("read", part))
        n_hits = n_blocks = 0
        n_expected = -1
        while n_blocks != n_expected:
            for connection in wait(self._blocks) if len(self._blocks) > 1 else self._blocks:
                number = connection.recv()
                header = self._shared.blocks[number].header
                n_hits, n_blocks = n_hits + header.n_hits, n_blocks + 1
                n_expected = header.sequence + 1 if header.last else n_expected
                self._free.send(number)
        seconds = time.monotonic() - begin
        for _ in range(2):  # that it reads, and that all is decoded
            assert self._controls["decode"].recv()[1] == "ok"
        return Figures(n_hits, seconds, {n: s - before[n] for n, s in self._cpu_seconds().items()})

    def _cpu_seconds(self) -> dict[str, float]:
        return {name: sum(process.cpu_times()[:2]) for name, process in self._processes.items()}

    def close(self) -> None:
        """End them."""
        for process in self._processes.values():
            process.kill()
            os.waitpid(process.pid, 0)


def two_cores(path: Path, workers: int) -> Figures:
    """The same in processes of their own, the best of several runs by the clock."""
    stages = Stages(workers)
    try:
        return max((stages.run(path) for _ in range(RUNS)), key=lambda figures: figures.rate)
    finally:
        stages.close()


def to_disk(path: Path, workers: int) -> Figures:
    """Into an event file on the disk, with its master: the best of several runs by the clock."""
    best: Figures | None = None
    with Pipeline(workers=workers) as pipeline:
        for run in range(RUNS):
            output = path.with_name(f"{workers}-{run}.h5")
            cores, begin = Cores(pipeline.pids), time.monotonic()
            summary = pipeline.process(RunRequest(event_file=output, n_chips=1), [path])
            seconds = time.monotonic() - begin
            used = {name: share * seconds for name, share in cores.used().own.items() if name != "capture"}
            assert summary.ledger["unaccounted"] == 0
            figures = Figures(summary.ledger["hits"], seconds, used)
            best = figures if best is None or figures.rate > best.rate else best
            for made in output.parent.glob(f"{output.stem}.*"):
                made.unlink()
    assert best is not None
    return best


def test_one_core_and_two(recording: Path) -> None:
    one = one_core(recording)
    print(f"\ndecode to centroids on one core: {one}")
    for workers in (1, 2, 3):
        both = two_cores(recording, workers)
        ratios = (
            f"{both.rate / one.rate:.2f} x one core by the clock, {one.cpu_ns / both.cores_free_ns:.2f} x by CPU time"
        )
        print(f"on two, {workers} centroid stages: {both}, {ratios}")
        assert both.n_hits == one.n_hits


@pytest.mark.parametrize("workers", [1, 2])
def test_file_to_hdf5(recording: Path, workers: int) -> None:
    found = to_disk(recording, workers)
    print(f"\n.tpx3 to HDF5 on disk, {workers} centroid stages: {found}")
    assert found.rate > 0
