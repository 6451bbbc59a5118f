"""Event lists in the form of Resource and Datum: `event_model.Filler` gives the rows of the file, column by column."""

import copy
import importlib.metadata
from pathlib import Path
from typing import Any

import event_model
import numpy as np
import pytest
from event_model import Filler

from ophyd_timepix.catalog import DatumForm
from ophyd_timepix.catalog.handler import SPEC, EventListHandler
from tests.catalog.conftest import COLUMNS, EventFile, RunDocuments, rows

HANDLERS = {SPEC: EventListHandler}


@pytest.fixture
def event_file(tmp_path: Path) -> Any:
    file = EventFile(tmp_path / "a run with spaces.h5")
    yield file
    file.close()


class Documents:
    """Keeps them, each checked against its schema."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, dict[str, Any]]] = []

    def __call__(self, name: str, doc: dict[str, Any]) -> None:
        event_model.schema_validators[event_model.DocumentNames[name]].validate(doc)
        self.seen.append((name, copy.deepcopy(doc)))

    def named(self, *names: str) -> list[dict[str, Any]]:
        return [doc for name, doc in self.seen if name in names]


def take(event_file: EventFile) -> tuple[Documents, Documents]:
    """A run of 60 rows, registered as 25 and 35: as it was, and in Resource and Datum form."""
    before, after = Documents(), Documents()
    form = DatumForm(after)

    def send(name: str, doc: dict[str, Any]) -> None:
        before(name, doc)
        form(name, doc)

    run = RunDocuments(send)
    run.start()
    for count in (25, 35):
        event_file.append(count)
        run.point(event_file.n_rows - count, event_file.n_rows)
        run.register(event_file.path, event_file.n_rows)
    run.stop()
    return before, after


def fill(documents: Documents, **options: Any) -> list[dict[str, Any]]:
    """The events of the event list, filled."""
    with Filler(HANDLERS, inplace=False, retry_intervals=[], **options) as filler:
        filled = [filler(name, doc) for name, doc in documents.seen]
    lists = [doc["uid"] for doc in documents.named("descriptor") if doc["name"] == "tpx_centroids"]
    return [doc for name, doc in filled if name == "event" and doc["descriptor"] in lists]


def test_the_filler_gives_all_rows_of_all_columns(event_file: EventFile) -> None:
    _, documents = take(event_file)
    events = fill(documents)
    assert [event["seq_num"] for event in events] == [1, 2]
    for name, expected in rows(0, 60).items():
        parts = [event["data"][f"tpx_centroids_{name}"] for event in events]
        assert [len(part) for part in parts] == [25, 35]
        np.testing.assert_array_equal(np.concatenate(parts), expected)
        assert parts[0].dtype == np.dtype(COLUMNS[name])


def test_no_document_of_the_newer_form_is_left_and_all_others_are_as_they_were(event_file: EventFile) -> None:
    before, documents = take(event_file)
    names = {name for name, _ in documents.seen}
    assert names == {"start", "descriptor", "event", "resource", "datum", "stop"}
    assert documents.named("start") == before.named("start")
    assert documents.named("descriptor")[0] == before.named("descriptor")[0]
    primary = before.named("descriptor")[0]["uid"]
    points = [doc["uid"] for doc in documents.named("event") if doc["descriptor"] == primary]
    assert points == [doc["uid"] for doc in before.named("event")]
    (stop,) = documents.named("stop")
    assert stop["num_events"]["tpx_centroids"] == 2


def test_a_moved_directory_is_found_by_root_map(event_file: EventFile, tmp_path: Path) -> None:
    _, documents = take(event_file)
    moved = tmp_path / "archive"
    moved.mkdir()
    event_file.path.rename(moved / event_file.path.name)
    events = fill(documents, root_map={str(tmp_path): str(moved)})
    assert len(events[1]["data"]["tpx_centroids_x"]) == 35


def test_rows_that_are_not_on_disk_are_an_error_not_a_short_array(event_file: EventFile) -> None:
    event_file.append(10)
    handler = EventListHandler(event_file.path, dataset="/entry/centroids/x")
    with pytest.raises(OSError, match=r"has 10 rows of /entry/centroids/x, the documents speak of 12"):
        handler(start=5, stop=12)
    assert handler.get_file_list([]) == [str(event_file.path)]


def test_columns_that_never_came_together_give_no_event_and_a_warning(
    event_file: EventFile, caplog: pytest.LogCaptureFixture
) -> None:
    documents = Documents()
    dropped = f"tpx_centroids_{list(COLUMNS)[-1]}"
    lost: set[str] = set()
    form = DatumForm(documents)

    def send(name: str, doc: dict[str, Any]) -> None:
        if name == "stream_resource" and doc["data_key"] == dropped:
            lost.add(doc["uid"])
        if name != "stream_datum" or doc["stream_resource"] not in lost:
            form(name, doc)

    run = RunDocuments(send)
    run.start()
    event_file.append(5)
    run.register(event_file.path, 5)
    run.stop()
    assert documents.named("event") == []
    assert "for some columns only" in caplog.text


def test_the_handler_is_registered_for_databroker() -> None:
    (entry,) = importlib.metadata.entry_points(group="databroker.handlers", name=SPEC)
    assert entry.load() is EventListHandler
