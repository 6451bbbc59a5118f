"""An event file made from recordings: part by part, here or on a cluster, put together, and given its name at the end.

Nothing that could be taken for the whole bears the output's name before it is whole. What a kill leaves are finished
parts in a directory beside it, with which `--resume` goes on.
"""

import json
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from ..config import Processing
from ..files.master import PROVENANCE, adopt_master, try_to_write_master
from ..files.merge import add_text, merge_event_files
from ..files.naming import give_its_name
from ..files.reader import read_about, read_ledger
from ..files.sharing import share
from ..pipeline.client import Pipeline
from ..pipeline.ledger import add_ledgers
from ..pipeline.messages import Progress, RunRequest
from ..spool.sources import Recording
from .asking import AS_RECORDED, MASTER_SUFFIX, Placing, check_output, recorded_file, request_without_check
from .cluster_jobs import Computed, run_on_cluster
from .meter import Meter
from .part_runner import MoreChips, SkippedError, run_part
from .parts import PART_BYTES, Job, Part, PartsError, PartStore, cut_into_parts, ends_of, files_of
from .provenance import Hasher, about, chip_words, code_version, input_files, sha256_of

log = logging.getLogger(__name__)

MERGED: Final = "merged.tmp"


@dataclass(frozen=True)
class Wish:
    """What a product is made from, and how."""

    recordings: Sequence[Recording]
    output: Path
    processing: Processing
    placing: Placing = AS_RECORDED
    command: Sequence[str] = ()
    workers: int = 1
    dask: str | None = None
    """`local`, `local:N` or the address of a scheduler; None: here."""
    resume: bool = False
    strict: bool = False
    hash_inputs: bool = True
    part_bytes: int = PART_BYTES
    quiet: bool = True


@dataclass(frozen=True)
class Product:
    """A finished event file."""

    event_file: Path
    master: Path | None
    problem: str
    """Why there is no master."""
    n_chips: int
    ledger: Mapping[str, Any] = field(repr=False)
    parts: int
    """Of how many parts it is made."""
    parts_before: int
    """So many of them by an earlier call."""
    seconds: float
    """From the first word to the finished file, of this call."""
    hits: int
    """Of this call."""


def make_product(wish: Wish) -> Product:
    """Make it, or go on with it. Raises OSError, ValueError, PartsError, SkippedError (strict) or PipelineError."""
    if wish.strict:
        _refuse_truncated(wish.recordings)
    if wish.resume and wish.output.exists():
        return _made_before(wish)
    check_output(wish.output)
    n_chips = PartStore.chips_of(wish.output) if wish.resume else None
    while True:
        try:
            return _Making(wish, n_chips).run()
        except MoreChips as more:
            n_chips = more.n_chips


def truncated(recordings: Sequence[Recording]) -> list[str]:
    """Recordings that do not end with a whole word."""
    return [
        f"{r.path}: the last {r.truncated_bytes} bytes are no whole word, the recording was cut off"
        for r in recordings
        if r.truncated_bytes
    ]


def _refuse_truncated(recordings: Sequence[Recording]) -> None:
    for line in truncated(recordings):
        raise SkippedError(line)


