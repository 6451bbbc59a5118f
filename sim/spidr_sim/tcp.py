"""Serves a simulated board over TCP: one thread, one client at a time, as a SPIDR does.

A second client is closed at once. Bytes that are no requests end the connection. The thread also wakes for what the
board does by itself (automatic shutters), for faults that strike at once, and for signals at the board's inputs. It
knows no command.
"""

import contextlib
import logging
import selectors
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Final, Self

from ophyd_timepix.protocol import (
    NEED_DATA,
    BadRequest,
    Command,
    ConnectionClosed,
    ErrorWord,
    RemoteProtocolError,
    Reply,
    Request,
    ServerConnection,
)
from spidr_sim.board import Board
from spidr_sim.faults import DataFault, Delivery, Fault, FaultName, Faults, Reach, spoiled

log = logging.getLogger(__name__)

_RECEIVE_BYTES: Final = 65_536
_SEND_TIMEOUT_S: Final = 5.0
"""A client that does not read its replies for so long is dropped."""
_BACKLOG: Final = 8
_RESET_ON_CLOSE: Final = struct.pack("ii", 1, 0)
"""SO_LINGER: on, 0 seconds."""


class _Client:
    """The connected client: its socket and its end of the protocol."""

    def __init__(self, sock: socket.socket, address: str) -> None:
        self.socket = sock
        self.address = address
        self.protocol = ServerConnection()


