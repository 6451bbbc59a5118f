"""A `spidr-sim` process for tests: started, waited for, and gone again, whatever the test does."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

READY: Final = "spidr-sim listening tcp "
_STOP_TIMEOUT_S: Final = 20.0


@dataclass(frozen=True)
class SimProcess:
    """A running simulator."""

    host: str
    port: int
    process: subprocess.Popen[str]

    @property
    def address(self) -> str:
        """HOST:PORT."""
        return f"{self.host}:{self.port}"

    def fault(self, spec: str) -> None:
        """Arm a fault, as `spidr-sim --fault`; it holds for every request that is sent after this call."""
        self._order(f"fault {spec}", f"spidr-sim fault {spec} armed")

    def clear_faults(self) -> None:
        """No fault any more; chips are there again, the port is open."""
        self._order("clear", "spidr-sim faults cleared")

    def external_signal(self, edge: str) -> None:
        """`rise`, `fall` or `pulse` at the external shutter input."""
        self._order(f"signal {edge}", f"spidr-sim signal {edge} given")

    def _order(self, line: str, expected: str) -> None:
        if self.process.stdin is None or self.process.stdout is None:
            raise RuntimeError("the simulator has no standard input or output")
        self.process.stdin.write(f"{line}\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline().strip()
        if answer != expected:
            raise ValueError(f"the simulator answered {answer!r} to {line!r}")

    def stop(self, with_signal: int = signal.SIGTERM) -> int:
        """Ask it to stop; its exit code."""
        self.process.send_signal(with_signal)
        return self.process.wait(_STOP_TIMEOUT_S)


def sim_arguments(
    *,
    scene: str | None = None,
    rate: float | None = None,
    shot_rate: float | None = None,
    chips: int | None = None,
    seed: int | None = None,
    truth: Path | str | None = None,
    replay: Path | str | None = None,
    datagram_bytes: int | None = None,
    speed: float | None = None,
    extra: Sequence[str] = (),
) -> list[str]:
    """The command line for these options."""
    options = {
        "--scene": scene,
        "--rate": rate,
        "--shot-rate": shot_rate,
        "--chips": chips,
        "--seed": seed,
        "--truth": truth,
        "--replay": replay,
        "--datagram-bytes": datagram_bytes,
        "--speed": speed,
    }
    given = [part for name, value in options.items() if value is not None for part in (name, str(value))]
    return [sys.executable, "-m", "spidr_sim", "--stop-on-eof", *given, *extra]


@contextmanager
def running_sim(
    *,
    scene: str | None = None,
    rate: float | None = None,
    shot_rate: float | None = None,
    chips: int | None = None,
    seed: int | None = None,
    truth: Path | str | None = None,
    replay: Path | str | None = None,
    datagram_bytes: int | None = None,
    speed: float | None = None,
    extra: Sequence[str] = (),
) -> Iterator[SimProcess]:
    """Start a simulator, yield it when it is ready, stop it. When this process is killed it ends too."""
    command = sim_arguments(
        scene=scene,
        rate=rate,
        shot_rate=shot_rate,
        chips=chips,
        seed=seed,
        truth=truth,
        replay=replay,
        datagram_bytes=datagram_bytes,
        speed=speed,
        extra=extra,
    )
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"}
    )
    try:
        yield _when_ready(process)
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(_STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe:
                pipe.close()


def _when_ready(process: subprocess.Popen[str]) -> SimProcess:
    if process.stdout is None:
        raise RuntimeError("the simulator has no standard output to read")
    line = process.stdout.readline()
    if not line.startswith(READY):
        raise RuntimeError(f"the simulator did not start: {line!r}, exit code {process.wait(_STOP_TIMEOUT_S)}")
    host, _, port = line.removeprefix(READY).strip().rpartition(":")
    return SimProcess(host, int(port), process)
