"""The board's counters against what has arrived, while the board goes on sending or not.

Edges may pass the closed shutter. Then datagrams come behind any reading of the board's counters, and those would hide
as many that were lost before it. So the board is asked anew. With S sent at its answer, R arrived before the question
and R' some milliseconds after it, between S - R' and S - R are missing; where nothing came in between, that is exact.

R' has to hold all that had reached this machine by then, or a receiver that waits for a core looks like a loss: so it
is asked for what waits in the sockets too. And what a switch or the sender's machine holds up for longer than those
milliseconds is no loss either: S - R' is believed where it is found again and again for as long as is waited.
"""

import threading
import time
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from ..control import SentCounters
from ..pipeline.messages import Arrived, Sent

ON_THE_WAY_S: Final = 0.005
"""So long after it was sent a datagram is here, or it is lost."""
SILENCE_S: Final = 0.2
"""What is missing still after so long without any of it is lost."""
LONGEST_S: Final = 10.0
"""Somebody sends without end: nothing is waited for any longer."""
PAIRED_S: Final = 0.5
"""For so long the beginning of a run waits for a reading around which nothing comes."""
PARTS: Final = 4
"""What is lost is missing in each of so many parts of the silence."""


def drained(
    sent: Sent, begun: int, read: Callable[[], Sent], arrived: Callable[[], Arrived], unsure: int = 0
) -> tuple[Sent, int]:
    """(a reading of the board's counters with what had arrived of it, by how many more of it may be missing).

    sent: the last reading; begun: datagrams sent minus arrived when the acquisition began; read: asks the board;
    arrived: how many datagrams of it have come; unsure: by how many `begun` may be too few: see `Paired`, and what was
    returned by the acquisition before. What may have been missing then is never told as lost later.
    """
    began = decreased = time.monotonic()
    most: int | None = None
    missing: list[int] = []
    """At least, by each reading since the silence began."""
    pause = threading.Event()
    while True:
        before = arrived().datagrams
        now = read()
        before_missing = now.datagrams - begun - before
        if before_missing == 0 and now.datagrams == sent.datagrams:  # nothing was sent since, and all is here
            return now.model_copy(update={"arrived": before}), 0
        pause.wait(ON_THE_WAY_S)
        after = arrived()
        if most is None or before_missing < most:
            most, decreased = before_missing, time.monotonic()
            missing.clear()
        if after.is_all:
            missing.append(now.datagrams - begun - after.datagrams)
        waited = time.monotonic()
        is_silent = waited - decreased >= SILENCE_S and len(missing) >= PARTS
        if most <= 0 or is_silent or waited - began >= LONGEST_S:
            unsure = min(unsure, max(0, most))
            lost = min(most, max(0, _throughout(missing, most) - unsure))
            return now.model_copy(update={"arrived": now.datagrams - begun - lost}), most - lost


def _throughout(missing: Sequence[int], otherwise: int) -> int:
    """The most that is found in each part of these readings; `otherwise`: there are none."""
    n = min(PARTS, len(missing))
    parts = [missing[k * len(missing) // n : (k + 1) * len(missing) // n] for k in range(n)]
    return min((max(part) for part in parts), default=otherwise)


class Paired(NamedTuple):
    """A reading of the board's counters, and what had arrived of it."""

    counters: SentCounters
    arrived: int
    """Not less than had arrived, ..."""
    unsure: int
    """... and by so many too much at most."""


def paired(settled: SentCounters, read: Callable[[], SentCounters], arrived: Callable[[], Arrived]) -> Paired:
    """The counters when a run begins. settled: the last reading; read: asks the board; arrived: how many have come.

    Between their answer and any look at what has come edges may pass the closed
    shutter: taken for what was sent before, they would be missing ever after.

    Sent minus arrived is the same at all times, as long as nothing is lost, and each reading limits it. Where edges
    come too fast for one without any around it, somewhat more is taken for arrived: how many, shows later. And as what
    comes late is not there yet, several have to say the same, unless nothing was sent for a while.
    """
    began, most = time.monotonic(), None
    ahead: list[int] = []
    pause = threading.Event()
    while True:
        before = arrived().datagrams
        now = read()
        most = now.datagrams - before if most is None else min(most, now.datagrams - before)
        pause.wait(ON_THE_WAY_S)
        after = arrived()
        if after.is_all:
            ahead.append(now.datagrams - after.datagrams)
        least = min(most, _throughout(ahead, most))
        is_sure = len(ahead) >= PARTS or (after.is_all and now.datagrams == settled.datagrams)
        if (is_sure and least == most) or time.monotonic() - began >= PAIRED_S:
            return Paired(now, now.datagrams - least, most - least)
