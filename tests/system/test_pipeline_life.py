"""The processes of a pipeline: they live across runs, die together, and leave nothing."""

import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from ophyd_timepix.config import Geometry, Processing
from ophyd_timepix.files.reader import read_table
from ophyd_timepix.pipeline.client import Pipeline
from ophyd_timepix.pipeline.errors import PipelineError, StageDied
from ophyd_timepix.pipeline.messages import Receiver, RecordedFile, RunRequest, Sent
from ophyd_timepix.protocol import words as w
from ophyd_timepix.spool.sources import open_recording

HOST = "127.0.0.1"
RING = 1 << 24


def hit_words(n: int, first_counts: int) -> np.ndarray:
    """n lone hits, 10 µs apart."""
    counts = first_counts + 400 * np.arange(n, dtype=np.uint64)
    base = w.HEADER.put(w.PIXEL_DATA_DRIVEN) | w.DCOL.put(5) | w.TOT.put(30)
    toa = (counts & np.uint64(0x3FFF)) << np.uint64(w.TOA.shift)
    return np.uint64(base) | toa | (counts >> np.uint64(14))


@pytest.fixture(scope="module")
def pipeline():
    with Pipeline(ring_bytes=RING) as made:
        yield made


@pytest.fixture
def own_pipeline():
    with Pipeline(ring_bytes=RING) as made:
        yield made


def acquire(pipeline: Pipeline, port: int, number: int, words: np.ndarray, datagram_words: int = 1000):
    pipeline.begin(number)
    datagrams = [words[k : k + datagram_words].tobytes() for k in range(0, words.size, datagram_words)]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        for payload in datagrams:
            sender.sendto(payload, (HOST, port))
    return len(datagrams)


def poll_until_it_fails(pipeline: Pipeline) -> None:
    while True:
        pipeline.progress()


def test_acquisitions_of_a_run_follow_each_other_in_one_file(pipeline, tmp_path):
    (port,) = pipeline.bind([Receiver(chip=0, host=HOST)])
    paths = pipeline.open_run(RunRequest(event_file=tmp_path / "run.h5"))
    sent = 0
    results = []
    for k in range(3):
        sent += acquire(pipeline, port, k + 1, hit_words(5000, 1 + k * 10_000_000))
        results.append(pipeline.end(Sent(datagrams=sent)))
    summary = pipeline.close_run({"uid": "u"})
    assert [(r.row_start, r.row_stop) for r in results] == [(0, 5000), (5000, 10_000), (10_000, 15_000)]
    assert all(r.ended_by == "counters" and r.ledger["unaccounted"] == 0 for r in results)
    assert summary.rows == 15_000
    assert np.all(np.diff(read_table(paths.event_file, "centroids", ["toa"])["toa"]) > 0)
    assert read_table(paths.event_file, "acquisitions")["row_stop"].tolist() == [5000, 10_000, 15_000]
    assert open_recording(paths.spool).n_bytes == 15_000 * 8 + sent * 8
    assert paths.master.exists()


def test_the_stages_live_across_runs(pipeline, tmp_path):
    pids = dict(pipeline.pids)
    (port,) = pipeline.bind([Receiver(chip=0, host=HOST)])
    for name in ("a", "b"):
        pipeline.open_run(RunRequest(event_file=tmp_path / f"{name}.h5"))
        sent = acquire(pipeline, port, 1, hit_words(100, 1))
        assert pipeline.end(Sent(datagrams=sent)).centroids == 100
        pipeline.close_run()
    pipeline.start()
    assert pipeline.pids == pids
    assert all(psutil.pid_exists(pid) for pid in pids.values())


def test_an_acquisition_without_counters_ends_by_silence(pipeline, tmp_path):
    (port,) = pipeline.bind([Receiver(chip=0, host=HOST)])
    pipeline.open_run(RunRequest(event_file=tmp_path / "run.h5"))
    acquire(pipeline, port, 1, hit_words(10, 1))
    acquired = pipeline.end()
    assert (acquired.ended_by, acquired.hits) == ("silence", 10)
    pipeline.close_run()


