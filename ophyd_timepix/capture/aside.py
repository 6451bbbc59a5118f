"""Datagrams that are no whole words or came from elsewhere: kept beside the recording, not in it."""

import contextlib
import struct
from collections import Counter
from pathlib import Path
from typing import Final

from ..spool.ring import Mark, Ring
from .batch import BatchReceiver

SET_ASIDE_LIMIT: Final = 256
"""Datagrams of a wrong length that are kept for the side file before more are only counted; as many of strangers."""
_SET_ASIDE: Final = struct.Struct("<qIHH")


class Aside:
    """Those of a recording. Counted in the marks of the ring; the first of them are kept."""

    def __init__(self, ring: Ring) -> None:
        self._ring = ring
        self._kept: list[tuple[int, int, bytes]] = []
        self._n_kept: Counter[Mark] = Counter()

    def put(self, batch: BatchReceiver, which: range, counter: Mark, now: int, chip: int) -> None:
        """Datagrams of a batch, whose payloads are in its slots."""
        for k in which:
            self.keep(batch.payloads[k, : int(batch.lengths[k])].tobytes(), counter, now, chip)

    def keep(self, payload: bytes, counter: Mark, now: int, chip: int) -> None:
        """One datagram that came at host time `now`."""
        self._ring.marks[counter] += 1
        self._ring.marks[Mark.MALFORMED_BYTES] += len(payload)
        if self._n_kept[counter] < SET_ASIDE_LIMIT:
            self._n_kept[counter] += 1
            self._kept.append((now, chip, payload))

    def write(self, recording: Path | None) -> None:
        """Into the file beside the recording, if there is one and a datagram to keep. Nothing is kept afterwards."""
        if self._kept and recording is not None:
            with contextlib.suppress(OSError), open(recording.with_name(recording.name + ".aside"), "wb") as file:
                for host_ns, chip, payload in self._kept:
                    file.write(_SET_ASIDE.pack(host_ns, len(payload), chip, 0) + payload)
        self._kept.clear()
        self._n_kept.clear()
