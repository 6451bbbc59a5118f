"""Each fault by its name, as a client made of struct and socket meets it, and the board as itself again after it."""

import re
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from spidr_sim.board import Board
from spidr_sim.faults import FAULT_BY_TEXT, DataFault, Fault, Faults, parse_fault
from spidr_sim.streams import StreamCounters
from spidr_sim.tcp import TcpServer
from tests.sim.board_doubles import RecordingStreams, StandingClock
from tests.sim.raw_wire import TIMEOUT_S, Wire, message, wire_when_it_listens

GET_DEVICECOUNT, GET_DEVICEID, GET_DAC, SET_DAC, GET_REGISTER = 0x90D, 0x110, 0x11A, 0x11B, 0x783
REINIT_DEVICE, DDRIVEN_READOUT, AUTOTRIG_START, GET_TIMER = 0x126, 0x446, 0x442, 0x552
FOUR_CHIPS = (0x1090D, 20, 0, 0, b"\0\0\0\x04")
LINKS_UNLOCKED = 0x0B06


@pytest.fixture
def streams() -> RecordingStreams:
    return RecordingStreams()


@pytest.fixture
def clock() -> StandingClock:
    return StandingClock()


@pytest.fixture
def server(streams: RecordingStreams, clock: StandingClock) -> Iterator[TcpServer]:
    with TcpServer(Board(2, streams, clock)) as server:
        yield server
    assert server.failure is None


@pytest.fixture
def wire(server: TcpServer) -> Iterator[Wire]:
    wire = Wire(server.address)
    yield wire
    wire.close()


@pytest.fixture
def arm(server: TcpServer) -> Callable[[str], Fault | DataFault]:
    return server.faults.arm


def answers(wire: Wire) -> bool:
    wire.send(GET_DEVICECOUNT)
    return wire.reply() == FOUR_CHIPS


# --- replies ----------------------------------------------------------------------------------------------------------
def test_error_reply_says_the_error_word_and_the_request_is_not_carried_out(wire: Wire, arm: Callable[[str], Fault]):
    arm("error-reply=0x0506:SET_DAC")
    wire.send(SET_DAC, 1, 6 << 16 | 99)
    assert wire.reply() == (0x1011B, 20, 0x0506, 1, bytes(4))
    assert wire.get(GET_DAC, 1, 6) == (6 << 16 | 420,)
    wire.set(SET_DAC, 1, 6 << 16 | 99)


def test_short_reply_lacks_its_last_word_and_says_so(wire: Wire, arm: Callable[[str], Fault]):
    arm("short-reply:GET_SPIDRREG")
    wire.send(GET_REGISTER, 0, 0x300)
    assert wire.reply() == (0x10783, 20, 0, 0, b"\0\0\x03\0")
    assert answers(wire)


def test_short_reply_of_a_set_command_is_its_header(wire: Wire, arm: Callable[[str], Fault]):
    arm("short-reply")
    wire.send(SET_DAC, 0, 6 << 16 | 99)
    assert wire.reply() == (0x1011B, 16, 0, 0, b"")
    assert wire.get(GET_DAC, 0, 6) == (6 << 16 | 99,)


def test_long_reply_states_a_length_that_no_message_has(wire: Wire, arm: Callable[[str], Fault]):
    arm("long-reply")
    wire.send(GET_DEVICECOUNT)
    assert struct.unpack(">5I", wire.read(20)) == (0x1090D, 0x0010_0000, 0, 0, 4)
    assert answers(wire)


def test_stray_bytes_follow_the_reply(wire: Wire, arm: Callable[[str], Fault]):
    arm("stray-bytes=5")
    wire.send(GET_DEVICECOUNT)
    assert wire.reply() == FOUR_CHIPS
    assert wire.read(5) == b"\xa5" * 5
    assert answers(wire)


def test_split_reply_comes_in_parts_cut_within_header_and_payload(wire: Wire, arm: Callable[[str], Fault]):
    arm("split-reply=0.2")
    wire.send(GET_DEVICECOUNT)
    parts = []
    while sum(map(len, parts)) < 20:
        parts.append(wire.socket.recv(4096))
    assert len(parts) > 1
    assert b"".join(parts) == struct.pack(">5I", 0x1090D, 20, 0, 0, 4)


