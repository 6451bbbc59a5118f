"""Descriptors are validated once for each content: one of a camera has hundreds of keys, and every run has three.

What a schema says of a descriptor depends neither on its uid, time and run nor on the values of its configuration,
which may be anything: of these only the types count here. Everything else of it is looked at again when it differs.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import event_model

VALUES = ("uid", "time", "run_start")
FREE = ("data", "timestamps")
"""Parts of a configuration that the schema leaves free."""


class Remembering:
    """A validator that does not repeat what it found good."""

    def __init__(self, validator: Any) -> None:
        self._validator = validator
        self._good: set[str] = set()

    def validate(self, doc: dict[str, Any]) -> None:
        content = content_of(doc)
        if content not in self._good:
            self._validator.validate(doc)
            self._good.add(content)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._validator, name)


def content_of(doc: dict[str, Any]) -> str:
    """What the schema can be sensitive to."""
    seen = {name: type(value).__name__ if name in VALUES else value for name, value in doc.items()}
    configuration = doc.get("configuration")
    if isinstance(configuration, dict):
        seen["configuration"] = {name: _without_values(of_one) for name, of_one in configuration.items()}
    return json.dumps(seen, default=_exactly)


def _without_values(of_one: Any) -> Any:
    if not isinstance(of_one, dict):
        return of_one
    return {part: list(value) if part in FREE and isinstance(value, dict) else value for part, value in of_one.items()}


def _exactly(value: Any) -> list[str]:
    return [type(value).__name__, repr(value)]


@contextmanager
def descriptors_validated_once() -> Iterator[None]:
    """For event-model itself and all who take its validators."""
    name = event_model.DocumentNames.descriptor
    validator = event_model.schema_validators[name]
    event_model.schema_validators[name] = Remembering(validator)
    try:
        yield
    finally:
        event_model.schema_validators[name] = validator
