"""The verbs of the board, against the simulated one."""

import threading
from collections.abc import Callable
from itertools import count
from typing import Any

import numpy as np
import pytest

from ophyd_timepix.control import (
    DEFAULT_DACS,
    OPEN_UNTIL_STOPPED,
    Board,
    BoardError,
    ChipMissing,
    ControlError,
    LimitError,
    ReadBackError,
    ShutterTimes,
    SpidrClient,
    SpidrClosed,
    TriggerConfig,
)
from ophyd_timepix.control.counters import UnwrappedCounter
from ophyd_timepix.protocol import (
    Command,
    Dac,
    GeneralConfig,
    PixelMatrix,
    PllConfig,
    Quantity,
    Register,
    Reply,
    Request,
    TriggerMode,
)
from spidr_sim.board import Board as SimulatedBoard
from spidr_sim.faults import Faults
from spidr_sim.settings import Readout
from spidr_sim.streams import StreamCounters
from spidr_sim.tcp import TcpServer
from tests.control.conftest import LentTime, Traffic
from tests.control.scripted import ScriptedServer, replies
from tests.sim.board_doubles import COUNTS_PER_MS, RecordingStreams, StandingClock


def test_identify_finds_the_chips_that_are_there(board: Board):
    info = board.identify()
    assert info.device_count == 4
    assert info.present == (0, 1)
    assert [chip.name for chip in info.chips] == ["W0026_K06", "W0026_J06", "", ""]
    assert [chip.locked_links for chip in info.chips] == [0xFF, 0xFF, 0, 0]
    assert info.software_version == "22071500"
    assert board.info is info
    assert repr(info) == (
        "SPIDR board, software 22071500, firmware "
        f"{info.firmware_version}; chip 0: W0026_K06, 8 links, chip 1: W0026_J06, 8 links"
    )


def test_chip_that_is_missing_is_named_with_its_links_and_the_way_out(board: Board, client: SpidrClient):
    assert [chip.name for chip in board.require_chips((0, 1))] == ["W0026_K06", "W0026_J06"]
    with pytest.raises(ChipMissing, match=rf"{client.address}: chip 2: missing.*locked 0x00.*check the chip's power"):
        board.require_chips((0, 2))


def test_board_without_any_chip_cannot_be_started(board: Board):
    board.power_chips(False)
    with pytest.raises(ChipMissing, match="no chip with locked links"):
        board.prepare_readout()


def test_chip_whose_links_unlocked_after_identification_stops_the_start(board: Board, streams: RecordingStreams):
    board.identify()
    board.power_chips(False)
    with pytest.raises(ChipMissing, match="chip 0: missing"):
        board.prepare_readout()
    assert streams.named("readout") == []


def test_chip_number_that_cannot_be(board: Board):
    for index in (-1, 4):
        with pytest.raises(LimitError, match="0 to 3"):
            board.chip(index)


def test_run_from_preparation_to_pause(
    board: Board, simulated: SimulatedBoard, streams: RecordingStreams, clock: StandingClock
):
    board.chip(0).set_destination(None, 9100)
    simulated.answer(Request(Command.SET_SPIDRREG, 0, (Register.CPU_TO_TPX.address, 0x0300_0000)))
    streams.calls.clear()
    board.prepare_readout()
    assert board.read_register(Register.CPU_TO_TPX.address) == 0x0100_0000
    assert board.chip(1).header_filter()[0] == 0xFFFF
    board.reset_timers()
    board.open_shutter()
    clock.now = 5 * COUNTS_PER_MS
    board.close_shutter()
    board.pause_readout()
    assert [call for call in streams.calls if call[0] in ("readout", "timers_restarted", "shutter")] == [
        ("readout", Readout.DATA_DRIVEN),
        ("timers_restarted", 0, 0),
        ("timers_restarted", 0, 0),
        ("shutter", True, 0),
        ("shutter", False, 5 * COUNTS_PER_MS),
        ("readout", Readout.OFF),
    ]


