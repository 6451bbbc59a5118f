"""Giving a file that is complete the name that people look for, without ever overwriting another."""

import os
from pathlib import Path


def give_its_name(unfinished: Path, path: Path) -> None:
    """Rename `unfinished` to `path` on the same file system. Raises FileExistsError when there is one.

    A link refuses to overwrite, a rename does not; some file systems know no links.
    """
    refusal = f"{path} exists and is never overwritten; choose another name"
    try:
        os.link(unfinished, path)
    except FileExistsError:
        raise FileExistsError(refusal) from None
    except OSError:
        if path.exists():
            raise FileExistsError(refusal) from None
        os.rename(unfinished, path)
    else:
        unfinished.unlink()
