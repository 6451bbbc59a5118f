"""The simulated SPIDR board: a pure state machine that answers every command of the table.

It knows no socket and no thread: requests come in as frames, replies go out as frames, time is asked of the clock.
"""

from spidr_sim.streams import Clock, StreamCounters, Streams

__all__ = ["Board", "Clock", "StreamCounters", "Streams"]


class Board:
    """`Board(n_chips, streams, clock)`: one SPIDR with `n_chips` (1 to 4) Timepix3."""

    def __init__(self, n_chips: int, streams: Streams, clock: Clock) -> None:
        self._n_chips = n_chips
        self._streams = streams
        self._clock = clock
