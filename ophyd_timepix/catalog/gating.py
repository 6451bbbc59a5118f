"""Counting in gates after the fact: per run, per point, across runs, with standard errors."""

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, Unpack, cast

import numpy as np
import pandas as pd

from ..config import Gate
from ..config.gates import check_gates
from ..events.gates import Condition, Tally, conditions
from ..events.tallies import GateCounts
from .asked import is_whole
from .errors import CatalogError, NoCentroidsError
from .profile import DEFAULT_NAME
from .recorded import Recorded, look_up
from .selection import Question, Which, ask
from .settling import settle

logger = logging.getLogger(__name__)

Gates = Gate | Sequence[Gate] | None

_REGATED: Final = {"counts": np.int64, "counts_per_shot": np.float64, "error": np.float64}


def counts(runs: Any, gate: Gates = None, *, per_point: bool = False, **which: Unpack[Which]) -> Any:
    """How many centroids lie in a gate, in how many shots, and how many that is per shot, with standard errors.

    One run and one gate: a `GateCounts`. Several gates, `per_point=True` or several runs (a list, or `db(sample=...)`):
    a DataFrame with a row for each. Without a gate all centroids count. What else to keep is said as in `centroids`;
    shots are those that are valid (`valid_only=False`: all), the empty ones included.
    """
    gates = [gate] if isinstance(gate, Gate) else list(gate) if gate is not None else [Gate(name="all")]
    levels = [] if gate is None or isinstance(gate, Gate) else ["gate"]
    if is_one_run(runs):
        question = _counting(ask(runs, which), gates, per_point=per_point)
        records = list(_records(question, gates, per_point=per_point))
        if not levels and not per_point:
            return records[0][1]
        return _table(records, [*(["seq_num"] if per_point else []), *levels])
    found: list[tuple[dict[str, Any], GateCounts]] = []
    for run in _each(runs):
        try:
            question = _counting(ask(run, which), gates, per_point=per_point)
        except NoCentroidsError as without:
            logger.warning("left out: %s", without)
            continue
        start = question.recorded.start
        known = {"uid": start["uid"], "scan_id": start.get("scan_id")}
        found += [(known | keys, result) for keys, result in _records(question, gates, per_point=per_point)]
    return _table(found, ["uid", *(["seq_num"] if per_point else []), *levels], scan_id=True)


def regate(run: Any, gates: Gate | Sequence[Gate], **which: Unpack[Which]) -> pd.DataFrame:
    """The table that the scan would have had with these gates: one row per point, by `seq_num`.

    The columns of the plan's own stream, then of each gate `<gate>_counts`, `<gate>_counts_per_shot` and `<gate>_error`
    (its standard error). What else to keep is said as in `centroids`.
    """
    wanted = [gates] if isinstance(gates, Gate) else list(gates)
    question = _counting(ask(run, which), wanted, per_point=True)
    table = question.recorded.points.loc[list(question.points or ())].copy()
    for name, results in tally(question, conditions(wanted, question.calibration), apart=True).items():
        for column, dtype in _REGATED.items():
            table[f"{name}_{column}"] = np.array([getattr(result, column) for result in results], dtype=dtype)
    return table


def points(run: Any, *, detector: str | None = None, catalog: str = DEFAULT_NAME, direct: bool = True) -> pd.DataFrame:
    """The table of a run's points, by `seq_num`: time, what was scanned, what is plotted, then everything else."""
    settle()
    recorded = look_up(run, detector, catalog, direct=direct)
    table, described = recorded.points, recorded.point_stream.metadata
    dimensions = recorded.start.get("hints", {}).get("dimensions", ())
    hinted = [field for hints in described.get("hints", {}).values() for field in hints.get("fields", ())]
    first = ["time", *(field for fields, _ in dimensions for field in fields), *hinted]
    return table[[name for name in dict.fromkeys([*first, *table.columns]) if name in table]]


def tally(question: Question, gates: Mapping[str, Condition], *, apart: bool) -> dict[str, list[GateCounts]]:
    """What lies in each gate: for each range of the question (`apart`), or for all of them together."""
    shots = _shots(question)
    shots = shots if apart else [sum(shots)]
    tallies = {name: [Tally() for _ in shots] for name in gates}
    early = _before_triggers(question) if apart else frozenset()
    for piece in question.pieces(whatever_shots=True):
        for name, gate in gates.items():
            inside = gate.select(piece.kept, piece.column)
            for number, rows in piece.of_parts(question.filter.of_valid_shots(piece, inside)):
                if number not in early:
                    tallies[name][number if apart else 0].add(rows, piece.column("shot"))
            for number, rows in piece.of_parts(inside) if early else ():
                if number in early:
                    tallies[name][number].add(rows, piece.column("shot"))
    return {name: [one.result(n) for one, n in zip(each, shots, strict=True)] for name, each in tallies.items()}


