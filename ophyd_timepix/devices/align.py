"""Aligning: the camera looks on and on, without a run and without files, and its signals say what it sees.

An exposure of `period_s` follows the other. Each ends as a point does, so that gates and statistics have their errors;
between the ends they grow. What processing cannot take in time is left out, and counted.
"""

import logging
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from ..pipeline.messages import Acquired, Counting
from .exposure import AcquisitionError, Exposure, Goal, Look, Outcome
from .recording import Recording, RunFile

logger = logging.getLogger(__name__)

RUN = "alignment"
"""Key of the recording while there is an alignment."""
STOP_TIMEOUT_S = 30.0


class Aligner:
    """At most one alignment of a detector: begun, and ended by who asks or by a plan that wants the detector."""

    def __init__(self, name: str, recording: Recording) -> None:
        self._name = name
        self._recording = recording
        self._alignment: Alignment | None = None

    @property
    def running(self) -> bool:
        """Whether the camera looks on and on."""
        return self._alignment is not None and self._alignment.running

    def start(
        self,
        file: Callable[[], RunFile],
        period_s: float,
        *,
        counting: Callable[[], Counting],
        looked: Callable[[Look], None],
        seen: Callable[[Acquired, float, int], None],
    ) -> None:
        """Begin an `Alignment`. Raises what keeps it from that."""
        self._alignment = Alignment(self._recording, file, period_s, counting=counting, looked=looked, seen=seen)
        self._alignment.start()

    def stop(self) -> None:
        """End it; returns when the shutter is closed. Raises AcquisitionError when something had ended it before."""
        current, self._alignment = self._alignment, None
        if current is None:
            return
        current.stop()
        if current.error is not None:
            raise AcquisitionError(f"the alignment of {self._name} had ended: {current.error}") from current.error

    def make_way(self) -> None:
        """A plan goes before aligning."""
        if self._alignment is None:
            return
        if self.running:
            logger.info("%s: aligning ends, because a plan wants the detector", self._name)
        try:
            self.stop()
        except AcquisitionError as error:
            logger.warning("%s", error)


class Alignment:
    """Exposes in a thread from `start` to `stop`.

    file, counting: settings and gates, asked for each exposure; while they contradict each other (two bounds are moved
    one after the other) those before hold. looked, seen: called while an exposure goes on, and with what
    each gave. Whatever fails ends the alignment: `error` says why, and it is logged.
    """

    def __init__(
        self,
        recording: Recording,
        file: Callable[[], RunFile],
        period_s: float,
        *,
        counting: Callable[[], Counting],
        looked: Callable[[Look], None],
        seen: Callable[[Acquired, float, int], None],
    ) -> None:
        self.error: Exception | None = None
        self._recording = recording
        self._make_file = file
        self._make_counting = counting
        self._file, self._counting = self._wanted()
        self._refused = ""
        self._goal = Goal(0, period_s)
        self._looked = looked
        self._seen = seen
        self._stopping = threading.Event()
        self._exposure: Exposure | None = None
        self._lock = threading.Lock()
        self._skipped = 0
        self._thread = threading.Thread(target=self._work, name="timepix-align", daemon=True)

    @property
    def running(self) -> bool:
        return self._thread.is_alive()

    def start(self) -> None:
        """Open the preview and begin. Raises what keeps it from that."""
        self._recording.open(RUN, self._file)
        self._thread.start()

    def stop(self) -> None:
        """Close the shutter, end the preview. Returns when all is at rest. Safe to call twice."""
        self._stopping.set()
        with self._lock:
            exposure = self._exposure
        if exposure is not None:
            exposure.give_up(STOP_TIMEOUT_S)
        if self._thread is not threading.current_thread():
            self._thread.join(STOP_TIMEOUT_S)

    def _work(self) -> None:
        try:
            while not self._stopping.is_set():
                self._expose()
        except Exception as error:
            self.error = error
            logger.exception("the alignment ended with an error")
        finally:
            self._close()

    def _wanted(self) -> tuple[RunFile, Counting]:
        file = replace(self._make_file(), preview=True, event_file=Path(RUN), keep_raw=False)
        return file, self._make_counting()

    def _renew(self) -> None:
        """Take over settings and gates that have changed."""
        try:
            file, self._counting = self._wanted()
        except ValueError as error:
            if str(error) != self._refused:
                self._refused = str(error)
                logger.warning("aligning goes on with the settings before: %s", error)
            return
        self._refused = ""
        if file != self._file:
            self._file = file
            self._recording.close({}, {})
            self._recording.open(RUN, file)

    def _expose(self) -> None:
        self._renew()
        done = threading.Event()
        outcomes: list[Outcome] = []

        def finished(_: Exposure, outcome: Outcome) -> None:
            outcomes.append(outcome)
            done.set()

        exposure = Exposure(
            self._recording,
            self._goal,
            counting=self._counting,
            prepare=lambda: None,
            opened=lambda: None,
            looked=self._look,
            finished=finished,
        )
        with self._lock:
            if self._stopping.is_set():
                return
            self._exposure = exposure
            exposure.start()
        done.wait()
        outcome = outcomes[0]
        if outcome.error is not None:
            raise outcome.error
        if outcome.acquired is not None:
            self._seen(outcome.acquired, outcome.open_seconds, self._skipped)

    def _look(self, look: Look) -> None:
        self._skipped = look.progress.skipped_bytes
        self._looked(look)

    def _close(self) -> None:
        if self._recording.run != RUN:
            return
        try:
            self._recording.close({}, {})
        except Exception as error:
            self.error = self.error or error
            logger.exception("the alignment could not be closed")
