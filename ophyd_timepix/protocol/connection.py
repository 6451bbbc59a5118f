"""One control connection without its socket, seen from either end: bytes in, events out; requests in, bytes out.

The loop of a client, whatever its I/O::

    send_bytes(connection.send(Request(Command.GET_DAC, device=0, ints=(6,))))
    while (event := connection.next_event()) is NEED_DATA:
        connection.receive_data(receive_bytes())

A server turns it round: `receive_data`, `next_event` (a Request or a BadRequest), `reply`.

SPIDR's protocol is strictly request, then reply, with one request outstanding; the states stand in `State`. After a
RemoteProtocolError the connection is BROKEN and every further call says so: close the socket and begin anew.
"""

from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

from .commands import BY_CODE, MAX_DEVICES, Command, Scope
from .errors import OK, ErrorId, ErrorWord, LocalProtocolError, RemoteProtocolError
from .framing import CODE_MASK, HEADER_BYTES, NOREPLY_FLAG, REPLY_FLAG, Frame, FrameReader


class State(Enum):
    """Of a connection. Client and server walk IDLE -> AWAITING -> IDLE ... -> CLOSED; BROKEN from anywhere."""

    IDLE = auto()
    """No request is outstanding."""
    AWAITING = auto()
    """A request is outstanding: the client waits for its reply, the server owes it."""
    CLOSED = auto()
    BROKEN = auto()


class _NeedData(Enum):
    NEED_DATA = auto()


NEED_DATA: Final = _NeedData.NEED_DATA
"""`next_event` has nothing before more bytes arrive."""


@dataclass(frozen=True)
class Request:
    """A command with its values."""

    command: Command
    device: int = 0
    ints: tuple[int, ...] = (0,)
    data: bytes = b""
    no_reply: bool = False


@dataclass(frozen=True)
class Reply:
    """The answer to a request. Where `error` is set the values are void."""

    command: Command
    device: int = 0
    ints: tuple[int, ...] = (0,)
    data: bytes = b""
    error: ErrorWord = OK


@dataclass(frozen=True)
class BadRequest:
    """A well-framed request that the table does not allow; `error` is what the board answers."""

    code: int
    device: int
    error: ErrorWord
    reason: str
    no_reply: bool = False


@dataclass(frozen=True)
class ConnectionClosed:
    """The peer closed its end, between messages."""


class _Connection:
    """What both ends share: the reader, the state, the end of the stream."""

    def __init__(self) -> None:
        self._reader = FrameReader()
        self._ended = False
        self.state = State.IDLE

    def receive_data(self, data: bytes) -> None:
        """Take bytes from the socket; empty bytes mean that the peer closed its end."""
        if data:
            self._reader.feed(data)
        else:
            self._ended = True

    def _next_frame(self) -> Frame | ConnectionClosed | None:
        if self.state is State.BROKEN:
            raise RemoteProtocolError("the connection is broken by an earlier error: open a new one")
        try:
            frame = self._reader.next_frame()
        except RemoteProtocolError:
            self.state = State.BROKEN
            raise
        if frame is not None or not self._ended:
            return frame
        if self._reader.pending:
            raise self._break(
                f"the peer closed the connection within a message ({self._reader.pending} bytes of it came)"
            )
        self.state = State.CLOSED
        return ConnectionClosed()

    def _break(self, reason: str) -> RemoteProtocolError:
        self.state = State.BROKEN
        return RemoteProtocolError(reason)


class ClientConnection(_Connection):
    """The end that asks."""

    def __init__(self) -> None:
        super().__init__()
        self._outstanding: Request | None = None

    def send(self, request: Request) -> bytes:
        """The bytes of a request. Raises LocalProtocolError when the table does not allow it, and RemoteProtocolError
        when bytes came that nobody asked for: they would be taken for its reply."""
        if self._reader.pending and self.state is State.IDLE:
            raise self._break(f"{self._reader.pending} bytes came before it that nobody asked for: a stale reply?")
        if self.state is not State.IDLE:
            raise LocalProtocolError(f"{request.command.name} cannot be sent: the connection is {self.state.name}")
        data = encode_request(request)
        if not request.no_reply:
            self._outstanding = request
            self.state = State.AWAITING
        return data

    def next_event(self) -> Reply | ConnectionClosed | _NeedData:
        """The reply, NEED_DATA, or ConnectionClosed. Raises RemoteProtocolError when it does not fit the request."""
        frame = self._next_frame()
        if frame is None:
            return NEED_DATA
        if isinstance(frame, ConnectionClosed):
            return frame
        request = self._outstanding
        if request is None:
            raise self._break(f"a message that nobody asked for came (first word 0x{frame.word0:08X})")
        misfit = _misfit(frame, request)
        if misfit:
            raise self._break(f"the reply to {request.command.name} does not fit: {misfit}")
        self._outstanding = None
        self.state = State.IDLE
        return _read_reply(frame, request.command)


