"""The write process: puts finished blocks into the event file in the order of the stream, and gives them back.

On the way it adds up what a point is asked for: gates, picture, spectra.
"""

import json
import math
import time
from collections.abc import Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from ..events.block import BlockArrays
from ..events.columns import CENTROIDS
from ..events.counting import LOOKED_AT, PointCounter
from ..events.gates import Condition
from ..events.histograms import add_histogram, add_image
from ..events.sums import PointArrays
from ..files.early import EarlyEvents
from ..files.event_file import EventFile, layout_with, tof_edges
from ..files.master import try_to_write_master
from .ledger import BlockTotals
from .losses import LossSpan
from .messages import Counting, GateResult, RunRequest
from .preview import NoEventFile
from .settling import invalidate_shots, loss_columns, shots_outside
from .shared import Gauge, Shared
from .stage import Stage

RECOUNTED_ROWS: Final = 1 << 20
FLUSH_S: Final = 0.5
"""Rows become visible to readers at least this often while an acquisition runs."""


class CloseRequest(NamedTuple):
    """What the master file needs to know at the end of a run."""

    start: dict[str, Any]
    configuration: dict[str, Any]
    ledger: dict[str, Any]
    master: Path | None
    cancelled: tuple[int, ...] = ()
    """Acquisitions that turned out later to belong to no point."""


class Settlement(NamedTuple):
    """An acquisition is written: what was lost of it, and its rows [start, stop)."""

    acquisition: int
    losses: Sequence[LossSpan]
    shots: tuple[int, int]
    centroids: tuple[int, int]
    shutter: tuple[int | None, int | None] = (None, None)
    """Since when and until when it was open for sure (ticks); None: unknown."""


