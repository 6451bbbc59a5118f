"""Words that no board should send, by the million: noise, known headers with random fields, good streams gone bad."""

from collections.abc import Callable
from typing import Final

import numpy as np
import numpy.typing as npt

from ophyd_timepix.protocol import words as w

Words = npt.NDArray[np.uint64]
Rng = np.random.Generator

_PIXELS: Final = [header << 4 | low for header in (w.PIXEL_SEQUENTIAL, w.PIXEL_DATA_DRIVEN) for low in range(16)]
_TDC: Final = [int(byte) for byte in w.TdcByte]
_OTHERS: Final = [w.TIMER_LOW_BYTE, w.TIMER_HIGH_BYTE, *w.CONTROL_BYTES, 0x00, 0x42, 0xC7, 0xFF]
BAD_STAMPS: Final = (0, 13, 14, 15)


def put(field: w.Field, words: Words, values: npt.ArrayLike) -> Words:
    """`words` with a field replaced; of values that are too large the low bits."""
    clean = words & ~np.uint64(field.mask << field.shift)
    return clean | (np.asarray(values).astype(np.uint64) & np.uint64(field.mask)) << np.uint64(field.shift)


def with_time(words: Words, counts: Words) -> Words:
    """Pixel words at other times (25 ns counts)."""
    return put(w.TOA, put(w.SPIDR_TIME, words, counts >> np.uint64(w.TOA.width)), counts)


def timer_pair(counts: Words) -> tuple[Words, Words]:
    """Both halves of timers."""
    spidr = put(w.SPIDR_TIME, np.zeros(counts.size, np.uint64), counts >> np.uint64(w.TOA.width))
    low = put(w.TIMER_LOW, put(w.TOP_BYTE, spidr, w.TIMER_LOW_BYTE), counts)
    return low, put(w.TIMER_HIGH, put(w.TOP_BYTE, spidr, w.TIMER_HIGH_BYTE), counts >> np.uint64(32))


def noise(rng: Rng, n: int, start: int) -> Words:
    """Random bits."""
    return rng.integers(0, 1 << 64, n, np.uint64)


def headers(rng: Rng, n: int, start: int) -> Words:
    """Words of every known kind, their other fields random; every second TDC word has a legal stamp."""
    words = put(w.TOP_BYTE, noise(rng, n, start), rng.choice([*_PIXELS, *_TDC * 4, *_OTHERS], n))
    legal = np.isin(words >> np.uint64(56), _TDC) & (rng.random(n) < 0.5)
    words[legal] = put(w.TDC_STAMP, put(w.TDC_ZERO, words[legal], 0), rng.integers(1, 13, legal.sum()))
    return words


def crowd(rng: Rng, n: int, start: int) -> Words:
    """The same, at nearly the right time: every second word up to 0.6 ms late, so that most of it finds its place."""
    words = headers(rng, n, start)
    counts = np.uint64(start) + np.cumsum(rng.integers(0, 8, n)).astype(np.uint64)
    counts -= rng.integers(0, 24_000, n, np.uint64) * rng.integers(0, 2, n, np.uint64)
    tdc = np.isin(words >> np.uint64(56), _TDC)
    pixels = np.isin(words >> np.uint64(60), (w.PIXEL_SEQUENTIAL, w.PIXEL_DATA_DRIVEN))
    words[pixels] = with_time(words[pixels], counts[pixels])
    words[tdc] = put(w.TDC_TIME, words[tdc], counts[tdc] << np.uint64(3))
    return words


def spoiled_beam(rng: Rng, n: int, start: int) -> Words:
    """Clusters and triggers whose time runs on; one word in a hundred is replaced, moved, doubled, or tells nonsense.

    The timer may jump by up to half an hour, as one that somebody restarts.
    """
    counts = np.uint64(start) + np.cumsum(np.where(np.arange(n) % 8, 0, rng.integers(0, 200, n))).astype(np.uint64)
    if rng.random() < 0.2:
        counts[rng.integers(n) :] += np.uint64(rng.integers(1 << 36))
    words = with_time(put(w.HEADER, noise(rng, n, start), w.PIXEL_DATA_DRIVEN), counts)
    places = np.repeat(rng.integers(0, 120 * 60, -(-n // 8)), 8)[:n]
    words = put(w.DCOL, put(w.SUPER_PIXEL, words, places % 60), places // 60)
    edges = np.arange(0, n, 500)
    edge = put(w.TDC_ZERO, put(w.TDC_STAMP, put(w.TDC_TIME, words[edges], counts[edges] << np.uint64(3)), 5), 0)
    words[edges] = put(w.TDC_COUNTER, put(w.TOP_BYTE, edge, int(w.TdcByte.TDC1_RISING)), np.arange(edges.size))
    bad = rng.choice(edges, edges.size // 20)
    words[bad] = put(w.TDC_STAMP, words[bad], rng.choice(BAD_STAMPS, bad.size))
    bad = rng.choice(edges, edges.size // 20)
    words[bad] |= np.uint64(1) << rng.integers(0, 5, bad.size, np.uint64)
    for make in (noise, headers):
        bad = rng.integers(0, n, n // 300)
        words[bad] = make(rng, bad.size, start)
    moved, doubled = rng.integers(0, n, (2, n // 1000))
    words[moved] = words[doubled]
    timers = rng.integers(0, n - 1, n // 2000)
    lies = rng.choice([0, 0, 0, 1 << 33, 1 << 43], timers.size).astype(np.uint64)
    words[timers], words[timers + 1] = timer_pair(counts[timers] + lies)
    return words


def in_datagrams(rng: Rng, words: Words, n_chips: int, longest: int = 8188) -> Words:
    """As capture keeps them: random datagrams, each a chunk; some of a chip that is not there, some cut short."""
    out = []
    done = 0
    while done < words.size:
        n = min(int(rng.choice([0, 1, 2, 174, rng.integers(1, longest), rng.integers(1, longest)])), words.size - done)
        chip = n_chips if rng.random() < 0.05 else int(rng.integers(n_chips))
        out.append(np.array([w.chunk_header(chip, 8 * n)], np.uint64))
        out.append(words[done : done + n])
        if n > 2 and rng.random() < 0.1:
            out[-1][rng.integers(n)] = w.chunk_header(int(rng.integers(6)), 8 * int(rng.integers(longest)))
        done += n
    return np.concatenate(out)


Maker = Callable[[Rng, int, int], Words]
KINDS: Final[dict[str, tuple[float, Maker]]] = {
    "noise": (0.15, noise),
    "headers": (0.05, headers),
    "crowd": (0.4, crowd),
    "spoiled beam": (0.4, spoiled_beam),
}
"""Share of the words, and how they are made: words that begin at about `start` (25 ns counts)."""
