"""Recordings of hours of virtual time, made in seconds: words, and the index as a live run would have written it.

One chip. Bursts lie across every roll-over of the pixels' time (26.8 s; every fourth is one of the triggers', 107.4 s);
between them come single datagrams after pauses of up to 10 s. The host's clock is not the board's: it drifts, and each
datagram takes its time. The board was asked ten times a second. Some datagrams were dropped by the kernel.
"""

import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ophyd_timepix.app.asking import recorded_file, request_for
from ophyd_timepix.clock import TICKS_PER_FTOA
from ophyd_timepix.config import Processing
from ophyd_timepix.files.reader import read_table
from ophyd_timepix.pipeline.client import Pipeline
from ophyd_timepix.pipeline.messages import RunRequest, RunSummary
from ophyd_timepix.protocol import words as w
from ophyd_timepix.spool.index import RECORD, STRETCH_BYTES, STRETCH_NS, UNKNOWN, Kind, Row, header, index_path
from ophyd_timepix.spool.sources import open_recording
from tests.memory import memory_of

Ints = npt.NDArray[np.int64]

COUNTS_PER_S = 40_000_000
BINS_PER_COUNT = 16
ROLL_COUNTS = 1 << 30
"""Of the time in a pixel word."""
BURST_S = 0.1
BURST_STEP_S = 0.001
BURST_HITS = 50
LONGEST_PAUSE_S = 10.0
SPREAD_BINS = 192_000
"""Hits are up to 0.3 ms older than their datagram, in any order."""
DRIFT = 20e-6
"""Of the host's clock, by which a quartz may be wrong."""
ZERO_NS = 5_000_000_000_000
POLL_S = 0.1
ANSWER_NS = 200_000
ON_THE_WAY_NS = 5_000_000
"""No datagram takes longer."""
PIECE_S = 3600.0


class Told(NamedTuple):
    """What was put in, by time."""

    ticks: Ints
    """Of each hit."""
    pixels: Ints
    """y << 18 | x << 10 | ToT, so that (ticks, pixels) is the order of rows."""
    edges: Ints
    """Ticks of the triggers."""
    lost: Ints
    """Ticks of hits and triggers that never came."""
    losses: int
    """Datagrams that never came."""


@dataclass
class _Piece:
    """Datagrams of a part of the time, in their order."""

    sent: Ints
    """Counts at which each left."""
    n_hits: Ints
    edge: npt.NDArray[np.bool_]
    """Whether a trigger is in it."""
    kept: npt.NDArray[np.bool_]


