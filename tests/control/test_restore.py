"""A board that was gone and is back: what it lost is set again, and nothing else happens."""

import itertools
import threading

import numpy as np
import pytest

from ophyd_timepix.control import (
    OPEN_UNTIL_STOPPED,
    Board,
    BoardError,
    RestoreFailed,
    SpidrClient,
    SpidrClosed,
    TestPulse,
    TriggerConfig,
    restore,
)
from ophyd_timepix.protocol import (
    Command,
    Dac,
    ErrorWord,
    GeneralConfig,
    PixelMatrix,
    PllConfig,
    Reply,
    Request,
    TriggerMode,
    pack_dac,
)
from spidr_sim.board import Board as SimulatedBoard
from spidr_sim.clock import VirtualClock
from spidr_sim.faults import Faults
from spidr_sim.streams import StreamCounters
from spidr_sim.tcp import TcpServer
from tests.control.conftest import LentTime, Traffic
from tests.sim.board_doubles import COUNTS_PER_MS, RecordingStreams, StandingClock

ACTIONS = {
    Command.AUTOTRIG_START,
    Command.AUTOTRIG_STOP,
    Command.DDRIVEN_READOUT,
    Command.SEQ_READOUT,
    Command.PAUSE_READOUT,
    Command.RESTART_TIMERS,
    Command.RESET_TIMER,
    Command.RESET_MODULE,
    Command.RESET_DEVICE,
    Command.RESET_COUNTERS,
}
TRIGGER = TriggerConfig(TriggerMode.AUTO, 100, 50, 3, 75)


@pytest.fixture(autouse=True)
def board_that_has_been_on_for_a_while(clock: StandingClock) -> None:
    clock.now = 10_000 * COUNTS_PER_MS


@pytest.fixture
def timer_proves(monkeypatch: pytest.MonkeyPatch) -> None:
    """The simulated clock stands still, the host's goes on: let that pass for agreement."""
    monkeypatch.setattr(restore, "TIMER_TOLERANCE_S", 60.0)


def some_matrix() -> PixelMatrix:
    return PixelMatrix.from_codes(np.random.default_rng(3).integers(0, 64, (256, 256), dtype=np.uint8))


def configure(board: Board) -> None:
    """Everything that a chip and a board can be told, other than they have it after power-up."""
    for chip in (board.chip(0), board.chip(1)):
        chip.set_dacs({dac: dac.max - 3 for dac in Dac})
        chip.upload_matrix(some_matrix())
        chip.set_general_config(GeneralConfig(polarity=1))
        chip.set_pll_config(PllConfig(phases=1))
        chip.set_test_columns(np.arange(256) % 3 == 0)
        chip.set_test_pulse(TestPulse(5, 3, 100))
        chip.set_header_filter(0x0CF0)
        chip.set_destination("10.0.0.7", 9000 + chip.index)
        chip.set_output_mask(0x0F)
        chip.set_slvs(7)
    board.set_trigger(TRIGGER)
    board.set_external_clock(True)
    board.set_tdc_control(3)
    board.enable_decoders(False)
    board.set_fan(1, 80)
    board.ramp_bias(30.0)


def state_of(board: Board) -> list[object]:
    chips = [
        (
            chip.dacs(),
            chip.general_config(),
            chip.pll_config(),
            chip.test_columns().tolist(),
            chip.test_pulse(),
            chip.header_filter(),
            chip.destination(),
            chip.slvs(),
            chip.read_matrix().digest(),
        )
        for chip in (board.chip(0), board.chip(1))
    ]
    registers = board.external_clock(), board.tdc_control(), board.decoders_enabled()
    return [chips, board.trigger(), registers, board.fan_rpm(1)]


def power_cycle(faults: Faults, board: Board) -> None:
    """The board loses its power; the program is told by the next request, which fails."""
    faults.arm("power-cycle")
    with pytest.raises(SpidrClosed):
        board.chip_temperature()
    assert board.client.lost


