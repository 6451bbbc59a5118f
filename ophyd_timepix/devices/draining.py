"""The end of an acquisition: what the board has sent against what has arrived, until both agree or nothing more comes.

Edges may pass the closed shutter. Then datagrams come behind any reading of the board's counters, and those would hide
as many that were lost before it. So the board is asked anew. With S sent at its answer, R arrived before the question
and R' some milliseconds after it, between S - R' and S - R are missing; where nothing came in between, that is exact.
"""

import threading
import time
from collections.abc import Callable
from typing import Final

from ..pipeline.messages import Sent

ON_THE_WAY_S: Final = 0.005
"""So long after it was sent a datagram is here, or it is lost."""
SILENCE_S: Final = 0.2
"""What is missing still after so long without any of it is lost."""
LONGEST_S: Final = 10.0
"""Somebody sends without end: nothing is waited for any longer."""


def drained(sent: Sent, begun: int, read: Callable[[], Sent], arrived: Callable[[], int]) -> Sent:
    """A reading of the board's counters with what had arrived of it.

    sent: the last reading; begun: datagrams sent minus arrived when the acquisition began; read: asks the board;
    arrived: how many datagrams of it have come.
    """
    began = decreased = time.monotonic()
    least, most = 0, None
    pause = threading.Event()
    while True:
        before = arrived()
        now = read()
        before_missing = now.datagrams - begun - before
        if before_missing == 0 and now.datagrams == sent.datagrams:  # nothing was sent since, and all is here
            return now.model_copy(update={"arrived": before})
        pause.wait(ON_THE_WAY_S)
        least = max(least, now.datagrams - begun - arrived())
        if most is None or before_missing < most:
            most, decreased = before_missing, time.monotonic()
        waited = time.monotonic()
        if most <= 0 or waited - decreased >= SILENCE_S or waited - began >= LONGEST_S:
            return now.model_copy(update={"arrived": now.datagrams - begun - min(least, most)})