def record(
    path: Path,
    seconds: float,
    *,
    seed: int = 1,
    losses: int = 5,
    silences: tuple[float, ...] = (),
    drift: float = DRIFT,
) -> Told:
    """Write `path` and its index. losses: places where datagrams were dropped. silences: longer pauses (s)."""
    rng = np.random.default_rng(seed)
    sent = _departures(rng, seconds, silences)
    near = np.abs((sent + ROLL_COUNTS // 2) % ROLL_COUNTS - ROLL_COUNTS // 2) <= BURST_S * COUNTS_PER_S
    n_hits = np.where(near, BURST_HITS, rng.integers(1, 20, sent.size))
    edge = np.where(near, np.arange(sent.size) % 10 == 0, rng.random(sent.size) < 0.5)
    kept = np.ones(sent.size, np.bool_)
    for place in rng.choice(np.arange(sent.size // 20, sent.size - 10), losses, replace=False):
        kept[place : place + rng.integers(1, 5)] = False
    borders = np.searchsorted(sent, np.arange(0, seconds, PIECE_S) * COUNTS_PER_S)
    told: list[tuple[Ints, ...]] = []
    sums: list[npt.NDArray[np.uint64]] = []
    first_edge = 0
    with path.open("wb") as file:
        for a, b in zip(borders, [*borders[1:], sent.size], strict=True):
            piece = _Piece(sent[a:b], n_hits[a:b], edge[a:b], kept[a:b])
            words, starts, truth = _words(rng, piece, first_edge)
            first_edge += int(piece.edge.sum())
            file.write(words.tobytes())
            sums.append(np.add.reduceat(words, starts) if starts.size else np.zeros(0, np.uint64))
            told.append(truth)
    sizes = np.where(kept, 8 * (1 + n_hits + edge), 0)
    _write_index(path, rng, seconds, sent, kept, sizes, np.concatenate(sums), _HostClock(drift))
    ticks, pixels, edges, lost = (np.concatenate(columns) for columns in zip(*told, strict=True))
    return Told(ticks, pixels, edges, lost, int((~kept).sum()))


def _departures(rng: np.random.Generator, seconds: float, silences: tuple[float, ...]) -> Ints:
    """When datagrams leave (counts)."""
    rolls = np.arange(1, int(seconds * COUNTS_PER_S) // ROLL_COUNTS + 1) * ROLL_COUNTS / COUNTS_PER_S
    burst = np.arange(-BURST_S / 2, BURST_S / 2, BURST_STEP_S)
    lone = 1 + np.cumsum(np.minimum(rng.exponential(2.0, int(seconds)), LONGEST_PAUSE_S))
    times = np.sort(np.concatenate([(rolls[:, None] + burst).ravel(), lone]))
    for start, length in zip(np.linspace(0.3, 0.8, len(silences)) * seconds, silences, strict=True):
        times = times[(times < start) | (times > start + length)]
    return np.unique((times[times < seconds - 1] * COUNTS_PER_S).astype(np.int64))


def _words(
    rng: np.random.Generator, piece: _Piece, first_edge: int
) -> tuple[npt.NDArray[np.uint64], Ints, tuple[Ints, ...]]:
    """The words of a piece, where its chunks begin in them, and what they tell."""
    of = np.repeat(np.arange(piece.sent.size), piece.n_hits)
    bins = piece.sent[of] * BINS_PER_COUNT - rng.integers(0, SPREAD_BINS, of.size)
    x, y = rng.integers(0, w.MATRIX_SIDE, (2, of.size))
    tot = rng.integers(1, 1000, of.size)
    edges = piece.sent[piece.edge] * 8 + rng.integers(0, 8, int(piece.edge.sum()))
    stamps = rng.integers(0, w.TDC_STAMPS, edges.size)
    edge_words = np.full(edges.size, w.TOP_BYTE.put(w.TdcByte.TDC1_RISING), np.uint64)
    for field, values in (
        (w.TDC_COUNTER, 2 * (first_edge + np.arange(edges.size)) & w.TDC_COUNTER.mask),
        (w.TDC_TIME, edges & w.TDC_TIME.mask),
        (w.TDC_STAMP, stamps + 1),
    ):
        edge_words |= values.astype(np.uint64) << np.uint64(field.shift)
    kept, edge_kept = piece.kept[of], piece.kept[piece.edge]
    n_words = np.where(piece.kept, 1 + piece.n_hits + piece.edge, 0)
    ends = np.cumsum(n_words)
    starts = ends - n_words
    words = np.empty(int(ends[-1]) if ends.size else 0, np.uint64)
    words[starts[piece.kept]] = w.CHUNK_MAGIC | (8 * (n_words[piece.kept] - 1)).astype(np.uint64) << np.uint64(
        w.CHUNK_BYTES.shift
    )
    place = np.arange(of.size) - np.repeat(np.cumsum(piece.n_hits) - piece.n_hits, piece.n_hits)
    words[(starts[of] + 1 + place)[kept]] = _hit_words(bins, x, y, tot)[kept]
    words[(ends - 1)[piece.edge & piece.kept]] = edge_words[edge_kept]
    ticks, pixels = bins * TICKS_PER_FTOA, y << 18 | x << 10 | tot
    edge_ticks = edges * w.TDC_STAMPS + stamps
    lost = np.concatenate([ticks[~kept], edge_ticks[~edge_kept]])
    order = np.lexsort((pixels[kept], ticks[kept]))
    truth = (ticks[kept][order], pixels[kept][order], edge_ticks[edge_kept], lost)
    return words, starts[piece.kept], truth


def _hit_words(bins: Ints, x: Ints, y: Ints, tot: Ints) -> npt.NDArray[np.uint64]:
    count = -(-bins // BINS_PER_COUNT)
    words = np.full(bins.size, w.HEADER.put(w.PIXEL_DATA_DRIVEN), np.uint64)
    for field, values in (
        (w.DCOL, x >> 1),
        (w.SUPER_PIXEL, y >> 2),
        (w.PIXEL, (x & 1) << 2 | y & 3),
        (w.TOA, count & w.TOA.mask),
        (w.TOT, tot),
        (w.FTOA, count * BINS_PER_COUNT - bins),
        (w.SPIDR_TIME, count >> w.TOA.width & w.SPIDR_TIME.mask),
    ):
        words |= values.astype(np.uint64) << np.uint64(field.shift)
    return words


class _HostClock(NamedTuple):
    drift: float

    def at(self, counts: Any) -> Ints:
        """The host's time (ns) when the board's timer is at `counts`."""
        return ZERO_NS + np.asarray(counts * 25 * (1 + self.drift)).astype(np.int64)


def _write_index(
    path: Path, rng: np.random.Generator, seconds: float, sent: Ints, kept: npt.NDArray[np.bool_], sizes: Ints,
    sums: npt.NDArray[np.uint64],
    clock: _HostClock,
) -> None:  # fmt: skip
    """As capture writes it: a record each 10 ms with data, at losses, at readings of the counters, at the end."""
    come = np.maximum.accumulate(clock.at(sent) + rng.integers(100_000, ON_THE_WAY_NS, sent.size))
    behind = np.cumsum(sizes)
    n_kept, n_lost = np.cumsum(kept), np.cumsum(~kept)
    known_lost = np.maximum.accumulate(np.where(kept, n_lost, 0))
    """Drops are told of with the next datagram."""
    stretches = _stretches(np.flatnonzero(kept), come, behind - sizes)
    losses = np.flatnonzero(kept & np.append(False, ~kept[:-1]))
    asked = clock.at(np.arange(POLL_S, seconds - POLL_S, POLL_S) * COUNTS_PER_S)
    noted = asked + ANSWER_NS + ON_THE_WAY_NS
    place = np.searchsorted(come, noted) - 1
    rows = _rows(stretches, come, behind - sizes, n_kept - 1, known_lost - np.diff(known_lost, prepend=0))
    lost = _rows(losses, come, (behind - sizes), n_kept - 1, known_lost)
    lost["kind"], lost["chip"] = Kind.LOSS_KERNEL, 0
    lost["lost"] = np.diff(known_lost, prepend=0)[losses]
    read = _rows(place, come, behind, n_kept, n_lost)
    read["host_ns"], read["kind"] = noted, Kind.POLL
    read["sent"] = np.searchsorted(clock.at(sent), asked + ANSWER_NS)
    read["received_before"] = np.searchsorted(come, asked)
    for name in ("offset", "datagrams", "kernel_dropped"):
        read[name][place < 0] = 0
    everything = np.concatenate([rows, lost, read])
    everything["acquisition"] = 1
    everything = everything[np.argsort(everything["host_ns"], kind="stable")]
    total = int(behind[-1])
    begin = np.array([Row(0, ZERO_NS, sent=0, received_before=0, kind=Kind.POLL)], RECORD)
    last = int(clock.at(seconds * COUNTS_PER_S))
    end_counts = round(seconds * COUNTS_PER_S)
    end = Row(total, last, int(n_kept[-1]), int(n_lost[-1]), end_counts=end_counts, sent=int(sent.size), kind=Kind.END)
    everything = np.concatenate([begin, everything, np.array([end], RECORD)])
    before = np.concatenate([np.zeros(1, np.uint64), np.cumsum(sums, dtype=np.uint64)])
    chunk = np.searchsorted((behind - sizes)[kept], everything["offset"])
    everything["checksum"] = np.diff(before[chunk], prepend=np.uint64(0))
    run = RunRequest(event_file=path.with_suffix(".h5"), n_chips=1, timer_zero_ns=ZERO_NS)
    index_path(path).write_bytes(header(run.description()) + everything.tobytes())


def _stretches(kept: Ints, come: Ints, start: Ints) -> Ints:
    """The datagrams that open a record."""
    found, time, address = [], -STRETCH_NS, -STRETCH_BYTES
    for k, now, here in zip(kept.tolist(), come[kept].tolist(), start[kept].tolist(), strict=True):
        if now - time >= STRETCH_NS or here - address >= STRETCH_BYTES:
            found.append(k)
            time, address = now, here
    return np.array(found, np.int64)


def _rows(which: Ints, come: Ints, offset: Ints, datagrams: Ints, dropped: Ints) -> npt.NDArray[np.void]:
    rows = np.zeros(which.size, RECORD)
    rows[:] = np.array([Row(0, 0)], RECORD)
    rows["host_ns"], rows["offset"] = come[which], offset[which]
    rows["datagrams"], rows["kernel_dropped"] = datagrams[which], dropped[which]
    rows["end_counts"] = rows["sent"] = rows["received_before"] = UNKNOWN
    return rows


def process_watched(pipeline: Pipeline, recording: Path, output: Path) -> tuple[RunSummary, int, float]:
    """As `ophyd-timepix process --hits`: the result, the most memory that the pipeline took (bytes), and seconds."""
    found = open_recording(recording)
    request = request_for([found], output, Processing(hits=True))
    largest, over = 0, threading.Event()

    def watch() -> None:
        nonlocal largest
        while not over.wait(0.2):
            largest = max(largest, memory_of(pipeline.pids.values()).total)

    watcher = threading.Thread(target=watch)
    watcher.start()
    begin = time.monotonic()
    try:
        summary = pipeline.process(request, [recorded_file(found, request.n_chips)], master=False)
    finally:
        over.set()
        watcher.join()
    return summary, largest, time.monotonic() - begin


def assert_all_is_there(told: Told, summary: RunSummary) -> None:
    """Every hit and trigger with the time that was put in, to the last bit; every shot that lost something invalid."""
    assert summary.ledger["unaccounted"] == 0
    assert summary.ledger["kernel_dropped"] == summary.ledger["lost_datagrams"] == told.losses
    hits = read_table(summary.event_file, "hits", ["toa", "tof", "x", "y", "tot", "shot"])
    assert np.array_equal(hits["toa"], told.ticks * 25 / 96)
    pixels = hits["y"].astype(np.int64) << 18 | hits["x"].astype(np.int64) << 10 | hits["tot"]
    assert np.array_equal(pixels, told.pixels)
    shots = read_table(summary.event_file, "shots")
    assert np.array_equal(shots["time"], told.edges * 25 / 96)
    assert np.array_equal(read_table(summary.event_file, "triggers", ["time"])["time"], shots["time"])
    shot = np.searchsorted(told.edges, told.ticks, side="right") - 1
    assert np.array_equal(hits["shot"], shot)
    inside = shot >= 0
    tof_ticks = told.ticks[inside] - told.edges[shot[inside]]
    assert np.array_equal(hits["tof"][inside], tof_ticks * 25 / 96)
    touched = np.unique(np.searchsorted(told.edges, told.lost, side="right") - 1)
    assert touched.size
    assert not shots["valid"][touched[touched >= 0]].any()
    assert np.count_nonzero(shots["valid"] == 0) <= 3 * touched.size + told.losses + 1
