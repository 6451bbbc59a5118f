"""What changes from site to site, from the environment or a small file, so that start-up files need no editing."""

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final

from ..protocol.words import MAX_CHIPS
from .checks import NotReady

SIMULATED: Final = "sim"
VARIABLES: Final[Mapping[str, str]] = {
    "address": "TIMEPIX_ADDRESS",
    "chips": "TIMEPIX_CHIPS",
    "data": "TIMEPIX_DATA",
    "catalog": "TIMEPIX_CATALOG",
    "proposal": "TIMEPIX_PROPOSAL",
}


@dataclass(frozen=True)
class Site:
    """Where the camera is, and where its data go."""

    address: str = "192.168.100.10:50000"
    """HOST:PORT of the SPIDR board, or `sim`."""
    chips: int = 1
    data: Path = Path("~/timepix-data")
    catalog: str = "timepix"
    proposal: str = ""
    """Of runs that name none."""

    @property
    def simulated(self) -> bool:
        """Whether a simulated camera is wanted."""
        return self.address == SIMULATED

    @property
    def metadata(self) -> Path:
        """The file of `PersistentMetadata`."""
        return self.data / "metadata.json"

    @classmethod
    def read(cls, file: str | Path | None = None, environment: Mapping[str, str] = os.environ) -> "Site":
        """From a TOML file, where there is one; the environment (`TIMEPIX_ADDRESS` ...) has the last word.

        Raises NotReady for what cannot be read, names that mean nothing and values that cannot be.
        """
        said = {} if file is None or not Path(file).exists() else _file(Path(file))
        said |= {name: environment[variable] for name, variable in VARIABLES.items() if environment.get(variable)}
        chips = said.get("chips", cls.chips)
        if isinstance(chips, bool) or str(chips) not in map(str, range(1, MAX_CHIPS + 1)):
            raise NotReady(
                f"a board has 1 to {MAX_CHIPS} chips, not {chips!r} ({VARIABLES['chips']}, or chips in {file})"
            )
        said |= {"chips": int(chips), "data": Path(said.get("data", cls.data)).expanduser().absolute()}
        return cls(**said)


def _file(path: Path) -> dict[str, Any]:
    try:
        said = tomllib.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise NotReady(f"the site's settings cannot be read from {path}: {error}") from error
    names = {field.name for field in fields(Site)}
    for name, value in said.items():
        if name not in names:
            raise NotReady(f"{path} says {name!r}, which means nothing; there are {', '.join(sorted(names))}")
        if not isinstance(value, int if name == "chips" else str):
            raise NotReady(f"{path} says {name} = {value!r}, which is not a {'number' if name == 'chips' else 'text'}")
    return said
