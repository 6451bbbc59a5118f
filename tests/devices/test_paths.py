"""Where runs go: a name of its own for each, in folders that belong to a group."""

import os
import stat
import threading
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import bluesky.plans as bp
import pytest

from ophyd_timepix.devices import DatedPaths
from ophyd_timepix.wiring import install

UID = "0123456789abcdef"


def paths(directory: Path, **kwargs: Any) -> DatedPaths:
    return DatedPaths(directory, today=lambda: datetime(2026, 11, 21), **kwargs)


@pytest.fixture
def narrow_umask() -> Iterator[None]:
    before = os.umask(0o077)
    yield
    os.umask(before)


def test_a_folder_per_day_and_a_name_with_the_uid(tmp_path: Path) -> None:
    assert paths(tmp_path)("tpx", UID) == tmp_path / "2026-11-21" / "tpx_01234567.h5"


def test_no_file_of_a_run_is_ever_overwritten(tmp_path: Path) -> None:
    first = paths(tmp_path)("tpx", UID)
    first.with_suffix(".tpx3").touch()
    second = paths(tmp_path)("tpx", UID)
    assert second.name == "tpx_01234567_2.h5"
    second.touch()
    assert paths(tmp_path)("tpx", UID).name == "tpx_01234567_3.h5"


def test_a_name_is_given_once_although_nothing_was_written_yet(tmp_path: Path) -> None:
    here, there = paths(tmp_path), paths(tmp_path)
    assert [provider("tpx", UID).stem for provider in (here, there, here)] == [
        "tpx_01234567", "tpx_01234567_2", "tpx_01234567_3",
    ]  # fmt: skip


def test_sessions_that_ask_at_the_same_moment_get_different_names(tmp_path: Path) -> None:
    given: list[Path] = []
    providers = [paths(tmp_path) for _ in range(8)]
    start = threading.Barrier(len(providers))

    def ask(provider: DatedPaths) -> None:
        start.wait()
        given.extend(provider("tpx", UID) for _ in range(10))

    threads = [threading.Thread(target=ask, args=[provider]) for provider in providers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(given) == len(set(given)) == 80


def test_nothing_but_the_runs_files_stays(tmp_path: Path) -> None:
    provider = paths(tmp_path)
    first = provider("tpx", UID)
    first.touch()
    unused = provider("tpx", UID)
    assert sorted(entry.name for entry in unused.parent.iterdir()) == [".tpx_01234567_2.reserved", first.name]
    del provider
    assert list(first.parent.iterdir()) == [first]


@pytest.mark.usefixtures("narrow_umask")
def test_folders_belong_to_the_group_whatever_the_umask(tmp_path: Path) -> None:
    data = tmp_path / "new"
    path = paths(data, proposal="p1")("tpx", UID)
    for folder in (path.parent, path.parent.parent, data):
        mode = folder.stat().st_mode
        assert mode & 0o070 == 0o070
        assert mode & stat.S_ISGID
        assert not mode & 0o007


@pytest.mark.parametrize("proposal", ["2026-117", 2026, lambda: "2026-117"])
def test_a_proposal_has_a_folder(tmp_path: Path, proposal: str | int | Callable[[], str]) -> None:
    folder = str(proposal() if callable(proposal) else proposal)
    assert paths(tmp_path, proposal=proposal)("tpx", UID).parent == tmp_path / folder / "2026-11-21"


@pytest.mark.parametrize(
    "named", [{"proposal": "gup-7"}, {"proposal": {"proposal_id": "gup-7", "title": "?"}}, {"data_session": "gup-7"}]
)
def test_the_start_document_has_the_last_word(tmp_path: Path, named: dict[str, Any]) -> None:
    provider = paths(tmp_path, proposal="commissioning")
    provider.note_start({"uid": UID, **named})
    assert provider("tpx", UID).parent == tmp_path / "gup-7" / "2026-11-21"
    assert provider("tpx", "another-run").parent == tmp_path / "commissioning" / "2026-11-21"


@pytest.mark.parametrize("proposal", ["../elsewhere", "a/b", "", ".hidden", 1.5, "x" * 101])
def test_a_proposal_that_is_no_folder_is_refused(tmp_path: Path, proposal: Any) -> None:
    with pytest.raises(ValueError, match="cannot be the name of a folder"):
        paths(tmp_path, proposal=proposal)("tpx", UID)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file")
    with pytest.raises(OSError, match=r"data/2026-11-21 cannot be made or written: .*; give the detector a data_dir"):
        paths(tmp_path / "data")("tpx", UID)


def test_after_install_runs_go_to_the_folder_of_their_proposal(RE: Any, tpx: Any) -> None:
    install(RE, [tpx], min_free_bytes=0)
    RE.md["proposal"] = "gup-7"
    RE(bp.count([tpx]))
    assert tpx.event_file.parent.parent == tpx.data_dir / "gup-7"
    RE(bp.count([tpx]), proposal="gup-8")
    assert tpx.event_file.parent.parent == tpx.data_dir / "gup-8"
