"""What a recording holds for the decode stage: its acquisitions, and what the board had sent around each.

Knows files and no process.
"""

import numpy as np

from ..spool.index import Kind, Records, Span, arrived, baseline, read_index, spans
from ..spool.sound import cut_recording
from ..spool.sources import open_recording
from .decode_stage import ReadRequest
from .locating import Way
from .messages import RecordedFile


def recorded_parts(file: RecordedFile) -> list[ReadRequest]:
    """The acquisitions of a recording, where our own index tells of them; else the whole of it as one.

    If not all are asked for, the first of them begins a time line of its own: the index tells its time.
    """
    recording = open_recording(file.path)
    if file.good_bytes is not None:
        recording = cut_recording(recording, file.good_bytes)
    index = read_index(recording.path) if recording.chunked else None
    found = spans(index.records, recording.n_bytes) if index else []
    ways = recorded_ways(index.records, found) if index else []
    if not found:
        found, ways = [Span(1, 0, recording.n_bytes, None)], [None]
    first, stop = file.acquisitions or (0, len(found))
    return [
        ReadRequest(
            acquisition=span.acquisition,
            recording=recording,
            span=span,
            starts_time_line=k == first,
            phase=file.phase,
            timer_zero_ns=file.timer_zero_ns,
            way=ways[k],
        )
        for k, span in enumerate(found)
        if first <= k < stop
    ]


def recorded_ways(records: Records, found: list[Span]) -> list[Way | None]:
    """What the index says of the board's counter at the end of each acquisition, and when it was known last before.

    None where it says nothing.
    """
    ways: list[Way | None] = []
    before = (0, baseline(records))
    for span in found:
        after = _at_end(span) if span.closed else _until_it_broke_off(records, span, *before)
        ways.append(None if after is None else Way(*before, *after))
        before = after or before
    return ways


def _at_end(span: Span) -> tuple[int, int] | None:
    """Datagrams (sent, arrived) up to the end of an acquisition."""
    return None if span.sent is None or span.arrived is None else (span.sent, span.arrived)


def _until_it_broke_off(records: Records, span: Span, sent_before: int, arrived_before: int) -> tuple[int, int] | None:
    """The same of an acquisition that never ended, by the last reading of the board's counter.

    Nobody waited until all was here, so datagrams may have been on their way. Unknown when none is lost for sure; else
    all that may be lost is taken for lost.
    """
    inside = (records["acquisition"] == span.acquisition) & (records["offset"] <= span.stop)
    last = np.flatnonzero(inside & (records["kind"] == Kind.POLL))[-1:]
    if not last.size:
        return None
    sent, came = int(records["sent"][last[0]]), int(arrived(records)[last[0]])
    if Way(sent_before, arrived_before, sent, came).missing <= 0:
        return None
    return sent, int(records["received_before"][last[0]])
