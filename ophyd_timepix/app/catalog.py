"""`ophyd-timepix catalog`: make the embedded catalog, serve it, put back missed runs, follow files that moved."""

import argparse
import sys
from pathlib import Path

from ..catalog import CatalogError, find_profile, init_catalog, open_catalog, replay
from ..catalog.profile import DEFAULT_NAME, connect_catalog


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    actions = parser.add_subparsers(title="what to do", dest="action", required=True, metavar="ACTION")

    init = actions.add_parser("init", help="make the catalog, or add readable directories to it")
    init.add_argument("--name", default=DEFAULT_NAME, help="its Tiled profile (default %(default)s)")
    init.add_argument("--directory", type=Path, help="where the catalog lies (default: in the user's data directory)")
    init.add_argument(
        "--readable", type=Path, action="append", default=[], metavar="DIRECTORY",
        help="data directory that it may serve files from; may be given several times",
    )  # fmt: skip

    show = actions.add_parser("show", help="where the catalog is, and what it may serve")
    show.add_argument("--name", default=DEFAULT_NAME)

    again = actions.add_parser("replay", help="put runs into the catalog from the backups of their documents")
    again.add_argument("--name", default=DEFAULT_NAME)
    again.add_argument("files", nargs="+", type=Path, metavar="FILE", help="backup/<uid>.jsonl")

    check = actions.add_parser("check", help="which event files are not where the catalog says")
    check.add_argument("--name", default=DEFAULT_NAME)

    move = actions.add_parser("move", help="tell the catalog that event files have moved (moves no file itself)")
    move.add_argument("--name", default=DEFAULT_NAME)
    move.add_argument("old", type=Path, metavar="OLD", help="directory or file as the catalog knows it")
    move.add_argument("new", type=Path, metavar="NEW", help="where that is now")
    move.add_argument("--dry-run", action="store_true", help="only say what would change")

    serve = actions.add_parser("serve", help="serve the catalog over HTTP, with a web interface, until Ctrl-C")
    serve.add_argument("--name", default=DEFAULT_NAME)
    serve.add_argument(
        "--host", default="127.0.0.1", help="who may connect: this machine (default), 0.0.0.0: everybody"
    )
    serve.add_argument("--port", type=int, default=8000, help="0 takes a free one (default %(default)s)")
    serve.add_argument("--public", action="store_true", help="reading needs no key")

    connect = actions.add_parser("connect", help="use the catalog of a server under a name of this user's")
    connect.add_argument("--name", default=DEFAULT_NAME)
    connect.add_argument("url", metavar="URL", help="as `catalog serve` prints it")


def run(options: argparse.Namespace) -> int:
    """Do it; exit code 1 when something could not be done."""
    actions = {
        "init": _init, "show": _show, "replay": _replay, "check": _check, "move": _move, "serve": _serve,
        "connect": _connect,
    }  # fmt: skip
    return actions[options.action](options)


def _init(options: argparse.Namespace) -> int:
    init_catalog(options.name, options.directory, readable=options.readable)
    _show(options)
    print(f'open it with: from databroker import Broker; db = Broker.named("{options.name}")')
    return 0


def _show(options: argparse.Namespace) -> int:
    profile = find_profile(options.name)
    print(f"catalog {profile.name!r}")
    print(f"  profile    {profile.path}")
    print(f"  runs in    {profile.directory or 'a server, see the profile'}")
    for folder in profile.readable:
        print(f"  may serve  {folder}")
    if profile.is_embedded and not profile.readable:
        print("  may serve  nothing yet: call init again with --readable DATA_DIRECTORY")
    return 0


def _replay(options: argparse.Namespace) -> int:
    catalog = open_catalog(options.name)
    failed = 0
    for path in options.files:
        try:
            print(f"{path}: run {replay(path, catalog)} is in the catalog")
        except (CatalogError, OSError, ValueError, RuntimeError) as error:
            print(f"ophyd-timepix: {path}: {error}", file=sys.stderr)
            failed += 1
    return 1 if failed else 0


def _check(options: argparse.Namespace) -> int:
    from ..catalog.moving import missing_files

    missing = missing_files(options.name)
    for path in missing:
        print(path)
    if missing:
        print(
            f"ophyd-timepix: {len(missing)} files are not where the catalog says; if they have moved, tell it with: "
            f"ophyd-timepix catalog move --name {options.name} {missing[0].parent} NEW_DIRECTORY",
            file=sys.stderr,
        )
    return 1 if missing else 0


def _move(options: argparse.Namespace) -> int:
    from ..catalog.moving import move_files

    done = move_files(options.old, options.new, name=options.name, dry_run=options.dry_run)
    for old, new in done.moved:
        print(f"{old} -> {new}")
    for path in done.kept:
        print(f"{path} stays: it is still there")
    for path in done.missing:
        print(f"ophyd-timepix: {path} is neither there nor at its new place", file=sys.stderr)
    return 1 if done.missing else 0


def _serve(options: argparse.Namespace) -> int:
    from ..catalog.serve import serve_catalog

    def ready(address: str) -> None:
        print(f"catalog {options.name!r} at {address}", flush=True)

    serve_catalog(options.name, host=options.host, port=options.port, public=options.public, ready=ready)
    return 0


def _connect(options: argparse.Namespace) -> int:
    connect_catalog(options.url, options.name)
    return _show(options)
