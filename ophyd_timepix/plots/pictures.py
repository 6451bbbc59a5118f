"""The pictures that everybody wants first: where the particles landed, how long they flew, what clusters are like.

The functions return a `matplotlib.figure.Figure` that belongs to no window: `figure.savefig("vmi.png")`. matplotlib is
imported when a picture is made.
"""

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any, Final, Literal, get_args

import numpy as np
import numpy.typing as npt

from ..config.gates import Gate, MassCalibration

Scale = Literal["linear", "log"]
_DIMENSIONS: Final = 2

GATE_COLOURS = ("#e08214", "#35978f", "#8073ac", "#c51b7d", "#4d9221", "#b2182b", "#2166ac", "#878787")

_BRIGHT_QUANTILE = 0.999
"""On a linear scale the brightest 0.1 % of the filled pixels are clipped: one hot spot would hide the rest."""


def vmi_picture(
    x: npt.ArrayLike,
    y: npt.ArrayLike,
    *,
    size_px: tuple[int, int] = (256, 256),
    bins_per_px: int = 1,
    scale: Scale = "linear",
    title: str = "Velocity-map image",
    pitch_um: float | None = 55.0,
    axes: Any = None,
) -> Any:
    """Centroids per pixel over the sensor.

    x, y: pixels.  size_px: width and height of the picture (of a quad: 516, 516).  bins_per_px: more than 1 resolves
    what centroiding gains.  pitch_um: writes the size of a pixel beside the axis; None leaves it out.  axes: draw into
    these, as one panel of several, instead of into a new figure.
    """
    width, height = size_px
    xs, ys = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    # pixel centres are whole numbers: pixel 0 reaches from -0.5 to 0.5
    image, _, _ = np.histogram2d(
        ys, xs, bins=(height * bins_per_px, width * bins_per_px), range=((-0.5, height - 0.5), (-0.5, width - 0.5))
    )
    return image_picture(image, bins_per_px=bins_per_px, scale=scale, title=title, pitch_um=pitch_um, axes=axes)


def image_picture(
    image: npt.ArrayLike,
    *,
    bins_per_px: int | None = None,
    scale: Scale = "linear",
    title: str = "Velocity-map image",
    pitch_um: float | None = 55.0,
    axes: Any = None,
) -> Any:
    """Centroids that were counted per pixel already, as `catalog.image` gives them or the signal `tpx.image`, [y, x].

    bins_per_px: default: what the image says of itself, else 1.  The other words are those of `vmi_picture`.
    """
    check_scale(scale)
    counts = np.asarray(image, dtype=np.float64)
    if counts.ndim != _DIMENSIONS:
        raise ValueError(
            f"a picture has 2 dimensions (y, x), not {counts.ndim}; of pictures per point choose one, "
            "as image.sel(seq_num=1)"
        )
    bins_per_px = bins_per_px or int(getattr(image, "attrs", {}).get("bins_per_px", 1))
    figure, axes = (axes.figure, axes) if axes is not None else new_figure((6.6, 5.6))
    height, width = (size / bins_per_px for size in counts.shape)
    norm, extend = _brightness(counts, scale)
    shown = axes.imshow(
        counts, origin="lower", cmap=_colours(), norm=norm, interpolation="nearest", aspect="equal",
        extent=(-0.5, width - 0.5, -0.5, height - 0.5),
    )  # fmt: skip
    unit = "pixel" if bins_per_px == 1 else f"(1/{bins_per_px} pixel)²"
    figure.colorbar(shown, ax=axes, extend=extend, label=f"centroids per {unit}", fraction=0.046, pad=0.03)
    pitch = f", 1 pixel = {pitch_um:g} µm" if pitch_um else ""
    axes.set_xlabel(f"x (pixel{pitch})")
    axes.set_ylabel("y (pixel)")
    axes.set_title(_title(title, int(counts.sum())))
    return figure


def tof_picture(
    tof: npt.ArrayLike,
    *,
    range_ns: tuple[float, float] | None = None,
    bin_ns: float | None = None,
    scale: Scale = "log",
    peaks: Mapping[str, float] | None = None,
    gates: Sequence[Gate] = (),
    calibration: MassCalibration | None = None,
    mass_axis: bool = False,
    title: str = "Time of flight",
    axes: Any = None,
) -> Any:
    """Centroids per bin over the time since the trigger.

    tof: ns; NaN (outside a shot) is left out.  range_ns: what to show; default: all there is.  bin_ns: default: about a
    thousand bins.  peaks: names and times (ns) to write over the spectrum.  gates, calibration, mass_axis: as in
    `spectrum_picture`.  axes: as in `vmi_picture`.
    """
    flights = np.asarray(tof, dtype=np.float64)
    flights = flights[np.isfinite(flights)]
    low, high = range_ns or _span(flights)
    if not low < high:
        raise ValueError(f"range_ns is empty: {low:g} ns is not below {high:g} ns; give (first, last) time to show")
    width = bin_ns or _round_width((high - low) / 1000)
    edges = low + width * np.arange(max(2, int(np.ceil((high - low) / width)) + 1))
    counts, _ = np.histogram(flights, edges)
    return spectrum_picture(
        counts, edges, scale=scale, peaks=peaks, gates=gates, calibration=calibration, mass_axis=mass_axis,
        title=title, axes=axes,
    )  # fmt: skip


