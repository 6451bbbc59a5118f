"""`ophyd-timepix info`: what is in a recording, without processing it; what an event file or a master was made from."""

import argparse
import json
from pathlib import Path
from typing import Any

import h5py

from ..config.masked_pixels import pixels_text
from ..files.event_file import TABLES
from ..files.master import PROVENANCE
from ..files.reader import count_rows, open_event_file, read_about, read_ledger
from ..spool.index import read_index
from ..spool.sources import open_recording
from .survey import propose_masked, survey


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument(
        "files", nargs="+", type=Path, metavar="FILE", help=".tpx3, Pymepix .raw, SPIDR .dat, or .h5 and .nxs"
    )
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
    """Format, size, words by kind, chips, time span; of an event file or master its rows, verdict and provenance."""
    if path.is_file() and h5py.is_hdf5(path):
        return _facts_of_events(path)
    recording = open_recording(path)
    facts: dict[str, Any] = recording.model_dump(mode="json", exclude_none=True)
    facts.update(survey(recording))
    index = read_index(recording.path) if recording.chunked else None
    if index is not None:
        facts["index_records"] = len(index.records)
        facts["recorded_by"] = "ophyd_timepix"
    return facts


def _facts_of_events(path: Path) -> dict[str, Any]:
    """Raises ValueError for an HDF5 file that is none of ours."""
    with open_event_file(path) as file:
        if "ledger" not in file.get("entry", {}):
            raise ValueError(f"{path} is an HDF5 file, and neither an event file nor a master of ophyd_timepix")
        tables = [name for name in TABLES if name in file["entry"]]
    ledger = read_ledger(path)
    return {
        "path": str(path),
        "format": "event file" if path.suffix != ".nxs" else "NeXus master",
        **{name: count_rows(path, name) for name in tables},
        "verdict": ledger.get("verdict", "not finished"),
        "processing": read_about(path, "processing") or read_about(path, "configuration")["request"]["processing"],
        **read_about(path, PROVENANCE),
    }


def as_text(facts: dict[str, Any]) -> str:
    """A fact a line; of a list, a line for each."""
    lines = []
    for name, value in facts.items():
        values = value if isinstance(value, list) and value else [value]
        lines += [f"{name if k == 0 else '':>22}  {_value(one)}" for k, one in enumerate(values)]
    return "\n".join(lines)


def _value(value: Any) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    if isinstance(value, dict):
        return ", ".join(f"{k}: {_value(v)}" for k, v in value.items())
    return str(value)
