"""The verbs of a chip, against the simulated one."""

import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from ophyd_timepix.control import Board, BoardError, Chip, ControlError, LimitError, ReadBackError, TestPulse
from ophyd_timepix.protocol import (
    Dac,
    GeneralConfig,
    OutputBlockConfig,
    PixelMatrix,
    PllConfig,
    Polarity,
    SenseCode,
)
from spidr_sim.board import Board as SimulatedBoard
from tests.sim.board_doubles import RecordingStreams, StandingClock


@pytest.fixture
def chip(board: Board) -> Chip:
    return board.chip(1)


def random_matrix(seed: int) -> PixelMatrix:
    return PixelMatrix.from_codes(np.random.default_rng(seed).integers(0, 64, (256, 256), dtype=np.uint8))


@pytest.mark.parametrize("dac", Dac, ids=lambda dac: dac.name)
def test_each_dac_is_set_read_back_and_kept_in_its_range(chip: Chip, dac: Dac):
    chip.set_dac(dac, dac.max)
    assert chip.dac(dac) == dac.max
    for value in (-1, dac.max + 1):
        with pytest.raises(LimitError, match=rf"chip 1: {dac.name} is 0 to {dac.max} \(DAC code\), not {value}"):
            chip.set_dac(dac, value)
    assert chip.dac(dac) == dac.max


