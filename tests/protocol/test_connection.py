"""Both ends of a connection in memory: what each does with order, garbage and ends."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ophyd_timepix.protocol import (
    NEED_DATA,
    BadRequest,
    ClientConnection,
    Command,
    ConnectionClosed,
    ErrorId,
    LocalProtocolError,
    RemoteProtocolError,
    Reply,
    Request,
    ServerConnection,
    State,
)
from ophyd_timepix.protocol.framing import MAX_FRAME_BYTES, NOREPLY_FLAG, Frame, FrameReader

GET_DAC = Request(Command.GET_DAC, 1, (6,))


def awaiting_client() -> ClientConnection:
    client = ClientConnection()
    client.send(GET_DAC)
    return client


def test_second_request_waits_for_the_first_reply():
    client = awaiting_client()
    with pytest.raises(LocalProtocolError, match="AWAITING"):
        client.send(GET_DAC)


def test_request_without_reply_leaves_the_line_free():
    client, server = ClientConnection(), ServerConnection()
    request = Request(Command.SET_PIXCONF, 0, (0,), bytes(576), no_reply=True)
    data = client.send(request)
    assert data[:4] == (Command.SET_PIXCONF.code | NOREPLY_FLAG).to_bytes(4, "big")
    server.receive_data(data + client.send(GET_DAC))
    assert server.next_event() == request
    assert server.next_event() == GET_DAC


def test_server_hands_out_one_request_at_a_time():
    server = ServerConnection()
    server.receive_data(ClientConnection().send(GET_DAC) * 2)
    assert server.next_event() == GET_DAC
    with pytest.raises(LocalProtocolError, match="not answered"):
        server.next_event()
    server.reply(Reply(Command.GET_DAC, 1, (6 << 16 | 420,)))
    assert server.next_event() == GET_DAC


def test_server_answers_only_when_asked():
    with pytest.raises(LocalProtocolError, match="no request"):
        ServerConnection().reply(Reply(Command.NOP))


def test_unknown_command_is_a_bad_request_that_can_be_answered():
    server = ServerConnection()
    server.receive_data(Frame(0x0ABC, 0, 0, bytes(4)).encode())
    event = server.next_event()
    assert isinstance(event, BadRequest)
    assert event.error.id is ErrorId.UNKNOWN_COMMAND
    assert server.reject(event) == bytes.fromhex("00010ABC 00000014 00000001 00000000 00000000")


def test_reply_to_another_command_breaks_the_connection():
    client = awaiting_client()
    client.receive_data(Frame(0x0001_0110, 0, 1, bytes(4)).encode())
    with pytest.raises(RemoteProtocolError, match="0x00010110"):
        client.next_event()
    with pytest.raises(RemoteProtocolError, match="open a new one"):
        client.next_event()
    with pytest.raises(LocalProtocolError, match="BROKEN"):
        client.send(GET_DAC)


def test_message_nobody_asked_for_breaks_the_connection():
    client = ClientConnection()
    client.receive_data(Frame(0x0001_0110, 0, 0, bytes(4)).encode())
    with pytest.raises(RemoteProtocolError, match="nobody asked"):
        client.next_event()


def test_reply_at_the_server_breaks_the_connection():
    server = ServerConnection()
    server.receive_data(Frame(0x0001_0110, 0, 0, bytes(4)).encode())
    with pytest.raises(RemoteProtocolError, match="a reply came"):
        server.next_event()


@pytest.mark.parametrize("connection", [ClientConnection, ServerConnection])
def test_close_between_messages_is_an_event(connection: type[ClientConnection] | type[ServerConnection]):
    end = connection()
    end.receive_data(b"")
    assert end.next_event() == ConnectionClosed()
    assert end.state is State.CLOSED


@pytest.mark.parametrize("connection", [ClientConnection, ServerConnection])
def test_close_within_a_message_is_an_error(connection: type[ClientConnection] | type[ServerConnection]):
    end = connection()
    end.receive_data(b"\x00\x01")
    end.receive_data(b"")
    with pytest.raises(RemoteProtocolError, match="within a message"):
        end.next_event()


@pytest.mark.parametrize("length", [0, 15, MAX_FRAME_BYTES + 1, 0xFFFF_FFFF])
def test_impossible_length_is_refused_at_once(length: int):
    reader = FrameReader()
    reader.feed(b"\x00\x01\x01\x10" + length.to_bytes(4, "big") + bytes(8))
    for _ in range(2):
        with pytest.raises(RemoteProtocolError, match=f"length of {length} bytes"):
            reader.next_frame()


def test_frame_above_the_limit_is_not_sent():
    with pytest.raises(LocalProtocolError, match="limit"):
        Frame(0, 0, 0, bytes(MAX_FRAME_BYTES)).encode()


@given(st.lists(st.binary(max_size=200), max_size=20), st.booleans())
def test_no_byte_stream_makes_the_server_raise_anything_undocumented(portions: list[bytes], ends: bool):
    server = ServerConnection()
    try:
        for portion in [*portions, b""] if ends else portions:
            server.receive_data(portion)
            while (event := server.next_event()) is not NEED_DATA and not isinstance(event, ConnectionClosed):
                answer_anything(server, event)
    except RemoteProtocolError:
        assert server.state is State.BROKEN


def answer_anything(server: ServerConnection, event: object) -> None:
    if isinstance(event, BadRequest) and not event.no_reply:
        server.reject(event)
    elif isinstance(event, Request) and not event.no_reply:
        form = event.command.reply
        server.reply(Reply(event.command, event.device, (0,) * form.max_ints, bytes(form.max_bytes)))


@given(st.lists(st.binary(max_size=200), max_size=20))
def test_no_byte_stream_makes_the_client_raise_anything_undocumented(portions: list[bytes]):
    client = awaiting_client()
    try:
        for portion in portions:
            client.receive_data(portion)
            client.next_event()
    except RemoteProtocolError:
        assert client.state is State.BROKEN


frames = st.builds(
    Frame,
    word0=st.sampled_from([command.code for command in Command]) | st.integers(0, 0xFFFF_FFFF),
    status=st.integers(0, 0xFFFF_FFFF),
    device=st.integers(0, 5),
    payload=st.binary(max_size=80),
)


@given(st.lists(frames, max_size=6), st.data())
def test_frames_come_out_as_they_went_in_however_they_are_cut(sent: list[Frame], data: st.DataObject):
    stream = b"".join(frame.encode() for frame in sent)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=10)))
    reader, got = FrameReader(), []
    for start, stop in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        reader.feed(stream[start:stop])
        while (frame := reader.next_frame()) is not None:
            got.append(frame)
    assert got == sent
    assert reader.pending == 0


@given(frames)
def test_any_well_framed_message_is_a_request_a_bad_request_or_no_request_at_all(frame: Frame):
    server = ServerConnection()
    server.receive_data(frame.encode())
    try:
        assert isinstance(server.next_event(), Request | BadRequest)
    except RemoteProtocolError as error:
        assert "reply came" in str(error)  # noqa: PT017


@pytest.mark.parametrize("n_bytes", [1, 8, 20, 40])
def test_bytes_that_nobody_asked_for_break_the_connection_before_the_next_request(n_bytes: int):
    """A reply that came twice would fit the same question asked again."""
    client = awaiting_client()
    reply = bytes.fromhex("0001011a 00000014 00000000 00000001 00060007")
    client.receive_data(reply)
    assert client.next_event() == Reply(Command.GET_DAC, 1, (6 << 16 | 7,))
    client.receive_data((reply * 2)[:n_bytes])
    with pytest.raises(RemoteProtocolError, match=f"{n_bytes} bytes came before it that nobody asked for"):
        client.send(GET_DAC)
    assert client.state is State.BROKEN
