"""The exposures of a detector, one at a time: begun, joined by a replay, promised to those who wait, given up.

Knows what bluesky does around a pause, and nothing of runs, files or signals: the detector makes an exposure and
publishes what it gave.
"""

import threading
from collections.abc import Callable
from typing import Any

from ophyd.status import Status

from .exposure import Exposure, Look, Outcome
from .replay import Replay
from .status import PlainStatus, ProgressStatus

Reading = dict[str, dict[str, Any]]
Make = Callable[[bool], Exposure]
"""Makes an exposure, not started. True: a flight."""


class Exposures:
    """What `trigger`, `kickoff`, `complete`, `pause` and `resume` of `device` do with its exposure."""

    def __init__(self, device: Any, lock: threading.RLock, replay: Replay, make: Make) -> None:
        self.current: Exposure | None = None
        """The exposure that goes on, or is held back by a pause."""
        self._device = device
        self._lock = lock
        self._replay = replay
        self._make = make
        self._flight: Exposure | None = None
        self._frames: list[tuple[int, Reading]] = []

    @property
    def runs_for_a_point(self) -> bool:
        """Whether a point is being exposed, not a flight."""
        exposure = self.current
        return exposure is not None and exposure is not self._flight

    # --- for the plan

    def trigger(self) -> ProgressStatus:
        """Begin an exposure, or join the one that a replay takes again."""
        self._give_up_held()
        with self._lock:
            exposure = self._join_after_pause(flying=False)
            if exposure is None:
                exposure = self._begin(flying=False)
            return self._promise(exposure)

    def kickoff(self) -> Status:
        """Begin a flight; while it flies, another call joins it."""
        self._give_up_held()
        with self._lock:
            exposure = self._join_after_pause(flying=True)
            if exposure is None:
                exposure = self.current if self.current is self._flight else None
            if exposure is None:
                exposure = self._begin(flying=True)
                self._flight = exposure
            status = PlainStatus(self._device)
            if exposure.has_opened or exposure.outcome is not None:
                status.set_finished()
            else:
                exposure.kickoffs.append(status)
            return status

    def complete(self) -> ProgressStatus:
        """A Status that is done when the flight is. A flight without an end of its own ends now."""
        self._give_up_held()
        with self._lock:
            if self._flight is None:
                raise RuntimeError(f"{self._device.name}: complete() without kickoff(): nothing flies")
            if self._flight.goal.is_open:
                self._flight.finish()
            return self._promise(self._flight)

    def land(self) -> None:
        """End the flight now; what it has is enough."""
        with self._lock:
            if self._flight is not None:
                self._flight.finish()

    @property
    def frames_wait(self) -> bool:
        """Whether there are flights to be told."""
        return bool(self._frames)

    @property
    def untold_flights(self) -> list[int]:
        """The acquisitions of flights that nobody has collected."""
        with self._lock:
            return [acquisition for acquisition, _ in self._frames]

    def take_frames(self) -> list[Reading]:
        """What the flights gave that have finished since the last call."""
        with self._lock:
            frames, self._frames = self._frames, []
        return [reading for _, reading in frames]

    def forget_frames(self) -> None:
        """A run has ended or begins: what it did not tell is no part of the next."""
        with self._lock:
            self._frames.clear()

    def forget_flight(self) -> None:
        """A stage begins: what flew before is over."""
        self._flight = None

    def hold(self) -> None:
        """Close the shutter and cancel the attempt that runs."""
        exposure = self.current
        if exposure is not None:
            exposure.hold()

    def go_on(self) -> None:
        """Begin the cancelled exposure anew."""
        with self._lock:
            self._replay.note_resumed()
            if self.current is not None:
                self.current.go_on()

    def give_up(self, stopped: Exception | None) -> None:
        """End the running exposure for good. stopped: what its Status shall raise; None: it ends quietly."""
        exposure = self.current
        if exposure is None:
            return
        exposure.stopped = stopped
        exposure.give_up()

    def _give_up_held(self) -> None:
        """A plan that is stopped while it is paused goes on to its end, and nobody calls `resume`: what is held back
        will never be exposed, and whoever waited for it would wait for ever.
        """
        exposure = self.current
        if exposure is not None and exposure.held:
            exposure.give_up()

    def _join_after_pause(self, *, flying: bool) -> Exposure | None:
        """The replay of a trigger after a pause: what it took before is superseded, what runs starts over."""
        exposure = self.current
        replayed, superseded = self._replay.begins()
        self._frames = [frame for frame in self._frames if frame[0] not in superseded]
        if exposure is None:
            return None
        if (exposure is self._flight) is not flying or not (replayed or flying):
            raise RuntimeError(
                f"{self._device.name} is exposing already; wait for its Status, or stop it, before the next"
            )
        if replayed:
            exposure.start_over()
            return exposure
        return None

    def _begin(self, *, flying: bool) -> Exposure:
        exposure = self._make(flying)
        self.current = exposure
        exposure.start()
        return exposure

    def _promise(self, exposure: Exposure) -> ProgressStatus:
        """A Status that ends as the exposure does."""
        status = ProgressStatus(self._device, target=exposure.goal.target, unit=exposure.goal.unit)
        if exposure.outcome is None:
            exposure.promises.append(status)
        else:
            _settle(status, exposure.outcome, exposure.stopped)
        return status

    # --- from the thread of the exposure

    def has_opened(self) -> None:
        """The shutter is open: those who wait for that are told."""
        with self._lock:
            exposure = self.current
            kickoffs: list[Status] = []
            if exposure is not None:
                exposure.has_opened = True
                kickoffs, exposure.kickoffs = exposure.kickoffs, []
        for status in kickoffs:
            status.set_finished()

    def has_looked(self, look: Look) -> None:
        """So much is done: those who watch are told."""
        exposure = self.current
        for status in tuple(exposure.promises) if exposure is not None else ():
            status.progress(look.done)

    def has_ended(self, exposure: Exposure, outcome: Outcome, frame: Callable[[], Reading] | None) -> None:
        """An exposure is over: those who wait for it are told. frame: reads what a flight gave; None: no flight."""
        with self._lock:
            if outcome.acquired is not None:
                number = outcome.acquired.acquisition
                self._replay.note_acquired(number)
                if frame is not None:
                    self._frames.append((number, frame()))
            exposure.outcome = outcome
            if self.current is exposure:
                self.current = None
            promises, exposure.promises = exposure.promises, []
            kickoffs, exposure.kickoffs = exposure.kickoffs, []
        for status in (*kickoffs, *promises):
            _settle(status, outcome, exposure.stopped)


def _settle(status: Status, outcome: Outcome, stopped: Exception | None) -> None:
    """End a Status as its exposure ended."""
    error = outcome.error or (stopped if outcome.acquired is None else None)
    if error is not None:
        status.set_exception(error)
    else:
        status.set_finished()
