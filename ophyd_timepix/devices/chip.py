"""A Timepix3 chip as an ophyd device: its DACs, one line per DAC of the protocol's table.

Codes, widths and meanings stand in `protocol.dacs`; nothing of the wire is repeated here.
"""

from typing import Any

from ophyd import Component as Cpt
from ophyd import Device, Kind

from ..control import Chip
from ..protocol.dacs import Dac
from .signals import Hardware


class DacSignal(Hardware):
    """A DAC. `set` rounds to its step, refuses what it cannot hold before the wire, and verifies by read-back.

    Of kind normal, so that a DAC that is scanned stands in every event.
    """

    def __init__(self, *, dac: Dac, **kwargs: Any) -> None:
        self.dac = dac
        kwargs.setdefault("kind", Kind.normal)
        super().__init__(value=dac.default, units="DAC step", limits=(0, dac.max), **kwargs)

    def ask(self) -> int:
        return self._chip.dac(self.dac)

    def tell(self, value: float) -> None:
        self._chip.set_dac(self.dac, round(value))

    @property
    def source(self) -> str:
        return f"SPIDR:chip{self._chip_index}:DAC{self.dac.code}:{self.dac.wire_name}"

    @property
    def hints(self) -> dict[str, list[str]]:
        """A DAC that is scanned is its own axis, whatever its kind."""
        return {"fields": [self.name]}

    @property
    def _chip_index(self) -> int:
        index: int = self.parent.parent.index
        return index

    @property
    def _chip(self) -> Chip:
        chip: Chip = self.parent.parent.control
        return chip


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
        dacs = (getattr(self, name) for name in self.component_names)
        return {"fields": [dac.name for dac in dacs if Kind.hinted in Kind(dac.kind)]}

    def last(self) -> dict[str, int]:
        """Name and value of each DAC as last seen, without asking the chip."""
        return {name: getattr(self, name).last for name in self.component_names}

    def refresh(self) -> None:
        """Ask the chip for all DACs."""
        for name in self.component_names:
            getattr(self, name).get()

    def summary(self) -> str:
        """All DACs with value, range, default and meaning, for a person at a prompt."""
        lines = [f"{'DAC':<20}{'value':>6}{'range':>9}{'default':>9}  meaning"]
        for name in self.component_names:
            dac = getattr(self, name).dac
            value = getattr(self, name).get()
            lines.append(f"{name:<20}{value:>6}{f'0-{dac.max}':>9}{dac.default:>9}  {dac.meaning}")
        return "\n".join(lines)


class Timepix3Chip(Device):
    """One chip behind a board. A root of its own towards bluesky only through its board: scan its DACs, not itself."""

    dacs = Cpt(Dacs, "", kind=Kind.normal)

    def __init__(self, prefix: str = "", *, index: int, **kwargs: Any) -> None:
        self.index = index
        super().__init__(prefix, **kwargs)

    @property
    def control(self) -> Chip:
        """The chip's verbs (`ophyd_timepix.control.Chip`); connects when there is no connection yet."""
        chip: Chip = self.parent.control.chip(self.index)
        return chip
