"""A quick look through a recording: which chips, how many words of each kind."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from ..decode.chunks import count_chunks
from ..spool.sources import SLICE_BYTES, Recording, RecordingReader, Words


def slices(recording: Recording) -> Iterator[tuple[Words, int | None]]:
    """The words of a recording, slice by slice (views of one reused buffer), with host times where an index tells."""
    buffer = np.empty(SLICE_BYTES, np.uint8)
    with RecordingReader(recording) as reader:
        while (piece := reader.next_slice(buffer)) is not None:
            yield piece


def chunks_of(recording: Recording) -> dict[int, int]:
    """Chunks of each chip index; a recording without chunks is one of chip 0."""
    if not recording.chunked:
        return {0: 1}
    chunks = np.zeros(256, np.int64)
    skip = 0
    for words, _ in slices(recording):
        skip = count_chunks(words, skip, chunks)
    return {int(chip): int(chunks[chip]) for chip in np.flatnonzero(chunks)}


def survey(recording: Recording) -> dict[str, Any]:
    """Words by their top byte (pixel words by their nibble), headers of chunks apart."""
    by_byte = np.zeros(256, np.int64)
    n_words = 0
    for words, _ in slices(recording):
        by_byte += np.bincount((words >> np.uint64(56)).astype(np.intp), minlength=256)
        n_words += words.size
    chunks = chunks_of(recording)
    return {"words": n_words, "chunks_of_chip": chunks}
