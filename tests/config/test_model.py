"""The models of settings: frozen, complete, within the limits of the tables."""

import numpy as np
import pytest
from hypothesis import given
from pydantic import BaseModel, ValidationError

from ophyd_timepix.config import (
    BiasConfig,
    BoardConfig,
    ChipConfig,
    ConfigError,
    DacValues,
    DetectorConfig,
    PulseSettings,
    TriggerSettings,
)
from ophyd_timepix.config.human import as_word, field_value, value_text, word_fields
from ophyd_timepix.protocol import Dac, GeneralConfig, PllConfig, TriggerMode, column_phase
from ophyd_timepix.protocol.chip_config import CONFIG_WORDS, ConfigWord
from ophyd_timepix.protocol.fields import NamedField
from tests.config.settings import board_config, chip_config, detector_config, detector_configs


@pytest.mark.parametrize("model", [ChipConfig, BiasConfig, TriggerSettings, PulseSettings, BoardConfig, DetectorConfig])
def test_every_field_says_what_it_is(model: type[BaseModel]):
    assert all(field.description for field in model.model_fields.values())


@pytest.mark.parametrize("dac", Dac, ids=lambda dac: dac.name)
def test_each_dac_has_the_limits_of_the_table(dac: Dac):
    chip = chip_config()
    name = dac.name.lower()
    assert chip.changed(dacs=chip.dacs.changed(**{name: dac.max})).dacs[name] == dac.max
    for value in (-1, dac.max + 1, True, "7", 1.5):
        with pytest.raises(ValidationError, match=rf"{name} is 0 to {dac.max} \(DAC code\), not {value!r}"):
            chip.changed(dacs={**chip.dacs, name: value})


def test_missing_and_unknown_dacs_are_named():
    values = {dac.name.lower(): dac.default for dac in Dac if dac is not Dac.VFBK} | {"vfbck": 1}
    with pytest.raises(ValueError, match="vfbk is missing; there is no DAC 'vfbck'"):
        DacValues(values)


def test_dacs_go_by_name_and_by_dac_and_cannot_change():
    dacs = chip_config().dacs
    assert dacs["vthreshold_fine"] == dacs[Dac.VTHRESHOLD_FINE] == dacs.by_dac()[Dac.VTHRESHOLD_FINE]
    assert DacValues(dacs.by_dac()) == dacs
    with pytest.raises(TypeError):
        dacs["vfbk"] = 1  # type: ignore[index]


def test_settings_cannot_change_not_even_their_pixels():
    config = board_config()
    with pytest.raises(ValidationError, match="frozen"):
        config.tdc = 1  # type: ignore[misc]
    for array in (config.chips[0].matrix.mask, config.chips[0].matrix.threshold_adjust, config.chips[0].matrix.test):
        with pytest.raises(ValueError, match="read-only"):
            array[0, 0] = 1


def test_matrix_is_a_copy():
    chip = chip_config()
    other = chip.matrix.__class__(chip.matrix.mask, chip.matrix.threshold_adjust, chip.matrix.test)
    kept = chip.changed(matrix=other)
    other.mask[0, 0] ^= True
    assert kept.matrix == chip.matrix


@given(detector_configs)
def test_values_make_the_same_model_again(config: DetectorConfig):
    again = DetectorConfig.model_validate(config.model_dump())
    assert again == config
    assert again.digest() == config.digest()


def test_digest_tells_configurations_apart_by_each_setting():
    config = detector_config()
    chip = config.board.chips[0]
    pixels = chip.matrix.__class__.from_codes(chip.matrix.codes() ^ np.eye(256, dtype=np.uint8))
    others = [
        config.changed(comment="another"),
        config.changed(board=config.board.changed(tdc=6)),
        config.changed(board=config.board.changed(chips=(chip.changed(matrix=pixels),))),
        config.changed(board=config.board.changed(chips=(chip.changed(dacs=chip.dacs.changed(vfbk=1)),))),
    ]
    assert len({config.digest(), *(other.digest() for other in others)}) == 5