def test_power_cycled_board_gets_all_settings_again_and_a_warning_says_so(
    board: Board, faults: Faults, traffic: Traffic, caplog: pytest.LogCaptureFixture
):
    configure(board)
    before = state_of(board)
    power_cycle(faults, board)
    traffic.clear()
    caplog.clear()
    board.chip_temperature()
    assert state_of(board) == before
    assert board.bias_setting == pytest.approx(30.0, abs=0.03)
    report = board.last_restore
    assert report is not None
    assert report.restarted
    assert report.undone == ()
    assert {"chip 1 DAC VFBK", "TRIGCONFIG", "register TDC_CONTROL", "chip 0 pixel matrix (256 columns)"} <= {
        *report.lost
    }
    assert board.losses == 1
    warnings = [record.getMessage() for record in caplog.records if record.name.startswith("ophyd_timepix")]
    assert warnings == [str(report)]
    assert f"{board.client.address} was gone and is back; {len(report.lost)} of {report.compared} settings" in str(
        report
    )


def test_restoring_starts_nothing_and_ramps_the_bias_last(board: Board, faults: Faults, traffic: Traffic):
    configure(board)
    board.prepare_readout()
    board.open_shutter()
    power_cycle(faults, board)
    traffic.clear()
    board.chip_temperature()
    assert ACTIONS.isdisjoint(traffic.setting)
    first_bias = traffic.setting.index(Command.SET_BIAS_ADJUST)
    assert set(traffic.setting[first_bias:]) == {Command.SET_BIAS_ADJUST, Command.BIAS_SUPPLY_ENA}
    volts = [12 + request.ints[0] * 92 / 4095 for request in traffic.of(Command.SET_BIAS_ADJUST)]
    assert volts[-1] == pytest.approx(30.0, abs=0.03)
    assert max(abs(after - before) for before, after in itertools.pairwise(volts)) < 2.1


@pytest.mark.usefixtures("timer_proves")
def test_pulled_cable_costs_a_comparison_and_sets_nothing(board: Board, faults: Faults, traffic: Traffic):
    configure(board)
    board.chip(0).timer()
    board.chip(1).timer()
    faults.arm("reset:GET_HUMIDITY")
    with pytest.raises(SpidrClosed):
        board.humidity_percent()
    traffic.clear()
    board.humidity_percent()
    assert traffic.setting == []
    assert traffic.of(Command.GET_PIXCONF) == []
    assert len(traffic.requests) < 70
    assert board.last_restore is not None
    assert (board.last_restore.lost, board.last_restore.restarted, board.losses) == ((), False, 0)
    assert "settings are as they were" in str(board.last_restore)


def test_timer_that_runs_as_the_hosts_clock_does_is_a_proof():
    simulated = SimulatedBoard(1, RecordingStreams(), VirtualClock())
    with TcpServer(simulated) as server, SpidrClient(*server.address, timeout_s=10.0) as client:
        board = Board(client)
        board.chip(0).upload_matrix(some_matrix())
        board.chip(0).timer()
        server.faults.arm("reset:GET_HUMIDITY")
        with pytest.raises(SpidrClosed):
            client.request(Command.GET_HUMIDITY)
        traffic = Traffic(simulated)
        client.request(Command.GET_HUMIDITY)
        asked = [request.command for request in traffic.requests]
        assert asked == [Command.GET_TIMER, Command.GET_SPIDRREG, Command.GET_HUMIDITY]  # timer, links, the question


def test_without_a_timer_that_proves_it_was_on_the_matrix_is_compared_too(
    board: Board, faults: Faults, traffic: Traffic
):
    board.chip(0).upload_matrix(some_matrix())
    faults.arm("reset:GET_HUMIDITY")
    with pytest.raises(SpidrClosed):
        board.humidity_percent()
    traffic.clear()
    board.humidity_percent()
    assert len(traffic.of(Command.GET_PIXCONF)) == 256
    assert traffic.setting == []
    assert board.losses == 0


def test_timer_gives_a_power_cycle_away_where_the_flash_holds_the_same_values(
    board: Board, faults: Faults, simulated: SimulatedBoard
):
    matrix = some_matrix()
    board.chip(0).set_dac(Dac.VFBK, board.chip(0).dac(Dac.VFBK))
    board.chip(0).upload_matrix(matrix)
    board.chip(0).timer()
    power_cycle(faults, board)
    board.chip_temperature()
    assert simulated.chips[0].codes.tobytes() == matrix.codes().tobytes()
    assert board.last_restore is not None
    assert board.last_restore.lost == ("chip 0 pixel matrix (256 columns)",)
    assert board.losses == 1


