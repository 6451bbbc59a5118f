"""The loss ledger: from what the board sent to the rows in the file, each step with its reasons.

`unaccounted` adds up what the balances below cannot explain. It is 0, or the run says so.

===================================  ================================================================================
datagrams the board sent             = received + malformed + dropped by the kernel + unrecorded + lost on the way
                                       + lost strays - surplus - strays too many - datagrams that came twice
words received                       = words given to the decoder + stray words between acquisitions
                                       + words of datagrams that came twice
words given to the decoder           = header of a chunk | hit | edge | timer | control | unknown | rejected, by reason
pixel words the board sent           = pixel words decoded + altered on the way + what lost datagrams may have held
hits in time order                   = in a centroid | noise | in clusters below `min_size` | filtered, by reason
edges                                = repeats of other chips + rows written
centroids found                      = rows written
===================================  ================================================================================
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from ..decode.counts import CLASSES, ENDS_OF_READOUT, PIXEL_CLASSES, TDC_CLASSES, Count, total
from ..events.block import BlockHeader
from ..protocol.words import MAX_CHIPS
from ..spool.index import DAMAGED, Counted, Span
from ..spool.sources import Recording
from .capture_stage import Drained
from .locating import Strays, Way, unexplained
from .losses import PAUSE, LossSpan
from .messages import Acquired, Sent
from .skipped import PLACES_MAX, Place
from .verdict import verdict


def _on_the_way(way: Way | None) -> dict[str, int | None]:
    """What is missing or too much between board and machine."""
    if way is None:
        return {"lost_on_the_way": None, "surplus_datagrams": None}
    return {"lost_on_the_way": max(0, way.missing), "surplus_datagrams": max(0, -way.missing)}


VERDICT: Final = "verdict"


@dataclass
class DecodeTotals:
    """What the decoder counted in one acquisition. `counts` is indexed by `Count`."""

    counts: list[int]
    unknown_headers: dict[str, int]
    repeated_edges: int
    """Edges that a chip repeated after another."""
    irregular_edges: int
    """Edges whose counter stood still or ran backwards."""
    missing_triggers: int
    double_triggers: int
    """Against the period that was asked for."""
    missing_words: int
    """Words of the last chunk that never came."""
    max_lateness_ns: float
    losses: list[LossSpan]
    lost_on_the_way: int
    """Datagrams that certainly were lost between board and machine."""
    controls: dict[str, int] = field(default_factory=dict)
    """Control words by name."""
    skipped: list[Place] = field(default_factory=list)
    repeated_datagrams: list[int] = field(default_factory=lambda: [0] * MAX_CHIPS)
    """Datagrams that came once more, of each chip."""
    repeated_words: int = 0
    """Left out with them, headers included."""
    largest_datagram: int = 0
    """Words of the largest of the run so far."""
    filtered_masked: int = 0
    filtered_tot: int = 0
    """Hits that filters removed before the order of time."""
    inferred_triggers: int = 0
    """Of the missing ones, put in."""
    words_before: int = 0
    """Words of pixels that came before what the board's counts are compared with."""
    shutter: tuple[int | None, int | None] = (None, None)
    """Since when and until when it was open for sure (ticks); None: unknown."""


@dataclass
class BlockTotals:
    """Sums over the headers of an acquisition's blocks."""

    hits: int = 0
    clustered_hits: int = 0
    noise_hits: int = 0
    small_hits: int = 0
    filtered_hits: int = 0
    hits_before_first_trigger: int = 0
    clusters: int = 0
    small_clusters: int = 0
    split_clusters: int = 0
    split_parts: int = 0
    centroids: int = 0
    triggers: int = 0
    shots: int = 0
    valid_shots: int = 0
    shots_outside: int = 0
    """Of the shots, those that are not wholly inside the open shutter."""
    forced_cuts: int = 0

    def add(self, header: BlockHeader) -> None:
        """Add one block."""
        self.hits += header.n_hits
        self.clustered_hits += header.n_clustered
        self.noise_hits += header.n_noise
        self.small_hits += header.n_small_hits
        self.filtered_hits += header.n_filtered
        self.hits_before_first_trigger += header.n_before_first_trigger
        self.clusters += header.n_clusters
        self.small_clusters += header.n_small
        self.split_clusters += header.n_split
        self.split_parts += header.n_parts
        self.centroids += header.n_centroids
        self.triggers += header.n_edges
        self.shots += header.n_closed
        self.valid_shots += header.n_valid
        self.forced_cuts += header.forced_cut


