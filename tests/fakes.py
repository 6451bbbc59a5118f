"""A board and a pipeline without network and processes, driven by events that a test sets.

The pipeline writes real event files, because documents point into them: a whole exposure gives ROWS centroids, a
cancelled one CANCELLED_ROWS; their column `shot` holds the number of the acquisition.
"""

import json
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ophyd_timepix.control import BoardInfo, ChipInfo, SentCounters, Temperatures, TimerReading
from ophyd_timepix.events.columns import CENTROIDS
from ophyd_timepix.files.event_file import EventFile
from ophyd_timepix.pipeline.errors import PipelineError, StageDied
from ophyd_timepix.pipeline.messages import (
    Acquired,
    Progress,
    Receiver,
    RunPaths,
    RunRequest,
    RunSummary,
    Sent,
    StageDeath,
)
from ophyd_timepix.protocol import Dac, PllConfig

ROWS = 100
CANCELLED_ROWS = 7
SHOTS_PER_LOOK = 50


class FakeChip:
    """A chip that keeps what it is told. `stuck` names a DAC that does not take values."""

    def __init__(self, board: "FakeBoard", index: int) -> None:
        self._board = board
        self.index = index
        self.dacs = {dac: dac.default for dac in Dac}
        self.destination_port = 0

    def dac(self, dac: Dac) -> int:
        self._board.contact()
        return self.dacs[dac]

    def set_dac(self, dac: Dac, value: int) -> None:
        self._board.contact(f"set_dac {dac.name} {value}")
        self.dacs[dac] = value

    def pll_config(self) -> PllConfig:
        self._board.contact()
        return PllConfig()

    def timer(self) -> TimerReading:
        self._board.contact()
        return TimerReading(1000, 50_000_000, 50_000_100)

    def set_destination(self, address: str | None, port: int) -> None:
        self._board.contact(f"set_destination {self.index} {port}")
        self.destination_port = port

    def set_header_filter(self, eth: int = 0xFFFF) -> None:
        self._board.contact()


class FakeBoard:
    """A board with `present` chips. `calls` lists what it was told; `failing` names calls that raise."""

    local_address = "127.0.0.1"

    def __init__(self, present: int = 1) -> None:
        self.calls: list[str] = []
        self.failing: dict[str, Exception] = {}
        self.off = False
        self.shutter_open = threading.Event()
        self._present = present
        self._chips = [FakeChip(self, index) for index in range(4)]

    def contact(self, call: str | None = None) -> None:
        if self.off:
            raise ConnectionRefusedError("the board is off")
        if call is not None:
            self.calls.append(call)
            error = self.failing.get(call)
            if error is not None:
                raise error

    def identify(self) -> BoardInfo:
        self.contact("identify")
        chips = tuple(ChipInfo(i, 0x1A0B, f"W000{i}_A01", 0xFF, 0xFF, i < self._present) for i in range(4))
        return BoardInfo("14112400", "15010500", 4, chips)

    def chip(self, index: int) -> FakeChip:
        return self._chips[index]

    def temperatures(self) -> Temperatures:
        self.contact()
        return Temperatures(41.5, 35.0, 60.25)

    def bias_v(self) -> float:
        self.contact()
        return 50.0

    def prepare_readout(self) -> None:
        self.contact("prepare_readout")

    def pause_readout(self) -> None:
        self.contact("pause_readout")

    def reset_timers(self) -> None:
        self.contact("reset_timers")

    def open_shutter(self) -> None:
        self.contact("open_shutter")
        self.shutter_open.set()

    def close_shutter(self) -> None:
        self.shutter_open.clear()
        self.contact("close_shutter")

    def sent_counters(self) -> SentCounters:
        self.contact()
        return SentCounters(10, (100, 0, 0, 0))


