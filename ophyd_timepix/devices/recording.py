"""The recording of one run: pipeline, board and files, from the first exposure to the closed books.

Two rules decide the order of things here. Sockets are bound and draining before the board is told where to send, and
before its shutter opens, so that the first trigger is not lost. The board's timers restart once per run, so that `toa`
grows through all its points; a point only moves the shutter.

Knows control and the pipeline's client. Knows no ophyd and no bluesky.
"""

import json
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol, TypeVar

from ..clock import NS_PER_COUNT
from ..config import Geometry, Processing
from ..control import Board, SentCounters, TimerReading, TriggerConfig
from ..control.timer_service import TimerService
from ..events.sums import PointArrays
from ..pipeline.errors import PipelineError, PipelineTimeout, StageDied
from ..pipeline.messages import (
    Acquired,
    Arrived,
    Counting,
    Progress,
    Receiver,
    RunPaths,
    RunRequest,
    RunSummary,
    Sent,
    Storage,
)
from ..pipeline.verdict import COMPLETE, is_complete, verdict
from ..protocol.chip_config import column_phase
from ..spool.index import Moment
from .draining import drained, paired
from .pace import CountsPerShot

logger = logging.getLogger(__name__)
T = TypeVar("T")

COUNTERS_TIMEOUT_S = 2.0
COUNTERS_INTERVAL_S = 0.005
"""The same counter is read again after so long; two equal readings mean that the board has sent all it had."""
ON_THE_WAY_NS = 5_000_000
"""So long after it was sent a datagram is here, or it is lost."""
STILL_S = 0.05
"""Pixels that have stood still for so long are all sent; what goes on is of triggers: they pass a closed shutter."""


class PipelineClient(Protocol):
    """What a recording asks of `ophyd_timepix.pipeline.client.Pipeline`."""

    def start(self) -> None: ...
    def bind(self, receivers: Sequence[Receiver]) -> list[int]: ...
    def open_run(self, run: RunRequest) -> RunPaths: ...
    def begin(self, acquisition: int, counting: Counting | None = None, *, opens_later: bool = False) -> None: ...
    def opened(self, before: Moment, counts: int) -> None: ...
    def shut(self, counts: int) -> None: ...
    @property
    def live(self) -> PointArrays | None: ...
    def progress(self) -> Progress: ...
    def baseline(self, sent: Sent | None = None) -> int: ...
    def arrived(self) -> Arrived: ...
    def poll(self, read: Callable[[], Sent | None]) -> None: ...
    def end(self, sent: Sent | None = None, *, end_counts: int | None = None, cancelled: bool = False) -> Acquired: ...
    def close_run(
        self,
        start: dict[str, Any] | None = None,
        *,
        configuration: dict[str, Any] | None = None,
        cancelled: Sequence[int] = (),
    ) -> RunSummary: ...
    def close(self) -> None: ...


@dataclass(frozen=True)
class RunFile:
    """Where a run goes and how its words are processed."""

    event_file: Path
    processing: Processing
    geometry: Geometry
    keep_raw: bool = True
    centroid: bool = True
    """False: the words only."""
    preview: bool = False
    """Nothing goes anywhere: for aligning."""
    storage: Storage = field(default_factory=Storage)
    tof_range_ns: tuple[float, float] = (0.0, 100_000.0)
    tof_bins: int = 2000
    start: Mapping[str, Any] = field(default_factory=dict)
    """The start document: in the event file from the first moment on, for `recover`."""
    configuration: Mapping[str, Any] = field(default_factory=dict)
    """Settings at the beginning; those at the end replace them."""