class Ledger:
    """Collects the counts of one acquisition stage by stage; `as_dict` closes it."""

    def __init__(self) -> None:
        self._entries: dict[str, Any] = {}
        self._differences: list[int] = []
        self._sent_of_chips: tuple[int, ...] = ()
        self._file: tuple[str, ...] = ()
        self._is_indexed = True
        """The recording that places are in; none: the run's own."""
        self._way: Way | None = None
        self._strays = Strays()

    def take_capture(self, drained: Drained, sent: Sent | None) -> None:
        """What came through the sockets, against what the board says it sent (both since the acquisition before)."""
        totals = drained.totals
        self._way, self._strays = drained.way, drained.strays
        self._sent_of_chips = sent.pixel_words if sent else ()
        self._entries |= {
            "sent_datagrams": sent.datagrams if sent else None,
            "sent_pixel_words": sum(sent.pixel_words) if sent and sent.pixel_words else None,
            "board_pauses": sent.paused if sent else None,
            "received_datagrams": totals.datagrams,
            "received_bytes": totals.payload_bytes,
            "received_words": totals.payload_bytes // 8,
            "stray_words": drained.stray_words,
            "stray_datagrams": drained.strays.too_many,
            "lost_stray_datagrams": drained.strays.lost,
            "ended_by": drained.ended_by,
            "malformed_datagrams": totals.malformed_datagrams,
            "wrong_sender_datagrams": totals.wrong_sender,
            "kernel_dropped": totals.kernel_dropped,
            "unrecorded_datagrams": totals.unrecorded,
            "ring_full_waits": totals.ring_full_waits,
        } | _on_the_way(drained.way)

    def take_recording(
        self,
        span: Span,
        recording: Recording,
        way: Way | None = None,
        strays: Strays | None = None,
        *,
        cut_bytes: int = 0,
        missing_bytes: int = 0,
    ) -> None:
        """What a recording holds instead of sockets: the bytes of one acquisition, and what its index says of them.

        cut_bytes, missing_bytes: what the recording lacks behind its end.
        """
        self._file = (str(recording.path),)
        self._is_indexed = span.counted is not None
        if span.counted is not None:
            self._take_index(span.counted, way, strays or Strays())
        self._entries |= {
            "recording_bytes": span.stop - span.start,
            "truncated_bytes": cut_bytes,
            "missing_bytes": missing_bytes,
        }

    def _take_index(self, counted: Counted, way: Way | None, strays: Strays) -> None:
        """What was counted when the recording was made. Of the words that came, only those that are here are known."""
        self._way, self._strays = way, strays
        self._entries |= {
            "sent_datagrams": None if way is None else way.sent - way.sent_before + strays.sent,
            "sent_pixel_words": None if way is None else way.sent_words,
            "stray_datagrams": strays.too_many,
            "lost_stray_datagrams": strays.lost,
            "received_datagrams": counted.datagrams,
            "malformed_datagrams": counted.malformed,
            "kernel_dropped": counted.kernel_dropped,
            "unrecorded_datagrams": counted.unrecorded,
        } | _on_the_way(way)

    def take_decode(self, totals: DecodeTotals) -> None:
        """What became of each word."""
        counts = totals.counts
        self._take_repeats(totals)
        self._note_cancelled_losses(totals.lost_on_the_way)
        decoded = counts[Count.WORDS] - counts[Count.CHUNK_HEADERS]
        self._entries |= {
            "decoded_words": decoded,
            "chunk_headers": counts[Count.CHUNK_HEADERS],
            "pixel_words": total(counts, PIXEL_CLASSES),
            "hits": counts[Count.HITS],
            "tdc_words": total(counts, TDC_CLASSES),
            "edges": counts[Count.EDGES],
            "repeated_edges": totals.repeated_edges,
            "irregular_edges": totals.irregular_edges,
            "tdc_gaps": sum(span.cause == "tdc" for span in totals.losses),
            "tdc_missing_edges": sum(span.amount for span in totals.losses if span.cause == "tdc"),
            "missing_triggers": totals.missing_triggers,
            "double_triggers": totals.double_triggers,
            "inferred_triggers": totals.inferred_triggers,
            "max_lateness_ns": totals.max_lateness_ns,
            "toa_wrap_suspects": counts[Count.TOA_WRAP_SUSPECTS],
            "timer_jumps": counts[Count.TIMER_JUMPS],
            "packet_ids": counts[Count.PACKET_IDS],
            "missing_packets": counts[Count.MISSING_PACKETS],
            "damaged_bytes": sum(span.amount for span in totals.losses if span.cause == DAMAGED),
            "loss_intervals": sum(span.cause != PAUSE for span in totals.losses),
            "ends_of_readout": total(counts, ENDS_OF_READOUT),
            "chips": {str(chip): self._chip(chip, totals) for chip in range(MAX_CHIPS) if self._knows(chip, counts)},
            "timer_words": counts[Count.TIMER_WORDS],
            "control_words": counts[Count.CONTROL_WORDS],
            "control_kinds": totals.controls,
            "counting_words": counts[Count.COUNTING_WORDS],
            "sequential_words": counts[Count.SEQUENTIAL_WORDS],
            "epoch_uncertain": counts[Count.EPOCH_UNCERTAIN],
            "skipped_at": [[*place, *self._file] for place in totals.skipped],
            "unknown_words": counts[Count.UNKNOWN_WORDS],
            "unknown_headers": totals.unknown_headers,
            "rejected_late_hits": counts[Count.LATE_HITS],
            "rejected_late_edges": counts[Count.LATE_EDGES],
            "rejected_early_hits": counts[Count.EARLY_HITS],
            "rejected_early_edges": counts[Count.EARLY_EDGES],
            "rejected_time_jumps": counts[Count.JUMPED_HITS] + counts[Count.JUMPED_EDGES],
            "rejected_edges": counts[Count.REJECTED_EDGES],
            "foreign_chip_words": counts[Count.FOREIGN_CHIP_WORDS],
            "unframed_words": counts[Count.UNFRAMED_WORDS],
            "cut_chunks": counts[Count.CUT_CHUNKS],
            "missing_words": totals.missing_words,
            "filtered_masked": totals.filtered_masked,
            "filtered_tot": totals.filtered_tot,
        }
        self._differences.append(counts[Count.WORDS] - total(counts, CLASSES))
        received = self._entries.get("received_words")
        if received is not None:
            left_out = self._entries["stray_words"] + self._entries["repeated_words"]
            self._differences.append(received - left_out - decoded)
        else:
            self._differences.append(self._recorded_words() - counts[Count.WORDS] - totals.repeated_words)
        self._entries["altered_words"] = self._altered_words(totals.largest_datagram, totals.words_before)

    def _recorded_words(self) -> int:
        """Words that the recording holds, headers of chunks included.

        Without an index damaged bytes are of no word, and what follows them is whole up to the very last byte.
        """
        n_bytes: int = self._entries["recording_bytes"]
        if not self._is_indexed and self._entries["damaged_bytes"]:
            n_bytes += self._entries["truncated_bytes"] - self._entries["damaged_bytes"]
        return n_bytes // 8

    def _take_repeats(self, totals: DecodeTotals) -> None:
        """Datagrams that came twice are known one by one: they neither hide what was lost nor are they too many."""
        repeats = sum(totals.repeated_datagrams)
        self._entries |= {"repeated_datagrams": repeats, "repeated_words": totals.repeated_words - repeats}
        if repeats and self._way is not None:
            self._entries |= _on_the_way(self._way._replace(arrived=self._way.arrived - repeats))

    def _note_cancelled_losses(self, certain: int) -> None:
        """Losses that a surplus hides in the sums, though readings in between prove them."""
        lost = self._entries.get("lost_on_the_way")
        if lost is not None and certain > lost:
            self._entries["surplus_datagrams"] += certain - lost
            self._entries["lost_on_the_way"] = certain

    def _knows(self, chip: int, counts: Sequence[int]) -> bool:
        return chip < len(self._sent_of_chips) or counts[Count.CHUNKS_0 + chip] > 0

    def _chip(self, chip: int, totals: DecodeTotals) -> dict[str, int | None]:
        """One chip's part."""
        lost = dict.fromkeys(("kernel", "malformed"), 0)
        for span in totals.losses:
            if span.chip == chip and span.cause in lost:
                lost[span.cause] += span.amount
        return {
            "sent_pixel_words": self._sent_of_chips[chip] if chip < len(self._sent_of_chips) else None,
            "received_datagrams": totals.counts[Count.CHUNKS_0 + chip] + totals.repeated_datagrams[chip],
            "kernel_dropped": lost["kernel"],
            "malformed_datagrams": lost["malformed"],
            "hits": totals.counts[Count.HITS_0 + chip],
        }

    def _altered_words(self, largest: int, before: int) -> int:
        """Pixel words, against the board's own count, that came as something else or not with their datagram.

        Negative: other words came as pixel words. What lost datagrams may have held is none of them. largest: words of
        the largest datagram; before: pixel words that are not among those that the board counted.
        """
        entries, way = self._entries, self._way
        sent = None if way is None else way.sent_words
        if sent is None:
            return 0
        missing = unexplained(
            sent - (entries["pixel_words"] + entries["foreign_chip_words"] - before),
            self.lost_datagrams,
            entries["surplus_datagrams"],
            largest,
        )
        # Words of the time before may have been counted as sent before, or not.
        early: int = entries["rejected_early_hits"]
        missing += min(max(0, -missing), early)
        if self._strays == Strays():  # the board was not asked when it began: these words may be among what it sent
            missing -= min(max(0, missing), entries.get("stray_words", 0))
        damaged: int = entries["damaged_bytes"] // 8
        return missing - min(max(missing, -damaged), damaged)

    def take_blocks(self, totals: BlockTotals, rows: dict[str, tuple[int, int]]) -> None:
        """What became of each hit and edge. rows: [start, stop) that each table of the event file gained."""
        rows_written = _length(rows["centroids"])
        triggers_written = _length(rows["triggers"])
        filtered = totals.filtered_hits + self._entries["filtered_masked"] + self._entries["filtered_tot"]
        self._entries |= {
            "hits_before_first_trigger": totals.hits_before_first_trigger,
            "filtered_hits": filtered,
            "filtered_tof": totals.filtered_hits,
            "clustered_hits": totals.clustered_hits,
            "noise_hits": totals.noise_hits,
            "small_hits": totals.small_hits,
            "triggers": totals.triggers,
            "shots": totals.shots,
            "valid_shots": totals.valid_shots,
            "shots_outside_shutter": totals.shots_outside,
            "clusters": totals.clusters,
            "small_clusters": totals.small_clusters,
            "split_clusters": totals.split_clusters,
            "split_parts": totals.split_parts,
            "centroids": totals.centroids,
            "written": rows_written,
            "forced_cuts": totals.forced_cuts,
        }
        self._differences.append(self._entries["edges"] - self._entries["repeated_edges"] - triggers_written)
        self._differences.append(self._entries["hits"] - totals.hits - filtered)
        self._differences.append(totals.hits - totals.clustered_hits - totals.noise_hits - totals.small_hits)
        self._differences.append(totals.centroids - rows_written)

    @property
    def lost_datagrams(self) -> int:
        """Datagrams that were sent and did not arrive whole."""
        lossy = ("kernel_dropped", "lost_on_the_way", "malformed_datagrams", "unrecorded_datagrams")
        return sum(self._entries.get(name) or 0 for name in lossy)

    def as_dict(self) -> dict[str, Any]:
        """The closed ledger."""
        return with_verdict(
            self._entries
            | {
                "lost_datagrams": self.lost_datagrams,
                "unaccounted": sum(abs(difference) for difference in self._differences),
            }
        )


