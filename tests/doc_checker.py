"""Checks every document of a RunEngine: event-model's schemas, the references between documents, and the files.

Subscribe one per test: `RE.subscribe(checker)`. A failed check raises in the plan; `check` looks at what only the end
of a run can tell. A replay after a pause repeats sequence numbers: the later event counts, as in every catalog.
"""

from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote, urlparse

import event_model
import h5py


@dataclass
class CheckedRun:
    """The documents of one run, as a reader would see them."""

    start: dict[str, Any]
    descriptors: dict[str, dict[str, Any]] = field(default_factory=dict)
    events: dict[str, dict[int, dict[str, Any]]] = field(default_factory=dict)
    descriptor_of: dict[str, dict[int, str]] = field(default_factory=dict)
    resources: dict[str, dict[str, Any]] = field(default_factory=dict)
    registered: dict[str, int] = field(default_factory=dict)
    next_seq_num: dict[str, int] = field(default_factory=dict)
    stop: dict[str, Any] | None = None

    def stream(self, name: str) -> list[dict[str, Any]]:
        """The data of a stream's events, in order."""
        return [data for _, data in sorted(self.events.get(name, {}).items())]

    def described(self, name: str) -> list[dict[str, Any]]:
        """The descriptors of a stream, in order: one more for each change of the configuration."""
        return [doc for doc in self.descriptors.values() if doc["name"] == name]

    def described_by(self, name: str) -> list[dict[str, Any]]:
        """The descriptor of each event of a stream."""
        return [self.descriptors[uid] for _, uid in sorted(self.descriptor_of.get(name, {}).items())]

    @property
    def stream_names(self) -> set[str]:
        return {doc["name"] for doc in self.descriptors.values()}

    @property
    def rows(self) -> int:
        """Registered centroids."""
        return self.rows_of("centroids")

    def rows_of(self, table: str) -> int:
        """Registered rows of a table of the event file: the same number in every column."""
        counts = {uid: n for uid, n in self.registered.items() if f"/{table}/" in self._dataset(uid)}
        assert len(set(counts.values())) <= 1, f"columns of different length: {counts}"
        return max(counts.values(), default=0)

    def _dataset(self, resource: str) -> str:
        return str(self.resources[resource]["parameters"]["dataset"])

    def path(self, column: str) -> str:
        (resource,) = (r for r in self.resources.values() if r["parameters"]["dataset"].endswith(f"/{column}"))
        return unquote(urlparse(resource["uri"]).path)

    def column(self, name: str) -> Any:
        """A column of the event list as it is on disk."""
        (resource,) = (r for r in self.resources.values() if r["parameters"]["dataset"].endswith(f"/{name}"))
        with h5py.File(self.path(name), "r", swmr=True) as file:
            return file[resource["parameters"]["dataset"]][:]


