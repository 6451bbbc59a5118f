"""Words of a busy detector, fast: clusters with a ToT profile and time-walk, read out a little out of order.

The streams that other programs were measured with: clusters of 1 + Poisson(7) hits on 5 x 5 pixels, each touching
those before it, time-walk to 90 ns, read-out disorder exp(1 us), TDC1 at 1 kHz, chunks of 1000 words; uniform in
time, or shots of 125 ions in six mass peaks. `busy_stream_with_truth` tells which hits are of which particle.
"""

from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ophyd_timepix.protocol import words as w

FTOA_PER_S = 640_000_000
SHOT = FTOA_PER_S // 1000
PEAKS = np.array([3000, 5000, 8000, 12_000, 20_000, 30_000]) * 6
CHUNK_WORDS = 1000
SLAB_PARTICLES = 50_000
WIDTH = 5
"""Side of the square that a cluster lies in, in pixels."""
N_SHAPES = 1024
WALK_FTOA, WALK_TOT = 57, 10
"""Time-walk is WALK_FTOA / (1 + ToT / WALK_TOT) fToA bins."""
TIME_WALK_ABC = (WALK_FTOA * WALK_TOT * 1e9 / FTOA_PER_S, -float(WALK_TOT), 0.0)
"""The same as a / (ToT - b) + c in ns."""


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


def busy_stream(n_hits: int, hits_per_s: float | None, seed: int = 1, *, rings: bool = False) -> npt.NDArray[np.uint64]:
    """A `.tpx3` stream of one chip with about `n_hits` hits. hits_per_s None: pulsed.

    rings: the ions of a pulse lie on four rings, and many more of them touch.
    """
    return _chunked(np.concatenate([slab.words for slab in _slabs(n_hits, hits_per_s, seed, rings)]))


def busy_stream_with_truth(
    n_hits: int, hits_per_s: float | None, seed: int = 1, *, rings: bool = False
) -> tuple[npt.NDArray[np.uint64], Truth]:
    """The same stream, and what it was made of."""
    slabs = list(_slabs(n_hits, hits_per_s, seed, rings))
    words = np.concatenate([slab.words for slab in slabs])
    hits = np.concatenate([slab.hits for slab in slabs])[: len(words) // CHUNK_WORDS * CHUNK_WORDS]
    hits = hits[hits[:, 4] >= 0]
    time, y, x, tot, particle = hits[np.lexsort((hits[:, 3], hits[:, 2], hits[:, 1], hits[:, 0]))].T.copy()
    born, centre = (np.concatenate(parts, axis=-1) for parts in zip(*((s.born, s.centre) for s in slabs), strict=True))
    return _chunked(words), Truth(6 * time, y, x, tot, particle, 6 * born, centre[0], centre[1])


def _slabs(n_hits: int, hits_per_s: float | None, seed: int, rings: bool) -> Iterator[_Slab]:
    rng = np.random.default_rng(seed)
    start, n_made, n_particles = 0, 0, 0
    while n_made < n_hits:
        slab, start = _slab(rng, start, n_particles, hits_per_s, rings)
        n_made += int(np.count_nonzero(slab.hits[:, 4] >= 0))
        n_particles += len(slab.born)
        yield slab


def _slab(
    rng: np.random.Generator, start: int, first_particle: int, hits_per_s: float | None, rings: bool
) -> tuple[_Slab, int]:
    """Words of some shots and the start of the next slab in fToA bins."""
    n = SLAB_PARTICLES
    if hits_per_s is None:
        n_shots = n // 125
        born = rng.integers(0, n_shots, n) * SHOT + rng.choice(PEAKS, n) + rng.normal(0, 20, n)
        angle, radius = rng.uniform(0, 2 * np.pi, n), rng.choice([20, 40, 60, 80], n) + rng.normal(0, 2, n)
        centre = 128 + radius * np.stack([np.cos(angle), np.sin(angle)]) if rings else rng.uniform(3, 252, (2, n))
    else:
        n_shots = max(1, round(n * 8 / hits_per_s * 1000))
        born, centre = rng.uniform(0, n_shots * SHOT, n), rng.uniform(3, 252, (2, n))
    size = np.minimum(1 + rng.poisson(7, n), WIDTH * WIDTH)
    of = np.repeat(np.arange(n), size)
    step = np.arange(len(of)) - np.repeat(np.cumsum(size) - size, size)
    offset = _shapes()[rng.integers(0, N_SHAPES, n)[of], step]
    x, y = (np.rint(c[of]).astype(np.int64) + offset[:, axis] for axis, c in enumerate(centre))
    away2 = (x - centre[0, of]) ** 2 + (y - centre[1, of]) ** 2
    tot = np.maximum(1, 200 * np.exp(-away2 / 3) * rng.uniform(0.7, 1.3, len(of))).astype(np.int64)
    time = np.maximum(0, born[of] + WALK_FTOA / (1 + tot / WALK_TOT)).astype(np.int64) + start
    sent = time + rng.exponential(FTOA_PER_S / 1e6, len(time))
    triggers = start + np.arange(n_shots) * SHOT
    words = np.concatenate([_hits(time, x, y, tot), _triggers(triggers)])
    order = np.argsort(np.concatenate([sent, triggers]), kind="stable")
    hits = np.full((len(words), 5), -1)
    hits[: len(of)] = np.stack([time, y, x, tot, of + first_particle], axis=1)
    return _Slab(words[order], hits[order], born + start, centre), start + n_shots * SHOT


@lru_cache(maxsize=1)
def _shapes() -> npt.NDArray[np.int64]:
    """Orders in which clusters fill their pixels, [shape, step, (dx, dy)]: from the centre, each touching another.

    Every step takes the neighbour of those filled that comes first in a random order; near ones tend to be early.
    """
    rng = np.random.default_rng(7)
    dy, dx = np.array(np.divmod(np.arange(WIDTH * WIDTH), WIDTH)) - WIDTH // 2
    touch = np.abs(dx[:, None] - dx) + np.abs(dy[:, None] - dy) == 1
    centre = WIDTH * WIDTH // 2
    steps = np.full((N_SHAPES, WIDTH * WIDTH), centre)
    rank = rng.exponential(size=steps.shape) * (dx * dx + dy * dy)
    rank[:, centre] = np.inf
    reached = np.tile(touch[centre], (N_SHAPES, 1))
    for step in range(1, WIDTH * WIDTH):
        chosen = np.argmin(np.where(reached, rank, np.inf), axis=1)
        steps[:, step] = chosen
        rank[np.arange(N_SHAPES), chosen] = np.inf
        reached |= touch[chosen]
    return np.stack([dx[steps], dy[steps]], axis=2)


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
