"""`ophyd-timepix check`: what this machine can take, whether a camera looks right, and what to change."""

import argparse
import contextlib
import json
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from rich.console import Console

from ..capture.sockets import JUMBO_BYTES
from ..control import ControlError
from .check_camera import Camera
from .check_camera import examine as examine_camera
from .check_findings import Finding, State, plain, show, wrong
from .check_machine import Machine, verdict
from .check_machine import examine as examine_machine
from .simulator import Simulator

SIMULATOR: Final = "sim"
FILE_WIDTH: Final = 120
"""Characters of a line that goes into a file or a pipe."""
LEAST_SECONDS: Final = 0.2
LONGEST_SECONDS: Final = 60.0
DATAGRAM_LIMITS: Final = (64, 65_504)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument(
        "address",
        nargs="?",
        metavar="HOST[:PORT]",
        help=f"control address of a SPIDR board to look at, or {SIMULATOR!r} for a simulated one",
    )
    parser.add_argument(
        "-d", "--directory", type=Path, metavar="DIR", help="measure the disk there: some hundred MB for a moment"
    )
    parser.add_argument("--seconds", type=float, default=2.0, help="exposure of the camera (default %(default)s)")
    parser.add_argument(
        "--datagram-bytes",
        type=int,
        default=JUMBO_BYTES,
        metavar="N",
        help="length of the datagrams over loopback: 1400 without jumbo frames (default %(default)s)",
    )
    parser.add_argument("--camera-only", action="store_true", help="leave the machine out")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of tables")


def run(options: argparse.Namespace) -> int:
    """Exit code 0 only if nothing is wrong."""
    _refuse_bad(options)
    console = Console(highlight=False, quiet=options.json, width=None if sys.stdout.isatty() else FILE_WIDTH)
    result: dict[str, Any] = {}
    findings: list[Finding] = []
    with _quiet(options.debug):
        if not options.camera_only:
            machine = examine_machine(options.directory, options.datagram_bytes)
            show("This machine", machine.findings, console)
            said = verdict(machine.caps, disk_measured=any(cap.what == "disk" for cap in machine.caps))
            console.print(f"\n[bold]{said}.[/bold]\nThat much can be recorded; centroids may follow later.\n")
            findings += machine.findings
            result["machine"] = _machine_facts(machine, said)
        if options.address is not None:
            camera = _camera(options.address, options.seconds)
            show(f"The camera at {camera.facts.get('address', options.address)}", camera.findings, console)
            findings += camera.findings
            result["camera"] = camera.facts
    bad = [finding for finding in findings if finding.state is State.WRONG]
    result |= {"findings": [finding._asdict() for finding in findings], "wrong": len(bad)}
    if options.json:
        print(json.dumps(plain(result)))
    else:
        _tell_end(findings, console)
    return 1 if bad else 0


def _refuse_bad(options: argparse.Namespace) -> None:
    low, high = DATAGRAM_LIMITS
    if not low <= options.datagram_bytes <= high or options.datagram_bytes % 8:
        raise ValueError(f"--datagram-bytes is a multiple of 8 from {low} to {high}, not {options.datagram_bytes}")
    if not LEAST_SECONDS <= options.seconds <= LONGEST_SECONDS:
        raise ValueError(f"--seconds is {LEAST_SECONDS} to {LONGEST_SECONDS} s, not {options.seconds}")
    if options.camera_only and options.address is None:
        raise ValueError("--camera-only: which camera? Give its HOST[:PORT], or 'sim'")


def _camera(address: str, seconds: float) -> Camera:
    if address == SIMULATOR:
        with Simulator.start() as simulator:
            return _answering(simulator.address, seconds)
    return _answering(address, seconds)


def _answering(address: str, seconds: float) -> Camera:
    """A camera that does not answer is something found, too."""
    try:
        return examine_camera(address, seconds)
    except ControlError as error:
        found, _, remedy = str(error).partition("; ")
        return Camera([wrong("board", found, remedy or "power-cycle the camera")], {"address": address})


@contextlib.contextmanager
def _quiet(debug: bool) -> Iterator[None]:
    """What the library would warn of is said in the tables, with what to do."""
    logger = logging.getLogger("ophyd_timepix")
    before = logger.level
    if not debug:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


def _machine_facts(machine: Machine, said: str) -> dict[str, Any]:
    return {
        "verdict": said,
        "one_chip_mhit_s": min(cap.mhit_s for cap in machine.caps),
        "limits_mhit_s": {cap.what: cap.mhit_s for cap in machine.caps},
    }


def _tell_end(findings: list[Finding], console: Console) -> None:
    counts = {state: sum(finding.state is state for finding in findings) for state in State}
    said = f"{counts[State.OK]} OK, {counts[State.LOOK]} to look at, {counts[State.WRONG]} wrong"
    console.print(f"\n[bold]{said}[/bold]")
