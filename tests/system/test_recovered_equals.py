"""A run that was killed or cut off gives, recovered, what `process` gives of an undisturbed run over the same words."""

import os
import shutil
import signal
import socket
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
import pytest

from ophyd_timepix.app.asking import recorded_file, request_for
from ophyd_timepix.app.recovery import find_runs, recover_run
from ophyd_timepix.config import Processing
from ophyd_timepix.decode import Decoder
from ophyd_timepix.events import BlockArrays, BlockBuilder
from ophyd_timepix.files.event_file import TABLES
from ophyd_timepix.files.reader import read_ledger, read_table
from ophyd_timepix.pipeline.client import Pipeline
from ophyd_timepix.pipeline.errors import StageDied
from ophyd_timepix.pipeline.messages import Receiver, RunRequest, Sent
from ophyd_timepix.spool.index import HEADER_BYTES, RECORD, Kind, index_path, read_index
from ophyd_timepix.spool.segments import segment_path
from ophyd_timepix.spool.sources import open_recording
from spidr_sim.synth import synthesize
from tests.rows import Rows, flush

HOST = "127.0.0.1"
RING = 1 << 24
WITHIN_S = 2.0
"""From a SIGKILL to the error that names the stage."""
GONE_S = 10.0
DEADLINE_S = 20.0
DATAGRAM_WORDS = 500
PROCESSING = Processing(hits=True, tof_max_ns=60_000)
SEGMENT = 1 << 20
CUTS = 15
"""Places where a recording is cut off, with losses and without."""


@pytest.fixture(scope="module")
def words() -> np.ndarray:
    """Three quarters of a second of a beam: two segments."""
    return synthesize("vmi", seed=5, duration_s=0.75, rate_hz=2.5e5, shot_rate_hz=1000).words[0]


@pytest.fixture(scope="module")
def pipeline():
    with Pipeline(ring_bytes=RING) as made:
        yield made


@dataclass
class Camera:
    """A board that sends given words and counts its datagrams; some are lost or cut on the way."""

    pipeline: Pipeline
    recording: Path
    port: int
    sent: int = 0
    received_bytes: int = 0
    polls: int = 0

    def send(self, words: np.ndarray, *, lost: Sequence[int] = (), cut: Sequence[int] = ()) -> None:
        """Each datagram with its number since the beginning in `lost` never comes, those in `cut` come in part."""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            for start in range(0, words.size, DATAGRAM_WORDS):
                payload = words[start : start + DATAGRAM_WORDS].tobytes()
                number, self.sent = self.sent, self.sent + 1
                if number in lost:
                    continue
                sender.sendto(payload[:-3] if number in cut else payload, (HOST, self.port))
                self.received_bytes += len(payload) if number not in cut else 0
                if number % 16 == 0:
                    self.wait_for_words()
        self.wait_for_words()

    def wait_for_words(self) -> None:
        """All that was sent is here, so that no buffer runs over."""
        wait_for(lambda: self.pipeline.progress().received_bytes >= self.received_bytes)

    def poll(self) -> None:
        """The board's counter is read, and stands in the index."""
        self.pipeline.poll(lambda: Sent(datagrams=self.sent))
        self.polls += 1
        wait_for(lambda: count_polls(self.recording) >= self.polls)


def wait_for(condition) -> None:
    deadline, pause = time.monotonic() + DEADLINE_S, threading.Event()
    while not condition():
        assert time.monotonic() < deadline
        pause.wait(0.002)


def count_polls(recording: Path) -> int:
    index = read_index(recording)
    return 0 if index is None else int(np.count_nonzero(index.records["kind"] == Kind.POLL))


