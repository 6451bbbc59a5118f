"""Batched receive: one system call takes up to 512 datagrams (recvmmsg(2)).

Each goes into a slot of its own, or straight to where it shall stay: there the slots lie side by side, as long as the
datagrams are expected to be, and what is longer runs over into the slots of its own.
"""

import ctypes
import errno
import os
import socket
from typing import Final

import numpy as np
import numpy.typing as npt

BATCH: Final = 512
SLOT_BYTES: Final = 1 << 16
"""Any UDP payload fits (65,507 at most)."""

_libc = ctypes.CDLL(None, use_errno=True)

# struct mmsghdr and struct sockaddr_in of Linux on 64-bit machines
_MMSGHDR: Final = np.dtype(
    [
        ("name", "<u8"),
        ("name_bytes", "<u4"),
        ("_1", "<u4"),
        ("iov", "<u8"),
        ("iov_count", "<u8"),
        ("control", "<u8"),
        ("control_bytes", "<u8"),
        ("flags", "<i4"),
        ("_2", "<u4"),
        ("received", "<u4"),
        ("_3", "<u4"),
    ]
)
_IOVEC: Final = np.dtype([("base", "<u8"), ("bytes", "<u8")])
_SOCKADDR: Final = np.dtype([("family", "<u2"), ("port", ">u2"), ("address", "S4"), ("_", "S8")])
# struct cmsghdr with the one number of SO_RXQ_OVFL, padded as CMSG_SPACE does
_CONTROL: Final = np.dtype([("bytes", "<u8"), ("level", "<i4"), ("type", "<i4"), ("dropped", "<u4"), ("_", "<u4")])


class BatchReceiver:
    """Receives from one socket. After `receive()` returned n: datagram k < n has `lengths[k]` bytes.

    They are in `payloads`, unless `into` sent them elsewhere. With SO_RXQ_OVFL set, the kernel tells with each datagram
    how many it had dropped before it queued this one.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._fd = sock.fileno()
        self.payloads: npt.NDArray[np.uint8] = np.zeros((BATCH, SLOT_BYTES), np.uint8)
        self._slots = self.payloads.ctypes.data + SLOT_BYTES * np.arange(BATCH, dtype=np.uint64)
        self._senders = np.zeros(BATCH, _SOCKADDR)
        self._addresses: npt.NDArray[np.uint32] = self._senders.view(np.uint32).reshape(BATCH, 4)[:, 1]
        self._iov = np.zeros((BATCH, 2), _IOVEC)
        self._iov["base"] = self._slots[:, np.newaxis]
        self._headers = np.zeros(BATCH, _MMSGHDR)
        self._headers["name_bytes"] = _SOCKADDR.itemsize
        self._headers["name"] = self._senders.ctypes.data + _SOCKADDR.itemsize * np.arange(BATCH, dtype=np.uint64)
        self._headers["iov"] = self._iov.ctypes.data + 2 * _IOVEC.itemsize * np.arange(BATCH, dtype=np.uint64)
        self._headers["iov_count"] = 2
        self._controls = np.zeros(BATCH, _CONTROL)
        self._headers["control"] = self._controls.ctypes.data + _CONTROL.itemsize * np.arange(BATCH, dtype=np.uint64)
        # Views made once: a batch costs as few objects as possible.
        self._control_bytes = self._headers["control_bytes"]
        self._dropped = self._controls["dropped"]
        self._lengths: npt.NDArray[np.uint32] = self._headers["received"]
        self._pointer = ctypes.c_void_p(self._headers.ctypes.data)
        self._first, self._rest = self._iov["base"].T
        self._first_bytes, self._rest_bytes = self._iov["bytes"].T
        self._places = self._slots
        self._pitch = -1
        self._received = BATCH
        self._length, self._all_of_length = 0, b""
        self._known_senders = b""
        self.room = BATCH
        """Datagrams that the next `receive` takes at most."""
        self.into_slots()

    def into_slots(self) -> None:
        """The next datagrams come into `payloads`."""
        self.room = BATCH
        if self._pitch:
            self._pitch = 0
            self._first[:] = self._slots
            self._first_bytes[:] = SLOT_BYTES
            self._rest_bytes[:] = 0

    def into(self, address: int, length: int, gap: int, room: int) -> None:
        """The next datagrams, up to `room`, come to memory `address`, each behind a gap; all have `length` bytes.

        Those that have not are whole after `lift` only.
        """
        if self._pitch != gap + length:
            self._pitch = gap + length
            self._places = gap + self._pitch * np.arange(BATCH, dtype=np.uint64)
            self._first_bytes[:] = length
            self._rest[:] = self._slots + np.uint64(length)
            self._rest_bytes[:] = SLOT_BYTES - length
        np.add(self._places, np.uint64(address), out=self._first)
        self.room = min(room, BATCH)

    def lift(self, rows: npt.NDArray[np.uint8]) -> None:
        """Bring datagrams that went elsewhere into `payloads`. rows: shape (n, length), the memory where they lie."""
        self.payloads[: rows.shape[0], : rows.shape[1]] = rows

    @property
    def lengths(self) -> npt.NDArray[np.uint32]:
        """Payload bytes of each datagram of the last batch."""
        return self._lengths

    def all_have(self, length: int, n: int) -> bool:
        """Whether each of the last `n` datagrams has `length` bytes."""
        if length != self._length:
            self._length, self._all_of_length = length, np.full(BATCH, length, self._lengths.dtype).tobytes()
        return self._lengths[:n].tobytes() == self._all_of_length[: self._lengths.itemsize * n]

    def know_sender(self) -> None:
        """The first datagram of the last batch came from where all may be expected to come from."""
        self._known_senders = self._senders[:1].tobytes() * BATCH

    def all_from_known(self, n: int) -> bool:
        """Whether each of the last `n` datagrams came from there, address and port."""
        return self._senders[:n].tobytes() == self._known_senders[: _SOCKADDR.itemsize * n]

    def sent_by(self, address: str, n: int) -> npt.NDArray[np.bool_]:
        """Which of the last `n` datagrams came from IPv4 `address`."""
        same: npt.NDArray[np.bool_] = self._addresses[:n] == int.from_bytes(socket.inet_aton(address), "little")
        return same

    def dropped_before(self, k: int) -> int:
        """Datagrams that the kernel had dropped when it queued datagram `k` of the last batch (32 bits, since bind)."""
        return int(self._dropped[k]) if self._control_bytes[k] else 0

    def all_dropped_before(self, n: int) -> npt.NDArray[np.uint32]:
        """The same for each of the last `n` datagrams."""
        return np.where(self._control_bytes[:n] > 0, self._dropped[:n], 0)

    def others(self, length: int, n: int) -> list[int]:
        """Which of the last `n` datagrams have not `length` bytes."""
        other = self._lengths[:n] != length
        places: list[int] = np.flatnonzero(other).tolist()
        return places

    def receive(self) -> int:
        """Take what is there, up to `room` datagrams. 0: nothing."""
        self._control_bytes[: self._received] = _CONTROL.itemsize  # the kernel leaves what it used of them
        n = _libc.recvmmsg(self._fd, self._pointer, self.room, socket.MSG_DONTWAIT, None)
        self._received = max(n, 0)
        if n >= 0:
            return int(n)
        code = ctypes.get_errno()
        if code in (errno.EAGAIN, errno.EINTR):
            return 0
        raise OSError(code, f"receiving failed: {os.strerror(code)}")