@pytest.mark.usefixtures("timer_proves")
def test_setting_that_another_client_changed_meanwhile_is_set_back(
    board: Board, faults: Faults, simulated: SimulatedBoard
):
    board.chip(0).set_dac(Dac.VFBK, 7)
    board.chip(0).timer()
    faults.arm("reset:GET_HUMIDITY")
    with pytest.raises(SpidrClosed):
        board.humidity_percent()
    simulated.answer(Request(Command.SET_DAC, 0, (pack_dac(Dac.VFBK.code, 9),)))
    assert board.chip(0).dac(Dac.VFBK) == 7
    assert board.last_restore is not None
    assert board.last_restore.lost == ("chip 0 DAC VFBK",)
    assert board.losses == 0


def test_setting_whose_request_got_no_answer_is_set_back_and_is_no_sign_of_a_loss(board: Board, faults: Faults):
    chip = board.chip(0)
    chip.set_dac(Dac.VFBK, 7)
    faults.arm("reset:SET_DAC")
    with pytest.raises(SpidrClosed):
        chip.set_dac(Dac.VFBK, 9)
    assert chip.dac(Dac.VFBK) == 7
    assert board.last_restore is not None
    assert board.last_restore.undone == ("chip 0 DAC VFBK",)
    assert (board.last_restore.lost, board.losses) == ((), 0)
    chip.set_dac(Dac.VFBK, 9)
    faults.arm("reset:GET_HUMIDITY")
    with pytest.raises(SpidrClosed):
        board.humidity_percent()
    assert chip.dac(Dac.VFBK) == 9
    assert board.last_restore.undone == ()


@pytest.mark.usefixtures("timer_proves")
def test_column_whose_upload_got_no_answer_is_compared(board: Board, faults: Faults, traffic: Traffic):
    chip = board.chip(0)
    chip.upload_matrix(PixelMatrix())
    chip.timer()
    faults.arm("reset:SET_PIXCONF:2")
    with pytest.raises(SpidrClosed):
        chip.upload_matrix(some_matrix())
    mixture = chip.read_matrix().codes()
    assert np.array_equal(mixture[:3], some_matrix().codes()[:3])
    assert not mixture[3:].any()
    assert board.last_restore is not None
    assert board.last_restore.undone == ("chip 0 pixel matrix (3 columns)",)


def test_reset_on_purpose_is_not_undone(board: Board, faults: Faults, traffic: Traffic):
    configure(board)
    power_cycle(faults, board)
    traffic.clear()
    assert board.reset() == 0
    assert set(traffic.setting) == {Command.RESET_MODULE}
    faults.arm("reset:GET_HUMIDITY")
    with pytest.raises(SpidrClosed):
        board.humidity_percent()
    traffic.clear()
    board.humidity_percent()
    assert traffic.setting == []
    assert (board.bias_setting, board.bias_enabled) == (None, None)


def test_chip_that_was_reset_on_purpose_stays_reset(board: Board, faults: Faults):
    for index in (0, 1):
        board.chip(index).set_dac(Dac.VFBK, 7)
    board.chip(0).reset()
    power_cycle(faults, board)
    assert [board.chip(index).dac(Dac.VFBK) for index in (0, 1)] == [Dac.VFBK.default, 7]


@pytest.mark.parametrize("fault", ["error-reply:SET_DAC:3", "reset:SET_DAC:3", "short-reply:SET_PIXCONF:40"])
def test_failure_while_restoring_closes_the_line_and_the_next_request_tries_again(
    board: Board, faults: Faults, fault: str
):
    configure(board)
    before = state_of(board)
    power_cycle(faults, board)
    faults.arm(fault)
    connections = board.client.connections
    with pytest.raises(RestoreFailed, match=r"could not be set again.*next request tries again"):
        board.chip_temperature()
    assert board.client.connections == connections + 1
    assert board.client.lost
    assert not board.client.connected
    assert state_of(board) == before
    assert board.client.connections == connections + 2


