"""The device of a board on the simulated board, in one process: settings as a whole, faults by name, and recovery."""

import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import pytest

from ophyd_timepix.config import ConfigError
from ophyd_timepix.control import BoardError, ChipMissing, ConnectionLost, ControlError
from ophyd_timepix.devices import SpidrBoard
from ophyd_timepix.protocol import PixelMatrix
from spidr_sim.faults import FaultName, Reach


def test_settings_are_saved_compared_and_loaded(simulated, tmp_path):
    simulated.connect()
    path = simulated.save(tmp_path / "good")
    assert simulated.diff(path) == ""
    simulated.chip0.dacs.vfbk.set(77).wait(60)
    assert simulated.diff(path) == "chip 0 dacs.vfbk: 77 -> 128"
    assert "dacs.vfbk" in str(simulated.load(path))
    assert simulated.diff(path) == ""
    assert simulated.chip0.dacs.vfbk.last == 128
    with pytest.raises(ConfigError, match="exists"):
        simulated.save(path)


def test_the_table_of_column_phases_goes_with_the_settings(simulated, tmp_path):
    simulated.connect()
    simulated.chip0.column_phase = (3,) * 128
    path = simulated.save(tmp_path / "good")
    simulated.chip0.column_phase = None
    simulated.load(path)
    assert simulated.chip0.column_phase == (3,) * 128
    assert simulated.configuration().chip(0).phases() == (3,) * 128


def test_what_was_seen_last_is_what_the_board_holds(simulated):
    simulated.connect()
    simulated.chip0.config.general.mode.set("ToA only").wait(60)
    simulated.chip0.test_pulse.choose_columns([3])
    simulated.shutter.length_us.set(100).wait(60)
    simulated.bias.set(49).wait(60)
    assert simulated.configuration() == simulated.read_settings()


def test_a_reset_brings_back_all_settings(simulated):
    simulated.connect()
    matrix = PixelMatrix()
    matrix.mask[1, 2] = True
    simulated.chip0.matrix.set(matrix).wait(60)
    simulated.chip0.dacs.vfbk.set(77).wait(60)
    before = simulated.read_settings()
    assert "vfbk" in simulated.reset()
    assert simulated.read_settings() == before
    assert simulated.chip0.matrix.last == matrix


def test_a_reset_brings_back_a_bias_that_the_supply_is_still_near(simulated):
    simulated.connect()
    simulated.bias.ramp_rate.put(1000.0)
    simulated.bias.set(63).wait(60)
    simulated.reset()  # it comes up with 50 V, and the ADC reads nearly 63 V at first
    assert simulated.control.bias_setting == pytest.approx(63, abs=0.1)
    assert simulated.bias.setpoint.last == pytest.approx(63, abs=0.1)


def test_a_prompt_shows_what_loading_changed(simulated, tmp_path):
    simulated.connect()
    path = simulated.save(tmp_path / "good")
    simulated.chip0.dacs.vfbk.set(77).wait(60)
    assert repr(simulated.load(path)).startswith("1 settings changed: chip 0 dacs.vfbk; ")


def test_what_is_no_matrix_pixel_or_column_is_refused_here_and_now(simulated):
    simulated.connect()
    for pixel in ((256, 0), (0, -1), (1.5, 0), ("a", 0)):
        with pytest.raises(ValueError, match="columns and rows 0 to 255"):
            simulated.chip0.matrix.mask(*pixel)
    with pytest.raises(ValueError, match="takes a PixelMatrix"):
        simulated.chip0.matrix.set(3)
    for columns in ([300], ["a"], [1.5]):
        with pytest.raises(ValueError, match="spidr_chip0_test_pulse: columns are"):
            simulated.chip0.test_pulse.choose_columns(columns)


def test_clock_and_tdc_are_tables_at_a_prompt(simulated):
    assert "TDC       value" in repr(simulated.tdc)
    simulated.connect()
    assert "external  off    off | on  external reference clock" in repr(simulated.clock)


def test_a_reset_may_leave_the_board_as_it_comes_up(simulated):
    simulated.connect()
    simulated.chip0.dacs.vfbk.set(77).wait(60)
    assert simulated.reset(reapply=False) == ""
    assert simulated.chip0.dacs.vfbk.last != 77


def test_a_chip_whose_link_is_lost_is_said_and_a_reset_brings_it_back(simulated, server):
    server.faults.arm("link-unlocked")
    with pytest.raises(ChipMissing, match=r"reset the board \(spidr\.reset\(\)\)"):
        simulated.connect()
    simulated.reset()
    assert simulated.connect().present == (0,)


