"""The decode process: words to time-ordered blocks of hits. It reads behind the capture, at its own pace.

Blocks are written straight into shared memory and dealt to the centroid processes in turn. When none is free it waits:
the recording on disk is the only buffer that grows.
"""

import logging
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection, wait
from typing import Final, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from ..clock import NS_PER_COUNT, TICKS_PER_COUNT, ns_to_ticks
from ..config import Calibration
from ..decode.chunks import first_chunk
from ..decode.counts import PIXEL_CLASSES, Count, total
from ..decode.decoder import Batch, Decoder, Framing, control_names
from ..decode.repeats import Repeats
from ..events.block import BlockArrays
from ..events.builder import BlockBuilder
from ..events.corrections import Corrections
from ..events.finish import finish_block
from ..protocol.words import MAX_CHIPS
from ..spool.index import Moment, Span, timer_estimate
from ..spool.sources import SLICE_BYTES, Recording, RecordingReader, Slice
from .ledger import DecodeTotals
from .live_source import LiveSource
from .locating import Strays, Way
from .losses import Losses, Sums
from .messages import Phase, RunRequest
from .shared import Gauge, Shared
from .skipped import Skipped
from .stage import Stage

log = logging.getLogger(__name__)

LOOK_S: Final = 0.01
"""How often new words are looked for when there are few: each look costs as much as decoding some thousand of them."""
FEW_BYTES: Final = 1 << 20
"""Bytes that are read at once, however few times a second that is; fewer wait for the next look."""
PARTIAL_S: Final = 0.02
"""Hits wait at most this long for their block to fill."""


PASSED_OVER: Final = (
    Count.UNFRAMED_WORDS,
    Count.CUT_CHUNKS,
    Count.UNKNOWN_WORDS,
    Count.REJECTED_EDGES,
    Count.LATE_HITS,
    Count.LATE_EDGES,
    Count.JUMPED_HITS,
    Count.JUMPED_EDGES,
)
"""What is counted of damaged words, with chunks that were cut short."""


class ReadRequest(NamedTuple):
    """An acquisition of a recording to decode."""

    acquisition: int
    recording: Recording
    span: Span
    starts_time_line: bool
    """True for the first acquisition of a recording; the others go on with its time and its shots."""
    before: tuple[Span, ...]
    """Where that is amid the recording: the last words before it, of which nothing is kept."""
    phase: Phase | None
    timer_zero_ns: int | None
    general: tuple[int, ...] = ()
    way: Way | None = None
    strays: Strays = Strays()
    cut_bytes: int = 0
    """At the end of the recording, not to be used; told with its last acquisition."""
    missing_bytes: int = 0
    """Behind the end of the recording, where its index knows of more."""


class Repeated(NamedTuple):
    """Datagrams of a time line that came twice."""

    datagrams: npt.NDArray[np.int64]
    """Of each chip."""
    words: int
    """Left out with them, headers included."""
    largest: int
    """Words of the largest datagram of all."""


NO_REPEATS: Final = Repeated(np.zeros(MAX_CHIPS, np.int64), 0, 0)


class EndRequest(NamedTuple):
    """A live acquisition has ended."""

    stop: int
    end_counts: int | None
    """The board's timer before the shutter closed (25 ns)."""
    way: Way | None = None


class Source(Protocol):
    """Where words come from: a running acquisition or a recording."""

    position: int

    @property
    def at_end(self) -> bool:
        """True when there will be no more words."""

    def next_slice(self, out: npt.NDArray[np.uint8]) -> Slice | None:
        """The next words; None when there are none at the moment."""

    def close(self) -> None:
        """Release what the source holds."""


