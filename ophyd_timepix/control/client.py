"""The TCP connection to a board: one request at a time, each within a time limit.

`SpidrClient` connects when it is first asked something. It may be used from several threads: requests queue up. After a
failure of the line it is closed, and the next request opens a new one. What was set through it is kept in `memory`;
whoever knows what to do with that hangs it on `on_reconnect`. The protocol itself is in `ophyd_timepix.protocol`; here
are the socket, the clock and the lock.
"""

import contextlib
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from operator import index
from types import TracebackType
from typing import Final, Self

from ophyd_timepix.protocol import (
    NEED_DATA,
    ClientConnection,
    Command,
    ConnectionClosed,
    ErrorWord,
    LocalProtocolError,
    RemoteProtocolError,
    Reply,
    Request,
    Scope,
    Tpx3Error,
)
from ophyd_timepix.protocol.connection import encode_request

from .errors import (
    BoardError,
    ConnectionLost,
    ControlError,
    LimitError,
    RestoreFailed,
    SpidrClosed,
    SpidrGarbled,
    SpidrRefused,
    SpidrTimeout,
    SpidrUnreachable,
)
from .memory import SettingsMemory

log = logging.getLogger(__name__)

DEFAULT_PORT: Final = 50_000
DEFAULT_TIMEOUT_S: Final = 2.0
"""Later NIKHEF libraries raised their 400 ms to this."""

_SLOW_COMMANDS_S: Final[dict[Command, float]] = {
    Command.RESET_MODULE: 15.0,
    Command.REINIT_DEVICE: 5.0,
    Command.REINIT_DEVICES: 5.0,
    Command.STORE_PIXCONF: 10.0,
    Command.ERASE_PIXCONF: 10.0,
}
"""Commands that initialise links or write flash take longer."""

_RECEIVE_BYTES: Final = 65_536


@dataclass(frozen=True)
class Answer:
    """The values of a reply, and when its request went out and it came in (`time.monotonic_ns`)."""

    ints: tuple[int, ...]
    data: bytes
    sent_ns: int
    received_ns: int

    @property
    def value(self) -> int:
        """The first word."""
        return self.ints[0]


