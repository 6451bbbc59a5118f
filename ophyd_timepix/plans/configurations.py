"""Which configuration of a detector a run has recorded, and recording it anew when it has changed since.

A descriptor holds the configuration of its stream. bluesky writes a new one at the message `configure`, which the plans
of everybody else do not send. So it is sent here, before the trigger of a point and at the start of a flight whose
configuration is another than that of the one before. What every event tells anyway (a DAC that is scanned) does not
count as a change.

bluesky describes all streams of a device anew from what it knows of the stream that was used last. So the stream of the
points is made the last one before, and devices that are read together with the detector in its other streams (a
baseline) must be known there too.
"""

import logging
from collections.abc import Generator, Iterable, Mapping
from typing import Any, Final

import bluesky.plan_stubs as bps
from bluesky.utils import Msg

from ..devices import TimepixDetector

logger = logging.getLogger(__name__)

BASELINE: Final = "baseline"
"""The stream of bluesky's `SupplementalData`: not of points."""

Plan = Generator[Msg, Any, Any]


class Configurations:
    """The configurations of the detectors in one run.

    scanned: keys of what the plan scans, which events tell.
    """

    def __init__(self, scanned: Iterable[str] = ()) -> None:
        self._scanned = set(scanned)
        self._stream = ""
        self._bundle: dict[Any, set[str]] = {}
        self._objects: dict[str, dict[Any, None]] = {}
        self._points: dict[TimepixDetector, str] = {}
        self._flights: dict[TimepixDetector, str] = {}
        self._shown: dict[TimepixDetector, set[str]] = {}
        self._recorded: dict[tuple[TimepixDetector, str], dict[str, Any]] = {}
        self._warned = False

    def follow(self, msg: Msg) -> None:
        """A bundle begins or ends."""
        if msg.command == "create":
            self._stream = msg.kwargs.get("name", "primary")
            self._bundle = {}
        elif msg.command == "save":
            self._saved()

    def has_read(self, obj: Any, reading: Mapping[str, Any]) -> None:
        """An object was read into the bundle."""
        self._bundle[obj] = set(reading)
        if isinstance(obj, TimepixDetector) and (obj, self._stream) not in self._recorded:
            # bluesky took the configuration a moment ago, with the first reading of the stream
            self._recorded[obj, self._stream] = obj.fingerprint()

    def _saved(self) -> None:
        self._objects.setdefault(self._stream, {}).update(dict.fromkeys(self._bundle))
        keys: set[str] = set().union(*self._bundle.values())
        for obj in self._bundle:
            if isinstance(obj, TimepixDetector) and self._stream != BASELINE:
                self._points[obj] = self._stream
                self._shown[obj] = keys

    def has_described_flights(self, detector: TimepixDetector) -> None:
        """The stream of the detector's flights was described, with the configuration of now."""
        stream = detector.flights
        self._flights[detector] = stream
        self._objects.setdefault(stream, {})[detector] = None
        self._shown.setdefault(detector, set(detector.describe()))
        self._recorded[detector, stream] = detector.fingerprint()

    def changes(self, detector: TimepixDetector) -> list[str]:
        """What is another now than what is recorded. Nothing before the first point or flight is described."""
        stream = self._stream_of(detector)
        if stream is None:
            return []
        recorded = self._recorded[detector, stream]
        now = detector.fingerprint(self._shown[detector])
        return sorted(key for key, value in now.items() if recorded.get(key, value) != value)

    def _stream_of(self, detector: TimepixDetector) -> str | None:
        return self._points.get(detector) or self._flights.get(detector)

    def has_flown(self, detector: TimepixDetector) -> None:
        """A flight comes to its end: say what changed meanwhile, which its one descriptor cannot."""
        stream = self._flights.get(detector)
        if stream is None:
            return
        recorded = self._recorded[detector, stream]
        now = detector.fingerprint(self._shown[detector] | self._scanned)
        changed = sorted(key for key, value in now.items() if recorded.get(key, value) != value)
        if changed:
            logger.warning(
                "%s: the configuration changed during a flight (%s); its descriptor says how it began. "
                "Change settings between flights, or scan them",
                detector.name,
                ", ".join(changed),
            )

    def recorded_anew(self, detector: TimepixDetector) -> Plan:
        """Record the configuration of `detector` if it is another than the one recorded."""
        stream, changed = self._stream_of(detector), self.changes(detector)
        if stream is None or not changed:
            return
        logger.info("%s: the configuration changed (%s); it is recorded anew", detector.name, ", ".join(changed))
        missing = self._unknown_in(stream, detector)
        if any(hasattr(obj, "collect_asset_docs") for obj in missing):
            self._warn(detector, changed)
            return
        yield from bps.create(name=stream)
        for obj in missing:
            yield from bps.read(obj)
        yield from bps.drop()
        yield from bps.configure(detector, {})
        for one, name in self._recorded:
            if one is detector:
                self._recorded[one, name] = detector.fingerprint()

    def _unknown_in(self, stream: str, detector: TimepixDetector) -> list[Any]:
        """What is read together with the detector in other streams than this one."""
        known = self._objects[stream]
        return [
            obj
            for name, objects in self._objects.items()
            if name != stream and detector in objects
            for obj in objects
            if obj not in known
        ]

    def _warn(self, detector: TimepixDetector, changed: list[str]) -> None:
        """A reading takes the files of such a device out of its next event."""
        if not self._warned:
            self._warned = True
            logger.warning(
                "%s: the change of %s is not recorded: it is read in several streams, with devices that write files. "
                "Leave it out of the baseline",
                detector.name,
                ", ".join(changed),
            )
