"""What crosses the control socket between a user's process and the supervisor: frozen, validated, JSON.

This module knows no socket and no process.
"""

from pathlib import Path
from typing import Any, Final, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from ..config import Gate, Geometry, MassCalibration, Processing
from ..events.sums import N_GATES, Spectrum
from ..protocol.words import MATRIX_SIDE
from ..spool.segments import SEGMENT_BYTES
from ..spool.space import Limits


class Message(BaseModel):
    """Base of all messages: immutable, unknown fields refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


Phase = tuple[tuple[int, ...], ...]
"""Column phase in fToA bins: [chip][double column]."""


class Receiver(Message):
    """One UDP socket to bind: where the words of one chip arrive."""

    chip: int = Field(ge=0, le=3)
    host: str = "0.0.0.0"
    port: int = Field(0, ge=0, le=65_535, description="0: the kernel chooses")
    senders: tuple[str, ...] = Field((), description="addresses that datagrams may come from; none: any")


class Storage(Message):
    """How the recording of a run lies on the disk."""

    segment_bytes: int = Field(SEGMENT_BYTES, ge=1 << 20, description="size at which a recording goes on in a new file")
    durable: bool = Field(
        True, description="each finished file is on the disk itself (fdatasync) before the run goes on"
    )
    disk_low_bytes: int = Field(Limits().low_bytes, ge=0, description="free space below which a warning is given")
    disk_stop_bytes: int = Field(Limits().stop_bytes, ge=0, description="free space below which the acquisition ends")


class RunRequest(Storage):
    """Opens a run: where its files go and how its words are processed."""

    event_file: Path
    spool: Path | None = Field(None, description="`.tpx3` recording of the run; None: next to the event file")
    keep_raw: bool = Field(True, description="False: words are kept nowhere but in the ring; no recovery then")
    centroid: bool = Field(True, description="False: record the words only")
    preview: bool = Field(False, description="no file at all; what is not processed in time is left out and counted")
    processing: Processing = Processing()
    geometry: Geometry = Geometry()
    n_chips: int = Field(1, ge=1, le=4)
    phase: Phase | None = Field(None, description="None: zeros")
    general: tuple[int, ...] = Field((), description="GENCONFIG of each chip; none: ToA and ToT, with fToA")
    timer_zero_ns: int | None = Field(None, description="host monotonic ns when the board's timers restarted")
    timer_zero_iso: str | None = Field(None, description="the same moment as UTC, ISO 8601")
    tof_range_ns: tuple[float, float] = (0.0, 100_000.0)
    tof_bins: int = Field(2000, ge=1, le=1_000_000)
    start: dict[str, Any] = Field(default_factory=dict, description="start document, as far as it is known at open")
    configuration: dict[str, Any] = Field(default_factory=dict, description="settings of camera and detector at open")

    def description(self) -> dict[str, Any]:
        """The run in JSON's types, without what the user may make as long as he likes: for the index's header."""
        return self.model_dump(mode="json", exclude={"start", "configuration"})

    @model_validator(mode="after")
    def _every_chip_is_described(self) -> Self:
        placed = len(self.geometry.placements)
        if placed < self.n_chips:
            raise ValueError(f"the geometry places {placed} chips, the run has {self.n_chips}")
        shape = (self.n_chips, MATRIX_SIDE // 2)
        if self.phase is not None and np.shape(np.asarray(self.phase, object)) != shape:
            raise ValueError(f"the column phase needs {shape[0]} chips of {shape[1]} double columns each")
        return self

    @model_validator(mode="after")
    def _something_is_kept(self) -> Self:
        if not (self.keep_raw or self.centroid or self.preview):
            raise ValueError("with neither keep_raw nor centroid a run keeps nothing; ask for one of them")
        return self

    @property
    def image_shape(self) -> tuple[int, int]:
        """Rows and columns of the picture."""
        return self.geometry.height_px, self.geometry.width_px

    @property
    def spectrum(self) -> Spectrum:
        """The bins of time of flight."""
        low, high = self.tof_range_ns
        return Spectrum(low, (high - low) / self.tof_bins, self.tof_bins)


class Counting(Message):
    """What an acquisition counts while it runs. Gates may differ from one acquisition to the next."""

    gates: tuple[Gate, ...] = Field((), max_length=N_GATES)
    calibration: MassCalibration | None = Field(None, description="for gates of m/q")


class GateResult(Message):
    """What a gate counted in the valid shots of an acquisition."""

    name: str
    counts: int
    counts_per_shot: float | None = Field(description="None: no valid shot")
    error: float | None = Field(description="standard error of counts_per_shot; None: fewer than 2 valid shots")


class RecordedFile(Message):
    """A recording to process, and what its words need beside it."""

    path: Path
    phase: Phase | None = None
    general: tuple[int, ...] = Field((), description="GENCONFIG of each chip; none: ToA and ToT, with fToA")
    timer_zero_ns: int | None = None
    good_bytes: int | None = Field(None, ge=0, description="what lies behind is not read; None: all that is there")
    acquisitions: tuple[int, int] | None = Field(
        None, description="of an index: which of them, [first, stop) by their place; None: all"
    )


class RunPaths(Message):
    """The files of an open run."""

    event_file: Path
    spool: Path
    master: Path


class Sent(Message):
    """What the board says it sent since `open_run` (SPIDR counters, unwrapped)."""

    datagrams: int
    pixel_words: tuple[int, ...] = ()
    paused: int = Field(0, description="datagrams that waited on the board because its read-out was paused")
    arrived: int | None = Field(
        None,
        description="datagrams that had arrived of these (`Progress.arrived_datagrams`), and no more will: "
        "at the end of an acquisition nothing is waited for then; None: it is, and all that came is compared",
    )
    unsure: int = Field(
        0, description="by so many what is expected to have arrived may be too much: of those none is known to be lost"
    )


class Arrived(Message):
    """What of the board's datagrams has reached this machine."""

    datagrams: int
    is_all: bool = Field(description="all that had reached it when it was asked is among them; else some may wait")


