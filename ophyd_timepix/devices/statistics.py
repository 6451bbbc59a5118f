"""What a point says of itself beside its rows: rates, medians, the highest peak, the centre, the health of the data.

Means and medians are of the centroids of valid shots. Published when a point ends, and a few times a second while it
is exposed, for those who watch.
"""

import math
import threading
import time
from collections import deque
from typing import Any, Final

from ophyd import Device, Kind

from ..events.peaks import highest_peak, median_of
from ..events.sums import PointArrays, Spectrum
from ..pipeline.messages import Acquired, Progress
from .signals import array, result, run_setting, setting

HEALS_S: Final = 2.0
"""After a loss `healthy` is 0 for so long after the point, then 1 again: a suspended plan must be able to go on."""


WINDOW_S: Final = 2.0
"""Live rates are means of so long."""
SETTLES_S: Final = 0.5
"""What comes first is known some tenths of a second late: before, there is no live rate."""


class Rates:
    """Shots and hits per second while an exposure goes on: of the last seconds, from what is known, which is late."""

    def __init__(self) -> None:
        self._looks: deque[tuple[float, int, int]] = deque()

    def begin(self) -> None:
        """Another exposure."""
        self._looks.clear()

    def seen(self, at_s: float, shots: int, hits: int) -> tuple[float, float] | None:
        """So many are known of an exposure that is open since `at_s` seconds. The rates; None before there are any."""
        looks = self._looks
        if looks and at_s < looks[-1][0]:
            looks.clear()
        if not looks and not shots and at_s < SETTLES_S:  # hits are known before their shots
            return None
        looks.append((at_s, shots, hits))
        while at_s - looks[1][0] >= WINDOW_S if len(looks) > 1 else False:
            looks.popleft()
        since, shots_then, hits_then = looks[0]
        if at_s - since < SETTLES_S:
            return None
        return (shots - shots_then) / (at_s - since), (hits - hits_then) / (at_s - since)


class SpectrumSettings(Device):
    """The spectrum of time of flight that a point adds up, and its highest peak. Its bins are set between runs."""

    start = run_setting(0.0, units="ns", limits=(-1e9, 1e9), meaning="where it begins")
    stop_at = run_setting(100_000.0, units="ns", limits=(-1e9, 1e9), meaning="where it ends")
    bins = run_setting(2000, units="bins", limits=(1, 1_000_000), meaning="number of bins")
    peak = result(math.nan, "ns", meaning="position of the highest peak; NaN without centroids")
    width = result(math.nan, "ns", meaning="its full width at half maximum")
    histogram = array("counts", "centroids of valid shots per bin", shape=(2000,))

    @property
    def range_ns(self) -> tuple[float, float]:
        """Raises ValueError when it is empty."""
        low, high = self.start.get(), self.stop_at.get()
        if low >= high:
            raise ValueError(f"the spectrum of {self.name} is empty: it starts at {low:g} ns and stops at {high:g} ns")
        return low, high

    @property
    def spectrum(self) -> Spectrum:
        """The bins of the next run."""
        low, high = self.range_ns
        bins = self.bins.get()
        return Spectrum(low, (high - low) / bins, bins)

    def publish(self, sums: PointArrays) -> None:
        """Peak and width."""
        position, width = highest_peak(sums.tof[: sums.spectrum.bins], sums.spectrum.edges_ns)
        self.width.publish(width)
        self.peak.publish(position)


