"""A run on one page: its picture, its spectrum with the gates, what is in each gate, its clusters, its ledger."""

import json
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from ..catalog import centroids, image, tof_spectrum
from ..catalog.profile import DEFAULT_NAME
from ..catalog.selection import Which, ask
from ..config.gates import Gate, MassCalibration
from .ledger import ledger_picture
from .pictures import Scale, check_scale, distribution_picture, image_picture, new_sheet, spectrum_picture

MAX_GATES: Final = 3
TOT_BIN: Final = 10
_SIZES, _TOTS = 128, 1000


def run_picture(
    run: Any,
    gates: Sequence[Gate] = (),
    *,
    calibration: MassCalibration | None = None,
    scale: Scale = "log",
    mass_axis: bool = False,
    range_ns: tuple[float, float] | None = None,
    detector: str | None = None,
    catalog: str = DEFAULT_NAME,
) -> Any:
    """A figure of a run, finished or not. `run_picture(db[-1], [iodine]).savefig("run.png")`.

    gates: all are marked in the spectrum, the first three get a picture of their own.  calibration: of m/q; default:
    that of the run.  mass_axis: the spectrum over m/q.  range_ns: of the spectrum; default: up to the last peak.
    scale: of the picture of all ions and of the spectrum.  catalog: where a uid or a scan id is looked up.  The memory
    is that of one block of centroids.
    """
    check_scale(scale)
    which: Which = {"detector": detector, "calibration": calibration, "catalog": catalog}
    question = ask(run, which)
    shown = tuple(gates)[:MAX_GATES]
    figure, axes = new_sheet((15.0, 13.0 if shown else 8.4), _rows(len(shown)))
    image_picture(image(run, **which), scale=scale, title=_name(question.recorded), axes=axes["image"])
    spectrum = tof_spectrum(run, range_ns=range_ns or _peaks_ns(tof_spectrum(run, **which)), **which)
    spectrum_picture(
        spectrum.values, _edges(spectrum), gates=gates, calibration=question.calibration, mass_axis=mass_axis,
        scale=scale, title="Mass spectrum" if mass_axis else "Time of flight", axes=axes["spectrum"],
    )  # fmt: skip
    for number, gate in enumerate(shown):
        image_picture(image(run, gate=gate, **which), title=gate.name, pitch_um=None, axes=axes[f"gate{number}"])
    sizes, tots = _clusters(run, which)
    distribution_picture(sizes, quantity="cluster size (hits)", first=-0.5, title="Cluster size", axes=axes["size"])
    distribution_picture(tots, quantity="sum of ToT (25 ns)", bin_width=TOT_BIN, title="ToT", axes=axes["tot"])
    _draw_ledger(question.recorded, axes["ledger"])
    return figure


def _rows(n_gates: int) -> list[dict[str, float]]:
    """All ions and those in the gates side by side."""
    pictures = {"image": 1.0} | {f"gate{number}": 1.0 for number in range(n_gates)}
    low = {"size": 3.0, "tot": 4.0, "ledger": 5.0}
    if not n_gates:
        return [{"image": 5.0, "spectrum": 7.0}, low]
    return [pictures, {"spectrum": 1.0}, low]


def _name(recorded: Any) -> str:
    start = recorded.start
    return f"Scan {start.get('scan_id', '?')}, {start['uid'][:8]}"


def _edges(spectrum: Any) -> npt.NDArray[np.float64]:
    width = float(spectrum.attrs["bin_ns"])
    first = float(spectrum.tof[0]) - width / 2
    return first + width * np.arange(spectrum.size + 1)


def _peaks_ns(spectrum: Any) -> tuple[float, float]:
    """From the trigger to just behind the last bin that stands out: between two shots there is mostly darkness."""
    counts, edges = spectrum.values.astype(np.float64), _edges(spectrum)
    dark = float(np.median(counts))
    high = np.flatnonzero(counts > dark + 8 * np.sqrt(dark + 1))
    if not high.size:
        return float(edges[0]), float(edges[-1])
    return min(float(edges[0]), 0.0), min(float(edges[high[-1] + 1]) * 1.1, float(edges[-1]))


def _clusters(run: Any, which: Which) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """How often each size came, and each bin of the sum of ToT; the last bins hold all above. A block at a time."""
    sizes, tots = np.zeros(_SIZES, np.int64), np.zeros(_TOTS, np.int64)
    for part in centroids(run, ["size", "tot"], form="dask", **which).to_delayed():
        block = part.compute()
        sizes += np.bincount(np.minimum(block["size"].to_numpy(np.int64), _SIZES - 1), minlength=_SIZES)
        tots += np.bincount(np.minimum(block["tot"].to_numpy(np.int64) // TOT_BIN, _TOTS - 1), minlength=_TOTS)
    return sizes, tots


def _draw_ledger(recorded: Any, axes: Any) -> None:
    """The ledger comes with the end of a run."""
    stream, column = f"{recorded.detector}_ledger", f"{recorded.detector}_ledger_json"
    if stream in recorded.streams:
        ledger_picture(json.loads(str(np.atleast_1d(recorded.streams[stream][column][:])[0])), axes=axes)
        return
    axes.set_axis_off()
    why = "the run ended without one" if recorded.is_finished else "the run goes on"
    axes.text(0.5, 0.5, f"no ledger: {why}", ha="center", va="center")
