"""A configuration is read whole, and applied whole or not at all, against a simulated board with faults."""

import threading
import time
from collections.abc import Callable, Iterator
from itertools import pairwise

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ophyd_timepix.config import BiasConfig, BoardConfig, ChipConfig, TriggerSettings, diff
from ophyd_timepix.control import (
    Board,
    BoardError,
    ChipMissing,
    ConnectionLost,
    ControlError,
    LimitError,
    ReadBackError,
    SpidrClient,
)
from ophyd_timepix.control.configuration import Applied, ApplyError, apply_configuration, read_configuration
from ophyd_timepix.protocol import Command, Dac, PixelMatrix, PllConfig
from ophyd_timepix.protocol.registers import BIAS_TOLERANCE_V
from spidr_sim.board import Board as SimulatedBoard
from spidr_sim.faults import Faults
from spidr_sim.tcp import TcpServer
from tests.config.settings import biases, board_config, chip_config, chip_configs, matrix, triggers, words32
from tests.sim.board_doubles import RecordingStreams, StandingClock

COUNTS_PER_S = 40_000_000


class RunningClock(StandingClock):
    """Time that runs only while somebody waits for it: the bias of the simulated board follows."""

    def wait(self, event: threading.Event, seconds: float) -> bool:
        self.now += int(seconds * COUNTS_PER_S)
        return event.is_set()


@pytest.fixture
def clock() -> RunningClock:
    return RunningClock()


@pytest.fixture
def faults() -> Faults:
    return Faults()


@pytest.fixture
def server(simulated: SimulatedBoard, faults: Faults) -> Iterator[TcpServer]:
    with TcpServer(simulated, faults=faults) as server:
        yield server
    assert server.failure is None


@pytest.fixture
def board(client: SpidrClient, clock: RunningClock) -> Iterator[Board]:
    board = Board(client, clock=clock.seconds, wait=clock.wait)
    yield board
    board.close()


@pytest.fixture
def other(server: TcpServer, client: SpidrClient) -> Iterator[Board]:
    """Another program, which knows nothing of what the first has set. The board serves one at a time."""
    with SpidrClient(*server.address, timeout_s=10.0) as second:
        yield Board(second)


def state_of(simulated: SimulatedBoard) -> object:
    """All that applying touches, as the board itself holds it."""
    chips = [(dict(chip.dacs), dict(chip.words), chip.test_columns, chip.codes.tobytes()) for chip in simulated.chips]
    filters = [network.header_filter for network in simulated.networks]
    registers = dict(simulated.registers)
    return chips, filters, {key: value for key, value in registers.items() if value}, simulated.shutter.words


# --- read and apply ---------------------------------------------------------------------------------------------------
def test_what_was_applied_is_read_again(board: Board, client: SpidrClient, other: Board):
    config = board_config(2)
    applied = apply_configuration(board, config)
    assert diff(config, read_configuration(board)) == ()
    client.close()
    assert diff(config, read_configuration(other)) == ()
    other.close()
    assert len(applied.changed) + applied.unchanged == 2 * 25 + 4
    assert diff(applied.before, config)


def test_applying_again_writes_nothing(board: Board):
    config = board_config(1)
    apply_configuration(board, config)
    applied = apply_configuration(board, config)
    assert applied.changed == ()
    assert str(applied) == "0 settings changed; 29 were right already"


def test_one_changed_dac_is_the_one_difference_and_the_one_thing_written(board: Board):
    config = board_config(2)
    apply_configuration(board, config)
    board.chip(1).set_dac(Dac.VTHRESHOLD_FINE, 17)
    (only,) = diff(read_configuration(board), config)
    assert (only.path, only.left, only.right) == ("chip 1 dacs.vthreshold_fine", 17, 423)
    assert apply_configuration(board, config).changed == ("chip 1 dacs.vthreshold_fine",)


def test_one_changed_pixel_is_named(board: Board):
    config = board_config(1)
    apply_configuration(board, config)
    codes = config.chips[0].matrix.codes()
    codes[200, 3] ^= 1
    board.chip(0).upload_matrix(PixelMatrix.from_codes(codes))
    (only,) = diff(config, read_configuration(board, [0]))
    assert only.path == "chip 0 matrix (1 pixels, the first at column 200, row 3)"


