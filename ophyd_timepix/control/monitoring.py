"""What a board measures about itself: temperatures, supplies, fans, air, and its ADC."""

from typing import Final, Literal

from ophyd_timepix.protocol import Command
from ophyd_timepix.protocol.registers import ADC_VDDA_CHANNEL, VDDA_DIVIDER, adc_mv

from .errors import LimitError
from .info import Environment, Supplies, Supply, Temperatures
from .wire import Wire, signed

SupplyName = Literal["analogue", "digital", "vdd"]

FANS: Final = ("chip board", "board")
"""Fans by their index."""
FAN_MAX_PERCENT: Final = 100

_SUPPLIES: Final[dict[str, Command]] = {
    "analogue": Command.GET_AVDD_NOW,
    "digital": Command.GET_DVDD_NOW,
    "vdd": Command.GET_VDD_NOW,
}


class Monitoring(Wire):
    """The verbs that measure. Each asks the board now."""

    def temperatures(self) -> Temperatures:
        """Chip, board and FPGA."""
        return Temperatures(self.chip_temperature(), self.board_temperature(), self.fpga_temperature())

    def chip_temperature(self) -> float:
        """The remote sensor, beside the chips (degC). A chip's own: `Chip.temperature`."""
        return signed(self._get(Command.GET_REMOTETEMP)) / 1000

    def board_temperature(self) -> float:
        """The board (degC)."""
        return signed(self._get(Command.GET_LOCALTEMP)) / 1000

    def fpga_temperature(self) -> float:
        """The FPGA (degC)."""
        return signed(self._get(Command.GET_FPGATEMP)) / 1000

    def supplies(self) -> Supplies:
        """Analogue and digital supply of the chips."""
        return Supplies(self.supply("analogue"), self.supply("digital"))

    def supply(self, name: SupplyName) -> Supply:
        """One supply: analogue, digital or vdd (the third)."""
        command = _SUPPLIES.get(name)
        if command is None:
            raise LimitError(f"{self.client.address}: the supplies are {', '.join(_SUPPLIES)}; there is no {name!r}")
        mv, ma, mw = self.client.request(command).ints
        return Supply(signed(mv) / 1000, signed(ma) / 1000, signed(mw) / 1000)

    def environment(self) -> Environment:
        """Humidity, pressure, fans."""
        return Environment(self.humidity_percent(), self.pressure_mbar(), (self.fan_rpm(0), self.fan_rpm(1)))

    def humidity_percent(self) -> int:
        """Relative humidity (%)."""
        return self._get(Command.GET_HUMIDITY)

    def pressure_mbar(self) -> int:
        """Air pressure (mbar)."""
        return self._get(Command.GET_PRESSURE)

    def fan_rpm(self, index: int) -> int:
        """A fan: 0 on the chip board, 1 on the board (rpm)."""
        self._check_fan(index)
        return self._get(Command.GET_FANSPEED, index)

    def set_fan(self, index: int, percent: int) -> None:
        """Speed of a fan (%). The board reads back rpm only, and fans take their time: nothing is compared."""
        self._check_fan(index)
        if not 0 <= percent <= FAN_MAX_PERCENT:
            raise LimitError(
                f"{self.client.address}: a fan runs at 0 to {FAN_MAX_PERCENT} %, not {percent} %; nothing was sent"
            )
        self._request(Command.SET_FANSPEED, index << 16 | percent)

    def fan_setting(self, index: int) -> int | None:
        """The speed set last (%); None when none was set since the last reset."""
        self._check_fan(index)
        words = self.client.memory.last(Command.SET_FANSPEED, 0, index)
        return None if words is None else words[0] & 0xFFFF

    def vdda_v(self) -> float:
        """VDDA of the chips, measured by the ADC (V)."""
        return adc_mv(self.adc(ADC_VDDA_CHANNEL)) * VDDA_DIVIDER / 1000

    def adc(self, channel: int, samples: int = 1) -> int:
        """Sum of some 12-bit samples of an ADC channel."""
        return self._get(Command.GET_SPIDR_ADC, samples << 16 | channel)

    def _check_fan(self, index: int) -> None:
        if not 0 <= index < len(FANS):
            raise LimitError(
                f"{self.client.address}: fans are 0 ({FANS[0]}) and 1 ({FANS[1]}), there is no {index}; "
                "nothing was sent"
            )
