"""Bad input: one clear error each time (what, where, what to do), a bad exit code, and the good part kept.

Files that are no recordings are in `test_process_command.py`; what spidr-sim refuses in `tests/sim/test_cli.py`.
"""

import re
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import bluesky.plans as bp
import numpy as np
import pytest
from bluesky import RunEngine
from bluesky.utils import FailedStatus

from ophyd_timepix.app import cli
from ophyd_timepix.app.recovery import State, find_runs
from ophyd_timepix.catalog import NotReadableError, init_catalog
from ophyd_timepix.config import Processing
from ophyd_timepix.control import ChipMissing, ConnectionLost, SpidrClient
from ophyd_timepix.devices import SpidrBoard, TimepixDetector
from ophyd_timepix.files.reader import read_table
from ophyd_timepix.pipeline.client import Pipeline
from ophyd_timepix.pipeline.messages import Receiver, RunRequest, Sent
from ophyd_timepix.plans import tpx_fly
from ophyd_timepix.protocol import Command
from ophyd_timepix.protocol import words as w
from ophyd_timepix.wiring import NotReady, install
from spidr_sim.board import Board as SimulatedBoard
from spidr_sim.tcp import TcpServer
from tests import garbage
from tests.doc_checker import DocChecker
from tests.sim.board_doubles import RecordingStreams, StandingClock
from tests.sim_process import SimProcess, running_sim
from tests.small_disk import small_disk
from tests.user_process import UserWorld

HOST = "127.0.0.1"


@contextmanager
def silent_host() -> Iterator[str]:
    """Accepts connections, reads, and never says a word."""
    with socket.create_server((HOST, 0)) as listener:
        yield f"{HOST}:{listener.getsockname()[1]}"


@contextmanager
def refusing_host() -> Iterator[str]:
    """A port that is taken, so that nobody else listens there, and does not listen."""
    with socket.socket() as taken:
        taken.bind((HOST, 0))
        yield f"{HOST}:{taken.getsockname()[1]}"


@contextmanager
def board_without_chips() -> Iterator[str]:
    """A board whose chip has no power, so that its links are not locked."""
    with TcpServer(SimulatedBoard(1, RecordingStreams(), StandingClock())) as server:
        address = f"{server.address[0]}:{server.address[1]}"
        with SpidrClient.at(address) as client:
            client.request(Command.TPX_POWER_ENA, ints=(0,))
        yield address


@contextmanager
def no_such_host() -> Iterator[str]:
    yield "no-such-camera.invalid:50000"


ADDRESSES: dict[str, tuple[Callable[[], Iterator[str]], str, str]] = {
    "unknown": (no_such_host, r"no-such-camera\.invalid:50000: no such host", "check the address"),
    "refused": (refusing_host, r"connection refused", "check the port"),
    "silent": (silent_host, r"no reply to GET_\w+ within", "close the other client"),
    "chipless": (board_without_chips, r"no chip with locked links", "check the chips' power and cables"),
}


def call(*words: object) -> int:
    """The command line, in this process: it starts none for what it refuses."""
    return cli.main([str(word) for word in words])


def assert_one_clear_error(said: str, *parts: str) -> None:
    assert said.startswith("ophyd-timepix: ")
    assert said.count("\n") == 1
    assert "Traceback" not in said
    for part in parts:
        assert part in said


@pytest.mark.parametrize("case", ADDRESSES)
def test_record_says_what_is_wrong_with_a_board(case, tmp_path, capsys):
    host, complaint, remedy = ADDRESSES[case]
    begin = time.monotonic()
    with host() as address:
        assert call("record", address, "--seconds", 1, "-o", tmp_path / "data") == 1
    assert time.monotonic() - begin < 10
    said = capsys.readouterr().err
    assert_one_clear_error(said, remedy)
    assert re.search(complaint, said)
    assert not (tmp_path / "data").exists(), "files of a run that never was"


def test_record_keeps_what_came_until_a_chip_fell_silent(sim, tmp_path, capsys):
    """The run is finished: nothing is left to recover, and its only acquisition belongs to no point."""
    sim.fault("chip-gone=0:AUTOTRIG_START")
    try:
        assert call("record", sim.address, "--seconds", 0.2, "-o", tmp_path, "--name", "run") == 1
    finally:
        sim.clear_faults()
    kept, why = capsys.readouterr().err.splitlines()
    assert "what came until the board failed is kept" in kept
    assert "the chip is missing or its links are not locked" in why
    (found,) = find_runs([tmp_path])
    assert found.state is State.COMPLETE
    assert read_table(found.event_file, "acquisitions", ["cancelled"])["cancelled"].tolist() == [1]


