"""Random numbers as a pure function of (key, index): SplitMix64's output function over a counter.

A slice of virtual time has its own key, so that what happens in it depends on the seed and the time alone, never on
how often a clock was asked. Source of the constants: Steele, Lea, Flood, "Fast splittable pseudorandom number
generators" (2014), variant 13 of Stafford.
"""

from typing import Final

import numpy as np

from spidr_sim.jit import kernel

_GOLDEN: Final = np.uint64(0x9E3779B97F4A7C15)
_MIX_1: Final = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2: Final = np.uint64(0x94D049BB133111EB)
_S30: Final = np.uint64(30)
_S27: Final = np.uint64(27)
_S31: Final = np.uint64(31)
_S11: Final = np.uint64(11)
_S16: Final = np.uint64(16)
_S32: Final = np.uint64(32)
_S48: Final = np.uint64(48)
_LOW16: Final = np.uint64(0xFFFF)
_TO_UNIT: Final = 2.0**-53
_KNUTH_LIMIT: Final = 30.0
_BELL_MEAN: Final = 2.0 * 0xFFFF
_BELL_SCALE: Final = float(np.sqrt(3.0)) / 0x10000


@kernel
def draw(key: np.uint64, index: int) -> np.uint64:
    """64 random bits: number `index` of the sequence `key`."""
    z = key + _GOLDEN * np.uint64(index)
    z = (z ^ (z >> _S30)) * _MIX_1
    z = (z ^ (z >> _S27)) * _MIX_2
    return z ^ (z >> _S31)


@kernel
def uniform(key: np.uint64, index: int) -> float:
    """A number in [0, 1)."""
    return float(draw(key, index) >> _S11) * _TO_UNIT


@kernel
def key_of(seed: int, epoch: int, part: int, purpose: int) -> np.uint64:
    """The key of one part (slice, shot ...) of one timer epoch, for one purpose."""
    key = draw(np.uint64(seed), 1)
    key = draw(key ^ np.uint64(epoch), 2)
    key = draw(key ^ np.uint64(part), 3)
    return draw(key ^ np.uint64(purpose), 4)


@kernel
def normal(key: np.uint64, index: int) -> float:
    """A standard normal number (Box and Muller), from draws `index` and `index + 1`."""
    radius = np.sqrt(-2.0 * np.log(1.0 - uniform(key, index)))
    return float(radius * np.cos(2.0 * np.pi * uniform(key, index + 1)))


@kernel
def bell(key: np.uint64, index: int) -> float:
    """A bell-shaped number of mean 0 and variance 1 from one draw: the sum of four uniform ones. Within +-3.5;
    quick."""
    bits = draw(key, index)
    total = (bits & _LOW16) + ((bits >> _S16) & _LOW16) + ((bits >> _S32) & _LOW16) + (bits >> _S48)
    return (float(total) - _BELL_MEAN) * _BELL_SCALE


@kernel
def poisson(key: np.uint64, mean: float) -> int:
    """A Poisson number: exact (Knuth) below a mean of 30, the rounded normal above. `key` must be used for nothing
    else."""
    if mean <= 0.0:
        return 0
    if mean > _KNUTH_LIMIT:
        return max(0, int(np.floor(mean + np.sqrt(mean) * normal(key, 0) + 0.5)))
    floor = np.exp(-mean)
    product = uniform(key, 0)
    n = 0
    while product > floor:
        n += 1
        product *= uniform(key, n)
    return n
