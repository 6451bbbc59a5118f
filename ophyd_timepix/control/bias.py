"""The bias supply of the sensor: set, measured, and ramped without holding up the line.

A ramp sends a step every tenth of a second and waits in between without any lock, so monitoring goes on beside it. The
newest command wins: a ramp that finds the bias set or switched from elsewhere ends and says so.
"""

import math
import threading
from typing import Final

from ophyd_timepix.protocol import Command, Quantity
from ophyd_timepix.protocol.registers import (
    BIAS_MAX_V,
    BIAS_MIN_V,
    BIAS_ON_V,
    BIAS_TOLERANCE_V,
    bias_dac,
    bias_of_dac,
)

from .errors import ControlError, LimitError, ReadBackError
from .limits import flag
from .monitoring import Monitoring

RAMP_V_PER_S: Final = 20.0
STEP_S: Final = 0.1
SETTLE_S: Final = 10.0
"""How long the measured bias may take after the last step: cables and sensor charge up."""
_SETTLE_STEP_S: Final = 0.05


class BiasSupply(Monitoring):
    """The verbs of the bias."""

    _bias_turn = 0

    @property
    def bias_setting(self) -> float | None:
        """Volts set last by this program; None when none were since the last reset."""
        words = self.client.memory.last(Command.SET_BIAS_ADJUST)
        return None if words is None else bias_of_dac(words[0])

    @property
    def bias_enabled(self) -> bool | None:
        """Whether this program switched the supply on or off last; None when it did neither since the last reset."""
        words = self.client.memory.last(Command.BIAS_SUPPLY_ENA)
        return None if words is None else bool(words[0])

    def bias_is_on(self, measured_v: float | None = None) -> bool:
        """Whether the supply is on: as switched last; before anybody did, by what the ADC reads (None: asked now)."""
        switched = self.bias_enabled
        if switched is not None:
            return switched
        return (self.bias_v() if measured_v is None else measured_v) >= BIAS_ON_V

    def bias_v(self) -> float:
        """Bias voltage, measured by the board's ADC (steps of 37 mV)."""
        return self.measure(Quantity.BIAS)

    def set_bias(self, volts: float) -> None:
        """Bias voltage of the sensor, 12 to 104 V, at once. Takes effect while the bias is on. Ends a ramp."""
        word = self._bias_word(volts)
        with self.client.exclusive():
            self._bias_turn += 1
            self._request(Command.SET_BIAS_ADJUST, word)

    def bias_enable(self, enabled: bool) -> None:
        """Bias supply on or off. Ends a ramp."""
        switch_on = flag(self.client.address, "the bias supply", enabled)
        with self.client.exclusive():
            self._bias_turn += 1
            self._request(Command.BIAS_SUPPLY_ENA, int(switch_on))

    def ramp_bias(
        self,
        volts: float,
        rate_v_per_s: float = RAMP_V_PER_S,
        tolerance_v: float = BIAS_TOLERANCE_V,
        stop: threading.Event | None = None,
    ) -> float:
        """Go to `volts` in steps, wait until the ADC reads it within the tolerance, return what it reads.

        Begins at what the ADC reads; a supply that is off is switched on, at 12 V, the least it gives. `stop` ends it
        where it is. Raises ReadBackError when the ADC does not arrive within 10 s of the last step, and ControlError
        when the bias is set, switched or ramped from elsewhere meanwhile.
        """
        self._bias_word(volts)
        if not _above_0(rate_v_per_s):
            raise LimitError(f"{self.client.address}: a bias ramp is faster than 0 V/s, not {rate_v_per_s} V/s")
        if not _above_0(tolerance_v):
            raise LimitError(
                f"{self.client.address}: the tolerance of a bias ramp is more than 0 V (say {BIAS_TOLERANCE_V} V), "
                f"not {tolerance_v} V; nothing was sent"
            )
        stop = stop or threading.Event()
        with self.client.exclusive():
            self._bias_turn += 1
            turn = self._bias_turn
        if self._climb(volts, rate_v_per_s, stop, turn):
            self._await_bias(volts, tolerance_v, stop, turn)
        return self.bias_v()

    def ramp_bias_off(self, rate_v_per_s: float = RAMP_V_PER_S, stop: threading.Event | None = None) -> None:
        """Go down to 12 V, the least the supply gives, in steps; then switch it off. `stop` leaves it on."""
        stop = stop or threading.Event()
        if self.bias_v() > BIAS_MIN_V and self.bias_enabled is not False:
            self.ramp_bias(BIAS_MIN_V, rate_v_per_s, stop=stop)
        if not stop.is_set():
            self.bias_enable(False)

    def restore_bias(self) -> list[str]:
        """After the board lost its settings: bring the bias to what was set, in steps. Returns what was lost.

        Within the line's lock, as all restoring. The last step is not waited for: a supply that gives less than it
        should is seen by whoever reads `bias_v`, and must not make the board unusable.
        """
        enabled, setting = self.bias_enabled, self.bias_setting
        if enabled is None and setting is None:
            return []
        measured = self.bias_v()
        is_on = measured >= BIAS_ON_V
        lost = [] if enabled is None or enabled == is_on else [f"bias supply {'on' if enabled else 'off'}"]
        if setting is not None and (enabled or (enabled is None and is_on)):
            if abs(measured - setting) > BIAS_TOLERANCE_V:
                self._climb(setting, RAMP_V_PER_S, threading.Event(), self._bias_turn)
                lost.append(f"bias {setting:.1f} V")
            return lost
        if lost:
            self._request(Command.BIAS_SUPPLY_ENA, int(bool(enabled)))
        if setting is not None:
            self._request(Command.SET_BIAS_ADJUST, self._bias_word(setting))
        return lost

    # --- within -------------------------------------------------------------------------------------------------------
    def _bias_word(self, volts: float) -> int:
        try:
            return bias_dac(volts)
        except ValueError as error:
            raise LimitError(f"{self.client.address}: {error}; nothing was sent") from None

    def _climb(self, volts: float, rate_v_per_s: float, stop: threading.Event, turn: int) -> bool:
        """Steps until `volts` are set. False when stopped before."""
        begin = min(max(self.bias_v(), BIAS_MIN_V), BIAS_MAX_V)
        self._step(begin, turn, switch_on=True)
        began_s = self._clock()
        position = begin
        while position != volts:
            if self._wait(stop, STEP_S):
                return False
            way = min(rate_v_per_s * (self._clock() - began_s), abs(volts - begin))
            position = volts if way == abs(volts - begin) else begin + math.copysign(way, volts - begin)
            self._step(position, turn)
        return not stop.is_set()

    def _step(self, volts: float, turn: int, *, switch_on: bool = False) -> None:
        with self.client.exclusive():
            self._require_turn(turn)
            self._request(Command.SET_BIAS_ADJUST, self._bias_word(volts))
            if switch_on:
                self._request(Command.BIAS_SUPPLY_ENA, 1)

    def _await_bias(self, volts: float, tolerance_v: float, stop: threading.Event, turn: int) -> None:
        deadline_s = self._clock() + SETTLE_S
        while abs((measured := self.bias_v()) - volts) > tolerance_v:
            self._require_turn(turn)
            if self._clock() >= deadline_s:
                raise ReadBackError(
                    f"{self.client.address}: the bias was ramped to {volts:g} V and the ADC reads {measured:.2f} V "
                    f"after {SETTLE_S:g} s (tolerance {tolerance_v:g} V); check that the supply is on, the sensor's "
                    "cable, and its leakage current"
                )
            if self._wait(stop, _SETTLE_STEP_S):
                return

    def _require_turn(self, turn: int) -> None:
        if turn != self._bias_turn:
            raise ControlError(
                f"{self.client.address}: the bias was set or switched from elsewhere during a ramp; the ramp ended"
            )


def _above_0(value: float) -> bool:
    return math.isfinite(value) and value > 0
