"""`ophyd-timepix process`: recordings to centroids, through the same decode and centroid code as a live run."""

import argparse
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any, Final, TypeVar

from pydantic import ValidationError

from ..config import (
    CentroidTime,
    Edge,
    Geometry,
    Metric,
    MissingTriggers,
    Orientation,
    Processing,
)
from ..config.calibration import NONE
from ..config.masked_pixels import Pixel, checked, parse_pixels, read_pixels
from ..config.text import explain
from ..protocol.chip_config import ConfigWord, GeneralConfig, PllConfig
from ..spool.sources import Recording, open_recording
from .asking import Placing, recorded_processing, with_chip_words
from .meter import speed
from .part_runner import places, skipped
from .parts import PART_BYTES, PartStore
from .product import Product, Wish, make_product, truncated

E = TypeVar("E", bound=StrEnum)

SPLIT_LIMITS: Final = {"split_radius_px", "split_time_ns"}
"""Of use with `split` alone."""
PLACES_SHOWN: Final = 5
"""Of what was passed over, on standard error."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help=".tpx3, Pymepix .raw or SPIDR .dat")
    parser.add_argument("-o", "--output", type=Path, required=True, help="event file to write (.h5); never overwritten")
    parser.add_argument("--workers", type=int, default=1, help="centroid processes (default 1)")
    parser.add_argument("--strict", action="store_true", help="fail at once when anything has to be skipped")
    parser.add_argument("--resume", action="store_true", help="go on with what an interrupted call has finished")
    parser.add_argument(
        "--dask", metavar="WHERE", help="parts on a Dask cluster: local, local:N (processes) or tcp://HOST:PORT"
    )
    parser.add_argument(
        "--part-mb", type=float, default=PART_BYTES / 1e6, metavar="MB",
        help="acquisitions are processed in parts of at least this size (default %(default).0f)",
    )  # fmt: skip
    parser.add_argument(
        "--geometry", type=geometry_file, metavar="FILE", help="JSON: where each chip lies in the picture"
    )
    parser.add_argument("--gap-px", type=int, help="between the chips of a quad (default 4, or as recorded)")
    parser.add_argument("--orientation", type=one_of(Orientation), metavar=choices(Orientation), default=Orientation.UP)
    add_chip_arguments(parser)
    parser.add_argument("--no-hash", action="store_true", help="do not read the inputs once more for their sha256")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    parser.add_argument("--quiet", action="store_true", help="print nothing but problems")
    add_processing_arguments(parser)


def add_chip_arguments(parser: argparse.ArgumentParser) -> None:
    """How the chips of a recording were set, where nothing in it tells."""
    for option, word in (("--general-config", GeneralConfig), ("--pll-config", PllConfig)):
        parser.add_argument(
            option, type=chip_word(word), metavar="WORD",
            help=f"of the chips of recordings without an index, 0 to 0x{(1 << word.BITS) - 1:X}",
        )  # fmt: skip


def add_processing_arguments(parser: argparse.ArgumentParser) -> None:
    """Options that `process` and `record` share: each a field of `Processing`. Those not given are not there."""
    group = parser.add_argument_group("processing", argument_default=argparse.SUPPRESS)
    group.add_argument("--radius-px", type=float)
    group.add_argument("--window-ns", type=float)
    group.add_argument("--min-samples", type=int)
    group.add_argument("--min-size", type=int)
    group.add_argument("--metric", type=one_of(Metric), metavar=choices(Metric))
    group.add_argument("--split", action=argparse.BooleanOptionalAction, help="cut up clusters of several particles")
    group.add_argument("--split-radius-px", type=float)
    group.add_argument("--split-time-ns", type=float)
    group.add_argument("--centroid-time", type=one_of(CentroidTime), metavar=choices(CentroidTime))
    group.add_argument("--tof-min-ns", type=float)
    group.add_argument("--tof-max-ns", type=float)
    group.add_argument("--tot-min", type=int, help="smallest ToT of a hit that counts (25 ns counts)")
    group.add_argument("--tot-max", type=int, help="largest")
    group.add_argument(
        "--masked-pixels",
        type=masked_pixels,
        metavar="FILE|LIST",
        help="hits to leave out: chip,x,y chip,x,y ..., or none",
    )
    group.add_argument("--calibration", metavar="FILE", help="FILE.npz, or none")
    group.add_argument("--lateness-ns", type=float)
    group.add_argument("--trigger-input", type=int, choices=(1, 2))
    group.add_argument("--trigger-edge", type=one_of(Edge), metavar=choices(Edge))
    group.add_argument("--trigger-period-ns", type=float)
    group.add_argument("--missing-triggers", type=one_of(MissingTriggers), metavar=choices(MissingTriggers))
    group.add_argument("--trigger-delay-ns", type=float, help="a shot opens so much after its trigger")
    group.add_argument("--trigger-prescale", type=int, metavar="N", help="every N-th trigger opens a shot")
    group.add_argument("--hits", action=argparse.BooleanOptionalAction, help="write the hit columns too")


def choices(kind: type[StrEnum]) -> str:
    """How they stand in the usage."""
    return "{" + ",".join(kind) + "}"


def one_of(kind: type[E]) -> Callable[[str], E]:
    """Reads one of these words. argparse asks for the type before its own choices, and so would not tell them."""

    def read(text: str) -> E:
        if text not in list(kind):
            raise argparse.ArgumentTypeError(f"{text!r} is none of {', '.join(kind)}")
        return kind(text)

    return read


def chip_word(kind: type[ConfigWord]) -> Callable[[str], int]:
    """Reads such a word of a chip: decimal, or with 0x."""
    largest = (1 << kind.BITS) - 1

    def read(text: str) -> int:
        try:
            word = int(text, 0)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is no word of a chip; give it as 0x11E or 286") from None
        if not 0 <= word <= largest:
            raise argparse.ArgumentTypeError(f"{text} is no word of {kind.BITS} bits, 0 to 0x{largest:X}")
        return word

    return read


def geometry_file(text: str) -> Geometry:
    """The geometry in a file of JSON."""
    try:
        return Geometry.model_validate_json(Path(text).read_text())
    except (ValueError, OSError) as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def masked_pixels(text: str) -> tuple[Pixel, ...]:
    """The pixels of a file, or of a list on the command line; none of them for `none`."""
    if text == NONE:
        return ()
    try:
        return _pixels_of(text)
    except (ValueError, OSError) as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _pixels_of(text: str) -> tuple[Pixel, ...]:
    if _is_file(text):
        return read_pixels(Path(text))
    if not text.strip():
        raise ValueError(f"no pixel is given; say {NONE} to leave out none")
    if "," not in text:
        raise ValueError(f"there is no file {text}, and it is no list of pixels (chip,x,y chip,x,y ...)")
    return checked(parse_pixels(text))


def _is_file(text: str) -> bool:
    try:
        return Path(text).is_file()
    except OSError:  # a list may be longer than any name
        return False


def processing_of(options: argparse.Namespace, otherwise: Processing | None = None) -> Processing:
    """The validated parameters of a command line. otherwise: where those come from that it does not give."""
    given = {name: getattr(options, name) for name in Processing.model_fields if hasattr(options, name)}
    try:
        chosen = Processing.model_validate({**(otherwise or Processing()).model_dump(), **given})
    except ValidationError as error:
        raise ValueError(explain(error, Processing)) from None
    if not chosen.split:
        _refuse_limits_of_split(given)
    return chosen


def _refuse_limits_of_split(given: Mapping[str, Any]) -> None:
    for name in SPLIT_LIMITS & given.keys():
        raise ValueError(
            f"--{name.replace('_', '-')} {given[name]:g} comes to nothing as no clusters are cut up: "
            "add --split, or leave it out"
        )


def run(options: argparse.Namespace) -> int:
    """Process the files; exit code 1 when something could not be read or accounted for."""
    begin = time.monotonic()
    recordings = [
        with_chip_words(open_recording(path), options.general_config, options.pll_config) for path in options.files
    ]
    wish = Wish(
        recordings=recordings,
        output=options.output.resolve(),
        processing=processing_of(options, recorded_processing(recordings)),
        placing=Placing(options.geometry, options.gap_px, options.orientation),
        command=options.words,
        workers=options.workers,
        dask=options.dask,
        resume=options.resume,
        strict=options.strict,
        hash_inputs=not options.no_hash,
        part_bytes=_part_bytes(options.part_mb),
        quiet=options.json or options.quiet,
    )
    try:
        product = make_product(wish)
    except (Exception, KeyboardInterrupt):
        _tell_what_is_kept(wish.output)
        raise
    for remark in (*wish.processing.remarks(product.n_chips), *wish.placing.remarks(product.n_chips)):
        print(f"ophyd-timepix: {remark}", file=sys.stderr)
    result = result_of(product)
    if options.json:
        print(json.dumps(result))
    elif not options.quiet:
        print_result(result, product, time.monotonic() - begin)
    return exit_code(recordings, product)


def _part_bytes(megabytes: float) -> int:
    if not 0 < megabytes <= 1e6:
        raise ValueError(f"--part-mb is more than 0 and at most 1000000 (MB), not {megabytes:g}")
    return max(1, round(megabytes * 1e6))


def _tell_what_is_kept(output: Path) -> None:
    kept = PartStore.finished(output)
    if kept:
        print(
            f"ophyd-timepix: {kept} finished parts are kept beside {output}: the same command with --resume goes on",
            file=sys.stderr,
        )


def result_of(product: Product) -> dict[str, Any]:
    """What `--json` prints."""
    ledger = product.ledger
    return {
        "words": ledger["decoded_words"],
        "hits": ledger["hits"],
        "triggers": ledger["triggers"],
        "shots": ledger["shots"],
        "clusters": ledger["clusters"],
        "centroids": ledger["centroids"],
        "parts": product.parts,
        "parts_resumed": product.parts_before,
        "seconds": round(product.seconds, 6),
        "hits_per_second": round(product.hits / product.seconds, 1) if product.seconds else 0.0,
        "ledger": ledger,
    }


def print_result(result: dict[str, Any], product: Product, seconds: float) -> None:
    """The same for people."""
    for name in ("words", "hits", "triggers", "shots", "clusters", "centroids"):
        print(f"{name:>12} {result[name]:>15,}")
    print(f"{'unaccounted':>12} {result['ledger']['unaccounted']:>15,}")
    print(result["ledger"]["verdict"])
    rate = speed(product.hits, product.seconds, digits=2)
    print(f"{rate and f'{rate} in '}{result['seconds']:.2f} s ({seconds:.2f} s with start-up)")
    if product.parts_before:
        print(f"{product.parts_before} of {product.parts} parts were finished before")
    print(f"event file {product.event_file}")
    if product.master is not None:
        print(f"NeXus file {product.master}")


def exit_code(recordings: Sequence[Recording], product: Product) -> int:
    """0 only when every byte was read and every word is accounted for; what is wrong is told on stderr."""
    problems = [*truncated(recordings), *skipped(product.ledger)]
    for problem in problems:
        print(f"ophyd-timepix: {problem}; everything else was processed", file=sys.stderr)
    found = places(product.ledger)
    for place in found[:PLACES_SHOWN]:
        print(f"ophyd-timepix: {place}", file=sys.stderr)
    if len(found) > PLACES_SHOWN:
        print(f"ophyd-timepix: the ledger has more places (skipped_at: {len(found)})", file=sys.stderr)
    if product.problem:
        print(f"ophyd-timepix: {product.problem}", file=sys.stderr)
    return 1 if problems or product.problem else 0
