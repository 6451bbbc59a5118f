"""Files and directories that colleagues may write too: a beamline's data belong to a group, not to who was on shift."""

import os
import stat
from pathlib import Path
from typing import Final

FILE: Final = stat.S_IRGRP | stat.S_IWGRP
DIRECTORY: Final = FILE | stat.S_IXGRP | stat.S_ISGID
"""With the set-group-id bit, what is made in a directory belongs to the directory's group."""


def share(path: Path) -> None:
    """Let the group of `path` read and write it, whatever the umask. Left alone when it is somebody else's."""
    status = path.stat()
    if status.st_uid == os.geteuid():
        path.chmod(stat.S_IMODE(status.st_mode) | (DIRECTORY if path.is_dir() else FILE))


def make_shared_directory(directory: Path) -> None:
    """Make it, and those above it that are missing, writable for the group. Those that exist keep their mode."""
    missing = [folder for folder in (directory, *directory.parents) if not folder.exists()]
    directory.mkdir(parents=True, exist_ok=True)
    for folder in reversed(missing):
        share(folder)


def share_what_is_made() -> None:
    """From now on, what this process makes is writable for its group. For the start of a process: no other thread may
    make a file meanwhile. What others may do stays as the user's umask says.
    """
    os.umask(os.umask(0o077) & ~FILE)
