"""The index of a recording: which bytes arrived when, what is missing between them, and where files and points end.

A record opens a stretch as soon as the one before has 1 MiB or 10 ms, between batches of datagrams; others stand at
losses, at readings of the board's counters, at the ends of acquisitions and where a new segment file begins. With the
host time at which the board's timers were zero, a record tells every word's 48-bit epoch after any silence. Each
carries the checksum of the bytes since the one before: what a power cut left of a recording is good up to the last
record whose checksum agrees.

File layout (`<recording>.idx`): a 4096-byte header (magic, version, JSON of the run, zero padded), then fixed-size
records in the order of their addresses. A file that was cut anywhere is readable up to its last whole record.

A day's index may have gigabytes. So it is mapped into memory, and looked through a page at a time.
"""

import json
import os
import struct
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping
from enum import IntEnum
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from ..clock import NS_PER_COUNT

MAGIC: Final = b"TPXIDX04"
MAGIC_3: Final = b"TPXIDX03"
MAGIC_2: Final = b"TPXIDX02"
HEADER_BYTES: Final = 4096
UNKNOWN: Final = -1


class Kind(IntEnum):
    """What an index record stands for."""

    STRETCH = 0
    """Bytes follow that arrived from `host_ns` on."""
    LOSS_KERNEL = 1
    """The kernel dropped `lost` datagrams of `chip` just before `offset`: the receive buffer was full."""
    LOSS_MALFORMED = 2
    """`lost` datagrams of `chip` came just before `offset` that were no whole words; they are set aside."""
    POLL = 3
    """The board was asked how much it had sent."""
    END = 4
    """An acquisition ends."""
    SEGMENT = 5
    """A new segment file begins with the byte at `offset`."""
    LOSS_UNRECORDED = 6
    """`lost` datagrams came after the recording had to stop (disk or ring full) and before the acquisition's end."""
    BASELINE = 7
    """What the board had sent when an acquisition began, and what had arrived of it (`received_before`)."""
    BEGIN = 8
    """The board's timer stood at `end_counts` at `host_ns`, before the shutter of the acquisition opened."""
    OPEN = 9
    """The board's timer stood at `end_counts` when the shutter was open."""


LOSS_CAUSES: Final = {
    Kind.LOSS_KERNEL: "kernel",
    Kind.LOSS_MALFORMED: "malformed",
    Kind.LOSS_UNRECORDED: "unrecorded",
}
DAMAGED: Final = "damaged"
"""Cause of a loss that no record tells of: bytes that do not agree with their checksum."""

RECORD: Final = np.dtype(
    [
        ("offset", "<i8"),  # address (run-wide, over all segments) of the first byte that follows the record
        ("host_ns", "<i8"),  # CLOCK_MONOTONIC
        ("datagrams", "<i8"),  # good datagrams of the run before it
        ("kernel_dropped", "<i8"),  # datagrams that the kernel dropped before it, all sockets
        ("acquisition", "<i8"),  # 0: outside any
        # END: the board's timer before the shutter closed (25 ns); BEGIN, OPEN: before and after it opened; else -1
        ("end_counts", "<i8"),
        # POLL, BASELINE, END: datagrams the board says it sent since the run was opened; -1 unknown
        ("sent", "<i8"),
        # POLL, BASELINE: datagrams that had arrived (see `arrived`) when the board was asked; END: those of `sent`;
        # LOSS_MALFORMED: address up to which they lie between the bytes, where they share a record; else -1
        ("received_before", "<i8"),
        ("malformed", "<i8"),  # datagrams before it that were no whole words
        ("unrecorded", "<i8"),  # datagrams before it that came when disk or ring were full
        ("lost", "<i4"),  # LOSS_*: datagrams lost just before `offset`
        ("chip", "<i2"),  # LOSS_*: chip of the socket; else -1
        ("kind", "u1"),  # see `Kind`
        ("unused", "u1"),
        ("checksum", "<u8"),  # sum of the 64-bit words between the record before and this one, modulo 2^64
        ("sent_words", "<i8"),  # beside `sent`: words of pixels that the board says it sent since then; -1 unknown
        ("paused", "<i8"),  # beside `sent`: datagrams that waited on the board because its read-out was paused
    ]
)
RECORD_3: Final = np.dtype([(name, RECORD[name]) for name in (RECORD.names or ())[:-2]])
"""A record of an index of version 3."""
RECORD_2: Final = np.dtype(
    [(name, "<i8") for name in ("offset", "host_ns", "datagrams", "kernel_dropped", "acquisition", "end_counts")]
)
"""A record of an index of version 2."""
VERSIONS: Final = {MAGIC: RECORD, MAGIC_3: RECORD_3, MAGIC_2: RECORD_2}


