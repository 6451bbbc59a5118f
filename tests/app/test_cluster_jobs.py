"""Parts on a Dask cluster of two processes give the rows of the serial command, whatever becomes of a worker."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ophyd_timepix.app import cli, cluster_jobs
from ophyd_timepix.files.event_file import TABLES
from ophyd_timepix.files.reader import read_ledger, read_table
from ophyd_timepix.protocol import words as w
from spidr_sim.synth import synthesize

N_FILES = 5


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Recordings `0.tpx3` to `4.tpx3`, and `bad.tpx3`, which ends with words of a chip that no board has."""
    made = tmp_path_factory.mktemp("recordings")
    for number in range(N_FILES):
        words = synthesize("vmi", seed=number, duration_s=0.1, rate_hz=4e5, shot_rate_hz=1000).words[0]
        chunks = (words[start : start + 1000] for start in range(0, words.size, 1000))
        content = b"".join(w.chunk_header(0, c.nbytes).to_bytes(8, "little") + c.tobytes() for c in chunks)
        (made / f"{number}.tpx3").write_bytes(content)
    foreign = np.array([w.chunk_header(7, 8), 0], "<u8").tobytes()
    (made / "bad.tpx3").write_bytes((made / "0.tpx3").read_bytes() + foreign)
    return made


@pytest.fixture(scope="module")
def told(folder: Path) -> dict[str, Any]:
    """What the session says; its files are in the folder."""
    pytest.importorskip("distributed")
    line = [sys.executable, "-m", "tests.app.cluster_session", str(folder)]
    ended = subprocess.run(line, capture_output=True, text=True, timeout=300, check=False)
    assert ended.returncode == 0, ended.stderr
    answer: dict[str, Any] = json.loads(ended.stdout)
    return answer


def test_a_cluster_gives_the_rows_of_the_serial_command_though_a_worker_is_lost(folder, told):
    assert (folder / "killed").exists()
    assert (told["serial"], told["spread"], told["lost_workers"]) == (0, 0, 1)
    serial, spread = folder / "serial.h5", folder / "spread.h5"
    for table in TABLES:
        expected, found = read_table(serial, table), read_table(spread, table)
        assert [name for name in expected if found[name].tobytes() != expected[name].tobytes()] == []
    assert read_ledger(spread) == read_ledger(serial)
    assert len(read_table(spread, "hits", ["x"])["x"]) > 100_000
    assert not (folder / "spread.h5.parts").exists()


def test_workers_keep_no_process_when_the_command_has_ended(told):
    assert told["pipelines"] == 0


def test_what_strict_refuses_on_a_cluster_leaves_nothing(folder, told):
    assert told["strict"] == 1
    assert "chips that no board has" in told["said"] or "words could not be read" in told["said"]
    assert list(folder.glob("strict*")) == []


def test_a_worker_with_other_code_is_refused():
    with pytest.raises(cluster_jobs.ClusterError, match="install the same there"):
        cluster_jobs.compute_part({}, "0.0.0+other", 1, "a command")


def test_a_command_ends_its_own_pipelines_alone(monkeypatch):
    class Idle:
        closed = False

        def close(self) -> None:
            self.closed = True

    mine, other = Idle(), Idle()
    monkeypatch.setattr(cluster_jobs, "_pipelines", {("mine", 1): mine, ("other", 1): other})
    cluster_jobs.close_pipelines("mine")
    assert (mine.closed, other.closed) == (True, False)


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ("local:none", "local:N has 1 to 1024 workers, not 'none'"),
        ("somewhere", "the address of a scheduler, tcp://HOST:PORT, not 'somewhere'"),
    ],
)
def test_nonsense_about_a_cluster_is_refused(folder, tmp_path, capsys, where, said):
    line = ["process", str(folder / "0.tpx3"), "-o", str(tmp_path / "a.h5"), "--dask", where]
    assert cli.main(line) == 1
    assert said in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