def test_a_second_client_is_told_who_may_hold_the_board(sim, tmp_path, capsys):
    with SpidrClient.at(sim.address) as other:
        other.request(Command.GET_SOFTWVERSION)
        assert call("record", sim.address, "--seconds", 1, "-o", tmp_path) == 1
    assert_one_clear_error(capsys.readouterr().err, sim.address, "another client holds it", "close the other")


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("--seconds", 0), "--seconds is a positive number of seconds, not 0.0"),
        (("--seconds", 1, "--radius-px", -1), "radius_px"),
    ],
)
def test_record_refuses_nonsense(sim, tmp_path, capsys, words, complaint):
    assert call("record", sim.address, "-o", tmp_path / "data", *words) == 1
    assert_one_clear_error(capsys.readouterr().err, complaint)
    assert not (tmp_path / "data").exists()


def test_record_refuses_a_directory_that_it_cannot_write(sim, tmp_path, capsys):
    """Below a file: root can write everywhere else."""
    (tmp_path / "file").write_text("precious")
    assert call("record", sim.address, "--seconds", 1, "-o", tmp_path / "file" / "data") == 1
    assert_one_clear_error(capsys.readouterr().err, str(tmp_path / "file" / "data"), "choose another with -o")
    assert (tmp_path / "file").read_text() == "precious"


def test_the_catalog_refuses_a_directory_that_it_cannot_make(tmp_path):
    world = UserWorld(tmp_path)
    (tmp_path / "file").write_text("")
    ended = world.run("-m", "ophyd_timepix.app.cli", "catalog", "init", "--directory", tmp_path / "file" / "catalog")
    assert ended.returncode == 1
    assert_one_clear_error(ended.stderr, str(tmp_path / "file" / "catalog"), "choose another")


# --- devices and install ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sim() -> Iterator[SimProcess]:
    with running_sim(scene="vmi", rate=5e5, shot_rate=1000, seed=5) as process:
        yield process


@pytest.fixture
def spidr(sim: SimProcess) -> Iterator[SpidrBoard]:
    board = SpidrBoard(sim.address, name="spidr")
    yield board
    board.disconnect()


@pytest.fixture
def RE() -> RunEngine:
    return RunEngine({})


def test_a_plan_with_a_silent_board_fails_within_its_timeout_and_starts_nothing(RE, tmp_path):
    with silent_host() as address:
        board = SpidrBoard(address, name="spidr", timeout_s=0.3)
        detector = TimepixDetector(board, name="tpx", data_dir=tmp_path)
        install(RE, [detector], min_free_bytes=0)
        begin = time.monotonic()
        with pytest.raises(ConnectionLost, match=f"{address}: no reply to .* within 0.3 s"):
            RE(bp.count([detector]))
        assert time.monotonic() - begin < 5
        assert RE.state == "idle"
        board.disconnect()
    assert list(tmp_path.iterdir()) == []


def test_a_chip_that_is_missing_is_named_before_a_run_begins(RE, sim, tmp_path):
    board = SpidrBoard(sim.address, name="spidr", chips=2)
    detector = TimepixDetector(board, name="tpx", data_dir=tmp_path)
    checker = DocChecker()
    RE.subscribe(checker)
    with pytest.raises(ChipMissing, match=r"chip 1 is declared \(chips=2\) and not there.*Check its power"):
        RE(bp.count([detector]))
    assert checker.runs == []
    board.disconnect()


def test_a_chip_that_lost_its_lock_is_named_before_a_run_begins(RE, spidr, tmp_path):
    detector = TimepixDetector(spidr, name="tpx", data_dir=tmp_path)
    spidr.control.client.request(Command.TPX_POWER_ENA, ints=(0,))
    try:
        with pytest.raises(ChipMissing, match=r"chip 0 is declared .* or its links are not locked"):
            RE(bp.count([detector]))
    finally:
        spidr.control.client.request(Command.TPX_POWER_ENA, ints=(1,))
    spidr.connect()


