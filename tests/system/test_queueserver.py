"""The profile as a start-up directory of bluesky-queueserver: a queue of four plans, one after the other, over 0MQ."""

import contextlib
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import psutil
import pytest
import zarr

from ophyd_timepix.catalog import centroids, open_catalog
from tests.catalog.conftest import profiles_in
from tests.empty_catalog import EmptyCatalog
from tests.user_process import UserWorld

bluesky_queueserver = pytest.importorskip("bluesky_queueserver", reason="bluesky-queueserver is not installed")
REDIS = shutil.which("redis-server")
pytestmark = pytest.mark.skipif(REDIS is None, reason="redis-server is not installed")

PROFILE = Path(__file__).parents[2] / "profiles" / "timepix"
TIMEOUT_S: Final = 120.0
USER: Final = {"user": "somebody", "user_group": "primary"}
POINT = {"detectors": ["tpx"]}
DAC = "spidr.chip0.dacs.vthreshold_fine"
SHORT_POINTS: Final = {"name": "mv", "args": ["tpx.shots", 100]}
QUEUE: Final = [
    {"name": "count", "kwargs": {**POINT, "num": 2}},
    {"name": "scan", "args": [["tpx"], DAC, 410, 430, 3]},
    {"name": "scan", "args": [["tpx"], "delay", -0.2, 1.8, 3]},
    {"name": "tpx_fly", "kwargs": {"tpx": "tpx", "shots": 300}},
]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def redis(world: UserWorld) -> Iterator[str]:
    """A redis of our own, in memory; its address. It knows no port 0: one that another took meanwhile is given up."""
    for _ in range(5):
        port = free_port()
        options = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(world.home)]
        server = subprocess.Popen(
            [str(REDIS), *options], env=world.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        assert server.stdout is not None
        try:
            if any("Ready to accept connections" in line for line in server.stdout):
                yield f"127.0.0.1:{port}"
                return
        finally:
            server.terminate()
            server.wait(20)
            server.stdout.close()
    raise AssertionError("redis-server found no port")


class Manager:
    """start-re-manager on the profile, and a client."""

    def __init__(self, world: UserWorld, redis_address: str) -> None:
        self.log = world.home / "manager.log"
        address = f"tcp://127.0.0.1:{free_port()}"
        options = {
            "--startup-dir": PROFILE / "startup",
            "--existing-plans-devices": world.home / "existing_plans_and_devices.yaml",
            "--user-group-permissions": PROFILE / "startup" / "user_group_permissions.yaml",
            "--redis-addr": redis_address,
            "--zmq-control-addr": address,
            "--zmq-info-addr": f"tcp://127.0.0.1:{free_port()}",
        }
        program = "from bluesky_queueserver.manager.start_manager import start_manager as start; start()"
        arguments = [str(part) for option in options.items() for part in option]
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", program, *arguments], env=world.environment, cwd=world.home,
                stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
            )  # fmt: skip
        self._client = bluesky_queueserver.ZMQCommSendThreads(zmq_server_address=address, timeout_recv=1000)

    def ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Its answer, which must be that it did what was asked."""
        answer: dict[str, Any] = self._client.send_message(method=method, params=parameters, timeout=20_000)
        assert answer.get("success", True), f"{method}: {answer.get('msg')}"
        return answer

    def wait_until(self, what: str, **wanted: Any) -> None:
        """Return when its status says so."""
        deadline, pause = time.monotonic() + TIMEOUT_S, threading.Event()
        status: dict[str, Any] = {}
        while not (wanted.items() <= status.items()):
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, f"{what}: {status}\n{self.log.read_text()[-3000:]}"
            with contextlib.suppress(bluesky_queueserver.CommTimeoutError):
                status = self._client.send_message(method="status", timeout=1000)
            pause.wait(0.1)

    def close(self) -> None:
        """End it, and its children if it does not end them."""
        self._client.close()
        family = [self.process, *psutil.Process(self.process.pid).children(recursive=True)]
        for process in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.terminate()
        self.process.wait(30)


@pytest.fixture(scope="module", autouse=True)
def reading() -> None:
    """Reading a catalog keeps a thread for as long as the interpreter lives."""
    zarr.zeros(1)


@pytest.fixture
def world(tmp_path: Path, empty_catalog: EmptyCatalog) -> Iterator[UserWorld]:
    world = UserWorld(tmp_path, TIMEPIX_ADDRESS="sim", TIMEPIX_DATA=str(tmp_path / "data"), TIMEPIX_PROPOSAL="gup-7")
    empty_catalog.copy_to(world.catalog("timepix"))
    yield world
    for process in world.processes().values():
        process.kill()
    world.wait_until_gone()


@pytest.fixture
def manager(world: UserWorld) -> Iterator[Manager]:
    with redis(world) as address:
        manager = Manager(world, address)
        try:
            manager.wait_until("it starts", manager_state="idle")
            yield manager
        finally:
            manager.close()


def written(db: Any, n: int) -> list[Any]:
    """The last runs, when they are all in the catalog: its writer goes on for a while when the session has ended."""
    deadline, pause = time.monotonic() + TIMEOUT_S, threading.Event()
    while True:
        with contextlib.suppress(IndexError):
            runs = [db[k - n] for k in range(n)]
            if all(run.stop for run in runs):
                return runs
        assert time.monotonic() < deadline, f"not all of {n} runs are in the catalog"
        pause.wait(0.2)


def test_a_queue_of_four_plans_completes(manager: Manager, world: UserWorld) -> None:
    manager.ask("environment_open")
    manager.wait_until("the profile is read", manager_state="idle", worker_environment_exists=True)
    allowed = set(manager.ask("plans_allowed", user_group="primary")["plans_allowed"])
    assert {"count", "scan", "tpx_fly", "calibrate_mass", "count_until"} <= allowed
    queue = [SHORT_POINTS, *QUEUE]
    manager.ask("queue_item_add_batch", items=[{"item_type": "plan", **plan} for plan in queue], **USER)
    manager.ask("queue_start")
    manager.wait_until("the queue is done", manager_state="idle", items_in_queue=0, items_in_history=len(queue))
    results = [(item["name"], item["result"]["exit_status"]) for item in manager.ask("history_get")["items"]]
    assert results == [(plan["name"], "completed") for plan in queue], manager.log.read_text()[-3000:]
    manager.ask("environment_close")
    manager.wait_until("the session ends", manager_state="idle", worker_environment_exists=False)
    with profiles_in(world.home / "tiled"):
        db = open_catalog("timepix")
        runs = written(db, len(QUEUE))
        ended = [(run.start["plan_name"], run.stop["exit_status"]) for run in runs]
        assert ended == [(plan["name"], "success") for plan in QUEUE]
        assert all(len(centroids(run, ["x"])) > 0 for run in runs)
    assert len(list((world.data / "gup-7").glob("*/tpx_*.h5"))) == len(QUEUE)
