"""Which run an exposure belongs to, and the books of that run: opened before its first exposure, closed once.

The plan says which runs there are (`announce`, `enter`, `leave`); without that a stage is taken for a run, and an
exposure outside of both has a run of its own. Knows the recording, and of signals nothing.
"""

import logging
import threading
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ..pipeline.messages import RunPaths, RunSummary
from .exposure import AcquisitionError, Outcome
from .recording import Recording, RunFile
from .replay import Replay

logger = logging.getLogger(__name__)

Row = dict[str, float | int | str]
_STAGE, _SINGLE = "stage-", "single-"
"""What the keys of runs begin with that no plan has opened."""


class Books:
    """The runs of one detector, of which one at a time is recorded.

    file: the files of a run, from its uid and start document. configuration: what its files keep of the settings.
    opened: called when a run was opened. enter: takes the ledger row of a closed run, and its ledger.
    """

    def __init__(
        self,
        name: str,
        recording: Recording,
        lock: threading.RLock,
        replay: Replay,
        *,
        file: Callable[[str, Mapping[str, Any]], RunFile],
        configuration: Callable[[], dict[str, Any]],
        opened: Callable[[RunPaths], None],
        enter: Callable[[str, Row, Mapping[str, Any]], None],
    ) -> None:
        self.recorded_run: str | None = None
        """The run of the newest event file, open or closed."""
        self._name = name
        self._recording = recording
        self._lock = lock
        self._closing = threading.Lock()
        self._replay = replay
        self._file = file
        self._configuration = configuration
        self._opened = opened
        self._enter = enter
        self._announced: dict[str, dict[str, Any]] = {}
        self._wanted: str | None = None
        self._stage: str | None = None
        self._ended: set[str] = set()
        self._tells = False
        self._after_run: list[Callable[[], object]] = []
        self._told: set[int] = set()
        """Acquisitions of the recorded run that are in an event."""
        self._warned = False

    # --- what there is

    @property
    def starts(self) -> tuple[dict[str, Any], ...]:
        """Start documents of the open runs."""
        return tuple(self._announced.values())

    @property
    def event_file(self) -> Path | None:
        """The newest event file."""
        return self._recording.paths.event_file if self._recording.paths else None

    # --- as the plan says

    def announce(self, start: dict[str, Any]) -> None:
        """A run has opened; the next exposure may belong to it."""
        with self._lock:
            self._announced[start["uid"]] = start

    def enter(self, uid: str, *, tells: bool) -> None:
        """The next exposure belongs to run `uid`. Raises RuntimeError while another open run has the detector.

        tells: events of the run say of which acquisition they are, as `note_told` hears.
        """
        with self._lock:
            held = self._recording.run
            if held is not None and held != uid and held in self._announced:
                raise RuntimeError(
                    f"{self._name} is recording run {held[:8]}, which is still open, and cannot take part in run "
                    f"{uid[:8]} as well: a detector belongs to one open run at a time. Close the first run before"
                )
            self._wanted = uid
            self._tells = tells

    def note_told(self, acquisition: int) -> None:
        """An event tells of this acquisition."""
        with self._lock:
            self._told.add(acquisition)

    def end(self, uid: str) -> None:
        """Nothing more is recorded in run `uid`; its files, if they are open, are still to be closed."""
        self._ended.add(uid)

    def forget(self, uid: str) -> None:
        """Run `uid` has ended."""
        with self._lock:
            self._announced.pop(uid, None)
            if self._wanted == uid:
                self._wanted = None
            actions = self._after_run if self._recording.run is None else []
            self._after_run = self._after_run if actions is not self._after_run else []
        for action in actions:
            action()

    def after_run(self, action: Callable[[], object]) -> None:
        """Do this when the recorded run has ended, or now if there is none."""
        with self._lock:
            if self._recording.run is not None:
                self._after_run.append(action)
                return
        action()

    def begin_stage(self) -> None:
        """A run of its own for what is exposed while staged, if no plan says another."""
        self._stage = f"{_STAGE}{uuid.uuid4()}"

    def end_stage(self) -> None:
        """Closes a run that only the stage opened."""
        if self._stage is not None and self._recording.run == self._stage:
            self.close()
        self._stage = None

    def choose(self) -> str:
        """The run that an exposure belongs to: the one the plan says, else the stage, else a run of its own."""
        if self._wanted in self._announced:
            return str(self._wanted)
        if self._announced:
            return next(reversed(self._announced))
        if not self._warned:
            self._warned = True
            logger.warning(
                "%s records without a run: its centroids go to a file, but not into the documents. "
                "install(RE, [%s]) once per session makes them a stream of every run",
                self._name,
                self._name,
            )
        return self._stage or f"{_SINGLE}{uuid.uuid4()}"

    # --- open and close

    def open(self, run: str) -> None:
        """Open the files of a run, unless they are. Raises AcquisitionError for one that has ended."""
        if self._recording.run == run:
            return
        if run in self._ended:
            raise AcquisitionError(f"run {run[:8]} of {self._name} has ended, its file is closed; begin a new run")
        if self._recording.run is not None:
            self._close_stale()
        uid = run.split("-", 1)[1] if run.startswith((_STAGE, _SINGLE)) else run
        file = self._file(uid, self._announced.get(run, {}))
        self.recorded_run = None
        paths = self._recording.open(run, file)
        with self._lock:
            self.recorded_run = run
            self._replay.begin_run()
            self._told.clear()
        self._opened(paths)

    def _close_stale(self) -> None:
        """A run that nobody closed gives way to the next."""
        run = self._recording.run or ""
        self._ended.add(run)
        self._recording.close(self._announced.get(run, {}), self._configuration())

    def close(self) -> None:
        """Close event file and master, enter the ledger row. Does nothing when no run is open."""
        with self._closing:
            self._close_open()

    def _close_open(self) -> None:
        run = self._recording.run
        if run is None:
            return
        self._ended.add(run)
        try:
            of_no_event = sorted(self._of_no_event(run))
            summary = self._recording.close(self._announced.get(run, {}), self._configuration(), of_no_event)
        except Exception as error:
            self._enter(run, {**self._row(run), "error": str(error)}, {})
            raise
        self._enter(run, self._row(run, summary), summary.ledger)

    def _of_no_event(self, run: str) -> set[int]:
        """Acquisitions that count as cancelled: taken again by a replay; or finished, and then the plan ended, or
        triggered once more, before they were an event.
        """
        lost = set(self._replay.superseded)
        if self._tells and run == self._wanted:
            lost |= {a.acquisition for a in self._recording.acquired} - self._told
        return lost

    def exposure_ended(self, run: str, outcome: Outcome) -> Outcome:
        """An exposure of `run` is over; the same outcome, unless closing a run of its own failed."""
        if run.startswith(_SINGLE):
            outcome = self._close_single(outcome)
        if outcome.error is not None and self._recording.run is None:
            self._ended.add(run)
        return outcome

    def _close_single(self, outcome: Outcome) -> Outcome:
        """An exposure outside of stage and run has a file of its own, closed with it."""
        try:
            if self._recording.run is not None:
                run = self._recording.run
                self._ended.add(run)
                summary = self._recording.close({}, {})
                self._enter(run, self._row(run, summary), summary.ledger)
        except Exception as error:  # noqa: BLE001 - the Status carries it, unless it has an error already
            return outcome if outcome.error else Outcome(error=error)
        return outcome

    def _row(self, run: str, summary: RunSummary | None = None) -> Row:
        recording, of_no_event = self._recording, self._of_no_event(run)
        lost = [a for a in recording.acquired if a.cancelled or a.acquisition in of_no_event]
        row: Row = {
            "acquisitions": len(recording.acquired),
            "cancelled_acquisitions": len(lost),
            "rows": recording.rows_on_disk,
            "cancelled_rows": sum(a.row_stop - a.row_start for a in lost),
            "file": str(self.event_file),
            "error": "",
        }
        if summary is not None:
            row["error"] = summary.problem
            row |= {"recording": str(summary.spool or ""), "master": str(summary.master or "")}
        return row
