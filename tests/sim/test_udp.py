"""The sending side over real loopback sockets: what it counts is what arrives, and silence is silence."""

import ctypes
import errno
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import h5py
import numpy as np
import numpy.typing as npt
import pytest

from ophyd_timepix.protocol import column_phase
from spidr_sim import datagrams
from spidr_sim.clock import VirtualClock
from spidr_sim.datagrams import DatagramSender, words_per_datagram
from spidr_sim.load import source_of
from spidr_sim.scenes import SceneSettings
from spidr_sim.settings import BiasRamp, ChipSettings, Readout
from spidr_sim.source import scene_source
from spidr_sim.truth import Truth, TruthError, _TruthFile
from spidr_sim.udp import UdpStreams
from tests.sim import slow_decoder as slow

CHIP_IDS = (0x1A6B, 0x1A6A, 0x1A7A, 0x1A7B)
Words = npt.NDArray[np.uint64]


class Listener:
    """A bound socket and what came in."""

    def __init__(self) -> None:
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        self.socket.bind(("127.0.0.1", 0))
        self.socket.settimeout(20.0)
        self.port: int = self.socket.getsockname()[1]
        self.datagrams: list[bytes] = []

    def words(self) -> Words:
        return np.frombuffer(b"".join(self.datagrams), dtype="<u8").astype(np.uint64)

    def receive_until(self, enough: Callable[[Words], bool]) -> Words:
        """Receive datagrams up to and with the first for which `enough` holds (its words are given)."""
        while True:
            self.datagrams.append(self.socket.recv(65_536))
            if enough(np.frombuffer(self.datagrams[-1], dtype="<u8").astype(np.uint64)):
                return self.words()

    def nothing_waits(self) -> bool:
        self.socket.setblocking(False)
        try:
            self.socket.recv(65_536)
        except BlockingIOError:
            return True
        finally:
            self.socket.settimeout(20.0)
        return False


def ends_readout(words: Words) -> bool:
    return bool(np.any(words >> np.uint64(48) == 0x71B0))


def has_pixels(words: Words) -> bool:
    return bool(slow.is_pixel(words).any())


class Rig:
    """Streams of a board, a listener per chip, and the board's part played by hand."""

    def __init__(self, streams: UdpStreams, clock: VirtualClock, listeners: list[Listener]) -> None:
        self.streams = streams
        self.clock = clock
        self.listeners = listeners

    def shutter(self, is_open: bool) -> int:
        with self.clock.lock:
            at = self.clock.counts()
            self.streams.shutter(is_open, at)
        return at

    def expose(self, datagrams: int = 10) -> tuple[int, int]:
        """Open the shutter, wait for some pixels of each chip, close it, receive all. (opening, closing) counts."""
        opened = self.shutter(True)
        for listener in self.listeners:
            for _ in range(datagrams):
                listener.receive_until(has_pixels)
        closed = self.shutter(False)
        for listener in self.listeners:
            listener.receive_until(ends_readout)
        return opened, closed


@contextmanager
def rig(
    n_chips: int = 1, truth: Path | None = None, datagram_bytes: int = 8960, scene: str = "vmi", **chosen: object
) -> Iterator[Rig]:
    settings = SceneSettings.chosen(scene, n_chips=n_chips, **chosen)  # type: ignore[arg-type]
    clock = VirtualClock()
    with ExitStack() as stack:
        keeper = Truth(truth, n_chips, {}) if truth else None
        if keeper:
            stack.callback(keeper.close)
        source = source_of(settings, keep_truth=truth is not None)
        ids = CHIP_IDS[:n_chips]
        streams = UdpStreams(source, clock, chip_ids=ids, datagram_bytes=datagram_bytes, truth=keeper)
        stack.callback(streams.close)
        listeners = [Listener() for _ in range(n_chips)]
        for listener in listeners:
            stack.callback(listener.socket.close)
        for chip, listener in enumerate(listeners):
            streams.destination(chip, "127.0.0.1", listener.port)
            streams.chip(chip, ChipSettings())
        streams.start()
        yield Rig(streams, clock, listeners)


def columns(path: Path, table: str) -> dict[str, npt.NDArray[np.int64]]:
    with h5py.File(path, "r", libver="latest", swmr=True) as file:
        return {name: np.asarray(dataset[:]) for name, dataset in file[table].items()}


