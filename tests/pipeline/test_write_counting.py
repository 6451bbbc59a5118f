"""The sums of a point whose triggers fail: right in the end, and without a memory that grows."""

from multiprocessing import Pipe

import numpy as np
import pytest

from ophyd_timepix.events import counting
from ophyd_timepix.events.columns import CENTROIDS
from ophyd_timepix.pipeline.messages import Counting, RunRequest
from ophyd_timepix.pipeline.shared import Shared
from ophyd_timepix.pipeline.write_stage import WriteStage

ROWS = 40


@pytest.fixture
def ends():
    pipes = [Pipe() for _ in range(3)]
    yield pipes
    for one, other in pipes:
        one.close()
        other.close()


@pytest.fixture
def shared():
    return Shared(1 << 20, n_blocks=1)


@pytest.fixture
def stage(ends, shared, tmp_path):
    (control, _), (source, _), (free, _) = ends
    made = WriteStage(control, shared, [source], free)
    made.requests["open"](RunRequest(event_file=tmp_path / "run.h5"))
    made.requests["begin"](Counting())
    yield made
    made.close()


def write_block(stage, shared, ends, sequence: int, *, last: bool = False) -> None:
    """ROWS centroids of shot 0, which ends with the last block."""
    block = shared.blocks[0]
    block.header.clear()
    block.header.sequence, block.header.last = sequence, int(last)
    block.header.n_centroids, block.header.n_closed = ROWS, int(last)
    for column in CENTROIDS:
        block.centroids[column.name][:ROWS] = 0 if column.name == "shot" else np.arange(ROWS) % 7
    block.closed_tick[0], block.closed_valid[0] = 0, 1
    (_, _), (source, sender), _ = ends
    sender.send(0)
    stage.receive(source)


@pytest.mark.parametrize("room", [ROWS // 2, 3 * ROWS, 1000])
def test_a_shot_that_lasts_for_ever_is_counted_from_the_file(stage, shared, ends, monkeypatch, room):
    monkeypatch.setattr(counting, "WAITING_ROWS", room)
    blocks = 10
    for k in range(blocks):
        write_block(stage, shared, ends, k, last=k == blocks - 1)
    sums = stage._counter._arrays
    assert (sums.centroids, sums.valid_shots) == (blocks * ROWS, 1)
    assert int(sums.image.sum()) == blocks * ROWS
