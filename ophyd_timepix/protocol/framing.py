"""From a TCP byte stream to frames and back. TCP has no message borders: bytes come in any portions.

A frame is four header words and a payload, all in network byte order:

====  =======================================  =================================
word  request                                  reply
====  =======================================  =================================
0     command code | NOREPLY flag              command code | REPLY flag
1     length of the frame in bytes             length of the frame in bytes
2     0                                        error word, 0 = ok
3     device number                            the same device number
4...  payload                                  payload
====  =======================================  =================================

This module knows neither commands nor sockets.
"""

import struct
from dataclasses import dataclass
from typing import Final

from .errors import LocalProtocolError, RemoteProtocolError

CODE_MASK: Final = 0x0000_FFFF
REPLY_FLAG: Final = 0x0001_0000
NOREPLY_FLAG: Final = 0x0008_0000
"""In a request: the board sends no reply."""

_HEADER: Final = struct.Struct(">IIII")
HEADER_BYTES: Final = _HEADER.size
MAX_FRAME_BYTES: Final = 8192
"""Seven times the longest known message (1044 bytes): a longer one is garbage, and is not waited for."""


@dataclass(frozen=True)
class Frame:
    """One message. `status` is the error word of a reply, 0 in a request."""

    word0: int
    status: int
    device: int
    payload: bytes

    def encode(self) -> bytes:
        """The bytes on the wire."""
        length = HEADER_BYTES + len(self.payload)
        if length > MAX_FRAME_BYTES:
            raise LocalProtocolError(f"a frame of {length} bytes is longer than the limit of {MAX_FRAME_BYTES} bytes")
        return _HEADER.pack(self.word0, length, self.status, self.device) + self.payload


class FrameReader:
    """Bytes in, frames out. After garbage it stays broken: nothing tells where the next frame would begin."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._broken: str | None = None

    def feed(self, data: bytes) -> None:
        """Take the next bytes of the stream, any number."""
        self._buffer += data

    @property
    def pending(self) -> int:
        """Bytes that are not part of a frame yet."""
        return len(self._buffer)

    def next_frame(self) -> Frame | None:
        """The next frame, None while it is incomplete. Raises RemoteProtocolError on an impossible length."""
        if self._broken is not None:
            raise RemoteProtocolError(self._broken)
        if len(self._buffer) < HEADER_BYTES:
            return None
        word0, length, status, device = _HEADER.unpack_from(self._buffer)
        if not HEADER_BYTES <= length <= MAX_FRAME_BYTES:
            self._broken = (
                f"a frame (first word 0x{word0:08X}) states a length of {length} bytes; "
                f"{HEADER_BYTES} to {MAX_FRAME_BYTES} are possible: this is no SPIDR message"
            )
            raise RemoteProtocolError(self._broken)
        if len(self._buffer) < length:
            return None
        payload = bytes(self._buffer[HEADER_BYTES:length])
        del self._buffer[:length]
        return Frame(word0, status, device, payload)
