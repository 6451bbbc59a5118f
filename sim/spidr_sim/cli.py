"""`spidr-sim`: a simulated SPIDR board on a TCP port, or a recording of what it would send.

Wires the parts together; knows none of their workings. When it is ready to serve it prints one line,
`spidr-sim listening tcp HOST:PORT`. Each line on standard input is an order, answered with one line on standard output
(see `_Orders`). Everything else goes to standard error.
"""

import argparse
import contextlib
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from types import FrameType
from typing import Final

from ophyd_timepix.protocol import ChipId
from ophyd_timepix.protocol.words import MAX_CHIPS
from spidr_sim.board import CHIP_NAMES, Board
from spidr_sim.clock import VirtualClock
from spidr_sim.data_faults import compile_kernels
from spidr_sim.datagrams import DATAGRAM_BYTES_LIMITS, DEFAULT_DATAGRAM_BYTES, words_per_datagram
from spidr_sim.faults import FAULT_BY_TEXT, Faults
from spidr_sim.flash import Flash
from spidr_sim.load import source_of
from spidr_sim.particles import PUMP_PROBE
from spidr_sim.recording import RecordingError, read_recording
from spidr_sim.replay import RecordingSource
from spidr_sim.scenes import SceneName, SceneSettings
from spidr_sim.source import Source
from spidr_sim.synth import COUNTS_PER_SECOND, opened_source, write_recording
from spidr_sim.tcp import TcpServer
from spidr_sim.truth import Truth, TruthError
from spidr_sim.udp import UdpStreams

log = logging.getLogger("spidr_sim")

_SWITCH_INTERVAL_S: Final = 0.0005
"""How long a busy TCP thread may keep the interpreter from the sending thread."""
_FAILED: Final = 1
_USAGE: Final = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run; the exit code is 0 after a stop that was asked for."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(
        stream=sys.stderr,
        level=logging.DEBUG if options.verbose else logging.WARNING,
        format="spidr-sim %(levelname)s: %(message)s",
    )
    try:
        if options.write:
            return _write(options)
        return _serve(options)
    except (ValueError, RecordingError) as error:
        return _refuse(error, _USAGE)
    except (TruthError, OSError) as error:
        return _refuse(error, _FAILED)


def _refuse(error: Exception, code: int) -> int:
    print(f"spidr-sim: {error}", file=sys.stderr)
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="spidr-sim", description="A simulated SPIDR board with Timepix3 chips.")
    add = parser.add_argument
    add("--host", default="127.0.0.1", help="address to listen on and to send from (default %(default)s)")
    add("--port", type=int, default=0, help="TCP port; 0 takes a free one (default %(default)s)")
    add("--chips", type=int, help=f"chips on the board, 1 to {MAX_CHIPS} (default 1; a recording: as many as it has)")
    add("--scene", choices=[name.value for name in SceneName], default=SceneName.VMI.value)
    add("--rate", type=float, metavar="HITS_PER_S", help="mean rate of hits over all chips")
    add("--shot-rate", type=float, metavar="HZ", help="laser shots, on TDC input 1")
    add("--seed", type=int, default=1, help="the same seed gives the same words (default %(default)s)")
    add("--replay", type=Path, metavar="FILE", help="send a .tpx3 or Pymepix .raw recording instead of a scene")
    add("--speed", type=float, default=1.0, help="how fast the board's time runs (default %(default)s)")
    add("--truth", type=Path, metavar="FILE", help="write what was really sent (HDF5)")
    add("--no-truth-hits", action="store_true", help="leave the single hits out of the truth (for high rates)")
    add(
        "--fault",
        action="append",
        default=[],
        metavar="FAULT",
        help="NAME[=VALUE][:COMMAND[:FIRST[:TIMES]]], or of the data NAME[=VALUE][:TIMES]: "
        f"let something go wrong; may be repeated. Names: {', '.join(FAULT_BY_TEXT)}",
    )
    add("--blank", action="store_true", help="an empty flash: chips with their reset values, bias off")
    low, high = DATAGRAM_BYTES_LIMITS
    add("--datagram-bytes", type=int, default=DEFAULT_DATAGRAM_BYTES, help=f"{low} to {high} (default %(default)s)")
    add("--write", type=Path, metavar="FILE", help="serve nothing: write a .tpx3 recording of the scene")
    add("--seconds", type=float, default=1.0, help="length of that recording (default %(default)s)")
    add("--stop-on-eof", action="store_true", help="also stop when standard input ends")
    add("--verbose", action="store_true", help="tell what happens, on standard error")
    return parser


def _settings(options: argparse.Namespace) -> SceneSettings:
    return SceneSettings.chosen(
        options.scene,
        rate_hz=options.rate,
        shot_rate_hz=options.shot_rate,
        seed=options.seed,
        n_chips=1 if options.chips is None else options.chips,
    )


def _source(options: argparse.Namespace) -> Source:
    keep_truth = options.truth is not None
    if options.replay is None:
        return source_of(_settings(options), keep_truth=keep_truth)
    recording = read_recording(options.replay)
    log.info(f"{options.replay}: {recording.seconds:.3f} s, {len(recording.chips)} chips")
    n_chips = len(recording.chips) if options.chips is None else options.chips
    return RecordingSource(recording, n_chips, keep_truth=keep_truth)