class Recording:
    """One run at a time, through one pipeline that lives across runs.

    column_phases: what to add to the times of each chip's double columns, where it is not what the PLL word says.
    `run` is the key of the open run, None between runs; `rows_on_disk` and `paths` outlive it until the next one.
    """

    def __init__(
        self,
        board: Callable[[], Board],
        n_chips: int,
        make_pipeline: Callable[[], PipelineClient],
        column_phases: Callable[[], Sequence[Sequence[int] | None]] = tuple,
    ) -> None:
        self.run: str | None = None
        self.paths: RunPaths | None = None
        self.rows_on_disk = 0
        self.acquired: list[Acquired] = []
        self.phase: tuple[tuple[int, ...], ...] = ()
        self.counts_per_shot = CountsPerShot()
        self.tdc_counted = 0
        """The TDC's counter when the last acquisition had ended."""
        self.tof_max_s: float | None = None
        self.shot_delay_s = 0.0
        """How long after its trigger a shot opens."""
        """After so long a shot is whole; None: when the next one comes."""
        self._board = board
        self._n_chips = n_chips
        self._column_phases = column_phases
        self._timers: TimerService | None = None
        self._trigger: TriggerConfig | None = None
        self._make_pipeline = make_pipeline
        self._pipeline: PipelineClient | None = None
        self._destinations: list[tuple[str, int]] = []
        self._base = SentCounters(datagrams=0, pixel_words=(0,) * n_chips)
        self._unsure = 0
        """By how many what had arrived of these is taken for too many, at most."""
        self._number = 0
        self._begun = Sent(datagrams=0)
        """What the board had sent, and ..."""
        self._counts_are_known = False
        """The last acquisition ended with the board's counters."""
        self._arrived_before = 0
        """what had arrived of it, when the acquisition began."""
        self._sent_at_end = self._arrived_at_end = 0
        """The same when the last one ended whose end is known, or the run began."""
        self._seen: tuple[int, Sent] | None = None
        """When the board was asked last in this acquisition, and what it had sent by then."""
        self._missing = 0
        self._keeps = True
        self._said = COMPLETE
        """Kind of the verdict on the acquisition before."""
        self._lock = threading.RLock()

    # --- a pipeline that listens, a board that knows where to send

    def connect(self) -> PipelineClient:
        """Start the pipeline and bind its sockets. Once: later calls do nothing."""
        with self._lock:
            if self._pipeline is None:
                board = self._board()
                address = board.local_address
                receivers = [
                    Receiver(chip=index, host=address, port=0, senders=board.data_senders(index))
                    for index in range(self._n_chips)
                ]
                pipeline = self._make_pipeline()
                try:
                    pipeline.start()
                    ports = pipeline.bind(receivers)
                except BaseException:
                    pipeline.close()
                    raise
                self._pipeline, self._destinations = pipeline, [(address, port) for port in ports]
            return self._pipeline

    def drop_pipeline(self) -> None:
        """End the pipeline and its processes; the next `connect` starts new ones."""
        with self._lock:
            pipeline, self._pipeline = self._pipeline, None
            self.run = None
        if pipeline is not None:
            pipeline.close()

    # --- a run

    def open(self, run: str, file: RunFile) -> RunPaths:
        """Open the files of a run and restart the board's timers."""
        with self._lock:
            pipeline = self.connect()
            board = self._board()
            board.close_shutter()
            self._trigger = board.trigger()
            for index, (address, port) in enumerate(self._destinations):
                # Each run anew: a board that was switched off in between has forgotten.
                board.chip(index).set_destination(address, port)
            board.prepare_readout()
            zero_ns = self._restart_timers(board)
            self.phase = self._phases(board)
            request = RunRequest(
                event_file=file.event_file,
                keep_raw=file.keep_raw,
                **file.storage.model_dump(),
                centroid=file.centroid,
                preview=file.preview,
                processing=file.processing,
                geometry=file.geometry,
                n_chips=self._n_chips,
                phase=self.phase,
                general=tuple(board.chip(index).general_config().word for index in range(self._n_chips)),
                timer_zero_ns=zero_ns,
                timer_zero_iso=_utc(zero_ns),
                tof_range_ns=file.tof_range_ns,
                tof_bins=file.tof_bins,
                start=_plain(file.start),
                configuration=_plain(file.configuration),
            )
            paths = self._ask(pipeline, lambda: pipeline.open_run(request), may_refuse=True)
            for remark in file.processing.remarks(self._n_chips) if not file.preview else ():
                logger.warning("%s", remark)
            self._begin_counting(pipeline, board)
            self._note_shots(file.processing)
            self.run = run
            self._said = COMPLETE
            self.acquired = []
            self._number = 0
            self._counts_are_known = False
            self._keeps = not file.preview
            if self._keeps:
                self.paths = paths
                self.rows_on_disk = 0
            return paths

    def _note_shots(self, processing: Processing) -> None:
        self.counts_per_shot.of((processing.trigger_input, processing.trigger_edge, processing.trigger_prescale))
        self.tof_max_s = None if processing.tof_max_ns is None else processing.tof_max_ns / 1e9
        self.shot_delay_s = max(0.0, processing.trigger_delay_ns / 1e9)

    def _begin_counting(self, pipeline: PipelineClient, board: Board) -> None:
        """From here on all that the board sends has to arrive. A run that nobody can count is not begun."""
        try:
            settled = self._settled_counters(board)
            self._base, arrived, self._unsure = paired(
                settled, board.sent_counters, lambda: self._ask(pipeline, pipeline.arrived)
            )
        except BaseException:
            self._ask(pipeline, lambda: pipeline.close_run({}))
            raise
        self._ask(pipeline, lambda: pipeline.baseline(Sent(datagrams=0, arrived=arrived)))
        self._sent_at_end, self._arrived_at_end = 0, arrived

    def _restart_timers(self, board: Board) -> int:
        """Timers to 0; the host's `time.monotonic_ns` at which that was."""
        self._timers = TimerService(board)
        self._timers.restart()
        reading = self._timers.sample()
        anchor = self._timers.anchor
        return anchor.zero_ns if anchor is not None else reading.host_ns - reading.counts * NS_PER_COUNT

    def _phases(self, board: Board) -> tuple[tuple[int, ...], ...]:
        """The column phase of each chip: the table that was loaded for it, else what its PLL says."""
        chosen = dict(enumerate(self._column_phases()))
        return tuple(
            tuple(chosen.get(index) or column_phase(board.chip(index).pll_config())) for index in range(self._n_chips)
        )

    def close(self, start: dict[str, Any], configuration: dict[str, Any], superseded: Sequence[int] = ()) -> RunSummary:
        """Close the books of the open run: event file, master, ledger. superseded: acquisitions taken again later."""
        with self._lock:
            pipeline = self.connect()
            self.run = None
            self._look_for_stragglers(pipeline)
            summary = self._ask(
                pipeline,
                lambda: pipeline.close_run(_plain(start), configuration=_plain(configuration), cancelled=superseded),
            )
            if self._keeps:
                self.rows_on_disk = summary.rows
                _say_how_it_went(summary)
        self._rest()
        return summary

    def _look_for_stragglers(self, pipeline: PipelineClient) -> None:
        """What came behind the last acquisition, against what the board sent. One that fails tells nothing."""
        if not self._counts_are_known:
            return
        arrived = self._ask(pipeline, pipeline.arrived).datagrams
        try:
            sent = self._since_open(self._board().sent_counters())
        except Exception as error:  # noqa: BLE001 - the run is closed and good, whatever the board says now
            logger.warning("the board could not be asked what it sent behind the last acquisition: %s", error)
            return
        told = sent.model_copy(update={"arrived": arrived, "unsure": self._unsure})
        self._ask(pipeline, lambda: pipeline.baseline(told))

    def _rest(self) -> None:
        """Pause the read-out between runs. A board that does not answer now says so at the next run."""
        try:
            board = self._board()
            board.pause_readout()
            # An exposure opens the shutter in its own way; how it opens otherwise is the user's.
            if self._trigger is not None and board.trigger() != self._trigger:
                board.set_trigger(self._trigger)
        except Exception as error:  # noqa: BLE001 - the run is closed and good, whatever the board says now
            logger.warning("the read-out of the board could not be paused after the run: %s", error)

    # --- an acquisition

    @property
    def number(self) -> int:
        """Number of the last acquisition begun in this run, from 1."""
        return self._number

    def begin(self, counting: Counting | None = None) -> None:
        """Announce an acquisition to the pipeline, and what it is to count. The shutter is still closed."""
        pipeline = self.connect()
        self._number += 1
        self._seen, self._missing = None, 0
        self._ask(pipeline, lambda: pipeline.begin(self._number, counting, opens_later=True))

    @property
    def sums(self) -> PointArrays | None:
        """What the acquisition that began last has added up to until now; it grows while one looks."""
        with self._lock:
            return None if self._pipeline is None else self._pipeline.live

    def open_shutter(self) -> float:
        """Let light in. What the board has sent and what has come until now is not compared with what comes then.

        The pipeline is told between which readings of the timer that was. Returns when the board had done it
        (`time.monotonic`).
        """
        pipeline, board = self.connect(), self._board()
        here = self._ask(pipeline, pipeline.arrived).datagrams if self._unsure else 0
        self._begun = self._since_open(board.sent_counters())
        if self._unsure:
            ahead = self._begun.datagrams - here - (self._sent_at_end - self._arrived_at_end)
            self._unsure = min(self._unsure, max(0, ahead))
        self._arrived_before = self._ask(pipeline, lambda: pipeline.baseline(self._begun))
        self._note_what_did_not_come()
        reading = self._sample_timer()
        before = Moment(reading.counts, reading.host_before_ns)
        board.open_shutter()
        opened = time.monotonic()
        counts = self.timer_counts()
        self._ask(pipeline, lambda: pipeline.opened(before, counts))
        return opened

    def _note_what_did_not_come(self) -> None:
        """What was expected and is not there has not been sent, as far as more was taken for arrived than had."""
        expected = self._arrived_at_end + self._begun.datagrams - self._sent_at_end
        self._unsure = max(0, self._unsure - max(0, expected - self._arrived_before))

    def close_shutter(self) -> None:
        self._board().close_shutter()

    def tdc_counts(self) -> int:
        """What the board's TDC has counted, its shutter open or not: edges, of one input or both."""
        return self._board().tdc_triggers()

    def triggers(self) -> int:
        """The same in shots, as far as it is known what a shot is worth."""
        return round(self.tdc_counts() / (self.counts_per_shot.value or 1))

    def timer_counts(self) -> int:
        """The board's timer now (25 ns counts): while the shutter is open, a moment at which it was."""
        return self._sample_timer().counts

    def tend(self) -> None:
        """Look after a long exposure, every few seconds.

        The board's counters wrap within a minute at full rate; and the chip repeats its timer in its stream, which is
        the reference of times for whoever has nothing but the recording.
        """
        self._board().sent_counters()
        self._sample_timer()
        self._require_chips()

    def _require_chips(self) -> None:
        """Raises ChipMissing when a chip has lost its links since the run was opened: it sends nothing any more, so
        that nothing is lost on the way, and all counters agree.
        """
        for index in range(self._n_chips):
            chip = self._board().chip(index)
            if not chip.link_status().ready:
                chip.require_present()

    def _sample_timer(self) -> TimerReading:
        """Raises TimerJumped when it was restarted amid the run."""
        return self._timers.sample() if self._timers is not None else self._board().chip(0).timer()

    def compare_counts(self) -> None:
        """Compare what was sent with what arrived, a few times a second: it tells where a loss on the way lies."""
        pipeline = self.connect()
        self._ask(pipeline, lambda: pipeline.poll(self._look_at_counters))

    def _look_at_counters(self) -> Sent:
        sent = self._since_open(self._board().sent_counters())
        self._seen = time.monotonic_ns(), sent
        return sent

    @property
    def seen(self) -> Sent:
        """What the board has sent in this acquisition, as it said last."""
        return Sent(datagrams=0) if self._seen is None else _between(self._begun, self._seen[1])

    def missing(self, progress: Progress) -> int:
        """Datagrams of this acquisition that were lost on the way, at least, by the counters that were compared."""
        if self._seen is not None and progress.caught_up_ns >= self._seen[0] + ON_THE_WAY_NS:
            arrived = progress.arrived_datagrams - self._arrived_before + self._unsure
            self._missing = max(self._missing, self.seen.datagrams - arrived)
        return self._missing

    def _since_open(self, now: SentCounters) -> Sent:
        """What the board sent since the run was opened."""
        return Sent(
            datagrams=now.datagrams - self._base.datagrams,
            pixel_words=tuple(
                after - before
                for after, before in zip(now.pixel_words[: self._n_chips], self._base.pixel_words, strict=False)
            ),
            paused=now.paused_datagrams - self._base.paused_datagrams,
        )

    def progress(self) -> Progress:
        """A fresh look. Raises what killed a stage, if one died."""
        pipeline = self.connect()
        progress = self._ask(pipeline, pipeline.progress)
        if self._keeps:
            self.rows_on_disk = max(self.rows_on_disk, progress.rows_on_disk)
        return progress

    def end(self, *, end_counts: int | None, cancelled: bool) -> Acquired:
        """Wait until the pipeline has everything that the board sent, on disk.

        Raises ChipMissing when a chip is not there any more, but not of what is cancelled anyhow.
        """
        pipeline = self.connect()
        if not cancelled:
            self._require_chips()
        counters = self._settled_counters(self._board(), lambda: self._tell_that_it_is_shut(end_counts))
        sent, self.tdc_counted = self._drained(pipeline, self._since_open(counters)), counters.tdc_triggers
        acquired = self._ask(pipeline, lambda: pipeline.end(sent, end_counts=end_counts, cancelled=cancelled))
        self._counts_are_known = True
        self._note(acquired)
        return acquired

    def _drained(self, pipeline: PipelineClient, sent: Sent) -> Sent:
        """Wait until what the board sent is here, or lost; with what had arrived of it."""
        begun = self._begun.datagrams - self._arrived_before
        here, self._unsure = drained(
            sent,
            begun,
            lambda: self._since_open(self._board().sent_counters()),
            lambda: self._ask(pipeline, pipeline.arrived),
            self._unsure,
        )
        self._sent_at_end, self._arrived_at_end = here.datagrams, here.arrived or 0
        return here

    def _tell_that_it_is_shut(self, end_counts: int | None) -> None:
        """So that what comes from now on is no shot that has to be taken back."""
        pipeline = self.connect()
        if end_counts is not None:
            self._ask(pipeline, lambda: pipeline.shut(end_counts))

    def abandon(self) -> None:
        """End an acquisition after a failure of the board: what arrived is kept, flagged as cancelled."""
        pipeline = self.connect()
        self._counts_are_known = False
        acquired = self._ask(pipeline, lambda: pipeline.end(None, cancelled=True))
        self._note(acquired)

    def _warn_of(self, acquired: Acquired) -> None:
        """A loss is said when its point ends, once for each kind of verdict in a row."""
        said = verdict(acquired.ledger)
        kind = said.split(":")[0]
        if kind not in (self._said, COMPLETE):
            logger.warning("acquisition %d: %s", acquired.acquisition, said)
        self._said = kind

    def _note(self, acquired: Acquired) -> None:
        if self._keeps:
            self._warn_of(acquired)
            self.rows_on_disk = acquired.row_stop
            self.acquired.append(acquired)

    def _settled_counters(self, board: Board, meanwhile: Callable[[], None] = lambda: None) -> SentCounters:
        """The board's counters once they stand still: two readings agree, or the time is over (a warning says so).

        meanwhile: done while the first reading grows old.
        """
        began = read_at = moved_at = time.monotonic()
        before = board.sent_counters()
        meanwhile()
        pause = threading.Event()
        while read_at < began + COUNTERS_TIMEOUT_S:
            pause.wait(max(0.0, read_at + COUNTERS_INTERVAL_S - time.monotonic()))
            read_at = time.monotonic()
            now = board.sent_counters()
            moved_at = read_at if now.pixel_words != before.pixel_words else moved_at
            if read_at - moved_at >= STILL_S or (now.pixel_words, now.datagrams) == (
                before.pixel_words,
                before.datagrams,
            ):
                return now
            before = now
        logger.warning("the board still sends %s s after its shutter closed", COUNTERS_TIMEOUT_S)
        return before

    def _ask(self, pipeline: PipelineClient, request: Callable[[], T], *, may_refuse: bool = False) -> T:
        """Ask the pipeline; one that failed is dropped, so that the next run gets a new one.

        may_refuse: a refusal (a file that cannot be made) leaves the pipeline as good as it was.
        """
        try:
            return request()
        except PipelineError as error:
            if not may_refuse or isinstance(error, StageDied | PipelineTimeout):
                self._drop(pipeline)
            raise

    def _drop(self, failed: PipelineClient) -> None:
        with self._lock:
            if self._pipeline is failed:
                self.drop_pipeline()


def _between(before: Sent, now: Sent) -> Sent:
    """Datagrams from one reading to the other."""
    return Sent(datagrams=now.datagrams - before.datagrams, paused=now.paused - before.paused)


def _say_how_it_went(summary: RunSummary) -> None:
    level = logging.INFO if is_complete(summary.ledger) else logging.WARNING
    logger.log(level, "%s: %s", summary.event_file.name, verdict(summary.ledger))
    if summary.problem:
        logger.error("%s", summary.problem)


def _plain(document: Mapping[str, Any]) -> dict[str, Any]:
    """The same in JSON's types: a start document may hold whatever a user gave as metadata."""
    plain: dict[str, Any] = json.loads(json.dumps(document, default=_in_json))
    return plain


def _in_json(value: Any) -> Any:
    """numpy's numbers and arrays as Python's, anything else as text."""
    return value.tolist() if hasattr(value, "tolist") else str(value)


def _utc(monotonic_ns: int) -> str:
    """A moment of the monotonic clock as UTC, ISO 8601."""
    wall_ns = time.time_ns() - (time.monotonic_ns() - monotonic_ns)
    return datetime.fromtimestamp(wall_ns / 1e9, UTC).isoformat()
