"""Jobs that look at the board now and then: one thread for all of them, which holds back while the board is away.

::

    watch = board.poller.every(lambda: period_s, read_temperatures)
    watch.cancel()

A job runs at once and then again a period after its last start; a late one is not made up for. A job that raises
ConnectionLost pauses all jobs for a back-off: 0.5 s, twice as long each time up to 30 s, ended by a success. The loss
and the return are logged once each. Back-off is the poller's alone: whoever else asks the board tries at once, and
`wake` (a new connection, for one) makes the jobs try at once too.

The thread begins with the first job and ends with the last, or with `close`. Knows no socket and no command.
"""

import logging
import math
import threading
import time
from collections.abc import Callable
from typing import Final

from .errors import ConnectionLost, ControlError

log = logging.getLogger(__name__)

BACK_OFF_FIRST_S: Final = 0.5
BACK_OFF_MAX_S: Final = 30.0
PERIOD_MIN_S: Final = 0.01
"""A job that asks to run more often runs so often."""
_LOOK_S: Final = 1.0
"""Periods are looked up anew at least so often: a shorter one takes effect without being announced."""


class BackOff:
    """When to try again after failures in a row."""

    def __init__(self) -> None:
        self.pause_s = 0.0
        self.until_s = -math.inf

    @property
    def active(self) -> bool:
        """Whether the last try failed."""
        return self.pause_s > 0

    def failed(self, now_s: float) -> None:
        """Wait twice as long as after the last failure."""
        self.pause_s = min(max(2 * self.pause_s, BACK_OFF_FIRST_S), BACK_OFF_MAX_S)
        self.until_s = now_s + self.pause_s

    def succeeded(self) -> None:
        """The next failure waits for the shortest time again."""
        self.pause_s = 0.0
        self.until_s = -math.inf

    def try_now(self) -> None:
        """Do not wait for the next try; a failure goes on where it was."""
        self.until_s = -math.inf


class Watch:
    """A job of a poller, until it is cancelled."""

    def __init__(self, poller: "Poller", period: Callable[[], float], job: Callable[[], object]) -> None:
        self._poller = poller
        self._period = period
        self._job = job
        self._last_s: float | None = None
        self._failing = False
        self.cancelled = False

    def cancel(self) -> None:
        """The job does not start any more. A run that is under way in the poller's thread is not waited for."""
        self._poller.cancel(self)

    def due_s(self) -> float:
        """When the job is to run, by the poller's clock."""
        period = self._period()
        if self._last_s is None:
            return -math.inf
        return self._last_s + (max(period, PERIOD_MIN_S) if math.isfinite(period) else math.inf)

    def run(self, now_s: float) -> None:
        """Run the job. ConnectionLost passes through; another failure is logged, once in a row."""
        self._last_s = now_s
        try:
            self._job()
        except ConnectionLost:
            raise
        except Exception as error:
            if not self._failing:
                log.warning(f"a polled quantity failed: {error}", exc_info=not isinstance(error, ControlError))
            self._failing = True
        else:
            self._failing = False


class Poller:
    """`name` is for the log. `clock` gives seconds; tests drive `turn` themselves instead of a thread."""

    def __init__(self, name: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.name = name
        self._clock = clock
        self._watches: list[Watch] = []
        self._back_off = BackOff()
        self._changed = threading.Condition()
        self._news = False
        self._thread: threading.Thread | None = None

    def __repr__(self) -> str:
        return f"Poller({self.name!r}, {len(self._watches)} jobs{', holding back' if self.holding_back else ''})"

    @property
    def holding_back(self) -> bool:
        """Whether the board did not answer at the last try."""
        return self._back_off.active

    def every(self, period: Callable[[], float], job: Callable[[], object]) -> Watch:
        """Run `job` now and every `period()` seconds; the period is asked for each time. Infinite: only once."""
        watch = self.add(period, job)
        with self._changed:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name=f"spidr-poller {self.name}", daemon=True)
                self._thread.start()
        return watch

    def add(self, period: Callable[[], float], job: Callable[[], object]) -> Watch:
        """`every` without a thread: somebody calls `turn`."""
        watch = Watch(self, period, job)
        with self._changed:
            self._watches.append(watch)
        self.wake()
        return watch

    def cancel(self, watch: Watch) -> None:
        """See `Watch.cancel`."""
        with self._changed:
            watch.cancelled = True
            if watch in self._watches:
                self._watches.remove(watch)
            self._announce()

    def wake(self) -> None:
        """Try now, if holding back; look up the periods now."""
        with self._changed:
            self._back_off.try_now()
            self._announce()

    def close(self) -> None:
        """Cancel all jobs and wait until the thread has ended (not from within a job: then it ends after that)."""
        with self._changed:
            for watch in self._watches:
                watch.cancelled = True
            self._watches.clear()
            self._announce()
            thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    def turn(self) -> float:
        """Run what is due; returns the seconds until something is, at most 1."""
        now_s = self._clock()
        if now_s >= self._back_off.until_s:
            for watch in self._copy():
                if not watch.cancelled and watch.due_s() <= now_s and not self._try(watch, now_s):
                    break
        now_s = self._clock()
        due_s = max(min((watch.due_s() for watch in self._copy()), default=math.inf), self._back_off.until_s)
        return min(max(due_s - now_s, 0.0), _LOOK_S)

    def _try(self, watch: Watch, now_s: float) -> bool:
        """Run a job; False when the board is away."""
        was_away = self._back_off.active
        try:
            watch.run(now_s)
        except ConnectionLost as error:
            with self._changed:
                self._back_off.failed(self._clock())
            if not was_away:
                log.warning(f"{self.name}: no monitoring while the board is away: {error}")
            return False
        with self._changed:
            self._back_off.succeeded()
        if was_away:
            log.warning(f"{self.name}: the board answers again; monitoring goes on")
        return True

    def _copy(self) -> list[Watch]:
        with self._changed:
            return list(self._watches)

    def _announce(self) -> None:
        self._news = True
        self._changed.notify_all()

    def _run(self) -> None:
        while True:
            try:
                pause_s = self.turn()
            except Exception:  # a period that cannot be had must not end the other jobs
                log.exception(f"{self.name}: monitoring failed")
                pause_s = _LOOK_S
            with self._changed:
                if not self._watches:
                    self._thread = None
                    return
                if not self._news:
                    self._changed.wait(pause_s)
                self._news = False
