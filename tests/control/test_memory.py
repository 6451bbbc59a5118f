"""What is remembered of a line: settings, not actions; and what a reset makes forget."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ophyd_timepix.control.memory import SETTING_REGISTERS, SETTINGS, SPECIAL, SettingsMemory
from ophyd_timepix.protocol import Command, Dac, PixelMatrix, Register, Request, pack_dac
from ophyd_timepix.protocol.pixel_matrix import CODE_MAX, pack

VFBK_7 = Request(Command.SET_DAC, 0, (pack_dac(Dac.VFBK.code, 7),))
VFBK_9 = Request(Command.SET_DAC, 0, (pack_dac(Dac.VFBK.code, 9),))
FILTER = Request(Command.SET_HEADERFILTER, 0, (0xFFFF,))
COLUMN = Request(Command.SET_PIXCONF, 0, (5,), pack(np.full(256, 3, np.uint8)))

REMEMBERED_ELSEWHERE = {Command.SET_PIXCONF}
NOT_REMEMBERED = {
    Command.SET_BUSY: "flow control of a moment",
    Command.SET_LOGLEVEL: "a debugging aid",
    Command.SET_TIMEOFDAY: "true only when it is sent",
    Command.SET_DACS_DFLT: "an action",
    Command.SET_CTPR_LEON: "an action",
    Command.SET_SENSEDAC: "a measurement's route, chosen anew each time",
    Command.SET_TIMER: "an action",
    Command.SET_GPIO: "pins are not this program's",
    Command.SET_GPIO_PIN: "pins are not this program's",
    Command.SET_CHIPBOARDID: "identity",
    Command.SET_BOARDID: "identity",
}


def told(*requests: Request) -> SettingsMemory:
    memory = SettingsMemory()
    for request in requests:
        memory.asked(request)
        memory.sent(request)
        memory.answered(request, (0,), 1, 2)
    return memory


def values(memory: SettingsMemory) -> list[tuple[Command, tuple[int, ...]]]:
    return [(item.setting.setter, item.ints) for item in memory.items()]


def test_every_command_that_sets_is_remembered_or_left_out_for_a_reason():
    known = {setting.setter for setting in (*SETTINGS, *SPECIAL)} | REMEMBERED_ELSEWHERE
    setters = {command for command in Command if command.name.startswith("SET_")}
    assert setters - known == set(NOT_REMEMBERED)


def test_last_value_of_each_setting_is_remembered():
    memory = told(VFBK_7, Request(Command.SET_DAC, 1, VFBK_7.ints), VFBK_9)
    assert values(memory) == [(Command.SET_DAC, VFBK_9.ints), (Command.SET_DAC, VFBK_7.ints)]
    assert memory.last(Command.SET_DAC, 0, Dac.VFBK.code) == VFBK_9.ints
    assert memory.last(Command.SET_DAC, 2, Dac.VFBK.code) is None


@pytest.mark.parametrize(
    "action", [Command.AUTOTRIG_START, Command.DDRIVEN_READOUT, Command.RESTART_TIMERS, Command.T0_SYNC, Command.NOP]
)
def test_actions_are_not_remembered(action: Command):
    assert len(told(Request(action))) == 0


def test_registers_that_count_or_command_are_not_remembered():
    requests = [Request(Command.SET_SPIDRREG, 0, (register.address, 1)) for register in Register]
    assert {item.selector for item in told(*requests).items()} == SETTING_REGISTERS


def test_request_without_an_answer_is_in_doubt_until_one_comes():
    memory = told(VFBK_7)
    memory.sent(VFBK_9)
    assert memory.in_doubt(Command.SET_DAC)
    assert memory.in_doubt(Command.SET_DAC, device=0, selector=Dac.VFBK.code)
    assert not memory.in_doubt(Command.SET_DAC, device=1)
    assert values(memory) == [(Command.SET_DAC, VFBK_7.ints)]
    memory.sent(VFBK_7)
    memory.answered(VFBK_7, (0,), 1, 2)
    assert not memory.in_doubt(Command.SET_DAC)


def test_refused_request_changes_nothing():
    memory = told(VFBK_7)
    memory.sent(VFBK_9)
    memory.refused(VFBK_9)
    assert not memory.in_doubt(Command.SET_DAC)
    assert values(memory) == [(Command.SET_DAC, VFBK_7.ints)]


def test_wanted_value_is_remembered_without_being_sent():
    memory = told(VFBK_7)
    memory.want(VFBK_9)
    assert values(memory) == [(Command.SET_DAC, VFBK_9.ints)]
    assert memory.in_doubt(Command.SET_DAC)


def test_nothing_is_noted_while_frozen():
    memory = told(VFBK_7)
    with memory.frozen():
        memory.sent(VFBK_9)
        memory.answered(VFBK_9, (0,), 1, 2)
    assert values(memory) == [(Command.SET_DAC, VFBK_7.ints)]
    assert not memory.in_doubt(Command.SET_DAC)


@pytest.mark.parametrize(
    ("reset", "left"),
    [
        (Request(Command.RESET_MODULE), set()),
        (Request(Command.RESET_DEVICE, 0), {Command.SET_HEADERFILTER}),
        (Request(Command.RESET_DEVICES), {Command.SET_HEADERFILTER}),
        (Request(Command.TPX_POWER_ENA, 0, (0,)), {Command.SET_HEADERFILTER}),
        (Request(Command.SET_DACS_DFLT, 0), {Command.SET_HEADERFILTER, Command.SET_PIXCONF}),
        (Request(Command.RESET_DEVICE, 1), {Command.SET_DAC, Command.SET_HEADERFILTER, Command.SET_PIXCONF}),
        (Request(Command.RESET_PIXELS, 0), {Command.SET_DAC, Command.SET_HEADERFILTER, Command.SET_PIXCONF}),
        (Request(Command.TPX_POWER_ENA, 0, (1,)), {Command.SET_DAC, Command.SET_HEADERFILTER, Command.SET_PIXCONF}),
    ],
    ids=lambda value: value.command.name if isinstance(value, Request) else None,
)
def test_reset_makes_forget_what_it_resets_when_it_is_asked_for(reset: Request, left: set[Command]):
    memory = told(VFBK_7, FILTER, COLUMN)
    memory.asked(reset)
    found = {command for command, _ in values(memory)} | ({Command.SET_PIXCONF} if memory.matrices() else set())
    assert found == left


def test_column_bit_set_alone_leaves_nothing_to_be_said_of_the_register():
    memory = told(Request(Command.SET_CTPR, 0, (0,), bytes(32)), Request(Command.CONFIG_CTPR, 0, (1,)))
    assert values(memory) == []


@pytest.mark.parametrize("command", [Command.RESET_TIMER, Command.RESTART_TIMERS, Command.SET_TIMER])
def test_timer_readings_hold_until_timers_are_set(command: Command):
    memory = SettingsMemory()
    memory.answered(Request(Command.GET_TIMER, 1), (5, 1), 10, 30)
    assert memory.timers()[1].counts == (1 << 32) + 5
    assert memory.timers()[1].host_ns == 20
    memory.asked(Request(command, 0, (0, 0) if command is Command.SET_TIMER else (0,)))
    assert memory.timers() == {}


@given(st.integers(0, 2**32), st.lists(st.integers(0, 85), max_size=20))
def test_matrix_is_what_was_uploaded_last_column_by_column(seed: int, messages: list[int]):
    codes = np.random.default_rng(seed).integers(0, CODE_MAX + 1, (256, 256), dtype=np.uint8)
    upload = list(PixelMatrix.from_codes(codes).upload())
    memory = told(*(Request(Command.SET_PIXCONF, 0, (upload[i][0],), upload[i][1]) for i in messages))
    columns = sorted({column for i in messages for column in range(3 * i, min(3 * i + 3, 256))})
    if columns:
        matrix = memory.matrices()[0]
        assert np.flatnonzero(matrix.known).tolist() == columns
        assert np.array_equal(matrix.codes[columns], codes[columns])
    else:
        assert memory.matrices() == {}


def test_order_of_setting_again_is_that_of_the_table():
    requests = [Request(s.setter, 0, (0,)) for s in reversed(SETTINGS) if s.setter is not Command.SET_SPIDRREG]
    order = [item.setting.setter for item in told(*requests).items()]
    assert order == [s.setter for s in SETTINGS if s.setter is not Command.SET_SPIDRREG]


def test_names_are_for_people():
    register = Request(Command.SET_SPIDRREG, 0, (Register.TDC_CONTROL.address, 1))
    memory = told(VFBK_7, register, Request(Command.SET_TRIGCONFIG, 0, (4, 0, 10, 1)), FILTER)
    assert [item.name for item in memory.items()] == [
        "register TDC_CONTROL",
        "chip 0 DAC VFBK",
        "chip 0 HEADERFILTER",
        "TRIGCONFIG",
    ]
