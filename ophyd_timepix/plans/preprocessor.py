"""The preprocessor that makes any plan record centroids and the ledger of a run.

It tells each detector which run an exposure belongs to, registers the centroids as a stream of that run while it goes,
records a changed configuration anew, and closes the books before the run does:
`RE.preprocessors.append(records)` and `RE.subscribe(records.document)`; `ophyd_timepix.install` does both.

Where centroids are collected matters. bluesky replays what came after the last checkpoint when a paused plan resumes,
and sets the sequence numbers of all streams back to there. So rows are collected right before a checkpoint, in a
stretch that is not rewindable, and in the same way before a run closes. Knows bluesky's messages, not the pipeline.
"""

import logging
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Final

import bluesky.plan_stubs as bps
import bluesky.preprocessors as bpp
from bluesky.utils import Msg, ensure_generator
from event_model import unpack_event_page

from ..devices import TimepixDetector
from .configurations import Configurations
from .registering import OpenRun, close, collect_frames, collect_rows, describe_flights

logger = logging.getLogger(__name__)

Plan = Generator[Msg, Any, Any]

POLL_S: Final = 0.01
"""How often it is looked whether the shutter of a flight has opened."""
COLLECT_INTERVAL_S: Final = 2.0
"""A catalog takes 30 to 45 ms for each column of a collection, whatever its rows."""


