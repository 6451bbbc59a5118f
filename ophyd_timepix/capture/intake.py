"""From a batch of datagrams to chunks in the ring: in place where all are alike, else run by run.

What is malformed or comes from strangers is set aside, and what is missing is marked where it is missing.
"""

import logging
import time
from collections.abc import Sequence
from functools import cache
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from ..protocol.words import CHUNK_MAX_BYTES, chunk_header
from ..spool.index import STRETCH_BYTES, Kind
from ..spool.ring import Mark, Ring
from .aside import Aside
from .batch import BATCH
from .channel import Channel, is_good
from .journal import Journal
from .writer import Writer

log = logging.getLogger(__name__)

FEWEST_IN_PLACE: Final = 16
"""Near the end of the ring's memory, where fewer have room, datagrams are copied there."""
STRANGERS_MAX: Final = 16
"""So many datagrams in a row from an address that the board did not tell, and none from one that it did: believed."""
MANY_ODD: Final = BATCH // 16
"""Of a batch whose datagrams are of so many other lengths each is copied."""
HEADER_BYTES: Final = 8
"""One word before the words of each datagram."""
_header = cache(chunk_header)


class _Spread(NamedTuple):
    """Malformed datagrams in several places of one batch: two records tell of them, at the first place and the last."""

    first: int
    last: int
    """Datagrams of the batch with which the first and the last run of them begin."""
    lost: int
    """Of them, before the last run."""
    n_bytes: int
    """Chunks that lie between."""


