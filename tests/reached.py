"""A plugin of pytest for runs without compilation: which kernels each test calls.

`pytest -p tests.reached` takes the place of the decorators of `jit` before a kernel is made. Where KERNELS_REACHED
says, it writes JSON: the kernels of each test (without its parameters), named as in `tests/twins.py`.
"""

import json
import os
from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import wraps
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from ophyd_timepix import jit

_reached: dict[str, set[str]] = defaultdict(set)
_now: set[str] = set()


def _told(function: Callable[..., Any]) -> Callable[..., Any]:
    name = f"{function.__module__.removeprefix('ophyd_timepix.')}.{function.__name__}"

    @wraps(function)
    def call(*arguments: Any) -> Any:
        _now.add(name)
        return function(*arguments)

    return call


settings.register_profile("reached", derandomize=True, database=None)
settings.load_profile("reached")  # the same examples each time: what they reach is no matter of luck
jit.kernel = jit.inlined = jit.internal = _told


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    _now.clear()
    try:
        return (yield)
    finally:
        _reached[item.nodeid.partition("[")[0]] |= _now


def pytest_sessionfinish() -> None:
    """One file for the whole run."""
    reached = {test: sorted(kernels) for test, kernels in _reached.items()}
    Path(os.environ["KERNELS_REACHED"]).write_text(json.dumps(reached), "utf-8")