def test_a_pause_of_the_board_has_its_row_and_costs_no_shot_live_and_from_the_recording(pipeline, tmp_path):
    (port,) = pipeline.bind([Receiver(chip=0, host=HOST)])
    paths = pipeline.open_run(RunRequest(event_file=tmp_path / "run.h5"))
    edge = w.TOP_BYTE.put(w.TdcByte.TDC1_RISING) | w.TDC_STAMP.put(1)
    edges = [edge | w.TDC_COUNTER.put(k) | w.TDC_TIME.put(8 * (40_000 * k + 200)) for k in range(1, 9)]
    words = np.insert(hit_words(1000, 1), np.arange(1, 9) * 100 + 1, np.array(edges, np.uint64))
    sent = acquire(pipeline, port, 1, words)
    acquired = pipeline.end(Sent(datagrams=sent, paused=1))
    summary = pipeline.close_run()
    assert (acquired.ledger["board_pauses"], acquired.ledger["loss_intervals"]) == (1, 0)
    assert acquired.valid_shots == 7
    assert summary.ledger["verdict"].startswith("complete")
    losses = read_table(paths.event_file, "losses")
    assert (losses["cause"].tolist(), losses["amount"].tolist(), losses["shots"].tolist()) == ([b"pause"], [1], [8])
    again = RunRequest(event_file=tmp_path / "again.h5")
    pipeline.process(again, [RecordedFile(path=paths.spool)])
    assert {name: column.tolist() for name, column in read_table(again.event_file, "losses").items()} == {
        name: column.tolist() for name, column in losses.items()
    }
    assert read_table(again.event_file, "shots")["valid"].tolist() == [1] * 7 + [0]


@pytest.mark.parametrize(("n", "missing", "begins"), [(4, 6, "valid shots only: 6 t"), (0, 9, "incomplete: 9 t")])
def test_triggers_that_stop_or_never_come_are_missing_live_and_from_the_recording(
    pipeline, tmp_path, n, missing, begins
):
    """Hits for 10 ms, triggers at 1 kHz for `n` of them."""
    (port,) = pipeline.bind([Receiver(chip=0, host=HOST)])
    processing = Processing(trigger_period_ns=1e6, tof_max_ns=9e5)
    paths = pipeline.open_run(RunRequest(event_file=tmp_path / "run.h5", processing=processing))
    edge = w.TOP_BYTE.put(w.TdcByte.TDC1_RISING) | w.TDC_STAMP.put(1)
    edges = [edge | w.TDC_COUNTER.put(k) | w.TDC_TIME.put(8 * (40_000 * k + 200)) for k in range(n)]
    words = np.insert(hit_words(1000, 1), np.arange(n) * 100 + 1, np.array(edges, np.uint64))
    sent = acquire(pipeline, port, 1, words)
    acquired = pipeline.end(Sent(datagrams=sent), end_counts=400_000)
    pipeline.close_run()
    assert acquired.ledger["missing_triggers"] == missing
    assert acquired.ledger["verdict"].startswith(begins)
    again = RunRequest(event_file=tmp_path / "again.h5", processing=processing)
    summary = pipeline.process(again, [RecordedFile(path=paths.spool)])
    assert summary.ledger["missing_triggers"] == missing
    assert summary.ledger["verdict"].startswith(begins)
    assert read_table(again.event_file, "shots")["valid"].tolist() == [1] * n


def test_what_comes_too_much_behind_the_last_acquisition_is_in_doubt(pipeline, tmp_path):
    (port,) = pipeline.bind([Receiver(chip=0, host=HOST)])
    pipeline.open_run(RunRequest(event_file=tmp_path / "run.h5"))
    sent = acquire(pipeline, port, 1, hit_words(100, 1))
    pipeline.end(Sent(datagrams=sent))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        for k in range(3):
            sender.sendto(hit_words(5, 50_000 + 10_000 * k).tobytes(), (HOST, port))
    while pipeline.progress().arrived_datagrams < sent + 3:
        pass
    pipeline.baseline(Sent(datagrams=sent + 1, arrived=sent + 3))  # one of them the board has sent
    ledger = pipeline.close_run().ledger
    assert (ledger["stray_words"], ledger["stray_datagrams"], ledger["lost_stray_datagrams"]) == (15, 2, 0)
    assert ledger["verdict"].startswith("doubtful: 2 datagrams that came after an acquisition had ended")


def test_datagrams_that_never_came_are_named(pipeline, tmp_path):
    (port,) = pipeline.bind([Receiver(chip=0, host=HOST)])
    pipeline.open_run(RunRequest(event_file=tmp_path / "run.h5"))
    sent = acquire(pipeline, port, 1, hit_words(10, 1))
    acquired = pipeline.end(Sent(datagrams=sent + 2))
    assert acquired.ended_by == "silence"
    assert acquired.ledger["lost_datagrams"] == 2
    pipeline.close_run()


def test_an_empty_acquisition_closes_its_ledger(pipeline, tmp_path):
    pipeline.bind([Receiver(chip=0, host=HOST)])
    pipeline.open_run(RunRequest(event_file=tmp_path / "run.h5"))
    pipeline.begin(1)
    acquired = pipeline.end(Sent(datagrams=0))
    assert (acquired.centroids, acquired.ledger["unaccounted"]) == (0, 0)
    assert pipeline.close_run().rows == 0


