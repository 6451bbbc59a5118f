"""What crosses the control socket between a user's process and the supervisor: frozen, validated, JSON.

This module knows no socket, process or array.
"""

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from ..config import Geometry, Processing


class Message(BaseModel):
    """Base of all messages: immutable, unknown fields refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Receiver(Message):
    """One UDP socket to bind: where the words of one chip arrive."""

    chip: int = Field(ge=0, le=3)
    host: str = "0.0.0.0"
    port: int = Field(0, ge=0, le=65_535, description="0: the kernel chooses")
    sender: str | None = Field(None, description="address that datagrams must come from; None: any")


class RunRequest(Message):
    """Opens a run: where its files go and how its words are processed."""

    event_file: Path
    spool: Path | None = Field(None, description="`.tpx3` recording of the run; None: next to the event file")
    keep_raw: bool = Field(True, description="False: the recording is deleted when the run has closed well")
    centroid: bool = Field(True, description="False: record the words only")
    processing: Processing = Processing()
    geometry: Geometry = Geometry()
    n_chips: int = Field(1, ge=1, le=4)
    phase: tuple[tuple[int, ...], ...] | None = Field(
        None, description="column phase, fToA bins, [chip][double column]; None: zeros"
    )
    timer_zero_ns: int | None = Field(None, description="host monotonic ns when the board's timers restarted")
    timer_zero_iso: str | None = Field(None, description="the same moment as UTC, ISO 8601")
    tof_range_ns: tuple[float, float] = (0.0, 100_000.0)
    tof_bins: int = Field(2000, ge=1, le=1_000_000)


class RunPaths(Message):
    """The files of an open run."""

    event_file: Path
    spool: Path
    master: Path


class Sent(Message):
    """What the board says it sent since `open_run` (SPIDR counters, unwrapped)."""

    datagrams: int
    pixel_words: tuple[int, ...] = ()


class Progress(Message):
    """A fresh look at a running acquisition. Counts are totals of the run; rates are for the caller to derive."""

    acquisition: int = 0
    received_datagrams: int = 0
    received_bytes: int = 0
    kernel_dropped: int = 0
    on_disk_bytes: int = 0
    decoded_bytes: int = 0
    hits: int = 0
    triggers: int = 0
    shots: int = 0
    centroids: int = 0
    rows_on_disk: int = Field(0, description="centroid rows that a reader of the event file sees")
    lag_seconds: float = Field(0.0, description="age of the oldest received word that is not yet decoded")
    host_ns: int = Field(0, description="monotonic clock of this reading")


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
    ended_by: str = Field(description="what ended the drain: 'counters', 'end of data', 'silence', 'files'")
    seconds: float = Field(description="from begin() to the last row on disk")
    ledger: dict[str, Any]


class RunSummary(Message):
    """A closed run."""

    event_file: Path
    spool: Path | None
    master: Path | None
    rows: int
    acquisitions: tuple[Acquired, ...]
    ledger: dict[str, Any]


class StageDeath(Message):
    """Why a pipeline stopped: which stage, how, and where to read more."""

    stage: str
    reason: str
    traceback: str = ""
    log: Path
    salvaged: Path | None = Field(None, description="the recording, complete up to the death")
