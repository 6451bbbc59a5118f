"""The tables of a comparison with other programs, as Markdown: printed, written beside the run, put into the pages.

`python -m tests.benchmarks.report` puts the tables of the last run between the two marks of the page on performance.
"""

import json
import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

from .contenders import OURS
from .cores import FREE

ROOT: Final = Path(__file__).parents[2]
RESULTS: Final = ROOT / "build" / "bench" / "peers.json"
PAGE: Final = ROOT / "docs" / "explanations" / "performance.md"
BEGIN: Final = "<!-- written by `make bench-page`: begin -->"
END: Final = "<!-- written by `make bench-page`: end -->"
PEERS: Final = ("rustpix", "tdcsophiread", "tpx3awkward")
OWN: Final = f"{OURS} connected components"
OWN_DECODE: Final = f"{OURS} decode"
ABSENT: Final = "-"


def machine() -> dict[str, Any]:
    """Where this runs, in words that fit any machine."""
    model = next(
        (line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")),
        platform.processor(),
    )
    return {
        "processor": model,
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.release().split('-')[0]}",
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in ("numba", "numpy", *PEERS)},
    }


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def markdown(results: dict[str, Any]) -> str:
    """All tables of a run."""
    tables = [_how(results), _speed(results), _hits(results), _clusters(results)]
    return "\n\n".join(table for table in tables if table) + "\n"


def _how(results: dict[str, Any]) -> str:
    at = results["machine"]
    versions = ", ".join(f"{name} {number}" for name, number in at["versions"].items())
    return (
        f"{at['cores']} cores of {at['processor']}, {at['system']}, Python {at['python']}, {versions}. "
        f"Other jobs took {results['others']:.2f} of the cores meanwhile{_beware(results['others'])}."
    )


def _beware(others: float) -> str:
    return "" if others < FREE else ": times by the clock say little, and CPU times are longer than on a free machine"


def _cells(*cells: str) -> str:
    return "| " + " | ".join(cells) + " |"


def _speed(results: dict[str, Any]) -> str:
    scenes = list(results["scenes"])
    head = ["one core, Mhit/s per CPU second (per second of the clock)", *scenes, "we, times as fast", "memory"]
    lines = [_cells(*head), _cells(*("---" for _ in head))]
    for name, row in results["rows"].items():
        cells, ratios, peaks = [], [], []
        for scene in scenes:
            found = row.get(scene)
            if found is None or "mhit_per_cpu_s" not in found:
                cells.append(ABSENT if found is None else f"not measured: {found['reason']}")
                continue
            fewer = f" (of {found['hits'] / 1e6:.1f} M hits)" if found["fewer"] else ""
            cells.append(f"{found['mhit_per_cpu_s']:.1f} ({found['mhit_per_s']:.1f}){fewer}")
            peaks.append(found["peak_bytes"])
            own = results["rows"].get(OWN_DECODE if found["decodes"] else OWN, {}).get(scene, {})
            if "mhit_per_cpu_s" in own and not name.startswith(OURS):
                ratios.append(own["mhit_per_cpu_s"] / found["mhit_per_cpu_s"])
        memory = f"{max(peaks) / 1e6:.0f} MB" if peaks else ABSENT
        lines.append(_cells(name, *cells, ", ".join(f"{ratio:.1f}" for ratio in ratios) or ABSENT, memory))
    return "\n".join(lines)


def _hits(results: dict[str, Any]) -> str:
    head = ["hits decoded with the right x, y, ToT and time", *results["scenes"], "time in steps of"]
    lines = [_cells(*head), _cells(*("---" for _ in head))]
    for name, row in results["rows"].items():
        known = {scene: found["accuracy"] for scene, found in row.items() if "sent" in found.get("accuracy", {})}
        if not known:
            continue
        cells = [f"{known[s]['exact']} of {known[s]['sent']}" if s in known else ABSENT for s in results["scenes"]]
        steps = next(found["step_ns"] for found in row.values() if "step_ns" in found)
        lines.append(_cells(name, *cells, f"{steps:g} ns"))
    return "\n".join(lines) if len(lines) > 2 else ""


def _clusters(results: dict[str, Any]) -> str:
    head = (
        "clusters against particles", "stream", "exact", "found per particle", "position, rms", "time after arrival",
        "its spread", "width of mass peaks",
    )  # fmt: skip
    lines = [_cells(*head), _cells(*("---" for _ in head))]
    for name, row in results["rows"].items():
        for scene, found in row.items():
            known = found.get("accuracy", {})
            if "particles" not in known:
                continue
            width = known["peak_width_ns"]
            peaks = ABSENT if width != width else f"{width:.2f} ns (of ions: {known['true_peak_width_ns']:.2f})"
            lines.append(
                _cells(
                    name,
                    scene,
                    f"{100 * known['exact'] / known['particles']:.3f} %",
                    f"{known['found'] / known['particles']:.4f}",
                    f"{known['position_rms_px']:.3f} px",
                    f"{known['time_offset_ns']:.1f} ns",
                    f"{known['time_spread_ns']:.2f} ns",
                    peaks,
                )
            )
    return "\n".join(lines) if len(lines) > 2 else ""


def write(results: dict[str, Any], path: Path = RESULTS) -> Path:
    """As JSON, and the tables beside it; returns the path of these."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(results, indent=1))
    tables = path.with_suffix(".md")
    tables.write_text(markdown(results))
    return tables


def put_into(page: str, tables: str) -> str:
    """The page with these tables between its marks."""
    head, begin, rest = page.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the page has no place for tables: put the lines {BEGIN!r} and {END!r} there")
    return f"{head}{BEGIN}\n\n{tables}\n{END}{tail}"


def main() -> None:
    """Put the tables of the last run into the page on performance."""
    tables = markdown(json.loads(RESULTS.read_text()))
    PAGE.write_text(put_into(PAGE.read_text(), tables))
    print(tables)


if __name__ == "__main__":
    main()
