"""One promised exposure: shutter open for so many shots or seconds, in one piece, whatever interrupts it.

A pause cancels the attempt that runs (its rows stay in the file, flagged), and a new attempt begins when the pause is
over: the promise is kept by exactly one whole exposure. The work is done in a thread of its own; `hold`, `go_on`,
`start_over` and `give_up` may be called from any other.

Knows the recording, and of ophyd only that there are Status objects, which it carries for the detector.
"""

import enum
import logging
import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from ophyd.status import Status

from ..events.sums import PointArrays
from ..events.tallies import GateCounts
from ..pipeline.errors import PipelineError, StageDied
from ..pipeline.messages import Acquired, Counting, Progress
from .pace import Pace, ShotPace, TimePace
from .recording import Recording
from .status import ProgressStatus

logger = logging.getLogger(__name__)

HELD_S = 0.5
"""How often a pause is told of."""
SHUTTER_TIMEOUT_S = 10.0
TEND_S = 5.0
ENOUGH_SHOTS = 10
"""Valid shots whose spread says something."""
COMPARE_S = 0.1
"""How often the board's counters are compared with what arrived."""
LOOK_S = 0.01
"""How often it is looked what there is. The pipeline counts shots and gates about fifty times a second."""
NEAR_S = 0.05
"""So near to its end an exposure does nothing else than wait for it; all is compared right after."""


class AcquisitionError(RuntimeError):
    """An exposure could not be taken."""


class AcquisitionStopped(AcquisitionError):
    """The exposure was stopped before it was whole."""


@dataclass(frozen=True)
class Until:
    """Enough in a gate: `counts`, or a standard error of `relative_error` of the mean, whichever is first.

    place: number of the gate among those that are counted.
    """

    place: int
    counts: int = 0
    relative_error: float = 0.0

    def done(self, now: GateCounts) -> float:
        """Share of the goal that is reached; 1: all. Errors fall with the root of the counts.

        The spread between a few shots is small by luck sooner or later, if one looks often enough. So an error is
        never taken for less than that of Poisson's counts, and not at all before `ENOUGH_SHOTS` shots.
        """
        shares = [0.0]
        if self.counts:
            shares.append(now.counts / self.counts)
        if self.relative_error and now.counts and now.shots >= ENOUGH_SHOTS:
            shares.append((self.relative_error / _relative_error(now)) ** 2)
        return min(max(shares), 1.0)

    def missed(self, now: GateCounts) -> str:
        """What is missing, for a person; empty: nothing."""
        if self.done(now) >= 1:
            return ""
        error = f"{_relative_error(now):.2%}" if now.counts and now.shots >= ENOUGH_SHOTS else "unknown"
        wanted = [f"{now.counts:,} of {self.counts:,} counts"] if self.counts else []
        wanted += [f"relative error {error}, wanted {self.relative_error:.2%}"] if self.relative_error else []
        return ", ".join(wanted)


def _relative_error(now: GateCounts) -> float:
    """Of counts in at least 2 shots: from their spread, and never below that of Poisson's counts."""
    return max(now.error, math.sqrt(now.counts) / now.shots) / now.counts_per_shot


@dataclass(frozen=True)
class Goal:
    """When an exposure is whole: with `until` reached, but after `seconds` at the latest; else after `shots` shots; or
    after `seconds` when `shots` is 0; or, with both 0, when somebody says that it is enough.
    """

    shots: int
    seconds: float
    shot_timeout_s: float = 10.0
    until: Until | None = None

    @property
    def target(self) -> float:
        if self.until is not None:
            return 100.0
        return self.shots or self.seconds

    @property
    def unit(self) -> str:
        if self.until is not None:
            return "%"
        return "shots" if self.shots else "s"

    @property
    def is_open(self) -> bool:
        """Whether it has no end of its own."""
        return self.until is None and not self.shots and not self.seconds

    @property
    def by_shots(self) -> bool:
        """Whether shots are what is waited for."""
        return self.until is None and self.shots > 0

    def missed(self, sums: PointArrays | None) -> str:
        """What a point with these sums has not of its gate, for a person; empty: nothing, or it waited for no gate."""
        return "" if self.until is None or sums is None else self.until.missed(sums.gate(self.until.place))

    def done(self, shots: int, elapsed_s: float, sums: PointArrays | None) -> float:
        """How much is done, of `target`."""
        if self.until is None:
            return shots if self.shots else elapsed_s
        reached = self.until.done(sums.gate(self.until.place)) if sums is not None else 0.0
        return 100.0 * max(reached, min(elapsed_s / self.seconds, 1.0))


@dataclass(frozen=True)
class Look:
    """A look at an exposure while it runs: of this attempt alone."""

    progress: Progress
    since: Progress
    """As it was before the shutter opened."""
    open_seconds: float
    done: float
    """In units of the goal."""
    missing: int = 0
    """Datagrams that the board has sent and that have not come: at least so many are lost on the way."""
    sent: int = 0
    """Datagrams that it has sent, as it said last."""
    paused: int = 0
    """Of these, that had to wait on it."""


