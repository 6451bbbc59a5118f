"""The embedded catalog: a Tiled profile of kind `direct`, an SQLite catalog and SQLite tables. No server, no port.

`init_catalog` makes it; `Broker.named(...)`, `tiled.client.from_profile(...)` and `open_catalog` open it, in any number
of processes at once. This module writes profiles and asks what they say; it opens no catalog and knows no document.
"""

import logging
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from .addresses import check_usable
from .errors import CatalogError, CatalogMissingError, NotReadableError, require

logger = logging.getLogger(__name__)

DEFAULT_NAME = "timepix"


@dataclass(frozen=True)
class CatalogProfile:
    """Where a catalog is described, where it lies, and which directories it may serve files from."""

    name: str
    path: Path
    directory: Path | None
    """None: the profile points at a server, or keeps its catalog elsewhere than in a file."""
    readable: tuple[Path, ...]

    @property
    def is_embedded(self) -> bool:
        return self.directory is not None

    @property
    def database(self) -> Path | None:
        return self.directory / "catalog.db" if self.directory else None


def init_catalog(
    name: str = DEFAULT_NAME, directory: str | Path | None = None, readable: Iterable[str | Path] = ()
) -> CatalogProfile:
    """Make the embedded catalog `name`, or add `readable` directories to it when it is there already.

    An existing catalog is never emptied, moved or replaced. Directories in `readable` are made when they are missing.
    The profile goes into the user's directory of Tiled profiles (TILED_PROFILES, else ~/.config/tiled/profiles).
    """
    folders = [folder for path in readable for folder in _both_spellings(_data_directory(path))]
    path, content = _find(name)
    if content is None:
        path = profiles_directory() / f"{name}.yml"
        home = _make_directory(directory or default_directory(name), "directory of the catalog")
        profile = {"direct": _service(home, folders)}
    else:
        known = _describe(name, path, content)
        home = _home_of(known, directory)
        profile = _with_readable(content, folders)
    _make_directory(home / "data", "directory of the catalog")
    _init_database(home / "catalog.db")
    if profile != content:
        _write_profile(path, name, profile)
    return _describe(name, path, profile)


def find_profile(name: str = DEFAULT_NAME) -> CatalogProfile:
    """What the profile `name` says. Raises `CatalogMissingError` if there is none."""
    path, content = _find(name)
    if content is None:
        found = ", ".join(sorted(_load_profiles())) or "none"
        raise CatalogMissingError(
            f"There is no catalog {name!r} in {profiles_directory()} (found: {found}); "
            f"make it with: ophyd-timepix catalog init --name {name} --readable DATA_DIRECTORY"
        )
    return _describe(name, path, content)


def profile_content(name: str) -> dict[str, Any]:
    """The profile `name` as it stands in its file. Raises `CatalogMissingError` if there is none."""
    find_profile(name)
    content = _find(name)[1]
    return content or {}


def connect_catalog(url: str, name: str = DEFAULT_NAME) -> CatalogProfile:
    """Make the profile `name` point at a server: `url` as `ophyd-timepix catalog serve` prints it, with its key.

    `Broker.named(name)` and `open_catalog(name)` then open that one. A profile that is an embedded catalog is not
    replaced. The profile is readable for its owner alone: it holds the key.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise CatalogError(f"{url!r} is no address of a server; it looks like http://HOST:8000/?api_key=KEY")
    key = dict(parse_qsl(parts.query)).get("api_key")
    path, content = _find(name)
    if content is not None and "uri" not in content:
        raise CatalogError(
            f"The profile {name!r} in {path} is a catalog of this machine; choose another name with --name, "
            "or remove the profile (its runs stay where they are)"
        )
    base = f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/').removesuffix('/api/v1')}/api/v1"
    profile = {"uri": f"{base}?api_key={key}" if key else base}
    path = path if content is not None else profiles_directory() / f"{name}.yml"
    _write_profile(path, name, profile, secret=True)
    return _describe(name, path, profile)


def is_readable(name: str, path: str | Path) -> bool:
    """Whether the embedded catalog may serve a file below `path`. A server keeps its own list: True."""
    profile = find_profile(name)
    if not profile.is_embedded:
        logger.debug("catalog %r is a server's: it alone knows which directories it serves", name)
        return True
    wanted = Path(os.path.abspath(path))
    return any(wanted.is_relative_to(folder) for folder in profile.readable)


def check_readable(name: str, path: str | Path) -> None:
    """Raise `NotReadableError` unless the catalog may serve files below `path`.

    To be called before a run: Tiled registers files of any directory, and refuses only when they are read.
    """
    if refusal := check_usable(Path(os.path.abspath(path))):
        raise NotReadableError(refusal)
    if is_readable(name, path):
        return
    profile = find_profile(name)
    served = ", ".join(map(str, profile.readable)) or "none"
    raise NotReadableError(
        f"The catalog {name!r} may not serve files from {os.path.abspath(path)} (it serves: {served}); "
        f"allow it with: ophyd-timepix catalog init --name {name} --readable {os.path.abspath(path)}"
    )


def default_directory(name: str) -> Path:
    """Where a catalog lies unless told otherwise: below XDG_DATA_HOME."""
    data_home = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(data_home) / "ophyd_timepix" / "catalogs" / name


def profiles_directory() -> Path:
    """The user's directory of Tiled profiles: the last, strongest place that Tiled looks at."""
    user = Path(require("tiled.profiles").paths[-1])
    asked = os.environ.get("TILED_PROFILES")
    if asked and Path(asked) != user:
        raise CatalogError(
            f"TILED_PROFILES is {asked}, but Tiled was imported when it was {user}; set it before Python starts"
        )
    return user


