"""Gates on centroids, and the calibration that says which time of flight a mass has.

A gate is a set of windows that a centroid must lie in: time of flight or m/q, a region of the picture, ToT, size. All
windows are half-open: low <= value < high, None leaves a side open. This module knows no array of centroids.
"""

import math
from collections.abc import Iterable, Sequence
from itertools import combinations
from typing import Annotated, Any, Final, Self

import numpy as np
import numpy.typing as npt
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from .geometry import Geometry
from .processing import Processing

Window = tuple[float | None, float | None]
Roi = tuple[float, float, float, float]
Circle = tuple[float, float, float]
Ring = tuple[float, float, float, float]
Polygon = tuple[tuple[float, float], ...]

UNITS: Final = {"tof": "ns", "mq": "u/e", "x": "px", "y": "px", "tot": "counts of 25 ns", "size": "hits", "shot": ""}
_LOWEST: Final = {"tof": 0.0, "mq": 0.0, "tot": 0.0, "size": 1.0}
"""What no centroid is below: a window that ends there can never hold one."""
_RIM_PX: Final = -0.5
"""Centres of pixels are whole numbers: the picture begins half a pixel before the first."""


def check_window(name: str, window: Window) -> Window:
    """Refuse a window that can hold nothing. name: the quantity, as in `UNITS`. Raises ValueError."""
    low, high = window
    unit = f" {UNITS[name]}" if UNITS.get(name) else ""
    if any(limit is not None and math.isnan(limit) for limit in window):
        raise ValueError(f"the window of {name} is ({low}, {high}){unit}; give numbers, or None for an open side")
    if low is not None and high is not None and low >= high:
        raise ValueError(
            f"the window of {name} is empty: {low}{unit} is not below {high}{unit}; give (low, high) with low < high"
        )
    lowest = _LOWEST.get(name)
    if lowest is not None and high is not None and high <= lowest:
        raise ValueError(
            f"the window of {name} holds nothing: it ends at {high}{unit}, "
            f"and no centroid lies below {lowest:g}{unit}; give a larger end"
        )
    return low, high


def check_roi(roi: Roi, geometry: Geometry | None = None) -> Roi:
    """Refuse an empty region of interest, and with `geometry` one that leaves the picture. Raises ValueError."""
    x0, x1, y0, y1 = roi
    check_window("x", (x0, x1))
    check_window("y", (y0, y1))
    if geometry is not None:
        _inside(roi, geometry)
    return roi


def _inside(bounds: Roi, geometry: Geometry, *, whole: bool = True) -> None:
    """whole: no part of the region may lie outside; else some part must lie inside."""
    for axis, low, high, size in (("x", *bounds[:2], geometry.width_px), ("y", *bounds[2:], geometry.height_px)):
        if (low < _RIM_PX or high > size) if whole else (high <= _RIM_PX or low >= size):
            raise ValueError(
                f"the region of interest {'leaves' if whole else 'misses'} the sensor: {axis} from {low:g} to "
                f"{high:g} px, the picture reaches from {_RIM_PX:g} to {size} px; keep it within"
            )


def _window_of(name: str) -> Any:
    return AfterValidator(lambda window: window if window is None else check_window(name, window))


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Peak(_Frozen):
    """A peak of the time-of-flight spectrum whose ion is known."""

    mq: float = Field(gt=0, description="mass over charge (u/e)")
    tof_ns: float = Field(gt=0, description="its time of flight (ns)")
    tof_error_ns: float | None = Field(None, gt=0, description="standard error of that (ns); left out: unknown")
    name: str = Field("", description="the ion, as I+")


def _as_peaks(peaks: object) -> object:
    """Peaks also from pairs (m/q, tof)."""
    if not isinstance(peaks, Iterable):
        return peaks
    return tuple(
        Peak(mq=peak[0], tof_ns=peak[1]) if isinstance(peak, Sequence) and len(peak) == 2 else peak for peak in peaks
    )


