"""What this machine can take: measured, judged, and said in Mhit/s of one chip."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

from ..capture.sockets import ENOUGH_BUFFER_BYTES, FULL_RATE, JUMBO_BYTES, PAYLOAD_SHARE, REMEDY, Buffer
from ..capture.trial import BYTES_PER_HIT, LoopbackTrial, granted_buffer, loopback_trials
from ..pipeline.preview import NoRecording
from ..spool.space import UNKNOWN_FREE
from ..spool.trial import DiskTrial, Room, disk_trial, room_of
from .check_findings import Finding, look, ok, wrong

FULL_MHIT_S: Final = FULL_RATE / BYTES_PER_HIT / 1e6
CORES: Final = 4
"""Capture, decode, write, and one for centroids."""
FEWEST_CORES: Final = 2
RAM_BYTES: Final = 4 << 30
LEAST_RAM_BYTES: Final = 2 << 30
SHORT_S: Final = 120.0
SENDER_KEPT_UP: Final = 0.9
SLOW_WRITE_S: Final = 0.2
IN_MEMORY: Final = ("tmpfs", "ramfs")


class Cap(NamedTuple):
    """Something that limits the rate of one chip."""

    what: str
    mhit_s: float


class Machine(NamedTuple):
    """What was found."""

    findings: list[Finding]
    caps: list[Cap]


def examine(directory: Path | None, datagram_bytes: int) -> Machine:
    """Measure it: some seconds, and some hundred MB of the directory's disk for a moment."""
    findings = [
        judge_cores(len(os.sched_getaffinity(0))),
        judge_memory(*_memory()),
        judge_buffer(granted_buffer(), _rmem_max()),
    ]
    trials = loopback_trials(NoRecording, datagram_bytes=datagram_bytes)
    found, cap = judge_loopback(trials)
    findings.append(found)
    caps = [cap]
    if directory is not None:
        disk, disk_cap = examine_disk(directory)
        findings += disk
        caps += [disk_cap] if disk_cap else []
    return Machine(findings, caps)


def _memory() -> tuple[int, int, int]:
    """Bytes: all, available, free in /dev/shm."""
    lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
    total, available = (int(lines[name].split()[0]) * 1024 for name in ("MemTotal", "MemAvailable"))
    shm = os.statvfs("/dev/shm")
    return total, available, shm.f_bavail * shm.f_frsize


def judge_cores(cores: int) -> Finding:
    """Those that this process may use."""
    if cores >= CORES:
        return ok("cores", f"{cores}")
    found = f"{cores}; capture, decode, write and centroids share them"
    judge = look if cores >= FEWEST_CORES else wrong
    return judge(
        "cores", found, f"{CORES} keep processing beside capture at high rates; with fewer it catches up later"
    )


def judge_memory(total: int, available: int, shm: int) -> Finding:
    """The pipeline of one chip stays under 1 GB; what it shares has no name in /dev/shm."""
    found = f"{total / 1e9:.1f} GB, {available / 1e9:.1f} GB available; /dev/shm {shm / 1e9:.1f} GB free"
    if available < LEAST_RAM_BYTES:
        return wrong("memory", found, "close other programs: the pipeline of one chip takes up to 1 GB")
    if available < RAM_BYTES:
        return look("memory", found, "4 GB available leave room for the session beside the pipeline (up to 1 GB)")
    return ok("memory", found)


def _rmem_max() -> int:
    return int(Path("/proc/sys/net/core/rmem_max").read_text())


def judge_buffer(buffer: Buffer, rmem_max: int) -> Finding:
    """What waits in the kernel while the receive thread does not run. rmem_max: net.core.rmem_max, in bytes."""
    jumbo = buffer.holds_bytes(JUMBO_BYTES)
    holds = ", ".join(f"{buffer.holds_bytes(n) / 1e6:.1f} MB at {n:,} B" for n in sorted(PAYLOAD_SHARE, reverse=True))
    found = (
        f"{buffer.granted_bytes / 1e6:.1f} MB granted; it holds in datagrams {holds}; "
        f"{jumbo / FULL_RATE * 1e3:.0f} ms at {FULL_MHIT_S:.0f} Mhit/s"
    )
    if buffer.granted_bytes < ENOUGH_BUFFER_BYTES:
        return wrong("receive buffer", found, REMEDY)
    of_others = 2 * rmem_max  # the kernel doubles what is asked for, for its own overhead
    if of_others < ENOUGH_BUFFER_BYTES:
        return look("receive buffer", f"{found}; a user without privileges gets {of_others / 1e6:.1f} MB", REMEDY)
    return ok("receive buffer", found)