def test_header_filter_is_set_after_the_read_out_command(board: Board, monkeypatch: pytest.MonkeyPatch):
    board.identify()
    sent: list[Command] = []
    request = board.client.request

    def noted(command: Command, *args: object, **kwargs: object) -> object:
        sent.append(command)
        return request(command, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(board.client, "request", noted)
    board.prepare_readout()
    assert sent.index(Command.DDRIVEN_READOUT) < sent.index(Command.SET_HEADERFILTER)


@pytest.mark.parametrize(
    ("mask", "named"),
    [
        (0x00FF, "0xB pixel words"),
        (0xFFBF, "0x6 TDC words"),
        (0xFFEF, "0x4 timer words"),
        (0xFF7F, "0x7 control words"),
    ],
)
def test_header_filter_that_keeps_back_words_of_data_is_told_once_a_run(
    board: Board, caplog: pytest.LogCaptureFixture, mask: int, named: str
):
    board.chip(1).set_header_filter(mask)
    board.prepare_readout()
    (told,) = [record.getMessage() for record in caplog.records if "header filter" in record.getMessage()]
    assert f"1): its header filter 0x{mask:04X} keeps back {named}" in told
    assert "0xFFFF lets all words pass" in told


def test_header_filter_that_keeps_back_other_words_is_nothing_to_tell(board: Board, caplog: pytest.LogCaptureFixture):
    board.chip(0).set_header_filter(0xFCF0)
    board.prepare_readout()
    assert "header filter" not in caplog.text


@pytest.mark.parametrize(
    "verb", ["set_external_clock", "set_clock_80_mhz", "enable_decoders", "power_chips", "bias_enable"]
)
@pytest.mark.parametrize("value", [5, "off", None, 0.5])
def test_what_is_neither_on_nor_off_is_refused(board: Board, traffic: Traffic, verb: str, value: object):
    with pytest.raises(LimitError, match=rf"is on \(True\) or off \(False\), not {value!r}; nothing was sent"):
        getattr(board, verb)(value)
    assert traffic.requests == []


def test_flags_of_numpy_are_flags(board: Board):
    board.set_external_clock(np.True_)  # type: ignore[arg-type]
    assert board.external_clock()


def test_shutter_modes_are_set_and_read_back(board: Board):
    for mode in TriggerMode:
        config = TriggerConfig(mode, 100, 50, 3, 75)
        board.set_trigger(config)
        assert board.trigger() == config
    board.set_trigger(OPEN_UNTIL_STOPPED)
    assert board.trigger() == OPEN_UNTIL_STOPPED


def test_sent_counters_go_on_where_the_boards_registers_wrap(board: Board, streams: RecordingStreams, lent: LentTime):
    board.reset_counters()
    for total in (2**31, 2**32 + 5, 3 * 2**31, 2**33 + 1):
        lent.wait(threading.Event(), 30)
        streams.totals = StreamCounters(total, (total + 1, total + 2), total + 3, total + 4)
        sent = board.sent_counters()
        assert (sent.datagrams, sent.pixel_words, sent.tdc_triggers) == (total, (total + 1, total + 2, 0, 0), total + 3)
        assert sent.paused_datagrams == total + 4


def test_reset_counters_begins_at_0(board: Board, streams: RecordingStreams):
    streams.totals = StreamCounters(5, (6, 7), 8)
    assert board.sent_counters().pixel_words == (6, 7, 0, 0)
    board.reset_counters()
    sent = board.sent_counters()
    assert (sent.datagrams, sent.pixel_words, sent.tdc_triggers) == (0, (0, 0, 0, 0), 0)


def test_counters_count_from_what_a_board_shows_after_their_reset(
    board: Board, faults: Faults, streams: RecordingStreams
):
    faults.arm("counter-roll=5")
    board.reset_counters()
    for total in (3, 7):
        streams.totals = StreamCounters(total, (total + 1, total + 2), total + 3)
        sent = board.sent_counters()
        assert (sent.datagrams, sent.pixel_words, sent.tdc_triggers) == (total, (total + 1, total + 2, 0, 0), total + 3)


def test_unwrapped_counter_counts_each_wrap_once():
    counter = UnwrappedCounter(count(step=30).__next__)
    assert [counter.update(reading) for reading in (10, 10, 2**32 - 1, 4, 3)] == [
        10,
        10,
        2**32 - 1,
        2**32 + 4,
        2 * 2**32 + 3,
    ]


def test_counter_that_is_lower_over_a_new_connection_began_again_and_did_not_wrap():
    counter = UnwrappedCounter(count(step=30).__next__)
    assert counter.update(2**31, connection=1) == 2**31
    assert counter.update(7, connection=2) == 2**31 + 7
    assert counter.update(3, connection=2) == 2**31 + 2**32 + 3


@pytest.mark.parametrize(("seconds", "last", "total"), [(0.1, 4000, 4010), (1.0, 2**32 - 10**8, 2**32 + 10)])
def test_counter_that_would_have_moved_faster_than_it_can_was_reset_by_another_client(seconds, last, total):
    times = iter([0.0, 60.0, 60.0 + seconds])
    counter = UnwrappedCounter(times.__next__)
    counter.update(last)
    assert counter.update(10) == total
    assert counter.restarts == (last == 4000)


def test_counters_that_another_client_resets_count_on_and_it_is_said(
    board: Board, streams: RecordingStreams, caplog: pytest.LogCaptureFixture
):
    board.reset_counters()
    streams.totals = StreamCounters(4000, (5000, 6000), 70)
    board.sent_counters()
    assert caplog.messages == []
    streams.totals = StreamCounters(5, (6, 7), 71)
    sent = board.sent_counters()
    assert (sent.datagrams, sent.pixel_words[:2], sent.tdc_triggers) == (4005, (5006, 6007), 71)
    assert len(caplog.messages) == 3
    assert all("another client" in message for message in caplog.messages)


def test_sent_counters_do_not_jump_when_a_board_that_lost_nothing_else_was_restarted(
    board: Board, client: SpidrClient, streams: RecordingStreams
):
    board.reset_counters()
    streams.totals = StreamCounters(50, (60, 70), 80)
    board.sent_counters()
    client.close()
    streams.totals = StreamCounters(5, (6, 7), 8)
    sent = board.sent_counters()
    assert (sent.datagrams, sent.pixel_words[:2], sent.tdc_triggers) == (55, (66, 77), 88)


def test_bias_is_set_and_measured(board: Board):
    board.bias_enable(True)
    board.set_bias(50)
    assert board.bias_v() == pytest.approx(50, abs=0.2)


@pytest.mark.parametrize("volts", [0, 11.9, 104.5, -50])
def test_bias_outside_its_limits_is_refused(board: Board, volts: float):
    with pytest.raises(LimitError, match=rf"12 to 104 V, not {volts} V; nothing was sent"):
        board.set_bias(volts)


def test_monitoring_comes_in_si_units(board: Board):
    temperatures, supplies, environment = board.temperatures(), board.supplies(), board.environment()
    assert (temperatures.chip, temperatures.board, temperatures.fpga) == (41.5, 36.2, 52.8)
    assert supplies.analogue.volts == 1.5
    assert supplies.analogue.watts == pytest.approx(supplies.analogue.volts * supplies.analogue.amperes, abs=1e-3)
    assert (environment.humidity_percent, environment.pressure_mbar) == (35, 1013)


def test_temperature_below_zero_is_negative():
    frozen = "00010549 00000014 00000000 00000000 fffffc18"
    warm = "0001054a 00000014 00000000 00000000 000003e8"
    fpga = "00010568 00000014 00000000 00000000 00000000"
    with ScriptedServer([replies(frozen, warm, fpga)]) as server:
        temperatures = Board(SpidrClient("127.0.0.1", server.port)).temperatures()
    assert (temperatures.chip, temperatures.board, temperatures.fpga) == (-1.0, 1.0, 0.0)


def test_register_reply_for_another_address_is_an_error():
    other = "00010783 00000018 00000000 00000000 00000384 00000001"
    with ScriptedServer([replies(other)]) as server:
        board = Board(SpidrClient("127.0.0.1", server.port))
        with pytest.raises(ReadBackError, match=r"0x0340.*0x0384"):
            board.read_register(0x340)


@pytest.mark.parametrize(("status", "good"), [(0, True), (0x6000, True), (2, False)])
def test_reset_tells_by_its_status_whether_the_board_started(status: int, good: bool):
    reply = f"00010907 00000014 00000000 00000000 {status:08x}"
    identity = [f"{word} 00000014 00000000 00000000 00000000" for word in ("0001090d", "00010901", "00010902")]
    with ScriptedServer([replies(reply, *(identity if good else ()))]) as server:
        board = Board(SpidrClient("127.0.0.1", server.port))
        if good:
            assert board.reset() == status
        else:
            with pytest.raises(ControlError, match=r"0x2.*power-cycle"):
                board.reset()


def test_reset_waits_longer_than_other_requests(board: Board):
    impatient = Board(SpidrClient(board.client.host, board.client.port, timeout_s=5))
    assert impatient.reset() == 0
    impatient.client.close()


def test_second_client_is_told_why_and_works_after_the_first_has_gone(board: Board):
    board.identify()
    with SpidrClient(board.client.host, board.client.port, timeout_s=10) as other:
        with pytest.raises(SpidrClosed, match="another client"):
            Board(other).identify()
        board.client.close()
        assert Board(other).identify().present == (0, 1)


def test_board_that_was_away_works_again_when_it_is_back(simulated: SimulatedBoard):
    first = TcpServer(simulated)
    host, port = first.serve()
    with SpidrClient(host, port, timeout_s=10) as client:
        board = Board(client)
        board.identify()
        first.stop()
        with pytest.raises(ControlError):
            board.temperatures()
        with TcpServer(simulated, host, port):
            assert board.temperatures().chip == 41.5
            assert client.connections == 2
            client.close()


def test_error_of_the_board_keeps_other_verbs_working(board: Board):
    with pytest.raises(BoardError, match=r"GET_SPIDR_ADC.*ILLEGAL_PARAMETER"):
        board.adc(7)
    assert board.temperatures().chip == 41.5


def test_preparation_sets_what_decoding_needs_and_keeps_what_a_user_chose(board: Board):
    chip = board.chip(0)
    chip.set_general_config(GeneralConfig(polarity=1, mode=2, gray_counter=0, fast_toa=0, test_pulse=1))
    chip.set_pll_config(PllConfig(run=0, phases=0))
    board.chip(1).set_pll_config(PllConfig(phases=1))
    board.prepare_readout()
    assert chip.general_config() == GeneralConfig(polarity=1, mode=0, gray_counter=1, fast_toa=1, test_pulse=1)
    assert chip.pll_config() == PllConfig()
    assert board.chip(1).pll_config() == PllConfig(phases=1)


def test_delay_that_was_set_before_is_taken_back(board: Board):
    board.set_trigger(TriggerConfig(TriggerMode.AUTO, 100, 50, 3, 75))
    board.set_trigger(TriggerConfig(TriggerMode.AUTO, 100, 50, 3))
    assert board.trigger().delay_ns == 0


@pytest.mark.parametrize(
    ("setter", "value", "getter"),
    [
        ("set_external_clock", True, "external_clock"),
        ("set_clock_80_mhz", True, "clock_80_mhz"),
        ("set_tdc_control", 5, "tdc_control"),
        ("enable_decoders", False, "decoders_enabled"),
    ],
)
def test_switches_are_read_back(
    board: Board, simulated: SimulatedBoard, monkeypatch: pytest.MonkeyPatch, setter: str, value: int, getter: str
):
    getattr(board, setter)(value)
    assert getattr(board, getter)() == value
    answer = simulated.answer

    def deaf(request: Request) -> Reply:
        ignored = (Command.SET_SPIDRREG, Command.DECODERS_ENA)
        return Reply(request.command, request.device) if request.command in ignored else answer(request)

    monkeypatch.setattr(simulated, "answer", deaf)
    with pytest.raises(ReadBackError, match=r"was set to \w+ and reads back \w+; set it again, else reset"):
        getattr(board, setter)(0 if value else 1)


def test_clocks_do_not_touch_each_other(board: Board):
    board.set_external_clock(True)
    board.set_clock_80_mhz(True)
    board.set_external_clock(False)
    assert (board.external_clock(), board.clock_80_mhz()) == (False, True)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (TriggerConfig(frequency_hz=0), "SHUTTER_FREQUENCY is 1 to 40000000 Hz, not 0"),
        (TriggerConfig(length_us=1 << 31), "SHUTTER_LENGTH is 0 to 107374182 us, not 2147483648"),
        (TriggerConfig(length_us=1.5), "SHUTTER_LENGTH .* us, not 1.5, which is no whole number"),
        (TriggerConfig(count=-1), "SHUTTER_COUNT is 0 to"),
        (TriggerConfig(delay_ns=1 << 32), "SHUTTER_DELAY is 0 to .* ns"),
    ],
)
def test_shutter_setting_that_cannot_be_is_refused_before_the_wire(
    board: Board, traffic: Traffic, config: TriggerConfig, expected: str
):
    board.temperatures()
    traffic.clear()
    with pytest.raises(LimitError, match=expected):
        board.set_trigger(config)
    assert traffic.requests == []


