"""A flight: one long exposure whose centroids appear in the documents while it goes on.

bluesky's own `bp.fly` works with the detector too; it stages nothing, has no checkpoint, and registers all rows at its
end. Here the plan looks at the Status of the flight and never at what `wait` returns, because a pause makes bluesky
forget the wait that it interrupted.
"""

from collections.abc import Generator
from typing import Any, Final

import bluesky.plan_stubs as bps
import bluesky.preprocessors as bpp
from bluesky.utils import Msg, short_uid

from ..devices import TimepixDetector
from .until import with_settings

Plan = Generator[Msg, Any, Any]

FIRST_INTERVAL_S: Final = 2.0
LAST_INTERVAL_S: Final = 10.0
GROWTH: Final = 1.25
"""A catalog pays per collection, not per row: a long flight is collected less often."""


def tpx_fly(
    tpx: TimepixDetector, *, shots: int | None = None, seconds: float | None = None, md: dict[str, Any] | None = None
) -> Plan:
    """Record `shots` shots, or `seconds` seconds, in one run. Returns the run's uid.

    Without either, the detector's own `shots` and `exposure` say how long. The streams are `<name>_frames` (one event
    for the flight), `<name>_centroids` (one row per centroid), `<name>_shots` (one row per shot) and `<name>_ledger`
    (one row). A pause cancels the flight, resume begins it anew; stop, abort and failures keep and register the rows
    that there are.
    """
    if shots is not None and seconds is not None:
        raise ValueError(f"a flight ends after shots or after seconds, not both: shots={shots}, seconds={seconds}")
    if (shots is not None and shots < 1) or (seconds is not None and seconds <= 0):
        raise ValueError(f"a flight has at least 1 shot or lasts longer than 0 s: shots={shots}, seconds={seconds}")
    if shots is None and seconds is None and not any(s.get() for s in (tpx.shots, tpx.exposure, tpx.until.gate)):
        raise ValueError(
            f"a flight needs an end: give shots or seconds, or set {tpx.name}.shots or {tpx.name}.exposure"
        )
    metadata = {
        "plan_name": "tpx_fly",
        "detectors": [tpx.name],
        "plan_args": {"tpx": repr(tpx), "shots": shots, "seconds": seconds},
        "num_points": 1,  # BestEffortCallback makes no plot of one point
        "hints": {"dimensions": [(["time"], f"{tpx.name}_frames")]},
        **(md or {}),
    }
    settings: dict[Any, Any] = {}
    if shots is not None:
        settings = {tpx.shots: shots, tpx.until.gate: ""}
    if seconds is not None:
        settings = {tpx.shots: 0, tpx.exposure: seconds, tpx.until.gate: ""}
    flight = bpp.stage_wrapper(bpp.run_wrapper(_flight(tpx), md=metadata), [tpx])
    return (yield from with_settings(settings, flight))


def _flight(tpx: TimepixDetector) -> Plan:
    for rows in tpx.row_streams:
        yield from bps.declare_stream(rows, name=rows.stream, collect=True)
    yield from bps.checkpoint()  # a pause must not declare them once more

    def collect() -> Plan:
        for rows in tpx.row_streams:
            yield from bps.collect(rows, name=rows.stream, return_payload=False)

    def flying() -> Plan:
        yield from bps.kickoff(tpx, wait=True)
        interval = FIRST_INTERVAL_S
        group = short_uid("tpx_fly")
        status = yield from bps.complete(tpx, group=group, wait=False)
        while status is not None and not status.done:
            finished = yield from bps.wait(group=group, timeout=interval, error_on_timeout=False)
            if finished and not status.done:  # a pause made bluesky forget the wait
                group = short_uid("tpx_fly")
                status = yield from bps.complete(tpx, group=group, wait=False)
            yield from bpp.rewindable_wrapper(collect(), False)
            yield from bps.checkpoint()
            interval = min(interval * GROWTH, LAST_INTERVAL_S)

    def landed() -> Plan:
        yield from collect()
        yield from bps.collect(tpx, return_payload=False)

    yield from bpp.finalize_wrapper(flying(), landed)
