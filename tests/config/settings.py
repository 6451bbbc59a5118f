"""Configurations for tests: one that is complete and unlike any default, and strategies of all that there can be."""

import numpy as np
from hypothesis import strategies as st

from ophyd_timepix.config import (
    BiasConfig,
    BoardConfig,
    ChipConfig,
    DetectorConfig,
    Geometry,
    Processing,
    PulseSettings,
    TriggerSettings,
)
from ophyd_timepix.protocol import (
    Dac,
    GeneralConfig,
    OutputBlockConfig,
    PixelMatrix,
    PllConfig,
    PulseTiming,
    TriggerMode,
)
from ophyd_timepix.protocol.chip_config import ConfigWord
from ophyd_timepix.protocol.quantities import Setting
from spidr_sim.chip import CHIP_NAMES


def matrix(seed: int = 1) -> PixelMatrix:
    return PixelMatrix.from_codes(np.random.default_rng(seed).integers(0, 64, (256, 256), dtype=np.uint8))


def chip_config(index: int = 0, seed: int = 1) -> ChipConfig:
    """Everything is given, and nothing has its default or reset value."""
    return ChipConfig(
        index=index,
        name=CHIP_NAMES[index],
        dacs={dac: (max(dac.default, dac.reset) + 1 + seed) % (dac.max + 1) for dac in Dac},
        general=GeneralConfig(polarity=1, test_pulse=1),
        pll=PllConfig(phases=1),
        output_block=OutputBlockConfig(fast_clock_out=1),
        matrix=matrix(seed),
        test_columns=(0, 7, 255),
        test_pulse=PulseSettings(period=4, phase=3, count=100),
        header_filter=0x0C70,
    )


def board_config(chips: int = 2) -> BoardConfig:
    return BoardConfig(
        bias=BiasConfig(enabled=True, volts=33.5),
        trigger=TriggerSettings(mode=TriggerMode.OPEN, length_us=20, frequency_hz=50, count=3, delay_ns=100),
        external_clock=True,
        tdc=5,
        chips=tuple(chip_config(index, seed=index + 1) for index in range(chips)),
    )


def detector_config(chips: int = 1) -> DetectorConfig:
    return DetectorConfig(
        comment="as on Tuesday",
        board=board_config(chips),
        geometry=Geometry.for_chips(chips),
        processing=Processing(radius_px=1.5, tof_max_ns=20_000.0),
    )


# --- strategies -------------------------------------------------------------------------------------------------------
def _words(kind: type[ConfigWord]) -> st.SearchStrategy[ConfigWord]:
    return st.builds(kind, **{field.name: st.integers(0, field.bits.mask) for field in kind.TABLE})


def _maybe(strategy: st.SearchStrategy[object]) -> st.SearchStrategy[object]:
    return st.none() | strategy


words32 = st.integers(0, 2**32 - 1)
matrices = st.builds(
    lambda seed, masked: PixelMatrix.from_codes(matrix(seed).codes() & masked),
    st.integers(0, 2**32),
    st.sampled_from([0, 1, 0x3F]),
)
dacs = st.fixed_dictionaries({dac.name.lower(): st.integers(0, dac.max) for dac in Dac})
pulses = st.builds(
    lambda timing, count: PulseSettings(period=timing.period, phase=timing.phase, count=count),
    _words(PulseTiming),
    st.integers(0, 0xFFFF),
)
triggers = st.builds(
    TriggerSettings,
    mode=st.sampled_from(TriggerMode),
    length_us=st.integers(0, int(Setting.SHUTTER_LENGTH.high)),
    frequency_hz=st.integers(1, 40_000_000),
    count=words32,
    delay_ns=words32,
)
biases = st.builds(BiasConfig, enabled=st.booleans(), volts=st.floats(12, 104))


def chip_configs(index: int, *, complete: bool = False, name: str | None = None) -> st.SearchStrategy[ChipConfig]:
    part = (lambda strategy: strategy) if complete else _maybe
    return st.builds(
        ChipConfig,
        index=st.just(index),
        name=st.text(max_size=20) if name is None else st.just(name),
        dacs=dacs,
        general=part(_words(GeneralConfig)),
        pll=part(_words(PllConfig)),
        output_block=part(_words(OutputBlockConfig)),
        matrix=matrices,
        test_columns=part(st.sets(st.integers(0, 255)).map(tuple)),
        test_pulse=part(pulses),
        header_filter=part(st.integers(0, 0xFFFF)),
        column_phase=_maybe(st.lists(st.integers(-1024, 1024), min_size=128, max_size=128).map(tuple)),
    )


board_configs = st.sets(st.integers(0, 3), max_size=2).flatmap(
    lambda indices: st.builds(
        BoardConfig,
        bias=_maybe(biases),
        trigger=_maybe(triggers),
        external_clock=_maybe(st.booleans()),
        tdc=_maybe(words32),
        chips=st.tuples(*(chip_configs(index) for index in sorted(indices))),
    )
)
detector_configs = st.builds(
    DetectorConfig,
    comment=st.text(max_size=200),
    board=board_configs,
    geometry=st.integers(1, 4).map(Geometry.for_chips),
    processing=st.builds(
        Processing,
        radius_px=st.floats(0.01, 8),
        window_ns=st.floats(0.01, 100_000),
        tof_min_ns=_maybe(st.floats(-1e9, 0)),
        tof_max_ns=_maybe(st.floats(1, 1e9)),
        hits=st.booleans(),
    ),
)
