"""What a check found: one line each, with a remedy where there is something to do."""

import math
from collections.abc import Sequence
from enum import StrEnum
from typing import NamedTuple

from rich.console import Console
from rich.markup import escape
from rich.table import Table


class State(StrEnum):
    """How things are."""

    OK = "OK"
    LOOK = "look"
    """May be as wanted; somebody should know."""
    WRONG = "wrong"


_COLOURS = {State.OK: "green", State.LOOK: "yellow", State.WRONG: "bold red"}


class Finding(NamedTuple):
    """One thing that was looked at."""

    what: str
    state: State
    found: str
    remedy: str = ""


def ok(what: str, found: str) -> Finding:
    return Finding(what, State.OK, found)


def look(what: str, found: str, remedy: str) -> Finding:
    return Finding(what, State.LOOK, found, remedy)


def wrong(what: str, found: str, remedy: str) -> Finding:
    return Finding(what, State.WRONG, found, remedy)


def show(title: str, findings: Sequence[Finding], console: Console) -> None:
    """As a table; a remedy stands below what it is for. Lines to copy are not cut."""
    table = Table(title=title, title_justify="left", show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for finding in findings:
        state = f"[{_COLOURS[finding.state]}]{finding.state}[/]"
        table.add_row(escape(finding.what), state, escape(finding.found))
        if finding.remedy:
            table.add_row("", "", f"[bold]-> {escape(finding.remedy)}[/bold]")
    console.print(table)


def plain(value: object) -> object:
    """The same for JSON: what is no number is null."""
    if isinstance(value, dict):
        return {key: plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [plain(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