class DecodeStage(Stage):
    """Requests: open, begin, opened, shut, end (live), read (a recording). Reports `decoded` when an acquisition is in
    blocks.
    """

    name = "decode"

    def __init__(self, control: Connection, shared: Shared, workers: Sequence[Connection], free: Connection) -> None:
        super().__init__(control)
        self._shared = shared
        self._workers = list(workers)
        self._free_source = free
        self._free = list(range(len(shared.blocks)))
        self._buffer = np.empty(SLICE_BYTES, np.uint8)
        self._run: RunRequest | None = None
        self._calibration: Calibration | None = None
        self._stream: _Stream | None = None
        self._source: Source | None = None
        self._sequence = 0
        self._first_record = 0
        self._skipped_before = 0
        self._bytes_before = self._hits_before = self._edges_before = self._passed_over_before = 0
        self._last_block = 0.0
        self._end_counts: int | None = None
        self._way: Way | None = None
        self._opens_later = False
        """It will be told when the shutter is open. What comes before waits for that: its shots cannot be judged."""
        self.requests = {
            "open": self._open,
            "begin": self._begin,
            "opened": self._opened_at,
            "shut": self._shut,
            "end": self._end,
            "read": self._read,
        }

    def inputs(self) -> Sequence[Connection]:
        return (self._free_source,)

    def receive(self, connection: Connection) -> None:
        self._free.append(connection.recv())

    def idle_s(self) -> float | None:
        return None if self._source is None else LOOK_S

    def close(self) -> None:
        if self._source is not None:
            self._source.close()

    # --- requests ---------------------------------------------------------------------------------------------------

    def _open(self, run: RunRequest) -> None:
        """Raises ValueError for a calibration that is another one, or not of these chips."""
        self._calibration = run.processing.load_calibration()
        Corrections(run.processing, self._calibration, run.n_chips)
        self._run = run
        self._stream = None
        self._sequence = 0
        self._first_record = self._skipped_before = 0
        self._bytes_before = self._hits_before = self._edges_before = self._passed_over_before = 0

    def _begin(self, argument: tuple[int, int, bool]) -> None:
        """Live: the words from address `start` on. All acquisitions of a run lie on one time line."""
        acquisition, start, self._opens_later = argument
        run = self._opened()
        if run.spool is None and run.keep_raw and not run.preview:
            raise ValueError("a live run needs a recording")
        if self._stream is None:
            self._stream = _Stream(run, Framing.TPX3, calibration=self._calibration)
        self._stream.begin(acquisition, start)
        self._source = LiveSource(
            self._shared.ring,
            self._shared.index,
            run.spool,
            start,
            self._first_record,
            acquisition,
            may_skip=run.preview,
        )
        self._end_counts = None

    def _opened_at(self, argument: tuple[Moment, int]) -> None:
        """The board's timer before the shutter opened, and after. For one that began without waiting for it, it comes
        too late.
        """
        if self._stream is not None and self._opens_later:
            self._stream.learn_opening(*argument)
        self._opens_later = False

    def _shut(self, counts: int) -> None:
        """The board's timer before the shutter closed; the acquisition goes on until its end."""
        if self._stream is not None and self._source is not None:
            self._stream.close_shutter(counts)

    def _end(self, request: EndRequest) -> None:
        if not isinstance(self._source, LiveSource):
            raise RuntimeError("no acquisition is running")
        self._source.stop, self._end_counts, self._way = request

    def _read(self, request: ReadRequest) -> None:
        """A recording: a time line of its own, in one or more acquisitions."""
        if self._stream is None or request.starts_time_line:
            self._stream = self._new_line(request)
            self._rehearse(request, self._stream)
        span = request.span
        self._stream.begin(request.acquisition, span.start)
        if span.begin is not None and span.open_counts is not None:
            self._stream.learn_opening(span.begin, span.open_counts)
        self._source = RecordingReader(request.recording, span.start, span.stop, span.acquisition)
        self._bytes_before = int(self._shared.gauges[Gauge.DECODED_BYTES]) - span.start
        self._end_counts, self._way = span.end_counts, request.way

    def _rehearse(self, request: ReadRequest, stream: "_Stream") -> None:
        """What came before: the decoder shall know what it would know if it had read the whole recording."""
        for span in request.before:
            with RecordingReader(request.recording, span.start, span.stop, span.acquisition) as reader:
                while (piece := reader.next_slice(self._buffer)) is not None:
                    stream.learn(piece)
            stream.learn_end()
        self._hits_before -= stream.hits
        self._edges_before -= stream.edges
        self._passed_over_before -= stream.passed_over

    def _new_line(self, request: ReadRequest) -> "_Stream":
        """The time line of another recording; shots count on."""
        run = self._opened().model_copy(
            update={"phase": request.phase, "timer_zero_ns": request.timer_zero_ns, "general": request.general}
        )
        framing = Framing.TPX3 if request.recording.chunked else Framing.RAW
        if self._stream is None:
            return _Stream(run, framing, calibration=self._calibration)
        self._hits_before += self._stream.hits
        self._edges_before += self._stream.edges
        self._passed_over_before += self._stream.passed_over
        return _Stream(run, framing, self._stream.builder.shots, self._calibration)

    def _opened(self) -> RunRequest:
        if self._run is None:
            raise RuntimeError("no run is open")
        return self._run

    # --- work -------------------------------------------------------------------------------------------------------

    def step(self) -> bool:
        """Decode one slice. True: there is more, and it is worth while."""
        source, stream = self._source, self._stream
        if source is None or stream is None or self._waits_for_the_shutter(source):
            return False
        piece = source.next_slice(self._buffer)
        if piece is None:
            if source.at_end:
                self._finish(source, stream)
            else:
                self._emit_partial(stream)
                self._show(source, stream)
            return False
        stream.add(piece)
        self._emit_full(stream)
        self._emit_partial(stream)
        self._show(source, stream)
        return not isinstance(source, LiveSource) or source.stop is not None or source.behind >= FEW_BYTES

    def _waits_for_the_shutter(self, source: Source) -> bool:
        return self._opens_later and isinstance(source, LiveSource) and source.stop is None

    def _show(self, source: Source, stream: "_Stream") -> None:
        gauges = self._shared.gauges
        if isinstance(source, LiveSource):
            gauges[Gauge.SKIPPED_BYTES] = self._skipped_before + source.skipped
        gauges[Gauge.DECODED_BYTES] = self._bytes_before + source.position
        gauges[Gauge.HITS] = self._hits_before + stream.hits
        gauges[Gauge.TRIGGERS] = self._edges_before + stream.edges
        gauges[Gauge.SHOTS] = stream.builder.shots - stream.builder.early_shots
        gauges[Gauge.SKIPPED_WORDS] = self._passed_over_before + stream.passed_over
        gauges[Gauge.CHIPS] = max(int(gauges[Gauge.CHIPS]), stream.chips_seen)

    def _emit_full(self, stream: "_Stream") -> None:
        while stream.builder.ready():
            number = self._free_block()
            stream.builder.take(self._shared.blocks[number])
            self._hand_over(number, stream)

    def _others_are_behind(self) -> bool:
        """Whether the centroid processes have all blocks, and this process would have to wait for the next."""
        while self._free_source.poll():
            self._free.append(self._free_source.recv())
        return not self._free

    def _emit_partial(self, stream: "_Stream") -> None:
        """For those who watch: what is final already, though it does not fill a block."""
        if time.monotonic() - self._last_block < PARTIAL_S or not self._free:
            return
        self._last_block = time.monotonic()
        if stream.builder.take_partial(self._shared.blocks[self._free[-1]]):
            self._hand_over(self._free.pop(), stream)

    def _finish(self, source: Source, stream: "_Stream") -> None:
        """All words are read: flush, tell the totals, be idle."""
        stop = source.position
        stream.flush_decoder()
        if self._end_counts is not None:
            stream.close_shutter(self._end_counts)
        more = True
        while more:
            number = self._free_block()
            more = stream.flush(self._shared.blocks[number])
            self._hand_over(number, stream)
        self._show(source, stream)
        source.close()
        if isinstance(source, LiveSource):
            self._first_record = source.record
            self._skipped_before += source.skipped
        self._source = None
        self.report("decoded", stream.end_acquisition(self._way, stop))

    def _free_block(self) -> int:
        """A block that nobody holds; waits for one, and ends with the supervisor."""
        while not self._free:
            for connection in wait([self._free_source, self.control]):
                if connection is self._free_source:
                    self._free.append(self._free_source.recv())
                else:
                    self.obey()
        return self._free.pop()

    def _hand_over(self, number: int, stream: "_Stream") -> None:
        block = self._shared.blocks[number]
        if block.header.unfinished and self._others_are_behind():
            finish_block(block)  # so that all are done at the same time, whoever has more to do
        header = block.header
        header.sequence = self._sequence
        header.acquisition = stream.acquisition
        self._workers[self._sequence % len(self._workers)].send(number)
        self._sequence += 1
        self._last_block = time.monotonic()


