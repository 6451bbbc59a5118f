"""Programs that turn Timepix3 recordings into centroids, one beside the other: how each is called, and what came out.

`python -m tests.benchmarks.contenders NAME FILE` measures one of them in a process of its own, on one core, so that
neither memory nor threads of others count. A first run over a small file compiles and touches what there is to touch.

Each is called as its documentation says, with radius 2 and 100 ns where it has such parameters, and keeps all
centroids in memory. Fields differ: chips are placed elsewhere, times come in 25 ns; here all are made alike.
"""

import argparse
import json
import os
import resource
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from io import StringIO
from pathlib import Path
from typing import Any, Final

import numpy as np

from ophyd_timepix.config import Metric, Processing
from ophyd_timepix.config.calibration import Calibration
from tests.synthesis import TIME_WALK_ABC

from .accuracy import SHOT_TICKS, TICK_NS, Centroids, Hits, load_truth, score, score_hits

OURS: Final = "ophyd_timepix"
RADIUS_PX: Final = 2.0
WINDOW_NS: Final = 100.0
RUNS: Final = 3
ENOUGH_S: Final = 2.0
"""CPU seconds after which a program is not run again."""
COUNT_NS: Final = 25.0
SOPHIREAD_LEFT: Final = 258
"""Where it places chip 0."""
AWKWARD_LEFT: Final = 256
AWKWARD_GAP: Final = 2
"""Where it places chip 0; its centroids lie beyond a gap besides."""
FTOA_NS: Final = 1.5625

Work = Callable[[Path], object]


@dataclass(frozen=True)
class Contender:
    """One program in one setting."""

    package: str
    setting: str
    make: Callable[[], Work]
    """Imports and prepares; what is returned is timed."""
    result: Callable[[Any], Centroids | Hits] | None
    """From what the timed function returned; None if it keeps nothing that could be compared."""
    exact: bool = False
    """Connected components in the given cylinder, by its documentation."""
    slow: bool = False
    """Timed on the small file."""
    aside: bool = False
    """Another setting of ours, in no comparison of speed."""
    step_ns: float = 25.0
    """In which it tells time."""

    @property
    def name(self) -> str:
        return f"{self.package} {self.setting}"

    @property
    def decodes(self) -> bool:
        """It makes hits, no centroids."""
        return self.setting.startswith("decode")


def missing(contender: Contender) -> str | None:
    """Why this cannot run here, or None."""
    try:
        version(contender.package)
    except PackageNotFoundError:
        return f"{contender.package} is not installed: no build for this machine, or extra `bench` is missing"
    return None


# ophyd_timepix


