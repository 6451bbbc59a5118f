"""Metadata that outlive a session: `RE = RunEngine(PersistentMetadata("/data/metadata.json"))`."""

import json
import os
import tempfile
from collections import UserDict
from pathlib import Path
from typing import Any

from ..files.sharing import make_shared_directory, share
from .checks import NotReady


class PersistentMetadata(UserDict[str, Any]):
    """A dictionary that is a JSON file: read at the start, written whole at each change, never half.

    A change inside of a value is written with the next change of a key. Of two sessions with one file the last to
    write wins; `scan_id` may then come twice, `uid` never does.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path).expanduser().absolute()
        self._ready = False
        super().__init__(self._read())
        self._ready = True

    def _read(self) -> dict[str, Any]:
        try:
            said = json.loads(self.path.read_text())
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            raise NotReady(
                f"the metadata in {self.path} cannot be read: {error}; mend the file, or remove it"
            ) from error
        if not isinstance(said, dict):
            raise NotReady(f"{self.path} holds no metadata (an object in JSON); mend the file, or remove it")
        return said

    def __setitem__(self, key: str, value: Any) -> None:
        """Raises TypeError for a key that is no text or a value that JSON has no words for; nothing is changed then."""
        if not isinstance(key, str):
            raise TypeError(f"a key of metadata is a text, not {key!r}")
        try:
            json.dumps(value, allow_nan=True)
        except (TypeError, ValueError) as error:
            raise TypeError(f"metadata {key!r} cannot be kept in {self.path}: {error}") from error
        super().__setitem__(key, value)
        self._write()

    def __delitem__(self, key: str) -> None:
        super().__delitem__(key)
        self._write()

    def _write(self) -> None:
        if not self._ready:
            return
        make_shared_directory(self.path.parent)
        with tempfile.NamedTemporaryFile("w", dir=self.path.parent, prefix=f".{self.path.name}.", delete=False) as file:
            json.dump(self.data, file, indent=1)
        unfinished = Path(file.name)
        unfinished.chmod(0o644)
        share(unfinished)
        os.replace(unfinished, self.path)
