"""What the catalog keeps per column of an event list: two integers, whatever the number of rows."""

import tracemalloc
from typing import Any

import pytest

pytest.importorskip("bluesky_tiled_plugins")

from bluesky_tiled_plugins.writing import consolidators

from ophyd_timepix.catalog.consolidator import CHUNK_ROWS, EventListConsolidator, register

DESCRIPTOR = {"data_keys": {"tof": {"dtype": "number", "dtype_numpy": "<f8", "shape": []}}}


def resource(**parameters: Any) -> dict[str, Any]:
    return {
        "mimetype": "application/x-hdf5",
        "data_key": "tof",
        "uri": "file://localhost/data/events.h5",
        "parameters": {"dataset": "/entry/centroids/tof", "chunk_shape": (65_536,), "swmr": True, **parameters},
    }


def datum(start: int, stop: int) -> dict[str, Any]:
    return {"indices": {"start": start, "stop": stop}, "seq_nums": {"start": start + 1, "stop": stop + 1}}


def test_only_resources_that_say_event_list_are_taken() -> None:
    register()
    register()  # twice is once
    factory = consolidators.consolidator_factory
    assert type(factory(resource(event_list=True), DESCRIPTOR)) is EventListConsolidator
    assert type(factory(resource(), DESCRIPTOR)) is consolidators.HDF5Consolidator


def test_memory_stays_flat_over_ten_million_rows() -> None:
    consolidator = EventListConsolidator(resource(), DESCRIPTOR)
    consolidator.consume_stream_datum(datum(0, 10_000))
    tracemalloc.start()
    for start in range(10_000, 10_000_000, 10_000):
        consolidator.consume_stream_datum(datum(start, start + 10_000))
    grown, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert grown < 10_000
    assert consolidator.shape == (10_000_000,)
    assert not consolidator.has_skips


def test_the_patch_names_the_new_rows_and_the_chunks_cover_them_all() -> None:
    consolidator = EventListConsolidator(resource(), DESCRIPTOR)
    consolidator.consume_stream_datum(datum(0, 5))
    patch = consolidator.consume_stream_datum(datum(5, 3_000_000))
    assert (patch.offset, patch.shape) == ((5,), (2_999_995,))
    assert consolidator.structure().chunks == ((CHUNK_ROWS, CHUNK_ROWS, 3_000_000 - 2 * CHUNK_ROWS),)


@pytest.mark.parametrize("start", [3, 7])
def test_rows_with_a_gap_or_twice_are_refused(start: int) -> None:
    consolidator = EventListConsolidator(resource(), DESCRIPTOR)
    consolidator.consume_stream_datum(datum(0, 5))
    with pytest.raises(ValueError, match=rf"5 rows are known, got \[{start}, 9\)"):
        consolidator.consume_stream_datum(datum(start, 9))


def test_a_column_of_arrays_is_no_event_list() -> None:
    images = {"data_keys": {"tof": {"dtype": "array", "dtype_numpy": "<f8", "shape": [2, 2]}}}
    with pytest.raises(ValueError, match="one number per row"):
        EventListConsolidator(resource(), images)