def test_merged_replies_are_the_reply_and_a_copy_in_one_piece(wire: Wire, arm: Callable[[str], Fault]):
    arm("merged-replies")
    wire.send(GET_DEVICECOUNT)
    assert (wire.reply(), wire.reply()) == (FOUR_CHIPS, FOUR_CHIPS)
    assert answers(wire)


def test_stalled_request_gets_no_reply_and_the_next_one_does(wire: Wire, arm: Callable[[str], Fault]):
    arm("stalled:GET_DEVICEID")
    wire.send(GET_DEVICEID)
    assert answers(wire)


def test_slow_reply_comes_late(wire: Wire, arm: Callable[[str], Fault]):
    arm("slow-reply=0.2")
    before_s = time.monotonic()
    assert answers(wire)
    assert time.monotonic() - before_s >= 0.2


def test_slow_reply_keeps_nobody_from_stopping_the_board(wire: Wire, server: TcpServer, arm: Callable[[str], Fault]):
    arm("slow-reply=3600")
    wire.send(GET_DEVICECOUNT)
    end_s = time.monotonic() + TIMEOUT_S
    while server.faults.armed and time.monotonic() < end_s:
        pass  # until the board has taken the request
    server.stop()
    assert wire.socket.recv(100) == b""


def test_wrong_device_and_wrong_command_are_named_in_the_reply(wire: Wire, arm: Callable[[str], Fault]):
    arm("wrong-device:any")
    wire.send(GET_DAC, 1, 6)
    assert wire.reply() == (0x1011A, 20, 0, 2, struct.pack(">I", 6 << 16 | 420))
    arm("wrong-command:any")
    wire.send(GET_DAC, 1, 6)
    assert wire.reply() == (0x1011B, 20, 0, 1, struct.pack(">I", 6 << 16 | 420))
    assert answers(wire)


# --- the line ---------------------------------------------------------------------------------------------------------
def test_reset_ends_the_connection_after_the_request_was_carried_out(
    wire: Wire, server: TcpServer, arm: Callable[[str], Fault]
):
    arm("reset:SET_DAC")
    wire.send(SET_DAC, 0, 6 << 16 | 99)
    with pytest.raises(ConnectionResetError):
        wire.read(1)
    again = Wire(server.address)
    assert again.get(GET_DAC, 0, 6) == (6 << 16 | 99,)
    again.close()


def test_half_open_connection_is_silent_and_a_new_one_works(wire: Wire, server: TcpServer, arm: Callable[[str], Fault]):
    arm("half-open:any")
    wire.send(SET_DAC, 0, 6 << 16 | 99)
    again = Wire(server.address)
    assert again.get(GET_DAC, 0, 6) == (6 << 16 | 420,)
    wire.send(GET_DEVICECOUNT)
    assert answers(again)
    wire.socket.setblocking(False)
    with pytest.raises(BlockingIOError):
        wire.socket.recv(1)
    again.close()


def test_unreachable_board_refuses_for_a_while_and_keeps_its_state(
    wire: Wire, server: TcpServer, arm: Callable[[str], Fault]
):
    wire.set(SET_DAC, 0, 6 << 16 | 99)
    before_s = time.monotonic()
    arm("unreachable=0.2")
    with pytest.raises(ConnectionResetError):
        wire.read(1)
    again = wire_when_it_listens(server.address)
    assert time.monotonic() - before_s >= 0.2
    assert again.get(GET_DAC, 0, 6) == (6 << 16 | 99,)
    again.close()


def test_clear_opens_the_port_at_once(wire: Wire, server: TcpServer, arm: Callable[[str], Fault]):
    arm("unreachable=3600:GET_DEVICECOUNT")
    wire.send(GET_DEVICECOUNT)
    with pytest.raises(ConnectionResetError):
        wire.read(1)
    with pytest.raises(ConnectionRefusedError):
        Wire(server.address)
    server.faults.clear()
    again = wire_when_it_listens(server.address)
    assert answers(again)
    again.close()


def test_stopping_while_the_port_is_closed_leaves_nothing(wire: Wire, server: TcpServer, arm: Callable[[str], Fault]):
    arm("reboot=3600")
    with pytest.raises(ConnectionResetError):
        wire.read(1)
    arm("reboot=3600")
    server.stop()
    assert not [thread for thread in threading.enumerate() if thread.name == "spidr-sim-tcp"]


