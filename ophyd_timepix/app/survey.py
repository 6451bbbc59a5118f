"""A quick look through a recording: which chips, how many words of each kind, over which time."""

from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np

from ..clock import TICKS_PER_SECOND
from ..config.masked_pixels import Pixel
from ..decode import PIXEL_CLASSES, Batch, Count, Decoder, Framing, total
from ..decode.chunks import count_chunks
from ..events.quality import hot_pixels
from ..protocol.words import MATRIX_SIDE, MAX_CHIPS, TOT
from ..spool.index import read_run, timer_estimate
from ..spool.sources import SLICE_BYTES, Recording, RecordingReader, Slice


def slices(recording: Recording) -> Iterator[Slice]:
    """The words of a recording, slice by slice (views of one reused buffer), with host times where an index tells."""
    buffer = np.empty(SLICE_BYTES, np.uint8)
    with RecordingReader(recording) as reader:
        while (piece := reader.next_slice(buffer)) is not None:
            yield piece


def chunks_of(recording: Recording) -> dict[int, int]:
    """Chunks of each chip index. A recording without chunks is one of chip 0."""
    if not recording.chunked:
        return {0: 1}
    chunks = np.zeros(256, np.int64)
    skip = 0
    for piece in slices(recording):
        skip = count_chunks(piece.words, skip, chunks)
    return {int(chip): int(chunks[chip]) for chip in np.flatnonzero(chunks)}


def survey(recording: Recording) -> dict[str, Any]:
    """Counts by kind of word, and the span of time from the first hit or edge to the last."""
    decoder = Decoder(Framing.TPX3 if recording.chunked else Framing.RAW, MAX_CHIPS)
    edges: Counter[str] = Counter()
    first, last = [], []
    for batch in _batches(recording, decoder):
        pairs = np.stack([batch.edge_input, batch.edge_falling])
        for tdc, falling in pairs.T.tolist():
            edges[f"TDC{tdc} {'falling' if falling else 'rising'}"] += 1
        times = np.concatenate([batch.ticks, batch.edge_ticks])
        if times.size:
            first.append(int(times.min()))
            last.append(int(times.max()))
    counts = decoder.counts
    facts: dict[str, Any] = {
        "words": int(counts[Count.WORDS] - counts[Count.CHUNK_HEADERS]),
        "hits": total(counts.tolist(), PIXEL_CLASSES),
        "edges": dict(edges),
        "timer_words": int(counts[Count.TIMER_WORDS]),
        "control_words": int(counts[Count.CONTROL_WORDS]),
        "unknown_words": int(counts[Count.UNKNOWN_WORDS]),
        "unknown_headers": {f"0x{b:02X}": int(decoder.unknown[b]) for b in np.flatnonzero(decoder.unknown)},
        "unframed_words": int(counts[Count.UNFRAMED_WORDS]),
    }
    if recording.chunked:
        facts["chunks_of_chip"] = chunks_of(recording)
    if first:
        facts["seconds"] = (max(last) - min(first)) / TICKS_PER_SECOND
    return facts


def propose_masked(recording: Recording) -> list[Pixel]:
    """(chip, x, y) of pixels that count far more than those around them: the hottest first, chip by chip."""
    decoder = Decoder(Framing.TPX3 if recording.chunked else Framing.RAW, MAX_CHIPS)
    counts = np.zeros(MAX_CHIPS * MATRIX_SIDE**2, np.int64)
    for batch in _batches(recording, decoder):
        counts += np.bincount(batch.pixels >> TOT.width, minlength=counts.size)
    matrices = counts.reshape(MAX_CHIPS, MATRIX_SIDE, MATRIX_SIDE)
    return [(chip, x, y) for chip, matrix in enumerate(matrices) for x, y in hot_pixels(matrix)]


def _batches(recording: Recording, decoder: Decoder) -> Iterator[Batch]:
    run = read_run(recording.path) if recording.chunked else None
    zero_ns = None if run is None else run.get("timer_zero_ns")
    for piece in slices(recording):
        yield decoder.decode(piece.words, timer_estimate(piece.host_ns, zero_ns))
    yield decoder.flush()
