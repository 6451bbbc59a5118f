"""Every block of code in README and docs is run by a test, or its reason for not being run is written down."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import pages
from tests.pages import CODE, NO_CODE, NOT_RUN, PAGES, ROOT, Guide, blocks

CLAIM = re.compile(r'\bGuide\(\s*"([^"]+)",\s*"(\w+)"')
"""How a test says which blocks it runs; the guide itself fails when one is left."""


def claims() -> Iterator[tuple[str, str]]:
    for path in (ROOT / "tests").rglob("test_*.py"):
        if path != Path(__file__):
            yield from CLAIM.findall(path.read_text())


def test_every_block_is_run_or_says_why_not() -> None:
    claimed = set(claims())
    all_blocks = [block for page in PAGES for block in blocks(page) if block.language in CODE and block.must_run]
    assert len(all_blocks) > 50
    assert not [str(block) for block in all_blocks if (block.page, block.language) not in claimed]


def test_every_block_is_in_a_language_that_is_known() -> None:
    """`bash`, `console` or `Python` would be passed over in silence."""
    assert not [str(b) for page in PAGES for b in blocks(page) if b.language not in CODE + NO_CODE]


@pytest.mark.parametrize(("page", "start"), NOT_RUN)
def test_a_reason_for_not_running_is_still_needed_and_true(page: str, start: str) -> None:
    shell = "\n".join(block.text for block in blocks(page) if block.language == "sh")
    assert re.search(rf"^{re.escape(start)}", shell, re.MULTILINE), f"{page} has no such line any more"
    reason = NOT_RUN[page, start]
    assert len(reason.split()) >= 3
    for path in re.findall(r"tests/\S+\.py", reason):
        assert (ROOT / path).exists(), path


# --- the check itself -------------------------------------------------------------------------------------------------

PAGE = "# A page\n```python\na = 1\n```\n```sh\nmake demo\n```\n```python\nb = a + 1\n```\n"


@pytest.fixture
def page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(pages, "ROOT", tmp_path)
    (tmp_path / "page.md").write_text(PAGE)
    return "page.md"


def test_a_guide_runs_all_blocks_in_order(page: str) -> None:
    names: dict[str, int] = {}
    with Guide(page, "python") as guide:
        guide.run(names)
    assert names["b"] == 2


def test_a_block_that_is_left_is_named(page: str) -> None:
    with pytest.raises(AssertionError, match=r"not run: page\.md:9: b = a \+ 1"), Guide(page, "python") as guide:
        guide.run({}, count=1)


def test_a_line_of_a_shell_is_left_out_only_with_a_reason(page: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with Guide(page, "sh") as guide:
        assert list(guide.commands({"demo": "check"})) == ["make check"]
    monkeypatch.setattr(pages, "NOT_RUN", {(page, "make "): "the automatic checks call it"})
    with pytest.raises(ValueError, match="has no sh to run"):
        Guide(page, "sh")


def test_a_mistake_is_shown_at_its_line_of_the_page(page: str) -> None:
    guide = Guide(page, "python")
    guide.take()
    with pytest.raises(NameError) as caught:
        guide.run({})
    assert caught.traceback[-1].lineno == 8  # from 0
