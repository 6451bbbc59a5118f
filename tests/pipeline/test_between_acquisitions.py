"""Each acquisition is compared from its own beginning: what came twice or late of one hides nothing in another."""

import socket
import threading
import time
from multiprocessing import Pipe
from pathlib import Path

import numpy as np
import pytest

from ophyd_timepix.decode.decoder import Framing
from ophyd_timepix.pipeline import capture_stage
from ophyd_timepix.pipeline.capture_stage import CaptureStage, Drained
from ophyd_timepix.pipeline.decode_stage import _Stream
from ophyd_timepix.pipeline.ledger import Ledger
from ophyd_timepix.pipeline.locating import Strays
from ophyd_timepix.pipeline.messages import Arrived, Receiver, RecordedFile, RunRequest, Sent
from ophyd_timepix.pipeline.recorded import recorded_parts, recorded_strays, recorded_ways
from ophyd_timepix.pipeline.shared import Shared
from ophyd_timepix.pipeline.verdict import DOUBTED
from ophyd_timepix.spool.index import read_index, spans
from ophyd_timepix.spool.sources import RecordingReader

LONG_NS = 60_000_000_000


def word(k: int) -> bytes:
    """A hit; of each k another time."""
    return (0xB << 60 | k << 30 | 20 << 20).to_bytes(8, "little")


class Bench:
    """A capture stage without processes, and a board that counts what it sends."""

    def __init__(self, stage: CaptureStage, supervisor, spool: Path) -> None:
        self.stage, self.spool = stage, spool
        self._supervisor = supervisor
        ((port, _),) = stage.requests["bind"]([Receiver(chip=0, host="127.0.0.1")])
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.connect(("127.0.0.1", port))
        request = RunRequest(event_file=spool.with_suffix(".h5"), spool=spool)
        stage.requests["open"]((request, request.description()))
        stage.requests["baseline"](None)
        self.sent, self._arrives, self._number = 0, 0, 0

    def send(self, n: int, *, lost: int = 0, doubled: int = 0) -> None:
        """n datagrams of a word; the first `lost` do not come, the next `doubled` come twice."""
        self.sent += n
        self.come(n - lost + doubled)

    def come(self, n: int) -> None:
        for k in range(n):
            self._socket.send(word(self._arrives + k))
        self._arrives += n
        self._wait(lambda: self.stage._capture.totals().arrived == self._arrives)

    @property
    def counters(self) -> Sent:
        return Sent(datagrams=self.sent, pixel_words=(self.sent,))

    def begin(self, *, asks: bool = True) -> None:
        self._number += 1
        self.stage.requests["begin"](self._number)
        if asks:
            self.ask()

    def ask(self) -> None:
        self.stage.requests["baseline"](self.counters)

    def end(self, sent: Sent | None = None) -> Drained:
        self.stage.requests["end"]((sent or self.counters, None))
        self._wait(lambda: bool(self.stage.step() or self._supervisor.poll()))
        kind, _, drained = self._supervisor.recv()
        assert kind == "drained"
        return drained

    def close(self) -> None:
        self._socket.close()
        self.stage.close()

    def _wait(self, condition) -> None:
        deadline = time.monotonic() + 60
        pause = threading.Event()
        while not condition():
            assert time.monotonic() < deadline
            pause.wait(0.0005)


@pytest.fixture
def bench(tmp_path, monkeypatch):
    monkeypatch.setattr(capture_stage, "_go_first", lambda: None)
    monkeypatch.setattr(capture_stage, "SILENCE_NS", 30_000_000)
    ours, theirs = Pipe()
    shared = Shared(1 << 22)
    made = Bench(CaptureStage(theirs, shared), ours, tmp_path / "run.tpx3")
    yield made
    made.close()
    ours.close()
    theirs.close()


def missing(drained: Drained) -> int:
    assert drained.way is not None
    return drained.way.missing


