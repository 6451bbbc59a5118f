"""Starts `spidr-sim`, the simulated board, as a process that ends with this one.

The simulator is a program of its own: nothing of it is imported. It hears the end of its standard input, which the
kernel closes for us however this process ends.
"""

import contextlib
import logging
import selectors
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Final, Self

logger = logging.getLogger(__name__)

READY: Final = "spidr-sim listening tcp "
START_TIMEOUT_S: Final = 180.0
"""The first start on a machine compiles its kernels."""
STOP_TIMEOUT_S: Final = 10.0


class SimulatorError(RuntimeError):
    """The simulator did not start, or ended by itself."""


class Simulator:
    """A running simulated board. `address` is what `SpidrBoard` takes."""

    def __init__(self, process: subprocess.Popen[str], address: str) -> None:
        self._process = process
        self._telling = threading.Lock()
        self.address = address

    @classmethod
    def start(
        cls, arguments: Sequence[str] = (), *, log: Path | None = None, timeout_s: float = START_TIMEOUT_S
    ) -> Self:
        """Start it on a free port of this machine; return when it listens. `arguments` as for `spidr-sim`."""
        command = [sys.executable, "-m", "spidr_sim", "--host", "127.0.0.1", "--port", "0", "--stop-on-eof", *arguments]
        with _log_file(log) as errors:
            process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True, start_new_session=True
            )
            try:
                return cls(process, _address(process, errors, timeout_s))
            except BaseException:
                process.kill()
                process.wait()
                raise

    def tell(self, order: str) -> str:
        """Give it an order, as `fault power-cycle` or `clear`; its answer. Raises SimulatorError when it refuses."""
        if self._process.stdin is None or self._process.stdout is None:
            raise SimulatorError("the simulator has no standard input or output")
        with self._telling:
            self._process.stdin.write(f"{order}\n")
            self._process.stdin.flush()
            answer = self._process.stdout.readline().strip().removeprefix("spidr-sim ")
        if not answer or answer.startswith("error: "):
            raise SimulatorError(f"spidr-sim, told {order!r}: {answer.removeprefix('error: ') or 'it has ended'}")
        return answer

    def stop(self) -> None:
        """End it as it would end with this process; it completes its files. Twice is harmless."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            self._process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            logger.warning("the simulator did not end within %s s and was killed", STOP_TIMEOUT_S)
            self._process.kill()
            self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


@contextlib.contextmanager
def _log_file(path: Path | None) -> Iterator[IO[str]]:
    with path.open("w+") if path else tempfile.TemporaryFile("w+") as file:
        yield file


def _address(process: subprocess.Popen[str], errors: IO[str], timeout_s: float) -> str:
    """Read the line that says where it listens."""
    if process.stdout is None:
        raise SimulatorError("the simulator has no standard output")
    deadline = time.monotonic() + timeout_s
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while (left := deadline - time.monotonic()) > 0 and selector.select(left):
            line = process.stdout.readline()
            if line.startswith(READY):
                return line.removeprefix(READY).strip()
            if not line:
                code = process.wait()
                errors.seek(0)
                said = errors.read().strip().splitlines()[-1:] or ["it said nothing"]
                raise SimulatorError(f"spidr-sim ended at its start with code {code}: {said[0]}")
    raise SimulatorError(f"spidr-sim did not listen within {timeout_s:g} s")
