"""The DACs of a chip as a frozen mapping from name to code, checked against the table."""

from collections.abc import Iterator, Mapping
from typing import Self

from ophyd_timepix.protocol import Dac


class DacValues(Mapping[str, int]):
    """All 18 DACs by lower-case name (`vthreshold_fine`), in the table's order. It cannot change.

    Values are given by name or by `Dac`. Raises ValueError that names each DAC that is missing, unknown or out of
    range.
    """

    __slots__ = ("_values",)

    def __init__(self, values: Mapping[str, int] | Mapping[Dac, int]) -> None:
        given = {(key.name.lower() if isinstance(key, Dac) else str(key)): value for key, value in values.items()}
        problems = [problem for dac in Dac if (problem := _problem(dac, given))]
        problems += [f"there is no DAC {name!r}" for name in given if name.upper() not in Dac.__members__]
        if problems:
            raise ValueError("; ".join(problems))
        self._values = {dac.name.lower(): int(given[dac.name.lower()]) for dac in Dac}

    @classmethod
    def of(cls, value: object) -> Self:
        """Itself, or from a mapping."""
        if isinstance(value, cls):
            return value
        if not isinstance(value, Mapping):
            raise ValueError(f"the DACs are given by name, not by {value!r}")
        return cls(value)

    def __getitem__(self, key: str | Dac) -> int:
        return self._values[key.name.lower() if isinstance(key, Dac) else key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __hash__(self) -> int:
        return hash(tuple(self._values.values()))

    def __repr__(self) -> str:
        return f"DacValues({self._values})"

    def by_dac(self) -> dict[Dac, int]:
        """The same, as the verbs of a chip take them."""
        return {dac: self[dac] for dac in Dac}

    def changed(self, **values: int) -> Self:
        """A copy with some DACs set otherwise."""
        return type(self)({**self._values, **values})


def _problem(dac: Dac, given: Mapping[str, object]) -> str | None:
    name = dac.name.lower()
    if name not in given:
        return f"{name} is missing"
    value = given[name]
    is_code = hasattr(value, "__index__") and not isinstance(value, bool)
    if not is_code or not 0 <= int(value) <= dac.max:  # type: ignore[call-overload]
        return f"{name} is 0 to {dac.max} (DAC code), not {value!r}"
    return None
