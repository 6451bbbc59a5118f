"""Which slow twin in `tests/naive.py` shows each kernel right, and in which tests. A kernel without one fails.

`tests/test_twins.py` holds it: the table has every kernel of the package, and without compilation, where calls can be
seen, the tests named here do call the kernels that stand beside them.
"""

import ast
from pathlib import Path
from typing import Final, NamedTuple

PACKAGE: Final = Path(__file__).parents[1] / "ophyd_timepix"
COMPILED: Final = frozenset({"kernel", "inlined", "internal"})
"""Decorators of `ophyd_timepix/jit.py`."""


class Shown(NamedTuple):
    """Kernels of a module, each of which one of the tests compares with one of the twins."""

    module: str
    kernels: str
    twins: str
    """Names in `tests/naive.py`."""
    tests: tuple[str, ...]


_DECODER = (
    "tests/decode/test_kernels.py::test_decoder_equals_its_slow_twin_however_the_words_are_cut",
    "tests/decode/test_kernels.py::test_words_of_before_the_acquisition_are_left_out_as_by_the_slow_twin",
    "tests/decode/test_kernels.py::test_words_later_than_they_can_be_are_refused_as_the_slow_twin_refuses_them",
    "tests/events/test_rows.py::test_rows_equal_the_slow_twin",
)
_CHUNKS = ("tests/decode/test_chunks.py::test_chunks_are_counted_as_by_the_slow_twin_wherever_the_words_are_cut",)
_HOPS = ("tests/decode/test_chunks.py::test_hopping_from_header_to_header_ends_where_none_is",)
_REPEATS = ("tests/decode/test_repeats.py::test_what_is_left_is_what_the_slow_twin_leaves",)
_ROWS = (
    "tests/events/test_rows.py::test_rows_equal_the_slow_twin",
    "tests/events/test_rows.py::test_rows_of_a_busy_camera_equal_the_slow_twin",
)
_SPLIT = ("tests/events/test_split.py::test_parts_equal_those_of_the_slow_twin",)
_DENSE = (
    "tests/events/test_cluster.py::test_dense_clusters_are_those_of_the_slow_twin_in_one_pass_and_in_two",
    *_ROWS,
    *_SPLIT,
)
_SHOTS = ("tests/events/test_triggers.py::test_shots_equal_the_slow_twin_however_the_stream_is_cut", *_ROWS)
_ENDS = (
    "tests/events/test_cutting.py::test_a_block_ends_where_the_slow_twin_ends_it",
    "tests/events/test_cutting.py::test_the_last_cut_is_that_of_the_slow_twin",
)
_SEARCHES = ("tests/events/test_cutting.py::test_searches_find_what_a_look_at_each_finds",)
_FLAGS = ("tests/events/test_cutting.py::test_clusters_that_a_forced_cut_may_have_cut_are_flagged",)
_SEAMS = ("tests/events/test_order.py::test_seams_are_closed_until_one_costs_too_much_as_in_the_slow_twin",)
_KEYS = ("tests/events/test_order.py::test_hits_become_keys_move_with_their_base_and_are_final_below_the_horizon",)
_PILES = ("tests/events/test_order.py::test_final_hits_are_dealt_into_piles_that_follow_each_other",)
_GATES = ("tests/events/test_gates.py::test_a_gate_keeps_what_a_loop_over_its_definition_keeps",)
_VALID = ("tests/events/test_gates.py::test_rows_of_valid_shots_are_those_of_the_slow_twin",)
_TALLY = ("tests/events/test_gates.py::test_a_tally_is_the_mean_and_its_error_over_shots_however_the_rows_are_cut",)
_POINT = ("tests/events/test_counting.py::test_what_is_added_block_by_block_is_what_all_rows_give",)
_IMAGE = ("tests/events/test_histograms.py::test_a_point_counts_in_its_nearest_pixel_and_none_outside",)
_HISTOGRAM = ("tests/events/test_histograms.py::test_a_value_counts_in_its_bin_and_nan_in_none",)
_EVENTS = ("tests/events/test_pulses.py::test_an_event_has_the_pixel_nearest_to_it_and_its_flight_in_microseconds",)
_PULSES = ("tests/events/test_pulses.py::test_pulses_are_those_of_the_slow_twin_however_rows_are_cut",)
_ORACLE = ("tests/app/test_truth.py::test_clusters_of_the_oracle_are_those_of_the_slow_twin",)

