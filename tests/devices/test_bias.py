"""The bias as a positioner."""

import bluesky.plan_stubs as bps
import bluesky.plans as bp
import pytest
from bluesky.utils import FailedStatus, RunEngineInterrupted

from ophyd_timepix.control import ReadBackError
from ophyd_timepix.devices.bias import BiasStopped
from tests.bluesky_fixtures import when


@pytest.fixture
def held(fake_board):
    """A board whose bias does not arrive until the test lets it."""
    fake_board.may_arrive.clear()
    yield fake_board
    fake_board.may_arrive.set()


def test_a_move_is_done_when_the_bias_is_there(spidr, fake_board):
    spidr.bias.set(80).wait(60)
    assert fake_board.calls[-1] == "ramp_bias 80"
    assert spidr.bias.position == 80
    assert (spidr.bias.setpoint.last, spidr.bias.enabled.last) == (80, "on")
    assert spidr.bias.limits == (12, 104)


@pytest.mark.parametrize("volts", [11.9, 104.1, float("nan"), "50 V"])
def test_a_voltage_that_the_board_does_not_have_is_refused_before_the_wire(spidr, fake_board, volts):
    with pytest.raises(ValueError, match="spidr_bias_setpoint"):
        spidr.bias.set(volts)
    assert not fake_board.calls


def test_whoever_wants_no_bias_is_told_how_to_switch_it_off(spidr, fake_board):
    with pytest.raises(ValueError, match=r"12 to 104 V, not 0; `off\(\)` ramps it down"):
        spidr.bias.set(0)
    with pytest.raises(ValueError, match="spidr_bias_setpoint is a number"):
        spidr.bias.set(True)
    assert not fake_board.calls


def test_put_ramps_and_returns_when_the_bias_is_there(spidr, fake_board):
    spidr.bias.put(40)
    assert fake_board.calls[-1] == "ramp_bias 40"
    assert spidr.bias.position == 40
    with pytest.raises(ValueError, match="spidr_bias_setpoint goes from 12 to 104 V, not 110"):
        spidr.bias.put(110)


def test_a_second_move_takes_over_and_the_first_says_so(spidr, held):
    first = spidr.bias.set(90)
    assert held.ramps.wait(60)
    second = spidr.bias.set(40)
    with pytest.raises(BiasStopped, match="the ramp to 90 V gave way to one to 40 V"):
        first.wait(60)
    held.may_arrive.set()
    second.wait(60)
    assert spidr.bias.position == 40
    assert not spidr.bias.moving


def test_stop_holds_the_bias_and_fails_the_move(spidr, held):
    status = spidr.bias.set(90)
    assert held.ramps.wait(60)
    assert spidr.bias.moving
    assert "ramping" in repr(spidr.bias)
    spidr.bias.stop()
    with pytest.raises(BiasStopped, match="spidr_bias: the ramp to 90 V was stopped"):
        status.wait(60)
    assert held.bias_setting is None


def test_a_stop_for_a_pause_ends_the_move_quietly(spidr, held):
    status = spidr.bias.set(90)
    assert held.ramps.wait(60)
    spidr.bias.stop(success=True)
    status.wait(60)


def test_a_ramp_that_does_not_arrive_fails_the_move(spidr, fake_board):
    fake_board.failing["ramp_bias 70"] = ReadBackError("the ADC reads 12 V; check the cable")
    with pytest.raises(ReadBackError, match="check the cable"):
        spidr.bias.set(70).wait(60)


def test_move_read_and_scan_in_plans(RE, checker, spidr):
    RE(bps.mv(spidr.bias, 60))
    assert RE(bps.rd(spidr.bias)).plan_result == 60
    RE(bp.scan([], spidr.bias, 20, 40, 3))
    assert [event["spidr_bias"] for event in checker.run.stream("primary")] == [20, 30, 40]
    assert checker.run.start["hints"]["dimensions"] == [(["spidr_bias"], "primary")]
    RE(bp.rel_scan([], spidr.bias, -2, 2, 3))
    assert [event["spidr_bias"] for event in checker.runs[1].stream("primary")] == [38, 40, 42]
    assert spidr.bias.position == 40


def test_an_abort_stops_the_ramp(RE, spidr, held):
    hand = when(held.ramps, RE.request_pause)
    with pytest.raises(RunEngineInterrupted):
        RE(bps.mv(spidr.bias, 90))
    hand.join()
    RE.abort()
    assert not spidr.bias.moving
    assert held.bias_setting is None


def test_a_failed_ramp_fails_the_plan_with_its_reason(RE, spidr, fake_board):
    fake_board.failing["ramp_bias 70"] = ReadBackError("the ADC reads 12 V; check the cable")
    with pytest.raises(FailedStatus, match="check the cable"):
        RE(bps.mv(spidr.bias, 70))
