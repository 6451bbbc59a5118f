"""The bias of the sensor as a positioner: `bps.mv(spidr.bias, 50)` is done when the board's ADC reads 50 V."""

import contextlib
import threading
from typing import Any, Final

from ophyd import Device, Kind
from ophyd.status import Status

from ..control import ControlError
from ..control.bias import RAMP_V_PER_S
from ..protocol.quantities import Quantity, Setting
from ..protocol.registers import BIAS_MAX_V, BIAS_MIN_V, BIAS_TOLERANCE_V
from .signals import measured, settable, setting, switch
from .status import PlainStatus

JOIN_S: Final = 30.0


class BiasStopped(RuntimeError):
    """A ramp of the bias was stopped, or gave way to another, before it was there."""


class _Ramp:
    """One ramp, in a thread of its own."""

    def __init__(self, bias: "Bias", volts: float, before: "_Ramp | None") -> None:
        self.volts = volts
        self.status = PlainStatus(bias)
        self._bias = bias
        self._before = before
        self._stop = threading.Event()
        self._reason: BiasStopped | None = None
        self._thread = threading.Thread(target=self._work, name="timepix-bias", daemon=True)

    @property
    def running(self) -> bool:
        return not self.status.done

    def start(self) -> None:
        self._thread.start()

    def stop(self, reason: BiasStopped | None) -> None:
        """End where it is. reason: what its Status raises; None: it ends quietly."""
        if not self._stop.is_set():
            self._reason = reason
            self._stop.set()

    def join(self) -> None:
        if self._thread is not threading.current_thread():
            self._thread.join(JOIN_S)

    def _work(self) -> None:
        before, self._before = self._before, None
        if before is not None:
            before.join()  # two ramps never move the bias at once
        error: Exception | None = None
        try:
            if not self._stop.is_set():
                self._bias.ramp(self.volts, self._stop)
        except Exception as failed:  # noqa: BLE001 - the Status carries it
            error = failed
        error = self._reason if self._stop.is_set() else error
        if error is not None:
            self.status.set_exception(error)
        else:
            self.status.set_finished()


class Bias(Device):
    """Bias voltage of the sensor, 12 to 104 V.

    `set(volts)` ramps in a thread; its Status ends when the ADC reads the voltage. A `set` while it ramps takes over
    from where the bias is: the earlier Status fails and says so. `stop()` holds the bias where it is. A supply that is
    off is switched on, at the least it gives; `off()` ramps down and switches it off.
    """

    readback = measured(Quantity.BIAS, Kind.hinted)
    setpoint = settable(
        lambda b: _setting_of(b), lambda b, volts: b.set_bias(volts), float(BIAS_MIN_V), "SET_BIAS_ADJUST",
        f"{Setting.BIAS.meaning}, as set last; setting it here jumps", units=Setting.BIAS.unit,
        limits=Setting.BIAS.limits, precision=Setting.BIAS.precision,
    )  # fmt: skip
    enabled = switch(lambda b: b.bias_is_on(), lambda b, on: b.bias_enable(on), "BIAS_SUPPLY_ENA", "the bias supply")
    ramp_rate = setting(RAMP_V_PER_S, units="V/s", limits=(0.1, 1000.0), meaning="speed of `set`")
    tolerance = setting(BIAS_TOLERANCE_V, units="V", limits=(0.05, 10.0), meaning="how near the ADC must read it")

    def __init__(self, prefix: str = "", **kwargs: Any) -> None:
        self._ramp: _Ramp | None = None
        self._lock = threading.Lock()
        super().__init__(prefix, **kwargs)
        self.readback.name = self.name
        self.setpoint.shown_by = (self.setpoint.name, self.name)

    def set(self, volts: float, **kwargs: Any) -> Status:
        """Ramp to `volts`. Refuses what the board cannot give here and now; what fails later is in the Status."""
        self.check_value(volts)
        target = float(self.setpoint.normal(volts))
        with self._lock:
            before = self._ramp
            if before is not None:
                before.stop(BiasStopped(f"{self.name}: the ramp to {before.volts:g} V gave way to one to {target:g} V"))
            ramp = self._ramp = _Ramp(self, target, before if before is not None and before.running else None)
            ramp.start()
        return ramp.status

    def put(self, volts: float, **kwargs: Any) -> None:
        """`set`, and wait until it is there. Ctrl-C holds the bias where it is."""
        status = self.set(volts)
        try:
            status.wait()
        except KeyboardInterrupt:
            self.stop()
            raise

    def stop(self, *, success: bool = False) -> None:
        """Hold the bias where it is. The Status of a ramp fails unless `success`."""
        ramp = self._ramp
        if ramp is None or not ramp.running:
            return
        ramp.stop(None if success else BiasStopped(f"{self.name}: the ramp to {ramp.volts:g} V was stopped"))
        ramp.join()

    @property
    def moving(self) -> bool:
        """Whether it ramps."""
        return self._ramp is not None and self._ramp.running

    @property
    def position(self) -> float:
        """Volts, as last measured."""
        return float(self.readback.last)

    @property
    def limits(self) -> tuple[float, float]:
        low, high = self.setpoint.limits
        return float(low), float(high)

    def check_value(self, volts: float) -> None:
        """Raise ValueError unless the board can give `volts`."""
        try:
            self.setpoint.check_value(volts)
        except ValueError as error:
            if isinstance(volts, int | float) and volts < BIAS_MIN_V:
                raise ValueError(f"{error}; `off()` ramps it down and switches it off") from None
            raise

    def locate(self) -> dict[str, float]:
        """Setpoint and measured voltage (bluesky's Locatable)."""
        target = self._ramp.volts if self._ramp is not None else self.setpoint.get()
        return {"setpoint": float(target), "readback": float(self.readback.get())}

    def ramp(self, volts: float, stop: threading.Event) -> None:
        """Ramp and wait, in the calling thread, until the ADC reads it."""
        control = self.parent.control
        try:
            control.ramp_bias(volts, rate_v_per_s=self.ramp_rate.get(), tolerance_v=self.tolerance.get(), stop=stop)
        except ControlError:
            if self.root.online:
                with contextlib.suppress(ControlError):  # the first error is what counts
                    self.refresh()
            elif control.bias_setting is not None:  # the step that comes back with the board
                self.setpoint.note(control.bias_setting)
            raise
        self.refresh()

    def off(self) -> None:
        """Ramp down to the least it gives, then switch the supply off. Returns when it is off."""
        self.stop()
        self.parent.control.ramp_bias_off(rate_v_per_s=self.ramp_rate.get())
        self.refresh()

    def refresh(self) -> None:
        """Ask the board."""
        self.setpoint.get()
        self.enabled.get()
        self.readback.get()

    def __repr__(self) -> str:
        state = f"supply {self.enabled.shown}{', ramping' if self.moving else ''}"
        limits = f"{BIAS_MIN_V} to {BIAS_MAX_V} V"
        return f"<{self.name} = {self.readback.shown} V, set to {self.setpoint.shown} V, {state} ({limits})>"


def _setting_of(board: Any) -> float:
    """Volts as last set; before anybody set them, as measured (nothing reads the setting back)."""
    volts = board.bias_setting
    return float(volts) if volts is not None else round(board.bias_v(), 1)
