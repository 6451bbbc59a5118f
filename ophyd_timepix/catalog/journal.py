"""The documents of one run in a file, line by line, so that a catalog that fails loses nothing.

The format is that of bluesky's JSONLinesWriter: `{"name": ..., "doc": ...}` per line. While the run is being written
the file is called `<uid>.jsonl.part`; it goes when the run is in the catalog, and becomes `<uid>.jsonl` if it is not.
"""

import json
from collections.abc import Iterator
from io import TextIOWrapper
from pathlib import Path
from typing import Any

from ..spool.recording import claim


class Journal:
    """Append-only, flushed per document: what was accepted survives the end of this process."""

    def __init__(self, directory: Path, uid: str) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.path = directory / f"{uid}.jsonl.part"
        self._file: TextIOWrapper = self.path.open("w", encoding="utf-8")
        claim(self._file.fileno())  # `recover` waits for a session that still writes

    def write(self, name: str, doc: dict[str, Any]) -> None:
        self._file.write(as_line(name, doc))
        self._file.flush()

    def keep(self) -> Path:
        """Close the file and give it its lasting name."""
        self._file.close()
        kept = self.path.with_suffix("")
        self.path.replace(kept)
        return kept

    def discard(self) -> None:
        """The run is in the catalog: the file is not needed any more."""
        self._file.close()
        self.path.unlink(missing_ok=True)


def as_line(name: str, doc: dict[str, Any]) -> str:
    """A document as a line of a journal."""
    return json.dumps({"name": name, "doc": doc}, default=_plain) + "\n"


def read_journal(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """The documents of a journal. A last line that a killed process left half written is dropped."""
    with path.open(encoding="utf-8") as file:
        for line in file:
            if line.endswith("\n"):
                entry = json.loads(line)
                yield entry["name"], entry["doc"]


def _plain(value: object) -> object:
    """Numpy scalars and arrays as numbers and lists; anything else as text."""
    tolist = getattr(value, "tolist", None)
    return tolist() if tolist is not None else str(value)
