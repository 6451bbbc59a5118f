"""`ophyd-timepix record`: an acquisition without Bluesky, by the same board verbs and the same pipeline."""

import argparse
import contextlib
import datetime
import json
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from ..config import Geometry
from ..control import Board, SpidrClient
from ..pipeline.client import Pipeline
from ..pipeline.messages import Acquired, Receiver, RunPaths, RunRequest, RunSummary, Sent
from ..protocol.chip_config import column_phase
from .process import add_processing_arguments, processing_of

DEFAULT_PORT: Final = 50_000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument("address", metavar="HOST[:PORT]", help="control address of the SPIDR board")
    parser.add_argument("--seconds", type=float, required=True, help="how long the shutter is open")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="DIR", help="directory for the files")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--raw-only", action="store_true", help="record the words only, no centroids")
    what.add_argument("--no-raw", action="store_true", help="keep the centroids only")
    parser.add_argument("--name", default=None, help="name of the files (default: the time)")
    parser.add_argument("--receive-on", default=None, metavar="HOST", help="address of the interface to receive on")
    parser.add_argument("--workers", type=int, default=1, help="centroid processes (default 1)")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    add_processing_arguments(parser)


def run(options: argparse.Namespace) -> int:
    """Record; exit code 1 when the ledger does not close."""
    if options.seconds <= 0:
        raise ValueError(f"--seconds is a positive number of seconds, not {options.seconds}")
    directory: Path = options.output
    directory.mkdir(parents=True, exist_ok=True)
    host, _, port = options.address.partition(":")
    with contextlib.closing(SpidrClient(host, int(port or DEFAULT_PORT))) as client:
        board = Board(client)
        with Pipeline(workers=options.workers) as pipeline:
            paths, acquired, summary = _record(board, pipeline, directory, options)
    result = _result(paths, acquired, summary)
    print(json.dumps(result) if options.json else _as_text(result))
    unaccounted = summary.ledger["unaccounted"]
    lost = summary.ledger["lost_datagrams"]
    if unaccounted or lost:
        print(f"ophyd-timepix: {unaccounted} unaccounted, {lost} datagrams lost", file=sys.stderr)
    return 1 if unaccounted or lost else 0


def _record(
    board: Board, pipeline: Pipeline, directory: Path, options: argparse.Namespace
) -> tuple[RunPaths, Acquired, RunSummary]:
    chips = _usable_chips(board)
    _direct_words(board, pipeline, chips, options.receive_on)
    board.prepare_readout()
    board.reset_timers()
    zero_ns, zero_iso = time.monotonic_ns(), datetime.datetime.now(datetime.UTC).isoformat()
    phases = {chip: column_phase(board.chip(chip).pll_config()) for chip in chips}
    n_chips = max(chips) + 1
    name = options.name or time.strftime("tpx_%Y%m%dT%H%M%S")
    paths = pipeline.open_run(
        RunRequest(
            event_file=(directory / f"{name}.h5").resolve(),
            keep_raw=not options.no_raw,
            centroid=not options.raw_only,
            processing=processing_of(options),
            geometry=Geometry.for_chips(n_chips),
            n_chips=n_chips,
            phase=tuple(phases.get(chip, (0,) * 128) for chip in range(n_chips)),
            timer_zero_ns=zero_ns,
            timer_zero_iso=zero_iso,
        )
    )
    base = board.sent_counters()
    pipeline.begin(1)
    with _shutter(board):
        _wait(options.seconds)
    board.pause_readout()
    sent = board.sent_counters()
    acquired = pipeline.end(
        Sent(
            datagrams=sent.datagrams - base.datagrams,
            pixel_words=tuple(a - b for a, b in zip(sent.pixel_words, base.pixel_words, strict=True)),
        ),
        end_counts=board.chip(chips[0]).timer().counts,
    )
    return paths, acquired, pipeline.close_run({"plan_name": "record"})


def _usable_chips(board: Board) -> list[int]:
    info = board.identify()
    chips = [chip.index for chip in info.chips if chip.present]
    if not chips:
        raise OSError(
            "the board answers but none of its chips is there with locked links; check the chip board and its cable"
        )
    return chips


def _direct_words(board: Board, pipeline: Pipeline, chips: list[int], receive_on: str | None) -> None:
    """Sockets first, bound and draining; only then the board learns where to send."""
    address = receive_on or board.local_address
    ports = pipeline.bind([Receiver(chip=chip, host=address) for chip in chips])
    for chip, port in zip(chips, ports, strict=True):
        board.chip(chip).set_destination(address, port)


@contextlib.contextmanager
def _shutter(board: Board) -> Iterator[None]:
    board.open_shutter()
    try:
        yield
    finally:
        board.close_shutter()


def _wait(seconds: float) -> None:
    """The exposure; Ctrl-C ends it early and keeps what came."""
    interrupted = threading.Event()
    before = signal.signal(signal.SIGINT, lambda *_: interrupted.set())
    try:
        interrupted.wait(seconds)
    finally:
        signal.signal(signal.SIGINT, before)


def _result(paths: RunPaths, acquired: Acquired, summary: RunSummary) -> dict[str, Any]:
    files = {
        "recording": summary.spool,
        "event_file": paths.event_file if paths.event_file.exists() else None,
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
    rows = [f"{name:>22}  {value}" for name, value in result.items() if name != "ledger"]
    return "\n".join([*rows, "ledger", *(f"{name:>22}  {value}" for name, value in ledger.items())])
