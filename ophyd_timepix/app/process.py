"""`ophyd-timepix process`: recordings to centroids, through the same decode and centroid code as a live run."""

import argparse
import contextlib
import json
import sys
import threading
import time
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from ..config import CentroidTime, Edge, Geometry, Metric, Processing
from ..config.masked_pixels import Pixel, checked, parse_pixels, read_pixels
from ..files.reader import PRODUCT_KEY, read_about
from ..pipeline.client import Pipeline
from ..pipeline.errors import PipelineError
from ..pipeline.messages import RecordedFile, RunRequest, RunSummary
from ..protocol.chip_config import column_phase
from ..protocol.words import MATRIX_SIDE, MAX_CHIPS
from ..spool.index import read_run
from ..spool.sources import Format, Recording, open_recording
from .survey import chunks_of

PYMEPIX_PLL: Final = 0x11E
NO_PHASE: Final = (0,) * (MATRIX_SIDE // 2)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help=".tpx3, Pymepix .raw or SPIDR .dat")
    parser.add_argument("-o", "--output", type=Path, required=True, help="event file to write (.h5); never overwritten")
    parser.add_argument("--workers", type=int, default=1, help="centroid processes (default 1)")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    add_processing_arguments(parser)


def add_processing_arguments(parser: argparse.ArgumentParser) -> None:
    """Options that `process` and `record` share: each a field of `Processing`. Those not given are not there."""
    group = parser.add_argument_group("processing", argument_default=argparse.SUPPRESS)
    group.add_argument("--radius-px", type=float)
    group.add_argument("--window-ns", type=float)
    group.add_argument("--min-samples", type=int)
    group.add_argument("--min-size", type=int)
    group.add_argument("--metric", type=Metric, choices=list(Metric))
    group.add_argument("--split", action="store_true", help="cut up clusters of several particles")
    group.add_argument("--split-radius-px", type=float)
    group.add_argument("--split-time-ns", type=float)
    group.add_argument("--centroid-time", type=CentroidTime, choices=list(CentroidTime))
    group.add_argument("--tof-min-ns", type=float)
    group.add_argument("--tof-max-ns", type=float)
    group.add_argument("--tot-min", type=int, help="smallest ToT of a hit that counts (25 ns counts)")
    group.add_argument("--tot-max", type=int, help="largest")
    group.add_argument(
        "--masked-pixels", type=masked_pixels, metavar="FILE|LIST", help="hits to leave out: chip,x,y chip,x,y ..."
    )
    group.add_argument("--lateness-ns", type=float)
    group.add_argument("--trigger-input", type=int, choices=(1, 2))
    group.add_argument("--trigger-edge", type=Edge, choices=list(Edge))
    group.add_argument("--trigger-period-ns", type=float)
    group.add_argument("--hits", action="store_true", help="write the hit columns too")


def masked_pixels(text: str) -> tuple[Pixel, ...]:
    """The pixels of a file, or of a list on the command line."""
    try:
        return read_pixels(Path(text)) if Path(text).is_file() else checked(parse_pixels(text))
    except (ValueError, OSError) as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def processing_of(options: argparse.Namespace, otherwise: Processing | None = None) -> Processing:
    """The validated parameters of a command line. otherwise: where those come from that it does not give."""
    given = {name: getattr(options, name) for name in Processing.model_fields if hasattr(options, name)}
    return Processing.model_validate({**(otherwise or Processing()).model_dump(), **given})


def recorded_processing(recordings: list[Recording]) -> Processing:
    """How the run that made the first of these recordings was processed, if that is one of ours."""
    return next((run.processing for run in map(_own_run, recordings) if run is not None), Processing())


def run(options: argparse.Namespace) -> int:
    """Process the files; exit code 1 when something could not be read or accounted for."""
    recordings = [open_recording(path) for path in options.files]
    request = request_for(recordings, options.output.resolve(), processing_of(options, recorded_processing(recordings)))
    begin = time.monotonic()
    with Pipeline(workers=options.workers) as pipeline:
        started = time.monotonic()
        total = sum(r.n_bytes for r in recordings)
        files = [recorded_file(recording, request.n_chips) for recording in recordings]
        summary = _process(pipeline, request, files, total, quiet=options.json)
    result = result_of(summary, time.monotonic() - started)
    if options.json:
        print(json.dumps(result))
    else:
        print_result(result, summary, time.monotonic() - begin)
    return exit_code(recordings, summary)


def request_for(recordings: list[Recording], output: Path, processing: Processing) -> RunRequest:
    """How to decode these files: from the index of our own recordings, else from the files themselves."""
    if output.exists():
        raise FileExistsError(f"{output} exists and is never overwritten; remove it or choose another name")
    if not output.parent.is_dir():
        raise FileNotFoundError(f"{output.parent} is no directory; create it first")
    own = [run for run in map(_own_run, recordings) if run is not None]
    n_chips = max([_chips(recordings), *(run.n_chips for run in own)])
    geometry = own[0].geometry if own and own[0].n_chips == n_chips else Geometry.for_chips(n_chips)
    only = own[0] if len(own) == len(recordings) == 1 else None
    start, configuration = ({}, {}) if only is None else documents_of(recordings[0], only)
    if start:  # of the run, which this file is not: nobody shall take it for the run's own
        configuration = {**configuration, PRODUCT_KEY: str(recordings[0].path.absolute())}
    return RunRequest(
        event_file=output,
        processing=processing,
        n_chips=n_chips,
        geometry=geometry,
        timer_zero_iso=None if only is None else only.timer_zero_iso,
        start=start or {"plan_name": "process", "recordings": [str(r.path) for r in recordings]},
        configuration=configuration,
    )


def documents_of(recording: Recording, run: RunRequest) -> tuple[dict[str, Any], dict[str, Any]]:
    """Start document and configuration of the run that made this recording, from its event file, if that is there."""
    for path in (recording.path.with_name(run.event_file.name), run.event_file):
        with contextlib.suppress(OSError):
            return read_about(path, "start_document"), read_about(path, "configuration")
    return {}, {}


def recorded_file(recording: Recording, n_chips: int) -> RecordedFile:
    """A file with the column phase and the timer zero of its own words."""
    own = _own_run(recording)
    if own is None:
        return RecordedFile(path=recording.path.resolve(), phase=_phase(recording, n_chips))
    phase = None if own.phase is None else own.phase + (NO_PHASE,) * (n_chips - own.n_chips)
    return RecordedFile(path=recording.path.resolve(), phase=phase, timer_zero_ns=own.timer_zero_ns)


def _own_run(recording: Recording) -> RunRequest | None:
    """The run that made this recording, if it is one of ours."""
    run = read_run(recording.path) if recording.chunked else None
    return None if run is None else RunRequest.model_validate(run)


def _chips(recordings: list[Recording]) -> int:
    """One more than the highest chip index that a board can have; words of others are counted as foreign."""
    indices = {chip for recording in recordings for chip in chunks_of(recording)}
    return max((chip for chip in indices if chip < MAX_CHIPS), default=0) + 1


def _phase(recording: Recording, n_chips: int) -> tuple[tuple[int, ...], ...] | None:
    """`.tpx3` of servers is corrected already. Pymepix and the NIKHEF programs set 16 phases (PLL word 0x11E)."""
    return None if recording.format is Format.TPX3 else (column_phase(PYMEPIX_PLL),) * n_chips


def _process(
    pipeline: Pipeline, request: RunRequest, files: list[RecordedFile], total: int, *, quiet: bool
) -> RunSummary:
    done = threading.Event()
    bar = Progress(
        TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f} %"),
        TextColumn("{task.fields[rate]}"), TimeRemainingColumn(), console=Console(stderr=True),
        disable=quiet or not sys.stderr.isatty(),
    )  # fmt: skip
    with bar:
        task = bar.add_task("processing", total=total, rate="")

        def watch() -> None:
            begin = time.monotonic()
            while not done.wait(0.25):
                with contextlib.suppress(PipelineError):  # the call that waits for the result tells of it
                    seen = pipeline.progress()
                    rate = seen.hits / (time.monotonic() - begin) / 1e6
                    bar.update(task, completed=seen.decoded_bytes, rate=f"{rate:.1f} Mhit/s")

        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        try:
            return pipeline.process(request, files)
        finally:
            done.set()
            watcher.join()


