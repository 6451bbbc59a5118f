"""The trial of a disk: what it says, that it leaves nothing, that it never fills a disk."""

import os
from pathlib import Path

import pytest

from ophyd_timepix.spool import trial
from ophyd_timepix.spool.trial import LEAST_BYTES, Room, disk_trial, file_system_of, room_of

MOUNTS = """\
/dev/vda / ext4 rw 0 0
tmpfs /dev/shm tmpfs rw 0 0
server:/x /data nfs4 rw 0 0
/dev/nvme /data/fast\\040disk xfs rw 0 0
"""


@pytest.mark.parametrize(
    ("directory", "kind"),
    [("/data/fast disk/a", "xfs"), ("/data/b", "nfs4"), ("/database", "ext4"), ("/dev/shm", "tmpfs"), ("/", "ext4")],
)
def test_a_directory_is_on_the_file_system_mounted_nearest_above_it(directory: str, kind: str) -> None:
    assert file_system_of(Path(directory), MOUNTS) == kind


def test_nobody_tells_the_file_system() -> None:
    assert file_system_of(Path("/data"), "") == ""


@pytest.mark.parametrize("refuses", [False, True], ids=["disk", "no O_DIRECT"])
def test_a_disk_is_measured_and_left_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refuses: bool) -> None:
    real_open = os.open

    def refusing(path: str, flags: int, mode: int = 0o777, **rest: int) -> int:
        if flags & os.O_DIRECT:
            raise OSError(22, "Invalid argument")
        return real_open(path, flags, mode, **rest)

    if refuses:
        monkeypatch.setattr(os, "open", refusing)
    result = disk_trial(tmp_path, LEAST_BYTES)
    if refuses:
        assert not result.direct
    assert result.n_bytes == LEAST_BYTES
    assert 0 < result.worst_write_s <= result.seconds
    assert result.bytes_per_s == LEAST_BYTES / result.seconds
    assert not list(tmp_path.iterdir())


def test_a_slow_disk_is_measured_for_as_long_as_one_waits(tmp_path: Path) -> None:
    assert disk_trial(tmp_path, 1 << 40, longest_s=0.01).n_bytes < 1 << 29


def test_a_disk_with_little_room_is_not_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "room_of", lambda _: Room(5 * LEAST_BYTES, 2 * LEAST_BYTES, "ext4"))
    before = tmp_path.stat().st_mtime_ns
    with pytest.raises(OSError, match="too little room to measure the disk: 168 MB are free"):
        disk_trial(tmp_path)
    assert tmp_path.stat().st_mtime_ns == before


def test_no_directory_no_room(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        room_of(tmp_path / "none")


def test_a_room_is_what_recordings_may_fill() -> None:
    assert Room(10, 4, "").usable_bytes == 6
    assert Room(3, 4, "").usable_bytes == 0
