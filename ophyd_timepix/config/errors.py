"""What can go wrong with a configuration: one error, which names part, value, limit and remedy."""

import lzma
import os
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Final

ZIP_TROUBLE: Final = (
    zipfile.BadZipFile, zipfile.LargeZipFile, zlib.error, lzma.LZMAError, struct.error, ValueError, KeyError, EOFError,
    RuntimeError, OSError,
)  # fmt: skip
"""What reading a damaged zip raises: a flipped flag makes it encrypted (RuntimeError) or packed otherwise."""


class ConfigError(ValueError):
    """A configuration, or a file of one, cannot be used. Nothing of it was taken over."""


class FileThere(ConfigError):
    """A file that is there already was not replaced."""

    def __init__(self, path: Path, option: str = "overwrite=True") -> None:
        self.path = path
        super().__init__(f"{path} exists; take another name, or say {option}")


def require_folder(path: Path) -> None:
    """Raise ConfigError unless a new file can be put at `path`."""
    folder = path.parent
    if not folder.is_dir():
        what = "is a file, no folder" if folder.exists() else "is not there"
        raise ConfigError(f"{path} cannot be written: the folder {folder} {what}; make it, or take another path")
    if not os.access(folder, os.W_OK):
        raise ConfigError(
            f"{path} cannot be written: you may not write in the folder {folder}; ask for the right to, or take "
            "another path"
        )
