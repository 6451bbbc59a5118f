"""The camera as one bluesky detector, for count, scan and fly.

Here is what bluesky calls. What stands behind it: the signals (`detector_signals.py`), the configuration
(`detector_configuration.py`), the exposures (`exposures.py`), the runs that they belong to (`books.py`), aligning
(`align.py`). Which run an exposure belongs to, the plan says through the preprocessor of `ophyd_timepix.plans`
(`announce`, `enter_run`, `close_books`); without it a stage is taken for a run, and the centroids are in the file but
not in the documents.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from ophyd import Kind
from ophyd.status import Status

from ..config import Geometry, Processing
from ..control.configuration import Applied
from ..files.event_file import Layout, layout_with
from ..pipeline.client import Pipeline
from ..pipeline.messages import Acquired, RunPaths, Storage
from ..pipeline.verdict import verdict
from . import align as alignment
from . import exposure as exposing
from .board import SpidrBoard
from .books import Books, Row
from .detector_configuration import ConfiguredDetector
from .exposure import AcquisitionError, AcquisitionStopped, Exposure, Goal, Look, Outcome, Until
from .exposures import Exposures
from .lookout import Lookout
from .paths import DatedPaths, PathProvider
from .recording import PipelineClient, Recording, RunFile
from .replay import Replay
from .signals import DataKey
from .status import PlainStatus, ProgressStatus, settled
from .text import Text

logger = logging.getLogger(__name__)

LIVE_S = 0.2
"""How often signals say what an exposure has until now."""


class TimepixDetector(ConfiguredDetector):
    """`TimepixDetector(spidr, name="tpx", data_dir="/data")`.

    A point lasts `shots` shots, or `exposure` seconds when `shots` is 0. Every run has an event file of its own, and
    every point says which of its rows it owns (`row_start`, `row_stop`).

    processing: from words to centroids; also settable as signals. workers: centroid processes. keep_raw: keep the
    recording of the words too. storage: its files, and when the disk counts as full. paths: (detector name, run uid)
    -> file; default: `data_dir/<date>/<name>_<uid8>.h5`.
    pipeline: makes the pipeline's client (for tests).
    """

    def __init__(
        self,
        board: SpidrBoard,
        *,
        name: str,
        data_dir: str | Path = ".",
        processing: Processing | None = None,
        geometry: Geometry | None = None,
        workers: int = 1,
        exposure: float = 1.0,
        shots: int = 0,
        keep_raw: bool = True,
        storage: Storage | None = None,
        paths: PathProvider | None = None,
        pipeline: Callable[[], PipelineClient] | None = None,
        **kwargs: Any,
    ) -> None:
        directory = Path(data_dir).expanduser().absolute()
        self.paths = paths or DatedPaths(directory)
        self.keep_raw = keep_raw
        self.storage = storage or Storage()
        make_pipeline: Callable[[], PipelineClient] = pipeline or (lambda: Pipeline(workers=workers))
        self._recording = Recording(
            lambda: board.control,
            board.n_chips,
            make_pipeline,
            column_phases=lambda: [chip.column_phase for chip in board.chips],
        )
        self._lock = threading.RLock()
        self._replay = Replay()
        self._books = Books(
            name,
            self._recording,
            self._lock,
            self._replay,
            file=self._run_file,
            configuration=self._stored_configuration,
            opened=self._has_opened_run,
            enter=self._enter_ledger,
        )
        self._exposures = Exposures(self, self._lock, self._replay, self._make_exposure)
        self._aligner = alignment.Aligner(name, self._recording)
        self._lookout = Lookout(self._is_held_back, lambda: exposing.HELD_S)
        self._shown_at = 0.0
        self._exposing_run = ""
        """The run of the newest exposure."""
        super().__init__(
            board,
            name=name,
            data_dir=directory,
            processing=processing or Processing(),
            geometry=geometry or Geometry.for_chips(board.n_chips),
            **kwargs,
        )
        self.exposure.put(exposure)
        self.shots.put(shots)
        board.users.add(self)

    # --- life

    def connect(self) -> None:
        """Check the board, start the pipeline, bind its sockets. `stage` does it too; here it is out of the way."""
        self.board.connect()
        self._note_configuration()
        self._recording.connect()

    def close(self) -> None:
        """Close what is open and end the pipeline's processes. The next use starts them again."""
        self._lookout.stop()
        self._aligner.make_way()
        self._exposures.give_up(AcquisitionStopped(f"{self.name} was closed"))
        if self._recording.run is not None:
            self.close_run()
        self._recording.drop_pipeline()
        self.stats.rest()

    def stage(self) -> list[object]:
        self._aligner.make_way()
        staged: list[object] = super().stage()
        self._books.begin_stage()
        self._exposures.forget_flight()
        self._shape_arrays(self._geometry)
        try:
            self.connect()
        except Exception:
            self.unstage()
            raise
        return staged

    def unstage(self) -> list[object]:
        """Cancel what runs and close the shutter, whatever ended the plan. Closes a run that only this stage opened."""
        self._lookout.stop()
        self._exposures.give_up(None)
        self._books.end_stage()
        unstaged: list[object] = super().unstage()
        return unstaged

    def stop(self, *, success: bool = False) -> None:
        """Cancel the running exposure and close the shutter. The run stays open."""
        self._lookout.stop()
        self._exposures.give_up(None if success else AcquisitionStopped(f"{self.name} was stopped"))

    def __repr__(self) -> str:
        return f"TimepixDetector(name={self.name!r}, board={self.board.name!r}, data_dir={str(self.data_dir)!r})"

    def summary(self) -> Text:
        """How the next exposure will be taken and what the last one gave, for a person at a prompt."""
        shots = f"{self.n_valid_shots.get()} of {self.n_shots.get()} shots valid"
        found = f"{self.n_hits.get()} hits, {self.n_centroids.get()} centroids"
        return Text(
            "\n".join(
                [
                    f"Timepix3 detector {self.name} on {self.board!r}",
                    f"  a point: {self._length()}; {self.processing.model!r}",
                    f"  gates: {', '.join(slot.title for slot in self.gates.on) or 'none'}; {self.mass.as_text()}",
                    f"  last point: {found}, {shots}, {self.unaccounted.get()} unaccounted",
                    f"  file: {self.file.get() or 'none yet'}",
                ]
            )
        )

    def _length(self) -> str:
        """How long a point is, in words."""
        until = self.until
        if until.gate.get():
            enough = f"{until.counts.get()} counts" if until.counts.get() else f"error {until.relative_error.get():g}"
            return f"until {until.gate.get()} has {enough}, at most {until.at_most.get():g} s"
        return f"{self.shots.get()} shots" if self.shots.get() else f"{self.exposure.get():g} s"

    def load_configuration(self, path: str | Path, *, any_chip: bool = False) -> Applied:
        """Apply the settings of a file to the board, all or none, then take over geometry and processing.

        Refused while a run is recorded. Returns what changed on the board.
        """
        self._aligner.make_way()
        if self._recording.run is not None:
            raise RuntimeError(f"{self.name} records a run; load a configuration when it has ended")
        return super().load_configuration(path, any_chip=any_chip)

    def may_change(self, name: str) -> None:
        """Raise RuntimeError while a run is recorded: the setting of this name acts when a run opens."""
        if self.recording_run is not None:
            raise RuntimeError(
                f"{name} acts when a run opens, and {self.name} records one: its documents would tell what was not so. "
                "Set it between runs; a scan over it is a run for each value"
            )

    def _enter_ledger(self, run: str, row: Row, ledger: Mapping[str, Any]) -> None:
        self.ledger.enter(run, row, ledger)
        self.ledger_now.run_verdict.publish(verdict(ledger))

    def after_run(self, action: Callable[[], object]) -> None:
        """Do this when the run that is recorded has ended, or now if there is none."""
        self._books.after_run(action)

    # --- aligning

    def start_align(self, period: float = 1.0) -> None:
        """Look on and on, without a run and without files: every signal says what is seen, several times a second.

        period: length of one look (s): gates, statistics and pictures begin anew after it. A plan that wants the
        detector ends it; so does `stop_align`. Refused while a run has the detector.
        """
        if self.aligning:
            return
        if self._recording.run is not None or self._exposures.current is not None:
            raise RuntimeError(
                f"{self.name} is recording a run; align before or after it. What it sees meanwhile is in its signals"
            )
        if period <= 0:
            raise ValueError(f"a look lasts longer than 0 s, not {period:g} s")
        self._check_board()
        self.connect()
        self._shape_arrays(self._geometry)
        self.gates.counting(self.mass.model)  # what is wrong with gates is told here, not in a thread
        self._aligner.start(
            self._align_file,
            period,
            counting=lambda: self.gates.counting(self.mass.model),
            looked=self._has_looked,
            seen=self._has_seen,
        )

    def _align_file(self) -> RunFile:
        return RunFile(
            Path(alignment.RUN),
            self.processing.model,
            self._geometry,
            tof_range_ns=self.tof.range_ns,
            tof_bins=self.tof.bins.get(),
        )

    def stop_align(self) -> None:
        """End aligning; returns when the shutter is closed. Raises what ended it before, if something did."""
        self._aligner.stop()

    @contextmanager
    def align(self, period: float = 1.0) -> Iterator[Self]:
        """`with tpx.align(): ...`: aligning inside."""
        self.start_align(period)
        try:
            yield self
        finally:
            self.stop_align()

    @property
    def aligning(self) -> bool:
        """Whether it looks on and on."""
        return self._aligner.running

    def _has_seen(self, acquired: Acquired, open_seconds: float, skipped: int) -> None:
        self.stats.skipped_bytes.publish(skipped)
        kept = acquired.ledger | {"unaccounted": 0}  # what was skipped is no loss
        self._publish_point(acquired.model_copy(update={"ledger": kept}), open_seconds, self._recording.sums)

    # --- runs, as the preprocessor tells them

    @property
    def recording_run(self) -> str | None:
        """The run that is being recorded, None between runs and while aligning."""
        run = self._recording.run
        return None if run == alignment.RUN else run

    @property
    def recorded_run(self) -> str | None:
        """The run of the newest event file, open or closed."""
        return self._books.recorded_run

    @property
    def event_file(self) -> Path | None:
        """The newest event file."""
        return self._books.event_file

    @property
    def event_layout(self) -> Layout:
        """Tables and columns of event files with these settings."""
        return layout_with(self.processing.model.optional_columns)

    @property
    def rows_on_disk(self) -> int:
        """Centroids of the newest event file that its readers see."""
        return self._recording.rows_on_disk

    def announce(self, start: dict[str, Any]) -> None:
        """A run has opened; the next exposure may belong to it."""
        self._books.announce(start)

    def enter_run(self, uid: str, *, tells: bool = False) -> None:
        """The next exposure belongs to run `uid`. Refused while another open run has this detector.

        tells: `note_event` hears of every event of the run, so that an acquisition without one counts as cancelled.
        """
        self._books.enter(uid, tells=tells and bool(self.acquisition.kind & Kind.normal))

    def leave_run(self, uid: str) -> None:
        """Run `uid` has ended. Its books are closed here if nobody did so: an abort or a halt asks nobody.

        What is still exposed for it, or held back by a pause, or about to open its files, is given up before.
        """
        self._lookout.stop()
        self._books.end(uid)
        try:
            if self._exposing_run == uid:
                self._exposures.give_up(None)
                self._exposures.forget_frames()  # nobody makes events of them any more
            if self._recording.run == uid:
                logger.warning("run %s ended without closing the books of %s; doing so now", uid[:8], self.name)
                self.close_run()
        finally:
            self._books.forget(uid)

    def note_event(self, uid: str, data: Mapping[str, Any]) -> None:
        """An event of run `uid` has these data: the acquisition or ledger row that it names is in the documents."""
        if f"{self.ledger.name}_json" in data:
            self.ledger.told = uid
        acquisition = data.get(self.acquisition.name)
        if acquisition is not None and uid == self.recorded_run:
            self._books.note_told(int(acquisition))

    def note_checkpoint(self) -> None:
        """What was acquired until now will not be replayed after a pause."""
        with self._lock:
            self._replay.note_checkpoint()

    def close_books(self) -> Status:
        """Close the run in a thread; the Status is done when its files are complete and the ledger row is known."""
        status = PlainStatus(self.ledger)

        work = threading.Thread(target=settled, args=(status, self.close_run), name="timepix-close-run", daemon=True)
        work.start()
        return status

    def close_run(self) -> None:
        """Cancel what runs, close event file and master, enter the ledger row. Does nothing when no run is open.

        Flights that are whole and not collected yet count as told: whoever closes a run collects them after that.
        """
        self._exposures.give_up(None)
        for acquisition in self._exposures.untold_flights:
            self._books.note_told(acquisition)
        self._books.close()

    # --- exposures

    def trigger(self) -> ProgressStatus:
        """Begin an exposure; the Status is done when its rows are on disk and the signals say what it gave."""
        self._aligner.make_way()
        return self._exposures.trigger()

    def kickoff(self) -> Status:
        """Begin a flight; the Status is done when the shutter is open. While it flies, another call joins it."""
        self._aligner.make_way()
        return self._exposures.kickoff()

    def complete(self) -> ProgressStatus:
        """A Status that is done when the flight of `kickoff` is: after its shots or seconds; now, if both are 0."""
        return self._exposures.complete()

    def land(self) -> None:
        """End the flight now. It is a whole one all the same, with the shots and rows that there are."""
        self._exposures.land()

    def describe_collect(self) -> dict[str, dict[str, DataKey]]:
        """Frames have the keys of points, so that tables and plots know them."""
        if self._recording.run is None:
            self._shape_arrays(self._geometry)  # whoever flies without a stage
        return {self.flights: super().describe()}  # what is scanned meanwhile has no one value

    @property
    def flights(self) -> str:
        """Name of the stream with an event for each flight."""
        return f"{self.name}_frames"

    @property
    def frames_wait(self) -> bool:
        """Whether flights are over that nobody has collected."""
        return self._exposures.frames_wait

    def collect(self) -> Iterator[dict[str, Any]]:
        """One event for each finished flight since the last call."""
        for reading in self._exposures.take_frames():
            yield {
                "time": max(entry["timestamp"] for entry in reading.values()),
                "data": {key: entry["value"] for key, entry in reading.items()},
                "timestamps": {key: entry["timestamp"] for key, entry in reading.items()},
            }

    def pause(self) -> None:
        """Close the shutter and cancel the running exposure; its rows stay, flagged."""
        self._exposures.hold()
        if self._exposures.current is None and self.recording_run is not None:
            self._lookout.start()  # a held exposure looks itself

    def resume(self) -> None:
        """Begin the cancelled exposure anew. A replayed trigger begins it once more, when the motors are there."""
        self._lookout.stop()
        self._exposures.go_on()

    def read(self) -> dict[str, dict[str, Any]]:
        if self._exposures.runs_for_a_point:
            raise AcquisitionError(
                f"{self.name} is read while its exposure still runs. After a pause bluesky forgets a wait that stands "
                "behind a checkpoint: put the checkpoint before the trigger, not between trigger and wait"
            )
        reading: dict[str, dict[str, Any]] = super().read()
        for signal in self._scanned():
            reading |= signal.read()
        return reading

    def describe(self) -> dict[str, DataKey]:
        keys: dict[str, DataKey] = super().describe()
        for signal in self._scanned():
            keys |= signal.describe()
        return keys

    def _scanned(self) -> list[Any]:
        """Settings of this detector that an open run scans: bluesky leaves the reading of a part to the whole."""
        dimensions = [d for start in self._books.starts for d in start.get("hints", {}).get("dimensions", ())]
        fields = {field for names, *_ in dimensions for field in names if field.startswith(f"{self.name}_")}
        if not fields:
            return []
        return [walk.item for walk in self.walk_signals() if walk.item.name in fields and walk.item.kind is Kind.config]

    @property
    def _has_board(self) -> bool:
        """Whether the board sends to this detector now."""
        return self._recording.run is not None or self._exposures.current is not None

    def _check_board(self) -> None:
        """Raise RuntimeError while another detector has the board: it would get nothing more."""
        for other in self.board.users:
            if other is not self and other._has_board:
                does = "is aligning" if other.aligning else "records a run"
                raise RuntimeError(
                    f"{self.board.name} sends to {other.name}, which {does}; {self.name} can have it after that. "
                    "One detector for a board is enough: give it other settings"
                )

    def _make_exposure(self, flying: bool) -> Exposure:
        self._check_board()
        goal, counting = self._goal(), self.gates.counting(self.mass.model)
        if goal.is_open and not flying:
            raise ValueError(
                f"a point of {self.name} has no length: shots and exposure are both 0; set one of them. Without both "
                "a flight beside a scan (fly_during_wrapper) lasts as long as the scan"
            )
        run = self._exposing_run = self._books.choose()
        return Exposure(
            self._recording,
            goal,
            counting=counting,
            prepare=lambda: self._books.open(run),
            opened=self._exposures.has_opened,
            looked=self._has_looked,
            finished=lambda ended, outcome: self._has_finished(ended, outcome, run, flying),
            held_back=self._is_held_back,
        )

    def _goal(self) -> Goal:
        until, timeout = self.until, self.shot_timeout.get()
        name = until.gate.get()
        if not name:
            return Goal(self.shots.get(), self.exposure.get(), timeout)
        place = self.gates.on.index(self.gates.find(name))
        return Goal(0, until.at_most.get(), timeout, Until(place, until.counts.get(), until.relative_error.get()))

    # --- in the thread of the exposure

    def _run_file(self, uid: str, start: Mapping[str, Any]) -> RunFile:
        return RunFile(
            self.paths(self.name, uid),
            self.processing.model,
            self._geometry,
            self.keep_raw,
            storage=self.storage,
            tof_range_ns=self.tof.range_ns,
            tof_bins=self.tof.bins.get(),
            start=start,
            configuration=self._stored_configuration(),
        )

    def _has_opened_run(self, paths: RunPaths) -> None:
        self._exposures.forget_frames()
        self.file.publish(str(paths.event_file))
        self.board.refresh()  # the read-out has its own word in some settings
        self._note_configuration()

    def _has_looked(self, look: Look) -> None:
        self._exposures.has_looked(look)
        self._show(look)

    def _is_held_back(self) -> None:
        """A suspender that tripped on these signals waits for them."""
        try:
            self.stats.publish_held(self._recording.triggers())
            self.ledger_now.publish_room(self._recording.progress())
        except Exception as error:  # noqa: BLE001 - a board that does not answer now says so when the exposure begins
            logger.debug("the triggers could not be counted in a pause: %s", error)

    def _show(self, look: Look) -> None:
        if time.monotonic() - self._shown_at >= LIVE_S or look.progress.stopped_by is not None:
            self._shown_at = time.monotonic()
            first = self.aligning and not self.image.get().any()  # who aligns looks at pictures before they are whole
            self._publish_live(look, self._recording.sums, everybody=first)

    def _has_finished(self, exposure: Exposure, outcome: Outcome, run: str, flying: bool) -> None:
        if outcome.acquired is not None:
            self._publish_point(outcome.acquired, outcome.open_seconds, self._recording.sums)
            if outcome.open_seconds >= exposure.goal.seconds:
                self._tell_missed_goal(exposure.goal)
        outcome = self._books.exposure_ended(run, outcome)
        self._exposures.has_ended(exposure, outcome, super().read if flying else None)

    def _tell_missed_goal(self, goal: Goal) -> None:
        missed = goal.missed(self.last_sums)
        if missed:
            logger.warning(
                "%s: the point ended after %g s (until.at_most), before gate %s had enough: %s",
                self.name,
                goal.seconds,
                self.until.gate.get(),
                missed,
            )
