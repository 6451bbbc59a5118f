"""The delay stage of the simulated experiment: a motor that tells spidr-sim when the probe pulse comes.

The ions I+ of its scene `vmi` grow with the delay, so that a scan shows what a pump-probe experiment would.
"""

from typing import Any, Final

from ophyd.sim import SynAxis
from ophyd.status import MoveStatus

from .simulator import Simulator

FS_PER_PS: Final = 1000.0


class SimulatedDelay(SynAxis):  # type: ignore[misc] # ophyd is untyped
    """`delay = SimulatedDelay(simulator, name="delay")`, in ps. Moves at once."""

    def __init__(self, simulator: Simulator, *, name: str, **kwargs: Any) -> None:
        self._simulator = simulator
        super().__init__(name=name, egu="ps", precision=3, labels={"motors"}, **kwargs)

    def set(self, value: float) -> MoveStatus:
        """The probe pulse comes `value` ps after the pump pulse."""
        self._simulator.tell(f"delay_fs {float(value) * FS_PER_PS:g}")
        return super().set(value)
