"""Serves a simulated board over TCP: one thread, one client at a time, as a SPIDR does.

A second client is closed at once. Bytes that are no requests end the connection. The thread also wakes for what the
board does by itself (automatic shutters). It knows no command.
"""

import logging
import selectors
import socket
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Final, Self

from ophyd_timepix.protocol import (
    NEED_DATA,
    BadRequest,
    ConnectionClosed,
    RemoteProtocolError,
    Request,
    ServerConnection,
)
from spidr_sim.board import Board

log = logging.getLogger(__name__)

_RECEIVE_BYTES: Final = 65_536
_SEND_TIMEOUT_S: Final = 5.0
"""A client that does not read its replies for so long is dropped."""


class _Client:
    """The connected client: its socket and its end of the protocol."""

    def __init__(self, sock: socket.socket, address: str) -> None:
        self.socket = sock
        self.address = address
        self.protocol = ServerConnection()


class TcpServer:
    """`TcpServer(board, host, port)`; port 0 takes a free one. `serve()` returns the address, `stop()` ends it."""

    def __init__(
        self, board: Board, host: str = "127.0.0.1", port: int = 0, *, on_failure: Callable[[], None] = lambda: None
    ) -> None:
        self._board = board
        self._wanted = (host, port)
        self._client: _Client | None = None
        self._on_failure = on_failure
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="spidr-sim-tcp", daemon=True)
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
        self._listener = socket.create_server(self._wanted, backlog=8)
        self._listener.setblocking(False)
        self._wake_out, self._wake_in = socket.socketpair()
        host, port = self._listener.getsockname()[:2]
        self.address: tuple[str, int] = (host, port)
        self._thread.start()
        return self.address

    def stop(self) -> None:
        """Close the connection and the port, end the thread. Safe to call twice, or before `serve`."""
        if self._stopping or self._thread.ident is None:
            return
        self._stopping = True
        self._wake_in.send(b"x")
        self._thread.join()
        self._wake_in.close()
        self._wake_out.close()

    # --- the thread ---------------------------------------------------------------------------------------------------
    def _run(self) -> None:
        with selectors.DefaultSelector() as self._selector, self._listener:
            self._selector.register(self._listener, selectors.EVENT_READ)
            self._selector.register(self._wake_out, selectors.EVENT_READ)
            try:
                while not self._stopping:
                    self._round()
            except BaseException as error:
                self.failure = error
                log.exception("the simulated board failed")
                self._on_failure()
            finally:
                self._drop_client()

    def _round(self) -> None:
        ready = {key.fileobj for key, _ in self._selector.select(self._board.seconds_until_due())}
        self._board.advance()
        if self._client is not None and self._client.socket in ready:
            self._read(self._client)
        if self._listener in ready:
            self._accept()

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

    def _drop_client(self) -> None:
        if self._client is not None:
            self._selector.unregister(self._client.socket)
            self._client.socket.close()
            self._client = None

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
        while (event := client.protocol.next_event()) is not NEED_DATA:
            if isinstance(event, ConnectionClosed):
                log.info(f"client {client.address} hung up")
                self._drop_client()
                return
            if isinstance(event, Request | BadRequest):
                self._answer(client, event)

    def _answer(self, client: _Client, event: Request | BadRequest) -> None:
        if isinstance(event, BadRequest):
            log.warning(f"client {client.address}: {event.reason}")
            if not event.no_reply:
                self._send(client, client.protocol.reject(event))
            return
        reply = self._board.answer(event)
        if not event.no_reply:
            self._send(client, client.protocol.reply(reply))

    def _send(self, client: _Client, data: bytes) -> None:
        client.socket.settimeout(_SEND_TIMEOUT_S)
        try:
            client.socket.sendall(data)
        finally:
            client.socket.setblocking(False)
