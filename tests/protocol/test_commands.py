"""The command table, checked entry by entry on both ends of a connection."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ophyd_timepix.protocol import (
    BY_CODE,
    NEED_DATA,
    BadRequest,
    ClientConnection,
    Command,
    ConnectionClosed,
    ErrorId,
    ErrorWord,
    LocalProtocolError,
    RemoteProtocolError,
    Reply,
    Request,
    Scope,
    ServerConnection,
    State,
    Tpx3Error,
)
from ophyd_timepix.protocol.commands import Form
from ophyd_timepix.protocol.framing import CODE_MASK, HEADER_BYTES, REPLY_FLAG, Frame

every_command = pytest.mark.parametrize("command", Command, ids=lambda command: command.name)
CHIP_LINKS_UNLOCKED = ErrorWord.of(ErrorId.TPX3_HARDWARE, Tpx3Error.LINKS_UNLOCKED)


def values_of(form: Form, longest: bool = True) -> tuple[tuple[int, ...], bytes]:
    """Some values that have the form."""
    n_ints = form.max_ints if longest else form.min_ints
    n_bytes = form.max_bytes if longest else form.min_bytes
    return tuple(0x8000_0001 + i for i in range(n_ints)), bytes(i % 251 for i in range(n_bytes))


def request_of(command: Command, longest: bool = True) -> Request:
    ints, data = values_of(command.request, longest)
    return Request(command, 0 if command.scope is Scope.BOARD else 3, ints, data)


def reply_of(command: Command, longest: bool = True) -> Reply:
    ints, data = values_of(command.reply, longest)
    return Reply(command, 0 if command.scope is Scope.BOARD else 3, ints, data)


def receive(connection: ClientConnection | ServerConnection, data: bytes) -> object:
    connection.receive_data(data)
    return connection.next_event()


def test_codes_and_names_are_those_of_the_reference():
    assert len(BY_CODE) == len(Command) == 120
    assert Command.GET_DAC.code == 0x11A
    assert Command.SET_PIXCONF.code == 0x22A
    assert Command.GET_TIMER.code == 0x552
    assert Command.SET_BOARDID.code == 0x786
    assert all(command.code <= CODE_MASK for command in Command)


@every_command
def test_every_entry_has_a_meaning(command: Command):
    assert command.meaning


@every_command
@pytest.mark.parametrize("longest", [True, False])
def test_request_and_reply_survive_the_wire(command: Command, longest: bool):
    client, server = ClientConnection(), ServerConnection()
    request, reply = request_of(command, longest), reply_of(command, longest)
    assert receive(server, client.send(request)) == request
    assert receive(client, server.reply(reply)) == reply
    assert (client.state, server.state) == (State.IDLE, State.IDLE)


@every_command
def test_split_at_every_position_gives_the_same_messages(command: Command):
    request, reply = request_of(command, longest=False), reply_of(command, longest=False)
    client, server = ClientConnection(), ServerConnection()
    asked = client.send(request)
    for cut in range(1, len(asked)):
        server = ServerConnection()
        assert receive(server, asked[:cut]) is NEED_DATA
        assert receive(server, asked[cut:]) == request
    receive(server := ServerConnection(), asked)
    answered = server.reply(reply)
    for cut in range(1, len(answered)):
        client = ClientConnection()
        client.send(request)
        assert receive(client, answered[:cut]) is NEED_DATA
        assert receive(client, answered[cut:]) == reply


@every_command
def test_request_of_wrong_length_is_answered_with_a_length_error(command: Command):
    for length in (command.request.min_length - 4, command.request.max_length + 4):
        if length < 0:
            continue
        server = ServerConnection()
        event = receive(server, Frame(command.code, 0, 0, bytes(length)).encode())
        assert isinstance(event, BadRequest)
        assert event.error.id is ErrorId.MESSAGE_LENGTH
        assert command.name in event.reason
        client = ClientConnection()
        client.send(Request(command, 0, *values_of(command.request)))
        reply = receive(client, server.reject(event))
        assert isinstance(reply, Reply)
        assert reply.error.id is ErrorId.MESSAGE_LENGTH


@every_command
def test_request_to_a_device_that_cannot_be_is_an_illegal_parameter(command: Command):
    device = 1 if command.scope is Scope.BOARD else 4
    form = command.request
    event = receive(ServerConnection(), Frame(command.code, 0, device, bytes(form.max_length)).encode())
    assert isinstance(event, BadRequest)
    assert event.error.id is ErrorId.ILLEGAL_PARAMETER
    with pytest.raises(LocalProtocolError, match="device"):
        ClientConnection().send(Request(command, device, *values_of(form)))


@every_command
def test_reply_from_another_device_breaks_the_connection(command: Command):
    client = ClientConnection()
    client.send(request_of(command))
    wrong = Frame(command.code | REPLY_FLAG, 0, 7, bytes(command.reply.max_length)).encode()
    with pytest.raises(RemoteProtocolError, match="from device 7"):
        receive(client, wrong)
    assert client.state is State.BROKEN


@pytest.mark.parametrize("command", [c for c in Command if c.reply.min_length], ids=lambda c: c.name)
def test_reply_that_is_too_short_breaks_the_connection(command: Command):
    client = ClientConnection()
    request = request_of(command)
    client.send(request)
    short = Frame(command.code | REPLY_FLAG, 0, request.device, bytes(command.reply.min_length - 1)).encode()
    with pytest.raises(RemoteProtocolError, match="bytes long"):
        receive(client, short)


@every_command
def test_error_reply_carries_the_error_whatever_its_length(command: Command):
    request = request_of(command)
    for payload in (b"", bytes(4), bytes(command.reply.max_length)):
        client = ClientConnection()
        client.send(request)
        frame = Frame(command.code | REPLY_FLAG, CHIP_LINKS_UNLOCKED.value, request.device, payload)
        reply = receive(client, frame.encode())
        assert isinstance(reply, Reply)
        assert reply.error.sub_code is Tpx3Error.LINKS_UNLOCKED
        assert client.state is State.IDLE


@every_command
def test_server_can_answer_every_command_with_an_error(command: Command):
    client, server = ClientConnection(), ServerConnection()
    request = request_of(command)
    receive(server, client.send(request))
    reply = receive(client, server.reply(Reply(command, request.device, error=CHIP_LINKS_UNLOCKED)))
    assert isinstance(reply, Reply)
    assert reply.error == CHIP_LINKS_UNLOCKED


@every_command
def test_reply_that_is_too_long_is_cut_as_other_clients_do(command: Command):
    client = ClientConnection()
    request, reply = request_of(command), reply_of(command)
    client.send(request)
    payload = command.reply.join(reply.ints, reply.data) + b"more"
    assert receive(client, Frame(command.code | REPLY_FLAG, 0, reply.device, payload).encode()) == reply


@every_command
def test_values_that_do_not_have_the_form_are_refused_before_the_wire(command: Command):
    form = command.request
    with pytest.raises(LocalProtocolError, match=command.name):
        ClientConnection().send(Request(command, 0, (0,) * (form.max_ints + 1), bytes(form.max_bytes)))
    with pytest.raises(LocalProtocolError, match=command.name):
        ClientConnection().send(Request(command, 0, (0,) * form.max_ints, bytes(form.max_bytes + 1)))
    if form.max_ints:
        with pytest.raises(LocalProtocolError, match="32 bits"):
            ClientConnection().send(Request(command, 0, (1 << 32,) * form.max_ints, bytes(form.max_bytes)))
        with pytest.raises(LocalProtocolError, match="32 bits"):
            ClientConnection().send(Request(command, 0, (-1,) * form.max_ints, bytes(form.max_bytes)))
        with pytest.raises(LocalProtocolError, match="32 bits"):
            ClientConnection().send(Request(command, 0, (1.0,) * form.max_ints, bytes(form.max_bytes)))


def test_header_is_as_in_the_reference():
    data = ClientConnection().send(Request(Command.SET_SERVERPORT, 2, (8194,)))
    assert data == bytes.fromhex("00000119 00000014 00000000 00000002 00002002")
    assert len(data) == HEADER_BYTES + 4


# --- damaged messages -------------------------------------------------------------------------------------------------
@st.composite
def damaged(draw: st.DrawFn, message: bytes) -> list[bytes]:
    """A message with some bytes changed, cut out or put in, in any portions; other bytes may follow."""
    data = bytearray(message)
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, max(len(data) - 1, 0)))
        how = draw(st.sampled_from(["change", "cut", "insert"]))
        data[at : at + (how != "insert")] = b"" if how == "cut" else draw(st.binary(min_size=1, max_size=2))
    data += draw(st.binary(max_size=20))
    cuts = sorted(draw(st.lists(st.integers(0, len(data)), max_size=4)))
    return [bytes(data[a:b]) for a, b in itertools.pairwise([0, *cuts, len(data)])]


@given(st.sampled_from(Command), st.data())
def test_damaged_reply_gives_a_reply_or_the_documented_error(command: Command, data: st.DataObject):
    request, reply = request_of(command, longest=False), reply_of(command, longest=False)
    client, server = ClientConnection(), ServerConnection()
    receive(server, client.send(request))
    try:
        for portion in data.draw(damaged(server.reply(reply))):
            client.receive_data(portion)
            event = client.next_event()
            assert event is NEED_DATA or isinstance(event, Reply | ConnectionClosed)
    except RemoteProtocolError:
        assert client.state is State.BROKEN


@given(st.sampled_from(Command), st.data())
def test_damaged_request_gives_a_request_a_bad_one_or_the_documented_error(command: Command, data: st.DataObject):
    server = ServerConnection()
    try:
        for portion in data.draw(damaged(ClientConnection().send(request_of(command, longest=False)))):
            server.receive_data(portion)
            while (event := server.next_event()) is not NEED_DATA and not isinstance(event, ConnectionClosed):
                if not event.no_reply:
                    answer = server.reject(event) if isinstance(event, BadRequest) else server.reply(reply_to(event))
                    assert len(answer) >= HEADER_BYTES
    except RemoteProtocolError:
        assert server.state is State.BROKEN


def reply_to(request: Request) -> Reply:
    return Reply(request.command, request.device, *values_of(request.command.reply))


def test_what_no_source_confirms_is_marked():
    uncertain = {command.name for command in Command if command.uncertain}
    assert {"READ_FLASH", "WRITE_FLASH", "SET_TIMEOFDAY", "SET_PIXCONF", "GET_SPIDR_ADC", "RESET_MODULE"} <= uncertain