def test_what_is_left_out_stays(board: Board, simulated: SimulatedBoard):
    chip = chip_config()
    apply_configuration(board, BoardConfig(chips=(ChipConfig(dacs=chip.dacs, matrix=chip.matrix),)))
    now = read_configuration(board, [0]).chips[0]
    assert (now.dacs, now.matrix) == (chip.dacs, chip.matrix)
    before = state_of(simulated)
    assert apply_configuration(board, BoardConfig()) == Applied((), 0, read_configuration(board, []))
    assert state_of(simulated) == before


def test_order_is_words_dacs_pixels_shutter_clock_tdc_and_the_bias_last(board: Board):
    changed = apply_configuration(board, board_config(1)).changed
    dacs = tuple(f"chip 0 dacs.{dac.name.lower()}" for dac in Dac)
    words = ("chip 0 general", "chip 0 pll", "chip 0 output_block")
    pixels = ("chip 0 matrix", "chip 0 test_columns", "chip 0 test_pulse", "chip 0 header_filter")
    assert changed == (*words, *dacs, *pixels, "trigger", "external_clock", "tdc", "bias")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=8)
@given(data=st.data())
def test_any_configuration_comes_back_as_it_was_applied(board: Board, data: st.DataObject):
    chip = data.draw(chip_configs(0, complete=True, name="").map(with_known_phases))
    trigger = data.draw(triggers).changed(delay_ns=data.draw(st.integers(0, 1000)) * 25)
    config = BoardConfig(
        chips=(chip,), bias=data.draw(biases), trigger=trigger, external_clock=data.draw(st.booleans()),
        tdc=data.draw(words32),
    )  # fmt: skip
    apply_configuration(board, config)
    assert diff(config, read_configuration(board, [0])) == ()


def with_known_phases(chip: ChipConfig) -> ChipConfig:
    """The simulated board takes only PLL words whose column phases are known."""
    return chip.changed(pll=PllConfig.from_word((chip.pll or PllConfig()).word & ~0x1C0 | 4 << 6))


# --- the bias ---------------------------------------------------------------------------------------------------------
def test_bias_is_ramped_and_arrives(board: Board, streams: RecordingStreams):
    apply_configuration(board, BoardConfig(bias=BiasConfig(enabled=True, volts=80.0)))
    assert board.bias_v() == pytest.approx(80.0, abs=0.5)
    steps = [ramp.target_v for (ramp,) in streams.named("bias")]  # type: ignore[attr-defined]
    assert max(after - before for before, after in pairwise(steps)) <= 3.0


def test_bias_that_is_off_keeps_its_voltage_for_later(board: Board):
    config = BoardConfig(bias=BiasConfig(enabled=False, volts=70.0))
    assert apply_configuration(board, config).changed == ("bias",)
    assert read_configuration(board, []).bias == config.bias
    apply_configuration(board, BoardConfig(bias=BiasConfig(enabled=False)))
    assert read_configuration(board, []).bias == config.bias


def test_bias_nobody_set_is_what_the_adc_reads(board: Board):
    bias = read_configuration(board, []).bias
    assert bias is not None
    assert bias.enabled
    assert bias.volts == pytest.approx(50.0, abs=BIAS_TOLERANCE_V)


def test_the_line_is_free_while_the_bias_ramps(board: Board, clock: RunningClock, monkeypatch: pytest.MonkeyPatch):
    """Somebody else asks in each pause of the ramp, from another thread, and is answered."""
    asked: list[float] = []

    def wait(event: threading.Event, seconds: float) -> bool:
        reader = threading.Thread(target=lambda: asked.append(board.temperatures().chip))
        reader.start()
        reader.join(timeout=10)
        return clock.wait(event, seconds)

    monkeypatch.setattr(board, "_wait", wait)
    apply_configuration(board, board_config(1).changed(bias=BiasConfig(enabled=True, volts=53.0)))
    assert asked


# --- refused before anything is sent ----------------------------------------------------------------------------------
def test_a_second_configuration_is_refused_while_one_is_applied(
    board: Board, clock: RunningClock, monkeypatch: pytest.MonkeyPatch
):
    """Each would end the other's ramp, and both would put back what the other wrote."""
    first = board_config(1).changed(bias=BiasConfig(enabled=True, volts=53.0))
    second = board_config(1).changed(tdc=9)
    refused: list[str] = []

    def wait(event: threading.Event, seconds: float) -> bool:
        with pytest.raises(ControlError, match=r"another configuration is being applied; nothing was sent") as error:
            apply_configuration(board, second)
        refused.append(str(error.value))
        return clock.wait(event, seconds)

    with monkeypatch.context() as patched:
        patched.setattr(board, "_wait", wait)
        apply_configuration(board, first)
    assert refused
    assert not diff(read_configuration(board, [0]), first)
    assert "tdc" in apply_configuration(board, second).changed