def test_dac_that_reads_back_another_value_is_an_error(
    chip: Chip, simulated: SimulatedBoard, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(chip, "dac", lambda _: 7)
    with pytest.raises(ReadBackError, match="VFBK was set to 3 and reads back 7"):
        chip.set_dac(Dac.VFBK, 3)


def test_defaults_are_those_of_a_running_camera(chip: Chip):
    chip.upload_matrix(random_matrix(1))
    chip.set_defaults()
    dacs = chip.dacs()
    assert (dacs[Dac.VTHRESHOLD_FINE], dacs[Dac.IBIAS_IKRUM], dacs[Dac.IBIAS_PIXELDAC]) == (420, 5, 192)
    assert chip.read_matrix() == PixelMatrix()
    chip.reset_dacs()
    assert chip.dac(Dac.VTHRESHOLD_FINE) == 256


def test_matrix_goes_up_and_comes_back(chip: Chip, simulated: SimulatedBoard):
    matrix = random_matrix(2)
    chip.upload_matrix(matrix)
    assert chip.read_matrix() == matrix
    assert np.array_equal(simulated.chips[1].codes, matrix.codes())
    assert not simulated.chips[0].codes.any()


def test_pixel_that_reads_back_otherwise_is_named(
    chip: Chip, simulated: SimulatedBoard, monkeypatch: pytest.MonkeyPatch
):
    column = simulated.chips[1].column
    monkeypatch.setattr(simulated.chips[1], "column", lambda c: bytes([1] * 256) if c == 3 else column(c))
    with pytest.raises(ReadBackError, match="256 pixels read back other than uploaded, the first at column 3, row 0"):
        chip.upload_matrix(PixelMatrix())
    chip.upload_matrix(PixelMatrix(), verify=False)


def test_configuration_words_by_name_and_by_number(chip: Chip):
    chip.set_general_config(GeneralConfig(polarity=Polarity.ELECTRONS))
    assert chip.general_config().word == 0x049
    chip.set_pll_config(0x05E)
    assert chip.pll_config() == PllConfig(phases=1)
    chip.set_output_block_config(OutputBlockConfig(ports=0x0F))
    assert chip.output_block_config().ports == 0x0F


def test_word_that_does_not_fit_is_refused(chip: Chip):
    for set_word in (chip.set_general_config, chip.set_pll_config, chip.set_output_block_config):
        with pytest.raises(LimitError, match=r"bits.*nothing was sent"):
            set_word(1 << 16)
    with pytest.raises(LimitError, match="polarity"):
        chip.set_general_config(GeneralConfig(polarity=2))


def test_timer_comes_with_the_host_times_around_it(chip: Chip, clock: StandingClock, streams: RecordingStreams):
    clock.now = 2**40 + 3
    before = time.monotonic_ns()
    reading = chip.timer()
    assert reading.counts == 2**40 + 3
    assert before <= reading.host_before_ns <= reading.host_ns <= reading.host_after_ns <= time.monotonic_ns()
    assert streams.named("timer_request") == [(1, 2**40 + 3)]


def test_destination_is_our_own_address_or_another(chip: Chip, streams: RecordingStreams):
    chip.set_destination(None, 9000)
    assert chip.destination() == ("127.0.0.1", 9000)
    chip.set_destination("10.1.2.3", 9001)
    assert chip.destination() == ("10.1.2.3", 9001)
    assert streams.named("destination")[-1] == (1, "10.1.2.3", 9001)
    assert chip.source() == ("192.168.100.10", 8193)


@pytest.mark.parametrize(("address", "port"), [("camera", 9000), ("::1", 9000), (None, 0), (None, 65_536)])
def test_destination_that_cannot_be_is_refused(chip: Chip, address: str | None, port: int):
    with pytest.raises(LimitError):
        chip.set_destination(address, port)


def test_header_filter_keeps_what_goes_to_the_cpu(chip: Chip):
    chip.set_header_filter(0x0C70)
    assert chip.header_filter() == (0x0C70, 0xFFFF)
    with pytest.raises(LimitError, match="16 bits"):
        chip.set_header_filter(0x1_0000)


def test_test_columns_go_up_and_come_back(chip: Chip):
    columns = np.arange(256) % 7 == 0
    chip.set_test_columns(columns)
    assert np.array_equal(chip.test_columns(), columns)


def test_sense_routes_to_the_adc(board: Board):
    chip = board.chip(0)
    chip.set_dac(Dac.VFBK, 255)
    readings = []
    for source in (Dac.VFBK, SenseCode.BANDGAP_OUTPUT, None):
        chip.sense(source)
        readings.append(board.adc(0, samples=4) // 4 * 1500 / 4096)
    assert readings == pytest.approx([1200, 600, 0], abs=1)


def test_missing_chip_says_so_whatever_is_asked(board: Board):
    chip = board.chip(3)
    with pytest.raises(BoardError, match=r"chip 3.*LINKS_UNLOCKED.*check the chip's power"):
        chip.timer()
    with pytest.raises(ControlError, match="chip 3: missing"):
        chip.require_present()


def test_reset_and_reinitialise_bring_reset_values(chip: Chip):
    chip.set_dac(Dac.VFBK, 3)
    chip.reset()
    chip.reinitialise()
    assert chip.dac(Dac.VFBK) == Dac.VFBK.reset


def test_full_configuration_is_quick(chip: Chip):
    """18 DACs, the matrix with read-back, the words: the limit is 2 s, on any machine that runs the tests."""
    begin = time.monotonic()
    chip.set_defaults()
    chip.set_general_config(GeneralConfig())
    chip.set_pll_config(PllConfig())
    assert time.monotonic() - begin < 2.0


def test_test_pulses_go_up_and_come_back(chip: Chip):
    chip.set_test_pulse(TestPulse(period=5, phase=3, count=100))
    assert chip.test_pulse() == TestPulse(5, 3, 100)


@pytest.mark.parametrize("pulse", [TestPulse(256), TestPulse(phase=16), TestPulse(count=65_536), TestPulse(-1)])
def test_test_pulse_that_cannot_be_is_refused(chip: Chip, pulse: TestPulse):
    with pytest.raises(LimitError, match="nothing was sent"):
        chip.set_test_pulse(pulse)


def test_links_have_a_speed_a_mask_and_drivers(chip: Chip):
    chip.set_readout_speed(320)
    assert chip.readout_speed() == 320
    chip.set_slvs(9)
    assert chip.slvs() == 9
    assert chip.output_mask is None
    chip.set_output_mask(0x0F)
    assert chip.output_mask == 0x0F
    chip.t0_sync()
    for refused in (lambda: chip.set_output_mask(256), lambda: chip.set_slvs(-1)):
        with pytest.raises(LimitError, match="nothing was sent"):
            refused()


def test_temperature_of_a_chip_comes_from_its_bandgap(board: Board):
    chip = board.chip(0)
    assert chip.temperature(settle_s=0) == pytest.approx(board.chip_temperature(), abs=0.5)


def test_sensing_ends_with_what_was_routed_before(board: Board, simulated: SimulatedBoard):
    chip = board.chip(0)
    chip.sense(Dac.VFBK)
    assert chip.sensed_mv(SenseCode.BANDGAP_OUTPUT, settle_s=0) == pytest.approx(600, abs=1)
    assert simulated.chips[0].sense == Dac.VFBK.code


def test_voltage_settles_without_holding_up_the_line_and_nobody_routes_another(board: Board):
    """Two sense the same chip; a third asks for something else meanwhile."""
    chip, readings = board.chip(0), {}
    chip.set_dac(Dac.VFBK, 255)

    def sense(source: Dac | SenseCode) -> None:
        readings[source] = chip.sensed_mv(source, settle_s=0.02)

    threads = [threading.Thread(target=sense, args=(source,)) for source in (Dac.VFBK, SenseCode.BANDGAP_OUTPUT)]
    for thread in threads:
        thread.start()
    assert board.humidity_percent() > 0
    for thread in threads:
        thread.join()
    assert readings[Dac.VFBK] == pytest.approx(1200, abs=1)
    assert readings[SenseCode.BANDGAP_OUTPUT] == pytest.approx(600, abs=1)


def test_chip_whose_adc_channel_is_that_of_the_bias_says_so(chip: Chip):
    with pytest.raises(LimitError, match="chip 1: the ADC channel 1 measures the bias or VDDA"):
        chip.temperature(settle_s=0)


@pytest.mark.parametrize("kind", [np.int8, np.uint8, np.int16, np.uint64])
def test_integers_of_numpy_keep_their_value_in_a_word(chip: Chip, kind: type[np.integer[Any]]):
    """Shifted to their place in a word, those of 8 bits lose it."""
    chip.set_dac(Dac.VTHRESHOLD_FINE, kind(100))
    assert chip.dac(Dac.VTHRESHOLD_FINE) == 100
    chip.set_header_filter(kind(6), kind(5))
    assert chip.header_filter() == (6, 5)


@pytest.mark.parametrize("value", [5.0, float("nan"), "5", None, b"5", [5], np.float64(5)])
def test_what_is_no_whole_number_is_refused_before_the_wire(chip: Chip, value: Any):
    verbs: tuple[Callable[[Any], object], ...] = (
        lambda value: chip.set_dac(Dac.VFBK, value),
        chip.set_general_config,
        chip.set_slvs,
        chip.set_output_mask,
        chip.set_header_filter,
        lambda value: chip.set_destination(None, value),
        lambda value: chip.set_test_pulse(TestPulse(value, 0, 0)),
        lambda value: chip.set_test_pulse(TestPulse(0, 0, value)),
        chip.set_test_columns,
    )
    for verb in verbs:
        with pytest.raises(LimitError, match="nothing was sent"):
            verb(value)


@pytest.mark.parametrize("samples", [0, 65_536])
def test_number_of_samples_that_cannot_be_is_refused(board: Board, samples: int):
    with pytest.raises(LimitError, match="1 to 65535 samples"):
        board.chip(0).sensed_mv(Dac.VFBK, samples=samples)


def test_header_filter_to_the_cpu_can_be_chosen_too(chip: Chip):
    chip.set_header_filter(0x0C70, 0xF39F)
    assert chip.header_filter() == (0x0C70, 0xF39F)