def _length(rows: tuple[int, int]) -> int:
    return rows[1] - rows[0]


def add_ledgers(ledgers: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The ledger of a run: the sum over its acquisitions. An entry unknown in one is unknown in the sum."""
    if not ledgers:
        return with_verdict({"lost_datagrams": 0, "unaccounted": 0})
    sums: dict[str, Any] = {}
    for name in dict.fromkeys(key for ledger in ledgers for key in ledger if key != VERDICT):
        values = [ledger.get(name) for ledger in ledgers]
        sums[name] = _largest(values) if name.startswith("max_") else _add(values)
    return with_verdict(sums)


def with_verdict(ledger: dict[str, Any]) -> dict[str, Any]:
    """The ledger and the one line about it."""
    return ledger | {VERDICT: verdict(ledger)}


def _largest(values: Sequence[float | None]) -> float | None:
    return max((value for value in values if value is not None), default=None)


def _add(values: Sequence[Any]) -> Any:
    if any(value is None for value in values):
        return None
    if isinstance(values[0], dict):
        keys = dict.fromkeys(key for value in values for key in value)
        return {key: _add([value[key] for value in values if key in value]) for key in keys}
    if isinstance(values[0], list):
        return [item for value in values for item in value][:PLACES_MAX]
    if isinstance(values[0], str):
        return ", ".join(dict.fromkeys(word for value in values for word in value.split(", ")))
    return sum(values)


NO_ROWS: Final = (0, 0)


@dataclass
class Part:
    """An acquisition on its way to `Acquired`."""

    number: int
    cancelled: bool
    ended_by: str
    begun: float = field(default_factory=time.monotonic)

    def acquired(self, rows: dict[str, tuple[int, int]], ledger: Ledger) -> Acquired:
        """The message about it. rows: [start, stop) per table."""
        entries = ledger.as_dict()
        spans = {name: rows.get(name, NO_ROWS) for name in ("centroids", "hits", "shots", "triggers")}
        return Acquired(
            acquisition=self.number,
            row_start=spans["centroids"][0],
            row_stop=spans["centroids"][1],
            hit_row_start=spans["hits"][0],
            hit_row_stop=spans["hits"][1],
            shot_start=spans["shots"][0],
            shot_stop=spans["shots"][1],
            trigger_start=spans["triggers"][0],
            trigger_stop=spans["triggers"][1],
            valid_shots=entries.get("valid_shots", 0),
            hits=entries.get("hits", 0),
            clusters=entries.get("clusters", 0),
            centroids=entries.get("centroids", 0),
            cancelled=self.cancelled,
            ended_by=self.ended_by,
            seconds=time.monotonic() - self.begun,
            ledger=entries,
        )

    def row(self, acquired: Acquired) -> dict[str, Any]:
        """Its row of /entry/acquisitions."""
        names = ("acquisition", "row_start", "row_stop", "shot_start", "shot_stop")
        return {name: getattr(acquired, name) for name in names} | {
            "cancelled": int(self.cancelled),
            "unaccounted": acquired.ledger["unaccounted"],
        }
