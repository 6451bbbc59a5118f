"""A user's world for tests: home, catalog and data of its own, and a mark on every process that starts in it.

A pipeline leaves the process group and the family of its user's process on purpose, so what stays behind is found by
the mark in its environment, not by its parent.
"""

import os
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any, Final

import psutil

_MARK: Final = "TIMEPIX_TEST_MARK"
GONE_TIMEOUT_S: Final = 20.0
COMMAND_TIMEOUT_S: Final = 240.0
"""The first start on a machine compiles the kernels."""


class UserWorld:
    """Directories below `home`, and the environment that makes every program use them."""

    def __init__(self, home: Path, **variables: str) -> None:
        self.home = home
        self.data = home / "data"
        self._mark = uuid.uuid4().hex
        for folder in ("home", "ipython", "tiled", "data"):
            (home / folder).mkdir(exist_ok=True)
        self.environment = {
            **os.environ,
            _MARK: self._mark,
            "HOME": str(home / "home"),
            "IPYTHONDIR": str(home / "ipython"),
            "TILED_PROFILES": str(home / "tiled"),
            # The font list of matplotlib takes seconds to make: caches stay where they are.
            "XDG_CACHE_HOME": os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache"),
            "XDG_CONFIG_HOME": str(home / "config"),
            "XDG_DATA_HOME": str(home / "share"),
            "XDG_STATE_HOME": str(home / "state"),
            "MPLBACKEND": "Agg",
            "PYTHONUNBUFFERED": "1",
            "TERM": "dumb",
            **variables,
        }

    def catalog(self, name: str) -> Path:
        """Where the database of a catalog lies unless a session says otherwise."""
        return self.home / "share" / "ophyd_timepix" / "catalogs" / name / "catalog.db"

    def run(self, *arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
        """`python ARGUMENTS`, to its end."""
        line = [sys.executable, *map(str, arguments)]
        return subprocess.run(
            line,
            capture_output=True,
            text=True,
            timeout=COMMAND_TIMEOUT_S,
            check=False,
            env=self.environment,
            cwd=self.home,
            stdin=subprocess.DEVNULL,
            **options,
        )

    def processes(self, what: str = "") -> dict[int, psutil.Process]:
        """Living processes of this world whose command line contains `what`."""
        return {p.pid: p for p in psutil.process_iter() if self._has(p, what)}

    def _has(self, process: psutil.Process, what: str) -> bool:
        try:
            marked = process.environ().get(_MARK) == self._mark
            return marked and what in " ".join(process.cmdline()) and process.status() != psutil.STATUS_ZOMBIE
        except (psutil.NoSuchProcess, psutil.AccessDenied, OSError):
            return False

    def wait_until_gone(self, timeout_s: float = GONE_TIMEOUT_S) -> None:
        """Return when no process of this world lives; AssertionError names those that stay."""
        _, alive = psutil.wait_procs(list(self.processes().values()), timeout=timeout_s)
        left = {pid: p.cmdline() for pid, p in self.processes().items()}
        assert not alive, f"still alive after {timeout_s:g} s: {alive}"
        assert not left, f"processes left behind: {left}"
