"""What can go wrong with a configuration: one error, which names part, value, limit and remedy."""

import lzma
import struct
import zipfile
import zlib
from typing import Final

ZIP_TROUBLE: Final = (
    zipfile.BadZipFile, zipfile.LargeZipFile, zlib.error, lzma.LZMAError, struct.error, ValueError, KeyError, EOFError,
    RuntimeError, OSError,
)  # fmt: skip
"""What reading a damaged zip raises: a flipped flag makes it encrypted (RuntimeError) or packed otherwise."""


class ConfigError(ValueError):
    """A configuration, or a file of one, cannot be used. Nothing of it was taken over."""
