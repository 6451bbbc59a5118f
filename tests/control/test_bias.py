"""The bias: ramped in steps, read back, stopped, and never in the way of others."""

import itertools
import threading

import pytest

from ophyd_timepix.control import Board, ControlError, LimitError, ReadBackError, SpidrClient
from ophyd_timepix.protocol import Command
from tests.control.conftest import LentTime, Traffic

VOLT_TOLERANCE = 0.6


def volts_sent(traffic: Traffic) -> list[float]:
    return [12 + request.ints[0] * 92 / 4095 for request in traffic.of(Command.SET_BIAS_ADJUST)]


@pytest.mark.parametrize("target", [12.0, 30.5, 104.0])
def test_ramp_ends_where_it_should_and_says_what_the_adc_reads(board: Board, target: float):
    assert board.ramp_bias(target) == pytest.approx(target, abs=VOLT_TOLERANCE)
    assert board.bias_v() == pytest.approx(target, abs=VOLT_TOLERANCE)
    assert board.bias_setting == pytest.approx(target, abs=0.03)
    assert board.bias_enabled


@pytest.mark.parametrize("rate_v_per_s", [5.0, 20.0])
def test_ramp_goes_in_steps_at_its_rate(board: Board, traffic: Traffic, lent: LentTime, rate_v_per_s: float):
    began = lent.seconds()
    board.ramp_bias(90.0, rate_v_per_s, tolerance_v=50.0)
    volts = volts_sent(traffic)
    assert max(after - before for before, after in itertools.pairwise(volts)) < rate_v_per_s * 0.1 + 0.1
    assert lent.seconds() - began == pytest.approx(40 / rate_v_per_s, abs=0.2)


def test_ramp_switches_a_supply_on_at_its_least_voltage(board: Board, traffic: Traffic, lent: LentTime):
    board.bias_enable(False)
    lent.wait(threading.Event(), 20.0)
    assert board.bias_v() < 1
    traffic.clear()
    board.ramp_bias(20.0)
    assert volts_sent(traffic)[0] == pytest.approx(12.0, abs=0.03)
    assert traffic.setting[:2] == [Command.SET_BIAS_ADJUST, Command.BIAS_SUPPLY_ENA]


def test_ramp_down_ends_with_the_supply_off(board: Board, traffic: Traffic, lent: LentTime):
    board.ramp_bias_off()
    assert volts_sent(traffic)[-1] == pytest.approx(12.0, abs=0.03)
    assert board.bias_enabled is False
    traffic.clear()
    board.ramp_bias_off()
    assert traffic.setting == [Command.BIAS_SUPPLY_ENA]


@pytest.mark.parametrize(
    ("volts", "rate_v_per_s"), [(11.9, 20.0), (104.1, 20.0), (50, 0), (50, -1), (50, float("nan"))]
)
def test_ramp_that_cannot_be_is_refused(board: Board, traffic: Traffic, volts: float, rate_v_per_s: float):
    with pytest.raises(LimitError):
        board.ramp_bias(volts, rate_v_per_s)
    assert traffic.requests == []


@pytest.mark.parametrize("tolerance_v", [0.0, -1.0, float("nan"), float("inf")])
def test_ramp_with_a_tolerance_that_cannot_be_is_refused(board: Board, traffic: Traffic, tolerance_v: float):
    with pytest.raises(LimitError, match=r"tolerance of a bias ramp is more than 0 V \(say 0.5 V\).*nothing was sent"):
        board.ramp_bias(50.0, tolerance_v=tolerance_v)
    assert traffic.requests == []


def test_whether_the_bias_is_on_is_what_was_switched_else_what_is_measured(board: Board, lent: LentTime):
    assert board.bias_is_on()
    assert not board.bias_is_on(5.9)
    board.bias_enable(False)
    assert not board.bias_is_on()
    assert not board.bias_is_on(50.0)


def test_bias_that_does_not_arrive_is_an_error(board: Board, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(board, "bias_v", lambda: 49.0)
    with pytest.raises(ReadBackError, match=r"ramped to 60 V and the ADC reads 49.00 V after 10 s.*leakage"):
        board.ramp_bias(60.0)


def test_stop_leaves_the_bias_where_it_is(client: SpidrClient, lent: LentTime, traffic: Traffic):
    stop = threading.Event()

    def wait(event: threading.Event, seconds: float) -> bool:
        if len(volts_sent(traffic)) == 5:
            stop.set()
        return lent.wait(event, seconds)

    board = Board(client, clock=lent.seconds, wait=wait)
    board.ramp_bias(90.0, stop=stop)
    assert len(volts_sent(traffic)) == 5
    assert board.bias_setting == pytest.approx(volts_sent(traffic)[-1], abs=0.03)
    assert 50 < board.bias_setting < 60


@pytest.mark.parametrize(
    "order", [lambda b: b.set_bias(20), lambda b: b.bias_enable(False), lambda b: b.ramp_bias(15), Board.reset]
)
def test_newest_command_ends_a_ramp(client: SpidrClient, lent: LentTime, traffic: Traffic, order):  # type: ignore[no-untyped-def]
    ordered = False

    def wait(event: threading.Event, seconds: float) -> bool:
        nonlocal ordered
        if not ordered and len(volts_sent(traffic)) == 3:
            ordered = True
            order(board)
            traffic.clear()
        return lent.wait(event, seconds)

    board = Board(client, clock=lent.seconds, wait=wait)
    with pytest.raises(ControlError, match="set or switched from elsewhere"):
        board.ramp_bias(90.0)
    assert traffic.of(Command.SET_BIAS_ADJUST) == []


def test_others_use_the_line_while_a_ramp_waits(client: SpidrClient, lent: LentTime):
    """The ramp stands still in its wait until another thread has had its answer."""
    waiting, answered = threading.Event(), threading.Event()

    def wait(event: threading.Event, seconds: float) -> bool:
        waiting.set()
        assert answered.wait(10.0)
        return lent.wait(event, seconds)

    board = Board(client, clock=lent.seconds, wait=wait)
    ramp = threading.Thread(target=board.ramp_bias, args=(60.0,))
    ramp.start()
    assert waiting.wait(10.0)
    assert board.chip_temperature() > 0
    answered.set()
    ramp.join()
    assert board.bias_v() == pytest.approx(60.0, abs=VOLT_TOLERANCE)


def test_nothing_is_known_of_a_bias_that_nobody_set(board: Board):
    assert (board.bias_setting, board.bias_enabled) == (None, None)
