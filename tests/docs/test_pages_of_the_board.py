"""Pages that need a board and no data: its settings, its faults, its times; what is said when it does not answer."""

import re
import shlex
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest

from ophyd_timepix.app.simulator import Simulator
from ophyd_timepix.config import BoardConfig
from ophyd_timepix.config.sophy import export_spx
from ophyd_timepix.control import Board, ChipMissing, ControlError, SpidrClient
from ophyd_timepix.decode.decoder import Decoder, Framing
from ophyd_timepix.devices import SpidrBoard
from ophyd_timepix.protocol.chip_config import column_phase
from spidr_sim.board import Board as SimulatedBoard
from spidr_sim.tcp import TcpServer
from tests.pages import ROOT, Guide, call
from tests.sim.board_doubles import RecordingStreams, StandingClock

CONNECT: Final = "docs/how-to/connect-a-camera.md"


@pytest.fixture
def server() -> Iterator[TcpServer]:
    with TcpServer(SimulatedBoard(1, RecordingStreams(), StandingClock())) as server:
        yield server


@pytest.fixture
def address(server: TcpServer) -> str:
    return "{}:{}".format(*server.address)


# --- settings ---------------------------------------------------------------------------------------------------------
def test_saving_and_loading_a_configuration(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    changes = {"192.168.100.10:50000": address, "/data/settings": str(tmp_path)}
    names: dict[str, Any] = {}
    with Guide("docs/how-to/save-and-load-a-configuration.md", "python") as guide:
        guide.run(names, changes=changes)
    tuesday = BoardConfig.load("tuesday")
    assert names["config"].chip(0).dacs["vthreshold_fine"] == 430 != tuesday.chip(0).dacs["vthreshold_fine"]
    names["config"].save("monday")
    export_spx(tuesday.chip(0), "chip.spx")
    edited = names["config"].save("edited")
    edited.write_text(re.sub(r"(?m)^checksum: .*\n", "", edited.read_text()))
    with Guide("docs/how-to/save-and-load-a-configuration.md", "sh") as shell:
        codes = {line: call(line) for line in shell.commands(changes)}
    differing = [line for line, code in codes.items() if code]
    assert [line.split()[2] for line in differing] == ["diff"], capsys.readouterr().err
    assert "monday" in differing[0]
    assert BoardConfig.load("signed") == names["config"]


# --- faults -----------------------------------------------------------------------------------------------------------
def test_all_faults_of_the_page_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with Guide("docs/how-to/simulate-faults.md", "sh") as shell:
        words = [shlex.split(line, comments=True) for line in shell.commands()]
    assert {program for program, *_ in words} == {"spidr-sim"}
    with Simulator.start([option for _, *options in words for option in options]) as simulator:  # one for all lines
        assert simulator.tell("clear") == "faults cleared"


def quiet(address: str) -> str:
    """What is said when the board is asked."""
    with pytest.raises(ControlError) as caught, SpidrClient.at(address, timeout_s=0.2) as client:
        Board(client).present_chips()
    return str(caught.value)


def no_such_host(_: TcpServer) -> str:
    return quiet("no..host")


def no_answer(_: TcpServer) -> str:
    def never(*_: object) -> None:
        raise TimeoutError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", never)
        return quiet("192.168.100.10")


def nobody_listens(_: TcpServer) -> str:
    with socket.create_server(("127.0.0.1", 0)) as closed_soon:
        address = "{}:{}".format(*closed_soon.getsockname())
    return quiet(address)


def silent(_: TcpServer) -> str:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return quiet("{}:{}".format(*listening.getsockname()))


def held_by_another(server: TcpServer) -> str:
    server.faults.arm("reset")
    server.faults.arm("reset:any:1:1")
    return quiet("{}:{}".format(*server.address))


def slip(_: TcpServer) -> str:
    return quiet("192.168.100.10:")


def no_chip(server: TcpServer) -> str:
    server.faults.arm("chip-gone=0")
    return quiet("{}:{}".format(*server.address))


def too_many_declared(server: TcpServer) -> str:
    spidr = SpidrBoard("{}:{}".format(*server.address), name="spidr", chips=4)
    try:
        with pytest.raises(ControlError) as caught:
            spidr.connect()
    finally:
        spidr.disconnect()
    return str(caught.value)


def a_chip_falls_silent(_: TcpServer) -> str:
    pair = TcpServer(SimulatedBoard(2, RecordingStreams(), StandingClock()))
    with pair, SpidrClient.at("{}:{}".format(*pair.address)) as client:
        board = Board(client)
        assert len(board.present_chips()) == 2
        pair.faults.arm("chip-gone=1")
        with pytest.raises(ChipMissing) as caught:
            board.chip(1).require_present()
    return str(caught.value)


SAID: Final[dict[str, Callable[[TcpServer], str]]] = {
    "no such host": no_such_host,
    "no connection (no answer within 2 s)": no_answer,
    "connection refused: a host is there": nobody_listens,
    "no reply to GET_DEVICECOUNT within 2 s": silent,
    "the board closed the connection during ...": held_by_another,
    "... is no address of a board": slip,
    "the board has no chip with locked links": no_chip,
    "chip 1 is declared (chips=4) and not there": too_many_declared,
    "chip 1: missing (links enabled 0xFF, locked 0x00)": a_chip_falls_silent,
}
"""A message of the page, and what provokes it."""


def test_the_page_knows_these_messages() -> None:
    page = (ROOT / CONNECT).read_text()
    (table,) = re.findall(r"\| message \|.*?\n\n", page, re.DOTALL)
    assert set(re.findall(r"^\| `([^`]+)`", table, re.MULTILINE)) == set(SAID)


@pytest.mark.parametrize("message", SAID)
def test_each_message_of_the_page_is_said(message: str, server: TcpServer) -> None:
    said = SAID[message](server).replace("within 0.2 s", "within 2 s")
    assert message.strip(". ") in said


# --- time -------------------------------------------------------------------------------------------------------------
def test_the_page_on_time_reckons_as_the_decoder_does() -> None:
    names: dict[str, Any] = {}
    with Guide("docs/explanations/time.md", "python") as guide:
        guide.run(names)
    pixel = 0xB << 60 | names["double_column"] << 53 | names["toa"] << 30 | names["ftoa"] << 16 | names["spidr_time"]
    tdc = 0x6F << 56 | names["counter"] << 9 | names["stamp"] << 5
    assert decoded(pixel)[0].tolist() == [names["hit"]]
    assert decoded(tdc)[1].tolist() == [names["edge"]]
    page = (ROOT / "docs/explanations/time.md").read_text()
    for said, value in re.findall(r"^(ticks_to_ns\(\w+\)|\w+ / \w+) +# ([\d.]+)", page, re.MULTILINE):
        assert eval(said, names) == float(value)


def decoded(word: int) -> tuple[Any, Any]:
    """Ticks of hits and of edges."""
    decoder = Decoder(Framing.RAW, 1, np.array([column_phase(0x11E)], np.int32))
    decoder.decode(np.array([word], np.uint64))
    batch = decoder.flush()
    return batch.ticks.copy(), batch.edge_ticks.copy()