class TcpServer:
    """`TcpServer(board, host, port)`; port 0 takes a free one. `serve()` returns the address, `stop()` ends it.

    `faults` may be armed at any time, from any thread.
    """

    def __init__(
        self,
        board: Board,
        host: str = "127.0.0.1",
        port: int = 0,
        *,
        faults: Faults | None = None,
        on_failure: Callable[[], None] = lambda: None,
    ) -> None:
        self._board = board
        self._wanted = (host, port)
        self._client: _Client | None = None
        self._dead: list[socket.socket] = []
        """Half-open connections: nothing is read from them, nothing answered."""
        self._on_failure = on_failure
        self._stopping = threading.Event()
        self._calls: deque[Callable[[], None]] = deque()
        self._listen_again_s: float | None = None
        self._thread = threading.Thread(target=self._run, name="spidr-sim-tcp", daemon=True)
        self.faults = Faults() if faults is None else faults
        self.failure: BaseException | None = None
        """What ended the thread before `stop`, if anything did."""

    def __enter__(self) -> Self:
        self.serve()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def serve(self) -> tuple[str, int]:
        """Listen, and answer from a thread of its own. Returns (host, port). Raises OSError when the port is taken."""
        self._listener = socket.create_server(self._wanted, backlog=_BACKLOG)
        self._listener.setblocking(False)
        self._wake_out, self._wake_in = socket.socketpair()
        self._wake_in.setblocking(False)
        host, port = self._listener.getsockname()[:2]
        self.address: tuple[str, int] = (host, port)
        self._thread.start()
        self.faults.attach(self._wake)
        self._wake()  # for what was armed before
        return self.address

    def stop(self) -> None:
        """Close the connection and the port, end the thread. Safe to call twice, or before `serve`."""
        if self._stopping.is_set() or self._thread.ident is None:
            return
        self._stopping.set()
        self._wake()
        self._thread.join()
        self.faults.attach(lambda: None)
        self._wake_in.close()
        self._wake_out.close()

    def external_signal(self, level: bool) -> None:
        """The external shutter input goes up or down. What is asked of the board after this call comes after it."""
        self._calls.append(lambda: self._board.external_signal(level))
        self._wake()

    def _wake(self) -> None:
        with contextlib.suppress(OSError):  # it has been woken often enough, or has just stopped
            self._wake_in.send(b"x")

    # --- the thread ---------------------------------------------------------------------------------------------------
    def _run(self) -> None:
        with selectors.DefaultSelector() as self._selector:
            self._selector.register(self._listener, selectors.EVENT_READ)
            self._selector.register(self._wake_out, selectors.EVENT_READ)
            try:
                while not self._stopping.is_set():
                    self._round()
            except BaseException as error:
                self.failure = error
                log.exception("the simulated board failed")
                self._on_failure()
            finally:
                self._drop_client()
                self._close_dead()
                self._listener.close()

    def _round(self) -> None:
        ready = {key.fileobj for key, _ in self._selector.select(self._seconds_until_due())}
        if self._wake_out in ready:
            self._wake_out.recv(_RECEIVE_BYTES)
        self._board.advance()
        self._follow_orders()
        if self._listen_again_s is not None and time.monotonic() >= self._listen_again_s:
            self._listen_again()
        if self._client is not None and self._client.socket in ready:
            self._read(self._client)
        if self._listener in ready:
            self._accept()

    def _seconds_until_due(self) -> float | None:
        due_s = self._board.seconds_until_due()
        if self._listen_again_s is None:
            return due_s
        left_s = max(0.0, self._listen_again_s - time.monotonic())
        return left_s if due_s is None else min(due_s, left_s)

    def _accept(self) -> None:
        try:
            sock, (address, *_) = self._listener.accept()
        except OSError as error:
            log.warning(f"a client was gone before it was served: {error}")
            return
        if self._client is not None:
            # It may have hung up just before the new one called.
            self._read(self._client)
        if self._client is not None:
            log.warning(f"refused a second client ({address}): {self._client.address} is connected")
            sock.close()
            return
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._client = _Client(sock, address)
        self._selector.register(sock, selectors.EVENT_READ)
        log.info(f"client {address} connected")
        self._board.client_connected(address)

    def _drop_client(self, *, reset: bool = False) -> None:
        sock = self._take_client()
        if sock is not None:
            _reset(sock) if reset else sock.close()

    def _take_client(self) -> socket.socket | None:
        """The client's socket, which is served no more."""
        if self._client is None:
            return None
        sock, self._client = self._client.socket, None
        self._selector.unregister(sock)
        return sock

    def _read(self, client: _Client) -> None:
        """Take what the client sent, and answer it."""
        try:
            while self._client is client:
                client.protocol.receive_data(client.socket.recv(_RECEIVE_BYTES))
                self._answer_all(client)
        except BlockingIOError:
            return
        except (OSError, RemoteProtocolError) as error:
            log.warning(f"client {client.address} dropped: {error}")
            self._drop_client()

    def _answer_all(self, client: _Client) -> None:
        while self._client is client and (event := client.protocol.next_event()) is not NEED_DATA:
            if isinstance(event, ConnectionClosed):
                log.info(f"client {client.address} hung up")
                self._drop_client()
                return
            if isinstance(event, Request | BadRequest):
                self._follow_orders()
                if self._client is client:
                    self._answer(client, event)

    def _answer(self, client: _Client, event: Request | BadRequest) -> None:
        fault = self.faults.strike(_command_of(event), no_reply=event.no_reply)
        if fault is not None and fault.name.reach is not Reach.REPLY and fault.name is not FaultName.RESET:
            self._strike(fault)
            fault = None
            if self._client is not client:
                return  # nobody is there to be answered, and what was asked is lost
        reply = self._reply(client, event, fault)
        if fault is not None and fault.name is FaultName.RESET:
            self._strike(fault)
        elif not event.no_reply:
            self._deliver(client, spoiled(fault, reply) if fault is not None else Delivery((reply,)))

    def _reply(self, client: _Client, event: Request | BadRequest, fault: Fault | None) -> bytes:
        """The bytes that answer a request, once it was carried out; empty where no reply is wanted."""
        if isinstance(event, BadRequest):
            log.warning(f"client {client.address}: {event.reason}")
            return b"" if event.no_reply else client.protocol.reject(event)
        if fault is not None and fault.name is FaultName.ERROR_REPLY:
            reply = Reply(event.command, event.device, error=ErrorWord(int(fault.value)))
        else:
            reply = self._board.answer(event)
        return b"" if event.no_reply else client.protocol.reply(reply)

    def _deliver(self, client: _Client, delivery: Delivery) -> None:
        for number, part in enumerate(delivery.parts):
            if number:
                self._pause(delivery.pause_s)
            if part and not self._stopping.is_set():
                self._send(client, part)

    def _pause(self, seconds: float) -> None:
        """Let time pass, but not for what the board does by itself."""
        end_s = time.monotonic() + seconds
        while not self._stopping.is_set() and (left_s := end_s - time.monotonic()) > 0:
            due_s = self._board.seconds_until_due()
            self._stopping.wait(left_s if due_s is None else min(due_s, left_s))
            self._board.advance()

    def _send(self, client: _Client, data: bytes) -> None:
        client.socket.settimeout(_SEND_TIMEOUT_S)
        try:
            client.socket.sendall(data)
        finally:
            client.socket.setblocking(False)

    # --- faults and signals -------------------------------------------------------------------------------------------
    def _follow_orders(self) -> None:
        """Do what other threads asked for."""
        while self._calls:
            self._calls.popleft()()
        while (order := self.faults.next_order()) is not None:
            (fault,) = order
            if fault is None:
                self._heal()
            elif isinstance(fault, DataFault):
                log.info(f"fault {fault}")
                self._board.spoil_data(fault)
            else:
                self._strike(fault)

    def _strike(self, fault: Fault) -> None:
        """Do the harm of a fault of the line or of the board."""
        log.info(f"fault {fault}")
        if fault.name is FaultName.CHIP_GONE:
            self._board.lose_chip(int(fault.value))
        elif fault.name is FaultName.LINK_UNLOCKED:
            self._board.unlock_link(int(fault.value))
        elif fault.name is FaultName.HALF_OPEN:
            sock = self._take_client()
            self._dead.extend([sock] if sock else [])
        else:
            # A client that sees the reset finds the port closed and the state lost.
            if fault.name in (FaultName.UNREACHABLE, FaultName.REBOOT):
                self._close_port(fault.value)
            if fault.name in (FaultName.POWER_CYCLE, FaultName.REBOOT):
                self._board.power_cycle()
            self._drop_client(reset=True)

    def _heal(self) -> None:
        self._board.restore_chips()
        self._board.heal_data()
        if self._listen_again_s is not None:
            self._listen_again()

    def _close_port(self, seconds: float) -> None:
        already_closed = self._listen_again_s is not None
        self._listen_again_s = time.monotonic() + seconds
        if already_closed:
            return
        waiting = self._waiting()
        self._selector.unregister(self._listener)
        self._listener.close()
        # Bound and not listening: who calls is refused, and nobody else can take the port meanwhile.
        self._listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._listener.bind(self.address)
        for sock in waiting:
            _reset(sock)

    def _waiting(self) -> list[socket.socket]:
        """Clients that were not served yet."""
        waiting = []
        with contextlib.suppress(OSError):
            while True:
                waiting.append(self._listener.accept()[0])
        return waiting

    def _listen_again(self) -> None:
        self._listen_again_s = None
        self._listener.listen(_BACKLOG)
        self._listener.setblocking(False)
        self._selector.register(self._listener, selectors.EVENT_READ)
        log.info("the port is open again")

    def _close_dead(self) -> None:
        for sock in self._dead:
            sock.close()


def _reset(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
    sock.close()


def _command_of(event: Request | BadRequest) -> Command | None:
    return event.command if isinstance(event, Request) else None
