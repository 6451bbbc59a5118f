"""A recording comes again on the board's timer: the same words in the same order, the same distances in time."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from ophyd_timepix.protocol import column_phase
from ophyd_timepix.protocol.words import chunk_header
from spidr_sim.encode import end_of_readout_word, pixel_word, tdc_word, timer_words
from spidr_sim.recording import Recording, RecordingError, read_recording
from spidr_sim.replay import RecordingSource
from spidr_sim.scenes import SceneSettings
from spidr_sim.settings import BiasRamp, ChipSettings
from spidr_sim.source import SliceTruth
from spidr_sim.synth import COUNTS_PER_SECOND, joined, opened_source, write_recording
from tests.sim import slow_decoder as slow

Words = npt.NDArray[np.uint64]


def write_raw(path: Path, *words: int) -> Path:
    path.write_bytes(np.array(words, dtype="<u8").tobytes())
    return path


def replayed(
    recording: Recording, at_counts: int, n_chips: int, pll_word: int = 0x01E
) -> tuple[list[Words], SliceTruth]:
    source = RecordingSource(recording, n_chips, keep_truth=True)
    for chip in range(n_chips):
        source.set_chip(chip, ChipSettings(pll=pll_word))
    source.open(0, at_counts)
    words: list[list[Words]] = [[] for _ in range(n_chips)]
    truths = []
    for leaving in source.finish(at_counts + round((recording.seconds + 0.01) * COUNTS_PER_SECOND)):
        for chip in range(n_chips):
            words[chip].append(leaving.of_chip(chip).copy())
        if leaving.truth:
            truths.append(leaving.truth)
    return [np.concatenate(parts) for parts in words], joined(truths)


@pytest.fixture(scope="module")
def tpx3(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recording") / "quad.tpx3"
    settings = SceneSettings.chosen("vmi", rate_hz=200_000, n_chips=4, seed=8)
    write_recording(path, opened_source(settings), seconds=0.05)
    return path


def test_words_keep_their_order_and_distances(tpx3: Path) -> None:
    recording = read_recording(tpx3)
    at = 123_456_789
    words, _ = replayed(recording, at, n_chips=4)
    for chip, now in enumerate(words):
        before = recording.chips[chip].words
        assert now.size == before.size
        for read in (lambda w, near: slow.hits(w, [0] * 128, near), slow.edges):
            old, new = read(before, 0), read(now, at * 96)
            np.testing.assert_array_equal(new[:, :3], old[:, :3])
            moved = new[:, 3] - old[:, 3]
            assert np.all(moved == moved[0])
            assert moved[0] // 96 <= at < moved[0] // 96 + COUNTS_PER_SECOND
        assert np.array_equal(slow.is_pixel(now), slow.is_pixel(before))


@pytest.mark.parametrize("pll_word", [0x01E, 0x11E])
def test_its_truth_is_what_a_decoder_must_find(tpx3: Path, pll_word: int) -> None:
    at = 5_000_000
    words, truth = replayed(read_recording(tpx3), at, n_chips=4, pll_word=pll_word)
    for chip, now in enumerate(words):
        mine = truth.hit_pixel >> 16 == chip
        pixel = truth.hit_pixel[mine]
        told = np.stack([pixel & 0xFF, (pixel >> 8) & 0xFF, truth.hit_tot[mine], truth.hit_tick[mine]], axis=1)
        np.testing.assert_array_equal(told, slow.hits(now, column_phase(pll_word), at * 96))
    np.testing.assert_array_equal(slow.as_rows(truth.edges), slow.as_rows(slow.edges(words[0], at * 96)))
    assert np.all(truth.hit_particle == -1)


def test_only_power_and_header_filter_act_on_a_recording(tpx3: Path) -> None:
    recording = read_recording(tpx3)
    whole, _ = replayed(recording, 0, n_chips=4)
    source = RecordingSource(recording, 4, keep_truth=True)
    source.set_bias(BiasRamp.settled(0.0))
    source.set_chip(0, ChipSettings(codes=b"\x01" * 65_536, pll=0x01E))
    source.set_chip(1, ChipSettings(pll=0x01E, alive=False))
    source.set_filter(2, 1 << 0xB)
    source.set_filter(3, 0xFFFF & ~(1 << 0xB))
    source.open(0, 0)
    leaving = [[departures.of_chip(chip).copy() for chip in range(4)] for departures in source.finish(3_000_000)]
    words = [np.concatenate(parts) for parts in zip(*leaving, strict=True)]
    np.testing.assert_array_equal(words[0], whole[0])
    assert words[1].size == 0
    np.testing.assert_array_equal(words[2], whole[2][slow.is_pixel(whole[2])])
    np.testing.assert_array_equal(words[3], whole[3][~slow.is_pixel(whole[3])])
    source.open(0, 0)
    truth = joined([departures.truth for departures in source.finish(3_000_000) if departures.truth])
    assert np.bincount(truth.hit_pixel >> 16, minlength=4).tolist() == [
        np.count_nonzero(slow.is_pixel(part)) for part in words
    ]


def test_it_starts_anew_with_each_opening(tpx3: Path) -> None:
    source = RecordingSource(read_recording(tpx3), 4)
    counts = []
    for at in (1000, 90_000_000):
        source.open(0, at)
        counts.append([leaving.pixel_words for leaving in source.finish(at + 1_000_000)])
    assert sum(map(sum, counts[0])) == sum(map(sum, counts[1])) > 1000


def test_a_board_may_have_more_chips_than_the_recording_but_not_fewer(tpx3: Path, tmp_path: Path) -> None:
    with pytest.raises(RecordingError, match="4 chips; a board with 2 is too small"):
        RecordingSource(read_recording(tpx3), 2)
    one = write_raw(tmp_path / "one.raw", int(pixel_word(1, 2, 16_000, 5, 0)))
    words, _ = replayed(read_recording(one), 1000, n_chips=3)
    assert [part.size for part in words] == [1, 0, 0]


def test_the_host_time_at_the_head_of_a_raw_file_is_no_word(tmp_path: Path) -> None:
    hit = int(pixel_word(10, 20, 16 * 5000, 30, 0))
    for name, head in (("with.raw", [1_700_000_000 * 10**9]), ("without.raw", [])):
        recording = read_recording(write_raw(tmp_path / name, *head, hit))
        assert recording.chips[0].words.tolist() == [hit]


def test_times_that_wrap_are_unrolled(tmp_path: Path) -> None:
    wrap = 1 << 30
    times = [wrap - 1000, wrap - 10, wrap + 500, wrap + 200, wrap + 20_000]
    recording = read_recording(write_raw(tmp_path / "w.raw", *(int(pixel_word(1, 1, 16 * t, 9, 0)) for t in times)))
    assert recording.chips[0].counts.tolist() == [t - times[0] for t in times]
    assert recording.chips[0].due.tolist() == [0, 990, 1500, 1500, 21_000]


def test_one_word_far_in_the_future_is_not_believed_but_two_are(tmp_path: Path) -> None:
    far = 8 * COUNTS_PER_SECOND
    times = [1000, far, 2000, 3000, far + 10, far + 30]
    recording = read_recording(write_raw(tmp_path / "f.raw", *(int(pixel_word(1, 1, 16 * t, 9, 0)) for t in times)))
    assert recording.chips[0].counts.tolist() == [0, 0, 1000, 2000, far - 990, far - 970]


def test_timer_words_tell_the_boards_timer_and_the_end_of_readout_is_left_to_the_board(tmp_path: Path) -> None:
    start = (7 << 32) + 12_345
    words = (
        int(pixel_word(1, 1, 16 * start, 9, 0)),
        *timer_words(start + 100, 0x1A6B),
        end_of_readout_word(start + 200, 0x1A6B),
        int(tdc_word(0x6F, 7, (start + 300) * 96 + 5)),
    )
    at = (3 << 32) + 5
    (now,), truth = replayed(read_recording(write_raw(tmp_path / "t.raw", *words)), at, n_chips=1)
    assert now[1:5].tolist() == list(timer_words(at + 100, 0x1A6B))
    assert slow.top_bytes(now).tolist()[1:] == [0x44, 0x71, 0x45, 0x71, 0x6F]
    assert truth.edges.tolist() == [[1, 0, 7, (at + 300) * 96 + 5]]


def test_invalid_tdc_words_are_replayed_but_no_trigger(tmp_path: Path) -> None:
    good = int(tdc_word(0x6F, 7, 96_000))
    without_stamp = good & ~(0xF << 5)
    (now,), truth = replayed(read_recording(write_raw(tmp_path / "i.raw", good, without_stamp)), 0, n_chips=1)
    assert now.size == 2
    assert len(truth.edges) == 1


# --- damaged files ----------------------------------------------------------------------------------------------------
def test_a_truncated_recording_is_used_up_to_its_last_word(
    tpx3: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cut = tmp_path / "cut.tpx3"
    cut.write_bytes(tpx3.read_bytes()[: 8 * 500 + 3])
    recording = read_recording(cut)
    assert 450 < sum(chip.words.size for chip in recording.chips) < 500
    assert "cut within a word: its last 3 bytes" in caplog.text
    assert "ends within a chunk" in caplog.text


def test_words_between_chunks_are_left_out(tmp_path: Path) -> None:
    hit = int(pixel_word(10, 20, 16 * 5000, 30, 0))
    path = write_raw(tmp_path / "g.tpx3", chunk_header(0, 8), hit, 0x1234, hit, chunk_header(1, 8), hit)
    assert [chip.words.tolist() for chip in read_recording(path).chips] == [[hit], [hit]]


def test_random_bytes_are_replayed_as_they_are(tmp_path: Path) -> None:
    words = np.random.default_rng(1).integers(0, 1 << 64, 5000, dtype=np.uint64)
    recording = read_recording(write_raw(tmp_path / "r.raw", 0x2 << 60, *words.tolist()))
    now, _ = replayed(recording, 1000, n_chips=1)
    assert 4900 < now[0].size <= 5001


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("empty.raw", b"", "holds no word"),
        ("short.raw", b"1234567", "holds no word"),
        ("x.dat", bytes(64), "neither a .tpx3 file .* nor a Pymepix .raw"),
        ("x.tpx3", bytes(64), "neither a .tpx3 file"),
        ("headers.tpx3", chunk_header(0, 0).to_bytes(8, "little"), "holds no word of a chip"),
        ("chip9.tpx3", chunk_header(9, 8).to_bytes(8, "little") + bytes(8), "chip 9; a board has chips 0 to 3"),
    ],
)
def test_what_is_no_recording_is_refused_by_name(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(RecordingError, match=said) as refused:
        read_recording(path)
    assert name in str(refused.value)


def test_a_missing_recording_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecordingError, match=r"cannot read .*gone.tpx3: No such file"):
        read_recording(tmp_path / "gone.tpx3")


# --- real recordings --------------------------------------------------------------------------------------------------
def test_a_real_raw_recording_is_replayed_whole(real_data: Path) -> None:
    recording = read_recording(real_data / "centroid_pipeline_test.raw")
    (words,), truth = replayed(recording, 1_000_000, 1)
    assert words.size == recording.chips[0].words.size
    assert truth.hit_tick.size == np.count_nonzero(slow.is_pixel(words)) == 1_858
    assert np.bincount(truth.edges[:, 0] * 2 + truth.edges[:, 1]).tolist() == [0, 0, 14, 14, 1_100, 1_101]


def test_a_real_quad_recording_is_taken_apart_whole(real_data: Path) -> None:
    chips = read_recording(real_data / "suann_socket_background_serval32.tpx3").chips
    assert sum(chip.hits.row.size for chip in chips) == 98_548
    assert [len(chip.edges.table) for chip in chips] == [7_200] * 4
    for chip in chips[1:]:
        np.testing.assert_array_equal(chip.edges.table, chips[0].edges.table)