def test_datagrams_that_came_twice_do_not_end_the_next_acquisition_before_its_last(bench):
    bench.begin()
    bench.send(20)
    assert missing(bench.end()) == 0
    bench.come(3)  # of the acquisition that is over
    bench.begin()
    bench.send(20, lost=3)
    ended = bench.end()
    assert (missing(ended), ended.ended_by) == (3, "silence")
    assert ended.strays == Strays(too_many=3)


def test_without_the_boards_counters_at_its_beginning_they_would_hide_a_loss(bench):
    bench.begin()
    bench.send(20)
    bench.end()
    bench.come(3)
    bench.begin(asks=False)
    bench.send(20, lost=3)
    assert missing(bench.end()) == 0


def test_what_the_board_sends_behind_its_closed_shutter_is_no_surplus_and_no_loss(bench):
    bench.begin()
    bench.send(5)
    bench.end()
    bench.send(4)
    bench.begin()
    bench.send(5)
    ended = bench.end()
    assert missing(ended) == 0
    assert ended.strays == Strays(sent=4)


def test_what_comes_behind_the_last_acquisition_is_compared_when_the_run_is_closed(bench):
    bench.begin()
    bench.send(5)
    assert bench.end().strays == Strays()
    bench.send(2, lost=1)
    bench.stage.requests["baseline"](bench.counters.model_copy(update={"arrived": 6}))
    totals, strays = bench.stage.requests["close"](None)
    assert (totals.datagrams, strays) == (6, Strays(lost=1, sent=2))


@pytest.mark.parametrize(("lost", "told"), [(1, 0), (2, 0), (3, 1)])
def test_what_may_never_have_been_expected_is_not_told_as_lost_behind_the_last_one(bench, lost, told):
    bench.begin()
    bench.send(5)
    bench.end()
    bench.send(3, lost=lost)
    bench.stage.requests["baseline"](bench.counters.model_copy(update={"arrived": 8 - lost, "unsure": 2}))
    assert bench.stage.requests["close"](None)[1] == Strays(lost=told, sent=3)


def test_what_is_lost_between_two_acquisitions_is_lost_in_neither(bench):
    bench.begin()
    bench.send(5)
    bench.end()
    bench.send(4, lost=1)
    bench.begin()
    bench.send(5)
    ended = bench.end()
    assert missing(ended) == 0
    assert ended.strays == Strays(lost=1, sent=4)


def let_the_receiver_rest(bench: Bench) -> None:
    """What comes next waits in the socket."""
    (channel,) = bench.stage._capture._channels
    channel.pause_s = 0.5
    bench.send(1)
    bench.sent += 2
    for _ in range(2):
        bench._socket.send(word(bench._arrives))
        bench._arrives += 1
    assert channel.waiting_bytes > 0
    assert bench.stage._capture.totals().arrived == bench._arrives - 2


def test_what_waits_in_the_socket_of_a_receiver_that_rests_has_arrived(bench, monkeypatch):
    monkeypatch.setattr(capture_stage, "CAUGHT_UP_WITHIN_NS", LONG_NS)
    bench.begin()
    let_the_receiver_rest(bench)
    assert bench.stage.requests["arrived"](None) == Arrived(datagrams=3, is_all=True)


def test_what_waits_there_when_an_acquisition_begins_is_no_lost_stray(bench, monkeypatch):
    monkeypatch.setattr(capture_stage, "ON_THE_WAY_NS", 0)
    monkeypatch.setattr(capture_stage, "CAUGHT_UP_WITHIN_NS", LONG_NS)
    bench.begin()
    bench.send(5)
    bench.end()
    let_the_receiver_rest(bench)
    bench.begin()
    assert bench.end().strays == Strays(sent=3)


def test_a_receiver_that_gets_no_core_says_that_it_does_not_know(bench, monkeypatch):
    monkeypatch.setattr(capture_stage, "CAUGHT_UP_WITHIN_NS", 0)
    bench.begin()
    let_the_receiver_rest(bench)
    assert bench.stage.requests["arrived"](None) == Arrived(datagrams=1, is_all=False)


