"""A TCP server that does exactly what a test says: the faults that a healthy board never shows."""

import socket
import threading
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Self

Script = Callable[[socket.socket], None]


class ScriptedServer:
    """Serves one script per connection, in order; what a script raises is raised again at the end of the `with`."""

    def __init__(self, scripts: Sequence[Script]) -> None:
        self._scripts = list(scripts)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._thread = threading.Thread(target=self._run)
        self._failure: BaseException | None = None
        self._open: list[socket.socket] = []
        self._ended = threading.Event()
        self.served = 0

    @property
    def port(self) -> int:
        return int(self._listener.getsockname()[1])

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        for sock in self._open:
            sock.close()
        self._thread.join()
        self._listener.close()
        if self._failure is not None and value is None:
            raise self._failure

    def wait_for_end_of_script(self) -> None:
        """Until a script has ended (for the first time)."""
        if not self._ended.wait(10.0):
            raise TimeoutError("the script does not end")

    def _run(self) -> None:
        for script in self._scripts:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            self._open.append(sock)
            self.served += 1
            try:
                script(sock)
                self._ended.set()
            except (OSError, AssertionError) as error:
                self._failure = error
                return


def silent(sock: socket.socket) -> None:
    """Takes the connection and says nothing, ever."""


def hangs_up(sock: socket.socket) -> None:
    """Takes one request, closes."""
    read_request(sock)
    sock.close()


def resets(sock: socket.socket) -> None:
    """Takes one request, resets the connection."""
    read_request(sock)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
    sock.close()


def replies(*messages: str) -> Script:
    """Answers each request with the next message (hex); portions of one message are separated by '|'."""

    def script(sock: socket.socket) -> None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for message in messages:
            read_request(sock)
            for portion in message.split("|"):
                sock.sendall(bytes.fromhex(portion))

    return script


def then_closes(script: Script) -> Script:
    """The script, and then the server hangs up."""

    def closing(sock: socket.socket) -> None:
        script(sock)
        sock.close()

    return closing


def read_request(sock: socket.socket) -> bytes:
    head = _read(sock, 16)
    return head + _read(sock, int.from_bytes(head[4:8], "big") - 16)


def _read(sock: socket.socket, n: int) -> bytes:
    data = b""
    while len(data) < n:
        portion = sock.recv(n - len(data))
        if not portion:
            raise ConnectionError("the client hung up")
        data += portion
    return data