def summary(path: Path) -> dict[str, int]:
    with h5py.File(path, "r", libver="latest", swmr=True) as file:
        return {name: int(dataset[()]) for name, dataset in file["summary"].items() if dataset.shape == ()}


# --- counters and truth -----------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("n_chips", "datagram_bytes"), [(1, 8960), (4, 1400)])
def test_the_counters_equal_what_arrives(n_chips: int, datagram_bytes: int) -> None:
    with rig(n_chips, datagram_bytes=datagram_bytes, rate_hz=400_000) as r:
        r.streams.readout(Readout.DATA_DRIVEN)
        r.expose()
        counters = r.streams.counters()
        received = [listener.words() for listener in r.listeners]
        assert counters.datagrams == sum(len(listener.datagrams) for listener in r.listeners)
        assert counters.pixel_words == tuple(np.count_nonzero(slow.is_pixel(words)) for words in received)
        assert counters.tdc_triggers == len(slow.edges(received[0]))
        sizes = [len(datagram) for listener in r.listeners for datagram in listener.datagrams]
        assert max(sizes) <= datagram_bytes
        assert all(size % 8 == 0 for size in sizes)
        r.streams.reset_counters()
        assert r.streams.counters().datagrams == 0


@pytest.mark.parametrize("n_chips", [1, 2])
def test_the_truth_on_disk_at_the_end_of_readout_is_what_arrived(tmp_path: Path, n_chips: int) -> None:
    path = tmp_path / "truth.h5"
    with rig(n_chips, truth=path, rate_hz=200_000) as r:
        r.streams.readout(Readout.DATA_DRIVEN)
        spans = [r.expose(), r.expose()]
        hits, triggers = columns(path, "hits"), columns(path, "triggers")
        acquisitions, shots, totals = columns(path, "acquisitions"), columns(path, "shots"), summary(path)
        particles = columns(path, "particles")
        received = [listener.words() for listener in r.listeners]
    near = spans[-1][1] * 96
    for chip, words in enumerate(received):
        mine = hits["chip"] == chip
        told = np.stack([hits[name][mine] for name in ("x", "y", "tot", "tick")], axis=1).astype(np.int64)
        np.testing.assert_array_equal(slow.as_rows(told), slow.as_rows(slow.hits(words, column_phase(0x11E), near)))
        edges = np.stack([triggers[name] for name in ("input", "falling", "counter", "tick")], axis=1).astype(np.int64)
        np.testing.assert_array_equal(slow.as_rows(edges), slow.as_rows(slow.edges(words, near)))
    for (opened, closed), row_open, row_close in zip(
        spans, acquisitions["open_counts"], acquisitions["close_counts"], strict=True
    ):
        assert (opened, closed) == (row_open, row_close)
    gates = [(opened * 96, closed * 96) for opened, closed in spans]
    assert all(any(a <= tick < b for a, b in gates) for tick in hits["tick"])
    rising = (triggers["input"] == 1) & (triggers["falling"] == 0)
    np.testing.assert_array_equal(shots["tick"], triggers["tick"][rising])
    np.testing.assert_array_equal(
        particles["n_hits"], np.bincount(hits["particle"], minlength=particles["n_hits"].size)
    )
    assert totals["hits"] == hits["x"].size == acquisitions["hits"].sum()
    assert totals["words"] == sum(words.size for words in received)
    assert totals["datagrams"] == sum(len(listener.datagrams) for listener in r.listeners)
    assert totals["acquisitions"] == 2


def test_a_truth_file_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TruthError, match="cannot write the truth file"):
        Truth(tmp_path / "missing" / "truth.h5", 1, {})


def test_a_truth_file_that_fails_later_ends_the_stream_and_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError("No space left on device")

    failed = threading.Event()
    with pytest.raises(TruthError, match="No space left"), rig(truth=tmp_path / "t.h5", rate_hz=2e5) as r:  # noqa: PT012
        r.streams._on_failure = failed.set
        monkeypatch.setattr(_TruthFile, "append", full)
        r.streams.readout(Readout.DATA_DRIVEN)
        r.shutter(True)
        assert failed.wait(20)
        assert isinstance(r.streams.failure, TruthError)
        assert r.streams.counters().datagrams > 0


