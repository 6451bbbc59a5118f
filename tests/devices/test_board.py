from dataclasses import replace

import bluesky.plan_stubs as bps
import bluesky.plans as bp
import pytest
from ophyd.status import Status

from ophyd_timepix.control import BoardError, ChipMissing, ControlError, SpidrRefused
from ophyd_timepix.devices import Dacs, SpidrBoard
from ophyd_timepix.protocol.dacs import Dac
from tests.fakes import FakeBoard


def test_making_a_board_touches_no_network():
    board = SpidrBoard("192.0.2.1:50000", name="spidr", chips=4)
    assert board.chip3.dacs.vthreshold_fine.name == "spidr_chip3_dacs_vthreshold_fine"
    assert "not connected" in repr(board)


def test_a_board_has_the_chips_that_were_declared_and_no_more():
    assert [chip.attr_name for chip in SpidrBoard("h:1", name="s", chips=2).chips] == ["chip0", "chip1"]
    assert not hasattr(SpidrBoard("h:1", name="s"), "chip1")


@pytest.mark.parametrize("chips", [0, 5, "a", 1.5, None])
def test_an_impossible_number_of_chips_is_refused(chips):
    with pytest.raises(ValueError, match="1 to 4 chips"):
        SpidrBoard("h:1", name="s", chips=chips)


@pytest.mark.parametrize("address", ["", ":50000", "host:port", "host:0", "host:70000"])
def test_an_address_that_is_none_is_refused_with_an_example(address):
    with pytest.raises(ValueError, match=r"192\.168\.100\.10:50000"):
        SpidrBoard(address, name="s")


def test_the_port_is_the_usual_one_unless_given():
    assert SpidrBoard("camera", name="s").port == 50000


def test_every_dac_of_the_table_is_declared():
    assert Dacs.component_names == tuple(dac.name.lower() for dac in Dac)


def test_a_dac_is_described_with_source_limits_and_unit(spidr):
    dac = spidr.chip0.dacs.vthreshold_fine
    (key,) = dac.describe().values()
    assert key["source"] == "SPIDR:chip0:DAC6:Vthreshold_fine"
    assert key["limits"]["control"] == {"low": 0, "high": 511}
    assert key["dtype"] == "integer"
    assert key["units"] == "DAC step"
    assert dac.limits == (0, 511)


@pytest.mark.parametrize("value", [-1, 512])
def test_a_dac_refuses_before_the_wire(spidr, fake_board, value):
    with pytest.raises(ValueError, match=r"spidr_chip0_dacs_vthreshold_fine goes from 0 to 511 DAC step, not"):
        spidr.chip0.dacs.vthreshold_fine.set(value)
    assert not fake_board.calls


def test_a_dac_rounds_to_its_step_and_reads_back(spidr, fake_board):
    status = spidr.chip0.dacs.vfbk.set(12.6)
    assert isinstance(status, Status)
    status.wait(60)
    assert fake_board.chip(0).dacs[Dac.VFBK] == 13
    assert spidr.chip0.dacs.vfbk.get() == 13


def test_a_board_that_refuses_a_dac_fails_the_status(spidr, fake_board):
    fake_board.failing["set_dac VFBK 3"] = ControlError("the board refuses")
    with pytest.raises(ControlError, match="refuses"):
        spidr.chip0.dacs.vfbk.set(3).wait(60)


def test_a_scanned_dac_is_its_own_axis_but_18_of_them_are_no_table(spidr):
    assert spidr.chip0.dacs.vfbk.hints == {"fields": ["spidr_chip0_dacs_vfbk"]}
    assert spidr.hints == {"fields": ["spidr_bias"]}


def test_reading_a_board_reads_its_dacs(spidr):
    assert spidr.read()["spidr_chip0_dacs_ibias_ikrum"]["value"] == 5
    assert set(spidr.read()) == set(spidr.describe())


