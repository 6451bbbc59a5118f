"""A file system of its own that is soon full."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def small_disk(directory: Path, n_bytes: int) -> Iterator[Path]:
    """`directory`, made here, with room for `n_bytes`. Skips the test where nobody may mount one."""
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("only root may mount a small disk")
    directory.mkdir()
    options = ["-t", "tmpfs", "-o", f"size={n_bytes}", "none", directory]
    if subprocess.run(["mount", *options], check=False).returncode:
        pytest.skip("mounting a small file system is not allowed here")
    try:
        yield directory
    finally:
        subprocess.run(["umount", "--lazy", directory], check=True)
