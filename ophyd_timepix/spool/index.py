"""The index of a recording: which bytes arrived when. A record opens every stretch of at most 1 MiB or 10 ms.

With the host time at which the board's timers were zero, a record tells every word's 48-bit epoch after any silence.

File layout (`<recording>.idx`): a 4096-byte header (magic, version, JSON of the run, zero padded), then fixed-size
records. A file that was cut anywhere is readable up to its last whole record.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from ..clock import NS_PER_COUNT

MAGIC: Final = b"TPXIDX02"
HEADER_BYTES: Final = 4096
RECORD: Final = np.dtype(
    [
        ("offset", "<i8"),  # first byte of the stretch in the recording
        ("host_ns", "<i8"),  # CLOCK_MONOTONIC of its first datagram
        ("datagrams", "<i8"),  # datagrams of the run before it
        ("kernel_dropped", "<i8"),  # datagrams that the kernel dropped before it, all sockets
        ("acquisition", "<i8"),  # 0: outside any
        ("end_counts", "<i8"),  # of the record that closes an acquisition: the board's timer then (25 ns); else -1
    ]
)
STRETCH_BYTES: Final = 1 << 20
STRETCH_NS: Final = 10_000_000
SILENCE_NS: Final = 1_000_000_000
"""Readers do not take one slice across a pause of this length: the epoch is chosen once per slice."""

Records = npt.NDArray[np.void]


class Index(NamedTuple):
    """An index as read: what the run was, and its records."""

    run: dict[str, Any]
    records: Records


def index_path(recording: Path) -> Path:
    """Where the index of `recording` lies: beside it."""
    return recording.with_name(recording.name + ".idx")


def header(run: Mapping[str, Any]) -> bytes:
    """The header block of an index file. Raises ValueError when the description is too long."""
    text = json.dumps(run, separators=(",", ":")).encode()
    room = HEADER_BYTES - len(MAGIC) - 4
    if len(text) > room:
        raise ValueError(f"the description of a run holds at most {room} bytes, not {len(text)}")
    return (MAGIC + len(text).to_bytes(4, "little") + text).ljust(HEADER_BYTES, b"\0")


def read_index(recording: Path) -> Index | None:
    """The index beside `recording`, or None when there is none or it is not ours."""
    try:
        raw = index_path(recording).read_bytes()
    except OSError:
        return None
    if raw[: len(MAGIC)] != MAGIC or len(raw) < HEADER_BYTES:
        return None
    n_text = int.from_bytes(raw[8:12], "little")
    run = json.loads(raw[12 : 12 + n_text])
    n_records = (len(raw) - HEADER_BYTES) // RECORD.itemsize
    return Index(run, np.frombuffer(raw, RECORD, n_records, HEADER_BYTES))


def timer_estimate(host_ns: int | None, zero_ns: int | None) -> int | None:
    """The board's timer (25 ns counts) at host time `host_ns`, if it was 0 at `zero_ns`; None if either is unknown."""
    if host_ns is None or zero_ns is None:
        return None
    return max(0, (host_ns - zero_ns) // NS_PER_COUNT)


class Span(NamedTuple):
    """The bytes of one acquisition in a recording."""

    acquisition: int
    start: int
    stop: int
    end_counts: int | None
    """The board's timer when its shutter closed (25 ns counts), where it is known."""
    closed: bool = True
    """False: the recording breaks off within it."""


def spans(records: Records, n_bytes: int) -> list[Span]:
    """The acquisitions of a recording of `n_bytes`, in order. What lies between them belongs to none.

    After a power loss the index may know more than the recording holds: what begins beyond its end is left out.
    """
    numbers = records["acquisition"]
    starts = np.flatnonzero(np.diff(numbers, prepend=0))
    found = []
    for k, first in enumerate(starts):
        if numbers[first] == 0:
            continue
        if records["offset"][first] >= n_bytes:
            break
        closing = records[starts[k + 1]] if k + 1 < len(starts) else None
        stop = n_bytes if closing is None else min(int(closing["offset"]), n_bytes)
        closed = closing is not None and closing["offset"] <= n_bytes
        end_counts = int(closing["end_counts"]) if closing is not None and closed else -1
        known = end_counts if end_counts >= 0 else None
        found.append(Span(int(numbers[first]), int(records["offset"][first]), stop, known, closed))
    return found


def slice_end(records: Records, start: int, stop: int) -> tuple[int, int | None]:
    """How far a reader at `start` may go towards `stop` in one slice, and the host time of its first bytes.

    Returns (end, host_ns); host_ns is None when no record covers `start`. The slice ends before the first record that
    follows a silence.
    """
    offsets = records["offset"]
    first = int(np.searchsorted(offsets, start, side="right")) - 1
    if first < 0:
        return stop, None
    last = int(np.searchsorted(offsets, stop, side="left"))
    times = records["host_ns"][first:last]
    quiet = np.flatnonzero(np.diff(times) >= SILENCE_NS)
    end = int(offsets[first + 1 + quiet[0]]) if quiet.size else stop
    return end, int(times[0])
