"""The simulated board as a state machine: requests in, replies out, time given."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ophyd_timepix.protocol import (
    ChipId,
    Command,
    Dac,
    ErrorId,
    FlashError,
    LinkStatus,
    PixelMatrix,
    Register,
    Reply,
    Request,
    Scope,
    Tpx3Error,
    pack_dac,
)
from ophyd_timepix.protocol.pixel_matrix import matrix_from_columns
from spidr_sim.board import Board
from spidr_sim.flash import Flash
from spidr_sim.settings import Readout
from spidr_sim.streams import StreamCounters
from tests.sim.board_doubles import COUNTS_PER_MS, RecordingStreams, StandingClock

CLIENT = "192.168.100.1"


class Bench:
    """A board with its doubles, and short ways to ask it."""

    def __init__(self, n_chips: int = 1, flash: Flash | None = None) -> None:
        self.clock = StandingClock()
        self.streams = RecordingStreams()
        self.board = Board(n_chips, self.streams, self.clock, flash)
        self.board.client_connected(CLIENT)

    def ask(self, command: Command, *ints: int, device: int = 0, data: bytes = b"") -> Reply:
        return self.board.answer(Request(command, device, ints or (0,), data))

    def get(self, command: Command, *ints: int, device: int = 0) -> int:
        return self.ask(command, *ints, device=device).ints[0]

    def register(self, address: int) -> int:
        return self.ask(Command.GET_SPIDRREG, address).ints[1]

    def at_ms(self, ms: float) -> None:
        self.clock.now = round(ms * COUNTS_PER_MS)
        self.board.advance()


@pytest.fixture
def bench() -> Bench:
    return Bench()


@pytest.fixture
def two_chips() -> Bench:
    return Bench(n_chips=2)


# --- the whole table --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("command", Command, ids=lambda command: command.name)
def test_every_command_is_answered_in_its_form(bench: Bench, command: Command):
    form = command.request
    reply = bench.ask(command, *(0,) * form.max_ints, data=bytes(form.min_bytes))
    expected = {
        Command.GET_DAC: ErrorId.ILLEGAL_PARAMETER,  # no DAC has the code 0
        Command.SET_DAC: ErrorId.ILLEGAL_PARAMETER,
        Command.SET_TRIGCONFIG: ErrorId.ILLEGAL_PARAMETER,  # no shutter opens at 0 Hz
    }.get(command, ErrorId.OK)
    assert reply.error.id is expected
    if expected is ErrorId.OK:
        assert command.reply.fits(len(command.reply.join(reply.ints, reply.data)))


@st.composite
def requests(draw: st.DrawFn) -> Request:
    """Any request that the table allows, with likely and unlikely values."""
    command = draw(st.sampled_from(Command))
    form = command.request
    word = st.integers(0, 600) | st.integers(0, 0xFFFF_FFFF) | st.sampled_from([1 << 30 | 0x83, 0x0006_01A4, 0x300])
    n_bytes = draw(st.sampled_from([form.min_bytes, form.max_bytes]))
    return Request(
        command,
        0 if command.scope is Scope.BOARD else draw(st.integers(0, 3)),
        tuple(draw(st.lists(word, min_size=form.min_ints, max_size=form.max_ints))),
        draw(st.binary(min_size=8, max_size=8)) * (n_bytes // 8) + bytes(n_bytes % 8),
    )


@given(st.lists(requests(), max_size=30), st.integers(1, 4))
def test_no_sequence_of_requests_makes_the_board_fail(sequence: list[Request], n_chips: int):
    bench = Bench(n_chips)
    for number, request in enumerate(sequence):
        bench.clock.now += number * 400
        reply = bench.board.answer(request)
        assert (reply.command, reply.device) == (request.command, request.device)
        if not reply.error:
            request.command.reply.join(reply.ints, reply.data)
    bench.board.power_cycle()
    assert bench.get(Command.GET_DEVICECOUNT) == 4


STORED_WORDS = [
    (Command.SET_GENCONFIG, Command.GET_GENCONFIG, 0x249),
    (Command.SET_PLLCONFIG, Command.GET_PLLCONFIG, 0x05E),
    (Command.SET_OUTBLOCKCONFIG, Command.GET_OUTBLOCKCONFIG, 0x1234),
    (Command.SET_SLVSCONFIG, Command.GET_SLVSCONFIG, 7),
    (Command.SET_PWRPULSECONFIG, Command.GET_PWRPULSECONFIG, 9),
    (Command.SET_TPPERIODPHASE, Command.GET_TPPERIODPHASE, 3 << 16 | 200),
    (Command.SET_TPNUMBER, Command.GET_TPNUMBER, 1000),
    (Command.SET_READOUTSPEED, Command.GET_READOUTSPEED, 320),
    (Command.SET_HEADERFILTER, Command.GET_HEADERFILTER, 0xF39F_0C70),
    (Command.SET_IPADDR_SRC, Command.GET_IPADDR_SRC, 0xC0A8_010A),
    (Command.SET_IPADDR_DEST, Command.GET_IPADDR_DEST, 0xC0A8_0101),
    (Command.SET_SERVERPORT, Command.GET_SERVERPORT, 9001),
    (Command.STORE_STARTOPTS, Command.GET_STARTOPTS, 0x4000_3283),
    (Command.SET_GPIO, Command.GET_GPIO, 0x5A),
    (Command.SET_BOARDID, Command.GET_BOARDID, 0x42),
    (Command.SET_CHIPBOARDID, Command.GET_CHIPBOARDID, 0x43),
]


@pytest.mark.parametrize(("setter", "getter", "word"), STORED_WORDS, ids=lambda value: getattr(value, "name", ""))
def test_what_is_set_is_read_back(two_chips: Bench, setter: Command, getter: Command, word: int):
    device = 0 if setter.scope is Scope.BOARD else 1
    other_chip_before = two_chips.get(getter, device=0)
    assert not two_chips.ask(setter, word, device=device).error
    assert two_chips.get(getter, device=device) == word
    if device:
        assert two_chips.get(getter, device=0) == other_chip_before


@pytest.mark.parametrize("dac", Dac, ids=lambda dac: dac.name)
def test_each_dac_is_stored_up_to_its_maximum(bench: Bench, dac: Dac):
    assert bench.get(Command.GET_DAC, dac.code) == pack_dac(dac.code, dac.default)
    assert not bench.ask(Command.SET_DAC, pack_dac(dac.code, dac.max)).error
    assert bench.get(Command.GET_DAC, dac.code) == pack_dac(dac.code, dac.max)
    assert bench.ask(Command.SET_DAC, pack_dac(dac.code, dac.max + 1)).error.id is ErrorId.ILLEGAL_PARAMETER
    assert bench.get(Command.GET_DAC, dac.code) == pack_dac(dac.code, dac.max)
    bench.ask(Command.SET_DACS_DFLT)
    assert bench.get(Command.GET_DAC, dac.code) == pack_dac(dac.code, dac.reset)


@pytest.mark.parametrize(
    ("command", "ints"),
    [
        (Command.SET_GENCONFIG, (0x1000,)),
        (Command.SET_PLLCONFIG, (0x01E | 2 << 6,)),
        (Command.SET_OUTBLOCKCONFIG, (0x1_0000,)),
        (Command.GET_PIXCONF, (256,)),
        (Command.SET_BIAS_ADJUST, (4096,)),
        (Command.SET_SERVERPORT, (65_536,)),
        (Command.RESET_MODULE, (1,)),
        (Command.SET_TRIGCONFIG, (7, 0, 10, 1)),
        (Command.SET_FANSPEED, (101,)),
        (Command.TPX_POWER_ENA, (2,)),
    ],
)
def test_value_that_the_hardware_does_not_have_is_an_illegal_parameter(
    bench: Bench, command: Command, ints: tuple[int, ...]
):
    assert bench.ask(command, *ints).error.id is ErrorId.ILLEGAL_PARAMETER


# --- chips ------------------------------------------------------------------------------------------------------------
def test_board_says_four_chips_and_shows_by_links_and_ids_which_are_there(two_chips: Bench):
    assert two_chips.get(Command.GET_DEVICECOUNT) == 4
    ids = two_chips.ask(Command.GET_DEVICEIDS).ints
    assert [ChipId(value).name for value in ids] == ["W0026_K06", "W0026_J06", "", ""]
    assert [two_chips.get(Command.GET_DEVICEID, device=chip) for chip in range(4)] == list(ids)
    links = [LinkStatus.from_word(two_chips.register(0x300 + 4 * chip)) for chip in range(4)]
    assert [status.ready for status in links] == [True, True, False, False]
    assert two_chips.board.chip_ids == ids[:2]
    assert (two_chips.register(0x2C0) >> 8 & 0xF) + 1 == 8


def test_absent_chip_answers_that_its_links_are_not_locked(bench: Bench):
    error = bench.ask(Command.SET_DAC, pack_dac(6, 100), device=1).error
    assert (error.id, error.sub_code) == (ErrorId.TPX3_HARDWARE, Tpx3Error.LINKS_UNLOCKED)


def test_chip_without_power_is_gone_and_comes_back_with_reset_values(bench: Bench):
    bench.ask(Command.SET_DAC, pack_dac(6, 100))
    bench.ask(Command.TPX_POWER_ENA, 0)
    assert bench.ask(Command.GET_DAC, 6).error.sub_code is Tpx3Error.LINKS_UNLOCKED
    bench.ask(Command.TPX_POWER_ENA, 1)
    assert bench.get(Command.GET_DAC, 6) == pack_dac(6, Dac.VTHRESHOLD_FINE.reset)


def test_matrix_is_read_back_as_uploaded_and_survives_reset_pixels(bench: Bench):
    codes = np.random.default_rng(1).integers(0, 64, (256, 256), dtype=np.uint8)
    matrix = PixelMatrix.from_codes(codes)
    for first, data in matrix.upload():
        assert not bench.ask(Command.SET_PIXCONF, first, data=data).error
    bench.ask(Command.RESET_PIXELS)
    columns = [bench.ask(Command.GET_PIXCONF, column).data for column in range(256)]
    assert matrix_from_columns(columns) == matrix


def test_pixel_upload_that_is_no_whole_columns_is_refused(bench: Bench):
    assert bench.ask(Command.SET_PIXCONF, 0, data=bytes(200)).error.id is ErrorId.ILLEGAL_PARAMETER


def test_column_test_pulse_register_is_read_back_and_set_bit_by_bit(bench: Bench):
    bench.ask(Command.SET_CTPR, 0, data=bytes(range(32)))
    bench.ask(Command.CONFIG_CTPR, 255 << 16 | 1)
    assert bench.ask(Command.GET_CTPR).data == b"\x80" + bytes(range(1, 32))


def test_reset_of_a_chip_brings_its_own_reset_values(bench: Bench):
    bench.ask(Command.SET_GENCONFIG, 0)
    bench.ask(Command.SET_PLLCONFIG, 0x01E)
    bench.ask(Command.RESET_DEVICE)
    assert bench.get(Command.GET_GENCONFIG) == 0x048
    assert bench.get(Command.GET_PLLCONFIG) == 0x11E
    assert bench.get(Command.GET_DAC, 6) == pack_dac(6, Dac.VTHRESHOLD_FINE.reset)


def test_data_side_hears_of_a_chip_when_the_shutter_opens_and_at_once_while_it_is_open(two_chips: Bench):
    """So 86 uploads to a closed shutter copy the matrix once."""
    for column in range(0, 255, 3):
        two_chips.ask(Command.SET_PIXCONF, column, data=b"\xff" * 576, device=1)
    assert two_chips.streams.named("chip") == []
    two_chips.ask(Command.AUTOTRIG_START)
    told = dict(two_chips.streams.named("chip"))
    assert (told[0].codes.count(0), told[1].codes.count(0)) == (65_536, 256)
    assert [call[0] for call in two_chips.streams.calls][-3:] == ["chip", "chip", "shutter"]
    two_chips.ask(Command.SET_DAC, pack_dac(6, 77))
    index, settings = two_chips.streams.named("chip")[-1]
    assert (index, settings.dacs[Dac.VTHRESHOLD_FINE]) == (0, 77)
    assert len(two_chips.streams.named("chip")) == 3


def test_data_side_hears_of_everything_that_the_data_depend_on(bench: Bench):
    for command, word in (
        (Command.SET_DAC, pack_dac(4, 20)),
        (Command.SET_GENCONFIG, 0x068),
        (Command.SET_PLLCONFIG, 0x01E),
        (Command.SET_TPPERIODPHASE, 3 << 16 | 20),
        (Command.SET_TPNUMBER, 500),
    ):
        bench.ask(command, word)
    bench.ask(Command.SET_CTPR, 0, data=bytes(range(32)))
    bench.ask(Command.AUTOTRIG_START)
    (_, told), *_ = bench.streams.named("chip")
    assert (told.dacs[Dac.IBIAS_IKRUM], told.general, told.pll, told.test_pulse_period, told.test_pulses) == (
        20,
        0x068,
        0x01E,
        3 << 16 | 20,
        500,
    )
    assert (told.test_columns, told.alive) == (bytes(range(32)), True)


def test_header_filter_is_told_without_the_cpu_half(two_chips: Bench):
    two_chips.ask(Command.SET_HEADERFILTER, 0xF39F_0C70, device=1)
    two_chips.ask(Command.SET_HEADERFILTER, 0xFFFF_0001, device=3)
    assert two_chips.streams.named("header_filter") == [(1, 0x0C70)]


# --- network ----------------------------------------------------------------------------------------------------------
def test_destination_starts_as_the_connected_client(two_chips: Bench):
    assert two_chips.get(Command.GET_IPADDR_DEST) == 0xC0A8_6401
    assert two_chips.streams.named("destination") == [(0, CLIENT, 8192), (1, CLIENT, 8193)]
    two_chips.ask(Command.SET_SERVERPORT, 9000, device=1)
    assert two_chips.streams.named("destination")[-1] == (1, CLIENT, 9000)


def test_destination_follows_a_new_client_until_it_is_set(two_chips: Bench):
    two_chips.ask(Command.SET_IPADDR_DEST, 0x0A00_0001, device=0)
    two_chips.streams.calls.clear()
    two_chips.board.client_connected("10.0.0.9")
    assert two_chips.streams.named("destination") == [(1, "10.0.0.9", 8193)]
    assert two_chips.get(Command.GET_IPADDR_DEST, device=0) == 0x0A00_0001


def test_absent_chip_has_a_port_but_no_stream(bench: Bench):
    assert not bench.ask(Command.SET_SERVERPORT, 8195, device=3).error
    assert bench.get(Command.GET_SERVERPORT, device=3) == 8195
    assert all(call[0] == 0 for call in bench.streams.named("destination"))


# --- shutter and read-out ---------------------------------------------------------------------------------------------
def test_auto_mode_without_length_opens_until_stopped(bench: Bench):
    bench.ask(Command.SET_TRIGCONFIG, 4, 0, 10, 1)
    bench.at_ms(1)
    bench.ask(Command.AUTOTRIG_START)
    bench.at_ms(5000)
    assert bench.board.shutter_is_open
    assert bench.board.seconds_until_due() is None
    bench.ask(Command.AUTOTRIG_STOP)
    assert bench.streams.named("shutter") == [(True, COUNTS_PER_MS), (False, 5000 * COUNTS_PER_MS)]
    assert bench.get(Command.GET_SHUTTERCNTR) == 1
    assert bench.ask(Command.GET_SHUTTERSTART).ints == (COUNTS_PER_MS, 0)
    assert bench.ask(Command.GET_SHUTTEREND).ints == (5000 * COUNTS_PER_MS, 0)


def test_auto_mode_with_length_opens_as_often_as_told_and_at_the_right_counts(bench: Bench):
    bench.ask(Command.SET_TRIGCONFIG, 4, 2000, 100, 3, 1000)  # 2 ms, 100 Hz, 3 times, after 1 us
    bench.ask(Command.AUTOTRIG_START)
    assert bench.board.seconds_until_due() == pytest.approx(1e-6)
    bench.at_ms(1000)
    opened = [40 + k * 10 * COUNTS_PER_MS for k in range(3)]
    expected = [edge for at in opened for edge in ((True, at), (False, at + 2 * COUNTS_PER_MS))]
    assert bench.streams.named("shutter") == expected
    assert bench.get(Command.GET_SHUTTERCNTR) == 3
    assert bench.board.seconds_until_due() is None


def test_stop_forgets_the_openings_to_come(bench: Bench):
    bench.ask(Command.SET_TRIGCONFIG, 4, 2000, 100, 50)
    bench.ask(Command.AUTOTRIG_START)
    bench.at_ms(1)
    bench.ask(Command.AUTOTRIG_STOP)
    bench.at_ms(1000)
    assert bench.streams.named("shutter") == [(True, 0), (False, COUNTS_PER_MS)]


def test_timer_restart_within_an_opening_keeps_its_length(bench: Bench):
    bench.at_ms(7)
    bench.ask(Command.SET_TRIGCONFIG, 4, 2000, 10, 1)
    bench.ask(Command.AUTOTRIG_START)
    bench.at_ms(8)
    bench.ask(Command.RESTART_TIMERS)
    assert bench.board.seconds_until_due() == pytest.approx(1e-3)


def test_shutter_registers_and_trigger_command_are_two_ways_to_the_same(bench: Bench):
    bench.ask(Command.SET_TRIGCONFIG, 4, 500, 20, 7, 250)
    registers = [bench.register(address) for address in (0x290, 0x294, 0x298, 0x29C, 0x2AC)]
    assert registers == [4, 7, 2_000_000, 20_000, 10]
    bench.ask(Command.SET_SPIDRREG, 0x298, 4_000_000)
    bench.ask(Command.SET_SPIDRREG, 0x290, 6)
    assert bench.ask(Command.GET_TRIGCONFIG).ints == (6, 500, 10, 7, 250)


def test_shutter_registers_hold_what_was_written_to_the_count(bench: Bench):
    values = {0x290: 0x1006, 0x294: 5, 0x298: 12_345, 0x29C: 50, 0x2AC: 3}
    for address, value in values.items():
        bench.ask(Command.SET_SPIDRREG, address, value)
    assert {address: bench.register(address) for address in values} == values
    for address, value in ((0x290, 7), (0x298, 0)):
        assert bench.ask(Command.SET_SPIDRREG, address, value).error.id is ErrorId.ILLEGAL_PARAMETER
    assert {address: bench.register(address) for address in values} == values


@pytest.mark.parametrize("mode", range(7))
def test_all_seven_modes_are_settings(bench: Bench, mode: int):
    bench.ask(Command.SET_TRIGCONFIG, mode, 20, 1000, 3, 50)
    assert bench.ask(Command.GET_TRIGCONFIG).ints == (mode, 20, 1000, 3, 50)


def test_pin_0_is_the_external_shutter_input(bench: Bench):
    bench.ask(Command.SET_TRIGCONFIG, 0, 0, 10, 1)
    bench.ask(Command.AUTOTRIG_START)
    bench.at_ms(1)
    bench.ask(Command.SET_GPIO_PIN, 0 << 16 | 1)
    bench.at_ms(3)
    bench.ask(Command.SET_GPIO_PIN, 0 << 16 | 0)
    bench.ask(Command.SET_GPIO_PIN, 1 << 16 | 1)
    bench.ask(Command.SET_GPIO, 3)
    assert bench.streams.named("shutter") == [(True, 40_000), (False, 120_000), (True, 120_000)]
    assert bench.get(Command.GET_EXTSHUTTERCNTR) == bench.get(Command.GET_SHUTTERCNTR) == 2
    bench.ask(Command.RESET_COUNTERS)
    assert bench.get(Command.GET_EXTSHUTTERCNTR) == bench.get(Command.GET_SHUTTERCNTR) == 0
    assert bench.get(Command.GET_GPIO) == 3


def test_sequential_read_out_is_told(bench: Bench):
    bench.ask(Command.SEQ_READOUT, 0x8000_0004)
    bench.ask(Command.PAUSE_READOUT)
    assert bench.streams.named("readout") == [(Readout.SEQUENTIAL,), (Readout.OFF,)]


def test_chips_without_power_send_nothing_and_hold_nothing(bench: Bench):
    bench.ask(Command.DDRIVEN_READOUT)
    bench.ask(Command.AUTOTRIG_START)
    bench.ask(Command.TPX_POWER_ENA, 0)
    assert bench.streams.named("readout")[-1] == (Readout.OFF,)
    assert not bench.streams.named("chip")[-1][1].alive


def test_read_out_is_told_when_it_changes(bench: Bench):
    for command in (Command.DDRIVEN_READOUT, Command.DDRIVEN_READOUT, Command.PAUSE_READOUT, Command.PAUSE_READOUT):
        bench.ask(command)
    assert bench.streams.named("readout") == [(Readout.DATA_DRIVEN,), (Readout.OFF,)]


def test_busy_receiver_holds_the_data(bench: Bench):
    for command in (Command.DDRIVEN_READOUT, Command.SET_BUSY, Command.CLEAR_BUSY):
        bench.ask(command)
    assert bench.streams.named("readout") == [(Readout.DATA_DRIVEN,), (Readout.OFF,), (Readout.DATA_DRIVEN,)]


def test_reset_of_the_module_closes_and_forgets_everything(bench: Bench):
    bench.ask(Command.SET_DAC, pack_dac(6, 100))
    bench.ask(Command.SET_IPADDR_DEST, 0x0A00_0001)
    bench.ask(Command.DDRIVEN_READOUT)
    bench.ask(Command.SET_TRIGCONFIG, 4, 0, 10, 1)
    bench.ask(Command.AUTOTRIG_START)
    assert bench.get(Command.RESET_MODULE) == 0
    assert bench.streams.named("shutter")[-1] == (False, 0)
    assert bench.streams.named("readout")[-1] == (Readout.OFF,)
    assert bench.streams.named("destination")[-1] == (0, CLIENT, 8192)
    assert bench.get(Command.GET_DAC, 6) == pack_dac(6, Dac.VTHRESHOLD_FINE.default)


# --- timers and counters ----------------------------------------------------------------------------------------------
def test_timer_is_48_bits_and_the_chip_hears_of_the_request(bench: Bench):
    bench.clock.now = 0x1234_89AB_CDEF
    assert bench.ask(Command.GET_TIMER).ints == (0x89AB_CDEF, 0x1234)
    assert bench.streams.named("timer_request") == [(0, 0x1234_89AB_CDEF)]


def test_timer_restart_begins_at_0_and_tells_where_it_stood(bench: Bench):
    bench.clock.now = 77
    bench.ask(Command.RESTART_TIMERS)
    assert bench.ask(Command.GET_TIMER).ints == (0, 0)
    assert bench.streams.named("timers_restarted") == [(77, 0)]


def test_timer_can_be_set(bench: Bench):
    bench.clock.now = 77
    assert not bench.ask(Command.SET_TIMER, 0x89AB_CDEF, 0x1234).error
    assert bench.ask(Command.GET_TIMER).ints == (0x89AB_CDEF, 0x1234)
    assert bench.streams.named("timers_restarted") == [(77, 0x1234_89AB_CDEF)]
    assert bench.ask(Command.SET_TIMER, 0, 0x1_0000).error.id is ErrorId.ILLEGAL_PARAMETER


def test_counters_are_those_of_the_data_side_in_32_bits(two_chips: Bench):
    two_chips.streams.totals = StreamCounters(2**32 + 5, (2**32 + 7, 8), 9)
    addresses = (0x384, 0x340, 0x341, 0x342, 0x2F8)
    assert [two_chips.register(address) for address in addresses] == [5, 7, 8, 0, 9]


def test_writing_a_counter_sets_that_counter_alone(two_chips: Bench):
    two_chips.streams.totals = StreamCounters(100, (200, 300), 9)
    two_chips.ask(Command.SET_SPIDRREG, 0x340, 0)
    assert [two_chips.register(address) for address in (0x384, 0x340, 0x341)] == [100, 0, 300]
    two_chips.streams.totals = StreamCounters(110, (220, 330), 9)
    assert [two_chips.register(address) for address in (0x384, 0x340, 0x341)] == [110, 20, 330]


def test_reset_counters_sets_all_to_0(two_chips: Bench):
    two_chips.streams.totals = StreamCounters(100, (200, 300), 9)
    two_chips.ask(Command.SET_SPIDRREG, 0x384, 50)
    two_chips.ask(Command.RESET_COUNTERS)
    assert [two_chips.register(address) for address in (0x384, 0x340, 0x341, 0x2F8)] == [0, 0, 0, 0]


def test_ordinary_register_is_stored(bench: Bench):
    bench.ask(Command.SET_SPIDRREG, Register.CPU_TO_TPX.address, 1 << 25 | 1)
    assert bench.register(Register.CPU_TO_TPX.address) == 1 << 25 | 1
    bench.ask(Command.DECODERS_ENA, 0)
    assert bench.register(Register.DECODER_CONTROL.address) == 0


def test_link_status_cannot_be_written(bench: Bench):
    bench.ask(Command.SET_SPIDRREG, 0x300, 0)
    assert bench.register(0x300) == 0x00FF_0000


# --- bias, monitoring, flash ------------------------------------------------------------------------------------------
def measured_bias_v(bench: Bench) -> float:
    adc = bench.get(Command.GET_SPIDR_ADC, 1 << 16 | 1)
    return ((adc & 0xFFF) * 1500 + 4095) / 4096 / 10


def test_bias_follows_its_setting_with_a_time_constant(bench: Bench):
    assert measured_bias_v(bench) == pytest.approx(50, abs=0.1)
    bench.ask(Command.SET_BIAS_ADJUST, 4095)
    volts = []
    for ms in (0, 300, 600, 3000):
        bench.at_ms(ms)
        volts.append(measured_bias_v(bench))
    assert volts == pytest.approx([50, 104 - 54 / np.e, 104 - 54 / np.e**2, 104], abs=0.2)
    assert bench.streams.named("bias")[-1][0].target_v == 104


def test_bias_that_is_off_falls_to_0_and_comes_back_to_where_it_was_set(bench: Bench):
    bench.ask(Command.BIAS_SUPPLY_ENA, 0)
    bench.at_ms(5000)
    assert measured_bias_v(bench) < 0.2
    bench.ask(Command.BIAS_SUPPLY_ENA, 1)
    bench.at_ms(10_000)
    assert measured_bias_v(bench) == pytest.approx(50, abs=0.1)


def test_virtual_time_of_the_sensors_goes_on_through_restarts_of_the_timers(bench: Bench):
    bench.ask(Command.SET_BIAS_ADJUST, 0)
    bench.at_ms(300)
    before = measured_bias_v(bench), bench.get(Command.GET_REMOTETEMP)
    bench.ask(Command.RESTART_TIMERS)
    assert (measured_bias_v(bench), bench.get(Command.GET_REMOTETEMP)) == before


def test_chip_temperature_by_band_gap_agrees_with_the_sensor(bench: Bench):
    volts = []
    for code in (29, 28):
        bench.ask(Command.SET_SENSEDAC, code)
        volts.append(1.5 * bench.get(Command.GET_SPIDR_ADC, 64 << 16) / 64 / 4096)
    by_band_gap = 88.75 - 607.3 * (volts[0] - volts[1])
    assert by_band_gap == pytest.approx(bench.get(Command.GET_REMOTETEMP) / 1000, abs=0.5)


def test_temperature_drifts_slowly(bench: Bench):
    before = bench.get(Command.GET_LOCALTEMP)
    bench.at_ms(75_000)
    assert 0 < abs(bench.get(Command.GET_LOCALTEMP) - before) <= 400


@pytest.mark.parametrize("code", [*range(1, 19), 28, 29, 30, 31])
def test_each_sense_code_gives_a_voltage_at_the_adc(bench: Bench, code: int):
    bench.ask(Command.SET_SENSEDAC, code)
    one, many = (bench.get(Command.GET_SPIDR_ADC, samples << 16) for samples in (1, 64))
    assert 0 < one <= 0xFFF
    assert many == 64 * one
    bench.ask(Command.SET_SENSEDAC, 0)
    assert bench.get(Command.GET_SPIDR_ADC, 1 << 16) == 0


def test_sensed_voltage_follows_the_dac_or_what_drives_it_from_outside(bench: Bench):
    bench.ask(Command.SET_SENSEDAC, 6)
    volts = []
    for command, value in ((Command.SET_DAC, 0), (Command.SET_DAC, 511), (Command.SET_EXTDAC, 256)):
        bench.ask(command, pack_dac(6, value))
        volts.append(bench.get(Command.GET_SPIDR_ADC, 1 << 16))
    assert volts[0] == 0 < volts[2] < volts[1]
    bench.ask(Command.SET_EXTDAC, 0)
    assert bench.get(Command.GET_SPIDR_ADC, 1 << 16) == volts[1]


def test_vdda_is_at_channel_2_halved(bench: Bench):
    adc = bench.get(Command.GET_SPIDR_ADC, 1 << 16 | 2)
    assert ((adc & 0xFFF) * 1500 + 4095) / 4096 * 2 == pytest.approx(1500, abs=2)


@pytest.mark.parametrize(
    ("command", "word"),
    [
        (Command.SET_SENSEDAC, 19),
        (Command.SET_EXTDAC, pack_dac(19, 0)),
        (Command.SET_EXTDAC, pack_dac(7, 16)),
        (Command.GET_SPIDR_ADC, 4),
        (Command.SET_GPIO_PIN, 32 << 16),
        (Command.SET_GPIO_PIN, 2),
        (Command.SET_FANSPEED, 2 << 16),
        (Command.SET_READOUTSPEED, 1000),
    ],
)
def test_what_nothing_answers_to_is_an_illegal_parameter(bench: Bench, command: Command, word: int):
    assert bench.ask(command, word).error.id is ErrorId.ILLEGAL_PARAMETER


def test_packet_longer_than_its_bytes_is_refused(bench: Bench):
    assert bench.ask(Command.UPLOAD_PACKET, 9, data=bytes(8)).error.id is ErrorId.ILLEGAL_PARAMETER
    assert not bench.ask(Command.UPLOAD_PACKET, 8, data=bytes(8)).error


def test_supplies_tell_of_the_chips_that_draw_from_them():
    one, two = Bench(1), Bench(2)
    mv, ma, mw = two.ask(Command.GET_AVDD).ints
    assert (mv, ma, mw) == (1500, 2 * one.ask(Command.GET_AVDD_NOW).ints[1], mv * ma // 1000)
    two.ask(Command.TPX_POWER_ENA, 0)
    assert two.ask(Command.GET_DVDD).ints == (0, 0, 0)


def test_fan_turns_as_fast_as_set(bench: Bench):
    bench.ask(Command.SET_FANSPEED, 1 << 16 | 100)
    assert (bench.get(Command.GET_FANSPEED, 0), bench.get(Command.GET_FANSPEED, 1)) == (3000, 6000)


@pytest.mark.parametrize("kind", ["ADDRPORTS", "DACS", "REGISTERS", "PIXCONF"])
def test_flash_is_valid_from_store_to_erase(kind: str):
    bench = Bench(flash=Flash())
    store, erase, valid = (Command[f"{verb}_{kind}"] for verb in ("STORE", "ERASE", "VALID"))
    assert bench.get(valid) == 0
    bench.ask(store, *(0,) * store.request.max_ints)
    assert bench.get(valid) == 1
    bench.ask(erase)
    assert bench.get(valid) == 0


def reset_module(bench: Bench) -> None:
    bench.ask(Command.RESET_MODULE)


def power_cycle(bench: Bench) -> None:
    bench.board.power_cycle()
    bench.board.client_connected(CLIENT)


ways_to_start_again = pytest.mark.parametrize("start_again", [reset_module, power_cycle])


def configure_chip_1(bench: Bench) -> None:
    bench.ask(Command.SET_DAC, pack_dac(6, 77), device=1)
    bench.ask(Command.SET_GENCONFIG, 0x0A8, device=1)
    bench.ask(Command.SET_CTPR, 0, data=bytes(range(32)), device=1)
    bench.ask(Command.SET_PIXCONF, 255, data=b"\xff" * 192, device=1)
    bench.ask(Command.SET_IPADDR_DEST, 0x0A00_0001, device=1)
    bench.ask(Command.SET_SERVERPORT, 9000, device=1)


def state_of_chip_1(bench: Bench) -> tuple[object, ...]:
    return (
        bench.get(Command.GET_DAC, 6, device=1),
        bench.get(Command.GET_GENCONFIG, device=1),
        bench.ask(Command.GET_CTPR, device=1).data[:4],
        bench.ask(Command.GET_PIXCONF, 255, device=1).data[0],
        bench.get(Command.GET_IPADDR_DEST, device=1),
        bench.get(Command.GET_SERVERPORT, device=1),
    )


STORED = (6 << 16 | 77, 0x0A8, b"\0\1\2\3", 0x3F, 0x0A00_0001, 9000)
FRESH = (6 << 16 | Dac.VTHRESHOLD_FINE.reset, 0x048, bytes(4), 0, 0xC0A8_6401, 8193)


@ways_to_start_again
def test_what_the_flash_holds_is_there_after_power_up_and_nothing_else(start_again: Callable[[Bench], None]):
    bench = Bench(2, flash=Flash())
    configure_chip_1(bench)
    start_again(bench)
    assert state_of_chip_1(bench) == FRESH
    configure_chip_1(bench)
    for kind, ints in (("DACS", (0,)), ("REGISTERS", (0,)), ("PIXCONF", (0,)), ("ADDRPORTS", (0, 0))):
        assert not bench.ask(Command[f"STORE_{kind}"], *ints, device=1).error
    bench.ask(Command.SET_DAC, pack_dac(6, 99), device=1)
    start_again(bench)
    assert state_of_chip_1(bench) == STORED
    bench.ask(Command.ERASE_DACS, device=1)
    start_again(bench)
    assert state_of_chip_1(bench) == (FRESH[0], *STORED[1:])


@ways_to_start_again
def test_start_options_give_power_links_and_bias(start_again: Callable[[Bench], None]):
    bench = Bench(flash=Flash())
    bench.ask(Command.STORE_STARTOPTS, 1 << 30 | 60 << 8 | 0x81)
    start_again(bench)
    bench.at_ms(5000)
    assert measured_bias_v(bench) == pytest.approx(60, abs=0.1)
    assert bench.get(Command.GET_READOUTSPEED) == 320
    bench.ask(Command.STORE_STARTOPTS, 1 << 30)
    start_again(bench)
    bench.at_ms(10_000)
    assert measured_bias_v(bench) < 0.2
    assert bench.ask(Command.GET_GENCONFIG).error.sub_code is Tpx3Error.LINKS_UNLOCKED


def test_start_options_that_do_not_count_change_nothing_and_are_kept(bench: Bench):
    bench.ask(Command.STORE_STARTOPTS, 2 << 30 | 5 << 8 | 0x80)
    bench.ask(Command.RESET_MODULE)
    assert bench.get(Command.GET_STARTOPTS) == 2 << 30 | 5 << 8 | 0x80
    assert bench.get(Command.GET_READOUTSPEED) == 640
    assert bench.ask(Command.STORE_STARTOPTS, 1 << 30 | 5 << 8 | 0x80).error.id is ErrorId.ILLEGAL_PARAMETER


def test_new_board_runs_as_a_camera_in_use_and_a_blank_one_does_not():
    used, blank = Bench(), Bench(flash=Flash())
    assert [used.get(Command.GET_DAC, dac.code) & 0xFFFF for dac in Dac] == [dac.default for dac in Dac]
    assert [blank.get(Command.GET_DAC, dac.code) & 0xFFFF for dac in Dac] == [dac.reset for dac in Dac]
    assert (used.get(Command.GET_STARTOPTS), blank.get(Command.GET_STARTOPTS)) == (0x4000_3283, 0)
    assert measured_bias_v(used) == pytest.approx(50, abs=0.1)
    assert measured_bias_v(blank) < 0.2


def test_settings_of_an_absent_chip_cannot_be_stored(bench: Bench):
    error = bench.ask(Command.STORE_DACS, device=2).error
    assert (error.id, error.sub_code) == (ErrorId.FLASH_STORAGE, FlashError.TPX)


def test_power_cycle_starts_the_timers_anew_and_ramps_the_bias_up(bench: Bench):
    bench.ask(Command.DDRIVEN_READOUT)
    bench.ask(Command.AUTOTRIG_START)
    bench.at_ms(10)
    bench.board.power_cycle()
    assert bench.ask(Command.GET_TIMER).ints == (0, 0)
    assert bench.streams.named("shutter")[-1] == (False, 10 * COUNTS_PER_MS)
    assert bench.streams.named("readout")[-1] == (Readout.OFF,)
    assert bench.get(Command.GET_SHUTTERCNTR) == 0
    assert measured_bias_v(bench) < 0.2
    bench.at_ms(5000)
    assert measured_bias_v(bench) == pytest.approx(50, abs=0.1)


def test_flash_page_round_trip(bench: Bench):
    page = bytes(range(256)) * 4
    bench.ask(Command.WRITE_FLASH, 0x0100_0400, data=page)
    assert bench.ask(Command.READ_FLASH, 0x0100_0400).data == page
    assert bench.ask(Command.READ_FLASH, 0).data == b"\xff" * 1024
    power_cycle(bench)
    assert bench.ask(Command.READ_FLASH, 0x0100_0400).data == page


# --- chips that go, links that unlock ---------------------------------------------------------------------------------
def test_chip_that_is_gone_looks_absent_and_comes_back_as_it_was(two_chips: Bench):
    two_chips.ask(Command.SET_DAC, pack_dac(6, 77), device=1)
    two_chips.board.lose_chip(1)
    assert ChipId(two_chips.get(Command.GET_DEVICEID, device=1)).absent
    assert not LinkStatus.from_word(two_chips.register(0x304)).ready
    two_chips.ask(Command.AUTOTRIG_START)
    assert [settings.alive for _, settings in two_chips.streams.named("chip")] == [True, False]
    two_chips.board.restore_chips()
    assert two_chips.get(Command.GET_DAC, 6, device=1) == 6 << 16 | 77
    assert two_chips.streams.named("chip")[-1][1].alive


@pytest.mark.parametrize("heal", [Command.REINIT_DEVICE, Command.REINIT_DEVICES, Command.RESET_MODULE])
def test_unlocked_link_is_told_by_its_register_and_healed_by_a_new_start_of_the_links(bench: Bench, heal: Command):
    bench.board.unlock_link(0)
    assert not LinkStatus.from_word(bench.register(0x300)).ready
    assert bench.register(0x300) == 0x00FE_0000
    assert bench.ask(Command.GET_DAC, 6).error.sub_code is Tpx3Error.LINKS_UNLOCKED
    bench.ask(heal)
    assert LinkStatus.from_word(bench.register(0x300)).ready
    assert bench.get(Command.GET_DAC, 6) == 6 << 16 | 420


@pytest.mark.parametrize("n_chips", [0, 5])
def test_board_of_impossible_size_is_refused(n_chips: int):
    with pytest.raises(ValueError, match="1 to 4 chips"):
        Board(n_chips, RecordingStreams(), StandingClock())
