"""What a session wrote down of a run, completed from the event file."""

import json
from pathlib import Path
from typing import Any

import event_model
import numpy as np
import pytest

from ophyd_timepix.catalog import CatalogError
from ophyd_timepix.catalog.completing import complete, find_journal
from ophyd_timepix.catalog.journal import Journal
from ophyd_timepix.files import event_file as files
from tests.catalog.conftest import COLUMNS, EventFile, RunDocuments
from tests.catalog.conftest import rows as some_rows

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


LEDGER = {"unaccounted": 0, "written": 50, "unknown_headers": {"0x7": 2}, "sent_datagrams": None}


@pytest.fixture
def finished(tmp_path: Path) -> Path:
    """A finished event file: 50 centroids of two acquisitions, the second one cancelled, in 13 shots."""
    file = files.EventFile(tmp_path / "run.h5", image_shape=(8, 8), tof_edges_ns=np.linspace(0, 1, 3), attributes={})
    file.append("centroids", some_rows(0, 50))
    file.append("shots", {"time": np.arange(13.0), "valid": np.ones(13, np.uint8)})
    names = [column.name for column in files.ACQUISITIONS]
    for number, start, stop, cancelled in ((1, 0, 30, 0), (2, 30, 50, 1)):
        values = dict.fromkeys(names, 0) | {"acquisition": number, "row_start": start, "row_stop": stop}
        file.append("acquisitions", {name: np.array([v]) for name, v in (values | {"cancelled": cancelled}).items()})
    file.write_ledger(LEDGER)
    file.close()
    file.path.with_suffix(".nxs").touch()
    return file.path


def ledger_of(documents: Documents) -> dict[str, Any]:
    """The one ledger row."""
    (descriptor,) = (doc for name, doc in documents if name == "descriptor" and doc["name"] == "tpx_ledger")
    (event,) = (doc for name, doc in documents if name == "event" and doc["descriptor"] == descriptor["uid"])
    assert set(event["data"]) == set(descriptor["data_keys"])
    return {key.removeprefix("tpx_ledger_"): value for key, value in event["data"].items()}


def test_shots_and_the_ledger_row_are_those_of_the_event_file(finished):
    start = {"uid": "u", "time": 1.0}
    documents = complete([("start", start)], finished, "tpx")
    for name, doc in documents:
        event_model.schema_validators[event_model.DocumentNames[name]].validate(doc)
    assert rows_of(documents)["tpx_shots_valid"] == rows_of(documents)["tpx_shots_time"] == [(0, 13)]
    row = ledger_of(documents)
    assert json.loads(row.pop("json")) == LEDGER
    assert row == {
        "unaccounted": 0, "written": 50, "unknown_headers_0x7": 2, "acquisitions": 2, "cancelled_acquisitions": 1,
        "rows": 50, "cancelled_rows": 20, "file": str(finished), "recording": "",
        "master": str(finished.with_suffix(".nxs")), "error": "",
    }  # fmt: skip
    assert documents[-1][1]["num_events"] == {"tpx_shots": 13, "tpx_centroids": 50, "tpx_ledger": 1}


def test_a_ledger_row_that_was_written_down_stays_and_one_of_books_that_did_not_close_gives_way(finished):
    documents = complete([("start", {"uid": "u", "time": 1.0})], finished, "tpx")
    assert complete(documents, finished, "tpx") == documents
    failed = [
        (
            name,
            {**doc, "data": {"tpx_ledger_json": "{}", "tpx_ledger_error": "a stage died"}} if name == "event" else doc,
        )
        for name, doc in documents
    ]
    again = complete(failed, finished, "tpx")
    assert ledger_of(again)["error"] == "a stage died"
    assert ledger_of(again)["written"] == 50


def test_the_journal_of_a_living_session_is_left_alone(catalog):
    backup: Path = catalog.directory / "backup"
    journal = Journal(backup, "alive")
    with pytest.raises(CatalogError, match="still writing it to the catalog"):
        find_journal(catalog.name, "alive")
    kept = journal.keep()
    assert find_journal(catalog.name, "alive") == kept
    kept.unlink()
    assert find_journal(catalog.name, "alive") is None
