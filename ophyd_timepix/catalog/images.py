"""Pictures and spectra of a run, counted from its centroids: whole, or point by point."""

import math
from typing import Any, Final, Unpack

import numpy as np
import numpy.typing as npt

from ..config import Gate
from ..events.histograms import add_histogram, add_image
from ..files.reader import open_event_file
from . import asked
from .errors import CatalogError, require
from .recorded import Recorded
from .selection import Question, Which, ask

Counts = npt.NDArray[np.uint64]
Floats = npt.NDArray[np.floating[Any]]

_BINS: Final = 1000
_MOST_BINS: Final = 10_000_000


def image(
    run: Any,
    *,
    bins_per_px: int = 1,
    size_px: tuple[int, int] | None = None,
    per_point: bool = False,
    gate: Gate | None = None,
    **which: Unpack[Which],
) -> Any:
    """Centroids per pixel, as an xarray DataArray (y, x), or (seq_num, y, x) with `per_point`.

    bins_per_px: more than 1 resolves what centroiding gains.  size_px: width and height; default: those of the run.
    What to keep is said as in `centroids`. The standard error of a count is its root.
    """
    if not asked.is_whole(bins_per_px) or bins_per_px < 1:
        raise ValueError(f"bins_per_px is {bins_per_px}; give a whole number of at least 1")
    question = _question(run, which, gate, per_point=per_point)
    width, height = size_px or _size_of(question.recorded)
    pictures = np.zeros((_n_results(question, per_point), height * bins_per_px, width * bins_per_px), np.uint64)
    shift = (bins_per_px - 1) / 2  # pixel 0 reaches from -0.5 to 0.5: the kernel takes the nearest whole number
    for piece in question.pieces():
        x, y = piece.column("x"), piece.column("y")
        for number, rows in piece.of_parts(piece.kept):
            add_image(
                pictures[number if per_point else 0],
                _scaled(x.take(rows), bins_per_px, shift),
                _scaled(y.take(rows), bins_per_px, shift),
            )
    axes = {"y": _centres(height, bins_per_px), "x": _centres(width, bins_per_px)}
    result = _labelled(pictures, axes, {"y": "px", "x": "px"}, question, per_point=per_point)
    result.attrs["bins_per_px"] = int(bins_per_px)
    return result


def tof_spectrum(
    run: Any,
    *,
    range_ns: tuple[float, float] | None = None,
    bin_ns: float | None = None,
    per_point: bool = False,
    gate: Gate | None = None,
    **which: Unpack[Which],
) -> Any:
    """Centroids per bin of time of flight, as an xarray DataArray over `tof` (ns), with `per_point` (seq_num, tof).

    range_ns: the first and last edge: nothing beyond is counted, also where the last bin reaches further; default: the
    window of `tof` or `mq`, else what there is, for which the column is read once more.  bin_ns: default: about a
    thousand bins.  The attribute `range_ns` says what was counted.  With a calibration (given, or of the run) the
    coordinate `mq` says the m/q of each bin (u/e). What to keep is said as in `centroids`. The standard error of a
    count is its root.
    """
    question = _question(run, which, gate, per_point=per_point)
    low, high = _range(question, range_ns, which, gate)
    width = bin_ns if bin_ns is not None else round_width((high - low) / _BINS)
    if not (math.isfinite(width) and width > 0):
        raise ValueError(f"bin_ns is {width:g} ns; give more than 0 ns")
    if (high - low) / width > _MOST_BINS:
        raise ValueError(
            f"bin_ns={width:g} ns makes {(high - low) / width:.3g} bins from {low:g} to {high:g} ns, at most "
            f"{_MOST_BINS:,} are made; give wider bins or a smaller range_ns"
        )
    n_bins = max(int(np.ceil((high - low) / width - 1e-9)), 1)
    reaches_further = low + n_bins * width > high
    spectra = np.zeros((_n_results(question, per_point), n_bins), np.uint64)
    for piece in question.pieces():
        tof = piece.column("tof")
        for number, rows in piece.of_parts(piece.kept):
            values = tof.take(rows)
            values = values[values < high] if reaches_further else values
            add_histogram(spectra[number if per_point else 0], values, low, width)
    centres = low + width * (np.arange(n_bins) + 0.5)
    result = _labelled(spectra, {"tof": centres}, {"tof": "ns"}, question, per_point=per_point)
    result.attrs["bin_ns"] = width
    result.attrs["range_ns"] = (low, high)
    if question.calibration is not None:
        result = result.assign_coords(mq=("tof", question.calibration.mq(centres), {"units": "u/e"}))
    return result


