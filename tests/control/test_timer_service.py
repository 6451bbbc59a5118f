"""The epoch: where the board's timer stood at 0 by the host's clock, from samples with known round trips."""

from dataclasses import dataclass, field

import pytest

from ophyd_timepix.control import Board, SpidrClosed, TimerJumped, TimerReading, TimerService
from ophyd_timepix.protocol import Dac
from spidr_sim.faults import Faults
from tests.control.conftest import Traffic
from tests.sim.board_doubles import COUNTS_PER_MS, StandingClock

MS = 1_000_000
COUNTS_PER_S = 40_000_000


@dataclass
class FakeChip:
    readings: list[TimerReading]

    def timer(self) -> TimerReading:
        return self.readings.pop(0)


@dataclass
class FakeClient:
    address: str = "camera:50000"


@dataclass
class FakeBoard:
    """Hands out readings that a test made."""

    readings: list[TimerReading]
    client: FakeClient = field(default_factory=FakeClient)
    restarts: int = 0
    losses: int = 0

    def chip(self, index: int) -> FakeChip:
        return FakeChip(self.readings)

    def reset_timers(self) -> None:
        self.restarts += 1


def reading(at_s: float, round_trip_ms: float, *, zero_s: float = 100.0, late_ms: float = 0.0, ppm: float = 0.0):
    """A timer whose zero is at `zero_s` of the host, read `late_ms` after the middle of the round trip."""
    host_ns, half = round((zero_s + at_s) * 1e9), round(round_trip_ms * MS / 2)
    counts = round((at_s + late_ms / 1000) / (1 + ppm * 1e-6) * COUNTS_PER_S)
    return TimerReading(counts % (1 << 48), host_ns - half, host_ns + half)


def service(*readings: TimerReading) -> TimerService:
    timers = TimerService(FakeBoard(list(readings)))  # type: ignore[arg-type]
    for _ in readings:
        timers.sample()
    return timers


def test_nothing_is_known_before_the_first_sample():
    timers = service()
    assert (timers.anchor, timers.drift, timers.samples) == (None, None, 0)


def test_anchor_is_the_sample_with_the_shortest_round_trip():
    timers = service(
        reading(0.001, 3.0, late_ms=1.4), reading(0.002, 0.2, late_ms=0.1), reading(0.003, 2.0, late_ms=-1.0)
    )
    anchor = timers.anchor
    assert anchor is not None
    assert anchor.uncertainty_ns == pytest.approx(0.1 * MS, abs=1000)
    assert abs(anchor.zero_ns - 100_000_000_000) <= anchor.uncertainty_ns
    assert timers.samples == 3


def test_late_sample_is_no_better_anchor_as_clocks_drift():
    timers = service(reading(0.001, 1.0), reading(3600, 0.1, ppm=20))
    assert timers.anchor is not None
    assert timers.anchor.reading.counts < COUNTS_PER_S
    assert abs(timers.anchor.zero_ns - 100_000_000_000) <= timers.anchor.uncertainty_ns


@pytest.mark.parametrize("ppm", [-50.0, 0.0, 20.0])
def test_drift_is_what_the_clocks_differ_by(ppm: float):
    timers = service(*(reading(second, 0.4, ppm=ppm) for second in (0, 1, 10, 100, 1000)))
    assert timers.drift is not None
    assert timers.drift.ppm == pytest.approx(ppm, abs=timers.drift.uncertainty_ppm)
    assert timers.drift.uncertainty_ppm == pytest.approx(0.4, abs=0.01)


def test_drift_that_would_say_nothing_is_not_said():
    assert service(reading(0, 1.0), reading(1, 1.0)).drift is None


@pytest.mark.parametrize("after", [reading(3.0, 0.2, zero_s=107.0), reading(0.5, 0.2, zero_s=110.0)])
def test_timer_that_went_back_is_an_error_and_a_new_beginning(after: TimerReading):
    timers = TimerService(FakeBoard([reading(5.0, 0.2), after, reading(6.0, 0.2, zero_s=107.0)]))  # type: ignore[arg-type]
    timers.sample()
    with pytest.raises(TimerJumped, match=r"camera:50000.*power cycle.*start a new one"):
        timers.sample()
    assert timers.anchor is not None
    assert timers.anchor.reading == after
    timers.sample()


def test_loss_that_the_board_noticed_is_an_error_where_the_timer_alone_gives_nothing_away():
    """The board came back so soon after the last sample that its timer has passed it again."""
    board = FakeBoard([reading(0.001, 0.2), reading(5.0, 0.2), reading(6.0, 0.2)])
    timers = TimerService(board)  # type: ignore[arg-type]
    timers.sample()
    board.losses += 1
    with pytest.raises(TimerJumped):
        timers.sample()
    timers.sample()


def test_power_cycle_is_noticed_where_the_timer_has_passed_the_last_sample(
    board: Board, faults: Faults, clock: StandingClock
):
    timers = TimerService(board)
    board.chip(0).set_dac(Dac.VFBK, 7)
    timers.restart()
    clock.now = 1000 * COUNTS_PER_MS
    timers.sample()
    faults.arm("power-cycle")
    with pytest.raises(SpidrClosed):
        timers.sample()
    clock.now = 9000 * COUNTS_PER_MS
    with pytest.raises(TimerJumped):
        timers.sample()


def test_timer_that_wraps_after_81_days_goes_on():
    period_s = (1 << 48) / COUNTS_PER_S
    timers = service(reading(period_s - 10, 0.2), reading(period_s + 10, 0.2))
    assert timers.anchor is not None
    assert timers._latest is not None
    assert abs(timers._latest.zero_ns - timers.anchor.zero_ns) < MS


def test_sample_of_another_thread_that_overlaps_is_no_jump():
    early, late = reading(1.000, 4.0), reading(1.001, 0.2)
    timers = service(late, early)
    assert timers.samples == 2


def test_restart_forgets_and_begins_at_0():
    board = FakeBoard([reading(5, 0.2), reading(0.1, 0.2, zero_s=106.0)])
    timers = TimerService(board)  # type: ignore[arg-type]
    timers.sample()
    timers.restart()
    assert (timers.anchor, timers.samples, board.restarts) == (None, 0, 1)
    timers.sample()


def test_against_the_simulated_board(board: Board, clock: StandingClock, traffic: Traffic):
    clock.now = 5 * COUNTS_PER_MS
    timers = TimerService(board)
    timers.restart()
    sample = timers.sample(1)
    anchor = timers.anchor
    assert anchor is not None
    assert sample.counts == 0
    assert sample.host_before_ns <= anchor.zero_ns <= sample.host_after_ns
