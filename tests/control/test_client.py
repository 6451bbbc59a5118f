"""The client against boards that misbehave: every fault ends within its time, says what to do, and is got over."""

import socket
import threading
import time

import pytest

from ophyd_timepix.control import (
    BoardError,
    ConnectionLost,
    ControlError,
    LimitError,
    SpidrClient,
    SpidrClosed,
    SpidrGarbled,
    SpidrRefused,
    SpidrTimeout,
    SpidrUnreachable,
)
from ophyd_timepix.protocol import Command, ErrorId, Tpx3Error
from spidr_sim.tcp import TcpServer
from tests.control.scripted import Script, ScriptedServer, hangs_up, replies, resets, silent, then_closes

FOUR_CHIPS = "0001090d 00000014 00000000 00000000 00000004"
GET_COUNT = Command.GET_DEVICECOUNT


def client_of(server: ScriptedServer, timeout_s: float = 10.0) -> SpidrClient:
    return SpidrClient("127.0.0.1", server.port, timeout_s=timeout_s)


def test_nothing_is_opened_before_the_first_request(server: TcpServer):
    client = SpidrClient(*server.address)
    assert not client.connected
    assert client.request(GET_COUNT).value == 4
    assert client.connected
    client.close()
    assert not client.connected


def test_silent_board_is_an_error_within_the_timeout_and_then_a_new_connection():
    with ScriptedServer([silent, replies(FOUR_CHIPS)]) as server, client_of(server, 0.2) as client:
        begin = time.monotonic()
        with pytest.raises(SpidrTimeout, match=rf"127.0.0.1:{server.port}: no reply to GET_DEVICECOUNT within 0.2 s"):
            client.request(GET_COUNT)
        assert 0.2 <= time.monotonic() - begin < 2.0
        assert not client.connected
        assert client.request(GET_COUNT, timeout_s=10.0).value == 4
        assert client.connections == 2


def test_reply_that_stops_half_way_is_a_timeout_too():
    with (
        ScriptedServer([replies(FOUR_CHIPS[:20])]) as server,
        client_of(server, 0.2) as client,
        pytest.raises(SpidrTimeout),
    ):
        client.request(GET_COUNT)


@pytest.mark.parametrize("script", [hangs_up, resets])
def test_board_that_hangs_up_names_the_second_client_as_a_cause(script: Script):
    with ScriptedServer([script, replies(FOUR_CHIPS)]) as server, client_of(server) as client:
        with pytest.raises(SpidrClosed, match=r"during GET_DEVICECOUNT.*another client"):
            client.request(GET_COUNT)
        assert client.request(GET_COUNT).value == 4


def test_reply_in_portions_is_put_together():
    portions = "|".join(FOUR_CHIPS.replace(" ", "")[i : i + 2] for i in range(0, 40, 2))
    with ScriptedServer([replies(portions)]) as server, client_of(server) as client:
        assert client.request(GET_COUNT).value == 4


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        ("0001090e 00000014 00000000 00000000 00000004", "first word is 0x0001090E"),
        ("0001090d 00000014 00000000 00000001 00000004", "from device 1"),
        ("0001090d 00000010 00000000 00000000", "16 bytes long"),
        ("0001090d ffffffff 00000000 00000000 00000004", "length of 4294967295"),
        ("48545450 2f312e31 20343030 20426164", "no SPIDR message"),
    ],
    ids=["other command", "other device", "too short", "impossible length", "a web server"],
)
def test_reply_that_does_not_fit_is_said_and_a_new_connection_works(reply: str, reason: str):
    with ScriptedServer([replies(reply), replies(FOUR_CHIPS)]) as server, client_of(server) as client:
        with pytest.raises(SpidrGarbled, match=reason):
            client.request(GET_COUNT)
        assert client.request(GET_COUNT).value == 4


def test_late_second_reply_is_not_taken_for_the_answer_to_the_next_question():
    """The next question is one that the stale reply would fit."""
    scripts = [replies(FOUR_CHIPS + FOUR_CHIPS), replies(FOUR_CHIPS)]
    with ScriptedServer(scripts) as server, client_of(server) as client:
        assert client.request(GET_COUNT).value == 4
        with pytest.raises(SpidrGarbled, match=r"20 bytes came before it that nobody asked for"):
            client.request(GET_COUNT)
        assert client.lost
        assert client.request(GET_COUNT).value == 4
        assert not client.lost


def test_board_that_hung_up_since_the_last_request_is_told_before_anything_is_sent():
    with ScriptedServer([then_closes(replies(FOUR_CHIPS)), replies(FOUR_CHIPS)]) as server, client_of(server) as client:
        assert client.request(GET_COUNT).value == 4
        server.wait_for_end_of_script()
        with pytest.raises(SpidrClosed, match=r"before GET_BOARDID.*another client"):
            client.request(Command.GET_BOARDID)
        assert client.request(GET_COUNT).value == 4


