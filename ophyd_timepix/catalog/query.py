"""Questions about single centroids: rows and columns of a run's centroid stream, as a table.

Answers for finished runs and for running ones, from the event file where this machine has it and from the catalog,
also a remote one, where not. Works through long runs in blocks: memory is that of the answer, and with the lazy forms
not even that.
"""

from collections.abc import Sequence
from typing import Any, Literal

from ..config import Gate, MassCalibration
from ..config.gates import Roi, Window
from .lazy import dask_table, dataset
from .profile import DEFAULT_NAME
from .selection import Rows, ask
from .tables import read_table

Form = Literal["pandas", "dask", "xarray"]


def centroids(
    run: Any,
    columns: Sequence[str] | str | None = None,
    *,
    point: int | Sequence[int] | str | None = None,
    rows: Rows | None = None,
    shots: tuple[int | None, int | None] | None = None,
    tof: Window | None = None,
    mq: Window | None = None,
    x: Window | None = None,
    y: Window | None = None,
    roi: Roi | None = None,
    tot: Window | None = None,
    size: Window | None = None,
    energy: Window | None = None,
    gate: Gate | None = None,
    calibration: MassCalibration | None = None,
    valid_only: bool = True,
    cancelled: bool = False,
    form: Form = "pandas",
    detector: str | None = None,
    catalog: str = DEFAULT_NAME,
    direct: bool = True,
) -> Any:
    """Centroids of a run, one per line; the index is the row in `/entry/centroids` of the event file.

    `run` is a run of a catalog, its uid (or the first letters), its scan id or -1 for the last one; the latter are
    looked up in `catalog`. `columns`: shot, x, y, toa, tof, tot, tot_max, size, chip, flags (default: all),
    and energy if the calibration of the run has it.

    What to keep: `point` (seq_num of one or several points; "all": of any), `rows` (first, end), and
    windows (low, high), low <= value < high, None for an open side: `shots` in shot numbers, `tof` in ns, `mq` in u/e
    (with `calibration`, or that of the run), `x` and `y` in pixels, `tot` in 25 ns counts, `size` in hits, `energy` in
    keV; `roi` (x0, x1, y0, y1) in pixels; `gate`: a `Gate`. Centroids outside any shot have no ToF: any window of it
    leaves them out, as one of energy does with those of pixels that are not calibrated.
    `valid_only` keeps what belongs to valid shots, or in a run without triggers everything; False keeps all shots.
    Acquisitions that were cancelled (a pause, a stop) belong to no point and are left out, as in the run's own table,
    unless `cancelled` is True; of a run without any point, as a flight that was stopped, everything is kept.

    `form`: "pandas" reads a DataFrame. "dask" gives a dask DataFrame with a partition for each 2**20 rows, "xarray" a
    Dataset of dask arrays: nothing is read before it is computed, but for "xarray" with windows, which has to count
    the rows first. `direct=False` asks the catalog even where the event file is on this machine.
    """
    question = ask(
        run,
        {
            "point": point, "rows": rows, "shots": shots, "tof": tof, "mq": mq, "x": x, "y": y, "roi": roi, "tot": tot,
            "size": size, "energy": energy, "calibration": calibration, "valid_only": valid_only,
            "cancelled": cancelled, "detector": detector, "catalog": catalog, "direct": direct,
        },
        gate,
    )  # fmt: skip
    wanted = question.recorded.check_columns([columns] if isinstance(columns, str) else columns)
    if form == "pandas":
        return read_table(question, wanted)
    if form == "dask":
        return dask_table(question, wanted)
    if form == "xarray":
        return dataset(question, wanted)
    raise ValueError(f"no form {form!r}; there are: pandas, dask, xarray")
