"""A run against the simulated board, compared word by word with what the simulator says it sent."""

from pathlib import Path

import h5py
import numpy as np
import pytest

from ophyd_timepix.app.asking import recorded_file, request_for
from ophyd_timepix.app.survey import survey
from ophyd_timepix.config import Geometry, Processing
from ophyd_timepix.control import Board, SpidrClient
from ophyd_timepix.devices.recording import Recording, RunFile
from ophyd_timepix.events.columns import Flag
from ophyd_timepix.files.reader import read_table
from ophyd_timepix.pipeline.client import Pipeline
from ophyd_timepix.spool.sources import open_recording
from tests.sim_process import running_sim

TICK_NS = 25 / 96
PROCESSING = Processing(hits=True, tof_max_ns=2_500_000)


@pytest.fixture(scope="module")
def pipeline():
    with Pipeline(workers=2, ring_bytes=1 << 24) as made:
        yield made


def take(address: str, pipeline: Pipeline, event_file: Path, chips: int, points: int) -> list[dict]:
    """Some points of one run, as the devices take them."""
    with SpidrClient.at(address) as client:
        board = Board(client)
        recording = Recording(lambda: board, chips, lambda: pipeline)
        recording.open("run", RunFile(event_file, PROCESSING, Geometry.for_chips(chips)))
        ledgers = []
        for _ in range(points):
            recording.begin()
            recording.open_shutter()
            while recording.progress().hits < 40_000 * (len(ledgers) + 1):
                pass
            counts = recording.timer_counts()
            recording.close_shutter()
            ledgers.append(recording.end(end_counts=counts, cancelled=False).ledger)
        recording.close({}, {})
    return ledgers


def lines(table: dict[str, np.ndarray], columns: list[str]) -> np.ndarray:
    """Rows as sortable integers, sorted."""
    rows = np.stack([np.asarray(table[c]).astype(np.int64) for c in columns], axis=1)
    return rows[np.lexsort(rows.T[::-1])]


def assert_rims_are_flagged(hits: dict[str, np.ndarray], centroids: dict[str, np.ndarray], geometry: Geometry) -> None:
    """A centroid with a hit on the rim of its chip, outside or towards the gap, says so, and no other does.

    Returns how many.
    """
    on_rim = np.zeros(len(hits["x"]), bool)
    for chip, (a, b, c, d, e, f) in enumerate(geometry.placements):
        corners = [(a * column + b * row + c, d * column + e * row + f) for column in (0, 255) for row in (0, 255)]
        (left, low), (right, high) = np.min(corners, axis=0), np.max(corners, axis=0)
        own = hits["chip"] == chip
        inside = (hits["x"] >= left) & (hits["x"] <= right) & (hits["y"] >= low) & (hits["y"] <= high)
        assert inside[own].all()
        assert not inside[~own].any(), "chips overlap"
        on_rim |= own & (np.isin(hits["x"], (left, right)) | np.isin(hits["y"], (low, high)))
    flagged = np.zeros(len(centroids["x"]), bool)
    flagged[hits["cluster"][on_rim & (hits["cluster"] >= 0)]] = True
    assert np.array_equal(flagged, centroids["flags"] & Flag.EDGE != 0)
    clustered = hits["cluster"] >= 0
    assert np.array_equal(centroids["chip"][hits["cluster"][clustered]], hits["chip"][clustered])
    return int(flagged.sum())


@pytest.mark.parametrize(("scene", "chips"), [("vmi", 1), ("uniform", 4)])
def test_every_hit_sent_is_decoded_exactly_and_the_ledger_closes(pipeline, tmp_path, scene, chips):
    truth_file, event_file = tmp_path / "truth.h5", tmp_path / "run.h5"
    with running_sim(scene=scene, rate=200_000, shot_rate=500, chips=chips, seed=5, truth=truth_file) as sim:
        ledgers = take(sim.address, pipeline, event_file, chips, points=2)
    assert [ledger["unaccounted"] for ledger in ledgers] == [0, 0]
    assert sum(ledger["lost_datagrams"] for ledger in ledgers) == 0
    for ledger in ledgers:
        assert ledger["repeated_edges"] == (chips - 1) * ledger["triggers"] > 0 or chips == 1
        assert ledger["edges"] == chips * ledger["triggers"]
        assert not {name: n for name, n in ledger.items() if n and name.startswith(("rejected", "filtered"))}
    with h5py.File(truth_file) as file:
        sent = {name: file["hits"][name][:] for name in ("chip", "x", "y", "tot", "tick")}
        triggers = {name: file["triggers"][name][:] for name in ("input", "falling", "counter", "tick")}
    found = read_table(event_file, "hits")
    placements = Geometry.for_chips(chips).table()[sent["chip"]]
    x, y = sent["x"].astype(np.int64), sent["y"].astype(np.int64)
    expected = {
        "chip": sent["chip"],
        "x": placements[:, 0] * x + placements[:, 1] * y + placements[:, 2],
        "y": placements[:, 3] * x + placements[:, 4] * y + placements[:, 5],
        "tot": sent["tot"],
        "tick": sent["tick"],
    }
    n_flagged = assert_rims_are_flagged(found, read_table(event_file, "centroids"), Geometry.for_chips(chips))
    assert n_flagged > 0 or scene == "vmi"  # whose beam does not reach the rim
    found["tick"] = np.rint(found["toa"] / TICK_NS)
    names = ["tick", "chip", "x", "y", "tot"]
    assert np.array_equal(lines(found, names), lines(expected, names))
    seen = read_table(event_file, "triggers")
    seen["tick"] = np.rint(seen["time"] / TICK_NS)
    got = lines(seen, ["tick", "channel", "edge", "counter"])
    assert np.array_equal(got, lines(triggers, ["tick", "input", "falling", "counter"]))


def test_the_recording_of_a_run_gives_the_same_rows_again(pipeline, tmp_path):
    with running_sim(scene="vmi", rate=200_000, shot_rate=500, seed=6) as sim:
        take(sim.address, pipeline, tmp_path / "live.h5", 1, points=3)
    recording = open_recording(tmp_path / "live.tpx3")
    assert survey(recording)["unknown_words"] == 0
    request = request_for([recording], tmp_path / "again.h5", PROCESSING)
    summary = pipeline.process(request, [recorded_file(recording, request.n_chips)])
    assert summary.ledger["unaccounted"] == 0
    for table in ("centroids", "hits", "shots", "triggers", "acquisitions"):
        live, again = read_table(tmp_path / "live.h5", table), read_table(tmp_path / "again.h5", table)
        for column in live:
            np.testing.assert_array_equal(live[column], again[column], err_msg=f"{table}/{column}")
