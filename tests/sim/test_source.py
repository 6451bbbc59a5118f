"""What leaves a source is a function of the settings and the gate alone, and its truth is what a decoder must find."""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ophyd_timepix.protocol import column_phase
from spidr_sim.particles import PEAKS, PUMP_PROBE, time_of_flight_ns
from spidr_sim.scenes import SLICE_COUNTS, SPILL_COUNTS, SceneSettings
from spidr_sim.settings import ONE_PHASE_PLL
from spidr_sim.source import Departures, SceneSource, scene_source
from spidr_sim.synth import Synthesis, synthesize
from tests.sim import slow_decoder as slow

SCENES = ["vmi", "uniform", "dark"]
COUNTS_PER_MS = 40_000


def source_of(scene: str, **chosen: float | int) -> SceneSource:
    return scene_source(SceneSettings.chosen(scene, **chosen), keep_truth=True)  # type: ignore[arg-type]


def collected(departures: Iterator[Departures], n_chips: int) -> list[npt.NDArray[np.uint64]]:
    parts: list[list[npt.NDArray[np.uint64]]] = [[np.empty(0, np.uint64)] for _ in range(n_chips)]
    for leaving in departures:
        for chip, words in enumerate(parts):
            words.append(leaving.of_chip(chip).copy())
    return [np.concatenate(words) for words in parts]


def pieces(source: SceneSource, advances: int, close_counts: int) -> Iterator[Departures]:
    for _ in range(advances):
        yield source.advance()
    yield from source.finish(close_counts)


# --- pump and probe ---------------------------------------------------------------------------------------------------
def test_the_ions_of_one_peak_grow_with_the_delay_and_the_others_stay() -> None:
    source = source_of("vmi", rate_hz=200_000)
    grown = [peak.name for peak in PEAKS].index(PUMP_PROBE.peak)
    ions = []
    for delay_fs in (None, 1e9, PUMP_PROBE.t0_fs + PUMP_PROBE.tau_fs, PUMP_PROBE.t0_fs, -500.0):
        if delay_fs is not None:
            source.set_delay(delay_fs)
        source.open(0, 0)
        truth = [leaving.truth for leaving in source.finish(200 * COUNTS_PER_MS)]
        peaks = np.concatenate([part.particle_peak for part in truth if part is not None])
        ions.append(np.bincount(peaks, minlength=len(PEAKS)))
    undelayed, late, after_tau, *before = ions
    np.testing.assert_array_equal(undelayed, late)
    for counts in ions:
        np.testing.assert_allclose(np.delete(counts, grown), np.delete(late, grown), rtol=0.02)
    assert after_tau[grown] / late[grown] == pytest.approx(1 - np.exp(-1), abs=3 / np.sqrt(late[grown]))
    assert [counts[grown] for counts in before] == [0, 0]


def test_a_delay_acts_from_the_next_millisecond_on() -> None:
    source = source_of("vmi", rate_hz=200_000)
    source.open(0, 0)
    source.set_delay(-1.0, at_counts=10 * COUNTS_PER_MS + 1)
    for index, leaving in enumerate(source.finish(20 * COUNTS_PER_MS)):
        if leaving.truth is not None:
            assert (PUMP_PROBE.peak in {PEAKS[p].name for p in leaving.truth.particle_peak}) == (index <= 10)


# --- the same words ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("scene", SCENES)
def test_the_same_seed_gives_the_same_words_however_the_clock_is_polled(scene: str) -> None:
    close = 20 * COUNTS_PER_MS + 1234
    once, often = (source_of(scene, rate_hz=200_000, seed=5, n_chips=2) for _ in range(2))
    once.open(1, 777)
    often.open(1, 777)
    for a, b in zip(collected(pieces(once, 0, close), 2), collected(pieces(often, 17, close), 2), strict=True):
        np.testing.assert_array_equal(a, b)