def _service(home: Path, folders: list[Path]) -> dict[str, Any]:
    """Tiled's service configuration. `init_if_not_exists` stays off: it costs 4 s at each opening."""
    return {
        "trees": [
            {
                "path": "/",
                "tree": "catalog",
                "args": {
                    "uri": f"sqlite:///{home / 'catalog.db'}",
                    "writable_storage": [str(home / "data"), f"sqlite:///{home / 'tables.sqlite'}"],
                    "readable_storage": [str(folder) for folder in dict.fromkeys(folders)],
                    "init_if_not_exists": False,
                    "specs": [{"name": "CatalogOfBlueskyRuns", "version": "3.0"}],
                },
            }
        ],
        "media_types": {"BlueskyRun": {"application/json-seq": "bluesky_tiled_plugins.exporters:json_seq_exporter"}},
    }


def _arguments(content: dict[str, Any]) -> dict[str, Any] | None:
    """The arguments of the catalog tree of a `direct` profile; None where there is no such tree."""
    for tree in content.get("direct", {}).get("trees", ()):
        if str(tree.get("args", {}).get("uri", "")).startswith("sqlite:///"):
            arguments: dict[str, Any] = tree["args"]
            return arguments
    return None


def _describe(name: str, path: Path, content: dict[str, Any]) -> CatalogProfile:
    arguments = _arguments(content)
    if arguments is None:
        return CatalogProfile(name, path, None, ())
    directory = Path(arguments["uri"].removeprefix("sqlite:///")).parent
    return CatalogProfile(name, path, directory, tuple(Path(p) for p in arguments.get("readable_storage") or ()))


def _home_of(known: CatalogProfile, asked: str | Path | None) -> Path:
    """The directory of an existing catalog, when it is ours to extend and where the caller thinks it is."""
    if known.directory is None:
        raise CatalogError(
            f"The profile {known.name!r} in {known.path} is not an embedded catalog; "
            "choose another name, or let the server's operator make the directories readable"
        )
    if asked is not None and Path(asked).resolve() != known.directory.resolve():
        raise CatalogError(
            f"The catalog {known.name!r} of {known.path} lies in {known.directory}, not in {Path(asked).resolve()}; "
            "choose another name for the new one"
        )
    return known.directory


def _with_readable(content: dict[str, Any], folders: list[Path]) -> dict[str, Any]:
    """The profile with `folders` readable as well. What else the user wrote into it stays."""
    changed: dict[str, Any] = {**content, "direct": {**content["direct"]}}
    changed["direct"]["trees"] = [
        {**tree, "args": {**tree["args"]}} if "args" in tree else tree for tree in content["direct"]["trees"]
    ]
    arguments = _arguments(changed)
    if arguments is not None:
        wanted = [*(arguments.get("readable_storage") or ()), *map(str, folders)]
        arguments["readable_storage"] = list(dict.fromkeys(wanted))
    return changed


def _both_spellings(path: Path) -> list[Path]:
    """The path as given and with links resolved: Tiled compares file names as they stand in the documents."""
    return list(dict.fromkeys((path, path.resolve())))


def _data_directory(path: str | Path) -> Path:
    if refusal := check_usable(Path(os.path.abspath(Path(path).expanduser()))):
        raise NotReadableError(refusal)
    return _make_directory(path, "data directory")


def _make_directory(path: str | Path, what: str) -> Path:
    directory = Path(os.path.abspath(Path(path).expanduser()))
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as refused:
        raise CatalogError(
            f"The {what} {directory} cannot be made: {refused.strerror}; choose another, or ask for its permissions"
        ) from refused
    return directory


def _init_database(database: Path) -> None:
    """Make the tables of a new catalog; an initialised one is left as it is.

    In a process of its own, as Tiled itself does it: the migration tool runs an event loop, and so may the caller.
    """
    if database.exists() and database.stat().st_size > 0:
        return
    require("tiled.profiles")
    command = [sys.executable, "-m", "tiled", "catalog", "init", "--if-not-exists", f"sqlite:///{database}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = done.stderr.strip().splitlines()[-1:] or ["no message"]
        raise CatalogError(f"The catalog {database} cannot be made: {reason[0]}; is its directory writable?")


def _load_profiles() -> dict[str, tuple[Path, dict[str, Any]]]:
    profiles = require("tiled.profiles")
    profiles.load_profiles.cache_clear()
    found: dict[str, tuple[Path, dict[str, Any]]] = profiles.load_profiles()
    return found


def _find(name: str) -> tuple[Path, dict[str, Any] | None]:
    path, content = _load_profiles().get(name, (Path(), None))
    return Path(path), content


def _write_profile(path: Path, name: str, profile: dict[str, Any], *, secret: bool = False) -> None:
    """Replace one profile of a file, in one step: a reader sees the old one or the new one."""
    yaml = require("yaml")
    directory = _make_directory(path.parent, "directory of Tiled profiles")
    try:
        others = yaml.safe_load(path.read_text()) if path.exists() else {}
        with tempfile.NamedTemporaryFile("w", dir=directory, prefix=".", suffix=".tmp", delete=False) as file:
            yaml.safe_dump({**others, name: profile}, file, sort_keys=False)
        mode = path.stat().st_mode if path.exists() else 0o644
        os.chmod(file.name, mode & 0o700 if secret else mode)
        os.replace(file.name, path)
    except OSError as refused:
        raise CatalogError(
            f"The profile {path} cannot be written: {refused.strerror}; "
            "set TILED_PROFILES to a directory of your own, or ask for permission"
        ) from refused
    require("tiled.profiles").load_profiles.cache_clear()
