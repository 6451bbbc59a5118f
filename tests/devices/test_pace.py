"""An exposure of N shots has at least N whole ones, and not many more, whatever the counter of the TDC counts."""

import itertools

import pytest

from ophyd_timepix.control import SentCounters
from ophyd_timepix.devices import pace as pace_module
from ophyd_timepix.devices import recording as recording_module
from ophyd_timepix.devices.pace import CountsPerShot, ShotPace

RATE_HZ = 1000.0
ASKED = 100
LATE_S = 0.05
"""How late the pipeline knows."""
ANSWER_S = 0.001


class Laboratory:
    """Time that only moves when somebody waits or asks; triggers at RATE_HZ; a counter that takes `per_shot`."""

    def __init__(self, per_shot: float, tof_max_s: float | None = None, shot_delay_s: float = 0.0) -> None:
        self.now = 1000.0
        self.per_shot = per_shot
        self.tof_max_s = tof_max_s
        self.shot_delay_s = shot_delay_s
        self.counts_per_shot = CountsPerShot()
        self.counts_per_shot.of("input 1")

    def monotonic(self) -> float:
        return self.now

    def tdc_counts(self) -> int:
        self.now += ANSWER_S
        return int((self.now - 1000.0) * RATE_HZ * self.per_shot)

    def point(self, edges_per_shot: float, stall_s: float = 0.0) -> int:
        """Expose; the shots that there are. stall_s: how late after the shutter the counter is asked."""
        pace = ShotPace(self, ASKED)
        opened = self.now
        self.now += stall_s
        pace.begin(opened)
        while (look := pace.look())[0] > 0:
            self.now += max(look[1], 0.0001)
            pace.note_shots(int(max(self.now - opened - LATE_S, 0) * RATE_HZ))
            assert self.now - opened < stall_s + 1
        pace.close()
        shots = int((self.now - opened) * RATE_HZ)
        pace.end(round(shots * edges_per_shot), shots, self.tdc_counts())
        return shots


@pytest.fixture
def laboratory(monkeypatch):
    def make(*args, **kwargs):
        made = Laboratory(*args, **kwargs)
        monkeypatch.setattr(pace_module, "time", made)
        return made

    return make


@pytest.mark.parametrize(
    ("per_shot", "edges_per_shot"), [(1, 1), (2, 2), (1, 2), (2.2, 2.2)], ids=["one", "both", "half", "other input"]
)
def test_after_the_first_point_the_counter_ends_it(laboratory, per_shot, edges_per_shot):
    lab = laboratory(per_shot)
    shots = [lab.point(edges_per_shot) for _ in range(5)]
    assert shots[0] >= ASKED + LATE_S * RATE_HZ
    assert all(ASKED < n <= ASKED + 6 for n in shots[1:])


@pytest.mark.parametrize("per_shot", [0, 0.05, 30], ids=["nothing", "seldom", "noise"])
def test_a_counter_that_counts_something_else_is_not_believed(laboratory, per_shot):
    lab = laboratory(per_shot)
    shots = [lab.point(2) for _ in range(3)]
    assert all(ASKED + LATE_S * RATE_HZ <= n <= ASKED + LATE_S * RATE_HZ + 20 for n in shots)


def test_a_counter_that_was_asked_late_teaches_nothing_wrong(laboratory):
    """As where the machine stood still for a moment after the shutter had opened."""
    lab = laboratory(2)
    lab.point(2)
    for stall_s in (0.03, 0.06, 0.09, 0.12, 0.15, 0.3):
        assert lab.point(2, stall_s) > ASKED
        assert lab.counts_per_shot.value == 2
        assert ASKED < lab.point(2) <= ASKED + 6


def test_a_counter_that_stops_does_not_hold_the_exposure(laboratory):
    lab = laboratory(1)
    lab.point(1)
    lab.per_shot = 0
    assert ASKED < lab.point(1) <= ASKED + LATE_S * RATE_HZ + 20
    assert lab.counts_per_shot.value is None


def test_with_a_longest_time_of_flight_the_last_shot_needs_no_trigger_after_it(laboratory):
    lab = laboratory(1, tof_max_s=1e-4)
    shots = [lab.point(1) for _ in range(3)]
    assert all(ASKED <= n <= ASKED + 6 for n in shots[1:])


def test_shots_that_open_late_are_waited_for(laboratory):
    lab = laboratory(1, shot_delay_s=0.05)
    shots = [lab.point(1) for _ in range(3)]
    assert all(ASKED + 0.05 * RATE_HZ <= n <= ASKED + 0.05 * RATE_HZ + 8 for n in shots[1:])


def test_another_trigger_is_learnt_anew(laboratory):
    lab = laboratory(1)
    lab.point(1)
    lab.counts_per_shot.of("input 1")
    assert lab.counts_per_shot.value == 1
    lab.counts_per_shot.of("input 2")
    assert lab.counts_per_shot.value is None


def counters(*readings):
    """Reads one after the other: (datagrams, pixel words, triggers)."""
    return iter(SentCounters(datagrams, (words, 0, 0, 0), triggers) for datagrams, words, triggers in readings)


def settled(recording, fake_board, monkeypatch, readings):
    monkeypatch.setattr(recording_module, "COUNTERS_INTERVAL_S", 0.001)
    monkeypatch.setattr(recording_module, "STILL_S", 0.004)
    fake_board.sent_counters = lambda: next(readings)
    return recording._settled_counters(fake_board)


def test_triggers_behind_a_closed_shutter_do_not_keep_a_point_waiting(tpx, fake_board, monkeypatch):
    readings = counters((5, 50, 7), (6, 60, 8), (6, 60, 9))
    assert settled(tpx._recording, fake_board, monkeypatch, readings).pixel_words[0] == 60
    for_ever = counters(*((n, 60, n) for n in itertools.islice(itertools.count(), 10_000)))
    assert 0 < settled(tpx._recording, fake_board, monkeypatch, for_ever).datagrams < 10_000


def test_pixels_under_way_are_waited_for(tpx, fake_board, monkeypatch):
    readings = counters(*((n, 10 * n, 0) for n in range(1, 30)), (30, 300, 0), (30, 300, 0))
    assert settled(tpx._recording, fake_board, monkeypatch, readings).datagrams == 30
