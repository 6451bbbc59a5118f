"""Looks on while a plan is suspended between two points: signals on which it was suspended are told then, too."""

import threading
from collections.abc import Callable
from typing import Final

STOP_TIMEOUT_S: Final = 5.0


class Lookout:
    """Calls `look` every `period_s()` seconds in a thread, from `start` to `stop`."""

    def __init__(self, look: Callable[[], None], period_s: Callable[[], float]) -> None:
        self._look = look
        self._period_s = period_s
        self._lock = threading.Lock()
        self._running: tuple[threading.Thread, threading.Event] | None = None

    def start(self) -> None:
        """Look from now on. Does nothing while it does."""
        with self._lock:
            if self._running is None:
                stopping = threading.Event()
                thread = threading.Thread(target=self._work, args=(stopping,), name="timepix-lookout", daemon=True)
                self._running = thread, stopping
                thread.start()

    def stop(self) -> None:
        """Look no more."""
        with self._lock:
            running, self._running = self._running, None
        if running is not None:
            thread, stopping = running
            stopping.set()
            if thread is not threading.current_thread():
                thread.join(STOP_TIMEOUT_S)

    def _work(self, stopping: threading.Event) -> None:
        while not stopping.wait(self._period_s()):
            self._look()