# --- when it streams --------------------------------------------------------------------------------------------------
def test_it_is_silent_while_the_shutter_is_closed_or_the_readout_off() -> None:
    with rig(rate_hz=1e6) as r:
        listener = r.listeners[0]
        r.shutter(True)
        r.streams.timer_request(0, r.clock.counts())
        words = listener.receive_until(lambda _: True)
        assert slow.top_bytes(words).tolist() == [0x44, 0x71, 0x45, 0x71]
        r.shutter(False)
        r.streams.readout(Readout.DATA_DRIVEN)
        r.streams.timer_request(0, r.clock.counts())
        words = listener.receive_until(lambda _: True)
        assert slow.top_bytes(words).tolist() == [0x44, 0x71, 0x45, 0x71] * 2
        assert listener.nothing_waits()
        assert r.streams.counters().pixel_words == (0,)


def test_a_pause_of_the_readout_stops_the_stream_without_an_end_of_readout() -> None:
    with rig(rate_hz=1e6) as r:
        r.streams.readout(Readout.DATA_DRIVEN)
        r.shutter(True)
        r.listeners[0].receive_until(has_pixels)
        r.streams.readout(Readout.OFF)
        r.streams.timer_request(0, r.clock.counts())
        r.shutter(False)
        alone = r.listeners[0].receive_until(lambda words: words.size == 4)
        assert not ends_readout(alone)
        assert r.listeners[0].nothing_waits()


def test_each_chip_says_once_that_its_readout_ended() -> None:
    with rig(3, rate_hz=300_000) as r:
        r.streams.readout(Readout.DATA_DRIVEN)
        _, closed = r.expose(3)
        for listener, chip_id in zip(r.listeners, CHIP_IDS, strict=False):
            words = listener.words()
            assert np.count_nonzero(words >> np.uint64(48) == 0x71B0) == 1
            assert int(words[-1]) == 0x71B0 << 48 | chip_id << 16 | (closed >> 14) & 0xFFFF
            assert listener.nothing_waits()


def test_timer_words_come_in_their_place_in_the_stream() -> None:
    with rig(rate_hz=1e6) as r:
        r.streams.readout(Readout.DATA_DRIVEN)
        r.shutter(True)
        r.listeners[0].receive_until(has_pixels)
        asked = r.clock.counts()
        r.streams.timer_request(0, asked)
        words = r.listeners[0].receive_until(lambda words: bool((slow.top_bytes(words) == 0x44).any()))
        r.shutter(False)
    at = int(np.flatnonzero(slow.top_bytes(words) == 0x44)[0])
    assert int(words[at] >> np.uint64(16)) & 0xFFFFFFFF == asked & 0xFFFFFFFF
    assert slow.hits(words[:at], column_phase(0x11E), asked * 96)[:, 3].max() < asked * 96


def test_after_a_restart_of_the_timers_times_begin_at_zero(tmp_path: Path) -> None:
    path = tmp_path / "truth.h5"
    with rig(rate_hz=300_000, truth=path) as r:
        r.streams.readout(Readout.DATA_DRIVEN)
        r.expose()
        r.streams.timers_restarted(r.clock.restart())
        opened, closed = r.expose()
        hits = columns(path, "hits")
    assert set(hits["epoch"]) == {0, 1}
    second = hits["tick"][hits["epoch"] == 1]
    assert opened * 96 <= second.min() < second.max() < closed * 96


def test_after_the_timer_was_set_times_go_on_from_there(tmp_path: Path) -> None:
    path = tmp_path / "truth.h5"
    at = (1 << 47) + (1 << 29)
    with rig(rate_hz=300_000, truth=path) as r:
        r.streams.readout(Readout.DATA_DRIVEN)
        r.shutter(True)
        r.listeners[0].receive_until(has_pixels)
        with r.clock.lock:
            r.streams.timers_restarted(r.clock.restart(at), at)
        # Bit 15 of a word is bit 29 of its time.
        r.listeners[0].receive_until(lambda words: has_pixels(words[words >> np.uint64(15) & np.uint64(1) == 1]))
        closed = r.shutter(False)
        words = r.listeners[0].receive_until(ends_readout)
        hits, acquisitions = columns(path, "hits"), columns(path, "acquisitions")
    second = hits["epoch"] == 1
    assert acquisitions["open_counts"][1] == at
    assert at * 96 <= hits["tick"][second].min() < hits["tick"][second].max() < closed * 96
    ends = words[words >> np.uint64(48) == 0x71B0]
    assert [int(word) & 0xFFFF for word in ends] == [closed >> 14 & 0xFFFF]


