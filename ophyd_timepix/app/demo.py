"""`ophyd-timepix demo`: the main job against the simulated camera, and proof that it was done.

It starts spidr-sim, configures it as one would a camera, runs count, scan and a flight under a RunEngine with an
embedded catalog, asks the catalog for what was recorded, draws it, and compares it with what the simulator sent. All
files, the catalog too, are in the directory given; nothing is written into the user's home.
"""

import argparse
import contextlib
import json
import os
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ..catalog import CatalogWriteError, init_catalog, open_catalog
from ..files.reader import open_event_file
from .progress import PlanProgress
from .simulator import Simulator
from .truth import Agreement, compare, epochs_with_data, flight_times_ns, warm

CATALOG: Final = "timepix"
POINT_SHOTS: Final = 200
CATALOG_TIMEOUT_S: Final = 60.0
BIAS_V: Final = 40.0
THRESHOLD: Final = 300
IONS: Final = (r"H$^+$", r"C$^+$", r"CH$_3^+$", r"I$^{++}$", r"I$^+$", r"CH$_3$I$^+$")
"""The mass peaks of the simulator's scene `vmi` (methyl iodide), in the order of its truth file."""
GATE: Final = 4
"""The peak that the centroid query and the right half of the picture ask for: I+."""
GATE_HALF_WIDTH_NS: Final = 120.0
IODINE_TOF_NS: Final = (13_750.0, 14_150.0)
"""The gate of the scan."""
DELAYS_PS: Final = (-0.2, 0.05, 0.2, 0.35, 0.6, 1.0, 1.8)
LONG_DELAY_PS: Final = 100.0
POINT_COLUMNS: Final = (
    "tpx_n_hits",
    "tpx_n_shots",
    "tpx_n_centroids",
    "tpx_gates_gate0_counts",
    "tpx_row_start",
    "tpx_row_stop",
    "tpx_unaccounted",
)
LEDGER_LINES: Final = {
    "sent_datagrams": "datagrams that the board sent",
    "received_datagrams": "received",
    "kernel_dropped": "dropped by the kernel",
    "lost_on_the_way": "lost on the way",
    "sent_pixel_words": "pixel words that the board sent",
    "decoded_words": "words decoded, of all kinds",
    "unknown_words": "words of unknown kind",
    "hits": "hits",
    "rejected_late_hits": "hits rejected: too late to be ordered",
    "edges": "trigger edges, both inputs",
    "shots": "shots",
    "valid_shots": "shots that are complete",
    "clustered_hits": "hits in clusters",
    "centroids": "centroids",
    "written": "rows in the event file",
    "unaccounted": "unaccounted",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument(
        "--directory", type=Path, default=Path("demo"), metavar="DIR", help="for all files (default demo)"
    )
    parser.add_argument("--shots", type=int, default=10_000, help="length of the flight (default %(default)s)")
    parser.add_argument("--shot-rate", type=float, default=1000.0, metavar="HZ", help="laser shots (default 1000)")
    parser.add_argument("--rate", type=float, default=250_000.0, metavar="HZ", help="hits (default 250000)")
    parser.add_argument("--seed", type=int, default=1, help="of the simulated ions (default 1)")


def run(options: argparse.Namespace) -> int:
    """Exit code 0 only if every ledger closes and the catalog agrees with the simulator's truth."""
    if options.shots < 1:
        raise ValueError(f"--shots is at least 1, not {options.shots}")
    began = time.monotonic()
    console = Console(highlight=False)
    files = Files.below(options.directory)
    with _session(options, files, console) as session:
        _configure(session, console)
        runs = _take(session, options.shots, console)
    verdicts = [_verdict(session, files, uid, index) for index, uid in enumerate(runs.values())]
    flight = runs["flight"]
    _show_ledger(session, flight, console)
    _show_table(session, runs["scan"], console)
    _show_growth(session, files, runs["scan"], console)
    gate = _show_query(session, files, flight, console)
    _draw(session, files, flight, gate)
    _show_verdicts(dict(zip(runs, verdicts, strict=True)), console)
    good = all(verdict.good for verdict in verdicts)
    _summary(files, verdicts, good, time.monotonic() - began, console)
    return 0 if good else 1


@dataclass(frozen=True)
class Files:
    """Where everything is."""

    directory: Path
    data: Path
    catalog: Path
    truth: Path
    log: Path

    @classmethod
    def below(cls, directory: Path) -> "Files":
        """Makes the directory, and tells Tiled to keep its own files in it."""
        home = directory.expanduser().resolve()
        home.mkdir(parents=True, exist_ok=True)
        os.environ["TILED_PROFILES"] = str(home / "catalog" / "profiles")
        os.environ["TILED_CACHE_DIR"] = str(home / "catalog" / "cache")
        return cls(home, home / "data", home / "catalog", home / "truth.h5", home / "spidr-sim.log")


@dataclass
class Session:
    """What a scientist has at the prompt: RE, spidr, tpx, db."""

    engine: Any
    board: Any
    tpx: Any
    installation: Any
    delay: Any

    @property
    def db(self) -> Any:
        return self.installation.db


@dataclass(frozen=True)
class Verdict:
    """A run: does its ledger close, and do its centroids agree with the truth?"""

    uid: str
    ledger: dict[str, Any]
    agreement: Agreement

    @property
    def closed(self) -> bool:
        return bool(self.ledger["unaccounted"] == 0)

    @property
    def good(self) -> bool:
        return self.closed and self.agreement.holds


# --- the parts, in their order


@contextlib.contextmanager
def _session(options: argparse.Namespace, files: Files, console: Console) -> Iterator[Session]:
    """Simulator, pipeline, catalog and what needs long to import start side by side; all end with this context."""
    from ..pipeline.client import Pipeline

    console.print("[bold]A simulated Timepix3 camera under Bluesky[/bold]")
    console.print(f"starting spidr-sim, the catalog and the pipeline ... (files in {files.directory})")
    with contextlib.ExitStack() as stack:
        pool = stack.enter_context(ThreadPoolExecutor(3))
        pipeline = Pipeline(log_dir=files.directory)
        stack.callback(pipeline.close)
        starting = [pool.submit(pipeline.start), pool.submit(_open_catalog, files), pool.submit(warm)]
        simulator = stack.enter_context(Simulator.start(_scene(options, files), log=files.log))
        for started in starting:
            started.result()
        yield stack.enter_context(_wired(simulator, pipeline, files, console))


def _scene(options: argparse.Namespace, files: Files) -> list[str]:
    rates = ["--rate", str(options.rate), "--shot-rate", str(options.shot_rate)]
    return ["--scene", "vmi", *rates, "--seed", str(options.seed), "--truth", str(files.truth)]


def _open_catalog(files: Files) -> None:
    init_catalog(CATALOG, files.catalog, readable=[files.data])
    open_catalog(CATALOG)


@contextlib.contextmanager
def _wired(simulator: Simulator, pipeline: Any, files: Files, console: Console) -> Iterator[Session]:
    """What a scientist writes into a profile."""
    from bluesky import RunEngine

    from .. import Gate, SpidrBoard, TimepixDetector, install
    from .delay import SimulatedDelay

    board = SpidrBoard(simulator.address, name="spidr")
    tpx = TimepixDetector(board, name="tpx", data_dir=files.data, pipeline=lambda: pipeline)
    tpx.gates.define(Gate(name="iodine", tof=IODINE_TOF_NS))
    try:
        engine = RunEngine({})
        engine.waiting_hook = PlanProgress(console)
        installation = install(engine, [tpx], catalog=CATALOG)
        yield Session(engine, board, tpx, installation, SimulatedDelay(simulator, name="delay"))
        installation.uninstall()
    finally:
        tpx.close()


def _configure(session: Session, console: Console) -> None:
    """A DAC, the bias voltage and the pixel matrix, over TCP."""
    from ..protocol.pixel_matrix import PixelMatrix

    board, chip = session.board, session.board.chip0
    chip.control.set_defaults()
    chip.dacs.vthreshold_fine.set(THRESHOLD).wait(10)
    chip.control.upload_matrix(PixelMatrix())
    board.control.set_bias(BIAS_V)
    board.control.bias_enable(True)
    console.print(board.summary())
    console.print(f"  bias {board.control.bias_v():.1f} V, pixel matrix written and read back")


def _take(session: Session, shots: int, console: Console) -> dict[str, str]:
    """The three runs; name and uid."""
    import bluesky.plans as bp

    from .. import tpx_fly

    tpx, delay = session.tpx, session.delay
    tpx.shots.set(POINT_SHOTS).wait(10)
    plans = {
        "count": (f"bp.count([tpx], num=3), {POINT_SHOTS} shots a point", bp.count([tpx], num=3)),
        "scan": (f"bp.list_scan([tpx], delay, {list(DELAYS_PS)})", bp.list_scan([tpx], delay, list(DELAYS_PS))),
        "flight": (f"tpx_fly(tpx, shots={shots})", tpx_fly(tpx, shots=shots)),
    }
    uids = {}
    for name, (label, plan) in plans.items():
        console.print(f"[bold]{escape(label)}[/bold]")
        uids[name] = _run_plan(session.engine, plan, sample="methyl iodide", demo=name)
        delay.set(LONG_DELAY_PS).wait(10)
    lag = session.installation.writer.lag
    console.print(f"the catalog is {lag.documents} documents ({lag.seconds:.1f} s) behind; waiting for it")
    try:
        session.installation.writer.wait(CATALOG_TIMEOUT_S)
    except CatalogWriteError as failed:
        console.print(f"[red]{failed}[/red]")
    return uids


def _run_plan(engine: Any, plan: Any, **metadata: str) -> str:
    """The uid of the run. Ctrl-C, which pauses a RunEngine, ends the demo here: nobody is at a prompt to resume."""
    from bluesky.utils import RunEngineInterrupted

    try:
        uid: str = engine(plan, **metadata)[0]
    except RunEngineInterrupted:
        engine.abort("interrupted")
        raise KeyboardInterrupt from None
    return uid


def _ledger(session: Session, uid: str) -> dict[str, Any]:
    """The ledger of a run, from the catalog."""
    column = session.db.v3[uid]["tpx_ledger"]["tpx_ledger_json"]
    ledger: dict[str, Any] = json.loads(str(column[0]))
    return ledger


def _verdict(session: Session, files: Files, uid: str, index: int) -> Verdict:
    """Run number `index` of this demo against the truth."""
    from ..catalog import centroids

    ledger = _ledger(session, uid)
    table = centroids(session.db[uid], ["x", "y", "toa", "tot", "size", "chip"], valid_only=False)
    agreement = compare(
        files.truth,
        epochs_with_data(files.truth)[index],
        table,
        hits=ledger["hits"],
        shots=ledger["shots"],
        processing=session.tpx.processing.model,
        n_chips=session.board.n_chips,
    )
    return Verdict(uid, ledger, agreement)


def _show_ledger(session: Session, uid: str, console: Console) -> None:
    ledger = _ledger(session, uid)
    table = Table(title="The ledger of the flight: from sent to written", title_justify="left", show_header=False)
    table.add_column(justify="right")
    table.add_column()
    for key, words in LEDGER_LINES.items():
        if ledger.get(key) is not None:
            table.add_row(f"{ledger[key]:,}", words)
    console.print(table)


def _show_table(session: Session, uid: str, console: Console) -> None:
    console.print(f"[bold]{escape('db[scan].table()')}[/bold]")
    points = session.db[uid].table()
    columns = ["delay", *(name for name in POINT_COLUMNS if name in points)]
    console.print(points[columns].rename(columns=lambda name: name.removeprefix("tpx_")).to_string())


def _show_growth(session: Session, files: Files, uid: str, console: Console) -> None:
    """demo/delay.png: the gate over the delay, and the time constant of its growth beside the true one."""
    from ..plots import new_figure
    from .growth import fit_growth

    points = session.db[uid].table()
    delays, found = (points[name].to_numpy(float) for name in ("delay", "tpx_gates_gate0_counts_per_shot"))
    errors = np.maximum(points["tpx_gates_gate0_error"].to_numpy(float), 1 / POINT_SHOTS)
    fit = fit_growth(delays, found, errors)
    with open_event_file(files.truth) as truth:
        true_ps = float(truth.attrs["pump_probe_tau_fs"]) / 1000
    said = f"I+ grow with a time constant of {fit.tau:.2f} ± {fit.tau_error:.2f} ps; the simulator has {true_ps:g} ps"
    console.print(said)
    figure, axes = new_figure((6.6, 4.4))
    axes.errorbar(delays, found, errors, fmt="o", color="#1f4e79", label=f"{IONS[GATE]} in the gate")
    curve = np.linspace(delays[0], delays[-1], 300)
    axes.plot(curve, fit.at(curve), color="#c1440e", label=rf"$\tau$ = {fit.tau:.2f} $\pm$ {fit.tau_error:.2f} ps")
    axes.set(xlabel="delay (ps)", ylabel="ions per shot", title="A scan over the delay of the probe pulse")
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(files.directory / "delay.png")


def _show_query(session: Session, files: Files, uid: str, console: Console) -> tuple[float, float]:
    """Centroids in a window of time of flight; returns the window."""
    from ..catalog import centroids

    peak = flight_times_ns(files.truth, epochs_with_data(files.truth)[-1])[GATE]
    low, high = round(peak - GATE_HALF_WIDTH_NS), round(peak + GATE_HALF_WIDTH_NS)
    began = time.monotonic()
    table = centroids(session.db[uid], ["shot", "x", "y", "tof", "tot"], tof=(low, high))
    seconds = time.monotonic() - began
    console.print(f"[bold]{escape(f'centroids(db[flight], tof=({low}, {high}))')}[/bold]  (I+)")
    console.print(table.head(4).to_string())
    console.print(f"... {len(table):,} centroids in {seconds:.2f} s")
    return low, high


def _draw(session: Session, files: Files, uid: str, gate: tuple[float, float]) -> None:
    """demo/vmi.png: all ions, and those in the gate; demo/tof.png: the spectrum with its mass peaks."""
    from ..catalog import centroids
    from ..plots import new_figure, tof_picture, vmi_picture

    table = centroids(session.db[uid], ["x", "y", "tof"])
    times = flight_times_ns(files.truth, epochs_with_data(files.truth)[-1])
    peaks = {IONS[kind]: flight for kind, flight in times.items() if kind < len(IONS)}
    figure, (left, right) = new_figure((11.6, 5.0), columns=2)
    vmi_picture(table["x"], table["y"], scale="log", title="All ions", axes=left)
    gated = table[(table["tof"] >= gate[0]) & (table["tof"] < gate[1])]
    vmi_picture(gated["x"], gated["y"], title=f"{IONS[GATE]}, {gate[0]} to {gate[1]} ns", axes=right)
    figure.savefig(files.directory / "vmi.png")
    latest = max(times.values(), default=1000.0) * 1.08
    tof_picture(table["tof"], range_ns=(0.0, latest), bin_ns=5, peaks=peaks).savefig(files.directory / "tof.png")


def _show_verdicts(verdicts: Mapping[str, Verdict], console: Console) -> None:
    table = Table(title="What came back, of what the simulator sent", title_justify="left")
    for heading in ("run", "shots", "hits", "centroids", "exact", "unaccounted", ""):
        table.add_column(heading, justify="left" if heading in ("run", "") else "right")
    for name, verdict in verdicts.items():
        a = verdict.agreement
        table.add_row(
            name,
            _out_of(a.shots, a.true_shots),
            _out_of(a.hits, a.true_hits),
            _out_of(a.exact, a.true_clusters),
            f"{a.exact_share:.2%}",
            str(verdict.ledger["unaccounted"]),
            "[green]agrees[/green]" if verdict.good else "[red]disagrees[/red]",
        )
    console.print(table)


def _out_of(ours: int, theirs: int) -> str:
    return f"{ours:,}" if ours == theirs else f"{ours:,} of {theirs:,}"


def _summary(files: Files, verdicts: list[Verdict], good: bool, seconds: float, console: Console) -> None:
    flight = verdicts[-1].agreement
    console.print(
        f"Of the {flight.particles:,} ions of the flight that left a hit, "
        f"{flight.alone / max(flight.particles, 1):.1%} have a centroid to themselves, "
        f"{flight.error_px:.2f} px (root mean square) from where they landed."
    )
    console.print(f"pictures: {', '.join(str(files.directory / name) for name in ('vmi.png', 'tof.png', 'delay.png'))}")
    if good:
        console.print(
            f"[bold green]The ledger closes and the catalog agrees with the truth[/bold green] ({seconds:.0f} s)"
        )
    else:
        console.print(
            f"[bold red]The ledger does not close, or the catalog disagrees with the truth[/bold red] ({seconds:.0f} s)"
        )