def test_settings_of_another_chip_are_refused_unless_told(board: Board, simulated: SimulatedBoard):
    config = BoardConfig(chips=(chip_config(1).changed(index=0),))
    before = state_of(simulated)
    with pytest.raises(LimitError, match=r"settings are for chip W0026_J06, but chip 0 is W0026_K06.*nothing was sent"):
        apply_configuration(board, config)
    assert state_of(simulated) == before
    apply_configuration(board, config, any_chip=True)
    assert state_of(simulated) != before


def test_a_chip_that_is_missing_is_told_before_anything_is_sent(board: Board, simulated: SimulatedBoard):
    before = state_of(simulated)
    with pytest.raises(ChipMissing, match="chip 2: missing"):
        apply_configuration(board, BoardConfig(chips=(chip_config(0), chip_config(2))))
    assert state_of(simulated) == before


def test_a_board_that_holds_nonsense_is_told(board: Board, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(board.chip(0), "dac", lambda dac: 511)
    with pytest.raises(ReadBackError, match=r"holds a setting that cannot be: dacs: .*ibias_preamp_on is 0 to 255"):
        read_configuration(board, [0])


# --- the transaction --------------------------------------------------------------------------------------------------
SETTERS = {
    "general": "SET_GENCONFIG",
    "pll": "SET_PLLCONFIG",
    "output_block": "SET_OUTBLOCKCONFIG",
    **{f"dacs.{dac.name.lower()}": f"SET_DAC:{number}" for number, dac in enumerate(Dac, 1)},
    "matrix": "SET_PIXCONF:50",
    "test_columns": "SET_CTPR",
    "test_pulse": "SET_TPNUMBER",
    "header_filter": "SET_HEADERFILTER",
}
FAILURES = {
    **{f"chip 0 {part}": f"error-reply:{setter}" for part, setter in SETTERS.items()},
    "trigger": "error-reply:SET_TRIGCONFIG",
    "external_clock": "error-reply:SET_SPIDRREG:1",
    "tdc": "error-reply:SET_SPIDRREG:2",
    "bias": "error-reply:SET_BIAS_ADJUST:5",
}


def test_every_item_has_its_failure(board: Board):
    assert apply_configuration(board, board_config(1)).changed == tuple(FAILURES)


@pytest.mark.parametrize("item", FAILURES)
def test_a_failure_at_any_item_brings_all_old_settings_back(
    board: Board, simulated: SimulatedBoard, faults: Faults, item: str
):
    before = state_of(simulated)
    faults.arm(FAILURES[item])
    with pytest.raises(ApplyError, match="all settings are as they were before") as failed:
        apply_configuration(board, board_config(1))
    assert failed.value.item == item
    assert f": {item} could not be set: " in str(failed.value)
    assert isinstance(failed.value.cause, BoardError)
    assert failed.value.restored
    assert state_of(simulated) == before


def test_a_failure_at_the_second_chip_brings_the_first_back_too(
    board: Board, simulated: SimulatedBoard, faults: Faults
):
    before = state_of(simulated)
    faults.arm("error-reply:SET_DAC:20")
    with pytest.raises(ApplyError, match=r"chip 1 dacs\.ibias_preamp_off could not be set"):
        apply_configuration(board, board_config(2))
    assert state_of(simulated) == before


def test_a_value_that_reads_back_otherwise_is_a_failure_like_any_other(
    board: Board, simulated: SimulatedBoard, monkeypatch: pytest.MonkeyPatch
):
    before = state_of(simulated)
    chip, dac = board.chip(0), board.chip(0).dac
    monkeypatch.setattr(chip, "dac", lambda which: 200 if which is Dac.VFBK and dac(which) == 130 else dac(which))
    with pytest.raises(ApplyError, match=r"VFBK was set to 130 and reads back 200; .*all settings are as they were"):
        apply_configuration(board, board_config(1))
    assert state_of(simulated) == before


def test_old_settings_that_do_not_come_back_are_named(board: Board, faults: Faults):
    faults.arm("error-reply:SET_DAC:3:2")
    with pytest.raises(
        ApplyError, match=r"1 old settings could not be set again \(chip 0 dacs\.vpreamp_ncas\)"
    ) as failed:
        apply_configuration(board, board_config(1))
    assert not failed.value.restored
    assert failed.value.not_restored == ("chip 0 dacs.vpreamp_ncas",)
    assert not failed.value.connection_lost


def test_ctrl_c_in_the_middle_brings_the_old_settings_back(
    board: Board, simulated: SimulatedBoard, monkeypatch: pytest.MonkeyPatch
):
    before = state_of(simulated)
    upload, uploads = board.chip(0).upload_matrix, []

    def interrupted(pixels: PixelMatrix) -> None:
        uploads.append(pixels)
        upload(pixels)
        if len(uploads) == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(board.chip(0), "upload_matrix", interrupted)
    with pytest.raises(KeyboardInterrupt):
        apply_configuration(board, board_config(1))
    assert state_of(simulated) == before


# --- the connection ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "where", ["SET_PLLCONFIG", "SET_DAC:9", "SET_PIXCONF:30", "GET_PIXCONF:300", "SET_BIAS_ADJUST:5"]
)
@pytest.mark.parametrize("fault", ["reset", "wrong-device"])
def test_a_connection_that_is_lost_and_found_again_brings_the_old_settings_back(
    board: Board, simulated: SimulatedBoard, faults: Faults, fault: str, where: str
):
    before = state_of(simulated)
    faults.arm(f"{fault}:{where}")
    with pytest.raises(ApplyError, match="the board is there again and all settings are as they were") as failed:
        apply_configuration(board, board_config(1))
    assert failed.value.connection_lost
    assert failed.value.restored
    assert state_of(simulated) == before


