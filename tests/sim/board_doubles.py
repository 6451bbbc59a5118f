"""Doubles for the board's two neighbours: a clock that stands until told, a data side that notes what it is told."""

from spidr_sim.faults import DataFault
from spidr_sim.settings import BiasRamp, ChipSettings, Readout
from spidr_sim.streams import StreamCounters

COUNTS_PER_MS = 40_000


class StandingClock:
    """Moves only by `now = ...`."""

    def __init__(self) -> None:
        self.now = 0
        self._zero = 0

    def counts(self) -> int:
        return self.now

    def seconds(self) -> float:
        return (self._zero + self.now) * 25e-9

    def restart(self, at: int = 0) -> int:
        before, self.now = self.now, at
        self._zero += before - at
        return before

    def seconds_until(self, counts: int) -> float:
        return max(0, counts - self.now) * 25e-9


class RecordingStreams:
    """Keeps all calls in order, as (name, arguments ...)."""

    def __init__(self) -> None:
        self.calls: list[tuple[object, ...]] = []
        self.totals = StreamCounters(0, (0, 0, 0, 0), 0)

    def named(self, name: str) -> list[tuple[object, ...]]:
        return [call[1:] for call in self.calls if call[0] == name]

    def shutter(self, is_open: bool, at_counts: int) -> None:
        self.calls.append(("shutter", is_open, at_counts))

    def readout(self, mode: Readout) -> None:
        self.calls.append(("readout", mode))

    def timer_request(self, chip: int, at_counts: int) -> None:
        self.calls.append(("timer_request", chip, at_counts))

    def timers_restarted(self, at_counts_before: int, at_counts_now: int = 0) -> None:
        self.calls.append(("timers_restarted", at_counts_before, at_counts_now))

    def destination(self, chip: int, address: str, port: int) -> None:
        self.calls.append(("destination", chip, address, port))

    def chip(self, chip: int, settings: ChipSettings) -> None:
        self.calls.append(("chip", chip, settings))

    def bias(self, ramp: BiasRamp) -> None:
        self.calls.append(("bias", ramp))

    def header_filter(self, chip: int, eth_mask: int) -> None:
        self.calls.append(("header_filter", chip, eth_mask))

    def fault(self, fault: DataFault) -> None:
        self.calls.append(("fault", fault))

    def clear_faults(self) -> None:
        self.calls.append(("clear_faults",))

    def counters(self) -> StreamCounters:
        return self.totals

    def reset_counters(self) -> None:
        self.calls.append(("reset_counters",))
        self.totals = StreamCounters(0, (0, 0, 0, 0), 0)
