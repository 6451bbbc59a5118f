"""What a board measures about itself, its clocks and its TDC."""

import threading
from collections.abc import Callable
from typing import Any, Final

from ophyd import Component as Cpt
from ophyd import Device, Kind

from ..control import ConnectionLost
from ..protocol import Register
from ..protocol.quantities import Quantity
from .signals import Hardware, Monitored, counted, measured, settable, setting, switch
from .text import Text, table

PERIOD_S: Final = 1.0


class Answering(Monitored):
    """1 while the board answers, 0 while it is away: that is told, too, where other quantities fall silent."""

    def __init__(self, **kwargs: Any) -> None:
        self._ignore_line: Callable[[], None] | None = None
        super().__init__(**kwargs)

    def ask(self) -> int:
        try:
            super().ask()
        except ConnectionLost:
            return 0
        return 1

    def mind_watch(self) -> None:
        super().mind_watch()
        if self._watch is not None and self._ignore_line is None:
            self._ignore_line = self.control.client.subscribe(self._line_changed)

    def rest(self) -> None:
        ignore, self._ignore_line = self._ignore_line, None
        if ignore is not None:
            ignore()
        super().rest()

    def _poll(self) -> None:
        try:
            super().ask()
        except ConnectionLost:
            self.note(0, always=True)
            raise  # all that is polled is held back then
        self.note(1, always=True)

    def _line_changed(self, connected: bool) -> None:
        """Called within the lock of the line, where no subscriber may be told."""
        threading.Thread(target=self._tell_line, name="timepix-line", daemon=True).start()

    def _tell_line(self) -> None:
        if self._watch is not None:
            self.note(int(self.connected))


class Monitor(Device):
    """What the board measures about itself. Whoever subscribes to one of these is called every `period`.

    ::

        spidr.monitor.period.set(0.5)
        spidr.monitor.chip_temperature.subscribe(lambda value, **_: print(value))
    """

    answering = Cpt(
        Answering, ask=lambda board: board.tdc_triggers(), value=0, entry="connection",
        meaning="1: the board answers, 0: it is away; for suspenders", kind=Kind.normal,
    )  # fmt: skip
    chip_temperature = measured(Quantity.CHIP_TEMPERATURE)
    board_temperature = measured(Quantity.BOARD_TEMPERATURE)
    fpga_temperature = measured(Quantity.FPGA_TEMPERATURE)
    bias = measured(Quantity.BIAS)
    analogue_v = measured(Quantity.ANALOGUE_V)
    analogue_a = measured(Quantity.ANALOGUE_A)
    analogue_w = measured(Quantity.ANALOGUE_W)
    digital_v = measured(Quantity.DIGITAL_V)
    digital_a = measured(Quantity.DIGITAL_A)
    digital_w = measured(Quantity.DIGITAL_W)
    vdd_v = measured(Quantity.VDD_V)
    vdd_a = measured(Quantity.VDD_A)
    vdd_w = measured(Quantity.VDD_W)
    vdda = measured(Quantity.VDDA)
    humidity = measured(Quantity.HUMIDITY)
    pressure = measured(Quantity.PRESSURE)
    chip_fan = measured(Quantity.CHIP_FAN)
    board_fan = measured(Quantity.BOARD_FAN)
    shutters = measured(Quantity.SHUTTERS)
    external_shutters = measured(Quantity.EXTERNAL_SHUTTERS)
    datagrams = counted(lambda b: b.sent_counters().datagrams, "datagrams", "UDP_DATAGRAMS", "sent since the reset")
    pixel_words = counted(lambda b: sum(b.sent_counters().pixel_words), "words", "PIXEL_WORDS", "of all chips")
    tdc_triggers = counted(lambda b: b.sent_counters().tdc_triggers, "triggers", "TDC_TRIGGERS", "seen by the TDC")

    period = setting(PERIOD_S, units="s", limits=(0.05, 3600.0), meaning="how often subscribed quantities are asked")

    def quantities(self) -> list[Monitored]:
        """All monitored quantities."""
        return [signal for name in self.component_names if isinstance(signal := getattr(self, name), Monitored)]

    def summary(self) -> Text:
        """All quantities, measured now."""
        for signal in self.quantities():
            signal.get()
        return Text(repr(self))

    def __repr__(self) -> str:
        rows = [("monitor", "value", "unit", "meaning")]
        rows += [(signal.attr_name, signal.shown, signal.units, signal.meaning) for signal in self.quantities()]
        return table(rows, right=(1,))


class Clock(Device):
    """Where the board's time comes from."""

    external = switch(
        lambda b: b.external_clock(), lambda b, on: b.set_external_clock(on), "CPU_TO_TPX", "external reference clock"
    )
    fast = switch(
        lambda b: b.clock_80_mhz(), lambda b, on: b.set_clock_80_mhz(on), "CPU_TO_TPX", "80 MHz peripheral clock"
    )

    def refresh(self) -> None:
        """Ask the board."""
        self.external.get()
        self.fast.get()

    def __repr__(self) -> str:
        return _table("clock", (self.external, self.fast))


class Tdc(Device):
    """The TDC of the board. Which edges the shots come from is the detector's `processing`."""

    word = settable(
        lambda b: b.tdc_control(), lambda b, word: b.set_tdc_control(word), 0, "TDC_CONTROL",
        Register.TDC_CONTROL.meaning, limits=(0, 0xFFFF_FFFF),
    )  # fmt: skip
    triggers = counted(lambda b: b.sent_counters().tdc_triggers, "triggers", "TDC_TRIGGERS", "seen since the reset")

    def refresh(self) -> None:
        """Ask the board."""
        self.word.get()

    def __repr__(self) -> str:
        return _table("TDC", (self.word, self.triggers))


def _table(title: str, signals: tuple[Hardware, ...]) -> Text:
    """Signals as last seen."""
    rows = [(title, "value", "range", "meaning")]
    rows += [(signal.attr_name, signal.shown, signal.range, signal.meaning) for signal in signals]
    return table(rows)
