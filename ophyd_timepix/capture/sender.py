"""A sender of ready-made datagrams at a steady rate, for trials of the receiving side.

`python -m ophyd_timepix.capture.sender PORT BYTES_PER_S SECONDS LENGTH` sends to this machine itself, then prints
how many datagrams it sent and in how many seconds. It builds nothing while it sends: the same 64 again and again.
"""

import ctypes
import os
import socket
import sys
import threading
import time
from typing import Final

import numpy as np

from ..protocol.words import HEADER, PIXEL_DATA_DRIVEN

BATCH: Final = 64
HOST: Final = "127.0.0.1"
_PAUSE_S: Final = 0.0005
_MMSGHDR_WORDS: Final = 8
_MSG_IOV, _MSG_IOVLEN = 2, 3
"""Words of a `struct mmsghdr` on 64-bit Linux."""


def send(port: int, bytes_per_s: float, seconds: float, length: int) -> tuple[int, float]:
    """Datagrams sent, and the time it took. Raises OSError when the system refuses."""
    libc = ctypes.CDLL(None, use_errno=True)
    payloads = np.full((BATCH, length // 8), PIXEL_DATA_DRIVEN << HEADER.shift, "<u8")
    pieces = np.zeros((BATCH, 2), np.uint64)
    pieces[:, 0] = payloads.ctypes.data + length * np.arange(BATCH)
    pieces[:, 1] = length
    headers = np.zeros((BATCH, _MMSGHDR_WORDS), np.uint64)
    headers[:, _MSG_IOV] = pieces.ctypes.data + pieces.strides[0] * np.arange(BATCH)
    headers[:, _MSG_IOVLEN] = 1
    never = threading.Event()
    sent = 0
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect((HOST, port))
        begin = time.monotonic()
        while (elapsed := time.monotonic() - begin) < seconds:
            due = int(elapsed * bytes_per_s / length) - sent
            if due < BATCH // 2:
                never.wait(_PAUSE_S)
                continue
            n = libc.sendmmsg(sock.fileno(), ctypes.c_void_p(headers.ctypes.data), min(due, BATCH), 0)
            if n < 0:
                number = ctypes.get_errno()
                raise OSError(number, f"datagrams of {length} bytes cannot be sent: {os.strerror(number)}")
            sent += n
        return sent, time.monotonic() - begin


if __name__ == "__main__":
    count, took = send(int(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4]))
    sys.stdout.write(f"{count} {took}\n")
