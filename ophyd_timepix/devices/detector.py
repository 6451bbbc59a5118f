"""The camera as one bluesky detector, for count, scan and fly.

`trigger` and `kickoff` begin an exposure (`exposure.py`), which belongs to a run (`recording.py`). Which run that is,
the plan says through the preprocessor of `ophyd_timepix.plans` (`announce`, `enter_run`, `close_books`); without it a
stage is taken for a run, and the centroids are in the file but not in the documents.
"""

import logging
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Set
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from ophyd import Component as Cpt
from ophyd import Device, Kind
from ophyd.status import Status

from ..config import BoardConfig, DetectorConfig, Geometry, Processing, diff
from ..control.configuration import Applied
from ..events.sums import PointArrays
from ..pipeline.client import Pipeline
from ..pipeline.messages import Acquired, RunSummary
from . import align as alignment
from .board import SpidrBoard
from .chip import Timepix3Chip
from .configuration import as_text, keep_matrix, last_seen, matrix_file
from .exposure import AcquisitionError, AcquisitionStopped, Exposure, Goal, Look, Outcome, Until
from .gates import Gates, MassSettings, publish_array
from .paths import DatedPaths, PathProvider
from .processing import ProcessingSettings
from .recording import PipelineClient, Recording, RunFile
from .signals import DataKey, array, result, scalar_key, setting
from .statistics import SpectrumSettings, Statistics, UntilSettings
from .status import PlainStatus, ProgressStatus, settled
from .streams import CentroidStream, LedgerRow, RowStream, ShotStream
from .text import Text

logger = logging.getLogger(__name__)

LIVE_S = 0.2
"""How often signals say what an exposure has until now."""