def test_a_run_counts_from_a_reading_though_more_had_come_by_then(bench):
    """Edges that pass a closed shutter come between the board's answer and the beginning."""
    bench.come(4)
    bench.stage.requests["baseline"](Sent(datagrams=0, arrived=1))
    bench.sent = 3
    live = []
    for lost in (0, 2):
        bench.begin()
        bench.send(9, lost=lost)
        live.append(bench.end())
    assert [missing(ended) for ended in live] == [0, 2]
    assert {ended.strays.too_many + ended.strays.lost for ended in live} == {0}


def assert_recorded_alike(bench, live):
    """The closed recording tells of each acquisition what was told when it ended."""
    bench.stage.requests["close"](None)
    records = read_index(bench.spool).records
    found = spans(records, bench.spool.stat().st_size)
    assert recorded_ways(records, found) == [ended.way for ended in live]
    assert recorded_strays(records, found) == [ended.strays for ended in live]


def test_the_recording_tells_the_same_of_what_came_in_between(bench):
    live = []
    for lost, after in ((0, 3), (2, 0), (0, 1)):
        bench.begin()
        bench.send(9, lost=lost)
        live.append(bench.end())
        bench.come(after)
    assert_recorded_alike(bench, live)


def test_edges_behind_the_last_reading_of_the_counters_hide_no_loss_and_are_none_too_many(bench):
    """A closed shutter may let them pass. The next acquisition begins with them, live and in the recording."""
    live = []
    for lost, behind in ((0, 3), (1, 3), (2, 2), (0, 0)):
        bench.begin()
        bench.send(9, lost=lost)
        read = bench.counters.model_copy(update={"arrived": bench.stage._capture.totals().arrived})
        bench.send(behind)
        live.append(bench.end(read))
    assert [missing(ended) for ended in live] == [0, 1, 2, 0]
    assert [ended.ended_by for ended in live] == ["counters", "silence", "silence", "counters"]
    assert {ended.strays.too_many + ended.strays.lost for ended in live} == {0}
    assert_recorded_alike(bench, live)


def test_what_comes_between_the_beginning_and_the_boards_answer_is_not_among_what_it_counts_from_there(bench):
    """Stragglers are in the stream of the next acquisition, and nothing of that was altered."""
    bench.begin()
    bench.send(5)
    bench.end()
    bench.begin(asks=False)
    bench.send(3)
    bench.ask()
    bench.send(20)
    ended = bench.end()
    bench.stage.requests["close"](None)
    _, part = recorded_parts(RecordedFile(path=bench.spool))
    stream = _Stream(RunRequest(event_file=bench.spool.with_suffix(".h5")), Framing.TPX3)
    stream.begin(2, part.span.start)
    with RecordingReader(part.recording, part.span.start, part.span.stop, 2) as reader:
        for piece in iter(lambda: reader.next_slice(np.empty(1 << 16, np.uint8)), None):
            stream.add(piece)
    stream.flush_decoder()
    totals = stream.end_acquisition(ended.way, ended.stop)
    ledger = Ledger()
    ledger.take_recording(part.span, part.recording, part.way, part.strays)
    ledger.take_decode(totals)
    entries = ledger.as_dict()
    assert totals.losses == []
    assert (entries["pixel_words"], entries["sent_pixel_words"], entries["altered_words"]) == (23, 20, 0)
    assert entries["unaccounted"] == 0


def test_strays_beyond_what_was_sent_are_in_the_ledger_and_in_doubt(bench):
    bench.begin()
    bench.send(5)
    bench.end()
    bench.come(2)
    bench.begin()
    bench.send(5)
    ledger = Ledger()
    ledger.take_capture(bench.end(), Sent(datagrams=5, pixel_words=(5,)))
    entries = ledger.as_dict()
    assert (entries["stray_datagrams"], entries["lost_on_the_way"]) == (2, 0)
    assert entries["verdict"].startswith(f"doubtful: 2 {DOUBTED['stray_datagrams']}")