@pytest.mark.parametrize("word", [-1, 1 << 32])
def test_register_word_that_cannot_be_is_refused(board: Board, word: int):
    with pytest.raises(LimitError, match="TDC_CONTROL is 0 to 4294967295"):
        board.set_tdc_control(word)


def test_preparation_keeps_what_this_program_chose(board: Board):
    board.set_external_clock(True)
    board.set_tdc_control(2)
    board.chip(1).set_header_filter(0x0CF0)
    board.prepare_readout()
    assert (board.external_clock(), board.tdc_control()) == (True, 2)
    assert [board.chip(index).header_filter()[0] for index in (0, 1)] == [0xFFFF, 0x0CF0]


def test_shutter_times_and_counts_are_those_of_the_board(board: Board, clock: StandingClock):
    board.reset_counters()
    clock.now = 5 * COUNTS_PER_MS
    board.open_shutter()
    clock.now = 9 * COUNTS_PER_MS
    board.close_shutter()
    assert board.shutter_times(1) == ShutterTimes(5 * COUNTS_PER_MS, 9 * COUNTS_PER_MS)
    assert (board.shutter_count(), board.external_shutter_count()) == (1, 0)


def test_fans_are_set_in_percent_and_read_in_rpm(board: Board):
    assert board.fan_setting(1) is None
    board.set_fan(1, 80)
    assert board.fan_setting(1) == 80
    assert board.fan_rpm(1) > board.fan_rpm(0)
    for index, percent in ((2, 50), (-1, 50), (0, 101), (0, -1)):
        with pytest.raises(LimitError, match="nothing was sent"):
            board.set_fan(index, percent)


