"""What remembers good descriptors still finds every bad one."""

from collections.abc import Callable
from typing import Any

import event_model
import pytest
from jsonschema import ValidationError

from tests.schemas import Remembering


def descriptor() -> dict[str, Any]:
    key = {"source": "test", "dtype": "number", "shape": []}
    of_one = {"data": {"gain": 1.0}, "timestamps": {"gain": 1.0}, "data_keys": {"gain": dict(key)}}
    return {
        "uid": "u", "time": 1.0, "run_start": "r", "name": "primary", "object_keys": {"tpx": ["counts"]},
        "data_keys": {"counts": dict(key)}, "configuration": {"tpx": of_one}, "hints": {"tpx": {"fields": ["counts"]}},
    }  # fmt: skip


SPOILED: dict[str, Callable[[dict[str, Any]], Any]] = {
    "no dtype": lambda doc: doc["data_keys"]["counts"].pop("dtype"),
    "a word for a shape": lambda doc: doc["data_keys"]["counts"].update(shape="none"),
    "a number for a uid": lambda doc: doc.update(uid=3),
    "a word for a time": lambda doc: doc.update(time="now"),
    "no run": lambda doc: doc.pop("run_start"),
    "a configuration without a source": lambda doc: doc["configuration"]["tpx"]["data_keys"]["gain"].pop("source"),
    "configured data that are no mapping": lambda doc: doc["configuration"]["tpx"].update(data=1),
    "hints that are no mapping": lambda doc: doc.update(hints=[1]),
    "a key that is none": lambda doc: doc.update(data_keys={"counts": 5}),
}


@pytest.mark.parametrize("spoil", SPOILED.values(), ids=SPOILED)
def test_a_bad_descriptor_is_found_after_good_ones(spoil):
    name = event_model.DocumentNames.descriptor
    remembering = Remembering(event_model.schema_validators[name])
    for _ in range(2):
        remembering.validate(descriptor() | {"uid": "another", "time": 2.0})
    bad = descriptor()
    spoil(bad)
    with pytest.raises(ValidationError):
        remembering.validate(bad)


def test_other_values_of_a_setting_are_not_looked_at_again():
    calls = []

    class Counting:
        def validate(self, doc: dict[str, Any]) -> None:
            calls.append(doc)

    remembering = Remembering(Counting())
    for gain in (1.0, 2.0):
        doc = descriptor()
        doc["configuration"]["tpx"]["data"]["gain"] = gain
        remembering.validate(doc)
    assert len(calls) == 1
