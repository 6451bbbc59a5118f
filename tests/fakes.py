"""A board and a pipeline without network and processes, driven by events that a test sets.

The pipeline writes real event files, because documents point into them: a whole exposure gives ROWS centroids, a
cancelled one CANCELLED_ROWS; their column `shot` holds the number of the acquisition. The last shot of an exposure is
not valid.
"""

import contextlib
import json
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ophyd_timepix.control import (
    BoardInfo,
    ChipInfo,
    ChipMissing,
    SentCounters,
    SpidrRefused,
    TimerReading,
    TriggerConfig,
)
from ophyd_timepix.control.info import TestPulse
from ophyd_timepix.events.sums import COUNTED, VALID, PointArrays
from ophyd_timepix.files.event_file import TABLES, EventFile, layout_with
from ophyd_timepix.pipeline.errors import PipelineError, StageDied
from ophyd_timepix.pipeline.messages import (
    Acquired,
    Arrived,
    Counting,
    GateResult,
    Progress,
    Receiver,
    RunPaths,
    RunRequest,
    RunSummary,
    Sent,
    StageDeath,
)
from ophyd_timepix.protocol import Dac, GeneralConfig, OutputBlockConfig, PixelMatrix, PllConfig, Quantity
from ophyd_timepix.protocol.registers import LinkStatus
from ophyd_timepix.spool.index import Moment

ROWS = 100
CANCELLED_ROWS = 7
SHOTS_PER_LOOK = 50


class FakeChip:
    """A chip that keeps what it is told."""

    def __init__(self, board: "FakeBoard", index: int) -> None:
        self._board = board
        self.index = index
        self.unlocked = threading.Event()
        """Its links are not locked while this is set."""
        self.dacs = {dac: dac.default for dac in Dac}
        self.destination_port = 0
        self.general = GeneralConfig()
        self.pll = PllConfig()
        self.output_block = OutputBlockConfig()
        self.matrix = PixelMatrix()
        self.pulse = TestPulse()
        self.columns = np.zeros(256, np.bool_)
        self.filter = 0xFFFF
        self.read_backs = 0

    def link_status(self) -> LinkStatus:
        self._board.contact()
        return LinkStatus(0xFF, 0 if self.unlocked.is_set() else 0xFF)

    def require_present(self) -> ChipInfo:
        if not self.link_status().ready:
            raise ChipMissing(f"chip {self.index}: missing")
        return ChipInfo(self.index, 0x1A0B, "W0000_A01", 0xFF, 0xFF, True)

    def dac(self, dac: Dac) -> int:
        self._board.contact()
        return self.dacs[dac]

    def set_dac(self, dac: Dac, value: int) -> None:
        self._board.contact(f"set_dac {dac.name} {value}")
        self.dacs[dac] = value

    def general_config(self) -> GeneralConfig:
        self._board.contact()
        return self.general

    def set_general_config(self, word: GeneralConfig) -> None:
        self._board.contact(f"set_general_config 0x{word.word:X}")
        self.general = word

    def pll_config(self) -> PllConfig:
        self._board.contact()
        return self.pll

    def set_pll_config(self, word: PllConfig) -> None:
        self._board.contact(f"set_pll_config 0x{word.word:X}")
        self.pll = word

    def output_block_config(self) -> OutputBlockConfig:
        self._board.contact()
        return self.output_block

    def read_matrix(self) -> PixelMatrix:
        self._board.contact()
        self.read_backs += 1
        return self.matrix

    def upload_matrix(self, matrix: PixelMatrix) -> None:
        self._board.contact(f"upload_matrix {matrix.digest()[:8]}")
        self.matrix = matrix

    def test_pulse(self) -> TestPulse:
        self._board.contact()
        return self.pulse

    def set_test_pulse(self, pulse: TestPulse) -> None:
        self._board.contact(f"set_test_pulse {pulse.period} {pulse.phase} {pulse.count}")
        self.pulse = pulse

    def test_columns(self) -> npt.NDArray[np.bool_]:
        self._board.contact()
        return self.columns

    def set_test_columns(self, columns: npt.NDArray[np.bool_]) -> None:
        self._board.contact("set_test_columns")
        self.columns = columns

    def header_filter(self) -> tuple[int, int]:
        self._board.contact()
        return self.filter, 0

    def temperature(self) -> float:
        self._board.contact()
        return 44.0

    def timer(self) -> TimerReading:
        self._board.contact()
        return TimerReading(1000, 50_000_000, 50_000_100)

    def set_destination(self, address: str | None, port: int) -> None:
        self._board.contact(f"set_destination {self.index} {port}")
        self.destination_port = port

    def set_header_filter(self, eth: int = 0xFFFF) -> None:
        self._board.contact()
        self.filter = eth


