"""A master whose events were copied while the run went on is the one that would be made from the event file."""

import os
from pathlib import Path

import h5py
import numpy as np
import pytest

from ophyd_timepix.events.columns import CENTROIDS
from ophyd_timepix.files.early import EarlyEvents
from ophyd_timepix.files.event_file import EventFile, tof_edges
from ophyd_timepix.files.master import try_to_write_master, write_master
from tests.small_disk import small_disk

PICTURE = (256, 256)
N = 3000
TOLD = {"start": {}, "configuration": {"request": {"timer_zero_iso": "2026-11-21T07:00:00+00:00"}}, "ledger": {}}
EVENTS = "entry/instrument/timepix/timepix_events"


def some_rows() -> dict[str, np.ndarray]:
    """Shots without rows, rows outside of any shot amid the others, and a shot that never closed."""
    rng = np.random.default_rng(3)
    shot = np.sort(rng.integers(-1, 500, N))
    shot[rng.integers(0, N, 40)] = -1
    values = {
        "shot": shot, "x": rng.uniform(-0.4, 255.4, N), "y": rng.uniform(-0.4, 255.4, N), "toa": np.arange(N) * 1e3,
        "tof": rng.uniform(0, 1e6, N),
    }  # fmt: skip
    return {c.name: np.asarray(values.get(c.name, np.zeros(N)), c.dtype) for c in CENTROIDS}


def write_run(directory: Path, early: EarlyEvents | None, pieces: list[int], n_shots: int) -> Path:
    """The event file, closed; `early` has its rows, too."""
    path = directory / "run.h5"
    path.unlink(missing_ok=True)
    file = EventFile(path, image_shape=PICTURE, tof_edges_ns=tof_edges((0, 4000), 4), attributes={})
    for start, stop in zip([0, *pieces], [*pieces, N], strict=True):
        rows = {name: column[start:stop] for name, column in some_rows().items()}
        file.append("centroids", rows)
        assert early is None or early.add(rows)
    valid = np.arange(n_shots) % 3 > 0
    file.append("shots", {"time": np.arange(n_shots) * 1e4 + 0.5, "valid": valid.astype(np.uint8)})
    file.close()
    return path


def begun(directory: Path) -> EarlyEvents:
    early = EarlyEvents.begin(directory, PICTURE)
    if early is None:
        pytest.skip("this file system knows no files without a name")
    return early


def contents(path: Path) -> dict[str, tuple[bytes, dict[str, str]]]:
    """Everything in a master that is not behind a link: values and attributes."""
    found = {}
    with h5py.File(path) as file:

        def visit(name: str, item: h5py.HLObject) -> None:
            value = np.asarray(item[()]) if isinstance(item, h5py.Dataset) else None
            told = b"" if value is None else value.tobytes() if value.dtype != object else str(value).encode()
            found[name] = (told, {key: str(value) for key, value in item.attrs.items()})

        file.visititems(visit)
    return found


@pytest.mark.parametrize("pieces", [[], [1, 2, 1500], list(range(100, N, 100))])
@pytest.mark.parametrize("n_shots", [0, 450, 600])
def test_it_is_the_master_that_the_event_file_gives(tmp_path, pieces, n_shots):
    early = begun(tmp_path)
    event_file = write_run(tmp_path, early, pieces, n_shots)
    assert try_to_write_master(tmp_path / "early.nxs", event_file, TOLD, early) == ""
    write_master(tmp_path / "late.nxs", event_file, **TOLD)
    assert contents(tmp_path / "early.nxs") == contents(tmp_path / "late.nxs")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["early.nxs", "late.nxs", "run.h5"]


def test_nobody_sees_it_before_it_is_whole_and_an_existing_one_stays(tmp_path):
    early = begun(tmp_path)
    event_file = write_run(tmp_path, early, [], 600)
    assert [path.name for path in tmp_path.iterdir()] == ["run.h5"]
    (tmp_path / "run.nxs").write_text("precious")
    assert "could not be written" in try_to_write_master(tmp_path / "run.nxs", event_file, TOLD, early)
    assert (tmp_path / "run.nxs").read_text() == "precious"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run.h5", "run.nxs"]


def test_events_that_are_not_those_of_the_event_file_are_copied_anew(tmp_path):
    early = begun(tmp_path)
    early.add(some_rows())
    event_file = write_run(tmp_path, early, [], 600)
    assert try_to_write_master(tmp_path / "run.nxs", event_file, TOLD, early) == ""
    with h5py.File(tmp_path / "run.nxs") as file:
        assert file[EVENTS]["event_id"].shape == (N,)


def test_a_disk_that_is_nearly_full_is_for_rows(tmp_path, monkeypatch):
    early = begun(tmp_path)
    monkeypatch.setattr("ophyd_timepix.files.early.LEAST_ROOM_BYTES", 1 << 62)
    assert not early.add(some_rows())
    assert EarlyEvents.begin(tmp_path, PICTURE) is None


def test_a_full_disk_costs_nothing_but_what_was_copied(tmp_path, monkeypatch):
    """All of its room is there again, at once."""
    monkeypatch.setattr("ophyd_timepix.files.early.LEAST_ROOM_BYTES", 0)
    with small_disk(tmp_path / "small", 2_000_000) as disk:
        early = begun(disk)
        before = len(os.listdir("/proc/self/fd"))
        while early.add(some_rows()):
            pass
        assert os.statvfs(disk).f_bfree == os.statvfs(disk).f_blocks
        assert len(os.listdir("/proc/self/fd")) == before - 1


def test_without_files_without_a_name_the_master_is_written_in_the_end(tmp_path, monkeypatch):
    monkeypatch.setattr("ophyd_timepix.files.early.os.O_TMPFILE", os.O_CREAT)  # as where nobody knows the flag
    assert EarlyEvents.begin(tmp_path, PICTURE) is None
    event_file = write_run(tmp_path, None, [], 600)
    assert try_to_write_master(tmp_path / "run.nxs", event_file, TOLD, None) == ""
