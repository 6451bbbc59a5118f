"""What can be known to go wrong before a run begins: a directory that cannot be written or has no room."""

import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from ..devices import TimepixDetector
from ..files.sharing import make_shared_directory

MIN_FREE_BYTES: Final = 1 << 30
"""A camera at full rate fills this in one and a half seconds: less is no start."""


class NotReady(RuntimeError):
    """Something is not as a run needs it. The sentence says what to do."""


def check_names(detectors: Sequence[TimepixDetector]) -> None:
    """Two detectors of one name would overwrite each other's columns, two on one board each other's destination."""
    twice = [name for name, count in Counter(d.name for d in detectors).items() if count > 1]
    if twice:
        raise NotReady(f"two detectors are named {twice[0]!r}; give each a name of its own")
    owners: dict[int, str] = {}
    for detector in detectors:
        other = owners.setdefault(id(detector.board), detector.name)
        if other != detector.name:
            raise NotReady(
                f"{other} and {detector.name} share the board {detector.board.name}, which sends to one of them only; "
                "make one detector for a board"
            )


def check_directory(directory: Path, min_free_bytes: int = MIN_FREE_BYTES) -> None:
    """The data directory can be made and written, and has room. Makes it."""
    try:
        make_shared_directory(directory)
        with tempfile.TemporaryFile(dir=directory):
            pass
    except OSError as error:
        raise NotReady(
            f"the data directory {directory} cannot be written by user {os.geteuid()}: {error.strerror}; "
            "give the detector another data_dir, or this user the right to write there"
        ) from error
    free = shutil.disk_usage(directory).free
    if free < min_free_bytes:
        raise NotReady(
            f"the data directory {directory} has {free / 1e9:.2f} GB free, a run needs at least "
            f"{min_free_bytes / 1e9:.2f} GB; free some, give another data_dir, or lower min_free_bytes"
        )
