"""What a session wrote down of a run, completed from the event file."""

from pathlib import Path
from typing import Any

import event_model
import pytest

from ophyd_timepix.catalog import CatalogError
from ophyd_timepix.catalog.completing import complete, find_journal
from ophyd_timepix.catalog.journal import Journal
from tests.catalog.conftest import COLUMNS, EventFile, RunDocuments

Documents = list[tuple[str, dict[str, Any]]]


def written_down(event_file: EventFile, *, registered: int, rows: int) -> Documents:
    """A run whose session was killed."""
    documents: Documents = []
    run = RunDocuments(lambda name, doc: documents.append((name, doc)))
    run.start()
    event_file.append(rows)
    run.point(0, rows)
    if registered:
        run.register(event_file.path, registered)
    return documents


def rows_of(documents: Documents) -> dict[str, list[tuple[int, int]]]:
    """Ranges of rows that are registered, by column."""
    columns = {doc["uid"]: doc["data_key"] for name, doc in documents if name == "stream_resource"}
    found: dict[str, list[tuple[int, int]]] = {}
    for name, doc in documents:
        if name == "stream_datum":
            found.setdefault(columns[doc["stream_resource"]], []).append(tuple(doc["indices"].values()))
    return found


@pytest.mark.parametrize(("registered", "ranges"), [(0, [(0, 50)]), (30, [(0, 30), (30, 50)]), (50, [(0, 50)])])
def test_every_row_is_registered_once_and_the_run_ends(event_file, registered, ranges):
    documents = complete(written_down(event_file, registered=registered, rows=50), event_file.path, "tpx")
    assert rows_of(documents) == {f"tpx_centroids_{column}": ranges for column in COLUMNS}
    for name, doc in documents:
        event_model.schema_validators[event_model.DocumentNames[name]].validate(doc)
    name, stop = documents[-1]
    assert (name, stop["exit_status"]) == ("stop", "abort")
    assert stop["num_events"] == {"primary": 1, "tpx_centroids": 50}
    assert sum(name == "descriptor" and doc["name"] == "tpx_centroids" for name, doc in documents) == 1


def test_an_end_that_was_written_down_is_kept(event_file):
    documents = written_down(event_file, registered=50, rows=50)
    documents.append(("stop", {"uid": "s", "time": 1.0, "run_start": documents[0][1]["uid"], "exit_status": "fail"}))
    assert complete(documents, event_file.path, "tpx") == documents


def test_a_start_document_alone_makes_a_run(event_file):
    documents = complete(written_down(event_file, registered=0, rows=20)[:1], event_file.path, "tpx")
    assert {tuple(ranges) for ranges in rows_of(documents).values()} == {((0, 20),)}
    assert documents[-1][1]["num_events"] == {"tpx_centroids": 20}


def test_the_journal_of_a_living_session_is_left_alone(catalog):
    backup: Path = catalog.directory / "backup"
    journal = Journal(backup, "alive")
    with pytest.raises(CatalogError, match="still writing it to the catalog"):
        find_journal(catalog.name, "alive")
    kept = journal.keep()
    assert find_journal(catalog.name, "alive") == kept
    kept.unlink()
    assert find_journal(catalog.name, "alive") is None