class SpidrClient:
    """A board's control port. Nothing is opened before the first request."""

    def __init__(self, host: str, port: int = DEFAULT_PORT, *, timeout_s: float = DEFAULT_TIMEOUT_S) -> None:
        if not 0 < port < 65_536:
            raise LimitError(f"the control port is 1 to 65535, not {port}; a SPIDR listens at {DEFAULT_PORT}")
        if not timeout_s > 0:
            raise LimitError(f"the timeout is above 0 s, not {timeout_s} s")
        self.host = host
        self.port = port
        self.timeout_s = timeout_s
        self._lock = threading.RLock()
        self._socket: socket.socket | None = None
        self._connection = ClientConnection()
        self._connections = 0
        self._lost = False
        self._restoring = False
        self._told = False
        self._watchers: list[Callable[[bool], None]] = []
        self.memory = SettingsMemory()
        """What was set through this client."""
        self.awaited_chips: tuple[int, ...] = ()
        """Chips that were not there when settings came back: a request to one calls `on_reconnect` again, before."""
        self.on_reconnect: Callable[[], None] | None = None
        """Called within the lock when a new connection replaced a lost one, before the request that opened it goes out.

        A ControlError out of it closes the new connection again; the request fails with RestoreFailed.
        """

    @classmethod
    def at(cls, address: str, *, timeout_s: float = DEFAULT_TIMEOUT_S) -> Self:
        """From "HOST:PORT" or "HOST"."""
        host, colon, port = address.strip().rpartition(":")
        if not colon:
            host, port = port, str(DEFAULT_PORT)
        if not host or not port.isdecimal():
            raise LimitError(f"{address!r} is no address of a board; one looks like 192.168.100.10:{DEFAULT_PORT}")
        return cls(host, int(port), timeout_s=timeout_s)

    def __repr__(self) -> str:
        state = "connected" if self.connected else "lost" if self.lost else "not connected"
        return f"SpidrClient({self.address!r}, {state})"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    @property
    def address(self) -> str:
        """host:port of the board."""
        return f"{self.host}:{self.port}"

    @property
    def connected(self) -> bool:
        """Whether a connection is open, as far as this end knows."""
        return self._socket is not None

    @property
    def lost(self) -> bool:
        """Whether a connection was there and failed, and none took its place since."""
        return self._lost

    @property
    def connections(self) -> int:
        """How many connections were opened so far; it grows when the board was lost and found again."""
        return self._connections

    def subscribe(self, watcher: Callable[[bool], None]) -> Callable[[], None]:
        """Tell `watcher` each time a connection is there (True) or gone (False). Returns what ends that.

        It is called within the lock, from the thread that noticed: it is to be quick and to ask the board nothing.
        """
        with self._lock:
            self._watchers.append(watcher)

        def unsubscribe() -> None:
            with self._lock:
                if watcher in self._watchers:
                    self._watchers.remove(watcher)

        return unsubscribe

    def local_address(self) -> str:
        """The address of our end of the connection: where the board's datagrams can reach us. Connects if needed."""
        with self._lock:
            sock = self._socket or self._open()
            return str(sock.getsockname()[0])

    def board_address(self) -> str:
        """The address of the board's end of the connection. Connects if needed."""
        with self._lock:
            sock = self._socket or self._open()
            return str(sock.getpeername()[0])

    @contextlib.contextmanager
    def exclusive(self) -> Iterator[None]:
        """Several requests as one step: other threads wait. Not around what takes its time (`Chip.sensed_mv`)."""
        with self._lock:
            yield

    def request(
        self,
        command: Command,
        device: int = 0,
        ints: tuple[int, ...] = (0,),
        data: bytes = b"",
        *,
        timeout_s: float | None = None,
    ) -> Answer:
        """Ask the board. Raises ControlError; after any ConnectionLost the next request connects anew."""
        request = self._request_of(command, device, ints, data)
        limit_s = timeout_s or max(self.timeout_s, _SLOW_COMMANDS_S.get(command, 0.0))
        with self._lock:
            self.memory.asked(request)
            if self._is_awaited(request) and self.on_reconnect is not None and self._socket is not None:
                self._restore(self.on_reconnect)
            reply, sent_ns, received_ns = self._exchange(request, limit_s)
            if reply.error and not _is_harmless(command, reply.error):
                self.memory.refused(request)
                raise BoardError(self._where(request), command, device, ints, reply.error)
            self.memory.answered(request, reply.ints, sent_ns, received_ns)
        return Answer(reply.ints, reply.data, sent_ns, received_ns)

    def close(self) -> None:
        """Hang up on purpose: the board is free for others, so what was set is forgotten. A later request connects."""
        with self._lock:
            self._hang_up()
            self._lost = False
            self.memory.clear()

    def _exchange(self, request: Request, limit_s: float) -> tuple[Reply, int, int]:
        sock = self._socket or self._open()
        sent_ns = time.monotonic_ns()
        try:
            self._take_unasked(sock, request)
            data = self._connection.send(request)
            self.memory.sent(request)
            sent_ns = time.monotonic_ns()
            sock.settimeout(limit_s)
            sock.sendall(data)
            reply = self._await_reply(sock, request, sent_ns + int(limit_s * 1e9))
        except BaseException as error:
            # Whatever comes now would be taken for the answer to the next question. So too after Ctrl-C.
            self._lose()
            if isinstance(error, TimeoutError):
                raise self._timeout(request, limit_s) from None
            if isinstance(error, OSError):
                raise self._hung_up(request, str(error)) from error
            if isinstance(error, RemoteProtocolError):
                raise self._garbled(request, error) from error
            raise
        return reply, sent_ns, time.monotonic_ns()

    def _request_of(self, command: Command, device: int, ints: tuple[int, ...], data: bytes) -> Request:
        """A request that the table allows, of Python's integers: it is remembered, and numpy's small ones overflow."""
        try:
            request = Request(command, index(device), tuple(map(index, ints)), data)
            encode_request(request)
        except TypeError as error:
            raise LimitError(
                f"{self.address}: {command.name} takes whole numbers ({error}); nothing was sent"
            ) from None
        except LocalProtocolError as error:
            raise LimitError(f"{self._where(request)}: {error}; nothing was sent") from None
        return request

    def _take_unasked(self, sock: socket.socket, request: Request) -> None:
        """Bytes that came since the last reply, which nobody asked for: the connection refuses to send after them."""
        sock.settimeout(0)
        try:
            data = sock.recv(_RECEIVE_BYTES)
        except BlockingIOError:
            return
        except ConnectionError:
            data = b""
        if not data:
            closed = self._hung_up(request, "end of the stream", "before")
            closed.sent = False
            raise closed
        self._connection.receive_data(data)

    def _await_reply(self, sock: socket.socket, request: Request, deadline_ns: int) -> Reply:
        while True:
            event = self._connection.next_event()
            if isinstance(event, Reply):
                return event
            if isinstance(event, ConnectionClosed):
                raise self._hung_up(request, "end of the stream")
            if event is NEED_DATA:
                left_s = (deadline_ns - time.monotonic_ns()) / 1e9
                if left_s <= 0:
                    raise TimeoutError
                sock.settimeout(left_s)
                self._connection.receive_data(sock.recv(_RECEIVE_BYTES))

    def _open(self) -> socket.socket:
        """A connection that is ready for requests: after a loss, with the settings back."""
        if self._restoring:
            raise SpidrClosed(f"{self.address}: the connection was lost while settings were set again")
        sock = self._connect()
        if self._lost and self.on_reconnect is not None:
            self._restore(self.on_reconnect)
        self._lost = False
        self._tell(True)
        return sock

    def _is_awaited(self, request: Request) -> bool:
        of_chip = request.command.scope is Scope.CHIP and request.device in self.awaited_chips
        return of_chip and not self._restoring

    def _restore(self, hook: Callable[[], None]) -> None:
        self._restoring = True
        try:
            hook()
        except BaseException as error:
            # Half of the settings would be worse than no connection: the next request begins again.
            self._lose()
            if isinstance(error, ControlError):
                raise RestoreFailed(
                    f"{self.address}: the board is back, but its settings could not be set again: {error}. "
                    "The next request tries again; a reset of the board begins without them"
                ) from error
            raise
        finally:
            self._restoring = False

    def _lose(self) -> None:
        self._lost = True
        self._hang_up()

    def _hang_up(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        self._tell(False)

    def _tell(self, connected: bool) -> None:
        if connected == self._told:
            return
        self._told = connected
        for watcher in tuple(self._watchers):
            try:
                watcher(connected)
            except Exception:  # a watcher's failure is not the line's
                log.exception(f"{self.address}: a watcher of the connection failed")

    def _connect(self) -> socket.socket:
        try:
            # IPv4 only: a board has no other, and our end is where its datagrams go.
            target = socket.getaddrinfo(self.host, self.port, socket.AF_INET, socket.SOCK_STREAM)[0][4]
            sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:  # two dots in a row cannot be asked for
            raise SpidrUnreachable(
                f"{self.address}: no such host ({error}); check the address: the camera's display shows it"
            ) from error
        try:
            sock.settimeout(self.timeout_s)
            sock.connect(target)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except BaseException as error:
            sock.close()
            if isinstance(error, OSError):
                raise self._not_connected(error) from error
            raise
        self._connection = ClientConnection()
        self._socket = sock
        self._connections += 1
        log.info(f"connected to the SPIDR at {self.address}")
        return sock

    def _not_connected(self, error: OSError) -> ConnectionLost:
        if isinstance(error, ConnectionRefusedError):
            return SpidrRefused(
                f"{self.address}: connection refused: a host is there, but nobody listens at port {self.port}; "
                f"check the port (a SPIDR listens at {DEFAULT_PORT}) and wait until the camera has booted"
            )
        reason = f"no answer within {self.timeout_s:g} s" if isinstance(error, TimeoutError) else str(error)
        return SpidrUnreachable(
            f"{self.address}: no connection ({reason}); check that the camera is on, the cable, and that this "
            "computer has an address in the camera's network (the camera's display shows its own)"
        )

    def _timeout(self, request: Request, limit_s: float) -> SpidrTimeout:
        return SpidrTimeout(
            f"{self._where(request)}: no reply to {request.command.name} within {limit_s:g} s; another client may hold "
            "the board (it serves one at a time), or it hangs: close the other client, else power-cycle the camera"
        )

    def _hung_up(self, request: Request, reason: str, when: str = "during") -> SpidrClosed:
        return SpidrClosed(
            f"{self._where(request)}: the board closed the connection {when} {request.command.name} ({reason}); "
            "either another client holds it (it serves one at a time: close the other) or it was restarted "
            "(the next request connects again and looks after the settings)"
        )

    def _garbled(self, request: Request, error: RemoteProtocolError) -> SpidrGarbled:
        return SpidrGarbled(
            f"{self._where(request)}: {request.command.name} failed: {error}; "
            "check that the address is that of a SPIDR; the next request opens a new connection"
        )

    def _where(self, request: Request) -> str:
        return self.address if request.command.scope is Scope.BOARD else f"{self.address} chip {request.device}"


def _is_harmless(command: Command, error: ErrorWord) -> bool:
    """Pymepix passes over EMPTY from the chip, so boards send it; where no value is asked for, it is harmless."""
    harmless = error.sub_code is Tpx3Error.EMPTY and command.reply.is_ack
    if harmless:
        log.warning(f"{command.name} was answered with {error}; passed over, as other clients do")
    return harmless