def test_raw_only_and_no_raw(pipeline, tmp_path):
    (port,) = pipeline.bind([Receiver(chip=0, host=HOST)])
    for name, options in (("raw", {"centroid": False}), ("rows", {"keep_raw": False})):
        paths = pipeline.open_run(RunRequest(event_file=tmp_path / f"{name}.h5", **options))
        pipeline.end(Sent(datagrams=acquire(pipeline, port, 1, hit_words(10, 1))))
        summary = pipeline.close_run()
        assert paths.spool.exists() is (name == "raw")
        assert paths.event_file.exists() is (name == "rows")
        assert (summary.spool is None) is (name == "rows")


def test_progress_is_told_while_an_acquisition_runs(pipeline, tmp_path):
    (port,) = pipeline.bind([Receiver(chip=0, host=HOST)])
    pipeline.open_run(RunRequest(event_file=tmp_path / "run.h5"))
    acquire(pipeline, port, 1, hit_words(1000, 1))
    deadline = time.monotonic() + 60
    pause = threading.Event()
    while pipeline.progress().hits < 1000:
        assert time.monotonic() < deadline
        pause.wait(0.01)
    pipeline.end()
    pipeline.close_run()


@pytest.mark.parametrize(
    ("call", "complaint"),
    [
        (lambda p, d: p.begin(1), "no run is open"),
        (lambda p, d: p.end(), "no run is open"),
        (lambda p, d: p.close_run(), "no run is open"),
        (lambda p, d: p.open_run(RunRequest(event_file=d / "absent" / "run.h5")), "No such file or directory"),
        (lambda p, d: p.bind([Receiver(chip=0, host="192.0.2.1")]), "no such address"),
    ],
)
def test_a_refused_call_says_why_and_harms_nothing(pipeline, tmp_path, call, complaint):
    with pytest.raises(PipelineError, match=complaint):
        call(pipeline, tmp_path)
    pipeline.bind([Receiver(chip=0, host=HOST)])
    pipeline.open_run(RunRequest(event_file=tmp_path / "run.h5"))
    pipeline.begin(1)
    pipeline.end()
    pipeline.close_run()


def test_an_existing_event_file_is_refused(pipeline, tmp_path):
    (tmp_path / "run.h5").write_text("precious")
    with pytest.raises(PipelineError, match=r"run\.h5"):
        pipeline.open_run(RunRequest(event_file=tmp_path / "run.h5"))
    assert (tmp_path / "run.h5").read_text() == "precious"


def test_after_a_death_the_next_start_works(own_pipeline, tmp_path):
    os.kill(own_pipeline.pids["decode"], signal.SIGKILL)
    with pytest.raises(StageDied):
        poll_until_it_fails(own_pipeline)
    own_pipeline.start()
    (port,) = own_pipeline.bind([Receiver(chip=0, host=HOST)])
    own_pipeline.open_run(RunRequest(event_file=tmp_path / "run.h5"))
    assert own_pipeline.end(Sent(datagrams=acquire(own_pipeline, port, 1, hit_words(10, 1)))).hits == 10
    own_pipeline.close_run()


def test_a_death_is_told_within_seconds_though_the_recording_cannot_be_completed_yet(own_pipeline, tmp_path):
    """A capture process that is stopped stands for a write that hangs."""
    (port,) = own_pipeline.bind([Receiver(chip=0, host=HOST)])
    spool = own_pipeline.open_run(RunRequest(event_file=tmp_path / "run.h5")).spool
    sent = acquire(own_pipeline, port, 1, hit_words(5000, 1))
    while own_pipeline.progress().received_datagrams < sent:
        pass
    os.kill(own_pipeline.pids["capture"], signal.SIGSTOP)
    os.kill(own_pipeline.pids["decode"], signal.SIGKILL)
    began = time.monotonic()
    with pytest.raises(StageDied, match=r"run\.tpx3 is still being completed") as caught:
        poll_until_it_fails(own_pipeline)
    assert time.monotonic() - began < 5, "a second, on a machine that has time"
    assert (caught.value.death.stage, caught.value.death.salvaged) == ("decode", None)
    os.kill(own_pipeline.pids["capture"], signal.SIGCONT)
    own_pipeline.close()
    assert open_recording(spool).n_bytes == 8 * (5000 + sent)


