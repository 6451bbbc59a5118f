"""What a board measures about itself, its clocks and its TDC."""

from typing import Final

from ophyd import Device

from ..protocol import Register
from .signals import Monitored, counted, measured, settable, setting, switch
from .text import Text, table

PERIOD_S: Final = 1.0


class Monitor(Device):
    """What the board measures about itself. Whoever subscribes to one of these is called every `period`.

    ::

        spidr.monitor.period.set(0.5)
        spidr.monitor.chip_temperature.subscribe(lambda value, **_: print(value))
    """

    chip_temperature = measured(lambda b: b.chip_temperature(), "degC", "GET_REMOTETEMP", "at the chip")
    board_temperature = measured(lambda b: b.board_temperature(), "degC", "GET_LOCALTEMP", "of the board")
    fpga_temperature = measured(lambda b: b.fpga_temperature(), "degC", "GET_FPGATEMP", "of the FPGA")
    bias = measured(lambda b: b.bias_v(), "V", "GET_SPIDR_ADC", "bias voltage of the sensor", precision=2)
    analogue_v = measured(lambda b: b.supply("analogue").volts, "V", "GET_AVDD_NOW", "analogue supply", precision=3)
    analogue_a = measured(lambda b: b.supply("analogue").amperes, "A", "GET_AVDD_NOW", "analogue supply", precision=3)
    analogue_w = measured(lambda b: b.supply("analogue").watts, "W", "GET_AVDD_NOW", "analogue supply", precision=3)
    digital_v = measured(lambda b: b.supply("digital").volts, "V", "GET_DVDD_NOW", "digital supply", precision=3)
    digital_a = measured(lambda b: b.supply("digital").amperes, "A", "GET_DVDD_NOW", "digital supply", precision=3)
    digital_w = measured(lambda b: b.supply("digital").watts, "W", "GET_DVDD_NOW", "digital supply", precision=3)
    vdd_v = measured(lambda b: b.supply("vdd").volts, "V", "GET_VDD_NOW", "third supply", precision=3)
    vdd_a = measured(lambda b: b.supply("vdd").amperes, "A", "GET_VDD_NOW", "third supply", precision=3)
    vdd_w = measured(lambda b: b.supply("vdd").watts, "W", "GET_VDD_NOW", "third supply", precision=3)
    vdda = measured(lambda b: b.vdda_v(), "V", "GET_SPIDR_ADC", "analogue supply at the board's ADC", precision=3)
    humidity = counted(lambda b: b.humidity_percent(), "%", "GET_HUMIDITY", "relative humidity")
    pressure = counted(lambda b: b.pressure_mbar(), "mbar", "GET_PRESSURE", "air pressure")
    chip_fan = counted(lambda b: b.fan_rpm(0), "rpm", "GET_FANSPEED", "fan of the chip board")
    board_fan = counted(lambda b: b.fan_rpm(1), "rpm", "GET_FANSPEED", "fan of the board")
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