def test_a_directory_that_the_catalog_may_not_serve_is_refused_before_a_run(RE, spidr, tmp_path, monkeypatch):
    profiles = pytest.importorskip("tiled.profiles")
    (tmp_path / "tiled").mkdir()
    monkeypatch.setenv("TILED_PROFILES", str(tmp_path / "tiled"))
    monkeypatch.setattr(profiles, "paths", [tmp_path / "tiled"])
    profiles.load_profiles.cache_clear()
    init_catalog("narrow", tmp_path / "catalog", readable=[tmp_path / "here"])
    detector = TimepixDetector(spidr, name="tpx", data_dir=tmp_path / "elsewhere")
    with pytest.raises(NotReadableError, match=r"may not serve files from .*elsewhere.*catalog init --name narrow"):
        install(RE, [detector], catalog="narrow", min_free_bytes=0)
    assert RE.preprocessors == []
    profiles.load_profiles.cache_clear()


def test_a_directory_that_cannot_be_written_is_refused_before_a_run(RE, spidr, tmp_path):
    (tmp_path / "file").write_text("")
    detector = TimepixDetector(spidr, name="tpx", data_dir=tmp_path / "file" / "data")
    with pytest.raises(NotReady, match=r"file/data cannot be written .*give the detector another data_dir"):
        install(RE, [detector])


# --- a disk that fills up ---------------------------------------------------------------------------------------------


def test_a_full_disk_fails_the_run_and_keeps_what_was_written(RE, spidr, tmp_path):
    """Whichever of the two files finds the disk full first."""
    detector = TimepixDetector(spidr, name="tpx", data_dir=tmp_path, exposure=0.2)
    checker = DocChecker()
    RE.subscribe(checker)
    installation = install(RE, [detector], min_free_bytes=0)
    with small_disk(tmp_path / "small", 8 << 20) as disk:
        detector.paths = lambda name, uid: disk / "full.h5"
        with pytest.raises(
            FailedStatus, match=r"cannot write the (recording|event file)|disk is nearly full"
        ) as failure:
            RE(tpx_fly(detector, seconds=60))
        for part in ("free space on that file system", str(disk)):
            assert part in str(failure.value)
        assert checker.run.stop["exit_status"] == "fail"
        assert_rows_are_good(disk / "full.h5", at_least=checker.run.rows)
        assert call("process", disk / "full.tpx3", "-o", tmp_path / "again.h5") in (0, 1)  # 1: cut off within a word
        assert_rows_are_good(tmp_path / "again.h5", at_least=1000)
        detector.paths = lambda name, uid: tmp_path / "next.h5"
        RE(bp.count([detector]))
        assert checker.runs[1].stop["exit_status"] == "success"
        assert checker.runs[1].rows > 0
        detector.close()
    installation.uninstall()


FILL = """
import sys
from pathlib import Path
import numpy as np
from ophyd_timepix.files.event_file import EventFile, tof_edges
file = EventFile(Path(sys.argv[1]), image_shape=(256, 256), tof_edges_ns=tof_edges((0, 1e5), 100), attributes={})
while True:
    file.append("shots", {"time": np.arange(10_000.0), "valid": np.ones(10_000, np.uint8)})
    file.flush()
"""


def test_an_event_file_on_a_full_disk_says_where_and_why(tmp_path):
    """In a process of its own: HDF5 does not let go of a file that it cannot write."""
    with small_disk(tmp_path / "small", 2 << 20) as disk:
        ended = subprocess.run([sys.executable, "-c", FILL, disk / "full.h5"], capture_output=True, text=True)
        assert re.search(r"OSError: .*cannot write the event file .*No space left .*choose another", ended.stderr)
        assert str(disk / "full.h5") in ended.stderr
        times = read_table(disk / "full.h5", "shots")["time"]
        assert np.array_equal(times, np.resize(np.arange(10_000.0), len(times)))
        assert len(times) >= 10_000


def assert_rows_are_good(event_file: Path, at_least: int) -> None:
    """Rows that were written, not room for rows that never came."""
    rows = read_table(event_file, "centroids", ["x", "toa", "tot"])
    assert len(rows["toa"]) >= at_least
    assert np.all(rows["tot"] > 0)
    assert np.all(np.diff(rows["toa"]) > -1e6)


# --- random bytes as words --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pipeline() -> Iterator[Pipeline]:
    with Pipeline(ring_bytes=1 << 24) as made:
        yield made


