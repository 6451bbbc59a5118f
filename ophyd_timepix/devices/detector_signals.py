"""The signals of a detector: how a point is taken, and what it gave.

Declares them, and publishes into them what an exposure found, while it goes on and at its end. Knows no run.
"""

from typing import Any

from ophyd import Component as Cpt
from ophyd import Device, Kind

from ..config import Geometry
from ..events.sums import PointArrays
from ..pipeline.messages import Acquired
from .exposure import Look
from .gates import Gates, MassSettings, publish_array
from .ledger_now import LedgerNow
from .processing import ProcessingSettings
from .signals import array, result, setting
from .statistics import SpectrumSettings, Statistics, UntilSettings
from .streams import CentroidStream, LedgerRow, RowStream, ShotStream


class DetectorSignals(Device):
    """Settings and results of a detector."""

    exposure = setting(1.0, units="s", limits=(0.0, 1e7), meaning="length of a point, when `shots` is 0")
    shots = setting(0, units="shots", limits=(0, 10**15), meaning="length of a point, at least; 0: `exposure` says it")
    shot_timeout = setting(10.0, units="s", limits=(0.01, 1e6), meaning="without a shot for so long, a point fails")
    processing = Cpt(ProcessingSettings, "", kind=Kind.config)
    geometry = result("", kind=Kind.config, meaning="where each chip lies in the picture, JSON")
    chip_ids = result("", kind=Kind.config, meaning="names of the chips")
    pll_words = result("", kind=Kind.config, meaning="PLL words of the chips: the column phases follow from them")

    n_centroids = result(0, "centroids", Kind.hinted, meaning="centroids of the point")
    n_hits = result(0, "hits", meaning="hits of the point")
    n_shots = result(0, "shots", meaning="shots of the point")
    n_valid_shots = result(0, "shots", meaning="of these, whole and without a loss")
    n_triggers = result(0, "triggers", meaning="edges at the TDC's inputs")
    hit_rate = result(0.0, "1/s", meaning="hits over the time that the shutter was open")
    open_time = result(0.0, "s", meaning="how long the shutter was open, by the host's clock")
    row_start = result(0, meaning="first row of the point's centroids")
    row_stop = result(0, meaning="row after the last of the point's centroids")
    shot_start = result(0, meaning="first shot of the point")
    shot_stop = result(0, meaning="shot after the last of the point")
    acquisition = result(0, meaning="number of the acquisition in the run; cancelled ones count")
    unaccounted = result(0, "words", meaning="sent by the board and nowhere to be found")
    file = result("", meaning="event file of the run")

    gates = Cpt(Gates, "", kind=Kind.normal)
    mass = Cpt(MassSettings, "", kind=Kind.config)
    mass_calibration = result("", kind=Kind.config, meaning="calibration of m/q with its peaks, JSON; empty: none")
    until = Cpt(UntilSettings, "", kind=Kind.config)
    stats = Cpt(Statistics, "", kind=Kind.normal)
    ledger_now = Cpt(LedgerNow, "", kind=Kind.normal)
    tof = Cpt(SpectrumSettings, "", kind=Kind.normal)
    image = array("counts", "picture of the point: centroids of valid shots", shape=(256, 256))

    shot_rows = Cpt(ShotStream, "", kind=Kind.omitted)
    centroids = Cpt(CentroidStream, "", kind=Kind.omitted)
    ledger = Cpt(LedgerRow, "", kind=Kind.omitted)

    def __init__(self, *, name: str, **kwargs: Any) -> None:
        self.last_sums: PointArrays | None = None
        """What the last point added up to: picture and spectra, of valid shots."""
        super().__init__(name=name, **kwargs)

    @property
    def row_streams(self) -> tuple[RowStream, ...]:
        """What is registered while a run goes, in this order: rows of centroids are known when their shots are."""
        return self.shot_rows, self.centroids

    def _publish_live(self, look: Look, sums: PointArrays | None, *, everybody: bool = False) -> None:
        """What there is until now, for those who watch. everybody: pictures also for those who do not."""
        now, before = look.progress, look.since
        shots, hits = now.shots - before.shots, now.hits - before.hits
        self.n_hits.publish(hits)
        self.n_shots.publish(shots)
        self.n_triggers.publish(now.triggers - before.triggers)
        self.open_time.publish(look.open_seconds)
        if sums is not None:
            self.n_valid_shots.publish(sums.valid_shots)
            self.gates.publish_live(sums)
            self.tof.publish(sums)
            self._publish_arrays(sums, everybody=everybody)
        lost = self.ledger_now.publish_live(look)
        hit_rate = self.stats.publish_live(now, shots, hits, look.open_seconds, sums, lost=lost)
        if hit_rate is not None:
            self.hit_rate.publish(hit_rate)
        self.n_centroids.publish(now.centroids - before.centroids)

    def _publish_point(self, acquired: Acquired, open_seconds: float, live: PointArrays | None) -> None:
        """What a whole point gave. live: what it added up to, in memory that the next point will use."""
        self.n_hits.publish(acquired.hits)
        self.n_shots.publish(acquired.shot_stop - acquired.shot_start)
        self.n_valid_shots.publish(acquired.valid_shots)
        self.n_triggers.publish(acquired.trigger_stop - acquired.trigger_start)
        self.hit_rate.publish(acquired.hits / open_seconds if open_seconds > 0 else 0.0)
        self.open_time.publish(open_seconds)
        self.row_start.publish(acquired.row_start)
        self.row_stop.publish(acquired.row_stop)
        self.shot_start.publish(acquired.shot_start)
        self.shot_stop.publish(acquired.shot_stop)
        self.acquisition.publish(acquired.acquisition)
        self.unaccounted.publish(acquired.ledger.get("unaccounted", 0))
        sums = self.last_sums = None if live is None else live.copy(len(self.gates.on))
        if sums is not None:
            self.tof.publish(sums)
            self._publish_arrays(sums, everybody=True)
        self.ledger_now.publish(acquired)
        self.stats.publish(acquired, open_seconds, sums)
        self.gates.publish(acquired.gates)
        self.n_centroids.publish(acquired.centroids)

    def _publish_arrays(self, sums: PointArrays, *, everybody: bool) -> None:
        """Pictures and spectrum; everybody: also those that nobody subscribes to."""
        publish_array(self.image, sums.image, everybody=everybody)
        publish_array(self.tof.histogram, sums.tof[: sums.spectrum.bins], everybody=everybody)
        self.gates.publish_images(sums, everybody=everybody)

    def _shape_arrays(self, geometry: Geometry) -> None:
        """Arrays are described before their first value."""
        shape = (geometry.height_px, geometry.width_px)
        self.image.reshape(shape)
        for slot in self.gates.slots:
            slot.image.reshape(shape)
        self.tof.histogram.reshape((self.tof.bins.get(),))
