"""The loss ledger of the point that is taken, as signals: while it is exposed what is known until then, and at its end
the whole of it. For suspenders and for a prompt; in documents is the verdict of each point, and the ledger of the run
in its own stream.
"""

import json
import math
from typing import Any, Final

from ophyd import Component as Cpt
from ophyd import Device, Kind

from ..pipeline.messages import Acquired, Progress
from ..pipeline.verdict import verdict
from .exposure import Look
from .signals import Quantity, Scalar


def _entry(units: str, meaning: str, value: Scalar = 0) -> Any:
    return Cpt(Quantity, value=value, units=units, meaning=meaning, kind=Kind.omitted)


FINAL: Final = (
    "sent_datagrams",
    "received_datagrams",
    "received_bytes",
    "kernel_dropped",
    "lost_on_the_way",
    "malformed_datagrams",
    "wrong_sender_datagrams",
    "unrecorded_datagrams",
    "surplus_datagrams",
    "board_pauses",
    "loss_intervals",
    "max_lateness_ns",
    "repeated_datagrams",
    "stray_words",
    "hits",
    "edges",
    "timer_words",
    "control_words",
    "unknown_words",
    "altered_words",
    "rejected_late_hits",
    "rejected_late_edges",
    "rejected_early_hits",
    "rejected_early_edges",
    "rejected_time_jumps",
    "rejected_edges",
    "filtered_hits",
    "hits_before_first_trigger",
    "shots_outside_shutter",
    "tdc_gaps",
    "missing_triggers",
    "double_triggers",
)
"""Entries of a point's ledger that are signals of the same name."""
UNKNOWN: Final = -1
"""Where nobody knows, because the board could not be asked."""


class LedgerNow(Device):
    """What became of the datagrams of the point, and how much room there is for more."""

    verdict = Cpt(Quantity, value="", meaning="of the last point: may it be published?", kind=Kind.normal)
    run_verdict = _entry("", "of the last run that was closed", "")
    sent_datagrams = _entry("datagrams", "sent by the board; while it is exposed, as it said last")
    received_datagrams = _entry("datagrams", "received whole")
    received_bytes = _entry("bytes", "in them")
    kernel_dropped = _entry("datagrams", "dropped because the socket's buffer was full")
    lost_on_the_way = _entry("datagrams", "sent and not seen here; while it is exposed, at least so many")
    malformed_datagrams = _entry("datagrams", "of a length that is no whole number of words")
    wrong_sender_datagrams = _entry("datagrams", "of somebody else")
    unrecorded_datagrams = _entry("datagrams", "came when nothing more could be recorded")
    surplus_datagrams = _entry("datagrams", "more than were sent; known at the end; -1: the board could not be asked")
    board_pauses = _entry("datagrams", "waited on the board because its read-out was paused")
    loss_intervals = _entry("", "stretches of time that something is missing from; known at the end")
    max_lateness_ns = _entry("ns", "how late the latest hit was that found its place; known at the end", 0.0)
    repeated_datagrams = _entry("datagrams", "came twice, and were left out; this and what follows is known at the end")
    stray_words = _entry("words", "came between this point and the one before")
    hits = _entry("words", "of pixels that became hits")
    edges = _entry("words", "of the TDC that became edges, repeats of other chips included")
    timer_words = _entry("words", "of the chips' timers")
    control_words = _entry("words", "of the chips about themselves")
    unknown_words = _entry("words", "of no known kind")
    altered_words = _entry("words", "of pixels that came as something else, or not with their datagram")
    rejected_late_hits = _entry("words", "of pixels, too late for their place in time")
    rejected_late_edges = _entry("words", "of the TDC, too late likewise")
    rejected_early_hits = _entry("words", "of pixels from before the shutter opened")
    rejected_early_edges = _entry("words", "of the TDC from before the shutter opened")
    rejected_time_jumps = _entry("words", "with an impossible time")
    rejected_edges = _entry("words", "of the TDC without a valid stamp")
    filtered_hits = _entry("hits", "taken out by filters")
    hits_before_first_trigger = _entry("hits", "of no shot, because no trigger had come")
    shots_outside_shutter = _entry("shots", "not wholly inside the open shutter, and so not valid")
    tdc_gaps = _entry("", "places at which the counter of the TDC passes over edges")
    missing_triggers = _entry("triggers", "should have come by their period and did not")
    double_triggers = _entry("triggers", "came within half a period of the one before")
    chips = _entry("", "of each chip what was sent, received, dropped, malformed, and its hits; as JSON", "{}")
    lost_datagrams = _entry("datagrams", "known to be lost, for whatever cause")
    spool_bytes = _entry("bytes", "received and not decoded yet: what the spool holds for processing")
    recording_bytes = _entry("bytes", "received in the run, headers of chunks included")
    disk_free_bytes = _entry("bytes", "room on the recording's file system; inf: there is no recording", math.inf)
    disk_seconds_left = _entry("s", "until it is so full that recording ends; inf: not in sight", math.inf)
    stopped_by = _entry("", "why nothing more is recorded, and the remedy; empty: it is", "")

    def publish_live(self, look: Look) -> int:
        """What is known while a point is exposed. Returns datagrams that are known to be lost of it."""
        now, since = look.progress, look.since
        for name in ("received_datagrams", "received_bytes", "malformed_datagrams", "wrong_sender_datagrams"):
            getattr(self, name).publish(getattr(now, name) - getattr(since, name))
        kernel, unrecorded = (getattr(now, n) - getattr(since, n) for n in ("kernel_dropped", "unrecorded_datagrams"))
        self.kernel_dropped.publish(kernel)
        self.unrecorded_datagrams.publish(unrecorded)
        self.lost_on_the_way.publish(look.missing)
        self.sent_datagrams.publish(look.sent)
        self.board_pauses.publish(look.paused)
        lost = kernel + unrecorded + look.missing + now.malformed_datagrams - since.malformed_datagrams
        self.lost_datagrams.publish(lost)
        self.publish_room(now)
        return lost

    def publish_room(self, now: Progress) -> None:
        """What waits, and what room is left."""
        self.spool_bytes.publish(now.spool_bytes)
        self.recording_bytes.publish(now.recording_bytes)
        self.disk_free_bytes.publish(_or_inf(now.disk_free_bytes))
        self.disk_seconds_left.publish(_or_inf(now.disk_seconds_left))
        self.stopped_by.publish(now.stopped_by or "")

    def publish(self, acquired: Acquired) -> int:
        """The ledger of a whole point. Returns datagrams that are lost.

        What the board could not be asked at the end stays as it was known while the point was exposed.
        """
        ledger = acquired.ledger
        for name in FINAL:
            if ledger.get(name, 0) is not None:
                getattr(self, name).publish(ledger.get(name, 0))
        self.chips.publish(json.dumps(ledger.get("chips", {})))
        lost = int(ledger.get("lost_datagrams") or 0)
        if ledger.get("lost_on_the_way", 0) is None:
            self.surplus_datagrams.publish(UNKNOWN)
            lost += self.lost_on_the_way.get()
        self.spool_bytes.publish(0)  # a point ends when all of it is written
        self.lost_datagrams.publish(lost)
        self.verdict.publish(verdict(acquired.ledger))
        return lost


def _or_inf(value: float | None) -> float:
    return math.inf if value is None else value
