"""Parts of recordings on a Dask distributed cluster: each worker has a pipeline of its own.

Workers see the recordings and the output's directory under the same names: a shared file system. The library is
imported when somebody asks for it (extra `dask`).
"""

import contextlib
import logging
import os
import queue
import re
import threading
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from ..pipeline.client import SMALLEST_RING, Pipeline
from ..pipeline.errors import PipelineError
from .part_runner import MoreChips, SkippedError, run_part
from .parts import Job
from .provenance import code_version

LOCAL: Final = "local"
ADDRESS: Final = re.compile(r"[a-z]+://.+:\d+")
NO_DASHBOARD: Final = {"dashboard": False}
"""Nobody needs it for a command, and its port may be taken."""
RETRIES: Final = 2
"""Of a part whose pipeline died. What a lost worker had is computed again by another in any case."""

_pipelines: dict[tuple[str, int], Pipeline] = {}
"""Of this worker, by command and thread: a start costs a second, and commands may share a cluster."""
_lock = threading.Lock()


class ClusterError(RuntimeError):
    """There is no such cluster, or it cannot do this; says what to do."""


class Computed(NamedTuple):
    """A part that a worker has made."""

    number: int
    path: Path
    ledger: dict[str, Any]


def run_on_cluster(where: str, jobs: Sequence[Job], *, workers: int = 1) -> Iterator[Computed]:
    """The parts in the order in which they become ready. where: `local`, `local:N` (processes) or an address.

    workers: centroid processes of each pipeline.
    """
    distributed = _library()
    Pipeline(workers=workers)  # a number that makes no sense is refused here, not by each worker
    with _client(distributed, where) as client:
        command, version = uuid.uuid4().hex, code_version()
        try:
            futures = [
                client.submit(
                    compute_part, job.model_dump(mode="json"), version, workers, command, pure=False, retries=RETRIES
                )
                for job in jobs
            ]
            finished: queue.SimpleQueue[Any] = queue.SimpleQueue()
            for future in futures:
                future.add_done_callback(finished.put)
            for _ in futures:
                yield _computed(finished.get().result())
        except distributed.KilledWorker as error:
            raise ClusterError(f"workers of {where} died again and again over one part ({error})") from error
        finally:
            with contextlib.suppress(OSError, RuntimeError):  # workers that are gone have none
                client.run(close_pipelines, command, on_error="ignore")


def _computed(told: dict[str, Any]) -> Computed:
    if "skipped" in told:
        raise SkippedError(told["skipped"])
    if "chips" in told:
        raise MoreChips(told["chips"])
    return Computed(told["number"], Path(told["path"]), told["ledger"])


def compute_part(told: dict[str, Any], version: str, workers: int, command: str) -> dict[str, Any]:
    """On a worker: one part. Raises what may go well the next time; what will not is part of the answer."""
    own = code_version()
    if own != version:
        raise ClusterError(
            f"this worker has ophyd_timepix {own}, the command {version}: rows could differ; install the same there"
        )
    job = Job.model_validate(told)
    path = job.new_path()
    try:
        return {"number": job.number, "path": str(path), "ledger": run_part(_pipeline(command, workers), job, path)}
    except SkippedError as error:
        return {"skipped": str(error)}
    except MoreChips as error:
        return {"chips": error.n_chips}
    except PipelineError:
        _forget(command)
        raise


def _pipeline(command: str, workers: int) -> Pipeline:
    """The pipeline of this thread; it lives until the worker ends or is told to close it."""
    with _lock:
        key = command, threading.get_ident()
        found = _pipelines.setdefault(key, Pipeline(workers=workers, ring_bytes=SMALLEST_RING))
    found.start()
    return found


def _forget(command: str) -> None:
    with _lock:
        pipeline = _pipelines.pop((command, threading.get_ident()), None)
    if pipeline is not None:
        pipeline.close()


def close_pipelines(command: str) -> None:
    """On a worker: end the processes that work for this command."""
    with _lock:
        pipelines = [_pipelines.pop(key) for key in list(_pipelines) if key[0] == command]
    for pipeline in pipelines:
        pipeline.close()


def _library() -> Any:
    try:
        import distributed
    except ImportError:
        raise ClusterError("--dask needs Dask's `distributed`: pip install 'ophyd_timepix[dask]'") from None
    logging.getLogger("distributed").setLevel(logging.getLogger().level)  # else it tells of each connection
    return distributed


@contextlib.contextmanager
def _client(distributed: Any, where: str) -> Iterator[Any]:
    if where.partition(":")[0] != LOCAL:
        if not ADDRESS.fullmatch(where):  # Dask would need a minute to say so
            raise ValueError(f"--dask is local, local:N or the address of a scheduler, tcp://HOST:PORT, not {where!r}")
        try:
            client = distributed.Client(where, set_as_default=False)
        except (OSError, ValueError) as error:
            raise ClusterError(f"no Dask scheduler answers at {where} ({error}); check the address") from error
        with client:
            yield client
        return
    cluster = distributed.LocalCluster(
        n_workers=_processes(where), threads_per_worker=1, processes=True, memory_limit=0, scheduler_kwargs=NO_DASHBOARD
    )
    with cluster, distributed.Client(cluster, set_as_default=False) as client:
        yield client


def _processes(where: str) -> int:
    """How many workers a local cluster gets: each keeps about two cores busy."""
    _, _, number = where.partition(":")
    if not number:
        return max(1, (os.cpu_count() or 2) // 2)
    if not number.isdigit() or not 1 <= int(number) <= 1024:
        raise ValueError(f"--dask local:N has 1 to 1024 workers, not {number!r}")
    return int(number)
