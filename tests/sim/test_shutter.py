"""The shutter of the simulated board: seven modes, in virtual time and by an external signal."""

import pytest

from ophyd_timepix.protocol import TriggerMode
from spidr_sim.shutter import Shutter

US = 40
RISE, FALL = True, False


class Watched:
    """A shutter and its edges, told in microseconds."""

    def __init__(self, mode: TriggerMode, *, length_us: int = 0, count: int = 1, delay_ns: int = 0) -> None:
        self.edges: list[tuple[bool, float]] = []
        self.shutter = Shutter(lambda is_open, at: self.edges.append((is_open, at / US)))
        self.shutter.configure((mode.code, length_us, 100_000, count, delay_ns))

    def start(self, us: int = 0) -> None:
        self.shutter.start(us * US)

    def signals(self, *edges: tuple[bool, int]) -> list[tuple[bool, float]]:
        for level, us in edges:
            self.shutter.signal(level, us * US)
        self.shutter.advance(10**9)
        return self.edges


def test_mode_0_is_open_while_the_signal_is_high():
    watched = Watched(TriggerMode.EXTERNAL_RISING_FALLING)
    watched.start()
    edges = watched.signals((RISE, 10), (FALL, 30), (RISE, 50), (RISE, 60), (FALL, 70))
    assert edges == [(True, 10), (False, 30), (True, 50), (False, 70)]
    assert (watched.shutter.openings, watched.shutter.external_openings) == (2, 2)


def test_mode_1_is_open_while_the_signal_is_low():
    watched = Watched(TriggerMode.EXTERNAL_FALLING_RISING)
    watched.start()
    assert watched.signals((RISE, 10), (FALL, 30), (RISE, 50)) == [(True, 30), (False, 50)]


@pytest.mark.parametrize(
    ("mode", "opens_at"),
    [(TriggerMode.EXTERNAL_RISING_TIMER, (12, 102)), (TriggerMode.EXTERNAL_FALLING_TIMER, (32, 202))],
)
def test_modes_2_and_3_open_after_the_delay_for_the_set_length(mode: TriggerMode, opens_at: tuple[int, int]):
    watched = Watched(mode, length_us=30, delay_ns=2000)
    watched.start()
    edges = watched.signals((RISE, 10), (FALL, 30), (RISE, 100), (FALL, 200))
    assert edges == [edge for at in opens_at for edge in ((True, at), (False, at + 30))]
    assert watched.shutter.external_openings == 2


def test_edge_while_the_timer_runs_opens_nothing():
    watched = Watched(TriggerMode.EXTERNAL_RISING_TIMER, length_us=30)
    watched.start()
    assert watched.signals((RISE, 10), (FALL, 15), (RISE, 20)) == [(True, 10), (False, 40)]
    assert watched.shutter.external_openings == 1


def test_mode_4_opens_by_itself_and_takes_no_signal():
    watched = Watched(TriggerMode.AUTO, length_us=2, count=3)
    watched.start(5)
    opened = [(True, 5), (True, 15), (True, 25)]
    assert [edge for edge in watched.signals((RISE, 6), (FALL, 7)) if edge[0]] == opened
    assert (watched.shutter.openings, watched.shutter.external_openings) == (3, 0)


def test_mode_5_closes_at_the_last_pulse():
    watched = Watched(TriggerMode.PULSE_COUNTER, count=2)
    watched.start(1)
    assert watched.signals((RISE, 10), (FALL, 11), (RISE, 20), (FALL, 21), (RISE, 30)) == [(True, 1), (False, 20)]


def test_mode_6_is_open_until_it_is_stopped():
    watched = Watched(TriggerMode.OPEN)
    watched.start(1)
    assert watched.signals((RISE, 10), (FALL, 20)) == [(True, 1)]
    watched.shutter.stop(50 * US)
    assert watched.edges == [(True, 1), (False, 50)]


@pytest.mark.parametrize("mode", TriggerMode)
def test_signal_does_nothing_before_the_start_and_after_the_stop(mode: TriggerMode):
    watched = Watched(mode)
    assert watched.signals((RISE, 1), (FALL, 2)) == []
    watched.start(10)
    watched.shutter.stop(20 * US)
    before = list(watched.edges)
    assert watched.signals((RISE, 30), (FALL, 40)) == before


def test_settings_are_read_back_as_they_were_said():
    shutter = Shutter(lambda is_open, at: None)
    shutter.configure((4, 3, 7, 9, 30))
    assert shutter.words == (4, 3, 7, 9, 30)
    shutter.set_length(50)
    shutter.set_delay(3)
    assert shutter.words == (4, 1, 7, 9, 75)
    assert (shutter.length_counts, shutter.period_counts, shutter.delay_counts) == (50, 40_000_000 // 7, 3)


@pytest.mark.parametrize("words", [(7, 0, 10, 1), (4, 0, 0, 1), (4, 0, 40_000_001, 1), (4, 2**32 // 40 + 1, 10, 1)])
def test_settings_that_cannot_be_are_refused_and_change_nothing(words: tuple[int, ...]):
    shutter = Shutter(lambda is_open, at: None)
    before = shutter.words
    with pytest.raises(ValueError, match=r"no shutter mode|is \d+ to"):
        shutter.configure(words)
    assert shutter.words == before
