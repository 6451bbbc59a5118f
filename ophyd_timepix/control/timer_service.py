"""When the board's timer stood at 0, by the host's clock: the epoch of all times of a run.

The interface, for whoever records a run::

    timers = TimerService(board)
    timers.restart()            # once per run: board and chips to 0, together; earlier samples are forgotten
    timers.sample()             # right after, and every few seconds: GET_TIMER with the host's time around it
    timers.anchor.zero_ns       # `time.monotonic_ns` at which the timer stood at 0, +- anchor.uncertainty_ns
    timers.drift                # how fast the board's clock runs by the host's; None before two samples differ enough

A sample bounds the zero from both sides: the board read its timer between the host's two times. The anchor is the
sample with the least uncertainty: half of its round trip, and what the board's clock may have drifted since it was
restarted. The chip repeats each reading in its data stream, which is the reference for whoever has only the recording.

`sample` raises TimerJumped when the timer ran backwards, or the board was found to have lost its state
(`Board.losses`): it was restarted in between, by a power cycle, a reset or another client. Times before and after do
not belong to one run, and the run is to end. A timer that merely runs slow is no error (a loaded simulator's does):
`drift` says so.
"""

import threading
from dataclasses import dataclass
from typing import Final

from ophyd_timepix.clock import NS_PER_COUNT, TIMER_BITS

from .board import Board
from .errors import ControlError
from .info import TimerReading

DRIFT_BOUND_PPM: Final = 100.0
"""Two quartz clocks differ by less."""
_PERIOD_NS: Final = (1 << TIMER_BITS) * NS_PER_COUNT
_PPM: Final = 1e-6


class TimerJumped(ControlError):
    """The board's timer was restarted by something other than `TimerService.restart`."""


@dataclass(frozen=True)
class Anchor:
    """The host's `time.monotonic_ns` at which the board's timer stood at 0."""

    zero_ns: int
    uncertainty_ns: int
    """The zero is at most so far off."""
    reading: TimerReading
    """The sample it comes from."""


@dataclass(frozen=True)
class Drift:
    """The board's clock by the host's."""

    ppm: float
    """Above 0: the board's runs slow, so that a second of its counts takes longer by the host."""
    uncertainty_ppm: float


class TimerService:
    """Samples of one board's timer. Any thread may sample; `restart` is the run's."""

    def __init__(self, board: Board) -> None:
        self._board = board
        self._lock = threading.Lock()
        self._anchor: Anchor | None = None
        self._drift: Drift | None = None
        self._latest: Anchor | None = None
        self._round = 0
        self._losses = board.losses
        self.samples = 0
        """Since the last restart."""

    @property
    def anchor(self) -> Anchor | None:
        """The best sample since the last restart; None before the first."""
        return self._anchor

    @property
    def drift(self) -> Drift | None:
        """The best estimate since the last restart; None while it would be worse than the bound for any quartz."""
        return self._drift

    def restart(self) -> None:
        """Timers of board and chips to 0, together; samples are forgotten."""
        with self._lock:
            self._forget()
            self._board.reset_timers()
            self._losses = self._board.losses

    def sample(self, chip: int = 0) -> TimerReading:
        """Read the timer of a chip. Raises TimerJumped when it was restarted since the last sample."""
        with self._lock:
            round_before = self._round
        reading = self._board.chip(chip).timer()
        with self._lock:
            if self._round == round_before:  # else it belongs to the time before a restart
                self._take(reading)
        return reading

    def _forget(self) -> None:
        self._round += 1
        self._anchor = self._drift = self._latest = None
        self.samples = 0

    def _take(self, reading: TimerReading) -> None:
        latest = self._latest
        new = _anchor_of(reading, latest)
        # Samples of two threads may overlap, and then come in either order.
        in_order = latest is None or reading.host_before_ns >= latest.reading.host_after_ns
        went_back = in_order and latest is not None and reading.went_back_since(latest.reading)
        if latest is not None and (went_back or self._board.losses != self._losses):
            self._forget()
            self._losses = self._board.losses
            self._anchor = self._latest = _anchor_of(reading, None)
            way = "went back" if went_back else "was restarted on its way"
            raise TimerJumped(
                f"{self._board.client.address}: the timer {way} from {latest.reading.counts} to {reading.counts} "
                "counts, by a power cycle, a reset or another client. Times of this run do not fit together any more: "
                "end it and start a new one"
            )
        if in_order:
            self._latest = new
        self.samples += 1
        if self._anchor is None or new.uncertainty_ns < self._anchor.uncertainty_ns:
            self._anchor = new
        self._improve_drift(new)

    def _improve_drift(self, new: Anchor) -> None:
        """From the best sample to the newest: the longer in between, the better."""
        old = self._anchor
        if old is None or new.reading.counts <= old.reading.counts:
            return
        board_ns = (new.reading.counts - old.reading.counts) * NS_PER_COUNT
        uncertainty_ppm = (_half_trip_ns(old) + _half_trip_ns(new)) / board_ns / _PPM
        known_ppm = DRIFT_BOUND_PPM if self._drift is None else self._drift.uncertainty_ppm
        if uncertainty_ppm < known_ppm:
            self._drift = Drift((new.zero_ns - old.zero_ns) / board_ns / _PPM, uncertainty_ppm)


def _anchor_of(reading: TimerReading, before: Anchor | None) -> Anchor:
    """The zero by one reading alone; `before` tells how often the 48-bit timer has wrapped (every 81 days)."""
    counts_ns = reading.counts * NS_PER_COUNT
    zero_ns = reading.host_ns - counts_ns
    if before is not None:
        zero_ns -= round((zero_ns - before.zero_ns) / _PERIOD_NS) * _PERIOD_NS
    half_trip_ns = (reading.host_after_ns - reading.host_before_ns + 1) // 2
    drifted_ns = round((reading.host_ns - zero_ns) * DRIFT_BOUND_PPM * _PPM)
    return Anchor(zero_ns, half_trip_ns + drifted_ns, reading)


def _half_trip_ns(anchor: Anchor) -> int:
    return (anchor.reading.host_after_ns - anchor.reading.host_before_ns + 1) // 2