class MassCalibration(_Frozen):
    """Time of flight of an ion: t = t0 + k * sqrt(m/q)."""

    t0_ns: float = Field(description="time of flight of a massless ion: delay of the trigger (ns)")
    k_ns: float = Field(gt=0, description="ns per sqrt(u/e)")
    t0_error_ns: float | None = Field(None, ge=0, description="standard error of t0 (ns); None: unknown")
    k_error_ns: float | None = Field(None, ge=0, description="standard error of k (ns per sqrt(u/e)); None: unknown")
    peaks: Annotated[tuple[Peak, ...], BeforeValidator(_as_peaks)] = Field((), description="what it was fitted to")

    @classmethod
    def from_peaks(cls, peaks: Iterable[Peak | tuple[float, float]]) -> Self:
        """The least-squares line through peaks, or pairs (m/q, ToF in ns), of at least two different m/q.

        If every peak has an error, peaks are weighted with it and the errors of t0 and k follow from them; of more than
        two peaks they are widened where the peaks lie farther off the line than their errors say. Else all peaks count
        the same and the errors follow from how far they lie off the line: unknown for two peaks.
        """
        given = tuple(peak if isinstance(peak, Peak) else Peak(mq=peak[0], tof_ns=peak[1]) for peak in peaks)
        different = len({peak.mq for peak in given})
        if different < 2:
            raise ValueError(
                f"a calibration of m/q needs at least 2 peaks of different m/q, got {different}; add a peak whose "
                "ion is known"
            )
        values, covariance = _fit(given)
        if values[1] <= 0:
            raise ValueError(
                f"the peaks give k = {values[1]:.6g} ns per sqrt(u/e), but heavier ions fly longer (k > 0); "
                "check which peak is which ion"
            )
        errors = [None, None] if covariance is None else [float(e) for e in np.sqrt(np.diag(covariance))]
        return cls(
            t0_ns=float(values[0]), k_ns=float(values[1]), t0_error_ns=errors[0], k_error_ns=errors[1], peaks=given
        )

    def tof_ns(self, mq: npt.ArrayLike) -> Any:
        """Time of flight (ns) of an ion of m/q (u/e)."""
        return self.t0_ns + self.k_ns * np.sqrt(mq)

    def mq(self, tof_ns: npt.ArrayLike) -> Any:
        """m/q (u/e) of a time of flight (ns); NaN before t0."""
        root = (np.asarray(tof_ns, dtype=np.float64) - self.t0_ns) / self.k_ns
        result = np.where(root >= 0, root * root, np.nan)
        return result if result.ndim else float(result)

    def tof_window(self, mq: Window) -> Window:
        """The window of time of flight (ns) that a window of m/q (u/e) is."""
        low, high = check_window("mq", mq)
        first = self.t0_ns if low is None or low <= 0 else float(self.tof_ns(low))
        return first, None if high is None else float(self.tof_ns(high))

    def residuals_ns(self) -> tuple[float, ...]:
        """How far each of `peaks` lies from the line (ns)."""
        return tuple(peak.tof_ns - float(self.tof_ns(peak.mq)) for peak in self.peaks)

    def off_the_line(self, least_ns: float = 1.0) -> tuple[Peak, ...]:
        """Peaks that lie farther from the line than 3 of their standard errors and `least_ns` (ns): the shape of peaks
        and the time-walk of the chip shift them by some tenths of a nanosecond.
        """
        return tuple(
            peak
            for peak, residual in zip(self.peaks, self.residuals_ns(), strict=True)
            if abs(residual) > max(3 * (peak.tof_error_ns or 0.0), least_ns)
        )

    def as_text(self) -> str:
        """For a person: the line, and a line for each peak."""
        t0, k = (
            f"{value:.7g}" + (f" +- {error:.2g}" if error else "")
            for value, error in ((self.t0_ns, self.t0_error_ns), (self.k_ns, self.k_error_ns))
        )
        lines = [f"t = t0 + k sqrt(m/q), t0 = {t0} ns, k = {k} ns/sqrt(u/e)"]
        for peak, residual in zip(self.peaks, self.residuals_ns(), strict=True):
            error = f" +- {peak.tof_error_ns:.2f}" if peak.tof_error_ns else ""
            lines.append(
                f"  {peak.name or 'peak':<10} m/q {peak.mq:9.4f} u/e at {peak.tof_ns:11.2f}{error} ns, "
                f"{residual:+.2f} ns off the line"
            )
        return "\n".join(lines)