def test_a_sequential_readout_leaves_after_the_shutter_and_ends_with_0x71a0(tmp_path: Path) -> None:
    path = tmp_path / "truth.h5"
    with rig(rate_hz=1e6, truth=path) as r:
        r.streams.readout(Readout.SEQUENTIAL)
        r.shutter(True)
        before = r.listeners[0].receive_until(lambda words: bool((slow.top_bytes(words) == 0x6F).any()))
        closed = r.shutter(False)
        words = r.listeners[0].receive_until(lambda words: bool(np.any(words >> np.uint64(48) == 0x71A0)))
        counters = r.streams.counters()
        hits = columns(path, "hits")
    assert not np.any(before >> np.uint64(61) == 5)
    pixels = words[words >> np.uint64(60) == 0xA]
    told = np.stack([hits[name] for name in ("x", "y", "tot", "tick")], axis=1).astype(np.int64)
    decoded = slow.hits(pixels | np.uint64(0xB << 60), column_phase(0x11E), closed * 96)
    np.testing.assert_array_equal(slow.as_rows(told), slow.as_rows(decoded))
    assert counters.pixel_words == (pixels.size,)
    assert not np.any(words >> np.uint64(60) == 0xB)
    assert not ends_readout(words)


def test_what_the_header_filter_holds_back_is_neither_sent_nor_counted(tmp_path: Path) -> None:
    path = tmp_path / "truth.h5"
    with rig(rate_hz=300_000, truth=path) as r:
        r.streams.readout(Readout.DATA_DRIVEN)
        r.streams.header_filter(0, 1 << 0x6 | 1 << 0x7)
        r.shutter(True)
        r.streams.timer_request(0, r.clock.counts())
        for _ in range(3):
            r.listeners[0].receive_until(lambda words: bool((slow.top_bytes(words) == 0x6F).any()))
        r.shutter(False)
        words = r.listeners[0].receive_until(ends_readout)
        counters, totals = r.streams.counters(), summary(path)
    assert set((words >> np.uint64(60)).tolist()) == {0x6, 0x7}
    assert np.count_nonzero(words >> np.uint64(48) == 0x7144) == 1
    assert counters.pixel_words == (0,)
    assert counters.datagrams == totals["datagrams"] == len(r.listeners[0].datagrams)
    assert totals["hits"] == 0
    assert totals["words"] == words.size


def test_a_chip_without_power_says_nothing_at_all() -> None:
    with rig(2, rate_hz=300_000) as r:
        r.streams.readout(Readout.DATA_DRIVEN)
        r.streams.chip(0, ChipSettings(alive=False))
        r.shutter(True)
        r.streams.timer_request(0, r.clock.counts())
        for _ in range(3):
            r.listeners[1].receive_until(has_pixels)
        r.shutter(False)
        r.listeners[1].receive_until(ends_readout)
        assert r.streams.counters().pixel_words[0] == 0
        assert r.listeners[0].nothing_waits()


def test_settings_told_while_the_shutter_is_open_act_on_what_comes_then() -> None:
    masked = ChipSettings(codes=b"\x01" * 65_536)
    with rig(rate_hz=300_000) as r:
        r.streams.readout(Readout.DATA_DRIVEN)
        r.shutter(True)
        r.listeners[0].receive_until(has_pixels)
        told = r.clock.counts()
        r.streams.chip(0, masked)
        r.listeners[0].receive_until(lambda words: words.size > 0 and not has_pixels(words))
        r.shutter(False)
        words = r.listeners[0].receive_until(ends_readout)
    ticks = slow.hits(words, column_phase(0x11E), told * 96)[:, 3]
    assert ticks.max() < (told + 2 * 40_000) * 96


def test_a_bias_that_was_switched_off_ends_the_particles() -> None:
    with rig(rate_hz=300_000) as r:
        r.streams.readout(Readout.DATA_DRIVEN)
        r.streams.bias(BiasRamp(50.0, 0.0, since_s=r.clock.seconds(), tau_s=0.02))
        r.shutter(True)
        r.listeners[0].receive_until(lambda words: words.size > 0 and not has_pixels(words))
        r.shutter(False)
        r.listeners[0].receive_until(ends_readout)


def test_a_pll_word_without_known_phases_is_refused_where_it_is_told() -> None:
    with rig(rate_hz=300_000) as r, pytest.raises(ValueError, match="4 clock phases"):
        r.streams.chip(0, ChipSettings(pll=0x09E))


