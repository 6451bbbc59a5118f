"""What processes take of the machine's memory, as the kernel counts it."""

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple


class Memory(NamedTuple):
    """Proportional set sizes (bytes): a page that several processes map counts for each of them in part."""

    anonymous: int
    shared: int
    """Memory without a file that processes share: ring and blocks."""
    files: int
    """Programs and libraries. Other programs on the machine that map the same ones make this less."""

    @property
    def own(self) -> int:
        """What is there because of these processes, whatever else runs."""
        return self.anonymous + self.shared

    @property
    def total(self) -> int:
        return self.own + self.files


def memory_of(pids: Iterable[int]) -> Memory:
    """Of all of them together."""
    sums = dict.fromkeys(("Pss_Anon", "Pss_Shmem", "Pss_File"), 0)
    for pid in pids:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            name, _, value = line.partition(":")
            if name in sums:
                sums[name] += int(value.split()[0]) * 1024
    return Memory(*sums.values())
