"""`ophyd-timepix record`: an acquisition without Bluesky, by the same board verbs and the same pipeline."""

import argparse
import json
import signal
import sys
import tempfile
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from ..config import Geometry
from ..config.text import to_text
from ..control import Board, ControlError, SpidrClient
from ..control.configuration import read_configuration
from ..devices.configuration import MATRICES, keep_matrix
from ..devices.exposure import COMPARE_S
from ..devices.recording import Recording, RunFile
from ..pipeline.client import Pipeline
from ..pipeline.messages import Acquired, RunSummary, Storage
from ..pipeline.verdict import is_complete
from .process import add_processing_arguments, processing_of

GIB: Final = 1 << 30
SMALLEST_SEGMENT_GIB: Final = 0.001
LARGEST_GIB: Final = 1_000_000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument("address", metavar="HOST[:PORT]", help="control address of the SPIDR board")
    parser.add_argument("--seconds", type=float, required=True, help="how long the shutter is open")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="DIR", help="directory for the files")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--raw-only", action="store_true", help="record the words only, no centroids")
    what.add_argument("--no-raw", action="store_true", help="keep the centroids only: no recording, no recovery")
    parser.add_argument("--name", default=None, help="name of the files (default: the time)")
    parser.add_argument("--workers", type=int, default=1, help="centroid processes (default 1)")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    _add_storage_arguments(parser)
    add_processing_arguments(parser)


def _add_storage_arguments(parser: argparse.ArgumentParser) -> None:
    """Each but the last is a field of `Storage` in GiB."""
    group = parser.add_argument_group("recording on the disk")
    usual = Storage()
    for option, default, what in (
        ("--segment-gib", usual.segment_bytes, "a recording goes on in a new file when one has this size"),
        ("--disk-low-gib", usual.disk_low_bytes, "warn when less is free"),
        ("--disk-stop-gib", usual.disk_stop_bytes, "end the acquisition, with everything kept, when less is free"),
    ):
        gib = default / GIB
        group.add_argument(option, type=float, default=gib, metavar="GIB", help=f"{what} (default {gib:g} GiB)")
    group.add_argument("--no-sync", action="store_true", help="do not wait until finished files are on the disk itself")


def _storage(options: argparse.Namespace) -> Storage:
    given = {"--segment-gib": options.segment_gib, "--disk-low-gib": options.disk_low_gib}
    given["--disk-stop-gib"] = options.disk_stop_gib
    for option, gib in given.items():
        least = SMALLEST_SEGMENT_GIB if option == "--segment-gib" else 0
        if not least <= gib <= LARGEST_GIB:
            raise ValueError(f"{option} is {least} to {LARGEST_GIB:,} GiB, not {gib:g}")
    segment, low, stop = (round(gib * GIB) for gib in given.values())
    return Storage(segment_bytes=segment, disk_low_bytes=low, disk_stop_bytes=stop, durable=not options.no_sync)


def run(options: argparse.Namespace) -> int:
    """Record; exit code 1 when something was lost, is in doubt or unaccounted for."""
    if options.seconds <= 0:
        raise ValueError(f"--seconds is a positive number of seconds, not {options.seconds}")
    with SpidrClient.at(options.address) as client:
        board = Board(client)
        n_chips = len(board.present_chips())
        file = replace(_run_file(options, n_chips), configuration=_settings(board, options.output))
        # The processes take seconds to start: they come after everything that can be refused without them.
        with Pipeline(workers=options.workers) as pipeline:
            recording = Recording(lambda: board, n_chips, lambda: pipeline)
            acquired = _acquire(recording, file, options.seconds)
            summary = recording.close(dict(file.start), dict(file.configuration))
    result = _result(acquired, summary)
    print(json.dumps(result) if options.json else _as_text(result))
    if is_complete(summary.ledger):
        return 0
    print(f"ophyd-timepix: {summary.ledger['verdict']}", file=sys.stderr)
    return 1


