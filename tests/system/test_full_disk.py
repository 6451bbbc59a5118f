"""A disk that is full, or a ring that is full where nothing else keeps the words, in a RunEngine: the exposure ends
with an error that says what to do, the run closes with all that was acquired, and the next one works.
"""

import os
import signal
from pathlib import Path

import bluesky.plan_stubs as bps
import bluesky.plans as bp
import h5py
import pytest
from bluesky.utils import FailedStatus

from ophyd_timepix.config import Processing
from ophyd_timepix.devices import AcquisitionError, SpidrBoard, TimepixDetector
from ophyd_timepix.pipeline.client import Pipeline
from ophyd_timepix.wiring import install
from tests.bluesky_fixtures import RE, checker
from tests.sim_process import running_sim
from tests.small_disk import small_disk

__all__ = ["RE", "checker"]

DISK_BYTES = 48_000_000
FILLER_BYTES = 28_000_000
"""A recording ends 6 MB before the disk is full: rows of what is under way go there."""


@pytest.fixture
def disk(tmp_path):
    with small_disk(tmp_path / "small", DISK_BYTES) as place:
        yield place


@pytest.fixture(scope="module")
def camera():
    with running_sim(scene="vmi", rate=400_000, shot_rate=1000, seed=5) as sim:
        yield sim


@pytest.fixture
def make(camera, RE):
    made: list[TimepixDetector] = []

    def make(data_dir: Path, **kwargs) -> TimepixDetector:
        board = SpidrBoard(camera.address, name="spidr")
        tpx = TimepixDetector(
            board,
            name="tpx",
            data_dir=data_dir,
            processing=Processing(tof_max_ns=50_000.0),
            pipeline=lambda: Pipeline(ring_bytes=1 << 22),
            **kwargs,
        )
        made.append(tpx)
        install(RE, [tpx], min_free_bytes=0)
        return tpx

    yield make
    for tpx in made:
        tpx.close()
        tpx.board.disconnect()


def assert_kept(run, why: str) -> None:
    """The run of the failed point has its rows and its ledger, and they agree."""
    assert run.stop["exit_status"] == "fail"
    (row,) = run.stream("tpx_ledger")
    ledger = {key.removeprefix("tpx_ledger_"): value for key, value in row.items()}
    assert (ledger["unaccounted"], ledger["acquisitions"], ledger["cancelled_acquisitions"]) == (0, 2, 1)
    assert ledger["rows"] > ledger["cancelled_rows"] > 0
    with h5py.File(ledger["file"], "r") as file:
        assert file["entry/centroids/x"].shape[0] == ledger["rows"]
    if ledger["error"]:  # the last bytes of the disk were not enough for all files
        assert "is complete, the master" in ledger["error"]
        assert "ophyd-timepix recover" in ledger["error"]
    else:
        assert Path(ledger["master"]).exists()
    assert why in str(run.stop["reason"])


def scan_until_it_fails(RE, tpx) -> str:
    """A short point, and one that is too long; what the plan raised."""
    tpx.exposure.put(0.1)

    def plan():
        yield from bps.open_run()
        yield from bps.trigger_and_read([tpx])
        yield from bps.mv(tpx.exposure, 60.0)
        yield from bps.trigger_and_read([tpx])
        yield from bps.close_run()

    with pytest.raises(FailedStatus) as failure:
        RE(plan())
    assert isinstance(failure.value.__cause__, AcquisitionError)
    return str(failure.value.__cause__)


def assert_works_again(RE, checker, tpx) -> None:
    tpx.exposure.put(0.1)
    RE(bp.count([tpx], num=2))
    run = checker.runs[-1]
    assert run.stop["exit_status"] == "success"
    (row,) = run.stream("tpx_ledger")
    assert row["tpx_ledger_verdict"].startswith("complete")
    assert tpx.ledger_now.stopped_by.get() == ""


def test_a_full_disk(RE, checker, make, disk):
    filler = disk / "filler"
    filler.write_bytes(bytes(FILLER_BYTES))
    tpx = make(disk / "data")
    said = scan_until_it_fails(RE, tpx)
    assert str(disk) in said
    assert "free space on that file system or choose another data directory" in said
    assert "the disk is nearly full" in tpx.ledger_now.stopped_by.get()
    assert_kept(checker.runs[-1], "the disk is nearly full")
    assert tpx.ledger_now.run_verdict.get() == checker.runs[-1].stream("tpx_ledger")[0]["tpx_ledger_verdict"]
    with pytest.raises(FailedStatus, match="MB are free"):
        RE(bp.count([tpx]))
    filler.unlink()
    assert_works_again(RE, checker, tpx)


def test_a_full_ring_without_a_file(RE, checker, make, tmp_path):
    """Decoding is held until nothing more can be recorded."""
    tpx = make(tmp_path / "data", keep_raw=False)
    tpx.connect()
    decode = tpx._recording.connect().pids["decode"]
    stopped = []

    def hold(value: float, **_: object) -> None:
        if value > 0.3 and not stopped:
            stopped.append(value)
            os.kill(decode, signal.SIGSTOP)

    def let_go(value: str, **_: object) -> None:
        if value:
            os.kill(decode, signal.SIGCONT)

    tpx.open_time.subscribe(hold, run=False)
    tpx.ledger_now.stopped_by.subscribe(let_go, run=False)
    said = scan_until_it_fails(RE, tpx)
    assert stopped
    assert "keep the raw data, use more workers, write no hits, or lower the rate" in said
    assert_kept(checker.runs[-1], "processing was behind by the whole ring")
    tpx.open_time.unsubscribe_all()
    assert_works_again(RE, checker, tpx)
