"""The page for those who come from Pymepix: its command gives Pymepix's clusters and means, its lines the columns."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ophyd_timepix.files.reader import read_table
from tests.pages import Guide, call
from tests.pymepix_oracle import assert_same_centroids, assert_same_clusters
from tests.synthesis import CHUNK_WORDS, busy_stream


def test_the_command_of_the_page_gives_what_pymepix_gives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    words = busy_stream(1, None, rings=True).reshape(-1, 1 + CHUNK_WORDS)[:20, 1:].ravel()
    start_ns = np.array([1_700_000_000_000_000_000], np.uint64)
    np.concatenate([start_ns, words]).tofile("recording.raw")
    with Guide("docs/how-to/coming-from-pymepix.md", "sh") as shell:
        for line in shell.commands():
            assert call(f"{line} --workers 2") == 0, capsys.readouterr().err
    names: dict[str, Any] = {}
    with Guide("docs/how-to/coming-from-pymepix.md", "python") as guide:
        guide.run(names)
    hits = read_table("same.h5", "hits", ["shot", "x", "y", "tof", "tot", "cluster"])
    labels = assert_same_clusters(hits)
    assert labels.max() > 2000
    assert assert_same_centroids(hits, names["rows"], labels) < 0.01 * labels.max()
    row = hits["cluster"].max() // 2
    own = hits["cluster"] == row
    assert names["tot_avg_ns"][row] == pytest.approx(hits["tot"][own].mean() * 25)
    assert names["tot_max_ns"][row] == hits["tot"][own].max() * 25
    assert names["tof_s"][row] == names["rows"]["tof"][row] * 1e-9