def round_width(width: float) -> float:
    """The next of 1, 2, 5, 10 ... (and their tenths)."""
    decade = 10.0 ** np.floor(np.log10(width)) if width > 0 else 1.0
    return float(next(step * decade for step in (1, 2, 5, 10) if step * decade >= width * 0.999))


def _question(run: Any, which: Which, gate: Gate | None, *, per_point: bool) -> Question:
    question = ask(run, which, gate)
    return question.per_point() if per_point else question


def _n_results(question: Question, per_point: bool) -> int:
    return len(question.ranges) if per_point else 1


def _size_of(recorded: Recorded) -> tuple[int, int]:
    """Width and height of the picture: of the geometry that the documents tell, else of the event file's preview."""
    if recorded.geometry is not None:
        return recorded.geometry.width_px, recorded.geometry.height_px
    if recorded.direct and recorded.event_file is not None and recorded.event_file.exists():
        with open_event_file(recorded.event_file) as file:
            preview = file.get("entry/preview/image")
            if preview is not None:
                return int(preview.shape[1]), int(preview.shape[0])
    raise CatalogError(
        f"The run {recorded.start['uid']} does not say how large its picture is; give size_px=(width, height) in px"
    )


def _scaled(values: npt.NDArray[Any], bins_per_px: int, shift: float) -> npt.NDArray[Any]:
    return values if bins_per_px == 1 else values.astype(np.float64) * bins_per_px + shift


def _centres(size_px: int, bins_per_px: int) -> Floats:
    return (np.arange(size_px * bins_per_px) + 0.5) / bins_per_px - 0.5


def _range(
    question: Question, range_ns: tuple[float, float] | None, which: Which, gate: Gate | None
) -> tuple[float, float]:
    if range_ns is not None:
        return asked.edges("range_ns", range_ns)
    return _window(question, which, gate) or _span(question)


def _window(question: Question, which: Which, gate: Gate | None) -> tuple[float, float] | None:
    """The tightest closed window of time of flight that was asked for; of windows without a common part the first."""
    mq = which.get("mq")
    windows = [which.get("tof"), gate.tof_window(question.calibration) if gate is not None else None]
    if mq is not None and question.calibration is not None:
        windows.append(question.calibration.tof_window(mq))
    closed = [(w[0], w[1]) for w in windows if w is not None and w[0] is not None and w[1] is not None]
    lows = [w[0] for w in windows if w is not None and w[0] is not None]
    highs = [w[1] for w in windows if w is not None and w[1] is not None]
    if not lows or not highs:
        return None
    low, high = max(lows), min(highs)
    if low < high:
        return low, high
    return closed[0] if closed else None


def _span(question: Question) -> tuple[float, float]:
    """From the first to just beyond the last time of flight that there is."""
    low, high = np.inf, -np.inf
    for piece in question.pieces():
        tof = piece.values("tof")
        tof = tof[np.isfinite(tof)]
        if len(tof):
            low, high = min(low, float(tof.min())), max(high, float(tof.max()))
    if low > high:
        return 0.0, 1000.0
    margin = max((high - low) * 1e-3, 1e-3)
    return low, high + margin


def _labelled(
    values: Counts, axes: dict[str, Floats], units: dict[str, str], question: Question, *, per_point: bool
) -> Any:
    xarray = require("xarray")
    start = question.recorded.start
    coords: dict[str, Any] = {name: (name, axis, {"units": units[name]}) for name, axis in axes.items()}
    if per_point:
        coords = {"seq_num": list(question.points or ())} | coords
    return xarray.DataArray(
        values if per_point else values[0],
        dims=[*(["seq_num"] if per_point else []), *axes],
        coords=coords,
        name="centroids",
        attrs={"uid": start["uid"], "scan_id": start.get("scan_id", 0), "detector": question.recorded.detector},
    )