class ServerConnection(_Connection):
    """The end that answers. It hands out one request at a time: answer it before asking for the next."""

    def next_event(self) -> Request | BadRequest | ConnectionClosed | _NeedData:
        """The next request. Raises RemoteProtocolError on bytes that are no request at all."""
        if self.state is State.AWAITING:
            raise LocalProtocolError("the last request is not answered yet")
        frame = self._next_frame()
        if frame is None:
            return NEED_DATA
        if isinstance(frame, ConnectionClosed):
            return frame
        if frame.word0 & REPLY_FLAG:
            raise self._break(f"a reply came where a request belongs (first word 0x{frame.word0:08X})")
        request = _read_request(frame)
        if not request.no_reply:
            self.state = State.AWAITING
        return request

    def reply(self, reply: Reply) -> bytes:
        """The bytes of the answer to the outstanding request."""
        command = reply.command
        if reply.error and not command.reply.fits(len(reply.ints) * 4 + len(reply.data)):
            return self._answer(command.code, reply.device, reply.error, bytes(4))
        try:
            payload = command.reply.join(reply.ints, reply.data)
        except LocalProtocolError as error:
            raise LocalProtocolError(f"reply to {command.name}: {error}") from None
        return self._answer(command.code, reply.device, reply.error, payload)

    def reject(self, request: BadRequest) -> bytes:
        """The bytes that answer a BadRequest with its error."""
        return self._answer(request.code, request.device, request.error, bytes(4))

    def _answer(self, code: int, device: int, error: ErrorWord, payload: bytes) -> bytes:
        if self.state is not State.AWAITING:
            raise LocalProtocolError("there is no request to answer")
        self.state = State.IDLE
        return Frame(code | REPLY_FLAG, error.value, device, payload).encode()


def encode_request(request: Request) -> bytes:
    """The frame of a request. Raises LocalProtocolError when it is not in the table's form."""
    command = request.command
    last = 0 if command.scope is Scope.BOARD else MAX_DEVICES - 1
    if not 0 <= request.device <= last:
        raise LocalProtocolError(
            f"{command.name} is a {command.scope.value} command: device {request.device} is outside 0 to {last}"
        )
    try:
        payload = command.request.join(request.ints, request.data)
    except LocalProtocolError as error:
        raise LocalProtocolError(f"{command.name}: {error}") from None
    flags = NOREPLY_FLAG if request.no_reply else 0
    return Frame(command.code | flags, 0, request.device, payload).encode()


def _misfit(frame: Frame, request: Request) -> str:
    """Why a frame cannot be the reply to `request`; empty when it can. Of an error reply the length is not asked."""
    command = request.command
    if frame.word0 != command.code | REPLY_FLAG:
        return f"its first word is 0x{frame.word0:08X}, not 0x{command.code | REPLY_FLAG:08X}"
    if frame.device != request.device:
        return f"it is from device {frame.device}, not {request.device}"
    # A longer one is taken: every known client takes it, so a firmware may well send it.
    if not frame.status and len(frame.payload) < command.reply.min_length:
        return (
            f"it is {HEADER_BYTES + len(frame.payload)} bytes long, "
            f"not the expected {HEADER_BYTES + command.reply.min_length}"
        )
    return ""


def _read_reply(frame: Frame, command: Command) -> Reply:
    if frame.status:
        return Reply(command, frame.device, (), b"", ErrorWord(frame.status))
    ints, data = command.reply.split(frame.payload)
    return Reply(command, frame.device, ints, data)


def _read_request(frame: Frame) -> Request | BadRequest:
    code = frame.word0 & CODE_MASK
    no_reply = bool(frame.word0 & NOREPLY_FLAG)

    def bad(error: ErrorId, reason: str) -> BadRequest:
        return BadRequest(code, frame.device, ErrorWord.of(error), reason, no_reply)

    command = BY_CODE.get(code)
    if command is None:
        return bad(ErrorId.UNKNOWN_COMMAND, f"no command has the code 0x{code:04X}")
    if not command.request.fits(len(frame.payload)):
        form = command.request
        return bad(
            ErrorId.MESSAGE_LENGTH,
            f"{command.name} takes {form.min_length} to {form.max_length} bytes, not {len(frame.payload)}",
        )
    if frame.device >= (1 if command.scope is Scope.BOARD else MAX_DEVICES):
        return bad(ErrorId.ILLEGAL_PARAMETER, f"{command.name} has no device {frame.device}")
    ints, data = command.request.split(frame.payload)
    return Request(command, frame.device, ints, data, no_reply)