def test_an_error_that_nobody_foresaw_is_told_with_its_traceback_and_the_recording_is_whole(own_pipeline, tmp_path):
    (port,) = own_pipeline.bind([Receiver(chip=0, host=HOST)])
    spool = own_pipeline.open_run(RunRequest(event_file=tmp_path / "run.h5")).spool
    stages = [psutil.Process(pid) for pid in own_pipeline.pids.values()]
    sent = acquire(own_pipeline, port, 1, hit_words(5000, 1))
    while own_pipeline.progress().received_datagrams < sent:
        pass
    with pytest.raises(StageDied) as caught:
        own_pipeline._call("poll", {})
    death = caught.value.death
    assert (death.stage, death.reason, death.salvaged) == ("supervisor", "failed: KeyError: 'sent'", spool)
    assert "in _poll" in death.traceback
    assert psutil.wait_procs(stages, timeout=15)[1] == []
    assert open_recording(spool).n_bytes == 8 * (5000 + sent)
    assert read_table(tmp_path / "run.h5", "centroids", ["x"])["x"].size <= 5000, "the event file can be read"


def test_when_the_users_process_is_killed_nothing_stays_and_the_recording_is_whole(tmp_path):
    script = tmp_path / "user.py"  # unguarded: no `if __name__ == "__main__"`
    script.write_text(
        textwrap.dedent(f"""
        import socket, sys
        from pathlib import Path
        from ophyd_timepix.pipeline.client import Pipeline
        from ophyd_timepix.pipeline.messages import Receiver, RunRequest
        pipe = Pipeline(ring_bytes={RING})
        pipe.start()
        port, = pipe.bind([Receiver(chip=0, host="127.0.0.1")])
        pipe.open_run(RunRequest(event_file=Path({str(tmp_path / "run.h5")!r})))
        pipe.begin(1)
        print(port, *pipe.pids.values(), flush=True)
        sys.stdin.readline()
        """)
    )
    user = subprocess.Popen([sys.executable, script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert user.stdout is not None
    port, *pids = map(int, user.stdout.readline().split())
    words = hit_words(5000, 1)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.sendto(words[:1000].tobytes(), (HOST, port))
    spool = tmp_path / "run.tpx3"
    children = [psutil.Process(pid) for pid in pids]
    user.kill()
    user.communicate()
    _, alive = psutil.wait_procs(children, timeout=15)
    assert not alive
    assert spool.stat().st_size in (0, 8008)  # the datagram had arrived, or was still in the kernel
    assert Path(tmp_path / "run.h5").exists()


def test_a_user_that_just_exits_leaves_nothing(tmp_path):
    code = f"""
from ophyd_timepix.pipeline.client import Pipeline
pipe = Pipeline(ring_bytes={RING}); pipe.start(); print(*pipe.pids.values(), flush=True)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    pids = [int(p) for p in done.stdout.split()]
    assert len(pids) == 5
    assert not [p for p in pids if psutil.pid_exists(p)]


def test_every_start_has_a_log_and_those_of_last_month_go(tmp_path):
    old, recent = tmp_path / "pipeline-old.log", tmp_path / "pipeline-recent.log"
    for path, age_s in ((old, 31 * 86_400), (recent, 86_400)):
        path.touch()
        os.utime(path, (time.time() - age_s,) * 2)
    with Pipeline(ring_bytes=RING, log_dir=tmp_path) as made:
        assert made.log_path is not None
        assert {p.name for p in tmp_path.iterdir()} == {recent.name, made.log_path.name}


def test_ctrl_c_does_not_reach_the_stages(own_pipeline):
    for pid in own_pipeline.pids.values():
        os.kill(pid, signal.SIGINT)
    own_pipeline.bind([Receiver(chip=0, host=HOST)])
    assert own_pipeline.running


@pytest.mark.soak
@pytest.mark.parametrize("stage", ["capture", "decode", "write"])
def test_a_stage_that_hangs_is_ended_in_bounded_time(stage):
    pipeline = Pipeline(ring_bytes=RING)
    pipeline.start()
    pids = dict(pipeline.pids)
    os.kill(pids[stage], signal.SIGSTOP)
    begin = time.monotonic()
    pipeline.close()
    assert time.monotonic() - begin < 30
    assert not [p for p in pids.values() if psutil.pid_exists(p)]


def test_a_picture_that_has_no_room_is_refused_before_anything_is_opened(pipeline, tmp_path):
    wide = Geometry(width_px=8192, height_px=8192)
    with pytest.raises(ValueError, match="pictures of 8192 x 8192 pixels"):
        pipeline.open_run(RunRequest(event_file=tmp_path / "wide.h5", geometry=wide))
    assert not list(tmp_path.iterdir())