def _ours(*, walk: bool = False, **choices: Any) -> Callable[[], Work]:
    """walk: time-walk is corrected, as it is in the streams."""

    def make() -> Work:
        from .ours import slices_of, table_of

        known = Calibration(time_walk_abc=np.array([TIME_WALK_ABC])) if walk else None
        processing = Processing.model_validate({"radius_px": RADIUS_PX, "window_ns": WINDOW_NS} | choices)
        return lambda path: table_of(slices_of(path), path.stat().st_size // 8, processing, known)

    return make


def _ours_given_away() -> Work:
    from .ours import count_centroided, slices_of

    return lambda path: count_centroided(slices_of(path), Processing())


def _ours_given_away_with_hits() -> Work:
    from .ours import count_centroided, slices_of

    return lambda path: count_centroided(slices_of(path), Processing(hits=True))


def _our_centroids(table: dict[str, Any]) -> Centroids:
    return Centroids(table["x"], table["y"], table["tof"], table["tot"], table["size"])


def _ours_decode() -> Work:
    from .ours import count_decoded, slices_of

    return lambda path: (count_decoded(slices_of(path)), path)


def _our_hits(result: tuple[int, Path]) -> Hits:
    from .ours import decoded, slices_of

    parts = [(batch.ticks.copy(), batch.pixels.copy()) for batch in decoded(slices_of(result[1]))]
    ticks, pixels = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    return Hits(pixels >> 10 & 0xFF, pixels >> 18 & 0xFF, pixels & 0x3FF, ticks, TICK_NS)


# rustpix


def _rustpix_detector() -> Any:
    import rustpix

    return rustpix.DetectorConfig(tdc_frequency_hz=1000.0, chip_transforms=[(1, 0, 0, 1, 0, 0)] * 4)


def _rustpix_decode() -> Work:
    import rustpix

    detector = _rustpix_detector()
    return lambda path: rustpix.read_tpx3_hits(str(path), detector).to_numpy()


def _rustpix(algorithm: str) -> Callable[[], Work]:
    def make() -> Work:
        import rustpix

        detector = _rustpix_detector()
        clusters = rustpix.ClusteringConfig(radius=RADIUS_PX, temporal_window_ns=WINDOW_NS, min_cluster_size=1)
        means = rustpix.ExtractionConfig(super_resolution_factor=1.0, weighted_by_tot=True, min_tot_threshold=0)

        def work(path: Path) -> Any:
            batch = rustpix.process_tpx3_neutrons(
                str(path), detector, clusters, means, collect=True, algorithm=algorithm
            )
            return batch.to_numpy()

        return work

    return make


def _in_counts(table: Any) -> Centroids:
    return Centroids(table["x"], table["y"], table["tof"] * COUNT_NS, table["tot"], table["n_hits"])


def _hits_in_counts(table: Any) -> Hits:
    return Hits(table["x"], table["y"], table["tot"], table["timestamp"], COUNT_NS)


# tdcsophiread


def _sophiread_detector() -> Any:
    import tdcsophiread

    timing = {"tdc_frequency_hz": 1000.0, "enable_missing_tdc_correction": True}
    return tdcsophiread.DetectorConfig.from_json({"detector": {"timing": timing}})


def _sophiread_decode() -> Work:
    import tdcsophiread

    detector = _sophiread_detector()  # the processor only points at it: it has to live as long
    processor = tdcsophiread.TDCProcessor(detector)
    return lambda path, _detector=detector: processor.process_file(str(path))


def _sophiread_hits(hits: Any) -> Hits:
    import tdcsophiread

    found = _hits_in_counts(np.asarray(tdcsophiread.hits_to_numpy_view(hits)))
    return found._replace(x=found.x - SOPHIREAD_LEFT)


def _sophiread_centroids(result: Any) -> Centroids:
    found = _in_counts(np.asarray(result[0]))
    return found._replace(x=found.x - SOPHIREAD_LEFT)


def _sophiread(algorithm: str) -> Callable[[], Work]:
    def make() -> Work:
        import tdcsophiread

        settings = tdcsophiread.NeutronProcessingConfig()
        settings.clustering.algorithm = algorithm
        settings.clustering.abs.radius = RADIUS_PX
        settings.clustering.abs.neutron_correlation_window = WINDOW_NS
        settings.clustering.abs.min_cluster_size = 1
        settings.clustering.grid.connection_distance = RADIUS_PX
        settings.clustering.grid.neutron_correlation_window = WINDOW_NS
        settings.extraction.super_resolution_factor = 1.0
        settings.temporal.num_workers = 1
        decode, processor = _sophiread_decode(), tdcsophiread.TemporalNeutronProcessor(settings)

        def work(path: Path, _settings: Any = settings) -> Any:
            hits: Any = decode(path)
            return processor.processHits(hits), hits

        return work

    return make


# tpx3awkward


def _awkward_decode() -> Work:
    from tpx3awkward.processing import decode_tpx3_binary, raw_as_numpy

    return _quietly(lambda path: decode_tpx3_binary(raw_as_numpy(path), tdc=True)[0])


def _awkward_hits(table: Any) -> Hits:
    """Without the column phase that it adds: these words have none."""
    x = table["x"].to_numpy().astype(np.int64)
    bins = table["t"].to_numpy().astype(np.int64) - _awkward_phase(x)
    return Hits(x - AWKWARD_LEFT, table["y"].to_numpy(), table["ToT"].to_numpy() // 25, bins, FTOA_NS)


def _awkward(window_us: float, radius: int) -> Callable[[], Work]:
    def make() -> Work:
        from tpx3awkward import convert_tpx3_binary
        from tpx3awkward.processing import raw_as_numpy

        def work(path: Path) -> Any:
            return convert_tpx3_binary(raw_as_numpy(path), time_window=window_us, radius=radius, tdc=True)[0], path

        return _quietly(work)

    return make


def _awkward_centroids(result: Any) -> Centroids:
    """The time is that of the brightest hit, with the phase of its column, which is not told: the hit is looked up."""
    table, path = result
    x, y, tot = (table[name].to_numpy().astype(np.float64) for name in ("xc", "yc", "ToT_sum"))
    x -= AWKWARD_LEFT + AWKWARD_GAP
    hits: Any = _awkward_decode()(path)
    of_hits = np.stack([hits[name].to_numpy().astype(np.int64) for name in ("t", "ToT", "x")])
    keys = of_hits[0] << 16 | of_hits[1]
    order = np.argsort(keys, kind="stable")
    first = np.searchsorted(keys[order], table["t"].to_numpy().astype(np.int64) << 16 | table["ToT_max"].to_numpy())
    candidates = order[np.minimum(first[:, None] + np.arange(3), len(order) - 1)]
    nearest = np.argmin(np.abs(of_hits[2][candidates] - AWKWARD_LEFT - x[:, None]), axis=1)
    column = of_hits[2][candidates[np.arange(len(x)), nearest]]
    bins = table["t"].to_numpy().astype(np.int64) - _awkward_phase(column)
    return Centroids(x, y, bins * FTOA_NS % (SHOT_TICKS * TICK_NS), tot / 25, table["n"].to_numpy())


def _awkward_phase(x: Any) -> Any:
    phase = x // 2 % 16
    return np.where(phase == 0, 16, phase)


def _quietly(work: Work) -> Work:
    def quiet(path: Path) -> object:
        with redirect_stdout(StringIO()):
            return work(path)

    return quiet


CONTENDERS: Final = {
    contender.name: contender
    for contender in (
        Contender(OURS, "decode", _ours_decode, _our_hits, step_ns=FTOA_NS),
        Contender("rustpix", "decode and sort", _rustpix_decode, _hits_in_counts),
        Contender("tdcsophiread", "decode", _sophiread_decode, _sophiread_hits),
        Contender("tpx3awkward", "decode and sort", _awkward_decode, _awkward_hits, slow=True, step_ns=FTOA_NS),
        Contender(OURS, "connected components", _ours(), _our_centroids, exact=True, step_ns=FTOA_NS),
        Contender("rustpix", "abs", _rustpix("abs"), _in_counts),
        Contender("rustpix", "grid", _rustpix("grid"), _in_counts, exact=True),
        Contender("tdcsophiread", "abs", _sophiread("abs"), _sophiread_centroids),
        Contender("tdcsophiread", "grid", _sophiread("grid"), _sophiread_centroids, slow=True),
        Contender("tpx3awkward", "0.1 µs, 2 px", _awkward(0.1, 2), _awkward_centroids, slow=True, step_ns=FTOA_NS),
        Contender("tpx3awkward", "0.3 µs, 5 px", _awkward(0.3, 5), _awkward_centroids, slow=True, step_ns=FTOA_NS),
        Contender(OURS, "blocks given away", _ours_given_away, None, step_ns=FTOA_NS),
        Contender(OURS, "with hit columns", _ours_given_away_with_hits, None, step_ns=FTOA_NS, aside=True),
        Contender(OURS, "ellipsoid", _ours(metric=Metric.ELLIPSOID), _our_centroids, step_ns=FTOA_NS, aside=True),
        Contender(OURS, "min_samples 3", _ours(min_samples=3), _our_centroids, step_ns=FTOA_NS, aside=True),
        Contender(OURS, "split", _ours(split=True), _our_centroids, step_ns=FTOA_NS, aside=True),
        Contender(OURS, "time-walk corrected", _ours(walk=True), _our_centroids, step_ns=FTOA_NS, aside=True),
        Contender(
            OURS,
            "time-walk corrected, split",
            _ours(walk=True, split=True),
            _our_centroids,
            step_ns=FTOA_NS,
            aside=True,
        ),
    )
}


def measure(work: Work, path: Path) -> tuple[dict[str, Any], Any]:
    """CPU and wall seconds of each run, and what the last returned."""
    cpu: list[float] = []
    wall: list[float] = []
    result = None
    while len(cpu) < RUNS and sum(cpu) < ENOUGH_S:
        result = None  # or two of them would be in memory
        begun, before = time.perf_counter(), _cpu_s()
        result = work(path)
        cpu.append(_cpu_s() - before)
        wall.append(time.perf_counter() - begun)
    return {"cpu_s": cpu, "wall_s": wall, "peak_bytes": _peak_bytes()}, result


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _peak_bytes() -> int:
    """Of this program alone: the figure of getrusage would know what the parent had when it forked."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("/proc/self/status has no line VmHWM")


def main() -> None:
    """Print what was measured as one JSON object."""
    parser = argparse.ArgumentParser()
    parser.add_argument("name", choices=CONTENDERS)
    parser.add_argument("file", type=Path)
    parser.add_argument("--warm-up", type=Path, required=True)
    parser.add_argument("--truth", type=Path, nargs=2, help="stream and its truth: say how accurate it is")
    parser.add_argument("--peaks", action="store_true", help="the stream of the truth has mass peaks")
    options = parser.parse_args()
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    contender = CONTENDERS[options.name]
    work = contender.make()
    work(options.warm_up)
    found, last = measure(work, options.file)
    if options.truth and contender.result:
        stream, truth = options.truth[0], load_truth(options.truth[1])
        result = contender.result(last if stream == options.file else work(stream))
        known = score_hits(result, truth) if isinstance(result, Hits) else score(result, truth, peaks=options.peaks)
        found["accuracy"] = known._asdict()
    print(json.dumps(found))


if __name__ == "__main__":
    main()
