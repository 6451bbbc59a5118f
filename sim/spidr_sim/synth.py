"""Words without a board: `synthesize` is a pure function of its arguments, `write_recording` makes a `.tpx3` file.

For tests of readers, for benchmarks, and for recordings to try things on. The gate is open from timer count 0 on, the
chips run with operating defaults, the sensor at 50 V. Unless a PLL word is given there is no column phase, as in
`.tpx3` files of SERVAL. This module knows no clock and no socket.
"""

import math
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Final

import numpy as np

from ophyd_timepix.protocol.words import CHUNK_MAX_BYTES, chunk_header
from spidr_sim.load import source_of
from spidr_sim.readout import WordArray
from spidr_sim.scenes import SceneSettings
from spidr_sim.settings import ONE_PHASE_PLL, ChipSettings
from spidr_sim.source import SliceTruth, Source
from spidr_sim.truth import Truth

COUNTS_PER_SECOND: Final = 40_000_000
_CHUNK_WORDS: Final = CHUNK_MAX_BYTES // 8


@dataclass(frozen=True)
class Synthesis:
    """What `synthesize` made."""

    words: tuple[WordArray, ...]
    """Words of each chip, in the order in which they left."""
    truth: SliceTruth


def synthesize(
    scene: str,
    *,
    seed: int = 1,
    duration_s: float = 1.0,
    rate_hz: float | None = None,
    shot_rate_hz: float | None = None,
    n_chips: int = 1,
    pll_word: int = ONE_PHASE_PLL,
) -> Synthesis:
    """Words and truth of `duration_s` seconds of a scene."""
    settings = SceneSettings.chosen(scene, rate_hz=rate_hz, shot_rate_hz=shot_rate_hz, seed=seed, n_chips=n_chips)
    source = opened_source(settings, pll_word, keep_truth=True)
    words: list[list[WordArray]] = [[] for _ in range(n_chips)]
    truths = []
    for departures in source.finish(round(duration_s * COUNTS_PER_SECOND)):
        for chip, parts in enumerate(words):
            parts.append(departures.of_chip(chip).copy())
        if departures.truth is not None:
            truths.append(departures.truth)
    return Synthesis(tuple(np.concatenate(parts) for parts in words), joined(truths))


def opened_source(settings: SceneSettings, pll_word: int = ONE_PHASE_PLL, *, keep_truth: bool = False) -> Source:
    """A source of the scene with the gate open at 0."""
    source = source_of(settings, keep_truth=keep_truth)
    for chip in range(settings.n_chips):
        source.set_chip(chip, ChipSettings(pll=pll_word))
    source.open(0, 0)
    return source


def joined(truths: list[SliceTruth]) -> SliceTruth:
    """The truths of consecutive slices as one: hits point into all particles."""
    shifted = []
    n_particles = 0
    for truth in truths:
        particle = np.where(truth.hit_particle < 0, -1, truth.hit_particle + n_particles)
        shifted.append(replace(truth, hit_particle=particle))
        n_particles += truth.particle_tick.size
    columns = {
        column.name: np.concatenate([getattr(truth, column.name) for truth in shifted])
        for column in fields(SliceTruth)
        if column.name not in ("first_shot", "n_hits")
    }
    counted = [truth.n_hits for truth in truths if truth.n_hits is not None]
    return SliceTruth(first_shot=truths[0].first_shot, n_hits=sum(counted) if counted else None, **columns)


def write_recording(path: Path, source: Source, seconds: float, truth: Truth | None = None) -> int:
    """Write `seconds` of an open source as `.tpx3`: a chunk per chip and millisecond. Returns the number of words."""
    if not 0 < seconds < math.inf:
        raise ValueError(f"the length of a recording must be above 0 s and finite, not {seconds} s")
    counts = round(seconds * COUNTS_PER_SECOND)
    n_words = 0
    with path.open("wb") as file:
        if truth:
            truth.opened(0, 0)
        for departures in source.finish(counts):
            for chip in range(source.n_chips):
                words = departures.of_chip(chip)
                for start in range(0, words.size, _CHUNK_WORDS):
                    part = words[start : start + _CHUNK_WORDS]
                    file.write(chunk_header(chip, part.nbytes).to_bytes(8, "little"))
                    file.write(part.tobytes())
            n_words += departures.borders[-1]
            if truth:
                truth.departed(0, departures, datagrams=0)
        if truth:
            truth.closed(0, counts)
    return n_words
