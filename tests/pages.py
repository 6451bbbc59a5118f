"""The blocks of code in README and docs. A test takes all blocks of a page through a `Guide`, which fails when one is
left; `tests/docs/test_blocks.py` fails when a page's blocks are in no guide.

What cannot run here stands in `NOT_RUN`, with the reason. This module runs nothing by itself.
"""

import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from ophyd_timepix.app import cli
from spidr_sim.cli import main as spidr_sim

ROOT: Final = Path(__file__).parents[1]
PAGES: Final = ("README.md", *sorted(str(page.relative_to(ROOT)) for page in (ROOT / "docs").rglob("*.md")))
CODE: Final = ("python", "sh", "toml", "yaml")
"""Languages of blocks that are run, or read as the files that they are."""
NO_CODE: Final = ("", "text", "mermaid")
"""Pictures, and what programs print."""

_FENCE: Final = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```", re.DOTALL | re.MULTILINE)

NOT_RUN: Final[Mapping[tuple[str, str], str]] = {
    ("README.md", "make "): "the automatic checks call it",
    ("docs/how-to/contribute.md", "make "): "the automatic checks call it",
    ("docs/tutorials/first-run.md", "git clone"): "it fetches this repository, which is here",
    ("docs/tutorials/first-run.md", "make demo"): "the automatic checks call it; tests/app/test_demo.py too",
    ("docs/tutorials/first-run.md", ".venv/bin/pip"): "it installs what the tests are run with",
    ("docs/tutorials/first-run.md", "TIMEPIX_"): "tests/system/test_user_sessions.py does it, at a pseudo-terminal",
    ("docs/how-to/set-up-a-site.md", "ipython"): "tests/system/test_user_sessions.py does it, at a pseudo-terminal",
    ("docs/how-to/set-up-a-site.md", "start-re-manager"): "tests/system/test_queueserver.py does it, with redis",
    ("docs/how-to/set-up-a-site.md", "qserver "): "tests/system/test_queueserver.py queues the same plans",
    ("docs/how-to/tune-the-host.md", "sudo "): "it changes the host, and needs its administrator",
    ("docs/how-to/tune-the-host.md", "echo "): "it changes the host, and needs its administrator",
    ("docs/how-to/connect-a-camera.md", "sudo "): "it changes the host, and needs its administrator",
    ("docs/how-to/connect-a-camera.md", "echo "): "it changes the host, and needs its administrator",
    ("docs/how-to/use-the-catalog.md", "ophyd-timepix catalog serve"): "it ends on Ctrl-C; tests/catalog/test_serve.py",
    ("docs/how-to/recover.md", "ophyd-timepix recover /data/2026-11 --catalog"): (
        "tests/system/test_recover_catalog.py calls it, in a session that was killed"
    ),
}
"""(page, how a line of a shell block begins): why no test runs it."""


@dataclass(frozen=True)
class Block:
    """A block of code: `lines` without those that are not run."""

    page: str
    language: str
    text: str
    line: int

    @property
    def lines(self) -> list[str]:
        """The lines of a shell block that a test has to run."""
        skipped = tuple(start for page, start in NOT_RUN if page == self.page)
        return [line for line in self.text.splitlines() if line.strip() and not line.startswith(skipped)]

    @property
    def must_run(self) -> bool:
        """Whether anything of it has to be run. Python always has."""
        return self.language != "sh" or bool(self.lines)

    def __str__(self) -> str:
        return f"{self.page}:{self.line}: {self.text.splitlines()[0]}"


def blocks(page: str) -> list[Block]:
    """All blocks of a page, in order."""
    text = (ROOT / page).read_text()
    return [Block(page, m[1], m[2], text.count("\n", 0, m.start()) + 2) for m in _FENCE.finditer(text)]


class Guide:
    """`with Guide("docs/how-to/x.md", "python") as guide: guide.run(names)`: fails when a block was not taken."""

    def __init__(self, page: str, language: str) -> None:
        self._left = [block for block in blocks(page) if block.language == language and block.must_run]
        if not self._left:
            raise ValueError(f"{page} has no {language} to run")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is None:
            assert not self._left, f"not run: {', '.join(map(str, self._left))}"

    def __len__(self) -> int:
        """Blocks that are left."""
        return len(self._left)

    def take(self) -> Block:
        """The next block; whoever takes it runs it."""
        return self._left.pop(0)

    def run(self, names: dict[str, Any], count: int | None = None, changes: Mapping[str, str] | None = None) -> None:
        """Run the next `count` blocks of Python, all when None. changes: texts of the page, and what stands for
        them.
        """
        for _ in range(len(self._left) if count is None else count):
            block = self.take()
            # So many line feeds that a traceback shows the line of the page.
            source = "\n" * (block.line - 1) + changed(block.text, changes or {})
            exec(compile(source, str(ROOT / block.page), "exec"), names)

    def commands(self, changes: Mapping[str, str] | None = None) -> Iterator[str]:
        """The lines of all shell blocks, as far as they are run."""
        while self._left:
            for line in self.take().lines:
                yield changed(line, changes or {})


def changed(text: str, changes: Mapping[str, str]) -> str:
    """The text with others in place of some of its own."""
    for old, new in changes.items():
        text = text.replace(old, new)
    return text


def call(line: str) -> int:
    """Run a command line of ours in this process; its exit code."""
    program, *words = shlex.split(line, comments=True)
    return {"ophyd-timepix": cli.main, "spidr-sim": spidr_sim}[program](words)
