"""Pages hang together: every link leads somewhere, every page is in the index, every command exists."""

import argparse
import json
import re
import shlex
import subprocess
import tomllib
from argparse import SUPPRESS
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from ophyd_timepix.app import cli
from ophyd_timepix.capture.sockets import WANTED_BUFFER_BYTES
from ophyd_timepix.wiring import Site
from spidr_sim.cli import _parser as spidr_sim_parser
from tests.pages import Guide
from tests.system import test_queueserver as queueserver

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").rglob("*.md")])
DECISIONS = ROOT / "docs" / "explanations" / "decisions"
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
SHELL = re.compile(r"```sh\n(.*?)```", re.DOTALL)
DEFINED_ELSEWHERE = ("http://", "https://", "mailto:")


def prose(page: Path) -> str:
    """Without blocks and code: there a bracket means something else."""
    return re.sub(r"`[^`\n]*`", "", re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL))


def anchors(page: Path) -> set[str]:
    """As the usual viewers make them from headings."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def links(page: Path) -> Iterator[tuple[str, str]]:
    """Target and anchor of every link into this repository."""
    for target in LINK.findall(prose(page)):
        if not target.startswith(DEFINED_ELSEWHERE):
            path, _, anchor = target.partition("#")
            yield path, anchor


def broken(page: Path) -> list[str]:
    found = []
    for path, anchor in links(page):
        target = page.parent / path if path else page
        if not target.exists():
            found.append(f"{path} is not there")
        elif anchor and anchor not in anchors(target):
            found.append(f"{path}#{anchor}: there is no such heading")
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page: Path) -> None:
    assert not broken(page)


def test_a_broken_link_would_be_seen(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "# A heading: here\n[a](#a-heading-here) [b](none.md) [c](page.md#gone) `x[0](1)`\n```\n[d](e)\n```\n"
    )
    assert broken(page) == ["none.md is not there", "page.md#gone: there is no such heading"]


@pytest.mark.parametrize("index", ["README.md", "docs/README.md"])
def test_every_page_is_in_the_index(index: str) -> None:
    """But for decisions, which have an index of their own."""
    pages = [page for page in (ROOT / "docs").rglob("*.md") if DECISIONS not in page.parents]
    assert not missing_from(ROOT / index, [page for page in pages if page != ROOT / "docs/README.md"])


def test_every_decision_is_in_their_index_by_its_title() -> None:
    index = DECISIONS / "README.md"
    decisions = [page for page in DECISIONS.glob("*.md") if page != index]
    for page in decisions:
        number, _, title = page.read_text().partition("\n")[0].removeprefix("# ").partition(". ")
        line = f"| {number} | [{title}]({page.name}) |"
        assert line in index.read_text(), f"add to {index.relative_to(ROOT)}: {line}"
        assert page.name.startswith(f"{int(number):04d}-")


def missing_from(index: Path, pages: Iterable[Path]) -> list[str]:
    """Names of the pages that an index has no link to."""
    listed = {(index.parent / path).resolve() for path, _ in links(index)}
    return [page.name for page in pages if page.resolve() not in listed]


def commands() -> list[str]:
    lines = [line for page in PAGES for block in SHELL.findall(page.read_text()) for line in block.splitlines()]
    return [line for line in lines if line.startswith("ophyd-timepix ")]


@pytest.mark.parametrize("line", sorted(set(commands())))
def test_every_command_line_is_understood(line: str) -> None:
    words = shlex.split(line, comments=True)[1:]
    cli._parser(words, cli._module_of(words)).parse_args(words)


def test_every_target_of_make_exists() -> None:
    makefile = (ROOT / "Makefile").read_text()
    named = {
        name for page in PAGES for name in re.findall(r"`make ([a-z]+)`|^make ([a-z]+)", page.read_text(), re.MULTILINE)
    }
    for name in {a or b for a, b in named}:
        assert f"\n{name}:" in makefile, name


def test_the_shell_of_pages_is_shell() -> None:
    blocks = "\n".join(block for page in PAGES for block in SHELL.findall(page.read_text()))
    script = re.sub(r"<[a-z ]+>", "NAME", blocks)
    done = subprocess.run(["bash", "-n"], input=script, capture_output=True, text=True, timeout=20, check=False)
    assert (done.returncode, done.stderr) == (0, "")


# --- pages whose commands need another machine ------------------------------------------------------------------------


def test_the_buffer_that_tune_the_host_allows_is_the_one_that_capture_asks_for() -> None:
    page = (ROOT / "docs/how-to/tune-the-host.md").read_text()
    assert set(map(int, re.findall(r"rmem_max=(\d+)", page))) == {WANTED_BUFFER_BYTES // 2}
    assert Path("/proc/sys/net/core").is_dir()
    for key in re.findall(r"\| `(\w+)` \|", page):
        assert f'"{key}"' in (ROOT / "ophyd_timepix/pipeline/ledger.py").read_text(), key


def test_the_speed_of_a_disk_is_measured_as_tune_the_host_says(tmp_path: Path) -> None:
    with Guide("docs/how-to/tune-the-host.md", "sh") as guide:
        script = "\n".join(guide.commands({"DATA_DIRECTORY": str(tmp_path), "count=4096": "count=1"}))
    done = subprocess.run(["bash", "-ec", script], capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode == 0, done.stderr
    assert "/s" in done.stderr
    assert not list(tmp_path.iterdir())


def test_the_queue_of_set_up_a_site_is_the_one_that_the_test_runs() -> None:
    page = (ROOT / "docs/how-to/set-up-a-site.md").read_text()
    items = [json.loads(text) for text in re.findall(r"queue add plan '(.*)'", page)]
    assert items == [item for item in [queueserver.SHORT_POINTS, *queueserver.QUEUE] if "delay" not in str(item)]
    with Guide("docs/how-to/set-up-a-site.md", "toml") as guide:
        toml = guide.take().text
    assert tomllib.loads(toml) == tomllib.loads((ROOT / "profiles/timepix/site.example.toml").read_text())
    assert set(tomllib.loads(toml)) == set(Site.__dataclass_fields__)


# --- reference pages --------------------------------------------------------------------------------------------------


def options_of(parser: argparse.ArgumentParser) -> set[str]:
    """All long options, those of subcommands too."""
    found: set[str] = set()
    for action in parser._actions:
        found |= {word for word in action.option_strings if word.startswith("--") and action.help is not SUPPRESS}
        if isinstance(action, argparse._SubParsersAction):
            for subparser in action.choices.values():
                found |= options_of(subparser)
    return found - {"--help", "--version", "--debug"}


@pytest.mark.parametrize("name", [*cli.SUBCOMMANDS, "spidr-sim"])
def test_the_page_on_the_command_line_has_each_option_and_no_other(name: str) -> None:
    page = (ROOT / "docs/reference/command-line.md").read_text()
    sections = dict(re.findall(r"^## (\S+)\n(.*?)(?=^## |\Z)", page, re.DOTALL | re.MULTILINE))
    parser = spidr_sim_parser() if name == "spidr-sim" else subparser(name)
    text = sections.get(name, "")
    told = set(re.findall(r"--[a-z][a-z-]*", text))
    if "processing options" in text:
        told |= set(re.findall(r"--[a-z][a-z-]*", sections["process"])) & options_of(parser)
    assert told == options_of(parser)


def subparser(name: str) -> argparse.ArgumentParser:
    parser = cli._parser([name], cli._module_of([name]))
    (commands,) = (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    chosen: argparse.ArgumentParser = commands.choices[name]
    return chosen