def _before_triggers(question: Question) -> frozenset[int]:
    """Numbers of the ranges whose points had ended when the run's first shot came: they have counted all their rows."""
    stops = question.recorded.of_points("shot_stop") if question.points else None
    if stops is None or question.points is None:
        return frozenset()
    return frozenset(number for number, point in enumerate(question.points) if int(stops[point]) == 0)


def is_one_run(runs: Any) -> bool:
    """A run, or what names one; else several."""
    named = isinstance(runs, str) or is_whole(runs)
    start = getattr(runs, "start", None)  # of a Header; a range has a start too
    return named or isinstance(start, Mapping) or "start" in (getattr(runs, "metadata", None) or ())


def _each(runs: Any) -> Iterator[Any]:
    """Runs of a list, of a search of databroker, or of a catalog of Tiled."""
    values = getattr(runs, "values", None)
    yield from cast(Iterable[Any], values() if callable(values) else runs)


def _records(
    question: Question, gates: Sequence[Gate], *, per_point: bool
) -> Iterator[tuple[dict[str, Any], GateCounts]]:
    results = tally(question, conditions(gates, question.calibration), apart=per_point)
    points = question.points if per_point and question.points is not None else (None,)
    for number, point in enumerate(points):
        for gate in gates:
            yield {"seq_num": point, "gate": gate.name}, results[gate.name][number]


def _table(
    records: Sequence[tuple[dict[str, Any], GateCounts]], levels: list[str], *, scan_id: bool = False
) -> pd.DataFrame:
    """A row for each record, indexed by `levels`."""
    first = [*levels, "scan_id"] if scan_id else levels
    rows = [{name: keys[name] for name in first} | result._asdict() for keys, result in records]
    return pd.DataFrame(rows, columns=[*first, *GateCounts._fields]).set_index(levels)


def _counting(question: Question, gates: Sequence[Gate], *, per_point: bool) -> Question:
    """The question as one of counting, with gates that fit the run."""
    recorded = question.recorded
    if not gates:
        raise ValueError('no gate; give a Gate, as Gate(name="iodine", tof=(13_800, 14_050)), or several')
    check_gates(gates, recorded.geometry, recorded.processing, question.calibration)
    if per_point:
        return question.per_point()
    if question.points is not None:
        return question
    if question.ranges != ((0, recorded.known_rows),):
        raise ValueError("rows= do not say how many shots they are of; choose by point= or by shots=")
    return question if recorded.is_finished else _without_last_shot(question)


def _without_last_shot(question: Question) -> Question:
    """Of a run that goes on: shots whose rows are all known."""
    recorded = question.recorded
    if not recorded.known_rows:
        return replace(question, shot_window=(0, 0))
    with recorded.columns.opened() as read:
        last = int(read("shot", recorded.known_rows - 1, recorded.known_rows)[0])
    if last < 0:
        return question
    if recorded.shots is not None:  # rows may be known before all of their shots are
        last = min(last, recorded.shots.count())
    first, stop = question.shot_window
    stop = last if stop is None else min(stop, last)
    complete = Condition.of_windows({"shot": (None, last)})
    conditions = (*question.filter.conditions, complete)
    return replace(question, filter=replace(question.filter, conditions=conditions), shot_window=(first, stop))


def _shots(question: Question) -> list[int]:
    """How many shots each range of the question is of."""
    recorded, points = question.recorded, question.points
    if points is None:
        return [_shots_between(question, 0, _last_shot(recorded))]
    told = recorded.of_points("n_valid_shots" if question.valid_only else "n_shots")
    if told is not None and question.shot_window == (0, None):
        return [int(told[point]) for point in points]
    starts, stops = recorded.of_points("shot_start"), recorded.of_points("shot_stop")
    if starts is None or stops is None:
        raise CatalogError(
            f"The run {recorded.start['uid']} does not say which shots belong to a point (data keys "
            f"'{recorded.detector}_shot_start', '{recorded.detector}_shot_stop'); count without points"
        )
    return [_shots_between(question, int(starts[point]), int(stops[point])) for point in points]


def _shots_between(question: Question, start: int, stop: int) -> int:
    """Shots of [start, stop) that the question is about."""
    first, end = question.shot_window
    start, stop = max(start, first), stop if end is None else min(stop, end)
    if stop <= start:
        return 0
    shots = question.filter.shots
    return shots.count_valid(start, stop) if shots is not None else stop - start


def _last_shot(recorded: Recorded) -> int:
    """Shots that the run has had: of its table, else as its points say."""
    if recorded.shots is not None:
        return recorded.shots.count()
    try:
        stops = recorded.of_points("shot_stop")
    except CatalogError:  # no points
        return 0
    return int(stops.max()) if stops is not None and len(stops) else 0
