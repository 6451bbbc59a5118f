"""What a product says of how it was made: command line, program, parameters and inputs, each by its sha256.

Inputs are read once more for it, beside their processing and little ahead of it, so that both find them in memory.
"""

import contextlib
import hashlib
import json
import platform
import shlex
import subprocess
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from .. import __version__
from ..spool.index import index_path
from ..spool.sources import Recording

PIECE_BYTES: Final = 256 << 10
"""What is read and hashed at once: it stays in the cache between the two."""
AHEAD_BYTES: Final = 256 << 20
"""How far the reading for hashes may be ahead of processing."""
GIT_TIMEOUT_S: Final = 10.0
CHECKOUT: Final = Path(__file__).resolve().parents[2]


def command_text(arguments: Sequence[str]) -> str:
    """The command as it can be typed again."""
    return shlex.join(["ophyd-timepix", *arguments])


def code_version() -> str:
    """The package's version; of a git checkout also its commit, with `-dirty` when something was changed since."""
    if not (CHECKOUT / ".git").exists():
        return __version__
    words = ["git", "--no-optional-locks", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        told = subprocess.run(words, cwd=CHECKOUT, capture_output=True, text=True, timeout=GIT_TIMEOUT_S, check=True)
        return f"{__version__}+{told.stdout.strip()}"
    return __version__


def sha256_of(parameters: Mapping[str, Any]) -> str:
    """Of parameters in JSON's types, whatever their order."""
    return hashlib.sha256(json.dumps(parameters, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def input_files(recordings: Sequence[Recording]) -> list[Path]:
    """All files that are read: recordings with their segments and indices."""
    files: list[Path] = []
    for recording in recordings:
        files += [recording.path] if recording.segments is None else [s.path for s in recording.segments]
    indices = [index_path(recording.path) for recording in recordings if recording.chunked]
    return list(dict.fromkeys([*files, *(path for path in indices if path.exists())]))


def about(
    command: Sequence[str], version: str, parameters: str, inputs: Sequence[Path], digests: Mapping[Path, str | None]
) -> dict[str, Any]:
    """The whole of it, for JSON. parameters: their sha256. digests: None where the user did without."""
    return {
        "command": command_text(command),
        "program": "ophyd_timepix",
        "version": version,
        "python": platform.python_version(),
        "parameters_sha256": parameters,
        "inputs": [
            {"path": str(path.absolute()), "bytes": path.stat().st_size, "sha256": digests.get(path)} for path in inputs
        ],
    }


def chip_words(recordings: Sequence[Recording]) -> dict[str, Any]:
    """What a header or the user told of how chips were set, for JSON: nothing where nothing was told."""
    told = [
        {"path": str(recording.path.absolute()), "general_config": recording.general, "pll_config": recording.pll}
        for recording in recordings
        if recording.general is not None or recording.pll is not None
    ]
    return {"chip_words": told} if told else {}


class Hasher:
    """Hashes files one after the other in a thread of its own. Use as a context manager.

    stops: places in each file whose digest of all before is asked for; that of the whole is always made.
    """

    def __init__(self, stops: Mapping[Path, Sequence[int]]) -> None:
        self._stops = stops
        self._changed = threading.Condition()
        self._digests: dict[tuple[Path, int | None], str] = {}
        self._allowed = AHEAD_BYTES
        self._waited_for = 0
        self._ended = False
        self._failure: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="ophyd_timepix-hasher", daemon=True)

    def __enter__(self) -> "Hasher":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._ended = True
            self._changed.notify_all()
        self._thread.join()

    def follow(self, n_bytes: int | None) -> None:
        """So many bytes, of all files together, were processed. None: go on as fast as it goes."""
        with self._changed:
            self._allowed = 1 << 62 if n_bytes is None else max(self._allowed, n_bytes + AHEAD_BYTES)
            self._changed.notify_all()

    def digest(self, path: Path, stop: int | None = None) -> str:
        """Of the bytes before `stop` (None: of all), when they are read. Raises what their reading raised."""
        with self._changed:
            self._waited_for += 1  # now it may be as far ahead as it takes
            self._changed.notify_all()
            self._changed.wait_for(lambda: (path, stop) in self._digests or self._failure is not None)
            self._waited_for -= 1
            if self._failure is not None:
                raise self._failure
            return self._digests[path, stop]

    def _run(self) -> None:
        done = 0
        try:
            for path, stops in self._stops.items():
                done = self._hash(path, sorted({*stops}), done)
        except Exception as error:  # noqa: BLE001 - told to whoever asks for a digest
            with self._changed:
                self._failure = error
                self._changed.notify_all()

    def _hash(self, path: Path, stops: list[int], done: int) -> int:
        """Returns the bytes of all files so far."""
        sha, place, piece = hashlib.sha256(), 0, memoryview(bytearray(PIECE_BYTES))
        with path.open("rb", buffering=0) as file:
            for stop in [*stops, None]:
                while stop is None or place < stop:
                    if not self._may_go_on(done):
                        return done
                    n = file.readinto(piece if stop is None else piece[: min(PIECE_BYTES, stop - place)])
                    if not n:
                        break
                    sha.update(piece[:n])
                    place += n
                    done += n
                with self._changed:
                    self._digests[path, stop] = sha.hexdigest()
                    self._changed.notify_all()
        return done

    def _may_go_on(self, done: int) -> bool:
        with self._changed:
            self._changed.wait_for(lambda: self._ended or self._waited_for or done < self._allowed)
            return not self._ended
