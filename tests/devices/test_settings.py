"""Settings of chips and board: what may be set, what is said of what may not, and what is described."""

import math
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest

from ophyd_timepix.devices.configuration import keep_matrix
from ophyd_timepix.devices.words import General, OutputBlock, Pll
from ophyd_timepix.protocol import PixelMatrix
from ophyd_timepix.protocol.chip_config import Mode, Polarity

DAC = "spidr_chip0_dacs_vthreshold_fine"


@pytest.mark.parametrize(
    "value", [430, 430.2, np.float64(429.9), np.int32(430), np.uint16(430), np.array(430.0), np.float32(430)]
)
def test_a_dac_takes_what_a_scan_gives_and_rounds_to_its_step(spidr, value):
    spidr.chip0.dacs.vthreshold_fine.set(value).wait(60)
    assert spidr.chip0.dacs.vthreshold_fine.get() == 430


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (-0.5, rf"{DAC} goes from 0 to 511 DAC step, not -0\.5"),
        (np.float64(511.5), rf"{DAC} goes from 0 to 511"),
        (math.nan, rf"{DAC} is a finite number \(0 to 511, default 420 DAC step\), not nan"),
        (np.inf, "finite number"),
        ("high", rf"{DAC} is a number \(DAC step\), not 'high'"),
        (None, "is a number"),
        (1j, "is a number"),
        ([430], "is a number"),
        (True, "is a number"),
    ],
)
def test_a_dac_refuses_anything_else_before_the_wire(spidr, fake_board, value, words):
    with pytest.raises(ValueError, match=words):
        spidr.chip0.dacs.vthreshold_fine.set(value)
    assert not fake_board.calls


def test_the_dacs_of_a_chip_are_a_datasheet_that_asks_nobody(spidr, fake_board):
    fake_board.off = True
    sheet = repr(spidr.chip0.dacs)
    assert "vthreshold_fine        ?  0-511      420  threshold, fine" in sheet
    assert len(sheet.splitlines()) == 19
    fake_board.off = False
    spidr.connect()
    assert "vthreshold_fine      420  0-511      420  threshold, fine" in repr(spidr.chip0.dacs)
    assert repr(spidr.chip0.dacs.vfbk) == (
        "<spidr_chip0_dacs_vfbk = 128 DAC step (0 to 255, default 128): preamplifier feedback>"
    )


@pytest.mark.parametrize("word", [General, Pll, OutputBlock])
def test_every_field_of_a_word_is_declared(word):
    assert word.component_names == tuple(field.name for field in word.WORD.TABLE)


def test_a_field_is_set_by_name_and_leaves_the_others(spidr, fake_board):
    general = spidr.chip0.config.general
    general.mode.set("ToA only").wait(60)
    general.polarity.set(1).wait(60)
    word = fake_board.chip(0).general
    assert (word.mode, word.polarity, word.gray_counter, word.fast_toa) == (Mode.TOA, Polarity.ELECTRONS, 1, 1)
    assert general.polarity.get() == "electrons (negative)"


def test_a_field_is_described_with_its_choices_and_bits(spidr):
    (key,) = spidr.chip0.config.general.mode.describe().values()
    assert key["dtype"] == "string"
    assert key["choices"] == ["ToA and ToT", "ToA only", "event count and iToT"]
    assert key["source"] == "SPIDR:chip0:GENCONFIG:bit 1-2"
    (number,) = spidr.chip0.config.output_block.ports.describe().values()
    assert number["limits"]["control"] == {"low": 0, "high": 255}


def test_where_names_are_numbers_a_number_is_the_name(spidr, fake_board):
    spidr.chip0.config.pll.phases.set(16).wait(60)
    assert fake_board.chip(0).pll.n_phases == 16
    with pytest.raises(ValueError, match="spidr_chip0_config_pll_phases"):
        spidr.chip0.config.pll.phases.set(5)


def test_a_code_that_the_table_does_not_name_is_shown_as_one(spidr, fake_board):
    fake_board.chip(0).pll = replace(fake_board.chip(0).pll, phases=6)
    assert spidr.chip0.config.pll.phases.get() == "code 6"
    assert spidr.chip0.config.pll.last.phases == 6


def test_a_word_that_is_wrong_says_what_it_may_be(spidr, fake_board):
    with pytest.raises(ValueError, match=r"spidr_chip0_config_general_mode: .*ToA and ToT \| ToA only"):
        spidr.chip0.config.general.mode.set("ToT")
    assert not fake_board.calls


def test_a_matrix_is_uploaded_and_named_by_its_digest(spidr, fake_board):
    matrix = PixelMatrix()
    matrix.mask[3, 4] = True
    spidr.chip0.matrix.set(matrix).wait(60)
    assert fake_board.chip(0).matrix == matrix
    assert spidr.chip0.matrix.digest.last == matrix.digest()
    assert spidr.chip0.matrix.masked.get() == 1
    spidr.chip0.matrix.mask(5, 6)
    assert fake_board.chip(0).matrix.mask.sum() == 2
    with pytest.raises(ValueError, match=r"columns and rows 0 to 255, not \(256, 0\)"):
        spidr.chip0.matrix.mask(256, 0)
    with pytest.raises(ValueError, match="takes a PixelMatrix"):
        spidr.chip0.matrix.set("mask").wait(60)
    with pytest.raises(ValueError, match="set the matrix"):
        spidr.chip0.matrix.digest.set("abc")