def spectrum_picture(
    counts: npt.ArrayLike,
    edges_ns: npt.ArrayLike,
    *,
    scale: Scale = "log",
    peaks: Mapping[str, float] | None = None,
    gates: Sequence[Gate] = (),
    calibration: MassCalibration | None = None,
    mass_axis: bool = False,
    title: str = "Time of flight",
    axes: Any = None,
) -> Any:
    """A spectrum that was counted already, with its gates marked.

    counts, edges_ns: centroids per bin of time of flight, and the borders of the bins (ns), one more.  peaks: names and
    times (ns).  gates: bands with their names; those of m/q need the calibration, and so does the mass axis: m/q (u/e)
    instead of time, without what came before t0.  The title counts what is shown.
    """
    check_scale(scale)
    if mass_axis and calibration is None:
        raise ValueError("an axis of m/q needs a calibration; give calibration=MassCalibration.from_peaks([...])")
    values, edges = np.asarray(counts, dtype=np.int64), np.asarray(edges_ns, dtype=np.float64)
    figure, axes = (axes.figure, axes) if axes is not None else new_figure((8.6, 4.4))
    width = float(np.median(np.diff(edges)))
    place: Callable[[Any], Any] = _microseconds
    if mass_axis and calibration is not None:
        place = calibration.mq
        first = int(np.searchsorted(edges, calibration.t0_ns))
        values, edges = values[first:], edges[first:]
    shown = np.asarray(place(edges))
    axes.set_xlim(shown[0], shown[-1])
    top = max(int(values.max(initial=0)), 1)
    crowded = bool(peaks) or bool(gates)
    if scale == "log":
        axes.set_yscale("log")
        axes.set_ylim(0.7, top * (6 if crowded else 2))
    else:
        axes.set_ylim(0, top * (1.25 if crowded else 1.05))
    axes.stairs(values, shown, color="#1f4e79", fill=True, linewidth=0.8)
    _mark_gates(axes, gates, calibration, place)
    _annotate(axes, values, edges, peaks or {}, place)
    axes.set_xlabel("m/q (u/e)" if mass_axis else "time of flight (µs)")
    axes.set_ylabel(f"centroids per {width:g} ns")
    axes.set_title(_title(title, int(values.sum())))
    _plain_axes(axes)
    return figure


def distribution_picture(
    counts: npt.ArrayLike,
    *,
    quantity: str,
    bin_width: float = 1.0,
    first: float = 0.0,
    scale: Scale = "log",
    title: str = "",
    axes: Any = None,
) -> Any:
    """How often each cluster size, or sum of ToT, came: bins of `bin_width` from `first` on, with the median marked.

    quantity: the words at the axis, with the unit.
    """
    values = np.trim_zeros(np.asarray(counts, dtype=np.int64), "b")
    values = values if values.size else np.zeros(1, np.int64)
    figure, axes = (axes.figure, axes) if axes is not None else new_figure((5.6, 4.0))
    edges = first + bin_width * np.arange(values.size + 1)
    axes.stairs(values, edges, color="#1f4e79", fill=True, linewidth=0.8)
    if scale == "log" and values.any():
        axes.set_yscale("log")
        axes.set_ylim(0.7, int(values.max()) * 2)
    if values.any():
        middle = int(np.searchsorted(np.cumsum(values), values.sum() / 2))
        median = edges[middle] + bin_width / 2
        axes.axvline(median, color="#c1440e", linewidth=1.0, label=f"median {median:g}")
        axes.legend(frameon=False, loc="upper right")
    axes.set_xlim(edges[0], edges[-1])
    axes.set_xlabel(quantity)
    axes.set_ylabel("centroids" if bin_width == 1.0 else f"centroids per {bin_width:g}")
    axes.set_title(_title(title or quantity, int(values.sum())))
    _plain_axes(axes)
    return figure


def new_figure(inches: tuple[float, float], columns: int = 1) -> tuple[Any, Any]:
    """A figure of no window, and its axes (an array of them for several columns)."""
    figure = _figure(inches)
    return figure, figure.subplots(1, columns)


