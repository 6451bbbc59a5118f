"""A centroid process: takes a block, clusters it in place, hands it on. Several share the work, block by block."""

from collections.abc import Sequence
from multiprocessing.connection import Connection

from ..events.centroid import CentroidFinder
from .messages import RunRequest
from .shared import Shared
from .stage import Stage


class CentroidStage(Stage):
    """Requests: open."""

    def __init__(self, name: str, control: Connection, shared: Shared, source: Connection, sink: Connection) -> None:
        super().__init__(control)
        self.name = name
        self._blocks = shared.blocks
        self._source = source
        self._sink = sink
        self._finder: CentroidFinder | None = None
        self.requests = {"open": self._open}

    def inputs(self) -> Sequence[Connection]:
        return (self._source,)

    def receive(self, connection: Connection) -> None:
        block = connection.recv()
        if self._finder is None:
            raise RuntimeError("a block came before a run was opened")
        self._finder.process(self._blocks[block])
        self._sink.send(block)

    def _open(self, run: RunRequest) -> None:
        self._finder = CentroidFinder(run.processing, run.geometry.table(), run.processing.load_calibration())