def test_error_reply_names_command_error_chip_code_and_remedy_and_keeps_the_line():
    unlocked = "0001011a 00000014 00000b06 00000001 00000000"
    with ScriptedServer([replies(unlocked, FOUR_CHIPS)]) as server, client_of(server) as client:
        with pytest.raises(BoardError) as caught:
            client.request(Command.GET_DAC, 1, (6,))
        assert caught.value.error.id is ErrorId.TPX3_HARDWARE
        assert caught.value.error.sub_code is Tpx3Error.LINKS_UNLOCKED
        for part in (
            f"127.0.0.1:{server.port} chip 1",
            "GET_DAC(0x6)",
            "LINKS_UNLOCKED (11)",
            "check the chip's power",
        ):
            assert part in str(caught.value)
        assert client.request(GET_COUNT).value == 4
        assert client.connections == 1


def test_empty_from_the_chip_is_passed_over_where_no_value_is_asked_for(caplog: pytest.LogCaptureFixture):
    set_dac = "0001011b 00000014 00000606 00000000 00000000"
    get_dac = "0001011a 00000014 00000606 00000000 00000000"
    with ScriptedServer([replies(set_dac, get_dac)]) as server, client_of(server) as client:
        client.request(Command.SET_DAC, 0, (6 << 16 | 1,))
        assert "EMPTY (6)" in caplog.text
        with pytest.raises(BoardError, match="EMPTY"):
            client.request(Command.GET_DAC, 0, (6,))


def test_port_where_nobody_listens():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(SpidrRefused, match=rf"127.0.0.1:{port}: connection refused.*check the port"):
        SpidrClient("127.0.0.1", port).request(GET_COUNT)


def test_name_that_is_no_host():
    with pytest.raises(SpidrUnreachable, match=r"no-such-camera.invalid:50000: no such host.*check the address"):
        SpidrClient("no-such-camera.invalid").request(GET_COUNT)


def test_host_that_does_not_answer_the_call():
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener, socket.socket() as waiting:
        # The only place in the queue is taken, so that a further call is not answered.
        address = listener.getsockname()
        waiting.setblocking(False)
        waiting.connect_ex(address)
        with pytest.raises((SpidrUnreachable, SpidrTimeout)):
            SpidrClient(*address, timeout_s=0.2).request(GET_COUNT)


def test_values_outside_the_table_are_refused_before_the_wire(client: SpidrClient):
    for command, device, ints in (
        (Command.SET_DAC, 0, (1 << 32,)),
        (Command.SET_DAC, 4, (0,)),
        (Command.GET_DEVICECOUNT, 1, (0,)),
        (Command.SET_DAC, 0, (1, 2)),
        (Command.SET_DAC, 0, (1.5,)),
        (Command.SET_DAC, 0, ("1",)),
        (Command.SET_DAC, None, (1,)),
    ):
        with pytest.raises(LimitError, match="nothing was sent"):
            client.request(command, device, ints)
    assert client.request(GET_COUNT).value == 4


@pytest.mark.parametrize(
    ("address", "expected"),
    [("camera", ("camera", 50000)), ("10.0.0.2:1234", ("10.0.0.2", 1234)), (" camera:9 ", ("camera", 9))],
)
def test_address_as_text(address: str, expected: tuple[str, int]):
    client = SpidrClient.at(address)
    assert (client.host, client.port) == expected


@pytest.mark.parametrize("host", ["192.168.1..10", "c" * 70, "."])
def test_host_that_no_name_server_can_be_asked_for(host: str):
    with pytest.raises(SpidrUnreachable, match="no such host"):
        SpidrClient(host).request(GET_COUNT)


@pytest.mark.parametrize("address", ["", ":50000", "camera:", "camera:port", "camera:70000", "camera:0"])
def test_text_that_is_no_address(address: str):
    with pytest.raises(LimitError, match=r"50000"):
        SpidrClient.at(address)


def test_all_errors_are_control_errors():
    with pytest.raises(ControlError):
        SpidrClient("127.0.0.1", 0)
    assert issubclass(LimitError, ValueError)
    assert issubclass(SpidrTimeout, ConnectionLost)


def test_threads_share_one_connection(client: SpidrClient):
    failures: list[BaseException] = []

    def ask(chip: int) -> None:
        try:
            for value in range(100):
                with client.exclusive():
                    client.request(Command.SET_TPNUMBER, chip, (value,))
                    assert client.request(Command.GET_TPNUMBER, chip).value == value
        except (ControlError, AssertionError) as error:
            failures.append(error)

    threads = [threading.Thread(target=ask, args=(index % 2,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert client.connections == 1


def test_answer_says_when_it_was_asked_and_when_it_came(client: SpidrClient):
    before = time.monotonic_ns()
    answer = client.request(GET_COUNT)
    assert before <= answer.sent_ns <= answer.received_ns <= time.monotonic_ns()


def test_local_address_is_our_end_of_the_connection(client: SpidrClient):
    assert client.local_address() == "127.0.0.1"


def test_ctrl_c_during_a_request_closes_the_line(server: TcpServer, monkeypatch: pytest.MonkeyPatch):
    client = SpidrClient(*server.address)
    client.request(GET_COUNT)

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(client, "_await_reply", interrupted)
        with pytest.raises(KeyboardInterrupt):
            client.request(Command.GET_BOARDID)
    assert not client.connected
    assert client.request(GET_COUNT).value == 4
    client.close()