class WriteStage(Stage):
    """Requests: open, master (there is to be one: its events are copied on the way), begin, settle (losses of one that
    is written), acquisition (a row about it), close.

    Reports `acquired` after a last block.
    """

    name = "write"

    def __init__(self, control: Connection, shared: Shared, sources: Sequence[Connection], free: Connection) -> None:
        super().__init__(control)
        self._blocks = shared.blocks
        self._gauges = shared.gauges
        self._live = shared.live
        self._counter: PointCounter | None = None
        self._counting = Counting()
        self._shots = 0
        self._sources = tuple(sources)
        self._free = free
        self._file: EventFile | NoEventFile | None = None
        self._run: RunRequest | None = None
        self._early: EarlyEvents | None = None
        self._waiting: dict[int, int] = {}
        self._next_sequence = 0
        self._totals = BlockTotals()
        self._starts: dict[str, int] = {}
        self._flushed = time.monotonic()
        self._dirty = False
        self.requests = {
            "open": self._open,
            "master": self._begin_master,
            "begin": self._begin,
            "settle": self._settle,
            "acquisition": self._acquisition,
            "close": self._close_file,
        }

    def inputs(self) -> Sequence[Connection]:
        return self._sources

    def receive(self, connection: Connection) -> None:
        """Blocks come from several workers: hold those that are ahead, write in sequence."""
        block = connection.recv()
        self._waiting[int(self._blocks[block].header.sequence)] = block
        while (block := self._waiting.pop(self._next_sequence, None)) is not None:
            self._next_sequence += 1
            last = self._write(self._blocks[block])
            self._free.send(block)
            if last:
                self._finish_acquisition()

    def idle_s(self) -> float | None:
        return FLUSH_S if self._dirty else None

    def step(self) -> bool:
        if self._dirty and time.monotonic() - self._flushed >= FLUSH_S:
            self._flush()
        return False

    def close(self) -> None:
        if self._early is not None:
            self._early.drop()
            self._early = None
        if self._file is not None:
            self._file.close()
            self._file = None

    # --- a run ------------------------------------------------------------------------------------------------------

    def _open(self, run: RunRequest) -> None:
        self.close()
        self._file = NoEventFile(run.image_shape, run.tof_bins) if run.preview else self._event_file(run)
        self._run = run
        self._shots = 0
        self._waiting.clear()
        self._next_sequence = 0
        self._begin_acquisition()

    def _begin_master(self, path: Path) -> None:
        """The events of the master to come are copied as they come, if that can be."""
        file, run = self._opened()
        self._early = EarlyEvents.begin(path.parent, run.image_shape)
        if self._early is not None and isinstance(file, EventFile):
            file.watch("centroids", self._copy_events)

    def _copy_events(self, centroids: Mapping[str, npt.NDArray[Any]]) -> None:
        if self._early is not None and not self._early.add(centroids):
            self._early = None

    def _event_file(self, run: RunRequest) -> EventFile:
        return EventFile(
            run.event_file,
            image_shape=(run.geometry.height_px, run.geometry.width_px),
            tof_edges_ns=tof_edges(run.tof_range_ns, run.tof_bins),
            layout=layout_with(run.processing.optional_columns),
            attributes={
                "processing": run.processing.model_dump_json(),
                "geometry": run.geometry.model_dump_json(),
                "run": json.dumps({k: v for k, v in run.description().items() if k not in ("event_file", "spool")}),
                "start_document": json.dumps(run.start),
                "configuration": json.dumps(run.configuration),
            },
        )

    def _close_file(self, request: CloseRequest) -> tuple[int, str]:
        """Store the ledger, close the event file, write the master. Returns the centroid rows, and what went wrong with
        the master: everything is in the event file, so that is no failure of the run.
        """
        file, run = self._opened()
        file.write_ledger(request.ledger)
        file.flag_cancelled(request.cancelled)
        rows = file.rows("centroids")
        early = None
        file.flush()
        if request.master is not None:
            early, self._early = self._early, None
        self.close()
        if request.master is None:
            return rows, ""
        told = {"start": request.start, "configuration": request.configuration, "ledger": request.ledger}
        return rows, try_to_write_master(request.master, run.event_file, told, early)

    def _opened(self) -> tuple[EventFile | NoEventFile, RunRequest]:
        if self._file is None or self._run is None:
            raise RuntimeError("no event file is open")
        return self._file, self._run

    # --- an acquisition ---------------------------------------------------------------------------------------------

    def _begin(self, counting: Counting) -> None:
        """An acquisition is to come. Raises ValueError for gates that cannot be counted."""
        _, run = self._opened()
        conditions = [Condition.of(gate, counting.calibration) for gate in counting.gates]
        arrays = PointArrays(self._live, run.image_shape, run.spectrum)
        self._counting = counting
        self._counter = PointCounter(arrays, conditions, triggered=self._shots > 0)

    def _begin_acquisition(self) -> None:
        file, _ = self._opened()
        self._totals = BlockTotals()
        self._starts = {name: file.rows(name) for name in file.tables}

    def _finish_acquisition(self) -> None:
        self._flush()
        file, _ = self._opened()
        rows = {name: (start, file.stored_rows(name)) for name, start in self._starts.items()}
        self._shots += self._totals.shots
        if self._counter is not None and self._counter.incomplete and isinstance(file, EventFile):
            self._count_again(file, rows["shots"], rows["centroids"])
        self.report("acquired", (rows, self._totals, self._gates()))
        self._begin_acquisition()

    def _settle(self, request: Settlement) -> tuple[int, int, tuple[GateResult, ...]]:
        """No shot that a loss may have touched, or that was not wholly inside the open shutter, is valid. Returns the
        shots that were, those outside the shutter, and the gates without them.

        Most of it was known before the shots were written; a loss on the way shows at the end only.
        """
        file, run = self._opened()
        if isinstance(file, NoEventFile):
            return 0, 0, self._gates()
        tof_max_ns = run.processing.tof_max_ns
        outside, invalidated = shots_outside(file, request.shutter, request.shots, tof_max_ns)
        if request.losses:
            touched, more = invalidate_shots(file, request.losses, request.shots, tof_max_ns)
            file.append("losses", loss_columns(request.acquisition, request.losses, touched))
            invalidated += more
        if invalidated:
            self._count_again(file, request.shots, request.centroids)
        if invalidated or request.losses:
            self._flush()
        return invalidated, outside, self._gates()

    def _count_again(self, file: EventFile, shots: tuple[int, int], centroids: tuple[int, int]) -> None:
        """The sums of the point, from its rows [start, stop)."""
        counter = self._counter
        if counter is None:
            return
        counter.restart()
        first, stop = shots
        counter.add(_no_rows(), first, file.column("shots", "valid")[first:stop])
        start, stop = centroids
        for row in range(start, stop, RECOUNTED_ROWS):
            rows = slice(row, min(row + RECOUNTED_ROWS, stop))
            counter.add({name: file.column("centroids", name)[rows] for name in LOOKED_AT})

    def _gates(self) -> tuple[GateResult, ...]:
        results = self._counter.results() if self._counter is not None else []
        return tuple(
            GateResult(
                name=gate.name,
                counts=result.counts,
                counts_per_shot=_known(result.counts_per_shot),
                error=_known(result.error),
            )
            for gate, result in zip(self._counting.gates, results, strict=True)
        )

    def _acquisition(self, row: dict[str, Any]) -> None:
        file, _ = self._opened()
        file.append("acquisitions", {name: np.array([value]) for name, value in row.items()})
        file.flush()

    def _flush(self) -> None:
        file, _ = self._opened()
        file.flush()
        self._gauges[Gauge.ROWS_ON_DISK] = file.rows("centroids")
        self._flushed = time.monotonic()
        self._dirty = False

    def _write(self, block: BlockArrays) -> bool:
        """Append a block's rows. True when it was the last of its acquisition."""
        file, run = self._opened()
        first_row = file.rows("centroids")
        centroids, shots = block.centroid_columns(), block.shot_columns()
        file.append("centroids", centroids)
        file.append("shots", shots)
        file.append("triggers", block.trigger_columns())
        if run.processing.hits:
            file.append("hits", block.hit_columns(first_row))
        add_image(file.image, centroids["x"], centroids["y"])
        low, high = run.tof_range_ns
        add_histogram(file.tof, centroids["tof"], low, (high - low) / run.tof_bins)
        if self._counter is not None:
            self._counter.add(centroids, block.header.first_closed, shots["valid"])
        self._totals.add(block.header)
        self._gauges[Gauge.CENTROIDS] = file.rows("centroids")
        self._dirty = True
        return bool(block.header.last)


def _no_rows() -> dict[str, npt.NDArray[Any]]:
    """Columns of no centroid."""
    return {column.name: np.zeros(0, column.dtype) for column in CENTROIDS}


def _known(value: float) -> float | None:
    """JSON has no NaN."""
    return None if math.isnan(value) else value
