"""Hypothesis strategies of word streams as a board may send them, and worse.

A stream is drawn as a list of steps; each moves the true time on and sends something. `Stream.words` is what the wire
carries, `Stream.truth` what a perfect decoder would tell.
"""

import os
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from hypothesis import strategies as st

from ophyd_timepix.protocol import words as w

N_EXAMPLES = int(os.environ.get("KERNEL_EXAMPLES", "100"))
"""Examples per property: fewer without compilation, more when one wants to be sure."""
MS = 40_000
"""Counts of 25 ns."""
SECOND = 1000 * MS
LATENESS = MS // 2


def lists_to(most: int, elements: st.SearchStrategy[Any]) -> st.SearchStrategy[list[Any]]:
    """Lists of up to `most`, each length as likely: those of hypothesis have five elements in the mean."""
    return st.integers(0, most).flatmap(lambda n: st.lists(elements, min_size=n, max_size=n))


def hit_word(count: int, ftoa: int, x: int, y: int, tot: int, header: int = w.PIXEL_DATA_DRIVEN) -> int:
    """A pixel word; `count` is the time in 25 ns counts, of any size."""
    dcol, super_pixel, pixel = w.pixel_address(x, y)
    return (
        w.HEADER.put(header)
        | w.DCOL.put(dcol)
        | w.SUPER_PIXEL.put(super_pixel)
        | w.PIXEL.put(pixel)
        | w.TOA.put(count & w.TOA.mask)
        | w.TOT.put(tot)
        | w.FTOA.put(ftoa)
        | w.SPIDR_TIME.put((count >> w.TOA.width) & w.SPIDR_TIME.mask)
    )


def edge_word(count: int, sub: int, stamp: int, top: int, counter: int) -> int:
    """A TDC word; `sub` is the 3.125 ns part of the count, 0 to 7."""
    return (
        w.TOP_BYTE.put(top)
        | w.TDC_COUNTER.put(counter & w.TDC_COUNTER.mask)
        | w.TDC_TIME.put((count << 3 | sub) & w.TDC_TIME.mask)
        | w.TDC_STAMP.put(stamp)
    )


def timer_words(count: int) -> tuple[int, int]:
    """The two halves of the timer."""
    count %= 1 << 48
    low, high = count & 0xFFFFFFFF, count >> 32
    spidr = w.SPIDR_TIME.put((count >> w.TOA.width) & w.SPIDR_TIME.mask)
    return (
        w.TOP_BYTE.put(w.TIMER_LOW_BYTE) | w.TIMER_LOW.put(low) | spidr,
        w.TOP_BYTE.put(w.TIMER_HIGH_BYTE) | w.TIMER_HIGH.put(high) | spidr,
    )


def as_words(words: list[int]) -> npt.NDArray[np.uint64]:
    """An array for the decoder."""
    return np.array(words, np.uint64)


@dataclass
class Stream:
    """Words, and what they say."""

    n_chips: int
    start: int
    words: list[int] = field(default_factory=list)
    hits: list[tuple[int, int, int, int, int]] = field(default_factory=list)
    """(tick, chip, y, x, ToT), ticks on the board's own time."""
    edges: list[tuple[int, int, int, int]] = field(default_factory=list)
    """(tick, input, falling, counter), each once."""
    times: list[int] = field(default_factory=list)
    """When each word was sent, 25 ns counts."""


STEPS = ("hit", "hit", "hit", "hit", "burst", "tdc", "tdc", "timer", "control", "packet")
BAD_STEPS = (*STEPS, "lost_tdc", "garbage", "jump", "lone_timer", "cut_chunk", "unframed", "bad_tdc", "foreign")
PAUSES = (0, 0, 0, 1, 2, 16, 400, 5000, LATENESS + 1, MS, 17 * MS, SECOND, 10 * SECOND)
STARTS = (0, 1, SECOND, (1 << 30) - 100, (1 << 32) - 100, (1 << 48) - 100, 60 * SECOND)
EDGE_BYTES = (w.TdcByte.TDC1_RISING, w.TdcByte.TDC1_FALLING, w.TdcByte.TDC2_RISING, w.TdcByte.TDC2_FALLING)


