"""What a run records of a detector beside its points, as messages: rows, flights, the closed books and their row.

A pause cancels the message that bluesky is working on, and here, where nothing may be replayed, it never comes again; a
stop throws an exception in at any message. So every step is repeated until it was answered, and remembers in the run
what is done: whoever calls again goes on from there.
"""

import logging
from collections.abc import Generator
from dataclasses import dataclass, field
from typing import Any

import bluesky.plan_stubs as bps
import bluesky.preprocessors as bpp
from bluesky.utils import Msg, RunEngineControlException, short_uid

from ..devices import TimepixDetector
from ..devices.streams import RowStream
from .configurations import Configurations

logger = logging.getLogger(__name__)

Plan = Generator[Msg, Any, Any]


@dataclass
class OpenRun:
    """A run of the plan that has not closed yet."""

    key: Any
    uid: str
    heard: bool = False
    """Whether its documents are heard."""
    configurations: Configurations = field(default_factory=Configurations)
    collected_at: float = 0.0
    bundling: bool = False
    failing: bool = False
    """Whether an error was thrown into the plan that it has not got over yet."""
    entered: dict[TimepixDetector, None] = field(default_factory=dict)
    """Detectors that were told to record in this run."""
    declared: set[str] = field(default_factory=set)
    books: set[TimepixDetector] = field(default_factory=set)
    """Detectors whose files are closed."""
    closed: set[TimepixDetector] = field(default_factory=set)
    """Detectors of which all is registered."""

    def own(self, plan: Plan) -> Plan:
        """The messages of `plan` for this run, which a pause does not take again."""
        return bpp.rewindable_wrapper(self.keyed(plan), False)

    def keyed(self, plan: Plan) -> Plan:
        """The messages of `plan` for this run."""
        return plan if self.key is None else bpp.set_run_key_wrapper(plan, self.key)

    def records(self, detector: TimepixDetector) -> bool:
        """Whether the newest event file of the detector is of this run."""
        return detector.recorded_run == self.uid


def collect_rows(detector: TimepixDetector, run: OpenRun) -> Plan:
    """Register the rows that are on disk."""
    for rows in detector.row_streams:
        while rows.stream not in run.declared:
            if (yield from run.keyed(bps.declare_stream(rows, name=rows.stream, collect=True))) is not None:
                run.declared.add(rows.stream)
        yield from run.keyed(_until_registered(rows))


def _until_registered(rows: RowStream) -> Plan:
    there = rows.get_index()
    yield from bps.collect(rows, name=rows.stream, return_payload=False)
    while rows.registered < there:
        yield from bps.collect(rows, name=rows.stream, return_payload=False)


def collect_frames(detector: TimepixDetector, run: OpenRun) -> Plan:
    """Make events of the flights that are over."""
    while detector.frames_wait:
        yield from run.keyed(bps.collect(detector, return_payload=False))


def describe_flights(detector: TimepixDetector, run: OpenRun) -> Plan:
    """Describe the stream of flights with the configuration of now: bluesky does it when they are collected first."""
    if detector.flights in run.declared:
        return
    yield from run.keyed(bps.collect(detector, return_payload=False))
    run.declared.add(detector.flights)
    run.configurations.has_described_flights(detector)


def close(run: OpenRun, *, failed: bool) -> Plan:
    """Close the books of the run's detectors, then register what is left and the ledger row.

    failed: the run has a failure already, which an error of the closing must not hide. Raises the error that a closing
    ended with, once all is registered.
    """
    errors: list[Exception] = []
    for detector in [one for one in run.entered if one not in run.closed]:
        if run.bundling:  # the plan failed amid an event
            yield from run.keyed(bps.drop())
        yield from collect_frames(detector, run)
        if detector not in run.books and detector.recording_run in (run.uid, None):
            errors += yield from run.keyed(_books(detector))
            run.books.add(detector)
        if run.records(detector):
            yield from collect_frames(detector, run)
            yield from collect_rows(detector, run)
            if detector.ledger.run == run.uid != detector.ledger.told:
                yield from run.keyed(_row(detector))
        run.closed.add(detector)
    for error in errors:
        if not failed:
            raise error
        logger.error("the books of a failed run could not be closed: %s", error)


def _books(detector: TimepixDetector) -> Plan:
    """Close the books and wait for it, again if a pause made bluesky forget that. Returns what failed."""
    while True:
        group = short_uid("books")
        try:
            status = yield from bps.trigger(detector.ledger, group=group)
            yield from bps.wait(group=group)
        except RunEngineControlException:
            raise
        except Exception as error:  # noqa: BLE001 - told when the rows are registered
            return [error]
        if status is not None and status.done:
            return []


def _row(detector: TimepixDetector) -> Plan:
    while True:
        yield from bps.create(name=f"{detector.name}_ledger")
        if (yield from bps.read(detector.ledger)) is not None:
            break
        yield from bps.drop()
    yield from bps.save()
