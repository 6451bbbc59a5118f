"""Quantities that are polled while somebody looks."""

import threading

import bluesky.plans as bp
import bluesky.preprocessors as bpp
import pytest
from bluesky.suspenders import SuspendBoolLow, SuspendFloor
from ophyd.sim import SynAxis

from ophyd_timepix.control import ConnectionLost, SpidrRefused


def test_a_subscriber_is_called_at_each_poll_and_polling_ends_with_the_last(spidr, fake_board):
    seen: list[float] = []
    signal = spidr.monitor.chip_temperature
    number = signal.subscribe(lambda value, **_: seen.append(value))
    other = signal.subscribe(lambda **_: None)
    assert len(fake_board.poller.watches) == 1
    fake_board.poller.poll()
    fake_board.celsius = 50.0
    fake_board.poller.poll()
    fake_board.poller.poll()
    assert seen == [41.5, 50.0, 50.0]
    signal.unsubscribe(other)
    assert fake_board.poller.watches
    signal.unsubscribe(number)
    assert not fake_board.poller.watches


def test_the_period_is_settable_while_it_polls(spidr, fake_board):
    number = spidr.monitor.chip_temperature.subscribe(lambda **_: None)
    (watch,) = fake_board.poller.watches
    spidr.monitor.period.set(0.25).wait(60)
    assert watch.period() == 0.25
    with pytest.raises(ValueError, match=r"spidr_monitor_period goes from 0\.05 to 3600 s"):
        spidr.monitor.period.set(0)
    spidr.monitor.chip_temperature.unsubscribe(number)


def test_subscribing_touches_no_network(spidr, fake_board):
    fake_board.off = True
    spidr.monitor.chip_temperature.subscribe(lambda **_: None)
    spidr.monitor.chip_temperature.unsubscribe_all()
    assert not fake_board.poller.watches


def test_a_reading_asks_the_board_also_while_it_is_polled(spidr, fake_board):
    seen: list[float] = []
    signal = spidr.monitor.chip_temperature
    signal.subscribe(lambda value, **_: seen.append(value))
    fake_board.poller.poll()
    fake_board.celsius = 50.0
    assert signal.get() == 50.0
    assert seen == [41.5, 50.0]
    fake_board.off = True
    with pytest.raises(SpidrRefused):
        signal.get()
    signal.unsubscribe_all()


def test_a_subscriber_that_reads_gets_what_it_is_told(spidr, fake_board):
    """As bluesky's monitor does; a measured value is another each time, and the asking would not end."""
    degrees = iter(range(100))
    fake_board.measure = lambda quantity: float(next(degrees))
    signal = spidr.monitor.chip_temperature
    seen: list[tuple[float, float]] = []
    signal.subscribe(lambda value, **_: seen.append((value, signal.read()[signal.name]["value"])))
    fake_board.poller.poll()
    fake_board.poller.poll()
    assert seen == [(0.0, 0.0), (1.0, 1.0)]
    signal.unsubscribe_all()


def test_disconnect_rests_and_connect_polls_again(spidr, fake_board):
    signal = spidr.monitor.chip_temperature
    signal.subscribe(lambda **_: None)
    spidr.disconnect()
    assert not fake_board.poller.watches
    spidr.connect()
    assert len(fake_board.poller.watches) == 1
    signal.unsubscribe_all()


def test_a_monitored_quantity_is_a_stream_of_a_run(RE, checker, spidr, fake_board):
    axis = SynAxis(name="axis")
    axis.subscribe(lambda **_: fake_board.poller.poll(), run=False)
    RE(bpp.monitor_during_wrapper(bp.scan([], axis, 0, 2, 3), [spidr.monitor.chip_temperature]))
    events = checker.run.stream("spidr_monitor_chip_temperature_monitor")
    assert [event["spidr_monitor_chip_temperature"] for event in events] == [41.5] * len(events)
    assert len(events) >= 3
    assert not fake_board.poller.watches


@pytest.mark.parametrize("watched_before", [False, True])
def test_a_monitor_begins_with_one_event(RE, checker, spidr, fake_board, watched_before):
    """Not one for the subscription, one for the reading in it and one for the first poll."""
    degrees = iter(range(100))
    fake_board.measure = lambda quantity: float(next(degrees))
    signal = spidr.monitor.chip_temperature
    signal.get()
    told: list[float] = []
    if watched_before:
        signal.subscribe(lambda value, **_: told.append(value))
    axis = SynAxis(name="axis")
    if not watched_before:
        axis.subscribe(lambda **_: fake_board.poller.poll(), run=False)
    RE(bpp.monitor_during_wrapper(bp.scan([], axis, 0, 0, 1), [signal]))
    assert [event[signal.name] for event in checker.run.stream(f"{signal.name}_monitor")] == [
        0.0 if watched_before else 1.0
    ]
    assert told == []
    signal.unsubscribe_all()


