"""Fixtures that every test gets: nothing may be left behind."""

import gc
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from hypothesis import settings

from tests.empty_catalog import EmptyCatalog
from tests.kernels import compile_where_nothing_is_compiled
from tests.schemas import descriptors_validated_once

# How long an example takes says how busy the machine is, and nothing about the claim.
settings.register_profile("busy machine", deadline=None)
settings.load_profile("busy machine")

# Tiled, numba and ophyd make millions of objects that stay: to look through them for rubbish every 700 objects is a
# tenth of what tests compute.
gc.set_threshold(50_000, 10, 10)

REAL_DATA = Path(os.environ.get("TIMEPIX_REAL_DATA", "../shared/data"))


LONG = ("system", "docs", "app", "catalog", "plans")
"""Directories whose files take longest: begun first, so that no worker is left with one when all else is done."""


@pytest.hookimpl(tryfirst=True)
def pytest_sessionstart(session: pytest.Session) -> None:
    """Before several workers begin."""
    if session.config.getoption("numprocesses", None) and "PYTEST_XDIST_WORKER" not in os.environ:
        compile_where_nothing_is_compiled()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The long ones first."""
    here = Path(__file__).parent
    rank = {here / name: place for place, name in enumerate(LONG)}
    items.sort(key=lambda item: rank.get(item.path.parent, len(LONG)))


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
    for thread in strays:  # one that was told to end may need a moment for it
        thread.join(2)
    strays = [t for t in strays if t.is_alive()]
    assert not strays, f"threads left behind: {strays}"
    bound = _left_behind(sockets, _sockets())
    assert not bound, f"sockets left behind: {bound}"
    left_blocks = _not_in_use_elsewhere(set(os.listdir("/dev/shm")) - blocks)
    assert not left_blocks, f"shared memory left behind: {left_blocks}"


@pytest.fixture(scope="session", autouse=True)
def nothing_left_at_all() -> Iterator[None]:
    """At the end of the session no process of ours lives."""
    yield
    assert not _our_processes(), f"processes left behind: {[p.cmdline() for p in _our_processes()]}"


def _our_processes() -> list[psutil.Process]:
    if not _has_children():  # thousands of tests start none: a look through all of /proc would cost more than they do
        return []
    return [p for p in psutil.Process().children(recursive=True) if _is_ours(p)]


def _has_children() -> bool:
    """Of any thread: of those that engines leave there are a hundred in the end, so none is asked by itself."""
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:  # the thread ended meanwhile
        return ""


def _is_ours(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE and any(
            name in " ".join(process.cmdline()) for name in ("ophyd_timepix", "spidr_sim")
        )
    except psutil.NoSuchProcess:
        return False


def _is_our_thread(thread: threading.Thread) -> bool:
    """Threads of the RunEngine's loop and of ophyd's dispatchers live as long as the interpreter: not ours.

    Nor are those of aiosqlite: an embedded catalog that a user opened keeps its connections pooled until he leaves.
    """
    foreign = (
        "_connection_worker_thread",
        "bluesky",
        "ThreadPoolExecutor",
        "asyncio",
        "ophyd-dispatcher",
        "AnyIO",
        "monitor",
        "util",
    )
    name = thread.name.replace("_watch_request", "bluesky")  # its ear for Ctrl-C ends a moment after the plan
    return thread.is_alive() and not any(word in name for word in foreign) and not name.endswith("dispatcher")


def _sockets() -> dict[tuple[int, str], tuple[str, str] | None]:
    """Every socket of this process, by descriptor and what it is: its address and its peer's; None without one."""
    found = {}
    for fd in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{fd}")
        except OSError:  # the descriptor of the listing itself
            continue
        key = int(fd), target
        if target.startswith("socket:") and key not in _local:
            found[key] = _addresses(int(fd))
            if found[key] is None and _is_local(int(fd)):
                _local.add(key)
    return found


_local: set[tuple[int, str]] = set()
"""Sockets of the machine itself, which engines leave by the hundred: looked at once each."""


def _is_local(fd: int) -> bool:
    try:
        with socket.socket(fileno=os.dup(fd)) as seen:
            return seen.family == socket.AF_UNIX
    except OSError:  # closed meanwhile
        return False


def _addresses(fd: int) -> tuple[str, str] | None:
    try:
        with socket.socket(fileno=os.dup(fd)) as seen:
            if seen.family not in (socket.AF_INET, socket.AF_INET6) or not seen.getsockname()[1]:
                return None
            try:
                return str(seen.getsockname()), str(seen.getpeername())
            except OSError:  # it has no peer
                return str(seen.getsockname()), ""
    except OSError:  # closed meanwhile
        return None


def _left_behind(
    before: dict[tuple[int, str], tuple[str, str] | None], after: dict[tuple[int, str], tuple[str, str] | None]
) -> list[str]:
    """Addresses of those that are new, but for a line to where one of a wider fixture went that is gone: a server
    hangs up when nothing was asked for some seconds, and the fixture's client calls it again.
    """
    gone = [addresses[1] for key, addresses in before.items() if addresses and addresses[1] and key not in after]
    left = []
    for key, addresses in after.items():
        if addresses is None or key in before:
            continue
        if addresses[1] in gone:
            gone.remove(addresses[1])
        else:
            left.append(addresses[0])
    return left


def _not_in_use_elsewhere(blocks: set[str]) -> set[str]:
    """Blocks that no process has mapped but we and our children: other programs have blocks, too."""
    if not blocks:
        return blocks
    me = psutil.Process()
    family = {me.pid, *(child.pid for child in me.children(recursive=True))}
    elsewhere: set[str] = set()
    for maps in Path("/proc").glob("[0-9]*/maps"):
        if int(maps.parent.name) not in family:
            elsewhere |= {line.split()[4] for line in _text(maps).splitlines() if " /dev/shm/" in line}
    # by inode: a semaphore is mapped under the name that it had at first
    return {file.name for file in os.scandir("/dev/shm") if file.name in blocks and str(file.inode()) not in elsewhere}


@pytest.fixture(scope="session", autouse=True)
def descriptors_are_validated_once_each() -> Iterator[None]:
    """Of hundreds of runs with the same keys; it is most of what their plans would compute."""
    with descriptors_validated_once():
        yield


@pytest.fixture(scope="session", autouse=True)
def empty_catalog(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmptyCatalog]:
    """Catalogs of this process begin as copies of one."""
    base = tmp_path_factory.getbasetemp()
    empty = EmptyCatalog(base.parent if "PYTEST_XDIST_WORKER" in os.environ else base)
    with pytest.MonkeyPatch.context() as patch:
        empty.replace_tiled(patch)
        yield empty


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder with real recordings, where it is there."""
    if not REAL_DATA.is_dir():
        pytest.skip(f"no real recordings in {REAL_DATA} (set TIMEPIX_REAL_DATA)")
    return REAL_DATA
