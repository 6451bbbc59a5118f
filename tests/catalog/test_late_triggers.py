"""Triggers that begin amid a scan: gating again gives what each point has counted, with what was known then."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from ophyd_timepix.catalog import CatalogProfile, CatalogWriter, counts, regate
from ophyd_timepix.config import Gate
from ophyd_timepix.events.columns import CENTROIDS
from ophyd_timepix.events.counting import PointCounter
from ophyd_timepix.events.gates import Condition
from ophyd_timepix.events.sums import PointArrays, Spectrum
from ophyd_timepix.files.event_file import EventFile
from tests.catalog.gated_run import COUNTED, make_rows, send_documents

GATE = Gate(name="left", roi=(0, 128, 0, 256))
STRAYS, SHOTS = 50, 20


@pytest.fixture
def send(db: Any, catalog: CatalogProfile, tmp_path: Path) -> Iterator[CatalogWriter]:
    writer = CatalogWriter(catalog.name, backup_directory=tmp_path / "backup")
    yield writer
    writer.close(timeout_s=60)
    assert writer.failure is None


def counted_live(rows: pd.DataFrame, valid: Any, *, triggered: bool) -> Any:
    """What the pipeline counts while the point goes on."""
    arrays = PointArrays.empty((256, 256), Spectrum(0.0, 1.0, 10))
    counter = PointCounter(arrays, [Condition.of(GATE)], triggered=triggered)
    columns = {name: rows[name].to_numpy() for name in rows}
    before = int((columns["shot"] < 0).sum())
    counter.add({name: column[:before] for name, column in columns.items()})
    counter.add({name: column[before:] for name, column in columns.items()})
    counter.add({name: column[:0] for name, column in columns.items()}, 0, valid)
    return counter.results()[0]


def test_regating_gives_what_the_points_have_counted(send: CatalogWriter, catalog: CatalogProfile, db: Any) -> None:
    rng = np.random.default_rng(3)
    strays = make_rows(rng, 0, 60, 1.0).head(STRAYS).assign(shot=-1, tof=np.nan)
    late = make_rows(rng, 0, SHOTS, 2.0)
    valid = np.ones(SHOTS, np.uint8)
    valid[[4, -1]] = 0
    first, second = strays, pd.concat([strays.head(5), late], ignore_index=True)
    rows = pd.concat([first, second], ignore_index=True).astype({c.name: c.dtype for c in CENTROIDS})
    spans = [(0, STRAYS, 0, 0, 0, 0), (STRAYS, len(rows), 0, SHOTS, SHOTS, int(valid.sum()))]
    points = pd.DataFrame(spans, columns=list(COUNTED), index=pd.Index([1, 2], name="seq_num"))
    path = catalog.readable[0] / "late_triggers.h5"
    file = EventFile(path, image_shape=(256, 256), tof_edges_ns=np.linspace(0, 20_000, 101), attributes={})
    file.append("centroids", {name: rows[name].to_numpy() for name in rows})
    file.append("shots", {"time": np.arange(SHOTS) * 1e6, "valid": valid})
    file.close()
    uid = send_documents(send, path, points, len(rows), geometry=True)
    send.wait(timeout_s=60)

    live = [counted_live(first, valid[:0], triggered=False), counted_live(second, valid, triggered=False)]
    table = regate(db.v3[uid], GATE)
    assert table["left_counts"].tolist() == [result.counts for result in live]
    assert live[0].counts > 0
    np.testing.assert_allclose(table["left_counts_per_shot"], [result.counts_per_shot for result in live])
    np.testing.assert_allclose(table["left_error"], [result.error for result in live])
    per_point = counts(db.v3[uid], GATE, per_point=True)
    assert per_point["counts"].tolist() == table["left_counts"].tolist()
    assert counts(db.v3[uid], GATE).counts == live[1].counts, "of the whole run those of shots count"