class DocChecker:
    """A document callback that raises AssertionError or a schema's error."""

    def __init__(self) -> None:
        self.runs: list[CheckedRun] = []
        self.seen: list[tuple[str, dict[str, Any]]] = []
        self._run_of: dict[str, CheckedRun] = {}

    def __call__(self, name: str, doc: dict[str, Any]) -> None:
        event_model.schema_validators[event_model.DocumentNames[name]].validate(doc)
        self.seen.append((name, doc))
        getattr(self, f"_{name}")(doc)

    @property
    def run(self) -> CheckedRun:
        """The only run."""
        (run,) = self.runs
        return run

    def names(self) -> list[str]:
        return [name for name, _ in self.seen]

    def _start(self, doc: dict[str, Any]) -> None:
        self.runs.append(CheckedRun(doc))
        self._run_of[doc["uid"]] = self.runs[-1]

    def _descriptor(self, doc: dict[str, Any]) -> None:
        run = self._run_of[doc["run_start"]]
        for before in run.described(doc["name"])[-1:]:
            assert set(before["data_keys"]) == set(doc["data_keys"]), f"the stream {doc['name']} has other keys now"
            assert before["configuration"] != doc["configuration"], f"the stream {doc['name']} was described twice"
        run.descriptors[doc["uid"]] = doc
        run.next_seq_num.setdefault(doc["name"], 1)
        self._run_of[doc["uid"]] = run
        for device, keys in doc["object_keys"].items():
            assert set(keys) <= set(doc["data_keys"]), f"{device} names keys that are not described"
        for device, hint in doc.get("hints", {}).items():
            assert set(hint.get("fields", ())) <= set(doc["data_keys"]), f"hints of {device} name missing keys"
        for device, configuration in doc["configuration"].items():
            assert set(configuration["data"]) == set(configuration["data_keys"]), f"configuration of {device}"

    def _event(self, doc: dict[str, Any]) -> None:
        run = self._run_of[doc["descriptor"]]
        descriptor = run.descriptors[doc["descriptor"]]
        expected = {k for k, key in descriptor["data_keys"].items() if key.get("external") != "STREAM:"}
        assert set(doc["data"]) == set(doc["timestamps"]) == expected
        events = run.events.setdefault(descriptor["name"], {})
        assert doc["seq_num"] <= len(events) + 1, "a sequence number was left out"
        events[doc["seq_num"]] = doc["data"]
        run.descriptor_of.setdefault(descriptor["name"], {})[doc["seq_num"]] = doc["descriptor"]

    def _event_page(self, doc: dict[str, Any]) -> None:
        for event in event_model.unpack_event_page(doc):
            self._event(event)

    def _stream_resource(self, doc: dict[str, Any]) -> None:
        run = self._run_of[doc["run_start"]]
        assert any(doc["data_key"] in d["data_keys"] for d in run.descriptors.values())
        run.resources[doc["uid"]] = doc
        run.registered[doc["uid"]] = 0
        self._run_of[doc["uid"]] = run

    def _stream_datum(self, doc: dict[str, Any]) -> None:
        run = self._run_of[doc["stream_resource"]]
        assert doc["descriptor"] in run.descriptors
        uid, indices, numbers = doc["stream_resource"], doc["indices"], doc["seq_nums"]
        assert indices["start"] == run.registered[uid], "rows were left out or registered twice"
        assert indices["stop"] > indices["start"]
        assert numbers["start"] == indices["start"] + 1, "sequence numbers and rows went apart"
        assert numbers["stop"] - numbers["start"] == indices["stop"] - indices["start"]
        run.registered[uid] = indices["stop"]
        key = run.resources[uid]["data_key"]
        assert run.descriptors[doc["descriptor"]]["data_keys"][key]["external"] == "STREAM:"

    def _stop(self, doc: dict[str, Any]) -> None:
        run = self._run_of[doc["run_start"]]
        run.stop = doc
        check_rows_on_disk(run)


def check_rows_on_disk(run: CheckedRun) -> None:
    """A reader finds every registered row, in the type that the descriptor promises."""
    keys = {key: value for d in run.descriptors.values() for key, value in d["data_keys"].items()}
    for uid, resource in run.resources.items():
        with h5py.File(unquote(urlparse(resource["uri"]).path), "r", swmr=True) as file:
            dataset = file[resource["parameters"]["dataset"]]
            assert dataset.shape[0] >= run.registered[uid]
            assert dataset.dtype.str.lstrip("|<") == keys[resource["data_key"]]["dtype_numpy"].lstrip("|<")
            assert dataset.chunks == tuple(resource["parameters"]["chunk_shape"])


def check_points(points: list[dict[str, Any]], name: str, rows: int) -> None:
    """Rows of points are disjoint, in order, and inside of what is registered."""
    stop = 0
    for point in points:
        assert stop <= point[f"{name}_row_start"] <= point[f"{name}_row_stop"] <= rows
        assert point[f"{name}_row_stop"] - point[f"{name}_row_start"] == point[f"{name}_n_centroids"]
        stop = point[f"{name}_row_stop"]