@pytest.mark.parametrize("kind", [np.int8, np.uint8, np.int64])
def test_integers_of_numpy_keep_their_value_in_a_word(board: Board, traffic: Traffic, kind: type[np.integer[Any]]):
    """Shifted to their place in a word, those of 8 bits lose it."""
    board.set_fan(kind(1), kind(80))
    assert board.fan_setting(1) == 80
    board.adc(3, kind(5))
    assert traffic.of(Command.GET_SPIDR_ADC)[0].ints == (5 << 16 | 3,)
    board.set_tdc_control(kind(5))
    assert type(board.client.memory.last(Command.SET_SPIDRREG, 0, Register.TDC_CONTROL.address)[1]) is int


def test_each_quantity_of_the_table_can_be_measured(board: Board):
    for quantity in Quantity:
        assert board.measure(quantity) >= 0
    assert board.vdda_v() == pytest.approx(1.5, abs=0.01)
    assert board.supply("vdd").volts == 2.5
    with pytest.raises(LimitError, match="analogue, digital, vdd"):
        board.supply("mains")  # type: ignore[arg-type]


def test_counters_can_be_polled_so_that_no_wrap_is_missed(client: SpidrClient, streams: RecordingStreams):
    board = Board(client)
    board.reset_counters()
    asked = threading.Semaphore(0)
    counters = streams.counters

    def noted() -> StreamCounters:
        asked.release()
        return counters()

    streams.counters = noted  # type: ignore[method-assign]
    watch = board.poll_counters(0.01)
    for total in (2**32 - 50, 2**32 + 5, 2**32 + 70):
        streams.totals = StreamCounters(total, (0, 0), 0)
        while asked.acquire(blocking=False):
            pass
        for _ in range(12):  # two whole rounds of six registers and more
            assert asked.acquire(timeout=10)
    watch.cancel()
    assert board.sent_counters().datagrams == 2**32 + 70
    board.close()


