"""`ophyd-timepix recover`: finish what a halt, a kill or a power loss left unfinished."""

import argparse
import json
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from ..pipeline.client import Pipeline
from ..pipeline.errors import PipelineError
from .recovery import Found, Recovered, RecoveryError, State, find_runs, is_product, recover_run, run_of

COMPLETE: Final = "complete"
WIDEST: Final = 10_000
"""Characters of a line of the table."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument("paths", nargs="+", type=Path, metavar="PATH", help="directories (all below them) or files")
    parser.add_argument("--dry-run", action="store_true", help="only say what is wrong and would be done")
    parser.add_argument("--catalog", metavar="NAME", help="register there what it does not have of these runs")
    parser.add_argument("--all", action="store_true", help="list the runs that are well, too")
    parser.add_argument(
        "--keep-events", action="store_true", help="keep the rows of an event file where its recording gives others"
    )
    parser.add_argument("--workers", type=int, default=1, help="centroid processes (default 1)")
    parser.add_argument("--json", action="store_true", help="print one JSON object a run instead of a table")


def run(options: argparse.Namespace) -> int:
    """Recover; exit code 1 when a run could not be finished, or (--dry-run) needs it."""
    runs = find_runs(options.paths)
    keep = options.keep_events
    rows = [_row(found) for found in runs] if options.dry_run else _recover(runs, options.workers, keep_events=keep)
    if options.catalog is not None and not options.dry_run:
        rows = [row | _registered(row, found, options.catalog) for row, found in zip(rows, runs, strict=True)]
    shown = [row for row in rows if options.all or _is_news(row)]
    if options.json:
        for row in shown:
            print(json.dumps(row))
    else:
        _print_table(shown, len(runs))
    return 1 if any(row["failed"] or (options.dry_run and row["todo"]) for row in rows) else 0


def _is_news(row: dict[str, Any]) -> bool:
    return (
        row.get("catalog", COMPLETE) != COMPLETE
        or row["failed"]
        or row["state"] not in (State.COMPLETE, State.RAW_ONLY)
    )


def _registered(row: dict[str, Any], found: Found, catalog: str) -> dict[str, Any]:
    """The catalog's side of a run whose files are well."""
    if row["failed"] or found.state in (State.BUSY, State.RAW_ONLY):
        return {}
    from ..catalog.completing import PRODUCT, register_rest

    if is_product(found):
        return {"catalog": PRODUCT}
    start, detector = run_of(found)
    if "uid" not in start or not detector:
        return {"catalog": "no run of a plan"}
    try:
        return {"catalog": register_rest(found.event_file, start, detector, catalog=catalog) or COMPLETE}
    except Exception as error:  # noqa: BLE001 - Tiled raises what it likes, and the other runs have their turn
        print(f"ophyd-timepix: {found.event_file}: not registered: {error}", file=sys.stderr)
        return {"catalog": "not registered", "failed": True}


def _recover(runs: Sequence[Found], workers: int, *, keep_events: bool) -> list[dict[str, Any]]:
    with ExitStack() as stack:
        needed = any(found.needs_processing for found in runs)
        pipeline = stack.enter_context(Pipeline(workers=workers)) if needed else None
        return [_recovered(found, pipeline, keep_events=keep_events) for found in runs]


def _recovered(found: Found, pipeline: Pipeline | None, *, keep_events: bool) -> dict[str, Any]:
    if found.is_well:
        return _row(found)
    try:
        return _row(found, recover_run(found, pipeline, keep_events=keep_events))
    except (RecoveryError, OSError, ValueError, PipelineError) as error:
        print(f"ophyd-timepix: {found.event_file}: {error}", file=sys.stderr)
        return _row(found) | {"done": "failed, nothing was changed", "failed": True}


def _row(found: Found, recovered: Recovered | None = None) -> dict[str, Any]:
    """A run in the report."""
    row: dict[str, Any] = {
        "event_file": str(found.event_file),
        "recording": None if found.recording is None else str(found.recording),
        "state": str(found.state),
        "todo": "" if found.is_well or recovered else _todo(found),
        "done": "left alone" if found.state is State.BUSY else "",
        "failed": False,
    }
    if recovered is not None:
        row |= {
            "done": "master written" if found.state is State.NO_MASTER else "finished",
            "rows": recovered.rows,
            "rows_before": recovered.rows_before,
            "kept": None if recovered.kept is None else str(recovered.kept),
            "master": str(found.master),
            "unaccounted": recovered.ledger.get("unaccounted"),
        }
    return row


def _todo(found: Found) -> str:
    if found.state is State.NO_MASTER:
        return "write the master"
    if found.needs_processing:
        return "process the recording"
    if found.state is State.NO_INDEX:
        return f"nothing by itself: {found.why}"
    return "finish from its rows" if found.state is State.UNFINISHED else "nothing can be done: no recording"


def _print_table(rows: Sequence[dict[str, Any]], n_runs: int) -> None:
    if not rows:
        print(f"{n_runs} runs, nothing to recover")
        return
    with_catalog = any("catalog" in row for row in rows)
    headings = ["event file", "was", "done", "rows", *(["catalog"] if with_catalog else [])]
    table = Table(*headings, box=None, pad_edge=False)
    for row in rows:
        gained = f"{row['rows_before']:,} -> {row['rows']:,}" if "rows" in row else ""
        cells = [row["event_file"], row["state"], row["done"] or row["todo"], gained]
        table.add_row(*cells, *([row.get("catalog", "")] if with_catalog else []))
    console = Console()
    # a path is for copying: it is never cut, however narrow the terminal
    wide = console.options.update(max_width=WIDEST)
    console.width = max(console.width, console.measure(table, options=wide).maximum)
    console.print(table)
    for row in rows:
        if row.get("kept"):
            print(f"kept: {row['kept']}")
