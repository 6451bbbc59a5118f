"""The control socket between a user's process and the supervisor: one JSON object a line."""

import json
import socket
from typing import Any, Final

LONGEST_LINE: Final = 64 << 20


class LineSocket:
    """Lines of JSON over a stream socket. Sending is blocking; receiving gives whole lines."""

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock
        self._pending = bytearray()

    def fileno(self) -> int:
        return self.socket.fileno()

    def send(self, message: dict[str, Any]) -> None:
        """Send one message."""
        self.socket.sendall(json.dumps(message).encode() + b"\n")

    def receive(self) -> list[dict[str, Any]]:
        """Wait for bytes and return the messages that are complete now. Raises EOFError when the peer is gone."""
        try:
            data = self.socket.recv(1 << 16)
        except ConnectionResetError as error:
            raise EOFError("the peer is gone") from error
        if not data:
            raise EOFError("the peer is gone")
        self._pending += data
        if len(self._pending) > LONGEST_LINE:
            raise ValueError(f"a message of more than {LONGEST_LINE} bytes on the control socket")
        *lines, rest = self._pending.split(b"\n")
        self._pending = bytearray(rest)
        return [json.loads(line) for line in lines]

    def close(self) -> None:
        """Close the socket; the peer sees the end."""
        self.socket.close()