def test_a_matrix_is_read_once_per_connection(spidr, fake_board):
    spidr.connect()
    spidr.connect()
    assert fake_board.chip(0).read_backs == 1
    spidr.disconnect()
    spidr.connect()
    assert fake_board.chip(0).read_backs == 2


def test_test_pulses_are_set_field_by_field(spidr, fake_board):
    pulse = spidr.chip0.test_pulse
    pulse.period.set(10).wait(60)
    pulse.count.set(100).wait(60)
    pulse.choose_columns([0, 255])
    assert (fake_board.chip(0).pulse.period, fake_board.chip(0).pulse.count) == (10, 100)
    assert np.flatnonzero(fake_board.chip(0).columns).tolist() == [0, 255]
    assert pulse.columns.last == "80" + "00" * 30 + "01"
    with pytest.raises(ValueError, match="columns are numbered 0 to 255"):
        pulse.choose_columns([256])
    with pytest.raises(ValueError, match="goes from 0 to 15"):
        pulse.phase.set(16)


def test_how_the_shutter_opens_is_kept_while_it_is_opened_by_hand(spidr, fake_board):
    spidr.shutter.mode.set("external_rising_timer").wait(60)
    spidr.shutter.length_us.set(500).wait(60)
    before = fake_board.config
    spidr.shutter.set("open").wait(60)
    fake_board.config = None  # opening by hand sets the board's own
    spidr.shutter.set("closed").wait(60)
    assert fake_board.config == before
    spidr.shutter.start()
    assert fake_board.calls[-1] == "start_trigger"
    with pytest.raises(ValueError, match="spidr_shutter_frequency_hz goes from 1 to"):
        spidr.shutter.frequency_hz.set(0)
    with pytest.raises(ValueError, match="one of external_rising_falling"):
        spidr.shutter.mode.set("sometimes")


def test_clock_and_tdc_are_settings(spidr, fake_board):
    spidr.clock.external.set("on").wait(60)
    spidr.tdc.word.set(5).wait(60)
    assert (fake_board.external, fake_board.tdc) == (True, 5)


def test_a_quantity_that_is_only_measured_cannot_be_set(spidr):
    for put in (spidr.monitor.bias.put, spidr.monitor.bias.set):
        with pytest.raises(ValueError, match="spidr_monitor_bias cannot be set, only read"):
            put(12.0)


def test_every_signal_describes_itself_with_source_and_meaning(spidr):
    spidr.connect()
    for walk in spidr.walk_signals():
        (key,) = walk.item.describe().values()
        assert key["source"], walk.item.name
        assert walk.item.meaning, walk.item.name


def test_the_configuration_of_a_board_is_read_without_asking(spidr, fake_board):
    spidr.connect()
    fake_board.off = True
    reading = spidr.read_configuration()
    assert set(reading) == set(spidr.describe_configuration())
    assert reading["spidr_chip0_config_pll_phases"]["value"] == "16"


def test_a_prompt_shows_texts_as_they_are(spidr):
    text = spidr.summary()
    assert repr(text) == str(text)
    assert "holes (positive)" in text
    assert "12 to 104 V" in text


def test_masks_are_shown_in_hex_and_columns_by_their_numbers(spidr):
    pulse = spidr.chip0.test_pulse
    assert " ? " in repr(pulse)
    pulse.choose_columns([])
    assert "none" in repr(pulse.columns)
    pulse.choose_columns([0, 1, 2, 3, 9, 255])
    text = spidr.chip0.summary()
    assert "0-3, 9, 255 (6)" in text
    assert "00000000" not in text
    assert "header_filter  0xFFFF" in text
    assert re.search(r"temperature +\d+\.\d +degC", text)
    pulse.choose_columns(range(0, 256, 2))
    assert "0, 2, 4, 6, 8, 10, 12, 14, ... (128)" in repr(pulse.columns)


def test_chips_and_words_are_datasheets_too(spidr):
    assert "not read yet" in repr(spidr.chip0)
    assert "threshold, fine" in spidr.chip0.summary()
    assert "ToA and ToT | ToA only" in repr(spidr.chip0.config)
    assert "degC" in spidr.monitor.summary()
    assert "length_us" in spidr.shutter.summary()
    assert "holes (positive)" in spidr.chip0.config.summary()
    spidr.connect()
    assert "W0000_A01" in repr(spidr.chip0)


def test_settings_without_hardware_look_the_same_at_a_prompt(tpx):
    assert repr(tpx.exposure).startswith("<tpx_exposure = ")
    assert repr(tpx.processing.radius_px) == (
        "<tpx_processing_radius_px = 2.0 pixel (0.1 to 8): spatial radius of the neighbourhood>"
    )
    lines = repr(tpx.processing).splitlines()
    assert len(lines) == 1 + len(tpx.processing.component_names)
    assert lines[1].split()[:6] == ["radius_px", "2.0", "pixel", "0.1", "to", "8"]


def test_two_threads_keep_one_matrix(tmp_path, monkeypatch):
    """Two detectors of one directory begin their run at the same time."""
    both = threading.Barrier(2, timeout=10)
    save = np.savez_compressed

    def slowly(file, **arrays):
        both.wait()
        save(file, **arrays)
        both.wait()

    monkeypatch.setattr(np, "savez_compressed", slowly)
    with ThreadPoolExecutor(2) as pool:
        paths = list(pool.map(lambda _: keep_matrix(PixelMatrix(), tmp_path), range(2)))
    assert paths[0] == paths[1]
    assert [path.name for path in paths[0].parent.iterdir()] == [paths[0].name]
