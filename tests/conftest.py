"""Fixtures that every test gets: nothing may be left behind."""

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

REAL_DATA = Path(os.environ.get("TIMEPIX_REAL_DATA", "../shared/data"))


@pytest.fixture(autouse=True)
def nothing_left_behind() -> Iterator[None]:
    """Fail a test that leaves a process, a thread, a socket or a shared-memory block of its own.

    What fixtures of a wider scope hold was there before, and is checked when the session ends.
    """
    processes = {p.pid for p in _our_processes()}
    threads = set(threading.enumerate())
    sockets = _sockets()
    blocks = set(os.listdir("/dev/shm"))
    yield
    left = [p for p in _our_processes() if p.pid not in processes]
    assert not left, f"processes left behind: {[p.cmdline() for p in left]}"
    strays = [t for t in threading.enumerate() if t not in threads and _is_our_thread(t)]
    assert not strays, f"threads left behind: {strays}"
    assert not _sockets() - sockets, f"sockets left behind: {_sockets() - sockets}"
    assert not set(os.listdir("/dev/shm")) - blocks, "shared memory left behind"


@pytest.fixture(scope="session", autouse=True)
def nothing_left_at_all() -> Iterator[None]:
    """At the end of the session no process of ours lives."""
    yield
    assert not _our_processes(), f"processes left behind: {[p.cmdline() for p in _our_processes()]}"


def _our_processes() -> list[psutil.Process]:
    return [p for p in psutil.Process().children(recursive=True) if _is_ours(p)]


def _is_ours(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE and any(
            name in " ".join(process.cmdline()) for name in ("ophyd_timepix", "spidr_sim")
        )
    except psutil.NoSuchProcess:
        return False


def _is_our_thread(thread: threading.Thread) -> bool:
    """Threads of the RunEngine's loop and of ophyd's dispatchers live as long as the interpreter: not ours."""
    foreign = ("bluesky", "ThreadPoolExecutor", "asyncio", "ophyd-dispatcher", "AnyIO", "monitor", "util")
    name = thread.name.replace("_watch_request", "bluesky")  # its ear for Ctrl-C ends a moment after the plan
    return thread.is_alive() and not any(word in name for word in foreign) and not name.endswith("dispatcher")


def _sockets() -> set[tuple[str, int]]:
    """Listening or bound internet sockets of this process."""
    return {(str(c.laddr), c.fd) for c in psutil.Process().net_connections("inet") if c.laddr}


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder with real recordings, where it is there."""
    if not REAL_DATA.is_dir():
        pytest.skip(f"no real recordings in {REAL_DATA} (set TIMEPIX_REAL_DATA)")
    return REAL_DATA
