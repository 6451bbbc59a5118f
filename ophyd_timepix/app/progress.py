"""A progress bar for whatever a plan waits for, where the Status can tell how far it is.

`RE.waiting_hook = PlanProgress(console)`. bluesky calls it with the Status objects of each wait, and with None after.
"""

from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn


class PlanProgress:
    """One line per Status that has `watch`. A plan may wait for the same Status many times: it keeps its line."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bar: Progress | None = None
        self._tasks: dict[int, tuple[Any, TaskID]] = {}

    def __call__(self, statuses: Any = None) -> None:
        for status in statuses or ():
            if hasattr(status, "watch") and id(status) not in self._tasks:
                self._follow(status)
        if not statuses and self._tasks and all(status.done for status, _ in self._tasks.values()):
            self._finish()

    def _follow(self, status: Any) -> None:
        bar = self._started()
        task = bar.add_task("", total=None, unit="")
        self._tasks[id(status)] = (status, task)

        def update(
            *,
            name: str | None = None,
            current: float | None = None,
            target: float | None = None,
            unit: str | None = None,
            **_: Any,
        ) -> None:
            bar.update(task, description=name or "", completed=current or 0, total=target, unit=unit or "")

        status.watch(update)

    def _started(self) -> Progress:
        if self._bar is None:
            self._bar = Progress(
                TextColumn("  {task.description}"), BarColumn(40), MofNCompleteColumn(),
                TextColumn("{task.fields[unit]}"), TimeRemainingColumn(), console=self._console,
            )  # fmt: skip
            self._bar.start()
        return self._bar

    def _finish(self) -> None:
        if self._bar is not None:
            for _, task in self._tasks.values():
                total = self._bar.tasks[task].total
                self._bar.update(task, completed=total)
            self._bar.stop()
        self._bar = None
        self._tasks.clear()
