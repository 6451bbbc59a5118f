"""Counting until a gate has enough: so many centroids, or a mean so well known, or at most so long."""

import logging
from collections.abc import Generator, Mapping, Sequence
from functools import partial
from typing import Any

import bluesky.plan_stubs as bps
import bluesky.plans as bp
from bluesky.utils import Msg

from ..devices import TimepixDetector

logger = logging.getLogger(__name__)

Plan = Generator[Msg, Any, Any]


def count_until(
    tpx: TimepixDetector,
    *,
    gate: str,
    counts: int = 0,
    relative_error: float = 0.0,
    at_most_s: float = 60.0,
    num: int = 1,
    detectors: Sequence[Any] = (),
    md: dict[str, Any] | None = None,
) -> Plan:
    """`bp.count` whose points last until the gate has `counts` centroids, or its counts per shot have a standard error
    of `relative_error` of themselves, whichever is first, or `at_most_s` seconds. Returns the run's uid.

    gate: label of a gate that is on, or its slot. The same holds in any plan while `tpx.until` says so.
    """
    goal = until(tpx, gate=gate, counts=counts, relative_error=relative_error, at_most_s=at_most_s)
    metadata = {
        "plan_name": "count_until",
        "plan_args": {
            "tpx": repr(tpx),
            "gate": gate,
            "counts": counts,
            "relative_error": relative_error,
            "at_most_s": at_most_s,
            "num": num,
        },
        **(md or {}),
    }
    return (yield from with_settings(goal, bp.count([tpx, *detectors], num=num, md=metadata)))


def until(
    tpx: TimepixDetector, *, gate: str, counts: int = 0, relative_error: float = 0.0, at_most_s: float = 60.0
) -> dict[Any, Any]:
    """The settings of such a goal, to be set with `with_settings`. Raises ValueError when there is nothing to reach."""
    if counts <= 0 and relative_error <= 0:
        raise ValueError(
            f"count until the gate {gate!r} has what? Give counts (centroids) or relative_error (as 0.01 for 1 %)"
        )
    tpx.gates.find(gate)
    goal = tpx.until
    settings = {
        goal.gate: gate,
        goal.counts: counts,
        goal.relative_error: relative_error,
        goal.at_most: at_most_s,
    }
    for signal, value in settings.items():
        signal.check_value(value)
    return settings


def with_settings(settings: Mapping[Any, Any], plan: Plan) -> Plan:
    """The plan with these settings, which are as before when it has ended in whatever way, `halt` included."""
    before = {signal: signal.get() for signal in settings}

    try:
        for signal, value in settings.items():
            yield from bps.abs_set(signal, value, wait=True)
        return (yield from plan)
    finally:  # without messages: a halted plan says nothing more, and a stop may come at any of them
        for signal, value in before.items():
            signal.root.after_run(partial(_put_back, signal, value))


def _put_back(signal: Any, value: Any) -> None:
    try:
        signal.put(value)
    except (RuntimeError, ValueError) as error:
        logger.warning("%s could not be put back to %r after the plan: %s", signal.name, value, error)
