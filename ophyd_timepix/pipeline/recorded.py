"""What a recording holds for the decode stage: its acquisitions, and what the board had sent around each.

Knows files and no process.
"""

from bisect import bisect_right

from ..decode.repeats import REMEMBERED
from ..protocol.words import MAX_CHIPS
from ..spool.index import Base, Kind, Records, Span, arrived, baseline, first_at, first_of, places_of, read_index, spans
from ..spool.sound import cut_recording
from ..spool.sources import open_recording
from .decode_stage import ReadRequest
from .locating import Strays, Way
from .messages import RecordedFile


def recorded_parts(file: RecordedFile) -> list[ReadRequest]:
    """The acquisitions of a recording, where our own index tells of them; else the whole of it as one.

    If not all are asked for, the first of them begins a time line of its own: the index tells its time, and the end of
    what came before it what the decoder would remember.
    """
    recording = open_recording(file.path)
    if file.good_bytes is not None:
        recording = cut_recording(recording, file.good_bytes)
    index = read_index(recording.path) if recording.chunked else None
    found = spans(index.records, recording.n_bytes) if index else []
    ways = recorded_ways(index.records, found) if index else []
    strays = recorded_strays(index.records, found) if index else []
    if not found:
        found, ways, strays = [Span(1, 0, recording.n_bytes, None)], [None], [Strays()]
    first, stop = file.acquisitions or (0, len(found))
    missing = _bytes_beyond(index.records, recording.n_bytes) if index else 0
    return [
        ReadRequest(
            acquisition=span.acquisition,
            recording=recording,
            span=span,
            starts_time_line=k == first,
            before=_end_of(index.records, found[:first]) if index and k == first else (),
            phase=file.phase,
            timer_zero_ns=file.timer_zero_ns,
            general=file.general,
            way=ways[k],
            strays=strays[k],
            cut_bytes=recording.truncated_bytes if k == len(found) - 1 else 0,
            missing_bytes=missing if k == len(found) - 1 else 0,
        )
        for k, span in enumerate(found)
        if first <= k < stop
    ]


def _end_of(records: Records, found: list[Span]) -> tuple[Span, ...]:
    """The last datagrams of these acquisitions, as many as are compared with a new one, and somewhat more."""
    ends: list[Span] = []
    wanted = REMEMBERED * MAX_CHIPS
    for span in reversed(found):
        first, stop = first_of(records, span), first_at(records, span.stop)
        datagrams = records["datagrams"][first : stop + 1]
        k = max(0, bisect_right(datagrams, int(datagrams[-1]) - wanted) - 1)
        ends.append(span._replace(start=int(records["offset"][first + k])))
        wanted -= int(datagrams[-1] - datagrams[k])
        if wanted <= 0:
            break
    return tuple(reversed(ends))


def _bytes_beyond(records: Records, n_bytes: int) -> int:
    """Bytes that the index knows of and the recording has not."""
    return max(0, int(records["offset"][-1]) - n_bytes) if len(records) else 0


def recorded_ways(records: Records, found: list[Span]) -> list[Way | None]:
    """What the index says of the board's counter at the end of each acquisition, and at its beginning, else when it was
    known last before. None where it says nothing.
    """
    ways: list[Way | None] = []
    before = Base(0, baseline(records), 0, 0)
    for span in found:
        before = span.base or before
        after = _at_end(span) if span.closed else _until_it_broke_off(records, span, before)
        if after is None:
            ways.append(None)
            continue
        words, paused = (before.sent_words, after.sent_words), (before.paused, after.paused)
        ways.append(Way(before.sent, before.arrived, after.sent, after.arrived, *words, *paused))
        before = after
    return ways


def recorded_strays(records: Records, found: list[Span]) -> list[Strays]:
    """What came before each acquisition that no other one had waited for, and what of it was lost."""
    strays: list[Strays] = []
    before = Base(0, baseline(records), 0)
    for span in found:
        if span.base is None:
            strays.append(Strays())
        else:
            came = int(arrived(records[first_of(records, span)]))
            sent = span.base.sent - before.sent
            strays.append(Strays.between(sent, before.arrived + sent, came, max(came, span.base.arrived)))
        before = _at_end(span) or span.base or before
    return strays


def _at_end(span: Span) -> Base | None:
    """The counters up to the end of an acquisition."""
    if span.sent is None or span.arrived is None:
        return None
    return Base(span.sent, span.arrived, span.sent_words, span.paused)


def _until_it_broke_off(records: Records, span: Span, before: Base) -> Base | None:
    """The same of an acquisition that never ended, by the last reading of the board's counter.

    Nobody waited until all was here, so datagrams may have been on their way. Unknown when none is lost for sure; else
    all that may be lost is taken for lost.
    """
    for k in reversed(places_of(records, Kind.POLL)):
        last = records[k]
        if last["acquisition"] != span.acquisition:
            break
        if last["offset"] <= span.stop:
            sent = int(last["sent"])
            if Way(before.sent, before.arrived, sent, int(arrived(last))).missing <= 0:
                break
            return Base(sent, int(last["received_before"]), None)
    return None