def test_board_that_takes_a_value_and_holds_another_is_told(
    board: Board, faults: Faults, simulated: SimulatedBoard, monkeypatch: pytest.MonkeyPatch
):
    board.chip(0).set_dac(Dac.VFBK, 7)
    power_cycle(faults, board)
    answer = simulated.answer

    def deaf(request: Request) -> Reply:
        return Reply(request.command, request.device) if request.command is Command.SET_DAC else answer(request)

    with monkeypatch.context() as patch:
        patch.setattr(simulated, "answer", deaf)
        with pytest.raises(RestoreFailed, match="chip 0 DAC VFBK was lost, and reads back another value"):
            board.chip_temperature()
    assert board.chip(0).dac(Dac.VFBK) == 7


def test_chip_that_did_not_come_back_is_named_and_keeps_nobody_waiting(
    board: Board, faults: Faults, caplog: pytest.LogCaptureFixture
):
    board.chip(1).set_dac(Dac.VFBK, 7)
    board.chip(0).set_dac(Dac.VFBK, 7)
    power_cycle(faults, board)
    faults.arm("chip-gone=1")
    board.bias_enable(False)
    assert board.last_restore is not None
    assert board.last_restore.away == (1,)
    assert "chip 1 is not there, its settings wait for it" in caplog.text
    assert board.chip(0).dac(Dac.VFBK) == 7
    with pytest.raises(BoardError, match="LINKS_UNLOCKED"):
        board.chip(1).dac(Dac.VFBK)
    board.chip_temperature()


def test_chip_that_comes_back_later_has_its_settings_with_the_first_request(board: Board, faults: Faults):
    matrix = PixelMatrix()
    matrix.mask[3, 4] = True
    board.chip(1).upload_matrix(matrix)
    board.chip(1).set_dac(Dac.VFBK, 7)
    power_cycle(faults, board)
    faults.arm("chip-gone=1")
    board.chip_temperature()
    faults.clear()
    assert board.chip(1).dac(Dac.VFBK) == 7
    assert board.chip(1).read_matrix() == matrix
    assert board.last_restore is not None
    assert board.last_restore.away == ()
    assert board.client.awaited_chips == ()


def test_reset_ends_the_wait_for_a_chip(board: Board, faults: Faults):
    board.chip(1).set_dac(Dac.VFBK, 7)
    power_cycle(faults, board)
    faults.arm("chip-gone=1")
    board.chip_temperature()
    board.reset()
    faults.clear()
    assert board.chip(1).dac(Dac.VFBK) == Dac.VFBK.default
    assert board.client.awaited_chips == ()


def test_connection_that_was_closed_on_purpose_is_not_restored(board: Board, faults: Faults, traffic: Traffic):
    board.chip(0).set_dac(Dac.VFBK, 7)
    board.client.close()
    assert not board.client.lost
    traffic.clear()
    board.chip_temperature()
    assert [request.command for request in traffic.requests] == [Command.GET_REMOTETEMP]


def test_restoring_can_be_asked_for(board: Board, simulated: SimulatedBoard):
    board.chip(0).set_dac(Dac.VFBK, 7)
    simulated.answer(Request(Command.SET_DAC, 0, (pack_dac(Dac.VFBK.code, 9),)))
    assert board.restore().lost == ("chip 0 DAC VFBK",)
    assert board.restore().lost == ()


def test_ctrl_c_while_restoring_leaves_it_to_the_next_request(
    board: Board, faults: Faults, monkeypatch: pytest.MonkeyPatch
):
    board.chip(0).set_dac(Dac.VFBK, 7)
    power_cycle(faults, board)
    with monkeypatch.context() as patch:

        def interrupted(*_: object) -> None:
            raise KeyboardInterrupt

        patch.setattr(board.client, "_await_reply", interrupted)
        with pytest.raises(KeyboardInterrupt):
            board.chip_temperature()
    assert board.client.lost
    assert board.chip(0).dac(Dac.VFBK) == 7