def test_a_suspender_holds_a_plan_until_the_bias_is_back(RE, checker, spidr, fake_board):
    """The bias falls after the first point; it comes back once the plan is held."""
    held = threading.Event()
    fake_board.bias_setting = 60.0
    suspender = SuspendFloor(spidr.monitor.bias, 40.0, pre_plan=lambda: _tell(held))
    RE.install_suspender(suspender)
    fake_board.poller.poll()
    axis = SynAxis(name="axis")

    def fall(value: float, **_: object) -> None:
        if value == 1.0 and not held.is_set():
            fake_board.bias_setting = 20.0
            fake_board.poller.poll()

    def rise() -> None:
        assert held.wait(20)
        fake_board.bias_setting = 60.0
        fake_board.poller.poll()

    axis.subscribe(fall, run=False)
    hand = threading.Thread(target=rise)
    hand.start()
    RE(bp.scan([], axis, 0, 2, 3))
    hand.join()
    RE.remove_suspender(suspender)
    assert held.is_set()
    assert len(checker.run.stream("primary")) == 3
    assert not fake_board.poller.watches


def _tell(event: threading.Event):
    event.set()
    yield from ()


def test_polling_a_real_board(simulated):
    """Through the control room's poller and its thread."""
    seen = threading.Event()
    simulated.monitor.period.put(0.05)
    number = simulated.monitor.fpga_temperature.subscribe(lambda value, **_: seen.set() if value > 20 else None)
    assert seen.wait(60)
    simulated.monitor.fpga_temperature.unsubscribe(number)


def test_polling_goes_on_when_the_board_is_back(simulated, server):
    seen = threading.Event()
    simulated.monitor.period.put(0.05)
    simulated.monitor.fpga_temperature.subscribe(lambda **_: seen.set())
    assert seen.wait(60)
    server.faults.arm("reset:GET_LOCALTEMP")
    with pytest.raises(ConnectionLost):
        simulated.monitor.board_temperature.get()
    seen.clear()
    assert seen.wait(60)
    assert simulated.connected


def test_a_suspender_trips_when_the_board_goes_away_and_lets_go_when_it_answers(RE, checker, spidr, fake_board):
    """Other quantities fall silent then."""
    spidr.connect()
    held = threading.Event()
    suspender = SuspendBoolLow(spidr.monitor.answering, pre_plan=lambda: _tell(held))
    RE.install_suspender(suspender)
    fake_board.poller.poll()
    assert spidr.monitor.answering.get() == 1
    axis = SynAxis(name="axis")

    def away(value: float, **_: object) -> None:
        if value == 1.0 and not held.is_set():
            fake_board.off = True
            with pytest.raises(SpidrRefused):
                fake_board.poller.poll()

    def back() -> None:
        assert held.wait(20)
        fake_board.off = False
        fake_board.poller.poll()

    axis.subscribe(away, run=False)
    hand = threading.Thread(target=back)
    hand.start()
    RE(bp.scan([], axis, 0, 2, 3))
    hand.join()
    RE.remove_suspender(suspender)
    assert held.is_set()
    assert len(checker.run.stream("primary")) == 3
    assert not fake_board.poller.watches
    assert not fake_board.client.watchers


def test_a_line_that_anybody_finds_lost_is_told_at_once(simulated, server):
    """Not when the next poll is due."""
    told: list[int] = []
    lost, back = threading.Event(), threading.Event()

    def tell(value: int, **_: object) -> None:
        told.append(value)
        (back if value else lost).set()

    simulated.monitor.period.put(3600)
    simulated.monitor.answering.subscribe(tell)
    assert back.wait(60)
    back.clear()
    lost.clear()
    server.faults.arm("reset:GET_LOCALTEMP")
    with pytest.raises(ConnectionLost):
        simulated.monitor.board_temperature.get()
    assert lost.wait(60)
    assert simulated.monitor.answering.get() == 1
    assert back.wait(60)
    simulated.monitor.answering.unsubscribe_all()


def test_asking_a_board_that_is_away_whether_it_answers_is_no_error(spidr, fake_board):
    assert spidr.monitor.answering.get() == 1
    fake_board.off = True
    assert spidr.monitor.answering.get() == 0