def result_of(summary: RunSummary, seconds: float) -> dict[str, Any]:
    """What `--json` prints."""
    ledger = summary.ledger
    return {
        "words": ledger["decoded_words"],
        "hits": ledger["hits"],
        "triggers": ledger["triggers"],
        "shots": ledger["shots"],
        "clusters": ledger["clusters"],
        "centroids": ledger["centroids"],
        "seconds": round(seconds, 6),
        "hits_per_second": round(ledger["hits"] / seconds, 1) if seconds else 0.0,
        "ledger": ledger,
    }


def print_result(result: dict[str, Any], summary: RunSummary, seconds: float) -> None:
    """The same for people."""
    for name in ("words", "hits", "triggers", "shots", "clusters", "centroids"):
        print(f"{name:>12} {result[name]:>15,}")
    print(f"{'unaccounted':>12} {result['ledger']['unaccounted']:>15,}")
    print(result["ledger"]["verdict"])
    print(f"{result['hits_per_second'] / 1e6:.2f} Mhit/s in {result['seconds']:.2f} s ({seconds:.2f} s with start-up)")
    print(f"event file {summary.event_file}")
    if summary.master is not None:
        print(f"NeXus file {summary.master}")


def exit_code(recordings: list[Recording], summary: RunSummary) -> int:
    """0 only when every byte was read and every word is accounted for; what is wrong is told on stderr."""
    ledger = summary.ledger
    problems = [
        f"{r.path}: the last {r.truncated_bytes} bytes are no whole word, the recording was cut off"
        for r in recordings
        if r.truncated_bytes
    ]
    if ledger["unframed_words"]:
        problems.append(f"{ledger['unframed_words']} words lie outside any chunk: the recording is damaged there")
    if ledger["missing_words"]:
        problems.append(f"{ledger['missing_words']} words of a last chunk are missing: the recording was cut off")
    if ledger["cut_chunks"]:
        problems.append(f"{ledger['cut_chunks']} chunks end before their stated size: the recording was cut there")
    if ledger["damaged_bytes"]:
        problems.append(f"{ledger['damaged_bytes']} bytes are not as they were received: the disk lost or altered them")
    if ledger["foreign_chip_words"]:
        problems.append(f"{ledger['foreign_chip_words']} words are of chips that no board has (4 and above)")
    if ledger["unknown_words"]:
        problems.append(f"{ledger['unknown_words']} words are of no known kind: see unknown_headers in the ledger")
    if ledger["unaccounted"]:
        problems.append(f"{ledger['unaccounted']} words, hits or datagrams are unaccounted for")
    for problem in problems:
        print(f"ophyd-timepix: {problem}; everything else was processed", file=sys.stderr)
    return 1 if problems else 0