def test_a_board_has_each_chip_once_and_says_which_it_has():
    chip = chip_config()
    with pytest.raises(ValidationError, match="chip 0 is there more than once"):
        BoardConfig(chips=(chip, chip))
    config = BoardConfig(chips=(chip_config(1), chip))
    assert [chip.index for chip in config.chips] == [0, 1]
    with pytest.raises(ConfigError, match="no chip 3; it has 0, 1"):
        config.chip(3)


def test_column_phases_are_those_of_the_table_else_of_the_pll():
    chip = chip_config().changed(pll=PllConfig())
    assert chip.phases() == column_phase(0x11E)
    table = tuple(-16 if 97 <= dcol <= 102 else 0 for dcol in range(128))
    assert chip.changed(column_phase=table).phases() == table
    with pytest.raises(ConfigError, match="neither a table of column phases nor a PLL word"):
        chip.changed(pll=None).phases()
    with pytest.raises(ValidationError, match="column_phase has 128 offsets, one per double column, not 127"):
        chip.changed(column_phase=table[1:])


def test_test_columns_are_numbers_or_a_mask():
    mask = np.zeros(256, np.bool_)
    mask[[3, 200]] = True
    assert chip_config().changed(test_columns=mask).test_columns == (3, 200)
    assert chip_config().changed(test_columns=(200, 3, 3)).test_columns == (3, 200)
    with pytest.raises(ValidationError):
        chip_config().changed(test_columns=(256,))


@pytest.mark.parametrize(
    "values", [{"enabled": True}, {"enabled": True, "volts": 11.9}, {"enabled": False, "volts": 105}]
)
def test_bias_that_cannot_be_is_refused(values: dict[str, object]):
    with pytest.raises(ValidationError):
        BiasConfig.model_validate(values)


def test_shutter_mode_goes_by_name():
    assert TriggerSettings(mode="external_rising_timer").mode is TriggerMode.EXTERNAL_RISING_TIMER  # type: ignore[arg-type]
    with pytest.raises(ValidationError, match=r"auto \| pulse_counter"):
        TriggerSettings(mode="automatic")  # type: ignore[arg-type]


# --- words as people write them ---------------------------------------------------------------------------------------
FIELDS = [(kind, field) for kind in CONFIG_WORDS for field in kind.TABLE]


@pytest.mark.parametrize(("kind", "field"), FIELDS, ids=lambda part: part.name if isinstance(part, NamedField) else "")
def test_each_value_of_each_field_is_written_in_one_way(kind: type[ConfigWord], field: NamedField):
    texts = [value_text(field, value) for value in range(field.bits.mask + 1)]
    assert len(set(map(str, texts))) == len(texts)
    assert [field_value(field, text) for text in texts] == list(range(field.bits.mask + 1))
    with pytest.raises(ValueError, match=field.name):
        field_value(field, field.bits.mask + 1 if not field.values else "blue")


def test_number_of_phases_is_the_number_and_not_its_code():
    assert word_fields(PllConfig())["phases"] == 16
    assert as_word(PllConfig, {**word_fields(PllConfig()), "phases": 4}).n_phases == 4
    assert as_word(PllConfig, {**word_fields(PllConfig()), "phases": "code 7"}).phases == 7


def test_words_come_as_themselves_as_numbers_or_as_fields():
    word = GeneralConfig(polarity=1)
    assert as_word(GeneralConfig, word) == as_word(GeneralConfig, 0x049) == as_word(GeneralConfig, word_fields(word))
    # YAML takes on and off for booleans.
    assert as_word(GeneralConfig, {**word_fields(word), "gray_counter": True}) == word


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (0x1000, "12 bits"),
        ("0x48", "by its fields or its word"),
        (True, "by its fields or its word"),
        ({"mode": "ToA only"}, "missing: polarity, gray_counter"),
        ({**word_fields(GeneralConfig()), "gray": 1}, "unknown: gray"),
        ({**word_fields(GeneralConfig()), "polarity": "positrons"}, "polarity .* is holes .* not 'positrons'"),
        ({**word_fields(GeneralConfig()), "polarity": 2}, "polarity .* not 2"),
        ({**word_fields(GeneralConfig()), "polarity": None}, "polarity .* not None"),
    ],
)
def test_wrong_words_are_refused_by_name(value: object, says: str):
    with pytest.raises(ValueError, match=says):
        as_word(GeneralConfig, value)
