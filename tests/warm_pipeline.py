"""A pipeline that runs already, for commands that are called in this process: each would start one of its own."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext

import pytest

from ophyd_timepix.app import product, record, recover
from ophyd_timepix.pipeline.client import Pipeline


@pytest.fixture(scope="module")
def running_pipeline() -> Iterator[Pipeline]:
    """A start takes seconds. It ends with the module that asked for it."""
    with Pipeline() as pipeline:
        yield pipeline


@pytest.fixture
def warm_pipeline(running_pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    """`process`, `record` and `recover` take the one that runs, unless they want another number of workers."""

    def running(*, workers: int = 1) -> AbstractContextManager[Pipeline]:
        return nullcontext(running_pipeline) if workers == running_pipeline.workers else Pipeline(workers=workers)

    for command in (product, record, recover):
        monkeypatch.setattr(command, "Pipeline", running)
