"""Datagrams out of one socket per chip: `sendmmsg` without the interpreter's lock, and up to 64 datagrams in each of
its messages where the kernel cuts them (UDP_SEGMENT), so that small ones leave at line rate too.

Nothing is dropped here: when the kernel's buffer is full the call waits. A destination that cannot be reached is
reported once and its datagrams count as sent: a board does not know who listens.
"""

import ctypes
import errno
import logging
import os
import socket
import struct
from typing import Final

import numpy as np

from spidr_sim.readout import WordArray

log = logging.getLogger(__name__)

DEFAULT_DATAGRAM_BYTES: Final = 8960
DATAGRAM_BYTES_LIMITS: Final = (1400, 65_504)
WORD_BYTES: Final = 8
_SEND_BUFFER_BYTES: Final = 8 << 20
_BATCH: Final = 256
_UDP_SEGMENT: Final = 103
"""Socket option of linux/udp.h."""
_SEGMENTS: Final = 64
_MESSAGE_BYTES: Final = 65_507
_NOT_SEGMENTED: Final = (errno.EINVAL, errno.EIO, errno.EMSGSIZE, errno.EOPNOTSUPP)
"""What a route says that carries no such messages, or only smaller datagrams."""
_UNREACHABLE: Final = (
    errno.ENETUNREACH,
    errno.EHOSTUNREACH,
    errno.ECONNREFUSED,
    errno.EPERM,
    errno.EACCES,
    errno.EINVAL,
)

_IOVEC: Final = np.dtype([("base", np.uint64), ("length", np.uint64)])
_MMSGHDR: Final = np.dtype(
    [
        ("name", np.uint64),
        ("name_length", np.uint32),
        ("_1", np.uint32),
        ("iov", np.uint64),
        ("iov_length", np.uint64),
        ("control", np.uint64),
        ("control_length", np.uint64),
        ("flags", np.int32),
        ("_2", np.uint32),
        ("sent", np.uint32),
        ("_3", np.uint32),
    ]
)
"""struct mmsghdr of 64-bit Linux (man 2 sendmmsg)."""

_libc = ctypes.CDLL(None, use_errno=True)
_sendmmsg = _libc.sendmmsg
_sendmmsg.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_uint, ctypes.c_int]
_sendmmsg.restype = ctypes.c_int


def words_per_datagram(datagram_bytes: int) -> int:
    """How many words a full datagram of at most `datagram_bytes` holds. Raises ValueError naming the limits."""
    low, high = DATAGRAM_BYTES_LIMITS
    if not low <= datagram_bytes <= high:
        raise ValueError(f"a datagram carries {low} to {high} bytes, not {datagram_bytes}")
    return datagram_bytes // WORD_BYTES