class _Making:
    """One attempt with a given number of chips."""

    def __init__(self, wish: Wish, n_chips: int | None) -> None:
        self.wish = wish
        self.recordings = list(wish.recordings)
        self.request = request_without_check(self.recordings, wish.output, wish.processing, n_chips, wish.placing)
        self.parts = cut_into_parts(self.recordings, wish.part_bytes)
        self.inputs = input_files(self.recordings)
        self.version = code_version()
        self.parameters = parameters_sha256(self.request, self.recordings)
        self._master: Path | None = None
        """Of the only part: that of the output, but for what it says about its making."""

    def run(self) -> Product:
        """Raises MoreChips when the attempt was with too few."""
        store = PartStore.open(self.wish.output, self._identity(), resume=self.wish.resume)
        keep = True
        try:
            product = self._make(store)
            keep = False
            return product
        except (MoreChips, SkippedError):
            keep = False
            raise
        finally:
            store.close(keep=keep)

    def _identity(self) -> dict[str, Any]:
        return {
            "version": self.version,
            "parameters_sha256": self.parameters,
            "part_bytes": self.wish.part_bytes,
            "n_chips": self.request.n_chips,
            "inputs": [{"path": str(path.resolve()), "bytes": path.stat().st_size} for path in self.inputs],
            "changed_ns": [path.stat().st_mtime_ns for path in self.inputs],
        }

    def _make(self, store: PartStore) -> Product:
        done = store.done()
        total = sum(part.n_bytes for part in self.parts)
        with Hasher(self._stops()) as hasher, Meter(total, quiet=self.wish.quiet) as meter:
            if done and store.inputs_were_touched(self._identity()):
                self._refuse_without_digests(store)
                meter.say("comparing the inputs with those of the finished parts")
                self._compare(store, hasher)
            hits, begin = self._fill(store, hasher, meter)
            meter.say("reading the rest of the inputs for their sha256")
            self._compare(store, hasher)
            digests = {path: hasher.digest(path) if self.wish.hash_inputs else None for path in self.inputs}
            meter.say("finishing the event file")
            ledger = self._put_in_place(store, digests)
        master, problem = write_missing_master(self.wish.output, self.request, ledger, self._master)
        seconds = time.monotonic() - begin
        return Product(
            self.wish.output, master, problem, self.request.n_chips, ledger, len(self.parts), len(done), seconds, hits
        )

    def _stops(self) -> dict[Path, list[int]]:
        """Of each input the places where parts end."""
        if not self.wish.hash_inputs:
            return {}
        stops: dict[Path, list[int]] = {path: [] for path in self.inputs}
        for part in self.parts:
            for path, stop in ends_of(part, self.recordings).items():
                stops[path].append(stop)
        return stops

    def _refuse_without_digests(self, store: PartStore) -> None:
        """Inputs have another date now, and only a sha256 could tell whether they are the same."""
        if not self.wish.hash_inputs or not all(done.digests for done in store.done().values()):
            raise PartsError(
                f"inputs were written to since the finished parts in {store.directory} were begun, and without their "
                "sha256 (--no-hash) nobody can tell whether they are the same; remove that directory to begin anew"
            )

    def _compare(self, store: PartStore, hasher: Hasher) -> None:
        """Are the inputs those that finished parts were made from?"""
        if not self.wish.hash_inputs:
            return
        for done in store.done().values():
            for name, (stop, digest) in done.digests.items():
                if hasher.digest(Path(name), stop) != digest:
                    raise PartsError(
                        f"{name} is not what the finished parts in {store.directory} were made from (another sha256); "
                        "remove that directory to begin anew"
                    )

    def _fill(self, store: PartStore, hasher: Hasher, meter: Meter) -> tuple[int, float]:
        """Make the parts that are missing. Returns their hits and when the first was begun."""
        done = store.done()
        missing = [part for part in self.parts if part.number not in done]
        counter = _Counter(self.parts, set(done), hasher, meter)
        begin = time.monotonic()
        if not missing:
            return 0, begin
        made = self._on_cluster(store, missing, hasher) if self.wish.dask else self._here(store, missing, counter)
        with ThreadPoolExecutor(1) as keeper:  # while a part is brought to the disk, the next is processed
            kept: Future[None] | None = None
            for number, path, ledger in made:
                if number == 0:
                    begin = time.monotonic()
                    continue
                counter.finished(number, ledger["hits"])
                if kept is not None:
                    kept.result()
                kept = keeper.submit(self._keep, store, hasher, number, path, ledger)
            if kept is not None:
                kept.result()
        return counter.hits, begin

    def _keep(self, store: PartStore, hasher: Hasher, number: int, path: Path, ledger: Mapping[str, Any]) -> None:
        digests = self._digests(self.parts[number - 1], hasher)
        store.finish(number, path, ledger, digests, durable=len(self.parts) > 1)

    def _digests(self, part: Part, hasher: Hasher) -> dict[str, tuple[int, str]]:
        if not self.wish.hash_inputs:
            return {}
        ends = ends_of(part, self.recordings)
        return {str(path): (stop, hasher.digest(path, stop)) for path, stop in ends.items()}

    def _job(self, part: Part, store: PartStore) -> Job:
        return Job(
            number=part.number,
            request=self.request,
            files=files_of(part, self.recordings, self.request.n_chips),
            directory=store.directory,
            strict=self.wish.strict,
        )

    def _here(self, store: PartStore, parts: Sequence[Part], counter: "_Counter") -> Iterator[Computed]:
        with Pipeline(workers=self.wish.workers) as pipeline:
            yield STARTED
            for part in parts:
                job = self._job(part, store)
                path = job.new_path()
                counter.begin(part.number)
                alone = len(self.parts) == 1
                self._master = path.with_suffix(MASTER_SUFFIX) if alone else None
                yield Computed(part.number, path, run_part(pipeline, job, path, counter.see, master=alone))

    def _on_cluster(self, store: PartStore, parts: Sequence[Part], hasher: Hasher) -> Iterator[Computed]:
        hasher.follow(None)
        jobs = [self._job(part, store) for part in parts]
        yield from run_on_cluster(self.wish.dask or "", jobs, workers=self.wish.workers)

    def _put_in_place(self, store: PartStore, digests: Mapping[Path, str | None]) -> dict[str, Any]:
        """The output gets its name. Returns its ledger."""
        done = [store.done()[part.number] for part in self.parts]
        ledger = add_ledgers([one.ledger for one in done])
        told = about(self.wish.command, self.version, self.parameters, self.inputs, digests)
        told |= chip_words(self.recordings)
        if len(done) == 1:
            # Killed while it is written to, a file of HDF5 opens no more: then the part is missing, and made again.
            made = done[0].path.rename(store.directory / MERGED)
            add_text(made, PROVENANCE, json.dumps(told))
        else:
            made = store.directory / MERGED
            merge_event_files(
                [one.path for one in done],
                made,
                ledger=ledger,
                texts={PROVENANCE: json.dumps(told)},
                count_through=len(self.recordings) > 1,
            )
        share(made)
        give_its_name(made, self.wish.output)
        return ledger


