"""The simulated board as a state machine: requests in, replies out, time given."""

import numpy as np
import pytest

from ophyd_timepix.protocol import (
    ChipId,
    Command,
    Dac,
    ErrorId,
    LinkStatus,
    PixelMatrix,
    Register,
    Reply,
    Request,
    Scope,
    Tpx3Error,
    TriggerMode,
    pack_dac,
)
from ophyd_timepix.protocol.pixel_matrix import matrix_from_columns
from spidr_sim.board import Board
from spidr_sim.streams import StreamCounters
from tests.sim.board_doubles import COUNTS_PER_MS, RecordingStreams, StandingClock

CLIENT = "192.168.100.1"


class Bench:
    """A board with its doubles, and short ways to ask it."""

    def __init__(self, n_chips: int = 1) -> None:
        self.clock = StandingClock()
        self.streams = RecordingStreams()
        self.board = Board(n_chips, self.streams, self.clock)
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
        Command.SET_TIMER: ErrorId.NOT_IMPLEMENTED,
        Command.GET_DAC: ErrorId.ILLEGAL_PARAMETER,  # no DAC has the code 0
        Command.SET_DAC: ErrorId.ILLEGAL_PARAMETER,
        Command.SET_TRIGCONFIG: ErrorId.ILLEGAL_PARAMETER,  # no shutter opens at 0 Hz
    }.get(command, ErrorId.OK)
    assert reply.error.id is expected
    if expected is ErrorId.OK:
        assert command.reply.fits(len(command.reply.join(reply.ints, reply.data)))


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
    assert bench.get(Command.GET_DAC, dac.code) == pack_dac(dac.code, dac.reset)
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


def test_reset_of_a_chip_brings_reset_values_and_tells_the_phases(bench: Bench):
    bench.ask(Command.SET_GENCONFIG, 0)
    bench.ask(Command.SET_PLLCONFIG, 0x01E)
    bench.ask(Command.RESET_DEVICE)
    assert bench.get(Command.GET_GENCONFIG) == 0x048
    assert bench.streams.named("pll") == [(0, 0x11E), (0, 0x01E), (0, 0x11E)]


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


@pytest.mark.parametrize("mode", [mode for mode in TriggerMode if mode not in (TriggerMode.AUTO, TriggerMode.OPEN)])
def test_external_modes_wait_for_a_signal_that_does_not_come(bench: Bench, mode: TriggerMode):
    bench.ask(Command.SET_TRIGCONFIG, mode.code, 0, 10, 1)
    bench.ask(Command.AUTOTRIG_START)
    bench.at_ms(100)
    assert bench.streams.named("shutter") == []
    assert bench.ask(Command.GET_TRIGCONFIG).ints == (mode.code, 0, 10, 1, 0)


def test_shutter_registers_and_trigger_command_are_two_ways_to_the_same(bench: Bench):
    bench.ask(Command.SET_TRIGCONFIG, 4, 500, 20, 7, 250)
    registers = [bench.register(address) for address in (0x290, 0x294, 0x298, 0x29C, 0x2AC)]
    assert registers == [4, 7, 2_000_000, 20_000, 10]
    bench.ask(Command.SET_SPIDRREG, 0x298, 4_000_000)
    bench.ask(Command.SET_SPIDRREG, 0x290, 6)
    assert bench.ask(Command.GET_TRIGCONFIG).ints == (6, 500, 10, 7, 250)


def test_read_out_is_told_when_it_changes(bench: Bench):
    for command in (Command.DDRIVEN_READOUT, Command.DDRIVEN_READOUT, Command.PAUSE_READOUT, Command.PAUSE_READOUT):
        bench.ask(command)
    assert bench.streams.named("readout") == [(True,), (False,)]


def test_busy_receiver_holds_the_data(bench: Bench):
    for command in (Command.DDRIVEN_READOUT, Command.SET_BUSY, Command.CLEAR_BUSY):
        bench.ask(command)
    assert bench.streams.named("readout") == [(True,), (False,), (True,)]


def test_reset_of_the_module_closes_and_forgets_everything(bench: Bench):
    bench.ask(Command.SET_DAC, pack_dac(6, 100))
    bench.ask(Command.SET_IPADDR_DEST, 0x0A00_0001)
    bench.ask(Command.DDRIVEN_READOUT)
    bench.ask(Command.SET_TRIGCONFIG, 4, 0, 10, 1)
    bench.ask(Command.AUTOTRIG_START)
    assert bench.get(Command.RESET_MODULE) == 0
    assert bench.streams.named("shutter")[-1] == (False, 0)
    assert bench.streams.named("readout")[-1] == (False,)
    assert bench.streams.named("destination")[-1] == (0, CLIENT, 8192)
    assert bench.get(Command.GET_DAC, 6) == pack_dac(6, Dac.VTHRESHOLD_FINE.reset)


# --- timers and counters ----------------------------------------------------------------------------------------------
def test_timer_is_48_bits_and_the_chip_hears_of_the_request(bench: Bench):
    bench.clock.now = 0x1234_89AB_CDEF
    assert bench.ask(Command.GET_TIMER).ints == (0x89AB_CDEF, 0x1234)
    assert bench.streams.named("timer_request") == [(0, 0x1234_89AB_CDEF)]


def test_timer_restart_begins_at_0_and_tells_where_it_stood(bench: Bench):
    bench.clock.now = 77
    bench.ask(Command.RESTART_TIMERS)
    assert bench.ask(Command.GET_TIMER).ints == (0, 0)
    assert bench.streams.named("timers_restarted") == [(77,)]


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
def test_bias_is_measured_while_it_is_on(bench: Bench):
    def measured() -> float:
        adc = bench.get(Command.GET_SPIDR_ADC, 1 << 16 | 1)
        return ((adc & 0xFFF) * 1500 + 4095) / 4096 / 10

    bench.ask(Command.SET_BIAS_ADJUST, 1691)
    assert measured() < 0.2
    bench.ask(Command.BIAS_SUPPLY_ENA, 1)
    assert measured() == pytest.approx(50, abs=0.2)


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


def test_fan_turns_as_fast_as_set(bench: Bench):
    bench.ask(Command.SET_FANSPEED, 1 << 16 | 100)
    assert (bench.get(Command.GET_FANSPEED, 0), bench.get(Command.GET_FANSPEED, 1)) == (3000, 6000)


@pytest.mark.parametrize("kind", ["ADDRPORTS", "DACS", "REGISTERS", "PIXCONF"])
def test_flash_holds_what_was_stored_until_it_is_erased(bench: Bench, kind: str):
    store, erase, valid = (Command[f"{verb}_{kind}"] for verb in ("STORE", "ERASE", "VALID"))
    assert bench.get(valid) == 0
    bench.ask(store, *(0,) * store.request.max_ints)
    assert bench.get(valid) == 1
    bench.ask(erase)
    assert bench.get(valid) == 0


def test_flash_page_round_trip(bench: Bench):
    page = bytes(range(256)) * 4
    bench.ask(Command.WRITE_FLASH, 0x0100_0400, data=page)
    assert bench.ask(Command.READ_FLASH, 0x0100_0400).data == page
    assert bench.ask(Command.READ_FLASH, 0).data == b"\xff" * 1024


@pytest.mark.parametrize("n_chips", [0, 5])
def test_board_of_impossible_size_is_refused(n_chips: int):
    with pytest.raises(ValueError, match="1 to 4 chips"):
        Board(n_chips, RecordingStreams(), StandingClock())
