"""What `process` makes: the same bit for bit in one part or many, at once or resumed; and what it says of how."""

import hashlib
import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from ophyd_timepix.app import asking, cli, part_runner, product, survey
from ophyd_timepix.app.meter import Meter, speed
from ophyd_timepix.app.part_runner import SkippedError, run_part
from ophyd_timepix.app.parts import Job, cut_into_parts, timer_zero_before
from ophyd_timepix.app.provenance import Hasher, code_version, sha256_of
from ophyd_timepix.config import Geometry, Orientation, Processing
from ophyd_timepix.files.event_file import TABLES
from ophyd_timepix.files.reader import read_about, read_ledger, read_table
from ophyd_timepix.pipeline.client import Pipeline
from ophyd_timepix.pipeline.errors import PipelineError
from ophyd_timepix.pipeline.messages import Progress, Receiver, RecordedFile, RunRequest, Sent
from ophyd_timepix.protocol import words as w
from ophyd_timepix.protocol.chip_config import column_phase
from ophyd_timepix.spool.index import RECORD, Kind
from ophyd_timepix.spool.sources import open_recording
from spidr_sim.synth import synthesize

HOST = "127.0.0.1"
DATAGRAM_WORDS = 500
DEADLINE_S = 60.0
N_ACQUISITIONS = 4
TINY = ("--part-mb", "0.1")
"""Smaller than any acquisition: each is a part."""


@pytest.fixture(scope="module")
def pipeline() -> Iterator[Pipeline]:
    with Pipeline(ring_bytes=1 << 24) as made:
        yield made


