"""What a board measures about itself: temperatures, supplies, fans, air, and its ADC."""

from typing import Final, Literal

from ophyd_timepix.protocol import Command, Quantity, Setting

from .errors import LimitError
from .info import Environment, Supplies, Supply, Temperatures
from .limits import whole, whole_setting
from .wire import Wire

SupplyName = Literal["analogue", "digital", "vdd"]

FANS: Final = (Quantity.CHIP_FAN, Quantity.BOARD_FAN)
"""Fans by their index."""

_HALF_WORD: Final = 0xFFFF

_SUPPLIES: Final[dict[str, tuple[Quantity, Quantity, Quantity]]] = {
    "analogue": (Quantity.ANALOGUE_V, Quantity.ANALOGUE_A, Quantity.ANALOGUE_W),
    "digital": (Quantity.DIGITAL_V, Quantity.DIGITAL_A, Quantity.DIGITAL_W),
    "vdd": (Quantity.VDD_V, Quantity.VDD_A, Quantity.VDD_W),
}


class Monitoring(Wire):
    """The verbs that measure. Each asks the board now."""

    def measure(self, quantity: Quantity) -> float:
        """A quantity of the table, in its unit."""
        return quantity.of(self.client.request(quantity.command, 0, (quantity.argument,)).ints)

    def temperatures(self) -> Temperatures:
        """Chip, board and FPGA."""
        return Temperatures(self.chip_temperature(), self.board_temperature(), self.fpga_temperature())

    def chip_temperature(self) -> float:
        """The remote sensor, beside the chips (degC). A chip's own: `Chip.temperature`."""
        return self.measure(Quantity.CHIP_TEMPERATURE)

    def board_temperature(self) -> float:
        """The board (degC)."""
        return self.measure(Quantity.BOARD_TEMPERATURE)

    def fpga_temperature(self) -> float:
        """The FPGA (degC)."""
        return self.measure(Quantity.FPGA_TEMPERATURE)

    def supplies(self) -> Supplies:
        """Analogue and digital supply of the chips."""
        return Supplies(self.supply("analogue"), self.supply("digital"))

    def supply(self, name: SupplyName) -> Supply:
        """One supply: analogue, digital or vdd (the third)."""
        quantities = _SUPPLIES.get(name)
        if quantities is None:
            raise LimitError(f"{self.client.address}: the supplies are {', '.join(_SUPPLIES)}; there is no {name!r}")
        words = self.client.request(quantities[0].command).ints
        volts, amperes, watts = (quantity.of(words) for quantity in quantities)
        return Supply(volts, amperes, watts)

    def environment(self) -> Environment:
        """Humidity, pressure, fans."""
        return Environment(self.humidity_percent(), self.pressure_mbar(), (self.fan_rpm(0), self.fan_rpm(1)))

    def humidity_percent(self) -> int:
        """Relative humidity (%)."""
        return int(self.measure(Quantity.HUMIDITY))

    def pressure_mbar(self) -> int:
        """Air pressure (mbar)."""
        return int(self.measure(Quantity.PRESSURE))

    def fan_rpm(self, index: int) -> int:
        """A fan: 0 on the chip board, 1 on the board (rpm)."""
        return int(self.measure(FANS[self._fan(index)]))

    def set_fan(self, index: int, percent: int) -> None:
        """Speed of a fan (%). The board reads back rpm only, and fans take their time: nothing is compared."""
        speed = whole_setting(self.client.address, Setting.FAN, percent)
        self._request(Command.SET_FANSPEED, self._fan(index) << 16 | speed)

    def fan_setting(self, index: int) -> int | None:
        """The speed set last (%); None when none was set since the last reset."""
        words = self.client.memory.last(Command.SET_FANSPEED, 0, self._fan(index))
        return None if words is None else words[0] & 0xFFFF

    def vdda_v(self) -> float:
        """VDDA of the chips, measured by the ADC (V)."""
        return self.measure(Quantity.VDDA)

    def adc(self, channel: int, samples: int = 1) -> int:
        """Sum of some 12-bit samples of an ADC channel."""
        where = self.client.address
        channel = whole(where, "an ADC channel", channel, 0, _HALF_WORD)
        samples = whole(where, "what the ADC adds up", samples, 1, _HALF_WORD, "samples")
        return self._get(Command.GET_SPIDR_ADC, samples << 16 | channel)

    def _fan(self, index: int) -> int:
        return whole(self.client.address, "a fan", index, 0, len(FANS) - 1, "(of the chip board, of the board)")