class Row(NamedTuple):
    """A record by its names, for those who write one."""

    offset: int
    host_ns: int
    datagrams: int = 0
    kernel_dropped: int = 0
    acquisition: int = 0
    end_counts: int = UNKNOWN
    sent: int = UNKNOWN
    received_before: int = UNKNOWN
    malformed: int = 0
    unrecorded: int = 0
    lost: int = 0
    chip: int = -1
    kind: int = Kind.STRETCH
    unused: int = 0
    checksum: int = 0
    sent_words: int = UNKNOWN
    paused: int = UNKNOWN

    def put(self, memory: memoryview, k: int) -> None:
        """Write it into the memory of records, at place `k`: as assigning it there does, in a tenth of the time."""
        _ROW.pack_into(memory, k * _ROW.size, *self)


_CODES: Final = {"<i8": "q", "<u8": "Q", "<i4": "i", "<i2": "h", "|u1": "B"}
_ROW: Final = struct.Struct("<" + "".join(_CODES[RECORD[name].str] for name in Row._fields))

STRETCH_BYTES: Final = 1 << 20
STRETCH_NS: Final = 10_000_000
END_OF_TIME: Final = 1 << 62
"""No address is as high."""
SILENCE_NS: Final = 200_000_000
"""What came so long after the first words of a slice is in the next one: a slice has one time of the host. Slices of
the first so long of an acquisition hold a stretch each: of them it is known better when they came."""

PAGE: Final = 1 << 16
"""Records that are looked through at once."""

Records = npt.NDArray[np.void]


class Loss(NamedTuple):
    """Datagrams that are missing just before an address; or bytes from there on that are not as they were received."""

    chip: int
    cause: str
    """'kernel', 'malformed' or 'unrecorded'; or 'damaged'."""
    datagrams: int
    """Of cause 'damaged': bytes."""
    reach: int = 0
    """Bytes behind the address among which more of them are missing, or which are damaged. Slices end there."""


class Poll(NamedTuple):
    """A reading of the board's counters, and what had arrived around it; all counts since the run was opened."""

    sent: int
    arrived_before: int
    """Before the board was asked."""
    arrived_after: int
    """When what it had sent before its answer must have come."""
    sent_words: int = UNKNOWN
    """Words of pixels that it had sent."""
    paused: int = UNKNOWN
    """Datagrams that had waited on it because its read-out was paused."""


class Index(NamedTuple):
    """An index as read: what the run was, and its records."""

    run: dict[str, Any]
    records: Records
    has_checksums: bool = True


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
    """The index beside `recording`, or None when there is none or it is not ours. Older versions get defaults."""
    path = index_path(recording)
    try:
        with path.open("rb") as file:
            head, size = file.read(HEADER_BYTES), os.fstat(file.fileno()).st_size
    except OSError:
        return None
    run = _run_in(head)
    if run is None:
        return None
    version = VERSIONS[head[: len(MAGIC)]]
    n_records = (size - HEADER_BYTES) // version.itemsize
    records: Records = np.zeros(0, version)
    if n_records:
        records = np.memmap(path, version, "r", HEADER_BYTES, (n_records,)).view(np.ndarray)
    if version is RECORD:
        return Index(run, records)
    if version is RECORD_3:
        return Index(run, _with_defaults(records))
    return Index(run, _from_version_2(records), has_checksums=False)


def read_run(recording: Path) -> dict[str, Any] | None:
    """The run that made `recording`, from the header of its index alone; None where `read_index` gives None."""
    try:
        with index_path(recording).open("rb") as file:
            return _run_in(file.read(HEADER_BYTES))
    except OSError:
        return None


def _run_in(raw: bytes) -> dict[str, Any] | None:
    """The description of the run in the header that `raw` begins with; None when it is none of ours."""
    if raw[: len(MAGIC)] not in VERSIONS or len(raw) < HEADER_BYTES:
        return None
    run: dict[str, Any] = json.loads(raw[12 : 12 + int.from_bytes(raw[8:12], "little")])
    return run


def _with_defaults(old: Records) -> Records:
    """Records of an older version; what they lack is unknown."""
    records = np.full(len(old), np.array(Row(0, 0), RECORD))
    for name in old.dtype.names or ():
        records[name] = old[name]
    return records


