"""`spidr-sim` from outside: one line when ready, a clean stop, one clear line when it cannot run."""

import signal
import socket
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from ophyd_timepix.control import Board, SpidrClient
from ophyd_timepix.protocol import column_phase
from spidr_sim.cli import main
from spidr_sim.recording import read_recording
from tests.sim import slow_decoder as slow
from tests.sim.raw_wire import Wire
from tests.sim_process import running_sim


@pytest.mark.parametrize("with_signal", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_it_cleanly(with_signal: signal.Signals) -> None:
    with running_sim(scene="dark") as sim, socket.create_connection((sim.host, sim.port)):
        assert sim.stop(with_signal) == 0
        assert sim.process.stdout is not None
        assert sim.process.stdout.read() == ""


def test_the_end_of_its_input_stops_it_when_asked_to() -> None:
    with running_sim(scene="dark") as sim:
        assert sim.process.stdin is not None
        sim.process.stdin.close()
        assert sim.process.wait(20) == 0


def test_a_client_gets_the_words_that_the_truth_tells_of(tmp_path: Path) -> None:
    """The control client starts it, a plain socket receives; the first acquisition of a run, as an operator does it."""
    path = tmp_path / "truth.h5"
    with (
        running_sim(scene="vmi", rate=200_000, chips=1, seed=3, truth=path) as sim,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as listener,
    ):
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        listener.bind(("127.0.0.1", 0))
        listener.settimeout(20)
        client = SpidrClient(sim.host, sim.port)
        board = Board(client)
        board.chip(0).set_destination(None, listener.getsockname()[1])
        board.prepare_readout()
        board.reset_timers()
        board.open_shutter()
        datagrams = [listener.recv(65_536) for _ in range(100)]
        board.close_shutter()
        while int.from_bytes(datagrams[-1][-8:], "little") >> 48 != 0x71B0:
            datagrams.append(listener.recv(65_536))
        sent = board.sent_counters()
        client.close()
        words = np.frombuffer(b"".join(datagrams), dtype="<u8").astype(np.uint64)
        with h5py.File(path, "r", libver="latest", swmr=True) as truth:
            ticks = np.sort(truth["hits/tick"][:])
            assert truth.attrs["scene"] == "vmi"
        assert sim.stop() == 0
    assert sent.datagrams == len(datagrams)
    assert sent.pixel_words[0] == np.count_nonzero(slow.is_pixel(words)) == ticks.size
    np.testing.assert_array_equal(np.sort(slow.hits(words, column_phase(0x11E))[:, 3]), ticks)


def test_a_recording_is_written_without_a_board(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, truth = tmp_path / "made.tpx3", tmp_path / "truth.h5"
    arguments = ["--scene", "uniform", "--rate", "100000", "--chips", "2", "--write", str(path), "--truth", str(truth)]
    assert main([*arguments, "--seconds", "0.1"]) == 0
    assert capsys.readouterr().out.startswith("spidr-sim wrote 1")
    chips = read_recording(path).chips
    with h5py.File(truth, "r", libver="latest", swmr=True) as file:
        assert [chip.hits.row.size for chip in chips] == file["summary/pixel_words"][:].tolist()
        assert file["hits/x"].size == sum(chip.hits.row.size for chip in chips) == pytest.approx(10_000, rel=0.1)
    assert main([*arguments[:-3], str(path), "--seconds", "0.1", "--chips", "9"]) == 2


def test_faults_and_signals_are_said_on_the_command_line_and_on_standard_input() -> None:
    with running_sim(scene="dark", extra=["--blank", "--fault", "error-reply=0x0506:GET_BOARDID"]) as sim:
        wire = Wire((sim.host, sim.port))
        assert wire.get(0x11A, 0, 6) == (6 << 16 | 256,)  # a blank board has the chip's reset values
        wire.send(0x90E)
        assert wire.reply()[2] == 0x0506
        sim.fault("link-unlocked=0")
        assert wire.get(0x783, 0, 0x300) == (0x300, 0x00FE_0000)
        sim.clear_faults()
        assert wire.get(0x783, 0, 0x300) == (0x300, 0x00FF_0000)
        wire.set(0x441, 0, 0, 0, 10, 1)
        wire.set(0x442, 0)
        sim.external_signal("pulse")
        assert wire.get(0x556, 0) == (1,)
        with pytest.raises(ValueError, match="there is no fault 'fire'"):
            sim.fault("fire")
        with pytest.raises(ValueError, match="is no order"):
            sim.external_signal("twice a day")
        wire.close()
        assert sim.stop() == 0


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--replay", "gone.tpx3"], 2, "cannot read gone.tpx3: No such file or directory"),
        (["--replay", __file__], 2, "neither a .tpx3 file"),
        (["--chips", "5"], 2, "a board has 1 to 4 chips, not 5"),
        (["--chips", "0"], 2, "a board has 1 to 4 chips, not 0"),
        (["--rate", "-1"], 2, "the hit rate must be 0 to"),
        (["--scene", "vmi", "--shot-rate", "0"], 2, "the vmi scene needs a shot rate"),
        (["--fault", "fire"], 2, "there is no fault 'fire'; there are: error-reply"),
        (["--speed", "0"], 2, "speed must be above 0"),
        (["--speed", "inf"], 2, "speed must be above 0 and finite"),
        (["--write", "/dev/null", "--seconds", "nan"], 2, "the length of a recording must be above 0 s"),
        (["--write", "/dev/null", "--seconds", "-1"], 2, "the length of a recording must be above 0 s"),
        (["--datagram-bytes", "100"], 2, "a datagram carries 1400 to 65504 bytes, not 100"),
        (["--truth", "/nowhere/truth.h5"], 1, "cannot write the truth file /nowhere/truth.h5"),
        (["--host", "192.0.2.1"], 1, "192.0.2.1"),
        (["--write", "/nowhere/x.tpx3"], 1, "/nowhere/x.tpx3"),
    ],
)
def test_what_cannot_work_is_said_in_one_line(
    arguments: list[str], code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with keeping_signals():
        assert main(["--scene", "dark", *arguments]) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert said in captured.err


def test_a_port_in_use_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, keeping_signals():
        port = taken.getsockname()[1]
        assert main(["--scene", "dark", "--port", str(port)]) == 1
    assert f"cannot listen on 127.0.0.1:{port}" in capsys.readouterr().err


def test_an_unknown_option_is_refused_before_anything_starts() -> None:
    finished = subprocess.run(
        [sys.executable, "-m", "spidr_sim", "--scene", "nebula"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert finished.returncode == 2
    assert "nebula" in finished.stderr


class keeping_signals:  # noqa: N801 - reads as a phrase
    """`main` takes over the signals of its process; give them back."""

    def __enter__(self) -> None:
        self._before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        self._interval = sys.getswitchinterval()

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        sys.setswitchinterval(self._interval)