def test_bias_that_was_off_is_switched_off_again(board: Board, faults: Faults, lent: LentTime, traffic: Traffic):
    """A board may switch it on by itself at power-up."""
    board.ramp_bias_off()
    board.set_bias(40)
    power_cycle(faults, board)
    lent.wait(threading.Event(), 10.0)
    assert board.chip_temperature()
    assert board.last_restore is not None
    assert "bias supply off" in board.last_restore.lost
    lent.wait(threading.Event(), 10.0)
    assert board.bias_v() < 1
    assert board.bias_setting == pytest.approx(40, abs=0.03)


def test_power_of_the_chips_comes_back_before_their_settings(
    board: Board, faults: Faults, simulated: SimulatedBoard, traffic: Traffic
):
    board.power_chips(True)
    board.chip(0).set_dac(Dac.VFBK, 7)
    simulated.flash.start_options = 1 << 30  # valid, everything off
    power_cycle(faults, board)
    traffic.clear()
    assert board.chip(0).dac(Dac.VFBK) == 7
    assert traffic.setting[:2] == [Command.TPX_POWER_ENA, Command.SET_DAC]


def test_counters_go_on_after_a_power_cycle(
    board: Board, faults: Faults, streams: RecordingStreams, clock: StandingClock
):
    board.reset_counters()
    board.chip(0).timer()
    streams.totals = StreamCounters(1000, (2000, 0), 30)
    assert board.sent_counters().datagrams == 1000
    power_cycle(faults, board)
    clock.now = COUNTS_PER_MS
    streams.totals = StreamCounters(5, (6, 0), 7)
    sent = board.sent_counters()
    assert (sent.datagrams, sent.pixel_words[0], sent.tdc_triggers) == (1005, 2006, 37)


def test_delay_that_a_board_kept_is_set_to_0_again(board: Board, faults: Faults, simulated: SimulatedBoard):
    board.set_trigger(OPEN_UNTIL_STOPPED)
    faults.arm("reset:GET_HUMIDITY")
    with pytest.raises(SpidrClosed):
        board.humidity_percent()
    simulated.answer(Request(Command.SET_TRIGCONFIG, 0, (4, 0, 10, 1, 75)))
    assert board.trigger() == OPEN_UNTIL_STOPPED


def test_second_connection_after_close_of_a_client_without_board_needs_no_hook(client: SpidrClient, faults: Faults):
    client.request(Command.SET_FANSPEED, 0, (50,))
    faults.arm("reset:GET_HUMIDITY")
    with pytest.raises(SpidrClosed):
        client.request(Command.GET_HUMIDITY)
    assert client.request(Command.GET_HUMIDITY).value > 0
    assert not client.lost


def test_watchers_hear_of_loss_and_return(client: SpidrClient, faults: Faults, caplog: pytest.LogCaptureFixture):
    heard: list[bool] = []

    def broken(_: bool) -> None:
        raise ValueError("of its own")

    client.subscribe(broken)
    stop = client.subscribe(heard.append)
    client.request(Command.GET_HUMIDITY)
    faults.arm("reset:GET_HUMIDITY")
    with pytest.raises(SpidrClosed):
        client.request(Command.GET_HUMIDITY)
    assert heard == [True, False]
    client.request(Command.GET_HUMIDITY)
    stop()
    client.close()
    assert heard == [True, False, True]
    assert "of its own" in caplog.text


def test_error_word_is_no_reason_to_doubt_a_setting(board: Board, faults: Faults):
    board.chip(0).set_dac(Dac.VFBK, 7)
    faults.arm(f"error-reply={ErrorWord(4).value}:SET_DAC")
    with pytest.raises(BoardError, match="ILLEGAL_PARAMETER"):
        board.chip(0).set_dac(Dac.VFBK, 9)
    assert not board.client.memory.in_doubt(Command.SET_DAC)


def test_setting_that_finds_the_board_power_cycled_is_set_after_the_others(board: Board, faults: Faults):
    chip = board.chip(0)
    chip.set_dac(Dac.VFBK, 7)
    power_cycle(faults, board)
    chip.set_dac(Dac.VFBK, 9)
    assert chip.dac(Dac.VFBK) == 9
    assert board.last_restore is not None
    assert (board.last_restore.lost, board.last_restore.undone) == (("chip 0 DAC VFBK",), ())