@contextmanager
def impatient(board: SpidrBoard) -> Iterator[None]:
    """For requests that nobody will answer."""
    client = board.control.client
    before, client.timeout_s = client.timeout_s, 0.3
    yield
    client.timeout_s = before


def test_a_lost_board_is_an_error_in_time_and_a_later_call_works(simulated, server):
    simulated.connect()
    assert simulated.connected
    server.faults.arm("stalled:SET_DAC")
    with impatient(simulated), pytest.raises(ConnectionLost, match=r"SET_DAC within 0\.3 s"):
        simulated.chip0.dacs.vfbk.set(3).wait(60)
    assert not simulated.connected
    assert "line lost" in repr(simulated)
    simulated.chip0.dacs.vfbk.set(4).wait(60)
    assert simulated.connected


def test_a_board_that_lost_its_power_has_its_settings_again(simulated, server):
    simulated.connect()
    simulated.chip0.dacs.vfbk.set(77).wait(60)
    server.faults.arm("power-cycle:GET_DAC")
    with pytest.raises(ConnectionLost):
        simulated.chip0.dacs.vfbk.get()
    assert simulated.chip0.dacs.vfbk.get() == 77


HARMLESS = {FaultName.SPLIT_REPLY}
"""What a client must not even notice."""
LATER = {FaultName.MERGED_REPLIES, FaultName.STRAY_BYTES}
"""What is noticed with the request after the struck one."""
REPLIES = [name for name in FaultName if name.reach is Reach.REPLY]
LINES = [FaultName.RESET, FaultName.HALF_OPEN, FaultName.POWER_CYCLE]


@pytest.mark.parametrize("name", [*REPLIES, *LINES], ids=lambda name: name.text)
def test_every_fault_of_reply_and_line_is_an_error_of_control_and_the_next_set_works(simulated, server, name):
    simulated.connect()
    value = "=0.4" if name is FaultName.SLOW_REPLY else ""
    server.faults.arm(f"{name.text}{value}:SET_DAC")
    with nullcontext() if name in HARMLESS | LATER else impatient(simulated):
        error = simulated.chip0.dacs.vfbk.set(7).exception(60)
    if name in HARMLESS:
        assert error is None
    elif name not in LATER:
        assert isinstance(error, ControlError)
        assert simulated.connected is isinstance(error, BoardError)
        assert "127.0.0.1" in str(error)
    again = simulated.chip0.dacs.vfbk.set(8)
    if name in LATER and error is None:
        again.exception(60)
        again = simulated.chip0.dacs.vfbk.set(8)
    again.wait(60)
    assert simulated.chip0.dacs.vfbk.get() == 8
    assert simulated.connected


def test_a_chip_that_is_gone_is_said_by_name(simulated, server):
    simulated.connect()
    server.faults.arm("chip-gone=0")
    with pytest.raises(ControlError):
        simulated.chip0.dacs.vfbk.set(7).wait(60)
    with pytest.raises(ChipMissing, match="chip 0 is declared"):
        simulated.connect()
    server.faults.clear()
    simulated.connect()
    simulated.chip0.dacs.vfbk.set(7).wait(60)


@pytest.mark.parametrize("name", ["unreachable=0.2", "reboot=0.2"])
def test_a_port_that_is_closed_for_a_while_is_refused_until_it_is_open(simulated, server, name):
    simulated.connect()
    server.faults.arm(f"{name}:SET_DAC")
    with pytest.raises(ConnectionLost):
        simulated.chip0.dacs.vfbk.set(7).wait(60)
    deadline = time.monotonic() + 60
    while (error := simulated.chip0.dacs.vfbk.set(8).exception(5)) and time.monotonic() < deadline:
        assert isinstance(error, ConnectionLost)
    assert simulated.chip0.dacs.vfbk.get() == 8


def test_the_tests_of_faults_leave_none_out():
    tested = {*REPLIES, *LINES, FaultName.CHIP_GONE, FaultName.LINK_UNLOCKED, FaultName.UNREACHABLE, FaultName.REBOOT}
    assert tested == set(FaultName)


def test_a_second_client_on_the_board_is_told_so(simulated, server):
    simulated.connect()
    host, port = server.address
    second = SpidrBoard(f"{host}:{port}", name="second", timeout_s=0.3)
    with pytest.raises(ConnectionLost, match="another client"):
        second.connect()
    assert not second.connected
    second.control.client.timeout_s = 20.0
    simulated.disconnect()
    second.connect()
    second.disconnect()