def test_another_seed_and_another_timer_epoch_give_other_words() -> None:
    source = source_of("uniform", rate_hz=200_000)
    words = []
    for epoch in (0, 1, 0):
        source.open(epoch, 0)
        words.append(collected(source.finish(5 * COUNTS_PER_MS), 1)[0])
    np.testing.assert_array_equal(words[0], words[2])
    assert not np.array_equal(words[0], words[1])
    other = synthesize("uniform", rate_hz=200_000, seed=2, duration_s=0.005)
    assert not np.array_equal(words[0], other.words[0])


@pytest.fixture(scope="module")
def source() -> SceneSource:
    return source_of("vmi", rate_hz=100_000, shot_rate_hz=5_000)


@given(open_counts=st.integers(0, 3 * COUNTS_PER_MS), length=st.integers(1, 3 * COUNTS_PER_MS))
@settings(max_examples=30, deadline=None)
def test_the_gate_cuts_hits_and_edges_by_their_own_time(source: SceneSource, open_counts: int, length: int) -> None:
    source.open(0, open_counts)
    (words,) = collected(source.finish(open_counts + length), 1)
    times = np.concatenate([slow.hits(words, [0] * 128)[:, 3], slow.edges(words)[:, 3]])
    assert np.all(times >= open_counts * 96)
    assert np.all(times < (open_counts + length) * 96)


def test_a_slice_that_left_is_not_touched_by_a_later_closing() -> None:
    """Closing as soon as the source says that all is decided leaves what has been sent as it would be without it."""
    source = source_of("vmi", rate_hz=500_000, shot_rate_hz=100_000, seed=3)
    close = SLICE_COUNTS + SPILL_COUNTS
    source.open(0, 0)
    early = source.advance()
    assert early.truth is not None
    assert source.final_counts == close
    assert early.truth.hit_tick.max() < close * 96
    known_before = collected(iter([early]), 1)[0]
    source.open(0, 0)
    known_after = collected(source.finish(close), 1)[0]
    np.testing.assert_array_equal(known_after[: known_before.size], known_before)


# --- truth ------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("pll_word", [ONE_PHASE_PLL, 0x05E, 0x11E])
@pytest.mark.parametrize(("scene", "n_chips"), [("vmi", 4), ("uniform", 2), ("dark", 1)])
def test_the_truth_is_what_the_words_say(scene: str, n_chips: int, pll_word: int) -> None:
    made = synthesize(
        scene, rate_hz=300_000, shot_rate_hz=2_000, duration_s=0.03, n_chips=n_chips, pll_word=pll_word, seed=11
    )
    phase = column_phase(pll_word)
    for chip, words in enumerate(made.words):
        of_chip = made.truth.hit_pixel >> 16 == chip
        pixel = made.truth.hit_pixel[of_chip]
        told = np.stack(
            [pixel & 0xFF, (pixel >> 8) & 0xFF, made.truth.hit_tot[of_chip], made.truth.hit_tick[of_chip]], axis=1
        )
        np.testing.assert_array_equal(slow.as_rows(slow.hits(words, phase)), slow.as_rows(told.astype(np.int64)))
        np.testing.assert_array_equal(slow.as_rows(slow.edges(words)), slow.as_rows(made.truth.edges))


def test_hits_belong_to_particles_near_them() -> None:
    truth = synthesize("vmi", rate_hz=300_000, duration_s=0.02, n_chips=4).truth
    particle = truth.hit_particle
    np.testing.assert_array_equal(np.bincount(particle, minlength=truth.particle_tick.size), truth.particle_hits)
    assert np.all(truth.particle_hits > 0)
    np.testing.assert_array_equal(truth.hit_pixel >> 16, truth.particle_chip[particle])
    assert np.all(np.abs((truth.hit_pixel & 0xFF) - truth.particle_x[particle]) <= 2.5)
    assert np.all(np.abs(((truth.hit_pixel >> 8) & 0xFF) - truth.particle_y[particle]) <= 2.5)
    late = (truth.hit_tick - truth.particle_tick[particle]) * 25 / 96
    assert late.min() > -2
    assert 50 < late.max() <= 95


