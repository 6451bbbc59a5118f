"""Words of a busy detector, fast: clusters with a ToT profile and time-walk, read out a little out of order.

The streams that other programs were measured with: clusters of 1 + Poisson(7) hits on 5 x 5 pixels, time-walk to
90 ns, read-out disorder exp(1 us), TDC1 at 1 kHz, chunks of 1000 words; uniform in time, or shots of 125 ions in six
mass peaks.
"""

import numpy as np
import numpy.typing as npt

from ophyd_timepix.protocol import words as w

FTOA_PER_S = 640_000_000
SHOT = FTOA_PER_S // 1000
PEAKS = np.array([3000, 5000, 8000, 12_000, 20_000, 30_000]) * 6
CHUNK_WORDS = 1000
SLAB_PARTICLES = 50_000


def busy_stream(n_hits: int, hits_per_s: float | None, seed: int = 1) -> npt.NDArray[np.uint64]:
    """A `.tpx3` stream of one chip with about `n_hits` hits. hits_per_s None: pulsed."""
    rng = np.random.default_rng(seed)
    slabs: list[npt.NDArray[np.uint64]] = []
    start, n_made = 0, 0
    while n_made < n_hits:
        slab, start, n_slab = _slab(rng, start, hits_per_s)
        slabs.append(slab)
        n_made += n_slab
    return _chunked(np.concatenate(slabs))


def _slab(rng: np.random.Generator, start: int, hits_per_s: float | None) -> tuple[npt.NDArray[np.uint64], int, int]:
    """Words of some shots: (words, start of the next slab in fToA bins, hits)."""
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
    return words[np.argsort(np.concatenate([sent, triggers]), kind="stable")], start + n_shots * SHOT, len(of)


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
