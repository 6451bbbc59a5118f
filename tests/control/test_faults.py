"""Every fault by name: the documented error within its time, then work as before, in the same Python."""

import time
from dataclasses import dataclass

import pytest

from ophyd_timepix.control import (
    Board,
    BoardError,
    ChipMissing,
    ControlError,
    RestoreFailed,
    SpidrClient,
    SpidrClosed,
    SpidrGarbled,
    SpidrRefused,
    SpidrTimeout,
)
from ophyd_timepix.protocol import Command, Dac
from spidr_sim.faults import FaultName, Faults
from spidr_sim.tcp import TcpServer
from tests.control.scripted import ScriptedServer, replies, then_closes

TIMEOUT_S = 0.3
AT_MOST_S = 3.0
"""Of a machine that is busy; the client's own limit is TIMEOUT_S."""


@dataclass(frozen=True)
class Case:
    """A fault, and what the requests after it say: an error, or None where they are answered."""

    spec: str
    answers: tuple[type[ControlError] | None, ...]
    stays_connected: bool = False
    needs_clear: bool = False


CASES = (
    Case("error-reply:GET_DAC", (BoardError,), stays_connected=True),
    Case("short-reply:GET_DAC", (SpidrGarbled,)),
    Case("long-reply:GET_DAC", (SpidrGarbled,)),
    Case("stray-bytes:GET_DAC", (None, SpidrGarbled)),
    Case("split-reply:GET_DAC", (None,), stays_connected=True),
    Case("merged-replies:GET_DAC", (None, SpidrGarbled)),
    Case("stalled:GET_DAC", (SpidrTimeout,)),
    Case("slow-reply=0.6:GET_DAC", (SpidrTimeout,)),
    Case("wrong-device:GET_DAC", (SpidrGarbled,)),
    Case("wrong-command:GET_DAC", (SpidrGarbled,)),
    Case("reset:GET_DAC", (SpidrClosed,)),
    Case("half-open:GET_DAC", (SpidrTimeout,)),
    Case("unreachable=60:GET_DAC", (SpidrClosed, SpidrRefused), needs_clear=True),
    Case("power-cycle", (SpidrClosed,)),
    Case("reboot=60", (SpidrClosed, SpidrRefused), needs_clear=True),
    Case("chip-gone=0", (BoardError, BoardError), stays_connected=True, needs_clear=True),
    Case("link-unlocked=0", (BoardError,), stays_connected=True, needs_clear=True),
)


def test_no_fault_is_left_out():
    assert {case.spec.partition(":")[0].partition("=")[0] for case in CASES} == {name.text for name in FaultName}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.spec)
def test_fault_is_an_error_within_its_time_and_is_got_over(server: TcpServer, case: Case):
    with SpidrClient(*server.address, timeout_s=TIMEOUT_S) as client:
        board = Board(client)
        chip = board.chip(0)
        chip.set_dac(Dac.VFBK, 7)
        server.faults.arm(case.spec)
        for expected in case.answers:
            began = time.monotonic()
            if expected is None:
                assert chip.dac(Dac.VFBK) == 7
            else:
                with pytest.raises(expected) as caught:
                    chip.dac(Dac.VFBK)
                assert client.address in str(caught.value)
            assert time.monotonic() - began < AT_MOST_S
        assert client.connected == case.stays_connected
        assert client.lost != case.stays_connected
        if case.needs_clear:
            server.faults.clear()
        assert once_there(chip.dac, Dac.VFBK) == 7
        assert client.connected
        assert not client.lost
        board.close()


def once_there(verb, *arguments):  # type: ignore[no-untyped-def]
    """What a verb returns, as soon as the port is open and the server has time again."""
    deadline = time.monotonic() + 20.0
    while True:
        try:
            return verb(*arguments)
        except (SpidrRefused, SpidrTimeout, RestoreFailed):
            if time.monotonic() > deadline:
                raise


def test_chip_that_is_gone_is_named_with_the_way_out(board: Board, faults: Faults):
    board.identify()
    faults.arm("chip-gone=1")
    with pytest.raises(ChipMissing, match=r"chip 1: missing.*reset the board"):
        board.prepare_readout()
    faults.clear()
    board.prepare_readout()


def test_unlocked_link_is_locked_again_by_initialising_the_chip(board: Board, faults: Faults):
    faults.arm("link-unlocked=1")
    with pytest.raises(BoardError, match="LINKS_UNLOCKED"):
        board.chip(1).timer()
    board.chip(1).reinitialise()
    board.chip(1).timer()


def test_board_that_hangs_up_at_a_reset_is_waited_for(board: Board, faults: Faults, caplog: pytest.LogCaptureFixture):
    board.chip(0).set_dac(Dac.VFBK, 7)
    faults.arm("reset:RESET_MODULE")
    assert board.reset() is None
    assert board.client.connections == 2
    assert board.info.present == (0, 1)
    assert board.last_restore is None or board.last_restore.lost == ()
    assert board.chip(0).dac(Dac.VFBK) == Dac.VFBK.default


def test_reset_over_a_connection_that_had_ended_is_sent_over_a_new_one():
    identity = [f"{word} 00000014 00000000 00000000 00000000" for word in ("0001090d", "00010901", "00010902")]
    reset = "00010907 00000014 00000000 00000000 00000000"
    scripts = [then_closes(replies(identity[0])), replies(reset, *identity)]
    with ScriptedServer(scripts) as server, SpidrClient("127.0.0.1", server.port) as client:
        client.request(Command.GET_DEVICECOUNT)
        server.wait_for_end_of_script()
        assert Board(client).reset() == 0


def test_board_that_reboots_at_a_reset_is_waited_for(server: TcpServer):
    """As long as it does not listen, it is called again and again, here without a pause."""
    with SpidrClient(*server.address, timeout_s=10.0) as client:
        board = Board(client, wait=lambda event, _: event.is_set())
        board.identify()
        server.faults.arm("reboot=0.2:RESET_MODULE")
        assert board.reset() is None
        assert board.info.present == (0, 1)


def test_board_that_does_not_come_back_from_a_reset_is_given_up(board: Board, faults: Faults):
    board.identify()
    faults.arm("reboot=600:RESET_MODULE")
    with pytest.raises(SpidrRefused, match="hung up at a reset 15 s ago"):
        board.reset()
    faults.clear()
    assert once_there(board.reset) == 0
