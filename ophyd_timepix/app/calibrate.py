"""`ophyd-timepix calibrate`: time-walk of the chips, from recordings. Everything else in a calibration is kept."""

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np

from ..clock import ns_to_ticks
from ..config import Calibration, Geometry, Processing
from ..config.calibration import N_TOT, walk_ns
from ..config.errors import FileThere
from ..decode.decoder import Decoder, Framing
from ..events.block import BlockArrays
from ..events.builder import BlockBuilder
from ..events.centroid import CentroidFinder
from ..events.walk import Delays, delays_of, fit_time_walk, join_delays, time_walk_table
from ..protocol.words import MAX_CHIPS
from ..spool.index import timer_estimate
from ..spool.sources import Recording, open_recording
from .asking import chips_of, own_run, recorded_file, recorded_processing, with_chip_words
from .process import add_chip_arguments, processing_of
from .survey import slices

ENOUGH: Final = 5_000_000
"""Hits that are looked at: more say nothing new."""
SHOWN_TOT: Final = (2, 5, 10, 20, 50, 100, 200)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    actions = parser.add_subparsers(title="what to do", dest="action", required=True, metavar="ACTION")
    walk = actions.add_parser("time-walk", help="from how much later small hits of a cluster come than its largest")
    walk.add_argument("files", nargs="+", type=Path, metavar="FILE", help=".tpx3, Pymepix .raw or SPIDR .dat")
    walk.add_argument("-o", "--output", type=Path, required=True, metavar="FILE.npz", help="calibration to write")
    walk.add_argument("--model", choices=("formula", "table"), default="formula", help="default: formula")
    walk.add_argument("--into", type=Path, metavar="FILE.npz", help="keep offsets and energies of this calibration")
    walk.add_argument("--overwrite", action="store_true", help="replace what is there")
    walk.add_argument("--at-most", type=int, default=ENOUGH, metavar="N", help="hits to look at (default %(default)s)")
    walk.add_argument(
        "--leave-out", type=int, nargs="+", default=[], choices=range(MAX_CHIPS), metavar="CHIP",
        help="chips whose times are not to be corrected",
    )  # fmt: skip
    add_chip_arguments(walk)
    group = walk.add_argument_group("clusters", argument_default=argparse.SUPPRESS)
    for name in ("--radius-px", "--window-ns"):
        group.add_argument(name, type=float)


def run(options: argparse.Namespace) -> int:
    """Measure, and write the file."""
    recordings = [
        with_chip_words(open_recording(path), options.general_config, options.pll_config) for path in options.files
    ]
    before = None if options.into is None else Calibration.load(options.into)
    wanted = processing_of(options, recorded_processing(recordings))
    made = measure_time_walk(
        recordings, wanted, model=options.model, enough=options.at_most, leave_out=options.leave_out
    )
    if before is not None:
        made = replace(before, time_walk_abc=made.time_walk_abc, time_walk_table_ns=made.time_walk_table_ns)
    try:
        path = made.save(options.output, overwrite=options.overwrite)
    except FileThere as there:
        raise FileThere(there.path, "--overwrite") from None
    print(_as_text(made))
    print(f"wrote {path}")
    return 0


def measure_time_walk(
    recordings: list[Recording],
    processing: Processing,
    *,
    model: str = "formula",
    enough: int = ENOUGH,
    leave_out: Sequence[int] = (),
) -> Calibration:
    """The time-walk of all chips of some recordings. model: 'formula' or 'table'. enough: hits that are looked at, of
    all recordings together. leave_out: chips whose time-walk is set to 0.

    Raises ValueError for a chip with too few hits.
    """
    if enough < 1:
        raise ValueError(f"--at-most is 1 or more hits to look at, not {enough}")
    wanted = {"hits": True, "calibration": None, "min_samples": 1, "min_size": 2, "split": False}
    processing = Processing.model_validate({**processing.model_dump(), **wanted})
    parts: list[Delays] = []
    n = 0
    n_chips = max(_chips_of(recording) for recording in recordings)
    for recording in recordings:
        if n >= enough:
            break
        for block in clustered(recording, processing, n_chips):
            parts.append(delays_of(block))
            n += len(parts[-1].tot)
            if n >= enough:
                break
    if not parts:
        raise ValueError("the recordings have no hits")
    delays = join_delays(parts)
    told = f"time-walk of {len(delays.tot)} hits of {', '.join(recording.path.name for recording in recordings)}"
    told += "".join(f", without chip {chip}" for chip in leave_out)
    if model == "table":
        table = [np.zeros(N_TOT) if chip in leave_out else time_walk_table(delays, chip) for chip in range(n_chips)]
        return Calibration(time_walk_table_ns=np.stack(table), comment=told)
    formula = [np.zeros(3) if chip in leave_out else fit_time_walk(delays, chip) for chip in range(n_chips)]
    return Calibration(time_walk_abc=np.stack(formula), comment=told)


def _chips_of(recording: Recording) -> int:
    own = own_run(recording)
    return chips_of([recording]) if own is None else own.n_chips


def clustered(recording: Recording, processing: Processing, n_chips: int) -> Iterator[BlockArrays]:
    """The blocks of a recording, one after the other in the same memory, with clusters and their hits."""
    file = recorded_file(recording, n_chips)
    phase = None if file.phase is None else np.asarray(file.phase, np.int32)
    framing = Framing.TPX3 if recording.chunked else Framing.RAW
    decoder = Decoder(framing, n_chips, phase, ns_to_ticks(processing.lateness_ns), general=file.general)
    builder, block = BlockBuilder(processing, n_chips), BlockArrays()
    finder = CentroidFinder(processing, Geometry.for_chips(n_chips).table())
    for piece in slices(recording):
        builder.add(decoder.decode(piece.words, timer_estimate(piece.host_ns, file.timer_zero_ns)))
        while builder.take(block):
            finder.process(block)
            yield block
    builder.add(decoder.flush())
    more = True
    while more:
        more = builder.flush(block)
        finder.process(block)
        yield block


def _as_text(made: Calibration) -> str:
    lines = ["chip  " + "  ".join(f"ToT {tot:>3}" for tot in SHOWN_TOT) + "  (ns)"]
    for chip in range(made.n_chips):
        if made.time_walk_table_ns is not None:
            walks = made.time_walk_table_ns[chip][list(SHOWN_TOT)]
        elif made.time_walk_abc is not None:
            walks = walk_ns(made.time_walk_abc[chip], np.array(SHOWN_TOT))
        else:
            continue
        lines.append(f"{chip:>4}  " + "  ".join(f"{ns:>7.2f}" for ns in walks))
    return "\n".join(lines)