def new_sheet(inches: tuple[float, float], rows: Sequence[Mapping[str, float]]) -> tuple[Any, dict[str, Any]]:
    """A figure of no window, and its axes by name. rows: name and relative width of each."""
    figure = _figure(inches)
    axes: dict[str, Any] = {}
    for part, row in zip(np.atleast_1d(figure.subfigures(len(rows), 1)), rows, strict=True):
        made = part.subplots(1, len(row), width_ratios=list(row.values()))
        axes |= zip(row, np.atleast_1d(made), strict=True)
    return figure, axes


def _figure(inches: tuple[float, float]) -> Any:
    try:
        figure_module = import_module("matplotlib.figure")
    except ModuleNotFoundError as missing:
        raise ModuleNotFoundError(
            'pictures need matplotlib, which is not installed; install it with: pip install "ophyd_timepix[demo]"',
            name=missing.name,
        ) from missing
    return figure_module.Figure(figsize=inches, dpi=130, layout="constrained")


def _colours() -> Any:
    """A perceptually even map whose empty pixels look empty."""
    return import_module("matplotlib").colormaps["inferno"].with_extremes(bad="black", under="black")


def _brightness(image: npt.NDArray[np.float64], scale: Scale) -> tuple[Any, str]:
    """Colour norm, and on which side the colour bar shows that values are clipped."""
    colors = import_module("matplotlib.colors")
    brightest = max(float(image.max(initial=0)), 1.0)
    if scale == "log":
        return colors.LogNorm(vmin=0.8, vmax=max(brightest, 2.0), clip=False), "neither"
    filled = image[image > 0]
    clipped = max(float(np.quantile(filled, _BRIGHT_QUANTILE)), 1.0) if filled.size else 1.0
    return colors.Normalize(vmin=0, vmax=clipped), "max" if clipped < brightest else "neither"


def _annotate(
    axes: Any,
    counts: npt.NDArray[np.int64],
    edges: npt.NDArray[np.floating[Any]],
    peaks: Mapping[str, float],
    place: Callable[[Any], Any],
) -> None:
    """Each name above the highest bin near its time; a name that would cover its left neighbour goes higher."""
    span = edges[-1] - edges[0]
    lift, before = 0, -np.inf
    for name, time_ns in sorted(peaks.items(), key=lambda peak: peak[1]):
        if not edges[0] <= time_ns <= edges[-1]:
            continue
        near = np.abs((edges[:-1] + edges[1:]) / 2 - time_ns) <= max(span / 100, edges[1] - edges[0])
        height = max(int(counts[near].max(initial=1)), 1)
        lift = lift + 1 if time_ns - before < span * 0.06 else 0
        before = time_ns
        axes.annotate(
            name, (place(time_ns), height), xytext=(0, 5 + 13 * lift), textcoords="offset points", fontsize=9,
            ha="center", va="bottom",
            arrowprops={"arrowstyle": "-", "color": "0.5", "linewidth": 0.6, "shrinkA": 0, "shrinkB": 1},
        )  # fmt: skip


def _mark_gates(
    axes: Any, gates: Sequence[Gate], calibration: MassCalibration | None, place: Callable[[Any], Any]
) -> None:
    """A band for each gate that has a window in time; an open side goes to the border of the picture."""
    left, right = axes.get_xlim()
    for number, gate in enumerate(gates):
        window = gate.tof_window(calibration)
        if window is None:
            continue
        low = left if window[0] is None else float(place(window[0]))
        high = right if window[1] is None else float(place(window[1]))
        colour = GATE_COLOURS[number % len(GATE_COLOURS)]
        low = left if np.isnan(low) else max(low, left)
        if not low < min(high, right):  # beside what is shown
            continue
        axes.axvspan(low, min(high, right), color=colour, alpha=0.3, label=gate.name)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, loc="upper left", title="gates")


def _microseconds(ns: Any) -> Any:
    return ns / 1000


def _plain_axes(axes: Any) -> None:
    axes.grid(axis="y", which="major", color="0.9", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _span(flights: npt.NDArray[np.float64]) -> tuple[float, float]:
    if not flights.size:
        return 0.0, 1000.0
    low, high = float(flights.min()), float(flights.max())
    margin = max((high - low) * 0.02, 1.0)
    return low - margin, high + margin


def _round_width(width: float) -> float:
    """The next width of the series 1, 2, 5, 10 ... ns."""
    decade = 10.0 ** np.floor(np.log10(width))
    return float(next(step * decade for step in (1, 2, 5, 10) if step * decade >= width * 0.999))


def _title(title: str, count: int) -> str:
    counted = {0: "no centroids", 1: "1 centroid"}.get(count, f"{count:,} centroids")
    return f"{title}: {counted}"


def check_scale(scale: str) -> None:
    """Raises ValueError for a scale that there is not: a picture must not be of another one."""
    if scale not in get_args(Scale):
        raise ValueError(f"no scale {scale!r}; there are: {', '.join(get_args(Scale))}")