def _fit(peaks: Sequence[Peak]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64] | None]:
    """t0 and k, and their covariance where it is known."""
    roots = np.sqrt([peak.mq for peak in peaks])
    times = np.array([peak.tof_ns for peak in peaks])
    errors = [peak.tof_error_ns for peak in peaks if peak.tof_error_ns is not None]
    weighted = len(errors) == len(peaks)
    sigma = np.array(errors) if weighted else np.ones(len(peaks))
    design = np.stack([np.ones_like(roots), roots], axis=1) / sigma[:, None]
    values, *_ = np.linalg.lstsq(design, times / sigma, rcond=None)
    covariance = np.linalg.inv(design.T @ design)
    if len(peaks) == 2:
        return values, covariance if weighted else None
    off = design @ values - times / sigma
    spread = float(off @ off) / (len(peaks) - 2)
    return values, covariance * (max(spread, 1.0) if weighted else spread)


class Gate(_Frozen):
    """Which centroids count. What is left out does not matter; a gate of a name alone holds all centroids."""

    name: str = Field(
        pattern=r"^[A-Za-z][A-Za-z0-9_]*$", max_length=40, description="letters, digits, _: columns bear it"
    )
    tof: Annotated[Window | None, _window_of("tof")] = Field(None, description="time of flight (ns)")
    mq: Annotated[Window | None, _window_of("mq")] = Field(None, description="mass over charge (u/e)")
    roi: Roi | None = Field(None, description="x0, x1, y0, y1: x0 <= x < x1 and y0 <= y < y1 (px of the picture)")
    circle: Circle | None = Field(None, description="x, y, radius (px): nearer to (x, y) than radius")
    ring: Ring | None = Field(None, description="x, y, inner, outer radius (px): inner <= distance from (x, y) < outer")
    polygon: Polygon | None = Field(None, description="corners (x, y) in px, at least 3, in order")
    tot: Annotated[Window | None, _window_of("tot")] = Field(None, description="sum of ToT (counts of 25 ns)")
    size: Annotated[Window | None, _window_of("size")] = Field(None, description="hits of the cluster")

    @field_validator("roi")
    @classmethod
    def _roi_is_not_empty(cls, roi: Roi | None) -> Roi | None:
        return None if roi is None else check_roi(roi)

    @field_validator("circle")
    @classmethod
    def _circle_is_not_empty(cls, circle: Circle | None) -> Circle | None:
        if circle is not None and circle[2] <= 0:
            raise ValueError(f"the circle is empty: its radius is {circle[2]:g} px; give more than 0 px")
        return circle

    @field_validator("ring")
    @classmethod
    def _ring_is_not_empty(cls, ring: Ring | None) -> Ring | None:
        if ring is not None and not 0 <= ring[2] < ring[3]:
            raise ValueError(
                f"the ring is empty: it reaches from {ring[2]:g} px to {ring[3]:g} px; "
                "give radii (inner, outer) with 0 <= inner < outer"
            )
        return ring

    @field_validator("polygon")
    @classmethod
    def _polygon_has_an_inside(cls, polygon: Polygon | None) -> Polygon | None:
        if polygon is not None and len(polygon) < 3:
            raise ValueError(f"the polygon has {len(polygon)} corners; give at least 3 (x, y) in px")
        return polygon

    @model_validator(mode="after")
    def _one_of_a_kind(self) -> Self:
        if self.tof is not None and self.mq is not None:
            raise ValueError(f"the gate {self.name!r} has a window of tof and one of mq; give one of them")
        regions = [name for name in ("roi", "circle", "ring", "polygon") if getattr(self, name) is not None]
        if len(regions) > 1:
            raise ValueError(f"the gate {self.name!r} has {' and '.join(regions)}; give one region")
        return self

    def tof_window(self, calibration: MassCalibration | None = None) -> Window | None:
        """The window of time of flight (ns). Raises ValueError for a gate of m/q without a calibration."""
        if self.mq is None:
            return self.tof
        if calibration is None:
            raise ValueError(
                f"the gate {self.name!r} is a window of m/q, and there is no calibration; "
                "give calibration=MassCalibration.from_peaks([(m/q, ToF in ns), ...])"
            )
        return calibration.tof_window(self.mq)

    def windows(self, calibration: MassCalibration | None = None) -> dict[str, Window]:
        """Window of each column of the centroids that has one; a round region only as the box around it."""
        bounds = self.bounds()
        windows = {"tof": self.tof_window(calibration), "tot": self.tot, "size": self.size}
        if bounds is not None:
            windows |= {"x": bounds[:2], "y": bounds[2:]}
        return {column: window for column, window in windows.items() if window is not None}

    @property
    def round(self) -> Ring | None:
        """The circle or ring as a ring; None without one."""
        return self.ring if self.circle is None else (*self.circle[:2], 0.0, self.circle[2])

    def bounds(self) -> Roi | None:
        """The box around the region (px); None without one."""
        if self.round is not None:
            x, y, _, radius = self.round
            return x - radius, x + radius, y - radius, y + radius
        if self.polygon is not None:
            xs, ys = zip(*self.polygon, strict=True)
            return min(xs), max(xs), min(ys), max(ys)
        return self.roi

    def check(
        self,
        geometry: Geometry | None = None,
        processing: Processing | None = None,
        calibration: MassCalibration | None = None,
    ) -> None:
        """Raise ValueError if the gate leaves the picture, or if nothing that is recorded can lie in it."""
        bounds = self.bounds()
        if geometry is not None and bounds is not None:
            _inside(bounds, geometry, whole=self.roi is not None)
        window = self.tof_window(calibration)
        if window is None or processing is None:
            return
        first, last = processing.tof_min_ns, processing.tof_max_ns
        if (last is not None and (window[0] or 0) >= last) or (
            first is not None and window[1] is not None and window[1] <= first
        ):
            raise ValueError(
                f"the gate {self.name!r} holds nothing: it is open for a ToF of {_text(window)} ns, and only "
                f"{_text((first, last))} ns are recorded; move it, or the limits of the processing"
            )


