"""Requests to a Tiled in the same process, without a quarter of their work that is the same each time."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest


@contextmanager
def dependencies_read_once() -> Iterator[None]:
    """FastAPI reads the signatures of what an endpoint depends on for each request anew, as Tiled overrides some."""
    from fastapi.dependencies import utils

    read, known = utils.get_dependant, {}

    def once(**asked: Any) -> Any:
        key = tuple((name, tuple(value) if isinstance(value, list) else value) for name, value in asked.items())
        if key not in known:
            known[key] = read(**asked)
        return known[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(utils, "get_dependant", once)
        yield
