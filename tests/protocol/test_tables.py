"""DACs, registers, configuration words, chip ids and error words against the numbers of their sources."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ophyd_timepix.protocol import (
    ChipId,
    Dac,
    ErrorId,
    ErrorWord,
    FlashError,
    GeneralConfig,
    LinkStatus,
    MonitorError,
    OutputBlockConfig,
    PllConfig,
    PulseTiming,
    Quantity,
    Register,
    Setting,
    StartOptions,
    Tpx3Error,
    TriggerMode,
    column_phase,
)
from ophyd_timepix.protocol.commands import Form
from ophyd_timepix.protocol.dacs import SENSE_CODES
from ophyd_timepix.protocol.registers import (
    adc_mv,
    adc_sample,
    adc_sum_mv,
    bias_dac,
    bias_of_dac,
    chip_temperature_degc,
)


def test_dacs_have_the_codes_1_to_18_and_defaults_in_range():
    assert [dac.code for dac in Dac] == list(range(1, 19))
    assert all(0 <= value <= dac.max for dac in Dac for value in (dac.default, dac.reset))
    assert [dac.name for dac in Dac if dac.max == 511] == ["VTHRESHOLD_FINE", "VTP_FINE"]
    assert Dac.VTHRESHOLD_FINE.wire_name == "Vthreshold_fine"
    assert all(dac.wire_name.upper() == dac.name for dac in Dac)


def test_registers_step_from_chip_to_chip_as_the_sources_say():
    assert Register.LINK_STATUS.at(3) == 0x030C
    assert Register.PIXEL_WORDS.at(3) == 0x0343
    assert Register.UDP_DATAGRAMS.at(3) == 0x0384


def test_register_addresses_are_told_apart():
    assert len({register.address for register in Register}) == len(Register)


@pytest.mark.parametrize(
    ("word", "enabled", "locked", "ready"),
    [
        (0x00FF_0000, 0xFF, 0xFF, True),
        (0x0000_0000, 0xFF, 0x00, False),
        (0x0000_00FF, 0x00, 0x00, False),
        (0x0001_00FE, 0x01, 0x01, True),
    ],
)
def test_link_status_states_links_that_are_not_enabled(word: int, enabled: int, locked: int, ready: bool):
    status = LinkStatus.from_word(word)
    assert (status.enabled, status.locked, status.ready) == (enabled, locked, ready)
    assert status.word == word


def test_general_configuration_of_a_run():
    assert GeneralConfig().word == 0x048
    config = GeneralConfig.from_word(0xA27)
    assert (config.polarity, config.mode, config.test_pulse, config.test_pulse_digital) == (1, 3, 1, 1)
    assert config.toa_system_clock == 1


def test_pll_words_in_use():
    assert PllConfig().word == 0x11E
    assert [PllConfig.from_word(word).n_phases for word in (0x01E, 0x05E, 0x11E)] == [1, 2, 16]


@pytest.mark.parametrize("config", [GeneralConfig, PllConfig, OutputBlockConfig])
def test_configuration_words_keep_every_bit(
    config: type[GeneralConfig] | type[PllConfig] | type[OutputBlockConfig],
):
    for word in range(1 << config.BITS):
        assert config.from_word(word).word == word
    with pytest.raises(ValueError, match="bits"):
        config.from_word(1 << config.BITS)


def test_field_that_does_not_fit_is_refused_with_its_name():
    with pytest.raises(ValueError, match="polarity is 0 to 1"):
        _ = GeneralConfig(polarity=2).word


def test_column_phase_of_16_phases_puts_the_step_between_0_and_1():
    phase = column_phase(0x11E)
    assert phase[:3] == (16, 1, 2)
    assert phase[15:18] == (15, 16, 1)
    assert len(phase) == 128


def test_column_phase_of_two_and_of_one_phase():
    assert column_phase(PllConfig.from_word(0x05E))[:4] == (0, -8, 0, -8)
    assert set(column_phase(0x01E)) == {0}


@pytest.mark.parametrize("phases", [2, 3, 5, 6, 7])
def test_column_phase_that_nobody_knows_is_refused(phases: int):
    with pytest.raises(ValueError, match="phase"):
        column_phase(0x01E | phases << 6)


def test_chip_id_becomes_the_name_of_the_chip():
    chip = ChipId(26 << 8 | 6 << 4 | 11)
    assert chip.name == "W0026_K06"
    assert ChipId.from_name("W0026_K06") == chip


@pytest.mark.parametrize(
    ("word", "name"),
    [
        (26 << 8 | 6 << 4 | 11 | 1 << 20 | 3 << 22, "W0026_C06"),
        (26 << 8 | 6 << 4 | 11 | 2 << 20 | 9 << 22, "W0026_K09"),
        (26 << 8 | 6 << 4 | 11 | 3 << 20 | 1023 << 22, "W1023_K06"),
    ],
)
def test_chip_id_with_a_field_overridden(word: int, name: str):
    assert ChipId(word).name == name


@pytest.mark.parametrize("word", [0x7FFF_FFFF, 0x8000_0000])
def test_absent_chip_has_no_name(word: int):
    assert ChipId(word).absent
    assert ChipId(word).name == ""


@pytest.mark.parametrize("name", ["", "W26_K06", "W0026_Z06", "W0026_K99"])
def test_what_is_no_chip_name_is_refused(name: str):
    with pytest.raises(ValueError, match=r"chip name|does not fit"):
        ChipId.from_name(name)


@given(st.integers(0, 0xFFFF_FFFF))
def test_any_word_is_a_chip_id(word: int):
    assert ChipId(word).name == "" or ChipId(word).name.startswith("W")


def test_error_word_of_the_chip_names_its_sub_code():
    word = ErrorWord(0x0B06)
    assert (word.id, word.sub_code) == (ErrorId.TPX3_HARDWARE, Tpx3Error.LINKS_UNLOCKED)
    assert str(word) == "TPX3_HARDWARE (6), LINKS_UNLOCKED (11) [error word 0x00000B06]"


def test_error_word_of_flash_and_monitor():
    assert ErrorWord.of(ErrorId.FLASH_STORAGE, 3).sub_code is FlashError.WRITE_CHECK
    monitor = ErrorWord.of(ErrorId.MONITOR_HARDWARE, 0x60)
    assert monitor.sub_code == MonitorError.INA219_0_INIT | MonitorError.INA219_1_INIT
    assert "INA219_0_INIT" in str(monitor)


@given(st.integers(0, 0xFFFF_FFFF))
def test_any_error_word_can_be_said(value: int):
    word = ErrorWord(value)
    assert f"0x{value:08X}" in str(word)
    assert bool(word) == (value != 0)


def test_bias_of_50_v_is_the_dac_value_of_the_reference():
    assert bias_dac(50) == 1691
    assert bias_of_dac(bias_dac(104)) == 104
    for volts in (11.9, 104.1):
        with pytest.raises(ValueError, match="12 to 104 V"):
            bias_dac(volts)


def test_adc_reading_of_the_bias_monitor():
    assert adc_mv(adc_sample(500)) == pytest.approx(500, abs=1)


# --- fields of board registers and options ----------------------------------------------------------------------------
def test_start_options_of_the_reference():
    options = StartOptions.from_word(0x4000_3283)
    assert (options.valid, options.bias_volts, options.bias_on, options.links_fast, options.tpx_power) == (
        1,
        50,
        1,
        1,
        1,
    )
    assert StartOptions(bias_on=1, bias_volts=50).word == 0x4000_3283


def test_fields_of_a_register_do_not_overlap():
    for fields in [register.fields for register in Register] + [StartOptions.TABLE, PulseTiming.TABLE]:
        masks = [field.bits.mask << field.bits.shift for field in fields]
        assert all(a & b == 0 for i, a in enumerate(masks) for b in masks[:i])


def test_single_pixel_filter_names_one_pixel():
    word = 0
    for name, value in (("pixel", 5), ("super_pixel", 63), ("dcol", 127), ("enable", 1)):
        word = Register.PIXEL_FILTER_0.field(name).put(word, value)
    assert word == 5 | 63 << 3 | 127 << 9 | 1 << 16
    assert [register.address for register in Register if "PIXEL_FILTER" in register.name] == [
        0x394,
        0x398,
        0x39C,
        0x3A0,
    ]


def test_shutter_modes_are_named_in_their_register():
    assert (
        sorted(Register.SHUTTER_CONTROL.field("mode").values) == [mode.code for mode in TriggerMode] == list(range(7))
    )


def test_test_pulse_timing_is_packed_as_phase_and_period():
    timing = PulseTiming(period=200, phase=3)
    assert timing.word == 3 << 16 | 200
    assert timing.period_counts == 2 * (64 * 200 + 1)
    assert timing.UNCERTAIN
    with pytest.raises(ValueError, match="period is 0 to 255"):
        _ = PulseTiming(period=256).word


def test_sense_codes_are_off_the_dacs_and_four_references():
    assert sorted(SENSE_CODES) == [*range(19), 28, 29, 30, 31]


# --- measured quantities ----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("quantity", Quantity, ids=lambda quantity: quantity.name)
def test_every_quantity_is_a_word_of_a_reply(quantity: Quantity):
    form: Form = quantity.command.reply
    assert 0 <= quantity.word < form.max_ints
    assert quantity.meaning
    assert isinstance(quantity.of((1,) * form.max_ints), float)


def test_quantities_are_in_the_units_that_they_say():
    assert Quantity.CHIP_TEMPERATURE.of((41_500,)) == 41.5
    assert Quantity.BOARD_TEMPERATURE.of((0xFFFF_FF38,)) == -0.2
    assert [q.of((1500, 420, 630)) for q in (Quantity.ANALOGUE_V, Quantity.ANALOGUE_A, Quantity.ANALOGUE_W)] == [
        1.5,
        0.42,
        0.63,
    ]
    assert Quantity.PRESSURE.of((1013,)) == 1013
    assert Quantity.BIAS.of((adc_sample(500),)) == pytest.approx(50, abs=0.11)  # the formula of the sources rounds up
    assert Quantity.VDDA.of((adc_sample(750),)) == pytest.approx(1.5, abs=0.003)
    assert (Quantity.BIAS.argument, Quantity.VDDA.argument) == (0x1_0001, 0x1_0002)


@pytest.mark.parametrize("setting", Setting, ids=lambda setting: setting.name)
def test_every_setting_has_limits_and_a_meaning(setting: Setting):
    low, high = setting.limits
    assert low < high
    assert setting.meaning


def test_chip_temperature_is_the_formula_of_the_reference():
    assert chip_temperature_degc(adc_sum_mv(64 * 1_800, 64), adc_sum_mv(64 * 1_600, 64)) == pytest.approx(
        88.75 - 607.3 * 1.5 * 200 / 4096
    )


def test_monitor_error_is_named_for_older_firmware_too():
    assert "older firmware: INA219_0_DAQ" in str(ErrorWord.of(ErrorId.MONITOR_HARDWARE, 2))
