"""What a user may choose about processing: one validated model, shared by command line, devices, stages and files."""

from enum import StrEnum
from typing import Annotated, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from .calibration import Calibration, CalibrationFile, as_calibration_file
from .masked_pixels import Pixel, as_pixels, checked


class Metric(StrEnum):
    """Which two hits are neighbours (design: Clustering, defined)."""

    CYLINDER = "cylinder"
    """dx² + dy² <= radius² and |dt| <= window."""
    ELLIPSOID = "ellipsoid"
    """dx² + dy² + (dt / window * radius)² <= radius²."""


class CentroidTime(StrEnum):
    """Which time a centroid has."""

    LARGEST = "largest"
    """That of the hit with the largest ToT, the first of equals: the least time-walk."""
    WEIGHTED = "weighted"
    """The ToT-weighted mean."""


class Edge(StrEnum):
    """The electrical edge of a TDC input."""

    RISING = "rising"
    FALLING = "falling"


class MissingTriggers(StrEnum):
    """What becomes of a trigger that should have come and did not."""

    REPORT = "report"
    """It is counted, and the shot that it should have ended is not valid."""
    INFER = "infer"
    """It is put in at its time: a shot that is marked, and not valid; the shots around it are as they should be."""


INFER_PERIODS_NS = (1_000.0, 5e8)
"""Shorter periods than 1 µs no laser has; of longer ones than 0.5 s no missing trigger could be waited for."""

LONGEST_NS = 1e12
"""No shot lasts so long (1000 s); more, inf and nan are no times that ticks could count."""


class Processing(BaseModel):
    """Parameters from words to centroids. Every number carries its unit in its name."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    radius_px: float = Field(2.0, gt=0, le=8, description="spatial radius of the neighbourhood (pixels)")
    window_ns: float = Field(100.0, gt=0, le=100_000, description="time window of the neighbourhood (ns)")
    metric: Metric = Field(Metric.CYLINDER, description="which two hits are neighbours: cylinder | ellipsoid")
    min_samples: int = Field(1, ge=1, le=1000, description="neighbours, itself included, that make a hit a core hit")
    min_size: int = Field(1, ge=1, le=65_535, description="hits that a cluster needs to become a centroid")
    split: bool = Field(False, description="cut up clusters of several particles: one part for each peak of ToT")
    split_radius_px: float = Field(
        2.5, ge=1, le=8, description="a hit this near to a stronger one is no peak of its own (pixels)"
    )
    split_time_ns: float = Field(
        15.0, ge=1, le=1000, description="nor is it when it is late by so much, weighed by the ratio of the ToT (ns)"
    )
    centroid_time: CentroidTime = Field(
        CentroidTime.LARGEST, description="of the hit with the largest ToT, or the weighted mean: largest | weighted"
    )
    trigger_input: int = Field(1, ge=1, le=2, description="TDC input that opens shots")
    trigger_edge: Edge = Field(Edge.RISING, description="its edge: rising | falling")
    trigger_period_ns: float | None = Field(
        None, gt=0, le=LONGEST_NS, description="what the triggers should keep: missing and double ones are counted (ns)"
    )
    missing_triggers: MissingTriggers = Field(
        MissingTriggers.REPORT,
        description="a trigger that trigger_period_ns misses is counted, or put in as well: report | infer",
    )
    trigger_delay_ns: float = Field(
        0.0, ge=-1e8, le=1e8, description="a shot opens so much after its trigger; negative: before (ns)"
    )
    trigger_prescale: int = Field(
        1, ge=1, le=65_535, description="every n-th trigger opens a shot, beginning with the first of an acquisition"
    )
    tof_min_ns: float | None = Field(
        None, ge=-LONGEST_NS, le=LONGEST_NS, description="hits of a shot before this ToF are filtered (ns)"
    )
    tof_max_ns: float | None = Field(
        None, gt=0, le=LONGEST_NS, description="hits of a shot after this ToF are filtered (ns)"
    )
    tot_min: int | None = Field(None, ge=0, le=1023, description="hits with a smaller ToT are filtered (25 ns counts)")
    tot_max: int | None = Field(None, ge=0, le=1023, description="hits with a larger ToT are filtered (25 ns counts)")
    masked_pixels: Annotated[tuple[Pixel, ...], BeforeValidator(as_pixels), AfterValidator(checked)] = Field(
        (), description="hits of these pixels are filtered: (chip, x, y), x and y on the chip itself (0 to 255)"
    )
    calibration: Annotated[CalibrationFile | None, BeforeValidator(as_calibration_file)] = Field(
        None, description="file of time-walk, offsets of chips and energies; a path will do"
    )
    lateness_ns: float = Field(500_000.0, ge=0, le=2_000_000, description="how late a hit may come in the stream (ns)")
    hits: bool = Field(False, description="write the hit columns too")

    @property
    def optional_columns(self) -> tuple[str, ...]:
        """Columns that the tables of events have because of this."""
        inferred = ("inferred",) if self.missing_triggers is MissingTriggers.INFER else ()
        return (*inferred, "energy") if self.calibration is not None and self.calibration.energy else inferred

    def remarks(self, n_chips: int) -> list[str]:
        """What is said here of chips that are not there, and so comes to nothing, with what to do: a line for each."""
        lines = []
        absent = [chip for chip, _, _ in self.masked_pixels if chip >= n_chips]
        if absent:
            lines.append(
                f"masked_pixels has {_count(len(absent), 'pixel')} of {_listed(absent)}, and there is "
                f"{_chips(n_chips)}: they take out nothing; chips count from 0, leave these pixels out or correct them"
            )
        if self.calibration is not None and self.calibration.chips > n_chips:
            lines.append(
                f"the calibration {self.calibration.path} describes {self.calibration.chips} chips, and there is "
                f"{_chips(n_chips)}: the rest of it is not used; make sure that it is of this camera and in its order"
            )
        return lines

    def load_calibration(self) -> Calibration | None:
        """What is in the file. Raises ConfigError when it is not the one that was chosen."""
        return None if self.calibration is None else self.calibration.load()

    @model_validator(mode="after")
    def _windows_are_not_empty(self) -> Self:
        if self.tof_min_ns is not None and self.tof_max_ns is not None and self.tof_min_ns >= self.tof_max_ns:
            raise ValueError(f"tof_min_ns ({self.tof_min_ns} ns) must be below tof_max_ns ({self.tof_max_ns} ns)")
        if self.tot_min is not None and self.tot_max is not None and self.tot_min > self.tot_max:
            raise ValueError(f"tot_min ({self.tot_min}) must not be above tot_max ({self.tot_max}), in 25 ns counts")
        return self

    @model_validator(mode="after")
    def _period_can_be_inferred_from(self) -> Self:
        if self.missing_triggers is not MissingTriggers.INFER:
            return self
        low, high = INFER_PERIODS_NS
        if self.trigger_period_ns is None or not low <= self.trigger_period_ns <= high:
            raise ValueError(
                f"missing_triggers='infer' needs the period that the triggers keep, trigger_period_ns from {low:g} to "
                f"{high:g} ns, not {self.trigger_period_ns}; give it, or use missing_triggers='report'"
            )
        return self


def _count(n: int, what: str) -> str:
    return f"{n:,} {what}" if n == 1 else f"{n:,} {what}s"


def _chips(n_chips: int) -> str:
    return "chip 0 alone" if n_chips == 1 else f"no chip above {n_chips - 1}"


def _listed(chips: list[int]) -> str:
    different = sorted({*chips})
    return f"{'chip' if len(different) == 1 else 'chips'} {', '.join(map(str, different))}"