class Statistics(Device):
    """Numbers of a point, for plots and suspenders."""

    trigger_rate = result(0.0, "1/s", meaning="shots over the time that the shutter was open")
    hits_per_shot = result(math.nan, "1/shot", meaning="hits over shots; NaN without shots")
    centroids_per_shot = result(math.nan, "1/shot", meaning="centroids of valid shots per valid shot")
    size_median = result(math.nan, "hits", meaning="median size of the clusters")
    tot_median = result(math.nan, "25 ns", meaning="median sum of ToT of the clusters")
    x_mean = result(math.nan, "pixel", meaning="centre of mass: mean column")
    y_mean = result(math.nan, "pixel", meaning="centre of mass: mean row")
    lost_datagrams = result(0, "datagrams", meaning="sent by the board, not received whole")
    lag_seconds = result(0.0, "s", meaning="how far processing is behind what is received")
    healthy = result(1, meaning="1: nothing lost or unaccounted and a lag below `lag_limit`; back at 1 soon after")
    skipped_bytes = result(0, "bytes", Kind.omitted, meaning="left out of an alignment because processing was behind")
    lag_limit = setting(5.0, units="s", limits=(0.01, 1e6), meaning="a lag above it is not healthy")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._healing: threading.Timer | None = None
        self._rates = Rates()
        self._triggers: tuple[float, int] | None = None
        """When the board was asked for its triggers in a pause, and what it said."""
        super().__init__(*args, **kwargs)

    def publish(self, acquired: Acquired, open_seconds: float, sums: PointArrays | None) -> None:
        """The numbers of a whole point."""
        shots = acquired.shot_stop - acquired.shot_start
        self._rates.begin()
        self.trigger_rate.publish(shots / open_seconds if open_seconds > 0 else 0.0)
        self.hits_per_shot.publish(acquired.hits / shots if shots else math.nan)
        lost = int(acquired.ledger.get("lost_datagrams", 0) or 0)
        self.lost_datagrams.publish(lost)
        self.lag_seconds.publish(0.0)  # a point ends when all of it is written
        self.note_health(lost == 0 and not acquired.ledger.get("unaccounted", 0))
        if sums is not None:
            self._publish_sums(sums)

    def publish_live(
        self, progress: Progress, shots: int, hits: int, open_seconds: float, sums: PointArrays | None, *, lost: int = 0
    ) -> float | None:
        """The numbers until now of a point that is exposed. lost: datagrams of it that are known to be lost.

        Returns hits per second, None where it is too early.
        """
        self._triggers = None
        rates = self._rates.seen(open_seconds, shots, hits)
        if rates is not None:
            self.trigger_rate.publish(rates[0])
            if rates[0] > 0:
                self.hits_per_shot.publish(rates[1] / rates[0])
        self.lag_seconds.publish(progress.lag_seconds)
        if progress.lag_seconds > self.lag_limit.get() or lost:
            self.note_health(False)
        if sums is not None:
            self._publish_sums(sums)
        return None if rates is None else rates[1]

    def publish_held(self, triggers: int) -> None:
        """An exposure is held back by a pause: what may end it. triggers: those that the board has counted."""
        self.lag_seconds.publish(0.0)  # a cancelled attempt ends when all of it is written
        now = time.monotonic()
        if self._triggers is not None:
            then, before = self._triggers
            self.trigger_rate.publish(max(triggers - before, 0) / (now - then))
        self._triggers = now, triggers

    def _publish_sums(self, sums: PointArrays) -> None:
        n, shots = sums.centroids, sums.valid_shots
        self.centroids_per_shot.publish(n / shots if shots else math.nan)
        self.size_median.publish(median_of(sums.size))
        self.tot_median.publish(median_of(sums.tot))
        x, y = (float(total) / n if n else math.nan for total in sums.sums)
        self.x_mean.publish(x)
        self.y_mean.publish(y)

    def note_health(self, healthy: bool) -> None:
        """Say whether the data are whole; after a loss be healthy again soon."""
        self.rest()
        if healthy != bool(self.healthy.get()):
            self.healthy.publish(int(healthy))
        if not healthy:
            self._healing = threading.Timer(HEALS_S, lambda: self.healthy.publish(1))
            self._healing.daemon = True
            self._healing.start()

    def rest(self) -> None:
        """No timer runs any more."""
        timer, self._healing = self._healing, None
        if timer is not None and timer is not threading.current_thread():
            timer.cancel()
            timer.join(1.0)


class UntilSettings(Device):
    """A goal in a gate: a point lasts until the gate has so many counts or such a precision, or for so long.

    It goes before `shots` and `exposure` while `gate` names one.
    """

    gate = setting("", meaning="label or slot of the gate that is waited for; empty: no such goal")
    counts = setting(0, units="centroids", limits=(0, 10**15), meaning="enough counts; 0: no matter")
    relative_error = setting(0.0, limits=(0.0, 1.0), meaning="small enough standard error over mean; 0: no matter")
    at_most = setting(60.0, units="s", limits=(0.001, 1e7), meaning="a point ends after it in any case")