def _from_version_2(old: Records) -> Records:
    """Where an acquisition ended shows in its numbers; all else is unknown."""
    records = _with_defaults(old)
    ends = (records["acquisition"] == 0) & (np.diff(records["acquisition"], prepend=0) != 0)
    records["kind"][ends] = Kind.END
    return records


def arrived(records: Records) -> npt.NDArray[np.int64]:
    """Datagrams of the board that had reached this machine before each record: good, malformed, dropped, unrecorded.

    It is what `sent` and `received_before` compare with. Datagrams of other senders are not among them.
    """
    names = ("datagrams", "kernel_dropped", "malformed", "unrecorded")
    total: npt.NDArray[np.int64] = np.sum([records[name] for name in names], axis=0)
    return total


def pages(records: Records) -> Iterator[tuple[int, Records]]:
    """(number of the first, the records themselves): some at a time, in order."""
    for first in range(0, len(records), PAGE):
        yield first, records[first : first + PAGE]


def places_of(records: Records, *kinds: Kind) -> list[int]:
    """Numbers of the records of these kinds."""
    return [first + int(k) for first, page in pages(records) for k in np.flatnonzero(np.isin(page["kind"], kinds))]


def first_at(records: Records, address: int) -> int:
    """Number of the first record at `address` or behind it."""
    return bisect_left(records["offset"], address)


def first_behind(records: Records, address: int) -> int:
    """Number of the first record behind `address`."""
    return bisect_right(records["offset"], address)


def baseline(records: Records) -> int:
    """Datagrams that had arrived when the board's count began, at 0."""
    for _, page in pages(records):
        first = page[(page["kind"] == Kind.POLL) & (page["acquisition"] == 0)][:1]
        if first.size:
            return int(first["received_before"][0]) if first["sent"][0] == 0 else 0
    return 0