STARTED: Final = Computed(0, Path(), {})
"""Comes before the first part: the processes are there."""


class _Counter:
    """How far all parts are together."""

    def __init__(self, parts: Sequence[Part], done: set[int], hasher: Hasher, meter: Meter) -> None:
        self._parts = parts
        self._done = set(done)
        self._hasher = hasher
        self._meter = meter
        self._before = 0
        self.hits = 0

    def begin(self, number: int) -> None:
        """A part is processed here; those before it are done."""
        self._before = sum(part.n_bytes for part in self._parts[: number - 1])

    def see(self, progress: Progress) -> None:
        """A look at the part that is processed here."""
        self._hasher.follow(self._before + progress.decoded_bytes)
        self._meter.show(self._bytes() + progress.decoded_bytes, self.hits + progress.hits)

    def finished(self, number: int, hits: int) -> None:
        """A part is made."""
        self._done.add(number)
        self.hits += hits
        self._meter.show(self._bytes(), self.hits)

    def _bytes(self) -> int:
        return sum(part.n_bytes for part in self._parts if part.number in self._done)


def parameters_sha256(request: RunRequest, recordings: Sequence[Recording]) -> str:
    """Of all that decides about the rows, beside the words and the code."""
    names = ("processing", "geometry", "n_chips", "tof_range_ns", "tof_bins")
    told = request.model_dump(mode="json", include=set(names))
    files = [recorded_file(recording, request.n_chips) for recording in recordings]
    return sha256_of(told | {"files": [file.model_dump(mode="json", exclude={"path"}) for file in files]})


def write_missing_master(
    event_file: Path, request: RunRequest, ledger: Mapping[str, Any], made: Path | None = None
) -> tuple[Path | None, str]:
    """The master beside a finished event file. Returns its path, or why there is none: that fails nothing.

    made: one of the same rows, if it exists; it is taken.
    """
    master = event_file.with_suffix(MASTER_SUFFIX)
    if master.exists():
        return master, ""
    configuration = {"request": request.description(), **request.configuration}
    told: dict[str, Mapping[str, Any]] = {"start": request.start, "configuration": configuration, "ledger": ledger}
    if made is not None and made.exists():
        try:
            adopt_master(made, master, event_file, told)
            return master, ""
        except (OSError, RuntimeError) as error:
            log.warning("%s is written anew: %s", master, error)
    problem = try_to_write_master(master, event_file, told)
    return None if problem else master, problem


def _made_before(wish: Wish) -> Product:
    """The output is there: is it what is asked for?"""
    told = read_about(wish.output, PROVENANCE)
    if not told:
        raise FileExistsError(f"{wish.output} exists and does not say how it was made; choose another name")
    making = _Making(wish, int(read_about(wish.output, "run")["n_chips"]))
    inputs = [{"path": str(path.absolute()), "bytes": path.stat().st_size} for path in making.inputs]
    before = [{name: one[name] for name in ("path", "bytes")} for one in told["inputs"]]
    differing = [
        meaning
        for meaning, differs in (
            ("version of the program", told["version"] != making.version),
            ("parameters", told["parameters_sha256"] != making.parameters),
            ("inputs", inputs != before),
        )
        if differs
    ]
    if not differing and wish.hash_inputs and all(one["sha256"] for one in told["inputs"]):
        with Hasher({path: [] for path in making.inputs}) as hasher:
            hasher.follow(None)
            if [hasher.digest(path) for path in making.inputs] != [one["sha256"] for one in told["inputs"]]:
                differing = ["contents of the inputs"]
    if differing:
        raise PartsError(f"{wish.output} exists, made with other {' and '.join(differing)}; choose another name")
    ledger = read_ledger(wish.output)
    master, problem = write_missing_master(wish.output, making.request, ledger)
    PartStore.remove(wish.output)
    n_parts = len(making.parts)
    return Product(wish.output, master, problem, making.request.n_chips, ledger, n_parts, n_parts, 0.0, 0)