def test_a_board_that_stays_away_gets_the_old_settings_when_it_is_back(
    board: Board, simulated: SimulatedBoard, faults: Faults
):
    """It says so; the memory of settings holds the old ones; the next connection sets them."""
    before = state_of(simulated)
    faults.arm("unreachable=3600:SET_PIXCONF:30")
    with pytest.raises(
        ApplyError, match=r"connection was lost in the middle, .* the old ones are remembered"
    ) as failed:
        apply_configuration(board, board_config(1))
    assert isinstance(failed.value.cause, ConnectionLost)
    assert not failed.value.restored
    assert {"chip 0 general", "chip 0 matrix", "trigger"} <= set(failed.value.not_restored)
    assert state_of(simulated) != before
    memory = board.client.memory
    assert memory.last(Command.SET_GENCONFIG, 0) == (0x048,)
    assert memory.last(Command.SET_DAC, 0, Dac.VFBK.code) == (Dac.VFBK.code << 16 | Dac.VFBK.default,)
    assert not memory.matrices()[0].codes.any()
    faults.clear()
    once_there(board.identify)
    assert state_of(simulated) == before


def test_new_settings_that_a_board_still_has_after_a_failure_are_no_sign_that_it_was_restarted(
    board: Board, faults: Faults
):
    losses = board.losses
    faults.arm("unreachable=3600:SET_DAC:9")
    with pytest.raises(ApplyError):
        apply_configuration(board, board_config(1))
    faults.clear()
    once_there(board.identify)
    assert board.last_restore is not None
    assert (board.last_restore.lost, board.losses) == ((), losses)
    assert "chip 0 DAC IBIAS_PREAMP_ON" in board.last_restore.undone


def once_there(ask: Callable[[], object]) -> None:
    """Ask until the board listens again: it is told to from this thread, and does so in its own."""
    deadline_s = time.monotonic() + 60
    while True:
        try:
            ask()
            return
        except ConnectionLost:
            if time.monotonic() > deadline_s:
                raise


def test_a_board_that_lost_its_power_in_the_middle_has_the_old_settings_again(
    board: Board, simulated: SimulatedBoard, faults: Faults
):
    """Also those which this configuration did not touch yet when it happened."""
    old = board_config(1).changed(bias=None, chips=(chip_config(0, seed=5).changed(matrix=matrix(5)),))
    apply_configuration(board, old)
    before = state_of(simulated)
    faults.arm("power-cycle:SET_DAC:9")
    with pytest.raises(ApplyError, match="the board is there again"):
        apply_configuration(board, board_config(1).changed(trigger=TriggerSettings(count=9)))
    assert state_of(simulated) == before
