"""Each setting of a chip shows in the words that it sends, read by a decoder of nobody's making."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pytest

from ophyd_timepix.protocol import Dac, GeneralConfig, Mode, PixelMatrix, Polarity
from ophyd_timepix.protocol.pixel_matrix import encode_ctpr
from spidr_sim import frontend
from spidr_sim.scenes import SceneSettings
from spidr_sim.settings import BiasRamp, ChipSettings
from spidr_sim.source import Departures, SceneSource, SliceTruth, scene_source
from spidr_sim.synth import joined
from tests.sim import slow_decoder as slow

MS = 40_000
PHASE = [0] * 128
Words = npt.NDArray[np.uint64]
Bits = npt.NDArray[np.bool_]

OPERATING = ChipSettings(pll=0x01E)
IN_THE_NOISE = 1180 - 160 * 6
"""Vthreshold_fine that puts the threshold of a chip on its baseline, with Vthreshold_coarse 6."""


@dataclass
class Exposure:
    """What a source sent between an opening and a closing."""

    words: list[Words]
    truth: SliceTruth

    @property
    def hits(self) -> npt.NDArray[np.int64]:
        """Rows (x, y, ToT, tick) of chip 0."""
        return slow.hits(self.words[0], PHASE)


def source_of(scene: str = "vmi", rate_hz: float = 300_000, **chosen: int | float) -> SceneSource:
    return scene_source(SceneSettings.chosen(scene, rate_hz=rate_hz, **chosen), keep_truth=True)  # type: ignore[arg-type]


def gathered(departures: Iterator[Departures], n_chips: int) -> Exposure:
    words: list[list[Words]] = [[np.empty(0, np.uint64)] for _ in range(n_chips)]
    truths = []
    for leaving in departures:
        for chip in range(n_chips):
            words[chip].append(leaving.of_chip(chip).copy())
        if leaving.truth is not None:
            truths.append(leaving.truth)
    return Exposure([np.concatenate(parts) for parts in words], joined(truths))


def exposed(source: SceneSource, settings: ChipSettings, ms: float = 20, at: int = 0, **opening: bool) -> Exposure:
    for chip in range(source.n_chips):
        source.set_chip(chip, settings)
    source.open(0, at, **opening)  # type: ignore[arg-type]
    return gathered(source.finish(at + round(ms * MS)), source.n_chips)


def with_dacs(settings: ChipSettings, dacs: Mapping[Dac, int]) -> ChipSettings:
    return replace(settings, dacs=dict(settings.dacs) | dict(dacs))


def with_matrix(settings: ChipSettings, matrix: PixelMatrix) -> ChipSettings:
    return replace(settings, codes=matrix.codes().tobytes())


def with_general(settings: ChipSettings, **fields: int) -> ChipSettings:
    return replace(settings, general=GeneralConfig(**fields).word)


def at_threshold(fine: int, settings: ChipSettings = OPERATING) -> ChipSettings:
    return with_dacs(settings, {Dac.VTHRESHOLD_FINE: fine})


def all_but(*pixels: tuple[int, int]) -> Bits:
    """A mask that leaves some pixels on, [column, row]."""
    mask = np.ones((256, 256), np.bool_)
    for pixel in pixels:
        mask[pixel] = False
    return mask


def told(truth: SliceTruth, chip: int = 0) -> npt.NDArray[np.int64]:
    """Rows (x, y, ToT, tick) of the truth."""
    mine = truth.hit_pixel >> 16 == chip
    pixel = truth.hit_pixel[mine]
    columns = [pixel & 0xFF, (pixel >> 8) & 0xFF, truth.hit_tot[mine], truth.hit_tick[mine]]
    return np.stack(columns, axis=1).astype(np.int64)


def assert_truth_is_what_the_words_say(exposure: Exposure, near_tick: int = 0) -> None:
    for chip, words in enumerate(exposure.words):
        np.testing.assert_array_equal(
            slow.as_rows(slow.hits(words, PHASE, near_tick)), slow.as_rows(told(exposure.truth, chip))
        )


@pytest.fixture(scope="module")
def ions() -> SceneSource:
    return source_of("vmi", 300_000)


@pytest.fixture(scope="module")
def darkness() -> SceneSource:
    """No particle and no trigger: what comes is made in the chip."""
    return source_of("dark", 0.0)


@pytest.fixture(scope="module")
def operating(ions: SceneSource) -> Exposure:
    return exposed(ions, OPERATING)


# --- threshold --------------------------------------------------------------------------------------------------------
def test_the_operating_defaults_are_what_a_fresh_source_has(ions: SceneSource, operating: Exposure) -> None:
    fresh = source_of("vmi", 300_000)
    fresh.open(0, 0)
    np.testing.assert_array_equal(gathered(fresh.finish(20 * MS), 1).words[0], operating.words[0])
    assert len(operating.hits) == pytest.approx(6000, rel=0.15)


def test_a_higher_threshold_cuts_small_signals_and_a_lower_one_shows_more(ions: SceneSource) -> None:
    hits = [exposed(ions, at_threshold(fine), ms=10).hits for fine in (320, 370, 420, 470, 511)]
    sizes = [len(rows) for rows in hits]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] > 1.15 * sizes[2] > 1.3 * sizes[4]
    least = [np.quantile(rows[:, 2], 0.02) for rows in hits]
    assert least == sorted(least)
    assert least[-1] >= least[0] + 2


def test_the_coarse_threshold_is_160_fine_steps(ions: SceneSource) -> None:
    fine = exposed(ions, with_dacs(OPERATING, {Dac.VTHRESHOLD_COARSE: 6, Dac.VTHRESHOLD_FINE: 500}), ms=5)
    coarse = exposed(ions, with_dacs(OPERATING, {Dac.VTHRESHOLD_COARSE: 7, Dac.VTHRESHOLD_FINE: 340}), ms=5)
    np.testing.assert_array_equal(fine.words[0], coarse.words[0])


def test_chip_reset_values_are_far_above_the_noise_and_nearly_without_tot(ions: SceneSource) -> None:
    reset = exposed(ions, replace(OPERATING, dacs={dac: dac.reset for dac in Dac})).hits
    assert 0 < len(reset) < 6000
    assert np.median(reset[:, 2]) <= 3


@pytest.mark.parametrize("scene", ["uniform", "dark"])
def test_every_scene_has_its_threshold(scene: str) -> None:
    source = source_of(scene, 300_000)
    sizes = [len(exposed(source, with_dacs(OPERATING, {Dac.VTHRESHOLD_COARSE: c}), ms=10).hits) for c in (6, 8)]
    assert sizes[0] == pytest.approx(3000, rel=0.15)
    assert sizes[1] < 0.9 * sizes[0]


# --- noise ------------------------------------------------------------------------------------------------------------
def noise_centre(source: SceneSource, settings: ChipSettings, fines: range) -> float:
    """The fine threshold about which a pixel makes noise."""
    counts = np.array([len(exposed(source, at_threshold(fine, settings), ms=4).hits) for fine in fines])
    assert counts.sum() > 300
    return float(np.average(np.array(fines), weights=counts))


def test_a_threshold_scan_shows_the_noise_about_the_baseline_and_nothing_at_the_operating_point(
    darkness: SceneSource,
) -> None:
    above = [0, 30, 60, 100, 200]
    rates = {d: len(exposed(darkness, at_threshold(IN_THE_NOISE + d), ms=5).hits) / 5e-3 for d in above}
    below = {d: len(exposed(darkness, at_threshold(IN_THE_NOISE - d), ms=5).hits) / 5e-3 for d in above}
    assert rates[0] == pytest.approx(frontend.NOISE_OF_A_CHIP_HZ, rel=0.1)
    assert rates[0] > rates[30] > rates[60] > rates[200] == 0
    for d in (30, 60, 100):
        assert rates[d] == pytest.approx(below[d], rel=0.25, abs=5000)


def test_the_noise_of_a_single_pixel_has_the_width_of_the_front_end(darkness: SceneSource) -> None:
    settings = with_matrix(OPERATING, PixelMatrix(mask=all_but((10, 20))))
    fines = range(IN_THE_NOISE - 70, IN_THE_NOISE + 70, 4)
    exposures = [exposed(darkness, at_threshold(fine, settings), ms=4) for fine in fines]
    counts = np.array([len(exposure.hits) for exposure in exposures])
    centre = np.average(np.array(fines), weights=counts)
    width = np.sqrt(np.average((np.array(fines) - centre) ** 2, weights=counts))
    assert width == pytest.approx(frontend.NOISE_SIGMA_STEPS, rel=0.15)
    assert {tuple(row) for exposure in exposures for row in exposure.hits[:, :2]} == {(10, 20)}


def test_the_adjustment_of_a_pixel_shifts_its_edge_in_proportion_to_its_dac(darkness: SceneSource) -> None:
    adjust = np.zeros((256, 256), np.uint8)
    adjust[10, 20] = 11
    mask = all_but((10, 20))
    plain = with_matrix(OPERATING, PixelMatrix(mask=mask))
    trimmed = with_matrix(OPERATING, PixelMatrix(mask=mask, threshold_adjust=adjust))
    half = with_dacs(trimmed, {Dac.IBIAS_PIXELDAC: 96})
    around = [range(IN_THE_NOISE - shift - 70, IN_THE_NOISE - shift + 70, 5) for shift in (0, 66, 33)]
    centres = [
        noise_centre(darkness, settings, fines) for settings, fines in zip((plain, trimmed, half), around, strict=True)
    ]
    assert centres[0] - centres[1] == pytest.approx(11 * frontend.TRIM_STEPS, abs=2)
    assert centres[0] - centres[2] == pytest.approx(11 * frontend.TRIM_STEPS / 2, abs=2)


def test_pixels_differ_by_seed_and_chip_and_stay_as_they_are() -> None:
    offsets = frontend.pixel_offsets(3, 1)
    np.testing.assert_array_equal(offsets, frontend.pixel_offsets(3, 1))
    assert not np.array_equal(offsets, frontend.pixel_offsets(3, 2))
    assert not np.array_equal(offsets, frontend.pixel_offsets(4, 1))
    assert offsets.std() == pytest.approx(frontend.OFFSET_SIGMA_STEPS, rel=0.02)
    assert np.abs(offsets).max() <= 3.5 * frontend.OFFSET_SIGMA_STEPS


def test_no_pixel_makes_more_noise_than_its_share_of_the_chip(darkness: SceneSource) -> None:
    few = np.zeros((256, 256), np.bool_)
    few[:, ::2] = True
    for mask in (np.zeros((256, 256), np.bool_), few):
        settings = at_threshold(IN_THE_NOISE, with_matrix(OPERATING, PixelMatrix(mask=mask)))
        rate = len(exposed(darkness, settings, ms=5).hits) / 5e-3
        assert rate == pytest.approx(frontend.NOISE_OF_A_CHIP_HZ, rel=0.1)


def test_noise_has_no_particle_in_the_truth(ions: SceneSource) -> None:
    exposure = exposed(ions, at_threshold(IN_THE_NOISE + 60), ms=5)
    particle = exposure.truth.hit_particle
    assert np.count_nonzero(particle < 0) > 50
    np.testing.assert_array_equal(
        np.bincount(particle[particle >= 0], minlength=exposure.truth.particle_tick.size), exposure.truth.particle_hits
    )
    assert_truth_is_what_the_words_say(exposure)


# --- mask -------------------------------------------------------------------------------------------------------------
def test_masked_pixels_are_silent_for_particles_noise_and_test_pulses(ions: SceneSource) -> None:
    mask = np.zeros((256, 256), np.bool_)
    mask[:128, :] = True
    mask[:, 200:] = True
    settings = with_matrix(OPERATING, PixelMatrix(mask=mask, test=np.ones((256, 256), np.bool_)))
    settings = replace(
        with_general(at_threshold(IN_THE_NOISE + 40, settings), test_pulse=1, test_pulse_digital=1),
        test_columns=b"\xff" * 32, test_pulse_period=255, test_pulses=1,
    )  # fmt: skip
    exposure = exposed(ions, settings, ms=5)
    x, y = exposure.hits[:, 0], exposure.hits[:, 1]
    assert x.min() == 128
    assert y.max() == 199
    assert np.unique(y << 8 | x).size == 128 * 200
    assert_truth_is_what_the_words_say(exposure)


# --- test pulses ------------------------------------------------------------------------------------------------------
TESTED = [(3, 7), (3, 200), (128, 7), (255, 255)]


def pulsing(period: int = 5, phase: int = 0, pulses: int = 7, columns: tuple[int, ...] = (3, 128, 255)) -> ChipSettings:
    test = np.zeros((256, 256), np.bool_)
    for pixel in [*TESTED, (77, 77)]:
        test[pixel] = True
    enabled = np.zeros(256, np.bool_)
    enabled[list(columns)] = True
    return replace(
        with_matrix(with_general(OPERATING, test_pulse=1, test_pulse_digital=1), PixelMatrix(test=test)),
        test_columns=encode_ctpr(enabled),
        test_pulse_period=phase << 16 | period,
        test_pulses=pulses,
    )


@pytest.mark.parametrize("phase", [0, 1, 15])
def test_digital_test_pulses_come_where_and_when_they_are_set_to(darkness: SceneSource, phase: int) -> None:
    at = 12_345
    exposure = exposed(darkness, pulsing(phase=phase), ms=2, at=at)
    period = 2 * (64 * 5 + 1)
    expected = [
        (x, y, frontend.DIGITAL_PULSE_TOT, (at + n * period) * 96 + phase * 6) for n in range(1, 8) for x, y in TESTED
    ]
    np.testing.assert_array_equal(slow.as_rows(exposure.hits), slow.as_rows(np.array(expected)))
    assert_truth_is_what_the_words_say(exposure)


def test_the_shutter_cuts_test_pulses(darkness: SceneSource) -> None:
    exposure = exposed(darkness, pulsing(period=100, pulses=0xFFFF), ms=3)
    period = 2 * (64 * 100 + 1)
    assert len(exposure.hits) == len(TESTED) * (3 * MS // period)
    np.testing.assert_array_equal(np.unique(exposure.hits[:, 3]), np.arange(1, 3 * MS // period + 1) * period * 96)


@pytest.mark.parametrize(
    "off",
    [{"test_pulse": 0}, {"test_pulse": 1, "test_pulse_external": 1}],
)
def test_no_test_pulses_without_the_general_configuration(darkness: SceneSource, off: dict[str, int]) -> None:
    assert len(exposed(darkness, with_general(pulsing(), **off)).hits) == 0


def test_no_test_pulses_without_a_number_or_a_column(darkness: SceneSource) -> None:
    assert len(exposed(darkness, pulsing(pulses=0)).hits) == 0
    assert len(exposed(darkness, pulsing(columns=(0, 78))).hits) == 0


def analogue(fine: int, **dacs: int) -> ChipSettings:
    settings = with_general(pulsing(pulses=400, period=1), test_pulse=1)
    return with_dacs(settings, {Dac.VTP_COARSE: 128, Dac.VTP_FINE: fine, **{Dac[name]: dacs[name] for name in dacs}})


def test_analogue_test_pulses_have_the_charge_of_their_voltage(darkness: SceneSource) -> None:
    for fine in (336, 456, 56):
        electrons = abs(128 * 5 - fine * 2.5) * 18.7
        hits = exposed(darkness, analogue(fine), ms=2.6).hits
        assert len(hits) == len(TESTED) * 400
        assert set(hits[:, 2]) == {int(electrons / 500)}
        late_ns = (hits[:, 3] % (130 * 96)) * 25 / 96
        assert 0 <= late_ns.min() == late_ns.max() < 90


def test_equal_test_pulse_voltages_give_no_charge(darkness: SceneSource) -> None:
    assert len(exposed(darkness, analogue(256)).hits) == 0


def test_a_threshold_scan_over_test_pulses_is_an_s_curve(darkness: SceneSource) -> None:
    """200 mV are 374 steps: half of the pulses cross a threshold as high, which is where the offset puts it."""
    voltage = 336
    fines = range(IN_THE_NOISE + 374 - 160 - 90, IN_THE_NOISE + 374 - 160 + 90, 10)
    shares = [
        len(exposed(darkness, analogue(voltage, VTHRESHOLD_COARSE=7, VTHRESHOLD_FINE=fine), ms=2.6).hits) / 1600
        for fine in fines
    ]
    assert shares == sorted(shares, reverse=True)
    assert shares[0] == 1.0
    assert shares[-1] == 0.0
    assert any(0.1 < share < 0.9 for share in shares)


def test_a_matrix_full_of_test_pulses_comes_no_faster_than_it_can_be_read(darkness: SceneSource) -> None:
    settings = replace(
        with_matrix(pulsing(period=0, pulses=0xFFFF), PixelMatrix(test=np.ones((256, 256), np.bool_))),
        test_columns=b"\xff" * 32,
    )
    exposure = exposed(darkness, settings, ms=3)
    assert 0.9 * 240_000 < exposure.words[0].size <= 240_000 + 65_536


# --- mode, polarity, fast ToA, discharge current ----------------------------------------------------------------------
def test_electrons_find_no_particle_in_a_scene_of_holes_but_the_noise_stays(ions: SceneSource) -> None:
    electrons = with_general(OPERATING, polarity=Polarity.ELECTRONS)
    assert len(exposed(ions, electrons, ms=5).hits) == 0
    assert len(exposed(ions, at_threshold(IN_THE_NOISE, electrons), ms=2).hits) > 1000


def test_toa_only_states_no_tot_and_the_same_hits(ions: SceneSource, operating: Exposure) -> None:
    exposure = exposed(ions, with_general(OPERATING, mode=Mode.TOA))
    expected = operating.hits
    expected[:, 2] = 0
    np.testing.assert_array_equal(slow.as_rows(exposure.hits), slow.as_rows(expected))
    assert_truth_is_what_the_words_say(exposure)


def counts_of(words: Words) -> dict[tuple[int, int], tuple[int, int]]:
    """(x, y) -> (events, iToT) of words of a counting chip, field by field."""
    found = {}
    for word in words.tolist():
        dcol, super_pixel, pixel = word >> 53 & 0x7F, word >> 47 & 0x3F, word >> 44 & 7
        place = 2 * dcol + pixel // 4, 4 * super_pixel + pixel % 4
        assert place not in found
        found[place] = (word >> 20 & 0x3FF, word >> 30 & 0x3FFF)
    return found


@pytest.mark.parametrize(("sequential", "nibble"), [(False, 0xB), (True, 0xA)])
def test_counting_pixels_say_once_at_the_end_how_many_and_how_much(
    ions: SceneSource, operating: Exposure, sequential: bool, nibble: int
) -> None:
    settings = with_general(OPERATING, mode=Mode.COUNT_ITOT)
    ions.set_chip(0, settings)
    ions.open(0, 0, sequential=sequential)
    early = [ions.advance().pixel_words[0] for _ in range(18)]
    assert sum(early) == 0
    exposure = exposed(ions, settings, sequential=sequential)
    pixels = exposure.words[0][np.isin(exposure.words[0] >> np.uint64(60), [0xA, 0xB])]
    assert set((pixels >> np.uint64(60)).tolist()) == {nibble}
    expected: dict[tuple[int, int], tuple[int, int]] = {}
    for x, y, tot, _ in operating.hits.tolist():
        n, total = expected.get((x, y), (0, 0))
        expected[x, y] = n + 1, total + tot
    assert counts_of(pixels) == expected
    np.testing.assert_array_equal(slow.as_rows(told(exposure.truth)), slow.as_rows(operating.hits))


def test_counters_stop_at_the_last_state_of_their_registers(darkness: SceneSource) -> None:
    settings = with_general(pulsing(period=0, pulses=0xFFFF), test_pulse=1, test_pulse_digital=1, mode=Mode.COUNT_ITOT)
    exposure = exposed(darkness, settings, ms=4)
    assert counts_of(exposure.words[0]) == dict.fromkeys(TESTED, (1022, 16_382))


def test_without_fast_toa_times_are_whole_counts(ions: SceneSource, operating: Exposure) -> None:
    exposure = exposed(ions, with_general(OPERATING, fast_toa=0))
    expected = operating.hits
    expected[:, 3] = -(-expected[:, 3] // 96) * 96
    np.testing.assert_array_equal(slow.as_rows(exposure.hits), slow.as_rows(expected))
    assert_truth_is_what_the_words_say(exposure)


def test_a_stronger_discharge_current_shortens_tot(ions: SceneSource, operating: Exposure) -> None:
    doubled = exposed(ions, with_dacs(OPERATING, {Dac.IBIAS_IKRUM: 10}))
    halved = exposed(ions, with_dacs(OPERATING, {Dac.IBIAS_IKRUM: 2}))
    median = np.median(operating.hits[:, 2])
    assert np.median(doubled.hits[:, 2]) == pytest.approx(median / 2, rel=0.1)
    assert np.median(halved.hits[:, 2]) == pytest.approx(median * 2.5, rel=0.1)
    assert doubled.hits[:, 2].min() == 1
    assert halved.hits[:, 2].max() == 1022
    assert_truth_is_what_the_words_say(doubled)


# --- bias -------------------------------------------------------------------------------------------------------------
def biased(source: SceneSource, volts: float) -> Exposure:
    source.set_bias(BiasRamp.settled(volts))
    try:
        return exposed(source, OPERATING)
    finally:
        source.set_bias(BiasRamp.settled(50.0))


def test_the_bias_decides_what_the_sensor_collects(ions: SceneSource, operating: Exposure) -> None:
    hits = {volts: biased(ions, volts).hits for volts in (0.0, 5.0, 20.0, 90.0)}
    assert len(hits[0.0]) == 0
    assert len(hits[5.0]) < len(hits[20.0]) < len(operating.hits) <= len(hits[90.0])
    assert np.median(hits[5.0][:, 2]) < 0.7 * np.median(operating.hits[:, 2])


def test_the_50_v_that_a_board_can_set_are_50_v(ions: SceneSource, operating: Exposure) -> None:
    np.testing.assert_array_equal(biased(ions, 12 + 1691 * 92 / 4095).words[0], operating.words[0])


def test_a_ramp_goes_on_while_the_shutter_is_open(ions: SceneSource) -> None:
    ions.set_bias(BiasRamp(start_v=0.0, target_v=50.0, since_s=100.002, tau_s=0.01))
    ions.set_chip(0, OPERATING)
    ions.open(0, 0, zero_s=100.0)
    hits = gathered(ions.finish(20 * MS), 1).hits
    ions.set_bias(BiasRamp.settled(50.0))
    per_ms = np.bincount(hits[:, 3] // (96 * MS), minlength=20)
    assert per_ms[:2].sum() == 0
    assert 0 < per_ms[2:5].mean() < 0.7 * per_ms[14:].mean()


def test_a_ramp_arrives() -> None:
    ramp = BiasRamp(start_v=10.0, target_v=50.0, since_s=3.0, tau_s=0.5)
    assert ramp.at(0.0) == ramp.at(3.0) == 10.0
    assert ramp.at(3.5) == pytest.approx(50 - 40 / np.e)
    assert ramp.at(7.0) == 50.0


# --- sequential read-out ----------------------------------------------------------------------------------------------
def test_a_sequential_readout_waits_for_the_shutter_and_has_one_hit_of_each_pixel(
    ions: SceneSource, operating: Exposure
) -> None:
    ions.set_chip(0, OPERATING)
    ions.open(0, 0, sequential=True)
    assert sum(ions.advance().pixel_words[0] for _ in range(18)) == 0
    exposure = exposed(ions, OPERATING, sequential=True)
    pixels = exposure.words[0][exposure.words[0] >> np.uint64(60) == 0xA]
    assert not np.any(exposure.words[0] >> np.uint64(60) == 0xB)
    hits = slow.hits(pixels | np.uint64(0xB << 60), PHASE)
    np.testing.assert_array_equal(slow.as_rows(hits), slow.as_rows(told(exposure.truth)))
    order = np.argsort(operating.hits[:, 3], kind="stable")
    first: dict[tuple[int, int], int] = {}
    for x, y, _, tick in operating.hits[order].tolist():
        first.setdefault((x, y), tick)
    assert {(x, y): tick for x, y, _, tick in hits.tolist()} == first


# --- filter and power -------------------------------------------------------------------------------------------------
def test_words_that_the_header_filter_holds_back_do_not_leave_and_are_not_in_the_truth() -> None:
    source = source_of("vmi", 300_000, n_chips=2)
    source.set_filter(0, 0xFFFF & ~(1 << 0xB))
    source.set_filter(1, 0xFFFF & ~(1 << 0x6))
    exposure = exposed(source, OPERATING)
    no_pixels, no_edges = (words >> np.uint64(60) for words in exposure.words)
    assert set(no_pixels.tolist()) == {0x6}
    assert set(no_edges.tolist()) == {0xB}
    assert set(exposure.truth.hit_pixel >> 16) == {1}
    assert_truth_is_what_the_words_say(exposure)
    source.set_filter(0, 0)
    exposure = exposed(source, OPERATING)
    assert exposure.words[0].size == 0
    assert len(exposure.truth.edges) == 0


def test_the_filter_tells_sequential_from_data_driven(ions: SceneSource) -> None:
    ions.set_filter(0, 1 << 0xA)
    assert exposed(ions, OPERATING).words[0].size == 0
    assert exposed(ions, OPERATING, sequential=True).words[0].size > 1000
    ions.set_filter(0, 0xFFFF)


def test_a_chip_without_power_is_silent() -> None:
    source = source_of("vmi", 300_000, n_chips=2)
    source.set_chip(0, replace(OPERATING, alive=False))
    source.open(0, 0)
    exposure = gathered(source.finish(10 * MS), 2)
    assert [words.size > 0 for words in exposure.words] == [False, True]
    assert set(exposure.truth.hit_pixel >> 16) == {1}
    assert len(exposure.truth.edges) > 0


# --- when settings act ------------------------------------------------------------------------------------------------
def changing(advances: int) -> Exposure:
    source = source_of("uniform", 300_000, seed=9)
    source.set_chip(0, OPERATING)
    source.open(0, 0)

    def words() -> Iterator[Departures]:
        for number in range(10):
            if number == 5:
                source.set_chip(0, with_matrix(OPERATING, PixelMatrix(mask=all_but())), at_counts=7 * MS + 1)
                source.set_chip(0, at_threshold(IN_THE_NOISE), at_counts=12 * MS)
            if number < advances:
                yield source.advance()
        yield from source.finish(15 * MS)

    return gathered(words(), 1)


def test_settings_act_from_the_millisecond_after_they_were_told_however_the_clock_is_polled() -> None:
    once, often = changing(5), changing(9)
    np.testing.assert_array_equal(once.words[0], often.words[0])
    per_ms = np.bincount(once.hits[:, 3] // (96 * MS), minlength=15)
    assert np.all(per_ms[:8] > 200)
    assert np.all(per_ms[8:12] < 5)
    assert np.all(per_ms[12:] > 800)
    assert_truth_is_what_the_words_say(once)


def test_everything_at_once_keeps_the_dead_time(ions: SceneSource) -> None:
    settings = replace(with_general(at_threshold(IN_THE_NOISE + 40, pulsing(period=0, pulses=0xFFFF)), test_pulse=1))
    settings = with_dacs(settings, {Dac.VTP_FINE: 400})
    truth = exposed(ions, settings, ms=5).truth
    order = np.lexsort((truth.hit_tick, truth.hit_pixel))
    pixel, tick, tot = truth.hit_pixel[order], truth.hit_tick[order], truth.hit_tot[order].astype(np.int64)
    same = pixel[1:] == pixel[:-1]
    assert np.count_nonzero(same) > 1000
    assert (tick[1:] - tick[:-1] - tot[:-1] * 96)[same].min() >= 19 * 96


@pytest.mark.parametrize("at", [(1 << 48) - 25 * MS, (1 << 47) + 12_345])
def test_a_timer_of_48_bits_costs_no_time_its_last_bits(at: int) -> None:
    for scene in ("vmi", "uniform"):
        source = source_of(scene, 200_000)
        settings = replace(pulsing(), codes=OPERATING.codes)
        exposure = exposed(source, settings, ms=10, at=at)
        assert_truth_is_what_the_words_say(exposure, near_tick=at * 96)
        ticks = exposure.truth.hit_tick
        assert ticks.size > 1000
        assert ticks.min() >= at * 96
        assert ticks.max() < (at + 10 * MS) * 96
        edges = slow.edges(exposure.words[0], at * 96)
        np.testing.assert_array_equal(slow.as_rows(edges), slow.as_rows(exposure.truth.edges))
        assert np.unique(ticks // 6 % 16).size == 16
