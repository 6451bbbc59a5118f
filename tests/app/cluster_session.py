"""A session with a Dask cluster of two processes, for `test_cluster_jobs.py`: what Dask leaves behind ends with it.

`python -m tests.app.cluster_session FOLDER` processes the recordings of FOLDER and prints one JSON object.
"""

import contextlib
import io
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import distributed

from ophyd_timepix.app import cli, cluster_jobs

TINY = ("--part-mb", "0.1")


class DiesOnce(distributed.WorkerPlugin):
    """The first worker that has computed a part is killed before it can tell."""

    def __init__(self, flag: str) -> None:
        self.flag = flag

    def transition(self, key: str, start: str, finish: str, **_: Any) -> None:
        if finish == "memory" and str(key).startswith("compute_part"):
            try:
                os.close(os.open(self.flag, os.O_CREAT | os.O_EXCL))
            except FileExistsError:
                return
            os.kill(os.getpid(), signal.SIGKILL)


def main(folder: Path) -> None:
    files = sorted(folder.glob("?.tpx3"))
    serial, spread, strict = (str(folder / f"{name}.h5") for name in ("serial", "spread", "strict"))
    told: dict[str, Any] = {"serial": process(files, serial)[0]}
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, memory_limit=0, scheduler_kwargs=cluster_jobs.NO_DASHBOARD
        ) as cluster,
        distributed.Client(cluster, set_as_default=False) as client,
    ):
        before = set(client.run(os.getpid).values())
        client.register_plugin(DiesOnce(str(folder / "killed")))
        told["spread"], _ = process(files, spread, "--dask", cluster.scheduler_address, *TINY)
        client.wait_for_workers(2)
        told["lost_workers"] = len(before - set(client.run(os.getpid).values()))
        told["pipelines"] = sum(client.run(open_pipelines).values())
        bad = [files[0], folder / "bad.tpx3"]
        told["strict"], told["said"] = process(bad, strict, "--strict", "--dask", cluster.scheduler_address, *TINY)
    print(json.dumps(told))


def process(files: list[Path], out: str, *words: str) -> tuple[int, str]:
    with contextlib.redirect_stderr(io.StringIO()) as said:
        code = cli.main(["process", *map(str, files), "-o", out, "--hits", "--quiet", *words])
    return code, said.getvalue()


def open_pipelines() -> int:
    return len(cluster_jobs._pipelines)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
