"""`ophyd-timepix config`: settings in files: show them, compare them with another file or a board, convert them."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from ..config import BoardConfig, ConfigError, DetectorConfig, Difference, diff
from ..config.errors import FileThere
from ..config.files import SPX, paths_of, read
from ..config.sophy import export_spx, import_spx
from ..config.text import to_text

DIFFERENT = 1
"""Exit code of a comparison that found differences, as of diff(1)."""

TARGETS = ("", ".yaml", ".yml", SPX)
"""How the name of what is written may end."""

_FILE_HELP = "NAME.yaml with its NAME.matrix.npz, or SoPhy's .spx"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    actions = parser.add_subparsers(title="what to do", dest="action", required=True, metavar="ACTION")

    show = actions.add_parser("show", help="the settings in a file, or of a board")
    show.add_argument("file", nargs="?", type=Path, metavar="FILE", help=_FILE_HELP)
    _add_address(show)
    show.add_argument("--json", action="store_true", help="print one JSON object, with digests in place of pixels")

    compare = actions.add_parser("diff", help="what differs between two files, or between a file and a board")
    compare.add_argument("left", type=Path, metavar="FILE", help=_FILE_HELP)
    compare.add_argument("right", nargs="?", type=Path, metavar="OTHER", help=_FILE_HELP)
    _add_address(compare)
    compare.add_argument("--json", action="store_true", help="print one JSON list of path, left and right")

    convert = actions.add_parser("convert", help="from .spx to .yaml or back; from .yaml to .yaml: check and sign anew")
    convert.add_argument("source", type=Path, metavar="FILE", help=_FILE_HELP)
    convert.add_argument("target", type=Path, metavar="TARGET", help="a new .yaml or .spx")
    convert.add_argument("--chip", type=int, help="number of the chip (default: 0 from .spx; the only one to .spx)")
    convert.add_argument("--test-bits", action="store_true", help="take over the test bits of an .spx too")
    convert.add_argument("--overwrite", action="store_true", help="replace what is there")


def _add_address(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--address", metavar="HOST[:PORT]", help="a SPIDR board; it is only read")


def run(options: argparse.Namespace) -> int:
    """Do it. The exit code of a comparison is 1 when something differs."""
    return {"show": _show, "diff": _diff, "convert": _convert}[options.action](options)


def _show(options: argparse.Namespace) -> int:
    if (options.file is None) == (options.address is None):
        raise ConfigError("show what? Give a FILE or the --address of a board")
    config = _read(options.file) if options.file is not None else _read_board(options.address, None)
    if options.json:
        print(config.model_dump_json())
        return 0
    kind = "board" if isinstance(config, BoardConfig) else "detector"
    matrix_file = paths_of(options.file or "NAME")[1].name
    print(to_text(config, kind, matrix_file, config.digest()), end="")
    return 0


def _diff(options: argparse.Namespace) -> int:
    if (options.right is None) == (options.address is None):
        raise ConfigError("compare with what? Give an OTHER file or the --address of a board")
    left = _read(options.left)
    board = left if isinstance(left, BoardConfig) else left.board
    chips = [chip.index for chip in board.chips]
    right = _read(options.right) if options.right is not None else _read_board(options.address, chips)
    differences = diff(left, right)
    _print_differences(differences, as_json=options.json)
    return DIFFERENT if differences else 0


def _print_differences(differences: Sequence[Difference], *, as_json: bool) -> None:
    if as_json:
        print(json.dumps([{"path": d.path, "left": d.left, "right": d.right} for d in differences]))
        return
    for difference in differences:
        print(difference)
    if not differences:
        print("no differences")


def _convert(options: argparse.Namespace) -> int:
    if options.target.suffix not in TARGETS:
        raise ConfigError(
            f"{options.target}: a TARGET is NAME.yaml or NAME{SPX}, no {options.target.suffix} file; "
            "nothing was written"
        )
    try:
        path = _convert_to(options)
    except FileThere as there:
        raise FileThere(there.path, "--overwrite") from None
    print(f"wrote {path}")
    return 0


def _convert_to(options: argparse.Namespace) -> Path:
    config = _read(options.source, chip=options.chip or 0, test_bits=options.test_bits)
    if options.target.suffix == SPX:
        board = config if isinstance(config, BoardConfig) else config.board
        if options.chip is None and len(board.chips) != 1:
            raise ConfigError(
                f"{options.source} has {len(board.chips)} chips and a {SPX} file holds one: choose it with --chip"
            )
        chip = board.chips[0] if options.chip is None else board.chip(options.chip)
        return export_spx(chip, options.target, overwrite=options.overwrite)
    return config.save(options.target, overwrite=options.overwrite)


def _read(path: Path, *, chip: int = 0, test_bits: bool = False) -> BoardConfig | DetectorConfig:
    if path.suffix == SPX:
        return BoardConfig(chips=(import_spx(path, index=chip, test_bits=test_bits),))
    return read(path)


def _read_board(address: str, chips: Sequence[int] | None) -> BoardConfig:
    # Imported here: whoever compares files needs no network.
    from ..control import Board, SpidrClient
    from ..control.configuration import read_configuration

    with SpidrClient.at(address) as client:
        return read_configuration(Board(client), chips)
