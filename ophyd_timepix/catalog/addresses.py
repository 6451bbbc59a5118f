"""How Tiled's catalog names files: `file://localhost` and the path as it stands.

Documents name them as event-model wants it, percent-encoded; Tiled takes the path out of an address without decoding
it, and ends it at a `#` or a `?`.
"""

from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

UNUSABLE: Final = "#?"
"""Characters that end a path in an address."""
_BEGIN: Final = "file://localhost"


def address_of(path: Path) -> str:
    """The address under which the catalog keeps a file."""
    return f"{_BEGIN}{path}"


def path_of(address: str) -> Path:
    """The file of an address; percent-encoded ones, as earlier versions kept them, too."""
    told = Path(urlsplit(address).path)
    plain = Path(unquote(str(told)))
    return plain if plain.exists() and not told.exists() else told


def decoded(uri: str) -> str:
    """The address of the file that a document names. Other schemes than `file` stay as they are."""
    parts = urlsplit(uri)
    return address_of(Path(unquote(parts.path))) if parts.scheme == "file" else uri


def check_usable(path: Path) -> str:
    """Why a catalog cannot serve files below `path`, and what to do; empty: it can."""
    wrong = [character for character in UNUSABLE if character in str(path)]
    if not wrong:
        return ""
    return f"Tiled cannot read files of {path}: the name holds {' and '.join(wrong)}; choose a directory without"
