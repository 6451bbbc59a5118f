"""What is said about a machine: judgements of measured values, without measuring."""

import os
from pathlib import Path

import pytest

from ophyd_timepix.app import check_machine as m
from ophyd_timepix.app.check_findings import State
from ophyd_timepix.app.check_network import Card, card_of, judge_card
from ophyd_timepix.capture.sockets import REMEDY, Buffer
from ophyd_timepix.capture.trial import LoopbackTrial
from ophyd_timepix.spool.space import UNKNOWN_FREE
from ophyd_timepix.spool.trial import DiskTrial, Room

GB = 1_000_000_000
ROOM = Room(500 * GB, GB, "ext4")
FAST = DiskTrial(True, GB, 1.0, 0.01)


def loopback(*, lost: int = 0, wanted: float = 80e6, sent: int = 71_428) -> LoopbackTrial:
    return LoopbackTrial(wanted, 8960, 1.0, sent, sent - lost, 0.3)


def test_a_small_buffer_is_wrong_and_the_remedy_is_a_line_to_copy() -> None:
    finding = m.judge_buffer(Buffer(8 << 20, None), 4 << 20)
    assert (finding.state, finding.remedy) == (State.WRONG, "sudo sysctl -w net.core.rmem_max=134217728")
    assert finding.remedy == REMEDY
    assert "4.5 MB at 8,960 B, 5.1 MB at 1,400 B, 1.7 MB at 256 B, 0.7 MB at 64 B; 7 ms at 80 Mhit/s" in finding.found


def test_the_buffer_that_capture_asks_for_is_enough() -> None:
    assert m.judge_buffer(Buffer(256 << 20, None), 128 << 20).state is State.OK


def test_a_buffer_that_only_root_gets_is_said() -> None:
    finding = m.judge_buffer(Buffer(256 << 20, None), 4 << 20)
    assert (finding.state, finding.remedy) == (State.LOOK, REMEDY)
    assert finding.found.endswith("a user without privileges gets 8.4 MB")


@pytest.mark.parametrize(("cores", "state"), [(1, State.WRONG), (2, State.LOOK), (3, State.LOOK), (4, State.OK)])
def test_two_cores_do_and_four_are_enough(cores: int, state: State) -> None:
    assert m.judge_cores(cores).state is state


@pytest.mark.parametrize(("available", "state"), [(1, State.WRONG), (3, State.LOOK), (8, State.OK)])
def test_memory_is_judged_by_what_is_available(available: int, state: State) -> None:
    assert m.judge_memory(64 << 30, available << 30, 1 << 20).state is state


def test_full_rate_without_a_loss_is_ok() -> None:
    finding, cap = m.judge_loopback([loopback()])
    assert (finding.state, cap) == (State.OK, m.Cap("capture", pytest.approx(80.0, abs=0.1)))
    assert "0 of 71,428 lost, 30% of a core" in finding.found


def test_losses_at_high_rates_are_told_and_the_rate_without_is_promised() -> None:
    finding, cap = m.judge_loopback([loopback(lost=1000), loopback(wanted=40e6, sent=35_714)])
    assert (finding.state, cap.mhit_s) == (State.LOOK, pytest.approx(40, abs=0.1))
    assert "(before: 79 Mhit/s, 1,000 lost)" in finding.found


def test_a_sender_that_was_too_slow_is_no_fault_of_capture() -> None:
    finding, cap = m.judge_loopback([loopback(sent=40_000)])
    assert (finding.state, cap.what, round(cap.mhit_s)) == (State.LOOK, "sender of the trial", 45)
    assert "the sender of this trial" in finding.remedy


def test_losses_at_every_rate_promise_nothing() -> None:
    finding, cap = m.judge_loopback([loopback(lost=1)])
    assert (finding.state, cap.mhit_s) == (State.WRONG, 0)