def test_random_bytes_on_the_wire_do_not_harm_the_hits_around_them(pipeline, tmp_path):
    counts = 1000 + 400 * np.arange(2000, dtype=np.uint64)
    hits = np.uint64(w.HEADER.put(w.PIXEL_DATA_DRIVEN) | w.DCOL.put(5) | w.TOT.put(30))
    good = hits | (counts & np.uint64(0x3FFF)) << np.uint64(w.TOA.shift) | counts >> np.uint64(14)
    noise = np.random.default_rng(1).integers(0, 2**64, 500, dtype=np.uint64)
    datagrams = [good[:1000].tobytes(), noise.tobytes(), b"no words", b"cut off", good[1000:].tobytes()]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        (port,) = pipeline.bind([Receiver(chip=0, host=HOST)])
        pipeline.open_run(RunRequest(event_file=tmp_path / "run.h5", processing=Processing(hits=True)))
        pipeline.begin(1)
        for datagram in datagrams:
            sender.sendto(datagram, (HOST, port))
        pipeline.end(Sent(datagrams=len(datagrams)))
        ledger = pipeline.close_run().ledger
    assert ledger["unaccounted"] == 0
    assert ledger["malformed_datagrams"] == 1
    rows = read_table(tmp_path / "run.h5", "hits", ["x", "tot", "toa"])
    own = (rows["x"] == 10) & (rows["tot"] == 30)
    assert np.isin(counts[:1000] * 25.0, rows["toa"][own]).all()
    # Noise may look like the chip's timer and put later hits into another turn of their 30-bit clock, nothing else.
    turns = np.rint(rows["toa"][own] / 25.0).astype(np.int64) % (1 << 30)
    assert np.isin(counts, turns).all()


LENGTHS = (0, 1, 7, 8, 9, 1400, 1403, 8192, 9000, 65_504, 65_507)
PIXELS = (w.PIXEL_SEQUENTIAL, w.PIXEL_DATA_DRIVEN)
TIMERS = (w.TIMER_LOW_BYTE, w.TIMER_HIGH_BYTE)


def test_datagrams_of_any_length_and_words_of_any_kind_are_counted_under_their_own_names(pipeline, tmp_path):
    rng = np.random.default_rng(3)
    random = [rng.bytes(n) for n in LENGTHS] + [rng.bytes(int(n)) for n in rng.integers(0, 3000, 40)]
    known = [garbage.headers(rng, 500, 0).tobytes() for _ in range(40)]
    datagrams = [*random, *known, known[0]]
    whole = [d for d in datagrams if d and len(d) % 8 == 0]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        (port,) = pipeline.bind([Receiver(chip=0, host=HOST)])
        pipeline.open_run(RunRequest(event_file=tmp_path / "run.h5", processing=Processing(hits=True)))
        pipeline.begin(1)
        for k, datagram in enumerate(datagrams, 1):
            sender.sendto(datagram, (HOST, port))
            while pipeline.progress().arrived_datagrams < k:
                pass
        pipeline.end(Sent(datagrams=len(datagrams)))
        ledger = pipeline.close_run().ledger
    words = np.frombuffer(b"".join(whole), "<u8")
    top = (words >> np.uint64(w.TOP_BYTE.shift)).astype(int)
    stamps = words[np.isin(top, list(w.TdcByte))] >> np.uint64(w.TDC_STAMP.shift) & np.uint64(w.TDC_STAMP.mask)
    low_bits = words[np.isin(top, list(w.TdcByte))] & np.uint64(w.TDC_ZERO.mask)
    is_known = np.isin(top >> 4, PIXELS) | np.isin(top, [*w.TdcByte, *TIMERS, *w.CONTROL_BYTES])
    unknown = Counter(f"0x{byte:02X}" for byte in top[~is_known])
    assert ledger["unaccounted"] == ledger["lost_on_the_way"] == 0
    assert ledger["malformed_datagrams"] == len(datagrams) - len(whole)
    assert ledger["decoded_words"] == ledger["received_words"] == words.size
    assert ledger["pixel_words"] == np.isin(top >> 4, PIXELS).sum()
    assert ledger["tdc_words"] == stamps.size
    assert ledger["rejected_edges"] == ((stamps < 1) | (stamps > w.TDC_STAMPS) | (low_bits != 0)).sum() > 0
    assert ledger["timer_words"] == np.isin(top, TIMERS).sum() > 0
    assert ledger["control_words"] == np.isin(top, w.CONTROL_BYTES).sum() > 0
    assert ledger["unknown_headers"] == unknown
    assert ledger["unknown_words"] == unknown.total() > 0
    assert ledger["verdict"].split(":")[0] != "complete"