class TimepixDetector(Device):
    """`TimepixDetector(spidr, name="tpx", data_dir="/data")`.

    A point lasts `shots` shots, or `exposure` seconds when `shots` is 0. Every run has an event file of its own, and
    every point says which of its rows it owns (`row_start`, `row_stop`).

    processing: from words to centroids; also settable as signals. workers: centroid processes. keep_raw: keep the
    recording of the words too. paths: (detector name, run uid) -> file; default: `data_dir/<date>/<name>_<uid8>.h5`.
    pipeline: makes the pipeline's client (for tests).
    """

    exposure = setting(1.0, units="s", limits=(0.0, 1e7), meaning="length of a point, when `shots` is 0")
    shots = setting(0, units="shots", limits=(0, 10**15), meaning="length of a point; 0: `exposure` says it")
    shot_timeout = setting(10.0, units="s", limits=(0.01, 1e6), meaning="without a shot for so long, a point fails")
    processing = Cpt(ProcessingSettings, "", kind=Kind.config)
    geometry = result("", kind=Kind.config, meaning="where each chip lies in the picture, JSON")
    chip_ids = result("", kind=Kind.config, meaning="names of the chips")
    pll_words = result("", kind=Kind.config, meaning="PLL words of the chips: the column phases follow from them")

    n_centroids = result(0, "centroids", Kind.hinted, meaning="centroids of the point")
    n_hits = result(0, "hits", meaning="hits of the point")
    n_shots = result(0, "shots", meaning="shots of the point")
    n_valid_shots = result(0, "shots", meaning="of these, whole and without a loss")
    n_triggers = result(0, "triggers", meaning="edges at the TDC's inputs")
    hit_rate = result(0.0, "1/s", meaning="hits over the time that the shutter was open")
    open_time = result(0.0, "s", meaning="how long the shutter was open")
    row_start = result(0, meaning="first row of the point's centroids")
    row_stop = result(0, meaning="row after the last of the point's centroids")
    shot_start = result(0, meaning="first shot of the point")
    shot_stop = result(0, meaning="shot after the last of the point")
    acquisition = result(0, meaning="number of the acquisition in the run; cancelled ones count")
    unaccounted = result(0, "words", meaning="sent by the board and nowhere to be found")
    file = result("", meaning="event file of the run")

    gates = Cpt(Gates, "", kind=Kind.normal)
    mass = Cpt(MassSettings, "", kind=Kind.config)
    mass_calibration = result("", kind=Kind.config, meaning="calibration of m/q with its peaks, JSON; empty: none")
    until = Cpt(UntilSettings, "", kind=Kind.config)
    stats = Cpt(Statistics, "", kind=Kind.normal)
    tof = Cpt(SpectrumSettings, "", kind=Kind.normal)
    image = array("counts", "picture of the point: centroids of valid shots", shape=(256, 256))

    shot_rows = Cpt(ShotStream, "", kind=Kind.omitted)
    centroids = Cpt(CentroidStream, "", kind=Kind.omitted)
    ledger = Cpt(LedgerRow, "", kind=Kind.omitted)

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
        paths: PathProvider | None = None,
        pipeline: Callable[[], PipelineClient] | None = None,
        **kwargs: Any,
    ) -> None:
        self.board = board
        self.data_dir = Path(data_dir).expanduser().absolute()
        self.paths = paths or DatedPaths(self.data_dir)
        self.keep_raw = keep_raw
        self._geometry = geometry or Geometry.for_chips(board.n_chips)
        make_pipeline: Callable[[], PipelineClient] = pipeline or (lambda: Pipeline(workers=workers))
        self._recording = Recording(
            lambda: board.control,
            board.n_chips,
            make_pipeline,
            column_phases=lambda: [chip.column_phase for chip in board.chips],
        )
        self._lock = threading.RLock()
        self._closing = threading.Lock()
        self._announced: dict[str, dict[str, Any]] = {}
        self._wanted_run: str | None = None
        self._recorded_run: str | None = None
        self._stage_run: str | None = None
        self._ended_runs: set[str] = set()
        self._exposure: Exposure | None = None
        self._flight: Exposure | None = None
        self._frames: list[tuple[int, dict[str, Any]]] = []
        self._resumed = False
        self._checkpoints = False
        self._since_checkpoint: list[int] = []
        self._superseded: list[int] = []
        self._warned = False
        self._shown_at = 0.0
        self._alignment: alignment.Alignment | None = None
        self.last_sums: PointArrays | None = None
        """What the last point added up to: picture and spectra, of valid shots."""
        self._kept_matrices: set[str] = set()
        super().__init__(name=name, **kwargs)
        self.exposure.put(exposure)
        self.shots.put(shots)
        self.processing.adopt(processing or Processing())
        self.geometry.publish(self._geometry.model_dump_json())
        self._shape_arrays()

    # --- life

    def connect(self) -> None:
        """Check the board, start the pipeline, bind its sockets. `stage` does it too; here it is out of the way."""
        self.board.connect()
        self._note_configuration()
        self._recording.connect()

    def close(self) -> None:
        """Close what is open and end the pipeline's processes. The next use starts them again."""
        self._make_way()
        self._give_up(AcquisitionStopped(f"{self.name} was closed"))
        if self._recording.run is not None:
            self.close_run()
        self._recording.drop_pipeline()
        self.stats.rest()

    def stage(self) -> list[object]:
        self._make_way()
        staged: list[object] = super().stage()
        self._stage_run = f"stage-{uuid.uuid4()}"
        self._flight = None
        self._shape_arrays()
        try:
            self.connect()
        except Exception:
            self.unstage()
            raise
        return staged

    def unstage(self) -> list[object]:
        """Cancel what runs and close the shutter, whatever ended the plan. Closes a run that only this stage opened."""
        self._give_up(None)
        if self._stage_run is not None and self._recording.run == self._stage_run:
            self.close_run()
        self._stage_run = None
        unstaged: list[object] = super().unstage()
        return unstaged

    def stop(self, *, success: bool = False) -> None:
        """Cancel the running exposure and close the shutter. The run stays open."""
        self._give_up(None if success else AcquisitionStopped(f"{self.name} was stopped"))

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

    @property
    def picture(self) -> Geometry:
        """Where each chip lies in the picture, and its size."""
        return self._geometry

    # --- runs, as the preprocessor tells them

    @property
    def recording_run(self) -> str | None:
        """The run that is being recorded, None between runs and while aligning."""
        run = self._recording.run
        return None if run == alignment.RUN else run

    # --- aligning

    def start_align(self, period: float = 1.0) -> None:
        """Look on and on, without a run and without files: every signal says what is seen, several times a second.

        period: length of one look (s): gates, statistics and pictures begin anew after it. A plan that wants the
        detector ends it; so does `stop_align`. Refused while a run has the detector.
        """
        if self.aligning:
            return
        if self._recording.run is not None or self._exposure is not None:
            raise RuntimeError(
                f"{self.name} is recording a run; align before or after it. What it sees meanwhile is in its signals"
            )
        if period <= 0:
            raise ValueError(f"a look lasts longer than 0 s, not {period:g} s")
        self.connect()
        self._shape_arrays()
        file = RunFile(
            Path(alignment.RUN),
            self.processing.model,
            self._geometry,
            tof_range_ns=self.tof.range_ns,
            tof_bins=self.tof.bins.get(),
        )
        self.gates.counting(self.mass.model)  # what is wrong with gates is told here, not in a thread
        self._alignment = alignment.Alignment(
            self._recording,
            file,
            period,
            counting=lambda: self.gates.counting(self.mass.model),
            looked=self._looked,
            seen=self._has_seen,
        )
        self._alignment.start()

    def stop_align(self) -> None:
        """End aligning; returns when the shutter is closed. Raises what ended it before, if something did."""
        current, self._alignment = self._alignment, None
        if current is None:
            return
        current.stop()
        if current.error is not None:
            raise AcquisitionError(f"the alignment of {self.name} had ended: {current.error}") from current.error

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
        return self._alignment is not None and self._alignment.running

    def _has_seen(self, acquired: Acquired, open_seconds: float, skipped: int) -> None:
        self.stats.skipped_bytes.publish(skipped)
        kept = acquired.ledger | {"unaccounted": 0}  # what was skipped is no loss
        self._publish(acquired.model_copy(update={"ledger": kept}), open_seconds)

    def _make_way(self) -> None:
        """A plan goes before aligning."""
        if self._alignment is None:
            return
        if self.aligning:
            logger.info("%s: aligning ends, because a plan wants the detector", self.name)
        try:
            self.stop_align()
        except AcquisitionError as error:
            logger.warning("%s", error)

    @property
    def recorded_run(self) -> str | None:
        """The run of the newest event file, open or closed."""
        return self._recorded_run

    @property
    def event_file(self) -> Path | None:
        """The newest event file."""
        return self._recording.paths.event_file if self._recording.paths else None

    @property
    def rows_on_disk(self) -> int:
        """Centroids of the newest event file that its readers see."""
        return self._recording.rows_on_disk

    @property
    def row_streams(self) -> tuple[RowStream, ...]:
        """What is registered while a run goes, in this order: rows of centroids are known when their shots are."""
        return self.shot_rows, self.centroids

    def announce(self, start: dict[str, Any]) -> None:
        """A run has opened; the next exposure may belong to it."""
        with self._lock:
            self._announced[start["uid"]] = start

    def enter_run(self, uid: str) -> None:
        """The next exposure belongs to run `uid`. Refused while another open run has this detector."""
        with self._lock:
            held = self._recording.run
            if held is not None and held != uid and held in self._announced:
                raise RuntimeError(
                    f"{self.name} is recording run {held[:8]}, which is still open, and cannot take part in run "
                    f"{uid[:8]} as well: a detector belongs to one open run at a time. Close the first run before"
                )
            self._wanted_run = uid

    def leave_run(self, uid: str) -> None:
        """Run `uid` has ended. Its books are closed here if nobody did so: an abort or a halt asks nobody."""
        try:
            if self._recording.run == uid:
                logger.warning("run %s ended without closing the books of %s; doing so now", uid[:8], self.name)
                self.close_run()
        finally:
            with self._lock:
                self._announced.pop(uid, None)
                if self._wanted_run == uid:
                    self._wanted_run = None

    def note_checkpoint(self) -> None:
        """What was acquired until now will not be replayed after a pause."""
        with self._lock:
            self._checkpoints = True
            self._resumed = False
            self._since_checkpoint.clear()

    def close_books(self) -> Status:
        """Close the run in a thread; the Status is done when its files are complete and the ledger row is known."""
        status = PlainStatus(self.ledger)

        work = threading.Thread(target=settled, args=(status, self.close_run), name="timepix-close-run", daemon=True)
        work.start()
        return status

    def close_run(self) -> None:
        """Cancel what runs, close event file and master, enter the ledger row. Does nothing when no run is open."""
        with self._closing:
            self._close_open_run()

    def _close_open_run(self) -> None:
        self._give_up(None)
        run = self._recording.run
        if run is None:
            return
        self._ended_runs.add(run)
        try:
            summary = self._recording.close(
                self._announced.get(run, {}), self._stored_configuration(), sorted(self._superseded)
            )
        except Exception as error:
            self.ledger.enter(run, {**self._ledger_row(), "error": str(error)}, {})
            raise
        self.ledger.enter(run, self._ledger_row(summary), summary.ledger)

    def _ledger_row(self, summary: RunSummary | None = None) -> dict[str, float | int | str]:
        lost = [a for a in self._recording.acquired if a.cancelled or a.acquisition in self._superseded]
        row: dict[str, float | int | str] = {
            "acquisitions": len(self._recording.acquired),
            "cancelled_acquisitions": len(lost),
            "rows": self.rows_on_disk,
            "cancelled_rows": sum(a.row_stop - a.row_start for a in lost),
            "file": str(self.event_file),
            "error": "",
        }
        if summary is not None:
            row |= {"recording": str(summary.spool or ""), "master": str(summary.master or "")}
        return row

    # --- exposures

    def trigger(self) -> ProgressStatus:
        """Begin an exposure; the Status is done when its rows are on disk and the signals say what it gave."""
        self._make_way()
        self._give_up_held()
        with self._lock:
            exposure = self._join_after_pause(flying=False)
            if exposure is None:
                exposure = self._begin(flying=False)
            return self._promise(exposure)

    def kickoff(self) -> Status:
        """Begin a flight; the Status is done when the shutter is open. While it flies, another call joins it."""
        self._make_way()
        self._give_up_held()
        with self._lock:
            exposure = self._join_after_pause(flying=True)
            if exposure is None:
                exposure = self._exposure if self._exposure is self._flight else None
            if exposure is None:
                exposure = self._begin(flying=True)
                self._flight = exposure
            status = PlainStatus(self)
            if exposure.has_opened or exposure.outcome is not None:
                status.set_finished()
            else:
                exposure.kickoffs.append(status)
            return status

    def complete(self) -> ProgressStatus:
        """A Status that is done when the flight of `kickoff` is."""
        self._give_up_held()
        with self._lock:
            if self._flight is None:
                raise RuntimeError(f"{self.name}: complete() without kickoff(): nothing flies")
            return self._promise(self._flight)

    def describe_collect(self) -> dict[str, dict[str, DataKey]]:
        """Frames have the keys of points, so that tables and plots know them."""
        return {f"{self.name}_frames": self.describe()}

    def collect(self) -> Iterator[dict[str, Any]]:
        """One event for each finished flight since the last call."""
        with self._lock:
            frames, self._frames = self._frames, []
        for _, reading in frames:
            yield {
                "time": max(entry["timestamp"] for entry in reading.values()),
                "data": {key: entry["value"] for key, entry in reading.items()},
                "timestamps": {key: entry["timestamp"] for key, entry in reading.items()},
            }

    def pause(self) -> None:
        """Close the shutter and cancel the running exposure; its rows stay, flagged."""
        exposure = self._exposure
        if exposure is not None:
            exposure.hold()

    def resume(self) -> None:
        """Begin the cancelled exposure anew. A replayed trigger begins it once more, when the motors are there."""
        with self._lock:
            self._resumed = True
            if self._exposure is not None:
                self._exposure.go_on()

    def read(self) -> dict[str, dict[str, Any]]:
        exposure = self._exposure
        if exposure is not None and exposure is not self._flight:
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
        dimensions = [
            d for start in tuple(self._announced.values()) for d in start.get("hints", {}).get("dimensions", ())
        ]
        fields = {field for names, *_ in dimensions for field in names if field.startswith(f"{self.name}_")}
        if not fields:
            return []
        return [walk.item for walk in self.walk_signals() if walk.item.name in fields and walk.item.kind is Kind.config]

    def _give_up_held(self) -> None:
        """A plan that is stopped while it is paused goes on to its end, and nobody calls `resume`: what is held back
        will never be exposed, and whoever waited for it would wait for ever.
        """
        exposure = self._exposure
        if exposure is not None and exposure.held:
            exposure.give_up()

    def _join_after_pause(self, *, flying: bool) -> Exposure | None:
        """The replay of a trigger after a pause: what it took before is superseded, what runs starts over."""
        exposure = self._exposure
        replayed, self._resumed = self._resumed, False
        if replayed:
            self._superseded += self._since_checkpoint
            self._frames = [frame for frame in self._frames if frame[0] not in self._since_checkpoint]
            self._since_checkpoint.clear()
        if exposure is None:
            return None
        if (exposure is self._flight) is not flying:
            raise RuntimeError(f"{self.name} is exposing already; wait for its Status, or stop it, before the next")
        if replayed:
            exposure.start_over()
            return exposure
        if not flying:
            raise RuntimeError(f"{self.name} is exposing already; wait for its Status, or stop it, before the next")
        return None

    def _begin(self, *, flying: bool) -> Exposure:
        goal, counting = self._goal(), self.gates.counting(self.mass.model)
        run = self._choose_run()
        exposure = Exposure(
            self._recording,
            goal,
            counting=counting,
            prepare=lambda: self._open_run(run),
            opened=self._has_opened,
            looked=self._looked,
            finished=lambda ended, outcome: self._finished(ended, outcome, run, flying),
        )
        self._exposure = exposure
        exposure.start()
        return exposure

    def _goal(self) -> Goal:
        until, timeout = self.until, self.shot_timeout.get()
        name = until.gate.get()
        if not name:
            return Goal(self.shots.get(), self.exposure.get(), timeout)
        place = self.gates.on.index(self.gates.find(name))
        return Goal(0, until.at_most.get(), timeout, Until(place, until.counts.get(), until.relative_error.get()))

    def _promise(self, exposure: Exposure) -> ProgressStatus:
        """A Status that ends as the exposure does."""
        status = ProgressStatus(self, target=exposure.goal.target, unit=exposure.goal.unit)
        if exposure.outcome is None:
            exposure.promises.append(status)
        else:
            _settle(status, exposure.outcome, exposure.stopped)
        return status

    def _choose_run(self) -> str:
        """The run that an exposure belongs to: the one the plan says, else the stage, else a run of its own."""
        if self._wanted_run in self._announced:
            return str(self._wanted_run)
        if self._announced:
            return next(reversed(self._announced))
        if not self._warned:
            self._warned = True
            logger.warning(
                "%s records without a run: its centroids go to a file, but not into the documents. "
                "install(RE, [%s]) once per session makes them a stream of every run",
                self.name,
                self.name,
            )
        return self._stage_run or f"single-{uuid.uuid4()}"

    # --- in the thread of the exposure

    def _open_run(self, run: str) -> None:
        if self._recording.run == run:
            return
        if run in self._ended_runs:
            raise AcquisitionError(f"run {run[:8]} of {self.name} has ended, its file is closed; begin a new run")
        if self._recording.run is not None:
            self._close_stale_run()
        uid = run.split("-", 1)[1] if run.startswith(("stage-", "single-")) else run
        file = RunFile(
            self.paths(self.name, uid),
            self.processing.model,
            self._geometry,
            self.keep_raw,
            tof_range_ns=self.tof.range_ns,
            tof_bins=self.tof.bins.get(),
            start=self._announced.get(run, {}),
            configuration=self._stored_configuration(),
        )
        self._recorded_run = None
        paths = self._recording.open(run, file)
        with self._lock:
            self._recorded_run = run
            self._since_checkpoint.clear()
            self._superseded.clear()
        self.file.publish(str(paths.event_file))
        self.board.refresh()  # the read-out has its own word in some settings
        self._note_configuration()

    def _close_stale_run(self) -> None:
        """A run that nobody closed gives way to the next."""
        run = self._recording.run or ""
        self._ended_runs.add(run)
        self._recording.close(self._announced.get(run, {}), self._stored_configuration())

    def _note_configuration(self) -> None:
        """What the run's configuration says of the board, once its settings were read."""
        info, chips = self.board.info, self.board.chips
        if info is None:
            return
        self.chip_ids.publish(",".join(info.chips[chip.index].name for chip in chips))
        self.pll_words.publish(",".join(f"0x{int(chip.config.pll.last):04X}" for chip in chips))

    def _stored_configuration(self) -> dict[str, Any]:
        """The configuration of a run as its files keep it."""
        stored: dict[str, Any] = {
            "detector": {key: reading["value"] for key, reading in self.read_configuration().items()},
            "matrices": [self._matrix_file(chip) for chip in self.board.chips],
        }
        try:
            stored["settings"] = as_text(self.configuration())
        except ValueError as error:
            logger.warning("the settings of %s are not stored as a file of settings: %s", self.name, error)
        return stored

    def _has_opened(self) -> None:
        with self._lock:
            exposure = self._exposure
            kickoffs: list[Status] = []
            if exposure is not None:
                exposure.has_opened = True
                kickoffs, exposure.kickoffs = exposure.kickoffs, []
        for status in kickoffs:
            status.set_finished()

    def _looked(self, look: Look) -> None:
        exposure = self._exposure
        for status in tuple(exposure.promises) if exposure is not None else ():
            status.progress(look.done)
        if time.monotonic() - self._shown_at >= LIVE_S:
            self._shown_at = time.monotonic()
            self._publish_live(look)

    def _publish_live(self, look: Look) -> None:
        """What there is until now, for those who watch."""
        now, before = look.progress, look.since
        shots, hits = now.shots - before.shots, now.hits - before.hits
        self.n_hits.publish(hits)
        self.n_shots.publish(shots)
        self.n_triggers.publish(now.triggers - before.triggers)
        self.hit_rate.publish(hits / look.open_seconds if look.open_seconds > 0 else 0.0)
        self.open_time.publish(look.open_seconds)
        sums = self._recording.sums
        if sums is not None:
            self.n_valid_shots.publish(sums.valid_shots)
            self.gates.publish_live(sums)
            self.tof.publish(sums)
            self._publish_arrays(sums, everybody=False)
        self.stats.publish_live(now, shots, hits, look.open_seconds, sums)
        self.n_centroids.publish(now.centroids - before.centroids)

    def _publish_arrays(self, sums: PointArrays, *, everybody: bool) -> None:
        """Pictures and spectrum; everybody: also those that nobody subscribes to."""
        publish_array(self.image, sums.image, everybody=everybody)
        publish_array(self.tof.histogram, sums.tof[: sums.spectrum.bins], everybody=everybody)
        self.gates.publish_images(sums, everybody=everybody)

    def _shape_arrays(self) -> None:
        """Arrays are described before their first value."""
        shape = (self._geometry.height_px, self._geometry.width_px)
        self.image.reshape(shape)
        for slot in self.gates.slots:
            slot.image.reshape(shape)
        self.tof.histogram.reshape((self.tof.bins.get(),))

    def _finished(self, exposure: Exposure, outcome: Outcome, run: str, flying: bool) -> None:
        if outcome.acquired is not None:
            self._publish(outcome.acquired, outcome.open_seconds)
        if run.startswith("single-"):
            outcome = self._close_single(outcome)
        with self._lock:
            if outcome.acquired is not None:
                if self._checkpoints:
                    self._since_checkpoint.append(outcome.acquired.acquisition)
                if flying:
                    self._frames.append((outcome.acquired.acquisition, super().read()))
            if outcome.error is not None and self._recording.run is None:
                self._ended_runs.add(run)
            exposure.outcome = outcome
            if self._exposure is exposure:
                self._exposure = None
            promises, exposure.promises = exposure.promises, []
            kickoffs, exposure.kickoffs = exposure.kickoffs, []
        for status in (*kickoffs, *promises):
            _settle(status, outcome, exposure.stopped)

    def _close_single(self, outcome: Outcome) -> Outcome:
        """An exposure outside of stage and run has a file of its own, closed with it."""
        try:
            if self._recording.run is not None:
                run = self._recording.run
                self._ended_runs.add(run)
                summary = self._recording.close({}, {})
                self.ledger.enter(run, self._ledger_row(summary), summary.ledger)
        except Exception as error:  # noqa: BLE001 - the Status carries it, unless it has an error already
            return outcome if outcome.error else Outcome(error=error)
        return outcome

    def _publish(self, acquired: Acquired, open_seconds: float) -> None:
        self.n_hits.publish(acquired.hits)
        self.n_shots.publish(acquired.shot_stop - acquired.shot_start)
        self.n_valid_shots.publish(acquired.valid_shots)
        self.n_triggers.publish(acquired.trigger_stop - acquired.trigger_start)
        self.hit_rate.publish(acquired.hits / open_seconds if open_seconds > 0 else 0.0)
        self.open_time.publish(open_seconds)
        self.row_start.publish(acquired.row_start)
        self.row_stop.publish(acquired.row_stop)
        self.shot_start.publish(acquired.shot_start)
        self.shot_stop.publish(acquired.shot_stop)
        self.acquisition.publish(acquired.acquisition)
        self.unaccounted.publish(acquired.ledger.get("unaccounted", 0))
        live = self._recording.sums
        sums = self.last_sums = None if live is None else live.copy(len(self.gates.on))
        if sums is not None:
            self.tof.publish(sums)
            self._publish_arrays(sums, everybody=True)
        self.stats.publish(acquired, open_seconds, sums)
        self.gates.publish(acquired.gates)
        self.n_centroids.publish(acquired.centroids)

    def _give_up(self, stopped: Exception | None) -> None:
        """End the running exposure for good. stopped: what its Status shall raise; None: it ends quietly."""
        exposure = self._exposure
        if exposure is None:
            return
        exposure.stopped = stopped
        exposure.give_up()

    # --- configuration

    def save_configuration(self, path: str | Path, *, comment: str = "", overwrite: bool = False) -> Path:
        """Write all settings, read from the board now, with geometry and processing. Returns the path of the yaml."""
        self.board.connect()
        config = self._configuration(self.board.read_settings()).changed(comment=comment)
        return config.save(path, overwrite=overwrite)

    def load_configuration(self, path: str | Path, *, any_chip: bool = False) -> Applied:
        """Apply the settings of a file to the board, all or none, then take over geometry and processing.

        Refused while a run is recorded. Returns what changed on the board.
        """
        self._make_way()
        if self._recording.run is not None:
            raise RuntimeError(f"{self.name} records a run; load a configuration when it has ended")
        config = DetectorConfig.load(path)
        applied = self.board.apply(config.board, any_chip=any_chip)
        self.processing.adopt(config.processing)
        self._geometry = config.geometry
        self._shape_arrays()
        self.geometry.publish(self._geometry.model_dump_json())
        self._note_configuration()
        return applied

    def diff_configuration(self, path: str | Path) -> Text:
        """What differs between the detector, its board read now, and a file; empty: nothing. A line each."""
        now = self._configuration(self.board.read_settings())
        return Text("\n".join(map(str, diff(now, DetectorConfig.load(path)))))

    def configuration(self) -> DetectorConfig:
        """All settings of board and detector, as last seen, as the model that is saved and compared."""
        return self._configuration(last_seen(self.board))

    def _configuration(self, board: BoardConfig) -> DetectorConfig:
        return DetectorConfig(board=board, geometry=self._geometry, processing=self.processing.model)

    def describe_configuration(self) -> dict[str, DataKey]:
        keys: dict[str, DataKey] = super().describe_configuration()
        keys |= {f"{self.name}_{name}": signal.describe()[signal.name] for name, signal in self.board.settings()}
        files = {self._matrix_key(chip): scalar_key("TPX3:matrices", "") for chip in self.board.chips}
        return keys | files

    def read_configuration(self) -> dict[str, dict[str, Any]]:
        """Settings of the detector, and those of the board as last seen: reading them must not need the board.

        A pixel matrix is its digest and the file that holds it.
        """
        reading: dict[str, dict[str, Any]] = super().read_configuration()
        for name, signal in self.board.settings():
            reading[f"{self.name}_{name}"] = signal.read_configuration()[signal.name]
        for chip in self.board.chips:
            digest = chip.matrix.digest
            reading[self._matrix_key(chip)] = {"value": self._matrix_file(chip), "timestamp": digest.timestamp}
        return reading

    def _matrix_file(self, chip: Timepix3Chip) -> str:
        """The file that holds the chip's matrix, written when a matrix is seen first; empty before any was."""
        matrix, digest = chip.matrix.last, chip.matrix.digest.last
        if matrix is None:
            return ""
        if digest not in self._kept_matrices:
            keep_matrix(matrix, self.data_dir)
            self._kept_matrices.add(digest)
        return str(matrix_file(digest, self.data_dir))

    def _matrix_key(self, chip: Timepix3Chip) -> str:
        return f"{self.name}_{chip.attr_name}_matrix_file"

    def fingerprint(self, shown: Set[str] = frozenset()) -> dict[str, Any]:
        """The values of the configuration, but for those that `shown`, the keys of an event, tell anyway."""
        told = {
            f"{self.name}_{name}" for name, signal in self.board.settings() if not shown.isdisjoint(signal.shown_by)
        }
        return {
            key: entry["value"]
            for key, entry in self.read_configuration().items()
            if key not in told and key not in shown
        }


def _settle(status: Status, outcome: Outcome, stopped: Exception | None) -> None:
    """End a Status as its exposure ended."""
    error = outcome.error or (stopped if outcome.acquired is None else None)
    if error is not None:
        status.set_exception(error)
    else:
        status.set_finished()
