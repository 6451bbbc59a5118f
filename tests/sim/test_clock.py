"""The virtual clock follows the host, can be held back, and never runs backwards."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spidr_sim.clock import VirtualClock


class Host:
    """A host clock that a test moves by hand."""

    def __init__(self) -> None:
        self.ns = 1_000_000_007

    def __call__(self) -> int:
        return self.ns


@pytest.fixture
def host() -> Host:
    return Host()


def test_it_counts_25_ns_from_its_restart(host: Host) -> None:
    clock = VirtualClock(host)
    host.ns += 1_000_000
    assert clock.counts() == 40_000
    assert clock.restart() == 40_000
    host.ns += 50
    assert clock.counts() == 2


def test_its_speed_scales_the_hosts_time(host: Host) -> None:
    clock = VirtualClock(host, speed=4.0)
    host.ns += 1_000_000
    assert clock.counts() == 160_000
    assert clock.seconds_until(320_000) == pytest.approx(1e-3)


@pytest.mark.parametrize("speed", [0.0, -1.0, float("nan")])
def test_a_speed_that_is_none_is_refused(speed: float) -> None:
    with pytest.raises(ValueError, match="above 0"):
        VirtualClock(speed=speed)


def test_held_it_stands_and_then_goes_on_from_there(host: Host) -> None:
    clock = VirtualClock(host)
    clock.hold_at(100)
    host.ns += 25 * 1000
    assert clock.counts() == 100
    clock.hold_at(None)
    host.ns += 25 * 7
    assert clock.counts() == 107
    assert clock.slipped_seconds == pytest.approx(900 * 25e-9)


def test_a_restart_sets_it_free(host: Host) -> None:
    clock = VirtualClock(host)
    clock.hold_at(10)
    host.ns += 25 * 100
    clock.restart()
    host.ns += 25 * 100
    assert clock.counts() == 100


def test_it_goes_on_from_the_count_it_is_set_to_up_to_48_bits(host: Host) -> None:
    clock = VirtualClock(host)
    host.ns += 25 * 1000
    last = (1 << 48) - 1
    assert clock.restart(last) == 1000
    assert clock.counts() == last
    host.ns += 25 * 10
    assert clock.counts() == last + 10
    assert clock.seconds_until(last + 50) == pytest.approx(1e-6)


def test_its_seconds_go_on_through_restarts_and_stand_while_it_is_held(host: Host) -> None:
    clock = VirtualClock(host, speed=2.0)
    host.ns += 500_000_000
    clock.restart(1 << 47)
    host.ns += 250_000_000
    assert clock.seconds() == pytest.approx(1.5)
    clock.restart()
    assert clock.seconds_at_zero() == pytest.approx(1.5)
    clock.hold_at(40_000)
    host.ns += 1_000_000_000
    assert clock.seconds() == pytest.approx(1.501)


@given(st.lists(st.one_of(st.integers(0, 10_000), st.just(None)), max_size=30), st.data())
def test_it_never_runs_backwards(limits: list[int | None], data: st.DataObject) -> None:
    host = Host()
    clock = VirtualClock(host)
    before = clock.counts()
    for limit in limits:
        clock.hold_at(limit)
        host.ns += data.draw(st.integers(0, 100_000))
        now = clock.counts()
        assert now >= before
        before = now
