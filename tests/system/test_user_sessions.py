"""Wherever users keep their detector (an IPython profile, a script, a terminal): it works, and nothing stays behind.

The processes of a pipeline must neither run the user's code again nor hear the user's Ctrl-C, and must end with the
user's process, however that ends. Each test here is such a process, in directories of its own.
"""

import json
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import pexpect
import pytest

from ophyd_timepix.devices import SpidrBoard
from ophyd_timepix.files.reader import read_table
from tests.sim_process import SimProcess, running_sim
from tests.user_process import COMMAND_TIMEOUT_S, UserWorld

PROFILE = Path(__file__).parents[2] / "profiles" / "timepix"
PIPELINE = "ophyd_timepix.pipeline"
PROCESSES = 5  # supervisor, capture, decode, centroid0, write
ANSWER_TIMEOUT_S = 60.0


# --- a terminal with the profile --------------------------------------------------------------------------------------


class Terminal:
    """An IPython session in a pseudo-terminal of its own."""

    def __init__(self, world: UserWorld, profile: Path) -> None:
        self.world = world
        options = ["--simple-prompt", "--colors=NoColor", "--no-banner", "--no-confirm-exit"]
        self._child: pexpect.spawn[str] = pexpect.spawn(
            sys.executable,
            ["-m", "IPython", f"--profile-dir={profile}", *options],
            env=world.environment,
            cwd=str(world.home),
            encoding="utf-8",
            timeout=ANSWER_TIMEOUT_S,
            dimensions=(50, 2000),
        )
        self.wait_for_prompt(COMMAND_TIMEOUT_S)

    def wait_for_prompt(self, timeout_s: float = ANSWER_TIMEOUT_S) -> str:
        """What was said until the next prompt."""
        self._child.expect(r"In \[\d+\]: ", timeout=timeout_s)
        return str(self._child.before)

    def type(self, line: str) -> None:
        self._child.sendline(line)

    def do(self, line: str) -> str:
        self.type(line)
        return self.wait_for_prompt()

    def ask(self, expression: str) -> Any:
        """The value of an expression, through JSON. The echo of what is typed holds no '@@'."""
        self.type(f"import json; print('@' '@' + json.dumps({expression}))")
        found = self._child.expect([r"@@(.*?)\r?\n", r"In \[\d+\]: "])
        assert found == 0, f"{expression}: {self._child.before}"
        answer = json.loads(self._child.match.group(1))
        self.wait_for_prompt()
        return answer

    def ctrl_c(self, until: str) -> None:
        """Press Ctrl-C until this is said. bluesky counts a press only when 100 ms have passed since the one before."""
        said = pexpect.TIMEOUT
        while said is pexpect.TIMEOUT:
            self._child.sendintr()
            self._child.expect([until, pexpect.TIMEOUT], timeout=0.3)
            said = self._child.after

    def expect(self, text: str) -> None:
        self._child.expect(text)

    def leave(self) -> int:
        """`exit`; the exit code."""
        self.type("exit")
        self._child.expect(pexpect.EOF)
        self._child.close()
        return int(self._child.exitstatus)

    def kill(self) -> None:
        self._child.close(force=True)


@pytest.fixture(scope="module")
def terminal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Terminal]:
    """The project's profile with a simulated camera; one session for the tests that follow each other in it."""
    home = tmp_path_factory.mktemp("terminal")
    world = UserWorld(home, TIMEPIX_ADDRESS="sim", TIMEPIX_DATA=str(home / "data"))
    profile = home / "profile_timepix"
    shutil.copytree(PROFILE, profile)  # IPython writes its history into the directory
    session = Terminal(world, profile)
    session.do("docs = []; token = RE.subscribe(lambda name, doc: docs.append((name, doc)))")
    session.do("of = lambda name: [doc for n, doc in docs if n == name]")
    session.do("RE.msg_hook = lambda msg: msg.command == 'complete' and print('it ' + 'flies')")
    session.do("_ = tpx.exposure.set(0.3).wait(60); tpx.connect()")
    session.do("from ophyd_timepix.plans import fly as flight")
    yield session
    session.kill()
    world.wait_until_gone()


