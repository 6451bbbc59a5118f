"""How recordings are asked to be processed: from the index of our own ones, else from the files themselves."""

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from pydantic import ValidationError

from .. import __version__
from ..config import Geometry, Orientation, Processing
from ..config.geometry import GAP_MAX_PX
from ..config.text import explain
from ..decode.chunks import count_chunks
from ..files.reader import PRODUCT_KEY, read_about
from ..pipeline.messages import RecordedFile, RunRequest
from ..protocol.chip_config import column_phase
from ..protocol.words import MATRIX_SIDE, MAX_CHIPS
from ..spool.index import index_path, read_run
from ..spool.sources import Format, Recording
from .survey import slices

PYMEPIX_PLL: Final = 0x11E
NO_PHASE: Final = (0,) * (MATRIX_SIDE // 2)
LOOKED_AT_BYTES: Final = 16 << 20
"""Of a recording of another program, to find its chips. Who finds more of them later begins anew."""
MASTER_SUFFIX: Final = ".nxs"


def check_output(output: Path) -> None:
    """Nothing is in the way of an event file and its master. Raises OSError or ValueError."""
    if not output.parent.is_dir():
        raise FileNotFoundError(f"{output.parent} is no directory; create it first")
    if output.suffix in (MASTER_SUFFIX, ".tpx3"):
        raise ValueError(
            f"{output}: an event file must not end in {output.suffix}, which is for the recording (.tpx3) and the "
            f"NeXus master (.nxs); use .h5"
        )
    for path in (output, output.with_suffix(MASTER_SUFFIX)):
        if path.exists():
            raise FileExistsError(f"{path} exists and is never overwritten; remove it or choose another name")


def request_for(
    recordings: list[Recording], output: Path, processing: Processing, n_chips: int | None = None
) -> RunRequest:
    """How to decode these files. n_chips: at least so many; None: as many as are seen at once."""
    check_output(output)
    return request_without_check(recordings, output, processing, n_chips)


@dataclass(frozen=True)
class Placing:
    """Where the user wants the chips in the picture."""

    geometry: Geometry | None = None
    """None: that of the run that made the recording, else a single chip as it is, more in a square."""
    gap_px: int | None = None
    """Between the chips of the square, in place of what the run says."""
    orientation: Orientation = Orientation.UP

    def __post_init__(self) -> None:
        if self.gap_px is None:
            return
        if not 0 <= self.gap_px <= GAP_MAX_PX:
            raise ValueError(f"--gap-px is 0 to {GAP_MAX_PX} pixels between the chips of a quad, not {self.gap_px}")
        if self.geometry is not None:
            raise ValueError(
                f"--gap-px {self.gap_px} is for the chips of a quad, and --geometry says itself where each chip lies; "
                "give one of the two"
            )

    def remarks(self, n_chips: int) -> list[str]:
        """What comes to nothing with so many chips, and what to do: a line for each."""
        if self.gap_px is not None and n_chips == 1:
            return [f"--gap-px {self.gap_px} comes to nothing: a single chip has no gap beside it; leave it out"]
        placed = 0 if self.geometry is None else len(self.geometry.placements)
        if placed > n_chips:
            remark = (
                f"--geometry places {placed} chips, and the highest chip of the recordings is {n_chips - 1}: the rest "
                "of it comes to nothing; make sure that the first place is that of chip 0"
            )
            return [remark]
        return []

    def of(self, n_chips: int, own: Geometry | None) -> Geometry:
        """The geometry for so many chips. own: that of the run that made the recording."""
        if self.geometry is not None:
            chosen = self.geometry
        elif own is not None and self.gap_px is None:
            chosen = own
        else:
            chosen = Geometry.for_chips(n_chips) if self.gap_px is None else Geometry.for_chips(n_chips, self.gap_px)
        return chosen.turned(self.orientation)


AS_RECORDED: Final = Placing()


def request_without_check(
    recordings: list[Recording],
    output: Path,
    processing: Processing,
    n_chips: int | None = None,
    placing: Placing = AS_RECORDED,
) -> RunRequest:
    """The same for an output that may be there."""
    own = [run for run in map(own_run, recordings) if run is not None]
    n_chips = max([n_chips or chips_of(recordings), *(run.n_chips for run in own)])
    geometry = placing.of(n_chips, own[0].geometry if own and own[0].n_chips == n_chips else None)
    only = own[0] if len(own) == len(recordings) == 1 else None
    start, configuration = ({}, {}) if only is None else documents_of(recordings[0], only)
    if start:  # of the run, which this file is not: nobody shall take it for the run's own
        configuration = {**configuration, PRODUCT_KEY: str(recordings[0].path.absolute())}
    return RunRequest(
        event_file=output,
        processing=processing,
        n_chips=n_chips,
        geometry=geometry,
        timer_zero_iso=None if only is None else only.timer_zero_iso,
        start=start or {"plan_name": "process", "recordings": [str(r.path) for r in recordings]},
        configuration=configuration,
    )


def documents_of(recording: Recording, run: RunRequest) -> tuple[dict[str, Any], dict[str, Any]]:
    """Start document and configuration of the run that made this recording, from its event file, if that is there."""
    for path in (recording.path.with_name(run.event_file.name), run.event_file):
        with contextlib.suppress(OSError):
            return read_about(path, "start_document"), read_about(path, "configuration")
    return {}, {}


def recorded_file(recording: Recording, n_chips: int) -> RecordedFile:
    """A file with the column phase and the timer zero of its own words."""
    own = own_run(recording)
    if own is None:
        general = () if recording.general is None else (recording.general,) * n_chips
        return RecordedFile(path=recording.path.resolve(), phase=_phase(recording, n_chips), general=general)
    phase = None if own.phase is None else own.phase + (NO_PHASE,) * (n_chips - own.n_chips)
    path = recording.path.resolve()
    return RecordedFile(path=path, phase=phase, general=own.general, timer_zero_ns=own.timer_zero_ns)


def recorded_processing(recordings: list[Recording]) -> Processing:
    """How the run that made the first of these recordings was processed, if that is one of ours."""
    return next((run.processing for run in map(own_run, recordings) if run is not None), Processing())


def own_run(recording: Recording) -> RunRequest | None:
    """The run that made this recording, if it is one of ours. Raises ValueError when another version described it."""
    return run_of_index(recording.path) if recording.chunked else None


def run_of_index(recording: Path) -> RunRequest | None:
    """The run that made a recording; None: its index, if it has one, is none of ours.

    Raises ValueError when that describes the run in a way that this version does not know.
    """
    try:
        run = read_run(recording)
        return None if run is None else RunRequest.model_validate(run)
    except ValueError as error:
        index = index_path(recording)
        raise ValueError(
            f"{index} describes its run as ophyd_timepix {__version__} does not know it: {_told(error)}; use the "
            "version that recorded it, or move the index away: then the words are read as those of another program"
        ) from error


def _told(error: ValueError) -> str:
    return explain(error, RunRequest) if isinstance(error, ValidationError) else str(error)


def with_chip_words(recording: Recording, general: int | None, pll: int | None) -> Recording:
    """The same with what the user says of its chips' GENCONFIG and PLLCONFIG. None: nothing.

    Raises ValueError for a recording whose index tells them.
    """
    given = {name: word for name, word in (("general", general), ("pll", pll)) if word is not None}
    if given and own_run(recording) is not None:
        options = " and ".join(f"--{name}-config 0x{word:03X}" for name, word in given.items())
        raise ValueError(
            f"{recording.path}: its index tells how its chips were set; {options} is for recordings without one: "
            "process them by themselves"
        )
    return recording.model_copy(update=given)


def chips_of(recordings: list[Recording]) -> int:
    """One more than the highest chip index that a board can have, as far as one sees at once."""
    return max([1, *(_highest_chip(recording) + 1 for recording in recordings)])


def _highest_chip(recording: Recording) -> int:
    if not recording.chunked or own_run(recording) is not None:
        return 0
    chunks = np.zeros(256, np.int64)
    skip = 0
    for piece in slices(recording):
        skip = count_chunks(piece.words, skip, chunks)
        if piece.address + piece.words.nbytes >= LOOKED_AT_BYTES:
            break
    return max(np.flatnonzero(chunks[:MAX_CHIPS]).tolist(), default=0)


def _phase(recording: Recording, n_chips: int) -> tuple[tuple[int, ...], ...] | None:
    """`.tpx3` of servers is corrected already. A `.dat` has the PLL word in its header; Pymepix sets 16 phases (0x11E).

    What the user says goes before. Raises ValueError for a PLL word whose phases are not known.
    """
    if recording.format is Format.TPX3 and recording.pll is None:
        return None
    return (column_phase(PYMEPIX_PLL if recording.pll is None else recording.pll),) * n_chips
