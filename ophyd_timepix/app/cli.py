"""The command `ophyd-timepix`: one module per subcommand, imported when that one is called.

Errors that the library defines come out as one line and exit code 1; `--debug` shows where they came from.
"""

import argparse
import importlib
import logging
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Final, Protocol

from .. import __version__


class Subcommand(Protocol):
    """What a module of a subcommand offers."""

    def add_arguments(self, parser: argparse.ArgumentParser) -> None: ...
    def run(self, options: argparse.Namespace) -> int: ...


SUBCOMMANDS: Final = {
    "demo": "a simulated camera through the whole of it: count, scan, fly, catalog, pictures",
    "check": "what this machine can take, whether a camera looks right, and what to change",
    "record": "record from a SPIDR board, without Bluesky",
    "process": "recordings (.tpx3, Pymepix .raw, SPIDR .dat) to centroids",
    "recover": "finish runs that a halt, a kill or a power loss left unfinished",
    "info": "what is in a recording",
    "calibrate": "time-walk of the chips, from recordings",
    "config": "settings in files: show, compare with another file or a board, convert from and to SoPhy",
    "reference": "all signals of board, chip and detector as a page: unit, range, meaning, where they live",
    "catalog": "make the catalog of runs, allow directories, put back runs that it missed",
}
"""Name, which is also the module's, and what it is for."""

INTERRUPTED: Final = 130
"""Exit code of a shell's command that was ended by Ctrl-C."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of the console script. Returns the exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    module = _module_of(words)
    options = _parser(words, module).parse_args(joined(words))
    options.words = words
    logging.basicConfig(level=logging.DEBUG if options.debug else logging.WARNING, format="%(levelname)s %(message)s")
    if module is None:
        _parser(words, None).print_help()
        return 2
    try:
        return module.run(options)
    except KeyboardInterrupt:
        print("ophyd-timepix: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # whoever read our output has enough of it; keep Python from complaining about that at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        if options.debug or not is_expected(error):
            raise
        print(f"ophyd-timepix: {one_line(error)}", file=sys.stderr)
        return 1


def joined(words: Sequence[str]) -> list[str]:
    """With negative numbers tied to their options: argparse takes -5e7 for an option, unlike -5."""
    found: list[str] = []
    for word in words:
        if found and found[-1].startswith("--") and "=" not in found[-1] and word.startswith("-") and _is_number(word):
            found[-1] += f"={word}"
        else:
            found.append(word)
    return found


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def _module_of(words: Sequence[str]) -> Subcommand | None:
    """The module of the subcommand that is called: the first word that is no option."""
    name = next((word for word in words if not word.startswith("-")), None)
    if name not in SUBCOMMANDS:
        return None
    module: Subcommand = importlib.import_module(f".{name}", __package__)
    return module


def _parser(words: Sequence[str], called: Subcommand | None) -> argparse.ArgumentParser:
    """The parser of all names; the arguments of the one that is called."""
    parser = argparse.ArgumentParser(prog="ophyd-timepix", description="Timepix3 cameras behind a SPIDR board")
    parser.add_argument("--version", action="version", version=f"ophyd_timepix {__version__}")
    parser.add_argument("--debug", action="store_true", help="show log messages, and tracebacks of errors")
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND")
    name_called = next((word for word in words if not word.startswith("-")), None)
    for name, purpose in SUBCOMMANDS.items():
        subparser = subparsers.add_parser(name, help=purpose, description=purpose[0].upper() + purpose[1:] + ".")
        subparser.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
        if called is not None and name == name_called:
            called.add_arguments(subparser)
    return parser


def is_expected(error: BaseException) -> bool:
    """Whether the message of an error is enough: it is one of ours, of the operating system or of bad values.

    Asked by name, so that an error at the prompt does not import every room: a class of ours can only be raised by a
    room that is imported.
    """
    if isinstance(error, OSError | ValueError):
        return True
    return any(base.__module__.startswith("ophyd_timepix.") for base in type(error).__mro__)


def _wrong_value(entry: Mapping[str, Any]) -> str:
    """One of pydantic's entries. Of values that contradict each other the message names them."""
    message = str(entry["msg"]).removeprefix("Value error, ")
    place = ".".join(map(str, entry["loc"]))
    return f"{place}: {message} (got {entry['input']!r})" if place else message


def one_line(error: BaseException) -> str:
    """The message of an error without line breaks; what follows the first line is for `--debug`."""
    details = getattr(error, "errors", None)
    if callable(details):  # pydantic: one entry per wrong value
        return "; ".join(map(_wrong_value, details()))
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    first, *rest = str(error).strip().splitlines() or [type(error).__name__]
    return f"{first} (more with --debug)" if rest else first


if __name__ == "__main__":
    sys.exit(main())
