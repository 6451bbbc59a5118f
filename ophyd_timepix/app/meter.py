"""How far a long command is, on standard error: a bar on a terminal, else a line every few seconds."""

import sys
import time
from typing import Final, Self, TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

LINE_S: Final = 5.0


class Meter:
    """Use as a context manager. total: bytes that are to be read. quiet: say nothing at all."""

    def __init__(
        self, total: int, *, quiet: bool = False, stream: TextIO | None = None, line_s: float = LINE_S
    ) -> None:
        self._total = total
        self._stream = stream or sys.stderr
        self._lines = not quiet and not self._stream.isatty()
        self._line_s = line_s
        self._begin = self._told = time.monotonic()
        self._first: tuple[float, int, int] | None = None
        """Time, bytes and hits when one looked first: what came before is no measure of speed."""
        self._last: int | None = None
        """Bytes of the last line; None: there was none."""
        self._bar = Progress(
            TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f} %"),
            TextColumn("{task.fields[rate]}"), TimeRemainingColumn(), console=Console(file=self._stream),
            disable=quiet or self._lines,
        )  # fmt: skip
        self._task = self._bar.add_task("processing", total=total, rate="")

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def show(self, n_bytes: int, hits: int) -> None:
        """So many bytes are done, those of an earlier call of the command included; so many hits by this one."""
        now = time.monotonic()
        if self._first is None:
            self._first = (now, n_bytes, hits)
        since, bytes_before, hits_before = self._first
        seconds = max(now - since, 1e-3)
        rate = speed(hits - hits_before, seconds, digits=1)
        self._bar.update(self._task, completed=n_bytes, rate=rate)
        ends = self._last is not None and self._last < self._total <= n_bytes  # who heard of a part hears of the whole
        if self._lines and (ends or now - self._told >= self._line_s):
            self._told, self._last = now, n_bytes
            left_s = (self._total - n_bytes) * seconds / max(n_bytes - bytes_before, 1)
            left = f"{_clock(left_s)} left" if bytes_before < n_bytes < self._total else ""
            done = f"{n_bytes / self._total if self._total else 1:.0%} of {_size(self._total)}"
            line = ", ".join(part for part in (done, rate, left) if part)
            print(f"ophyd-timepix: {line}", file=self._stream, flush=True)

    def say(self, description: str) -> None:
        """What is being done now."""
        self._bar.update(self._task, description=description)
        if self._lines and time.monotonic() - self._begin >= self._line_s:
            print(f"ophyd-timepix: {description}", file=self._stream, flush=True)


def speed(hits: int, seconds: float, *, digits: int) -> str:
    """Mhit/s; nothing where so few hits came that it would read 0."""
    told = f"{hits / seconds / 1e6:.{digits}f}" if seconds > 0 else ""
    return f"{told} Mhit/s" if told.strip("0.") else ""


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(max(0.0, seconds)), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"


def _size(n_bytes: int) -> str:
    for unit, name in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if n_bytes >= unit:
            return f"{n_bytes / unit:.{1 if name == 'GB' else 0}f} {name}"
    return f"{n_bytes} B"
