"""A Status that says why it failed, and one that tells progress bars how far it is.

bluesky raises `FailedStatus(status)`: the text of the status is what stands last at the prompt, and what the stop
document keeps as the reason of a failed run. So the text ends with the error. Knows nothing of cameras.
"""

import time
from collections.abc import Callable

from ophyd.status import DeviceStatus, Status, StatusBase


class PlainStatus(Status):
    """ophyd's Status, with the error in its text."""

    def __str__(self) -> str:
        return super().__str__() + _error_of(self)

    __repr__ = __str__


def settled(status: Status, work: Callable[[], object]) -> Status:
    """Do the work and end the Status with how it went: any failure belongs to whoever waits for it."""
    try:
        work()
    except Exception as error:  # noqa: BLE001 - the Status carries it
        status.set_exception(error)
    else:
        status.set_finished()
    return status


class ProgressStatus(DeviceStatus):
    """A DeviceStatus for a measurement of known length (`target` in `unit`).

    The device is not stopped when it fails: whoever fails it has put the hardware to rest before.
    """

    def __init__(self, device: object, *, target: float, unit: str) -> None:
        self._target = target
        self._unit = unit
        self._began = time.monotonic()
        super().__init__(device, call_stop_on_failure=False)

    def __str__(self) -> str:
        return super().__str__() + _error_of(self)

    __repr__ = __str__

    def progress(self, current: float) -> None:
        """Tell every watcher that `current` of the target is done."""
        if self.done:
            return
        elapsed = time.monotonic() - self._began
        done = min(current / self._target, 1.0) if self._target > 0 else 1.0
        remaining = elapsed * (1 - done) / done if done > 0 else None
        for watcher in tuple(self._watchers):
            watcher(
                name=self.device.name,
                current=min(current, self._target),
                initial=0,
                target=self._target,
                unit=self._unit,
                precision=1,
                fraction=1 - done,
                time_elapsed=elapsed,
                time_remaining=remaining,
            )


def _error_of(status: StatusBase) -> str:
    """The first line of what made it fail; a traceback may follow that, which is in the log."""
    error = status.exception() if status.done else None
    first = str(error).partition("\n")[0] if error is not None else ""
    return f": {first}" if first else ""