class _Stream:
    """The decoder and the builder of one time line, and what they counted in the running acquisition."""

    def __init__(
        self, run: RunRequest, framing: Framing, first_shot: int = 0, calibration: Calibration | None = None
    ) -> None:
        phase = None if run.phase is None else np.asarray(run.phase, np.int32)
        lateness = ns_to_ticks(run.processing.lateness_ns)
        self._decoder = Decoder(framing, run.n_chips, phase, lateness, general=run.general)
        self._repeats = Repeats() if framing is Framing.TPX3 else None
        self._repeated_before = NO_REPEATS
        self._corrections = Corrections(run.processing, calibration, run.n_chips)
        self.builder = BlockBuilder(run.processing, run.n_chips, leaves_order=True, first_shot=first_shot)
        self._zero_ns = run.timer_zero_ns
        self.acquisition = 0
        self._counts_before = self._decoder.counts.copy()
        self._unknown_before = self._decoder.unknown.copy()
        self._controls_before = self._decoder.controls.copy()
        self._skipped = Skipped()
        self._lateness = lateness
        # A hit that was lost may have been moved, too.
        self._moves = self._corrections.earlier_ticks + self._corrections.later_ticks
        self._n_chips = run.n_chips
        self._losses = Losses(0, lateness, self.builder.invalidate, self._moves, self._n_chips)
        self._edges_before = (0, 0, 0, 0, 0)
        self._filtered_before = (0, 0)
        self._shutter: tuple[int | None, int | None] = (None, None)

    @property
    def _edge_counts(self) -> tuple[int, int, int, int, int]:
        """Repeats of chips, irregular counters, missing, double and put-in triggers so far."""
        builder, rhythm = self.builder, self.builder.rhythm
        return builder.repeated_edges, builder.irregular_edges, rhythm.missing, rhythm.double, rhythm.inferred

    @property
    def _filtered(self) -> tuple[int, int]:
        """Hits of masked pixels and of a ToT out of range so far."""
        return self._corrections.filtered_masked, self._corrections.filtered_tot

    @property
    def hits(self) -> int:
        """Hits of the time line so far."""
        return int(self._decoder.counts[Count.HITS])

    @property
    def edges(self) -> int:
        """TDC edges of the time line so far, repeats of several chips included."""
        return int(self._decoder.counts[Count.EDGES])

    @property
    def passed_over(self) -> int:
        """Words of the time line so far that gave no row, for what is wrong with them or with what is around them.

        Those of a chip that the run has not are none as long as such a chip may come.
        """
        counts = self._decoder.counts
        n = total(counts.tolist(), PASSED_OVER)
        return n if self.chips_seen > self._decoder.n_chips else n + int(counts[Count.FOREIGN_CHIP_WORDS])

    @property
    def chips_seen(self) -> int:
        """One more than the highest chip of a chunk so far."""
        chunks = self._decoder.counts[Count.CHUNKS_0 : Count.CHUNKS_0 + MAX_CHIPS]
        return 1 + max(np.flatnonzero(chunks).tolist(), default=-1)

    def begin(self, acquisition: int, start: int) -> None:
        """An acquisition begins on this time line, with the byte at `start`."""
        self.acquisition = acquisition
        self._shutter = (None, None)
        self._decoder.begin(None)
        self._counts_before = self._decoder.counts.copy()
        self._unknown_before = self._decoder.unknown.copy()
        self._controls_before = self._decoder.controls.copy()
        self._skipped = Skipped()
        self._edges_before = self._edge_counts
        self._filtered_before = self._filtered
        self._repeated_before = self._repeated
        self._decoder.take_lateness()
        self._losses = Losses(start, self._lateness, self.builder.invalidate, self._moves, self._n_chips)

    def learn_opening(self, before: Moment, counts: int) -> None:
        """When the shutter of the acquisition opened; to be told before its first words.

        Not at `before`: what is older is of the acquisition before. When the timer stood at `counts` it was open: shots
        that open earlier are not whole. Hits may have become later than they were measured.
        """
        self._decoder.begin(before.counts, timer_estimate(before.host_ns, self._zero_ns))
        tick = self._decoder.place(counts) * TICKS_PER_COUNT + self._corrections.later_ticks
        self._shutter = (tick, self._shutter[1])
        self.builder.open_shutter(tick)

    def close_shutter(self, counts: int) -> None:
        """The timer stood there when the shutter was open for the last time that is known. Hits that came until then
        may have become earlier.
        """
        tick = self._decoder.place(counts) * TICKS_PER_COUNT - self._corrections.earlier_ticks
        self._shutter = (self._shutter[0], tick)
        self.builder.close_shutter(tick)

    @property
    def _repeated(self) -> Repeated:
        """Datagrams that came twice so far."""
        repeats = self._repeats
        return NO_REPEATS if repeats is None else Repeated(repeats.datagrams.copy(), repeats.words, repeats.largest)

    @property
    def _sums(self) -> Sums:
        """What of this acquisition came so far."""
        counts = self._decoder.counts - self._counts_before
        words = total(counts.tolist(), PIXEL_CLASSES) + int(counts[Count.FOREIGN_CHIP_WORDS]) + self._decoder.held
        repeated = self._repeated
        repeats = int((repeated.datagrams - self._repeated_before.datagrams).sum())
        return Sums(repeats, words, repeated.largest, int(counts[Count.EARLY_HITS]))

    def add(self, piece: Slice) -> None:
        """Decode the next words. What is missing before them is known to the builder before it has them."""
        decoder, words, done = self._decoder, piece.words, 0
        anchor = timer_estimate(piece.host_ns, self._zero_ns)
        if piece.losses or piece.poll is not None or piece.is_base:
            self._losses.before(piece, decoder.newest_ticks, decoder.horizon_ticks, self._sums)
        lasting = piece.lasting_ns // NS_PER_COUNT
        if self._repeats is not None:
            words = self._repeats.without(words)
        reach = max((loss.reach for loss in piece.losses), default=0) // 8
        while self._losses.waiting and len(words):  # chunk by chunk, wherever slices end: the same times each time
            n, reach = reach or first_chunk(words), 0
            batch = decoder.decode(words[:n], anchor, lasting)
            self._losses.after(batch.newest_ticks, decoder.reached_ticks)
            self._build(batch, piece.address, done)
            words, done = words[n:], done + n
        self._build(decoder.decode(words, anchor, lasting), piece.address, done)
        self._take_wrong_edges()

    def _take_wrong_edges(self) -> None:
        """What the builder has found out about edges and triggers has its place among the losses."""
        self._losses.gaps(self.builder.take_gaps())
        self._losses.triggers(self.builder.take_irregular())

    def learn(self, piece: Slice) -> None:
        """Words that were processed elsewhere: nothing comes of them, but what later ones are compared with."""
        words = piece.words if self._repeats is None else self._repeats.without(piece.words)
        self._decoder.decode(words, timer_estimate(piece.host_ns, self._zero_ns), piece.lasting_ns // NS_PER_COUNT)

    def learn_end(self) -> None:
        """An acquisition of them ends."""
        self._flush_words()

    def _build(self, batch: Batch, address: int, done: int) -> None:
        """address: of the slice that the batch is from; done: words of it before the batch, without repeats."""
        if len(batch.late_ticks):
            self._losses.late(batch.late_ticks)
        if len(batch.marks):
            self._skipped.add(batch.marks, address, lambda word: self._origin(done + word))
            self._losses.epochs(batch.marks)
            self._losses.wraps(batch.marks)
            self._losses.passed_over(batch.marks)
        self.builder.add(self._corrections.apply(batch))

    def _origin(self, word: int) -> int:
        """Place in the slice of a word that the decoder got of it."""
        return word if self._repeats is None else self._repeats.origin(word)

    def flush_decoder(self) -> None:
        """No more words: what the decoder holds back comes out."""
        self._losses.end()
        batch = self._flush_words()
        self._losses.epochs(batch.marks)
        self.builder.add(self._corrections.apply(batch))

    def _flush_words(self) -> Batch:
        """What waits for more words, of which there are none."""
        if self._repeats is not None and len(words := self._repeats.flush()):
            self._decoder.decode(words)  # a header without words
        return self._decoder.flush()

    def flush(self, block: BlockArrays) -> bool:
        """Fill a block with what is left; True: call again."""
        return self.builder.flush(block, self._shutter[1])

    def end_acquisition(self, way: Way | None, stop: int) -> DecodeTotals:
        """What was counted since `begin`. stop: the address after the last word."""
        self._take_wrong_edges()
        repeats, irregular, missing, double, inferred = (
            now - before for now, before in zip(self._edge_counts, self._edges_before, strict=True)
        )
        unknown = self._decoder.unknown - self._unknown_before
        masked, tot = (now - before for now, before in zip(self._filtered, self._filtered_before, strict=True))
        return DecodeTotals(
            counts=[int(n) for n in self._decoder.counts - self._counts_before],
            unknown_headers={f"0x{byte:02X}": int(unknown[byte]) for byte in np.flatnonzero(unknown)},
            repeated_edges=repeats,
            irregular_edges=irregular,
            missing_triggers=missing,
            double_triggers=double,
            inferred_triggers=inferred,
            missing_words=self._decoder.missing_words,
            max_lateness_ns=self._decoder.take_lateness() * NS_PER_COUNT,
            losses=self._losses.spans(way, stop, self._sums),
            lost_on_the_way=self._losses.lost_on_the_way,
            words_before=self._losses.words_before,
            repeated_datagrams=[int(n) for n in self._repeated.datagrams - self._repeated_before.datagrams],
            repeated_words=self._repeated.words - self._repeated_before.words,
            largest_datagram=self._repeated.largest,
            controls=control_names(self._decoder.controls - self._controls_before),
            skipped=self._skipped.places,
            filtered_masked=masked,
            filtered_tot=tot,
            shutter=self._shutter,
        )