def _text(window: Window) -> str:
    low, high = window
    return f"{'any' if low is None else f'{low:g}'} to {'any' if high is None else f'{high:g}'}"


def overlaps(gates: Iterable[Gate], calibration: MassCalibration | None = None) -> tuple[tuple[str, str], ...]:
    """Names of gates that a single centroid may lie in both of. Round regions are taken as the boxes around them."""
    windows = {gate.name: gate.windows(calibration) for gate in gates}
    return tuple(
        (left, right)
        for left, right in combinations(windows, 2)
        if all(
            _overlap(window, windows[right][column])
            for column, window in windows[left].items()
            if column in windows[right]
        )
    )


def _overlap(a: Window, b: Window) -> bool:
    low = max(-math.inf if w[0] is None else w[0] for w in (a, b))
    high = min(math.inf if w[1] is None else w[1] for w in (a, b))
    return low < high


def check_gates(
    gates: Sequence[Gate],
    geometry: Geometry | None = None,
    processing: Processing | None = None,
    calibration: MassCalibration | None = None,
    *,
    disjoint: bool = False,
) -> None:
    """Raise ValueError for gates of one name, for a gate that `Gate.check` refuses, and if they must be disjoint for
    two that overlap. Without `disjoint` a centroid counts in every gate that it lies in.
    """
    names = [gate.name for gate in gates]
    twice = [name for name in dict.fromkeys(names) if names.count(name) > 1]
    if twice:
        raise ValueError(f"two gates have the name {twice[0]!r}; give each a name of its own")
    for gate in gates:
        gate.check(geometry, processing, calibration)
    shared = overlaps(gates, calibration) if disjoint else ()
    if shared:
        left, right = shared[0]
        raise ValueError(
            f"the gates {left!r} and {right!r} overlap: a centroid may lie in both and count twice; "
            "move a border, or let them overlap (disjoint=False)"
        )