@st.composite
def streams(
    draw: Any,
    *,
    max_chips: int = 4,
    bad: bool = False,
    framed: bool = True,
    max_steps: int = 60,
    pauses: Any = PAUSES,
    max_silence: int = 10 * SECOND,
) -> Stream:
    """Streams of 1 to `max_chips` chips: hits out of order within the bound, edges repeated by each chip, roll-overs.

    bad: with garbage, lone words of another time, cut chunks, words outside chunks and chips that are not there.
    max_silence: longest time without a hit or edge, in counts.
    """
    n_chips = draw(st.integers(1, max_chips if framed else 1))
    stream = Stream(n_chips, draw(st.sampled_from(STARTS)))
    rng = np.random.default_rng(draw(st.integers(0, 1 << 32)))
    steps = draw(
        st.lists(st.tuples(st.sampled_from(BAD_STEPS if bad else STEPS), st.sampled_from(pauses)), max_size=max_steps)
    )
    now = heard = stream.start
    counters = [0, 0]
    packet = int(rng.integers(1 << 47))
    for kind, pause in steps:
        now = min(now + pause, heard + max_silence)
        if kind in ("hit", "burst", "tdc"):
            heard = now
        chip = int(rng.integers(n_chips))
        payload: list[int] = []
        if kind in ("hit", "burst"):
            n_hits = 1 if kind == "hit" else int(rng.integers(2, 30))
            payload.extend(_hit(stream, now, chip, rng) for _ in range(n_hits))
        elif kind in ("tdc", "bad_tdc"):
            byte = EDGE_BYTES[rng.integers(4)]
            tdc = 0 if byte in EDGE_BYTES[:2] else 1
            counters[tdc] += 1
            sub, stamp = int(rng.integers(8)), int(rng.integers(1, 13))
            word = edge_word(now, sub, stamp, byte, counters[tdc])
            if kind == "bad_tdc":
                payload.append(word & ~(15 << 5) | int(rng.choice([0, 13, 15])) << 5)
            else:
                tick = now * 96 + sub * 12 + stamp - 1
                stream.edges.append((tick, tdc + 1, int(byte in EDGE_BYTES[1::2]), counters[tdc] & 4095))
                for copy in rng.permutation(n_chips):
                    _send(stream, [word], int(copy), framed)
        elif kind == "lost_tdc":
            counters[int(rng.integers(2))] += int(rng.choice([1, 2, 5, 3000]))
        elif kind == "packet":
            packet += int(rng.choice([1, 1, 2, -1, -70_000]))
            payload.append(w.TOP_BYTE.put(w.PACKET_ID_BYTE) | w.PACKET_ID.put(packet & w.PACKET_ID.mask))
        elif kind == "timer":
            payload.extend(timer_words(now))
        elif kind == "lone_timer":
            payload.append(timer_words(now)[int(rng.integers(2))])
        elif kind == "control":
            payload.append(
                w.TOP_BYTE.put(int(rng.choice(w.CONTROL_BYTES))) | w.CONTROL_CODE.put(int(rng.integers(256)))
            )
        elif kind == "jump":
            ahead = int(rng.choice([MS, SECOND, 5 * SECOND, 12 * SECOND]))
            payload.append(hit_word(now + ahead, 0, 1, 1, 1))
        elif kind == "garbage":
            payload.extend(int(word) for word in rng.integers(0, 1 << 64, int(rng.integers(1, 9)), np.uint64))
        elif kind == "unframed" and framed:
            stream.words.append(w.HEADER.put(int(rng.integers(16))))
        if kind == "cut_chunk" and framed:
            stream.words.append(w.chunk_header(chip, 8 * int(rng.integers(1, 2000))))
        elif kind == "foreign" and framed:
            _send(stream, [hit_word(now, 0, 3, 3, 3)], int(rng.integers(n_chips, 200)), framed)
        elif payload:
            _send(stream, payload, chip, framed)
        stream.times.extend([now] * (len(stream.words) - len(stream.times)))
    return stream


def _hit(stream: Stream, now: int, chip: int, rng: np.random.Generator) -> int:
    """A hit not more than the lateness bound before `now`, sometimes with just that lateness."""
    late = int(rng.choice([0, 0, rng.integers(LATENESS + 1), LATENESS]))
    count = max(now - late, stream.start)
    ftoa, tot = int(rng.integers(16)), int(rng.choice([0, 1, rng.integers(1023), 1022]))
    x, y = (int(v) for v in rng.choice([0, 3, 4, 5, 255, rng.integers(256)], 2))
    stream.hits.append((count * 96 - ftoa * 6, chip, y, x, tot))
    return hit_word(count, ftoa, x, y, tot, int(rng.choice([w.PIXEL_DATA_DRIVEN, w.PIXEL_SEQUENTIAL])))


def _send(stream: Stream, payload: list[int], chip: int, framed: bool) -> None:
    if framed:
        stream.words.append(w.chunk_header(chip, 8 * len(payload)))
    stream.words.extend(payload)


@st.composite
def cuts(draw: Any, n: int) -> list[int]:
    """Places to cut n words into calls: one word at a time, a few, or anywhere."""
    how = draw(st.sampled_from(("single", "whole", "random")))
    if how == "single":
        return list(range(n + 1))
    if how == "whole":
        return [0, n]
    inner = draw(st.lists(st.integers(0, n), max_size=10))
    return sorted({0, n, *inner})