def test_a_sender_that_was_kept_from_its_work_skips_nothing_and_holds_the_clock() -> None:
    class Host:
        """A host whose clock jumps whenever the test says so."""

        ahead_ns = 0

        def __call__(self) -> int:
            return time.monotonic_ns() + self.ahead_ns

    host = Host()
    with rig(rate_hz=100_000, seed=6) as r:
        r.clock._host_ns = host
        r.streams.readout(Readout.DATA_DRIVEN)
        opened = r.shutter(True)
        r.listeners[0].receive_until(has_pixels)
        host.ahead_ns += 5_000_000_000
        for _ in range(20):
            r.listeners[0].receive_until(has_pixels)
        closed = r.shutter(False)
        words = r.listeners[0].receive_until(ends_readout)
    assert r.clock.slipped_seconds > 4.5
    source = scene_source(SceneSettings.chosen("vmi", rate_hz=100_000, seed=6))
    source.set_chip(0, ChipSettings())
    source.open(0, opened)
    expected = np.concatenate([leaving.of_chip(0).copy() for leaving in source.finish(closed)])
    np.testing.assert_array_equal(words[:-1], expected)


def test_nobody_needs_to_listen() -> None:
    with rig(rate_hz=300_000) as r:
        port = r.listeners[0].port
        r.listeners[0].socket.close()
        r.streams.readout(Readout.DATA_DRIVEN)
        r.streams.destination(0, "127.0.0.1", port)
        second = Listener()
        try:
            r.shutter(True)
            r.streams.destination(0, "127.0.0.1", second.port)
            second.receive_until(has_pixels)
            r.shutter(False)
            second.receive_until(ends_readout)
        finally:
            second.socket.close()
        assert r.streams.failure is None


# --- datagrams --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("n_words", [1, 174, 175, 176, 175 * 3, 175 * 600 + 5])
def test_words_are_cut_into_full_datagrams_and_a_rest(n_words: int) -> None:
    listener = Listener()
    sender = DatagramSender("127.0.0.1", 1400)
    try:
        sender.set_destination("127.0.0.1", listener.port)
        words = np.arange(n_words, dtype=np.uint64)
        n_datagrams = sender.send(words)
        for _ in range(n_datagrams):
            listener.receive_until(lambda _: True)
    finally:
        sender.close()
        listener.socket.close()
    assert n_datagrams == -(-n_words // 175)
    assert [len(datagram) for datagram in listener.datagrams[:-1]] == [1400] * (n_datagrams - 1)
    np.testing.assert_array_equal(listener.words(), words)


@pytest.mark.parametrize("code", [errno.EIO, errno.EINVAL])
def test_a_route_that_carries_no_long_messages_gets_single_datagrams(
    monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    listener = Listener()
    sender = DatagramSender("127.0.0.1", 1400)
    calls = []

    send = datagrams._sendmmsg

    def only_the_first_message(fd: int, headers: int, n: int, flags: int) -> int:
        calls.append(sender._segments)
        if len(calls) == 2:
            ctypes.set_errno(code)
            return -1
        return int(send(fd, headers, 1 if len(calls) == 1 else n, flags))

    monkeypatch.setattr(datagrams, "_sendmmsg", only_the_first_message)
    try:
        sender.set_destination("127.0.0.1", listener.port)
        assert sender._segments == 46
        words = np.arange(175 * 120 + 3, dtype=np.uint64)
        assert sender.send(words) == 121
        for _ in range(121):
            listener.receive_until(lambda _: True)
    finally:
        sender.close()
        listener.socket.close()
    assert calls == [46, 46, 1]
    np.testing.assert_array_equal(listener.words(), words)


@pytest.mark.parametrize("size", [0, 1399, 65_505])
def test_a_datagram_size_out_of_bounds_is_refused(size: int) -> None:
    with pytest.raises(ValueError, match="1400 to 65504 bytes"):
        words_per_datagram(size)


def test_an_unreachable_destination_is_reported_once_and_not_fatal(caplog: pytest.LogCaptureFixture) -> None:
    sender = DatagramSender("127.0.0.1")
    try:
        sender.set_destination("192.0.2.1", 9)
        assert [sender.send(np.zeros(3, np.uint64)) for _ in range(3)] == [1, 1, 1]
    finally:
        sender.close()
    assert caplog.text.count("go nowhere") == 1