# --- the board --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("spec", ["power-cycle", "reboot=0.05", "power-cycle:GET_DEVICECOUNT", "reboot=0:any"])
def test_board_that_lost_its_power_has_lost_its_state(
    wire: Wire, server: TcpServer, clock: StandingClock, streams: RecordingStreams, spec: str
):
    wire.set(SET_DAC, 0, 6 << 16 | 99)
    wire.set(DDRIVEN_READOUT, 0)
    wire.set(AUTOTRIG_START, 0)
    clock.now = 40_000
    server.faults.arm(spec)
    with pytest.raises(ConnectionResetError):
        answers(wire)
    again = wire_when_it_listens(server.address)
    assert again.get(GET_DAC, 0, 6) == (6 << 16 | 420,)
    assert again.get(GET_TIMER, 0) == (0, 0)
    assert streams.named("shutter") == [(True, 0), (False, 40_000)]
    again.close()


def test_chip_that_is_gone_is_absent_until_clear(wire: Wire, server: TcpServer, arm: Callable[[str], Fault]):
    arm("chip-gone=1")
    assert wire.get(GET_DEVICEID, 1) == (0x7FFF_FFFF,)
    assert wire.get(GET_REGISTER, 0, 0x304) == (0x304, 0)
    for code, words in ((GET_DAC, (6,)), (REINIT_DEVICE, ())):
        wire.send(code, 1, *words)
        assert wire.reply()[2] == LINKS_UNLOCKED
    assert wire.get(GET_DAC, 0, 6) == (6 << 16 | 420,)
    server.faults.clear()
    assert wire.get(GET_DAC, 1, 6) == (6 << 16 | 420,)
    assert wire.get(GET_REGISTER, 0, 0x304) == (0x304, 0x00FF_0000)


def test_chip_that_goes_during_a_run_is_silent_at_once(wire: Wire, streams: RecordingStreams, server: TcpServer):
    wire.set(AUTOTRIG_START, 0)
    server.faults.arm("chip-gone=1:GET_TIMER:2")
    wire.get(GET_TIMER, 0)
    assert all(settings.alive for _, settings in streams.named("chip"))
    wire.get(GET_TIMER, 0)
    index, settings = streams.named("chip")[-1]
    assert (index, settings.alive) == (1, False)


def test_unlocked_link_is_locked_again_by_a_new_initialisation(wire: Wire, arm: Callable[[str], Fault]):
    arm("link-unlocked=0")
    assert wire.get(GET_REGISTER, 0, 0x300) == (0x300, 0x00FE_0000)
    wire.send(GET_DAC, 0, 6)
    assert wire.reply()[2] == LINKS_UNLOCKED
    wire.set(REINIT_DEVICE, 0)
    assert wire.get(GET_REGISTER, 0, 0x300) == (0x300, 0x00FF_0000)
    assert wire.get(GET_DAC, 0, 6) == (6 << 16 | 420,)


# --- the data ---------------------------------------------------------------------------------------------------------
def test_fault_of_the_data_is_told_to_the_data_side_before_the_next_request_is_answered(
    wire: Wire, server: TcpServer, streams: RecordingStreams
):
    server.faults.arm("truncate=5:3")
    assert answers(wire)
    assert [str(fault) for (fault,) in streams.named("fault")] == ["truncate=5:3"]
    server.faults.clear()
    assert answers(wire)
    assert streams.named("clear_faults") == [()]


def test_counters_that_are_set_to_0_start_near_their_end(wire: Wire, server: TcpServer, streams: RecordingStreams):
    server.faults.arm("counter-roll=5")
    assert wire.get(GET_REGISTER, 0, 0x384) == (0x384, 0xFFFF_FFFB)
    streams.totals = StreamCounters(4, (6, 0, 0, 0), 5, 7)
    assert [wire.get(GET_REGISTER, 0, address)[1] for address in (0x384, 0x340, 0x2F8, 0x38C)] == [0xFFFF_FFFF, 1, 0, 2]
    wire.set(0x784, 0, 0x384, 0)
    assert wire.get(GET_REGISTER, 0, 0x384) == (0x384, 0xFFFF_FFFB)
    wire.set(0x558, 0)
    assert [wire.get(GET_REGISTER, 0, address)[1] for address in (0x384, 0x340)] == [0xFFFF_FFFB] * 2
    server.faults.clear()
    wire.set(0x558, 0)
    assert wire.get(GET_REGISTER, 0, 0x384) == (0x384, 0)


