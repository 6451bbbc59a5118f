"""UDP sockets of a capture: bound, with the largest receive buffer that the kernel grants, and honest about it."""

import errno
import logging
import os
import socket
import struct
from typing import Final, NamedTuple

log = logging.getLogger(__name__)

WANTED_BUFFER_BYTES: Final = 256 << 20
"""Asked from the kernel, which counts its own overhead: at 8,960 B a datagram about half of it is payload."""
ENOUGH_BUFFER_BYTES: Final = 64 << 20
REMEDY: Final = f"sudo sysctl -w net.core.rmem_max={WANTED_BUFFER_BYTES // 2}"
"""What allows a buffer of the size that is asked for."""
SO_RCVBUFFORCE: Final = 33
SO_RXQ_OVFL: Final = 40
SO_MEMINFO: Final = 55
MEMINFO_WAITING: Final = 0
MEMINFO_DROPS: Final = 8
_MEMINFO: Final = struct.Struct("9I")


PAYLOAD_SHARE: Final = {64: 0.08, 256: 0.20, 1400: 0.61, 8960: 0.54}
"""Part of a receive buffer that payload can fill, by the datagrams' length (bytes).

The kernel counts the memory that each one occupies. Filled to the brim on loopback, Linux 6.18.
"""
JUMBO_BYTES: Final = 8960
FULL_RATE: Final = 640_000_000
"""Bytes a second: 80 Mhit/s of one chip."""


class Buffer(NamedTuple):
    """What the kernel granted."""

    granted_bytes: int
    warning: str | None

    def holds_bytes(self, datagram_bytes: int = JUMBO_BYTES) -> int:
        """Payload that waits in it before the kernel drops, in datagrams of about this length."""
        nearest = min(PAYLOAD_SHARE, key=lambda length: abs(length - datagram_bytes))
        return int(self.granted_bytes * PAYLOAD_SHARE[nearest])


def open_socket(host: str, port: int) -> socket.socket:
    """A bound UDP socket. Raises OSError that says what to do when the address cannot be had."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, SO_RXQ_OVFL, 1)
        sock.bind((host, port))
    except OSError as error:
        sock.close()
        raise OSError(error.errno, f"cannot receive on UDP {host}:{port}: {_explain(error)}") from error
    return sock


def _explain(error: OSError) -> str:
    reason = os.strerror(error.errno or 0)
    if error.errno == errno.EADDRINUSE:
        return f"{reason}; another acquisition runs on this port, or choose port 0"
    if error.errno == errno.EADDRNOTAVAIL:
        return f"{reason}; this machine has no such address, see `ip address`"
    if error.errno == errno.EACCES:
        return f"{reason}; ports below 1024 need privileges"
    return reason


def enlarge_buffer(sock: socket.socket) -> Buffer:
    """Ask for a large receive buffer, read back what was granted, and say the remedy when it is small.

    setsockopt never fails on Linux, it clamps to net.core.rmem_max: only the read-back tells.
    """
    try:
        sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, WANTED_BUFFER_BYTES // 2)
    except PermissionError:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, WANTED_BUFFER_BYTES // 2)
    granted = sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
    if granted >= ENOUGH_BUFFER_BYTES:
        return Buffer(granted, None)
    jumbo, small = Buffer(granted, None).holds_bytes(), Buffer(granted, None).holds_bytes(64)
    warning = (
        f"the kernel grants a receive buffer of {granted / 1e6:.1f} MB, which holds {jumbo / 1e6:.1f} MB in datagrams "
        f"of {JUMBO_BYTES} bytes ({jumbo / FULL_RATE * 1e3:.0f} ms at 80 Mhit/s) and {small / 1e6:.1f} MB in ones of "
        f"64 bytes; {ENOUGH_BUFFER_BYTES >> 20} MiB are advised: {REMEDY}"
    )
    log.warning("%s", warning)
    return Buffer(granted, warning)


def kernel_drops(sock: socket.socket) -> int:
    """Datagrams that the kernel dropped for this socket so far, the last ones included (SO_MEMINFO, 32 bits)."""
    return _meminfo(sock, MEMINFO_DROPS)


def waiting_bytes(sock: socket.socket) -> int:
    """Memory of the datagrams that wait in the socket's buffer; 0 when it is empty."""
    return _meminfo(sock, MEMINFO_WAITING)


def _meminfo(sock: socket.socket, field: int) -> int:
    info = sock.getsockopt(socket.SOL_SOCKET, SO_MEMINFO, _MEMINFO.size)
    return int(_MEMINFO.unpack(info)[field])
