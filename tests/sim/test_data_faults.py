"""Each fault of the data by its name: exactly what was asked for happens, the board counts what it sent, and the truth
tells of each strike."""

import re
from collections import Counter
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from ophyd_timepix.control import Board, SpidrClient
from ophyd_timepix.protocol import column_phase
from spidr_sim.data_faults import DataFaults, LateWords, Strike, TriggerFaults
from spidr_sim.datagrams import DatagramSender
from spidr_sim.faults import DataFault, parse_fault
from spidr_sim.scenes import SceneSettings
from spidr_sim.settings import ChipSettings, Readout
from spidr_sim.source import SceneSource, scene_source
from spidr_sim.synth import joined, synthesize
from tests.pages import Guide
from tests.sim import slow_decoder as slow
from tests.sim.test_source import pieces
from tests.sim.test_udp import Listener, columns, ends_readout, rig, summary

Words = npt.NDArray[np.uint64]
NO_PHASE = np.zeros(128, np.int64)
WORDS = 4
"""Of a datagram of these tests."""


class Sender:
    """Stands for a chip's socket: keeps what it is given."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self.destination = ("127.0.0.1", 9)

    def cut(self, words: Words) -> list[Words]:
        return [words[first : first + WORDS] for first in range(0, words.size, WORDS)]

    def send_datagram(self, payload: bytes) -> None:
        self.sent.append(payload)

    def send(self, words: Words) -> int:
        self.sent += [part.tobytes() for part in self.cut(words)]
        return len(self.cut(words))


class Rig:
    """Datagrams of numbered words through faults, with a clock that stands until told."""

    def __init__(self, *specs: str, chips: int = 1, seed: int = 7) -> None:
        self.now_s = 0.0
        self.senders = [Sender() for _ in range(chips)]
        self.faults = DataFaults(self.senders, "127.0.0.1", seed, lambda: self.now_s)  # type: ignore[arg-type]
        self.arm(*specs)

    def arm(self, *specs: str) -> None:
        for spec in specs:
            self.faults.arm(DataFault.parse(spec))

    def send(self, numbers: list[int], chip: int = 0) -> None:
        """A datagram for each number, in one call."""
        self.faults.send(chip, np.repeat(np.array(numbers, np.uint64), WORDS), 0)

    def came(self, chip: int = 0) -> list[int]:
        """The numbers of the datagrams that came."""
        return [int.from_bytes(payload[:8], "little") for payload in self.senders[chip].sent]

    def struck(self) -> list[tuple[str, int, int]]:
        return [(strike.name, strike.chip, strike.datagram) for strike in self.faults.strikes]


# --- datagrams --------------------------------------------------------------------------------------------------------
def test_without_a_fault_all_leaves_as_it_is() -> None:
    r = Rig()
    r.send([1, 2, 3])
    assert r.came() == [1, 2, 3]
    assert r.faults.line.sent == 3
    assert r.struck() == []


@pytest.mark.parametrize(
    ("spec", "lost"),
    [
        ("drop=3", [3, 6, 9]),
        ("drop=3:2", [3, 6]),
        ("drop-at=4", [4]),
        ("drop-at=4:3", [4, 5, 6]),
        ("drop-at=8:0", [8, 9, 10]),
        ("drop-random=0", []),
        ("drop-random=1:4", [1, 2, 3, 4]),
    ],
)
def test_dropped_datagrams_are_those_asked_for_and_count_as_sent(spec: str, lost: list[int]) -> None:
    r = Rig(spec)
    r.send([1, 2, 3, 4])
    r.send([5, 6, 7, 8, 9, 10])
    assert r.came() == [number for number in range(1, 11) if number not in lost]
    assert r.faults.line.sent == 10
    assert r.struck() == [(spec.partition("=")[0], 0, number) for number in lost]


def test_random_losses_are_as_frequent_as_told_and_hang_on_the_seed() -> None:
    numbers = list(range(4000))
    lost = {}
    for seed in (1, 1, 2):
        r = Rig("drop-random=0.1", seed=seed)
        r.send(numbers)
        new = set(numbers) - set(r.came())
        assert lost.setdefault(seed, new) == new
        assert 320 < len(new) == len(r.struck()) < 480
    assert lost[1] != lost[2]


def test_datagrams_are_counted_over_all_chips_in_their_order() -> None:
    r = Rig("drop=3", chips=2)
    r.send([1, 2], chip=0)
    r.send([3, 4], chip=1)
    r.send([5, 6], chip=0)
    assert (r.came(0), r.came(1)) == ([1, 2, 5], [4])
    assert r.struck() == [("drop", 1, 3), ("drop", 0, 6)]


def test_a_reordered_datagram_comes_after_the_next_of_its_chip() -> None:
    r = Rig("reorder=2", chips=2)
    r.send([1, 2])
    r.send([3], chip=1)
    r.send([4, 5, 6])
    # The fourth has to be the one that overtakes, so it is not reordered itself.
    assert (r.came(0), r.came(1)) == ([1, 4, 2, 5], [3])
    assert r.faults.line.sent == 6
    assert r.struck() == [("reorder", 0, 2), ("reorder", 0, 6)]


def test_a_datagram_with_none_to_follow_leaves_when_faults_are_cleared() -> None:
    r = Rig("reorder=2")
    r.send([1, 2])
    assert r.came() == [1]
    r.faults.clear(0)
    assert r.came() == [1, 2]


def test_pairs_change_places_when_each_is_to_be_reordered() -> None:
    r = Rig("reorder=1:2")
    r.send([1, 2, 3, 4])
    assert r.came() == [2, 1, 4, 3]
    assert len(r.struck()) == 2


def test_a_duplicate_comes_at_once_and_counts_once() -> None:
    r = Rig("duplicate=2:1")
    r.send([1, 2, 3, 4])
    assert r.came() == [1, 2, 2, 3, 4]
    assert r.faults.line.sent == 4


def test_a_truncated_datagram_has_no_whole_words_at_its_end() -> None:
    r = Rig("truncate=2:2")
    r.send([1, 2, 3, 4, 5, 6])
    assert r.came() == [1, 2, 3, 4, 5, 6]
    assert [len(payload) for payload in r.senders[0].sent] == [32, 29, 32, 29, 32, 32]


def test_a_corrupt_datagram_holds_random_words_of_the_seed() -> None:
    payloads = []
    for seed in (1, 1, 2):
        r = Rig("corrupt=2:1", seed=seed)
        r.send([1, 2, 3])
        assert [len(payload) for payload in r.senders[0].sent] == [32, 32, 32]
        assert [r.came()[0], r.came()[2]] == [1, 3]
        payloads.append(r.senders[0].sent[1])
    assert payloads[0] == payloads[1] != payloads[2]
    assert r.struck() == [("corrupt", 0, 2)]
    strike = r.faults.strikes[0]
    assert (strike.held.words, strike.held.datagrams) == (WORDS, 1)
    assert strike.became == r.senders[0].sent[1]
    assert np.frombuffer(strike.sent, np.uint64).tolist() == [2] * WORDS


def test_rubbish_hangs_on_the_seed_and_the_strike_alone() -> None:
    """So that a test can choose it, however many datagrams came before."""
    r = Rig("corrupt=1:2")
    r.send([1, 2, 3])
    r.arm("corrupt=2:1")
    r.send([4, 5])
    first, second, third, fourth, fifth = r.senders[0].sent
    assert len({first, second, third, fourth}) == 4
    assert fifth == first


def test_a_stranger_sends_pixel_words_from_another_address() -> None:
    listener = Listener()
    sender = DatagramSender("127.0.0.1")
    faults = DataFaults([sender], "127.0.0.1", 1, lambda: 0.0)
    try:
        sender.set_destination("127.0.0.1", listener.port)
        faults.arm(DataFault.parse("foreign=2:2"))
        for number in range(6):
            faults.send(0, np.full(3, number, np.uint64), 0)
        came = [listener.socket.recvfrom(65_536) for _ in range(8)]
        assert listener.nothing_waits()
    finally:
        faults.line.close()
        sender.close()
        listener.socket.close()
    senders = Counter(address for _, (address, _port) in came)
    assert senders == {"127.0.0.1": 6, "127.0.0.2": 2}
    foreign = [np.frombuffer(data, np.uint64) for data, (address, _) in came if address == "127.0.0.2"]
    assert all(slow.is_pixel(words).all() and words.size == 100 for words in foreign)
    assert faults.line.sent == 6


def test_a_burst_comes_in_one_go_when_its_time_is_over() -> None:
    r = Rig("burst=0.5")
    r.send([1, 2])
    r.now_s = 0.4
    r.send([3])
    r.faults.line.release()
    assert r.came() == []
    assert (r.faults.line.sent, r.faults.line.paused, r.faults.line.due_s) == (3, 0, 0.5)
    r.now_s = 0.5
    r.faults.line.release()
    r.send([4])
    assert r.came() == [1, 2, 3, 4]
    assert r.faults.line.due_s is None
    assert r.struck() == [("burst", 0, 0)]
    assert (r.faults.strikes[0].held.words, r.faults.strikes[0].held.datagrams) == (3 * WORDS, 3)


def test_what_a_pause_holds_is_counted_as_paused_and_as_sent_when_it_leaves() -> None:
    r = Rig("pause=0.5:2", "drop=2:1")
    r.send([1, 2])
    assert (r.came(), r.faults.line.sent, r.faults.line.paused) == ([], 0, 2)
    r.now_s = 0.6
    r.faults.line.release()
    assert (r.came(), r.faults.line.sent, r.faults.line.paused) == ([1], 2, 2)
    r.send([3])
    assert (r.came(), r.faults.line.due_s) == ([1], 1.1)
    r.faults.clear(0)
    assert (r.came(), r.faults.line.sent, r.faults.line.paused) == ([1, 3], 3, 3)
    r.send([4])
    assert r.came() == [1, 3, 4]


def test_a_truncated_datagram_may_be_in_a_burst() -> None:
    r = Rig("truncate=2:1", "burst=1")
    r.send([1, 2])
    r.faults.clear(0)
    assert [len(payload) for payload in r.senders[0].sent] == [32, 29]


def test_the_fault_that_was_armed_first_strikes_and_the_other_has_lost_its_turn() -> None:
    r = Rig("drop=2:1", "duplicate=2:2")
    r.send([1, 2, 3, 4, 5, 6, 7, 8])
    assert r.came() == [1, 3, 4, 4, 5, 6, 6, 7, 8]
    assert r.struck() == [("drop", 0, 2), ("duplicate", 0, 4), ("duplicate", 0, 6)]


@pytest.mark.parametrize(
    "specs",
    [
        ["drop=7"],
        ["drop-at=30:4"],
        ["drop-random=0.05"],
        ["drop-random=0.05:3", "drop=11:2"],
        ["truncate=9", "reorder=5", "duplicate=6"],
    ],
)
def test_it_is_the_same_however_many_datagrams_are_sent_at_once(specs: list[str]) -> None:
    numbers = list(range(1, 201))
    came = []
    for step in (1, 13, 200):
        r = Rig(*specs)
        for first in range(0, 200, step):
            r.send(numbers[first : first + step])
        r.faults.clear(0)
        came.append((r.senders[0].sent, r.faults.strikes))
        assert r.faults.line.sent == 200
    assert came[0] == came[1] == came[2]
    assert len(came[0][1]) >= 4


# --- what was struck --------------------------------------------------------------------------------------------------
def test_a_strike_says_what_the_datagram_held() -> None:
    made = synthesize("vmi", duration_s=0.02, rate_hz=1e6, shot_rate_hz=1000, pll_word=0x11E)
    phases = column_phase(0x11E)
    senders = [DatagramSender("127.0.0.1", 1400)]
    faults = DataFaults(senders, "127.0.0.1", 1, lambda: 0.0)
    faults.line.survey.phase_bins[0] = phases
    faults.arm(DataFault.parse("drop=7"))
    words = made.words[0]
    faults.send(0, words, 800_000)
    senders[0].close()
    for strike in faults.strikes:
        mine = words[(strike.datagram - 1) * 175 : strike.datagram * 175]
        hits, edges = slow.hits(mine, phases), slow.edges(mine)
        ticks = np.concatenate([hits[:, 3], edges[:, 3]])
        assert strike.held == (mine.size, ticks.min(), ticks.max(), len(hits), len(edges), 1)
    assert len(faults.strikes) == -(-words.size // 175) // 7 > 10


# --- words that come late ---------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("latency_us", "wrong"), [(300.0, False), (500.0, True)])
def test_late_words_come_later_and_beyond_the_wrap_state_a_wrong_time(latency_us: float, wrong: bool) -> None:
    words = synthesize("uniform", duration_s=0.01, rate_hz=2e6, shot_rate_hz=0).words[0]
    late = LateWords()
    late.begin(round(latency_us * 40), 50)
    first, taken, became = late.pass_on(words[:5000].copy())
    rest, none, _ = late.pass_on(words[5000:].copy())
    out = np.concatenate([first, rest, late.flush()])
    assert not late.active
    assert (out.size, taken.size, none.size) == (words.size, 50, 0)
    np.testing.assert_array_equal(taken, words[:50])
    was, states = slow.hits(taken, NO_PHASE), slow.hits(out, NO_PHASE)
    # They left in the order in which they had come, and the others as if nothing were.
    late_places = np.flatnonzero(~np.isin(out, words[50:]))
    np.testing.assert_array_equal(np.delete(out, late_places), words[50:])
    np.testing.assert_array_equal(states[late_places][:, :3], was[:, :3])
    np.testing.assert_array_equal(out[late_places], became)
    stated = states[late_places, 3] - was[:, 3]
    assert set(stated.tolist()) == {16_384 * 96 if wrong else 0}
    newest = np.maximum.accumulate(np.delete(states[:, 3], late_places))
    behind_us = (newest[late_places - np.arange(50)] - was[:, 3]) / 3840
    assert latency_us <= behind_us.min() <= latency_us + 10


def test_late_words_are_as_late_after_the_timers_were_restarted() -> None:
    words = synthesize("uniform", duration_s=0.01, rate_hz=2e6, shot_rate_hz=0).words[0]
    r, turns = Rig(), []
    for start in (5000, 0):
        r.arm("late=500:5")
        r.faults.send(0, words[start:].copy(), 400_000)
        (strike,) = r.faults.strikes
        was, became = (np.frombuffer(part, np.uint64) & np.uint64(0xFFFF) for part in (strike.sent, strike.became))
        turns.append((became - was).tolist())
        r.faults.strikes.clear()
    assert turns == [[1] * 5] * 2


def test_all_words_may_be_late_until_faults_are_cleared() -> None:
    r = Rig("late=100:0")
    words = synthesize("uniform", duration_s=0.002, rate_hz=1e6, shot_rate_hz=0).words[0]
    r.faults.send(0, words, 80_000)
    before = len(r.senders[0].sent)
    r.faults.clear(80_000)
    came = np.frombuffer(b"".join(r.senders[0].sent), np.uint64)
    np.testing.assert_array_equal(came, words)
    assert 0 < before < len(r.senders[0].sent)
    assert [strike.held.hits for strike in r.faults.strikes] == [words.size]


# --- triggers ---------------------------------------------------------------------------------------------------------
def edges_of(source: SceneSource, close_counts: int, advances: int) -> tuple[npt.NDArray[np.int64], Words]:
    """What the truth and what the words tell."""
    truths, words = [], []
    for leaving in pieces(source, advances, close_counts):
        words.append(leaving.of_chip(0).copy())
        truths += [leaving.truth] if leaving.truth is not None else []
    return joined(truths).edges, np.concatenate(words)


def source_with(spec: str, shot_rate_hz: float) -> tuple[SceneSource, list[Strike]]:
    source = scene_source(SceneSettings.chosen("vmi", rate_hz=20_000, shot_rate_hz=shot_rate_hz), keep_truth=True)
    faults = DataFaults([], "127.0.0.1", 1, lambda: 0.0)
    source.trigger_faults = faults.triggers
    if spec:
        faults.arm(DataFault.parse(spec))
    source.open(0, 0)
    return source, faults.strikes


@pytest.mark.parametrize("shot_rate_hz", [100.0, 1000.0, 90_000.0])
@pytest.mark.parametrize("spec", ["miss-trigger=3", "double-trigger=3", "miss-trigger=4:2"])
def test_the_tdc_counts_the_pulses_that_came(spec: str, shot_rate_hz: float) -> None:
    close = 40_000 * 60
    plain, _ = edges_of(source_with("", shot_rate_hz)[0], close, 20)
    source, strikes = source_with(spec, shot_rate_hz)
    edges, words = edges_of(source, close, 20)
    np.testing.assert_array_equal(slow.as_rows(slow.edges(words)), slow.as_rows(edges))
    mine, theirs = edges[edges[:, 0] == 1], plain[plain[:, 0] == 1]
    np.testing.assert_array_equal(edges[edges[:, 0] == 2], plain[plain[:, 0] == 2])
    np.testing.assert_array_equal(mine[:, 2], np.arange(len(mine)) % 4096)
    rising, all_rising = (rows[rows[:, 1] == 0, 3] for rows in (mine, theirs))
    every = 4 if "=4" in spec else 3
    struck = all_rising[every - 1 :: every][: 2 if ":2" in spec else None]
    assert [strike.held.first_tick for strike in strikes] == struck.tolist()
    if spec.startswith("miss"):
        assert set(all_rising) - set(rising) == set(struck)
        assert set(rising) <= set(all_rising)
    else:
        echoes = np.array(sorted(set(rising) - set(all_rising)))
        assert set(all_rising) <= set(rising)
        falls = theirs[theirs[:, 1] == 1, 3][every - 1 :: every]
        expected = [fall + (fall - rise) // 2 for rise, fall in zip(struck, falls, strict=False)]
        np.testing.assert_array_equal(echoes, [tick for tick in expected if tick < close * 96])


def test_counters_begin_anew_with_the_timers() -> None:
    source, _ = source_with("miss-trigger=2", 1000.0)
    edges_of(source, 400_000, 0)
    source.trigger_faults.armed.clear()
    source.open(1, 0)
    edges, _ = edges_of(source, 400_000, 0)
    mine = edges[edges[:, 0] == 1]
    np.testing.assert_array_equal(mine[:, 2], np.arange(len(mine)))


def test_edges_pass_untouched_while_no_fault_is_armed() -> None:
    edges = np.array([[1, 0, 4, 100], [1, 1, 5, 200]])
    assert TriggerFaults().spoil(edges, 1000) is edges


# --- the whole data side ----------------------------------------------------------------------------------------------
def test_what_is_lost_is_counted_as_sent_and_told(tmp_path: Path) -> None:
    """Every fifth datagram: the registers know of all, the truth of those that are missing and of what they held."""
    path = tmp_path / "truth.h5"
    with rig(1, truth=path, rate_hz=300_000, datagram_bytes=1400) as r:
        r.streams.fault(DataFault.parse("drop=5"))
        r.streams.readout(Readout.DATA_DRIVEN)
        r.shutter(True)
        for _ in range(40):
            r.listeners[0].receive_until(lambda words: bool(slow.is_pixel(words).any()))
        r.streams.clear_faults()
        r.shutter(False)
        words = r.listeners[0].receive_until(ends_readout)
        sent = r.streams.counters()
        faults, hits, shots = (columns(path, table) for table in ("faults", "hits", "shots"))
        totals = summary(path)
    n = totals["faults"]
    assert n == faults["name"].size >= 9
    assert set(faults["name"].tolist()) == {b"drop"}
    np.testing.assert_array_equal(faults["datagram"], 5 * np.arange(1, n + 1))
    assert sent.datagrams == len(r.listeners[0].datagrams) + n == totals["datagrams"]
    came = slow.hits(words, column_phase(0x11E))
    assert sent.pixel_words[0] == len(came) + faults["hits"].sum() == hits["tick"].size
    assert set(faults["acquisition"].tolist()) == {0}
    lost = np.sort(list((Counter(hits["tick"].tolist()) - Counter(came[:, 3].tolist())).elements()))
    inside = [np.any((faults["first_tick"] <= tick) & (tick <= faults["last_tick"])) for tick in lost]
    assert all(inside)
    for end in ("first", "last"):
        expected = np.searchsorted(shots["tick"], faults[f"{end}_tick"], side="right") - 1
        known = faults[f"{end}_tick"] >= 0
        np.testing.assert_array_equal(faults[f"{end}_shot"][known], shots["number"][expected][known])


def test_a_pause_ends_by_itself_and_nothing_is_lost(tmp_path: Path) -> None:
    path = tmp_path / "truth.h5"
    with rig(1, truth=path, rate_hz=300_000) as r:
        r.streams.fault(DataFault.parse("pause=0.05"))
        r.streams.readout(Readout.DATA_DRIVEN)
        r.expose()
        sent = r.streams.counters()
        hits, totals = columns(path, "hits"), summary(path)
        (paused,) = columns(path, "faults")["datagrams"]
    assert sent.datagrams == len(r.listeners[0].datagrams) == totals["datagrams"]
    assert 10 < sent.paused_datagrams == paused <= sent.datagrams
    ticks = np.sort(slow.hits(r.listeners[0].words(), column_phase(0x11E))[:, 3])
    np.testing.assert_array_equal(ticks, np.sort(hits["tick"]))


def test_the_truth_says_what_altered_words_were_and_what_they_became(tmp_path: Path) -> None:
    path = tmp_path / "truth.h5"
    with rig(1, truth=path, rate_hz=300_000) as r:
        r.streams.fault(DataFault.parse("corrupt=3:2"))
        r.streams.fault(DataFault.parse("late=500:5"))
        r.streams.readout(Readout.DATA_DRIVEN)
        r.expose()
        faults, altered = columns(path, "faults"), columns(path, "altered")
        came, hits = r.listeners[0].words(), columns(path, "hits")
    words = np.bincount(altered["fault"], minlength=len(faults["name"]))
    assert sorted(faults["name"].tolist()) == [b"corrupt", b"corrupt", b"late"]
    np.testing.assert_array_equal(words, faults["words"])
    assert np.isin(altered["became"], came).all()
    late = altered["fault"] == np.flatnonzero(faults["name"] == b"late")[0]
    was, states = (slow.hits(altered[name][late], column_phase(0x11E)) for name in ("sent", "became"))
    assert np.isin(was[:, 3], hits["tick"]).all()
    assert (states[:, 3] - was[:, 3]).tolist() == [16_384 * 96] * 5


def test_late_words_leave_before_the_end_of_readout_is_said() -> None:
    with rig(1, rate_hz=300_000) as r:
        r.streams.fault(DataFault.parse("late=100000:0"))
        r.streams.readout(Readout.DATA_DRIVEN)
        r.shutter(True)
        r.listeners[0].receive_until(lambda words: bool(slow.is_pixel(words).any()))
        r.shutter(False)
        words = r.listeners[0].receive_until(ends_readout)
        assert r.streams.counters().pixel_words[0] == np.count_nonzero(slow.is_pixel(words))
        assert int(words[-1]) >> 48 == 0x71B0


def test_lost_timer_words_are_in_no_counter(tmp_path: Path) -> None:
    with rig(1, rate_hz=300_000, truth=tmp_path / "truth.h5") as r:
        r.streams.fault(DataFault.parse("lost-timer:2"))
        for _ in range(3):
            r.streams.timer_request(0, r.clock.counts())
        words = r.listeners[0].receive_until(lambda _: True)
        assert slow.top_bytes(words).tolist() == [0x44, 0x71, 0x45, 0x71]
        assert r.streams.counters().datagrams == 1
        assert r.listeners[0].nothing_waits()


def test_a_datagram_that_waits_to_be_overtaken_leaves_when_the_simulator_ends() -> None:
    with rig(1) as r:
        r.streams.fault(DataFault.parse("reorder=1:1"))
        r.streams.timer_request(0, r.clock.counts())
        assert r.streams.counters().datagrams == 1
        assert r.listeners[0].nothing_waits()
        r.streams.close()
        assert len(r.listeners[0].socket.recv(100)) == 32


def test_settings_of_a_chip_tell_the_truth_its_phases() -> None:
    """Ticks of strikes include the phases of the PLL word that the chip has."""
    with rig(1, rate_hz=300_000) as r:
        r.streams.chip(0, ChipSettings())
        r.streams.counters()
        np.testing.assert_array_equal(r.streams._faults.line.survey.phase_bins[0], column_phase(0x11E))


# --- the page ---------------------------------------------------------------------------------------------------------
def test_the_page_on_faults_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """docs/how-to/simulate-faults.md: its commands name faults that exist, its Python block says what was lost."""
    page = (Path(__file__).parents[2] / "docs/how-to/simulate-faults.md").read_text()
    commands = "".join(re.findall(r"```sh\n(.*?)```", page, re.DOTALL))
    specs = re.findall(r"--fault (\S+)", commands)
    assert len(specs) >= 6
    for spec in specs:
        parse_fault(spec)

    def measure(address: str) -> None:
        with SpidrClient(address.split(":")[0], int(address.split(":")[1])) as client, Listener().socket as listener:
            board = Board(client)
            board.chip(0).set_destination(None, listener.getsockname()[1])
            board.prepare_readout()
            board.open_shutter()
            while board.sent_counters().datagrams < 100:
                pass
            board.close_shutter()
            assert board.sent_counters().datagrams >= 100

    monkeypatch.chdir(tmp_path)
    with Guide("docs/how-to/simulate-faults.md", "python") as guide:
        guide.run({"measure": measure})
    lost, sent = (
        int(number) for number in re.findall(r"(\d+) of (\d+) datagrams were lost", capsys.readouterr().out)[0]
    )
    assert lost == sent // 20 >= 5
