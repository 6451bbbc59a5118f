"""A finished scan whose gates vary from point to point, as the detector and its pipeline leave it.

Three points, a cancelled acquisition after the first, rows before the first trigger, shots that are not valid.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import event_model
import numpy as np
import pandas as pd

from ophyd_timepix.config import Geometry
from ophyd_timepix.events.columns import CENTROIDS, SHOTS
from ophyd_timepix.files.event_file import EventFile

SHOTS_PER_POINT = 40
CANCELLED_SHOTS = 7
EARLY_ROWS = 5
IODINE_TOF_NS, METHYL_TOF_NS = 13_900.0, 4_800.0
COUNTED = ("row_start", "row_stop", "shot_start", "shot_stop", "n_shots", "n_valid_shots")


@dataclass(frozen=True)
class GatedRun:
    """What was recorded."""

    uid: str
    path: Path
    rows: pd.DataFrame
    """Those of points."""
    valid: np.ndarray[Any, np.dtype[np.uint8]]
    """Of each shot, whether it is valid and belongs to a point."""
    points: pd.DataFrame
    all_rows: pd.DataFrame
    """Those of the cancelled acquisition, too."""
    all_valid: np.ndarray[Any, np.dtype[np.uint8]]

    @property
    def is_valid(self) -> "pd.Series[bool]":
        """Whether each row belongs to a valid shot."""
        shot = self.rows["shot"].to_numpy()
        marked = np.append(self.valid, 0)[np.clip(shot, 0, len(self.valid))]
        return pd.Series((shot >= 0) & (marked == 1), index=self.rows.index)


def make_rows(rng: np.random.Generator, first_shot: int, n_shots: int, iodine: float) -> pd.DataFrame:
    """Centroids of some shots: methyl ions once in two shots, and `iodine` iodine ions per shot."""
    numbers = [rng.poisson(rate, n_shots) for rate in (iodine, 0.5)]
    shot = np.concatenate([np.repeat(np.arange(n_shots), number) for number in numbers]) + first_shot
    centre = np.repeat([IODINE_TOF_NS, METHYL_TOF_NS], [number.sum() for number in numbers])
    n = len(shot)
    tof = rng.normal(centre, 20)
    table = pd.DataFrame(
        {
            "shot": shot, "x": rng.uniform(0, 255, n), "y": rng.uniform(0, 255, n), "toa": shot * 1e6 + tof, "tof": tof,
            "tot": rng.integers(1, 400, n), "tot_max": rng.integers(1, 200, n), "size": rng.integers(1, 9, n),
            "chip": 0, "flags": 0,
        }
    )  # fmt: skip
    return table.sort_values("toa", ignore_index=True).astype({column.name: column.dtype for column in CENTROIDS})


def record(
    send: Callable[..., None],
    path: Path,
    *,
    triggers: bool = True,
    geometry: bool = True,
    sample: str = "",
    shots: bool = False,
) -> GatedRun:
    """Write the event file and send the documents. shots: with a stream of the table of shots."""
    rng = np.random.default_rng(7)
    file = EventFile(path, image_shape=(256, 256), tof_edges_ns=np.linspace(0, 20_000, 101), attributes={})
    early = make_rows(rng, 0, EARLY_ROWS * 4, 1.0).head(EARLY_ROWS).assign(shot=-1, tof=np.nan)
    parts, marks, points = [early], [], []
    n_rows, n_shots = len(early), 0
    for iodine in (3.0, None, 1.0, 0.2):
        n_new = CANCELLED_SHOTS if iodine is None else SHOTS_PER_POINT
        part = make_rows(rng, n_shots, n_new, iodine or 3.0)
        valid = np.ones(n_new, np.uint8)
        valid[[3, -1]] = 0
        if iodine is not None:
            first = 0 if not points else n_rows
            spans = (first, n_rows + len(part), n_shots, n_shots + n_new, n_new, int(valid.sum()))
            points.append(dict(zip(COUNTED, spans, strict=True)))
        parts.append(part)
        marks.append(valid)
        n_rows, n_shots = n_rows + len(part), n_shots + n_new
    rows, valid = pd.concat(parts, ignore_index=True), np.concatenate(marks)
    if not triggers:
        rows["shot"], rows["tof"], valid = -1, np.nan, valid[:0]
        points = [point | dict.fromkeys(COUNTED[2:], 0) for point in points]
    file.append("centroids", {name: rows[name].to_numpy() for name in rows})
    file.append("shots", {"time": np.arange(len(valid)) * 1e6, "valid": valid})
    file.close()
    table = pd.DataFrame(points, index=pd.Index(range(1, len(points) + 1), name="seq_num"))
    n_shots = len(valid) if shots else None
    uid = send_documents(send, path, table, len(rows), geometry=geometry, sample=sample or path.stem, n_shots=n_shots)
    of_points = np.zeros(len(rows), np.bool_)
    shots_of_points = np.zeros(len(valid), np.uint8)
    for point in points:
        of_points[point["row_start"] : point["row_stop"]] = True
        shots_of_points[point["shot_start"] : point["shot_stop"]] = 1
    return GatedRun(uid, path, rows[of_points], valid * shots_of_points, table, rows, valid)


def send_documents(
    send: Callable[..., None],
    path: Path,
    points: pd.DataFrame,
    rows: int,
    *,
    geometry: bool,
    sample: str = "",
    n_shots: int | None = None,
) -> str:
    run = event_model.compose_run(
        metadata={"sample": sample, "scan_id": 11, "hints": {"dimensions": [(["delay"], "primary")]}}
    )
    send("start", run.start_doc)
    integer = {"source": "test", "dtype": "integer", "dtype_numpy": "<i8", "shape": []}
    number = {"source": "test", "dtype": "number", "dtype_numpy": "<f8", "shape": []}
    told = {"tpx_geometry": Geometry().model_dump_json(), "tpx_processing_tof_max_ns": 20_000.0}
    configuration = {
        "tpx": {
            "data": told,
            "data_keys": {key: {"source": "test", "dtype": "string", "shape": []} for key in told}
            | {"tpx_processing_tof_max_ns": number},
            "timestamps": dict.fromkeys(told, 1.0),
        }
    }
    keys = {f"tpx_{name}": integer for name in points} | {"delay": number}
    primary = run.compose_descriptor(
        name="primary",
        data_keys=keys,
        object_keys={"tpx": list(keys)},
        hints={"tpx": {"fields": ["tpx_n_valid_shots"]}},
        configuration=configuration if geometry else None,
    )
    send("descriptor", primary.descriptor_doc)
    for seq_num, point in points.iterrows():
        data = {f"tpx_{name}": int(value) for name, value in point.items()} | {"delay": 0.5 * int(seq_num)}
        send("event", primary.compose_event(data=data, timestamps=dict.fromkeys(data, 1.0)))
    _send_table(run, send, path, "centroids", CENTROIDS, rows)
    if n_shots is not None:
        _send_table(run, send, path, "shots", SHOTS, n_shots)
    send("stop", run.compose_stop())
    return str(run.start_doc["uid"])


def _send_table(run: Any, send: Callable[..., None], path: Path, name: str, table: Any, rows: int) -> None:
    keys = {
        f"tpx_{name}_{column.name}": {
            "source": "test", "dtype": "number", "dtype_numpy": column.dtype, "shape": [], "external": "STREAM:",
        }
        for column in table
    }  # fmt: skip
    stream = run.compose_descriptor(name=f"tpx_{name}", data_keys=keys)
    send("descriptor", stream.descriptor_doc)
    for column in table if rows else ():
        resource = run.compose_stream_resource(
            mimetype="application/x-hdf5",
            uri=f"file://localhost{quote(str(path))}",
            data_key=f"tpx_{name}_{column.name}",
            parameters={
                "dataset": f"/entry/{name}/{column.name}",
                "chunk_shape": (65_536,),
                "swmr": True,
                "event_list": True,
            },
        )
        send("stream_resource", resource.stream_resource_doc)
        send(
            "stream_datum",
            resource.compose_stream_datum(
                indices={"start": 0, "stop": rows},
                seq_nums={"start": 1, "stop": rows + 1},
                descriptor=stream.descriptor_doc,
            ),
        )
