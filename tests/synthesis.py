"""Words of a busy detector, fast: clusters with a ToT profile and time-walk, read out a little out of order.

The streams that other programs were measured with: clusters of 1 + Poisson(7) hits on 5 x 5 pixels, time-walk to
90 ns, read-out disorder exp(1 us), TDC1 at 1 kHz, chunks of 1000 words; uniform in time, or shots of 125 ions in six
mass peaks. `busy_stream_with_truth` tells which hits are of which particle.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ophyd_timepix.protocol import words as w

FTOA_PER_S = 640_000_000
SHOT = FTOA_PER_S // 1000
PEAKS = np.array([3000, 5000, 8000, 12_000, 20_000, 30_000]) * 6
CHUNK_WORDS = 1000
SLAB_PARTICLES = 50_000


class Truth(NamedTuple):
    """What a stream was made of. Hits stand in the order (tick, y, x, ToT), that of rows of /entry/hits."""

    tick: npt.NDArray[np.int64]
    """25/96 ns."""
    y: npt.NDArray[np.int64]
    x: npt.NDArray[np.int64]
    tot: npt.NDArray[np.int64]
    particle: npt.NDArray[np.int64]
    """The particle of each hit: a row of the following three."""
    born: npt.NDArray[np.float64]
    """Arrival of each particle, before time-walk (25/96 ns)."""
    centre_x: npt.NDArray[np.float64]
    centre_y: npt.NDArray[np.float64]


class _Slab(NamedTuple):
    """Words of some shots in the order of the wire, and of each its time, pixel, ToT and particle (-1: a trigger)."""

    words: npt.NDArray[np.uint64]
    hits: npt.NDArray[np.int64]
    """Columns: time in fToA bins, y, x, ToT, particle."""
    born: npt.NDArray[np.float64]
    centre: npt.NDArray[np.float64]


def busy_stream(n_hits: int, hits_per_s: float | None, seed: int = 1) -> npt.NDArray[np.uint64]:
    """A `.tpx3` stream of one chip with about `n_hits` hits. hits_per_s None: pulsed."""
    return _chunked(np.concatenate([slab.words for slab in _slabs(n_hits, hits_per_s, seed)]))


def busy_stream_with_truth(
    n_hits: int, hits_per_s: float | None, seed: int = 1
) -> tuple[npt.NDArray[np.uint64], Truth]:
    """The same stream, and what it was made of."""
    slabs = list(_slabs(n_hits, hits_per_s, seed))
    words = np.concatenate([slab.words for slab in slabs])
    hits = np.concatenate([slab.hits for slab in slabs])[: len(words) // CHUNK_WORDS * CHUNK_WORDS]
    hits = hits[hits[:, 4] >= 0]
    time, y, x, tot, particle = hits[np.lexsort((hits[:, 3], hits[:, 2], hits[:, 1], hits[:, 0]))].T.copy()
    born, centre = (np.concatenate(parts, axis=-1) for parts in zip(*((s.born, s.centre) for s in slabs), strict=True))
    return _chunked(words), Truth(6 * time, y, x, tot, particle, 6 * born, centre[0], centre[1])


def _slabs(n_hits: int, hits_per_s: float | None, seed: int) -> Iterator[_Slab]:
    rng = np.random.default_rng(seed)
    start, n_made, n_particles = 0, 0, 0
    while n_made < n_hits:
        slab, start = _slab(rng, start, n_particles, hits_per_s)
        n_made += int(np.count_nonzero(slab.hits[:, 4] >= 0))
        n_particles += len(slab.born)
        yield slab


def _slab(rng: np.random.Generator, start: int, first_particle: int, hits_per_s: float | None) -> tuple[_Slab, int]:
    """Words of some shots and the start of the next slab in fToA bins."""
    n = SLAB_PARTICLES
    if hits_per_s is None:
        n_shots = n // 125
        born = rng.integers(0, n_shots, n) * SHOT + rng.choice(PEAKS, n) + rng.normal(0, 30, n)
        angle, radius = rng.uniform(0, 2 * np.pi, n), rng.choice([20, 40, 60, 80], n) + rng.normal(0, 2, n)
        centre = 128 + radius * np.stack([np.cos(angle), np.sin(angle)])
    else:
        n_shots = max(1, round(n * 8 / hits_per_s * 1000))
        born, centre = rng.uniform(0, n_shots * SHOT, n), rng.uniform(3, 252, (2, n))
    of = np.repeat(np.arange(n), 1 + rng.poisson(7, n))
    x, y = (np.rint(c[of] + np.clip(rng.normal(0, 0.95, len(of)), -2, 2)).astype(np.int64) for c in centre)
    _, first = np.unique((of << 16) | (y << 8) | x, return_index=True)
    of, x, y = of[first], x[first], y[first]
    away2 = (x - centre[0, of]) ** 2 + (y - centre[1, of]) ** 2
    tot = np.maximum(1, 200 * np.exp(-away2 / 3) * rng.uniform(0.7, 1.3, len(of))).astype(np.int64)
    time = np.maximum(0, born[of] + 57 / (1 + tot / 10)).astype(np.int64) + start
    sent = time + rng.exponential(FTOA_PER_S / 1e6, len(time))
    triggers = start + np.arange(n_shots) * SHOT
    words = np.concatenate([_hits(time, x, y, tot), _triggers(triggers)])
    order = np.argsort(np.concatenate([sent, triggers]), kind="stable")
    hits = np.full((len(words), 5), -1)
    hits[: len(of)] = np.stack([time, y, x, tot, of + first_particle], axis=1)
    return _Slab(words[order], hits[order], born + start, centre), start + n_shots * SHOT


def _hits(time: npt.NDArray[np.int64], x: npt.NDArray[np.int64], y: npt.NDArray[np.int64], tot: npt.NDArray[np.int64]):
    count = -(-time // 16)
    fields = (
        (w.DCOL, x >> 1),
        (w.SUPER_PIXEL, y >> 2),
        (w.PIXEL, ((x & 1) << 2) | (y & 3)),
        (w.TOA, count & w.TOA.mask),
        (w.TOT, tot),
        (w.FTOA, count * 16 - time),
        (w.SPIDR_TIME, (count >> w.TOA.width) & w.SPIDR_TIME.mask),
    )
    words = np.full(len(time), w.HEADER.put(w.PIXEL_DATA_DRIVEN), np.uint64)
    for field, values in fields:
        words |= values.astype(np.uint64) << np.uint64(field.shift)
    return words


def _triggers(time: npt.NDArray[np.int64]) -> npt.NDArray[np.uint64]:
    words = np.full(len(time), w.TOP_BYTE.put(w.TdcByte.TDC1_RISING) | w.TDC_STAMP.put(1), np.uint64)
    words |= ((time // SHOT) & w.TDC_COUNTER.mask).astype(np.uint64) << np.uint64(w.TDC_COUNTER.shift)
    return words | (time // 2).astype(np.uint64) << np.uint64(w.TDC_TIME.shift)


def _chunked(words: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    n_chunks = len(words) // CHUNK_WORDS
    framed = np.empty((n_chunks, 1 + CHUNK_WORDS), np.uint64)
    framed[:, 0] = w.chunk_header(0, 8 * CHUNK_WORDS)
    framed[:, 1:] = words[: n_chunks * CHUNK_WORDS].reshape(n_chunks, CHUNK_WORDS)
    return framed.ravel()
