"""A sender of ready-made datagrams at a steady rate, for measuring the receiving side: `PORT BYTES/S SECONDS LENGTH`.

Prints how many it sent. It builds nothing while it sends: sendmmsg of the same 64 datagrams again and again.
"""

import ctypes
import socket
import sys
import time

import numpy as np

BATCH = 64
HIT = 0xB << 60


def main(port: int, bytes_per_s: float, seconds: float, length: int) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.connect(("127.0.0.1", port))
    payloads = np.full((BATCH, length // 8), HIT, "<u8")
    iov = np.zeros((BATCH, 2), np.uint64)
    iov[:, 0] = payloads.ctypes.data + length * np.arange(BATCH)
    iov[:, 1] = length
    headers = np.zeros((BATCH, 8), np.uint64)  # struct mmsghdr: 64 bytes
    headers[:, 2] = iov.ctypes.data + 16 * np.arange(BATCH)
    headers[:, 3] = 1
    pointer = ctypes.c_void_p(headers.ctypes.data)
    begin = time.monotonic()
    sent = 0
    while (elapsed := time.monotonic() - begin) < seconds:
        due = int(elapsed * bytes_per_s / length) - sent
        if due < BATCH // 2:
            time.sleep(0.0005)
            continue
        n = libc.sendmmsg(sock.fileno(), pointer, min(due, BATCH), 0)
        if n < 0:
            raise OSError(ctypes.get_errno(), "sendmmsg failed")
        sent += n
    return sent


if __name__ == "__main__":
    print(main(int(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4])))
