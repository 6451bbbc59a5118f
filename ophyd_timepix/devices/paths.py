"""Where a run's files go unless a site says otherwise: `data_dir/<date>/<name>_<first 8 of the uid>.h5`.

A path provider is any callable `(detector name, run uid) -> Path` that never gives the path of an existing file.
"""

from collections.abc import Callable
from datetime import datetime
from pathlib import Path

PathProvider = Callable[[str, str], Path]


class DatedPaths:
    """A folder per day; a counter is added rather than a file overwritten. Makes the folder."""

    def __init__(self, data_dir: str | Path, *, today: Callable[[], datetime] = datetime.now) -> None:
        self.data_dir = Path(data_dir).expanduser().absolute()
        self._today = today

    def __call__(self, name: str, uid: str) -> Path:
        folder = self.data_dir / f"{self._today():%Y-%m-%d}"
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OSError(
                f"the data directory {folder} cannot be made: {error.strerror}; "
                "give the detector a data_dir that this user may write to"
            ) from error
        stem = f"{name}_{uid[:8]}"
        path = folder / f"{stem}.h5"
        take = 1
        while any(folder.glob(f"{path.stem}.*")):
            take += 1
            path = folder / f"{stem}_{take}.h5"
        return path