# --- physics ----------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def ions() -> Synthesis:
    return synthesize("vmi", rate_hz=2e6, duration_s=0.25, seed=4)


def test_ions_come_in_mass_peaks_after_their_shots(ions: Synthesis) -> None:
    truth = ions.truth
    flight_ns = (truth.particle_tick - truth.shot_ticks[truth.particle_shot - truth.first_shot]) * 25 / 96
    for number, peak in enumerate(PEAKS):
        assert flight_ns[truth.particle_peak == number].mean() == pytest.approx(time_of_flight_ns(peak), abs=3)


def test_fragments_of_one_channel_lie_on_rings(ions: Synthesis) -> None:
    """A projected Newton sphere is brightest at its edge and empty beyond."""
    truth = ions.truth
    methyl = truth.particle_peak == 2
    radius = np.hypot(truth.particle_x[methyl] - 127.5, truth.particle_y[methyl] - 127.5)
    per_area = [np.count_nonzero((radius >= r) & (radius < r + 4)) / (r + 2) for r in (40, 72, 82, 96)]
    inside, between, edge, beyond = per_area
    assert edge > 2 * between
    assert edge > 3 * inside
    assert beyond < 0.02 * edge


def test_small_signals_come_late(ions: Synthesis) -> None:
    truth = ions.truth
    late_ns = (truth.hit_tick - truth.particle_tick[truth.hit_particle]) * 25 / 96
    by_tot = [late_ns[truth.hit_tot == tot].mean() for tot in (4, 8, 20, 60)]
    assert by_tot == sorted(by_tot, reverse=True)
    assert by_tot[0] > 40
    assert by_tot[-1] < 10


def test_tot_saturates_at_1022(ions: Synthesis) -> None:
    assert ions.truth.hit_tot.max() == 1022
    assert ions.truth.hit_tot.min() >= 1


@pytest.mark.parametrize(("scene", "rate_hz"), [("vmi", 4e6), ("uniform", 2e7), ("dark", 2e6)])
def test_a_pixel_is_dead_for_475_ns_after_its_tot(scene: str, rate_hz: float) -> None:
    truth = synthesize(scene, rate_hz=rate_hz, duration_s=0.02).truth
    order = np.lexsort((truth.hit_tick, truth.hit_pixel))
    pixel, tick, tot = truth.hit_pixel[order], truth.hit_tick[order], truth.hit_tot[order].astype(np.int64)
    same = pixel[1:] == pixel[:-1]
    gap = tick[1:] - tick[:-1] - tot[:-1] * 96
    assert np.count_nonzero(same) > 1000
    assert gap[same].min() >= 19 * 96


@pytest.mark.parametrize("scene", SCENES)
def test_words_leave_out_of_order_but_never_0_4096_ms_late(scene: str) -> None:
    words = synthesize(scene, rate_hz=1e6, duration_s=0.1, shot_rate_hz=1000).words[0]
    ticks = slow.hits(words, [0] * 128)[:, 3]
    late_us = (np.maximum.accumulate(ticks) - ticks) * 25e-3 / 96
    assert np.count_nonzero(late_us) > 10
    assert late_us.max() < 350


def test_most_words_are_a_few_us_late_and_a_tail_up_to_0_3_ms() -> None:
    words = synthesize("uniform", rate_hz=1e6, duration_s=0.1).words[0]
    ticks = slow.hits(words, [0] * 128)[:, 3]
    late_us = (np.maximum.accumulate(ticks) - ticks) * 25e-3 / 96
    assert np.quantile(late_us, 0.5) < 10
    assert 50 < np.quantile(late_us, 0.99) < 150
    assert 200 < late_us.max() < 330