class Progress(Message):
    """A fresh look at a running acquisition. Counts are totals of the run; rates are for the caller to derive."""

    acquisition: int = 0
    received_datagrams: int = 0
    received_bytes: int = 0
    kernel_dropped: int = 0
    malformed_datagrams: int = 0
    wrong_sender_datagrams: int = 0
    unrecorded_datagrams: int = Field(0, description="came while nothing more could be recorded")
    stopped_by: str | None = Field(None, description="why the acquisition records nothing more, and the remedy")
    disk_free_bytes: int | None = Field(None, description="on the recording's file system; None: there is none")
    disk_seconds_left: float | None = Field(None, description="until the disk is full, at the rate of the last seconds")
    disk_low: bool = Field(False, description="room on the disk is getting short")
    arrived_datagrams: int = Field(0, description="of the board, whatever became of them: good, malformed, dropped ...")
    recording_bytes: int = Field(0, description="received, with the headers of chunks: what the recording has, or will")
    spool_bytes: int = Field(0, description="of these, not decoded yet")
    on_disk_bytes: int = 0
    decoded_bytes: int = 0
    hits: int = 0
    triggers: int = 0
    shots: int = 0
    centroids: int = 0
    rows_on_disk: int = Field(0, description="centroid rows that a reader of the event file sees")
    skipped_bytes: int = Field(0, description="of a preview, left out because processing was behind")
    skipped_words: int = Field(0, description="of a recording, so far: words that gave no row because they are damaged")
    chips: int = Field(0, description="of a recording, so far: one more than the highest chip of a chunk")
    lag_seconds: float = Field(0.0, description="age of the oldest received word that is not yet decoded")
    host_ns: int = Field(0, description="monotonic clock of this reading")
    caught_up_ns: int = Field(
        0, description="`arrived_datagrams` has all that had reached this machine then (monotonic clock)"
    )


class Acquired(Message):
    """A closed acquisition: its rows, all on disk, and its ledger."""

    acquisition: int
    row_start: int
    row_stop: int
    hit_row_start: int
    hit_row_stop: int
    shot_start: int
    shot_stop: int
    trigger_start: int
    trigger_stop: int
    valid_shots: int
    hits: int
    clusters: int
    centroids: int
    cancelled: bool = False
    ended_by: str = Field(description="what ended the drain: 'counters', 'silence', 'time' or 'files'")
    seconds: float = Field(description="from begin() to the last row on disk")
    gates: tuple[GateResult, ...] = ()
    ledger: dict[str, Any]


class RunSummary(Message):
    """A closed run. Its acquisitions come without their ledgers, which `end` told; `ledger` is the sum."""

    event_file: Path
    spool: Path | None
    master: Path | None
    problem: str = Field("", description="why there is no master, and how to get it")
    rows: int
    acquisitions: tuple[Acquired, ...]
    ledger: dict[str, Any]


SUPERVISOR: Final = "supervisor"
"""As the name of a stage: the process that owns them all."""


class StageDeath(Message):
    """Why a pipeline stopped: which stage, how, and where to read more."""

    stage: str
    reason: str
    traceback: str = ""
    log: Path
    salvaged: Path | None = Field(None, description="the recording, complete up to the death")
    saving: Path | None = Field(None, description="the recording, where it is still being completed")