def last_run(terminal: Terminal) -> dict[str, Any]:
    """How the newest run ended, as its documents say."""
    ledger = "next(d['data'] for d in reversed(of('event')) if 'tpx_ledger_unaccounted' in d['data'])"
    return {
        "exit_status": terminal.ask("of('stop')[-1]['exit_status']"),
        "unaccounted": terminal.ask(f"{ledger}['tpx_ledger_unaccounted']"),
        "registered": terminal.ask("max(d['indices']['stop'] for d in of('stream_datum'))"),
        "rows": terminal.ask(f"{ledger}['tpx_ledger_rows']"),
        "cancelled": terminal.ask(f"{ledger}['tpx_ledger_cancelled_acquisitions']"),
    }


def test_the_profile_comes_up_and_counts(terminal: Terminal) -> None:
    said = terminal.do("RE(bp.count([tpx], 1))")
    assert "Traceback" not in said, said
    run = last_run(terminal)
    assert run["rows"] == run["registered"] > 0
    assert (run["exit_status"], run["unaccounted"]) == ("success", 0)
    assert len(terminal.world.processes(PIPELINE)) == PROCESSES
    assert terminal.ask("db[-1].start['uid'] == of('start')[-1]['uid']")


@pytest.mark.parametrize(("presses", "checkpoint_s"), [(1, 1.0), (2, 60.0)])
def test_ctrl_c_pauses_the_stages_live_on_and_resume_completes(
    terminal: Terminal, presses: int, checkpoint_s: float
) -> None:
    """One press pauses at the next checkpoint, which the flight has after 1 s and after 2.25 s; two pause at once."""
    before = terminal.world.processes(PIPELINE)
    terminal.do(f"docs.clear(); flight.FIRST_INTERVAL_S = {checkpoint_s}")
    terminal.type("RE(tpx_fly(tpx, seconds=2.6))")
    terminal.expect("it flies")
    terminal.ctrl_c(until="deferred pause")
    if presses == 2:
        terminal.ctrl_c(until="hard pause")
    terminal.wait_for_prompt()
    assert terminal.ask("RE.state") == "paused"
    assert set(terminal.world.processes(PIPELINE)) == set(before)
    said = terminal.do("RE.resume()")
    assert "Traceback" not in said, said
    run = last_run(terminal)
    assert (run["exit_status"], run["unaccounted"]) == ("success", 0)
    assert run["cancelled"] >= 1
    assert run["rows"] == run["registered"] > 0
    assert set(terminal.world.processes(PIPELINE)) == set(before)


def test_abort_after_ctrl_c_keeps_the_rows_and_the_stages(terminal: Terminal) -> None:
    before = terminal.world.processes(PIPELINE)
    terminal.do("docs.clear(); flight.FIRST_INTERVAL_S = 60.0")
    terminal.type("RE(tpx_fly(tpx, seconds=60))")
    terminal.expect("it flies")
    terminal.ctrl_c(until="deferred pause")
    terminal.ctrl_c(until="hard pause")
    terminal.wait_for_prompt()
    terminal.do("RE.abort()")
    run = last_run(terminal)
    assert (run["exit_status"], run["unaccounted"]) == ("abort", 0)
    assert run["rows"] == run["registered"]
    said = terminal.do("RE(bp.count([tpx], 1))")
    assert "Traceback" not in said, said
    assert set(terminal.world.processes(PIPELINE)) == set(before)


def test_leaving_the_session_leaves_nothing(terminal: Terminal) -> None:
    assert terminal.world.processes(PIPELINE)
    assert terminal.leave() == 0
    terminal.world.wait_until_gone()
    assert not list((terminal.world.home / "home").rglob("*")), "something was written into the user's home"


# --- start-up files and scripts ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sim() -> Iterator[SimProcess]:
    with running_sim(scene="vmi", rate=2e5, shot_rate=1000, seed=11) as process:
        yield process


@pytest.fixture
def world(tmp_path: Path) -> Iterator[UserWorld]:
    world = UserWorld(tmp_path)
    yield world
    for process in world.processes().values():
        process.kill()
    world.wait_until_gone()


