"""`ophyd-timepix info`: what is in a recording, without processing it."""

import argparse
import json
from pathlib import Path
from typing import Any

from ..config.masked_pixels import pixels_text
from ..spool.index import read_index
from ..spool.sources import open_recording
from .survey import propose_masked, survey


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help=".tpx3, Pymepix .raw or SPIDR .dat")
    parser.add_argument("--hot-pixels", action="store_true", help="propose pixels for `process --masked-pixels`")
    parser.add_argument("--json", action="store_true", help="print one JSON object a line")


def run(options: argparse.Namespace) -> int:
    """Tell what each file holds."""
    for path in options.files:
        facts = facts_of(path)
        if options.hot_pixels:
            facts["hot_pixels"] = pixels_text(propose_masked(open_recording(path)))
        print(json.dumps(facts) if options.json else as_text(facts))
    return 0


def facts_of(path: Path) -> dict[str, Any]:
    """Format, size, words by kind, chips, time span."""
    recording = open_recording(path)
    facts: dict[str, Any] = recording.model_dump(mode="json", exclude_none=True)
    facts.update(survey(recording))
    index = read_index(recording.path) if recording.chunked else None
    if index is not None:
        facts["index_records"] = len(index.records)
        facts["recorded_by"] = "ophyd_timepix"
    return facts


def as_text(facts: dict[str, Any]) -> str:
    """A fact a line."""
    return "\n".join(f"{name:>22}  {_value(value)}" for name, value in facts.items())


def _value(value: Any) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    if isinstance(value, dict):
        return ", ".join(f"{k}: {_value(v)}" for k, v in value.items())
    return str(value)