def take(pipeline: Pipeline, folder: Path, words: np.ndarray, *, with_losses: bool) -> Camera:
    """Two acquisitions, the second without its end. The camera's counter is read three times in each."""
    folder.mkdir()
    lost, cut = ((30, 31, 200), (50, 290)) if with_losses else ((), ())
    (port,) = pipeline.bind([Receiver(chip=0, host=HOST)])
    request = RunRequest(event_file=folder / "run.h5", processing=PROCESSING, segment_bytes=SEGMENT)
    camera = Camera(pipeline, pipeline.open_run(request).spool, port)
    half = words.size // 2
    for number, part in enumerate((words[:half], words[half:]), 1):
        pipeline.begin(number)
        for piece in np.array_split(part, 3):
            camera.send(piece, lost=lost, cut=cut)
            camera.poll()
        if number == 1:
            pipeline.end(Sent(datagrams=camera.sent))
    return camera


def processed(pipeline: Pipeline, recording: Path, output: Path) -> Path:
    """What `ophyd-timepix process` makes of a recording."""
    opened = open_recording(recording)
    request = request_for([opened], output, PROCESSING)
    pipeline.process(request, [recorded_file(opened, request.n_chips)], master=False)
    return output


@dataclass
class Truth:
    """An undisturbed run, and what `process` makes of its recording."""

    event_file: Path
    recording: Path

    def table(self, name: str) -> dict[str, np.ndarray]:
        return read_table(self.event_file, name)


def undisturbed(pipeline: Pipeline, folder: Path, words: np.ndarray, *, with_losses: bool) -> Truth:
    camera = take(pipeline, folder, words, with_losses=with_losses)
    pipeline.end(Sent(datagrams=camera.sent))
    pipeline.close_run({})
    return Truth(processed(pipeline, camera.recording, folder / "processed.h5"), camera.recording)


@pytest.fixture(scope="module")
def truths(pipeline, words, tmp_path_factory) -> dict[bool, Truth]:
    """By whether datagrams were lost."""
    home = tmp_path_factory.mktemp("truth")
    return {flag: undisturbed(pipeline, home / str(flag), words, with_losses=flag) for flag in (False, True)}


def assert_same_tables(truth: Truth, made: Path) -> None:
    """Byte for byte in every column."""
    for name in TABLES:
        expected, found = truth.table(name), read_table(made, name)
        for column in expected:
            if (name, column) != ("acquisitions", "cancelled"):
                assert found[column].tobytes() == expected[column].tobytes(), f"{name}/{column}"


def recovered(pipeline: Pipeline, folder: Path) -> Path:
    (found,) = find_runs([folder])
    recover_run(found, pipeline)
    return folder / "run.h5"


def test_the_undisturbed_run_has_losses_of_both_kinds(truths):
    assert len(truths[False].table("losses")["cause"]) == 0
    losses = truths[True].table("losses")
    for number in (1, 2):
        assert set(losses["cause"][losses["acquisition"] == number]) == {b"malformed", b"way", b"tdc"}
    assert not truths[True].table("shots")["valid"].all()


@pytest.mark.parametrize("stage", ["capture", "decode", "centroid0", "write", "supervisor"])
def test_a_killed_stage_is_named_at_once_and_what_it_was_at_is_recovered(pipeline, truths, words, tmp_path, stage):
    with Pipeline(ring_bytes=RING) as victim:
        folder = tmp_path / "killed"
        camera = take(victim, folder, words, with_losses=True)
        pids = [psutil.Process(pid) for pid in victim.pids.values()]
        begin = time.monotonic()
        os.kill(victim.pids[stage], signal.SIGKILL)
        with pytest.raises(StageDied, match=rf"{stage}.*was killed by"):
            victim.end(Sent(datagrams=camera.sent))
        told = time.monotonic() - begin
        _, alive = psutil.wait_procs(pids, timeout=GONE_S)
        assert not alive
        print(f"{stage}: told after {told:.3f} s, gone after {time.monotonic() - begin:.3f} s")
        assert told < WITHIN_S
    made = recovered(pipeline, folder)
    assert_same_tables(truths[True], made)
    ledger, expected = read_ledger(made), read_ledger(truths[True].event_file)
    assert ledger == expected
    assert ledger["unaccounted"] == 0


# --- a power cut ------------------------------------------------------------------------------------------------------


