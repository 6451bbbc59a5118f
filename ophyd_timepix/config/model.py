"""All settings of a detector as frozen, validated models: chip, board, detector.

`save` and `load` are here as verbs; the files are the matter of `files`. A part that is None says nothing: it is left
as it is when the configuration is applied, and passed over when it is compared. This module knows no board.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Self

import numpy as np
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    PlainValidator,
    field_validator,
    model_validator,
)

from ophyd_timepix.protocol import (
    Dac,
    GeneralConfig,
    OutputBlockConfig,
    PixelMatrix,
    PllConfig,
    PulseTiming,
    TriggerMode,
    column_phase,
)
from ophyd_timepix.protocol.chip_config import N_DCOLS, ConfigWord
from ophyd_timepix.protocol.commands import ALL_HEADERS, MAX_DEVICES, MAX_INT
from ophyd_timepix.protocol.quantities import Setting
from ophyd_timepix.protocol.registers import BIAS_MAX_V, BIAS_MIN_V
from ophyd_timepix.protocol.words import MATRIX_SIDE

from .dac_values import DacValues
from .errors import ConfigError
from .geometry import Geometry
from .human import as_word, word_fields
from .processing import Processing

COLUMN_PHASE_LIMIT: Final = 1024
"""fToA bins, 1.6 us: known offsets are one clock (16 bins) or less."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    def changed(self, **fields: object) -> Self:
        """A copy with some fields set otherwise, checked like any other."""
        return type(self).model_validate({**dict(self), **fields})

    def digest(self) -> str:
        """SHA-256 of all values (matrices by their own): names a configuration in documents and files."""
        text = json.dumps(self.model_dump(mode="json"), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


def _of_table(name: str, word: type[ConfigWord]) -> Any:
    """A number with the limits and the meaning of a field of the table."""
    field = next(field for field in word.TABLE if field.name == name)
    return Field(strict=True, ge=0, le=field.bits.mask, description=f"0 to {field.bits.mask}: {field.meaning}")


def _setting(setting: Setting, default: Any = ...) -> Any:
    """A whole number with the limits, the unit and the meaning of a setting of the table."""
    low, high = map(int, setting.limits)
    unit = f" {setting.unit}" if setting.unit else ""
    return Field(default, strict=True, ge=low, le=high, description=f"{low} to {high}{unit}: {setting.meaning}")


def _frozen_matrix(value: object) -> PixelMatrix:
    """A copy whose arrays cannot be written to. Also from the three arrays, as `model_dump` gives them."""
    if isinstance(value, Mapping) and set(value) == {"mask", "threshold_adjust", "test"}:
        value = PixelMatrix(**value)
    if not isinstance(value, PixelMatrix):
        raise ValueError(f"a PixelMatrix is needed, not {type(value).__name__}")
    matrix = PixelMatrix(value.mask, value.threshold_adjust, value.test)
    for array in (matrix.mask, matrix.threshold_adjust, matrix.test):
        array.flags.writeable = False
    return matrix


def _trigger_mode(value: object) -> TriggerMode:
    if isinstance(value, TriggerMode):
        return value
    modes = {mode.name.lower(): mode for mode in TriggerMode}
    if not isinstance(value, str) or value not in modes:
        raise ValueError(f"the shutter mode is {' | '.join(modes)}, not {value!r}")
    return modes[value]


def _column_numbers(value: object) -> object:
    """Column numbers, also from 256 booleans."""
    if isinstance(value, np.ndarray) and value.shape == (MATRIX_SIDE,) and value.dtype == np.bool_:
        return tuple(np.flatnonzero(value).tolist())
    return value


# In JSON, and so in documents, the digest stands for the pixels.
Matrix = Annotated[
    PixelMatrix, PlainValidator(_frozen_matrix), PlainSerializer(lambda matrix: matrix.digest(), when_used="json")
]
Dacs = Annotated[DacValues, PlainValidator(DacValues.of), PlainSerializer(dict)]
General = Annotated[GeneralConfig, PlainValidator(lambda v: as_word(GeneralConfig, v)), PlainSerializer(word_fields)]
Pll = Annotated[PllConfig, PlainValidator(lambda v: as_word(PllConfig, v)), PlainSerializer(word_fields)]
OutputBlock = Annotated[
    OutputBlockConfig, PlainValidator(lambda v: as_word(OutputBlockConfig, v)), PlainSerializer(word_fields)
]
Mode = Annotated[TriggerMode, PlainValidator(_trigger_mode), PlainSerializer(lambda mode: mode.name.lower())]
Column = Annotated[int, Field(strict=True, ge=0, lt=MATRIX_SIDE)]
Phase = Annotated[int, Field(strict=True, ge=-COLUMN_PHASE_LIMIT, le=COLUMN_PHASE_LIMIT)]


class PulseSettings(_Frozen):
    """Test pulses of a chip, as its registers take them."""

    period: int = _of_table("period", PulseTiming)
    phase: int = _of_table("phase", PulseTiming)
    count: int = _setting(Setting.TEST_PULSES)


class ChipConfig(_Frozen):
    """All settings of a chip."""

    index: int = Field(
        0, strict=True, ge=0, lt=MAX_DEVICES, description=f"number of the chip on its board, 0 to {MAX_DEVICES - 1}"
    )
    name: str = Field("", description="which chip it is for, as W0026_K06; empty: any")
    dacs: Dacs = Field(
        description="all 18 DACs (DAC codes): " + ", ".join(f"{dac.name.lower()} 0 to {dac.max}" for dac in Dac)
    )
    general: General | None = Field(None, description="general configuration (12 bits)")
    pll: Pll | None = Field(None, description="PLL: clocks and phases of the columns (14 bits)")
    output_block: OutputBlock | None = Field(None, description="output ports and clocks (16 bits)")
    matrix: Matrix = Field(description="mask, threshold adjustment (0 to 15) and test bit of each pixel")
    test_columns: Annotated[tuple[Column, ...], BeforeValidator(_column_numbers)] | None = Field(
        None, description="columns that get test pulses, numbers 0 to 255"
    )
    test_pulse: PulseSettings | None = Field(None, description="test pulses")
    header_filter: int | None = Field(
        None, strict=True, ge=0, le=ALL_HEADERS, description="header nibbles of words that go to Ethernet, 16 bits"
    )
    column_phase: tuple[Phase, ...] | None = Field(
        None,
        description=f"what to add to the time of each of the {N_DCOLS} double columns, "
        f"-{COLUMN_PHASE_LIMIT} to {COLUMN_PHASE_LIMIT} fToA bins (1.5625 ns); left out: what the PLL says",
    )

    @field_validator("test_columns")
    @classmethod
    def _in_order(cls, columns: tuple[int, ...] | None) -> tuple[int, ...] | None:
        return None if columns is None else tuple(sorted(set(columns)))

    @field_validator("column_phase")
    @classmethod
    def _of_all_columns(cls, phases: tuple[int, ...] | None) -> tuple[int, ...] | None:
        if phases is not None and len(phases) != N_DCOLS:
            raise ValueError(f"column_phase has {N_DCOLS} offsets, one per double column, not {len(phases)}")
        return phases

    def phases(self) -> tuple[int, ...]:
        """What to add to the time of each double column (fToA bins): the table, else what the PLL word says.

        Raises ValueError when there is neither, or the PLL's phases are not known.
        """
        if self.column_phase is not None:
            return self.column_phase
        if self.pll is None:
            raise ConfigError(f"chip {self.index}: neither a table of column phases nor a PLL word is given")
        return column_phase(self.pll)


class BiasConfig(_Frozen):
    """Bias voltage of the sensor."""

    enabled: bool = Field(description="bias supply, on or off")
    volts: float | None = Field(
        None, ge=BIAS_MIN_V, le=BIAS_MAX_V, allow_inf_nan=False, description="bias voltage while it is on, 12 to 104 V"
    )

    @model_validator(mode="after")
    def _on_means_a_voltage(self) -> Self:
        if self.enabled and self.volts is None:
            raise ValueError(f"a bias that is on has a voltage: give volts, {BIAS_MIN_V} to {BIAS_MAX_V} V")
        return self


class TriggerSettings(_Frozen):
    """How the shutter opens."""

    mode: Mode = Field(TriggerMode.AUTO, description="shutter mode")
    length_us: int = _setting(Setting.SHUTTER_LENGTH, 0)
    frequency_hz: int = _setting(Setting.SHUTTER_FREQUENCY, 10)
    count: int = _setting(Setting.SHUTTER_COUNT, 1)
    delay_ns: int = _setting(Setting.SHUTTER_DELAY, 0)


class _Stored(_Frozen):
    """What is kept in files."""

    def save(self, path: str | Path, *, overwrite: bool = False) -> Path:
        """Write PATH.yaml and PATH.matrix.npz, both or none. Returns the path of the yaml.

        Raises ConfigError when one of them exists, unless `overwrite`; OSError when the disk does not take them.
        """
        from . import files

        return files.save(self, path, overwrite=overwrite)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read what `save` wrote. Raises ConfigError that names the part that is damaged or missing."""
        from . import files

        return files.load(path, cls)


class BoardConfig(_Stored):
    """All settings of a board and its chips."""

    bias: BiasConfig | None = Field(None, description="bias voltage of the sensor")
    trigger: TriggerSettings | None = Field(None, description="how the shutter opens")
    external_clock: bool | None = Field(None, description="reference clock from outside")
    tdc: int | None = Field(
        None, strict=True, ge=0, le=MAX_INT, description="TDC control word; 0: both inputs, both edges"
    )
    chips: tuple[ChipConfig, ...] = Field((), description="the chips, each with its index")

    @field_validator("chips")
    @classmethod
    def _each_once(cls, chips: tuple[ChipConfig, ...]) -> tuple[ChipConfig, ...]:
        indices = [chip.index for chip in chips]
        twice = sorted({index for index in indices if indices.count(index) > 1})
        if twice:
            raise ValueError(f"chip {twice[0]} is there more than once")
        return tuple(sorted(chips, key=lambda chip: chip.index))

    def chip(self, index: int) -> ChipConfig:
        """The settings of a chip. Raises ConfigError when there are none."""
        for chip in self.chips:
            if chip.index == index:
                return chip
        there = ", ".join(str(chip.index) for chip in self.chips) or "none"
        raise ConfigError(f"the configuration has no chip {index}; it has {there}")


class DetectorConfig(_Stored):
    """A board, where its chips lie, how words become centroids, and what a person says about it."""

    comment: str = Field("", description="for people")
    board: BoardConfig = Field(description="the board and its chips")
    geometry: Geometry = Field(description="where each chip lies in the picture")
    processing: Processing = Field(description="parameters from words to centroids")
