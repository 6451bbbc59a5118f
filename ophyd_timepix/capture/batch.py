"""Batched receive: one system call takes up to 64 datagrams (recvmmsg(2)) into one block of memory."""

import ctypes
import errno
import os
import socket
from typing import Final

import numpy as np
import numpy.typing as npt

BATCH: Final = 64
SLOT_BYTES: Final = 1 << 16
"""Any UDP payload fits (65,507 at most)."""
MSG_WAITFORONE: Final = 0x10000

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
    """Receives from one socket. After `receive()` returned n: `payloads[k, :lengths[k]]` for k < n.

    With SO_RXQ_OVFL set, the kernel tells with each datagram how many it had dropped before it queued this one.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._fd = sock.fileno()
        self.payloads: npt.NDArray[np.uint8] = np.zeros((BATCH, SLOT_BYTES), np.uint8)
        self._senders = np.zeros(BATCH, _SOCKADDR)
        self._addresses: npt.NDArray[np.uint32] = self._senders.view(np.uint32).reshape(BATCH, 4)[:, 1]
        self._iov = np.zeros(BATCH, _IOVEC)
        self._iov["base"] = self.payloads.ctypes.data + SLOT_BYTES * np.arange(BATCH, dtype=np.uint64)
        self._iov["bytes"] = SLOT_BYTES
        self._headers = np.zeros(BATCH, _MMSGHDR)
        self._headers["name"] = self._senders.ctypes.data + _SOCKADDR.itemsize * np.arange(BATCH, dtype=np.uint64)
        self._headers["iov"] = self._iov.ctypes.data + _IOVEC.itemsize * np.arange(BATCH, dtype=np.uint64)
        self._headers["iov_count"] = 1
        self._controls = np.zeros(BATCH, _CONTROL)
        self._headers["control"] = self._controls.ctypes.data + _CONTROL.itemsize * np.arange(BATCH, dtype=np.uint64)
        # Views made once: a batch costs as few objects as possible.
        self._name_bytes = self._headers["name_bytes"]
        self._control_bytes = self._headers["control_bytes"]
        self._dropped = self._controls["dropped"]
        self._lengths: npt.NDArray[np.uint32] = self._headers["received"]
        self._pointer = ctypes.c_void_p(self._headers.ctypes.data)

    @property
    def lengths(self) -> npt.NDArray[np.uint32]:
        """Payload bytes of each datagram of the last batch."""
        return self._lengths

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

    def is_uniform(self, n: int) -> bool:
        """Whether the last `n` datagrams are all of one length."""
        return n == 1 or bool((self._lengths[1:n] == self._lengths[0]).all())

    def receive(self, *, wait: bool = True) -> int:
        """Datagrams taken: waits for one (until the socket's time-out), takes what else is there. 0: nothing came."""
        self._name_bytes[:] = _SOCKADDR.itemsize
        self._control_bytes[:] = _CONTROL.itemsize
        flags = MSG_WAITFORONE if wait else socket.MSG_DONTWAIT
        n = _libc.recvmmsg(self._fd, self._pointer, BATCH, flags, None)
        if n >= 0:
            return int(n)
        code = ctypes.get_errno()
        if code in (errno.EAGAIN, errno.EINTR):
            return 0
        raise OSError(code, f"receiving failed: {os.strerror(code)}")