def judge_loopback(trials: Sequence[LoopbackTrial]) -> tuple[Finding, Cap]:
    """The first rate without a loss, or what came in spite of losses."""
    last = trials[-1]
    tried = "; ".join(f"{t.hits_per_s / 1e6:.0f} Mhit/s, {t.lost_datagrams:,} lost" for t in trials[:-1])
    mhit_s = last.hits_per_s / 1e6
    found = (
        f"{mhit_s:.0f} Mhit/s in datagrams of {last.datagram_bytes:,} B, {last.lost_datagrams:,} of "
        f"{last.sent_datagrams:,} lost, {last.cpu_share:.0%} of a core" + (f" (before: {tried})" if tried else "")
    )
    if last.lost_datagrams:
        return wrong("capture", found, "stop other programs, enlarge the receive buffer"), Cap("capture", 0.0)
    cap = Cap("capture", min(FULL_MHIT_S, mhit_s))
    if len(trials) > 1:
        return look("capture", found, "stop other programs, enlarge the receive buffer; a core must be free"), cap
    if mhit_s < SENDER_KEPT_UP * last.wanted_hits_per_s / 1e6:
        remedy = "the sender of this trial, on the same cores, was no faster: run it again when the machine is idle"
        return look("capture", found, remedy), cap._replace(what="sender of the trial")
    return ok("capture", found), cap


def examine_disk(directory: Path) -> tuple[list[Finding], Cap | None]:
    """Speed and room. A disk with little room is not written to."""
    try:
        room = room_of(directory)
    except OSError as error:
        return [
            wrong("disk", f"{directory}: {error.strerror}", "give a directory that is there with --directory")
        ], None
    findings = [judge_room(room)]
    try:
        trial = disk_trial(directory)
    except OSError as error:
        where = f"{directory}: {error.strerror}"
        return [*findings, wrong("disk", where, "free space, or choose another directory that you may write to")], None
    finding, cap = judge_disk(trial, room)
    return [finding, *findings], cap


def judge_room(room: Room) -> Finding:
    """How long it lasts at the full rate of one chip."""
    if room.free_bytes >= UNKNOWN_FREE:
        return look("disk space", "the file system does not tell what is free", "watch it yourself: runs end when full")
    seconds = room.usable_bytes / FULL_RATE
    found = (
        f"{room.free_bytes / 1e9:.1f} GB free: {_duration(seconds)} at {FULL_RATE / 1e6:.0f} MB/s "
        f"({FULL_MHIT_S:.0f} Mhit/s); a recording ends at {room.stop_bytes / 1e9:.1f} GB"
    )
    if not room.usable_bytes:
        return wrong("disk space", found, "free space, or choose another data directory")
    if seconds < SHORT_S:
        return look("disk space", found, "free space before long exposures at high rates")
    return ok("disk space", found)


def judge_disk(trial: DiskTrial, room: Room) -> tuple[Finding, Cap]:
    """Against the full rate of one chip."""
    cap = Cap("disk", min(FULL_MHIT_S, trial.bytes_per_s / BYTES_PER_HIT / 1e6))
    way = "O_DIRECT" if trial.direct else "through the page cache: the file system refuses O_DIRECT"
    found = (
        f"{room.file_system or 'file system'}, {way}: {trial.bytes_per_s / 1e6:.0f} MB/s over "
        f"{trial.n_bytes / 1e6:.0f} MB, slowest write {trial.worst_write_s * 1e3:.0f} ms"
    )
    if room.file_system in IN_MEMORY:
        return look("disk", found, "this is memory, lost at a power cut: choose a directory on a disk"), cap
    if not trial.direct:
        return look("disk", found, "choose a directory on a local ext4 or xfs for the recordings"), cap
    if trial.bytes_per_s < FULL_RATE:
        return look("disk", found, f"{FULL_RATE / 1e6:.0f} MB/s take the full rate of a chip: an NVMe disk does"), cap
    if trial.worst_write_s > SLOW_WRITE_S:
        return look("disk", found, "a larger ring bridges pauses: Pipeline(ring_bytes=1 << 30)"), cap
    return ok("disk", found), cap


def verdict(caps: Sequence[Cap], *, disk_measured: bool) -> str:
    """What it means."""
    least = min(caps, key=lambda cap: cap.mhit_s)
    said = f"One chip at up to {least.mhit_s:.0f} Mhit/s"
    if least.mhit_s < FULL_MHIT_S * SENDER_KEPT_UP:
        said += f", limited by the {least.what}"
    return said + ("" if disk_measured else "; the disk was not measured: give --directory DIR")


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 2 * SHORT_S else f"{seconds / 60:.0f} min"