def test_threads_tear_neither_a_matrix_nor_a_setting(board: Board, simulated: SimulatedBoard):
    """An upload, DACs of both chips, monitoring and a ramp at once; each reads back what it wrote."""
    failures: list[BaseException] = []

    def work(verb: Callable[[], object], times: int) -> None:
        try:
            for _ in range(times):
                verb()
        except ControlError as error:
            failures.append(error)

    matrices = [PixelMatrix.from_codes(np.full((256, 256), code, np.uint8)) for code in (5, 9)]
    jobs: list[tuple[Callable[[], object], int]] = [
        (lambda: board.chip(0).upload_matrix(matrices[0]), 4),
        (lambda: board.chip(0).upload_matrix(matrices[1]), 4),
        (lambda: board.chip(1).set_dacs(DEFAULT_DACS), 20),
        (lambda: board.chip(1).set_dac(Dac.VFBK, 9), 100),
        (board.temperatures, 100),
        (board.sent_counters, 50),
        (lambda: board.set_trigger(OPEN_UNTIL_STOPPED), 50),
        (lambda: board.ramp_bias(30, 100), 1),
    ]
    threads = [threading.Thread(target=work, args=job) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert len(np.unique(simulated.chips[0].codes)) == 1
    assert board.client.connections == 1
