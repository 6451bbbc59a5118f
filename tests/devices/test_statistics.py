"""What suspenders and goals are built on: rates that do not begin at 0, a pause that ends, errors that are no luck."""

import math
import threading

import bluesky.plans as bp
import numpy as np
import pytest
from bluesky.suspenders import SuspendCeil, SuspendFloor

from ophyd_timepix.devices import exposure
from ophyd_timepix.devices.exposure import Until
from ophyd_timepix.devices.statistics import Rates
from ophyd_timepix.events.tallies import gate_counts
from ophyd_timepix.pipeline.messages import Progress


def rates_of(looks):
    rates = Rates()
    return [rates.seen(*look) for look in looks]


def test_a_live_rate_does_not_begin_low_although_shots_are_known_late():
    """10 shots a second, known 0.3 s late."""
    looks = [(at, max(round((at - 0.3) * 10), 0), 0) for at in np.arange(0.01, 3, 0.2)]
    told = [rates[0] for rates in rates_of(looks) if rates is not None]
    assert told
    assert all(8 <= rate <= 12.5 for rate in told)


def test_a_live_rate_falls_to_0_where_nothing_comes():
    assert rates_of([(0.1, 0, 0), (0.6, 0, 0), (1.2, 0, 0)]) == [None, None, (0.0, 0.0)]
    assert rates_of([(0.5, 5, 50), (1.5, 15, 150), (2.5, 15, 150), (3.6, 15, 150)])[-1] == (0.0, 0.0)


def test_live_hits_per_shot_are_not_too_many_although_shots_are_known_later(tpx):
    """1000 Hz, 500 hits a shot; hits are known at once, shots 0.3 s late."""
    told = []
    for at in np.arange(0.1, 3, 0.2):
        shots = max(int((at - 0.3) * 1000), 0)
        tpx.stats.publish_live(Progress(acquisition=1), shots, int(at * 500_000), at, None)
        told.append(tpx.stats.hits_per_shot.get())
    assert all(490 < value < 510 for value in told if not math.isnan(value))
    assert told[-1] == pytest.approx(500, rel=0.02)


def test_another_exposure_has_rates_of_its_own():
    assert rates_of([(0.5, 5, 0), (1.5, 15, 0), (0.1, 1, 0), (0.7, 7, 0)])[2:] == [None, (pytest.approx(10), 0.0)]


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize("which", ["lag_seconds", "trigger_rate"])
def test_a_suspender_lets_go(RE, checker, tpx, pipe, fake_board, monkeypatch, which):
    """Nobody exposes while a plan is suspended: what tripped must be told all the same."""
    monkeypatch.setattr(exposure, "HELD_S", 0.02)
    asked = iter(range(0, 10**6, 100))
    monkeypatch.setattr(tpx._recording, "triggers", lambda: next(asked))
    signal = getattr(tpx.stats, which)
    RE.install_suspender({"lag_seconds": SuspendCeil, "trigger_rate": SuspendFloor}[which](signal, 5))
    signal.publish(10.0 if which == "trigger_rate" else 0.0)
    pipe.flow.clear()

    def trip():
        assert pipe.looked.wait(60)
        signal.publish(0.0 if which == "trigger_rate" else 6.0)
        pipe.flow.set()

    hand = threading.Thread(target=trip, name="test-ThreadPoolExecutor", daemon=True)
    hand.start()
    RE(bp.count([tpx]))
    hand.join()
    assert checker.run.stop["exit_status"] == "success"
    assert checker.run.stream("tpx_ledger")[0]["tpx_ledger_cancelled_acquisitions"] >= 1


def shots_until(goal, counts):
    """After how many shots, looked at after each, the goal is reached."""
    total = squares = 0
    for shots, n in enumerate(counts, 1):
        total, squares = total + int(n), squares + int(n) ** 2
        if goal.done(gate_counts(total, total, squares, shots)) >= 1:
            return shots
    return math.inf


def test_a_relative_error_is_not_reached_by_luck():
    """Mean 10, goal 5 %: 40 shots. The spread of the first shots alone is small enough in one run of seven."""
    rng = np.random.default_rng(1)
    needed = [shots_until(Until(0, relative_error=0.05), rng.poisson(10, 400)) for _ in range(200)]
    assert min(needed) >= 30
    assert 38 <= np.median(needed) <= 50


def test_a_spread_wider_than_poissons_counts():
    """The same counts in every second shot, none in the others: the error is twice that of as many counts."""
    counts = [20, 0] * 2000
    assert shots_until(Until(0, relative_error=0.05), counts) == pytest.approx(400, abs=4)