class DatagramSender:
    """One chip's way out: cuts words into datagrams and sends them to the chip's destination."""

    def __init__(self, host: str, datagram_bytes: int = DEFAULT_DATAGRAM_BYTES) -> None:
        self._words = words_per_datagram(datagram_bytes)
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER_BYTES)
        try:
            self._socket.bind((host, 0))
        except OSError as error:
            self._socket.close()
            raise OSError(f"cannot send from {host}: {error}; choose an address of this machine") from error
        self._name: np.ndarray[tuple[int], np.dtype[np.uint8]] | None = None
        self._destination = ("", 0)
        self._reported = False
        self._iovec = np.zeros(_BATCH, _IOVEC)
        self._bases = self._iovec["base"]
        self._lengths = self._iovec["length"]
        self._set_segments(self._most_segments())
        self._headers = np.zeros(_BATCH, _MMSGHDR)
        self._headers["iov"] = self._iovec.ctypes.data + np.arange(_BATCH, dtype=np.uint64) * np.uint64(_IOVEC.itemsize)
        self._headers["iov_length"] = 1

    def set_destination(self, address: str, port: int) -> None:
        """Where datagrams go from now on. Raises OSError for an address that is none."""
        name = struct.pack("=H", socket.AF_INET) + struct.pack("!H4s8x", port, socket.inet_aton(address))
        self._name = np.frombuffer(bytearray(name), np.uint8)
        self._headers["name"] = self._name.ctypes.data
        self._headers["name_length"] = self._name.size
        self._destination = (address, port)
        self._reported = False

    def send(self, words: WordArray) -> int:
        """Send all `words` (contiguous), the last datagram as short as it is. Returns the number of datagrams."""
        n_datagrams = -(-words.size // self._words)
        if self._name is None:
            return n_datagrams
        if n_datagrams == 1:  # at low rates this is all there is: the plain call costs a fifth
            self._send_one(words.data)
            return 1
        first = 0
        while first < words.size:
            first += self._send_batch(words[first:])
        return n_datagrams

    @property
    def destination(self) -> tuple[str, int]:
        """Where datagrams go; port 0 before that was said."""
        return self._destination

    def cut(self, words: WordArray) -> list[WordArray]:
        """What `send` would make of `words`: the words of each datagram."""
        return [words[first : first + self._words] for first in range(0, words.size, self._words)]

    def send_datagram(self, payload: bytes) -> None:
        """Send one datagram of any length."""
        if self._name is not None:
            self._send_one(payload)

    def close(self) -> None:
        """Free the socket."""
        self._socket.close()

    def _send_one(self, payload: bytes | memoryview) -> None:
        while True:
            try:
                self._socket.sendto(payload, self._destination)
                return
            except OSError as error:
                if self._after_failure(error.errno or 0):
                    return

    def _most_segments(self) -> int:
        """How many datagrams a message of ours may hold."""
        size = self._words * WORD_BYTES
        most = min(_SEGMENTS, _MESSAGE_BYTES // size)
        try:
            self._socket.setsockopt(socket.IPPROTO_UDP, _UDP_SEGMENT, size if most > 1 else 0)
        except OSError:  # a kernel that does not cut
            return 1
        return most

    def _set_segments(self, segments: int) -> None:
        self._segments = segments
        self._size = segments * self._words * WORD_BYTES
        self._offsets = np.arange(_BATCH, dtype=np.uint64) * np.uint64(self._size)
        self._lengths[:] = self._size

    def _send_batch(self, words: WordArray) -> int:
        """Send the first of `words`, a batch of messages at most. Returns how many words are done with."""
        n = min(_BATCH, -(-words.nbytes // self._size))
        np.add(self._offsets[:n], np.uint64(words.ctypes.data), out=self._bases[:n])
        self._lengths[n - 1] = min(self._size, words.nbytes - (n - 1) * self._size)
        first = 0
        while first < n:
            address = self._headers.ctypes.data + first * _MMSGHDR.itemsize
            sent = _sendmmsg(self._socket.fileno(), address, n - first, 0)
            code = ctypes.get_errno() if sent < 0 else 0
            if code in _NOT_SEGMENTED and self._segments > 1:
                done = first * self._size
                self._socket.setsockopt(socket.IPPROTO_UDP, _UDP_SEGMENT, 0)
                self._set_segments(1)
                return done // WORD_BYTES
            first += sent if sent > 0 else self._after_failure(code)
        self._lengths[n - 1] = self._size
        return min(words.size, n * self._size // WORD_BYTES)

    def _after_failure(self, code: int) -> int:
        """How many messages to pass over after a failed call: none when it only has to be tried again."""
        if code in (errno.EINTR, errno.EAGAIN, errno.ENOBUFS):
            return 0
        if code in _UNREACHABLE:
            if not self._reported:
                log.warning("datagrams to %s:%d go nowhere: %s", *self._destination, os.strerror(code))
                self._reported = True
            return 1
        address, port = self._destination
        raise OSError(code, f"sending to {address}:{port}: {os.strerror(code)}")