def test_connect_says_which_chip_is_missing():
    fake = FakeBoard(present=1)
    board = SpidrBoard("camera", name="spidr", chips=2, control=lambda: fake)
    with pytest.raises(ChipMissing, match=r"spidr at camera:50000: chip 1 is declared \(chips=2\) and not there"):
        board.connect()


def test_what_can_be_done_about_a_missing_chip_fits_what_is_there(monkeypatch):
    fake = FakeBoard(present=1)
    with pytest.raises(ChipMissing, match=r"reset\(\)\), or declare the chips before it: chips=1$"):
        SpidrBoard("camera", name="spidr", chips=2, control=lambda: fake).connect()
    info = fake.identify()
    swapped = (replace(info.chips[0], present=False), replace(info.chips[1], present=True), *info.chips[2:])
    monkeypatch.setattr(fake, "identify", lambda: replace(info, chips=swapped))
    with pytest.raises(
        ChipMissing, match=r"from chip 0 on, so chip 1 cannot be used while chip 0 is missing: connect it"
    ):
        SpidrBoard("camera", name="spidr", chips=1, control=lambda: fake).connect()


def test_monitors_are_read_when_asked(spidr):
    assert spidr.monitor.fpga_temperature.get() == 60.25
    assert spidr.monitor.bias.read()["spidr_monitor_bias"]["value"] == pytest.approx(50.0, abs=0.1)
    with pytest.raises(ValueError, match="cannot be set"):
        spidr.monitor.bias.put(12.0)


def test_the_shutter_opens_and_closes_and_knows_two_words(spidr, fake_board):
    spidr.shutter.set("open").wait(60)
    assert fake_board.shutter_open.is_set()
    assert spidr.shutter.state.get() == "open"
    spidr.shutter.set("closed").wait(60)
    assert fake_board.calls == ["open_shutter", "close_shutter"]
    with pytest.raises(ValueError, match="one of open, closed"):
        spidr.shutter.set("ajar")


def test_a_summary_names_board_and_chips(spidr):
    text = spidr.summary()
    assert "127.0.0.1:50000" in text
    assert "W0000_A01" in text
    assert "420" in text
    assert "connected" in repr(spidr)


def test_the_dacs_explain_themselves(spidr):
    text = spidr.chip0.dacs.summary()
    assert "vthreshold_fine" in text
    assert "0-511" in text


def test_board_error_is_a_control_error():
    assert issubclass(BoardError, ControlError)


def test_a_field_of_a_word_is_read_and_scanned_like_any_axis(RE, checker, spidr):
    polarity = spidr.chip0.config.general.polarity
    words = ["electrons (negative)", "holes (positive)"]
    RE(bp.list_scan([], polarity, words))
    assert [event[polarity.name] for event in checker.run.stream("primary")] == words
    assert checker.run.start["hints"]["dimensions"] == [([polarity.name], "primary")]
    assert RE(bps.rd(polarity)).plan_result == "holes (positive)"
    assert RE(bps.rd(spidr.monitor.fpga_temperature)).plan_result == 60.25


def test_a_board_is_connected_once_it_answered_and_until_the_line_is_lost(spidr, fake_board):
    assert not spidr.connected
    spidr.wait_for_connection()
    assert spidr.connected
    assert spidr.chip0.dacs.vfbk.connected
    fake_board.off = True
    with pytest.raises(SpidrRefused):
        spidr.chip0.dacs.vfbk.get()
    assert not spidr.connected
    assert "line lost" in repr(spidr)
    fake_board.off = False
    spidr.chip0.dacs.vfbk.get()
    assert spidr.connected


def test_a_board_that_is_off_can_be_looked_at(spidr, fake_board):
    fake_board.off = True
    assert spidr.describe()
    assert spidr.describe_configuration()
    for text in (repr(spidr), repr(spidr.bias), repr(spidr.monitor), repr(spidr.chip0.matrix), repr(spidr.shutter)):
        assert text
    with pytest.raises(SpidrRefused):
        spidr.summary()


def test_a_second_summary_asks_again(spidr, fake_board):
    spidr.summary()
    fake_board.celsius = 55.5
    assert "55.5" in spidr.summary()
