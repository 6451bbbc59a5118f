"""Compares the centroids that a catalog gives back with what the simulator says it sent.

The truth file holds hits and the particles behind them. Its hits are clustered here a second time, in the plainest way
there is, which shares nothing with the kernels of the pipeline: an oracle. Knows the columns of the truth file and the
definition of a cluster (docs/explanations/architecture.md), no process and no catalog.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import h5py
import numpy as np
import numpy.typing as npt

from ..clock import TICK_NS, ns_to_ticks
from ..config import CentroidTime, Geometry, Metric, Processing
from ..jit import kernel

Table = dict[str, npt.NDArray[Any]]
Ints = npt.NDArray[np.int64]

POSITION_TOLERANCE_PX: Final = 1e-3
"""x and y are stored as 32-bit floats; 512 px have steps of 3e-5 px there."""


@dataclass(frozen=True)
class Agreement:
    """What came back, against what was sent. `exact` counts centroids that the oracle has too, same in all numbers."""

    hits: int
    true_hits: int
    shots: int
    true_shots: int
    centroids: int
    true_clusters: int
    exact: int
    particles: int
    """Particles that left a hit."""
    alone: int
    """Of these, those that have a centroid to themselves."""
    error_px: float
    """Distance between centroid and particle, root mean square, of those alone."""

    @property
    def holds(self) -> bool:
        """Every shot, every hit and every centroid is there, and nothing else."""
        pairs = ((self.hits, self.true_hits), (self.shots, self.true_shots), (self.centroids, self.true_clusters))
        return all(ours == theirs for ours, theirs in pairs) and self.exact == self.centroids > 0

    @property
    def exact_share(self) -> float:
        return self.exact / max(self.centroids, self.true_clusters, 1)


def epochs_with_data(path: Path) -> list[int]:
    """The restarts of the board's timers that the shutter was open in: one for each run, in order."""
    with _opened(path) as file:
        return [int(epoch) for epoch in np.unique(file["acquisitions/epoch"][:])]


def compare(
    path: Path, epoch: int, centroids: Mapping[str, Any], *, hits: int, shots: int, processing: Processing, n_chips: int
) -> Agreement:
    """The centroids of one run (columns x, y, toa, tot, size, chip) against the truth of its epoch.

    hits, shots: how many the run says it has.
    """
    if processing.metric is not Metric.CYLINDER or processing.min_samples != 1 or processing.split:
        raise ValueError("the oracle knows connected components only: metric cylinder, min_samples 1, no split")
    if processing.centroid_time is not CentroidTime.LARGEST:
        raise ValueError("the oracle takes the time of the hit with the largest ToT: centroid_time largest")
    with _opened(path) as file:
        sent = _rows_of(file["hits"], epoch)
        edges = _rows_of(file["triggers"], epoch)
        particles = {name: file["particles"][name][:] for name in ("epoch", "x", "y", "n_hits")}
    falling = 0 if processing.trigger_edge == "rising" else 1
    opening = (edges["input"] == processing.trigger_input) & (edges["falling"] == falling)
    triggers = np.sort(edges["tick"][opening])
    order = np.lexsort((sent["tot"], sent["x"], sent["y"], sent["chip"], sent["tick"]))
    sent = {name: column[order] for name, column in sent.items()}
    cluster = _clusters(sent, np.searchsorted(triggers, sent["tick"], side="right").astype(np.int64), processing)
    expected = _expected(sent, cluster, Geometry.for_chips(n_chips).table())
    alone, error = _particles_alone(sent, cluster, expected, particles, Geometry.for_chips(n_chips).table())
    return Agreement(
        hits=hits,
        true_hits=int(cluster.size),
        shots=shots,
        true_shots=int(triggers.size),
        centroids=len(centroids["toa"]),
        true_clusters=int(expected["tick"].size),
        exact=_exact(expected, centroids),
        particles=int(np.count_nonzero(particles["n_hits"][particles["epoch"] == epoch])),
        alone=alone,
        error_px=error,
    )


def flight_times_ns(path: Path, epoch: int) -> dict[int, float]:
    """Median time of flight of each kind of particle (mass peak)."""
    with _opened(path) as file:
        particles = _rows_of(file["particles"], epoch)
        shots = _rows_of(file["shots"], epoch)
    at = dict(zip(shots["number"].tolist(), shots["tick"].tolist(), strict=True))
    begun = np.array([at.get(number, -1) for number in particles["shot"].tolist()])
    known = begun >= 0
    flights = (particles["tick"] - begun) * TICK_NS
    kinds = np.unique(particles["peak"][known])
    return {int(kind): float(np.median(flights[known & (particles["peak"] == kind)])) for kind in kinds if kind >= 0}


def _opened(path: Path) -> Any:
    return h5py.File(path, "r", libver="latest", swmr=True)


def _rows_of(group: Any, epoch: int) -> Table:
    chosen = group["epoch"][:] == epoch
    return {name: group[name][:][chosen] for name in group}