def timer_estimate(host_ns: int | None, zero_ns: int | None) -> int | None:
    """The board's timer (25 ns counts) at host time `host_ns`, if it was 0 at `zero_ns`; None if either is unknown."""
    if host_ns is None or zero_ns is None:
        return None
    return max(0, (host_ns - zero_ns) // NS_PER_COUNT)


class Counted(NamedTuple):
    """Datagrams, as an index counts them."""

    datagrams: int
    kernel_dropped: int
    malformed: int
    unrecorded: int


class Base(NamedTuple):
    """The board's counters as an acquisition begins, and what had arrived of what they tell."""

    sent: int
    arrived: int
    sent_words: int | None
    paused: int | None = None
    """Datagrams that had waited on the board because its read-out was paused."""


class Moment(NamedTuple):
    """A reading of the board's timer."""

    counts: int
    """25 ns counts."""
    host_ns: int
    """CLOCK_MONOTONIC, not later than the timer was read."""


class Span(NamedTuple):
    """The bytes of one acquisition in a recording."""

    acquisition: int
    start: int
    stop: int
    end_counts: int | None
    """The board's timer before its shutter closed (25 ns counts), where it is known."""
    closed: bool = True
    """False: the recording breaks off within it."""
    sent: int | None = None
    """Datagrams that the board said it had sent since the run was opened, up to the end of this acquisition."""
    arrived: int | None = None
    """How many of them had reached this machine (see `arrived`)."""
    counted: "Counted | None" = None
    """What came in this acquisition, strays before it included; None: the index is of an older version."""
    sent_words: int | None = None
    """Beside `sent`: words of pixels."""
    base: "Base | None" = None
    """What `sent` and `arrived` were when the acquisition began; None: nobody asked."""
    paused: int | None = None
    """Beside `sent`: datagrams that had waited."""
    begin: Moment | None = None
    """When its shutter was still closed, where it is known."""
    open_counts: int | None = None
    """The board's timer after its shutter had opened, where it is known."""


def spans(records: Records, n_bytes: int) -> list[Span]:
    """The acquisitions of a recording of `n_bytes`, in order. What lies between them belongs to none.

    After a power loss the index may know more than the recording holds: what begins beyond its end is left out.
    """
    numbers = records["acquisition"]
    starts = _changes(records)
    bases = {int(numbers[k]): _base(records[k]) for k in places_of(records, Kind.BASELINE)}
    begun = {int(numbers[k]): _moment(records[k]) for k in places_of(records, Kind.BEGIN)}
    opened = {int(numbers[k]): int(records["end_counts"][k]) for k in places_of(records, Kind.OPEN)}
    found: list[Span] = []
    before = _counted(records[:1])
    for k, first in enumerate(starts):
        if numbers[first] == 0:
            continue
        closing = records[starts[k + 1]] if k + 1 < len(starts) else None
        stop = n_bytes if closing is None else min(int(closing["offset"]), n_bytes)
        closed = closing is not None and bool(closing["offset"] <= n_bytes)
        if records["offset"][first] >= n_bytes and not closed:  # nothing came of it, or nothing is left
            break
        end_counts = int(closing["end_counts"]) if closing is not None and closed else -1
        known = end_counts if end_counts >= 0 else None
        sent = int(closing["sent"]) if closing is not None and closed else UNKNOWN
        came = None if closing is None or sent < 0 else _arrived_at_end(closing)
        words = _known(closing["sent_words"]) if closing is not None and closed else None
        paused = _known(closing["paused"]) if closing is not None and closed else None
        start = int(records["offset"][first])
        last = starts[k + 1] if closed else first_behind(records, stop) - 1
        now = _counted(records[last : last + 1])
        counted = Counted(*(a - b for a, b in zip(now, before, strict=True)))
        before = now
        number = int(numbers[first])
        base, moments = bases.get(number), (begun.get(number), opened.get(number))
        found.append(
            Span(number, start, stop, known, closed, _known(sent), came, counted, words, base, paused, *moments)
        )
    return found


def _arrived_at_end(closing: Any) -> int:
    """What had arrived of what an acquisition sent. Datagrams may have come behind the last reading of the counters."""
    if closing["kind"] == Kind.END and closing["received_before"] >= 0:
        return int(closing["received_before"])
    return int(arrived(closing))


def first_of(records: Records, span: Span) -> int:
    """Number of the record with which an acquisition begins."""
    k = first_at(records, span.start)
    while records["acquisition"][k] != span.acquisition:
        k += 1
    return k


def _changes(records: Records) -> list[int]:
    """Numbers of the records with which an acquisition begins or ends."""
    found: list[int] = []
    before = 0
    for first, page in pages(records):
        numbers = np.asarray(page["acquisition"])
        found += [first + int(k) for k in np.flatnonzero(np.diff(numbers, prepend=before))]
        before = int(numbers[-1])
    return found


def _base(record: Any) -> Base:
    words, paused = _known(record["sent_words"]), _known(record["paused"])
    return Base(int(record["sent"]), int(record["received_before"]), words, paused)


def _moment(record: Any) -> Moment:
    return Moment(int(record["end_counts"]), int(record["host_ns"]))


def _known(count: Any) -> int | None:
    return int(count) if count >= 0 else None


def _counted(record: Records) -> Counted:
    """The counts of a single record; zeros of none."""
    return Counted(*(int(record[name].sum()) for name in Counted._fields))


class Cut(NamedTuple):
    """What the index says about the slice that begins at an address."""

    stop: int
    host_ns: int | None
    """When its first bytes came; None: no record covers them."""
    losses: tuple[Loss, ...] = ()
    poll: Poll | None = None
    lasting_ns: int = SILENCE_NS
    """Within so long after that all of them came."""
    is_base: bool = False
    """The acquisition is compared with what the board counts from here on: a BASELINE stands here."""


def cut_slice(records: Records, start: int, stop: int, acquisition: int | None = None, single_until_ns: int = 0) -> Cut:
    """How far a reader at `start` may go towards `stop` in one slice, and what stands at `start`.

    The slice ends before the first record that is younger than its first by `SILENCE_NS`, so that one time serves for
    all its words, and before any that is more than a mere stretch.
    acquisition: losses and readings of others that stand at the same address are left out; None: all are told.
    single_until_ns: what came before holds one stretch only.
    """
    offsets = records["offset"]
    here = int(np.searchsorted(offsets, start, side="left"))
    first = int(np.searchsorted(offsets, start, side="right"))
    losses, poll, is_base = _standing_at(records[here:first], acquisition)
    last = int(np.searchsorted(offsets, stop, side="left"))
    barriers = np.flatnonzero(records["kind"][first:last] != Kind.STRETCH)
    if barriers.size:
        last = first + int(barriers[0])
        stop = int(offsets[last])
    if first == 0:
        return Cut(stop, None, losses, poll, is_base=is_base)
    times = records["host_ns"][first - 1 : max(first, last)]
    single = bool(times[0] < single_until_ns)
    quiet = np.flatnonzero(times[1:] - times[0] >= (1 if single else SILENCE_NS))
    end = int(offsets[first + quiet[0]]) if quiet.size else stop
    return Cut(end, int(times[0]), losses, poll, STRETCH_NS if single else SILENCE_NS, is_base)


class Beginning:
    """How long slices of an acquisition hold one stretch only: one for each reader."""

    def __init__(self) -> None:
        self.until_ns = END_OF_TIME

    def note(self, cut: Cut) -> Cut:
        """A slice of words was cut; the first tells when they began to come."""
        if self.until_ns == END_OF_TIME and cut.host_ns is not None:
            self.until_ns = cut.host_ns + SILENCE_NS
        return cut


class Window:
    """Records that stand next to each other in an index, looked through once: then a slice costs little, whatever the
    number of losses is.
    """

    def __init__(self, records: Records) -> None:
        self.records = records
        self.offsets = np.ascontiguousarray(records["offset"])
        self._barriers = np.flatnonzero(records["kind"] != Kind.STRETCH)

    def covering(self, start: int) -> int:
        """Place of the first record at `start`; where there is none, of the last before it."""
        first = int(np.searchsorted(self.offsets, start, side="left"))
        if first == self.offsets.size or self.offsets[first] > start:
            return max(0, first - 1)
        return first

    def cut(self, start: int, stop: int, acquisition: int | None = None, single_until_ns: int = 0) -> Cut:
        """See `cut_slice`."""
        behind = int(np.searchsorted(self.offsets, start, side="right"))
        last = max(behind, int(np.searchsorted(self.offsets, stop, side="left")))
        barrier = int(np.searchsorted(self._barriers, behind))
        if barrier < self._barriers.size:
            last = min(last, int(self._barriers[barrier]) + 1)
        return cut_slice(self.records[self.covering(start) : last], start, stop, acquisition, single_until_ns)


def _standing_at(records: Records, acquisition: int | None) -> tuple[tuple[Loss, ...], Poll | None, bool]:
    """The losses and the last reading among records of one address, and whether there is a BASELINE."""
    if not (records["kind"] != Kind.STRETCH).any():
        return (), None, False  # as nearly everywhere
    if acquisition is not None:
        records = records[records["acquisition"] == acquisition]
    losses = tuple(
        Loss(
            int(r["chip"]),
            LOSS_CAUSES[Kind(r["kind"])],
            int(r["lost"]),
            max(0, int(r["received_before"]) - int(r["offset"])),
        )
        for r in records
        if r["kind"] in LOSS_CAUSES
    )
    is_base = bool((records["kind"] == Kind.BASELINE).any())
    polls = records[records["kind"] == Kind.POLL]
    if not polls.size:
        return losses, None, is_base
    last = polls[-1]
    names = ("sent", "received_before", "sent_words", "paused")
    sent, before, words, paused = (int(last[name]) for name in names)
    return losses, Poll(sent, before, int(arrived(polls)[-1]), words, paused), is_base


class PagedWindow:
    """The same over an index of any length, of which it looks through a page at a time."""

    def __init__(self, records: Records, page: int = PAGE) -> None:
        self._records = records
        self._page = page
        self._window = Window(records[:0])
        self._first = len(records)
        self._known_to = -1
        """All records before this address are in the window."""

    def cut(self, start: int, stop: int, acquisition: int | None = None, single_until_ns: int = 0) -> Cut:
        """See `cut_slice`. Where pages end, so may slices; a loss with a reach is not torn."""
        if not self._covers(start):
            self._turn_to(start, start + 1)
        cut = self._window.cut(start, max(start, min(stop, self._known_to)), acquisition, single_until_ns)
        reach = start + max((loss.reach for loss in cut.losses), default=0)
        if cut.stop < min(reach, stop):
            self._turn_to(start, reach)
            cut = self._window.cut(start, max(start, min(stop, self._known_to)), acquisition, single_until_ns)
        return cut

    def _covers(self, start: int) -> bool:
        """Whether the record that covers `start`, and one behind it, are in the window."""
        if start >= self._known_to:
            return False
        return self._first == 0 or bool(self._window.offsets[0] < start)

    def _turn_to(self, start: int, beyond: int) -> None:
        """Take the records from the one that covers `start` on, up to `beyond` at least."""
        self._first = max(0, first_at(self._records, start) - 1)
        size = self._page
        while True:
            self._window = Window(self._records[self._first : self._first + size])
            if self._first + size >= len(self._records):
                self._known_to = END_OF_TIME
                return
            self._known_to = int(self._window.offsets[-1])
            if self._known_to >= beyond:
                return
            size *= 2
