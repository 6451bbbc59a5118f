"""One part of a recording through a pipeline, watched: the same whether here or on a machine of a cluster."""

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np

from ..decode import Decoder, Framing
from ..pipeline.client import Pipeline
from ..pipeline.errors import PipelineError
from ..pipeline.messages import Progress
from ..pipeline.recorded import recorded_parts
from ..pipeline.skipped import Skipped
from ..spool.index import timer_estimate
from ..spool.sources import SLICE_BYTES, RecordingReader
from .parts import Job

LOOK_S: Final = 0.2
SKIPPED: Final = {
    "unframed_words": "words lie outside any chunk: the recording is damaged there",
    "missing_words": "words of a last chunk are missing: the recording was cut off",
    "missing_bytes": "bytes that the index knows of are missing: the recording was cut off",
    "cut_chunks": "chunks end before their stated size: the recording was cut there",
    "damaged_bytes": "bytes are not as they were received: the disk lost or altered them",
    "foreign_chip_words": "words are of chips that no board has (4 and above)",
    "unknown_words": "words are of no known kind: see unknown_headers in the ledger",
    "rejected_edges": "trigger words have impossible fields",
    "rejected_time_jumps": "words claim a time far from that of the words around them",
    "rejected_late_hits": "hits came later than --lateness-ns allows",
    "rejected_late_edges": "trigger edges came later than --lateness-ns allows",
    "unaccounted": "words, hits or datagrams are unaccounted for",
}
"""Entries of the ledger that say that not all of a recording became rows."""


class SkippedError(RuntimeError):
    """Something was skipped, and the user asked for all or nothing."""


class MoreChips(RuntimeError):
    """A recording has words of more chips than one saw at first."""

    def __init__(self, n_chips: int) -> None:
        super().__init__(f"there are words of chip {n_chips - 1}")
        self.n_chips = n_chips


def skipped(ledger: Mapping[str, Any]) -> list[str]:
    """What of a recording did not become rows, a line for each reason."""
    return [f"{abs(ledger[name])} {meaning}" for name, meaning in SKIPPED.items() if ledger.get(name)]


def places(ledger: Mapping[str, Any]) -> list[str]:
    """Where that was, as far as it is told one by one."""
    return [
        f"{file}: {what.replace('_', ' ')}, {n_bytes} bytes at byte {offset}"
        for what, offset, n_bytes, file in ledger.get("skipped_at") or ()
    ]


def run_part(
    pipeline: Pipeline,
    job: Job,
    path: Path,
    seen: Callable[[Progress], None] = lambda _: None,
    *,
    master: bool = False,
) -> dict[str, Any]:
    """Process a part into the event file `path`; returns its ledger. seen: is told now and then how far it is.

    master: write one beside it, too, if that can be.

    Raises MoreChips, and, if the job is strict, SkippedError; the pipeline is closed then.
    """
    stopped: list[RuntimeError] = []

    def look(progress: Progress) -> None:
        seen(progress)
        reason = _reason_to_stop(progress, job)
        if reason is not None and not stopped:
            stopped.append(reason)
            pipeline.close()

    with _watching(pipeline, look):
        try:
            summary = pipeline.process(job.request_to(path), job.files, master=master, needs_master=False)
        except PipelineError:
            if stopped:
                raise stopped[0] from None
            raise
    ledger = dict(summary.ledger)
    chips = [int(chip) for chip in ledger.get("chips") or {}]
    if max(chips, default=0) >= job.request.n_chips:
        raise MoreChips(max(chips) + 1)
    if job.strict and (problems := skipped(ledger)):
        where = next(iter(places(ledger)), _names(job))
        raise SkippedError(f"{where}: {'; '.join(problems)}")
    return ledger


def _reason_to_stop(progress: Progress, job: Job) -> RuntimeError | None:
    if progress.chips > job.request.n_chips:
        return MoreChips(progress.chips)
    if job.strict and progress.skipped_words:
        return SkippedError(_first_place(job) or f"{_names(job)}: {progress.skipped_words} words could not be used")
    return None


def _first_place(job: Job) -> str | None:
    """Where the first words of a part lie that the decoder passes over; None: it passes over none."""
    buffer = np.empty(SLICE_BYTES, np.uint8)
    for read in (read for file in job.files for read in recorded_parts(file)):
        framing = Framing.TPX3 if read.recording.chunked else Framing.RAW
        decoder, found = Decoder(framing, job.request.n_chips), Skipped()
        with RecordingReader(read.recording, read.span.start, read.span.stop, read.span.acquisition) as reader:
            while (piece := reader.next_slice(buffer)) is not None:
                anchor = timer_estimate(piece.host_ns, read.timer_zero_ns)
                found.add(decoder.decode(piece.words, anchor).marks, piece.address)
                if found.places:
                    return places({"skipped_at": [[*found.places[0], str(read.recording.path)]]})[0]
    return None


def _names(job: Job) -> str:
    first, *others = (str(file.path) for file in job.files)
    return first if not others else f"{first} or one of {len(others)} behind it"


@contextlib.contextmanager
def _watching(pipeline: Pipeline, look: Callable[[Progress], None]) -> Iterator[None]:
    """Call `look` while the block runs."""
    done = threading.Event()

    def watch() -> None:
        while not done.wait(LOOK_S):
            with contextlib.suppress(PipelineError):  # the call that waits for the result tells of it
                look(pipeline.progress())

    watcher = threading.Thread(target=watch, name="ophyd_timepix-progress", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()