class FakeClient:
    """A line that is there once it was used, until it is closed."""

    address = "127.0.0.1:50000"

    def __init__(self) -> None:
        self.connected = False
        self.connections = 0

        self.watchers: list[Callable[[bool], None]] = []

    def exclusive(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()

    def subscribe(self, watcher: Callable[[bool], None]) -> Callable[[], None]:
        self.watchers.append(watcher)
        return lambda: self.watchers.remove(watcher)

    def close(self) -> None:
        self.connected = False


class FakeWatch:
    """A job that a test polls by hand."""

    def __init__(self, poller: "FakePoller", period: Callable[[], float], job: Callable[[], None]) -> None:
        self.period = period
        self.job = job
        self._poller = poller

    def cancel(self) -> None:
        self._poller.watches.remove(self)


class FakePoller:
    """Polls when it is told to."""

    def __init__(self) -> None:
        self.watches: list[FakeWatch] = []

    def every(self, period: Callable[[], float], job: Callable[[], None]) -> FakeWatch:
        self.watches.append(FakeWatch(self, period, job))
        return self.watches[-1]

    def poll(self) -> None:
        for watch in tuple(self.watches):
            watch.job()


class FakeBoard:
    """A board with `present` chips. `calls` lists what it was told; `failing` names calls that raise."""

    local_address = "127.0.0.1"

    def data_senders(self, index: int) -> tuple[str, ...]:
        return ("127.0.0.1", "192.168.100.10")

    losses = 0

    def __init__(self, present: int = 1) -> None:
        self.client = FakeClient()
        self.poller = FakePoller()
        self.bias_setting: float | None = None
        self.bias_enabled: bool | None = None
        self.config = TriggerConfig()
        self.celsius = 41.5
        self.external = False
        self.fast = False
        self.tdc = 0
        self.may_arrive = threading.Event()
        """A ramp of the bias arrives when it is set."""
        self.may_arrive.set()
        self.ramps = threading.Event()
        """Set while a ramp goes."""
        self.calls: list[str] = []
        self.failing: dict[str, Exception] = {}
        self.off = False
        self.shutter_open = threading.Event()
        self._present = present
        self._chips = [FakeChip(self, index) for index in range(4)]

    def close(self) -> None:
        self.client.close()

    def contact(self, call: str | None = None) -> None:
        if self.off:
            self.client.connected = False
            raise SpidrRefused("the board is off")
        self.client.connections += not self.client.connected
        self.client.connected = True
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

    def measure(self, quantity: Quantity) -> float:
        self.contact()
        values = {Quantity.CHIP_TEMPERATURE: self.celsius, Quantity.FPGA_TEMPERATURE: 60.25}
        return values.get(quantity, self.bias_setting or 50.0)

    def bias_v(self) -> float:
        return self.measure(Quantity.BIAS)

    def bias_is_on(self) -> bool:
        return self.bias_v() > 0 if self.bias_enabled is None else self.bias_enabled

    def set_bias(self, volts: float) -> None:
        self.contact(f"set_bias {volts:g}")
        self.bias_setting = volts

    def bias_enable(self, enabled: bool) -> None:
        self.contact(f"bias_enable {enabled}")
        self.bias_enabled = enabled

    def ramp_bias(self, volts: float, rate_v_per_s: float, tolerance_v: float, stop: threading.Event) -> float:
        self.contact(f"ramp_bias {volts:g}")
        self.ramps.set()
        while not (stop.is_set() or self.may_arrive.wait(0.005)):
            pass
        self.ramps.clear()
        if not stop.is_set():
            self.bias_setting, self.bias_enabled = volts, True
        return self.bias_v()

    def trigger(self) -> TriggerConfig:
        self.contact()
        return self.config

    def set_trigger(self, config: TriggerConfig) -> None:
        self.contact()
        self.config = config

    def start_trigger(self) -> None:
        self.contact("start_trigger")

    def external_clock(self) -> bool:
        self.contact()
        return self.external

    def set_external_clock(self, external: bool) -> None:
        self.contact(f"set_external_clock {external}")
        self.external = external

    def clock_80_mhz(self) -> bool:
        self.contact()
        return self.fast

    def tdc_control(self) -> int:
        self.contact()
        return self.tdc

    def set_tdc_control(self, word: int) -> None:
        self.contact(f"set_tdc_control {word}")
        self.tdc = word

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

    def tdc_triggers(self) -> int:
        self.contact()
        return 0

    def sent_counters(self) -> SentCounters:
        self.contact()
        return SentCounters(10, (100, 0, 0, 0))


class FakePipeline:
    """The client's methods over an event file. Triggers come while `flow` is set; `looked` is set at each progress
    with an open shutter, so that a test knows that an exposure is under way.
    """

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.openings: list[tuple[int, int]] = []
        """The timer before the shutter opened and after, of each acquisition."""
        self.shuttings: list[int] = []
        """The timer before it closed."""
        self.requests: list[RunRequest] = []
        self.closings: list[dict[str, Any]] = []
        self.acquisitions: list[Acquired] = []
        self.countings: list[Counting] = []
        self.live: PointArrays | None = None
        self.flow = threading.Event()
        self.flow.set()
        self.looked = threading.Event()
        self.idle = threading.Event()
        self.dead: PipelineError | None = None
        self.rows_per_acquisition = ROWS
        self.lost_datagrams = 0
        self.told: dict[str, Any] = {}
        """What `progress` says besides."""
        self.problem = ""
        """What is wrong with the master."""
        self.entries: dict[str, Any] = {}
        """What the ledger of a point says besides."""
        self.polls: list[Sent | None] = []
        """Readings of the board's counters, in between."""
        self.closed = False
        self._running = 0
        self._preview = False
        self._shots = 0
        self._rows = 0
        self._file: EventFile | None = None
        self._layout = TABLES

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
        self.live = PointArrays.empty(run.image_shape, run.spectrum)
        self._preview = run.preview
        self._layout = layout_with(run.processing.optional_columns)
        if not run.preview:
            self._file = EventFile(
                run.event_file,
                image_shape=(256, 256),
                tof_edges_ns=np.linspace(0, 1, 11),
                attributes={"by": "fake"},
                layout=self._layout,
            )
        stem = run.event_file
        return RunPaths(event_file=stem, spool=stem.with_suffix(".tpx3"), master=stem.with_suffix(".nxs"))

    def begin(self, acquisition: int, counting: Counting | None = None, *, opens_later: bool = False) -> None:
        self._call("begin")
        self.countings.append(counting or Counting())
        if self.live is not None:
            self.live.clear()
        if self._running:
            raise PipelineError(f"acquisition {self._running} is running; end it before the next begins")
        self._running = acquisition
        self.idle.clear()

    def opened(self, before: Moment, counts: int) -> None:
        self.openings.append((before.counts, counts))

    def shut(self, counts: int) -> None:
        self.shuttings.append(counts)

    def baseline(self, sent: Sent | None = None) -> int:
        return 0

    def arrived(self) -> Arrived:
        return Arrived(datagrams=self.told.get("arrived_datagrams", 0), is_all=True)

    def poll(self, read: Callable[[], Sent | None]) -> None:
        self.polls.append(read())

    def progress(self) -> Progress:
        if self.dead is not None:
            raise self.dead
        if self._running:
            self.looked.set()
            if self.flow.is_set():
                self._shots += SHOTS_PER_LOOK
                self._count()
        looked = {
            "acquisition": self._running,
            "shots": self._shots,
            "rows_on_disk": self._rows,
            "hits": 5 * self._rows,
        }
        return Progress(**looked | self.told)

    def _count(self) -> None:
        """Each gate gets a centroid in every second shot, the first of them; and one pixel of the picture."""
        if self.live is None:
            return
        self.live.totals[VALID] += SHOTS_PER_LOOK
        self.live.totals[COUNTED] += SHOTS_PER_LOOK
        self.live.image[3, 7] += SHOTS_PER_LOOK
        self.live.tof[5] += SHOTS_PER_LOOK
        self.live.size[4] += SHOTS_PER_LOOK
        self.live.sums += (7 * SHOTS_PER_LOOK, 3 * SHOTS_PER_LOOK)
        gained = SHOTS_PER_LOOK // 2
        self.live.gates[: len(self.countings[-1].gates), 2:] += gained
        self.live.gate_images[: len(self.countings[-1].gates), 3, 7] += gained

    def _gates(self) -> tuple[GateResult, ...]:
        found = [self.live.gate(place) for place in range(len(self.countings[-1].gates))] if self.live else []
        return tuple(
            GateResult(
                name=gate.name,
                counts=now.counts,
                counts_per_shot=now.counts_per_shot if now.shots else None,
                error=now.error if now.shots > 1 else None,
            )
            for gate, now in zip(self.countings[-1].gates, found, strict=True)
        )

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
            ended_by="counters" if sent else "silence", seconds=0.1,
            ledger={"unaccounted": 0, "lost_datagrams": self.lost_datagrams, **self.entries}, gates=self._gates(),
        )  # fmt: skip
        self.acquisitions.append(acquired)
        self.idle.set()
        return acquired

    def _append(self, acquisition: int, n: int) -> None:
        if self._preview:
            return
        if self._file is None:
            raise PipelineError("no run is open; call open_run first")
        columns = {column.name: np.zeros(n, column.dtype) for column in self._layout["centroids"]}
        columns["shot"][:] = acquisition
        if "energy" in columns:  # by its row
            columns["energy"][:] = np.arange(self._rows, self._rows + n)
            columns["energy"][:1] = np.nan
        self._file.append("centroids", columns)
        new = self._shots - self._file.rows("shots")
        shots = {column.name: np.zeros(new, column.dtype) for column in self._layout["shots"]}
        shots["valid"][:-1] = 1
        if "inferred" in shots:
            shots["inferred"][:1], shots["valid"][:1] = 1, 0
        self._file.append("shots", shots)
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
        if self._preview:
            self._preview = False
            return RunSummary(event_file=Path("none"), spool=None, master=None, rows=0, acquisitions=(), ledger={})
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
            problem=self.problem,
        )  # fmt: skip

    def close(self) -> None:
        self.closed = True
        if self._file is not None:
            self._file.close()
            self._file = None
