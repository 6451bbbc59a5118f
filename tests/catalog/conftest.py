"""An embedded catalog for this room's tests, an event file as the pipeline writes it, and the documents of a run."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import event_model
import h5py
import numpy as np
import pytest
import zarr

from ophyd_timepix.catalog import CatalogProfile, init_catalog, open_catalog
from tests.requests_in_process import dependencies_read_once

COLUMNS = {
    "shot": "<i8",
    "x": "<f4",
    "y": "<f4",
    "toa": "<f8",
    "tof": "<f8",
    "tot": "<u4",
    "tot_max": "<u2",
    "size": "<u4",
    "chip": "|u1",
    "flags": "|u1",
}
PROFILES_OF_THE_TESTS = "TIMEPIX_TEST_PROFILES"
ROWS_PER_SHOT = 10
IMAGE_SHAPE = (8, 8)


@pytest.fixture(scope="session")
def profiles(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A directory of Tiled profiles of our own."""
    # One directory a process, however often a worker makes this fixture: the catalog below goes by it.
    directory = Path(os.environ.get(PROFILES_OF_THE_TESTS) or tmp_path_factory.mktemp("profiles"))
    os.environ[PROFILES_OF_THE_TESTS] = str(directory)
    with profiles_in(directory), dependencies_read_once():
        yield directory


@contextmanager
def profiles_in(directory: Path) -> Iterator[None]:
    """Tiled reads TILED_PROFILES at its import, so its list is replaced."""
    import tiled.profiles

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TILED_PROFILES", str(directory))
        patch.setattr(tiled.profiles, "paths", [directory])
        tiled.profiles.load_profiles.cache_clear()
        yield
    tiled.profiles.load_profiles.cache_clear()


@pytest.fixture(scope="session")
def catalog(profiles: Path) -> CatalogProfile:
    home = profiles.with_name(f"{profiles.name}-catalog")
    return init_catalog("timepix-test", home / "catalog", readable=[home / "data"])


@pytest.fixture(scope="session")
def db(catalog: CatalogProfile) -> Any:
    zarr.zeros(1)  # it keeps a thread for as long as the interpreter lives: from before the first test on
    return open_catalog(catalog.name)


@pytest.fixture
def data_dir(catalog: CatalogProfile) -> Path:
    return catalog.readable[0]


def rows(first: int, stop: int) -> dict[str, Any]:
    """Centroids whose every number follows from its row, so that any slice can be checked."""
    row = np.arange(first, stop)
    values = {
        "shot": row // ROWS_PER_SHOT,
        "x": row % 256,
        "y": row // 256 % 256,
        "toa": row * 1000.0,
        "tof": np.where(row % ROWS_PER_SHOT == 0, np.nan, row % ROWS_PER_SHOT * 100.0),
        "tot": row % 1000,
        "tot_max": row % 500,
        "size": row % 7 + 1,
        "chip": np.zeros_like(row),
        "flags": np.zeros_like(row),
    }
    return {name: values[name].astype(dtype) for name, dtype in COLUMNS.items()}


class EventFile:
    """Laid out completely, then SWMR from the first row on, as the pipeline's writer does it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.n_rows = 0
        self._file = h5py.File(path, "w", libver="latest")
        group = self._file.create_group("/entry/centroids")
        for name, dtype in COLUMNS.items():
            group.create_dataset(name, shape=(0,), maxshape=(None,), chunks=(65_536,), dtype=dtype)
        self._file.swmr_mode = True

    def append(self, count: int) -> int:
        stop = self.n_rows + count
        for name, values in rows(self.n_rows, stop).items():
            dataset = self._file[f"/entry/centroids/{name}"]
            dataset.resize((stop,))
            dataset[self.n_rows :] = values
            dataset.flush()
        self.n_rows = stop
        return stop

    def close(self) -> None:
        self._file.close()


@pytest.fixture
def event_file(data_dir: Path, tmp_path: Path) -> Iterator[EventFile]:
    file = EventFile(data_dir / f"{tmp_path.name}-{os.getpid()}.h5")
    yield file
    file.close()


@dataclass
class RunDocuments:
    """Composes the documents of a run with one detector `tpx`, in the order in which a RunEngine emits them."""

    send: Any
    metadata: dict[str, Any] = field(default_factory=dict)
    registered: int = 0

    def start(self, threshold: int = 0) -> str:
        self.run = event_model.compose_run(metadata=self.metadata)
        self.send("start", self.run.start_doc)
        self.configure(threshold)
        columns = {
            f"tpx_centroids_{name}": {
                "source": "test",
                "dtype": "number",
                "dtype_numpy": dtype,
                "shape": [],
                "external": "STREAM:",
            }
            for name, dtype in COLUMNS.items()
        }
        self.centroids = self.run.compose_descriptor(name="tpx_centroids", data_keys=columns)
        self.send("descriptor", self.centroids.descriptor_doc)
        return str(self.run.start_doc["uid"])

    def configure(self, threshold: int) -> None:
        """The descriptor of the points from here on: bluesky gives a second one when a configuration changed."""
        scalars = {
            key: {"source": "test", "dtype": "integer", "dtype_numpy": "<i8", "shape": []}
            for key in ("tpx_row_start", "tpx_row_stop")
        }
        image = {"tpx_image": {"source": "test", "dtype": "array", "dtype_numpy": "<i8", "shape": IMAGE_SHAPE}}
        setting = {"tpx_threshold": {"source": "test", "dtype": "integer", "dtype_numpy": "<i8", "shape": []}}
        self.primary = self.run.compose_descriptor(
            name="primary",
            data_keys=scalars | image,
            object_keys={"tpx": [*scalars, *image]},
            configuration={
                "tpx": {
                    "data": {"tpx_threshold": threshold},
                    "timestamps": {"tpx_threshold": 1.0},
                    "data_keys": setting,
                }
            },
        )
        self.send("descriptor", self.primary.descriptor_doc)

    def point(self, row_start: int, row_stop: int) -> None:
        data = {"tpx_row_start": row_start, "tpx_row_stop": row_stop, "tpx_image": np.full(IMAGE_SHAPE, row_stop)}
        self.send("event", self.primary.compose_event(data=data, timestamps=dict.fromkeys(data, 1.0)))

    def register(self, path: Path, row_stop: int) -> None:
        """Documents for the rows up to `row_stop`; the resources come with the first rows."""
        if self.registered == 0:
            self.resources = [self._resource(path, name) for name in COLUMNS]
            for resource in self.resources:
                self.send("stream_resource", resource.stream_resource_doc)
        for resource in self.resources:
            datum = resource.compose_stream_datum(
                indices={"start": self.registered, "stop": row_stop},
                seq_nums={"start": self.registered + 1, "stop": row_stop + 1},
                descriptor=self.centroids.descriptor_doc,
            )
            self.send("stream_datum", datum)
        self.registered = row_stop

    def _resource(self, path: Path, column: str) -> Any:
        return self.run.compose_stream_resource(
            mimetype="application/x-hdf5",
            uri=f"file://localhost{path}",
            data_key=f"tpx_centroids_{column}",
            parameters={
                "dataset": f"/entry/centroids/{column}",
                "chunk_shape": (65_536,),
                "swmr": True,
                "event_list": True,
            },
        )

    def stop(self) -> None:
        self.send("stop", self.run.compose_stop())
