"""`record` and `process` write the same master, and it says the same in the readers' words."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from ophyd_timepix.app.cli import main
from tests.sim_process import running_sim

EVENTS = "entry/timepix_events"


@pytest.fixture(scope="module")
def masters(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[h5py.File, h5py.File]]:
    """Of a recording of the simulated camera, and of that recording processed again."""
    data = tmp_path_factory.mktemp("nexus")
    with running_sim(scene="vmi", rate=2e5, shot_rate=1000, seed=2) as sim:
        assert main(["record", sim.address, "--seconds", "0.5", "-o", str(data), "--name", "live", "--json"]) == 0
    assert main(["process", str(data / "live.tpx3"), "-o", str(data / "again.h5"), "--json"]) == 0
    with h5py.File(data / "live.nxs") as live, h5py.File(data / "again.nxs") as again:
        yield live, again


def test_both_hold_the_same_events_picture_spectrum_and_mask(masters):
    live, again = masters
    assert live[EVENTS]["event_id"].shape[0] == live["entry/centroids/x"].shape[0] > 0
    detector = "entry/instrument/timepix"
    names = [f"{EVENTS}/{name}" for name in live[EVENTS]]
    for name in [*names, "entry/tof_spectrum/counts", f"{detector}/data", f"{detector}/pixel_mask"]:
        assert live[name][()].tobytes() == again[name][()].tobytes(), name
    zero = f"{EVENTS}/event_time_zero"
    assert live[zero].attrs["offset"] == again[zero].attrs["offset"]


def test_every_shot_is_a_pulse_with_its_time(masters):
    live, _ = masters
    events, shots = live[EVENTS], live["entry/shots/time"][:]
    number = events["shot"][:]
    assert np.array_equal(number[number >= 0], np.arange(shots.size))
    assert np.array_equal(events["event_time_zero"][:][number >= 0], np.rint(shots).astype("u8"))
    sizes = np.diff(np.append(events["event_index"][:], events["event_id"].shape[0]).astype(int))
    expected = np.bincount(live["entry/centroids/shot"][:] + 1, minlength=shots.size + 1)
    assert np.array_equal(sizes[number >= 0], expected[1:])


def test_both_say_how_the_camera_was_set_and_what_was_done(masters):
    for master in masters:
        entry = master["entry"]
        assert json.loads(entry["start_document/data"][()])["plan_name"] == "record"
        assert entry["ledger"].attrs["unaccounted"] == 0
        assert b"vthreshold" in entry["settings/data"][()].lower()
        assert entry["instrument/timepix/serial_number"][()]


def test_scippnexus_bins_all_events_of_a_real_run(masters):
    snx = pytest.importorskip("scippnexus")
    live, _ = masters
    with snx.File(live.filename) as file:
        detector: Any = file["entry/instrument/timepix"][()]
    assert np.array_equal(detector["timepix_events"].bins.size().values, detector["data"].values)
    assert Path(live.filename).name == "live.nxs"