def _clusters(hits: Table, shot: Ints, processing: Processing) -> Ints:
    """Number of the cluster of each hit (hits in time order): connected components."""
    tick, x, y, chip = (np.ascontiguousarray(hits[name], dtype=np.int64) for name in ("tick", "x", "y", "chip"))
    root = connected(tick, x, y, chip, shot, processing.radius_px**2, ns_to_ticks(processing.window_ns))
    return np.unique(root, return_inverse=True)[1].astype(np.int64)


@kernel
def connected(tick: Ints, x: Ints, y: Ints, chip: Ints, shot: Ints, reach: float, window: int) -> Ints:
    """A representative of the cluster of each hit: every pair within the window is looked at, neighbours are joined."""
    parent = np.arange(tick.size)
    for i in range(tick.size):
        j = i - 1
        while j >= 0 and tick[i] - tick[j] <= window:
            near = (x[i] - x[j]) ** 2 + (y[i] - y[j]) ** 2 <= reach
            if near and chip[i] == chip[j] and shot[i] == shot[j]:
                a, b = i, j
                while parent[a] != a:
                    a = parent[a]
                while parent[b] != b:
                    b = parent[b]
                parent[max(a, b)] = min(a, b)
            j -= 1
    for i in range(tick.size):
        parent[i] = parent[parent[i]]
    return parent


def warm() -> None:
    """Compile what `compare` needs, beside something that waits."""
    nothing = np.zeros(1, np.int64)
    connected(nothing, nothing, nothing, nothing, nothing, 4.0, 1)


def _expected(hits: Table, cluster: Ints, placement: Ints) -> Table:
    """What the centroids of these clusters are by definition."""
    weight = hits["tot"].astype(np.float64)
    total = np.bincount(cluster, weight)
    picture_x, picture_y = _in_picture(hits["x"], hits["y"], hits["chip"], placement)
    # hits are in time order: the first of the largest ToT wins
    brightest = np.lexsort((np.arange(cluster.size), -weight, cluster))
    _, starts = np.unique(cluster[brightest], return_index=True)
    chosen = brightest[starts]
    return {
        "tick": hits["tick"][chosen],
        "x": np.bincount(cluster, weight * picture_x) / total,
        "y": np.bincount(cluster, weight * picture_y) / total,
        "tot": total.astype(np.int64),
        "size": np.bincount(cluster),
        "chip": hits["chip"][chosen],
    }


def _in_picture(
    x: npt.NDArray[Any], y: npt.NDArray[Any], chip: npt.NDArray[Any], placement: Ints
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    a, b, c, d, e, f = placement[chip].T
    return (a * x.astype(np.float64) + b * y + c), (d * x.astype(np.float64) + e * y + f)


def _exact(expected: Table, centroids: Mapping[str, Any]) -> int:
    """How many centroids the oracle has as well: same tick, size, ToT, chip, and position."""
    tick = np.rint(np.asarray(centroids["toa"]) / TICK_NS).astype(np.int64)
    order = np.argsort(tick, kind="stable")
    ours = {name: np.asarray(centroids[name])[order] for name in ("x", "y", "tot", "size", "chip")}
    first = np.searchsorted(tick[order], expected["tick"], side="left")
    last = np.searchsorted(tick[order], expected["tick"], side="right")
    found = np.zeros(first.size, dtype=bool)
    for step in range(int((last - first).max(initial=0))):
        there = first + step < last
        at = np.where(there, first + step, 0)
        same = there.copy()
        for name in ("tot", "size", "chip"):
            same &= ours[name][at] == expected[name]
        for name in ("x", "y"):
            same &= np.abs(ours[name][at] - expected[name]) < POSITION_TOLERANCE_PX
        found |= same
    return int(np.count_nonzero(found))


def _particles_alone(
    hits: Table, cluster: Ints, expected: Table, particles: Table, placement: Ints
) -> tuple[int, float]:
    """Particles whose hits make one whole cluster, and how far its centroid lies from where they landed."""
    known = hits["particle"] >= 0
    n_particles = particles["n_hits"].size
    pairs = np.unique(cluster[known] * n_particles + hits["particle"][known])
    clusters, owners = np.divmod(pairs, max(n_particles, 1))
    per_cluster = np.bincount(clusters, minlength=expected["tick"].size)
    per_particle = np.bincount(owners, minlength=n_particles)
    single = (per_cluster[clusters] == 1) & (per_particle[owners] == 1)
    mine, whose = clusters[single], owners[single]
    if not mine.size:
        return 0, float("nan")
    true_x, true_y = _in_picture(particles["x"][whose], particles["y"][whose], expected["chip"][mine], placement)
    squares = (expected["x"][mine] - true_x) ** 2 + (expected["y"][mine] - true_y) ** 2
    return int(mine.size), float(np.sqrt(np.mean(squares)))