def _run_file(options: argparse.Namespace, n_chips: int) -> RunFile:
    processing = processing_of(options)
    storage = _storage(options)
    directory = _made(options.output)
    name = options.name or time.strftime("tpx_%Y%m%dT%H%M%S")
    return RunFile(
        event_file=(directory / f"{name}.h5").resolve(),
        processing=processing,
        geometry=Geometry.for_chips(n_chips),
        keep_raw=not options.no_raw,
        centroid=not options.raw_only,
        storage=storage,
        start={"plan_name": "record"},
    )


def _settings(board: Board, directory: Path) -> dict[str, Any]:
    """What the board is set to, in the form in which a detector keeps it."""
    try:
        settings = read_configuration(board)
    except (ControlError, ValueError) as error:
        print(f"ophyd-timepix: the settings of the board are not stored with the run: {error}", file=sys.stderr)
        return {}
    matrices = {chip.index: str(keep_matrix(chip.matrix, directory.resolve())) for chip in settings.chips}
    return {
        "settings": to_text(settings, "board", f"{MATRICES}/DIGEST.npz", settings.digest()),
        "matrices": [matrices.get(index, "") for index in range(max(matrices, default=-1) + 1)],
        "detector": {"chip_ids": ",".join(chip.name for chip in settings.chips)},
    }


def _made(directory: Path) -> Path:
    """The directory for the files, made and writable."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=directory):
            return directory
    except OSError as error:
        raise OSError(
            f"the output directory {directory} cannot be written: {error.strerror}; "
            "choose another with -o, or ask for the right to write there"
        ) from error


def _acquire(recording: Recording, file: RunFile, seconds: float) -> Acquired:
    recording.open("record", file)
    recording.begin()
    try:
        recording.open_shutter()
        try:
            _expose(recording, seconds)
            end_counts = recording.timer_counts()
        finally:
            recording.close_shutter()
        return recording.end(end_counts=end_counts, cancelled=False)
    except ControlError:
        _keep_what_came(recording, file)
        raise


def _keep_what_came(recording: Recording, file: RunFile) -> None:
    """The board has failed: the files are finished all the same, the acquisition is flagged as cancelled."""
    recording.abandon()
    summary = recording.close(dict(file.start), dict(file.configuration))
    kept = summary.event_file if summary.event_file.exists() else summary.spool
    print(f"ophyd-timepix: {kept}: what came until the board failed is kept, flagged as cancelled", file=sys.stderr)


def _expose(recording: Recording, seconds: float) -> None:
    """Ctrl-C ends the exposure early and keeps what came. A stage that dies ends it at once."""
    interrupted = threading.Event()
    before = signal.signal(signal.SIGINT, lambda *_: interrupted.set())
    deadline = time.monotonic() + seconds
    try:
        tended = time.monotonic()
        while (left := deadline - time.monotonic()) > 0 and not interrupted.wait(min(left, COMPARE_S)):
            recording.compare_counts()
            if time.monotonic() - tended > 1.0:
                recording.tend()
                tended = time.monotonic()
    finally:
        signal.signal(signal.SIGINT, before)


def _result(acquired: Acquired, summary: RunSummary) -> dict[str, Any]:
    files = {
        "recording": summary.spool,
        "event_file": summary.event_file if summary.event_file.exists() else None,
        "master": summary.master,
    }
    return {
        **{name: str(path) for name, path in files.items() if path is not None},
        "seconds": round(acquired.seconds, 6),
        "ended_by": acquired.ended_by,
        "ledger": summary.ledger,
    }


def _as_text(result: dict[str, Any]) -> str:
    ledger = result["ledger"]
    rows = [f"{name:>24}  {value}" for name, value in result.items() if name != "ledger"]
    return "\n".join([*rows, "ledger", *(f"{name:>24}  {value}" for name, value in ledger.items())])