# --- when, and how often ----------------------------------------------------------------------------------------------
def errors_of(wire: Wire, code: int, n: int) -> list[int]:
    errors = []
    for _ in range(n):
        wire.send(code, 0, 6)
        errors.append(wire.reply()[2])
    return errors


def test_fault_strikes_from_the_first_such_request_on_as_often_as_told(wire: Wire, arm: Callable[[str], Fault]):
    arm("error-reply=5:GET_DAC:3:2")
    assert errors_of(wire, GET_DEVICEID, 3) == [0, 0, 0]
    assert errors_of(wire, GET_DAC, 6) == [0, 0, 5, 5, 0, 0]


def test_fault_with_0_times_strikes_until_clear(wire: Wire, server: TcpServer, arm: Callable[[str], Fault]):
    arm("error-reply=5:any:2:0")
    assert errors_of(wire, GET_DAC, 4) == [0, 5, 5, 5]
    assert [str(fault) for fault in server.faults.armed] == ["error-reply=0x0005:any:2:0"]
    server.faults.clear()
    assert errors_of(wire, GET_DAC, 2) == [0, 0]
    assert server.faults.armed == ()


def test_request_without_reply_passes_the_faults_of_replies(wire: Wire, arm: Callable[[str], Fault]):
    arm("error-reply=5:SET_DAC")
    wire.socket.sendall(message(0x0008_0000 | SET_DAC, 0, 6 << 16 | 99))
    assert wire.get(GET_DAC, 0, 6) == (6 << 16 | 99,)
    assert errors_of(wire, SET_DAC, 1) == [5]


def test_faults_may_be_armed_before_the_board_is_served():
    faults = Faults(["chip-gone=0", "error-reply=5:GET_DEVICECOUNT"])
    with TcpServer(Board(1, RecordingStreams(), StandingClock()), faults=faults) as server:
        wire = Wire(server.address)
        assert wire.get(GET_DEVICEID, 0) == (0x7FFF_FFFF,)
        wire.send(GET_DEVICECOUNT)
        assert wire.reply()[2] == 5
        wire.close()


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("fire", "there is no fault 'fire'; there are: error-reply, short-reply"),
        ("stalled:GET_COFFEE", "no command 'GET_COFFEE'"),
        ("stalled:any:0", "FIRST is 1 or more"),
        ("stalled:any:x", "'x' is no number of times"),
        ("stalled:any:1:1:1", "too many parts"),
        ("stalled=3", "takes no value"),
        ("slow-reply=soon", "'soon' is no number"),
        ("slow-reply=-1", "slow-reply is 0 to 3600"),
        ("chip-gone=4", "chip-gone is 0 to 3"),
        ("error-reply=0", "error-reply is 1 to"),
        ("drop=0", "drop is 1 to"),
        ("drop=many", "'many' is no number"),
        ("drop=3:any", "'any' is no number of times"),
        ("drop=3:1:1", "too many parts; a fault of the data is"),
        ("drop-random=2", "drop-random is 0 to 1"),
        ("lost-timer=3", "takes no value"),
    ],
)
def test_text_that_names_no_fault_says_why(spec: str, said: str):
    with pytest.raises(ValueError, match=said):
        Faults().arm(spec)


@pytest.mark.parametrize("text", FAULT_BY_TEXT)
def test_every_fault_is_known_by_its_name_and_says_itself(text: str):
    fault = parse_fault(text)
    assert fault.name.meaning
    assert parse_fault(str(fault)) == fault
    counted = parse_fault(f"{text}:3" if isinstance(fault, DataFault) else f"{text}:any:2:3")
    assert counted.times == 3
    assert counted == parse_fault(str(counted))


def test_no_other_program_can_take_the_port_meanwhile(wire: Wire, server: TcpServer, arm: Callable[[str], Fault]):
    arm("unreachable=3600")
    with pytest.raises(ConnectionResetError):
        wire.read(1)
    with socket.socket() as other, pytest.raises(OSError, match="in use"):
        other.bind(server.address)


def test_the_page_on_faults_names_each_with_its_default():
    page = (Path(__file__).parents[2] / "docs/how-to/simulate-faults.md").read_text()
    rows = dict(re.findall(r"^\| `([a-z-]+)` \| ([^|]*)\|", page, re.MULTILINE))
    assert set(rows) == set(FAULT_BY_TEXT)
    for text, value in rows.items():
        default = str(parse_fault(text)).partition("=")[2].partition(":")[0]
        assert value.rpartition(", ")[2].strip() == default