def cut_off(truth: Truth, folder: Path, rng: np.random.Generator) -> tuple[int, np.ndarray]:
    """A copy of a recording whose last file, index or both end anywhere. Returns what must be good of it: the bytes up
    to the last record that is whole and not beyond the words that are there; and these words."""
    folder.mkdir()
    shutil.copy(index_path(truth.recording), folder / "run.tpx3.idx")
    index = index_path(folder / "run.tpx3")
    sizes = []
    for number in (1, 2):
        shutil.copy(segment_path(truth.recording, number), segment_path(folder / "run.tpx3", number))
        sizes.append(segment_path(truth.recording, number).stat().st_size)
    if rng.random() < 0.7:
        sizes[1] = int(rng.integers(sizes[1]))
        os.truncate(segment_path(folder / "run.tpx3", 2), sizes[1])
    if rng.random() < 0.7:
        n = index.stat().st_size
        os.truncate(index, int(rng.integers((HEADER_BYTES + n) // 2, n)))
    records = np.fromfile(index, RECORD, (index.stat().st_size - HEADER_BYTES) // RECORD.itemsize, offset=HEADER_BYTES)
    known = records["offset"][records["offset"] <= sum(sizes)]
    good = int(known[-1])
    kept = b"".join(segment_path(truth.recording, n).read_bytes() for n in (1, 2))[:good]
    return good, np.frombuffer(kept, "<u8").copy()


def index_end(folder: Path) -> int:
    """The last address that the index of a recording knows."""
    return int(read_index(folder / "run.tpx3").records["offset"][-1])


def rows_of(words: np.ndarray, border: int) -> Rows:
    """The rows of two acquisitions, of which the second begins at a word, without files and processes."""
    decoder, builder, rows, block = Decoder(n_chips=1), BlockBuilder(PROCESSING, 1), Rows(PROCESSING, 1), BlockArrays()
    for part in (words[:border], words[border:]):
        if part.size:
            builder.add(decoder.decode(part))
            builder.add(decoder.flush())
            flush(builder, rows, block=block)
    return rows


@pytest.mark.parametrize("with_losses", [False, True])
def test_a_power_cut_anywhere_leaves_the_rows_of_the_words_that_are_good(pipeline, truths, tmp_path, with_losses):
    truth, rng = truths[with_losses], np.random.default_rng(8)
    records = read_index(truth.recording).records
    border = int(records["offset"][records["acquisition"] == 2][0])
    losses = truth.table("losses")
    known_at_once = losses["cause"] == b"malformed"
    goods, n_told = set(), 0
    for place in range(CUTS):
        folder = tmp_path / str(place)
        good, words = cut_off(truth, folder, rng)
        made = recovered(pipeline, folder)
        expected = rows_of(words, border // 8)
        for name in ("centroids", "hits", "triggers", "shots"):
            found = read_table(made, name)
            for column, values in expected.table(name).items():
                if not (with_losses and column == "valid"):
                    assert found[column].tobytes() == values.tobytes(), f"{name}/{column}, {good} bytes"
        shots = read_table(made, "shots")
        ends = np.minimum(np.append(shots["time"][1:], np.inf), shots["time"] + PROCESSING.tof_max_ns)
        told = known_at_once & (losses["stop"] <= shots["time"][-1])
        for start, stop in zip(losses["start"][told], losses["stop"][told], strict=True):
            assert not shots["valid"][(shots["time"] <= stop) & (ends > start)].any()
        n_told += told.sum()
        ledger = read_ledger(made)
        assert ledger["unaccounted"] == 0
        assert ledger["recording_bytes"] == good
        assert ledger["missing_bytes"] == max(0, index_end(folder) - good)
        for name, words_of_it in (("truncated_bytes", "cut off at"), ("missing_bytes", "missing at")):
            told = f"{ledger[name]:,} bytes {words_of_it} the end of the recording" in ledger["verdict"]
            assert told is (ledger[name] > 0)
        goods.add(good)
        shutil.rmtree(folder)
    assert len(goods) >= 4
    assert bool(n_told > CUTS) is with_losses
