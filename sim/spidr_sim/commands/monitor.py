"""Commands of the simulated board: temperatures, supplies, ADC and fans."""

from functools import partial

from ophyd_timepix.protocol import Command, Reply, Request, Setting
from ophyd_timepix.protocol.commands import MAX_DEVICES
from ophyd_timepix.protocol.registers import (
    ADC_BIAS_CHANNEL,
    ADC_MV_PER_BIAS_V,
    ADC_VDDA_CHANNEL,
    VDDA_DIVIDER,
    adc_sample,
)
from spidr_sim import sensors
from spidr_sim.answers import WORD, Table, ack, at_most, value_of
from spidr_sim.hardware import Hardware


class MonitorCommands:
    """Temperatures, supplies, ADC and fans."""

    def __init__(self, board: Hardware) -> None:
        self._board = board

    def table(self) -> Table:
        """Their handlers."""
        c = Command
        table: Table = {
            c.GET_ADC: lambda r: self._adc_reply(r, 0, r.ints[0]),
            c.GET_REMOTETEMP: lambda r: value_of(r, self._temperature(sensors.CHIP_MDEGC)),
            c.GET_LOCALTEMP: lambda r: value_of(r, self._temperature(sensors.BOARD_MDEGC)),
            c.GET_FPGATEMP: lambda r: value_of(r, self._temperature(sensors.FPGA_MDEGC)),
            c.GET_SPIDR_ADC: self._get_adc,
            c.GET_FANSPEED: self._get_fan,
            c.SET_FANSPEED: self._set_fan,
            c.GET_HUMIDITY: lambda r: value_of(r, sensors.HUMIDITY_PERCENT),
            c.GET_PRESSURE: lambda r: value_of(r, sensors.PRESSURE_MBAR),
        }
        supplies = {
            (c.GET_AVDD, c.GET_AVDD_NOW): (sensors.VDDA_MV, 420),
            (c.GET_DVDD, c.GET_DVDD_NOW): (1500, 310),
            (c.GET_VDD, c.GET_VDD_NOW): (2500, 150),
        }
        for commands, (mv, ma) in supplies.items():
            for command in commands:
                table[command] = partial(self._get_supply, mv, ma)
        return table

    def _temperature(self, mdegc: int) -> int:
        return sensors.drifting(mdegc, self._board.clock.seconds()) & WORD

    def _get_supply(self, mv: int, ma: int, request: Request) -> Reply:
        alive = sum(self._board.has_chip(index) for index in range(self._board.n_chips))
        return value_of(request, *sensors.supply(mv, ma * alive, self._board.powered))

    def _get_adc(self, request: Request) -> Reply:
        return self._adc_reply(request, request.ints[0] & 0xFFFF, request.ints[0] >> 16)

    def _adc_reply(self, request: Request, channel: int, samples: int) -> Reply:
        """The sum of some samples; 0 samples count as one."""
        at_most(channel, MAX_DEVICES - 1)
        return value_of(request, adc_sample(self._adc_mv(channel)) * max(samples, 1) & WORD)

    def _adc_mv(self, channel: int) -> float:
        if channel == ADC_BIAS_CHANNEL:
            return self._board.bias.ramp.at(self._board.clock.seconds()) * ADC_MV_PER_BIAS_V
        if channel == ADC_VDDA_CHANNEL:
            return sensors.VDDA_MV / VDDA_DIVIDER if self._board.powered else 0.0
        if not self._board.is_alive(channel):
            return 0.0
        chip = self._board.chips[channel]
        chip_mdegc = self._temperature(sensors.CHIP_MDEGC)
        return sensors.sensed_mv(chip.sense, chip.dacs | chip.external, chip_mdegc)

    def _get_fan(self, request: Request) -> Reply:
        percent = self._board.fan_percent[at_most(request.ints[0], 1)]
        return value_of(request, sensors.FAN_RPM_AT_FULL * percent // 100)

    def _set_fan(self, request: Request) -> Reply:
        index, percent = request.ints[0] >> 16, request.ints[0] & 0xFFFF
        self._board.fan_percent[at_most(index, 1)] = at_most(percent, int(Setting.FAN.high))
        return ack(request)
