"""The test pulses of a chip as a device. Which pixels get them: the matrix's test bits; how large: the DACs `vtp_*`."""

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
from ophyd import Component as Cpt
from ophyd import Device, Kind

from ..protocol.chip_config import PulseTiming
from ..protocol.pixel_matrix import decode_ctpr, encode_ctpr
from ..protocol.quantities import Setting
from .signals import Hardware, Verb
from .text import ranges, table


class PulseField(Hardware):
    """One of period, phase and number of the test pulses."""

    recorded = True

    def __init__(self, *, attr_name: str, **kwargs: Any) -> None:
        super().__init__(attr_name=attr_name, value=0, **kwargs)

    @property
    def source(self) -> str:
        register = "SET_TPNUMBER" if self.attr_name == "count" else "SET_TPPERIODPHASE"
        return f"SPIDR:chip{self.parent.parent.index}:{register}"

    def ask(self) -> int:
        return int(getattr(self.control.test_pulse(), self.attr_name))

    def tell(self, value: int) -> None:
        with self.root.exclusive():
            self.control.set_test_pulse(replace(self.control.test_pulse(), **{self.attr_name: value}))


def _timing(name: str) -> Any:
    """Declare a field of the protocol's table of the timing."""
    field = next(field for field in PulseTiming.TABLE if field.name == name)
    return Cpt(PulseField, limits=(0, field.bits.mask), kind=Kind.config, meaning=field.meaning)


def _columns_of(register: str) -> list[int]:
    """The columns that a register names."""
    columns: list[int] = np.flatnonzero(decode_ctpr(bytes.fromhex(register))).tolist()
    return columns


class TestPulse(Device):
    """Test pulses: switch them on with `config.general.test_pulse`, choose columns here and pixels in the matrix."""

    __test__ = False  # a name that pytest would take for a class of tests

    period = _timing("period")
    phase = _timing("phase")
    count = Cpt(PulseField, limits=Setting.TEST_PULSES.limits, kind=Kind.config, meaning=Setting.TEST_PULSES.meaning)
    columns = Cpt(
        Verb, ask=lambda chip: encode_ctpr(chip.test_columns()).hex(), value="00" * 32, recorded=True,
        kind=Kind.config, entry="GET_CTPR", show=lambda register: ranges(_columns_of(register)),
        meaning="columns that get test pulses: register of 256 bits, hex",
    )  # fmt: skip

    def choose_columns(self, columns: npt.ArrayLike) -> None:
        """Columns that get test pulses: 256 booleans, or the numbers of the columns."""
        wanted = np.asarray(columns)
        if wanted.dtype != np.bool_:
            if wanted.size and not np.issubdtype(wanted.dtype, np.integer):
                raise ValueError(f"{self.name}: columns are 256 booleans or numbers from 0 to 255, not {columns!r}")
            numbers = wanted.astype(int)
            if numbers.size and not (numbers.min() >= 0 and numbers.max() <= 255):
                raise ValueError(f"{self.name}: columns are numbered 0 to 255, not {numbers.min()} to {numbers.max()}")
            wanted = np.isin(np.arange(256), numbers)
        self.parent.control.set_test_columns(wanted)
        self.columns.get()

    def refresh(self) -> None:
        """Ask the chip."""
        pulse = self.parent.control.test_pulse()
        for signal in (self.period, self.phase, self.count):
            signal.note(int(getattr(pulse, signal.attr_name)))
        self.columns.get()

    def __repr__(self) -> str:
        rows = [("test pulses", "value", "range", "meaning")]
        for name in self.component_names:
            signal = getattr(self, name)
            rows.append((name, signal.shown, signal.range, signal.meaning))
        return table(rows)