class _Wish(enum.Enum):
    EXPOSE = enum.auto()
    HOLD = enum.auto()
    START_OVER = enum.auto()
    GIVE_UP = enum.auto()


@dataclass(frozen=True)
class Outcome:
    """How a promise ended. One of the two is set, or neither: the exposure was given up."""

    acquired: Acquired | None = None
    open_seconds: float = 0.0
    error: Exception | None = None


class Exposure:
    """Takes the exposure in its own thread and calls `finished` with the outcome, once.

    counting: gates to count meanwhile.
    prepare: called in the thread before each attempt (opens the run where there is none yet).
    opened: called each time the shutter has opened.  looked: called with what there is until now while it is open.
    held_back: called now and then while a pause lasts.
    """

    def __init__(
        self,
        recording: Recording,
        goal: Goal,
        *,
        counting: Counting | None = None,
        prepare: Callable[[], None],
        opened: Callable[[], None],
        looked: Callable[[Look], None],
        finished: Callable[["Exposure", Outcome], None],
        held_back: Callable[[], None] = lambda: None,
    ) -> None:
        self.goal = goal
        self.numbers: list[int] = []
        """The acquisitions that were begun for this promise; all but the last were cancelled."""
        self.outcome: Outcome | None = None
        self.promises: list[ProgressStatus] = []
        """The Status objects that wait for the exposure to be whole."""
        self.kickoffs: list[Status] = []
        """The Status objects that wait for the shutter to open."""
        self.has_opened = False
        self.stopped: Exception | None = None
        """What the promises raise when the exposure is given up; None: they end quietly."""
        self._recording = recording
        self._counting = counting
        self._prepare = prepare
        self._opened = opened
        self._looked = looked
        self._finished = finished
        self._held_back = held_back
        self._wish = _Wish.EXPOSE
        self._enough = False
        self._changed = threading.Condition()
        self._shut = threading.Event()
        self._shut.set()
        self._open_seconds = 0.0
        self._thread = threading.Thread(target=self._work, name="timepix-exposure", daemon=True)

    # --- what others ask

    def start(self) -> None:
        self._thread.start()

    def hold(self) -> None:
        """Cancel the running attempt; return when the shutter is closed."""
        self._want(_Wish.HOLD)
        if not self._shut.wait(SHUTTER_TIMEOUT_S):
            logger.error("the shutter did not close within %s s", SHUTTER_TIMEOUT_S)

    @property
    def held(self) -> bool:
        """Whether it waits for the end of a pause."""
        with self._changed:
            return self._wish is _Wish.HOLD

    def go_on(self) -> None:
        """A new attempt after `hold`."""
        with self._changed:
            if self._wish is _Wish.HOLD:
                self._want(_Wish.EXPOSE)

    def finish(self) -> None:
        """What the attempt that runs has is enough: it ends as a whole one."""
        with self._changed:
            self._enough = True
            self._changed.notify_all()

    def start_over(self) -> None:
        """Cancel the running attempt, begin a new one."""
        self._want(_Wish.START_OVER)

    def give_up(self, timeout_s: float = 60.0) -> None:
        """Cancel for good; return when the thread has ended and the rows so far are on disk."""
        self._want(_Wish.GIVE_UP)
        if self._thread is not threading.current_thread():
            self._thread.join(timeout_s)
            if self._thread.is_alive():
                raise AcquisitionError(
                    f"the exposure did not end within {timeout_s} s after it was cancelled; "
                    "is the board or the pipeline stuck? Its log says more"
                )

    def _want(self, wish: _Wish) -> None:
        with self._changed:
            if self._wish is not _Wish.GIVE_UP:
                self._wish = wish
                self._enough = False  # that was said of the attempt before
            self._changed.notify_all()

    # --- the thread

    def _work(self) -> None:
        try:
            acquired = self._keep_promise()
            outcome = Outcome(acquired, self._open_seconds)
        except Exception as error:  # noqa: BLE001 - whatever ends an exposure is the answer of its Status
            outcome = Outcome(error=error)
        self._shut.set()
        self._finished(self, outcome)

    def _keep_promise(self) -> Acquired | None:
        while True:
            self._wait_while_held()
            with self._changed:
                if self._wish is _Wish.HOLD:
                    continue
                if self._wish is _Wish.GIVE_UP:
                    return None
                self._wish = _Wish.EXPOSE
            acquired = self._attempt()
            if not acquired.cancelled:
                return acquired

    def _wait_while_held(self) -> None:
        while True:
            with self._changed:
                if self._changed.wait_for(lambda: self._wish is not _Wish.HOLD, HELD_S):
                    return
            self._held_back()

    def _attempt(self) -> Acquired:
        self._prepare()
        self._recording.begin(self._counting)
        self.numbers.append(self._recording.number)
        end_counts: int | None = None
        whole = False
        try:
            before = self._recording.progress()
            if self._may_open():
                pace = self._pace()
                began = self._recording.open_shutter()
                pace.begin(began)
                self._opened()
                whole = self._expose(pace, began, before)
                pace.close()
                end_counts = self._recording.timer_counts()
            self._recording.close_shutter()
            self._shut.set()
            if whole:
                self._open_seconds = time.monotonic() - began
            acquired = self._recording.end(end_counts=end_counts, cancelled=not whole)
            if whole:
                edges = acquired.trigger_stop - acquired.trigger_start
                pace.end(edges, acquired.shot_stop - acquired.shot_start, self._recording.tdc_counted)
            return acquired
        except Exception as error:
            died = self._clean_up_after(error)
            if died is not None:
                raise died from error
            raise

    def _may_open(self) -> bool:
        with self._changed:
            if self._wish is not _Wish.EXPOSE:
                return False
            self._shut.clear()
            return True

    def _clean_up_after(self, failure: Exception) -> StageDied | None:
        """Put everything to rest after a failure. The failure is what is reported; what fails now is logged.

        But for a stage that turns out to be dead: its death is the cause of what was noticed first, and it says more
        (that nothing is recorded any more is seen before the stage that could not write has ended). It is returned.
        """
        try:
            self._recording.close_shutter()
        except Exception as error:  # noqa: BLE001
            logger.error("the shutter could not be closed after a failure: %s", error)
        self._shut.set()
        if isinstance(failure, PipelineError):
            return None
        try:
            self._recording.abandon()
        except StageDied as died:
            return died
        except Exception as error:  # noqa: BLE001
            logger.error("the acquisition could not be ended after a failure: %s", error)
        return None

    def _pace(self) -> Pace:
        goal = self.goal
        return ShotPace(self._recording, goal.shots) if goal.by_shots else TimePace(goal.seconds)

    def _expose(self, pace: Pace, began: float, before: Progress) -> bool:
        """Wait for the goal. False: interrupted."""
        watch = _ShotWatch(self.goal, began)
        chores = _Chores(self._recording, began)
        looked = began
        while True:
            left, wait = pace.look()
            if left <= 0 or self._enough:
                return True
            if self._interrupted(max(0.0, min(wait, looked + LOOK_S - time.monotonic()))):
                return False
            since = time.monotonic() - looked
            if since < LOOK_S or (left < LOOK_S and since < NEAR_S):
                continue  # a look costs time that is better not lost right at the end
            if self._look(pace, watch, began, before):
                return True
            looked = time.monotonic()
            if left > NEAR_S:
                chores.do()

    def _look(self, pace: Pace, watch: "_ShotWatch", began: float, before: Progress) -> bool:
        """See how far it is and tell it. True: a goal in a gate is reached."""
        goal = self.goal
        progress = self._recording.progress()
        if progress.stopped_by is not None:
            self._looked(self._seen(began, before, progress, 0.0))
            raise AcquisitionError(f"nothing more is recorded: {progress.stopped_by}")
        shots = progress.shots - before.shots
        pace.note_shots(shots)
        if goal.by_shots:
            watch.shots(shots)
        elapsed = time.monotonic() - began
        done = goal.done(max(shots, pace.shots), elapsed, self._recording.sums if goal.until is not None else None)
        self._looked(self._seen(began, before, progress, done))
        return goal.until is not None and done >= goal.target

    def _seen(self, began: float, before: Progress, now: Progress, done: float) -> Look:
        sent = self._recording.seen
        missing = self._recording.missing(now)
        return Look(now, before, time.monotonic() - began, done, missing, sent.datagrams, sent.paused)

    def _interrupted(self, within_s: float) -> bool:
        with self._changed:
            self._changed.wait_for(lambda: self._wish is not _Wish.EXPOSE or self._enough, within_s)
            return self._wish is not _Wish.EXPOSE


class _Chores:
    """What is done now and then while the shutter is open."""

    def __init__(self, recording: Recording, began: float) -> None:
        self._recording = recording
        self._tended = self._compared = began

    def do(self) -> None:
        """What is due."""
        if time.monotonic() - self._compared > COMPARE_S:
            self._recording.compare_counts()
            self._compared = time.monotonic()
        if time.monotonic() - self._tended > TEND_S:
            self._recording.tend()
            self._tended = time.monotonic()


class _ShotWatch:
    """Complains when shots are waited for and none come."""

    def __init__(self, goal: Goal, began: float) -> None:
        self._goal = goal
        self._shots = 0
        self._last = began

    def shots(self, shots: int) -> None:
        """So many have come. Raises AcquisitionError when none came for long."""
        now = time.monotonic()
        if shots > self._shots:
            self._shots, self._last = shots, now
        elif now - self._last > self._goal.shot_timeout_s:
            raise AcquisitionError(
                f"no trigger for {self._goal.shot_timeout_s:g} s: {self._shots} of {self._goal.shots} shots came; "
                "is the trigger on the TDC input and edge that `processing` names? "
                "Set `shots` to 0 to expose by time, or raise `shot_timeout`"
            )