class FakePipeline:
    """The client's methods over an event file. Triggers come while `flow` is set; `looked` is set at each progress
    with an open shutter, so that a test knows that an exposure is under way.
    """

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.requests: list[RunRequest] = []
        self.closings: list[dict[str, Any]] = []
        self.acquisitions: list[Acquired] = []
        self.flow = threading.Event()
        self.flow.set()
        self.looked = threading.Event()
        self.idle = threading.Event()
        self.dead: PipelineError | None = None
        self.rows_per_acquisition = ROWS
        self.closed = False
        self._running = 0
        self._shots = 0
        self._rows = 0
        self._file: EventFile | None = None

    def die(self, stage: str = "decode") -> None:
        """From now on every call says that a stage died."""
        self.dead = StageDied(StageDeath(stage=stage, reason="was killed by SIGKILL", log=Path("/tmp/pipeline.log")))

    def _call(self, name: str) -> None:
        self.calls.append(name)
        if self.dead is not None:
            raise self.dead

    def start(self) -> None:
        self._call("start")

    def bind(self, receivers: Sequence[Receiver]) -> list[int]:
        self._call("bind")
        return [40_000 + receiver.chip for receiver in receivers]

    def open_run(self, run: RunRequest) -> RunPaths:
        self._call("open_run")
        if self._file is not None:
            raise PipelineError(f"a run is open already: {self._file.path}; close it first")
        self.requests.append(run)
        self._shots = self._rows = 0
        self.acquisitions = []
        self._file = EventFile(
            run.event_file, image_shape=(256, 256), tof_edges_ns=np.linspace(0, 1, 11), attributes={"program": "fake"}
        )
        stem = run.event_file
        return RunPaths(event_file=stem, spool=stem.with_suffix(".tpx3"), master=stem.with_suffix(".nxs"))

    def begin(self, acquisition: int) -> None:
        self._call("begin")
        if self._running:
            raise PipelineError(f"acquisition {self._running} is running; end it before the next begins")
        self._running = acquisition
        self.idle.clear()

    def progress(self) -> Progress:
        if self.dead is not None:
            raise self.dead
        if self._running:
            self.looked.set()
            if self.flow.is_set():
                self._shots += SHOTS_PER_LOOK
        return Progress(acquisition=self._running, shots=self._shots, rows_on_disk=self._rows, hits=5 * self._rows)

    def end(self, sent: Sent | None = None, *, end_counts: int | None = None, cancelled: bool = False) -> Acquired:
        self._call("end")
        number, self._running = self._running, 0
        self.looked.clear()
        n = CANCELLED_ROWS if cancelled else self.rows_per_acquisition
        self._append(number, n)
        acquired = Acquired(
            acquisition=number, row_start=self._rows - n, row_stop=self._rows, hit_row_start=0, hit_row_stop=0,
            shot_start=0, shot_stop=self._shots, trigger_start=0, trigger_stop=2 * self._shots,
            valid_shots=max(self._shots - 1, 0), hits=5 * n, clusters=n, centroids=n, cancelled=cancelled,
            ended_by="counters" if sent else "silence", seconds=0.1, ledger={"unaccounted": 0},
        )  # fmt: skip
        self.acquisitions.append(acquired)
        self.idle.set()
        return acquired

    def _append(self, acquisition: int, n: int) -> None:
        if self._file is None:
            raise PipelineError("no run is open; call open_run first")
        columns = {column.name: np.zeros(n, column.dtype) for column in CENTROIDS}
        columns["shot"][:] = acquisition
        self._file.append("centroids", columns)
        self._file.flush()
        self._rows += n

    def close_run(
        self,
        start: dict[str, Any] | None = None,
        *,
        configuration: dict[str, Any] | None = None,
        cancelled: Sequence[int] = (),
    ) -> RunSummary:
        self._call("close_run")
        self.superseded = tuple(cancelled)
        if self._file is None:
            raise PipelineError("no run is open; call open_run first")
        if self._running:
            raise PipelineError(f"acquisition {self._running} is running; end it before the run closes")
        json.dumps([start, configuration])
        self.closings.append({"start": start, "configuration": configuration})
        path, file, self._file = self._file.path, self._file, None
        file.close()
        return RunSummary(
            event_file=path, spool=path.with_suffix(".tpx3"), master=path.with_suffix(".nxs"), rows=self._rows,
            acquisitions=tuple(self.acquisitions), ledger={"unaccounted": 0, "sent": {"datagrams": 10}},
        )  # fmt: skip

    def close(self) -> None:
        self.closed = True
        if self._file is not None:
            self._file.close()
            self._file = None