TABLE: Final = (
    Shown(
        "decode.kernels",
        "_accept _begin _believe _between_chunks _breaks_in _confirm_held _control _counting _cut_chunk "
        "_decode_stretch _edge _emit _extend _hit_pixel _hit_ticks _hit_time _hold _is_pixel _is_too_far "
        "_is_uncertain _jumped_class _learn_offset _mark _mark_astray _mark_words _note_epoch _open_chunk _packet_id "
        "_pass_over _pixel _rare _refute_held _release_overtaken _resume _settle _take_first_held _tell_suspects "
        "_timed _timer_high _timer_low _window decode_words release_held",
        "NaiveDecoder",
        _DECODER,
    ),
    Shown("decode.chunks", "count_chunks", "chunks_of_chips", _CHUNKS),
    Shown("decode.chunks", "follow_chunks", "follow_chunks", _HOPS),
    Shown("decode.repeats", "_name _came_before find_repeats", "without_repeats", _REPEATS),
    Shown("events.corrections", "keep_hits", "keep_hits", _ROWS),
    Shown("events.corrections", "subtract_by_tot subtract_by_pixel", "corrected", _ROWS),
    Shown("events.energy", "sum_by_tot sum_by_pixel", "energy", _ROWS),
    Shown("events.order", "pack_keys split_final shift_keys", "key final", _KEYS),
    Shown("events.order", "deal_final", "final", _PILES),
    Shown("events.order", "_close_seams", "close_seams", _SEAMS),
    Shown("events.order", "sort_edges close_up_edges", "assign_shots", _SHOTS),
    Shown("events.validity", "follow_counters", "gaps", _ROWS),
    Shown("events.cutting", "_tick _last_cut find_cut find_last_cut", "block_end last_cut natural_cuts", _ENDS),
    Shown("events.cutting", "first_after _first_hit_from", "first_from", _SEARCHES),
    Shown("events.cutting", "find_shots keep_tof", "assign_shots", _SHOTS),
    Shown(
        "events.cluster",
        "_in_reach _link_components add_to_sums at cell_of fetch_rows find_root gather_components link_by_pluses "
        "link_components link_components_2px time_of unite",
        "clusters",
        (*_SPLIT, *_ROWS),
    ),
    Shown(
        "events.dbscan",
        "_link_dense _note_core count_neighbours gather_cores link_cores link_dense link_dense_2px link_waiting",
        "clusters",
        _DENSE,
    ),
    Shown(
        "events.split",
        "_belongs _find_peaks _move_centres _share_out find_suspects flag_parts renumber split_suspects",
        "split",
        _SPLIT,
    ),
    Shown(
        "events.centroid",
        "find_slots flag_gaps list_rows mean_delays sort_rows sum_again write_hits write_rows",
        "centroids",
        (*_SPLIT, *_ROWS),
    ),
    Shown("events.centroid", "flag_forced_cut", "may_be_cut", _FLAGS),
    Shown("events.gates", "select_within select_all_within select_in_ring select_in_polygon", "keeps", _GATES),
    Shown("events.gates", "select_valid shot_span", "of_valid_shots shot_span", _VALID),
    Shown("events.gates", "count_rows", "per_shot", _TALLY),
    Shown("events.counting", "add_rows add_rows_to_image", "picture histogram spectrum", _POINT),
    Shown("events.histograms", "add_image", "picture", _IMAGE),
    Shown("events.histograms", "add_histogram", "histogram", _HISTOGRAM),
    Shown("events.pulses", "events_of", "pixel", _EVENTS),
    Shown("events.pulses", "pulses_of", "pulses", _PULSES),
    Shown("app.truth", "connected", "clusters", _ORACLE),
)


def shown_by() -> dict[str, tuple[str, ...]]:
    """The tests of each kernel, one of which calls it."""
    return {f"{shown.module}.{kernel}": shown.tests for shown in TABLE for kernel in shown.kernels.split()}


def kernels_of_package() -> list[str]:
    """All functions that are compiled, as `module.name`."""
    sources = {path: path.read_text("utf-8") for path in PACKAGE.rglob("*.py")}
    return sorted(
        f"{'.'.join(path.relative_to(PACKAGE).with_suffix('').parts)}.{node.name}"
        for path, source in sources.items()
        if "jit import" in source
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.FunctionDef)
        and any(isinstance(decorator, ast.Name) and decorator.id in COMPILED for decorator in node.decorator_list)
    )
