"""A client made of struct and socket, and what is said of messages in the reference's tables: code numbers, no names.

Nothing here uses this package's client or protocol: it talks as another program would.
"""

import socket
import struct
import time

TIMEOUT_S = 10.0


class Wire:
    """One control connection."""

    def __init__(self, address: tuple[str, int]) -> None:
        self.socket = socket.create_connection(address, timeout=TIMEOUT_S)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def close(self) -> None:
        self.socket.close()

    def read(self, n: int) -> bytes:
        data = b""
        while len(data) < n:
            portion = self.socket.recv(n - len(data))
            if not portion:
                raise ConnectionError(f"closed after {len(data)} of {n} bytes")
            data += portion
        return data

    def send(self, code: int, device: int = 0, *words: int, data: bytes = b"") -> None:
        self.socket.sendall(message(code, device, *(words or (0,)), data=data))

    def reply(self) -> tuple[int, int, int, int, bytes]:
        """(word 0, length, error, device, payload)."""
        head = self.read(16)
        word0, length, error, device = struct.unpack(">4I", head)
        return word0, length, error, device, self.read(length - 16)

    def ask(self, code: int, device: int, *words: int, data: bytes = b"") -> bytes:
        """Sends, checks the header of the reply byte for byte, returns its payload."""
        self.socket.sendall(message(code, device, *words, data=data))
        word0, length, error, echoed, answer = self.reply()
        assert (word0, error, echoed) == (code | 0x10000, 0, device)
        assert length == 16 + len(answer)
        return answer

    def get(self, code: int, device: int, *words: int) -> tuple[int, ...]:
        answer = self.ask(code, device, *(words or (0,)))
        return struct.unpack(f">{len(answer) // 4}I", answer)

    def set(self, code: int, device: int, *words: int, data: bytes = b"") -> None:
        assert len(self.ask(code, device, *(words or (0,)), data=data)) == 4


def message(code: int, device: int, *words: int, data: bytes = b"") -> bytes:
    """A request."""
    payload = struct.pack(f">{len(words)}I", *words) + data
    return struct.pack(">4I", code, 16 + len(payload), 0, device) + payload


def wire_when_it_listens(address: tuple[str, int]) -> Wire:
    """The first connection that is not refused."""
    end_s = time.monotonic() + TIMEOUT_S
    while time.monotonic() < end_s:
        try:
            return Wire(address)
        except ConnectionRefusedError:
            continue
    raise TimeoutError(f"nobody listened at {address} within {TIMEOUT_S} s")
