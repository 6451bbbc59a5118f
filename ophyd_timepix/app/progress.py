"""A progress bar for whatever a plan waits for, where the Status can tell how far it is.

`RE.waiting_hook = PlanProgress(console)`. bluesky calls it with the Status objects of each wait, and with None after.
"""

import threading
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn


class PlanProgress:
    """One line per Status that says how far it is to go; it vanishes with the wait.

    A plan may wait for the same Status many times: it keeps its line.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._lock = threading.Lock()
        self._bar: Progress | None = None
        self._tasks: dict[int, tuple[Any, TaskID | None]] = {}

    def __call__(self, statuses: Any = None) -> None:
        for status in statuses or ():
            if hasattr(status, "watch") and id(status) not in self._tasks:
                self._follow(status)
        if not statuses and self._tasks and all(status.done for status, _ in self._tasks.values()):
            self._finish()

    def _follow(self, status: Any) -> None:
        """A line from the first word on that says how much is to be done: the way of a motor is no amount."""
        self._tasks[id(status)] = (status, None)

        def update(
            *,
            name: str | None = None,
            current: float | None = None,
            initial: float | None = None,
            target: float | None = None,
            unit: str | None = None,
            **_: Any,
        ) -> None:
            with self._lock:
                if id(status) not in self._tasks or initial != 0 or not target or target < 0:
                    return
                bar, (_, task) = self._started(), self._tasks[id(status)]
                if task is None:
                    task = bar.add_task(name or "", total=target, unit=unit or "")
                    self._tasks[id(status)] = (status, task)
                bar.update(task, completed=current or 0)

        status.watch(update)

    def _started(self) -> Progress:
        if self._bar is None:
            self._bar = Progress(
                TextColumn("  {task.description}"), BarColumn(40), MofNCompleteColumn(),
                TextColumn("{task.fields[unit]}"), TimeRemainingColumn(), console=self._console,
                transient=True,
            )  # fmt: skip
            self._bar.start()
        return self._bar

    def _finish(self) -> None:
        with self._lock:
            bar, self._bar = self._bar, None
            self._tasks.clear()
        if bar is not None:
            bar.stop()
