"""A Status that tells progress bars how far it is.

Knows ophyd's Status, nothing of cameras.
"""

import time

from ophyd.status import DeviceStatus


class ProgressStatus(DeviceStatus):
    """A DeviceStatus for a measurement of known length (`target` in `unit`).

    The device is not stopped when it fails: whoever fails it has put the hardware to rest before.
    """

    def __init__(self, device: object, *, target: float, unit: str) -> None:
        self._target = target
        self._unit = unit
        self._began = time.monotonic()
        super().__init__(device, call_stop_on_failure=False)

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