@pytest.mark.parametrize(
    ("scene", "rate_hz", "n_chips"),
    [
        ("vmi", 50_000, 1),
        ("vmi", 1e6, 4),
        ("vmi", 1e7, 1),
        ("uniform", 1e6, 2),
        ("uniform", 1e7, 1),
        ("dark", 20_000, 1),
    ],
)
def test_the_mean_hit_rate_is_the_one_asked_for(scene: str, rate_hz: float, n_chips: int) -> None:
    seconds = max(0.1, 50_000 / rate_hz)
    made = synthesize(scene, rate_hz=rate_hz, duration_s=seconds, n_chips=n_chips)
    assert made.truth.hit_tick.size / seconds == pytest.approx(rate_hz, rel=0.04)


def test_uniform_clusters_hold_1_plus_poisson_7_pixels() -> None:
    truth = synthesize("uniform", rate_hz=1e6, duration_s=0.2).truth
    away = (np.abs(truth.particle_x - 127.5) < 124) & (np.abs(truth.particle_y - 127.5) < 124)
    sizes = truth.particle_hits[away]
    assert sizes.mean() == pytest.approx(8, abs=0.1)
    assert sizes.var() == pytest.approx(7, abs=0.5)


# --- triggers ---------------------------------------------------------------------------------------------------------
def test_both_inputs_have_both_edges_on_one_counter_each() -> None:
    edges = synthesize("uniform", rate_hz=0, shot_rate_hz=1_000, duration_s=2.2).truth.edges
    for number, pulses in ((1, 2200), (2, 220)):
        mine = edges[edges[:, 0] == number]
        mine = mine[np.argsort(mine[:, 3])]
        assert len(mine) == 2 * pulses
        np.testing.assert_array_equal(mine[:, 1], np.arange(2 * pulses) % 2)
        np.testing.assert_array_equal(mine[:, 2], np.arange(2 * pulses) % 4096)


def test_every_chip_repeats_every_edge() -> None:
    made = synthesize("vmi", rate_hz=10_000, n_chips=4, duration_s=0.05)
    first = slow.edges(made.words[0])
    assert len(first) == len(made.truth.edges) > 100
    for words in made.words[1:]:
        np.testing.assert_array_equal(slow.as_rows(slow.edges(words)), slow.as_rows(first))


def test_dark_has_no_triggers_unless_asked_for() -> None:
    assert len(synthesize("dark", duration_s=0.05).truth.edges) == 0
    assert len(synthesize("dark", duration_s=0.05, shot_rate_hz=1000).truth.edges) == 100 + 10


def test_noise_is_single_pixels_with_a_few_bad_ones() -> None:
    truth = synthesize("dark", rate_hz=20_000, duration_s=1.0).truth
    assert np.all(truth.particle_hits == 1)
    counts = np.sort(np.bincount(truth.hit_pixel, minlength=1 << 16))[::-1]
    assert counts[:20].sum() == pytest.approx(0.6 * counts.sum(), rel=0.05)
    assert counts[30] < 10


# --- bad input --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"n_chips": 5}, "1 to 4 chips, not 5"),
        ({"n_chips": 0}, "1 to 4 chips, not 0"),
        ({"rate_hz": -1.0}, "hit rate must be 0 to"),
        ({"rate_hz": float("nan")}, "hit rate must be 0 to"),
        ({"shot_rate_hz": 2e6}, "shot rate must be 0 to"),
        ({"shot_rate_hz": 0.0}, "needs a shot rate above 0 Hz"),
        ({"seed": -1}, "seed must be 0 to"),
    ],
)
def test_what_cannot_be_simulated_is_refused(wrong: dict[str, float], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        SceneSettings.chosen("vmi", **wrong)  # type: ignore[arg-type]


def test_an_unknown_scene_is_refused() -> None:
    with pytest.raises(ValueError, match="nebula"):
        SceneSettings.chosen("nebula")
