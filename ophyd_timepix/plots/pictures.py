"""The two pictures that everybody wants first: where the particles landed, and how long they flew.

The functions return a `matplotlib.figure.Figure` that belongs to no window: `figure.savefig("vmi.png")`. matplotlib is
imported when a picture is made.
"""

from collections.abc import Mapping
from importlib import import_module
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Scale = Literal["linear", "log"]

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
    figure, axes = (axes.figure, axes) if axes is not None else new_figure((6.6, 5.6))
    width, height = size_px
    xs, ys = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    # pixel centres are whole numbers: pixel 0 reaches from -0.5 to 0.5
    image, _, _ = np.histogram2d(
        ys, xs, bins=(height * bins_per_px, width * bins_per_px), range=((-0.5, height - 0.5), (-0.5, width - 0.5))
    )
    norm, extend = _brightness(image, scale)
    shown = axes.imshow(
        image, origin="lower", cmap=_colours(), norm=norm, interpolation="nearest", aspect="equal",
        extent=(-0.5, width - 0.5, -0.5, height - 0.5),
    )  # fmt: skip
    unit = "pixel" if bins_per_px == 1 else f"1/{bins_per_px} pixel"
    figure.colorbar(shown, ax=axes, extend=extend, label=f"centroids per {unit}", fraction=0.046, pad=0.03)
    pitch = f", 1 pixel = {pitch_um:g} µm" if pitch_um else ""
    axes.set_xlabel(f"x (pixel{pitch})")
    axes.set_ylabel("y (pixel)")
    axes.set_title(_title(title, xs.size))
    return figure


def tof_picture(
    tof: npt.ArrayLike,
    *,
    range_ns: tuple[float, float] | None = None,
    bin_ns: float | None = None,
    scale: Scale = "log",
    peaks: Mapping[str, float] | None = None,
    title: str = "Time of flight",
    axes: Any = None,
) -> Any:
    """Centroids per bin over the time since the trigger.

    tof: ns; NaN (outside a shot) is left out.  range_ns: what to show; default: all there is.  bin_ns: default: about a
    thousand bins.  peaks: names and times (ns) to write over the spectrum.  axes: as in `vmi_picture`.
    """
    figure, axes = (axes.figure, axes) if axes is not None else new_figure((8.6, 4.4))
    flights = np.asarray(tof, dtype=np.float64)
    flights = flights[np.isfinite(flights)]
    low, high = range_ns or _span(flights)
    width = bin_ns or _round_width((high - low) / 1000)
    edges = low + width * np.arange(max(2, int(np.ceil((high - low) / width)) + 1))
    counts, _ = np.histogram(flights, edges)
    axes.set_xlim(edges[0] / 1000, edges[-1] / 1000)
    top = max(int(counts.max(initial=0)), 1)
    if scale == "log":
        axes.set_yscale("log")
        axes.set_ylim(0.7, top * (6 if peaks else 2))
    else:
        axes.set_ylim(0, top * (1.25 if peaks else 1.05))
    axes.stairs(counts, edges / 1000, color="#1f4e79", fill=True, linewidth=0.8)
    _annotate(axes, counts, edges, peaks or {})
    axes.set_xlabel("time of flight (µs)")
    axes.set_ylabel(f"centroids per {width:g} ns")
    axes.set_title(_title(title, flights.size))
    axes.grid(axis="y", which="major", color="0.9", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def new_figure(inches: tuple[float, float], columns: int = 1) -> tuple[Any, Any]:
    """A figure of no window, and its axes (an array of them for several columns)."""
    try:
        figure_module = import_module("matplotlib.figure")
    except ModuleNotFoundError as missing:
        raise ModuleNotFoundError(
            'pictures need matplotlib, which is not installed; install it with: pip install "ophyd_timepix[demo]"',
            name=missing.name,
        ) from missing
    figure = figure_module.Figure(figsize=inches, dpi=130, layout="constrained")
    return figure, figure.subplots(1, columns)


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
    axes: Any, counts: npt.NDArray[np.int64], edges: npt.NDArray[np.floating[Any]], peaks: Mapping[str, float]
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
            name, (time_ns / 1000, height), xytext=(0, 5 + 13 * lift), textcoords="offset points", fontsize=9,
            ha="center", va="bottom",
            arrowprops={"arrowstyle": "-", "color": "0.5", "linewidth": 0.6, "shrinkA": 0, "shrinkB": 1},
        )  # fmt: skip


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
    return f"{title}: {count:,} centroids" if count else f"{title}: no centroids"