@pytest.mark.parametrize(
    ("trial", "room", "state", "says"),
    [
        (FAST, ROOM, State.OK, "ext4, O_DIRECT: 1000 MB/s over 1000 MB, slowest write 10 ms"),
        (DiskTrial(True, GB, 4.0, 0.01), ROOM, State.LOOK, "250 MB/s"),
        (DiskTrial(False, GB, 1.0, 0.01), ROOM, State.LOOK, "through the page cache: the file system refuses O_DIRECT"),
        (DiskTrial(True, GB, 1.0, 0.5), ROOM, State.LOOK, "slowest write 500 ms"),
        (FAST, ROOM._replace(file_system="tmpfs"), State.LOOK, "tmpfs"),
    ],
    ids=["fast", "slow", "no O_DIRECT", "pauses", "memory"],
)
def test_a_disk_is_judged_by_speed_way_and_pauses(trial: DiskTrial, room: Room, state: State, says: str) -> None:
    finding, cap = m.judge_disk(trial, room)
    assert (finding.state, says in finding.found, bool(finding.remedy)) == (state, True, state is not State.OK)
    assert cap.mhit_s == min(80, trial.bytes_per_s / 8e6)


@pytest.mark.parametrize(
    ("room", "state", "says"),
    [
        (ROOM, State.OK, "500.0 GB free: 13 min at 640 MB/s"),
        (Room(33 * GB, GB, ""), State.LOOK, "50 s at 640 MB/s"),
        (Room(GB, GB, ""), State.WRONG, "0 s"),
        (Room(UNKNOWN_FREE, 0, ""), State.LOOK, "does not tell"),
    ],
)
def test_free_space_is_told_in_time_at_full_rate(room: Room, state: State, says: str) -> None:
    finding = m.judge_room(room)
    assert (finding.state, says in finding.found) == (state, True)


def test_a_directory_that_is_not_there_is_wrong(tmp_path: Path) -> None:
    (finding,), cap = m.examine_disk(tmp_path / "none")
    assert (finding.state, cap) == (State.WRONG, None)
    assert "No such file or directory" in finding.found


def test_a_small_disk_is_told_and_not_filled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.statvfs(tmp_path)
    blocks = (1 << 27) // real.f_frsize
    small = os.statvfs_result((real.f_bsize, real.f_frsize, blocks, blocks, blocks, 1000, 1000, 1000, 0, 255))
    monkeypatch.setattr(os, "statvfs", lambda _: small)
    room, disk = m.examine_disk(tmp_path)[0]
    assert (room.state, disk.state) == (State.LOOK, State.WRONG)
    assert "too little room to measure the disk: 134 MB are free" in disk.found
    assert not list(tmp_path.iterdir())


def test_the_least_of_all_is_promised_and_named() -> None:
    caps = [m.Cap("capture", 79.0), m.Cap("disk", 31.2)]
    assert m.verdict(caps, disk_measured=True) == "One chip at up to 31 Mhit/s, limited by the disk"
    assert m.verdict(caps[:1], disk_measured=False).endswith(
        "79 Mhit/s; the disk was not measured: give --directory DIR"
    )


@pytest.mark.parametrize(
    ("card", "state", "says"),
    [
        (Card("eth1", 9000, 10_000), State.OK, "10 Gbit/s, MTU 9000"),
        (Card("eth1", 1500, 10_000), State.LOOK, "MTU 1500"),
        (Card("eth1", 1500, 1000), State.OK, "at most 16 Mhit/s"),
        (Card("lo", 65_536, None), State.OK, "loopback"),
        (None, State.LOOK, "no card"),
    ],
)
def test_a_card_for_10_gigabit_takes_jumbo_frames(card: Card | None, state: State, says: str) -> None:
    finding = judge_card(card)
    assert (finding.state, says in finding.found) == (state, True)


def test_the_card_with_an_address_is_found() -> None:
    card = card_of("127.0.0.1")
    assert card is not None
    assert (card.name, card.mtu > 1500) == ("lo", True)
    assert card_of("192.0.2.1") is None
