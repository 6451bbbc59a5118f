"""Who used the cores while something was measured: its own processes, or others."""

import time
from collections.abc import Mapping

import psutil

FREE = 0.25
"""Cores that others may use on a machine that counts as free."""


class Cores:
    """CPU seconds of some processes, and of the whole machine, since this was made."""

    def __init__(self, pids: Mapping[str, int]) -> None:
        self._processes = {
            name: psutil.Process(pid) for name, pid in {**pids, "this test": psutil.Process().pid}.items()
        }
        self._begin = time.monotonic()
        self._before = self._own()
        self._busy_before = _busy()

    def _own(self) -> dict[str, float]:
        return {name: sum(process.cpu_times()[:2]) for name, process in self._processes.items()}

    def used(self) -> "Used":
        """Until now."""
        now, seconds = self._own(), time.monotonic() - self._begin
        cores = {name: (now[name] - self._before[name]) / seconds for name in now}
        return Used(cores, (_busy() - self._busy_before) / seconds - sum(cores.values()))


class Used:
    """Cores, on average: of each process, and of everything else on the machine."""

    def __init__(self, own: dict[str, float], others: float) -> None:
        self.own = own
        self.others = max(0.0, others)

    @property
    def machine_was_free(self) -> bool:
        """What is lost or late then is our doing."""
        return self.others < FREE


class Others:
    """What others took of the cores since this was made: whoever is neither this test nor one of its processes."""

    def __init__(self) -> None:
        self._begin = time.monotonic()
        self._before = self._taken()

    @staticmethod
    def _taken() -> float:
        return _busy() - _family()

    @property
    def cores(self) -> float:
        """On average until now."""
        return max(0.0, (self._taken() - self._before) / (time.monotonic() - self._begin))

    def left_it_alone(self) -> bool:
        """Whether what was late is our doing. Said where it is not: times of a busy machine are no claim."""
        cores = self.cores
        if cores >= FREE:
            print(f"others used {cores:.2f} cores: times are not judged")
        return cores < FREE


def _family() -> float:
    """CPU seconds of this process, of those that it has started, and of theirs."""
    me = psutil.Process()
    seconds = 0.0
    for process in (me, *me.children(recursive=True)):
        try:
            seconds += sum(process.cpu_times()[:4])  # of its own, and of its children that have ended
        except psutil.NoSuchProcess:
            continue
    return seconds


def _busy() -> float:
    times = psutil.cpu_times()
    return sum(times) - times.idle - times.iowait - times.guest - times.guest_nice