class Intake:
    """Takes the batches of all channels. Called with the capture's lock held."""

    def __init__(self, ring: Ring, writer: Writer, journal: Journal, aside: Aside) -> None:
        self._ring = ring
        self._writer = writer
        self._journal = journal
        self._aside = aside

    def aim(self, channel: Channel) -> int | None:
        """Let the next datagrams come straight into the ring, to the address that is returned.

        None: into the slots of the batch, because nothing is recorded, their length is not known, or room is short.
        """
        ring, length = self._ring, channel.likely_length
        if length and self._writer.recording is not None and not self._writer.stopped:
            pitch = HEADER_BYTES + length
            room = min(BATCH, ring.contiguous // pitch, ring.free // pitch)
            if room >= FEWEST_IN_PLACE:
                place = ring.reserve(room * pitch)
                channel.batch.into(ring.memory_address(place), length, HEADER_BYTES, room)
                return place
        channel.batch.into_slots()
        return None

    def take(self, channel: Channel, n: int, place: int | None, now: int) -> bool:
        """Record a batch that came by host time `now`. place: where in the ring the datagrams lie, if they do.

        Returns whether any of them may be the board's.
        """
        own = channel.own(n)
        self._record(channel, n, place, own, now)
        return own is None or not channel.knows_sender or bool(own.any())

    def _record(self, channel: Channel, n: int, place: int | None, own: npt.NDArray[np.bool_] | None, now: int) -> None:
        batch, length = channel.batch, channel.likely_length
        dropped = channel.newly_dropped(n)
        if self._writer.recording is None:
            self._ring.marks[Mark.IDLE_DATAGRAMS] += n
            return
        if channel.waiting and channel.knows_sender:
            self._set_aside_what_waits(channel, now)
        received = self._journal.mark_stretch(now)
        if place is not None:
            plain = dropped is None and own is None and received < self._journal.segment_full
            if plain and self._close_up(channel, place, n):
                return
            batch.lift(self._rows(place, n, length)[:, HEADER_BYTES:])
        channel.learn_length(n)
        self._take_runs(channel, n, own, dropped, now)

    def _close_up(self, channel: Channel, place: int, n: int) -> bool:
        """Datagrams that lie in the ring become chunks: shorter ones leave gaps, behind which the others move up.

        False: that would be much work, or not all of them are good; nothing is changed.
        """
        length = channel.likely_length
        if channel.batch.all_have(length, n):
            self._complete(channel.chip, place, n, length)
            return True
        odd = channel.batch.others(length, n)
        lengths = channel.batch.lengths[odd].tolist()
        if len(odd) > MANY_ODD or max(lengths) > length or not all(map(is_good, lengths)):
            return False
        pitch = HEADER_BYTES + length
        first, to = 0, place
        for k, odd_length in zip(odd, lengths, strict=True):
            n_bytes = (k - first) * pitch + HEADER_BYTES + odd_length
            self._ring.move(place + first * pitch, to, n_bytes)
            self._complete(channel.chip, to, k - first, length)
            first, to = k + 1, to + n_bytes
            self._complete(channel.chip, to - HEADER_BYTES - odd_length, 1, odd_length)
        self._ring.move(place + first * pitch, to, (n - first) * pitch)
        self._complete(channel.chip, to, n - first, length)
        return True

    def _complete(self, chip: int, place: int, n: int, length: int) -> None:
        """Datagrams that lie in the ring become chunks: their headers are missing only."""
        self._ring.words_every(HEADER_BYTES + length, place, n)[:] = _header(chip, length)
        self._publish(n, n * (HEADER_BYTES + length), n * length)

    def _rows(self, place: int, n: int, length: int) -> npt.NDArray[np.uint8]:
        """The memory of `n` chunks of `length` bytes and a header each, which does not lie across the ring's end."""
        pitch = HEADER_BYTES + length
        return self._ring.parts(place, place + n * pitch)[0].reshape(n, pitch)

    def _take_runs(
        self,
        channel: Channel,
        n: int,
        own: npt.NDArray[np.bool_] | None,
        dropped: npt.NDArray[np.int64] | None,
        now: int,
    ) -> None:
        """A batch that is not all alike: runs of equal datagrams, and before each what is missing there."""
        lengths = channel.batch.lengths[:n]
        whose = np.ones(n, np.bool_) if own is None else own
        first = np.ones(n, np.bool_)
        if self._ring.received < self._journal.segment_full:
            for values in (lengths, whose):
                first[1:] &= values[1:] == values[:-1]
            first[1:] = ~first[1:]
            if dropped is not None:
                first |= dropped > 0
        starts = np.flatnonzero(first)
        spread = None if dropped is not None else self._spread(lengths, whose, starts)
        for a, b in zip(starts.tolist(), [*starts[1:].tolist(), n], strict=True):
            if dropped is not None:
                self._journal.located += int(dropped[a])
                self._journal.lose(Kind.LOSS_KERNEL, int(dropped[a]), channel.chip, now)
            if not whose[a]:
                self._turn_away(channel, range(a, b), now)
            elif is_good(int(lengths[a])):
                self._append(channel, a, b, now)
            else:
                self._aside.put(channel.batch, range(a, b), Mark.MALFORMED_DATAGRAMS, now, channel.chip)
                if spread is None or a == spread.last:
                    self._journal.lose(Kind.LOSS_MALFORMED, b - a, channel.chip, now)
                elif a == spread.first:
                    until = self._ring.received + spread.n_bytes
                    self._journal.lose(Kind.LOSS_MALFORMED, spread.lost, channel.chip, now, until)

    def _spread(
        self, lengths: npt.NDArray[np.uint32], whose: npt.NDArray[np.bool_], starts: npt.NDArray[np.intp]
    ) -> _Spread | None:
        """None: there are none, or in one place, or another record may have to stand between them."""
        good = (lengths % 8 == 0) & (lengths > 0) & (lengths <= CHUNK_MAX_BYTES)
        bad = np.flatnonzero(whose & ~good)
        if not bad.size:
            return None
        first, last = int(bad[0]), int(starts[np.searchsorted(starts, bad[-1], side="right") - 1])
        between = lengths[first:last][(whose & good)[first:last]]
        n_bytes = int(between.sum()) + 8 * between.size
        if last == first or n_bytes > STRETCH_BYTES or self._ring.received + n_bytes >= self._journal.segment_full:
            return None
        return _Spread(first, last, int(np.count_nonzero(bad < last)), n_bytes)

    def _append(self, channel: Channel, a: int, b: int, now: int) -> None:
        """Datagrams [a, b) of a batch, all of one length, one chunk each: one strided copy for all of them."""
        length = int(channel.batch.lengths[a])
        many = max(1, self._ring.size // 4 // (HEADER_BYTES + length))  # of large ones a ring may not hold a batch
        for first in range(a, b, many):
            self._append_run(channel, first, min(first + many, b), now)

    def _append_run(self, channel: Channel, a: int, b: int, now: int) -> None:
        length = int(channel.batch.lengths[a])
        n_bytes = (b - a) * (HEADER_BYTES + length)
        if not self._writer.room_for(n_bytes):
            self._ring.marks[Mark.UNRECORDED] += b - a
            return
        if self._ring.received >= self._journal.segment_full:
            self._journal.roll(now)
        if self._ring.contiguous < n_bytes:
            for k in range(a, b):
                self._append_one(channel.chip, channel.batch.payloads[k, :length])
            return
        start = self._ring.reserve(n_bytes)
        self._rows(start, b - a, length)[:, HEADER_BYTES:] = channel.batch.payloads[a:b, :length]
        self._complete(channel.chip, start, b - a, length)

    def _append_one(self, chip: int, payload: npt.NDArray[np.uint8]) -> None:
        """The same for one datagram, which may lie across the ring's end."""
        n_bytes = HEADER_BYTES + payload.size
        start = self._ring.reserve(n_bytes)
        words = start + HEADER_BYTES
        self._ring.words_every(HEADER_BYTES, start, 1)[:] = _header(chip, payload.size)  # never across the end
        first, second = self._ring.parts(words, start + n_bytes)
        first[:] = payload[: first.size]
        second[:] = payload[first.size :]
        self._publish(1, n_bytes, payload.size)

    def _publish(self, datagrams: int, n_bytes: int, payload_bytes: int) -> None:
        counts = self._ring.counts
        counts[Mark.DATAGRAMS] += datagrams
        counts[Mark.PAYLOAD_BYTES] += payload_bytes
        self._ring.publish(n_bytes)

    # --- strangers --------------------------------------------------------------------------------------------------

    def _turn_away(self, channel: Channel, which: range, now: int) -> None:
        """Datagrams that are not the board's, as far as it has told. Before it was heard they wait: it may be wrong."""
        if channel.knows_sender:
            self._aside.put(channel.batch, which, Mark.WRONG_SENDER, now, channel.chip)
            return
        batch = channel.batch
        channel.waiting += [batch.payloads[k, : int(batch.lengths[k])].tobytes() for k in which]
        if len(channel.waiting) >= STRANGERS_MAX:
            self._believe(channel, now)

    def _set_aside_what_waits(self, channel: Channel, now: int) -> None:
        """The board was heard, or has sent nothing: the others were strangers."""
        for payload in channel.waiting:
            self._aside.keep(payload, Mark.WRONG_SENDER, now, channel.chip)
        channel.waiting.clear()

    def believe_all(self, channels: Sequence[Channel], *, something_is_missing: bool = True) -> None:
        """The end, and the board was never heard from where it should be: those who were are the board.

        But not when the board says that all it has sent is here.
        """
        for channel in channels:
            if channel.waiting and something_is_missing:
                self._believe(channel, time.monotonic_ns())
            elif channel.waiting:
                self._set_aside_what_waits(channel, time.monotonic_ns())

    def _believe(self, channel: Channel, now: int) -> None:
        """What waited is recorded after all."""
        log.warning("chip %d: data come from another address than the board tells; they are taken", channel.chip)
        for payload in channel.believe():
            if not is_good(len(payload)):
                self._aside.keep(payload, Mark.MALFORMED_DATAGRAMS, now, channel.chip)
                self._journal.lose(Kind.LOSS_MALFORMED, 1, channel.chip, now)
            elif not self._writer.room_for(len(payload) + HEADER_BYTES):
                self._ring.marks[Mark.UNRECORDED] += 1
            else:
                if self._ring.received >= self._journal.segment_full:
                    self._journal.roll(now)
                self._append_one(channel.chip, np.frombuffer(payload, np.uint8))