@pytest.fixture(autouse=True)
def one_pipeline_for_all(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    """A start takes a second or two. What is not committed may change while a test runs: the version stands still."""

    class Shared:
        def __init__(self, **_: Any) -> None: ...

        def __enter__(self) -> Pipeline:
            pipeline.start()
            return pipeline

        def __exit__(self, *_: object) -> None: ...

    monkeypatch.setattr(product, "Pipeline", Shared)
    monkeypatch.setattr(part_runner, "LOOK_S", DEADLINE_S)  # who looks and sees reason to stop would end it
    monkeypatch.setattr(product, "code_version", lambda: "0.1.0+tested")


@pytest.fixture(scope="module")
def run(pipeline: Pipeline, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The recording of a run of ours, in segments; its event file is beside it."""
    folder = tmp_path_factory.mktemp("run")
    words = synthesize("vmi", seed=5, duration_s=0.6, rate_hz=5e5, shot_rate_hz=1000).words[0]
    (port,) = pipeline.bind([Receiver(chip=0, host=HOST)])
    request = RunRequest(
        event_file=folder / "run.h5",
        processing=Processing(hits=True, trigger_period_ns=1e6),
        segment_bytes=1 << 20,
        timer_zero_ns=time.monotonic_ns() - 1_000_000_000,
        start={"uid": "an own run"},
    )
    spool = pipeline.open_run(request).spool
    sent = 0
    again = words[:0]
    for k, part in enumerate(np.array_split(words, N_ACQUISITIONS)):
        pipeline.begin(3 + k)  # numbers are the run's own
        sent = send(pipeline, again, port, sent)
        again = part[5 * DATAGRAM_WORDS : 6 * DATAGRAM_WORDS]
        sent = send(pipeline, part, port, sent)
        pipeline.end(Sent(datagrams=sent - k))  # the network sends one once more, in the next acquisition
    pipeline.close_run()
    return spool


def send(pipeline: Pipeline, words: np.ndarray, port: int, sent: int) -> int:
    """Send datagrams, no more at a time than a small buffer holds. Returns how many were sent in all."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        for start in range(0, words.size, DATAGRAM_WORDS):
            if sent % 16 == 0:
                wait_for(partial(all_came, pipeline, sent))
            sender.sendto(words[start : start + DATAGRAM_WORDS].tobytes(), (HOST, port))
            sent += 1
    return sent


def all_came(pipeline: Pipeline, sent: int) -> bool:
    return pipeline.progress().received_datagrams >= sent


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recording of another program: no index."""
    words = synthesize("vmi", seed=6, duration_s=0.2, rate_hz=2e5, shot_rate_hz=1000).words[0]
    return write_tpx3(tmp_path_factory.mktemp("foreign") / "foreign.tpx3", words)


def write_tpx3(path: Path, words: np.ndarray, chip: int = 0) -> Path:
    with path.open("ab") as file:
        for start in range(0, words.size, 1000):
            part = words[start : start + 1000]
            file.write(w.chunk_header(chip, part.nbytes).to_bytes(8, "little") + part.astype("<u8").tobytes())
    return path


def wait_for(condition: Callable[[], bool], timeout_s: float = DEADLINE_S) -> None:
    deadline, pause = time.monotonic() + timeout_s, threading.Event()
    while not condition():
        assert time.monotonic() < deadline
        pause.wait(0.002)


def process(*words: object) -> int:
    return cli.main(["process", *map(str, words), "--quiet"])


def tables(path: Path) -> dict[str, bytes]:
    """All columns, byte for byte, with picture and spectrum."""
    found = {f"{t}/{c}": values.tobytes() for t in TABLES for c, values in read_table(path, t).items()}
    with h5py.File(path) as file:
        return found | {name: file["entry/preview"][name][:].tobytes() for name in ("image", "tof")}


def assert_same(path: Path, other: Path) -> None:
    found, expected = tables(path), tables(other)
    assert [name for name in expected if found[name] != expected[name]] == []
    assert read_ledger(path) == read_ledger(other)


# --- parts ------------------------------------------------------------------------------------------------------------


def test_the_acquisitions_of_a_run_give_its_own_rows_each_by_itself(run, tmp_path):
    """With no more than the index to tell their time and their shots, and what came before for what came twice."""
    assert process(run, "-o", tmp_path / "whole.h5") == 0
    assert process(run, "-o", tmp_path / "parts.h5", *TINY) == 0
    assert_same(tmp_path / "parts.h5", tmp_path / "whole.h5")
    live = tables(run.with_suffix(".h5"))
    assert tables(tmp_path / "parts.h5") == live
    assert read_ledger(tmp_path / "parts.h5")["repeated_datagrams"] == N_ACQUISITIONS - 1
    assert read_table(tmp_path / "parts.h5", "acquisitions", ["acquisition"])["acquisition"].tolist() == [3, 4, 5, 6]
    assert read_about(tmp_path / "parts.h5", "start_document") == {"uid": "an own run"}


def test_several_files_give_the_same_in_one_part_and_in_many(run, foreign, tmp_path):
    files = (run, foreign, run, foreign)
    assert process(*files, "-o", tmp_path / "whole.h5", "--hits") == 0
    assert process(*files, "-o", tmp_path / "parts.h5", "--hits", *TINY) == 0
    assert_same(tmp_path / "parts.h5", tmp_path / "whole.h5")
    numbers = read_table(tmp_path / "parts.h5", "acquisitions", ["acquisition"])["acquisition"].tolist()
    assert numbers == list(range(1, 2 * N_ACQUISITIONS + 3))
    hits = read_table(tmp_path / "parts.h5", "hits", ["cluster", "shot"])
    assert hits["cluster"].max() == len(read_table(tmp_path / "parts.h5", "centroids", ["x"])["x"]) - 1
    assert hits["shot"].max() == len(read_table(tmp_path / "parts.h5", "shots", ["time"])["time"]) - 1


def test_the_same_command_gives_the_same_columns_again(run, foreign, tmp_path):
    for name in ("a", "b"):
        assert process(run, foreign, "-o", tmp_path / f"{name}.h5", *TINY) == 0
    assert_same(tmp_path / "a.h5", tmp_path / "b.h5")
    a, b = (read_about(tmp_path / f"{name}.h5", "provenance") for name in ("a", "b"))
    assert a | {"command": ""} == b | {"command": ""}


def test_parts_are_whole_acquisitions_and_together_all_of_the_recordings(run, foreign):
    recordings = [open_recording(run), open_recording(foreign)]
    assert len(recordings[0].segments or ()) > 1
    for part_bytes, n_parts in ((1, N_ACQUISITIONS + 1), (1 << 40, 1), (recordings[0].n_bytes * 2 // 5, 3)):
        parts = cut_into_parts(recordings, part_bytes)
        assert [part.number for part in parts] == list(range(1, n_parts + 1))
        assert all(part.n_bytes >= part_bytes for part in parts[:-1])
        units = [unit for part in parts for unit in part.units]
        assert [(unit.file, unit.place) for unit in units] == [*((0, k) for k in range(N_ACQUISITIONS)), (1, None)]
        assert sum(unit.n_bytes for unit in units) == sum(recording.n_bytes for recording in recordings)


def test_a_part_after_days_is_placed_by_the_board_and_not_by_a_clock_that_drifted():
    second = 1_000_000_000
    records = np.zeros(4, RECORD)
    records["offset"], records["kind"] = [0, 100, 200, 300], [Kind.STRETCH, Kind.END, Kind.STRETCH, Kind.END]
    records["end_counts"] = [-1, 40_000_000, -1, 80_000_000 * 1000]
    records["host_ns"] = [0, 3 * second, 4 * second, 2020 * second]
    assert timer_zero_before(records, 50, 1 * second) == 1 * second
    assert timer_zero_before(records, 200, 1 * second) == 1 * second, "2 s are the end of an acquisition, not a drift"
    assert timer_zero_before(records, 300, 1 * second) == 20 * second


def test_chips_that_appear_late_are_not_foreign(tmp_path, monkeypatch):
    monkeypatch.setattr(asking, "LOOKED_AT_BYTES", 1)
    monkeypatch.setattr(survey, "SLICE_BYTES", 1 << 14)
    words = synthesize("vmi", seed=7, duration_s=0.05, rate_hz=1e5, shot_rate_hz=1000).words[0]
    recording = write_tpx3(tmp_path / "a.tpx3", words)
    write_tpx3(recording, words[-100:], chip=2)
    assert process(recording, "-o", tmp_path / "a.h5") == 0
    assert read_ledger(tmp_path / "a.h5")["foreign_chip_words"] == 0
    assert read_about(tmp_path / "a.h5", "geometry") == Geometry.for_chips(3).model_dump(mode="json")
    assert read_ledger(tmp_path / "a.h5")["chips"]["2"]["hits"] > 0


def test_the_chips_lie_where_one_says(tmp_path):
    words = synthesize("vmi", seed=7, duration_s=0.05, rate_hz=1e5, shot_rate_hz=1000).words[0]
    recording = write_tpx3(tmp_path / "a.tpx3", words, chip=1)
    assert process(recording, "-o", tmp_path / "a.h5", "--gap-px", 2, "--orientation", "left") == 0
    expected = Geometry.for_chips(2, 2).turned(Orientation.LEFT)
    assert read_about(tmp_path / "a.h5", "geometry") == expected.model_dump(mode="json")
    (tmp_path / "own.json").write_text(expected.model_dump_json())
    assert process(recording, "-o", tmp_path / "b.h5", "--geometry", tmp_path / "own.json") == 0
    with h5py.File(tmp_path / "a.h5") as one, h5py.File(tmp_path / "b.h5") as other:
        for column in ("x", "y"):
            np.testing.assert_array_equal(one["entry/centroids"][column], other["entry/centroids"][column])


def test_what_is_said_of_chips_that_are_not_there_is_told(foreign, tmp_path, capsys):
    assert process(foreign, "-o", tmp_path / "a.h5", "--gap-px", 2, "--masked-pixels", "1,2,3") == 0
    told = capsys.readouterr().err
    assert "masked_pixels has 1 pixel of chip 1, and there is chip 0 alone" in told
    assert "--gap-px 2 comes to nothing" in told


# --- going on ---------------------------------------------------------------------------------------------------------


def interrupted(monkeypatch: pytest.MonkeyPatch, after: int, *words: object) -> None:
    """The command, ended by Ctrl-C after some parts."""
    made = []

    def run_some(*arguments: Any, **options: Any) -> dict[str, Any]:
        if len(made) == after:
            raise KeyboardInterrupt
        made.append(run_part(*arguments, **options))
        return made[-1]

    with monkeypatch.context() as patch:
        patch.setattr(product, "run_part", run_some)
        assert process(*words) == cli.INTERRUPTED


def test_what_was_interrupted_goes_on_and_gives_the_same(run, foreign, tmp_path, monkeypatch, capsys):
    out, whole = tmp_path / "a.h5", tmp_path / "whole.h5"
    files = (run, foreign)
    assert process(*files, "-o", whole) == 0
    interrupted(monkeypatch, 3, *files, "-o", out, *TINY)
    assert "3 finished parts are kept" in capsys.readouterr().err
    assert not out.exists()
    assert cli.main(["process", *map(str, files), "-o", str(out), *TINY, "--resume", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["parts_resumed"] == 3
    assert_same(out, whole)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.h5", "a.nxs", "whole.h5", "whole.nxs"]


def test_a_killed_command_goes_on_and_gives_the_same(run, foreign, tmp_path, monkeypatch):
    """All of it is killed, at a moment when some parts are finished and others are not."""
    out, whole = tmp_path / "a.h5", tmp_path / "whole.h5"
    files = [str(run), str(foreign)] * 6
    line = [sys.executable, "-m", "ophyd_timepix.app.cli", "process", *files, "-o", str(out), *TINY]
    with subprocess.Popen(line, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as command:
        wait_for(lambda: (tmp_path / "a.h5.parts" / "000002.json").exists() or command.poll() is not None, 240)
        command.send_signal(signal.SIGKILL)
    assert command.returncode == -signal.SIGKILL
    assert not out.exists()
    monkeypatch.setattr(product, "code_version", code_version)
    assert process(*files, "-o", out, *TINY, "--resume") == 0
    assert process(*files, "-o", whole) == 0
    assert_same(out, whole)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda _: ["--radius-px", "3"], "other parameters"),
        (lambda _: ["--part-mb", "0.2"], "other size of the parts"),
        (lambda path: path.write_bytes(path.read_bytes() + bytes(8)) and [], "other inputs"),
        (lambda path: altered(path) and [], "another sha256"),
    ],
    ids=["parameters", "parts", "longer", "altered"],
)
def test_what_differs_is_refused_with_the_way_out(foreign, tmp_path, monkeypatch, capsys, change, complaint):
    a, b = (Path(shutil.copy(foreign, tmp_path / f"{name}.tpx3")) for name in ("a", "b"))
    words = [a, b, "-o", tmp_path / "a.h5"]
    interrupted(monkeypatch, 1, *words, *TINY)
    capsys.readouterr()
    assert process(*words, *TINY) == 1
    assert "go on with --resume, or remove that directory" in capsys.readouterr().err
    assert process(*words, *TINY, "--resume", *change(a)) == 1
    said = capsys.readouterr().err
    assert complaint in said
    assert "remove that directory to begin anew" in said
    assert not (tmp_path / "a.h5").exists()


def altered(path: Path) -> bool:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(1, 1))
    return True


@pytest.mark.parametrize(("first", "then"), [(["--no-hash"], ["--no-hash"]), (["--no-hash"], []), ([], ["--no-hash"])])
def test_inputs_of_another_date_are_refused_where_no_sha256_tells_whether_they_are_the_same(
    foreign, tmp_path, monkeypatch, capsys, first, then
):
    a, b = (Path(shutil.copy(foreign, tmp_path / f"{name}.tpx3")) for name in ("a", "b"))
    words = [a, b, "-o", tmp_path / "a.h5", *TINY]
    interrupted(monkeypatch, 1, *words, *first)
    os.utime(a, ns=(1, 1))
    assert process(*words, "--resume", *then) == 1
    assert "(--no-hash) nobody can tell" in capsys.readouterr().err


def test_resuming_what_is_finished_does_nothing_and_other_wishes_are_refused(foreign, tmp_path, capsys):
    out = tmp_path / "a.h5"
    assert process(foreign, "-o", out) == 0
    before = out.stat().st_mtime_ns
    (tmp_path / "a.nxs").unlink()
    assert process(foreign, "-o", out, "--resume") == 0
    assert out.stat().st_mtime_ns == before
    assert (tmp_path / "a.nxs").exists()
    assert process(foreign, "-o", out, "--resume", "--radius-px", 3) == 1
    assert "made with other parameters" in capsys.readouterr().err


def test_who_is_killed_while_the_only_part_is_written_to_once_more_goes_on_too(foreign, tmp_path, monkeypatch):
    """HDF5 opens no file that somebody was writing to when he was killed."""
    out, whole = tmp_path / "a.h5", tmp_path / "whole.h5"
    assert process(foreign, "-o", whole) == 0

    def be_killed(made: Path, *_: object) -> None:
        os.truncate(made, 100)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(product, "add_text", be_killed)
        assert process(foreign, "-o", out) == cli.INTERRUPTED
    assert process(foreign, "-o", out, "--resume") == 0
    assert_same(out, whole)


def test_an_output_is_made_by_one_at_a_time(foreign, tmp_path, capsys):
    store = product.PartStore.open(tmp_path / "a.h5", {}, resume=False)
    try:
        assert process(foreign, "-o", tmp_path / "a.h5") == 1
        assert "being made by another process" in capsys.readouterr().err
    finally:
        store.close(keep=False)


# --- strict -----------------------------------------------------------------------------------------------------------

HIT = w.HEADER.put(w.PIXEL_DATA_DRIVEN) | w.TOT.put(30)
GOOD = [w.chunk_header(0, 16), HIT, HIT]
DAMAGED = {
    "foreign words": ([*GOOD, *[0x0123 << 40] * 3], "outside any chunk", "unframed, 24 bytes at byte 24"),
    "damaged header": ([w.chunk_header(0, 64), HIT, *GOOD], "chunks end before", "cut chunk, 0 bytes at byte 16"),
    "cut off": ([*GOOD, w.chunk_header(0, 64), HIT], "words of a last chunk are missing", ""),
    "wrong chip": ([*GOOD, w.chunk_header(9, 8), HIT], "chips that no board has", "foreign chip, 8 bytes at byte 32"),
    "unknown word": ([w.chunk_header(0, 16), HIT, 0x1 << 60], "of no known kind", "unknown, 8 bytes at byte 16"),
    "bad trigger": (
        [w.chunk_header(0, 16), HIT, w.TOP_BYTE.put(w.TdcByte.TDC1_RISING)],
        "impossible fields",
        "rejected edge, 8 bytes at byte 16",
    ),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_strict_fails_and_leaves_nothing_where_else_the_rest_is_kept(case, tmp_path, capsys):
    words, complaint, place = DAMAGED[case]
    recording = tmp_path / "a.tpx3"
    recording.write_bytes(np.array(words, "<u8").tobytes())
    assert process(recording, "-o", tmp_path / "a.h5", "--strict") == 1
    assert place in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [recording]
    assert process(recording, "-o", tmp_path / "a.h5") == 1
    said = capsys.readouterr().err
    assert complaint in said
    assert place in said
    assert len(read_table(tmp_path / "a.h5", "centroids", ["x"])["x"]) >= 1


def test_what_strict_says_is_place_and_then_reasons(tmp_path, capsys):
    recording = tmp_path / "a.tpx3"
    recording.write_bytes(np.array(DAMAGED["cut off"][0], "<u8").tobytes())
    assert process(recording, "-o", tmp_path / "a.h5", "--strict") == 1
    assert f"ophyd-timepix: {recording}: 7 words of a last chunk are missing" in capsys.readouterr().err


def test_a_place_where_nothing_can_be_written_is_named(foreign, capsys):
    assert process(foreign, "-o", "/proc/x.h5") == 1
    assert "/proc/x.h5 cannot be written: no directory can be made in /proc" in capsys.readouterr().err


def test_strict_refuses_half_a_word_and_takes_what_is_whole(tmp_path, capsys):
    recording = tmp_path / "a.tpx3"
    recording.write_bytes(np.array(GOOD, "<u8").tobytes() + b"abc")
    assert process(recording, "-o", tmp_path / "a.h5", "--strict") == 1
    assert "the last 3 bytes are no whole word" in capsys.readouterr().err
    recording.write_bytes(np.array(GOOD, "<u8").tobytes())
    assert process(recording, "-o", tmp_path / "a.h5", "--strict") == 0


class Endless:
    """A pipeline that is busy until it is closed."""

    def __init__(self, **progress: int) -> None:
        self._progress = Progress(**progress)
        self._closed = threading.Event()

    def progress(self) -> Progress:
        return self._progress

    def close(self) -> None:
        self._closed.set()

    def process(self, *_: object, **__: object) -> None:
        assert self._closed.wait(DEADLINE_S)
        raise PipelineError("the pipeline was closed")


def test_strict_does_not_wait_for_the_end_of_a_recording(tmp_path, monkeypatch):
    recording = tmp_path / "a.tpx3"
    recording.write_bytes(np.array(DAMAGED["foreign words"][0], "<u8").tobytes())
    request = RunRequest(event_file=tmp_path / "a.h5")
    job = Job(number=1, request=request, files=(RecordedFile(path=recording),), directory=tmp_path, strict=True)
    monkeypatch.setattr(part_runner, "LOOK_S", 0.001)
    with pytest.raises(SkippedError, match=r"a.tpx3: unframed, 24 bytes at byte 24"):
        run_part(Endless(skipped_words=3, decoded_bytes=4096), job, tmp_path / "a.tmp")


# --- what it says of itself -------------------------------------------------------------------------------------------


def test_a_product_says_what_it_was_made_from(run, tmp_path, capsys):
    out = tmp_path / "a.h5"
    words = ["process", str(run), "-o", str(out), "--radius-px", "3", "--quiet"]
    assert cli.main(words) == 0
    told = read_about(out, "provenance")
    assert told["command"] == "ophyd-timepix " + " ".join(words)
    assert told["version"] == "0.1.0+tested"
    files = [*sorted(run.parent.glob("run*.tpx3"), key=lambda p: (p != run, p)), run.with_name("run.tpx3.idx")]
    assert told["inputs"] == [
        {"path": str(f), "bytes": f.stat().st_size, "sha256": hashlib.sha256(f.read_bytes()).hexdigest()} for f in files
    ]
    with h5py.File(out.with_suffix(".nxs")) as master:
        assert master["entry/process"].attrs["NX_class"] == "NXprocess"
        assert master["entry/process/version"].asstr()[()] == "0.1.0+tested"
    for file in (out, out.with_suffix(".nxs")):
        assert cli.main(["info", str(file), "--json"]) == 0
        facts = json.loads(capsys.readouterr().out)
        assert {name: facts[name] for name in told} == told
        assert facts["centroids"] == len(read_table(out, "centroids", ["x"])["x"])
    assert cli.main(["info", str(out)]) == 0
    assert told["inputs"][0]["sha256"] in capsys.readouterr().out


@pytest.mark.parametrize("phases", [0x01E, 0x05E, 0x11E], ids=["1 phase", "2 phases", "16 phases"])
def test_the_phases_of_a_foreign_recording_are_those_that_one_says(phases, foreign, tmp_path):
    assert process(foreign, "-o", tmp_path / "a.h5", "--hits", "--no-hash") == 0
    assert process(foreign, "-o", tmp_path / "b.h5", "--hits", "--no-hash", "--pll-config", phases) == 0
    as_it_is, phased = (read_table(tmp_path / f"{name}.h5", "hits", ["toa", "x", "y", "tot"]) for name in ("a", "b"))
    expected = as_it_is["toa"] + np.array(column_phase(phases))[as_it_is["x"] // 2] * 25 / 16
    order = np.lexsort((as_it_is["x"], as_it_is["y"], expected))
    np.testing.assert_array_equal(phased["toa"], expected[order])
    told = [read_about(tmp_path / f"{name}.h5", "provenance") for name in ("a", "b")]
    assert "chip_words" not in told[0]
    assert told[1]["chip_words"] == [{"path": str(foreign), "general_config": None, "pll_config": phases}]
    assert told[0]["parameters_sha256"] != told[1]["parameters_sha256"]


def test_words_of_a_foreign_recording_of_chips_that_count_are_no_hits(foreign, tmp_path):
    assert process(foreign, "-o", tmp_path / "a.h5", "--general-config", "0x04C") == 0
    ledger = read_ledger(tmp_path / "a.h5")
    assert (ledger["hits"], ledger["unaccounted"]) == (0, 0)
    assert ledger["counting_words"] == ledger["pixel_words"] > 10_000


def test_how_chips_were_set_is_refused_where_it_is_known_or_makes_no_sense(run, foreign, tmp_path, capsys):
    line = ("-o", tmp_path / "a.h5")
    assert process(run, *line, "--pll-config", "0x11E") == 1
    assert f"{run}: its index tells how its chips were set; --pll-config 0x11E is for" in capsys.readouterr().err
    assert process(foreign, *line, "--pll-config", "0x09E") == 1
    assert "the column phases of 4 clock phases (PLL word 0x9E) are not known" in capsys.readouterr().err
    for wrong, told in (
        ("0x4000", "0x4000 is no word of 14 bits, 0 to 0x3FFF"),
        ("left", "'left' is no word of a chip"),
    ):
        with pytest.raises(SystemExit):
            process(foreign, *line, "--pll-config", wrong)
        assert told in capsys.readouterr().err


def test_parameters_are_told_apart_by_their_sha256(foreign, tmp_path):
    told = []
    for number, options in enumerate([(), ("--part-mb", 0.1), ("--radius-px", 2), ("--radius-px", 3), ("--hits",)]):
        assert process(foreign, "-o", tmp_path / f"{number}.h5", "--no-hash", *options) == 0
        told.append(read_about(tmp_path / f"{number}.h5", "provenance"))
    assert told[0]["parameters_sha256"] == told[1]["parameters_sha256"] == told[2]["parameters_sha256"]
    assert len({one["parameters_sha256"] for one in told}) == 3
    assert [one["sha256"] for one in told[0]["inputs"]] == [None]


def test_the_order_of_parameters_does_not_matter():
    assert sha256_of({"a": 1, "b": [2]}) == sha256_of({"b": [2], "a": 1}) != sha256_of({"a": 1, "b": [3]})


def test_hashes_at_any_place_are_those_of_the_bytes_before(tmp_path):
    content = np.random.default_rng(1).bytes(100_000)
    files = {tmp_path / name: [1, 50_000, 50_000, 99_999] for name in ("a", "b")}
    for path in files:
        path.write_bytes(content)
    with Hasher(files) as hasher:
        for path, stops in files.items():
            for stop in stops:
                assert hasher.digest(path, stop) == hashlib.sha256(content[:stop]).hexdigest()
            assert hasher.digest(path) == hashlib.sha256(content).hexdigest()


def test_an_input_that_cannot_be_read_is_told_to_who_asks_for_its_hash(tmp_path):
    with Hasher({tmp_path / "absent": []}) as hasher, pytest.raises(FileNotFoundError, match="absent"):
        hasher.digest(tmp_path / "absent")


def test_where_no_terminal_is_a_line_says_how_far_it_is():
    said = io.StringIO()
    with Meter(2_000_000_000, stream=said, line_s=0) as meter:
        meter.show(0, 0)
        meter.show(500_000_000, 40_000_000)
    lines = said.getvalue().splitlines()
    assert len(lines) == 2
    assert lines[1].startswith("ophyd-timepix: 25% of 2.0 GB, ")
    assert "Mhit/s, 0:00:0" in lines[1]
    with Meter(10, quiet=True, stream=said, line_s=0) as meter:
        meter.show(5, 5)
    assert said.getvalue().splitlines() == lines


def test_a_small_file_ends_with_all_of_it_in_kb_and_without_a_rate_of_nothing():
    said = io.StringIO()
    with Meter(2400, stream=said, line_s=0) as meter:
        meter.show(0, 0)
        meter._line_s = 1000  # no line is due any longer
        meter.show(1200, 150)
        meter.show(2400, 0)
        meter.show(2400, 0)
    assert said.getvalue().splitlines() == ["ophyd-timepix: 0% of 2 kB", "ophyd-timepix: 100% of 2 kB"]


def test_what_is_done_before_a_first_line_is_due_has_none():
    said = io.StringIO()
    with Meter(2400, stream=said) as meter:
        meter.show(2400, 300)
    assert said.getvalue() == ""


@pytest.mark.parametrize(
    ("hits", "seconds", "told"),
    [(21_400_000, 1.0, "21.40 Mhit/s"), (300, 4.3, ""), (50_000, 1.0, "0.05 Mhit/s"), (0, 0.0, "")],
)
def test_a_rate_that_would_read_zero_is_left_out(hits, seconds, told):
    assert speed(hits, seconds, digits=2) == told