def own_camera(sim: SimProcess, world: UserWorld) -> str:
    """What users write at the top of a file; `connect` starts the processes right there."""
    return textwrap.dedent(f"""
        import bluesky.plans as bp
        from bluesky import RunEngine
        from ophyd_timepix import SpidrBoard, TimepixDetector, install, tpx_fly

        RE = RunEngine({{}})
        spidr = SpidrBoard({sim.address!r}, name="spidr")
        tpx = TimepixDetector(spidr, name="tpx", data_dir={str(world.data)!r}, exposure=0.2)
        tpx.connect()
        install(RE, [tpx], min_free_bytes=0)
    """)


def event_files(world: UserWorld) -> list[Path]:
    return sorted(world.data.rglob("*.h5"))


def test_a_start_up_file_makes_a_detector(sim: SimProcess, world: UserWorld) -> None:
    startup = world.home / "profile_own" / "startup"
    startup.mkdir(parents=True)
    (startup / "00-camera.py").write_text(own_camera(sim, world))
    ended = world.run("-m", "IPython", f"--profile-dir={startup.parent}", "-c", "RE(bp.count([tpx])); print('counted')")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "counted" in ended.stdout
    world.wait_until_gone()
    assert [len(read_table(path, "centroids", ["x"])["x"]) > 0 for path in event_files(world)] == [True]


def test_an_unguarded_script_ends_by_itself_and_all_it_leaves_is_writable_for_its_group(
    sim: SimProcess, world: UserWorld
) -> None:
    """Whatever the umask."""
    script = world.home / "script.py"
    taking = "RE(bp.count([tpx], 2))\nprint('started once')\n"
    script.write_text(f"import os; os.umask(0o077)\n{own_camera(sim, world)}{taking}")
    ended = world.run(script)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.splitlines() == ["started once"]
    assert "Traceback" not in ended.stderr
    world.wait_until_gone()
    assert len(event_files(world)) == 1
    made = {path.suffix: path for path in world.data.rglob("*")}
    assert {".h5", ".nxs", ".tpx3", ".idx", ".npz"} <= set(made)
    for path in world.data.rglob("*"):
        wanted = 0o2070 if path.is_dir() else 0o060
        assert (path.stat().st_mode & wanted, path.stat().st_mode & 0o007) == (wanted, 0), path


def test_when_the_users_process_is_killed_all_ends_and_the_recording_is_readable(
    sim: SimProcess, world: UserWorld
) -> None:
    script = world.home / "script.py"
    script.write_text(own_camera(sim, world) + "RE(tpx_fly(tpx, seconds=600))\n")
    user = subprocess.Popen([sys.executable, script], env=world.environment, cwd=world.home, stdin=subprocess.DEVNULL)
    wait_until(lambda: has_recorded(world) or user.poll() is not None, COMMAND_TIMEOUT_S)
    assert user.poll() is None, "the script ended by itself"
    assert len(world.processes(PIPELINE)) == PROCESSES
    user.send_signal(signal.SIGKILL)
    user.wait()
    world.wait_until_gone(timeout_s=10)
    (recording,) = world.data.rglob("*.tpx3")
    (event_file,) = event_files(world)
    with h5py.File(event_file) as file:
        rows = file["entry/centroids/x"].shape[0]
    ended = world.run("-m", "ophyd_timepix.app.cli", "process", recording, "-o", world.home / "again.h5", "--json")
    assert ended.returncode == 0, ended.stderr
    again = json.loads(ended.stdout)
    assert again["centroids"] >= rows > 0
    assert again["ledger"]["unaccounted"] == 0
    board = SpidrBoard(sim.address, name="spidr")  # it still sends; the next run of anybody closes its shutter first
    board.connect()
    board.shutter.set("closed").wait(60)
    board.disconnect()


def has_recorded(world: UserWorld) -> bool:
    """A recording has grown, and rows of centroids with it."""
    return any(path.stat().st_size > 1 << 20 for path in world.data.rglob("*.tpx3"))


def wait_until(condition: Any, timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    pause = threading.Event()
    while not condition():
        assert time.monotonic() < deadline, "what the test waits for never came"
        pause.wait(0.02)
