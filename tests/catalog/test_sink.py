"""Fewer requests than Tiled's own writer needs, for the same catalog; and its own way where a version is not known."""

from typing import Any

import numpy as np
import pytest

from ophyd_timepix.catalog import centroids, sink
from ophyd_timepix.catalog.sink import PagingSink, sink_factory
from tests.catalog.conftest import COLUMNS, EventFile, RunDocuments, rows


@pytest.fixture
def requests(db: Any, monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """What Tiled is asked from here on, by method."""
    counts: dict[str, int] = {}
    client = db.v2.context.http_client
    send = client.send

    def counted(request: Any, **options: Any) -> Any:
        counts[request.method] = counts.get(request.method, 0) + 1
        return send(request, **options)

    monkeypatch.setattr(client, "send", counted)
    return counts


def take(db: Any, event_file: EventFile) -> str:
    """A run whose rows come twice."""
    run = RunDocuments(sink_factory(db.v2)())
    uid = run.start()
    for count in (30, 40):
        event_file.append(count)
        run.register(event_file.path, event_file.n_rows)
    run.stop()
    return uid


def test_a_column_is_one_request_for_its_first_rows_and_one_for_each_time_more_come(
    db: Any, event_file: EventFile, requests: dict[str, int]
) -> None:
    uid = take(db, event_file)
    assert requests.pop("POST") == 1 + 2 + len(COLUMNS)  # run, streams, columns
    assert requests.pop("PUT") == len(COLUMNS)  # more rows
    assert requests.pop("PATCH") == 1  # the stop document
    assert "DELETE" not in requests  # nobody listens
    np.testing.assert_array_equal(centroids(db[uid], "toa")["toa"], rows(0, 70)["toa"])


@pytest.mark.parametrize("unknown", ["FOR_PAGES", "FOR_COLUMNS"])
def test_a_version_that_keeps_things_elsewhere_writes_in_its_own_way(
    db: Any, event_file: EventFile, monkeypatch: pytest.MonkeyPatch, unknown: str
) -> None:
    monkeypatch.setattr(sink, unknown, ("_not_there",))
    uid = take(db, event_file)
    np.testing.assert_array_equal(centroids(db[uid], "toa")["toa"], rows(0, 70)["toa"])


def test_without_tileds_inner_writer_its_outer_one_is_used(
    db: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from bluesky_tiled_plugins.writing import tiled_writer

    monkeypatch.delattr(tiled_writer, "consolidator_factory")
    assert not isinstance(sink_factory(db.v2)(), PagingSink)
    assert "writes events one by one" in caplog.text