def _truth(options: argparse.Namespace, n_chips: int) -> Truth | None:
    if options.truth is None:
        return None
    told = {"scene": options.scene, "seed": options.seed, "chips": n_chips}
    if options.replay is not None:
        told["replay"] = str(options.replay)
    elif options.scene == SceneName.VMI:
        told |= {f"pump_probe_{name}": value for name, value in asdict(PUMP_PROBE).items()}
    return Truth(options.truth, n_chips, told, hits=not options.no_truth_hits)


# --- a recording ------------------------------------------------------------------------------------------------------
def _write(options: argparse.Namespace) -> int:
    settings = _settings(options)
    source = opened_source(settings, keep_truth=options.truth is not None)
    truth = _truth(options, settings.n_chips)
    try:
        words = write_recording(options.write, source, options.seconds, truth)
    finally:
        if truth:
            truth.close()
    print(f"spidr-sim wrote {words} words to {options.write}")
    return 0


# --- a board ----------------------------------------------------------------------------------------------------------
def _serve(options: argparse.Namespace) -> int:
    words_per_datagram(options.datagram_bytes)
    faults = Faults(options.fault)
    stop = threading.Event()
    _stop_on_signals(stop)
    sys.setswitchinterval(_SWITCH_INTERVAL_S)
    source = _source(options)
    _warm_up(source)
    clock = VirtualClock(speed=options.speed)
    with ExitStack() as stack:
        truth = _truth(options, source.n_chips)
        if truth:
            stack.callback(truth.close)
        streams = UdpStreams(
            source,
            clock,
            host=options.host,
            chip_ids=[ChipId.from_name(name).value for name in CHIP_NAMES[: source.n_chips]],
            datagram_bytes=options.datagram_bytes,
            truth=truth,
            seed=options.seed,
            on_failure=stop.set,
        )
        stack.callback(streams.close)
        streams.start()
        board = Board(source.n_chips, streams, clock, Flash() if options.blank else None)
        server = TcpServer(board, options.host, options.port, faults=faults, on_failure=stop.set)
        host, port = _listen(server, options)
        stack.callback(server.stop)
        print(f"spidr-sim listening tcp {host}:{port}", flush=True)
        _Orders(server, streams.delay, stop.set if options.stop_on_eof else lambda: None).start()
        stop.wait()
        log.info("stopping")
    failure = streams.failure or server.failure
    return _refuse(RuntimeError(f"stopped by a failure: {failure}"), _FAILED) if failure else 0


def _listen(server: TcpServer, options: argparse.Namespace) -> tuple[str, int]:
    try:
        return server.serve()
    except (OSError, OverflowError) as error:
        raise OSError(
            f"cannot listen on {options.host}:{options.port}: {error}; choose another --port, or 0"
        ) from error


def _warm_up(source: Source) -> None:
    """Compile every kernel before the line that says ready."""
    source.open(0, 0)
    source.advance()
    for _ in source.finish(COUNTS_PER_SECOND // 100):
        pass
    compile_kernels()


def _stop_on_signals(stop: threading.Event) -> None:
    def ask(_signal: int, _frame: FrameType | None) -> None:
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, ask)


class _Orders:
    """What is said to a running simulator, a line each: see `_ORDERS`.

    Each line is answered with one: that it is done, or `spidr-sim error: ` and what is wrong. Whoever started this
    process holds the other end of its standard input: `at_end` is called when they are gone.
    """

    def __init__(self, server: TcpServer, delay: Callable[[float], None], at_end: Callable[[], None]) -> None:
        self._server = server
        self._delay = delay
        self._at_end = at_end

    def start(self) -> None:
        """Listen from a thread of its own."""
        # A simulator in the background of a terminal must not be stopped for reading from it.
        signal.signal(signal.SIGTTIN, signal.SIG_IGN)
        threading.Thread(target=self._listen, name="orders", daemon=True).start()

    def _listen(self) -> None:
        pending = b""
        with contextlib.suppress(OSError, ValueError):  # there is no standard input, or it is the terminal of another
            while data := os.read(sys.stdin.fileno(), 4096):
                *lines, pending = (pending + data).split(b"\n")
                for line in lines:
                    print(f"spidr-sim {self._answer(line.decode(errors='replace'))}", flush=True)
        self._at_end()

    def _answer(self, line: str) -> str:
        try:
            return self._obey(line)
        except ValueError as error:
            return f"error: {error}"

    def _obey(self, line: str) -> str:
        match line.split():
            case ["fault", spec]:
                self._server.faults.arm(spec)
                return f"fault {spec} armed"
            case ["clear"]:
                self._server.faults.clear()
                return "faults cleared"
            case ["signal", ("rise" | "fall" | "pulse") as edge]:
                for level in _LEVELS[edge]:
                    self._server.external_signal(level)
                return f"signal {edge} given"
            case ["delay_fs", number]:
                self._delay(float(number))
                return f"delay_fs {number} set"
        raise ValueError(f"{line!r} is no order; there are: {_ORDERS}")


_ORDERS: Final = "fault SPEC, clear, signal rise|fall|pulse, delay_fs NUMBER"
_LEVELS: Final = {"rise": (True,), "fall": (False,), "pulse": (True, False)}


if __name__ == "__main__":
    sys.exit(main())
