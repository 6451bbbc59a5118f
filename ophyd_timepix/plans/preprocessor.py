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
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import bluesky.plan_stubs as bps
import bluesky.preprocessors as bpp
from bluesky.utils import Msg, short_uid

from ..devices import TimepixDetector
from .configurations import Configurations

logger = logging.getLogger(__name__)

Plan = Generator[Msg, Any, Any]

COLLECT_INTERVAL_S: Final = 2.0
"""A catalog takes 30 to 45 ms for each column of a collection, whatever its rows."""


@dataclass
class _OpenRun:
    """A run of the plan that has not closed yet."""

    key: Any
    uid: str
    declared: set[str] = field(default_factory=set)
    closed: set[str] = field(default_factory=set)
    bundling: bool = False
    collected_at: float = 0.0
    configurations: Configurations = field(default_factory=Configurations)


class TimepixStreams:
    """The preprocessor for these detectors. One object serves every plan of a RunEngine, one after the other."""

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

    def document(self, name: str, doc: dict[str, Any]) -> None:
        """Hear of runs that open and end. A run that ends in whatever way is closed in the files too."""
        if name == "start":
            self._starts = {doc["uid"]: doc}
            for detector in self.detectors:
                detector.announce(doc)
        elif name == "stop":
            for detector in self.detectors:
                self._leave(detector, doc["run_start"])

    def _leave(self, detector: TimepixDetector, uid: str) -> None:
        try:
            detector.leave_run(uid)
        except Exception:
            # The run is over and its stop document on its way: what cannot be closed now is for `recover`.
            logger.exception("the files of run %s of %s could not be closed", uid[:8], detector.name)

    def __call__(self, plan: Plan) -> Plan:
        """The plan with centroids and ledger recorded in each of its runs."""
        runs: dict[Any, _OpenRun] = {}
        mutated = bpp.plan_mutator(plan, lambda msg: self._around(msg, runs))
        return (yield from bpp.finalize_wrapper(mutated, lambda: self._close_all(runs)))

    # --- what is put around a message

    def _around(self, msg: Msg, runs: dict[Any, _OpenRun]) -> tuple[Plan | None, Plan | None]:
        if msg.command == "open_run":
            return self._opening(msg, runs), None
        if msg.command == "close_run" and msg.run in runs:
            return self._closing(msg, runs), None
        if msg.command == "checkpoint":
            return self._at_checkpoint(msg, runs), None
        if msg.command == "declare_stream" and msg.run in runs and any(obj in self.detectors for obj in msg.args):
            # A pause in the exposure that follows (a baseline's) would declare the stream once more.
            self._follow(msg, runs[msg.run])
            return None, bps.checkpoint()
        if msg.run in runs:
            self._follow(msg, runs[msg.run])
            if msg.command == "read" and runs[msg.run].bundling:
                return self._reading(msg, runs[msg.run]), None
        if msg.command in ("trigger", "kickoff") and msg.obj in self.detectors and msg.run in runs:
            return self._entering(msg, runs[msg.run]), None
        return None, None

    def _follow(self, msg: Msg, run: _OpenRun) -> None:
        if msg.command == "declare_stream":
            run.declared.add(msg.kwargs["name"])
        elif msg.command in ("create", "save", "drop"):
            run.bundling = msg.command == "create"
            run.configurations.follow(msg)

    def _opening(self, msg: Msg, runs: dict[Any, _OpenRun]) -> Plan:
        uid = yield msg
        if uid is not None:  # a plan that is only looked at gets no answer
            runs[msg.run] = _OpenRun(msg.run, uid, collected_at=self._clock())
            for detector in self.detectors:
                detector.announce(self._starts.get(uid, {"uid": uid}))
        return uid

    def _entering(self, msg: Msg, run: _OpenRun) -> Plan:
        msg.obj.enter_run(run.uid)
        if msg.command == "trigger":
            yield from _in(run.key, run.configurations.recorded_anew(msg.obj))
        return (yield msg)

    def _reading(self, msg: Msg, run: _OpenRun) -> Plan:
        answer = yield msg
        run.configurations.has_read(msg.obj, answer or {})
        return answer

    def _at_checkpoint(self, msg: Msg, runs: dict[Any, _OpenRun]) -> Plan:
        for run in runs.values():
            if self._clock() - run.collected_at >= self._interval_s:
                for detector in self._of(run):
                    yield from bpp.rewindable_wrapper(self._collect(detector, run), False)
                run.collected_at = self._clock()
        answer = yield msg
        for detector in self.detectors:
            detector.note_checkpoint()
        return answer

    def _closing(self, msg: Msg, runs: dict[Any, _OpenRun]) -> Plan:
        run = runs[msg.run]
        failed = msg.kwargs.get("exit_status") not in (None, "success")
        yield from bpp.rewindable_wrapper(self._close(run, failed=failed), False)
        answer = yield msg
        runs.pop(msg.run, None)
        for detector in self.detectors:
            self._leave(detector, run.uid)
        return answer

    # --- streams

    def _of(self, run: _OpenRun) -> list[TimepixDetector]:
        """The detectors that recorded something in this run."""
        return [detector for detector in self.detectors if detector.recorded_run == run.uid]

    def _collect(self, detector: TimepixDetector, run: _OpenRun) -> Plan:
        """Register the rows that are on disk."""
        for rows in detector.row_streams:
            if rows.stream not in run.declared:
                yield from _in(run.key, bps.declare_stream(rows, name=rows.stream, collect=True))
            yield from _in(run.key, bps.collect(rows, name=rows.stream, return_payload=False))

    def _close(self, run: _OpenRun, *, failed: bool) -> Plan:
        """Close the books of the run's detectors, then register what is left and the ledger row.

        failed: the run has a failure already, which an error of the closing must not hide.
        """
        for detector in self._of(run):
            if detector.name in run.closed:
                continue
            run.closed.add(detector.name)
            if run.bundling:  # the plan failed amid an event
                yield from _in(run.key, bps.drop())
            yield from bpp.contingency_wrapper(
                _in(run.key, _books(detector)),
                except_plan=lambda error: _swallow(error, failed),
                final_plan=lambda detector=detector: self._last_rows(detector, run),
                auto_raise=not failed,
            )

    def _last_rows(self, detector: TimepixDetector, run: _OpenRun) -> Plan:
        yield from self._collect(detector, run)
        if detector.ledger.run == run.uid:
            yield from _in(run.key, _row(detector))

    def _close_all(self, runs: dict[Any, _OpenRun]) -> Plan:
        """The plan has ended with runs open: bluesky will close them, what they recorded is registered here."""
        for run in list(runs.values()):
            yield from self._close(run, failed=True)


def _row(detector: TimepixDetector) -> Plan:
    yield from bps.create(name=f"{detector.name}_ledger")
    yield from bps.read(detector.ledger)
    yield from bps.save()


def _books(detector: TimepixDetector) -> Plan:
    """Close the books and wait for it, again if a pause made bluesky forget the wait."""
    while True:
        group = short_uid("books")
        status = yield from bps.trigger(detector.ledger, group=group)
        yield from bps.wait(group=group)
        if status is None or status.done:
            return


def _swallow(error: Exception, failed: bool) -> Plan:
    if failed:
        logger.error("the books of a failed run could not be closed: %s", error)
    yield from bps.null()


def _in(key: Any, plan: Plan) -> Plan:
    """The messages of `plan` for the run of this key."""
    if key is None:
        return (yield from plan)
    return (yield from bpp.set_run_key_wrapper(plan, key))
