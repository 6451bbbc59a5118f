"""A Timepix3 chip as an ophyd device: DACs, configuration words, pixel matrix, test pulses; one line per quantity.

Codes, widths, values and meanings stand in `protocol`; nothing of the wire is repeated here.
"""

import contextlib
from typing import Any

from ophyd import Component as Cpt
from ophyd import Device, Kind

from ..control import Chip, LimitError
from ..protocol.commands import ALL_HEADERS
from ..protocol.dacs import Dac
from .matrix import Matrix
from .pulses import TestPulse
from .signals import Hardware, Monitored, Verb
from .text import Text, table
from .words import ChipWords


class DacSignal(Hardware):
    """A DAC. `set` rounds to its step, refuses what it cannot hold before the wire, and verifies by read-back.

    Of kind normal, so that a DAC that is scanned stands in every event.
    """

    recorded = True

    def __init__(self, *, dac: Dac, **kwargs: Any) -> None:
        self.dac = dac
        kwargs.setdefault("kind", Kind.normal)
        super().__init__(value=dac.default, units="DAC step", limits=(0, dac.max), meaning=dac.meaning, **kwargs)

    def ask(self) -> int:
        value: int = self.control.dac(self.dac)
        return value

    def tell(self, value: int) -> None:
        self.control.set_dac(self.dac, value)

    def _whole(self, value: Any) -> int:
        return round(value)

    @property
    def range(self) -> str:
        return f"{super().range}, default {self.dac.default}"

    @property
    def source(self) -> str:
        return f"SPIDR:chip{self.parent.parent.index}:DAC{self.dac.code}:{self.dac.wire_name}"


class Dacs(Device):
    """All DACs of a chip (Timepix3 manual, names as there)."""

    ibias_preamp_on = Cpt(DacSignal, dac=Dac.IBIAS_PREAMP_ON)
    ibias_preamp_off = Cpt(DacSignal, dac=Dac.IBIAS_PREAMP_OFF)
    vpreamp_ncas = Cpt(DacSignal, dac=Dac.VPREAMP_NCAS)
    ibias_ikrum = Cpt(DacSignal, dac=Dac.IBIAS_IKRUM)
    vfbk = Cpt(DacSignal, dac=Dac.VFBK)
    vthreshold_fine = Cpt(DacSignal, dac=Dac.VTHRESHOLD_FINE)
    vthreshold_coarse = Cpt(DacSignal, dac=Dac.VTHRESHOLD_COARSE)
    ibias_discs1_on = Cpt(DacSignal, dac=Dac.IBIAS_DISCS1_ON)
    ibias_discs1_off = Cpt(DacSignal, dac=Dac.IBIAS_DISCS1_OFF)
    ibias_discs2_on = Cpt(DacSignal, dac=Dac.IBIAS_DISCS2_ON)
    ibias_discs2_off = Cpt(DacSignal, dac=Dac.IBIAS_DISCS2_OFF)
    ibias_pixeldac = Cpt(DacSignal, dac=Dac.IBIAS_PIXELDAC)
    ibias_tpbufferin = Cpt(DacSignal, dac=Dac.IBIAS_TPBUFFERIN)
    ibias_tpbufferout = Cpt(DacSignal, dac=Dac.IBIAS_TPBUFFEROUT)
    vtp_coarse = Cpt(DacSignal, dac=Dac.VTP_COARSE)
    vtp_fine = Cpt(DacSignal, dac=Dac.VTP_FINE)
    ibias_cp_pll = Cpt(DacSignal, dac=Dac.IBIAS_CP_PLL)
    pll_vcntrl = Cpt(DacSignal, dac=Dac.PLL_VCNTRL)

    @property
    def hints(self) -> dict[str, list[str]]:
        """Only DACs that a user made hinted: 18 columns in every table help nobody."""
        return {"fields": [signal.name for signal in self._signals_of() if Kind.hinted in Kind(signal.kind)]}

    def last(self) -> dict[str, int]:
        """Name and value of each DAC as last seen, without asking the chip."""
        return {signal.attr_name: signal.last for signal in self._signals_of()}

    def refresh(self) -> None:
        """Ask the chip for all DACs."""
        for signal in self._signals_of():
            signal.get()

    def summary(self) -> Text:
        """All DACs with value, range, default and meaning, for a person at a prompt. Asks the chip."""
        self.refresh()
        return self._table()

    def __repr__(self) -> str:
        return self._table()

    def _table(self) -> Text:
        rows = [("DAC", "value", "range", "default", "meaning")]
        for signal in self._signals_of():
            dac = signal.dac
            rows.append((signal.attr_name, signal.shown, f"0-{dac.max}", str(dac.default), dac.meaning))
        return table(rows, right=(1, 2, 3))

    def _signals_of(self) -> list[DacSignal]:
        return [getattr(self, name) for name in self.component_names]


class Timepix3Chip(Device):
    """One chip behind a board. A root of its own towards bluesky only through its board: scan its DACs, not itself."""

    dacs = Cpt(Dacs, "", kind=Kind.normal)
    config = Cpt(ChipWords, "", kind=Kind.config)
    matrix = Cpt(Matrix, "", kind=Kind.config)
    test_pulse = Cpt(TestPulse, "", kind=Kind.config)
    header_filter = Cpt(
        Verb, ask=lambda chip: chip.header_filter()[0], tell=lambda chip, mask: chip.set_header_filter(mask),
        value=ALL_HEADERS, limits=(0, ALL_HEADERS), entry="SET_HEADERFILTER", recorded=True, kind=Kind.config,
        show=lambda mask: f"0x{mask:04X}", meaning="which header nibbles go to Ethernet, a mask",
    )  # fmt: skip
    temperature = Cpt(
        Monitored, ask=lambda chip: chip.temperature(), value=0.0, units="degC", precision=1, entry="SET_SENSEDAC",
        meaning="of the chip, by its bandgap; moves its sense line", kind=Kind.omitted,
    )  # fmt: skip

    def __init__(self, prefix: str = "", *, index: int, **kwargs: Any) -> None:
        self.index = index
        self.column_phase: tuple[int, ...] | None = None
        """What to add to the time of each of the 128 double columns (fToA bins); None: what the PLL word says."""
        super().__init__(prefix, **kwargs)

    @property
    def control(self) -> Chip:
        """The chip's verbs (`ophyd_timepix.control.Chip`); connects when there is no connection yet."""
        chip: Chip = self.parent.control.chip(self.index)
        return chip

    def summary(self) -> Text:
        """All settings of the chip and its temperature, for a person at a prompt. Asks the chip."""
        self.refresh()
        with contextlib.suppress(LimitError):  # of the chips 1 and 2 nobody knows where it can be read
            self.temperature.get()
        rows = [("chip", "value", "unit", "meaning")]
        rows += [(s.attr_name, s.shown, s.units, s.meaning) for s in (self.header_filter, self.temperature)]
        parts = (self._title(), self.dacs._table(), self.config, repr(self.matrix), repr(self.test_pulse), table(rows))
        return Text("\n\n".join(map(str, parts)))

    def refresh(self) -> None:
        """Ask the chip for all its settings."""
        self.dacs.refresh()
        self.config.refresh()
        self.matrix.refresh()
        self.test_pulse.refresh()
        self.header_filter.get()

    def __repr__(self) -> str:
        return f"Timepix3Chip({self.name}: {self._title()})"

    def _title(self) -> str:
        info = self.parent.info
        return str(info.chips[self.index]) if info is not None else f"chip {self.index}, not read yet"
