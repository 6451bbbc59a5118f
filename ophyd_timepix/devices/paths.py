"""Where a run's files go unless a site says otherwise: `data_dir/[<proposal>/]<date>/<name>_<first 8 of the uid>.h5`.

A path provider is any callable `(detector name, run uid) -> Path` that never gives the path of an existing file. One
that has a method `note_start(document)` as well hears of each run before its path is asked for: `install` sees to it.
"""

import os
import re
import weakref
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from ..files.sharing import make_shared_directory

PathProvider = Callable[[str, str], Path]

PROPOSAL_KEYS: Final = ("proposal", "proposal_id", "data_session")
"""Where facilities write the proposal in a start document; the first that is there counts."""

_FOLDER_NAME: Final = re.compile(r"[A-Za-z0-9][\w.+-]{0,99}", re.ASCII)
_REMEMBERED: Final = 100


class DatedPaths:
    """A folder per proposal, where there is one, and day; a counter is added rather than a file overwritten.

    Makes the folders, writable for their group. A name is reserved before it is given, so that two sessions, on
    whatever machines, never get the same one: with an empty hidden file beside, which goes when the run's file is
    there or this session ends.

    proposal: of runs whose start document names none (`proposal`, `proposal_id` or `data_session`). No proposal, no
    folder. A number, a text, or a callable that is asked for each run.
    """

    def __init__(
        self,
        data_dir: str | Path,
        *,
        proposal: str | int | Callable[[], str | int | None] | None = None,
        today: Callable[[], datetime] = datetime.now,
    ) -> None:
        self.data_dir = Path(data_dir).expanduser().absolute()
        self.proposal = proposal
        self._today = today
        self._told: dict[str, object] = {}
        self._reserved: dict[Path, Path] = {}
        weakref.finalize(self, _release, self._reserved)

    def note_start(self, start: Mapping[str, Any]) -> None:
        """A run has opened: its start document may say which proposal it belongs to."""
        for key in PROPOSAL_KEYS:
            if start.get(key) not in (None, "", {}):
                self._told[start["uid"]] = start[key]
                break
        for uid in list(self._told)[:-_REMEMBERED]:
            del self._told[uid]

    def __call__(self, name: str, uid: str) -> Path:
        """A path that is nobody else's. Raises ValueError for a proposal that cannot be a folder, OSError when the
        folder cannot be made or written.
        """
        folder = self._folder(uid)
        try:
            make_shared_directory(folder)
            return self._reserve(folder, f"{name}_{uid[:8]}")
        except OSError as error:
            raise OSError(
                error.errno,
                f"the data directory {folder} cannot be made or written: {error.strerror}; "
                "give the detector a data_dir that this user may write to",
            ) from error

    def _folder(self, uid: str) -> Path:
        proposal = self._told.get(uid)
        if proposal is None:
            proposal = self.proposal() if callable(self.proposal) else self.proposal
        day = f"{self._today():%Y-%m-%d}"
        return self.data_dir / day if proposal is None else self.data_dir / _folder_name(proposal) / day

    def _reserve(self, folder: Path, stem: str) -> Path:
        self._release_used()
        take = 1
        while True:
            path = folder / (f"{stem}.h5" if take == 1 else f"{stem}_{take}.h5")
            take += 1
            mark = folder / f".{path.stem}.reserved"
            try:
                os.close(os.open(mark, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o664))
            except FileExistsError:
                continue
            # In this order: whoever has the mark looks at the files, and a mark goes only when its file is there.
            if any(folder.glob(f"{path.stem}.*")):
                mark.unlink(missing_ok=True)
                continue
            self._reserved[path] = mark
            return path

    def _release_used(self) -> None:
        used = {path: mark for path, mark in self._reserved.items() if path.exists()}
        _release(used)
        for path in used:
            del self._reserved[path]


def _folder_name(proposal: object) -> str:
    """The folder of a proposal. Some facilities write a table with its number inside."""
    if isinstance(proposal, Mapping):
        proposal = next((proposal[key] for key in ("proposal_id", "id") if key in proposal), proposal)
    name = str(proposal)
    if not isinstance(proposal, str | int) or isinstance(proposal, bool) or not _FOLDER_NAME.fullmatch(name):
        raise ValueError(
            f"the proposal {proposal!r} cannot be the name of a folder: that has 1 to 100 letters, digits, '_', '.', "
            "'+' or '-' and begins with a letter or a digit; correct it in the start document (RE.md) or in DatedPaths"
        )
    return name


def _release(reserved: Mapping[Path, Path]) -> None:
    for mark in reserved.values():
        try:
            mark.unlink(missing_ok=True)
        except OSError:
            continue  # the folder has gone or was closed: nobody asks for this name any more