class TimepixStreams:
    """The preprocessor for these detectors. One object serves every plan of a RunEngine, one after the other.

    It must be the last one, around all others: what they add before the end of a run belongs to the run.
    """

    def __init__(
        self,
        detectors: Sequence[TimepixDetector],
        *,
        interval_s: float = COLLECT_INTERVAL_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.detectors = tuple(detectors)
        self._interval_s = interval_s
        self._clock = clock
        self._starts: dict[str, dict[str, Any]] = {}
        self._run_of: dict[str, str] = {}
        """Runs of descriptors."""

    def document(self, name: str, doc: dict[str, Any]) -> None:
        """Hear of runs that open and end, and of what their events tell: messages that a pause has taken again come by
        nobody but the documents. A run that ends in whatever way is closed in the files too.
        """
        if name == "start":
            self._starts = {doc["uid"]: doc}
            for detector in self.detectors:
                detector.announce(doc)
        elif name == "descriptor":
            self._run_of[doc["uid"]] = doc["run_start"]
        elif name == "event":
            self._note_event(doc)
        elif name == "event_page":
            for event in unpack_event_page(doc):
                self._note_event(event)
        elif name == "stop":
            for detector in self.detectors:
                self._leave(detector, doc["run_start"])
            self._run_of = {uid: run for uid, run in self._run_of.items() if run != doc["run_start"]}

    def _note_event(self, event: dict[str, Any]) -> None:
        for detector in self.detectors:
            detector.note_event(self._run_of.get(event["descriptor"], ""), event["data"])

    def _leave(self, detector: TimepixDetector, uid: str) -> None:
        try:
            detector.leave_run(uid)
        except Exception:
            # The run is over and its stop document on its way: what cannot be closed now is for `recover`.
            logger.exception("the files of run %s of %s could not be closed", uid[:8], detector.name)

    def __call__(self, plan: Plan) -> Plan:
        """The plan with centroids and ledger recorded in each of its runs."""
        runs: dict[Any, OpenRun] = {}
        mutated = bpp.plan_mutator(_watched(plan, runs), lambda msg: self._around(msg, runs))
        return (yield from bpp.finalize_wrapper(mutated, lambda: self._close_all(runs)))

    # --- what is put around a message

    def _around(self, msg: Msg, runs: dict[Any, OpenRun]) -> tuple[Plan | None, Plan | None]:
        if msg.command == "open_run":
            return self._opening(msg, runs), None
        if msg.command == "checkpoint":
            return self._at_checkpoint(msg, runs), None
        run = runs.get(msg.run)
        if run is None:
            return None, None
        if msg.command == "close_run":
            return self._closing(msg, runs), None
        if msg.command == "declare_stream":
            # A pause in the exposure that follows (a baseline's) would declare the stream once more.
            return _declaring(msg, run), bps.checkpoint() if any(obj in self.detectors for obj in msg.args) else None
        if msg.command in ("create", "trigger", "kickoff"):
            run.failing = False  # it goes on
        if msg.command in ("create", "save", "drop"):
            run.bundling = msg.command == "create"
            run.configurations.follow(msg)
        if msg.command == "read" and run.bundling:
            return _reading(msg, run), None
        if msg.obj in self.detectors:
            return _of_detector(msg, run), None
        return None, None

    def _opening(self, msg: Msg, runs: dict[Any, OpenRun]) -> Plan:
        uid = yield msg
        if uid is not None:  # a plan that is only looked at gets no answer
            start = self._starts.get(uid, {"uid": uid})
            heard, configurations = uid in self._starts, Configurations(_scanned(start))
            runs[msg.run] = OpenRun(msg.run, uid, heard, configurations, self._clock())
            for detector in self.detectors:
                detector.announce(start)
        return uid

    def _at_checkpoint(self, msg: Msg, runs: dict[Any, OpenRun]) -> Plan:
        for run in runs.values():
            if self._clock() - run.collected_at >= self._interval_s:
                for detector in filter(run.records, self.detectors):
                    yield from run.own(collect_rows(detector, run))
                run.collected_at = self._clock()
        answer = yield msg
        for detector in self.detectors:
            detector.note_checkpoint()
        return answer

    def _closing(self, msg: Msg, runs: dict[Any, OpenRun]) -> Plan:
        run = runs[msg.run]
        failed = msg.kwargs.get("exit_status") not in (None, "success")
        yield from bpp.rewindable_wrapper(close(run, failed=failed), False)
        answer = yield msg
        runs.pop(msg.run, None)
        for detector in self.detectors:
            self._leave(detector, run.uid)
        return answer

    def _close_all(self, runs: dict[Any, OpenRun]) -> Plan:
        """The plan has ended with runs open: bluesky will close them, what they recorded is registered here."""
        for run in list(runs.values()):
            yield from close(run, failed=True)


def _declaring(msg: Msg, run: OpenRun) -> Plan:
    answer = yield msg
    if answer is not None:  # none came where a pause cancelled it
        run.declared.add(msg.kwargs["name"])
    return answer


def _watched(plan: Plan, runs: Mapping[Any, OpenRun]) -> Plan:
    """The plan; its runs know when an error is thrown into it."""
    plan = ensure_generator(plan)
    proceed: Callable[[], Msg] = partial(next, plan)
    while True:
        try:
            msg = proceed()
        except StopIteration as end:
            return end.value
        try:
            answer = yield msg
        except GeneratorExit:
            plan.close()
            raise
        except Exception as error:  # noqa: BLE001 - what it means the plan knows
            for run in runs.values():
                run.failing = True
            proceed = partial(plan.throw, error)
        else:
            proceed = partial(plan.send, answer)


def _reading(msg: Msg, run: OpenRun) -> Plan:
    answer = yield msg
    run.configurations.has_read(msg.obj, answer or {})
    return answer


def _of_detector(msg: Msg, run: OpenRun) -> Plan | None:
    if msg.command == "trigger":
        return _triggering(msg, run)
    if msg.command == "kickoff":
        return _kicking_off(msg, run)
    if msg.command == "complete":
        run.configurations.has_flown(msg.obj)
        if run.failing:  # nobody waits for the end of a flight beside a scan that has failed
            msg.obj.land()
    return None


def _triggering(msg: Msg, run: OpenRun) -> Plan:
    detector = msg.obj
    _enter(detector, run)
    if run.configurations.changes(detector):
        yield from run.own(collect_frames(detector, run))
        yield from run.keyed(run.configurations.recorded_anew(detector))
    return (yield msg)


def _kicking_off(msg: Msg, run: OpenRun) -> Plan:
    """The configuration of a flight is recorded when its shutter has opened: the read-out sets some itself."""
    detector = msg.obj
    _enter(detector, run)
    if run.configurations.changes(detector):
        yield from run.own(collect_frames(detector, run))  # of flights with the configuration before
    status = yield msg
    while status is not None and not status.done:
        yield from bps.sleep(POLL_S)
    if not run.bundling:
        yield from run.keyed(run.configurations.recorded_anew(detector))
        yield from describe_flights(detector, run)
    return status


def _enter(detector: TimepixDetector, run: OpenRun) -> None:
    """The next exposure belongs to the run. Refused while another open run has the detector."""
    detector.enter_run(run.uid, tells=run.heard)
    run.entered[detector] = None


def _scanned(start: Mapping[str, Any]) -> Iterator[str]:
    """Keys of what a run scans."""
    for dimension in start.get("hints", {}).get("dimensions", ()):
        yield from dimension[0]
