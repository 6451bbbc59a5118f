"""Every kernel has a slow twin and a test against it, and is right as plain Python too."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import naive
from tests.twins import PACKAGE, TABLE, Shown, kernels_of_package, shown_by

TESTS = Path(__file__).parent
MAY_KNOW_NUMBA = ("jit.py", "pipeline/__main__.py")
"""The second one keeps numba from loading what others add to it."""


def test_every_kernel_is_in_the_table_of_twins() -> None:
    found, told = set(kernels_of_package()), set(shown_by())
    assert not found - told, "write a slow twin in tests/naive.py, a test against it, and a row in tests/twins.py"
    assert not told - found, "tests/twins.py names kernels that are no more"
    assert len(shown_by()) == sum(len(shown.kernels.split()) for shown in TABLE)


def test_nothing_is_compiled_but_by_the_decorators_that_the_table_knows() -> None:
    users = {path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py") if _imports_numba(path)}
    assert users == set(MAY_KNOW_NUMBA)


def _imports_numba(path: Path) -> bool:
    lines = path.read_text("utf-8").splitlines()
    return any(line.lstrip().startswith(("import numba", "from numba")) for line in lines)


@pytest.mark.parametrize("shown", TABLE, ids=lambda shown: f"{shown.module}-{shown.twins.partition(' ')[0]}")
def test_shown_by_ask_the_slow_twin(shown: Shown) -> None:
    for twin in shown.twins.split():
        assert callable(getattr(naive, twin))
    for test in shown.tests:
        path, _, name = test.partition("::")
        text = (TESTS.parent / path).read_text("utf-8")
        assert f"def {name}(" in text
        assert "@given(" in text or "@pytest.mark.parametrize" in text
    texts = [(TESTS.parent / test.partition("::")[0]).read_text("utf-8") for test in shown.tests]
    for twin in shown.twins.split():
        assert any(f"naive.{twin}(" in text for text in texts)


def test_kernels_are_right_as_plain_python_too_where_one_sees_that_their_tests_call_them(tmp_path: Path) -> None:
    reached = tmp_path / "reached.json"
    environment = os.environ | {
        "NUMBA_DISABLE_JIT": "1",
        "KERNEL_EXAMPLES": "40",
        "KERNELS_REACHED": str(reached),
    }
    tests = sorted({test for shown in TABLE for test in shown.tests})
    plain = ["-p", "tests.reached", "-p", "no:cacheprovider", "-W", "ignore:overflow"]  # int64 is meant to wrap
    command = [sys.executable, "-m", "pytest", "-q", *plain, *tests]
    done = subprocess.run(command, env=environment, cwd=TESTS.parent, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    calls = json.loads(reached.read_text("utf-8"))
    idle = {kernel: tests for kernel, tests in shown_by().items() if all(kernel not in calls[t] for t in tests)}
    assert not idle, f"not called by the tests that should show them right: {idle}"
