"""The command line as a whole: which commands there are, how errors come out."""

import argparse
import subprocess
import sys
import types
from pathlib import Path
from typing import Self

import pytest
from pydantic import BaseModel, Field, model_validator

from ophyd_timepix.app import cli
from ophyd_timepix.app.part_runner import skipped
from ophyd_timepix.catalog import CatalogError
from tests.catalog.conftest import profiles_in
from tests.empty_catalog import made_by_tiled


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """A subcommand `demo` whose `run` a test replaces."""
    module = types.ModuleType("ophyd_timepix.app.demo")
    module.add_arguments = lambda parser: parser.add_argument("--number", type=int)  # type: ignore[attr-defined]
    module.run = lambda options: options.number  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return module


def fail_with(error: BaseException) -> object:
    def run(_: argparse.Namespace) -> int:
        raise error

    return run


def test_help_names_every_command_and_imports_none_of_them() -> None:
    script = (
        "import sys\n"
        "from ophyd_timepix.app import cli\n"
        "try: cli.main(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'numpy', 'numba', 'ophyd', 'bluesky', 'tiled', 'h5py'}\n"
        "print(sorted(heavy & {module.split('.')[0] for module in sys.modules}))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert all(name in done.stdout for name in cli.SUBCOMMANDS)
    assert done.stdout.splitlines()[-1] == "[]"


def test_the_exit_code_is_that_of_the_command(command: types.ModuleType) -> None:
    assert cli.main(["demo", "--number", "3"]) == 3


def test_without_a_command_there_is_help_and_a_code(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == 2
    assert "commands:" in capsys.readouterr().out


def test_an_unknown_command_is_refused_with_the_choices(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["fly"])
    assert ended.value.code == 2
    assert "'demo'" in capsys.readouterr().err


class Settings(BaseModel):
    radius_px: float = Field(gt=0)

    @model_validator(mode="after")
    def _not_five(self) -> Self:
        if self.radius_px == 5:
            raise ValueError("radius_px and the window contradict each other")
        return self


def validation_error(radius_px: float) -> Exception:
    try:
        Settings(radius_px=radius_px)
    except ValueError as error:
        return error
    raise AssertionError


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (CatalogError("The catalog is shut; open it"), "The catalog is shut; open it"),
        (CatalogError("first\nTraceback of a stage"), "first (more with --debug)"),
        (PermissionError(13, "Permission denied", "/data/x.h5"), "/data/x.h5: Permission denied"),
        (OSError("the disk is full"), "the disk is full"),
        (validation_error(-1), "radius_px: Input should be greater than 0 (got -1)"),
        (validation_error(5), "radius_px and the window contradict each other"),
    ],
)
def test_expected_errors_are_one_line_without_a_traceback(
    command: types.ModuleType, capsys: pytest.CaptureFixture[str], error: Exception, line: str
) -> None:
    command.run = fail_with(error)  # type: ignore[attr-defined]
    assert cli.main(["demo"]) == 1
    assert capsys.readouterr().err == f"ophyd-timepix: {line}\n"


def test_with_debug_the_error_comes_through(command: types.ModuleType) -> None:
    command.run = fail_with(CatalogError("shut"))  # type: ignore[attr-defined]
    for words in (["--debug", "demo"], ["demo", "--debug"]):
        with pytest.raises(CatalogError):
            cli.main(words)


def test_an_error_of_the_program_is_never_hidden(command: types.ModuleType) -> None:
    command.run = fail_with(KeyError("bug"))  # type: ignore[attr-defined]
    with pytest.raises(KeyError):
        cli.main(["demo"])


def test_a_negative_number_with_an_exponent_is_the_value_of_its_option(command: types.ModuleType) -> None:
    command.add_arguments = lambda parser: parser.add_argument("--delay", type=float)  # type: ignore[attr-defined]
    command.run = lambda options: options.delay == -5e7 and options.words  # type: ignore[attr-defined]
    assert cli.main(["demo", "--delay", "-5e7"]) == ["demo", "--delay", "-5e7"]
    assert cli.joined(["a", "-1", "--x=3", "-1e3", "--y", "-o", "--z", "-inf"]) == (
        ["a", "-1", "--x=3", "-1e3", "--y", "-o", "--z=-inf"]
    )


def test_ctrl_c_has_the_exit_code_of_a_shell(command: types.ModuleType) -> None:
    command.run = fail_with(KeyboardInterrupt())  # type: ignore[attr-defined]
    assert cli.main(["demo"]) == cli.INTERRUPTED


def test_catalog_init_writes_a_profile_that_show_describes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    made_by_tiled(monkeypatch)
    with profiles_in(tmp_path / "profiles"):
        assert cli.main(["catalog", "show"]) == 1
        assert "There is no catalog 'timepix'" in capsys.readouterr().err
        made = ["init", "--directory", str(tmp_path / "runs"), "--readable", str(tmp_path / "data")]
        assert cli.main(["catalog", *made]) == 0
        assert (tmp_path / "runs" / "catalog.db").stat().st_size > 0
        capsys.readouterr()
        assert cli.main(["catalog", "show"]) == 0
        assert f"may serve  {tmp_path / 'data'}" in capsys.readouterr().out
        assert cli.main(["catalog", "replay", str(tmp_path / "none.jsonl")]) == 1
        assert "none.jsonl" in capsys.readouterr().err


def test_a_recording_that_is_shorter_than_its_index_says_is_told_by_the_exit_code() -> None:
    assert skipped({"missing_bytes": 800, "cut_chunks": 0}) == [
        "800 bytes that the index knows of are missing: the recording was cut off"
    ]
